//! Keys by which projects sign what their builds publish, as they are kept: sealed, with who may have things signed by them.
//!
//! This crate has no key; who opens them is the coordinator that leads, when it signs. Invariant: a build is accepted with one version of a key,
//! and no other signs what it publishes.

use chrono::{DateTime, Utc};
use farm_core::people::secrets::SecretRule;
use farm_types::{BuildId, ProjectId, ShortId, SigningKeyName};
use serde_json::json;
use uuid::Uuid;

use super::audit::{By, Deed};
use super::secrets::{SecretUse, rule, told};
use super::standing::stays;
use crate::builds::mounts::SealedKey;
use crate::machines::leader::Epoch;
use crate::proof::LockedExecution;
use crate::schema::shut_out;
use crate::{Result, Store, StoreError, state, words};

/// A project keeps no more.
pub const MOST: i64 = 50;
/// The schema from which on coordinators know of signing keys: of what is sealed by them, and of what is to be signed.
pub(crate) const SCHEMA: i32 = 71;
/// What a build hears whose signing key was changed, or its rule, since it was read.
pub const SIGNING_KEY_CHANGED: &str = "a signing key of the project was changed at this moment";

/// A signing key, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKeyRecord {
    /// What the project calls it.
    pub name: SigningKeyName,
    /// Who may have things signed by it.
    pub rule: SecretRule,
    /// The public key: a point of P-256, uncompressed.
    pub public: Vec<u8>,
    /// Who has set it.
    pub set_by: String,
    /// When.
    pub set_at: DateTime<Utc>,
    /// By which build it was taken last.
    pub last_use: Option<SecretUse>,
    /// By which key of the farm it is sealed.
    pub key: String,
}

/// A signing key, sealed, and who may have things signed by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSigningKey {
    /// Another one each time that it is set.
    pub version: Uuid,
    /// Who may have things signed by it.
    pub rule: SecretRule,
    /// Its data key.
    pub key: SealedKey,
    /// The private key, sealed by that.
    pub bytes: Vec<u8>,
}

/// A key that is to be.
#[derive(Debug, Clone)]
pub struct NewSigningKey<'a> {
    /// Whose.
    pub project: ProjectId,
    /// What it is called.
    pub name: &'a SigningKeyName,
    /// The version that it takes the place of; `None`: there is none of the name.
    pub before: Option<Uuid>,
    /// What it is, as it is sealed for that.
    pub version: Uuid,
    /// Who may have things signed by it.
    pub rule: &'a SecretRule,
    /// The public key.
    pub public: &'a [u8],
    /// The data key.
    pub key: &'a SealedKey,
    /// The private key, sealed by that.
    pub bytes: &'a [u8],
}

/// The key with which a build is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedSigningKey {
    /// As the spec names it.
    pub name: SigningKeyName,
    /// Which it is.
    pub version: Uuid,
    /// The rule by which whoever asks may have things signed by it.
    pub rule: SecretRule,
}

/// Which key, for whoever seals it anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKeyKey {
    /// Whose.
    pub project: ProjectId,
    /// Which.
    pub name: SigningKeyName,
    /// Which of that name.
    pub version: Uuid,
    /// Its data key.
    pub key: SealedKey,
}

impl Store {
    /// The project's signing keys, by name.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn signing_keys(&self, project: ProjectId) -> Result<Vec<SigningKeyRecord>> {
        let rows = sqlx::query!(
            "SELECT name, role, refs, events, public_key, created_by, created_at, key_id, last_used_at, last_used_by, last_used_build
             FROM signing_keys WHERE project_id = $1 ORDER BY name",
            project.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        let keys = rows.into_iter().map(|row| {
            let last_use = match (row.last_used_at, row.last_used_by, row.last_used_build) {
                (Some(at), Some(by), Some(build)) => Some(SecretUse { at, by, build }),
                _ => None,
            };
            Ok(SigningKeyRecord {
                name: state(&row.name)?,
                rule: rule(&row.role, &row.refs, &row.events)?,
                public: row.public_key,
                set_by: row.created_by,
                set_at: row.created_at,
                last_use,
                key: row.key_id,
            })
        });
        keys.collect()
    }

    /// A signing key, sealed; `None`: the project has none of this name.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn sealed_signing_key(
        &self,
        project: ProjectId,
        name: &SigningKeyName,
    ) -> Result<Option<SealedSigningKey>> {
        let row = sqlx::query!(
            "SELECT version, role, refs, events, key_id, sealed_key, sealed FROM signing_keys
             WHERE project_id = $1 AND name = $2",
            project.as_uuid(),
            name.as_str()
        )
        .fetch_optional(&self.pool)
        .await?;
        let key = row.map(|row| {
            Ok(SealedSigningKey {
                version: row.version,
                rule: rule(&row.role, &row.refs, &row.events)?,
                key: SealedKey { by: row.key_id, bytes: row.sealed_key },
                bytes: row.sealed,
            })
        });
        key.transpose()
    }

    /// Keeps a signing key; the one before is erased.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: there is something else of the name now than `before`; [`StoreError::Exhausted`]: the project has too
    /// many; [`StoreError::Older`]: coordinators run that would lose it with the farm's key that seals it; [`StoreError::NotFound`]: the project
    /// was removed.
    pub async fn set_signing_key(&self, by: &By, new: &NewSigningKey<'_>) -> Result<()> {
        let mut tx = self.begin().await?;
        stays(&mut tx, new.project).await?;
        shut_out(&mut tx, SCHEMA, "signing keys").await?;
        let project = new.project.as_uuid();
        if new.before.is_none() {
            let there = sqlx::query_scalar!(
                r#"SELECT count(*) AS "count!" FROM signing_keys WHERE project_id = $1"#,
                project
            );
            if there.fetch_one(&mut *tx).await? >= MOST {
                let what = format!(
                    "the project keeps {MOST} signing keys already, which is the most; remove one: farm signing-key rm NAME"
                );
                return Err(StoreError::Exhausted { what, wait: None });
            }
        }
        let set = sqlx::query!(
            "INSERT INTO signing_keys AS k (project_id, name, version, role, refs, events, public_key, key_id, sealed_key, sealed, created_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (project_id, name) DO UPDATE SET version = EXCLUDED.version, role = EXCLUDED.role, refs = EXCLUDED.refs,
                events = EXCLUDED.events, public_key = EXCLUDED.public_key, key_id = EXCLUDED.key_id, sealed_key = EXCLUDED.sealed_key,
                sealed = EXCLUDED.sealed, created_by = EXCLUDED.created_by, created_at = farm_now()
             WHERE k.version = $12",
            project,
            new.name.as_str(),
            new.version,
            new.rule.role.as_str(),
            &words(&new.rule.refs),
            &words(&new.rule.events),
            new.public,
            new.key.by,
            new.key.bytes,
            new.bytes,
            by.name,
            new.before
        )
        .execute(&mut *tx)
        .await?;
        if set.rows_affected() != 1 {
            return Err(StoreError::Stale(SIGNING_KEY_CHANGED));
        }
        let detail = json!({ "replaced": new.before.is_some(), "rule": told(new.rule) });
        let subject = new.name.as_str();
        by.did(&mut tx, Deed { project: Some(new.project), action: "signing_key.set", subject, detail })
            .await?;
        tx.commit().await
    }

    /// Says anew who may have things signed by a key.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: there is something else of the name now than `before`, by its version and rule.
    pub async fn set_signing_key_rule(
        &self,
        by: &By,
        (project, name): (ProjectId, &SigningKeyName),
        before: (Uuid, &SecretRule),
        rule: &SecretRule,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        let (version, old) = before;
        let set = sqlx::query!(
            "UPDATE signing_keys SET role = $4, refs = $5, events = $6
             WHERE project_id = $1 AND name = $2 AND version = $3 AND role = $7 AND refs = $8 AND events = $9",
            project.as_uuid(),
            name.as_str(),
            version,
            rule.role.as_str(),
            &words(&rule.refs),
            &words(&rule.events),
            old.role.as_str(),
            &words(&old.refs),
            &words(&old.events)
        )
        .execute(&mut *tx)
        .await?;
        if set.rows_affected() != 1 {
            return Err(StoreError::Stale(SIGNING_KEY_CHANGED));
        }
        let detail = json!({ "rule": told(rule) });
        let deed =
            Deed { project: Some(project), action: "signing_key.rule", subject: name.as_str(), detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }

    /// Removes a signing key. What was accepted with it and isn't signed yet fails.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the project has none of this name.
    pub async fn remove_signing_key(&self, by: &By, project: ProjectId, name: &SigningKeyName) -> Result<()> {
        let mut tx = self.begin().await?;
        let removed = sqlx::query!(
            "DELETE FROM signing_keys WHERE project_id = $1 AND name = $2",
            project.as_uuid(),
            name.as_str()
        )
        .execute(&mut *tx)
        .await?;
        if removed.rows_affected() != 1 {
            return Err(StoreError::NotFound("signing key"));
        }
        let detail = json!({});
        let deed =
            Deed { project: Some(project), action: "signing_key.remove", subject: name.as_str(), detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }

    /// Data keys of signing keys that were sealed by one of these keys of the farm: the next after that of a key.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn signing_key_keys_by(
        &self,
        keys: &[String],
        after: Option<(ProjectId, &SigningKeyName)>,
        most: i64,
    ) -> Result<Vec<SigningKeyKey>> {
        let rows = sqlx::query!(
            "SELECT project_id, name, version, key_id, sealed_key FROM signing_keys
             WHERE key_id = ANY($1) AND ($3::uuid IS NULL OR (project_id, name) > ($3, $4))
             ORDER BY project_id, name LIMIT $2",
            keys,
            most,
            after.map(|(project, _)| project.as_uuid()),
            after.map(|(_, name)| name.as_str())
        )
        .fetch_all(&self.pool)
        .await?;
        let keys = rows.into_iter().map(|row| {
            Ok(SigningKeyKey {
                project: row.project_id.into(),
                name: state(&row.name)?,
                version: row.version,
                key: SealedKey { by: row.key_id, bytes: row.sealed_key },
            })
        });
        keys.collect()
    }

    /// Exchanges the data key of a signing key for the same, sealed by another key. False: it was replaced or removed.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn reseal_signing_key(
        &self,
        epoch: Epoch,
        old: &SigningKeyKey,
        new: &SealedKey,
    ) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE signing_keys SET key_id = $4, sealed_key = $5
             WHERE project_id = $1 AND name = $2 AND version = $3 AND key_id = $6 AND sealed_key = $7",
            old.project.as_uuid(),
            old.name.as_str(),
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

/// Notes by which key what a new build publishes is signed, and the use of that.
///
/// # Errors
/// [`StoreError::Stale`] with [`SIGNING_KEY_CHANGED`]: it is another one now, or another rule says who may have things signed by it.
/// [`StoreError::Older`]: coordinators run that would publish without.
pub(crate) async fn take_signing_key(
    execution: &mut LockedExecution<'_>,
    (build, short_id): (BuildId, &ShortId),
    by: &str,
    used: Option<&UsedSigningKey>,
) -> Result<()> {
    let Some(UsedSigningKey { name, version, rule }) = used else { return Ok(()) };
    shut_out(execution.tx(), SCHEMA, "signatures").await?;
    let (project, _) = execution.ids();
    let noted = sqlx::query!(
        "UPDATE signing_keys SET last_used_at = farm_now(), last_used_by = $4, last_used_build = $5
         WHERE project_id = $1 AND name = $2 AND version = $3 AND role = $6 AND refs = $7 AND events = $8",
        project,
        name.as_str(),
        version,
        by,
        short_id.as_str(),
        rule.role.as_str(),
        &words(&rule.refs),
        &words(&rule.events)
    )
    .execute(&mut **execution)
    .await?;
    if noted.rows_affected() != 1 {
        return Err(StoreError::Stale(SIGNING_KEY_CHANGED));
    }
    sqlx::query!(
        "UPDATE builds SET signing_version = $3 WHERE project_id = $1 AND id = $2",
        project,
        build.as_uuid(),
        version
    )
    .execute(&mut **execution)
    .await?;
    Ok(())
}
