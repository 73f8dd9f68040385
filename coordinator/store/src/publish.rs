//! Publications: intentions as rows, so that each step can be repeated after a crash.
//!
//! A build that is `publishing` has no publication until its children were merged; then the exact bytes
//! of the index lie here, a row per destination, a row per tag. Every write repeats the leader's epoch and
//! the row's state.

use std::time::Duration;

use farm_core::index::Index;
use farm_types::{
    BuildId, BuildSpec, Digest, ExecutionId, Failure, Platform, ProjectId, PublicationId, Repository, ShortId,
};
use uuid::Uuid;

use crate::finish::{build_event, results};
use crate::leader::{Epoch, hold_epoch};
use crate::record::JobResult;
use crate::{Result, Store, StoreError, Tx, digest, fit, from_json, state, to_json};

/// A build whose children are to be merged.
#[derive(Debug, Clone)]
pub struct DueMerge {
    /// Whose.
    pub project: ProjectId,
    /// Which.
    pub build: BuildId,
    /// Its id for people.
    pub short_id: ShortId,
    /// The work that it waited for.
    pub execution: ExecutionId,
    /// What it asked for.
    pub spec: BuildSpec,
    /// Per platform: the attempt and what it pushed.
    pub results: Vec<(Platform, Uuid, JobResult)>,
    /// How often it was tried.
    pub tries: u32,
}

/// A destination that the index is to be put to.
#[derive(Debug, Clone)]
pub struct DueDestination {
    /// Whose.
    pub project: ProjectId,
    /// The publication.
    pub publication: PublicationId,
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
    /// Its tags that are not settled.
    pub tags: Vec<String>,
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
    /// Builds that are due to be merged.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn due_merges(&self, limit: i64) -> Result<Vec<DueMerge>> {
        let mut tx = self.begin().await?;
        let rows = sqlx::query!(
            "SELECT project_id, id, short_id, execution_id, spec, publish_tries FROM builds b
             WHERE state = 'publishing' AND publish_due <= farm_now() AND NOT EXISTS (
                SELECT FROM publications p WHERE p.project_id = b.project_id AND p.build_id = b.id)
             ORDER BY publish_due LIMIT $1",
            limit
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut due = Vec::with_capacity(rows.len());
        for row in rows {
            let (project, execution) = (row.project_id.into(), row.execution_id.into());
            due.push(DueMerge {
                project,
                build: row.id.into(),
                short_id: state(&row.short_id)?,
                execution,
                spec: from_json(row.spec)?,
                results: results(&mut tx, project, execution).await?,
                tries: fit(row.publish_tries)?,
            });
        }
        Ok(due)
    }

    /// Keeps the merged index and the intentions that follow from it.
    ///
    /// `sizes`: per platform, the bytes of the image's layers and config.
    ///
    /// # Errors
    /// The build isn't publishing any more, or another coordinator leads.
    pub async fn keep_publication(
        &self,
        epoch: Epoch,
        merge: &DueMerge,
        index: &Index,
        sizes: &[(Platform, u64)],
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        hold_epoch(&mut tx, epoch).await?;
        let project = merge.project.as_uuid();
        for (platform, bytes) in sizes {
            sqlx::query!(
                "UPDATE jobs SET result = jsonb_set(result, '{image_bytes}', to_jsonb($4::bigint))
                 WHERE project_id = $1 AND execution_id = $2 AND platform = $3 AND state = 'succeeded'",
                project,
                merge.execution.as_uuid(),
                platform.to_string(),
                fit::<u64, i64>(*bytes)?
            )
            .execute(&mut *tx)
            .await?;
        }
        let publication = PublicationId::generate();
        let inserted = sqlx::query!(
            "INSERT INTO publications (project_id, id, build_id, index_digest, index_media_type, index_bytes,
                                       order_key, deadline)
             SELECT project_id, $3, id, $4, $5, $6, order_key, publish_deadline FROM builds
             WHERE project_id = $1 AND id = $2 AND state = 'publishing' ON CONFLICT DO NOTHING",
            project,
            merge.build.as_uuid(),
            publication.as_uuid(),
            &index.digest.as_bytes()[..],
            index.media_type,
            index.bytes
        )
        .execute(&mut *tx)
        .await?;
        if inserted.rows_affected() != 1 {
            return Err(StoreError::Stale("the build is published already, or not any more"));
        }
        for repository in merge.spec.repositories() {
            sqlx::query!(
                "INSERT INTO destinations (project_id, publication_id, registry, repository)
                 VALUES ($1, $2, $3, $4)",
                project,
                publication.as_uuid(),
                repository.registry(),
                repository.name()
            )
            .execute(&mut *tx)
            .await?;
        }
        for tag in &merge.spec.tags {
            sqlx::query!(
                "INSERT INTO tags (project_id, publication_id, registry, repository, tag, order_key)
                 SELECT $1, $2, $3, $4, $5, order_key FROM publications WHERE project_id = $1 AND id = $2",
                project,
                publication.as_uuid(),
                tag.repository.registry(),
                tag.repository.name(),
                tag.tag
            )
            .execute(&mut *tx)
            .await?;
        }
        build_event(&mut tx, merge.project, merge.build.as_uuid(), "merged").await?;
        tx.commit().await?;
        Ok(())
    }

    /// Ends a build that has nothing to publish.
    ///
    /// # Errors
    /// The build isn't publishing any more, or another coordinator leads.
    pub async fn finish_unpublished(&self, epoch: Epoch, project: ProjectId, build: BuildId) -> Result<()> {
        let mut tx = self.begin().await?;
        hold_epoch(&mut tx, epoch).await?;
        end_build(&mut tx, project, build, None).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Puts a merge off.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn retry_merge(
        &self,
        epoch: Epoch,
        project: ProjectId,
        build: BuildId,
        after: Duration,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        hold_epoch(&mut tx, epoch).await?;
        sqlx::query!(
            "UPDATE builds SET publish_tries = publish_tries + 1,
                    publish_due = farm_now() + make_interval(secs => $3)
             WHERE project_id = $1 AND id = $2 AND state = 'publishing'",
            project.as_uuid(),
            build.as_uuid(),
            after.as_secs_f64()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Fails a build that can't be merged.
    ///
    /// # Errors
    /// The build isn't publishing any more, or another coordinator leads.
    pub async fn fail_merge(
        &self,
        epoch: Epoch,
        project: ProjectId,
        build: BuildId,
        failure: &Failure,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        hold_epoch(&mut tx, epoch).await?;
        end_build(&mut tx, project, build, Some(failure)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Destinations that are due, with their unsettled tags.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn due_destinations(&self, limit: i64) -> Result<Vec<DueDestination>> {
        let rows = sqlx::query!(
            r#"SELECT d.project_id, d.publication_id, d.registry, d.repository, d.tries, p.index_digest,
                      p.index_media_type, p.index_bytes, p.order_key,
                      ARRAY(SELECT t.tag FROM tags t WHERE t.project_id = d.project_id
                            AND t.publication_id = d.publication_id AND t.registry = d.registry
                            AND t.repository = d.repository AND t.state IN ('wanted', 'put')
                            ORDER BY t.tag) AS "tags!"
               FROM destinations d JOIN publications p ON p.project_id = d.project_id AND p.id = d.publication_id
               WHERE p.state = 'pending' AND d.state <> 'failed' AND d.next_try_at <= farm_now()
                 AND (d.state = 'pending' OR EXISTS (
                    SELECT FROM tags t WHERE t.project_id = d.project_id AND t.publication_id = d.publication_id
                    AND t.registry = d.registry AND t.repository = d.repository AND t.state IN ('wanted', 'put')))
               ORDER BY p.order_key, d.registry, d.repository LIMIT $1"#,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(DueDestination {
                    project: row.project_id.into(),
                    publication: row.publication_id.into(),
                    repository: state(&format!("{}/{}", row.registry, row.repository))?,
                    index_digest: digest(&row.index_digest)?,
                    media_type: row.index_media_type,
                    bytes: row.index_bytes,
                    order_key: row.order_key,
                    tries: fit(row.tries)?,
                    tags: row.tags,
                })
            })
            .collect()
    }

    /// Notes that the index is at a destination, by its digest.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn destination_pushed(&self, epoch: Epoch, d: &DueDestination) -> Result<()> {
        let mut tx = self.begin().await?;
        hold_epoch(&mut tx, epoch).await?;
        sqlx::query!(
            "UPDATE destinations SET state = 'pushed', settled_at = farm_now(), failure = NULL
             WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4
               AND state = 'pending'",
            d.project.as_uuid(),
            d.publication.as_uuid(),
            d.repository.registry(),
            d.repository.name()
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
        let mut tx = self.begin().await?;
        hold_epoch(&mut tx, epoch).await?;
        let failure_json = to_json(failure)?;
        let (project, publication) = (d.project.as_uuid(), d.publication.as_uuid());
        let (registry, repository) = (d.repository.registry(), d.repository.name());
        match again_after {
            Some(after) => {
                sqlx::query!(
                    "UPDATE destinations SET tries = tries + 1, failure = $5,
                            next_try_at = farm_now() + make_interval(secs => $6)
                     WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4
                       AND state <> 'failed'",
                    project,
                    publication,
                    registry,
                    repository,
                    failure_json,
                    after.as_secs_f64()
                )
                .execute(&mut *tx)
                .await?;
            }
            None => {
                sqlx::query!(
                    "UPDATE destinations SET state = 'failed', tries = tries + 1, failure = $5,
                            settled_at = farm_now()
                     WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4
                       AND state = 'pending'",
                    project,
                    publication,
                    registry,
                    repository,
                    failure_json
                )
                .execute(&mut *tx)
                .await?;
                sqlx::query!(
                    "UPDATE tags SET state = 'failed', failure = $5, settled_at = farm_now()
                     WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4
                       AND state IN ('wanted', 'put')",
                    project,
                    publication,
                    registry,
                    repository,
                    failure_json
                )
                .execute(&mut *tx)
                .await?;
            }
        }
        settle(&mut tx, d.project, d.publication).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Claims a tag for this publication before it is put: the newest intention wins, for ever.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn claim_tag(&self, epoch: Epoch, d: &DueDestination, tag: &str) -> Result<Claim> {
        let mut tx = self.begin().await?;
        hold_epoch(&mut tx, epoch).await?;
        let (project, publication) = (d.project.as_uuid(), d.publication.as_uuid());
        let (registry, repository) = (d.repository.registry(), d.repository.name());
        let granted = sqlx::query!(
            "INSERT INTO tag_heads (project_id, registry, repository, tag, order_key, digest, epoch)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (project_id, registry, repository, tag) DO UPDATE
                SET order_key = EXCLUDED.order_key, digest = EXCLUDED.digest, epoch = EXCLUDED.epoch,
                    claimed_at = farm_now()
             WHERE tag_heads.order_key <= EXCLUDED.order_key",
            project,
            registry,
            repository,
            tag,
            d.order_key,
            &d.index_digest.as_bytes()[..],
            epoch.0
        )
        .execute(&mut *tx)
        .await?;
        let claim = if granted.rows_affected() == 1 { Claim::Granted } else { Claim::Superseded };
        if claim == Claim::Superseded {
            sqlx::query!(
                "UPDATE tags SET state = 'superseded', settled_at = farm_now()
                 WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4
                   AND tag = $5 AND state IN ('wanted', 'put')",
                project,
                publication,
                registry,
                repository,
                tag
            )
            .execute(&mut *tx)
            .await?;
            settle(&mut tx, d.project, d.publication).await?;
        }
        tx.commit().await?;
        Ok(claim)
    }

    /// Notes that a tag was put, with what it pointed to before.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn tag_put(
        &self,
        epoch: Epoch,
        d: &DueDestination,
        tag: &str,
        previous: Option<Digest>,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        hold_epoch(&mut tx, epoch).await?;
        let previous = previous.map(|digest| digest.as_bytes().to_vec());
        sqlx::query!(
            "UPDATE tags SET state = 'put', previous_digest = coalesce(previous_digest, $6)
             WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4 AND tag = $5
               AND state IN ('wanted', 'put')",
            d.project.as_uuid(),
            d.publication.as_uuid(),
            d.repository.registry(),
            d.repository.name(),
            tag,
            previous
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
        let mut tx = self.begin().await?;
        hold_epoch(&mut tx, epoch).await?;
        sqlx::query!(
            "UPDATE tags SET state = 'verified', settled_at = farm_now()
             WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4 AND tag = $5
               AND state = 'put'",
            d.project.as_uuid(),
            d.publication.as_uuid(),
            d.repository.registry(),
            d.repository.name(),
            tag
        )
        .execute(&mut *tx)
        .await?;
        // What went wrong on the way is over.
        sqlx::query!(
            "UPDATE destinations SET failure = NULL
             WHERE project_id = $1 AND publication_id = $2 AND registry = $3 AND repository = $4
               AND state = 'pushed' AND failure IS NOT NULL",
            d.project.as_uuid(),
            d.publication.as_uuid(),
            d.repository.registry(),
            d.repository.name()
        )
        .execute(&mut *tx)
        .await?;
        settle(&mut tx, d.project, d.publication).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Ends the publication and its build once every destination and tag is settled.
async fn settle(tx: &mut Tx, project: ProjectId, publication: PublicationId) -> Result<()> {
    let (project_id, id) = (project.as_uuid(), publication.as_uuid());
    let row = sqlx::query!(
        r#"SELECT
            EXISTS (SELECT FROM destinations WHERE project_id = $1 AND publication_id = $2 AND state = 'pending')
            OR EXISTS (SELECT FROM tags WHERE project_id = $1 AND publication_id = $2
                       AND state IN ('wanted', 'put')) AS "open!",
            coalesce(
               (SELECT failure FROM destinations WHERE project_id = $1 AND publication_id = $2
                AND state = 'failed' ORDER BY registry, repository LIMIT 1),
               (SELECT failure FROM tags WHERE project_id = $1 AND publication_id = $2
                AND state = 'failed' ORDER BY registry, repository, tag LIMIT 1)) AS failure"#,
        project_id,
        id
    )
    .fetch_one(&mut **tx)
    .await?;
    if row.open {
        return Ok(());
    }
    let failure: Option<Failure> = crate::from_json_opt(row.failure)?;
    let word = if failure.is_some() { "failed" } else { "published" };
    let build = sqlx::query_scalar!(
        "UPDATE publications SET state = $3, finished_at = farm_now()
         WHERE project_id = $1 AND id = $2 AND state = 'pending' RETURNING build_id",
        project_id,
        id,
        word
    )
    .fetch_optional(&mut **tx)
    .await?;
    match build {
        Some(build) => end_build(tx, project, build.into(), failure.as_ref()).await,
        None => Ok(()),
    }
}

async fn end_build(tx: &mut Tx, project: ProjectId, build: BuildId, failure: Option<&Failure>) -> Result<()> {
    let word = if failure.is_some() { "failed" } else { "succeeded" };
    let failure = failure.map(to_json).transpose()?;
    let ended = sqlx::query!(
        "UPDATE builds SET state = $3, failure = $4, finished_at = farm_now()
         WHERE project_id = $1 AND id = $2 AND state = 'publishing'",
        project.as_uuid(),
        build.as_uuid(),
        word,
        failure
    )
    .execute(&mut **tx)
    .await?;
    if ended.rows_affected() != 1 {
        return Err(StoreError::Stale("the build is not publishing any more"));
    }
    build_event(tx, project, build.as_uuid(), word).await
}
