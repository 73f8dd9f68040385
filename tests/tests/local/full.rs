//! Races that are tried more often than in `all`, and a guide whose steps others try one by one: `tests/run.sh e2e` runs both.

use crate::{first_steps, leftovers};

#[test]
fn whenever_an_up_meets_a_purge_it_finds_all_or_nothing() {
    leftovers::meet(8);
}

#[test]
fn the_guide_of_the_first_steps_is_walked_with_farms_own_verbs() {
    first_steps::walk();
}
