//! Workers that joined: what a certificate lets them be, what it keeps them from, and how it is taken back.

use std::time::{Duration, Instant};

use farm_proto::v1;
use farm_proto::v1::control_request::Message as Said;
use farm_proto::v1::control_response::Message as Heard;
use farm_tests::client::{self, Client, Sim, hello, success};
use farm_tests::database::psql;
use farm_tests::farm::Farm;
use farm_tests::machine::{self, Machine, invite, join};
use tonic::{Code, Status};

/// What is promised.
const PROMISED: Duration = Duration::from_secs(5);
/// A staging registry where none is needed: untrusted workers are invited, and those that know no tokens push nowhere.
pub const NO_STAGING: &str = "staging.invalid";
/// A test gives up after so long, which says more than a failed assertion on a machine that is busy.
pub const LONG: Duration = Duration::from_secs(30);

pub fn as_invited(name: &str) -> v1::InviteWorkerRequest {
    v1::InviteWorkerRequest { name: name.to_owned(), ..Default::default() }
}

/// Connects a simulated worker by its certificate.
pub async fn connect(farm: &Farm, machine: &Machine, hello: v1::Hello) -> Result<Sim, Status> {
    Sim::connect(&machine.client(farm).await, hello).await
}

pub async fn workers(farm: &Farm) -> Vec<v1::Worker> {
    let mut admin = Client::connect(farm).await;
    admin.farm.list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers
}

pub async fn revoke(farm: &Farm, name: &str) {
    let request = v1::RevokeWorkersRequest { names: vec![name.to_owned()] };
    Client::connect(farm).await.machines.revoke_workers(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_what_it_was_invited_as_whatever_it_says() {
    let farm = Farm::builder().start();
    let request = v1::InviteWorkerRequest {
        pool: "arm".into(),
        platforms: vec!["linux/amd64".into()],
        slots: 2,
        ..as_invited("w1")
    };
    let invited = invite(&farm, request).await.unwrap();
    assert!(
        invited.token.starts_with("farm_j_") && invited.fingerprint.starts_with("SHA256:"),
        "{invited:?}"
    );
    assert!(invited.coordinators.iter().all(|url| url.starts_with("https://")), "{invited:?}");
    let machine = join(&farm, &invited.token, "").await.unwrap();
    assert_eq!(machine.name, "w1");
    assert_eq!((machine.lives_ms, machine.renew_ms), (24 * 3_600_000, 16 * 3_600_000));

    let named = connect(&farm, &machine, hello("w2", 1)).await.err().unwrap();
    assert_eq!(named.code(), Code::PermissionDenied);
    assert!(named.message().contains("worker w1's") && named.message().contains("w2"), "{named:?}");

    let mut greedy = hello("w1", 64);
    greedy.platforms.push(v1::OfferedPlatform {
        platform: "linux/arm64".into(),
        support: "native".into(),
        told: true,
    });
    let _sim = connect(&farm, &machine, greedy).await.unwrap();
    let all = workers(&farm).await;
    let [worker] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((worker.slots, worker.platforms.len()), (2, 1), "{worker:?}");
    assert_eq!(
        (worker.machine.as_str(), worker.pool.as_str(), worker.trust.as_str()),
        ("w1", "arm", "trusted")
    );
    assert!(worker.certificate_ends_ms > 0);

    // With the farm's own token nobody is it.
    let by_token = Sim::connect(&Client::connect(&farm).await, hello("w1", 1)).await.err().unwrap();
    assert_eq!(by_token.code(), Code::AlreadyExists);
    assert!(by_token.message().contains("certificate of its own"), "{by_token:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_is_its_machines_and_of_one_trust() {
    let farm = Farm::builder().env("FARM_STAGING", NO_STAGING).start();
    let same = |name: &str| {
        let mut hello = hello(name, 4);
        hello.engine.as_mut().unwrap().key = "one engine".into();
        hello
    };
    let one = machine::machine(&farm, "one").await;
    let _one = connect(&farm, &one, same("one")).await.unwrap();
    // Another machine that says it has the same engine has one of its own.
    let other = machine::machine(&farm, "other").await;
    let _other = connect(&farm, &other, same("other")).await.unwrap();
    let engines = || psql(farm.database_url(), "SELECT count(*) FROM engines");
    assert_eq!(engines(), "2");
    // One on the same machine shares it.
    let request = v1::InviteWorkerRequest { machine: "one".into(), ..as_invited("one-qemu") };
    let token = invite(&farm, request).await.unwrap().token;
    let mate = join(&farm, &token, "").await.unwrap();
    let _mate = connect(&farm, &mate, same("one-qemu")).await.unwrap();
    assert_eq!(engines(), "2");
    let unknown = v1::InviteWorkerRequest { machine: "nowhere".into(), ..Default::default() };
    assert_eq!(invite(&farm, unknown).await.unwrap_err().code(), Code::NotFound);

    // What isn't trusted doesn't get the engine of what is.
    let request = v1::InviteWorkerRequest { trust: "untrusted".into(), ..as_invited("fork") };
    let token = invite(&farm, request).await.unwrap().token;
    let fork = join(&farm, &token, "").await.unwrap();
    let refused = connect(&farm, &fork, same("fork")).await.err().unwrap();
    assert!(refused.message().contains("engine") && refused.message().contains("trusted"), "{refused:?}");
    // Nor does it keep it from one that comes later.
    let mut key = hello("fork", 1);
    key.engine.as_mut().unwrap().key = "claimed first".into();
    let mut fork_sim = connect(&farm, &fork, key.clone()).await.unwrap();
    let late = machine::machine(&farm, "late").await;
    key.name = "late".into();
    let _late = connect(&farm, &late, key).await.unwrap();
    let states: Vec<(String, String)> =
        workers(&farm).await.into_iter().map(|worker| (worker.name, worker.state)).collect();
    assert!(states.contains(&("late".into(), "online".into())), "{states:?}");
    assert!(!states.contains(&("fork".into(), "online".into())), "{states:?}");
    // Whoever is cut off so hears of it with the next sign, and is told why when it dials again.
    let beat = v1::Heartbeat { running: Vec::new() };
    fork_sim.say.send(client::request(Said::Heartbeat(beat))).await.unwrap();
    let ended = tokio::time::timeout(LONG, async {
        loop {
            if let Err(status) = fork_sim.next().await {
                return status;
            }
        }
    });
    let ended = ended.await.expect("its stream stays open, and nothing is heard by it");
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    assert!(ended.message().contains("dial again"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_worker_is_out_soon_and_its_job_runs_elsewhere() {
    let farm = Farm::builder().coordinators(2).start();
    let mut admin = Client::connect(&farm).await;
    let snapshot = admin.upload("FROM scratch").await;
    let mut told = Vec::new();
    for round in 0..3 {
        let name = format!("bad-{round}");
        let bad = machine::machine(&farm, &name).await;
        let place = round % 2;
        let client = Client::over(bad.channel(&farm, place).await, Default::default());
        let mut sim = Sim::connect(&client, hello(&name, 1)).await.unwrap();
        let build = admin.submit(&snapshot, &name, &["linux/amd64"]).await.id;
        let offered = sim.offer().await;
        let lease = offered.lease.unwrap();
        sim.start(&lease).await;
        sim.beat(std::slice::from_ref(&lease)).await;
        let good = machine::machine(&farm, &format!("good-{round}")).await;
        let mut other = connect(&farm, &good, hello(&good.name, 1)).await.unwrap();

        revoke(&farm, &name).await;
        let revoked = Instant::now();
        let cut = async {
            loop {
                match sim.next().await {
                    Ok(_) => {}
                    Err(status) => return (status, revoked.elapsed()),
                }
            }
        };
        let elsewhere = async {
            let offered = other.offer().await;
            (offered, revoked.elapsed())
        };
        let ended = tokio::time::timeout(LONG, async { tokio::join!(cut, elsewhere) });
        let ((status, cut), (again, moved)) = ended.await.expect("it is still in");
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        assert!(status.message().contains("was revoked on"), "{status:?}");
        told.push(cut);
        assert!(moved < Duration::from_secs(20), "{moved:?}");
        // What it still says changes nothing: not even by its old lease, nor as another one.
        let back = Sim::connect(&client, hello(&name, 1)).await.err().unwrap();
        assert_eq!(back.code(), Code::Unauthenticated);
        assert_eq!(bad.renew(&farm).await.err().unwrap().code(), Code::Unauthenticated);
        let lease = again.lease.unwrap();
        other.start(&lease).await;
        assert!(other.finish(&lease, success()).await);
        let (build, _) = admin.follow(&build).await;
        assert_eq!(build.state, "succeeded", "{build:?}");
        drop(other);
    }
    told.sort();
    println!("revoking workers median={:?} worst={:?} n={}", told[1], told[2], told.len());
    assert!(told[2] < PROMISED, "{told:?}");
    assert!(workers(&farm).await.iter().all(|worker| !worker.name.starts_with("bad")));
    // Those that can't be revoked: never there, and without a certificate.
    let _plain = Sim::connect(&admin, hello("plain", 1)).await.unwrap();
    for (name, code) in [("nobody", Code::NotFound), ("plain", Code::FailedPrecondition)] {
        let request = v1::RevokeWorkersRequest { names: vec!["good-0".to_owned(), name.to_owned()] };
        assert_eq!(admin.machines.revoke_workers(request).await.unwrap_err().code(), code);
    }
    assert!(workers(&farm).await.iter().any(|worker| worker.name == "good-0"), "all or none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rogue_worker_gets_at_nothing_of_anothers() {
    let farm = Farm::builder().start();
    let mut admin = Client::connect(&farm).await;
    let snapshot = admin.upload("FROM scratch").await;
    let honest = machine::machine(&farm, "honest").await;
    let mut honest = connect(&farm, &honest, hello("honest", 1)).await.unwrap();
    let build = admin.submit(&snapshot, "one", &["linux/amd64"]).await.id;
    let offered = honest.offer().await;
    let lease = offered.lease.clone().unwrap();
    honest.start(&lease).await;

    let rogue = machine::machine(&farm, "rogue").await;
    let mut rogue_client = rogue.client(&farm).await;
    let mut rogue = Sim::connect(&rogue_client, hello("rogue", 1)).await.unwrap();
    // It knows the attempt, which anybody sees, and not the lease's token.
    let guessed = v1::Lease { lease_token: uuid::Uuid::new_v4().to_string(), ..lease.clone() };
    assert!(!rogue.finish(&guessed, success()).await, "another's job was ended");
    rogue.start(&guessed).await;
    loop {
        if let Heard::Stop(stop) = rogue.next().await.unwrap() {
            assert_eq!((stop.attempt_id, stop.reason.as_str()), (lease.attempt_id.clone(), "superseded"));
            break;
        }
    }
    let forged = rogue.log(&guessed, &[(1, "forged")]).await.unwrap_err();
    assert_eq!(forged.code(), Code::FailedPrecondition, "{forged:?}");
    let request = v1::FetchFoldersRequest { lease: Some(guessed.clone()), root: "context".into() };
    let folders = rogue_client.work.fetch_folders(request).await;
    let status = match folders {
        Ok(answers) => answers.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    // Nor by the token itself: a lease is for the worker that it was given to.
    assert!(!rogue.finish(&lease, success()).await, "another's job was ended by its lease");
    let forged = rogue.log(&lease, &[(1, "forged")]).await.unwrap_err();
    assert_eq!(forged.code(), Code::FailedPrecondition, "{forged:?}");

    honest.log(&lease, &[(1, "mine")]).await.unwrap();
    assert!(honest.finish(&lease, success()).await);
    let (build, logs) = admin.follow(&build).await;
    assert_eq!(build.state, "succeeded");
    let log = logs.values().map(|log| String::from_utf8_lossy(log).into_owned()).collect::<String>();
    assert!(log.contains("mine") && !log.contains("forged"), "{log}");
    // Of a lease that has ended nobody can make another end, its own worker neither.
    assert!(!honest.finish(&lease, v1::finished::Outcome::Stopped(v1::Stopped {})).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_pushes_goes_to_a_machine_that_is_not_trusted() {
    let farm =
        Farm::builder().env("FARM_STAGING", NO_STAGING).env("FARM_PATCHED_ENGINES", "docker 0").start();
    let mut admin = Client::connect(&farm).await;
    let request = v1::InviteWorkerRequest { trust: "untrusted".into(), ..as_invited("fork") };
    let token = invite(&farm, request).await.unwrap().token;
    let fork = join(&farm, &token, "").await.unwrap();
    let mut sim = connect(&farm, &fork, hello("fork", 4)).await.unwrap();
    let snapshot = admin.upload("FROM scratch").await;
    let spec = v1::BuildSpec {
        snapshot: Some(snapshot.clone()),
        platforms: vec!["linux/amd64".into()],
        emulation: "never".into(),
        tags: vec!["localhost:5000/team/app:dev".into()],
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: "pushes".into(), spec: Some(spec), ..Default::default() };
    let pushes = admin.builds.submit_build(request).await.unwrap().into_inner().build.unwrap().id;
    let kept = admin.submit(&snapshot, "kept", &["linux/amd64"]).await.id;
    let offered = sim.offer().await;
    assert_eq!(offered.build_id, kept);
    assert!(offered.registries.is_empty(), "it is lent something");
    let waits = tokio::time::timeout(LONG, async {
        loop {
            let build = admin.build(&pushes).await;
            let waiting = build.jobs.iter().map(|job| job.waiting.as_str()).collect::<String>();
            if !waiting.is_empty() {
                return waiting;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let words = waits.await.expect("it says nothing");
    assert!(words.contains("fork is on a machine that isn't trusted"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_not_trusted_gets_nothing_on_an_engine_that_is_too_old() {
    let farm =
        Farm::builder().env("FARM_STAGING", NO_STAGING).arg("--patched-engine=docker 28.5.2+dfsg4").start();
    let mut admin = Client::connect(&farm).await;
    let request = v1::InviteWorkerRequest { trust: "untrusted".into(), ..as_invited("fork") };
    let token = invite(&farm, request).await.unwrap().token;
    let fork = join(&farm, &token, "").await.unwrap();
    let engine = |version: &str, buildkit: &str| {
        let mut hello = hello("fork", 4);
        // So that the next one takes its place at once.
        hello.home = "home".to_owned();
        let engine = hello.engine.as_mut().unwrap();
        (engine.version, engine.buildkit) = (version.to_owned(), buildkit.to_owned());
        hello
    };
    // One of before says nothing of its BuildKit, and another distribution's package isn't listed.
    let old = connect(&farm, &fork, engine("28.5.2", "")).await.unwrap();
    let snapshot = admin.upload("FROM scratch").await;
    let build = admin.submit(&snapshot, "waits", &["linux/amd64"]).await.id;
    let words = tokio::time::timeout(LONG, async {
        loop {
            let waiting = admin.build(&build).await.jobs[0].waiting.clone();
            if !waiting.is_empty() {
                return waiting;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let words = words.await.expect("it says nothing");
    let said = "fork takes nothing: its machine isn't trusted, and its engine (docker 28.5.2) doesn't say which BuildKit it has";
    assert!(words.contains(said) && words.contains("0.31.2 or newer"), "{words}");
    assert!(words.contains("patched_engines = [\"docker 28.5.2\"]"), "{words}");
    let shown = farm.cli(&["workers"]).ok();
    assert!(shown.contains("fork takes no jobs: its machine isn't trusted, and its engine"), "{shown}");
    let json = farm.cli(&["workers", "--json"]).json();
    assert_eq!(json["workers"][0]["engine"], "docker 28.5.2", "{json:#}");
    assert!(admin.build(&build).await.jobs[0].attempts.is_empty());
    drop(old);
    // One that is new enough, and that nobody has fenced off.
    let mut open = engine("29.7.0", "v0.31.2");
    open.features.retain(|feature| feature != "fenced-engine");
    let open = connect(&farm, &fork, open).await.unwrap();
    let unfenced = tokio::time::timeout(LONG, async {
        while !admin.build(&build).await.jobs[0].waiting.contains("farm-worker --fenced-engine") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    unfenced.await.expect("it doesn't say that the engine isn't fenced off");
    let shown = farm.cli(&["workers"]).ok();
    assert!(shown.contains("isn't trusted, and nobody has said that its engine is fenced off"), "{shown}");
    assert!(admin.build(&build).await.jobs[0].attempts.is_empty());
    drop(open);
    // By a release that has the fixes, and by a package that the administrator has listed.
    for (version, buildkit) in [("29.7.0", "v0.31.2-moby"), ("28.5.2+dfsg4", "v0.0.0+unknown")] {
        let mut sim = connect(&farm, &fork, engine(version, buildkit)).await.unwrap();
        let offered = sim.offer().await;
        let lease = offered.lease.unwrap();
        sim.start(&lease).await;
        assert!(sim.finish(&lease, success()).await);
        assert_eq!(admin.follow(&offered.build_id).await.0.state, "succeeded");
        assert!(!farm.cli(&["workers"]).ok().contains("takes no jobs"));
        let next = format!("after {version}");
        admin.submit(&snapshot, &next, &["linux/amd64"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_a_worker_without_a_certificate_has_is_trusted_too() {
    let farm = Farm::builder().env("FARM_STAGING", NO_STAGING).start();
    let admin = Client::connect(&farm).await;
    let of_engine = |name: &str| {
        let mut hello = hello(name, 1);
        hello.engine.as_mut().unwrap().key = "shared".into();
        hello
    };
    let untrusted = async |name: &str| {
        let request = v1::InviteWorkerRequest { trust: "untrusted".into(), ..as_invited(name) };
        let token = invite(&farm, request).await.unwrap().token;
        join(&farm, &token, "").await.unwrap()
    };
    let _plain = Sim::connect(&admin, of_engine("plain")).await.unwrap();
    let late = untrusted("late").await;
    let refused = connect(&farm, &late, of_engine("late")).await.err().unwrap();
    assert!(refused.message().contains("that of worker plain"), "{refused:?}");
    // And the other way round: who comes with the farm's own token has it from then on.
    let mut first = hello("first", 1);
    first.engine.as_mut().unwrap().key = "another".into();
    let machine = untrusted("first").await;
    let _first = connect(&farm, &machine, first.clone()).await.unwrap();
    first.name = "second".into();
    let _second = Sim::connect(&admin, first).await.unwrap();
    let online: Vec<String> = workers(&farm)
        .await
        .into_iter()
        .filter(|worker| worker.state == "online")
        .map(|worker| worker.name)
        .collect();
    assert_eq!(online, ["plain", "second"]);
}
