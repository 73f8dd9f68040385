//! Source trees: objects, upload sessions that pin them, snapshots and their roots.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use farm_types::snapshot::{self, Folder};
use farm_types::{Digest, FetchedRoot, ProjectId, SnapshotRef, UploadId};
use uuid::Uuid;

use crate::pool::Session;
use crate::{Result, Store, StoreError, digest, fit};

/// What one root may unfold to: a few small folders that name each other twice would unfold without end.
const MAX_ENTRIES: i64 = 2_000_000;
/// How often objects are inserted that are swept at the same moment.
const TRIES: usize = 3;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// A file's content.
    File,
    /// A folder's entries.
    Folder,
}

impl ObjectKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Folder => "folder",
        }
    }
}

/// An object that was written to the blob store and is to be known.
#[derive(Debug, Clone)]
pub struct NewObject {
    /// Its name.
    pub digest: Digest,
    /// What it is.
    pub kind: ObjectKind,
    /// Bytes.
    pub size: u64,
    /// The pack that it lies in, and where; `None`: it is a blob of its own.
    pub place: Option<(Uuid, u64)>,
    /// The objects that it names.
    pub children: Vec<Digest>,
}

/// Where an object's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Bytes.
    pub size: u64,
    /// The pack and the offset in it; `None`: a blob of its own.
    pub place: Option<(Uuid, u64)>,
}

/// A session that was opened, and what is known of the snapshot that it is for.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The session.
    pub upload: UploadId,
    /// Of the roots' trees those that are not there.
    pub missing: Vec<Digest>,
    /// The snapshot, if it was there before as a whole.
    pub snapshot: Option<SnapshotRef>,
}

/// A root of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// `context`, `dockerfile` or `context:NAME`.
    pub name: String,
    /// The tree digest of its folder.
    pub tree: Digest,
}

impl Store {
    /// Opens an upload session for a snapshot of these roots (name, tree), which may be none. What of them is there is
    /// pinned; a snapshot that is known as a whole is the session's at once.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn open_upload(
        &self,
        project: ProjectId,
        created_by: &str,
        lives: Duration,
        roots: &BTreeMap<String, Digest>,
    ) -> Result<Opened> {
        let upload = UploadId::generate();
        let tree_id = snapshot::tree_id(roots);
        let mut tx = self.begin().await?;
        sqlx::query!(
            "INSERT INTO uploads (project_id, id, created_by, expires_at)
             VALUES ($1, $2, $3, farm_now() + make_interval(secs => $4))",
            project.as_uuid(),
            upload.as_uuid(),
            created_by,
            lives.as_secs_f64()
        )
        .execute(&mut *tx)
        .await?;
        let asked: HashSet<Digest> = roots.values().copied().collect();
        let mut opened = Opened { upload, missing: asked.iter().copied().collect(), snapshot: None };
        if !asked.is_empty() {
            let present = pin(&mut tx, project, upload, &opened.missing).await?;
            opened.missing.retain(|root| !present.contains_key(root));
            if opened.missing.is_empty() {
                opened.snapshot = sqlx::query_scalar!(
                    "WITH known AS (UPDATE snapshots SET last_used_at = farm_now()
                                    WHERE project_id = $1 AND tree_id = $3 RETURNING content_key),
                     taken AS (UPDATE uploads SET tree_id = $3
                               WHERE project_id = $1 AND id = $2 AND EXISTS (SELECT FROM known))
                     SELECT content_key FROM known",
                    project.as_uuid(),
                    upload.as_uuid(),
                    &tree_id.as_bytes()[..]
                )
                .fetch_optional(&mut *tx)
                .await?
                .map(|content_key| {
                    Ok::<_, StoreError>(SnapshotRef { tree_id, content_key: digest(&content_key)? })
                })
                .transpose()?;
            }
        }
        tx.commit().await?;
        Ok(opened)
    }

    /// Lengthens a live session.
    ///
    /// # Errors
    /// The session has expired, or never was.
    pub async fn renew_upload(&self, project: ProjectId, upload: UploadId, lives: Duration) -> Result<()> {
        let renewed = sqlx::query!(
            "UPDATE uploads SET expires_at = farm_now() + make_interval(secs => $3)
             WHERE project_id = $1 AND id = $2 AND expires_at > farm_now()",
            project.as_uuid(),
            upload.as_uuid(),
            lives.as_secs_f64()
        )
        .execute(&self.pool)
        .await?;
        if renewed.rows_affected() == 1 { Ok(()) } else { Err(StoreError::NotFound("upload session")) }
    }

    /// Which of these objects are there, and how much each unfolds to; they are pinned for the session.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn pin_present(
        &self,
        project: ProjectId,
        upload: UploadId,
        digests: &[Digest],
    ) -> Result<HashMap<Digest, i64>> {
        pin(&mut self.pool.acquire().await?, project, upload, digests).await
    }

    /// Makes written objects known, in their order, and pins them for the session.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when an object names one that is neither there nor before it.
    pub async fn add_objects(
        &self,
        project: ProjectId,
        upload: UploadId,
        objects: &[NewObject],
    ) -> Result<()> {
        let own: HashSet<Digest> = objects.iter().map(|o| o.digest).collect();
        let foreign: Vec<Digest> = objects
            .iter()
            .flat_map(|o| o.children.iter().copied())
            .filter(|child| !own.contains(child))
            .collect::<HashSet<_>>()
            .into_iter()
            .collect();
        // How much each known object unfolds to.
        let mut known = self.pin_present(project, upload, &foreign).await?;
        let mut unfolded = Vec::with_capacity(objects.len());
        for object in objects {
            let mut entries: i64 = 0;
            for child in &object.children {
                let below = known.get(child).ok_or_else(|| {
                    StoreError::Conflict(format!(
                        "the folder {} names {}, which is not there; send children first",
                        object.digest.short(),
                        child.short()
                    ))
                })?;
                entries = entries.saturating_add(below.saturating_add(1));
            }
            if entries > MAX_ENTRIES {
                return Err(StoreError::Conflict(format!(
                    "the folder {} unfolds to more than {MAX_ENTRIES} files and folders, which is more than the \
                     farm takes",
                    object.digest.short()
                )));
            }
            known.insert(object.digest, entries);
            unfolded.push(entries);
        }
        // In one order, so that two uploads of the same objects never wait for each other in a circle.
        let mut rows: Vec<(&NewObject, i64)> = objects.iter().zip(unfolded).collect();
        rows.sort_by_key(|(object, _)| object.digest);
        let named: HashSet<Digest> = objects.iter().map(|object| object.digest).collect();
        let named: Vec<Digest> = named.into_iter().collect();
        for _ in 0..TRIES {
            let mut tx = self.begin().await?;
            insert(&mut tx, project, &rows).await?;
            // An object that was there and is being swept at this moment is not inserted, and then is gone. This look waits
            // for the sweep.
            if pin(&mut tx, project, upload, &named).await?.len() == named.len() {
                tx.commit().await?;
                return Ok(());
            }
        }
        Err(StoreError::Stale("what was uploaded is being swept; upload it again"))
    }

    /// Where these objects' bytes are; what isn't there is left out.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn locate(&self, project: ProjectId, digests: &[Digest]) -> Result<HashMap<Digest, Location>> {
        let wanted: Vec<Vec<u8>> = digests.iter().map(|d| d.as_bytes().to_vec()).collect();
        let rows = sqlx::query!(
            "SELECT digest, size, pack, pack_offset FROM objects WHERE project_id = $1 AND digest = ANY($2)",
            project.as_uuid(),
            &wanted
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                let place = match (row.pack, row.pack_offset) {
                    (Some(pack), Some(offset)) => Some((pack, fit(offset)?)),
                    _ => None,
                };
                Ok((digest(&row.digest)?, Location { size: fit(row.size)?, place }))
            })
            .collect()
    }

    /// Names the snapshot of these roots (root name, tree digest, and the folder itself), and keeps it.
    ///
    /// # Errors
    /// The session has expired, or a root isn't there.
    pub async fn finish_upload(
        &self,
        project: ProjectId,
        upload: UploadId,
        roots: &[(String, Digest, Folder)],
    ) -> Result<SnapshotRef> {
        let digests: BTreeMap<String, (Digest, Digest)> = roots
            .iter()
            .map(|(name, tree, folder)| (name.clone(), (*tree, folder.content_digest())))
            .collect();
        let (tree_id, content_key) = snapshot::names(&digests);
        let mut tx = self.begin().await?;
        let open = sqlx::query!(
            "UPDATE uploads SET tree_id = $3 WHERE project_id = $1 AND id = $2 AND expires_at > farm_now()",
            project.as_uuid(),
            upload.as_uuid(),
            &tree_id.as_bytes()[..]
        )
        .execute(&mut *tx)
        .await?;
        if open.rows_affected() != 1 {
            return Err(StoreError::NotFound("upload session"));
        }
        sqlx::query!(
            "INSERT INTO snapshots (project_id, tree_id, content_key) VALUES ($1, $2, $3)
             ON CONFLICT (project_id, tree_id) DO UPDATE SET last_used_at = farm_now()",
            project.as_uuid(),
            &tree_id.as_bytes()[..],
            &content_key.as_bytes()[..]
        )
        .execute(&mut *tx)
        .await?;
        for (name, (tree, content)) in &digests {
            sqlx::query!(
                "INSERT INTO snapshot_roots (project_id, tree_id, name, tree, content)
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
                project.as_uuid(),
                &tree_id.as_bytes()[..],
                name,
                &tree.as_bytes()[..],
                &content.as_bytes()[..]
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(SnapshotRef { tree_id, content_key })
    }

    /// The roots of a snapshot of this content with the digests of their folders, if it is there.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn fetched_roots(
        &self,
        project: ProjectId,
        snapshot: &SnapshotRef,
    ) -> Result<BTreeMap<String, FetchedRoot>> {
        let rows = sqlx::query!(
            "SELECT r.name, r.tree, r.content FROM snapshots s
             JOIN snapshot_roots r ON r.project_id = s.project_id AND r.tree_id = s.tree_id
             WHERE s.project_id = $1 AND s.tree_id = $2 AND s.content_key = $3",
            project.as_uuid(),
            &snapshot.tree_id.as_bytes()[..],
            &snapshot.content_key.as_bytes()[..]
        )
        .fetch_all(&self.pool)
        .await?;
        let root = |tree: &[u8], content: &[u8]| -> Result<FetchedRoot> {
            Ok(FetchedRoot { tree: digest(tree)?, content: digest(content)? })
        };
        rows.into_iter().map(|row| Ok((row.name, root(&row.tree, &row.content)?))).collect()
    }

    /// The roots of a snapshot.
    ///
    /// # Errors
    /// There is no such snapshot.
    pub async fn roots(&self, project: ProjectId, tree_id: Digest) -> Result<Vec<Root>> {
        let rows = sqlx::query!(
            "SELECT name, tree FROM snapshot_roots WHERE project_id = $1 AND tree_id = $2 ORDER BY name",
            project.as_uuid(),
            &tree_id.as_bytes()[..]
        )
        .fetch_all(&self.pool)
        .await?;
        if rows.is_empty() {
            return Err(StoreError::NotFound("snapshot"));
        }
        rows.into_iter().map(|row| Ok(Root { name: row.name, tree: digest(&row.tree)? })).collect()
    }
}

/// Names the snapshot of no roots, which a fetch has at first.
pub(crate) async fn name_nothing(tx: &mut crate::Tx, project: ProjectId) -> Result<()> {
    let none = SnapshotRef::none();
    sqlx::query!(
        "INSERT INTO snapshots (project_id, tree_id, content_key) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        project.as_uuid(),
        &none.tree_id.as_bytes()[..],
        &none.content_key.as_bytes()[..]
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Inserts those of these objects that aren't there.
async fn insert(tx: &mut crate::Tx, project: ProjectId, rows: &[(&NewObject, i64)]) -> Result<()> {
    for (object, entries) in rows {
        let bytes = &object.digest.as_bytes()[..];
        let (pack, offset) = match object.place {
            Some((pack, offset)) => (Some(pack), Some(fit::<u64, i64>(offset)?)),
            None => (None, None),
        };
        sqlx::query!(
            "INSERT INTO objects (project_id, digest, kind, size, pack, pack_offset, entries)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
            project.as_uuid(),
            bytes,
            object.kind.as_str(),
            fit::<u64, i64>(object.size)?,
            pack,
            offset,
            entries
        )
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// Pins those of these objects that are there; answers them, and how much each unfolds to.
async fn pin(
    session: &mut Session,
    project: ProjectId,
    upload: UploadId,
    digests: &[Digest],
) -> Result<HashMap<Digest, i64>> {
    let wanted: Vec<Vec<u8>> = digests.iter().map(|d| d.as_bytes().to_vec()).collect();
    let present = sqlx::query!(
        "WITH present AS (SELECT digest, entries FROM objects WHERE project_id = $1 AND digest = ANY($3)
                          ORDER BY digest FOR SHARE),
         pinned AS (INSERT INTO upload_pins (project_id, upload_id, digest)
                    SELECT $1, $2, digest FROM present ON CONFLICT DO NOTHING)
         SELECT digest, entries FROM present",
        project.as_uuid(),
        upload.as_uuid(),
        &wanted
    )
    .fetch_all(session)
    .await?;
    present.into_iter().map(|row| Ok((digest(&row.digest)?, row.entries))).collect()
}
