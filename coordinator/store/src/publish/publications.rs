//! Publications: intentions as rows, so that each step can be repeated after a crash.
//!
//! A build that is `publishing` has no publication until its children were merged; then the exact bytes
//! of the index lie here, a row per destination, a row per tag. Every write repeats the leader's epoch and
//! the row's state.

use std::time::Duration;

use farm_core::life::{self, Transition};
use farm_core::publish::Index;
use farm_types::state::PublicationState;
use farm_types::{
    AttemptId, BuildId, BuildSpec, Digest, ExecutionId, Failure, Platform, ProjectId, PublicationId,
    Repository, ShortId,
};

use crate::builds::record::JobResult;
use crate::machines::leader::Epoch;
use crate::pool::Pool;
use crate::proof::{LeaderTx, LockedPublication};
use crate::unreadable::readable;
use crate::work::decide::build_event;
use crate::{Result, Store, StoreError, digest, fit, from_json, state, to_json};

/// What can't be read is looked at again after this.
pub(crate) const ODD_AGAIN_SECONDS: f64 = 60.0;

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
    /// What was pushed, per platform. Not read of a build that is published nowhere.
    pub results: Vec<Pushed>,
    /// How often it was tried.
    pub tries: u32,
    /// Of a copy: what its source was when it was first looked at.
    pub copied: Option<Digest>,
}

/// What a job has pushed, and where it is.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// For which platform.
    pub platform: Platform,
    /// By which attempt.
    pub attempt: AttemptId,
    /// What.
    pub result: JobResult,
    /// It was pushed to the staging registry.
    pub staged: bool,
    /// Where it is known to have been brought to, as `REGISTRY/REPO`.
    places: Vec<String>,
}

impl DueMerge {
    /// What is in the staging registry yet, and where it has to be copied to.
    pub fn uncopied(&self) -> impl Iterator<Item = (&Pushed, Vec<Repository>)> {
        let repositories = self.spec.repositories();
        self.results.iter().filter(|pushed| pushed.staged && pushed.result.digest.is_some()).filter_map(
            move |pushed| {
                let is_there = |repository: &Repository| pushed.places.contains(&repository.to_string());
                let missing: Vec<Repository> =
                    repositories.iter().filter(|repository| !is_there(repository)).cloned().collect();
                (!missing.is_empty()).then_some((pushed, missing))
            },
        )
    }
}

impl Store {
    /// Builds that are due to be merged; at most `limit` of each registry, or those of one that is down would hide the others. Those of
    /// which something was pushed to the staging registry, and copies (of each project and source), are counted apart: they take longer.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn due_merges(&self, limit: i64) -> Result<Vec<DueMerge>> {
        let rows = sqlx::query!(
            "SELECT project_id, id, short_id, execution_id, spec, publish_tries, copied_digest FROM (
                SELECT b.*, row_number() OVER (
                    PARTITION BY split_part(spec->'tags'->>0, '/', 1), EXISTS (
                        SELECT FROM jobs j JOIN attempts a ON a.project_id = j.project_id AND a.job_id = j.id
                        WHERE j.project_id = b.project_id AND j.execution_id = b.execution_id AND a.staged),
                        CASE WHEN b.spec #> '{purpose,copy}' IS NOT NULL
                            THEN b.project_id::text || ' ' || split_part(b.spec #>> '{purpose,copy,from}', '/', 1) END
                    ORDER BY publish_due) AS place
                FROM builds b WHERE state = 'publishing' AND publish_due <= farm_now() AND NOT EXISTS (
                    SELECT FROM publications p WHERE p.project_id = b.project_id AND p.build_id = b.id)
             ) b
             WHERE place <= $1 ORDER BY publish_due",
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        let (mut due, mut odd) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            let (project, execution) = (row.project_id.into(), row.execution_id.into());
            let spec = from_json::<BuildSpec>(row.spec);
            // Of one that is published nowhere nobody wants to know them: it just ends.
            let results = match &spec {
                Ok(spec) if !spec.repositories().is_empty() => {
                    match results(&self.pool, project, execution).await {
                        // No fault of the row's.
                        Err(error) if error.is_transient() => return Err(error),
                        read => read,
                    }
                }
                _ => Ok(Vec::new()),
            };
            let read = || {
                Ok(DueMerge {
                    project,
                    build: row.id.into(),
                    short_id: state(&row.short_id)?,
                    execution,
                    spec: spec?,
                    results: results?,
                    tries: fit(row.publish_tries)?,
                    copied: row.copied_digest.as_deref().map(digest).transpose()?,
                })
            };
            match readable("a build that is to be published", &row.short_id, read()) {
                Some(merge) => due.push(merge),
                None => odd.push(row.id),
            }
        }
        if !odd.is_empty() {
            // They must not stand before others for ever; their deadline ends them.
            sqlx::query!(
                "UPDATE builds SET publish_due = farm_now() + make_interval(secs => $2)
                 WHERE id = ANY($1) AND state = 'publishing'",
                &odd,
                ODD_AGAIN_SECONDS
            )
            .execute(&self.pool)
            .await?;
        }
        Ok(due)
    }

    /// Keeps what the source of a copy is, so that it stays that. What was kept before counts: the answer.
    ///
    /// # Errors
    /// The build isn't publishing any more, or another coordinator leads.
    pub async fn pin_copy(
        &self,
        epoch: Epoch,
        (project, build): (ProjectId, BuildId),
        source: Digest,
    ) -> Result<Digest> {
        let mut tx = self.begin_leading(epoch).await?;
        let kept = sqlx::query_scalar!(
            r#"UPDATE builds SET copied_digest = coalesce(copied_digest, $3)
               WHERE project_id = $1 AND id = $2 AND state = 'publishing' RETURNING copied_digest AS "kept!""#,
            project.as_uuid(),
            build.as_uuid(),
            &source.as_bytes()[..]
        )
        .fetch_optional(&mut *tx)
        .await?;
        let kept = kept.ok_or(StoreError::Stale("the build is not publishing any more"))?;
        tx.commit().await?;
        digest(&kept)
    }

    /// Notes what a copy has done, for whoever watches it.
    ///
    /// # Errors
    /// The build isn't publishing any more, or another coordinator leads.
    pub async fn note_copy(
        &self,
        epoch: Epoch,
        (project, build): (ProjectId, BuildId),
        text: &str,
    ) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let noted = sqlx::query!(
            "SELECT farm_build_event($1, $2, 'build_note', jsonb_build_object('text', $3::text))
             FROM builds WHERE project_id = $1 AND id = $2 AND state = 'publishing'",
            project.as_uuid(),
            build.as_uuid(),
            text
        )
        .fetch_optional(&mut *tx)
        .await?;
        noted.ok_or(StoreError::Stale("the build is not publishing any more"))?;
        tx.commit().await
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
        let mut tx = self.begin_leading(epoch).await?;
        let project = merge.project.as_uuid();
        // Else a cancel at the same moment would find nothing to publish yet.
        let held = sqlx::query_scalar!(
            "SELECT id FROM builds WHERE project_id = $1 AND id = $2 AND state = 'publishing' FOR UPDATE",
            project,
            merge.build.as_uuid()
        )
        .fetch_optional(&mut *tx)
        .await?;
        held.ok_or(StoreError::Stale("the build is published already, or not any more"))?;
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
        let manifests: Vec<Vec<u8>> =
            index.manifests.iter().map(|digest| digest.as_bytes().to_vec()).collect();
        let inserted = sqlx::query!(
            "INSERT INTO publications (project_id, id, build_id, index_digest, index_media_type, index_bytes,
                                       manifests, referrers, order_key, deadline)
             SELECT project_id, $3, id, $4, $5, $6, $7, $8, order_key, publish_deadline FROM builds
             WHERE project_id = $1 AND id = $2 AND state = 'publishing' ON CONFLICT DO NOTHING",
            project,
            merge.build.as_uuid(),
            publication.as_uuid(),
            &index.digest.as_bytes()[..],
            index.media_type,
            index.bytes,
            &manifests,
            to_json(&index.referrers)?
        )
        .execute(&mut *tx)
        .await?;
        if inserted.rows_affected() != 1 {
            return Err(StoreError::Stale("the build is published already, or not any more"));
        }
        for repository in merge.spec.repositories() {
            // What a copy finds there may be somebody else's: whatever becomes of its tags, it is no garbage.
            let fate = merge.spec.purpose.copy().map(|_| "kept");
            sqlx::query!(
                "INSERT INTO destinations (project_id, publication_id, registry, repository, fate)
                 VALUES ($1, $2, $3, $4, $5)",
                project,
                publication.as_uuid(),
                repository.registry(),
                repository.name(),
                fate
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
        build_event(&mut tx, project, merge.build.as_uuid(), "merged").await?;
        tx.commit().await?;
        Ok(())
    }

    /// Ends a build that has nothing to publish.
    ///
    /// # Errors
    /// The build isn't publishing any more, or another coordinator leads.
    pub async fn finish_unpublished(&self, epoch: Epoch, project: ProjectId, build: BuildId) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        end_build(&mut tx, project, build, None).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Puts a merge off, and notes why.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn retry_merge(
        &self,
        epoch: Epoch,
        project: ProjectId,
        build: BuildId,
        why: &str,
        after: Duration,
    ) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let is_news = sqlx::query_scalar!(
            r#"UPDATE builds SET publish_tries = builds.publish_tries + 1, publish_trouble = $4,
                    publish_due = farm_now() + make_interval(secs => $3)
             FROM (SELECT publish_trouble FROM builds WHERE project_id = $1 AND id = $2 FOR UPDATE) before
             WHERE builds.project_id = $1 AND builds.id = $2 AND builds.state = 'publishing'
             RETURNING before.publish_trouble IS DISTINCT FROM $4 AS "is_news!""#,
            project.as_uuid(),
            build.as_uuid(),
            after.as_secs_f64(),
            why
        )
        .fetch_optional(&mut *tx)
        .await?;
        // Whoever watches is told once, not at each try.
        if is_news.ok_or(StoreError::Stale("the build is not publishing any more"))? {
            build_event(&mut tx, project.as_uuid(), build.as_uuid(), "put_off").await?;
        }
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
        let mut tx = self.begin_leading(epoch).await?;
        end_build(&mut tx, project, build, Some(failure)).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Ends the publication and its build once every destination and tag is settled.
pub(crate) async fn settle(publication: &mut LockedPublication<'_>) -> Result<()> {
    let (project, id) = publication.ids();
    let row = sqlx::query!(
        r#"SELECT
            ARRAY(SELECT state FROM destinations WHERE project_id = $1 AND publication_id = $2) AS "destinations!",
            ARRAY(SELECT state FROM tags WHERE project_id = $1 AND publication_id = $2) AS "tags!",
            coalesce(
               (SELECT failure FROM destinations WHERE project_id = $1 AND publication_id = $2
                AND state = 'failed' ORDER BY registry, repository LIMIT 1),
               (SELECT failure FROM tags WHERE project_id = $1 AND publication_id = $2
                AND state = 'failed' ORDER BY registry, repository, tag LIMIT 1)) AS failure"#,
        project,
        id
    )
    .fetch_one(&mut **publication)
    .await?;
    let destinations = row.destinations.iter().map(|word| state(word)).collect::<Result<Vec<_>>>()?;
    let tags = row.tags.iter().map(|word| state(word)).collect::<Result<Vec<_>>>()?;
    let Some(transition) = life::publication::outcome(&destinations, &tags) else { return Ok(()) };
    let failure: Option<Failure> = crate::from_json_opt(row.failure)?;
    match end_publication(publication, transition).await? {
        Some(build) => end_build(publication.leader(), project.into(), build, failure.as_ref()).await,
        None => Ok(()),
    }
}

/// Ends a publication, and gives its build; `None` when it had ended.
pub(crate) async fn end_publication(
    publication: &mut LockedPublication<'_>,
    transition: Transition<PublicationState>,
) -> Result<Option<BuildId>> {
    let (project, id) = publication.ids();
    let build = sqlx::query_scalar!(
        "UPDATE publications SET state = $3, finished_at = farm_now()
         WHERE project_id = $1 AND id = $2 AND state = ANY($4) RETURNING build_id",
        project,
        id,
        transition.word(),
        &transition.premise()
    )
    .fetch_optional(&mut **publication)
    .await?;
    Ok(build.map(BuildId::from))
}

/// Ends a build that is publishing.
pub(crate) async fn end_build(
    tx: &mut LeaderTx,
    project: ProjectId,
    build: BuildId,
    failure: Option<&Failure>,
) -> Result<()> {
    let transition = if failure.is_some() { life::build::UNPUBLISHED } else { life::build::PUBLISHED };
    let failure = failure.map(to_json).transpose()?;
    let ended = sqlx::query!(
        "UPDATE builds SET state = $3, failure = $4, finished_at = farm_now()
         WHERE project_id = $1 AND id = $2 AND state = ANY($5)",
        project.as_uuid(),
        build.as_uuid(),
        transition.word(),
        failure,
        &transition.premise()
    )
    .execute(&mut **tx)
    .await?;
    if ended.rows_affected() != 1 {
        return Err(StoreError::Stale("the build is not publishing any more"));
    }
    build_event(tx, project.as_uuid(), build.as_uuid(), transition.word()).await
}

/// The result of every job of an execution, by platform.
async fn results(pool: &Pool, project: ProjectId, execution: ExecutionId) -> Result<Vec<Pushed>> {
    let rows = sqlx::query!(
        r#"SELECT j.platform, j.result AS "result!", a.id AS "attempt!", a.staged AS "staged!",
                  CASE WHEN a.staged THEN ARRAY(
                      SELECT p.registry || '/' || p.repository FROM pushed_digests p
                      WHERE p.project_id = a.project_id AND p.attempt_id = a.id AND p.fate IS DISTINCT FROM 'removed'
                        AND 'sha256:' || encode(p.digest, 'hex') = j.result ->> 'digest')
                  ELSE '{}' END AS "places!"
           FROM jobs j LEFT JOIN attempts a ON a.project_id = j.project_id AND a.job_id = coalesce(j.taken_from, j.id)
             AND a.state = 'succeeded'
           WHERE j.project_id = $1 AND j.execution_id = $2 AND j.kind = 'build'
             AND j.state = 'succeeded' ORDER BY j.platform"#,
        project.as_uuid(),
        execution.as_uuid()
    )
    .fetch_all(pool)
    .await?;
    let read = rows.into_iter().map(|row| {
        Ok(Pushed {
            platform: state(&row.platform)?,
            attempt: row.attempt.into(),
            result: from_json(row.result)?,
            staged: row.staged,
            places: row.places,
        })
    });
    read.collect()
}
