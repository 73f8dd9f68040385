//! Tokens of hooks at their forges, as they are kept: sealed. This crate has no key; who opens them is the coordinator.

use chrono::{DateTime, Utc};
use farm_types::{AttemptId, HookId, ProjectId};
use serde_json::json;
use uuid::Uuid;

use crate::builds::mounts::SealedKey;
use crate::machines::leader::Epoch;
use crate::people::audit::{By, Deed};
use crate::schema::shut_out;
use crate::{Result, Store, StoreError};

/// The schemas from which on coordinators know of them, and of Apps.
const SCHEMAS: (i32, i32) = (53, 59);

/// A GitHub App, as which a hook is known at its forge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownApp {
    /// By what it calls itself: its client id, or its App id.
    pub name: String,
    /// Its App id.
    pub id: i64,
    /// Its installation at the repository.
    pub installation: i64,
}

fn app(name: Option<String>, id: Option<i64>, installation: Option<i64>) -> Option<KnownApp> {
    Some(KnownApp { name: name?, id: id?, installation: installation? })
}

/// A token, sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedToken {
    /// Another one each time that it is set.
    pub version: Uuid,
    /// Its data key.
    pub key: SealedKey,
    /// The token, sealed by that; of an App its private key.
    pub bytes: Vec<u8>,
    /// Whose key it is; `None`: it is a token.
    pub app: Option<KnownApp>,
}

/// A token's data key, which one of the farm's keys has sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookTokenKey {
    /// Whose hook.
    pub project: ProjectId,
    /// Which.
    pub hook: HookId,
    /// Which token of it.
    pub version: Uuid,
    /// The data key.
    pub key: SealedKey,
}

/// A hook's token, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownToken {
    /// It is an App's key.
    pub app: Option<KnownApp>,
    /// Who set it.
    pub created_by: String,
    /// When.
    pub created_at: DateTime<Utc>,
    /// When the forge has taken a status last.
    pub told_at: Option<DateTime<Utc>>,
    /// Why it hasn't taken the last one, and when it said so.
    pub trouble: Option<(String, DateTime<Utc>)>,
    /// So many statuses wait to be sent.
    pub waiting: i64,
    /// So many were given up.
    pub given_up: i64,
}

/// A hook that is an App, and its repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookApp {
    /// Which hook.
    pub hook: HookId,
    /// Who has the repository.
    pub provider: String,
    /// `HOST[:PORT]`.
    pub host: String,
    /// Where its API is; `None`: where the provider has it.
    pub api_url: Option<String>,
    /// `OWNER/REPO` there.
    pub full_name: String,
    /// By which its forge knows it.
    pub repository_id: Option<String>,
    /// It was lent a token for clones the last time that its forge has said so or not.
    pub lends_clones: bool,
    /// The App's key.
    pub token: SealedToken,
}

impl Store {
    /// Notes whether a hook's App is lent tokens for clones, unless it has another key by now.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn note_clones(
        &self,
        project: ProjectId,
        (hook, version): (HookId, Uuid),
        lends: bool,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query!(
            "UPDATE hook_tokens SET lends_clones = $4 WHERE project_id = $1 AND hook_id = $2 AND version = $3",
            project.as_uuid(),
            hook.as_uuid(),
            version,
            lends
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// The App of the hook by which an attempt's fetch was begun: one of a delivery's, or a look at where refs are. `None`: there is none.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn app_of_fetch(&self, attempt: AttemptId) -> Result<Option<HookApp>> {
        let row = sqlx::query!(
            "SELECT h.id, h.provider, h.host, h.api_url, h.full_name, h.repository_id, t.version, t.key_id, t.sealed_key, t.sealed, t.app,
                    t.app_id, t.installation, t.lends_clones
             FROM attempts a JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
               JOIN builds b ON b.project_id = j.project_id AND b.execution_id = j.execution_id
               JOIN hooks h ON h.project_id = b.project_id JOIN hook_tokens t ON t.project_id = h.project_id AND t.hook_id = h.id
             WHERE a.id = $1 AND t.app IS NOT NULL AND h.removed_at IS NULL AND (
                EXISTS (SELECT FROM hook_builds o WHERE o.project_id = h.project_id AND o.hook_id = h.id AND o.build_id = b.id
                  AND o.kind IN ('rules', 'source'))
                OR EXISTS (SELECT FROM hook_looks l WHERE l.project_id = h.project_id AND l.hook_id = h.id AND l.build_id = b.id))
             LIMIT 1",
            attempt.as_uuid()
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| HookApp {
            hook: row.id.into(),
            provider: row.provider,
            host: row.host,
            api_url: row.api_url,
            full_name: row.full_name,
            repository_id: row.repository_id,
            lends_clones: row.lends_clones,
            token: SealedToken {
                version: row.version,
                key: SealedKey { by: row.key_id, bytes: row.sealed_key },
                bytes: row.sealed,
                app: app(row.app, row.app_id, row.installation),
            },
        }))
    }

    /// Keeps a hook's token, in the place of the one that was there. Statuses that it could not send are tried again.
    ///
    /// From the first one on, coordinators that know nothing of these are kept out: they would let a key of the farm be taken out that
    /// has sealed one, and lead without telling forges anything.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the project has no such hook. [`StoreError::Older`]: such a coordinator runs.
    pub async fn set_hook_token(
        &self,
        by: &By,
        project: ProjectId,
        name: &str,
        hook: HookId,
        new: &SealedToken,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        match &new.app {
            Some(_) => shut_out(&mut tx, SCHEMAS.1, "GitHub Apps").await?,
            None => shut_out(&mut tx, SCHEMAS.0, "statuses at forges").await?,
        }
        let app_id = new.app.as_ref().map(|app| app.id);
        // In the order in which all lock them: the hook, its token, its statuses.
        let found = sqlx::query_scalar!(
            "SELECT true FROM hooks WHERE project_id = $1 AND id = $2 AND name = $3 AND removed_at IS NULL FOR NO KEY UPDATE",
            project.as_uuid(),
            hook.as_uuid(),
            name
        )
        .fetch_optional(&mut *tx)
        .await?;
        if found.is_none() {
            return Err(StoreError::NotFound("hook"));
        }
        let before = sqlx::query_scalar!(
            "SELECT app_id FROM hook_tokens WHERE project_id = $1 AND hook_id = $2 FOR NO KEY UPDATE",
            project.as_uuid(),
            hook.as_uuid()
        )
        .fetch_optional(&mut *tx)
        .await?
        .flatten();
        sqlx::query!(
            "INSERT INTO hook_tokens (project_id, hook_id, version, key_id, sealed_key, sealed, created_by, app, app_id, installation)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (project_id, hook_id) DO UPDATE SET version = EXCLUDED.version, key_id = EXCLUDED.key_id,
                sealed_key = EXCLUDED.sealed_key, sealed = EXCLUDED.sealed, created_by = EXCLUDED.created_by, created_at = farm_now(),
                trouble = '', trouble_at = NULL, app = EXCLUDED.app, app_id = EXCLUDED.app_id, installation = EXCLUDED.installation,
                lends_clones = false",
            project.as_uuid(),
            hook.as_uuid(),
            new.version,
            new.key.by,
            new.key.bytes,
            new.bytes,
            by.name,
            new.app.as_ref().map(|app| app.name.as_str()),
            app_id,
            new.app.as_ref().map(|app| app.installation)
        )
        .execute(&mut *tx)
        .await?;
        if before.is_none() || before != app_id {
            // Nobody else's check runs can be changed.
            sqlx::query!(
                "UPDATE statuses SET check_of = NULL, check_id = NULL, check_tried = NULL
                 WHERE project_id = $1 AND hook_id = $2 AND check_of IS NOT NULL",
                project.as_uuid(),
                hook.as_uuid()
            )
            .execute(&mut *tx)
            .await?;
        }
        sqlx::query!(
            "UPDATE statuses SET attempts = 0, unknowns = 0, due_at = farm_now(), given_up = NULL, wanted_at = farm_now()
             WHERE project_id = $1 AND hook_id = $2 AND version > sent_version",
            project.as_uuid(),
            hook.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        let detail = match app_id {
            Some(app) => json!({ "id": hook, "app": app }),
            None => json!({ "id": hook }),
        };
        by.did(&mut tx, Deed { project: Some(project), action: "hook.token", subject: name, detail }).await?;
        tx.commit().await
    }

    /// Erases a hook's token, and with it what was to be told by it. False: there was none.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn remove_hook_token(
        &self,
        by: &By,
        project: ProjectId,
        name: &str,
        hook: HookId,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let removed = sqlx::query!(
            "DELETE FROM hook_tokens WHERE project_id = $1 AND hook_id = $2",
            project.as_uuid(),
            hook.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        if removed.rows_affected() != 1 {
            return Ok(false);
        }
        sqlx::query!(
            "DELETE FROM statuses WHERE project_id = $1 AND hook_id = $2",
            project.as_uuid(),
            hook.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        let detail = json!({ "id": hook, "removed": true });
        by.did(&mut tx, Deed { project: Some(project), action: "hook.token", subject: name, detail }).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// A hook's token, sealed.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn hook_token(&self, project: ProjectId, hook: HookId) -> Result<Option<SealedToken>> {
        let row = sqlx::query!(
            "SELECT version, key_id, sealed_key, sealed, app, app_id, installation FROM hook_tokens WHERE project_id = $1 AND hook_id = $2",
            project.as_uuid(),
            hook.as_uuid()
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| SealedToken {
            version: row.version,
            key: SealedKey { by: row.key_id, bytes: row.sealed_key },
            bytes: row.sealed,
            app: app(row.app, row.app_id, row.installation),
        }))
    }

    /// The tokens of a project's hooks, as people see them.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn hook_tokens(&self, project: ProjectId) -> Result<Vec<(HookId, KnownToken)>> {
        let rows = sqlx::query!(
            r#"SELECT t.hook_id, t.created_by, t.created_at, t.told_at, t.trouble, t.trouble_at, t.app, t.app_id, t.installation,
                      (SELECT count(*) FROM statuses s WHERE s.project_id = t.project_id AND s.hook_id = t.hook_id
                         AND s.version > s.sent_version AND s.given_up IS NULL) AS "waiting!",
                      (SELECT count(*) FROM statuses s WHERE s.project_id = t.project_id AND s.hook_id = t.hook_id
                         AND s.version > s.sent_version AND s.given_up IS NOT NULL) AS "given_up!"
               FROM hook_tokens t WHERE t.project_id = $1"#,
            project.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        let tokens = rows.into_iter().map(|row| {
            let token = KnownToken {
                app: app(row.app, row.app_id, row.installation),
                created_by: row.created_by,
                created_at: row.created_at,
                told_at: row.told_at,
                trouble: row.trouble_at.map(|at| (row.trouble, at)),
                waiting: row.waiting,
                given_up: row.given_up,
            };
            (row.hook_id.into(), token)
        });
        Ok(tokens.collect())
    }

    /// Data keys of hooks' tokens that were sealed by one of these keys of the farm: the next after that of a hook.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn hook_token_keys_by(
        &self,
        keys: &[String],
        after: Option<(ProjectId, HookId)>,
        most: i64,
    ) -> Result<Vec<HookTokenKey>> {
        let rows = sqlx::query!(
            "SELECT project_id, hook_id, version, key_id, sealed_key FROM hook_tokens
             WHERE key_id = ANY($1) AND ($3::uuid IS NULL OR (project_id, hook_id) > ($3, $4))
             ORDER BY project_id, hook_id LIMIT $2",
            keys,
            most,
            after.map(|(project, _)| project.as_uuid()),
            after.map(|(_, hook)| hook.as_uuid())
        )
        .fetch_all(&self.pool)
        .await?;
        let keys = rows.into_iter().map(|row| HookTokenKey {
            project: row.project_id.into(),
            hook: row.hook_id.into(),
            version: row.version,
            key: SealedKey { by: row.key_id, bytes: row.sealed_key },
        });
        Ok(keys.collect())
    }

    /// Exchanges a token's data key for the same, sealed by another key. False: it was set anew or removed meanwhile.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn reseal_hook_token_key(
        &self,
        epoch: Epoch,
        old: &HookTokenKey,
        new: &SealedKey,
    ) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE hook_tokens SET key_id = $4, sealed_key = $5
             WHERE project_id = $1 AND hook_id = $2 AND version = $3 AND key_id = $6 AND sealed_key = $7",
            old.project.as_uuid(),
            old.hook.as_uuid(),
            old.version,
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
