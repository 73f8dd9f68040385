//! What tags have pointed to: a row for each time that farm has seen a tag at another image than before.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_core::publish::{IndexDocument, is_attestation, is_index};
use farm_types::{Digest, Origin, ProjectId, Repository};

use crate::machines::leader::Epoch;
use crate::proof::LockedPublication;
use crate::{Result, Store, StoreError, digest, fit, from_json_opt};

/// So many moves of one tag are kept, the newest.
pub const MOST_MOVES: i64 = 100;

/// One move of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagMove {
    /// Of this tag, from 1: the highest is the newest.
    pub number: u64,
    /// To what.
    pub digest: Digest,
    /// Of which type that is.
    pub media_type: String,
    /// From what; `None`: it wasn't there.
    pub previous: Option<Digest>,
    /// As the index says; none of a manifest alone.
    pub platforms: Vec<String>,
    /// By which build, as people know it; it may be removed.
    pub build: String,
    /// Who has asked for that.
    pub created_by: String,
    /// build, or of a copy its verb.
    pub verb: String,
    /// Of a copy: what it is of.
    pub copied_from: Option<String>,
    /// Of a build: where its context was fetched from.
    pub origin: Option<Origin>,
    /// When it was seen there.
    pub moved_at: DateTime<Utc>,
}

impl Store {
    /// The moves of a tag, the newest first; at most `most` with lower numbers than `before`.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn tag_moves(
        &self,
        project: ProjectId,
        (repository, tag): (&Repository, &str),
        before: Option<u64>,
        most: u32,
    ) -> Result<Vec<TagMove>> {
        let before: i64 = before.map(fit).transpose()?.unwrap_or(i64::MAX);
        let rows = sqlx::query_as!(
            MoveRow,
            "SELECT tag, number, digest, media_type, previous_digest, platforms, short_id, created_by, verb, copied_from, origin, moved_at
             FROM tag_moves WHERE project_id = $1 AND registry = $2 AND repository = $3 AND tag = $4 AND number < $5
             ORDER BY number DESC LIMIT $6",
            project.as_uuid(),
            repository.registry(),
            repository.name(),
            tag,
            before,
            i64::from(most)
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(TagMove::try_from).collect()
    }

    /// Removes at most `limit` moves of tags that were seen so long ago, but for each one's last, and as many removals; answers how
    /// many.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn remove_moves(&self, epoch: Epoch, kept: Duration, limit: i64) -> Result<u64> {
        let mut tx = self.begin_leading(epoch).await?;
        let removed = sqlx::query!(
            "DELETE FROM tag_moves WHERE (project_id, registry, repository, tag, number) IN (
                SELECT project_id, registry, repository, tag, number FROM tag_moves m
                WHERE moved_at < farm_now() - make_interval(secs => $1) AND EXISTS (
                    SELECT FROM tag_moves newer WHERE newer.project_id = m.project_id AND newer.registry = m.registry
                      AND newer.repository = m.repository AND newer.tag = m.tag AND newer.number > m.number)
                ORDER BY moved_at LIMIT $2)",
            kept.as_secs_f64(),
            limit
        )
        .execute(&mut *tx)
        .await?;
        let forgotten = sqlx::query!(
            "DELETE FROM tag_removals WHERE (project_id, registry, repository, tag, id) IN (
                SELECT project_id, registry, repository, tag, id FROM tag_removals
                WHERE removed_at < farm_now() - make_interval(secs => $1) ORDER BY removed_at LIMIT $2)",
            kept.as_secs_f64(),
            limit
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(removed.rows_affected() + forgotten.rows_affected())
    }
}

/// A row of `tag_moves`.
pub(super) struct MoveRow {
    pub(super) tag: String,
    pub(super) number: i64,
    pub(super) digest: Vec<u8>,
    pub(super) media_type: String,
    pub(super) previous_digest: Option<Vec<u8>>,
    pub(super) platforms: Vec<String>,
    pub(super) short_id: String,
    pub(super) created_by: String,
    pub(super) verb: String,
    pub(super) copied_from: Option<String>,
    pub(super) origin: Option<serde_json::Value>,
    pub(super) moved_at: DateTime<Utc>,
}

impl TryFrom<MoveRow> for TagMove {
    type Error = StoreError;

    fn try_from(row: MoveRow) -> Result<Self> {
        Ok(Self {
            number: fit(row.number)?,
            digest: digest(&row.digest)?,
            media_type: row.media_type,
            previous: row.previous_digest.as_deref().map(digest).transpose()?,
            platforms: row.platforms,
            build: row.short_id,
            created_by: row.created_by,
            verb: row.verb,
            copied_from: row.copied_from,
            origin: from_json_opt(row.origin)?,
            moved_at: row.moved_at,
        })
    }
}

/// A tag of a publication, and what that is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub repository: &'a Repository,
    pub tag: &'a str,
    pub media_type: &'a str,
    pub bytes: &'a [u8],
}

/// Notes that a tag of a publication was seen at its index, unless it was there already.
pub(crate) async fn note_move(publication: &mut LockedPublication<'_>, seen: Seen<'_>) -> Result<()> {
    let (project, id) = publication.ids();
    let (at, tag) = ((seen.repository.registry(), seen.repository.name()), seen.tag);
    // Two publications may come to one tag at a time: they take turns here.
    sqlx::query_scalar!(
        "SELECT order_key FROM tag_heads WHERE project_id = $1 AND registry = $2 AND repository = $3 AND tag = $4 FOR UPDATE",
        project,
        at.0,
        at.1,
        tag
    )
    .fetch_optional(&mut **publication)
    .await?;
    sqlx::query!(
        "INSERT INTO tag_moves (project_id, registry, repository, tag, number, order_key, digest, media_type, previous_digest,
                                platforms, build_id, short_id, created_by, verb, copied_from, origin)
         SELECT t.project_id, t.registry, t.repository, t.tag, coalesce(last.number, 0) + 1, t.order_key, p.index_digest,
                p.index_media_type, t.previous_digest, $6, b.id, b.short_id, b.created_by,
                coalesce(b.spec #>> '{purpose,copy,verb}', 'build'), b.spec #>> '{purpose,copy,from}', b.spec #> '{origins,context}'
         FROM tags t JOIN publications p ON p.project_id = t.project_id AND p.id = t.publication_id
         JOIN builds b ON b.project_id = p.project_id AND b.id = p.build_id
         LEFT JOIN LATERAL (
            SELECT m.number, m.digest FROM tag_moves m WHERE m.project_id = t.project_id AND m.registry = t.registry
              AND m.repository = t.repository AND m.tag = t.tag ORDER BY m.number DESC LIMIT 1) last ON true
         WHERE t.project_id = $1 AND t.publication_id = $2 AND t.registry = $3 AND t.repository = $4 AND t.tag = $5
           AND (last.digest IS DISTINCT FROM p.index_digest OR t.previous_digest IS DISTINCT FROM p.index_digest)",
        project,
        id,
        at.0,
        at.1,
        tag,
        &platforms(seen)
    )
    .execute(&mut **publication)
    .await?;
    sqlx::query!(
        "DELETE FROM tag_moves WHERE project_id = $1 AND registry = $2 AND repository = $3 AND tag = $4 AND number <= (
            SELECT max(number) FROM tag_moves WHERE project_id = $1 AND registry = $2 AND repository = $3 AND tag = $4) - $5",
        project,
        at.0,
        at.1,
        tag,
        MOST_MOVES
    )
    .execute(&mut **publication)
    .await?;
    Ok(())
}

/// The platforms of what is published, as its index spells them; none where it can't be read, as it is published all the same.
fn platforms(seen: Seen<'_>) -> Vec<String> {
    let document =
        is_index(seen.media_type).then(|| serde_json::from_slice::<IndexDocument>(seen.bytes).ok());
    let Some(document) = document.flatten() else { return Vec::new() };
    let images = document.manifests.iter().filter(|one| !is_attestation(one));
    let platforms = images.filter_map(|one| one.platform.as_ref()).map(|platform| {
        let variant = platform.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
        format!("{}/{}{variant}", platform.os, platform.architecture)
    });
    platforms.collect()
}
