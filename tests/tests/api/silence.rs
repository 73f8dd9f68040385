//! What a user and a balancer see of a coordinator whose database is silent, or that is ending.

use std::time::{Duration, Instant};

use farm_tests::database::Database;
use farm_tests::farm::Farm;
use farm_tests::hang::HangingFolder;
use farm_tests::line::Line;
use rustix::process::Signal;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

const LONG: Duration = Duration::from_secs(40);

async fn health(farm: &Farm) -> HealthClient<Channel> {
    HealthClient::new(Endpoint::new(farm.url()).unwrap().connect().await.unwrap())
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

/// Waits until it says so of all, and gives how long that took.
async fn says(health: &mut HealthClient<Channel>, wanted: ServingStatus) -> Duration {
    all_say(health, &["", "farm.v1.BuildService", "farm.v1.WorkerService"], wanted).await
}

async fn all_say(health: &mut HealthClient<Channel>, services: &[&str], wanted: ServingStatus) -> Duration {
    let begin = Instant::now();
    for service in services {
        let mut stream = health.watch(of(service)).await.unwrap().into_inner();
        let said = async {
            while let Some(HealthCheckResponse { status }) = stream.message().await.unwrap() {
                if status == i32::from(wanted) {
                    return;
                }
            }
            panic!("the stream ended");
        };
        tokio::time::timeout(LONG, said).await.unwrap_or_else(|_| panic!("{service:?} is not {wanted:?}"));
    }
    begin.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_into_silence_is_answered_in_time_and_made_once() {
    let database = Database::create();
    let line = Line::to(database.url());
    let farm = Farm::builder().database_url(&line.url(database.url())).start();
    let mut health = health(&farm).await;
    says(&mut health, ServingStatus::Serving).await;
    let context = tempfile::tempdir().unwrap();
    std::fs::write(context.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let submit = |key: &str| {
        let folder = context.path().to_str().unwrap();
        let args = ["submit", folder, "--platform", "linux/amd64", "--detach", "--idempotency-key", key];
        let begin = Instant::now();
        (farm.cli(&args), begin.elapsed())
    };
    // Silent from the beginning, or within; and the old connections come back, or never do.
    for (round, pieces) in [0, 8, 16, 24].into_iter().enumerate() {
        let key = format!("k{round}");
        line.die_after(pieces);
        let (said, took) = submit(&key);
        assert!(took < Duration::from_secs(30), "after {pieces}: {took:?}");
        if said.status != 0 {
            assert_eq!(said.status, 3, "after {pieces}: {said:?}");
            let wanted = format!(
                "the farm at {} can't answer now: the farm's database does not answer; try again",
                farm.url()
            );
            assert!(said.stderr.contains(&wanted), "after {pieces}: {said:?}");
        }
        let noticed = says(&mut health, ServingStatus::NotServing).await;
        assert!(noticed < Duration::from_secs(10), "after {pieces}: {noticed:?}");
        line.mend(round % 2 == 0);
        let back = says(&mut health, ServingStatus::Serving).await;
        assert!(back < Duration::from_secs(10), "after {pieces}: {back:?}");
        let id = submit(&key).0.ok();
        let known = database
            .psql(&format!("SELECT string_agg(short_id, ' ') FROM builds WHERE idempotency_key = '{key}'"));
        assert!(!known.is_empty() && id.contains(&known), "after {pieces}: {id} {known}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ends_says_so_to_whoever_watches_its_health() {
    let mut farm = Farm::builder().start();
    let mut health = health(&farm).await;
    let mut stream = health.watch(of("")).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    farm.coordinator().signal(Signal::TERM);
    let next = tokio::time::timeout(LONG, stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(next.status(), ServingStatus::NotServing);
    drop((stream, health));
    assert_eq!(farm.coordinator().wait_exit(LONG).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_folder_that_hangs_is_told_and_keeps_no_coordinator_from_its_end() {
    const OF_BLOBS: [&str; 2] = ["farm.v1.SnapshotService", "farm.v1.OutputService"];
    let mut farm = Farm::builder().config("[limits]\nblob_timeout_seconds = 1").start();
    let mut blobs = HangingFolder::at(&farm.folder().join("coordinator/blobs"));
    let mut health = health(&farm).await;
    let context = tempfile::tempdir().unwrap();
    std::fs::write(context.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let folder = context.path().to_str().unwrap().to_owned();
    let submit = |farm: &Farm| farm.cli(&["submit", &folder, "--platform", "linux/amd64", "--detach"]);
    submit(&farm).ok();
    // Nothing has to be sent any more, so it is the Dockerfile that can't be read.
    blobs.hang();
    let said = submit(&farm);
    assert_eq!(said.status, 3, "{said:?}");
    assert!(said.stderr.contains("blob store does not answer"), "{said:?}");
    all_say(&mut health, &OF_BLOBS, ServingStatus::NotServing).await;
    says(&mut health, ServingStatus::Serving).await;
    blobs.go_on();
    all_say(&mut health, &OF_BLOBS, ServingStatus::Serving).await;
    submit(&farm).ok();
    // Whoever stands in the folder must not keep the process.
    blobs.hang();
    assert_eq!(submit(&farm).status, 3);
    farm.coordinator().signal(Signal::TERM);
    assert_eq!(farm.coordinator().wait_exit(LONG).code(), Some(0));
}
