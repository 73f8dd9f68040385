//! What people know a job, an attempt or an execution by. For log lines about what went wrong: who reads them has never seen its id.

use farm_types::{AttemptId, ExecutionId, JobId, ProjectId};

use crate::{Result, Store, StoreError};

impl Store {
    /// A job as people know it: its build and platform (`7f3k2m linux/amd64`).
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or the database can't be reached.
    pub async fn job_known_as(&self, project: ProjectId, job: JobId) -> Result<String> {
        sqlx::query_scalar!(
            r#"SELECT concat(
                    (SELECT b.short_id FROM builds b WHERE b.project_id = j.project_id
                     AND b.execution_id = j.execution_id ORDER BY b.order_key LIMIT 1), ' ', j.platform) AS "known_as!"
               FROM jobs j WHERE j.project_id = $1 AND j.id = $2"#,
            project.as_uuid(),
            job.as_uuid()
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or(StoreError::NotFound("job"))
    }

    /// An attempt as people know it: its build and platform, and which try of that job it is (`7f3k2m linux/amd64 try 2`).
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or the database can't be reached.
    pub async fn attempt_known_as(&self, project: ProjectId, attempt: AttemptId) -> Result<String> {
        sqlx::query_scalar!(
            r#"SELECT concat(
                    (SELECT b.short_id FROM builds b WHERE b.project_id = j.project_id
                     AND b.execution_id = j.execution_id ORDER BY b.order_key LIMIT 1),
                    ' ', j.platform, ' try ', a.number) AS "known_as!"
               FROM attempts a JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
               WHERE a.project_id = $1 AND a.id = $2"#,
            project.as_uuid(),
            attempt.as_uuid()
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or(StoreError::NotFound("attempt"))
    }

    /// The builds of an execution, as people know them, with commas between.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn execution_known_as(&self, project: ProjectId, execution: ExecutionId) -> Result<String> {
        Ok(sqlx::query_scalar!(
            r#"SELECT coalesce(string_agg(short_id, ', ' ORDER BY order_key), '') AS "known_as!"
               FROM builds WHERE project_id = $1 AND execution_id = $2"#,
            project.as_uuid(),
            execution.as_uuid()
        )
        .fetch_one(&self.pool)
        .await?)
    }
}
