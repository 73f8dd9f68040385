//! Secrets of hooks, as they are kept: sealed. This crate has no key; who opens them is the coordinator.
//!
//! A hook has one, and while that is replaced two: the one before counts until the new one was used and a day longer, or until somebody
//! says that all is done.

use farm_types::{HookId, ProjectId};
use serde_json::json;
use uuid::Uuid;

use crate::builds::mounts::SealedKey;
use crate::machines::leader::Epoch;
use crate::people::audit::{By, Deed};
use crate::{Result, Store, StoreError, Tx};

/// A secret, sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// What it is known by.
    pub id: Uuid,
    /// Its data key.
    pub key: SealedKey,
    /// The secret, sealed by that.
    pub bytes: Vec<u8>,
}

/// A secret's data key, which one of the farm's keys has sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookSecretKey {
    /// Whose hook.
    pub project: ProjectId,
    /// Which.
    pub hook: HookId,
    /// Which secret of it.
    pub secret: Uuid,
    /// The data key.
    pub key: SealedKey,
}

impl Store {
    /// The secrets of a hook that count, the newest first.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn secrets_of_hook(
        &self,
        project: ProjectId,
        hook: HookId,
    ) -> Result<Vec<(Uuid, SealedSecret)>> {
        let rows = sqlx::query!(
            "SELECT id, key_id, sealed_key, sealed FROM hook_secrets
             WHERE project_id = $1 AND hook_id = $2 AND (ends_at IS NULL OR ends_at > farm_now()) ORDER BY created_at DESC, id LIMIT 2",
            project.as_uuid(),
            hook.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        let secret = |id, by, key, bytes| SealedSecret { id, key: SealedKey { by, bytes: key }, bytes };
        Ok(rows
            .into_iter()
            .map(|row| (row.id, secret(row.id, row.key_id, row.sealed_key, row.sealed)))
            .collect())
    }

    /// Gives a hook another secret; the one before goes on counting.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the project has no such hook. [`StoreError::Conflict`]: it has two that count.
    pub async fn rotate_hook(
        &self,
        by: &By,
        project: ProjectId,
        name: &str,
        hook: HookId,
        new: &SealedSecret,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        hold(&mut tx, project, name, hook).await?;
        sqlx::query!(
            "DELETE FROM hook_secrets WHERE project_id = $1 AND hook_id = $2 AND ends_at <= farm_now()",
            project.as_uuid(),
            hook.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        let counting = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM hook_secrets WHERE project_id = $1 AND hook_id = $2"#,
            project.as_uuid(),
            hook.as_uuid()
        )
        .fetch_one(&mut *tx)
        .await?;
        if counting > 1 {
            let why = format!(
                "two secrets of hook {name} count already: end the older one first, once the forge has the newer: farm hook rotate {name} \
                 --finish"
            );
            return Err(StoreError::Conflict(why));
        }
        insert(&mut tx, by, project, hook, new).await?;
        let deed = Deed {
            project: Some(project),
            action: "hook.rotate",
            subject: name,
            detail: json!({ "id": hook }),
        };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }

    /// Erases all secrets of a hook but the newest. False: there was no other.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the project has no such hook.
    pub async fn finish_rotation(
        &self,
        by: &By,
        project: ProjectId,
        name: &str,
        hook: HookId,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        hold(&mut tx, project, name, hook).await?;
        let erased = sqlx::query!(
            "DELETE FROM hook_secrets WHERE project_id = $1 AND hook_id = $2 AND id <> (
                SELECT id FROM hook_secrets WHERE project_id = $1 AND hook_id = $2 ORDER BY created_at DESC, id LIMIT 1)",
            project.as_uuid(),
            hook.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        let is_done = erased.rows_affected() > 0;
        if is_done {
            let detail = json!({ "id": hook, "finished": true });
            let deed = Deed { project: Some(project), action: "hook.rotate", subject: name, detail };
            by.did(&mut tx, deed).await?;
        }
        tx.commit().await?;
        Ok(is_done)
    }

    /// Data keys of hooks' secrets that were sealed by one of these keys of the farm: the next after that of a secret.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn hook_keys_by(
        &self,
        keys: &[String],
        after: Option<(ProjectId, HookId, Uuid)>,
        most: i64,
    ) -> Result<Vec<HookSecretKey>> {
        let rows = sqlx::query!(
            "SELECT project_id, hook_id, id, key_id, sealed_key FROM hook_secrets
             WHERE key_id = ANY($1) AND ($3::uuid IS NULL OR (project_id, hook_id, id) > ($3, $4, $5))
             ORDER BY project_id, hook_id, id LIMIT $2",
            keys,
            most,
            after.map(|(project, _, _)| project.as_uuid()),
            after.map(|(_, hook, _)| hook.as_uuid()),
            after.map(|(_, _, secret)| secret)
        )
        .fetch_all(&self.pool)
        .await?;
        let keys = rows.into_iter().map(|row| HookSecretKey {
            project: row.project_id.into(),
            hook: row.hook_id.into(),
            secret: row.id,
            key: SealedKey { by: row.key_id, bytes: row.sealed_key },
        });
        Ok(keys.collect())
    }

    /// Exchanges a secret's data key for the same, sealed by another key. False: it was erased meanwhile.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn reseal_hook_key(&self, epoch: Epoch, old: &HookSecretKey, new: &SealedKey) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE hook_secrets SET key_id = $4, sealed_key = $5
             WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND key_id = $6 AND sealed_key = $7",
            old.project.as_uuid(),
            old.hook.as_uuid(),
            old.secret,
            new.by,
            new.bytes,
            old.key.by,
            old.key.bytes
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }
}

/// Holds a hook that is there until the transaction ends, so that nobody else changes its secrets.
async fn hold(tx: &mut Tx, project: ProjectId, name: &str, hook: HookId) -> Result<()> {
    let there = sqlx::query_scalar!(
        "SELECT true FROM hooks WHERE project_id = $1 AND id = $2 AND name = $3 AND removed_at IS NULL FOR NO KEY UPDATE",
        project.as_uuid(),
        hook.as_uuid(),
        name
    );
    there.fetch_optional(&mut **tx).await?.map(drop).ok_or(StoreError::NotFound("hook"))
}

/// Adds a secret.
pub(super) async fn insert(
    tx: &mut Tx,
    by: &By,
    project: ProjectId,
    hook: HookId,
    new: &SealedSecret,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO hook_secrets (project_id, hook_id, id, key_id, sealed_key, sealed, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        project.as_uuid(),
        hook.as_uuid(),
        new.id,
        new.key.by,
        new.key.bytes,
        new.bytes,
        by.name
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Notes that a delivery was signed by a secret. With the first one by the newest the others end in a day.
pub(super) async fn used(tx: &mut Tx, project: ProjectId, hook: HookId, secret: Uuid) -> Result<()> {
    let first = sqlx::query!(
        "UPDATE hook_secrets SET first_used_at = farm_now() WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND first_used_at IS NULL",
        project.as_uuid(),
        hook.as_uuid(),
        secret
    )
    .execute(&mut **tx)
    .await?;
    if first.rows_affected() == 1 {
        sqlx::query!(
            "UPDATE hook_secrets o SET ends_at = farm_now() + interval '1 day' FROM hook_secrets n
             WHERE o.project_id = $1 AND o.hook_id = $2 AND o.ends_at IS NULL AND n.project_id = $1 AND n.hook_id = $2 AND n.id = $3
               AND o.created_at < n.created_at",
            project.as_uuid(),
            hook.as_uuid(),
            secret
        )
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}
