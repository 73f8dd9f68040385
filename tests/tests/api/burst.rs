//! Deliveries in bursts.

use farm_tests::pushes::{Burst, burst};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_that_come_twice_late_and_while_the_coordinator_dies_build_each_push_once() {
    let became = burst(Burst { seed: 17, branches: 4, pushes: 40, doubles: 20, workers: 2 }).await;
    println!("{became:?}");
    assert!(became.done >= 4 && became.moves > 4);
}
