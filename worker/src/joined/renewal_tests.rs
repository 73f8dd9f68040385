//! Renewal against a FAKE coordinator over real TLS, with the control link beside it.

use std::sync::Arc;

use farm_client::Identity;
use farm_proto::v1::control_request::Message as Request;
use farm_types::BootId;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::attempts::Attempts;
use crate::joined::files::{Farm, Joined};
use crate::link::{self, Control, ControlError, Credential};
use crate::testing::{Authority, Fake, identity, until};

struct Worker {
    fake: Fake,
    bulk: Endpoints,
    folder: tempfile::TempDir,
    leave: CancellationToken,
    link: JoinHandle<Result<(), ControlError>>,
    renewal: JoinHandle<()>,
}

/// What the fake says of a certificate that has ended.
fn ended() -> Status {
    Status::unauthenticated("the certificate of worker w1 ended on 2026-01-01")
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

async fn farm(times: (u64, u64)) -> Fake {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let fake = Fake::start_with_tls(Authority::new()).await;
    fake.with(|script| script.times = times);
    fake
}

/// A certificate that this farm gave so long ago, by the worker's clock.
fn pair(fake: &Fake, age_ms: i64) -> Pair {
    let key = Key::generate().unwrap();
    let times = fake.with(|script| script.times);
    let certificate = fake.authority().certificate("w1", &key.public(), times);
    Pair::of(Some(certificate), &key, now_ms() - age_ms).unwrap()
}

/// A worker whose certificate was given so long ago.
fn start(fake: Fake, age_ms: i64) -> Worker {
    let folder = tempfile::tempdir().unwrap();
    let pair = pair(&fake, age_ms);
    let farm = Farm {
        coordinators: vec![fake.url().to_string()],
        ca: Some(fake.authority().pem.clone()),
        name: "w1".to_owned(),
        machine: "m1".to_owned(),
        pool: "default".to_owned(),
        trust: "trusted".to_owned(),
    };
    let joined = Joined { farm, pair: pair.clone() };
    joined.keep(folder.path()).unwrap();
    let identity_shown = Identity::from_pem(&pair.pem).unwrap();
    let security =
        Security { trust: joined.trust().unwrap(), identity: identity_shown, ..Security::default() };
    let coordinators: Coordinators = fake.url().into();
    let bulk = link::bulk(&coordinators, &security).unwrap();
    let ways = (coordinators.clone(), security.clone(), bulk.clone());
    let (renewal, certified) = Renewal::new(folder.path().to_owned(), ways, &pair, now_ms);
    let (attempts, _chores) = Attempts::new(1);
    attempts.open(identity());
    let leave = CancellationToken::new();
    let control = Control {
        coordinators,
        security,
        bulk: bulk.clone(),
        credential: Credential::default(),
        certified: Some(certified),
        name: "w1".into(),
        boot: BootId::generate(),
        home: "here".into(),
        slots: 1,
        has_git: false,
        fenced: false,
        attempts: Arc::new(attempts),
        leave: leave.clone(),
        welcomed: watch::Sender::new(false),
    };
    Worker {
        fake,
        bulk,
        folder,
        leave,
        link: tokio::spawn(control.run()),
        renewal: tokio::spawn(renewal.run()),
    }
}

impl Worker {
    fn kept(&self) -> Pair {
        Joined::load(self.folder.path()).unwrap().unwrap().pair
    }

    fn shown(&self) -> Vec<Vec<u8>> {
        self.fake.with(|script| script.shown.clone())
    }

    /// The worker's own certificate as it is kept, DER.
    fn certificate(&self) -> Vec<u8> {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject as _;
        CertificateDer::from_pem_slice(self.kept().pem.as_bytes()).unwrap().to_vec()
    }

    async fn leaves(self) {
        self.leave.cancel();
        self.link.await.unwrap().unwrap();
        self.renewal.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_due_is_renewed_and_all_that_is_dialled_shows_the_new_one() {
    let worker = start(farm((60_000, 40_000)).await, 0);
    let first = worker.certificate();
    until("it is there", || worker.shown() == [first.clone()]).await;
    worker.fake.heartbeat().await;
    assert!(worker.fake.with(|script| script.authorization.is_empty() && script.renewals.is_empty()));
    worker.leaves().await;

    let worker = start(farm((60_000, 40_000)).await, 41_000);
    let old = worker.certificate();
    until("it is renewed", || worker.fake.with(|script| script.renewals == [old.clone()])).await;
    until("the stream shows another", || {
        worker.shown().last().is_some_and(|shown| *shown != old && *shown == worker.certificate())
    })
    .await;
    worker.fake.heartbeat().await;
    assert!(worker.kept().times.issued_ms > now_ms() - 40_000);
    // No stream of the two said goodbye: the coordinator never took the worker for gone.
    let byes =
        worker.fake.with(|script| script.heard.iter().filter(|m| matches!(m, Request::Bye(_))).count());
    assert_eq!(byes, 0);
    worker.leaves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_goes_on_when_another_certificate_is_shown() {
    let worker = start(farm((6_000, 2_000)).await, 0);
    let (send, requests) = mpsc::channel(1);
    let mut client = link::client(worker.bulk.clone(), &Credential::default());
    let chunk = |seq| v1::SendEventsRequest { seq, ..Default::default() };
    send.send(chunk(1)).await.unwrap();
    let mut events = client.send_events(ReceiverStream::new(requests)).await.unwrap().into_inner();
    assert_eq!(events.message().await.unwrap().unwrap().acked_seq, 1);
    let first = worker.certificate();
    until("two certificates later", || worker.fake.with(|script| script.renewals.len() >= 2)).await;
    send.send(chunk(2)).await.unwrap();
    assert_eq!(events.message().await.unwrap().unwrap().acked_seq, 2);
    assert_ne!(worker.certificate(), first);
    worker.leaves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_in_an_outage_is_renewed_when_somebody_answers_again() {
    let fake = farm((60_000, 40_000)).await;
    // The farm's database is away.
    fake.with(|script| {
        script.refuse_renewal = Some(Status::unavailable("the database is away"));
        script.refuse_hello = Some(Status::unavailable("the database is away"));
    });
    let worker = start(fake, 70_000);
    let old = worker.certificate();
    until("it tries", || worker.fake.with(|script| script.renewals.len() >= 2)).await;
    assert!(!worker.link.is_finished());
    worker.fake.with(|script| {
        script.refuse_shown = Some((vec![old.clone()], ended()));
        script.refuse_renewal = None;
        script.refuse_hello = None;
    });
    worker.fake.heartbeat().await;
    assert!(worker.shown().last().is_some_and(|shown| *shown != old));
    worker.leaves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_calls_it_ended_is_believed_whatever_the_clock_says() {
    let fake = farm((60_000, 40_000)).await;
    let worker = start(fake, 0);
    let old = worker.certificate();
    worker.fake.heartbeat().await;
    worker.fake.with(|script| script.refuse_shown = Some((vec![old.clone()], ended())));
    // Its stream is cut, as the gate does at a certificate's end.
    let say = worker.fake.say.borrow().clone().unwrap();
    say.send(Err(ended())).await.unwrap();
    until("it shows another", || worker.shown().last().is_some_and(|shown| *shown != old)).await;
    worker.fake.heartbeat().await;
    assert_eq!(worker.fake.with(|script| script.renewals.clone()), [old]);
    worker.leaves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_behind_costs_one_renewal() {
    // By the worker's clock it is given in an hour only.
    let worker = start(farm((60_000, 40_000)).await, -3_600_000);
    until("it is renewed", || worker.kept().times.issued_ms <= now_ms()).await;
    let new = worker.certificate();
    until("the stream shows it", || worker.shown().last() == Some(&new)).await;
    worker.fake.heartbeat().await;
    assert_eq!(worker.fake.with(|script| script.renewals.len()), 1);
    worker.leaves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_revoked_ends_the_worker_with_the_farms_words() {
    let worker = start(farm((60_000, 40_000)).await, 0);
    worker.fake.heartbeat().await;
    let revoked = Status::unauthenticated(
        "the certificate of worker w1 was revoked on 2026-01-01; invite it again: farm workers invite --name w1",
    );
    worker.fake.with(|script| {
        script.refuse_hello = Some(revoked.clone());
        script.refuse_renewal = Some(revoked.clone());
    });
    let say = worker.fake.say.borrow().clone().unwrap();
    say.send(Err(revoked)).await.unwrap();
    let error = worker.link.await.unwrap().unwrap_err();
    assert!(matches!(error, ControlError::Certificate { .. }));
    assert_eq!(crate::RunError::Control(error.clone()).exit_code(), 5);
    let text = error.to_string();
    assert!(text.contains("was revoked") && text.contains("farm workers invite --name w1"), "{text}");
    assert_eq!(worker.fake.with(|script| script.renewals.len()), 1, "it asks once whether it gets another");
    worker.renewal.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_nothing_keeps_no_worker_from_showing_its_new_certificate() {
    let fake = farm((60_000, 40_000)).await;
    let worker = start(fake, 0);
    let old = worker.certificate();
    worker.fake.heartbeat().await;
    std::fs::create_dir(worker.folder.path().join("identity.pem.new")).unwrap();
    worker.fake.with(|script| script.refuse_shown = Some((vec![old.clone()], ended())));
    let say = worker.fake.say.borrow().clone().unwrap();
    say.send(Err(ended())).await.unwrap();
    until("it shows another", || worker.shown().last().is_some_and(|shown| *shown != old)).await;
    worker.fake.heartbeat().await;
    assert_eq!(worker.certificate(), old, "the disk has the old one");
    worker.leaves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_coordinator_is_asked_before_a_renewal_is_given_up() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority = Arc::new(Authority::new());
    let older = Fake::start_with_tls(Arc::clone(&authority)).await;
    let other = Fake::start_with_tls(Arc::clone(&authority)).await;
    older.with(|script| script.refuse_renewal = Some(Status::unimplemented("no such call")));
    let pair = pair(&other, 0);
    let security = Security {
        trust: farm_client::Trust::from_pem(&authority.pem, "of both").unwrap(),
        identity: Identity::from_pem(&pair.pem).unwrap(),
        ..Security::default()
    };
    let coordinators: Coordinators = format!("{},{}", older.url(), other.url()).parse().unwrap();
    let bulk = link::bulk(&coordinators, &security).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ways = (coordinators, security, bulk);
    let (mut renewal, _certified) = Renewal::new(folder.path().to_owned(), ways, &pair, now_ms);
    assert!(matches!(renewal.renew().await, Renewed::Yes));
    let asked = |fake: &Fake| fake.with(|script| script.renewals.len());
    assert_eq!((asked(&older), asked(&other)), (1, 1));
}
