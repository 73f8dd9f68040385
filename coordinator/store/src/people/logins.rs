//! Logins of projects at registries, as they are kept: sealed. This crate has no key; who opens them is the coordinator.

use chrono::{DateTime, Utc};
use farm_types::{ProjectId, RegistryHost};
use serde_json::json;
use uuid::Uuid;

use super::audit::{By, Deed};
use super::quotas::has_room;
use super::read_limits::ReadLimit;
use super::standing::stays;
use crate::builds::mounts::SealedKey;
use crate::machines::leader::Epoch;
use crate::schema::shut_out;
use crate::{Result, Store, StoreError, Tx, from_json};

/// The schema from which on coordinators know of projects' logins.
const SCHEMA: i32 = 42;

/// A password, sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedPassword {
    /// The login's data key.
    pub key: SealedKey,
    /// The password, sealed by that.
    pub bytes: Vec<u8>,
}

/// What a login is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginBy {
    /// The user's name there, and the password.
    Password(String, SealedPassword),
    /// The name of the credential helper that gives both.
    Helper(String),
}

/// A project's login at a registry, as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedLogin {
    /// The registry.
    pub host: RegistryHost,
    /// Another one each time that it is set.
    pub version: Uuid,
    /// `None`: it was removed.
    pub by: Option<LoginBy>,
}

/// A login that is to be kept.
#[derive(Debug, Clone)]
pub struct NewLogin {
    /// Whose.
    pub project: ProjectId,
    /// The registry.
    pub host: RegistryHost,
    /// What it is known by from now on.
    pub version: Uuid,
    /// What it is.
    pub by: LoginBy,
}

/// A project's login at a registry, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The registry.
    pub host: String,
    /// The user's name there; empty: a helper's.
    pub username: String,
    /// The credential helper that gives name and password.
    pub helper: Option<String>,
    /// Who set it.
    pub created_by: String,
    /// When.
    pub created_at: DateTime<Utc>,
    /// When a registry was asked by it last, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// How much may be read there by it, as the registry has said it, and when that was.
    pub limit: Option<(ReadLimit, DateTime<Utc>)>,
}

/// The same, as its row has it.
struct LoginRow {
    host: String,
    username: String,
    helper: Option<String>,
    created_by: String,
    created_at: DateTime<Utc>,
    last_used_at: Option<DateTime<Utc>>,
    read_limit: Option<serde_json::Value>,
    read_limit_at: Option<DateTime<Utc>>,
}

impl From<LoginRow> for Login {
    fn from(row: LoginRow) -> Self {
        // What can't be read of it is as good as not said.
        let limit = row.read_limit.and_then(|limit| from_json(limit).ok()).zip(row.read_limit_at);
        let LoginRow { host, username, helper, created_by, created_at, last_used_at, .. } = row;
        Self { host, username, helper, created_by, created_at, last_used_at, limit }
    }
}

/// A login's data key, which one of the farm's keys has sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginKey {
    /// Whose login.
    pub project: ProjectId,
    /// At which registry.
    pub host: RegistryHost,
    /// The data key.
    pub key: SealedKey,
}

impl Store {
    /// Keeps a project's login at a registry, in the place of the one that it had there.
    ///
    /// From the first one on, coordinators that know nothing of them are kept out: they would publish by the farm's login what was accepted
    /// by a project's.
    ///
    /// # Errors
    /// [`StoreError::Older`]: such a coordinator runs. [`StoreError::NotFound`]: the project was removed. [`StoreError::Exhausted`]: its
    /// stored bytes are used up. Or the database can't be reached.
    pub async fn set_login(&self, by: &By, new: &NewLogin) -> Result<Login> {
        let (username, password, helper) = match &new.by {
            LoginBy::Password(username, password) => (username.as_str(), Some(password), None),
            LoginBy::Helper(helper) => ("", None, Some(helper.as_str())),
        };
        let mut tx = self.begin().await?;
        stays(&mut tx, new.project).await?;
        if password.is_some() {
            has_room(&mut tx, new.project).await?;
        }
        shut_out(&mut tx, SCHEMA, "projects' logins at registries").await?;
        let login = sqlx::query_as!(
            LoginRow,
            "INSERT INTO registry_logins (project_id, host, version, username, helper, key_id, sealed_key, sealed, created_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (project_id, host) DO UPDATE SET version = EXCLUDED.version, username = EXCLUDED.username,
                helper = EXCLUDED.helper, key_id = EXCLUDED.key_id, sealed_key = EXCLUDED.sealed_key, sealed = EXCLUDED.sealed,
                created_by = EXCLUDED.created_by, created_at = farm_now(), last_used_at = NULL, removed_at = NULL,
                read_limit = NULL, read_limit_at = NULL
             RETURNING host, username, helper, created_by, created_at, last_used_at, read_limit, read_limit_at",
            new.project.as_uuid(),
            new.host.as_str(),
            new.version,
            username,
            helper,
            password.map(|password| password.key.by.as_str()),
            password.map(|password| password.key.bytes.as_slice()),
            password.map(|password| password.bytes.as_slice()),
            by.name
        )
        .fetch_one(&mut *tx)
        .await?;
        let detail = match helper {
            Some(helper) => json!({ "helper": helper }),
            None => json!({ "user": username }),
        };
        let subject = new.host.as_str();
        by.did(&mut tx, Deed { project: Some(new.project), action: "registry.login", subject, detail })
            .await?;
        tx.commit().await?;
        Ok(login.into())
    }

    /// The project's logins, by their registries.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn logins(&self, project: ProjectId) -> Result<Vec<Login>> {
        let logins = sqlx::query_as!(
            LoginRow,
            "SELECT host, username, helper, created_by, created_at, last_used_at, read_limit, read_limit_at FROM registry_logins
             WHERE project_id = $1 AND removed_at IS NULL ORDER BY host",
            project.as_uuid()
        );
        Ok(logins.fetch_all(&self.pool).await?.into_iter().map(Login::from).collect())
    }

    /// Removes the project's login at a registry, and erases its password.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: it has none there.
    pub async fn remove_login(&self, by: &By, project: ProjectId, host: &RegistryHost) -> Result<()> {
        let mut tx = self.begin().await?;
        let removed = sqlx::query!(
            "UPDATE registry_logins SET removed_at = farm_now(), helper = NULL, key_id = NULL, sealed_key = NULL, sealed = NULL
             WHERE project_id = $1 AND host = $2 AND removed_at IS NULL",
            project.as_uuid(),
            host.as_str()
        )
        .execute(&mut *tx)
        .await?;
        if removed.rows_affected() != 1 {
            return Err(StoreError::NotFound("login"));
        }
        let deed = Deed {
            project: Some(project),
            action: "registry.logout",
            subject: host.as_str(),
            detail: json!({}),
        };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }

    /// Notes that a registry was asked by a login.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn login_used(&self, project: ProjectId, version: Uuid) -> Result<()> {
        sqlx::query!(
            "UPDATE registry_logins SET last_used_at = farm_now() WHERE project_id = $1 AND version = $2
               AND removed_at IS NULL AND coalesce(last_used_at, '-infinity') < farm_now() - interval '1 minute'",
            project.as_uuid(),
            version
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Data keys of logins that were sealed by one of these keys of the farm: the next after that of a login.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn login_keys_by(
        &self,
        keys: &[String],
        after: Option<(ProjectId, &RegistryHost)>,
        most: i64,
    ) -> Result<Vec<LoginKey>> {
        let rows = sqlx::query!(
            r#"SELECT project_id, host, key_id AS "key_id!", sealed_key AS "sealed_key!" FROM registry_logins
               WHERE key_id = ANY($1) AND ($3::uuid IS NULL OR (project_id, host) > ($3, $4))
               ORDER BY project_id, host LIMIT $2"#,
            keys,
            most,
            after.map(|(project, _)| project.as_uuid()),
            after.map(|(_, host)| host.as_str())
        )
        .fetch_all(&self.pool)
        .await?;
        let keys = rows.into_iter().map(|row| {
            let key = SealedKey { by: row.key_id, bytes: row.sealed_key };
            let host = row.host.parse().map_err(StoreError::corrupt)?;
            Ok(LoginKey { project: row.project_id.into(), host, key })
        });
        keys.collect()
    }

    /// Exchanges a login's data key for the same, sealed by another key. False: it was set anew or removed meanwhile.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn reseal_login_key(&self, epoch: Epoch, old: &LoginKey, new: &SealedKey) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE registry_logins SET key_id = $3, sealed_key = $4
             WHERE project_id = $1 AND host = $2 AND key_id = $5 AND sealed_key = $6",
            old.project.as_uuid(),
            old.host.as_str(),
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

/// Erases all logins of a project that is removed.
pub(super) async fn erase_all(tx: &mut Tx, project: ProjectId) -> Result<()> {
    sqlx::query!(
        "UPDATE registry_logins SET removed_at = farm_now(), helper = NULL, key_id = NULL, sealed_key = NULL, sealed = NULL
         WHERE project_id = $1 AND removed_at IS NULL",
        project.as_uuid()
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
