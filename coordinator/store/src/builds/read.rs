//! Reads builds as they are shown, with all that belongs to them.

use farm_core::work::estimate;
use farm_core::work::waiting::Waiting;
use farm_types::state::BuildState;
use farm_types::{BuildId, BuildSpec, Digest, ExecutionId, ProjectId, ProjectName, Runs, ShortId};
use uuid::Uuid;

use super::record::*;
use crate::unreadable::readable;
use crate::work::queue::{Slots, waiting};
use crate::{Result, Store, StoreError, digest, fit, from_json, from_json_opt, state};

/// A build's row, whether it can be read or not.
struct BuildRow {
    id: BuildId,
    name: String,
    record: Result<BuildRecord>,
}

impl Store {
    /// The build of this short id, with everything.
    ///
    /// # Errors
    /// There is none.
    pub async fn build(&self, project: ProjectId, short_id: &ShortId) -> Result<BuildRecord> {
        let id = sqlx::query_scalar!(
            "SELECT id FROM builds WHERE project_id = $1 AND short_id = $2",
            project.as_uuid(),
            short_id.as_str()
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or(StoreError::NotFound("build"))?;
        self.build_by_id(project, id.into()).await
    }

    /// The build of this id, with everything.
    ///
    /// # Errors
    /// There is none.
    pub async fn build_by_id(&self, project: ProjectId, id: BuildId) -> Result<BuildRecord> {
        let mut rows = self.build_rows(project, Some(id), (&[], true), None, 1).await?;
        let mut build = rows.pop().ok_or(StoreError::NotFound("build"))?.record?;
        build.jobs = self.job_records(project, build.execution, &build.spec).await?;
        build.publication = self.publication_record(project, id).await?;
        Ok(build)
    }

    /// The projects that have a build of this short id, the newest build's first: of all projects (`None`), or of these.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn projects_with_build(
        &self,
        short_id: &ShortId,
        within: Option<&[ProjectId]>,
    ) -> Result<Vec<(ProjectId, ProjectName)>> {
        let within: Option<Vec<Uuid>> = within.map(|all| all.iter().map(|id| id.as_uuid()).collect());
        let rows = sqlx::query!(
            "SELECT p.id, p.name FROM projects p JOIN builds b ON b.project_id = p.id AND b.short_id = $1
             WHERE p.removed_at IS NULL AND ($2::uuid[] IS NULL OR p.id = ANY($2)) ORDER BY b.id DESC",
            short_id.as_str(),
            within.as_deref()
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|row| Ok((row.id.into(), state(&row.name)?))).collect()
    }

    /// The places in the queue of a build's jobs that wait for a slot.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn places(&self, project: ProjectId, build: BuildId) -> Result<Vec<u64>> {
        let places = sqlx::query_scalar!(
            r#"SELECT 1 + (SELECT count(*) FROM jobs before WHERE before.state = 'ready'
                           AND before.queue_class = j.queue_class AND before.project_id = j.project_id
                           AND (before.virtual_time, before.id) < (j.virtual_time, j.id)) AS "place!"
               FROM builds b JOIN jobs j ON j.project_id = b.project_id AND j.execution_id = b.execution_id
               WHERE b.project_id = $1 AND b.id = $2 AND j.state = 'ready' AND j.waits ->> 'for' = 'slots'
               ORDER BY j.id"#,
            project.as_uuid(),
            build.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        places.into_iter().map(fit).collect()
    }

    /// The newest build of the project that published this index or merged this manifest into one, or whose worker pushed it.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn build_that_made(&self, project: ProjectId, digest: Digest) -> Result<Option<BuildRecord>> {
        let id = sqlx::query_scalar!(
            r#"SELECT made.build_id AS "id!" FROM (
                   SELECT p.build_id, p.created_at AS at FROM publications p
                   WHERE p.index_digest = $2 AND p.project_id = $1 AND p.state = 'published'
                 UNION ALL
                   SELECT p.build_id, p.created_at FROM publications p
                   WHERE p.manifests @> ARRAY[$2::bytea] AND p.project_id = $1
                 UNION ALL
                   SELECT b.id, d.pushed_at FROM pushed_digests d
                   JOIN attempts a ON a.project_id = d.project_id AND a.id = d.attempt_id
                   JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
                   JOIN builds b ON b.project_id = j.project_id AND b.execution_id = j.execution_id
                   WHERE d.digest = $2 AND d.project_id = $1) made
               JOIN builds b ON b.project_id = $1 AND b.id = made.build_id
               -- A copy made nothing: what it is of says more.
               ORDER BY b.spec #> '{purpose,copy}' IS NOT NULL, at DESC LIMIT 1"#,
            project.as_uuid(),
            &digest.as_bytes()[..]
        )
        .fetch_optional(&self.pool)
        .await?;
        match id {
            Some(id) => self.build_by_id(project, id.into()).await.map(Some),
            None => Ok(None),
        }
    }

    /// A page of the builds, newest first, without jobs and publication: at most `limit` of those that came before the build
    /// `before`; those in `states` only, unless it is empty; fetches of sources only where these are asked for, too. One that can't be read is left out, and the log says which.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn builds(
        &self,
        project: ProjectId,
        (states, fetches): (&[BuildState], bool),
        before: Option<BuildId>,
        limit: u32,
    ) -> Result<BuildPage> {
        // One more says whether there is a next page.
        let mut rows =
            self.build_rows(project, None, (states, fetches), before, i64::from(limit) + 1).await?;
        let limit = fit(limit)?;
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| !is_last).map(|row| row.id);
        let builds = rows.into_iter().filter_map(|row| readable("a build", row.name, row.record)).collect();
        Ok(BuildPage { builds, next })
    }

    async fn build_rows(
        &self,
        project: ProjectId,
        id: Option<BuildId>,
        (states, fetches): (&[BuildState], bool),
        before: Option<BuildId>,
        limit: i64,
    ) -> Result<Vec<BuildRow>> {
        let states: Vec<String> = states.iter().map(ToString::to_string).collect();
        let rows = sqlx::query!(
            r#"SELECT b.id, b.short_id, b.execution_id, b.state, b.spec, b.failure, b.created_by, b.created_at,
                    b.started_at, b.finished_at, b.secret_versions, b.submitter, b.copied_digest, p.name AS project_name,
                    (SELECT o.short_id FROM builds o
                     WHERE o.project_id = b.project_id AND o.id = b.retry_of) AS retry_of,
                    (SELECT h.own FROM hook_builds h WHERE h.project_id = b.project_id AND h.build_id = b.id LIMIT 1) AS because,
                    ARRAY(SELECT r.short_id FROM builds r WHERE r.project_id = b.project_id AND r.retry_of = b.id
                          ORDER BY r.id) AS "retried_by!",
                    CASE WHEN EXISTS (SELECT FROM publications m WHERE m.project_id = b.project_id AND m.build_id = b.id)
                        THEN '' ELSE b.publish_trouble END AS "merge_trouble!",
                    b.finished_at IS NULL AND EXISTS (SELECT FROM executions e WHERE e.project_id = b.project_id
                        AND e.id = b.execution_id AND e.source_wanted_at IS NOT NULL) AS "source_is_wanted!"
             FROM builds b JOIN projects p ON p.id = b.project_id
             WHERE b.project_id = $1 AND ($2::uuid IS NULL OR b.id = $2)
               AND (cardinality($3::text[]) = 0 OR b.state = ANY($3)) AND b.id < $5
               AND ($6 OR coalesce(b.spec #> '{purpose,fetch}', 'null') = 'null')
             ORDER BY b.id DESC LIMIT $4"#,
            project.as_uuid(),
            id.map(BuildId::as_uuid),
            &states,
            limit,
            // Not null for none, so that the index finds the place.
            before.map_or(Uuid::max(), BuildId::as_uuid),
            fetches
        )
        .fetch_all(&self.pool)
        .await?;
        let rows = rows.into_iter().map(|row| {
            let (id, name) = (row.id.into(), row.short_id.clone());
            let record = || {
                Ok(BuildRecord {
                    project,
                    project_name: row.project_name,
                    id,
                    short_id: state(&row.short_id)?,
                    execution: row.execution_id.into(),
                    state: state(&row.state)?,
                    spec: from_json(row.spec)?,
                    failure: from_json_opt(row.failure)?,
                    created_by: row.created_by,
                    submitter: from_json_opt(row.submitter)?,
                    created_at: row.created_at,
                    started_at: row.started_at,
                    finished_at: row.finished_at,
                    retry_of: row.retry_of.as_deref().map(state).transpose()?,
                    because: row.because,
                    copied: row.copied_digest.as_deref().map(digest).transpose()?,
                    retried_by: row.retried_by.iter().map(|id| state(id)).collect::<Result<_>>()?,
                    merge_trouble: row.merge_trouble,
                    source_is_wanted: row.source_is_wanted,
                    secret_versions: from_json_opt(row.secret_versions)?.unwrap_or_default(),
                    jobs: Vec::new(),
                    publication: None,
                })
            };
            BuildRow { id, name, record: record() }
        });
        Ok(rows.collect())
    }

    async fn job_records(
        &self,
        project: ProjectId,
        execution: ExecutionId,
        spec: &BuildSpec,
    ) -> Result<Vec<JobRecord>> {
        let rows = sqlx::query!(
            r#"SELECT id, kind, platform, required, runs, entitlements, state, waits, waiting, failure, result, CASE
                        WHEN state = 'ready' AND waits ->> 'for' = 'slots' THEN 1 + (
                            SELECT count(*) FROM jobs before WHERE before.state = 'ready'
                            AND before.queue_class = jobs.queue_class AND before.project_id = jobs.project_id
                            AND (before.virtual_time, before.id) < (jobs.virtual_time, jobs.id))
                      END AS place,
                      CASE WHEN taken_from IS NOT NULL THEN (
                            SELECT b.short_id FROM jobs t
                            JOIN builds b ON b.project_id = t.project_id AND b.execution_id = t.execution_id
                            WHERE t.project_id = jobs.project_id AND t.id = jobs.taken_from
                            ORDER BY b.id LIMIT 1)
                      END AS taken_from
               FROM jobs WHERE project_id = $1 AND execution_id = $2"#,
            project.as_uuid(),
            execution.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        let attempts = sqlx::query!(
            "SELECT a.id, j.id AS job_id, a.number, w.name, a.state, a.support, a.support_reason, a.offered_at, a.started_at,
                    a.finished_at, a.failure
             FROM attempts a JOIN jobs j ON j.project_id = a.project_id AND coalesce(j.taken_from, j.id) = a.job_id
             JOIN workers w ON w.id = a.worker_id
             WHERE a.project_id = $1 AND j.execution_id = $2 ORDER BY a.number",
            project.as_uuid(),
            execution.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        let mut needs: Vec<(Runs, Vec<String>)> = Vec::with_capacity(rows.len());
        let mut jobs = rows
            .into_iter()
            .map(|row| {
                needs.push((state(&row.runs)?, row.entitlements));
                Ok(JobRecord {
                    id: row.id.into(),
                    kind: row.kind,
                    platform: state(&row.platform)?,
                    optional: !row.required,
                    state: state(&row.state)?,
                    waiting: waiting(row.waits, row.waiting),
                    place: row.place.map(fit).transpose()?,
                    starts_at: None,
                    failure: from_json_opt(row.failure)?,
                    result: from_json_opt(row.result)?,
                    taken_from: row.taken_from.as_deref().map(state).transpose()?,
                    attempts: Vec::new(),
                    outputs: Vec::new(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        for (job, (runs, entitlements)) in jobs.iter_mut().zip(needs) {
            let (Some(place), Some(Waiting::Slots { support, .. })) = (job.place, &job.waiting) else {
                continue;
            };
            let slots = Slots::of(&job.platform, *support, &runs, entitlements);
            let queue = self.queue(project, &slots, place).await?;
            job.starts_at = match estimate::starts_in(&queue) {
                Some(span) => Some(self.now().await? + span),
                None => None,
            };
        }
        for row in attempts {
            let attempt = AttemptRecord {
                id: row.id.into(),
                number: fit(row.number)?,
                worker: row.name,
                state: state(&row.state)?,
                support: state(&row.support)?,
                support_reason: row.support_reason,
                offered_at: row.offered_at,
                started_at: row.started_at,
                finished_at: row.finished_at,
                failure: from_json_opt(row.failure)?,
            };
            if let Some(job) = jobs.iter_mut().find(|job| job.id.as_uuid() == row.job_id) {
                job.attempts.push(attempt);
            }
        }
        if !spec.exports.is_empty() {
            for (job, output) in self.output_records(project, execution).await? {
                if let Some(job) = jobs.iter_mut().find(|known| known.id == job) {
                    job.outputs.push(output);
                }
            }
        }
        jobs.sort_by_key(|job| spec.platforms.iter().position(|p| *p == job.platform));
        Ok(jobs)
    }

    async fn publication_record(
        &self,
        project: ProjectId,
        build: BuildId,
    ) -> Result<Option<PublicationRecord>> {
        let row = sqlx::query!(
            r#"SELECT id, state, index_digest, index_media_type, length(index_bytes) AS "index_size!" FROM publications
             WHERE project_id = $1 AND build_id = $2"#,
            project.as_uuid(),
            build.as_uuid()
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let destinations = sqlx::query!(
            "SELECT registry, repository, state, failure FROM destinations
             WHERE project_id = $1 AND publication_id = $2 ORDER BY registry, repository",
            project.as_uuid(),
            row.id
        )
        .fetch_all(&self.pool)
        .await?;
        let tags = sqlx::query!(
            "SELECT registry, repository, tag, state, previous_digest, failure FROM tags
             WHERE project_id = $1 AND publication_id = $2 ORDER BY registry, repository, tag",
            project.as_uuid(),
            row.id
        )
        .fetch_all(&self.pool)
        .await?;
        let destinations = destinations
            .into_iter()
            .map(|d| {
                let own = tags.iter().filter(|t| t.registry == d.registry && t.repository == d.repository);
                Ok(DestinationRecord {
                    repository: format!("{}/{}", d.registry, d.repository),
                    state: state(&d.state)?,
                    failure: from_json_opt(d.failure)?,
                    tags: own
                        .map(|t| {
                            Ok(TagRecord {
                                tag: t.tag.clone(),
                                state: state(&t.state)?,
                                previous: t.previous_digest.as_deref().map(digest).transpose()?,
                                failure: from_json_opt(t.failure.clone())?,
                            })
                        })
                        .collect::<Result<_>>()?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Some(PublicationRecord {
            state: state(&row.state)?,
            index_digest: digest(&row.index_digest)?,
            index_media_type: row.index_media_type,
            index_size: u64::try_from(row.index_size).unwrap_or_default(),
            destinations,
        }))
    }
}
