//! Who may call while the database doesn't answer.

use std::time::Duration;

use farm_proto::v1;
use farm_proto::v1::control_request::Message as Said;
use farm_proto::v1::control_response::Message as Heard;
use farm_tests::client::{Client, Sim, hello, request, success};
use farm_tests::database::{Database, psql};
use farm_tests::farm::Farm;
use farm_tests::line::{Line, Wrong};
use farm_tests::machine::{self, Machine};
use tonic::{Code, Status};

use crate::team;

/// A call that the database isn't asked for is answered within.
const LONG: Duration = Duration::from_secs(60);

/// What is known of callers doesn't hold for ever.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_grace_nobody_is_known_without_the_database() {
    let database = Database::create();
    let line = Line::to(database.url());
    let config = "identity_grace_seconds = 1";
    let farm = Farm::builder().database_url(&line.url(database.url())).config(config).start();
    team::project(&farm, "web").await;
    let token = team::person(&farm, "ada", "web", "builder").await;
    let mut ada = Client::with_token(&farm, &token).await;
    ada.people.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    line.harm(Wrong::Silent);
    let refused = tokio::time::timeout(LONG, async {
        loop {
            if let Err(status) = ada.people.who_am_i(v1::WhoAmIRequest {}).await {
                return status;
            }
        }
    });
    let status = refused.await.expect("she is known for ever");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    line.mend(false);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_whoever_was_known_goes_on_and_nobody_is_told_that_a_token_is_wrong() {
    let database = Database::create();
    let line = Line::to(database.url());
    let farm = Farm::builder()
        .database_url(&line.url(database.url()))
        .config("identity_grace_seconds = 600")
        .start();
    team::project(&farm, "web").await;
    let known = team::person(&farm, "ada", "web", "builder").await;
    let fresh = team::person(&farm, "bob", "web", "builder").await;
    let mut ada = Client::with_token(&farm, &known).await;
    ada.people.who_am_i(v1::WhoAmIRequest {}).await.unwrap();

    line.harm(Wrong::Silent);
    let who = async |client: &mut Client| {
        let asked = client.people.who_am_i(v1::WhoAmIRequest {});
        tokio::time::timeout(LONG, asked).await.expect("no answer").map(|answer| answer.into_inner().name)
    };
    for _ in 0..3 {
        assert_eq!(who(&mut ada).await.unwrap(), "ada");
    }
    assert_eq!(who(&mut Client::connect(&farm).await).await.unwrap(), "admin");
    for token in [&fresh, &format!("farm_p_{}", "0".repeat(64))] {
        let status = who(&mut Client::with_token(&farm, token).await).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().contains("can't tell who you are"), "{}", status.message());
    }
    line.mend(false);
    let back = tokio::time::timeout(LONG, async {
        while who(&mut Client::with_token(&farm, &fresh).await).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    back.await.expect("it stays away");
}

/// A worker in the middle of its only job, until the database is back; then it ends the job. As a real one it comes back when a
/// coordinator lets go of it, which may be since another one has a database.
async fn works(
    machine: Machine,
    endpoint: Client,
    ready: tokio::sync::mpsc::Sender<()>,
    mut mended: tokio::sync::watch::Receiver<bool>,
) {
    let name = &machine.name;
    let hello = hello(name, 1);
    let mut sim = Sim::connect(&endpoint, hello.clone()).await.unwrap();
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    ready.send(()).await.unwrap();
    loop {
        let mut beat = tokio::time::interval(sim.heartbeat);
        let why = loop {
            tokio::select! {
                _ = beat.tick() => {
                    let beat = v1::Heartbeat { running: vec![lease.clone()] };
                    let _ = sim.say.send(request(Said::Heartbeat(beat))).await;
                }
                heard = sim.hear.message() => match heard.map(|heard| heard.and_then(|heard| heard.message)) {
                    Ok(Some(Heard::Stop(stop))) => panic!("{name} is to stop: {stop:?}"),
                    Ok(Some(Heard::HeartbeatReply(reply))) => assert!(reply.stop.is_empty(), "{name}: {reply:?}"),
                    Ok(Some(_)) => {}
                    Ok(None) => break Status::unavailable("it ended the stream"),
                    Err(status) => break status,
                },
                () = async { mended.wait_for(|mended| *mended).await.map(drop).unwrap() } => {
                    let beat = v1::Heartbeat { running: vec![lease.clone()] };
                    let _ = sim.say.send(request(Said::Heartbeat(beat))).await;
                    let finished = v1::Finished { lease: Some(lease.clone()), outcome: Some(success()), self_check: None, pushed: None };
                    let _ = sim.say.send(request(Said::Finished(finished))).await;
                    loop {
                        match sim.hear.message().await.map(|heard| heard.and_then(|heard| heard.message)) {
                            Ok(Some(Heard::FinishedReply(reply))) => {
                                assert!(reply.accepted, "{name} has lost its job");
                                return;
                            }
                            Ok(Some(_)) => {}
                            Ok(None) => break,
                            Err(status) => {
                                assert_eq!(status.code(), Code::Unavailable, "{name}: {status:?}");
                                break;
                            }
                        }
                    }
                    break Status::unavailable("again");
                }
            }
        };
        assert_eq!(why.code(), Code::Unavailable, "{name} is cut off: {why:?}");
        sim = loop {
            match Sim::connect(&endpoint, hello.clone()).await {
                Ok(sim) => break sim,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{name}: {status:?}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_lose_nothing_while_the_database_is_away() {
    // Two leases' time.
    let config = "[limits]\nlease_seconds = 5\nheartbeat_milliseconds = 500\nsuspect_seconds = 3";
    Box::pin(away(12, Duration::from_secs(10), config)).await;
}

/// Workers, each by a certificate of its own and in the middle of a job: nothing of that is lost, and nobody is told that they aren't
/// known.
pub(crate) async fn away(workers: usize, away: Duration, config: &str) {
    let database = Database::create();
    let line = Line::to(database.url());
    let farm = Farm::builder().database_url(&line.url(database.url())).config(config).start();
    let mut admin = Client::connect(&farm).await;
    let snapshot = admin.upload("FROM scratch").await;
    let mut tasks = tokio::task::JoinSet::new();
    let (mend, mended) = tokio::sync::watch::channel(false);
    let (ready, mut running) = tokio::sync::mpsc::channel(workers);
    for n in 0..workers {
        let machine = machine::machine(&farm, &format!("w-{n}")).await;
        let client = machine.client(&farm).await;
        admin.submit(&snapshot, &machine.name, &["linux/amd64"]).await;
        tasks.spawn(works(machine, client, ready.clone(), mended.clone()));
    }
    for _ in 0..workers {
        tokio::time::timeout(LONG, running.recv()).await.expect("some never get a job").unwrap();
    }
    let late = machine::machine(&farm, "late").await;
    let ends = "UPDATE certificates SET expires_at = farm_now() + interval '2 s'
                WHERE join_id IN (SELECT id FROM joins WHERE name = 'late')";
    psql(database.url(), ends);
    line.harm(Wrong::Silent);
    let began = std::time::Instant::now();
    // Whoever comes now is told to come again, not that they aren't known.
    let stranger = tokio::time::timeout(LONG, late.renew(&farm)).await.expect("no answer").err().unwrap();
    assert_eq!(stranger.code(), Code::Unavailable, "{stranger:?}");
    tokio::time::sleep(away.saturating_sub(began.elapsed())).await;
    line.mend(false);
    mend.send(true).unwrap();
    while let Some(ended) = tokio::time::timeout(LONG, tasks.join_next()).await.expect("some never end") {
        ended.unwrap();
    }
    let attempts =
        psql(database.url(), "SELECT string_agg(DISTINCT state, ',') || ' ' || count(*) FROM attempts");
    assert_eq!(attempts, format!("succeeded {workers}"));
    // Its certificate ended meanwhile, and is renewed all the same.
    late.renew(&farm).await.unwrap();
    println!("outage seconds={} workers={workers} lost=0", away.as_secs());
}
