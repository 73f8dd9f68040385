//! A build that takes all of the machine doesn't take the worker from the farm. `tests/run.sh faults --pressure 300` is the
//! long one.

#[test]
fn a_worker_whose_build_takes_all_of_the_machine_stays_alive_for_the_farm() {
    assert!(farm_tests::faults::pressure::pressure(15), "the figures are above");
}
