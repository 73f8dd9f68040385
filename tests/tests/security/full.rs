//! What needs so many connections, or so long, that `all` has a smaller form of it: `tests/run.sh security` runs both.

use std::time::Duration;

use farm_tests::scale::connections::hold;

use crate::{limits, outage};

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_and_slow_senders_dont_stop_anothers_build() {
    Box::pin(limits::flooded(1000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_of_workers_take_little() {
    let needs = hold(500, true, Duration::from_secs(10)).await;
    assert!(needs.kib_each < 128, "{needs:?}");
}

/// By a configuration as nobody has changed it.
#[tokio::test(flavor = "multi_thread")]
async fn ninety_seconds_without_the_database_cost_nothing() {
    Box::pin(outage::away(100, Duration::from_secs(90), "")).await;
}
