//! Brings a snapshot here: its folders, then the contents that the cache lacks.
//!
//! All is asked for by lease, root and path, never by a bare digest; all that comes is checked. A
//! coordinator that is away is waited for, [`PATIENCE`] without progress long: what came stays.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use farm_proto::v1::{AttemptEvent, FetchFilesRequest, FetchFilesResponse, FetchFoldersRequest};
use farm_types::chain::with_causes;
use farm_types::{Backoff, Digest, snapshot};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::Span;

use super::SnapshotError;
use super::cache::{ContentCache, Pins};
use super::folders::{Collector, Folders};
use super::tree::{FileAt, SnapshotTree, files};
use crate::attempts::Lease;
use crate::buildkit::SourceTree;
use crate::link::{Client, Refusal, WAITS};
use crate::notice;

/// How long nothing may come before the attempt is given up.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a call may be silent before it is made again.
const SILENCE: Duration = Duration::from_secs(60);
/// The most paths in a request (worker.proto).
const MOST_PATHS: usize = 10_000;
/// Pieces between the connection and the disk.
const QUEUE: usize = 8;

/// The roots of a snapshot, for an engine.
pub type Roots = BTreeMap<String, Arc<dyn SourceTree>>;

/// Brings snapshots from the coordinator into the cache.
#[derive(Debug)]
pub struct Fetcher {
    client: Client,
    cache: Arc<ContentCache>,
    /// Attempts of the same snapshot take turns, so that the second finds what the first brought.
    turns: Mutex<HashMap<Digest, Weak<Semaphore>>>,
}

impl Fetcher {
    /// A fetcher that keeps contents in this cache.
    pub fn new(client: Client, cache: Arc<ContentCache>) -> Self {
        Self { client, cache, turns: Mutex::default() }
    }

    /// Brings the snapshot of this name and these roots, telling `events` what is fetched. The contents stay
    /// for as long as the result lives. Cancel safe: what came whole is kept.
    ///
    /// # Errors
    /// See [`SnapshotError`]; `stop` makes it [`SnapshotError::Stopped`] at once.
    pub async fn fetch(
        &self,
        lease: Lease,
        tree_id: Digest,
        roots: &[String],
        events: &mpsc::Sender<AttemptEvent>,
        stop: &CancellationToken,
    ) -> Result<Roots, SnapshotError> {
        let turn = self.turn(tree_id);
        let fetching = async {
            // The semaphore is never closed, and without a turn there is only work done twice.
            let _turn = turn.acquire().await.ok();
            self.fetch_now(lease, tree_id, roots, events).await
        };
        tokio::select! {
            roots = fetching => roots,
            () = stop.cancelled() => Err(SnapshotError::Stopped),
        }
    }

    async fn fetch_now(
        &self,
        lease: Lease,
        tree_id: Digest,
        roots: &[String],
        events: &mpsc::Sender<AttemptEvent>,
    ) -> Result<Roots, SnapshotError> {
        let mut folders = BTreeMap::new();
        for root in roots {
            folders.insert(root.clone(), self.folders(lease, root).await?);
        }
        let names = folders
            .iter()
            .map(|(root, folders)| folders.digests().map(|digests| (root.clone(), digests)))
            .collect::<Result<_, _>>()?;
        if snapshot::names(&names).0 != tree_id {
            return Err(SnapshotError::Damaged(format!("the roots are not those of {}", tree_id.short())));
        }

        let wanted: Vec<(String, FileAt)> = folders
            .iter()
            .flat_map(|(root, folders)| files(folders).into_iter().map(|file| (root.clone(), file)))
            .collect();
        let contents: Vec<_> = wanted.iter().map(|(_, file)| (file.digest, file.size)).collect();
        let cache = Arc::clone(&self.cache);
        let (pins, mut missing) = blocking(move || Ok(cache.pin(contents))).await?;
        let pins = Arc::new(pins);
        // Each content once, wherever it stands first.
        let mut lacking: BTreeMap<String, Vec<FileAt>> = BTreeMap::new();
        for (root, file) in wanted {
            if missing.remove(&file.digest) {
                lacking.entry(root).or_default().push(file);
            }
        }
        let count: usize = lacking.values().map(Vec::len).sum();
        if count > 0 {
            let bytes = lacking.values().flatten().map(|file| file.size).sum();
            let what = if count == 1 { "file" } else { "files" };
            // An error: nobody listens, which is so at the end of the attempt only.
            let _ = events.send(notice(format!("fetching {count} {what}, {}", human(bytes)))).await;
        }
        for (root, files) in lacking {
            self.contents(lease, &root, files, &pins).await?;
        }
        let mut trees = Roots::new();
        for (root, folders) in &folders {
            trees.insert(root.clone(), Arc::new(SnapshotTree::new(folders, Arc::clone(&pins))));
        }
        Ok(trees)
    }

    async fn folders(&self, lease: Lease, root: &str) -> Result<Folders, SnapshotError> {
        let mut patience = Patience::new();
        loop {
            match self.folders_once(lease, root).await {
                Ok(folders) => return folders,
                Err(status) => patience.after(status).await?,
            }
        }
    }

    async fn folders_once(&self, lease: Lease, root: &str) -> Result<Result<Folders, SnapshotError>, Status> {
        let request = FetchFoldersRequest { lease: Some(lease.into()), root: root.to_owned() };
        let mut stream = within(self.client.clone().fetch_folders(request)).await?.into_inner();
        let mut collector = Collector::default();
        while let Some(response) = within(stream.message()).await? {
            for folder in &response.folders {
                if let Err(error) = collector.take(folder) {
                    return Ok(Err(error.into()));
                }
            }
        }
        Ok(collector.finish().map_err(Into::into))
    }

    async fn contents(
        &self,
        lease: Lease,
        root: &str,
        mut files: Vec<FileAt>,
        pins: &Arc<Pins>,
    ) -> Result<(), SnapshotError> {
        let mut patience = Patience::new();
        while !files.is_empty() {
            let batch: Vec<_> = files.iter().take(MOST_PATHS).cloned().collect();
            let (done, end) = self.contents_once(lease, root, batch, pins).await?;
            files.drain(..done);
            if done > 0 {
                patience = Patience::new();
            }
            match end {
                Err(status) => patience.after(status).await?,
                Ok(()) if done == 0 => patience.after(Status::unavailable("it sent no files")).await?,
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Asks for these files once. Tells how many of them, from the first, are here now, and how the call
    /// ended.
    async fn contents_once(
        &self,
        lease: Lease,
        root: &str,
        files: Vec<FileAt>,
        pins: &Arc<Pins>,
    ) -> Result<(usize, Result<(), Status>), SnapshotError> {
        let paths = files.iter().map(|file| file.path.clone()).collect();
        let request = FetchFilesRequest { lease: Some(lease.into()), root: root.to_owned(), paths };
        let mut stream = match within(self.client.clone().fetch_files(request)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok((0, Err(status))),
        };
        let (pieces, queue) = mpsc::channel(QUEUE);
        let pins = Arc::clone(pins);
        let writing = blocking(move || store(&pins, &files, queue));
        let reading = async move {
            loop {
                match within(stream.message()).await {
                    Ok(Some(piece)) => {
                        if pieces.send(piece).await.is_err() {
                            // The disk failed: the other half tells.
                            return Ok(());
                        }
                    }
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(status),
                }
            }
        };
        let (done, end) = tokio::join!(writing, reading);
        Ok((done?, end))
    }

    fn turn(&self, tree_id: Digest) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        match turns.get(&tree_id).and_then(Weak::upgrade) {
            Some(turn) => turn,
            None => {
                let turn = Arc::new(Semaphore::new(1));
                turns.insert(tree_id, Arc::downgrade(&turn));
                turn
            }
        }
    }
}

/// Writes what comes, file after file. Tells how many are whole when the pieces end.
fn store(
    pins: &Pins,
    files: &[FileAt],
    mut pieces: mpsc::Receiver<FetchFilesResponse>,
) -> Result<usize, SnapshotError> {
    let mut done = 0;
    let mut current = None;
    while let Some(piece) = pieces.blocking_recv() {
        let file = match files.get(done) {
            Some(file) if usize::try_from(piece.index) == Ok(done) => file,
            _ => return Err(SnapshotError::Damaged("files came in another order".to_owned())),
        };
        let mut writer = match current.take() {
            Some(writer) => writer,
            None => pins.write(file.digest)?,
        };
        writer.append(&piece.data)?;
        if writer.written() > file.size || (piece.last && writer.written() < file.size) {
            return Err(SnapshotError::Damaged(format!("{} has another length", file.path)));
        }
        if piece.last {
            writer.commit().map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => SnapshotError::Damaged(format!("{}: {error}", file.path)),
                _ => error.into(),
            })?;
            done += 1;
        } else {
            current = Some(writer);
        }
    }
    Ok(done)
}

/// Runs on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    let span = Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        // Nobody aborts it, so it panicked: the attempt's task goes the same way.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(SnapshotError::Stopped),
        },
    }
}

async fn within<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    timeout(SILENCE, call).await.unwrap_or_else(|_| Err(Status::unavailable("it was silent for too long")))
}

/// Waits between tries, until there was no progress for too long.
struct Patience {
    since: Instant,
    backoff: Backoff,
}

impl Patience {
    fn new() -> Self {
        Self { since: Instant::now(), backoff: Backoff::new(WAITS) }
    }

    async fn after(&mut self, status: Status) -> Result<(), SnapshotError> {
        let why = || with_causes(status.message(), std::error::Error::source(&status));
        match Refusal::of(&status) {
            Refusal::Superseded => return Err(SnapshotError::Superseded),
            Refusal::Missing => return Err(SnapshotError::Missing(why())),
            // An answer that the coordinator would give again.
            Refusal::Refused if matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied) => {
                return Err(SnapshotError::Unreachable(why()));
            }
            Refusal::Refused | Refusal::Away => {}
        }
        if self.since.elapsed() >= PATIENCE {
            return Err(SnapshotError::Unreachable(why()));
        }
        tokio::time::sleep(self.backoff.next_jittered(rand::random())).await;
        Ok(())
    }
}

/// Bytes for people: `4.1 kB`.
fn human(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
