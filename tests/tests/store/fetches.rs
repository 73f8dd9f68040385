//! Fetches of sources: who they are leased to, and what becomes of the snapshot that they bring.

use farm_core::work::plan::{Decision, Limits, plan};
use farm_store::builds::record::JobResult;
use farm_store::builds::submit::NewBuild;
use farm_store::work::finish::Outcome;
use farm_store::{StoreError, default_project};
use farm_types::{
    ArchiveOrigin, BootId, BuildSpec, FEATURE_GIT, FetchSpec, Fetched, FetchedRoot, GitOrigin, GitSource,
    Origin, SnapshotRef, Take, WorkerId,
};

use crate::fixture::{LEASE, World, world};

fn fetch(world: &World, key: &str) -> NewBuild {
    let source = GitSource {
        repository: "https://git.example/app.git".parse().unwrap(),
        point: Default::default(),
        expected: None,
        subdir: String::new(),
        keep_git: false,
        submodules: false,
        lfs: Default::default(),
    };
    let spec = BuildSpec::to_fetch(FetchSpec { source: source.into(), take: Take::All }, SnapshotRef::none());
    NewBuild { spec, ..world.new_build(key, "linux/amd64", &[]) }
}

#[tokio::test]
async fn what_is_of_an_archive_keeps_coordinators_out_that_know_of_none() {
    let world = world().await;
    let older =
        "INSERT INTO coordinators (id, address, runs_schema) VALUES (gen_random_uuid(), 'http://old', 57)";
    world.database.psql(older);
    // Whoever submits says the origin: no fetch of this farm has to have been there.
    let origin = ArchiveOrigin {
        archive: "https://x.example/app.tar".parse().unwrap(),
        digest: farm_types::Digest::of(b"app"),
    };
    let mut build = world.new_build("built", "linux/amd64", &[]);
    build.spec.origins = [("context".to_owned(), Origin::Archive(origin))].into();
    let refused = world.store.submit(&build).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Older(why) if why.contains("http://old")), "{refused}");
    world.database.psql("DELETE FROM coordinators WHERE address = 'http://old'");
    world.store.submit(&build).await.unwrap();
    assert_eq!(world.database.psql("SELECT oldest FROM schema_compat"), "58");
}

async fn with_git(world: &World, name: &str) -> WorkerId {
    let mut registration = world.registration(name, BootId::generate(), 1);
    registration.features.push(FEATURE_GIT.to_owned());
    world.store.register_worker(&registration, std::time::Duration::ZERO).await.unwrap()
}

#[tokio::test]
async fn a_fetch_goes_to_a_worker_with_git_takes_no_slot_and_its_snapshot_is_the_builds() {
    let world = world().await;
    let store = &world.store;
    let busy = world.submit("busy", "linux/amd64", &[]).await;
    let build = store.submit(&fetch(&world, "fetch")).await.unwrap();
    assert!(store.submit(&fetch(&world, "fetch")).await.unwrap().replayed);
    let (plain, _) = world.worker("plain", 4).await;
    let assignment = world.assignment(build, 0, plain).await;
    let refused = store.lease(world.epoch, assignment, LEASE).await;
    assert!(matches!(refused, Err(StoreError::Stale(_))), "{refused:?}");
    let git = with_git(&world, "git").await;
    world.lease(busy, 0, git).await;
    // Its only slot is taken, and it is given the fetch all the same.
    let state = store.schedule_state(64, &[]).await.unwrap();
    let decisions = plan(&state, Limits::default(), store.now().await.unwrap());
    let Decision::Assign { worker, .. } = &decisions[0] else { panic!("{decisions:?}") };
    assert_eq!((decisions.len(), *worker), (1, git));
    let lease = world.lease(build, 0, git).await;
    assert_eq!(world.slots_used(), 1);
    store.attempt_started(lease).await.unwrap();

    let snapshot = world.snapshot.clone();
    let roots = store.fetched_roots(default_project(), &snapshot).await.unwrap();
    let wrong = SnapshotRef { content_key: farm_types::Digest::of(b"another"), ..snapshot.clone() };
    assert!(store.fetched_roots(default_project(), &wrong).await.unwrap().is_empty());
    let succeeded = |snapshot: &SnapshotRef, roots: &std::collections::BTreeMap<String, FetchedRoot>| {
        let origin = GitOrigin {
            repository: "https://git.example/app.git".parse().unwrap(),
            full_ref: Some("refs/heads/main".parse().unwrap()),
            commit: "1f".repeat(20).parse().unwrap(),
            committed_at: 1_700_000_000,
            subdir: String::new(),
        };
        let origin = Origin::Git(origin);
        let (snapshot, roots, dockerfile) = (snapshot.clone(), roots.clone(), String::new());
        let fetched =
            Fetched { snapshot, roots, origin, dockerfile, files: 1, bytes: 1, tags: Vec::new(), refs: None };
        let result = JobResult::of_fetch(fetched);
        Outcome::Succeeded { result, repositories: Vec::new(), steps: Vec::new() }
    };
    let refused = world.finish(lease, succeeded(&wrong, &roots)).await;
    assert!(matches!(refused, Err(StoreError::Stale(_))), "{refused:?}");
    world.finish(lease, succeeded(&snapshot, &roots)).await.unwrap();
    let record = world.build(build).await;
    assert_eq!(record.spec.snapshot, snapshot);
    let result = record.jobs[0].result.as_ref().unwrap().fetched.as_ref().unwrap();
    assert!(!roots.is_empty() && result.roots == roots && record.jobs[0].kind == "fetch");
    assert_eq!(world.slots_used(), 1);
    // Whoever lists builds sees it only if that is asked for.
    let listed =
        async |fetches| store.builds(default_project(), (&[], fetches), None, 10).await.unwrap().builds.len();
    assert_eq!((listed(false).await, listed(true).await), (1, 2));
}
