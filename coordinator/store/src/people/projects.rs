//! Projects: teams' namespaces.

use chrono::{DateTime, Utc};
use farm_types::{ProjectId, ProjectName, Role};
use serde_json::json;

use super::audit::{By, Deed};
use crate::{Result, Store, StoreError, default_project};

/// A project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    pub id: ProjectId,
    pub name: ProjectName,
    pub created_at: DateTime<Utc>,
    /// Persons, services and groups.
    pub members: i64,
}

impl Store {
    /// Makes a project, with a person as its first admin if one is named.
    ///
    /// # Errors
    /// `Conflict`: the name is taken; or the database can't be reached.
    pub async fn create_project(
        &self,
        by: &By,
        name: &ProjectName,
        admin: Option<&str>,
    ) -> Result<ProjectId> {
        let id = ProjectId::generate();
        let mut tx = self.begin().await?;
        let made = sqlx::query!(
            "INSERT INTO projects (id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            id.as_uuid(),
            name.as_str()
        )
        .execute(&mut *tx)
        .await?;
        if made.rows_affected() == 0 {
            return Err(StoreError::Conflict(format!("there is a project {name} already")));
        }
        let deed =
            Deed { project: Some(id), action: "project.create", subject: name.as_str(), detail: json!({}) };
        by.did(&mut tx, deed).await?;
        super::access::protect_usual(&mut tx, by, id).await?;
        if let Some(admin) = admin {
            super::members::set(&mut tx, by, id, admin, Role::Admin).await?;
        }
        tx.commit().await?;
        Ok(id)
    }

    /// The project of this name.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn project_named(&self, name: &ProjectName) -> Result<Option<ProjectId>> {
        let id = sqlx::query_scalar!(
            "SELECT id FROM projects WHERE name = $1 AND removed_at IS NULL",
            name.as_str()
        );
        Ok(id.fetch_optional(&self.pool).await?.map(ProjectId::from))
    }

    /// The projects of these ids that are there, by name; `None`: all of them.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn projects(&self, ids: Option<&[ProjectId]>) -> Result<Vec<Project>> {
        let ids: Option<Vec<_>> = ids.map(|ids| ids.iter().map(|id| id.as_uuid()).collect());
        let rows = sqlx::query!(
            r#"SELECT p.id, p.name, p.created_at,
                      (SELECT count(*) FROM members m WHERE m.project_id = p.id)
                      + (SELECT count(*) FROM group_members g WHERE g.project_id = p.id) AS "members!"
               FROM projects p WHERE p.removed_at IS NULL AND ($1::uuid[] IS NULL OR p.id = ANY($1)) ORDER BY p.name"#,
            ids.as_deref()
        )
        .fetch_all(&self.pool)
        .await?;
        let project = |row: (uuid::Uuid, String, DateTime<Utc>, i64)| {
            let name = row.1.parse().map_err(StoreError::corrupt)?;
            Ok(Project { id: row.0.into(), name, created_at: row.2, members: row.3 })
        };
        rows.into_iter().map(|row| project((row.id, row.name, row.created_at, row.members))).collect()
    }

    /// Removes a project: nobody is a member any more, its tokens count no more, its name is free. Its builds go as their
    /// retention says.
    ///
    /// # Errors
    /// `Conflict`: builds of it go on, or it is the one that was there from the start; `NotFound`; or the database can't be
    /// reached.
    pub async fn remove_project(&self, by: &By, project: ProjectId) -> Result<()> {
        if project == default_project() {
            return Err(StoreError::Conflict("project default can't be removed".to_owned()));
        }
        let mut tx = self.begin().await?;
        let name = sqlx::query_scalar!(
            "SELECT name FROM projects WHERE id = $1 AND removed_at IS NULL FOR UPDATE",
            project.as_uuid()
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::NotFound("project"))?;
        let going_on = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM builds WHERE project_id = $1 AND finished_at IS NULL"#,
            project.as_uuid()
        )
        .fetch_one(&mut *tx)
        .await?;
        if going_on > 0 {
            let why = format!(
                "{going_on} builds of project {name} go on; cancel them, or wait until they have ended"
            );
            return Err(StoreError::Conflict(why));
        }
        sqlx::query!(
            "UPDATE tokens SET revoked_at = farm_now()
             WHERE revoked_at IS NULL AND (project_id = $1 OR principal_id IN (
                 SELECT m.principal_id FROM members m JOIN principals p ON p.id = m.principal_id
                 WHERE m.project_id = $1 AND p.kind = 'service'))",
            project.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "UPDATE trusts SET revoked_at = farm_now() WHERE project_id = $1 AND revoked_at IS NULL",
            project.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        super::logins::erase_all(&mut tx, project).await?;
        crate::hooks::registered::remove_all(&mut tx, project).await?;
        crate::notices::registered::remove_all(&mut tx, project).await?;
        crate::publish::mirrors::remove_all(&mut tx, project).await?;
        sqlx::query!("DELETE FROM members WHERE project_id = $1", project.as_uuid())
            .execute(&mut *tx)
            .await?;
        sqlx::query!("DELETE FROM group_members WHERE project_id = $1", project.as_uuid())
            .execute(&mut *tx)
            .await?;
        // The audit goes on naming it; its name is free for another one.
        sqlx::query!(
            "UPDATE projects SET removed_at = farm_now(), name = 'removed-' || replace(id::text, '-', '') WHERE id = $1",
            project.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        let deed =
            Deed { project: Some(project), action: "project.remove", subject: &name, detail: json!({}) };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }
}
