//! A worker that doesn't do what it is told, and one that is asked for trial builds: seen from both sides of the link.

use std::time::Duration;

use farm_proto::v1;
use farm_proto::v1::control_request::Message as Say;
use farm_proto::v1::control_response::Message as Hear;
use farm_tests::database::psql;
use farm_tests::farm::Farm;

use crate::client::{Client, Sim, hello, success};

/// Leases so short that a test can wait for their end.
const QUICK: &str = "[limits]\nheartbeat_milliseconds = 300\nsuspect_seconds = 5\nlease_seconds = 6\n";
const LIMIT: Duration = Duration::from_secs(40);

async fn worker(client: &mut Client, name: &str) -> v1::Worker {
    let workers = client.farm.list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
    workers.into_iter().find(|worker| worker.name == name).unwrap()
}

/// Gives signs with these leases until the worker's state is this.
async fn becomes(client: &mut Client, sim: &mut Sim, running: &[v1::Lease], state: &str) -> v1::Worker {
    let coming = async {
        loop {
            sim.beat(running).await;
            let worker = worker(client, "sim").await;
            if worker.state == state {
                return worker;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LIMIT, coming).await.unwrap_or_else(|_| panic!("it is never {state}"))
}

#[tokio::test]
async fn a_worker_that_goes_on_with_what_it_was_told_to_stop_is_set_aside_until_it_does_not() {
    let farm = Farm::builder().config(QUICK).start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 2)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let unwanted = client.submit(&snapshot, "unwanted", &["linux/amd64"]).await;
    let unheeded = sim.offer().await.lease.unwrap();
    sim.start(&unheeded).await;
    let wanted = client.submit(&snapshot, "wanted", &["linux/amd64"]).await;
    let other = sim.offer().await.lease.unwrap();
    sim.start(&other).await;
    let both = [unheeded.clone(), other.clone()];
    sim.beat(&both).await;
    let cancel = v1::CancelBuildRequest { build_id: unwanted.id.clone() };
    client.builds.cancel_build(cancel).await.unwrap();
    // It is told, and does as if it had heard nothing; a minute passes.
    while sim.beat(&both).await.is_empty() {}
    psql(farm.database_url(), "UPDATE farm_clock SET shift = '61 s'");
    let aside = becomes(&mut client, &mut sim, &both, "quarantined").await;
    assert!(aside.reason.contains("did not stop a job within 60 s"), "{}", aside.reason);
    assert!(aside.since_ms > 0);
    // What it runs is to stop, all of it; what somebody wanted waits, and says for whom.
    let waits = async {
        loop {
            let build = client.build(&wanted.id).await;
            if build.jobs[0].waiting.contains("sim is quarantined: it did not stop") {
                return;
            }
            // One after the other: which is told first is no matter.
            assert!(!sim.beat(&both).await.is_empty());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LIMIT, waits).await.expect("the job never said what it waits for");
    assert_eq!(sim.beat(&both).await.len(), 2);
    assert!(!sim.finish(&other, success()).await, "a late word of a quarantined worker counted");
    assert_eq!(client.build(&unwanted.id).await.state, "cancelled");
    // It has stopped at last.
    becomes(&mut client, &mut sim, &[], "online").await;
    let again = sim.offer().await;
    assert_eq!((again.build_id, again.attempt_number), (wanted.id.clone(), 2));
    let lease = again.lease.unwrap();
    sim.start(&lease).await;
    assert!(sim.finish(&lease, success()).await);
    let (build, _) = client.follow(&wanted.id).await;
    assert_eq!(build.jobs[0].attempts[0].failure.as_ref().unwrap().code, "worker_quarantined");
}

#[tokio::test]
async fn a_worker_on_probation_gets_trial_builds_only_and_then_jobs_again() {
    let farm = Farm::builder().config(QUICK).start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 3)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let mut builds = Vec::new();
    for key in ["a", "b", "c"] {
        builds.push(client.submit(&snapshot, key, &["linux/amd64"]).await);
    }
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(sim.offer().await.lease.unwrap());
    }
    for lease in &leases {
        sim.start(lease).await;
        let failure = v1::Failure {
            cause: "infrastructure".to_owned(),
            code: "engine_lost".to_owned(),
            message: "it went away".to_owned(),
            ..Default::default()
        };
        let outcome = v1::finished::Outcome::Failure(failure);
        assert!(sim.finish_checked(lease, outcome, Some("its engine builds nothing")).await);
    }
    // Said again until it is answered; jobs wait meanwhile, and say for what.
    let mut asked = Vec::new();
    while asked.len() < 2 {
        match sim.next().await.unwrap() {
            Hear::Probe(probe) => asked.push(probe.probe_id),
            Hear::Offered(offered) => {
                let lease = offered.lease.unwrap();
                // Leased before all had failed.
                sim.tell(Say::Declined(v1::Declined { lease: Some(lease), reason: "sick".to_owned() })).await;
            }
            _ => {}
        }
    }
    assert_eq!(asked[0], asked[1]);
    let sick = becomes(&mut client, &mut sim, &[], "probation").await;
    assert!(sick.reason.contains("3 jobs in a row failed there"), "{}", sick.reason);
    let waits = async {
        loop {
            let build = client.build(&builds[0].id).await;
            // It runs no program, so it waits for no platform.
            if build.jobs[0].waiting.contains("a trial build to succeed: sim is on probation") {
                return;
            }
            sim.beat(&[]).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LIMIT, waits).await.expect("the job never said what it waits for");
    let probed = v1::Probed { probe_id: asked.remove(0), failure: String::new() };
    sim.tell(Say::Probed(probed)).await;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    assert!(sim.finish(&lease, success()).await);
    assert_eq!(worker(&mut client, "sim").await.state, "online");
}
