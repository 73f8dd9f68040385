//! What is so much, or takes so long, that `all` has a smaller form of it: `tests/run.sh api` runs both.

use farm_tests::pushes::{Burst, burst};

use crate::workers;

#[tokio::test]
async fn fifty_workers_do_three_hundred_builds_each_once() {
    workers::do_builds(50, 300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_deliveries_build_each_push_once() {
    let form = Burst { seed: 1, branches: 25, pushes: 600, doubles: 400, workers: 4 };
    let (done, passed) = burst(form).await;
    println!("1000 deliveries of 600 pushes: {done} built, {passed} passed over");
}
