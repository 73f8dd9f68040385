//! The control link against a FAKE coordinator: what is said again, what is declined, and how it ends.

use super::*;

use std::sync::Arc;

use farm_client::{Endpoints, Security};
use farm_proto::v1::control_request::Message as Request;
use farm_proto::v1::control_response::Message as Response;
use farm_proto::{WORKER_PROTOCOL, v1};
use farm_types::{AttemptId, BootId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::attempts::{Attempts, Chore, Identity, StopReason};
use crate::link::Coordinators;
use crate::testing::{Fake, identity, offered, token, until};

struct Worker {
    bulk: Endpoints,
    attempts: Arc<Attempts>,
    chores: mpsc::UnboundedReceiver<Chore>,
    leave: CancellationToken,
    link: JoinHandle<Result<(), ControlError>>,
}

fn start(fake: &Fake, slots: usize) -> Worker {
    start_with(fake.url().into(), slots)
}

fn start_with(coordinators: Coordinators, slots: usize) -> Worker {
    let (attempts, chores) = Attempts::new(slots);
    attempts.open(identity());
    let attempts = Arc::new(attempts);
    let leave = CancellationToken::new();
    let control = Control {
        bulk: crate::link::bulk(&coordinators, &Security::default()).unwrap(),
        coordinators,
        security: Security::default(),
        credential: token().into(),
        certified: None,
        name: "w".into(),
        boot: BootId::generate(),
        home: "here".into(),
        slots,
        has_git: false,
        fenced: false,
        attempts: Arc::clone(&attempts),
        leave: leave.clone(),
        welcomed: watch::Sender::new(false),
    };
    Worker { bulk: control.bulk.clone(), attempts, chores, leave, link: tokio::spawn(control.run()) }
}

fn heard(fake: &Fake, wanted: impl Fn(&Request) -> bool) -> usize {
    fake.with(|script| script.heard.iter().filter(|message| wanted(message)).count())
}

fn hellos(fake: &Fake) -> usize {
    heard(fake, |message| matches!(message, Request::Hello(_)))
}

fn id(offer: &v1::Offered) -> AttemptId {
    offer.lease.as_ref().unwrap().attempt_id.parse().unwrap()
}

#[tokio::test]
async fn a_worker_says_who_it_is_and_leaves_with_a_goodbye() {
    let fake = Fake::start().await;
    let worker = start(&fake, 3);
    fake.heartbeat().await;
    fake.with(|script| {
        let Request::Hello(hello) = &script.heard[0] else { panic!() };
        assert_eq!((hello.name.as_str(), hello.slots, hello.min_version), ("w", 3, WORKER_PROTOCOL));
        assert_eq!(hello.platforms[0].platform, "linux/amd64");
        assert_eq!(script.authorization, ["Bearer farm_test"]);
    });
    worker.leave.cancel();
    worker.link.await.unwrap().unwrap();
    assert_eq!(heard(&fake, |message| matches!(message, Request::Bye(_))), 1);
}

#[tokio::test]
async fn an_offer_is_started_once_and_answered_each_time_and_declined_when_full() {
    let fake = Fake::start().await;
    let offer = offered();
    fake.with(|script| script.offer = vec![offer.clone(), offer.clone(), offered()]);
    let mut worker = start(&fake, 1);
    until("three answers", || {
        let started = heard(&fake, |message| matches!(message, Request::Started(_)));
        started == 2 && heard(&fake, |message| matches!(message, Request::Declined(_))) == 1
    })
    .await;
    assert!(matches!(worker.chores.try_recv(), Ok(Chore::Run(accepted)) if accepted.offered == offer));
    assert!(worker.chores.try_recv().is_err());
    until("a heartbeat names it", || fake.with(|script| script.heartbeat.len() == 1)).await;
}

#[tokio::test]
async fn an_end_is_told_on_every_stream_until_it_is_answered() {
    let fake = Fake::start().await;
    let offer = offered();
    fake.with(|script| script.offer = vec![offer.clone()]);
    let mut worker = start(&fake, 1);
    until("it started", || heard(&fake, |message| matches!(message, Request::Started(_))) == 1).await;
    let outcome = Some(v1::finished::Outcome::Stopped(v1::Stopped {}));
    worker.attempts.finish(
        id(&offer),
        v1::Finished { lease: offer.lease.clone(), outcome, self_check: None, pushed: None },
    );
    let finished = |message: &Request| matches!(message, Request::Finished(_));
    until("the end is told", || heard(&fake, finished) == 1).await;
    until("and its lease is held", || fake.with(|script| script.heartbeat.len() == 1)).await;

    fake.with(|script| script.offer.clear());
    let fake = fake.restart().await;
    until("it is told again", || heard(&fake, finished) == 2).await;
    fake.with(|script| script.answer_finished = true);
    let fake = fake.restart().await;
    until("it is answered", || worker.attempts.unanswered().is_empty()).await;
    until("and its lease is given up", || fake.with(|script| script.heartbeat.is_empty())).await;
    assert!(matches!(worker.chores.recv().await, Some(Chore::Run(_))));
    assert!(matches!(worker.chores.recv().await, Some(Chore::Forget(attempt)) if attempt == id(&offer)));
}

#[tokio::test]
async fn a_coordinator_that_is_away_stops_nothing_that_runs() {
    let fake = Fake::start().await;
    let offer = offered();
    fake.with(|script| script.offer = vec![offer.clone()]);
    let mut worker = start(&fake, 1);
    let Some(Chore::Run(accepted)) = worker.chores.recv().await else { panic!() };
    let fake = fake.restart().await;
    until("a second Hello", || hellos(&fake) == 2).await;
    until("a heartbeat", || fake.with(|script| script.heartbeat == vec![offer.lease.clone().unwrap()])).await;
    assert!(!accepted.stop.is_cancelled());
    fake.heartbeat().await;
    let stop = |reason: &str| v1::Stop { attempt_id: id(&offer).to_string(), reason: reason.into() };
    fake.tell(Response::Stop(stop("cancelled"))).await;
    accepted.stop.cancelled().await;
    assert_eq!(worker.attempts.stop_reason(id(&offer)), Some(StopReason::Cancelled));
    let reply = v1::HeartbeatReply { stop: vec![stop("superseded")] };
    fake.tell(Response::HeartbeatReply(reply)).await;
    until("the lost lease counts", || {
        worker.attempts.stop_reason(id(&offer)) == Some(StopReason::Superseded)
    })
    .await;
}

#[tokio::test]
async fn a_worker_moves_to_the_next_coordinator_with_all_that_it_runs_and_the_bulk_follows() {
    let (one, two) = (Fake::start().await, Fake::start().await);
    let offer = offered();
    for fake in [&one, &two] {
        fake.with(|script| script.offer = vec![offer.clone()]);
    }
    let coordinators: Coordinators = format!("{},{}", one.url(), two.url()).parse().unwrap();
    let worker = start_with(coordinators, 1);
    until("it is somewhere", || hellos(&one) + hellos(&two) == 1).await;
    // It may begin with either coordinator.
    let (mut here, mut there, mut place) = if hellos(&one) == 1 { (one, two, 0) } else { (two, one, 1) };
    for _ in 0..2 {
        until("it runs", || here.with(|script| script.heartbeat == vec![offer.lease.clone().unwrap()])).await;
        assert_eq!(worker.bulk.current(), place);
        let before = hellos(&there);
        here = here.restart().await;
        until("it is at the other one", || hellos(&there) > before).await;
        std::mem::swap(&mut here, &mut there);
        here.heartbeat().await;
        place = 1 - place;
    }
    assert_eq!(worker.bulk.current(), place);
    assert!(worker.attempts.stop_reason(id(&offer)).is_none());
    worker.leave.cancel();
    worker.link.await.unwrap().unwrap();
}

#[tokio::test]
async fn one_coordinator_that_refuses_is_passed_over_and_all_that_refuse_end_the_link() {
    let (one, two) = (Fake::start().await, Fake::start().await);
    let old = || Some(Status::failed_precondition("speaks 2 to 3"));
    one.with(|script| script.refuse_hello = old());
    let both = || format!("{},{}", one.url(), two.url()).parse::<Coordinators>().unwrap();
    let worker = start_with(both(), 1);
    two.heartbeat().await;
    worker.leave.cancel();
    worker.link.await.unwrap().unwrap();
    two.with(|script| script.refuse_hello = old());
    let error = start_with(both(), 1).link.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("run the farm-worker"), "{error}");
}

#[tokio::test]
async fn another_engine_means_another_hello_and_so_does_none() {
    let fake = Fake::start().await;
    let worker = start(&fake, 1);
    fake.heartbeat().await;
    let engine = v1::Engine { version: "2".into(), ..v1::Engine::default() };
    worker.attempts.open(Identity { engine: engine.clone(), ..identity() });
    until("another Hello", || hellos(&fake) == 2).await;
    worker.attempts.open(Identity { engine, ..identity() });
    worker.attempts.close("away");
    until("a third Hello", || hellos(&fake) == 3).await;
    let said: Vec<_> = fake.with(|script| {
        let hellos = script.heard.iter().filter_map(|message| match message {
            Request::Hello(hello) => Some(hello),
            _ => None,
        });
        hellos.map(|hello| (hello.engine.clone().unwrap().version, hello.platforms.len())).collect()
    });
    assert_eq!(said, [(String::new(), 1), ("2".to_owned(), 1), ("2".to_owned(), 0)]);
    fake.heartbeat().await;
    worker.leave.cancel();
    worker.link.await.unwrap().unwrap();
    let dials = fake.with(|script| {
        let dial = |message: &Request| match message {
            Request::Hello(hello) => Some(hello.dial),
            _ => None,
        };
        script.heard.iter().filter_map(dial).collect::<Vec<_>>()
    });
    assert_eq!(dials, [1, 2, 3], "which of them is the later one can't be told");
    let byes = heard(&fake, |message| matches!(message, Request::Bye(_)));
    assert_eq!(byes, 1, "the streams that were let go said none");
}

#[tokio::test]
async fn a_coordinator_that_will_never_take_us_ends_the_link_with_the_cure() {
    for (status, cure) in [
        (Status::failed_precondition("speaks 2 to 3"), "speaks 2 to 3); run the farm-worker"),
        (Status::unauthenticated("unknown token"), "--token-file"),
        (Status::permission_denied("a user's token"), "--token-file"),
    ] {
        let fake = Fake::start().await;
        fake.with(|script| script.refuse_hello = Some(status));
        let error = start(&fake, 1).link.await.unwrap().unwrap_err().to_string();
        assert!(error.contains(cure), "{error}");
    }
}

#[tokio::test]
async fn a_name_that_is_taken_is_waited_for() {
    let fake = Fake::start().await;
    fake.with(|script| script.refuse_hello = Some(Status::already_exists("since 12:00")));
    let worker = start(&fake, 1);
    until("it tries again", || hellos(&fake) >= 2).await;
    fake.with(|script| script.refuse_hello = None);
    fake.heartbeat().await;
    worker.leave.cancel();
    worker.link.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_worker_may_leave_while_nobody_is_there() {
    let fake = Fake::start().await;
    fake.with(|script| script.refuse_hello = Some(Status::unavailable("not yet")));
    let worker = start(&fake, 1);
    until("it tries", || hellos(&fake) >= 1).await;
    worker.leave.cancel();
    tokio::time::timeout(Duration::from_secs(5), worker.link).await.unwrap().unwrap().unwrap();
}
