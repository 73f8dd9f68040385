//! When a waiting job is likely to start.

use farm_core::work::waiting::Waiting;
use farm_types::RunMode;

use crate::fixture::{success, world};

#[tokio::test]
async fn a_waiting_job_is_told_when_it_starts_once_three_like_it_have_run() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let begin = async |key: &str| {
        let build = world.submit(key, "linux/amd64", &[]).await;
        let lease = world.lease(build, 0, worker).await;
        world.store.attempt_started(lease).await.unwrap();
        lease
    };
    let seen_just_now = || world.database.psql("UPDATE workers SET last_seen = farm_now()");
    for sample in 0..3 {
        let lease = begin(&format!("sample {sample}")).await;
        world.pass("60 seconds");
        if sample == 2 {
            // Two are no habit yet.
            assert_eq!(expected(&world, "early", 1).await, None);
        }
        world.finish(lease, success("x")).await.unwrap();
    }
    begin("running").await;
    world.pass("20 seconds");
    seen_just_now();
    // The one that runs has 40 s left; each in front takes a minute.
    let first = expected(&world, "first", 2).await.unwrap();
    assert!((90.0..=110.0).contains(&first), "{first}");
    let second = expected(&world, "second", 3).await.unwrap();
    assert!((150.0..=170.0).contains(&second), "{second}");
    // Where nobody takes jobs nobody can tell.
    for (n, keep_from_jobs) in [
        "draining = true",
        "drained_at = farm_now()",
        "withdrawn_at = farm_now()",
        "quarantined_at = farm_now(), quarantine_token = gen_random_uuid()",
        "probation_at = farm_now(), probe_at = farm_now()",
        "coordinator_id = NULL",
        // As long as the limit says.
        "last_seen = farm_now() - interval '12 s'",
    ]
    .into_iter()
    .enumerate()
    {
        let before = "coordinator_id, draining, drained_at, withdrawn_at, quarantined_at, quarantine_token, \
                      probation_at, probe_at, last_seen";
        world.database.psql("CREATE TABLE IF NOT EXISTS as_it_was AS SELECT * FROM workers");
        world.database.psql(&format!("UPDATE workers SET {keep_from_jobs}"));
        let place = 4 + u64::try_from(n).unwrap();
        assert_eq!(expected(&world, &format!("nobody {n}"), place).await, None, "{keep_from_jobs}");
        world.database.psql(&format!("UPDATE workers SET ({before}) = (SELECT {before} FROM as_it_was)"));
    }
    assert!(expected(&world, "last", 11).await.is_some());
}

#[tokio::test]
async fn what_a_coordinator_of_the_version_before_writes_is_told_in_its_words() {
    let world = world().await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    let job = async || world.build(build).await.jobs.remove(0);
    let id = job().await.id;
    let note =
        async |waiting: Waiting| world.store.note_waiting(world.epoch, &[(id, waiting)]).await.unwrap();
    assert_eq!((note(full()).await, note(full()).await), (1, 0));
    let told = job().await;
    assert_eq!((told.waiting, told.place), (Some(full()), Some(1)));
    let others = "all native slots are in use (2 of 2)";
    world.database.psql(&format!("UPDATE jobs SET waiting = '{others}'"));
    let told = job().await;
    assert_eq!((told.waiting, told.place), (Some(Waiting::Told(others.to_owned())), None));
    // It, too, reads what this one writes.
    assert_eq!(note(full()).await, 1);
    assert_eq!(world.database.psql("SELECT waiting FROM jobs").trim(), full().words());
    world.database.psql("UPDATE jobs SET waiting = ''");
    assert_eq!(job().await.waiting, None);
}

fn full() -> Waiting {
    Waiting::Slots { support: RunMode::Native, used: 1, total: 1 }
}

/// Submits one more, which waits for a slot as the `place`th; in how many seconds it starts.
async fn expected(world: &crate::fixture::World, key: &str, place: u64) -> Option<f64> {
    let build = world.submit(key, "linux/amd64", &[]).await;
    let id = world.build(build).await.jobs[0].id;
    world.store.note_waiting(world.epoch, &[(id, full())]).await.unwrap();
    let job = world.build(build).await.jobs.remove(0);
    assert_eq!(job.place, Some(place));
    let now = world.store.now().await.unwrap();
    job.starts_at.map(|at| (at - now).as_seconds_f64())
}
