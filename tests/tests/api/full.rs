//! What is so much, or takes so long, that `all` has a smaller form of it: `tests/run.sh api` runs both.

use crate::workers;

#[tokio::test]
async fn fifty_workers_do_three_hundred_builds_each_once() {
    workers::do_builds(50, 300).await;
}
