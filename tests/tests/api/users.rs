//! What users' calls promise.

use farm_proto::v1;
use farm_tests::farm::Farm;
use tonic::Code;

use crate::client::{Client, Sim, hello, success, take, tree};

#[tokio::test]
async fn nothing_is_said_or_done_without_a_known_token() {
    let farm = Farm::builder().start();
    for token in ["", "farm_wrong"] {
        let mut client = Client::with_token(&farm, token).await;
        let build_id = "abc123".to_owned();
        let upload = tokio_stream::once(v1::UploadObjectsRequest::default());
        let codes = [
            client.farm.get_farm(v1::GetFarmRequest {}).await.map(drop),
            client.farm.list_workers(v1::ListWorkersRequest {}).await.map(drop),
            client.farm.drain_workers(v1::DrainWorkersRequest::default()).await.map(drop),
            client.farm.resume_workers(v1::ResumeWorkersRequest::default()).await.map(drop),
            client.farm.remove_workers(v1::RemoveWorkersRequest::default()).await.map(drop),
            client.builds.submit_build(v1::SubmitBuildRequest::default()).await.map(drop),
            client.builds.get_build(v1::GetBuildRequest { build_id: build_id.clone() }).await.map(drop),
            client.builds.list_builds(v1::ListBuildsRequest::default()).await.map(drop),
            client.builds.watch_build(v1::WatchBuildRequest::default()).await.map(drop),
            client.builds.cancel_build(v1::CancelBuildRequest { build_id }).await.map(drop),
            client.builds.retry_build(v1::RetryBuildRequest::default()).await.map(drop),
            client.builds.provide_source(v1::ProvideSourceRequest::default()).await.map(drop),
            client.snapshots.open_upload(v1::OpenUploadRequest::default()).await.map(drop),
            client.snapshots.find_missing(v1::FindMissingRequest::default()).await.map(drop),
            client.snapshots.upload_objects(upload).await.map(drop),
            client.snapshots.finish_upload(v1::FinishUploadRequest::default()).await.map(drop),
            client.work.control(tokio_stream::empty()).await.map(drop),
            client.work.send_events(tokio_stream::empty()).await.map(drop),
            client.work.fetch_folders(v1::FetchFoldersRequest::default()).await.map(drop),
            client.work.fetch_files(v1::FetchFilesRequest::default()).await.map(drop),
        ];
        for (call, answer) in codes.into_iter().enumerate() {
            let status = answer.expect_err("it was let in");
            assert_eq!(status.code(), Code::Unauthenticated, "call {call}");
            assert!(status.message().contains("FARM_TOKEN"), "{}", status.message());
        }
    }
}

#[tokio::test]
async fn an_object_is_what_it_says_it_is_and_a_folder_comes_after_what_it_names() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let (objects, root) = tree("FROM scratch");
    let upload =
        client.snapshots.open_upload(v1::OpenUploadRequest::default()).await.unwrap().into_inner().upload_id;
    let mut send = async |objects: Vec<v1::PackedObject>| {
        let part = Some(v1::upload_objects_request::Part::Pack(v1::Pack { objects }));
        let message = v1::UploadObjectsRequest { upload_id: upload.clone(), part };
        client.snapshots.upload_objects(tokio_stream::once(message)).await.map(drop)
    };
    let mut forged = objects[0].clone();
    forged.data = b"FROM evil".to_vec().into();
    assert_eq!(send(vec![forged]).await.unwrap_err().code(), Code::InvalidArgument);
    let early = send(vec![objects[2].clone()]).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition);
    assert!(early.message().contains("children first"), "{}", early.message());
    // A folder that lies about the content of the one below it would make different sources look equal.
    let mut liar = farm_types::snapshot::Folder::decode(&objects[2].data).unwrap();
    for entry in &mut liar.entries {
        if let farm_types::snapshot::Node::Folder { content, .. } = &mut entry.node {
            *content = farm_types::Digest::of(b"lie");
        }
    }
    let mut lie = objects.clone();
    lie[2].data = liar.encode().into();
    lie[2].digest = liar.tree_digest().as_bytes().to_vec().into();
    let refused = send(lie).await.unwrap_err();
    assert!(refused.message().contains("content digest"), "{}", refused.message());
    send(objects.clone()).await.unwrap();
    send(objects).await.unwrap();
    let known = v1::FindMissingRequest {
        upload_id: upload.clone(),
        digests: vec![root.as_bytes().to_vec().into(), vec![0; 32].into()],
    };
    let missing = client.snapshots.find_missing(known).await.unwrap().into_inner().missing;
    assert_eq!(missing, [vec![0; 32]]);
    let nowhere = v1::SnapshotRoot { name: "dockerfile".into(), tree: vec![0; 32].into() };
    let request = v1::FinishUploadRequest { upload_id: upload, roots: vec![nowhere] };
    assert_eq!(client.snapshots.finish_upload(request).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_tree_that_is_there_takes_one_call() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let (objects, root) = tree("FROM scratch");
    let open = |names: &[&str]| {
        let one =
            |name: &&str| v1::SnapshotRoot { name: (*name).into(), tree: root.as_bytes().to_vec().into() };
        v1::OpenUploadRequest { roots: names.iter().map(one).collect() }
    };
    let mut ask = client.snapshots.clone();
    let first = ask.open_upload(open(&["dockerfile"])).await.unwrap().into_inner();
    assert_eq!((first.snapshot, first.missing), (None, vec![root.as_bytes().to_vec().into()]));
    let part = Some(v1::upload_objects_request::Part::Pack(v1::Pack { objects }));
    let message = v1::UploadObjectsRequest { upload_id: first.upload_id.clone(), part };
    client.snapshots.upload_objects(tokio_stream::once(message)).await.unwrap();
    let finish = v1::FinishUploadRequest { upload_id: first.upload_id, roots: open(&["dockerfile"]).roots };
    let finished = client.snapshots.finish_upload(finish).await.unwrap().into_inner();

    let again = ask.open_upload(open(&["dockerfile"])).await.unwrap().into_inner();
    assert_eq!((again.snapshot, again.missing), (Some(finished), Vec::new()));
    // A snapshot that never was, of a tree that is there, is named at once, too; and is one that is built.
    let other = ask.open_upload(open(&["context", "dockerfile"])).await.unwrap().into_inner();
    let named = other.snapshot.unwrap();
    let snapshot = v1::SnapshotRef {
        tree_id: named.tree_id,
        content_key: named.content_key,
        upload_id: other.upload_id,
    };
    client.submit(&snapshot, "one-call", &["linux/amd64"]).await;

    for (names, why) in
        [(vec!["context"], "needs the root"), (vec!["x"], "no root"), (vec!["context"; 2], "twice")]
    {
        let refused = ask.open_upload(open(&names)).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(why), "{refused:?}");
    }
}

#[tokio::test]
async fn a_few_folders_that_unfold_without_end_are_refused() {
    use farm_types::snapshot::{Entry, Folder, Node};
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let upload =
        client.snapshots.open_upload(v1::OpenUploadRequest::default()).await.unwrap().into_inner().upload_id;
    let mut folder = Folder::default();
    let mut objects = Vec::new();
    for _ in 0..40 {
        let data = folder.encode();
        objects.push(v1::PackedObject {
            digest: folder.tree_digest().as_bytes().to_vec().into(),
            kind: v1::ObjectKind::Folder.into(),
            data: data.into(),
        });
        let node = Node::Folder { tree: folder.tree_digest(), content: folder.content_digest() };
        let twice =
            ["a", "b"].map(|name| Entry { name: name.into(), mode: 0o755, mtime: 0, node: node.clone() });
        folder = Folder::new(twice.into()).unwrap();
    }
    let part = Some(v1::upload_objects_request::Part::Pack(v1::Pack { objects }));
    let message = v1::UploadObjectsRequest { upload_id: upload, part };
    let refused = client.snapshots.upload_objects(tokio_stream::once(message)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("unfolds"), "{}", refused.message());
}

#[tokio::test]
async fn a_large_file_comes_in_pieces_and_is_kept_only_when_it_is_right() {
    let farm = Farm::builder().config("[limits]\nmax_file_bytes = 20000000\n").start();
    let mut client = Client::connect(&farm).await;
    let content: Vec<u8> = (0..10_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let digest = farm_types::Digest::of(&content);
    let upload =
        client.snapshots.open_upload(v1::OpenUploadRequest::default()).await.unwrap().into_inner().upload_id;
    let pieces = |content: &[u8], size: usize| -> Vec<v1::UploadObjectsRequest> {
        let chunks: Vec<&[u8]> = content.chunks(farm_proto::PIECE_BYTES).collect();
        let count = chunks.len();
        let piece = |(i, data): (usize, &[u8])| {
            let piece = v1::FilePiece {
                digest: digest.as_bytes().to_vec().into(),
                size: size.try_into().unwrap(),
                data: data.to_vec().into(),
                last: i + 1 == count,
            };
            let part = Some(v1::upload_objects_request::Part::Piece(piece));
            v1::UploadObjectsRequest { upload_id: upload.clone(), part }
        };
        chunks.into_iter().enumerate().map(piece).collect()
    };
    let mut wrong = content.clone();
    wrong[5_000_000] ^= 1;
    for (what, requests) in [
        ("another byte", pieces(&wrong, wrong.len())),
        ("too short", pieces(&content[1..], content.len())),
        ("too long", pieces(&content, content.len() - 1)),
        ("over the limit", pieces(&content, 30_000_000)),
        ("no end", pieces(&content, content.len()).split_last().unwrap().1.to_vec()),
    ] {
        let status = client.snapshots.upload_objects(tokio_stream::iter(requests)).await.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {}", status.message());
    }
    let ask = v1::FindMissingRequest {
        upload_id: upload.clone(),
        digests: vec![digest.as_bytes().to_vec().into()],
    };
    assert_eq!(client.snapshots.find_missing(ask.clone()).await.unwrap().into_inner().missing.len(), 1);
    let all = tokio_stream::iter(pieces(&content, content.len()));
    let answer = client.snapshots.upload_objects(all).await.unwrap().into_inner();
    assert_eq!((answer.objects, answer.bytes), (1, 10_000_000));
    assert!(client.snapshots.find_missing(ask).await.unwrap().into_inner().missing.is_empty());
}

#[tokio::test]
async fn a_wrong_request_names_the_thing_the_value_and_the_cure() {
    let farm = Farm::builder().config("[limits]\nmax_platforms = 1\n").start();
    let mut client = Client::connect(&farm).await;
    let snapshot = client.upload("FROM scratch").await;
    let spec = v1::BuildSpec {
        snapshot: Some(snapshot),
        platforms: vec!["linux/amd64".into()],
        ..Default::default()
    };
    let mut submit = async |key: &str, change: fn(&mut v1::BuildSpec)| {
        let mut spec = spec.clone();
        change(&mut spec);
        let request = v1::SubmitBuildRequest {
            idempotency_key: key.to_owned(),
            spec: Some(spec),
            ..Default::default()
        };
        let status = client.builds.submit_build(request).await.expect_err("taken");
        (status.code(), status.message().to_owned())
    };
    let unknown = submit("k", |s| s.platforms = vec!["linux/arm46".into()]).await;
    assert!(unknown.0 == Code::InvalidArgument && unknown.1.contains("did you mean arm64"), "{unknown:?}");
    let many = submit("k", |s| s.platforms.push("linux/arm64".into())).await;
    assert!(many.0 == Code::InvalidArgument && many.1.contains("at most 1"), "{many:?}");
    let capital = submit("k", |s| s.tags = vec!["localhost:5002/App".into()]).await;
    assert!(capital.0 == Code::InvalidArgument && capital.1.contains("localhost:5002/app"), "{capital:?}");
    let no_key = submit("", |_| {}).await;
    assert!(no_key.0 == Code::InvalidArgument && no_key.1.contains("idempotency key"), "{no_key:?}");
    let gone = submit("k", |s| {
        s.snapshot.as_mut().unwrap().tree_id = farm_types::Digest::of(b"x").to_string();
    });
    let gone = gone.await;
    assert!(gone.1.contains("upload the source again"), "{gone:?}");
    for (id, code) in [("000000", Code::NotFound), ("!", Code::InvalidArgument)] {
        let request = v1::GetBuildRequest { build_id: id.into() };
        assert_eq!(client.builds.get_build(request).await.unwrap_err().code(), code);
    }
    let cursor =
        v1::WatchBuildRequest { build_id: "000000".into(), cursor: b"x".to_vec().into(), follow: false };
    assert!(client.builds.watch_build(cursor).await.is_err());
}

#[tokio::test]
async fn every_follower_sees_the_same_bytes_whenever_it_comes_and_goes() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let build = client.submit(&snapshot, "k", &["linux/amd64"]).await;
    let live = tokio::spawn({
        let (mut client, id) = (client.clone(), build.id.clone());
        async move { client.follow(&id).await }
    });
    let offered = sim.offer().await;
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;
    assert_eq!(sim.log(&lease, &[(1, "one "), (2, "two ")]).await.unwrap(), 2);
    // One who leaves in the middle and comes back with the cursor.
    let (mut last, mut logs) = (None, Default::default());
    let mut request =
        v1::WatchBuildRequest { build_id: build.id.clone(), follow: false, ..Default::default() };
    let mut first = client.builds.watch_build(request.clone()).await.unwrap().into_inner();
    while let Some(message) = first.message().await.unwrap() {
        request.cursor = message.cursor.clone();
        take(message, &mut last, &mut logs);
    }
    assert_eq!(logs[&lease.attempt_id], b"one two ");
    // A broken stream is sent again from its last acknowledgement, some of it twice.
    assert_eq!(sim.log(&lease, &[(2, "two "), (3, "three "), (4, "four")]).await.unwrap(), 4);
    assert!(sim.finish(&lease, success()).await);
    let mut second = client.builds.watch_build(request).await.unwrap().into_inner();
    while let Some(message) = second.message().await.unwrap() {
        take(message, &mut last, &mut logs);
    }
    let whole: &[u8] = b"one two three four";
    assert_eq!(logs[&lease.attempt_id], whole);
    let (followed, live_logs) = live.await.unwrap();
    assert_eq!((followed.state.as_str(), &live_logs[&lease.attempt_id][..]), ("succeeded", whole));
    let (_, late_logs) = client.follow(&build.id).await;
    assert_eq!(late_logs, live_logs);
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let farm = Farm::builder().start();
    let channel = tonic::transport::Endpoint::new(farm.url()).unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest { service: "farm.v1.BuildService".into() };
    let status = health.check(request).await.unwrap().into_inner().status;
    assert_eq!(status, i32::from(tonic_health::pb::health_check_response::ServingStatus::Serving));
}

#[tokio::test]
async fn a_list_of_builds_is_read_page_by_page_while_builds_come_in() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let snapshot = client.upload("FROM scratch").await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(client.submit(&snapshot, &format!("k{n}"), &["linux/amd64"]).await.id);
    }
    ids.reverse();
    let ask = async |page_size, states: &[&str], page_token: &str| {
        let states = states.iter().map(|state| (*state).to_owned()).collect();
        let request = v1::ListBuildsRequest {
            page_size,
            states,
            page_token: page_token.to_owned(),
            ..Default::default()
        };
        client.builds.clone().list_builds(request).await.map(tonic::Response::into_inner)
    };
    let mut found = Vec::new();
    let mut token = String::new();
    for (n, expected) in [2, 2, 1].into_iter().enumerate() {
        let page = ask(2, &[], &token).await.unwrap();
        assert_eq!((page.builds.len(), page.next_page_token.is_empty()), (expected, n == 2));
        found.extend(page.builds.into_iter().map(|build| build.id));
        token = page.next_page_token;
        client.clone().submit(&snapshot, &format!("meanwhile {n}"), &["linux/amd64"]).await;
    }
    assert_eq!(found, ids);
    // The last page may be full.
    let all = ask(8, &[], "").await.unwrap();
    assert_eq!((all.builds.len(), all.next_page_token.as_str()), (8, ""));

    // A token holds for its list only.
    let token = ask(1, &["queued", "failed"], "").await.unwrap().next_page_token;
    assert_eq!(ask(1, &["failed", "queued"], &token).await.unwrap().builds[0].id, all.builds[1].id);
    for (states, token) in [(&[][..], token.as_str()), (&["queued", "failed"][..], &token[1..]), (&[], "2")] {
        let refused = ask(1, states, token).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("next_page_token"), "{}", refused.message());
    }
}

#[tokio::test]
async fn a_list_holds_of_a_spec_what_lists_show() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let asked = v1::BuildSpec {
        snapshot: Some(client.upload("FROM scratch").await),
        platforms: vec!["linux/amd64".to_owned()],
        tags: vec!["localhost:5002/app:1".to_owned()],
        build_args: [("KEY".to_owned(), "value".repeat(1000))].into(),
        labels: [("label".to_owned(), "value".to_owned())].into(),
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: "k".to_owned(), spec: Some(asked), ..Default::default() };
    let whole = client.builds.submit_build(request).await.unwrap().into_inner().build.unwrap();
    let listed = client.builds.list_builds(v1::ListBuildsRequest::default()).await.unwrap().into_inner();
    let (whole_spec, spec) = (whole.spec.unwrap(), listed.builds[0].spec.clone().unwrap());
    assert_eq!((whole_spec.build_args.len(), whole_spec.labels.len()), (1, 1));
    let expected = v1::BuildSpec {
        snapshot: whole_spec.snapshot,
        platforms: whole_spec.platforms,
        tags: whole_spec.tags,
        ..Default::default()
    };
    assert_eq!(spec, expected);
    // All that `farm builds --json` says of it is there.
    let json = farm.cli(&["builds", "--json"]).json();
    assert_eq!(json["builds"][0]["requested"]["tags"][0], "localhost:5002/app:1");
    assert!(json["builds"][0]["snapshot"]["content_key"].as_str().unwrap().starts_with("sha256:"));
}

#[tokio::test]
async fn the_command_lists_as_many_builds_as_it_is_told_to() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let snapshot = client.upload("FROM scratch").await;
    client.submit(&snapshot, "k", &["linux/amd64"]).await;
    // Five hundred more like it, which were cancelled.
    farm_tests::database::psql(
        farm.database_url(),
        "INSERT INTO builds (project_id, id, short_id, idempotency_key, request_digest, execution_id, state, spec, created_by,
                             created_at, finished_at, queue_deadline)
            SELECT project_id, gen_random_uuid(), 'b' || lpad(i::text, 6, '0'), 'k' || i, request_digest, execution_id,
                   'cancelled', spec, created_by, created_at + make_interval(secs => i * 0.001), farm_now(), queue_deadline
            FROM builds, generate_series(1, 500) i",
    );
    let listed = |args: &[&str]| {
        let listed = farm.cli(&[&["builds", "--format", "{{ id }}"], args].concat()).ok();
        listed.lines().map(ToOwned::to_owned).collect::<Vec<String>>()
    };
    let all = listed(&["--all"]);
    assert_eq!(all.len(), 501);
    // More than a page, a whole one, and fewer.
    for limit in [501, 500, 3] {
        assert_eq!(listed(&["-n", &limit.to_string()]), all[..limit]);
    }
    assert_eq!(listed(&[]), all[..20]);
    assert_eq!(listed(&["-n", "1000"]), all);
}
