//! Fetches: what a worker with git brings by its lease becomes a source of its project, and of no other.

use farm_proto::v1::{self, finished::Outcome, upload_objects_request::Part};
use farm_tests::farm::Farm;
use farm_types::Digest;
use tonic::Code;

use crate::client::{Client, Sim, hello, tree};

fn fetch(key: &str) -> v1::SubmitBuildRequest {
    let git = v1::GitSource {
        repository: "https://git.example/app.git".to_owned(),
        r#ref: "main".to_owned(),
        ..Default::default()
    };
    let fetch = v1::FetchSpec { git: Some(git), take: "build".to_owned(), ..Default::default() };
    let spec = v1::BuildSpec { fetch: Some(fetch), ..Default::default() };
    v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), values: Vec::new() }
}

/// Brings a tree by a lease, as the roots `context` and `dockerfile`.
pub async fn bring(
    sim: &mut Sim,
    lease: &v1::Lease,
    (objects, root): (Vec<v1::PackedObject>, Digest),
) -> Result<v1::FinishUploadResponse, tonic::Status> {
    let lease = Some(lease.clone());
    let open = v1::OpenSourceRequest { lease: lease.clone(), open: Some(Default::default()) };
    let upload_id = sim.work.open_source(open).await?.into_inner().upload_id;
    let part = Some(Part::Pack(v1::Pack { objects }));
    let objects = v1::UploadObjectsRequest { upload_id: upload_id.clone(), part };
    let message = v1::SendSourceRequest { lease: lease.clone(), objects: Some(objects) };
    sim.work.send_source(tokio_stream::once(message)).await?;
    let root = |name: &str| v1::SnapshotRoot { name: name.into(), tree: root.as_bytes().to_vec().into() };
    let finish = v1::FinishUploadRequest { upload_id, roots: vec![root("context"), root("dockerfile")] };
    let finish = v1::FinishSourceRequest { lease, finish: Some(finish) };
    Ok(sim.work.finish_source(finish).await?.into_inner())
}

#[tokio::test]
async fn a_fetch_waits_for_git_and_brings_its_source_by_its_lease_alone() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let (mut plain, mut greeting) =
        (Sim::connect(&client, hello("plain", 1)).await.unwrap(), hello("git", 1));
    let submitted = client.builds.submit_build(fetch("k")).await.unwrap().into_inner().build.unwrap();
    let waiting = async {
        loop {
            let build = client.build(&submitted.id).await;
            if !build.jobs[0].waiting.is_empty() {
                return build;
            }
            plain.beat(&[]).await;
        }
    };
    let build = waiting.await;
    let job = &build.jobs[0];
    assert_eq!((job.kind.as_str(), job.platform.as_str()), ("fetch", ""));
    assert!(job.waiting.contains("git") && job.waiting.contains("install git"), "{}", job.waiting);
    greeting.features.push("git".to_owned());
    let mut sim = Sim::connect(&client, greeting).await.unwrap();
    let offered = sim.offer().await;
    assert!(!offered.project_id.is_empty() && offered.spec.unwrap().fetch.is_some());
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;

    // What it says that it has brought has to be there.
    let (objects, root) = tree("FROM scratch");
    let forged = v1::Lease { lease_token: uuid::Uuid::new_v4().to_string(), ..lease.clone() };
    let refused = bring(&mut sim, &forged, (objects.clone(), root)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let named = bring(&mut sim, &lease, (objects.clone(), root)).await.unwrap();
    let content = {
        let folder = farm_types::snapshot::Folder::decode(&objects.last().unwrap().data).unwrap();
        folder.content_digest().to_string()
    };
    let known =
        |name: &str| v1::FetchedRoot { name: name.into(), tree: root.to_string(), content: content.clone() };
    let fetched = v1::Fetched {
        snapshot: Some(v1::SnapshotRef {
            tree_id: named.tree_id.clone(),
            content_key: named.content_key.clone(),
            upload_id: String::new(),
        }),
        roots: vec![known("context"), known("dockerfile")],
        origin: Some(v1::GitOrigin {
            repository: "https://git.example/app.git".into(),
            r#ref: "refs/heads/main".into(),
            commit: "1f".repeat(20),
            committed: 1_700_000_000,
            subdir: String::new(),
        }),
        archive: None,
        tags: Vec::new(),
        refs: None,
        dockerfile: "Dockerfile".into(),
        files: 2,
        bytes: 24,
    };
    let result = v1::JobResult { fetched: Some(fetched), ..Default::default() };
    assert!(sim.finish(&lease, Outcome::Result(result)).await);
    let (ended, _) = client.follow(&submitted.id).await;
    let snapshot = ended.spec.clone().unwrap().snapshot.unwrap();
    assert_eq!((ended.state.as_str(), &snapshot.tree_id), ("succeeded", &named.tree_id));
    // The lease has ended, and with it what could be brought.
    let late = bring(&mut sim, &lease, (objects, root)).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition, "{late:?}");

    let read = async |client: &mut Client, path: &str| {
        let request = v1::ReadFetchedRequest {
            build_id: submitted.id.clone(),
            root: "dockerfile".into(),
            path: path.into(),
        };
        client.builds.read_fetched(request).await.map(|answer| answer.into_inner().content)
    };
    assert_eq!(&read(&mut client, "Dockerfile").await.unwrap()[..], b"FROM scratch");
    assert_eq!(read(&mut client, "../Dockerfile").await.unwrap_err().code(), Code::NotFound);
    // It is built from, and it is none of another project's.
    let build = client.submit(&snapshot, "build", &["linux/amd64"]).await;
    assert_eq!(build.spec.unwrap().snapshot.unwrap().tree_id, named.tree_id);
    let create = v1::CreateProjectRequest { name: "other".into(), ..Default::default() };
    client.projects.create_project(create).await.unwrap();
    let mut other = Client::within(&farm, &farm.token(), Some("other")).await;
    assert_eq!(read(&mut other, "Dockerfile").await.unwrap_err().code(), Code::NotFound);
    let again = v1::BuildSpec {
        snapshot: Some(snapshot),
        platforms: vec!["linux/amd64".into()],
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: "x".into(), spec: Some(again), values: Vec::new() };
    assert_eq!(other.builds.submit_build(request).await.unwrap_err().code(), Code::AlreadyExists);
    // A fetch is no build of a list, unless that is asked for, and nothing is retried of it.
    let listed = async |client: &mut Client, fetches| {
        let request = v1::ListBuildsRequest { fetches, ..Default::default() };
        client.builds.list_builds(request).await.unwrap().into_inner().builds.len()
    };
    assert_eq!((listed(&mut client, false).await, listed(&mut client, true).await), (1, 2));
}

#[tokio::test]
async fn an_archive_is_fetched_by_a_worker_that_knows_of_them_without_git_and_without_a_login() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let mut greeting = hello("git", 1);
    greeting.features.push("git".to_owned());
    let mut git = Sim::connect(&client, greeting).await.unwrap();
    let url = "https://x.example/app.tar.gz";
    let archive = v1::ArchiveSource {
        url: format!("{url}?signature=hush"),
        checksum: String::new(),
        lfs: "refuse".to_owned(),
    };
    let fetch = v1::FetchSpec { archive: Some(archive.clone()), take: "build".into(), ..Default::default() };
    let spec = v1::BuildSpec { fetch: Some(fetch.clone()), ..Default::default() };
    let request =
        v1::SubmitBuildRequest { idempotency_key: "k".into(), spec: Some(spec), values: Vec::new() };
    let submitted = client.builds.submit_build(request.clone()).await.unwrap().into_inner().build.unwrap();
    // In its query there may be a signature, which nobody is told but who fetches.
    assert_eq!(submitted.spec.as_ref().unwrap().fetch.as_ref().unwrap().archive.as_ref().unwrap().url, url);
    let again = client.builds.submit_build(request).await.unwrap().into_inner();
    assert!(again.replayed && again.build.unwrap().id == submitted.id);
    let both = v1::FetchSpec {
        git: Some(v1::GitSource { repository: "https://x.example/a.git".into(), ..Default::default() }),
        ..fetch
    };
    let both = v1::BuildSpec { fetch: Some(both), ..Default::default() };
    let both =
        v1::SubmitBuildRequest { idempotency_key: "both".into(), spec: Some(both), values: Vec::new() };
    assert_eq!(client.builds.submit_build(both).await.unwrap_err().code(), Code::InvalidArgument);
    let build = loop {
        let build = client.build(&submitted.id).await;
        if !build.jobs[0].waiting.is_empty() {
            break build;
        }
        git.beat(&[]).await;
    };
    assert!(build.jobs[0].waiting.contains("that fetches archives"), "{}", build.jobs[0].waiting);

    let mut greeting = hello("archives", 1);
    greeting.features.push("archives".to_owned());
    let mut sim = Sim::connect(&client, greeting).await.unwrap();
    let offered = sim.offer().await;
    assert_eq!(offered.spec.unwrap().fetch.unwrap().archive.unwrap(), archive);
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;
    let lent = sim.work.lend_git_login(v1::LendGitLoginRequest { lease: Some(lease.clone()) }).await.unwrap();
    assert_eq!((lent.get_ref().token.as_str(), lent.get_ref().key.as_str()), ("", ""));
    let (objects, root) = tree("FROM scratch");
    let named = bring(&mut sim, &lease, (objects.clone(), root)).await.unwrap();
    let content = farm_types::snapshot::Folder::decode(&objects.last().unwrap().data)
        .unwrap()
        .content_digest()
        .to_string();
    let known =
        |name: &str| v1::FetchedRoot { name: name.into(), tree: root.to_string(), content: content.clone() };
    let origin = v1::ArchiveOrigin { url: url.into(), digest: Digest::of(b"x").to_string() };
    let fetched = v1::Fetched {
        snapshot: Some(v1::SnapshotRef {
            tree_id: named.tree_id,
            content_key: named.content_key,
            upload_id: String::new(),
        }),
        roots: vec![known("context"), known("dockerfile")],
        archive: Some(origin.clone()),
        dockerfile: "Dockerfile".into(),
        files: 2,
        bytes: 24,
        ..Default::default()
    };
    let result = v1::JobResult { fetched: Some(fetched), ..Default::default() };
    assert!(sim.finish(&lease, Outcome::Result(result)).await);
    let (ended, _) = client.follow(&submitted.id).await;
    assert_eq!(
        ended.jobs[0].result.as_ref().unwrap().fetched.as_ref().unwrap().archive,
        Some(origin.clone())
    );
    // A build says where it is from.
    let spec = v1::BuildSpec {
        snapshot: ended.spec.unwrap().snapshot,
        platforms: vec!["linux/amd64".into()],
        archive_origins: [("context".to_owned(), origin.clone())].into(),
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: "b".into(), spec: Some(spec), values: Vec::new() };
    let build = client.builds.submit_build(request).await.unwrap().into_inner().build.unwrap();
    assert_eq!(build.spec.unwrap().archive_origins["context"], origin);
}
