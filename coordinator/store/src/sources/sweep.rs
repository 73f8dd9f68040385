//! Objects and blobs that nobody needs.
//!
//! Which objects are needed is told by walking down from the roots of all snapshots and from all that upload sessions were
//! told is there; that is the caller's, as folders are bytes. Between the walk and a removal somebody may be told "it is
//! there" of an object that the walk did not meet. So an object is removed only after all that name it (they unfold to more:
//! `objects.entries`), under locks that such an answer takes as well, and after a look whether it was given.

use std::time::Duration;

use farm_types::{Digest, ProjectId};
use uuid::Uuid;

use crate::logs::seal::BlobKind;
use crate::machines::leader::Epoch;
use crate::pool::Session;
use crate::sources::snapshots::ObjectKind;
use crate::unreadable::readable;
use crate::{Result, Store, StoreError, digest};

/// An object, as far as the sweep asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Its name.
    pub digest: Digest,
    /// What it unfolds to. Whatever names it unfolds to more.
    pub entries: i64,
}

/// What [`Store::remove_objects`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// All of them are gone.
    Done,
    /// None is: of these somebody was told meanwhile that they are there.
    Wanted(Vec<(Digest, ObjectKind)>),
}

/// A blob whose bytes are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doomed {
    /// Whose.
    pub project: ProjectId,
    /// Its name among the doomed.
    pub id: Uuid,
    /// Where it lies.
    pub place: DoomedPlace,
}

/// Where a doomed blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoomedPlace {
    /// Under its own name.
    Named(BlobKind),
    /// Under its content's, as a file from before every blob had a name.
    File(Digest),
}

impl Store {
    /// Forgets upload sessions that ended longer than `grace` ago, and what they pinned; in transactions of `batch` rows, as a
    /// session may have pinned a million objects. Answers how many sessions.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn forget_uploads(&self, epoch: Epoch, grace: Duration, batch: i64) -> Result<u64> {
        let mut sessions = 0;
        loop {
            let mut tx = self.begin_leading(epoch).await?;
            let pins = sqlx::query!(
                "DELETE FROM upload_pins WHERE (project_id, upload_id, digest) IN (
                    SELECT p.project_id, p.upload_id, p.digest FROM uploads u
                    JOIN upload_pins p ON p.project_id = u.project_id AND p.upload_id = u.id
                    WHERE u.expires_at < farm_now() - make_interval(secs => $1) LIMIT $2)",
                grace.as_secs_f64(),
                batch
            )
            .execute(&mut *tx)
            .await?;
            let gone = sqlx::query!(
                "DELETE FROM uploads WHERE (project_id, id) IN (
                    SELECT project_id, id FROM uploads u WHERE expires_at < farm_now() - make_interval(secs => $1)
                    AND NOT EXISTS (SELECT FROM upload_pins p WHERE p.project_id = u.project_id AND p.upload_id = u.id)
                    LIMIT $2)",
                grace.as_secs_f64(),
                batch
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            sessions += gone.rows_affected();
            if pins.rows_affected() == 0 && gone.rows_affected() == 0 {
                return Ok(sessions);
            }
        }
    }

    /// The projects that have objects.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn projects_with_objects(&self) -> Result<Vec<ProjectId>> {
        let ids = sqlx::query_scalar!(
            "SELECT id FROM projects p WHERE EXISTS (SELECT FROM objects o WHERE o.project_id = p.id) ORDER BY id"
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(ids.into_iter().map(ProjectId::from).collect())
    }

    /// What a project needs by itself: the roots of its snapshots, and what upload sessions were told is there.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn needed_roots(&self, project: ProjectId) -> Result<Vec<(Digest, ObjectKind)>> {
        let rows = sqlx::query!(
            r#"SELECT DISTINCT o.digest, o.kind FROM objects o JOIN (
                    SELECT tree AS digest FROM snapshot_roots WHERE project_id = $1
                    UNION ALL SELECT digest FROM upload_pins WHERE project_id = $1) needed USING (digest)
               WHERE o.project_id = $1"#,
            project.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|row| Ok((digest(&row.digest)?, ObjectKind::of(&row.kind)?))).collect()
    }

    /// All objects of a project, those that unfold to most first.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn all_objects(&self, project: ProjectId) -> Result<Vec<Swept>> {
        let rows = sqlx::query!(
            "SELECT digest, entries FROM objects WHERE project_id = $1 ORDER BY entries DESC, digest",
            project.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|row| Ok(Swept { digest: digest(&row.digest)?, entries: row.entries })).collect()
    }

    /// Removes these objects, all of them or none. All that name them must be removed before, or with them.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn remove_objects(
        &self,
        epoch: Epoch,
        project: ProjectId,
        objects: &[Digest],
    ) -> Result<Removal> {
        let digests: Vec<Vec<u8>> = objects.iter().map(|d| d.as_bytes().to_vec()).collect();
        let mut tx = self.begin_leading(epoch).await?;
        // In the order in which an answer locks them.
        sqlx::query!(
            "SELECT digest FROM objects WHERE project_id = $1 AND digest = ANY($2) ORDER BY digest FOR UPDATE",
            project.as_uuid(),
            &digests
        )
        .fetch_all(&mut *tx)
        .await?;
        // A look of its own, after all locks: what was answered before them is seen, and nothing is answered until the end.
        let wanted = sqlx::query!(
            "SELECT digest, kind FROM objects o WHERE project_id = $1 AND digest = ANY($2) AND (
                EXISTS (SELECT FROM upload_pins p WHERE p.project_id = $1 AND p.digest = o.digest)
                OR EXISTS (SELECT FROM snapshot_roots r WHERE r.project_id = $1 AND r.tree = o.digest))",
            project.as_uuid(),
            &digests
        )
        .fetch_all(&mut *tx)
        .await?;
        if !wanted.is_empty() {
            let wanted = wanted.into_iter().map(|row| Ok((digest(&row.digest)?, ObjectKind::of(&row.kind)?)));
            return Ok(Removal::Wanted(wanted.collect::<Result<_>>()?));
        }
        sqlx::query!(
            "WITH gone AS (DELETE FROM objects WHERE project_id = $1 AND digest = ANY($2) RETURNING digest, pack, size),
             -- They may have been the last ones there.
             looked_at AS (UPDATE blobs SET settled = false
                           WHERE project_id = $1 AND id IN (SELECT pack FROM gone) AND settled)
             INSERT INTO doomed_blobs (project_id, id, kind, digest)
             SELECT $1, gen_random_uuid(), 'file', digest FROM gone WHERE pack IS NULL AND size > 0",
            project.as_uuid(),
            &digests
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Removal::Done)
    }

    /// Dooms at most `limit` blobs that were named longer than `grace` ago and that no row needs. Answers how many.
    ///
    /// Each blob is looked at once, and again when something that it was needed for went: so the cost follows what changed.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn doom_unneeded(&self, epoch: Epoch, grace: Duration, limit: i64) -> Result<usize> {
        loop {
            let mut tx = self.begin_leading(epoch).await?;
            let looked_at = sqlx::query!(
                r#"SELECT project_id, id, farm_blob_needed(project_id, id) AS "needed!" FROM blobs
                   WHERE NOT settled AND created_at < farm_now() - make_interval(secs => $1)
                   ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED"#,
                grace.as_secs_f64(),
                limit
            )
            .fetch_all(&mut *tx)
            .await?;
            let (needed, unneeded): (Vec<_>, Vec<_>) = looked_at.into_iter().partition(|row| row.needed);
            let (projects, blobs): (Vec<Uuid>, Vec<Uuid>) =
                unneeded.into_iter().map(|row| (row.project_id, row.id)).unzip();
            let doomed = doom(&mut tx, &projects, &blobs).await?;
            let (projects, blobs): (Vec<Uuid>, Vec<Uuid>) =
                needed.into_iter().map(|row| (row.project_id, row.id)).unzip();
            sqlx::query!(
                "UPDATE blobs b SET settled = true FROM unnest($1::uuid[], $2::uuid[]) AS seen (project_id, id)
                 WHERE b.project_id = seen.project_id AND b.id = seen.id AND NOT settled",
                &projects,
                &blobs
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            if doomed > 0 || blobs.is_empty() {
                return Ok(doomed);
            }
        }
    }

    /// At most `limit` blobs whose bytes are to go, without those that are put off.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn doomed(&self, put_off: &[Uuid], limit: i64) -> Result<Vec<Doomed>> {
        let rows = sqlx::query!(
            "SELECT project_id, id, kind, digest FROM doomed_blobs WHERE id <> ALL($2) ORDER BY doomed_at, id LIMIT $1",
            limit,
            put_off
        )
        .fetch_all(&self.pool)
        .await?;
        // A kind that a newer farm writes is buried by that one.
        let doomed = rows.into_iter().filter_map(|row| {
            let place = || {
                Ok(match (row.kind.as_str(), &row.digest) {
                    ("file", Some(bytes)) => DoomedPlace::File(digest(bytes)?),
                    (kind, _) => DoomedPlace::Named(BlobKind::of(kind)?),
                })
            };
            let place = readable("a blob that is to go", row.id, place())?;
            Some(Doomed { project: row.project_id.into(), id: row.id, place })
        });
        Ok(doomed.collect())
    }

    /// Forgets doomed blobs whose bytes are gone. Names no epoch: it is so, whoever found it out.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn buried(&self, gone: &[Doomed]) -> Result<()> {
        let ids: Vec<Uuid> = gone.iter().map(|doomed| doomed.id).collect();
        sqlx::query!("DELETE FROM doomed_blobs WHERE id = ANY($1)", &ids).execute(&self.pool).await?;
        Ok(())
    }
}

impl BlobKind {
    fn of(word: &str) -> Result<Self> {
        match word {
            "pack" => Ok(Self::Pack),
            "log" => Ok(Self::Log),
            "output" => Ok(Self::Output),
            other => Err(StoreError::corrupt(format!("a blob of the kind {other:?}"))),
        }
    }
}

impl ObjectKind {
    fn of(word: &str) -> Result<Self> {
        match word {
            "file" => Ok(Self::File),
            "folder" => Ok(Self::Folder),
            other => Err(StoreError::corrupt(format!("an object of the kind {other:?}"))),
        }
    }
}

/// Dooms those of these blobs that no row needs. Answers how many.
pub(crate) async fn doom(tx: &mut Session, projects: &[Uuid], blobs: &[Uuid]) -> Result<usize> {
    let doomed = sqlx::query_scalar!(
        "WITH gone AS (
            DELETE FROM blobs b USING unnest($1::uuid[], $2::uuid[]) AS named (project_id, id)
            WHERE b.project_id = named.project_id AND b.id = named.id AND NOT farm_blob_needed(b.project_id, b.id)
            RETURNING b.project_id, b.id, b.kind)
         INSERT INTO doomed_blobs (project_id, id, kind) SELECT project_id, id, kind FROM gone RETURNING id",
        projects,
        blobs
    )
    .fetch_all(&mut *tx)
    .await?;
    Ok(doomed.len())
}
