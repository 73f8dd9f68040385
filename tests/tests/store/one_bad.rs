//! One bad row, job or worker costs itself only: the others go on, and its owner is told.

use farm_core::work::plan::{Decision, Limits, plan};
use farm_core::work::waiting::Waiting;
use farm_store::default_project;
use farm_types::state::{AttemptState, BuildState};

use crate::fixture::{PUBLISH, World, success, tester, world};

/// Whatever writes to this row fails, as something that Postgres doesn't take.
fn unwritable(world: &World, table: &str, premise: &str) {
    world.database.psql(&format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({premise}) EXECUTE FUNCTION refuse()"
    ));
}

#[tokio::test]
async fn a_job_that_cant_be_read_waits_for_somebody_who_mends_it_and_holds_up_nobody() {
    let world = world().await;
    world.worker("w", 4).await;
    let bad = world.submit("bad", "linux/amd64", &[]).await;
    let good = world.submit("good", "linux/amd64", &[]).await;
    let (bad_job, good_job) = (world.build(bad).await.jobs[0].id, world.build(good).await.jobs[0].id);
    world.database.psql(&format!("UPDATE jobs SET emulation = 'sometimes' WHERE id = '{bad_job}'"));
    let state = world.store.schedule_state(10, &[]).await.unwrap();
    assert_eq!((state.waiting.len(), &state.unreadable[..]), (1, &[bad_job][..]));
    let mut why_held = Vec::new();
    for decision in plan(&state, Limits::default(), world.store.now().await.unwrap()) {
        match decision {
            Decision::Assign { job, .. } => assert_eq!(job, good_job),
            Decision::Hold { job, why, .. } => why_held.push((job, why)),
        }
    }
    assert_eq!(why_held, [(bad_job, Waiting::Unreadable)]);
    world.store.note_waiting(world.epoch, &why_held).await.unwrap();
    assert_eq!(world.build(bad).await.jobs[0].waiting, Some(Waiting::Unreadable));
    // Whoever knows that it is of no use asks for the others only.
    let state = world.store.schedule_state(1, &[bad_job]).await.unwrap();
    assert_eq!((state.waiting[0].job, state.unreadable.len()), (good_job, 0));
}

#[tokio::test]
async fn a_build_or_a_worker_that_cant_be_read_is_missing_in_its_list_only() {
    let world = world().await;
    let (worker, _) = world.worker("w1", 1).await;
    world.worker("w2", 1).await;
    let bad = world.submit("bad", "linux/amd64", &[]).await;
    let good = world.submit("good", "linux/amd64", &[]).await;
    let lease = world.lease(bad, 0, worker).await;
    world.database.psql(&format!("UPDATE builds SET spec = '[]' WHERE id = '{}'", bad.id));
    world.database.psql(
        "UPDATE executions SET spec = '[]' WHERE id = (SELECT execution_id FROM builds ORDER BY order_key LIMIT 1);
         UPDATE worker_platforms SET platform = 'odd' WHERE platform = 'linux/arm64' AND worker_id = (SELECT id FROM workers WHERE name = 'w2')",
    );
    let listed = world.store.builds(default_project(), (&[], true), None, 10).await.unwrap().builds;
    assert_eq!(listed.iter().map(|build| build.id).collect::<Vec<_>>(), [good.id]);
    assert!(world.store.build_by_id(default_project(), bad.id).await.is_err());
    let names: Vec<String> = world.store.workers().await.unwrap().into_iter().map(|w| w.name).collect();
    assert_eq!(names, ["w1"]);
    // Its worker can't be told of it; the others are told of theirs.
    assert!(world.store.offered_via(world.coordinator).await.unwrap().is_empty());
    world.finish(lease, success("x")).await.unwrap();
    assert!(world.store.due_merges(10).await.unwrap().is_empty());
    let put_off = "SELECT count(*) FROM builds WHERE state = 'publishing' AND publish_due > farm_now()";
    assert_eq!(world.database.psql(put_off), "1", "it stands before others");
}

/// What contradicts itself is refused as superseded, which is not what a leader hears that leads no more.
#[tokio::test]
async fn attempts_are_reaped_beside_one_whose_job_is_decided_already() {
    let world = world().await;
    let (worker, _) = world.worker("w", 2).await;
    let bad = world.submit("bad", "linux/amd64", &[]).await;
    let good = world.submit("good", "linux/amd64", &[]).await;
    world.lease(bad, 0, worker).await;
    world.lease(good, 0, worker).await;
    let bad_job = world.build(bad).await.jobs[0].id;
    world.database.psql(&format!(
        "UPDATE jobs SET state = 'cancelled', decided_at = farm_now() WHERE id = '{bad_job}';
         UPDATE attempts SET lease_expires_at = farm_now() - interval '1 hour' WHERE job_id = '{bad_job}';
         UPDATE attempts SET lease_expires_at = farm_now() - interval '1 s' WHERE job_id <> '{bad_job}'"
    ));
    assert_eq!(world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap(), 1);
    assert_eq!(world.build(good).await.jobs[0].attempts[0].state, AttemptState::Lost);
    assert_eq!(world.build(bad).await.jobs[0].attempts[0].state, AttemptState::Offered);
}

#[tokio::test]
async fn what_is_overdue_ends_beside_one_that_cant_be_ended() {
    let world = world().await;
    let bad = world.submit("bad", "linux/amd64", &[]).await;
    let good = world.submit("good", "linux/amd64", &[]).await;
    let job = world.build(bad).await.jobs[0].id;
    unwritable(&world, "jobs", &format!("old.id = '{job}'"));
    world.pass("2 minutes");
    assert_eq!(world.store.end_overdue_queues(world.epoch, PUBLISH).await.unwrap(), 1);
    assert_eq!((world.state(bad).await, world.state(good).await), (BuildState::Queued, BuildState::Failed));
}

#[tokio::test]
async fn builds_that_take_too_long_end_beside_one_that_cant_be_ended() {
    let world = world().await;
    let with_timeout = async |key: &str| {
        let mut new = world.new_build(key, "linux/amd64", &[]);
        new.spec.timeout_ms = Some(1000);
        world.store.submit(&new).await.unwrap()
    };
    let bad = with_timeout("bad").await;
    let good = with_timeout("good").await;
    unwritable(&world, "builds", &format!("old.id = '{}'", bad.id));
    world.pass("2 seconds");
    assert_eq!(world.store.end_overdue_builds(world.epoch).await.unwrap(), 1);
    assert_eq!((world.state(bad).await, world.state(good).await), (BuildState::Queued, BuildState::Failed));
}

#[tokio::test]
async fn a_worker_that_is_gone_for_long_is_forgotten_and_known_again_when_it_comes_back() {
    let world = world().await;
    let week = std::time::Duration::from_secs(7 * 24 * 3600);
    for name in ["gone", "drained", "here"] {
        world.worker(name, 1).await;
    }
    let ids: Vec<_> = world.store.workers().await.unwrap().into_iter().map(|w| (w.name, w.id)).collect();
    world.store.drain_workers(&tester(), &["drained".to_owned()], None).await.unwrap().unwrap();
    for (_, id) in ids.iter().filter(|(name, _)| name != "here") {
        world.store.worker_disconnected(*id, world.connection(*id)).await.unwrap();
    }
    world.pass("6 days");
    assert!(world.store.forget_workers(world.epoch, week, 10).await.unwrap().is_empty());
    world.pass("2 days");
    assert_eq!(world.store.forget_workers(world.epoch, week, 10).await.unwrap(), ["gone"]);
    let names = async || -> Vec<String> {
        world.store.workers().await.unwrap().into_iter().map(|w| w.name).collect()
    };
    // The wish of an administrator outlives the machine; one that is connected is there.
    assert_eq!(names().await, ["drained", "here"]);
    world.worker("gone", 1).await;
    assert_eq!(names().await, ["drained", "gone", "here"]);
}

#[tokio::test]
async fn a_lease_notes_when_its_engine_had_its_turn() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    world.worker("other", 1).await;
    let build = world.submit("b", "linux/amd64", &[]).await;
    let lease = world.lease(build, 0, worker).await;
    world.store.attempt_started(lease).await.unwrap();
    world.store.finish_attempt(lease, success("x"), None, PUBLISH, 0.0).await.unwrap();
    // Both are free again, and alike but for that.
    let next = world.submit("next", "linux/amd64", &[]).await;
    let state = world.store.schedule_state(10, &[]).await.unwrap();
    let Decision::Assign { job, worker: chosen, .. } =
        plan(&state, Limits::default(), world.store.now().await.unwrap()).remove(0)
    else {
        panic!("both are free")
    };
    assert_eq!(job, world.build(next).await.jobs[0].id);
    assert_ne!(chosen, worker, "it had the last one");
}
