//! Races that are tried more often than in `all`: `tests/run.sh e2e` runs both.

use crate::leftovers;

#[test]
fn whenever_an_up_meets_a_purge_it_finds_all_or_nothing() {
    leftovers::meet(8);
}
