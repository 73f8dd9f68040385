//! What the link between workers and coordinator promises.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use farm_proto::v1;
use farm_proto::v1::control_request::Message as Say;
use farm_proto::v1::control_response::Message as Hear;
use farm_tests::farm::Farm;
use tonic::Code;

use crate::client::{Client, Sim, hello, success};

/// Leases so short that a test can wait for their end.
const QUICK: &str = "[limits]\nheartbeat_milliseconds = 300\nsuspect_seconds = 1\nlease_seconds = 2\n\
                     native_grace_seconds = 3\n";

#[tokio::test]
async fn a_worker_of_an_unknown_protocol_is_told_which_side_to_update() {
    let farm = Farm::builder().start();
    let client = Client::connect(&farm).await;
    let later = farm_proto::WORKER_PROTOCOL + 1;
    for (min, max, side) in [(later, 9, "update the coordinator"), (0, 0, "update the worker")] {
        let hello = v1::Hello { min_version: min, max_version: max, ..hello("sim", 1) };
        let status = Sim::connect(&client, hello).await.err().unwrap();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains(side), "{}", status.message());
    }
    // A newer worker that still speaks ours is welcome, whatever else it says.
    let newer =
        v1::Hello { min_version: 1, max_version: 7, features: vec!["later".into()], ..hello("new", 1) };
    let sim = Sim::connect(&client, newer).await.unwrap();
    sim.say.send(v1::ControlRequest { message: None }).await.unwrap();
    sim.tell(Say::Heartbeat(v1::Heartbeat::default())).await;
}

#[tokio::test]
async fn hello_is_checked() {
    let farm = Farm::builder().start();
    let client = Client::connect(&farm).await;
    let twin = hello("twin", 1);
    let _there = Sim::connect(&client, twin.clone()).await.unwrap();
    for (hello, code, words) in [
        (hello("no name", 1), Code::InvalidArgument, "letters, digits"),
        (hello("zero", 0), Code::InvalidArgument, "slots"),
        (hello("twin", 1), Code::AlreadyExists, "--name"),
        (v1::Hello { engine: None, ..hello("x", 1) }, Code::InvalidArgument, "engine"),
    ] {
        let status = Sim::connect(&client, hello).await.err().unwrap();
        assert_eq!(status.code(), code, "{}", status.message());
        assert!(status.message().contains(words), "{}", status.message());
    }
    // The same life on another stream is no twin.
    Sim::connect(&client, twin).await.unwrap();
}

#[tokio::test]
async fn a_job_goes_to_the_worker_and_its_end_makes_the_build_succeed() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let build = client.submit(&snapshot, "k", &["linux/amd64"]).await;
    let offered = sim.offer().await;
    assert_eq!((offered.platform.as_str(), offered.support.as_str()), ("linux/amd64", "native"));
    assert_eq!((offered.build_id.as_str(), offered.attempt_number), (build.id.as_str(), 1));
    assert_eq!(offered.roots, ["context", "dockerfile"]);
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;
    sim.start(&lease).await;
    assert!(sim.finish(&lease, success()).await);
    assert!(sim.finish(&lease, success()).await, "the same end said again is accepted");
    let stopped = v1::finished::Outcome::Stopped(v1::Stopped {});
    assert!(!sim.finish(&lease, stopped).await, "another end is not");
    let (build, _) = client.follow(&build.id).await;
    assert_eq!(build.state, "succeeded");
    assert_eq!(build.jobs[0].result.as_ref().unwrap().steps, 3);
    assert_eq!(build.jobs[0].attempts[0].worker, "sim");
}

#[tokio::test]
async fn a_lease_gives_access_to_its_snapshot_by_path_and_ends_with_the_attempt() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    client.submit(&snapshot, "k", &["linux/amd64"]).await;
    let lease = sim.offer().await.lease.unwrap();
    let mut work = sim.work.clone();
    let mut fetch = async |lease: &v1::Lease, root: &str, paths: &[&str]| {
        let request = v1::FetchFilesRequest {
            lease: Some(lease.clone()),
            root: root.to_owned(),
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        };
        let mut stream = work.fetch_files(request).await?.into_inner();
        let mut files = vec![Vec::new(); paths.len()];
        while let Some(piece) = stream.message().await? {
            files[usize::try_from(piece.index).unwrap()].extend_from_slice(&piece.data);
        }
        Ok::<_, tonic::Status>(files)
    };
    let files = fetch(&lease, "context", &["sub/copy", "Dockerfile"]).await.unwrap();
    assert_eq!(files, [b"FROM scratch", b"FROM scratch"]);
    for path in ["", "nothing", "sub", "../Dockerfile", "/Dockerfile", "sub/../Dockerfile", "Dockerfile/x"] {
        let status = fetch(&lease, "context", &[path]).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{path:?}");
    }
    assert_eq!(fetch(&lease, "other", &["Dockerfile"]).await.unwrap_err().code(), Code::NotFound);
    let forged = v1::Lease { lease_token: uuid::Uuid::new_v4().to_string(), ..lease.clone() };
    let refused = fetch(&forged, "context", &["Dockerfile"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(sim.finish(&lease, success()).await);
    let late = fetch(&lease, "context", &["Dockerfile"]).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_job_that_cant_be_leased_costs_itself_only() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let snapshot = client.upload("FROM scratch").await;
    let held = client.submit(&snapshot, "held", &["linux/amd64"]).await.id;
    let odd = client.submit(&snapshot, "odd", &["linux/amd64"]).await.id;
    let good = client.submit(&snapshot, "good", &["linux/amd64"]).await.id;
    let execution = |id: &str| format!("(SELECT execution_id FROM builds WHERE short_id = '{id}')");
    // Somebody holds what the first one's lease needs for as long as he likes; the second can't be written.
    let mut session = farm_tests::session::Session::open(farm.database_url());
    session.ask(&format!("BEGIN; SELECT 1 FROM executions WHERE id = {} FOR UPDATE", execution(&held)));
    farm_tests::database::psql(
        farm.database_url(),
        &format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN IF old.execution_id = {} AND new.state = 'leased' THEN RAISE EXCEPTION 'refused'; END IF;
                   RETURN new; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION refuse()",
            execution(&odd)
        ),
    );
    let mut sim = Sim::connect(&client, hello("sim", 3)).await.unwrap();
    let offered = sim.offer().await;
    assert_eq!(offered.build_id, good, "neither the first nor the second can be leased");
    sim.start(&offered.lease.unwrap()).await;
    // Both go on once they can.
    session.ask("ROLLBACK; SELECT 1");
    farm_tests::database::psql(farm.database_url(), "DROP TRIGGER refuse ON jobs");
    // One that isn't answered yet is offered again.
    let mut rest = std::collections::BTreeSet::new();
    while rest.len() < 2 {
        rest.insert(sim.offer().await.build_id);
    }
    rest.remove(&good);
    while rest.len() < 2 {
        rest.insert(sim.offer().await.build_id);
    }
    let rest: Vec<String> = rest.into_iter().collect();
    let mut both = vec![held, odd];
    both.sort();
    assert_eq!(rest, both);
}

#[tokio::test]
async fn a_silent_worker_loses_its_job_to_another_and_its_late_words_change_nothing() {
    let farm = Farm::builder().config(QUICK).start();
    let mut client = Client::connect(&farm).await;
    let mut silent = Sim::connect(&client, hello("a-silent", 1)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let build = client.submit(&snapshot, "k", &["linux/amd64"]).await;
    let beats = |sim: &Sim| {
        let say = sim.say.clone();
        tokio::spawn(async move {
            while say.send(crate::client::request(Say::Heartbeat(v1::Heartbeat::default()))).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        })
    };
    // It gives signs until it has the job, however long that takes.
    let beating = beats(&silent);
    let old = silent.offer().await.lease.unwrap();
    beating.abort();
    silent.start(&old).await;
    let mut other = Sim::connect(&client, hello("b-other", 1)).await.unwrap();
    let begin = Instant::now();
    let beating = beats(&other);
    let offered = other.offer().await;
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(offered.attempt_number, 2);
    // The zombie wakes up: it is told to stop, and its result is refused.
    let stop = silent.beat(std::slice::from_ref(&old)).await;
    assert_eq!(
        (stop[0].attempt_id.as_str(), stop[0].reason.as_str()),
        (old.attempt_id.as_str(), "superseded")
    );
    assert!(!silent.finish(&old, success()).await);
    let lease = offered.lease.unwrap();
    assert!(other.finish(&lease, success()).await);
    beating.abort();
    let (build, _) = client.follow(&build.id).await;
    let attempts: Vec<_> =
        build.jobs[0].attempts.iter().map(|a| (a.worker.as_str(), a.state.as_str())).collect();
    assert_eq!(attempts, [("a-silent", "lost"), ("b-other", "succeeded")]);
}

#[tokio::test]
async fn a_goodbye_gives_the_job_back_and_a_broken_stream_does_not() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let leaving = hello("leaving", 1);
    let mut sim = Sim::connect(&client, leaving.clone()).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let build = client.submit(&snapshot, "k", &["linux/amd64"]).await;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    assert!(sim.beat(std::slice::from_ref(&lease)).await.is_empty());
    drop(sim);
    let mut again = Sim::connect(&client, leaving).await.unwrap();
    let stop = again.beat(std::slice::from_ref(&lease)).await;
    assert!(stop.is_empty(), "the job was taken away: {stop:?}");
    again.tell(Say::Bye(v1::Bye {})).await;
    let mut next = Sim::connect(&client, hello("next", 1)).await.unwrap();
    let offered = next.offer().await;
    assert_eq!((offered.build_id.as_str(), offered.attempt_number), (build.id.as_str(), 2));
    let states = client.build(&build.id).await.jobs[0].attempts.clone();
    assert_eq!(states[0].state, "released");
}

/// What it runs takes a moment to give back, and the stream of one that has left counts no more, so it is ended meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_gives_the_job_back_though_its_stream_ends_first() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("leaving", 1)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let build = client.submit(&snapshot, "k", &["linux/amd64"]).await;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    assert!(sim.beat(std::slice::from_ref(&lease)).await.is_empty());
    let mut session = farm_tests::session::Session::open(farm.database_url());
    session.ask("BEGIN; SELECT count(*) FROM (SELECT FROM executions FOR UPDATE) AS held");
    // A sign that is written once its stream counts no more ends it.
    sim.tell(Say::Heartbeat(v1::Heartbeat { running: vec![lease] })).await;
    sim.tell(Say::Bye(v1::Bye {})).await;
    while sim.next().await.is_ok() {}
    session.ask("COMMIT; SELECT 1");
    let mut next = Sim::connect(&client, hello("next", 1)).await.unwrap();
    let offered = next.offer().await;
    assert_eq!((offered.build_id.as_str(), offered.attempt_number), (build.id.as_str(), 2));
}

#[tokio::test]
async fn a_cancel_reaches_the_worker_within_two_seconds() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let build = client.submit(&snapshot, "k", &["linux/amd64"]).await;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    // Answered after the start, on the same stream: so the start was heard.
    assert!(sim.beat(std::slice::from_ref(&lease)).await.is_empty());
    let begin = Instant::now();
    client.builds.cancel_build(v1::CancelBuildRequest { build_id: build.id.clone() }).await.unwrap();
    loop {
        if let Hear::Stop(stop) = sim.next().await.unwrap() {
            assert_eq!((stop.attempt_id, stop.reason.as_str()), (lease.attempt_id.clone(), "cancelled"));
            break;
        }
    }
    assert!(begin.elapsed() < Duration::from_secs(2));
    let stopped = v1::finished::Outcome::Stopped(v1::Stopped {});
    assert!(sim.finish(&lease, stopped).await);
    assert_eq!(client.follow(&build.id).await.0.state, "cancelled");
}

#[tokio::test]
async fn a_cancel_ends_at_once_what_its_worker_has_not_answered() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let build = client.submit(&snapshot, "k", &["linux/amd64"]).await;
    let lease = sim.offer().await.lease.unwrap();
    let request = v1::CancelBuildRequest { build_id: build.id.clone() };
    let build = client.builds.cancel_build(request).await.unwrap().into_inner().build.unwrap();
    assert_eq!((build.state.as_str(), build.jobs[0].attempts[0].state.as_str()), ("cancelled", "cancelled"));
    // Its answer comes too late: it is told to stop, and the slot is free for another.
    sim.start(&lease).await;
    loop {
        if let Hear::Stop(stop) = sim.next().await.unwrap() {
            assert_eq!((stop.attempt_id, stop.reason.as_str()), (lease.attempt_id.clone(), "superseded"));
            break;
        }
    }
    client.submit(&snapshot, "k2", &["linux/amd64"]).await;
    sim.offer().await;
}

#[tokio::test]
async fn a_coordinator_that_was_killed_comes_back_to_the_same_leases() {
    let mut farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let life = hello("sim", 1);
    let mut sim = Sim::connect(&client, life.clone()).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let build = client.submit(&snapshot, "k", &["linux/amd64"]).await;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    assert_eq!(sim.log(&lease, &[(1, "before ")]).await.unwrap(), 1);
    farm.kill_coordinator();
    farm.start_coordinator();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, life).await.unwrap();
    assert_eq!(sim.log(&lease, &[(1, "before "), (2, "after")]).await.unwrap(), 2);
    assert!(sim.finish(&lease, success()).await);
    let (build, logs) = client.follow(&build.id).await;
    assert_eq!((build.state.as_str(), build.jobs[0].attempts.len()), ("succeeded", 1));
    assert_eq!(logs[&lease.attempt_id], b"before after");
}

#[tokio::test]
async fn many_workers_do_many_builds_each_once() {
    do_builds(20, 80).await;
}

/// So many workers of two slots do so many builds.
pub async fn do_builds(workers_count: usize, builds: usize) {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let snapshot = client.upload("FROM scratch").await;
    let mut workers = tokio::task::JoinSet::new();
    for n in 0..workers_count {
        let client = Client::connect(&farm).await;
        workers.spawn(async move {
            let mut sim = Sim::connect(&client, hello(&format!("sim-{n}"), 2)).await.unwrap();
            let mut done = Vec::new();
            let mut answered = BTreeSet::new();
            // A worker that gives no sign for 12 s gets nothing new.
            let mut beat = tokio::time::interval(Duration::from_secs(2));
            loop {
                let message = tokio::select! {
                    message = sim.hear.message() => message,
                    _ = beat.tick() => {
                        // The end of the stream may be seen here first.
                        let sign = v1::ControlRequest { message: Some(Say::Heartbeat(v1::Heartbeat::default())) };
                        if sim.say.send(sign).await.is_err() {
                            break;
                        }
                        continue;
                    }
                };
                let Ok(Some(message)) = message else { break };
                let Some(Hear::Offered(offered)) = message.message else { continue };
                let lease = offered.lease.unwrap();
                // An offer is said again until it is answered.
                if !answered.insert(lease.attempt_id.clone()) {
                    continue;
                }
                sim.start(&lease).await;
                let finished = v1::Finished { lease: Some(lease), outcome: Some(success()), self_check: None, pushed: None };
                sim.tell(Say::Finished(finished)).await;
                done.push(offered.build_id);
            }
            done
        });
    }
    let mut ids = BTreeSet::new();
    for n in 0..builds {
        ids.insert(client.submit(&snapshot, &n.to_string(), &["linux/amd64"]).await.id);
    }
    assert_eq!(ids.len(), builds);
    for id in &ids {
        let (build, _) = client.follow(id).await;
        assert_eq!((build.state.as_str(), build.jobs[0].attempts.len()), ("succeeded", 1), "{id}");
    }
    // The end of the coordinator ends the workers' streams.
    drop(farm);
    let mut done: Vec<String> = Vec::new();
    while let Some(worker) = workers.join_next().await {
        done.extend(worker.unwrap());
    }
    assert_eq!(done.len(), builds, "a job was offered twice");
    assert_eq!(done.into_iter().collect::<BTreeSet<_>>(), ids);
}

#[tokio::test]
async fn a_drained_worker_gets_no_offer_and_a_wish_is_for_all_that_it_names_or_for_none() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("arm-rack", 2)).await.unwrap();
    let drain = |names: &[&str]| v1::DrainWorkersRequest {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        within_ms: 0,
    };
    for (names, code, words) in [
        (&["arm-rack", "arm-rakc"][..], Code::NotFound, "no worker arm-rakc; did you mean arm-rack?"),
        (&["x86"], Code::NotFound, "`farm workers` lists"),
        (&[], Code::InvalidArgument, "name 1 to"),
        (&["no name"], Code::InvalidArgument, "letters, digits"),
    ] {
        let status = client.farm.drain_workers(drain(names)).await.unwrap_err();
        assert_eq!(status.code(), code, "{}", status.message());
        assert!(status.message().contains(words), "{}", status.message());
    }
    let snapshot = client.upload("FROM scratch").await;
    client.submit(&snapshot, "first", &["linux/amd64"]).await;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    let drained = client.farm.drain_workers(drain(&["arm-rack"])).await.unwrap().into_inner().workers;
    assert_eq!((drained[0].state.as_str(), drained[0].running.len()), ("draining", 1));
    let native = client.farm.get_farm(v1::GetFarmRequest {}).await.unwrap().into_inner().native_platforms;
    assert!(native.is_empty(), "{native:?}");
    let second = client.submit(&snapshot, "second", &["linux/amd64"]).await;
    // What it runs goes on, and so do its signs.
    assert!(sim.beat(std::slice::from_ref(&lease)).await.is_empty());
    assert!(sim.finish(&lease, success()).await);
    let idle = client.farm.drain_workers(drain(&["arm-rack"])).await.unwrap().into_inner().workers;
    assert_eq!(idle[0].state, "drained");
    let names = vec!["arm-rack".to_owned()];
    let remove = v1::RemoveWorkersRequest { names: names.clone() };
    let status = client.farm.remove_workers(remove).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("farm workers drain arm-rack --wait"), "{}", status.message());
    let resume = v1::ResumeWorkersRequest { names };
    let resumed = client.farm.resume_workers(resume).await.unwrap().into_inner().workers;
    assert_eq!(resumed[0].state, "online");
    assert_eq!(sim.offer().await.build_id, second.id);
}
