//! How objects of a source come in, whoever brings them: a command, or the worker of a fetch.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use farm_proto::v1;
use farm_proto::v1::upload_objects_request::Part;
use farm_store::logs::seal::BlobKind;
use farm_store::sources::snapshots::{NewObject, ObjectKind};
use farm_types::snapshot::{Folder, Node, ROOT_CONTEXT, ROOT_DOCKERFILE};
use farm_types::{Digest, ProjectId, SnapshotRef, UploadId};
use futures::{Stream, StreamExt as _};
use tonic::Status;

use super::status;
use crate::blobs::FileWriter;
use crate::shared::Shared;

/// How many digests one FindMissing may name.
const MAX_DIGESTS: usize = 10_000;
/// How many roots (build contexts, Dockerfile) one snapshot may have.
const MAX_ROOTS: usize = 64;

/// What one caller brings into one project.
pub struct Uploads<'a> {
    pub shared: &'a Shared,
    /// Into which.
    pub project: ProjectId,
    /// Who brings it.
    pub by: &'a str,
    /// It is for a build, so it has the root `dockerfile`.
    pub needs_dockerfile: bool,
}

impl Uploads<'_> {
    /// Opens a session.
    pub async fn open(&self, request: v1::OpenUploadRequest) -> Result<v1::OpenUploadResponse, Status> {
        let roots = named_roots(request.roots)?;
        let opened = self.shared.store.open_upload(self.project, self.by, self.lives(), &roots).await;
        let opened = opened.map_err(status::store)?;
        let snapshot = match opened.snapshot {
            None if !roots.is_empty() && opened.missing.is_empty() => {
                Some(self.name_snapshot(opened.upload, roots).await?)
            }
            known => known,
        };
        Ok(v1::OpenUploadResponse {
            upload_id: opened.upload.to_string(),
            max_file_bytes: self.shared.config.limits.max_file_bytes,
            expires_seconds: self.shared.config.limits.upload_session_seconds,
            snapshot: snapshot.as_ref().map(finished),
            missing: opened.missing.iter().map(|digest| digest.as_bytes().to_vec().into()).collect(),
        })
    }

    /// Says which objects aren't there, and pins the others.
    pub async fn find_missing(
        &self,
        request: v1::FindMissingRequest,
    ) -> Result<v1::FindMissingResponse, Status> {
        if request.digests.len() > MAX_DIGESTS {
            return Err(Status::invalid_argument(format!("ask for at most {MAX_DIGESTS} digests at once")));
        }
        let upload = self.renew(&request.upload_id).await?;
        let asked: Vec<Digest> =
            request.digests.iter().map(|bytes| digest(bytes)).collect::<Result<_, _>>()?;
        let present =
            self.shared.store.pin_present(self.project, upload, &asked).await.map_err(status::store)?;
        let missing = asked
            .iter()
            .filter(|digest| !present.contains_key(digest))
            .map(|digest| digest.as_bytes().to_vec().into())
            .collect();
        Ok(v1::FindMissingResponse { missing })
    }

    /// Keeps what comes.
    pub async fn objects(
        &self,
        mut stream: impl Stream<Item = Result<v1::UploadObjectsRequest, Status>> + Unpin,
    ) -> Result<v1::UploadObjectsResponse, Status> {
        let mut upload: Option<UploadId> = None;
        let mut file: Option<FileWriter> = None;
        let (mut objects, mut bytes) = (0, 0);
        let room = self.shared.store.room(self.project).await.map_err(status::store)?;
        while let Some(message) = stream.next().await.transpose()? {
            let id = match upload {
                Some(id) => id,
                None => *upload.insert(self.renew(&message.upload_id).await?),
            };
            match message.part {
                Some(Part::Pack(pack)) if file.is_none() => {
                    let length = pack.objects.iter().map(|object| length(object.data.len())).sum();
                    has_room(room, bytes, length)?;
                    let (count, size) = self.keep_pack(id, pack).await?;
                    objects += count;
                    bytes += size;
                }
                Some(Part::Piece(piece)) => {
                    let digest = digest(&piece.digest)?;
                    let mut writer = match file.take() {
                        Some(writer) if writer.digest() == digest => writer,
                        Some(_) => {
                            return Err(Status::invalid_argument("a file's pieces must follow each other"));
                        }
                        None => {
                            let limit = self.shared.config.limits.max_file_bytes;
                            if piece.size > limit {
                                return Err(Status::invalid_argument(format!(
                                    "a file of {} bytes is too long; the farm takes {limit}",
                                    piece.size
                                )));
                            }
                            has_room(room, bytes, piece.size)?;
                            self.begin_file(digest, piece.size).await?
                        }
                    };
                    writer.write(&piece.data).await.map_err(status::file)?;
                    if piece.last {
                        bytes += self.keep_file(id, writer).await?;
                        objects += 1;
                    } else {
                        file = Some(writer);
                    }
                }
                Some(Part::Pack(_)) | None => {
                    return Err(Status::invalid_argument("a file's pieces must follow each other"));
                }
            }
        }
        if file.is_some() {
            return Err(Status::invalid_argument("the last file has no end"));
        }
        Ok(v1::UploadObjectsResponse { objects, bytes })
    }

    /// Names the snapshot of these roots.
    pub async fn finish(&self, request: v1::FinishUploadRequest) -> Result<v1::FinishUploadResponse, Status> {
        let upload = self.renew(&request.upload_id).await?;
        let roots = named_roots(request.roots)?;
        let snapshot = self.name_snapshot(upload, roots).await?;
        Ok(finished(&snapshot))
    }

    fn lives(&self) -> Duration {
        Duration::from_secs(self.shared.config.limits.upload_session_seconds.into())
    }

    async fn renew(&self, upload: &str) -> Result<UploadId, Status> {
        let upload: UploadId = upload.parse().map_err(status::invalid)?;
        self.shared.store.renew_upload(self.project, upload, self.lives()).await.map_err(
            |error| match error {
                farm_store::StoreError::NotFound(_) => {
                    Status::failed_precondition("the upload session has expired; open another one")
                }
                other => status::store(other),
            },
        )?;
        Ok(upload)
    }

    /// Keeps a pack's objects: checked, written as one blob, then made known.
    async fn keep_pack(&self, upload: UploadId, pack: v1::Pack) -> Result<(u64, u64), Status> {
        let store = &self.shared.store;
        let id = store.name_blob(self.project, BlobKind::Pack).await.map_err(status::store)?;
        let mut bytes = Vec::new();
        let mut objects = Vec::with_capacity(pack.objects.len());
        let mut folders = HashMap::new();
        for object in pack.objects {
            let digest = digest(&object.digest)?;
            if Digest::of(&object.data) != digest {
                return Err(Status::invalid_argument(format!("the object {digest} has another digest")));
            }
            let (kind, children) = match object.kind() {
                v1::ObjectKind::File => (ObjectKind::File, Vec::new()),
                v1::ObjectKind::Folder => {
                    let folder = Folder::decode(&object.data).map_err(status::invalid)?;
                    let children = folder.children().collect();
                    self.check_contents(&folder, &folders).await?;
                    folders.insert(digest, folder);
                    (ObjectKind::Folder, children)
                }
                v1::ObjectKind::Unspecified => {
                    return Err(Status::invalid_argument("an object is a file or a folder"));
                }
            };
            let place = Some((id, length(bytes.len())));
            objects.push(NewObject { digest, kind, size: length(object.data.len()), place, children });
            bytes.extend_from_slice(&object.data);
        }
        let sum = (length(objects.len()), length(bytes.len()));
        self.shared.blobs.put(self.project, BlobKind::Pack, id, bytes.into()).await.map_err(status::blobs)?;
        store.add_objects(self.project, upload, &objects).await.map_err(incomplete)?;
        Ok(sum)
    }

    async fn begin_file(&self, digest: Digest, size: u64) -> Result<FileWriter, Status> {
        let blob = self.shared.store.name_blob(self.project, BlobKind::Pack).await.map_err(status::store)?;
        self.shared.blobs.begin_file(self.project, blob, digest, size).await.map_err(status::blobs)
    }

    async fn keep_file(&self, upload: UploadId, file: FileWriter) -> Result<u64, Status> {
        let (digest, size, place) = (file.digest(), file.size(), Some((file.blob(), 0)));
        file.finish().await.map_err(status::file)?;
        let object = NewObject { digest, kind: ObjectKind::File, size, place, children: Vec::new() };
        self.shared.store.add_objects(self.project, upload, &[object]).await.map_err(incomplete)?;
        Ok(size)
    }

    /// Checks that a folder says of each sub-folder what its content digest is: the content key of a snapshot
    /// follows from them. `packed` are the folders that came before it in its pack.
    async fn check_contents(&self, folder: &Folder, packed: &HashMap<Digest, Folder>) -> Result<(), Status> {
        for entry in &folder.entries {
            let Node::Folder { tree, content } = &entry.node else { continue };
            let found = match packed.get(tree) {
                Some(below) => below.content_digest(),
                None => self.folder(*tree).await?.content_digest(),
            };
            if found != *content {
                return Err(Status::invalid_argument(format!(
                    "the folder {:?} has another content digest than the folder above it says",
                    entry.name
                )));
            }
        }
        Ok(())
    }

    /// Names the snapshot of these roots, all of which must be there.
    async fn name_snapshot(
        &self,
        upload: UploadId,
        roots: BTreeMap<String, Digest>,
    ) -> Result<SnapshotRef, Status> {
        if self.needs_dockerfile && !roots.contains_key(ROOT_DOCKERFILE) {
            return Err(Status::invalid_argument("a snapshot needs the root `dockerfile`"));
        }
        let mut read = Vec::with_capacity(roots.len());
        for (name, tree) in roots {
            let folder = self.folder(tree).await?;
            read.push((name, tree, folder));
        }
        self.shared.store.finish_upload(self.project, upload, &read).await.map_err(status::store)
    }

    /// Reads a stored folder.
    async fn folder(&self, tree: Digest) -> Result<Folder, Status> {
        let found = self.shared.store.locate(self.project, &[tree]).await.map_err(status::store)?;
        let location = found.get(&tree).ok_or_else(|| {
            Status::failed_precondition(format!(
                "the folder {} is not there; send children first",
                tree.short()
            ))
        })?;
        let bytes = self.shared.blobs.read_all(self.project, tree, *location).await.map_err(status::blobs)?;
        Folder::decode(&bytes).map_err(status::invalid)
    }
}

fn length(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn digest(bytes: &[u8]) -> Result<Digest, Status> {
    Digest::try_from(bytes).map_err(status::invalid)
}

fn incomplete(error: farm_store::StoreError) -> Status {
    match error {
        farm_store::StoreError::Conflict(why) => Status::failed_precondition(why),
        other => status::store(other),
    }
}

/// Whether so many bytes more are within what the project may bring.
fn has_room(room: Option<u64>, brought: u64, more: u64) -> Result<(), Status> {
    match room {
        Some(room) if brought.saturating_add(more) > room => Err(Status::resource_exhausted(format!(
            "this source is longer than what the project may still bring ({room} bytes); its limit is in `farm project show`, and \
             an admin of the farm can raise it: farm project set --max-stored-bytes"
        ))),
        _ => Ok(()),
    }
}

fn finished(snapshot: &SnapshotRef) -> v1::FinishUploadResponse {
    v1::FinishUploadResponse {
        tree_id: snapshot.tree_id.to_string(),
        content_key: snapshot.content_key.to_string(),
    }
}

/// The roots of a request by name, if a snapshot can have them.
fn named_roots(roots: Vec<v1::SnapshotRoot>) -> Result<BTreeMap<String, Digest>, Status> {
    if roots.len() > MAX_ROOTS {
        return Err(Status::invalid_argument(format!("a snapshot has at most {MAX_ROOTS} roots")));
    }
    let mut named = BTreeMap::new();
    for root in roots {
        if ![ROOT_CONTEXT, ROOT_DOCKERFILE].contains(&root.name.as_str())
            && !root.name.starts_with("context:")
        {
            return Err(Status::invalid_argument(format!("{:?} is no root of a snapshot", root.name)));
        }
        if named.insert(root.name.clone(), digest(&root.tree)?).is_some() {
            return Err(Status::invalid_argument(format!("the root {:?} is named twice", root.name)));
        }
    }
    Ok(named)
}
