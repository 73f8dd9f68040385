//! Against a FAKE SnapshotService that keeps objects in memory. The real one is exercised end to end
//! elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use farm_proto::v1::snapshot_service_server::{SnapshotService, SnapshotServiceServer};
use farm_proto::v1::upload_objects_request::Part;
use farm_proto::v1::{ObjectKind, SnapshotRoot};
use farm_proto::{MAX_MESSAGE_BYTES, PIECE_BYTES};
use farm_source::upload::{PACK_BYTES, SESSIONS};
use farm_source::{Always, Disk, Location, Surroundings, read};
use farm_types::Digest;
use farm_types::snapshot::{Folder, names};
use tonic::{Request, Response, Status, Streaming};

use super::*;

#[derive(Default)]
struct Kept {
    /// Bytes, and the content digest of folders.
    objects: HashMap<Digest, (Vec<u8>, Option<Digest>)>,
    /// Digests of each question.
    asked: Vec<usize>,
    sessions: usize,
    messages: Vec<usize>,
    /// The stream breaks behind so many messages, once.
    break_after: Option<usize>,
    wrong_name: bool,
    /// It is asked for roots only when the session is there, as farms of an earlier version were.
    ignores_roots: bool,
    max_file_bytes: u64,
    /// So many sessions are too many for the moment.
    busy: usize,
    /// The same of calls that bring objects.
    busy_objects: usize,
}

impl Kept {
    fn has(&self, raw: &[u8]) -> bool {
        self.objects.contains_key(&Digest::try_from(raw).unwrap())
    }

    fn named(&self, roots: Vec<SnapshotRoot>) -> FinishUploadResponse {
        let one = |root: SnapshotRoot| {
            let tree = Digest::try_from(&root.tree[..]).unwrap();
            (root.name, (tree, self.objects[&tree].1.unwrap()))
        };
        let (tree_id, content_key) = names(&roots.into_iter().map(one).collect::<BTreeMap<_, _>>());
        let tree_id = if self.wrong_name { content_key } else { tree_id };
        FinishUploadResponse { tree_id: tree_id.to_string(), content_key: content_key.to_string() }
    }
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Kept>>);

impl Fake {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }

    fn put(&self, digest: &[u8], kind: ObjectKind, data: &[u8]) -> Result<(), Status> {
        let digest = Digest::try_from(digest).unwrap();
        assert_eq!(Digest::of(data), digest);
        let mut kept = self.kept();
        let content = match kind {
            ObjectKind::Folder => {
                let folder = Folder::decode(data).unwrap();
                for child in folder.children() {
                    assert!(
                        kept.objects.contains_key(&child),
                        "{child} comes behind the folder that names it"
                    );
                }
                Some(folder.content_digest())
            }
            _ => None,
        };
        assert!(kept.objects.insert(digest, (data.to_vec(), content)).is_none(), "{digest} was sent twice");
        Ok(())
    }
}

#[tonic::async_trait]
impl SnapshotService for Fake {
    async fn open_upload(
        &self,
        request: Request<OpenUploadRequest>,
    ) -> Result<Response<OpenUploadResponse>, Status> {
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer t0ken");
        let mut kept = self.kept();
        if kept.busy > 0 {
            kept.busy -= 1;
            return Err(farm_client::busy("too many calls", Duration::from_secs(1)));
        }
        kept.sessions += 1;
        let max_file_bytes = kept.max_file_bytes;
        let upload_id = format!("u{}", kept.sessions);
        let roots = if kept.ignores_roots { Vec::new() } else { request.into_inner().roots };
        let trees: Vec<Bytes> = roots.iter().map(|root| root.tree.clone()).collect();
        let missing: Vec<Bytes> = trees.into_iter().filter(|tree| !kept.has(tree)).collect();
        let snapshot = (!roots.is_empty() && missing.is_empty()).then(|| kept.named(roots));
        Ok(Response::new(OpenUploadResponse {
            upload_id,
            max_file_bytes,
            expires_seconds: 600,
            snapshot,
            missing,
        }))
    }

    async fn find_missing(
        &self,
        request: Request<FindMissingRequest>,
    ) -> Result<Response<FindMissingResponse>, Status> {
        let digests = request.into_inner().digests;
        let mut kept = self.kept();
        kept.asked.push(digests.len());
        let missing = digests.iter().filter(|raw| !kept.has(raw)).cloned().collect();
        Ok(Response::new(FindMissingResponse { missing }))
    }

    async fn upload_objects(
        &self,
        request: Request<Streaming<UploadObjectsRequest>>,
    ) -> Result<Response<UploadObjectsResponse>, Status> {
        let busy = self.kept().busy_objects;
        if busy > 0 {
            self.kept().busy_objects = busy - 1;
            return Err(farm_client::busy("too many calls", Duration::from_secs(1)));
        }
        let mut stream = request.into_inner();
        let mut file: Vec<u8> = Vec::new();
        let mut first = true;
        let mut count = 0;
        while let Some(message) = stream.message().await? {
            assert_eq!(
                message.upload_id.is_empty(),
                !std::mem::take(&mut first),
                "the id is in the first message only"
            );
            if self.kept().break_after == Some(count) {
                self.kept().break_after = None;
                return Err(Status::unavailable("going down"));
            }
            count += 1;
            match message.part.unwrap() {
                Part::Pack(pack) => {
                    assert!(file.is_empty(), "a file's pieces follow each other");
                    let bytes = pack.objects.iter().map(|object| object.data.len()).sum();
                    self.kept().messages.push(bytes);
                    for object in pack.objects {
                        self.put(&object.digest, object.kind(), &object.data)?;
                    }
                }
                Part::Piece(piece) => {
                    self.kept().messages.push(piece.data.len());
                    file.extend_from_slice(&piece.data);
                    assert_eq!(piece.last, u64::try_from(file.len()) == Ok(piece.size));
                    if piece.last {
                        self.put(&piece.digest, ObjectKind::File, &std::mem::take(&mut file))?;
                    }
                }
            }
        }
        Ok(Response::new(UploadObjectsResponse { objects: 0, bytes: 0 }))
    }

    async fn finish_upload(
        &self,
        request: Request<FinishUploadRequest>,
    ) -> Result<Response<FinishUploadResponse>, Status> {
        Ok(Response::new(self.kept().named(request.into_inner().roots)))
    }
}

async fn served(fake: &Fake) -> Client {
    crate::testing::client(
        tonic::transport::Server::builder().add_service(
            SnapshotServiceServer::new(fake.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
        ),
    )
    .await
}

fn source(dir: &Path) -> Arc<Source> {
    let location = Location::find(dir.to_str().unwrap(), None, &BTreeMap::new()).unwrap();
    Arc::new(
        read(
            &location,
            &Surroundings {
                cache: None,
                now_ns: 0,
                files: &Disk,
                meant: None,
                known: None,
                goes_on: &Always,
            },
        )
        .unwrap(),
    )
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("Dockerfile"), "FROM x").unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/one"), "1").unwrap();
    fs::write(dir.path().join("a/same"), "1").unwrap();
    fs::write(dir.path().join("empty"), "").unwrap();
    dir
}

async fn no_pause(_: Duration) {}

#[tokio::test]
async fn only_what_is_missing_is_sent_and_an_unchanged_tree_takes_one_call() {
    let dir = folder();
    let fake = Fake::default();
    let client = served(&fake).await;
    let first = source(dir.path());
    let sending = Arc::new(Sending::default());
    assert_eq!(sending.bytes(), None);
    let done = upload(&client, &first, no_pause, &sending).await.unwrap();
    assert_eq!(sending.bytes(), Some((done.sent_bytes, done.sent_bytes)));
    assert_eq!((done.tree_id, done.content_key), first.names());
    assert_eq!((done.upload_id.as_str(), done.new_files), ("u1", 3));
    let stored: usize = fake.kept().objects.values().map(|(bytes, _)| bytes.len()).sum();
    assert_eq!(u64::try_from(stored), Ok(done.sent_bytes));
    // The opening named two roots; then Dockerfile, a, empty; then a/b and the content of both "1"s, which is asked once.
    assert_eq!(fake.kept().asked, [3, 2]);
    assert_eq!(fake.kept().messages.len(), 1);

    fake.kept().asked.clear();
    let again = upload(&client, &first, no_pause, &Arc::default()).await.unwrap();
    assert_eq!((again.new_files, again.sent_bytes), (0, 0));
    assert!(fake.kept().asked.is_empty());
    assert_eq!(fake.kept().messages.len(), 1);

    // A farm that wants to be asked is asked.
    fake.kept().ignores_roots = true;
    let asked = upload(&client, &first, no_pause, &Arc::default()).await.unwrap();
    assert_eq!((asked.new_files, asked.sent_bytes, fake.kept().asked.clone()), (0, 0, vec![2]));
    fake.kept().ignores_roots = false;

    fs::write(dir.path().join("a/b/one"), "changed").unwrap();
    let done = upload(&client, &source(dir.path()), no_pause, &Arc::default()).await.unwrap();
    assert_eq!(done.new_files, 1);
}

#[tokio::test]
async fn a_farm_that_has_too_many_calls_is_waited_for() {
    let dir = folder();
    let fake = Fake::default();
    let client = served(&fake).await;
    // The call itself waits.
    fake.kept().busy = 1;
    let done = upload(&client, &source(dir.path()), no_pause, &Arc::default()).await.unwrap();
    assert_eq!((done.upload_id.as_str(), fake.kept().busy), ("u1", 0));
    // A stream begins anew, in another session.
    let dir = folder();
    fs::write(dir.path().join("a/b/one"), "changed").unwrap();
    fake.kept().busy_objects = 2 * usize::try_from(SESSIONS).unwrap();
    let done = upload(&client, &source(dir.path()), no_pause, &Arc::default()).await.unwrap();
    assert_eq!((done.new_files, fake.kept().busy_objects), (1, 0));
}

#[tokio::test]
async fn large_files_travel_in_pieces_and_small_ones_in_packs() {
    let dir = folder();
    fs::write(dir.path().join("large"), vec![7; PIECE_BYTES * 2 + 5]).unwrap();
    for i in 0..40 {
        fs::write(dir.path().join(format!("small{i}")), vec![i; 64 * 1024]).unwrap();
    }
    let fake = Fake::default();
    let done = upload(&served(&fake).await, &source(dir.path()), no_pause, &Arc::default()).await.unwrap();
    assert_eq!(done.new_files, 44);
    let kept = fake.kept();
    assert!(kept.messages.iter().all(|bytes| *bytes <= PACK_BYTES), "{:?}", kept.messages);
    assert!(kept.messages.contains(&PIECE_BYTES) && kept.messages.contains(&5));
    assert!(kept.messages.len() < 12, "{:?}", kept.messages);
}

#[tokio::test]
async fn a_broken_connection_begins_a_session_that_goes_on_where_the_last_ended() {
    let dir = folder();
    fs::write(dir.path().join("large"), vec![7; PIECE_BYTES * 8]).unwrap();
    fs::write(dir.path().join("larger"), vec![8; PIECE_BYTES * 9]).unwrap();
    let fake = Fake::default();
    fake.kept().break_after = Some(12);
    let waits = Mutex::new(Vec::new());
    let client = served(&fake).await;
    let sending = Arc::new(Sending::default());
    let pause = async |wait| waits.lock().unwrap().push(wait);
    let done = upload(&client, &source(dir.path()), pause, &sending).await.unwrap();
    // What a session that broke has sent counts, too.
    let (sent, total) = sending.bytes().unwrap();
    assert!(sent == total && total >= done.sent_bytes, "{sent} of {total}, {done:?}");
    assert_eq!((done.upload_id.as_str(), done.new_files), ("u2", 5));
    assert_eq!(*waits.lock().unwrap(), [Duration::from_millis(500)]);
}

#[tokio::test]
async fn a_file_that_has_changed_since_it_was_read_ends_the_upload_and_is_named() {
    for large in [false, true] {
        let dir = folder();
        let path = dir.path().join("restless");
        let length = if large { PIECE_BYTES } else { 10 };
        fs::write(&path, vec![1; length]).unwrap();
        let read = source(dir.path());
        fs::write(&path, vec![2; length]).unwrap();
        let error =
            upload(&served(&Fake::default()).await, &read, no_pause, &Arc::default()).await.unwrap_err();
        assert!(matches!(&error, Error::Changed(text) if text.starts_with("restless changed")), "{error}");
        fs::remove_file(&path).unwrap();
        let error =
            upload(&served(&Fake::default()).await, &read, no_pause, &Arc::default()).await.unwrap_err();
        assert!(matches!(&error, Error::Changed(_)), "{error}");
    }
}

#[tokio::test]
async fn a_farm_that_names_the_snapshot_otherwise_is_not_believed() {
    let dir = folder();
    let fake = Fake::default();
    fake.kept().wrong_name = true;
    let error =
        upload(&served(&fake).await, &source(dir.path()), no_pause, &Arc::default()).await.unwrap_err();
    assert!(error.to_string().contains("versions that don't go together"), "{error}");
}

#[tokio::test]
async fn a_file_that_the_farm_does_not_take_is_named_before_anything_is_sent() {
    let dir = folder();
    fs::write(dir.path().join("huge"), vec![7; 1000]).unwrap();
    let fake = Fake::default();
    fake.kept().max_file_bytes = 999;
    let error =
        upload(&served(&fake).await, &source(dir.path()), no_pause, &Arc::default()).await.unwrap_err();
    assert!(error.exit().code() == 2 && error.to_string().contains("huge has 1000 bytes"), "{error}");
    assert!(fake.kept().messages.is_empty());
}
