//! What a farm keeps, and for how long: logs are the same wherever they lie, and what is old goes, bytes and all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farm_proto::v1;
use farm_tests::database::psql;
use farm_tests::farm::Farm;
use tonic::Code;

use crate::client::{Client, Sim, hello, success, take};

/// The coordinator looks each 5 to 10 s.
const SOON: Duration = Duration::from_secs(40);

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < SOON, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn count(farm: &Farm, table: &str) -> i64 {
    psql(farm.database_url(), &format!("SELECT count(*) FROM {table}")).parse().unwrap()
}

/// Moves the farm's clock.
fn pass(farm: &Farm, interval: &str) {
    psql(farm.database_url(), &format!("UPDATE farm_clock SET shift = shift + interval '{interval}'"));
}

/// All files below a folder of the coordinator's blobs.
fn files(farm: &Farm, kind: &str) -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => below(&entry.path(), found),
                false => found.push(entry.path()),
            }
        }
    }
    let mut found = Vec::new();
    below(&farm.folder().join("coordinator/blobs"), &mut found);
    found.retain(|path| path.components().any(|part| part.as_os_str() == kind));
    found
}

/// What a watch from this cursor gives until it ends: every message.
async fn watch(client: &mut Client, id: &str, cursor: bytes::Bytes) -> Vec<v1::WatchBuildResponse> {
    let request = v1::WatchBuildRequest { build_id: id.to_owned(), cursor, follow: false };
    let mut stream = client.builds.watch_build(request).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        all.push(message);
    }
    all
}

/// The pieces of streams among them.
fn pieces(all: &[v1::WatchBuildResponse]) -> Vec<&v1::WatchBuildResponse> {
    let is_piece = |message: &&v1::WatchBuildResponse| {
        matches!(message.event, Some(v1::watch_build_response::Event::Attempt(_)))
    };
    all.iter().filter(is_piece).collect()
}

/// Output such as builds write, so much of it in each of these chunks.
fn output(chunks: usize, bytes: usize) -> Vec<String> {
    let mut line = 0_u64;
    let mut chunk = || {
        let mut text = String::new();
        while text.len() < bytes {
            line += 1;
            let hash = line.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            text += &format!(
                "#{line} {}.{:03} Get:{line} http://deb.example/pool/lib{hash:x} [{} kB]\n",
                line / 7,
                line % 1000,
                hash % 4096
            );
        }
        text
    };
    (0..chunks).map(|_| chunk()).collect()
}

#[tokio::test]
async fn a_log_is_the_same_before_while_and_after_it_is_sealed_until_it_is_too_old() {
    let farm = Farm::builder()
        .config("[retention]\nseal_after_seconds = 0\nlogs_days = 5\nbuilds_days = 9\n")
        .start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let id = client.submit(&snapshot, "k", &["linux/amd64"]).await.id;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    let texts = output(40, 250_000);
    let numbered: Vec<(u64, &str)> = (1..).zip(texts.iter().map(String::as_str)).collect();
    assert_eq!(sim.log(&lease, &numbered).await.unwrap(), 40);
    let before = watch(&mut client, &id, bytes::Bytes::new()).await;
    let before = pieces(&before);
    assert_eq!(before.len(), 40);
    let in_postgres = "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'attempt_chunks'::regclass";
    let (raw, rows) = (texts.iter().map(String::len).sum::<usize>(), psql(farm.database_url(), in_postgres));

    // One who follows and has read a little when the build ends and is sealed. The rest of 10 MB fits into no window.
    let request = v1::WatchBuildRequest { build_id: id.clone(), follow: true, ..Default::default() };
    let mut slow = client.builds.watch_build(request).await.unwrap().into_inner();
    let (mut last, mut logs) = (None, BTreeMap::new());
    take(slow.message().await.unwrap().unwrap(), &mut last, &mut logs);
    take(slow.message().await.unwrap().unwrap(), &mut last, &mut logs);
    let begin = Instant::now();
    assert!(sim.finish(&lease, success()).await);
    until("all is sealed", || count(&farm, "attempt_chunks") == 0 && count(&farm, "sealed_logs") == 1);
    let sealed_after = begin.elapsed();
    while let Some(message) = slow.message().await.unwrap() {
        take(message, &mut last, &mut logs);
    }
    assert_eq!(last.unwrap().state, "succeeded");
    assert!(logs[&lease.attempt_id] == texts.concat().into_bytes(), "what the slow one read differs");

    // The same pieces with the same cursors, from the beginning and from every cursor that was given out.
    let after = watch(&mut client, &id, bytes::Bytes::new()).await;
    let after = pieces(&after);
    let events = |message: &v1::WatchBuildResponse| message.event.clone();
    assert!(before.iter().map(|m| events(m)).eq(after.iter().map(|m| events(m))), "another stream");
    for at in [0, 1, 3, 4, 5, 20, 38, 39] {
        let rest = watch(&mut client, &id, before[at].cursor.clone()).await;
        let rest = pieces(&rest);
        assert!(rest.iter().map(|m| events(m)).eq(before[at + 1..].iter().map(|m| events(m))), "from {at}");
    }
    let [file] = &files(&farm, "logs")[..] else { panic!("{:?}", files(&farm, "logs")) };
    let packed = std::fs::metadata(file).unwrap().len();
    println!("raw {raw} bytes, in postgres {rows}, sealed {packed}, within {sealed_after:?}");
    assert!(packed < u64::try_from(raw).unwrap() / 2, "{packed} of {raw}");

    // What a worker says late is a piece of its own.
    assert_eq!(sim.log(&lease, &[(40, texts[39].as_str()), (41, "late\n")]).await.unwrap(), 41);
    let cursor = before[39].cursor.clone();
    let late = watch(&mut client, &id, cursor.clone()).await;
    until("it is sealed", || count(&farm, "attempt_chunks") == 0 && count(&farm, "sealed_logs") == 2);
    let again = watch(&mut client, &id, cursor.clone()).await;
    assert!(pieces(&late).len() == 1 && pieces(&late) == pieces(&again), "{late:?} {again:?}");

    let partitions = "pg_inherits WHERE inhparent = 'attempt_chunks'::regclass";
    assert_eq!(count(&farm, partitions), 4, "three days and the rest");
    pass(&farm, "3 days");
    until("no past day has a partition", || count(&farm, partitions) < 4);
    assert_eq!(pieces(&watch(&mut client, &id, bytes::Bytes::new()).await).len(), 41);

    pass(&farm, "3 days");
    until("the log is gone with its bytes", || files(&farm, "logs").is_empty());
    let gone = farm.cli(&["logs", &id]);
    assert_eq!(gone.status, 2, "{gone:?}");
    for word in [id.as_str(), "was removed on", "retention.logs_days", &format!("farm retry {id}")] {
        assert!(gone.stderr.contains(word), "{word}: {gone:?}");
    }
    let as_json = farm.cli(&["logs", &id, "--json"]);
    assert_eq!((as_json.status, as_json.stdout.as_str()), (2, ""), "{as_json:?}");
    assert!(farm.cli(&["attach", &id]).ok().contains("was removed on"));
    // One who comes with a cursor of before is told once, and then has all.
    let told = watch(&mut client, &id, cursor).await;
    let [piece] = pieces(&told)[..] else { panic!("{told:?}") };
    assert!(pieces(&watch(&mut client, &id, piece.cursor.clone()).await).is_empty());
    let refused = sim.log(&lease, &[(42, "too late\n")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);

    assert!(farm.cli(&["builds"]).ok().contains(&id));
    pass(&farm, "5 days");
    until("the build is gone", || count(&farm, "builds") == 0);
    assert!(!farm.cli(&["builds"]).ok().contains(&id));
    let shown = farm.cli(&["show", &id]);
    assert!(shown.status == 2 && shown.stderr.contains(&format!("no build {id}")), "{shown:?}");
    for table in ["executions", "jobs", "attempts", "events", "sealed_logs"] {
        assert_eq!(count(&farm, table), 0, "{table}");
    }
    // The files go after the rows.
    until("nothing is left to remove", || count(&farm, "doomed_blobs") == 0);
}

#[tokio::test]
async fn a_source_that_nobody_uses_goes_and_one_that_a_build_waits_for_is_whole() {
    let config = "[limits]\nqueue_deadline_seconds = 2592000\n[retention]\nsnapshots_days = 2\n";
    let farm = Farm::builder().config(config).start();
    let mut client = Client::connect(&farm).await;
    // Both sources share nothing but the farm's handling of them; the second has no build.
    let wanted = client.upload("FROM scratch\n# wanted").await;
    let unused = client.upload("FROM scratch\n# unused").await;
    let id = client.submit(&wanted, "k", &["linux/amd64"]).await.id;
    assert_eq!((count(&farm, "objects"), files(&farm, "packs").len()), (6, 2));
    pass(&farm, "4 days");
    until("the unused one is gone with its bytes", || files(&farm, "packs").len() == 1);
    assert_eq!((count(&farm, "objects"), count(&farm, "snapshots"), count(&farm, "blobs")), (3, 1, 1));
    assert_eq!(client.build(&id).await.state, "queued");
    // All of the wanted one is there.
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    let lease = sim.offer().await.lease.unwrap();
    let request = v1::FetchFilesRequest {
        lease: Some(lease.clone()),
        root: "context".to_owned(),
        paths: vec!["Dockerfile".to_owned(), "sub/copy".to_owned()],
    };
    let mut stream = sim.work.clone().fetch_files(request).await.unwrap().into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        bytes.extend_from_slice(&piece.data);
    }
    assert_eq!(bytes, b"FROM scratch\n# wantedFROM scratch\n# wanted");
    sim.start(&lease).await;
    assert!(sim.finish(&lease, success()).await);
    // Of the unused one a build is refused until it was uploaded again.
    let spec = v1::BuildSpec {
        snapshot: Some(unused),
        platforms: vec!["linux/amd64".to_owned()],
        emulation: "never".to_owned(),
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: "k2".to_owned(), spec: Some(spec), ..Default::default() };
    let refused = client.builds.submit_build(request).await.unwrap_err();
    assert!(refused.message().contains("upload the source again"), "{refused:?}");
    let again = client.upload("FROM scratch\n# unused").await;
    client.submit(&again, "k3", &["linux/amd64"]).await;
    assert_eq!(files(&farm, "packs").len(), 2);
    // What has ended goes when its time has come, and then it can't be retried.
    client.follow(&id).await;
    pass(&farm, "4 days");
    until("it is gone with its bytes", || files(&farm, "packs").len() == 1);
    let retried = farm.cli(&["retry", &id, "--detach"]);
    assert!(retried.status == 2 && retried.stderr.contains("submit it again"), "{retried:?}");
}

#[tokio::test]
async fn an_upload_that_came_to_nothing_brings_on_no_sweep_of_all_sources() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    // The pass that comes first sweeps. What is doomed goes at the end of a pass, after the sweep.
    let doom = || {
        let doom = "INSERT INTO doomed_blobs (project_id, id, kind) SELECT id, gen_random_uuid(), 'log' FROM projects";
        psql(farm.database_url(), doom);
        until("a pass has ended", || count(&farm, "doomed_blobs") == 0);
    };
    doom();
    let (objects, _) = crate::client::tree("FROM scratch");
    let upload = client.snapshots.open_upload(v1::OpenUploadRequest::default()).await.unwrap().into_inner();
    let part = Some(v1::upload_objects_request::Part::Pack(v1::Pack { objects }));
    let message = v1::UploadObjectsRequest { upload_id: upload.upload_id, part };
    client.snapshots.upload_objects(tokio_stream::once(message)).await.unwrap();
    let sent = count(&farm, "objects");
    pass(&farm, "3 days");
    until("the session is forgotten", || count(&farm, "uploads") == 0);
    doom();
    assert_eq!(
        (count(&farm, "upload_pins"), count(&farm, "objects")),
        (0, sent),
        "the daily sweep is for these"
    );
}

#[tokio::test]
async fn a_worker_that_knows_no_limit_is_cut_off_by_the_coordinator() {
    let farm = Farm::builder().config("[limits]\nlog_bytes = 100000\n").start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let id = client.submit(&snapshot, "k", &["linux/amd64"]).await.id;
    let offered = sim.offer().await;
    assert_eq!(offered.log_bytes, 100_000);
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;
    let texts = output(20, 200_000);
    let numbered: Vec<(u64, &str)> = (1..).zip(texts.iter().map(String::as_str)).collect();
    // On two connections: what is stored already counts.
    assert_eq!(sim.log(&lease, &numbered[..10]).await.unwrap(), 10);
    assert_eq!(sim.log(&lease, &numbered[10..]).await.unwrap(), 20);
    let stored: u64 =
        psql(farm.database_url(), "SELECT sum(length(payload)) FROM attempt_chunks").parse().unwrap();
    assert!(stored < 1_300_000, "{stored}");
    assert!(sim.finish(&lease, success()).await);
    let (build, logs) = client.follow(&id).await;
    assert_eq!(build.state, "succeeded");
    let text = String::from_utf8(logs[&lease.attempt_id].clone()).unwrap();
    assert!(
        text.starts_with(&texts[..5].concat()) && text.contains("[farm: cut off here."),
        "{}",
        text.len()
    );
}

#[tokio::test]
async fn a_coordinator_that_is_killed_while_it_seals_loses_and_doubles_nothing() {
    const BUILDS: i64 = 24;
    let config = |seal_after: u32| format!("[retention]\nseal_after_seconds = {seal_after}\n");
    let mut farm = Farm::builder().config(&config(3600)).start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let texts = output(4, 200_000);
    let numbered: Vec<(u64, &str)> = (1..).zip(texts.iter().map(String::as_str)).collect();
    let mut ids = Vec::new();
    for n in 0..BUILDS {
        let id = client.submit(&snapshot, &format!("k{n}"), &["linux/amd64"]).await.id;
        let lease = sim.offer().await.lease.unwrap();
        sim.start(&lease).await;
        assert_eq!(sim.log(&lease, &numbered).await.unwrap(), 4);
        assert!(sim.finish(&lease, success()).await);
        sim.beat(&[]).await;
        ids.push(id);
    }
    until("all are final", || count(&farm, "builds WHERE finished_at IS NULL") == 0);
    std::fs::write(farm.folder().join("coordinator.toml"), config(0)).unwrap();
    farm.kill_coordinator();
    let mut kills = 0;
    loop {
        farm.start_coordinator();
        // Somewhere in the next one.
        let (sealed, names) = (count(&farm, "sealed_logs"), count(&farm, "blobs"));
        if sealed == BUILDS {
            break;
        }
        until("it seals", || count(&farm, "blobs") > names + 1 || count(&farm, "sealed_logs") == BUILDS);
        farm.kill_coordinator();
        kills += 1;
    }
    assert!(kills > 1, "{kills} kills");
    assert_eq!(count(&farm, "attempt_chunks"), 0);
    let mut client = Client::connect(&farm).await;
    for id in &ids {
        let (_, logs) = client.follow(id).await;
        assert!(logs.values().next().unwrap() == texts.concat().as_bytes(), "{id} differs");
    }
    // What was written and not noted goes, nothing else.
    pass(&farm, "26 hours");
    let pieces = usize::try_from(BUILDS).unwrap();
    // One that was killed before it had written a byte has left a row alone.
    until("bytes and rows agree", || {
        files(&farm, "logs").len() == pieces
            && count(&farm, "doomed_blobs") == 0
            && count(&farm, "blobs WHERE kind = 'log'") == BUILDS
    });
}
