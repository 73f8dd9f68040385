//! What a project may take is held, also by builds that come at the same moment.

use std::collections::HashMap;
use std::time::Duration;

use farm_core::work::plan::Share;
use farm_store::builds::retry::Retry;
use farm_store::people::quotas::{QuotaChange, Used};
use farm_store::{StoreError, default_project};
use farm_types::state::BuildState;
use farm_types::{Export, Form};
use futures::future::join_all;

use crate::fixture::{LEASE, PUBLISH, World, success, tester, world};
use crate::retrying::retry_of;

async fn set(world: &World, change: QuotaChange) {
    world.store.set_quota(&tester(), default_project(), &change).await.unwrap();
}

fn exhausted(error: StoreError) -> (String, Option<Duration>) {
    match error {
        StoreError::Exhausted { what, wait } => (what, wait),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn no_more_builds_wait_than_may_also_of_those_that_come_at_once() {
    let world = world().await;
    set(&world, QuotaChange { max_queued_builds: Some(Some(3)), ..Default::default() }).await;
    let builds: Vec<_> = (0..8).map(|n| world.new_build(&format!("k{n}"), "linux/amd64", &[])).collect();
    let submitted = join_all(builds.iter().map(|build| world.store.submit(build))).await;
    let (taken, refused): (Vec<_>, Vec<_>) = submitted.into_iter().partition(Result::is_ok);
    assert_eq!((taken.len(), refused.len()), (3, 5));
    for refused in refused {
        let (what, wait) = exhausted(refused.unwrap_err());
        assert!(what.starts_with("3 builds of the project wait already, and its limit is 3;"), "{what}");
        assert_eq!(wait, None);
    }
    // What was taken is answered again, and a place that is free is taken.
    let taken: Vec<_> = taken.into_iter().map(Result::unwrap).collect();
    let first = taken[0];
    let known = builds.iter().map(|build| world.store.submit(build));
    let again: Vec<_> = join_all(known).await.into_iter().filter_map(Result::ok).collect();
    assert_eq!(again.len(), 3);
    assert!(again.iter().all(|build| build.replayed));
    let (worker, _) = world.worker("w", 1).await;
    let lease = world.lease(first, 0, worker).await;
    world.store.attempt_started(lease).await.unwrap();
    assert_eq!(world.state(first).await, BuildState::Running);
    world.submit("one more", "linux/amd64", &[]).await;
    let one_too_many = world.store.submit(&world.new_build("too many", "linux/amd64", &[])).await;
    exhausted(one_too_many.unwrap_err());
    let used = world.store.used(default_project()).await.unwrap();
    assert!(used.stored_bytes > 0);
    assert_eq!(used, Used { running_slots: 1, queued_builds: 3, builds: 4, stored_bytes: used.stored_bytes });
    // Taken away, it counts no more.
    set(&world, QuotaChange { max_queued_builds: Some(None), ..Default::default() }).await;
    world.submit("too many", "linux/amd64", &[]).await;
}

#[tokio::test]
async fn so_many_builds_are_taken_within_a_minute_retries_included_and_who_comes_too_soon_is_told_when() {
    let world = world().await;
    let old = world.submit("old", "linux/amd64", &[]).await;
    world.store.cancel(&tester(), default_project(), old.id, PUBLISH).await.unwrap();
    world.pass("61 seconds");
    set(&world, QuotaChange { builds_per_minute: Some(Some(2)), ..Default::default() }).await;
    world.submit("first", "linux/amd64", &[]).await;
    world.pass("20 seconds");
    let retry = |key: &str| Retry {
        project: default_project(),
        id: farm_types::BuildId::generate(),
        of: old.id,
        idempotency_key: key.to_owned(),
        failed_only: false,
        gone: Vec::new(),
        protected: false,
        mounts: None,
        signing: None,
        by: tester(),
        submitter: Default::default(),
        queue_limit: LEASE,
    };
    world.store.retry(&retry("second"), PUBLISH).await.unwrap();
    for refused in [
        world.store.submit(&world.new_build("third", "linux/amd64", &[])).await,
        world.store.retry(&retry("third by a retry"), PUBLISH).await,
    ] {
        let (what, wait) = exhausted(refused.unwrap_err());
        assert_eq!(what, "the project's limit of 2 builds a minute is reached");
        // Until the first is a minute old.
        let wait = wait.unwrap().as_secs_f64();
        assert!((30.0..=40.0).contains(&wait), "{wait}");
    }
    world.pass("41 seconds");
    world.submit("third", "linux/amd64", &[]).await;
}

#[tokio::test]
async fn stored_bytes_end_uploads_and_outputs_and_nothing_else() {
    let world = world().await;
    let project = default_project();
    let stored = world.store.used(project).await.unwrap().stored_bytes;
    assert_eq!(world.store.room(project).await.unwrap(), None);
    set(&world, QuotaChange { max_stored_bytes: Some(Some(stored + 7)), ..Default::default() }).await;
    assert_eq!(world.store.room(project).await.unwrap(), Some(7));
    let mut giving = world.new_build("gives", "linux/amd64", &[]);
    giving.spec.exports = vec![Export::new(Form::Files, []).unwrap()];
    let gave = world.store.submit(&giving).await.unwrap();
    world.store.cancel(&tester(), project, gave.id, PUBLISH).await.unwrap();
    set(&world, QuotaChange { max_stored_bytes: Some(Some(stored)), ..Default::default() }).await;
    let (what, wait) = exhausted(world.store.room(project).await.unwrap_err());
    assert!(what.contains(&format!("{stored} bytes")) && wait.is_none(), "{what}");
    giving.idempotency_key = "gives again".to_owned();
    exhausted(world.store.submit(&giving).await.unwrap_err());
    exhausted(world.store.retry(&retry_of(gave, "gives by a retry", false), PUBLISH).await.unwrap_err());
    let pushed = world.submit("pushes", "linux/amd64", &[]).await;
    world.store.cancel(&tester(), project, pushed.id, PUBLISH).await.unwrap();
    world.store.retry(&retry_of(pushed, "pushes again", false), PUBLISH).await.unwrap();
}

#[tokio::test]
async fn the_scheduler_is_told_what_projects_hold_and_may() {
    let world = world().await;
    let (worker, _) = world.worker("w", 4).await;
    let shares = async || world.store.schedule_state(64, &[]).await.unwrap().shares;
    assert_eq!(shares().await, HashMap::new());
    set(&world, QuotaChange { weight: Some(3), max_running_slots: Some(Some(2)), ..Default::default() })
        .await;
    let first = world.submit("first", "linux/amd64,linux/arm64", &[]).await;
    let of = |held| {
        HashMap::from([(default_project(), Share { held, weight: 3, most: Some(2), ..Share::default() })])
    };
    assert_eq!(shares().await, of(0));
    let lease = world.lease(first, 0, worker).await;
    assert_eq!(shares().await, of(1));
    world.store.attempt_started(lease).await.unwrap();
    world.finish(lease, success("x")).await.unwrap();
    assert_eq!(shares().await, of(0));
}

#[tokio::test]
async fn what_was_said_of_a_project_is_kept_with_who_said_it() {
    let world = world().await;
    let (store, project) = (&world.store, default_project());
    set(&world, QuotaChange { max_running_slots: Some(Some(2)), ..Default::default() }).await;
    set(&world, QuotaChange { weight: Some(5), max_queued_builds: Some(Some(9)), ..Default::default() })
        .await;
    let platforms = farm_types::Platform::parse_list("linux/arm64,linux/amd64").unwrap();
    store
        .set_defaults(&tester(), project, Some(&platforms), None, Some(Some(farm_types::spec::Verify::Off)))
        .await
        .unwrap();
    store.set_defaults(&tester(), project, None, Some(Some("never".parse().unwrap())), None).await.unwrap();
    let (quota, defaults) = store.settings(project).await.unwrap();
    assert_eq!((quota.weight, quota.max_running_slots, quota.max_queued_builds), (5, Some(2), Some(9)));
    assert_eq!((quota.builds_per_minute, quota.max_stored_bytes), (None, None));
    assert_eq!((defaults.platforms, defaults.emulation), (platforms, Some("never".parse().unwrap())));
    store.set_defaults(&tester(), project, Some(&[]), Some(None), Some(None)).await.unwrap();
    assert_eq!(store.settings(project).await.unwrap().1, Default::default());
    let rows = world.database.psql(
        "SELECT action || ' ' || subject || ' ' || detail::text FROM audit WHERE action LIKE 'project.%' ORDER BY id",
    );
    let rows: Vec<&str> = rows.lines().collect();
    assert_eq!(rows.len(), 5, "{rows:?}");
    assert_eq!(rows[0], r#"project.quota default {"max_running_slots": 2}"#);
    assert!(rows[3].starts_with("project.defaults default") && rows[3].contains("never"), "{rows:?}");
}
