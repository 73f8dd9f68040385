//! What is so much, or takes so long, that `all` has a smaller form of it: `tests/run.sh api` runs both.

use farm_tests::pushes::{Burst, burst};

use crate::{promoting, published, workers};

#[tokio::test]
async fn fifty_workers_do_three_hundred_builds_each_once() {
    workers::do_builds(50, 300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_deliveries_build_each_push_once() {
    let form = Burst { seed: 1, branches: 25, pushes: 600, doubles: 400, workers: 4 };
    println!("1000 deliveries of 600 pushes: {:?}", burst(form).await);
}

#[test]
fn what_github_publishes_as_examples_is_read_as_it_is_meant() {
    let counts = published::examples();
    println!("{} examples of {} events", counts.values().sum::<usize>(), counts.len());
    for event in ["create", "delete", "issue_comment", "ping", "pull_request", "push", "release"] {
        assert!(counts.get(event).is_some_and(|count| *count > 3), "{event}: {counts:?}");
    }
    assert!(counts.len() > 40, "{counts:?}");
}

#[test]
fn every_misstep_at_every_request_of_a_promote_leaves_the_image_or_the_old_tag() {
    println!("published and failed: {:?}", promoting::promote_with_missteps(false, 1));
}

#[test]
fn every_misstep_at_every_request_of_a_promote_within_a_registry_leaves_the_image_or_the_old_tag() {
    println!("published and failed: {:?}", promoting::promote_with_missteps(true, 1));
}
