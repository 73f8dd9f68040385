//! Destinations and tags of a publication: what was put where, and who may move a tag.
//!
//! Every write repeats the leader's epoch and the row's state. A tag is claimed before it is put.

use std::time::Duration;

use farm_core::life::Transition;
use farm_core::life::publication::{destination, tag};
use farm_core::publish::Attached;
use farm_types::state::TagState;
use farm_types::{
    Digest, ExpectedTag, Failure, ProjectId, PublicationId, Repository, ShortId, SigningKeyName,
};
use uuid::Uuid;

use crate::machines::leader::Epoch;
use crate::proof::LockedPublication;
use crate::publish::history::{Seen, note_move};
use crate::publish::publications::{ODD_AGAIN_SECONDS, settle};
use crate::publish::rechecks::RECHECK_FOR;
use crate::unreadable::readable;
use crate::work::decide::build_event;
use crate::{Result, Store, StoreError, digest, fit, from_json, state, to_json};

/// A destination that the index is to be put to.
#[derive(Debug, Clone)]
pub struct DueDestination {
    /// Whose.
    pub project: ProjectId,
    /// The publication.
    pub publication: PublicationId,
    /// Its build, as people know it.
    pub build: ShortId,
    /// Where.
    pub repository: Repository,
    /// What.
    pub index_digest: Digest,
    /// Of which type.
    pub media_type: String,
    /// Exactly these bytes.
    pub bytes: Vec<u8>,
    /// The order of intent.
    pub order_key: i64,
    /// How often it was tried.
    pub tries: u32,
    /// What is put beside it.
    pub referrers: Vec<Attached>,
    /// Its tags that are not settled.
    pub tags: Vec<String>,
    /// Those of the build's tags that are moved only while they point there.
    pub expected: Vec<ExpectedTag>,
    /// What the build that this is a retry of has published.
    pub retried: Option<Digest>,
    /// By which key it is signed before a tag points to it, and which of that name: the one that its build was accepted with.
    pub sign: Option<(SigningKeyName, Option<Uuid>)>,
}

/// What became of the wish to move a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It may be put.
    Granted,
    /// A newer intention has it.
    Superseded,
}

impl Store {
    /// Destinations that are due, with their unsettled tags; at most `limit` of each registry, or those of one that is down
    /// would hide the others.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn due_destinations(&self, limit: i64) -> Result<Vec<DueDestination>> {
        let rows = sqlx::query!(
            r#"SELECT d.project_id, d.publication_id, d.registry, d.repository, d.tries, p.index_digest,
                      p.index_media_type, p.index_bytes, p.order_key, p.referrers,
                      b.short_id AS build, coalesce(b.spec->'expected', '[]') AS "expected!",
                      b.spec->>'sign' AS sign, b.signing_version,
                      (SELECT r.index_digest FROM publications r
                       WHERE r.project_id = b.project_id AND r.build_id = b.retry_of) AS retried,
                      ARRAY(SELECT t.tag FROM tags t WHERE t.project_id = d.project_id
                            AND t.publication_id = d.publication_id AND t.registry = d.registry
                            AND t.repository = d.repository AND t.state IN ('wanted', 'put')
                            ORDER BY t.tag) AS "tags!"
               FROM (
                    SELECT d.project_id, d.publication_id, d.registry, d.repository, d.tries, d.next_try_at,
                           row_number() OVER (PARTITION BY d.registry ORDER BY d.next_try_at, p.order_key) AS place
                    FROM destinations d
                    JOIN publications p ON p.project_id = d.project_id AND p.id = d.publication_id
                    WHERE p.state = 'pending' AND d.state <> 'failed' AND d.next_try_at <= farm_now()
                      AND (d.state = 'pending' OR EXISTS (
                        SELECT FROM tags t WHERE t.project_id = d.project_id AND t.publication_id = d.publication_id
                        AND t.registry = d.registry AND t.repository = d.repository AND t.state IN ('wanted', 'put')))
               ) d
               JOIN publications p ON p.project_id = d.project_id AND p.id = d.publication_id
               JOIN builds b ON b.project_id = p.project_id AND b.id = p.build_id
               WHERE d.place <= $1 ORDER BY d.next_try_at, p.order_key"#,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        let (mut due, mut odd) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            let name = format!("{}/{} of build {}", row.registry, row.repository, row.build);
            let read = || {
                Ok(DueDestination {
                    project: row.project_id.into(),
                    publication: row.publication_id.into(),
                    build: state(&row.build)?,
                    repository: state(&format!("{}/{}", row.registry, row.repository))?,
                    index_digest: digest(&row.index_digest)?,
                    media_type: row.index_media_type,
                    bytes: row.index_bytes,
                    order_key: row.order_key,
                    tries: fit(row.tries)?,
                    referrers: from_json(row.referrers)?,
                    tags: row.tags,
                    expected: from_json(row.expected)?,
                    retried: row.retried.as_deref().map(digest).transpose()?,
                    sign: row
                        .sign
                        .map(|name| Ok::<_, StoreError>((state(&name)?, row.signing_version)))
                        .transpose()?,
                })
            };
            match readable("a destination", name, read()) {
                Some(destination) => due.push(destination),
                None => odd.push(row.publication_id),
            }
        }
        if !odd.is_empty() {
            // They must not stand before others for ever; their deadline ends them.
            sqlx::query!(
                "UPDATE destinations SET next_try_at = farm_now() + make_interval(secs => $2)
                 WHERE publication_id = ANY($1) AND next_try_at <= farm_now()",
                &odd,
                ODD_AGAIN_SECONDS
            )
            .execute(&self.pool)
            .await?;
        }
        Ok(due)
    }

    /// Notes that the index is at a destination, by its digest.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn destination_pushed(&self, epoch: Epoch, d: &DueDestination) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        sqlx::query!(
            "UPDATE destinations SET state = $5, settled_at = farm_now(), failure = NULL
             WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4
               AND state = ANY($6)",
            d.project.as_uuid(),
            d.publication.as_uuid(),
            d.repository.registry(),
            d.repository.name(),
            destination::PUSH.word(),
            &destination::PUSH.premise()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Puts a destination off after a failure that may pass, or fails it and its tags for good.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn destination_failed(
        &self,
        epoch: Epoch,
        d: &DueDestination,
        failure: &Failure,
        again_after: Option<Duration>,
    ) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let mut publication = tx.lock_publication(d.project, d.publication).await?;
        let failure_json = to_json(failure)?;
        let (project, id) = publication.ids();
        let (registry, repository) = (d.repository.registry(), d.repository.name());
        match again_after {
            Some(after) => {
                // The publication's lock keeps what was told before as it is read here.
                let told = sqlx::query_scalar!(
                    r#"SELECT p.build_id FROM publications p JOIN destinations d
                            ON d.project_id = p.project_id AND d.publication_id = p.id
                       WHERE p.project_id = $1 AND p.id = $2 AND d.registry = $3 AND d.repository = $4
                         AND d.failure->>'message' IS DISTINCT FROM $5"#,
                    project,
                    id,
                    registry,
                    repository,
                    failure.message
                )
                .fetch_optional(&mut *publication)
                .await?;
                let put_off = sqlx::query!(
                    "UPDATE destinations SET tries = tries + 1, failure = $5,
                            next_try_at = farm_now() + make_interval(secs => $6)
                     WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4
                       AND state <> 'failed'",
                    project,
                    id,
                    registry,
                    repository,
                    failure_json,
                    after.as_secs_f64()
                )
                .execute(&mut *publication)
                .await?;
                // Whoever watches is told once, not at each try.
                if let Some(build) = told.filter(|_| put_off.rows_affected() == 1) {
                    build_event(&mut publication, project, build, "put_off").await?;
                }
            }
            None => {
                sqlx::query!(
                    "UPDATE destinations SET state = $6, tries = tries + 1, failure = $5,
                            settled_at = farm_now()
                     WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4
                       AND state = ANY($7)",
                    project,
                    id,
                    registry,
                    repository,
                    failure_json,
                    destination::FAIL.word(),
                    &destination::FAIL.premise()
                )
                .execute(&mut *publication)
                .await?;
                sqlx::query!(
                    "UPDATE tags SET state = $6, failure = $5, settled_at = farm_now()
                     WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4
                       AND state = ANY($7)",
                    project,
                    id,
                    registry,
                    repository,
                    failure_json,
                    tag::FAIL.word(),
                    &tag::FAIL.premise()
                )
                .execute(&mut *publication)
                .await?;
            }
        }
        settle(&mut publication).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Claims a tag for this publication before it is put: the newest intention wins, for ever. `before` is what
    /// the tag points to now.
    ///
    /// If another one was claimed less than `longest_put` ago, its put may still be on its way: then the tag is looked at
    /// once more when that must be over ([`Store::due_rechecks`]). Another one is an older intention, but also the same
    /// one with another index: that of the build whose retry this is.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn claim_tag(
        &self,
        epoch: Epoch,
        d: &DueDestination,
        tag: &str,
        before: Option<Digest>,
        longest_put: Duration,
    ) -> Result<Claim> {
        let mut tx = self.begin_leading(epoch).await?;
        let mut publication = tx.lock_publication(d.project, d.publication).await?;
        let (project, id) = publication.ids();
        let (registry, repository) = (d.repository.registry(), d.repository.name());
        // What it pointed to is written down before it is put: afterwards nobody could tell.
        let before = before.map(|digest| digest.as_bytes().to_vec());
        let open = sqlx::query!(
            "UPDATE tags SET previous_digest = CASE WHEN looked_at THEN previous_digest ELSE $6 END,
                    looked_at = true
             WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4 AND tag = $5
               AND state IN ('wanted', 'put')",
            project,
            id,
            registry,
            repository,
            tag,
            before
        )
        .execute(&mut *publication)
        .await?;
        if open.rows_affected() != 1 {
            return Err(StoreError::Stale("the publication has ended"));
        }
        let granted = sqlx::query!(
            "INSERT INTO tag_heads (project_id, registry, repository, tag, order_key, digest, epoch, closed)
             VALUES ($1, $2, $3, $4, $5, $6, $7, false)
             ON CONFLICT (project_id, registry, repository, tag) DO UPDATE
                SET order_key = EXCLUDED.order_key, digest = EXCLUDED.digest, epoch = EXCLUDED.epoch,
                    claimed_at = farm_now(), closed = false,
                    recheck_at = CASE
                        WHEN (NOT tag_heads.closed OR tag_heads.claimed_at > farm_now() - make_interval(secs => $8))
                             AND (tag_heads.order_key, tag_heads.digest, tag_heads.epoch)
                                 <> (EXCLUDED.order_key, EXCLUDED.digest, EXCLUDED.epoch)
                        THEN farm_now() + make_interval(secs => $8)
                        ELSE tag_heads.recheck_at END,
                    recheck_until = CASE
                        WHEN NOT tag_heads.closed
                             AND (tag_heads.order_key, tag_heads.digest, tag_heads.epoch)
                                 <> (EXCLUDED.order_key, EXCLUDED.digest, EXCLUDED.epoch)
                        THEN farm_now() + make_interval(secs => $9)
                        ELSE tag_heads.recheck_until END
             WHERE tag_heads.order_key <= EXCLUDED.order_key",
            project,
            registry,
            repository,
            tag,
            d.order_key,
            &d.index_digest.as_bytes()[..],
            epoch.0,
            longest_put.as_secs_f64(),
            RECHECK_FOR.as_secs_f64()
        )
        .execute(&mut *publication)
        .await?;
        let claim = if granted.rows_affected() == 1 { Claim::Granted } else { Claim::Superseded };
        if claim == Claim::Superseded {
            settle_tag(&mut publication, d, tag, tag::SUPERSEDE).await?;
            settle(&mut publication).await?;
        }
        tx.commit().await?;
        Ok(claim)
    }

    /// Notes that a tag was put.
    ///
    /// # Errors
    /// Another coordinator leads, or the publication has ended.
    pub async fn tag_put(&self, epoch: Epoch, d: &DueDestination, tag: &str) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let noted = sqlx::query!(
            "UPDATE tags SET state = $6
             WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4 AND tag = $5
               AND state = ANY($7)",
            d.project.as_uuid(),
            d.publication.as_uuid(),
            d.repository.registry(),
            d.repository.name(),
            tag,
            tag::PUT.word(),
            &tag::PUT.premise()
        )
        .execute(&mut *tx)
        .await?;
        if noted.rows_affected() != 1 {
            return Err(StoreError::Stale("the publication has ended"));
        }
        sqlx::query!(
            "UPDATE tag_heads SET closed = true
             WHERE project_id = $1 AND registry = $2 AND repository = $3 AND tag = $4 AND order_key = $5
               AND digest = $6 AND epoch = $7",
            d.project.as_uuid(),
            d.repository.registry(),
            d.repository.name(),
            tag,
            d.order_key,
            &d.index_digest.as_bytes()[..],
            epoch.0
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Notes that a tag was seen to point to the index.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn tag_verified(&self, epoch: Epoch, d: &DueDestination, tag: &str) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let mut publication = tx.lock_publication(d.project, d.publication).await?;
        if settle_tag(&mut publication, d, tag, tag::VERIFY).await? {
            let seen = Seen { repository: &d.repository, tag, media_type: &d.media_type, bytes: &d.bytes };
            note_move(&mut publication, seen).await?;
        }
        let (project, id) = publication.ids();
        // What went wrong on the way is over.
        sqlx::query!(
            "UPDATE destinations SET failure = NULL
             WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4
               AND state = 'pushed' AND failure IS NOT NULL",
            project,
            id,
            d.repository.registry(),
            d.repository.name()
        )
        .execute(&mut *publication)
        .await?;
        settle(&mut publication).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Settles a tag of the publication; false: it was settled already.
async fn settle_tag(
    publication: &mut LockedPublication<'_>,
    d: &DueDestination,
    tag: &str,
    transition: Transition<TagState>,
) -> Result<bool> {
    let (project, id) = publication.ids();
    let settled = sqlx::query!(
        "UPDATE tags SET state = $6, settled_at = farm_now()
         WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4 AND tag = $5
           AND state = ANY($7)",
        project,
        id,
        d.repository.registry(),
        d.repository.name(),
        tag,
        transition.word(),
        &transition.premise()
    )
    .execute(&mut **publication)
    .await?;
    Ok(settled.rows_affected() == 1)
}
