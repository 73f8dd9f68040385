//! Where a project may push to and pull from, which of its tags are protected, and which entitlements its builds may ask for.

use farm_core::people::Access;
use farm_types::{Entitlements, ProjectId, RepositoryPrefix, Role, TagPattern};
use serde_json::json;

use super::audit::{By, Deed};
use super::standing::stays;
use crate::{Result, Store, StoreError, Tx};

/// What a project may do with repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Push to them, and pull from them.
    Push,
    /// Pull from them with the farm's credentials.
    Pull,
}

impl Use {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
        }
    }
}

/// Tags that are protected in a new project.
const PROTECTED: [(&str, Role); 2] = [("latest", Role::Publisher), ("v*", Role::Publisher)];

impl Store {
    /// What a project is allowed.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn access(&self, project: ProjectId) -> Result<Access> {
        let rows = sqlx::query!(
            r#"SELECT access AS "kind!", prefix AS "text!", '' AS "role!" FROM allowed_repositories WHERE project_id = $1
               UNION ALL SELECT 'tags', pattern, role FROM protected_tags WHERE project_id = $1
               UNION ALL SELECT 'entitlement', unnest(entitlements), '' FROM projects WHERE id = $1 ORDER BY 1, 2"#,
            project.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        let mut access = Access::default();
        for row in rows {
            match row.kind.as_str() {
                "push" => access.push.push(row.text.parse().map_err(StoreError::corrupt)?),
                "pull" => access.pull.push(row.text.parse().map_err(StoreError::corrupt)?),
                "entitlement" => {
                    access.entitlements.insert(row.text.parse().map_err(StoreError::corrupt)?);
                }
                _ => access.protected.push((
                    row.text.parse().map_err(StoreError::corrupt)?,
                    row.role.parse().map_err(StoreError::corrupt)?,
                )),
            }
        }
        Ok(access)
    }

    /// Lets a project use repositories, or takes that back. Answers whether anything changed.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn allow(
        &self,
        by: &By,
        project: ProjectId,
        access: Use,
        prefix: &RepositoryPrefix,
        is_allowed: bool,
    ) -> Result<bool> {
        let (id, prefix) = (project.as_uuid(), prefix.to_string());
        let mut tx = self.begin().await?;
        stays(&mut tx, project).await?;
        let changed = if is_allowed {
            sqlx::query!(
                "INSERT INTO allowed_repositories (project_id, access, prefix) VALUES ($1, $2, $3)
                 ON CONFLICT DO NOTHING",
                id,
                access.as_str(),
                prefix
            )
            .execute(&mut *tx)
            .await?
        } else {
            sqlx::query!(
                "DELETE FROM allowed_repositories WHERE project_id = $1 AND access = $2 AND prefix = $3",
                id,
                access.as_str(),
                prefix
            )
            .execute(&mut *tx)
            .await?
        };
        let is_changed = changed.rows_affected() > 0;
        if is_changed {
            let action = if is_allowed { "repository.allow" } else { "repository.forbid" };
            let detail = json!({ "access": access.as_str() });
            by.did(&mut tx, Deed { project: Some(project), action, subject: &prefix, detail }).await?;
        }
        tx.commit().await?;
        Ok(is_changed)
    }

    /// Says which entitlements a project's builds may ask for; what waits already goes by it, too.
    ///
    /// # Errors
    /// There is no such project, or the database can't be reached.
    pub async fn allow_entitlements(
        &self,
        by: &By,
        project: ProjectId,
        entitlements: &Entitlements,
    ) -> Result<()> {
        let names: Vec<String> = entitlements.iter().map(ToString::to_string).collect();
        let mut tx = self.begin().await?;
        let changed = sqlx::query_scalar!(
            "UPDATE projects SET entitlements = $2 WHERE id = $1 AND removed_at IS NULL RETURNING name",
            project.as_uuid(),
            &names
        )
        .fetch_optional(&mut *tx)
        .await?;
        let name = changed.ok_or(StoreError::NotFound("project"))?;
        let detail = json!({ "entitlements": names });
        let deed = Deed { project: Some(project), action: "project.entitlements", subject: &name, detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }

    /// Says who moves the tags of a pattern; `None`: whoever may build.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn protect(
        &self,
        by: &By,
        project: ProjectId,
        pattern: &TagPattern,
        least: Option<Role>,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        stays(&mut tx, project).await?;
        protect(&mut tx, by, project, pattern.as_str(), least).await?;
        tx.commit().await
    }
}

/// The tags that are protected from a project's beginning on.
pub(super) async fn protect_usual(tx: &mut Tx, by: &By, project: ProjectId) -> Result<()> {
    for (pattern, least) in PROTECTED {
        protect(tx, by, project, pattern, Some(least)).await?;
    }
    Ok(())
}

async fn protect(tx: &mut Tx, by: &By, project: ProjectId, pattern: &str, least: Option<Role>) -> Result<()> {
    if let Some(role) = least {
        sqlx::query!(
            "INSERT INTO protected_tags (project_id, pattern, role) VALUES ($1, $2, $3)
             ON CONFLICT (project_id, pattern) DO UPDATE SET role = excluded.role",
            project.as_uuid(),
            pattern,
            role.as_str()
        )
        .execute(&mut **tx)
        .await?;
    } else {
        sqlx::query!(
            "DELETE FROM protected_tags WHERE project_id = $1 AND pattern = $2",
            project.as_uuid(),
            pattern
        )
        .execute(&mut **tx)
        .await?;
    }
    let detail = json!({ "role": least.map(Role::as_str) });
    by.did(tx, Deed { project: Some(project), action: "tag.protect", subject: pattern, detail }).await
}
