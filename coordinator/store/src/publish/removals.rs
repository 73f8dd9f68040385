//! Removing tags and manifests at somebody's wish: keeping builds from finding what is about to go, and noting what went.
//!
//! A removal shuts the same door as a cleaning ([`super::garbage`]): nothing that pushes to the repository begins while it is shut. It
//! is no deed of the leader's: whoever is asked shuts it, for as long as its requests may have their effect, and it opens by
//! itself when that coordinator dies. Where something is under way already the door stays open, and what that may be about to
//! find stays ([`InUse::is_busy`]).

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_core::publish::removal::InUse;
use farm_types::{Digest, ProjectId, Repository};
use serde_json::json;

use super::garbage::{in_use, is_busy};
use crate::people::audit::{By, Deed};
use crate::{Result, Store, digest};

/// A removal that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removing {
    /// What builds that are under way need there.
    pub in_use: InUse,
    /// Until when the door is shut; `None`: it isn't.
    until: Option<DateTime<Utc>>,
}

/// A tag that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRemoval {
    /// To what it pointed.
    pub digest: Digest,
    /// Who has asked for it.
    pub removed_by: String,
    /// When.
    pub removed_at: DateTime<Utc>,
}

/// What was removed, all at once.
#[derive(Debug, Clone, Copy)]
pub struct Removed<'a> {
    /// From where.
    pub at: &'a Repository,
    /// The manifest that went, or to which the tag pointed that did.
    pub digest: Digest,
    /// These tags are gone.
    pub tags: &'a [String],
    /// The manifest stays: only the tag went.
    pub is_kept: bool,
}

impl Store {
    /// Begins a removal from a repository that takes at most `lasts`. `None`: it is being cleaned at the moment, or somebody else
    /// removes something there.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn begin_removal(&self, at: &Repository, lasts: Duration) -> Result<Option<Removing>> {
        let mut tx = self.begin().await?;
        // As `begin_cleaning` has it: whoever leases for this repository is before this, and seen, or after it, and sees it.
        sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))::text", at.to_string())
            .fetch_one(&mut *tx)
            .await?;
        let is_busy = is_busy(&mut tx, at).await?;
        let mut until = None;
        if !is_busy {
            until = sqlx::query_scalar!(
                "INSERT INTO cleanings AS c (registry, repository, until, next_at)
                 VALUES ($1, $2, farm_now() + make_interval(secs => $3), farm_now() + make_interval(secs => $3))
                 ON CONFLICT (registry, repository) DO UPDATE SET until = EXCLUDED.until,
                    next_at = greatest(c.next_at, EXCLUDED.next_at)
                 WHERE c.until <= farm_now() RETURNING until",
                at.registry(),
                at.name(),
                lasts.as_secs_f64()
            )
            .fetch_optional(&mut *tx)
            .await?;
            if until.is_none() {
                return Ok(None);
            }
        }
        let digests = in_use(&mut tx, at).await?.into_iter().collect();
        tx.commit().await?;
        Ok(Some(Removing { in_use: InUse { is_busy, digests }, until }))
    }

    /// Those of these manifests that something lists which farm has published in the repository, for whichever project, but for these
    /// indexes: people pull by digest, and tags go back to what they were.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn published_beside(
        &self,
        at: &Repository,
        manifests: &[Digest],
        but: &[Digest],
    ) -> Result<Vec<Digest>> {
        let bytes = |all: &[Digest]| all.iter().map(|one| one.as_bytes().to_vec()).collect::<Vec<_>>();
        let rows = sqlx::query_scalar!(
            r#"SELECT DISTINCT manifest AS "manifest!" FROM (
                SELECT p.index_digest AS index, unnest(p.manifests || p.index_digest) AS manifest
                FROM publications p JOIN destinations d ON d.project_id = p.project_id AND d.publication_id = p.id
                WHERE d.registry = $1 AND d.repository = $2 AND d.state <> 'failed'
                UNION ALL
                SELECT i.digest, unnest(i.manifests || i.digest) FROM put_indexes i
                WHERE i.registry = $1 AND i.repository = $2) AS published
             WHERE index <> ALL($4) AND manifest = ANY($3)"#,
            at.registry(),
            at.name(),
            &bytes(manifests),
            &bytes(but)
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| digest(row)).collect()
    }

    /// Ends a removal: what pushes to the repository may begin again.
    ///
    /// # Errors
    /// The database can't be reached; then that is so when its time is over.
    pub async fn end_removal(&self, at: &Repository, removing: &Removing) -> Result<()> {
        let Some(until) = removing.until else { return Ok(()) };
        sqlx::query!(
            "UPDATE cleanings SET until = farm_now() WHERE registry = $1 AND repository = $2 AND until = $3",
            at.registry(),
            at.name(),
            until
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Notes what was removed.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn note_removal(&self, by: &By, project: ProjectId, removed: Removed<'_>) -> Result<()> {
        let Removed { at, digest, tags, is_kept } = removed;
        let mut tx = self.begin().await?;
        sqlx::query!(
            "INSERT INTO tag_removals (project_id, registry, repository, tag, digest, removed_by)
             SELECT $1, $2, $3, tag, $5, $6 FROM unnest($4::text[]) AS tag",
            project.as_uuid(),
            at.registry(),
            at.name(),
            tags,
            &digest.as_bytes()[..],
            by.name
        )
        .execute(&mut *tx)
        .await?;
        let (subject, detail) = match tags {
            [tag] if is_kept => (format!("{at}:{tag}"), json!({ "was": digest })),
            tags => (format!("{at}@{digest}"), json!({ "tags": tags })),
        };
        let deed = Deed { project: Some(project), action: "image.remove", subject: &subject, detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }

    /// When a tag was removed at somebody's wish: at most `most` times, the newest first.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn tag_removals(
        &self,
        project: ProjectId,
        (repository, tag): (&Repository, &str),
        most: u32,
    ) -> Result<Vec<TagRemoval>> {
        let rows = sqlx::query!(
            "SELECT digest, removed_by, removed_at FROM tag_removals
             WHERE project_id = $1 AND registry = $2 AND repository = $3 AND tag = $4 ORDER BY id DESC LIMIT $5",
            project.as_uuid(),
            repository.registry(),
            repository.name(),
            tag,
            i64::from(most)
        )
        .fetch_all(&self.pool)
        .await?;
        let removals = rows.into_iter().map(|row| {
            let digest = digest(&row.digest)?;
            Ok(TagRemoval { digest, removed_by: row.removed_by, removed_at: row.removed_at })
        });
        removals.collect()
    }
}
