//! A coordinator that dies in the middle of its publish pass: another one finishes what it began. `tests/run.sh faults --steps`
//! is the long one, with all steps, and with coordinators that are stopped and go on.

#[test]
fn a_coordinator_that_dies_while_it_publishes_leaves_a_right_tag() {
    assert!(farm_tests::faults::walk(false), "the verdict is above");
}
