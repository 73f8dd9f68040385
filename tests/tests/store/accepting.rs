//! Accepting builds, and what the schema refuses.

use farm_store::{StoreError, default_project};
use farm_types::state::BuildState;

use crate::fixture::world;

#[tokio::test]
async fn the_same_key_and_body_give_the_same_build_another_body_is_an_error() {
    let world = world().await;
    let first = world.submit("k", "linux/amd64", &[]).await;
    let again = world.submit("k", "linux/amd64", &[]).await;
    assert_eq!((first.id, first.replayed, again.replayed), (again.id, false, true));
    let other = world.new_build("k", "linux/arm64", &[]);
    let Err(StoreError::Conflict(why)) = world.store.submit(&other).await else { panic!("taken") };
    assert!(why.contains("\"k\"") && why.contains("new key"), "{why}");
    assert_eq!(world.store.builds(default_project(), (&[], true), None, 10).await.unwrap().builds.len(), 1);
}

#[tokio::test]
async fn twenty_equal_submits_at_once_make_one_build() {
    let world = world().await;
    let new = world.new_build("k", "linux/amd64,linux/arm64", &[]);
    let submits = (0..20).map(|_| world.store.submit(&new));
    let ids: std::collections::BTreeSet<_> =
        futures::future::join_all(submits).await.into_iter().map(|s| s.unwrap().id.as_uuid()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(world.database.psql("SELECT count(*) FROM executions"), "1");
    assert_eq!(world.database.psql("SELECT count(*) FROM jobs"), "2");
}

#[tokio::test]
async fn a_build_of_a_source_that_is_not_there_is_refused_whole() {
    let world = world().await;
    let mut new = world.new_build("k", "linux/amd64", &[]);
    new.spec.snapshot.tree_id = farm_types::Digest::of(b"nowhere");
    let Err(StoreError::Conflict(why)) = world.store.submit(&new).await else { panic!("taken") };
    assert!(why.contains("upload"), "{why}");
    assert_eq!(world.database.psql("SELECT count(*) FROM executions"), "0");
}

#[tokio::test]
async fn the_schema_refuses_rows_that_make_no_sense() {
    let world = world().await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    for nonsense in [
        "UPDATE builds SET state = 'done'",
        "UPDATE builds SET state = 'failed', finished_at = farm_now()",
        "UPDATE builds SET state = 'succeeded'",
        "UPDATE builds SET state = 'publishing', started_at = farm_now()",
        "UPDATE jobs SET state = 'succeeded', decided_at = farm_now()",
        "UPDATE jobs SET lost_count = 1",
        "UPDATE executions SET state = 'failed', decided_at = farm_now()",
        "UPDATE engines SET used = -1",
        "INSERT INTO projects (id, name) VALUES (gen_random_uuid(), 'Not A Name')",
    ] {
        // Where the table is empty nothing would be refused.
        world.worker("w", 1).await;
        let error = world.database.psql(&format!(
            "DO $$ BEGIN {nonsense}; RAISE 'taken'; EXCEPTION WHEN check_violation THEN NULL; END $$; SELECT 'refused'"
        ));
        assert_eq!(error, "refused", "{nonsense}");
    }
    assert_eq!(world.state(build).await, BuildState::Queued);
}

#[tokio::test]
async fn only_the_heads_of_the_queues_are_looked_at() {
    let world = world().await;
    for i in 0..10 {
        world.submit(&format!("{i}"), "linux/amd64,linux/arm64", &[]).await;
    }
    let state = world.store.schedule_state(3, &[]).await.unwrap();
    let of = |platform: &str| state.waiting.iter().filter(|j| j.platform.to_string() == platform).count();
    assert_eq!((of("linux/amd64"), of("linux/arm64"), state.waiting.len()), (3, 3, 6));
}
