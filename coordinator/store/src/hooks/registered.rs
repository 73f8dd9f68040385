//! Hooks. Each is a principal of its own, as which is done what follows from what it is told; one that was removed stays while its
//! deliveries are kept, and takes none.

use chrono::{DateTime, Utc};
use farm_types::{HookId, PrincipalKind, ProjectId, RefPattern};
use serde_json::json;
use uuid::Uuid;

use super::secrets::{SealedSecret, insert};
use crate::people::audit::{By, Deed};
use crate::people::principals::made;
use crate::people::standing::stays;
use crate::schema::shut_out;
use crate::{Result, Store, StoreError, Tx};

/// The schema from which on coordinators know of hooks.
const SCHEMA: i32 = 50;
/// The most hooks of a project.
const MOST: i64 = 1_000;

/// A hook that is to be made.
#[derive(Debug, Clone)]
pub struct NewHook {
    /// Whose.
    pub project: ProjectId,
    /// What it is known by.
    pub id: HookId,
    /// What people call it.
    pub name: String,
    /// Who sends.
    pub provider: String,
    /// `HOST[:PORT]`.
    pub host: String,
    /// `OWNER/REPO` there.
    pub full_name: String,
    /// Where it is fetched; `None` of a registry's.
    pub clone_url: Option<String>,
    /// Where its forge's API is; `None`: where the provider has it.
    pub api_url: Option<String>,
    /// The last part of its URL.
    pub address: String,
    /// For which refs its builds may move what a publisher may.
    pub publishes: Vec<RefPattern>,
    /// It is looked for what its forge didn't deliver.
    pub sweeps: bool,
    /// Its first secret.
    pub secret: SealedSecret,
}

/// A hook, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// What it is known by.
    pub id: HookId,
    /// What people call it.
    pub name: String,
    /// Who sends.
    pub provider: String,
    /// `HOST[:PORT]`.
    pub host: String,
    /// `OWNER/REPO` there.
    pub full_name: String,
    /// By which its forge knows the repository; `None`: no delivery has said it yet.
    pub repository_id: Option<String>,
    /// Where it is fetched.
    pub clone_url: Option<String>,
    /// Where its forge's API is; `None`: where the provider has it.
    pub api_url: Option<String>,
    /// The last part of its URL.
    pub address: String,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: DateTime<Utc>,
    /// About when the last delivery came.
    pub last_delivery_at: Option<DateTime<Utc>>,
    /// So many secrets count.
    pub secrets: i64,
    /// While one replaces another: the new one was used.
    pub is_new_used: bool,
    /// For which refs its builds may move what a publisher may.
    pub publishes: Vec<String>,
    /// It is looked for what its forge didn't deliver.
    pub sweeps: bool,
    /// Why the farm does nothing for it of its own accord; empty: it does.
    pub strayed: String,
    /// The repository's default branch, once it was said.
    pub default_branch: Option<String>,
}

/// A hook, as a delivery finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalledHook {
    /// Whose.
    pub project: ProjectId,
    /// Its name.
    pub project_name: String,
    /// Which.
    pub id: HookId,
    /// What people call it.
    pub name: String,
    /// Who sends.
    pub provider: String,
    /// `HOST[:PORT]`.
    pub host: String,
    /// `OWNER/REPO` there.
    pub full_name: String,
    /// By which its forge knows the repository.
    pub repository_id: Option<String>,
    /// So many deliveries wait, at most those that were counted.
    pub waiting: i64,
    /// The secrets that count, the newest first.
    pub secrets: Vec<(Uuid, SealedSecret)>,
    /// The farm's time when this was read.
    pub now: DateTime<Utc>,
}

/// As whom it is done what follows from a hook's deliveries.
pub fn by_hook(project: &str, name: &str) -> By {
    By { name: format!("hook:{project}/{name}"), token_hint: String::new(), address: String::new() }
}

struct Row {
    id: Uuid,
    name: String,
    provider: String,
    host: String,
    full_name: String,
    repository_id: Option<String>,
    clone_url: Option<String>,
    api_url: Option<String>,
    address: String,
    created_by: String,
    created_at: DateTime<Utc>,
    last_delivery_at: Option<DateTime<Utc>>,
    secrets: i64,
    is_new_used: bool,
    publishes: Vec<String>,
    sweeps: bool,
    strayed: String,
    default_branch: Option<String>,
}

impl From<Row> for Hook {
    fn from(row: Row) -> Self {
        Self {
            id: row.id.into(),
            name: row.name,
            provider: row.provider,
            host: row.host,
            full_name: row.full_name,
            repository_id: row.repository_id,
            clone_url: row.clone_url,
            api_url: row.api_url,
            address: row.address,
            created_by: row.created_by,
            created_at: row.created_at,
            last_delivery_at: row.last_delivery_at,
            secrets: row.secrets,
            is_new_used: row.is_new_used,
            publishes: row.publishes,
            sweeps: row.sweeps,
            strayed: row.strayed,
            default_branch: row.default_branch,
        }
    }
}

impl Store {
    /// Makes a hook, with a principal of its own.
    ///
    /// From the first one on, coordinators that know nothing of hooks are kept out: they would let a key of the farm be taken out that
    /// has sealed a hook's secret, and lead without doing what was delivered.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: the project has one of this name. [`StoreError::Older`]: such a coordinator runs. [`StoreError::Exhausted`]: it has too
    /// many. [`StoreError::NotFound`]: the project was removed. Or the database can't be reached.
    pub async fn add_hook(&self, by: &By, new: &NewHook) -> Result<()> {
        let mut tx = self.begin().await?;
        stays(&mut tx, new.project).await?;
        shut_out(&mut tx, SCHEMA, "webhooks").await?;
        let there = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM hooks WHERE project_id = $1 AND removed_at IS NULL"#,
            new.project.as_uuid()
        )
        .fetch_one(&mut *tx)
        .await?;
        if there >= MOST {
            let what =
                format!("the project has {there} hooks, and more than {MOST} it may not have: remove some");
            return Err(StoreError::Exhausted { what, wait: None });
        }
        let principal = made(&mut tx, by, &format!("hook:{}", new.id), PrincipalKind::Hook).await?;
        let publishes: Vec<String> = new.publishes.iter().map(ToString::to_string).collect();
        let done = sqlx::query!(
            "INSERT INTO hooks (project_id, id, name, principal_id, provider, host, full_name, clone_url, address, created_by,
                                publishes, api_url, sweeps)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
             ON CONFLICT (project_id, name) WHERE removed_at IS NULL DO NOTHING",
            new.project.as_uuid(),
            new.id.as_uuid(),
            new.name,
            principal.as_uuid(),
            new.provider,
            new.host,
            new.full_name,
            new.clone_url,
            new.address,
            by.name,
            &publishes,
            new.api_url,
            new.sweeps
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            let why = format!("the project has a hook {} already; give this one another name", new.name);
            return Err(StoreError::Conflict(why));
        }
        insert(&mut tx, by, new.project, new.id, &new.secret).await?;
        let detail = json!({
            "id": new.id, "provider": new.provider, "host": new.host, "repository": new.full_name, "publishes": publishes,
            "sweep": new.sweeps
        });
        by.did(&mut tx, Deed { project: Some(new.project), action: "hook.add", subject: &new.name, detail })
            .await?;
        tx.commit().await
    }

    /// The project's hooks, by name.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn hooks(&self, project: ProjectId) -> Result<Vec<Hook>> {
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT h.id, h.name, h.provider, h.host, h.full_name, h.repository_id, h.clone_url, h.api_url, h.address,
                      h.created_by, h.created_at, h.last_delivery_at, h.publishes, h.sweeps, h.strayed, h.default_branch, count(s.id) AS "secrets!",
                      coalesce((array_agg(s.first_used_at IS NOT NULL ORDER BY s.created_at DESC))[1], false) AS "is_new_used!"
               FROM hooks h LEFT JOIN hook_secrets s ON s.project_id = h.project_id AND s.hook_id = h.id
                    AND (s.ends_at IS NULL OR s.ends_at > farm_now())
               WHERE h.project_id = $1 AND h.removed_at IS NULL GROUP BY h.project_id, h.id ORDER BY h.name"#,
            project.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(Hook::from).collect())
    }

    /// The hook of this address, with the secrets that count; counts at most `most` of the deliveries that wait.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn hook_called(&self, address: &str, most: i64) -> Result<Option<CalledHook>> {
        let row = sqlx::query!(
            r#"SELECT h.project_id, p.name AS project_name, h.id, h.name, h.provider, h.host, h.full_name, h.repository_id,
                      (SELECT count(*) FROM (SELECT 1 AS one FROM deliveries d WHERE d.project_id = h.project_id AND d.hook_id = h.id
                          AND d.state = 'received' AND NOT d.fork LIMIT $2) waiting) AS "waiting!",
                      farm_now() AS "now!"
               FROM hooks h JOIN projects p ON p.id = h.project_id
               WHERE h.address = $1 AND h.removed_at IS NULL AND p.removed_at IS NULL"#,
            address,
            most
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let secrets = self.secrets_of_hook(row.project_id.into(), row.id.into()).await?;
        Ok(Some(CalledHook {
            project: row.project_id.into(),
            project_name: row.project_name,
            id: row.id.into(),
            name: row.name,
            provider: row.provider,
            host: row.host,
            full_name: row.full_name,
            repository_id: row.repository_id,
            waiting: row.waiting,
            secrets,
            now: row.now,
        }))
    }

    /// Notes by which id its forge knows the repository, if that isn't known yet; gives the one that counts. Done as the hook, which
    /// was told it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the hook was removed. Or the database can't be reached.
    pub async fn pin_repository(
        &self,
        by: &By,
        project: ProjectId,
        hook: HookId,
        id: &str,
    ) -> Result<String> {
        let mut tx = self.begin().await?;
        let pinned = sqlx::query!(
            "UPDATE hooks SET repository_id = $3 WHERE project_id = $1 AND id = $2 AND removed_at IS NULL AND repository_id IS NULL
             RETURNING name",
            project.as_uuid(),
            hook.as_uuid(),
            id
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = pinned else {
            let known = sqlx::query_scalar!(
                "SELECT repository_id FROM hooks WHERE project_id = $1 AND id = $2 AND removed_at IS NULL",
                project.as_uuid(),
                hook.as_uuid()
            );
            return known.fetch_optional(&mut *tx).await?.flatten().ok_or(StoreError::NotFound("hook"));
        };
        let detail = json!({ "repository_id": id });
        let deed = Deed { project: Some(project), action: "hook.repository", subject: &row.name, detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await?;
        Ok(id.to_owned())
    }

    /// Notes that a hook's webhook was made at its forge, or changed there.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn hook_installed(&self, by: &By, project: ProjectId, name: &str, hook: HookId) -> Result<()> {
        let mut tx = self.begin().await?;
        let detail = json!({ "id": hook });
        by.did(&mut tx, Deed { project: Some(project), action: "hook.install", subject: name, detail })
            .await?;
        tx.commit().await
    }

    /// Removes a hook: it takes nothing from now on, its secrets and its token are erased, and nothing follows from what it was told and waits.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the project has none of this name.
    pub async fn remove_hook(&self, by: &By, project: ProjectId, name: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        let removed = sqlx::query_scalar!(
            "UPDATE hooks SET removed_at = farm_now() WHERE project_id = $1 AND name = $2 AND removed_at IS NULL RETURNING id",
            project.as_uuid(),
            name
        )
        .fetch_optional(&mut *tx)
        .await?;
        let hook = removed.ok_or(StoreError::NotFound("hook"))?;
        forget(&mut tx, project, hook).await?;
        let detail = json!({ "id": hook });
        by.did(&mut tx, Deed { project: Some(project), action: "hook.remove", subject: name, detail })
            .await?;
        tx.commit().await
    }
}

/// Erases what a removed hook was signed by and its token, and ends what it was told and was to tell.
async fn forget(tx: &mut Tx, project: ProjectId, hook: Uuid) -> Result<()> {
    sqlx::query!("DELETE FROM hook_secrets WHERE project_id = $1 AND hook_id = $2", project.as_uuid(), hook)
        .execute(&mut **tx)
        .await?;
    sqlx::query!("DELETE FROM hook_tokens WHERE project_id = $1 AND hook_id = $2", project.as_uuid(), hook)
        .execute(&mut **tx)
        .await?;
    sqlx::query!("DELETE FROM statuses WHERE project_id = $1 AND hook_id = $2", project.as_uuid(), hook)
        .execute(&mut **tx)
        .await?;
    sqlx::query!(
        "UPDATE deliveries SET state = 'ignored', reason = 'the hook was removed', finished_at = farm_now()
         WHERE project_id = $1 AND hook_id = $2 AND state = 'received'",
        project.as_uuid(),
        hook
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Removes all hooks of a project that is removed.
pub(crate) async fn remove_all(tx: &mut Tx, project: ProjectId) -> Result<()> {
    let removed = sqlx::query_scalar!(
        "UPDATE hooks SET removed_at = farm_now() WHERE project_id = $1 AND removed_at IS NULL RETURNING id",
        project.as_uuid()
    )
    .fetch_all(&mut **tx)
    .await?;
    for hook in removed {
        forget(tx, project, hook).await?;
    }
    Ok(())
}
