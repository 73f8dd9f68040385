//! Serves source trees to the engine: `moby.filesync.v1.FileSync/DiffCopy`.
//!
//! The order of packets (BuildKit, fsutil `send.go` and `receive.go`): we list all entries (STAT), the n-th
//! of them has the implicit number n; an empty STAT ends the list; the engine asks for the files that it does
//! not have (REQ); we send each (DATA, and an empty DATA at its end); the engine says FIN, we say FIN **and end
//! our stream at once**: whoever waits for the other side's end first waits for ever.
//!
//! The exclude patterns that an engine sends are the `.dockerignore` that a snapshot was already made with,
//! and include patterns only ask for less than is allowed to be sent; so neither is applied here. Of what the
//! engine names in `followpaths` only that is sent. See [`super::followpaths`]. Where a tree holds only a part of its folder, what
//! the engine asks for beyond that ends the transfer, and the solve with it: an image never lacks what was left out.
//!
//! Invariants: a file that can't be read, or is not as long as its entry says, ends the transfer with a text
//! that begins with [`SOURCE_FAULT`]. An image never gets other bytes than the snapshot's: the engine tells
//! changed files by their metadata alone, which misses an edit that keeps size and time; [`super::times`] sees
//! to that.

use std::collections::BTreeMap;
use std::io::Read;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use bollard_buildkit_proto::fsutil::types::{Packet, Stat};
use bollard_buildkit_proto::moby::filesync::packet::file_sync_server::FileSync;
use farm_dockerfile::Selection;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tracing::Span;

use super::followpaths;
use super::times::Served;
use crate::buildkit::tree::{SourceTree, TreeEntry, TreeKind};
use crate::buildkit::types::Missing;

/// How the text of a failure begins that is ours, not the engine's or the user's.
pub(crate) const SOURCE_FAULT: &str = "farm cannot serve the source";
/// How contents are cut, bytes. Larger pieces are not faster.
const PIECE: usize = 32 << 10;
/// How many packets may wait for the connection: 2 MiB of content.
const WAITING: usize = 64;

/// Go's bits for kinds of files (`io/fs.FileMode`).
const GO_FOLDER: u32 = 1 << 31;
const GO_SYMLINK: u32 = 1 << 27;
const GO_FIFO: u32 = 1 << 25;
const GO_SETUID: u32 = 1 << 23;
const GO_SETGID: u32 = 1 << 22;
const GO_STICKY: u32 = 1 << 20;

/// The trees that are served, by the names that a solve gives them.
pub(crate) struct Files {
    trees: BTreeMap<String, Arc<dyn SourceTree>>,
    parts: BTreeMap<String, Part>,
    missing: Arc<OnceLock<Missing>>,
    times: Times,
}

/// A tree that holds a part of its folder only.
pub(crate) struct Part {
    /// The name of the snapshot's root (`context`).
    pub(crate) root: String,
    /// Which of its paths were sent.
    pub(crate) selection: Selection,
}

/// Under which times files are served.
#[derive(Clone)]
pub(crate) struct Times {
    pub(crate) served: Arc<Served>,
    pub(crate) shared_key: String,
}

impl Files {
    pub(crate) fn new(
        trees: BTreeMap<String, Arc<dyn SourceTree>>,
        parts: BTreeMap<String, Part>,
        times: Times,
    ) -> Self {
        Self { trees, parts, missing: Arc::default(), times }
    }

    /// Where the first thing is noted that the engine asks for and that isn't there.
    pub(crate) fn missing(&self) -> Arc<OnceLock<Missing>> {
        Arc::clone(&self.missing)
    }

    /// Compares what is asked for with what there is; notes what is missing.
    fn covers(&self, name: &str, paths: &[String]) -> bool {
        let Some(Part { root, selection }) = self.parts.get(name) else { return true };
        let asked = if paths.is_empty() { Some("") } else { None };
        let asked = asked.or_else(|| paths.iter().map(String::as_str).find(|path| !selection.covers(path)));
        let Some(asked) = asked else { return true };
        let missing = Missing { root: root.clone(), asked: asked.to_owned() };
        tracing::info!(?missing, "the engine needs more of the source");
        let _ = self.missing.set(missing);
        false
    }
}

type Packets = Pin<Box<dyn Stream<Item = Result<Packet, Status>> + Send>>;

#[tonic::async_trait]
impl FileSync for Files {
    type DiffCopyStream = Packets;
    type TarStreamStream = Packets;

    async fn diff_copy(&self, request: Request<Streaming<Packet>>) -> Result<Response<Packets>, Status> {
        let name = values(request.metadata(), "dir-name").pop().unwrap_or_default();
        let tree = self.trees.get(&name).cloned();
        let tree = tree.ok_or_else(|| Status::not_found(format!("no access allowed to dir {name:?}")))?;
        let paths = values(request.metadata(), "followpaths");
        if !self.covers(&name, &paths) {
            return Err(Status::aborted("the source is incomplete"));
        }
        let mut times = self.times.clone();
        // Each of the names is a tree of its own to the engine.
        times.shared_key.push_str(&format!(" {name}"));
        let (packets, outgoing) = mpsc::channel(WAITING);
        // Unbounded, because the engine must never wait for us to read: it holds back our data meanwhile. What
        // may be in it is bounded by the number of files.
        let (asked, requests) = mpsc::unbounded_channel();
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(packet)) = incoming.message().await {
                if asked.send(packet).is_err() {
                    return;
                }
            }
        });
        // The thread ends when either channel does, so at the latest with the session.
        let span = Span::current();
        tokio::task::spawn_blocking(move || {
            let _inside = span.enter();
            if let Err(Ended::Fault(text)) = send_tree(&*tree, &paths, &times, &packets, requests) {
                tracing::warn!(tree = name, "{text}");
                let _ = packets.blocking_send(Err(Status::aborted(text)));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn tar_stream(&self, _: Request<Streaming<Packet>>) -> Result<Response<Packets>, Status> {
        Err(Status::unimplemented("use DiffCopy"))
    }
}

/// Why a transfer ended early.
enum Ended {
    /// The engine went away, or does not want the rest.
    Gone,
    /// The source can't be read, or the engine broke the protocol; the text is for the log.
    Fault(String),
}

/// Lists the tree, answers all requests, says goodbye. Returning ends our stream.
fn send_tree(
    tree: &dyn SourceTree,
    paths: &[String],
    times: &Times,
    packets: &mpsc::Sender<Result<Packet, Status>>,
    mut requests: mpsc::UnboundedReceiver<Packet>,
) -> Result<(), Ended> {
    let send = |packet| packets.blocking_send(Ok(packet)).map_err(|_| Ended::Gone);
    let entries = tree.entries();
    let taken = followpaths::select(entries, paths);
    let listed: Vec<&TreeEntry> = match taken {
        None => entries.iter().collect(),
        Some(taken) => {
            entries.iter().zip(taken).filter(|(_, taken)| *taken).map(|(entry, _)| entry).collect()
        }
    };
    for entry in &listed {
        send(Packet {
            r#type: PacketType::PacketStat.into(),
            stat: Some(stat(entry, times)),
            ..Packet::default()
        })?;
    }
    send(Packet { r#type: PacketType::PacketStat.into(), ..Packet::default() })?;
    while let Some(packet) = requests.blocking_recv() {
        match packet.r#type() {
            PacketType::PacketReq => {
                let entry = usize::try_from(packet.id).ok().and_then(|id| listed.get(id));
                let Some(TreeEntry { path, kind: TreeKind::File { size, .. }, .. }) = entry else {
                    return Err(Ended::Fault(format!("{SOURCE_FAULT}: entry {} is not a file", packet.id)));
                };
                send_file(tree, path, *size, packet.id, &send)?;
            }
            PacketType::PacketFin => {
                return send(Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() });
            }
            PacketType::PacketErr => {
                tracing::debug!("the engine ended a transfer: {}", String::from_utf8_lossy(&packet.data));
                return Err(Ended::Gone);
            }
            PacketType::PacketStat | PacketType::PacketData => {}
        }
    }
    Err(Ended::Gone)
}

fn send_file(
    tree: &dyn SourceTree,
    path: &str,
    size: u64,
    id: u32,
    send: &dyn Fn(Packet) -> Result<(), Ended>,
) -> Result<(), Ended> {
    let fault = |what: String| Ended::Fault(format!("{SOURCE_FAULT}: {path}: {what}"));
    let data = |data| Packet { r#type: PacketType::PacketData.into(), id, data, ..Packet::default() };
    // One byte more than there should be, to notice it.
    let mut file = tree.open(path).map_err(|error| fault(error.to_string()))?.take(size.saturating_add(1));
    let mut sent: u64 = 0;
    loop {
        let piece = usize::try_from(size - sent + 1).map_or(PIECE, |rest| rest.min(PIECE));
        let mut buffer = vec![0; piece];
        let length = file.read(&mut buffer).map_err(|error| fault(error.to_string()))?;
        if length == 0 {
            break;
        }
        sent += u64::try_from(length).unwrap_or(u64::MAX);
        if sent > size {
            return Err(fault(format!("it is longer than its {size} bytes")));
        }
        buffer.truncate(length);
        send(data(buffer))?;
    }
    if sent < size {
        return Err(fault(format!("it has {sent} bytes instead of {size}")));
    }
    send(data(Vec::new()))
}

/// An entry as the engine wants it. Owners are always root, so that layers are reproducible.
fn stat(entry: &TreeEntry, times: &Times) -> Stat {
    let mut mode = entry.mode & 0o777;
    for (bit, go) in [(0o4000, GO_SETUID), (0o2000, GO_SETGID), (0o1000, GO_STICKY)] {
        if entry.mode & bit != 0 {
            mode |= go;
        }
    }
    let mut mod_time = entry.mtime;
    let (kind, size, linkname) = match &entry.kind {
        TreeKind::File { size, digest } => {
            mod_time = times.served.time(&times.shared_key, &entry.path, mode, *size, mod_time, digest);
            (0, i64::try_from(*size).unwrap_or(i64::MAX), String::new())
        }
        TreeKind::Folder => (GO_FOLDER, 0, String::new()),
        TreeKind::Symlink { target } => (GO_SYMLINK, 0, target.clone()),
        TreeKind::Fifo => (GO_FIFO, 0, String::new()),
    };
    Stat { path: entry.path.clone(), mode: mode | kind, size, mod_time, linkname, ..Stat::default() }
}

/// All values of a key. With `KEY-encoded` beside it they are escaped as in a URL's query.
fn values(metadata: &MetadataMap, key: &str) -> Vec<String> {
    let encoded = metadata.get(format!("{key}-encoded")).is_some_and(|flag| flag.as_bytes() == b"1");
    let texts =
        metadata.get_all(key).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    if encoded { texts.map(|text| unescape(&text)).collect() } else { texts.collect() }
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (byte, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(value)) => {
                bytes.push(value);
                rest = &tail[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buildkit::tree::MemoryTree;

    /// What is sent for a tree when the engine asks for these entries and then is content.
    fn transfer(tree: &dyn SourceTree, paths: &[&str], ids: &[u32]) -> (Vec<Packet>, Option<String>) {
        let (packets, mut sent) = mpsc::channel(1000);
        let (ask, requests) = mpsc::unbounded_channel();
        for &id in ids {
            ask.send(Packet { r#type: PacketType::PacketReq.into(), id, ..Packet::default() }).unwrap();
        }
        ask.send(Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() }).unwrap();
        let paths: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
        let times = Times { served: Arc::default(), shared_key: String::new() };
        let fault = match send_tree(tree, &paths, &times, &packets, requests) {
            Ok(()) => None,
            Err(Ended::Gone) => Some(String::new()),
            Err(Ended::Fault(text)) => Some(text),
        };
        drop(packets);
        let mut list = Vec::new();
        while let Some(packet) = sent.blocking_recv() {
            list.push(packet.unwrap());
        }
        (list, fault)
    }

    #[test]
    fn a_transfer_lists_answers_and_ends() {
        let tree = MemoryTree::new([("a/x", 0o4755, vec![7; PIECE + 1]), ("b", 0o644, vec![])]);
        let (packets, fault) = transfer(&tree, &[], &[2, 1]);
        assert_eq!(fault, None);
        let kinds: Vec<_> = packets.iter().map(|p| (p.r#type(), p.id, p.data.len())).collect();
        use PacketType::{PacketData as Data, PacketFin as Fin, PacketStat as Stat};
        let stats = [(Stat, 0, 0); 4];
        assert_eq!(kinds[..4], stats);
        assert_eq!(kinds[4..], [(Data, 2, 0), (Data, 1, PIECE), (Data, 1, 1), (Data, 1, 0), (Fin, 0, 0)]);
        let modes: Vec<_> = packets[..3].iter().map(|p| p.stat.as_ref().unwrap().mode).collect();
        assert_eq!(modes, [GO_FOLDER | 0o755, GO_SETUID | 0o755, 0o644]);
    }

    #[test]
    fn only_what_is_followed_is_listed_and_numbered() {
        let tree = MemoryTree::new([("Dockerfile", 0o644, b"FROM x".to_vec()), ("a", 0o644, vec![])]);
        let (packets, fault) = transfer(&tree, &["a"], &[0]);
        assert_eq!((packets[0].stat.as_ref().unwrap().path.as_str(), fault), ("a", None));
    }

    #[test]
    fn a_file_that_changed_its_length_ends_the_transfer() {
        struct Liar(Vec<TreeEntry>);
        impl SourceTree for Liar {
            fn entries(&self) -> &[TreeEntry] {
                &self.0
            }
            fn open(&self, _: &str) -> std::io::Result<Box<dyn Read + Send>> {
                Ok(Box::new(std::io::Cursor::new([1, 2, 3])))
            }
        }
        for (size, text) in [(2, "longer"), (4, "3 bytes instead of 4")] {
            let kind = TreeKind::File { size, digest: farm_types::Digest::of(b"") };
            let tree = Liar(vec![TreeEntry { path: "f".into(), mode: 0o644, mtime: 0, kind }]);
            let fault = transfer(&tree, &[], &[0]).1.unwrap();
            assert!(fault.starts_with(SOURCE_FAULT) && fault.contains(text), "{fault}");
        }
        let tree = MemoryTree::new([("a/x", 0o644, vec![])]);
        assert!(transfer(&tree, &[], &[0]).1.unwrap().contains("not a file"));
        assert!(transfer(&tree, &[], &[9]).1.unwrap().contains("not a file"));
    }

    #[test]
    fn what_was_left_out_is_missing_only_when_it_is_asked_for() {
        let times = Times { served: Arc::default(), shared_key: String::new() };
        let part = Part { root: "context".into(), selection: Selection::of(["a", "*.c", ".dockerignore"]) };
        let files = Files::new(BTreeMap::new(), [("context".to_owned(), part)].into(), times);
        let asked = |name: &str, paths: &[&str]| {
            files.covers(name, &paths.iter().map(|&path| path.to_owned()).collect::<Vec<_>>())
        };
        assert!(
            asked("context", &[".dockerignore"]) && asked("context", &["a/b", "*.c"]) && asked("other", &[])
        );
        assert_eq!(files.missing().get(), None);
        assert!(!asked("context", &["a", "b"]) && !asked("context", &[]));
        let first = Missing { root: "context".into(), asked: "b".into() };
        assert_eq!(files.missing().get(), Some(&first));
    }

    #[test]
    fn escaped_values_are_read() {
        let mut metadata = MetadataMap::new();
        metadata.append("followpaths", "%C3%BC+d%2F%25".parse().unwrap());
        metadata.append("dir-name", "a+b".parse().unwrap());
        metadata.append("followpaths-encoded", "1".parse().unwrap());
        assert_eq!(values(&metadata, "followpaths"), ["ü d/%"]);
        assert_eq!(values(&metadata, "dir-name"), ["a+b"]);
        assert_eq!(unescape("100%"), "100%");
    }
}
