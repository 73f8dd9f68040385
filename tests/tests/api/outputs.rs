//! Outputs on their way through the coordinator: pieces are stored once, in order, while the lease lives; given out from any
//! byte on; and gone when nobody is to fetch them any more.

use std::time::{Duration, Instant};

use farm_proto::v1;
use farm_tests::database::psql;
use farm_tests::disk::SmallDisk;
use farm_tests::farm::Farm;
use farm_types::Digest;
use tonic::{Code, Status};

use crate::client::{Client, Sim, hello, success};

/// The coordinator looks each 10 s.
const SOON: Duration = Duration::from_secs(40);

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < SOON, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn stored(farm: &Farm) -> (String, usize) {
    let pieces = psql(farm.database_url(), "SELECT count(*) FROM output_pieces");
    let mut find = std::process::Command::new("find");
    find.args([".", "-path", "./*/outputs/*", "-type", "f"])
        .current_dir(farm.folder().join("coordinator/blobs"));
    let files = find.output();
    (pieces, String::from_utf8(files.unwrap().stdout).unwrap().lines().count())
}

/// A build of one platform with two outputs.
async fn submit(client: &mut Client, key: &str) -> v1::Build {
    let snapshot = client.upload("FROM scratch").await;
    let export = |form: &str| v1::Export { form: form.to_owned(), ..Default::default() };
    let spec = v1::BuildSpec {
        snapshot: Some(snapshot),
        platforms: vec!["linux/amd64".to_owned()],
        emulation: "never".to_owned(),
        exports: vec![export("files"), export("oci")],
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), ..Default::default() };
    client.builds.submit_build(request).await.unwrap().into_inner().build.unwrap()
}

fn piece(
    lease: &v1::Lease,
    export: u32,
    seq: u64,
    data: &[u8],
    whole: Option<&[u8]>,
) -> v1::SendOutputRequest {
    v1::SendOutputRequest {
        lease: Some(lease.clone()),
        export,
        seq,
        data: data.to_vec().into(),
        digest: whole.map(|whole| Digest::of(whole).as_bytes().to_vec()).unwrap_or_default().into(),
    }
}

/// Sends these on a new stream; gives all acknowledgements.
async fn send(sim: &mut Sim, pieces: Vec<v1::SendOutputRequest>) -> Result<Vec<u64>, Status> {
    let mut acks = sim.work.send_output(tokio_stream::iter(pieces)).await?.into_inner();
    let mut all = Vec::new();
    while let Some(ack) = acks.message().await? {
        all.push(ack.acked_seq);
    }
    Ok(all)
}

async fn fetch(client: &mut Client, id: &str, export: u32, offset: u64) -> Result<Vec<u8>, Status> {
    let request = v1::FetchOutputRequest {
        build_id: id.to_owned(),
        platform: "linux/amd64".to_owned(),
        export,
        offset,
    };
    let mut stream = client.outputs.fetch_output(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(message) = stream.message().await? {
        bytes.extend_from_slice(&message.data);
    }
    Ok(bytes)
}

/// Sends both outputs whole and ends the attempt.
async fn succeed(sim: &mut Sim, lease: &v1::Lease) {
    send(sim, vec![piece(lease, 0, 1, b"abc", None), piece(lease, 0, 2, b"de", Some(b"abcde"))])
        .await
        .unwrap();
    send(sim, vec![piece(lease, 1, 1, b"", Some(b""))]).await.unwrap();
    assert!(sim.finish(lease, success()).await);
}

#[tokio::test]
async fn pieces_are_stored_once_and_given_out_from_any_byte_on() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    let id = submit(&mut client, "k").await.id;
    let offered = sim.offer().await;
    assert_eq!((offered.output_bytes, offered.spec.unwrap().exports.len()), (8 << 30, 2));
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;
    let large: Vec<u8> = (0..=255).cycle().take(600_000).collect();
    let whole = [b"abc", &large[..], b"de"].concat();
    let parts = [b"abc".to_vec(), large, b"de".to_vec()];
    // A link that breaks after the first, and one that begins anew; then a gap; then all of it.
    assert_eq!(send(&mut sim, vec![piece(&lease, 0, 1, &parts[0], None)]).await.unwrap(), [1]);
    assert_eq!(send(&mut sim, vec![piece(&lease, 0, 3, &parts[2], None)]).await.unwrap(), [1]);
    let all =
        (1..).zip(&parts).map(|(seq, part)| piece(&lease, 0, seq, part, (seq == 3).then_some(&whole[..])));
    assert_eq!(send(&mut sim, all.collect()).await.unwrap(), [1, 2, 3]);
    // Nothing follows the end.
    assert_eq!(send(&mut sim, vec![piece(&lease, 0, 4, b"more", None)]).await.unwrap(), [3]);
    assert_eq!(stored(&farm).0, "3");
    // Nobody gets it before the build has succeeded.
    assert_eq!(fetch(&mut client, &id, 0, 0).await.unwrap_err().code(), Code::NotFound);
    send(&mut sim, vec![piece(&lease, 1, 1, b"", Some(b""))]).await.unwrap();
    assert!(sim.finish(&lease, success()).await);
    let (build, _) = client.follow(&id).await;
    assert_eq!(build.state, "succeeded");
    let outputs: Vec<_> =
        build.jobs[0].outputs.iter().map(|o| (o.export, o.bytes, o.digest.clone())).collect();
    let digest = |bytes: &[u8]| Digest::of(bytes).to_string();
    assert_eq!(outputs, [(0, 600_005, digest(&whole)), (1, 0, digest(b""))]);
    for offset in [0, 1, 3, 4, 300_000, 600_003, 600_004, 600_005] {
        assert!(
            fetch(&mut client, &id, 0, offset).await.unwrap() == whole[usize::try_from(offset).unwrap()..],
            "{offset}"
        );
    }
    assert_eq!(fetch(&mut client, &id, 1, 0).await.unwrap(), b"");
    assert_eq!(fetch(&mut client, &id, 0, u64::MAX).await.unwrap(), b"");
    for export in [2, u32::MAX] {
        assert_eq!(fetch(&mut client, &id, export, 0).await.unwrap_err().code(), Code::NotFound);
    }
    let mut stranger = Client::with_token(&farm, "farm_nobody").await;
    assert_eq!(fetch(&mut stranger, &id, 0, 0).await.unwrap_err().code(), Code::Unauthenticated);
    // No attempt of it lives, so nothing more is taken.
    let late = send(&mut sim, vec![piece(&lease, 0, 4, b"more", None)]).await;
    assert_eq!(late.unwrap_err().code(), Code::FailedPrecondition);

    let retry = v1::RetryBuildRequest {
        build_id: id,
        idempotency_key: "again".into(),
        failed_only: false,
        ..Default::default()
    };
    let refused = client.builds.retry_build(retry).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("--output"), "{refused}");
}

#[tokio::test]
async fn other_tokens_and_too_much_are_refused() {
    let farm = Farm::builder().config("[limits]\noutput_bytes = 10\n").start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    let id = submit(&mut client, "k").await.id;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    let stranger = v1::Lease { lease_token: uuid::Uuid::new_v4().to_string(), ..lease.clone() };
    let code = |result: Result<Vec<u64>, Status>| result.unwrap_err().code();
    assert_eq!(
        code(send(&mut sim, vec![piece(&stranger, 0, 1, b"x", None)]).await),
        Code::FailedPrecondition
    );
    assert_eq!(code(send(&mut sim, vec![piece(&lease, 0, 1, &[0; 11], None)]).await), Code::OutOfRange);
    let two = vec![piece(&lease, 0, 1, &[0; 6], None), piece(&lease, 0, 2, &[0; 5], None)];
    assert_eq!(code(send(&mut sim, two).await), Code::OutOfRange);
    let long = vec![0; farm_proto::OUTPUT_PIECE_BYTES + 1];
    assert_eq!(code(send(&mut sim, vec![piece(&lease, 0, 2, &long, None)]).await), Code::InvalidArgument);
    // The spec has two, and a piece without bytes says nothing but that it is the last.
    for piece in [2, u32::MAX].map(|export| piece(&lease, export, 1, b"x", Some(b"x"))) {
        assert_eq!(code(send(&mut sim, vec![piece]).await), Code::InvalidArgument);
    }
    assert_eq!(code(send(&mut sim, vec![piece(&lease, 0, 2, b"", None)]).await), Code::InvalidArgument);
    assert_eq!(psql(farm.database_url(), "SELECT export, acked_seq FROM outputs"), "0|1");
    // A worker that sends none has not done what it was to do.
    assert!(sim.finish(&lease, success()).await);
    until("it failed", || {
        psql(farm.database_url(), "SELECT count(*) FROM attempts WHERE failure ->> 'code' = 'output_missing'")
            != "0"
    });
    assert_ne!(client.build(&id).await.state, "succeeded");
}

#[tokio::test]
async fn a_full_disk_is_told_to_the_worker() {
    let mut farm = Farm::builder().start();
    farm.stop_coordinator();
    let disk = SmallDisk::mount(&farm.folder().join("coordinator"), "2m");
    farm.start_coordinator();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    submit(&mut client, "k").await;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    let large = vec![0; 4 << 20];
    let refused = send(&mut sim, vec![piece(&lease, 0, 1, &large, None)]).await.unwrap_err();
    // Not that it is away, for which a worker waits.
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("disk of the coordinator's state folder"), "{refused}");
    disk.resize("64m");
    assert_eq!(send(&mut sim, vec![piece(&lease, 0, 1, &large, None)]).await.unwrap(), [1]);
    farm.stop_coordinator();
}

#[tokio::test]
async fn what_nobody_is_to_fetch_any_more_goes() {
    let farm = Farm::builder().config("[retention]\noutputs_minutes = 30\n").start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    // Of an attempt that failed.
    submit(&mut client, "failed").await;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    send(&mut sim, vec![piece(&lease, 0, 1, b"abc", None)]).await.unwrap();
    assert_eq!(stored(&farm), ("1".to_owned(), 1));
    let failure = v1::Failure { cause: "user".into(), code: "run_failed".into(), ..Default::default() };
    assert!(sim.finish(&lease, v1::finished::Outcome::Failure(failure)).await);
    sim.tell(v1::control_request::Message::Bye(v1::Bye {})).await;
    until("the failed one's piece is gone", || stored(&farm) == ("0".to_owned(), 0));

    // Of one that was received. (A simulated worker gives no signs while the test waits; so each part has one of its own.)
    let mut sim = Sim::connect(&client, hello("sim-2", 1)).await.unwrap();
    let id = submit(&mut client, "received").await.id;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    succeed(&mut sim, &lease).await;
    sim.tell(v1::control_request::Message::Bye(v1::Bye {})).await;
    let (build, _) = client.follow(&id).await;
    assert_eq!(build.state, "succeeded");
    let release = v1::ReleaseOutputsRequest { build_id: id.clone() };
    client.outputs.release_outputs(release.clone()).await.unwrap();
    client.outputs.release_outputs(release).await.unwrap();
    until("the received one's pieces are gone", || stored(&farm) == ("0".to_owned(), 0));
    assert_eq!(fetch(&mut client, &id, 0, 0).await.unwrap_err().code(), Code::NotFound);
    let build = client.build(&id).await;
    assert!(build.jobs[0].outputs.iter().all(|output| output.removed_ms > 0), "{build:?}");
    assert_eq!(build.jobs[0].outputs[0].bytes, 5);

    // Of one that nobody came for, and of one that somebody did: not before its time.
    let mut sim = Sim::connect(&client, hello("sim-3", 1)).await.unwrap();
    let mut made = Vec::new();
    for key in ["forgotten", "fetched"] {
        let id = submit(&mut client, key).await.id;
        let lease = sim.offer().await.lease.unwrap();
        sim.start(&lease).await;
        succeed(&mut sim, &lease).await;
        client.follow(&id).await;
        made.push(id);
    }
    let [forgotten, fetched] = &made[..] else { unreachable!() };
    let pass = |interval: &str| {
        psql(farm.database_url(), &format!("UPDATE farm_clock SET shift = shift + interval '{interval}'"))
    };
    pass("29 minutes");
    assert_eq!(fetch(&mut client, fetched, 0, 0).await.unwrap(), b"abcde");
    assert_eq!(stored(&farm), ("6".to_owned(), 6));
    pass("2 minutes");
    until("the forgotten one's pieces are gone", || stored(&farm) == ("3".to_owned(), 3));
    assert!(fetch(&mut client, forgotten, 0, 0).await.unwrap_err().message().contains("submit it again"));
    // All of its outputs count as wanted: who fetches one goes on with the next.
    assert_eq!(fetch(&mut client, fetched, 1, 0).await.unwrap(), b"");
    assert_eq!(fetch(&mut client, fetched, 0, 2).await.unwrap(), b"cde");
    pass("31 minutes");
    until("the fetched one's pieces are gone", || stored(&farm) == ("0".to_owned(), 0));
}
