//! A worker without git and engine: of a fetch it says what git would, by where the branches are said to be; builds end at once. Of those that
//! no newer one ends some end later, after a newer one of their branch if there is one by then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use farm_proto::v1;
use farm_proto::v1::control_request::Message as Say;
use farm_proto::v1::control_response::Message as Hear;
use farm_proto::v1::finished::Outcome;
use farm_proto::v1::upload_objects_request::Part;
use farm_types::Digest;
use farm_types::snapshot::{Entry, Folder, Node};
use tonic::{Code, Status};

use super::{Branches, supersedes};
use crate::client::{Client, Sim, hello, request, success};

/// A worker that fetches what the branches say and builds at once, until all is over; it dials anew whenever its stream ends.
pub async fn work(client: Client, name: String, branches: Arc<Branches>, over: Arc<AtomicBool>) {
    let mut greeting = hello(&name, 4);
    greeting.features.push("git".to_owned());
    while !over.load(Ordering::Relaxed) {
        if let Ok(mut sim) = Sim::connect(&client, greeting.clone()).await {
            serve(&mut sim, &branches, &over).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What this worker has built and says later.
struct Late {
    /// Its branch, and where in the branch's history it is.
    of: (String, usize),
    /// After so many more of the worker's signs in any case.
    signs: usize,
    finished: v1::Finished,
}

/// As many as that: some seconds.
const LATEST: usize = 6;

async fn serve(sim: &mut Sim, branches: &Arc<Branches>, over: &AtomicBool) {
    let (mut tick, mut held) = (tokio::time::interval(Duration::from_millis(500)), Vec::new());
    while !over.load(Ordering::Relaxed) {
        tokio::select! {
            heard = sim.hear.message() => match heard {
                Ok(Some(v1::ControlResponse { message: Some(Hear::Offered(offered)) })) => {
                    // The stream ends when the coordinator does; the lease is then said to be lost, and the job is given again.
                    if answer(sim, offered, branches, &mut held).await.is_none() {
                        return;
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            },
            _ = tick.tick() => {
                let is_due = |late: &mut Late| {
                    late.signs -= 1;
                    late.signs == 0 || branches.is_late(&late.of)
                };
                for late in held.extract_if(.., is_due).collect::<Vec<_>>() {
                    branches.ended(late.of);
                    if say(sim, Say::Finished(late.finished)).await.is_none() {
                        return;
                    }
                }
                let running = held.iter().filter_map(|late| late.finished.lease.clone()).collect();
                if say(sim, Say::Heartbeat(v1::Heartbeat { running })).await.is_none() {
                    return;
                }
            }
        }
    }
}

async fn say(sim: &Sim, message: Say) -> Option<()> {
    sim.say.send(request(message)).await.ok()
}

async fn answer(
    sim: &mut Sim,
    offered: v1::Offered,
    branches: &Arc<Branches>,
    held: &mut Vec<Late>,
) -> Option<()> {
    let lease = offered.lease.clone()?;
    let spec = offered.spec?;
    let git = spec.fetch.as_ref().and_then(|fetch| fetch.git.as_ref());
    if let Some(expected) = git.map(|git| &git.expected_commit) {
        branches.assigned(expected, Instant::now());
    }
    say(sim, Say::Started(v1::Started { lease: Some(lease.clone()) })).await?;
    let outcome = match &spec.fetch {
        Some(fetch) => fetched(sim, &lease, fetch, branches).await?,
        None if branches.images.is_none() => success(),
        None => {
            let (at, commit) = (Arc::clone(branches), spec.origins["context"].commit.clone());
            let of = branches.place(&commit);
            let pushed = tokio::task::spawn_blocking(move || at.images.as_ref().unwrap().push(&commit));
            let outcome = Some(Outcome::Result(pushed.await.unwrap()));
            // Every second one, so that there is one that isn't late.
            if of.1.is_multiple_of(2) && !supersedes(&of.0) {
                let finished = v1::Finished { lease: Some(lease), outcome, self_check: None, pushed: None };
                held.push(Late { of, signs: LATEST, finished });
                return Some(());
            }
            branches.ended(of);
            outcome?
        }
    };
    let finished =
        v1::Finished { lease: Some(lease), outcome: Some(outcome), self_check: None, pushed: None };
    say(sim, Say::Finished(finished)).await
}

/// What a fetch comes to; `None`: it couldn't be told.
async fn fetched(
    sim: &mut Sim,
    lease: &v1::Lease,
    fetch: &v1::FetchSpec,
    branches: &Branches,
) -> Option<Outcome> {
    let git = fetch.git.as_ref()?;
    let commit = match git.r#ref.strip_prefix("refs/heads/") {
        Some(branch) => branches.head(branch)?,
        None => git.r#ref.clone(),
    };
    if !git.expected_commit.is_empty() && git.expected_commit != commit {
        return Some(Outcome::Failure(v1::Failure {
            cause: "user".to_owned(),
            code: "git_ref_moved".to_owned(),
            message: format!("{} is at {}, not at {}", git.r#ref, &commit[..7], &git.expected_commit[..7]),
            ..Default::default()
        }));
    }
    // Each commit's are others.
    let dockerfile = format!("FROM scratch\nLABEL of={commit}\n");
    let rules = branches.rules(&commit);
    let (objects, root, content) = folder(&[(".farm.yaml", &rules), ("Dockerfile", &dockerfile)]);
    let names: &[&str] = if fetch.take == "build" { &["context", "dockerfile"] } else { &["context"] };
    let named = bring(sim, lease, objects, root, names).await?;
    let known = |name: &&str| v1::FetchedRoot {
        name: (*name).to_owned(),
        tree: root.to_string(),
        content: content.to_string(),
    };
    let origin = v1::GitOrigin {
        repository: git.repository.clone(),
        // Empty of one that was asked for by its name.
        r#ref: if git.r#ref.starts_with("refs/") { git.r#ref.clone() } else { String::new() },
        commit,
        committed: 1_700_000_000,
        subdir: String::new(),
    };
    let fetched = v1::Fetched {
        snapshot: Some(v1::SnapshotRef {
            tree_id: named.tree_id,
            content_key: named.content_key,
            upload_id: String::new(),
        }),
        roots: names.iter().map(known).collect(),
        origin: Some(origin),
        archive: None,
        tags: Vec::new(),
        refs: None,
        dockerfile: if fetch.take == "build" { "Dockerfile".to_owned() } else { String::new() },
        files: 2,
        bytes: 100,
    };
    Some(Outcome::Result(v1::JobResult { fetched: Some(fetched), ..Default::default() }))
}

/// A folder's objects, and what its root is called.
fn folder(files: &[(&str, &str)]) -> (Vec<v1::PackedObject>, Digest, Digest) {
    let entry = |&(name, text): &(&str, &str)| Entry {
        name: name.to_owned(),
        mode: 0o644,
        mtime: 0,
        node: Node::File { size: text.len().try_into().unwrap(), digest: Digest::of(text.as_bytes()) },
    };
    let root = Folder::new(files.iter().map(entry).collect()).unwrap();
    let packed = |data: Vec<u8>, kind: v1::ObjectKind| v1::PackedObject {
        digest: Digest::of(&data).as_bytes().to_vec().into(),
        kind: kind.into(),
        data: data.into(),
    };
    let mut objects: Vec<v1::PackedObject> =
        files.iter().map(|(_, text)| packed(text.as_bytes().to_vec(), v1::ObjectKind::File)).collect();
    objects.push(packed(root.encode(), v1::ObjectKind::Folder));
    (objects, root.tree_digest(), root.content_digest())
}

async fn bring(
    sim: &mut Sim,
    lease: &v1::Lease,
    objects: Vec<v1::PackedObject>,
    root: Digest,
    names: &[&str],
) -> Option<v1::FinishUploadResponse> {
    let lease = Some(lease.clone());
    let open = v1::OpenSourceRequest { lease: lease.clone(), open: Some(Default::default()) };
    let upload_id = heard(sim.work.open_source(open).await)?.into_inner().upload_id;
    let part = Some(Part::Pack(v1::Pack { objects }));
    let objects = v1::UploadObjectsRequest { upload_id: upload_id.clone(), part };
    let message = v1::SendSourceRequest { lease: lease.clone(), objects: Some(objects) };
    heard(sim.work.send_source(tokio_stream::once(message)).await)?;
    let root =
        |name: &&str| v1::SnapshotRoot { name: (*name).to_owned(), tree: root.as_bytes().to_vec().into() };
    let finish = v1::FinishUploadRequest { upload_id, roots: names.iter().map(root).collect() };
    let finish = v1::FinishSourceRequest { lease, finish: Some(finish) };
    Some(heard(sim.work.finish_source(finish).await)?.into_inner())
}

/// What was answered; `None`: nobody could.
fn heard<T>(answer: Result<T, Status>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        // Of the coordinator that is killed, and of a lease that has ended meanwhile.
        Err(status)
            if [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::FailedPrecondition]
                .contains(&status.code()) =>
        {
            eprintln!("{status:?}");
            None
        }
        Err(status) => panic!("{status:?}"),
    }
}
