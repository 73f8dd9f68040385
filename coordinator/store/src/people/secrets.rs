//! Secrets that projects keep for their builds: sealed, in versions, with who may use them.
//!
//! This crate has no key. Invariant: of each name at most one version counts, and no other has a value; a number of a version is
//! given once. So what was sealed for a version is nothing in the place of another. Builds take them in `builds::mounts`.

use chrono::{DateTime, Utc};
use farm_core::people::secrets::SecretRule;
use farm_types::{ProjectId, SecretName};
use serde_json::json;

use super::audit::{By, Deed};
use super::quotas::has_room;
use super::standing::stays;
use crate::builds::mounts::SealedKey;
use crate::machines::leader::Epoch;
use crate::{Result, Store, StoreError, Tx, state, words};

/// A project keeps no more.
pub const MOST: i64 = 200;
/// So many versions of a name are remembered.
const REMEMBERED: i32 = 100;

/// A secret of a project, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectSecret {
    /// What the project calls it.
    pub name: SecretName,
    /// The version that counts.
    pub version: i32,
    /// Who may use it.
    pub rule: SecretRule,
    /// Who has set this version.
    pub set_by: String,
    /// When.
    pub set_at: DateTime<Utc>,
    /// By which build it was used last, whatever version.
    pub last_use: Option<SecretUse>,
    /// By which key of the farm it is sealed.
    pub key: String,
}

/// A use of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretUse {
    /// When.
    pub at: DateTime<Utc>,
    /// Who asked for the build.
    pub by: String,
    /// Its short id.
    pub build: String,
}

/// A secret's value, sealed, and who may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// Which version it is.
    pub version: i32,
    /// Who may use it.
    pub rule: SecretRule,
    /// The data key.
    pub key: SealedKey,
    /// The value, sealed by that.
    pub bytes: Vec<u8>,
}

/// What there is of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The last version that was given, whether it counts or not; 0: none.
    pub last: i32,
    /// The rule of the one that counts; `None`: none does.
    pub rule: Option<SecretRule>,
}

/// A version that is to be.
#[derive(Debug, Clone)]
pub struct NewSecret<'a> {
    /// Whose.
    pub project: ProjectId,
    /// What it is called.
    pub name: &'a SecretName,
    /// What there was of the name when it was sealed. It is the version after that.
    pub before: &'a Standing,
    /// Who may use it.
    pub rule: &'a SecretRule,
    /// The data key.
    pub key: &'a SealedKey,
    /// The value, sealed by that.
    pub bytes: &'a [u8],
}

pub(super) fn rule(role: &str, refs: &[String], events: &[String]) -> Result<SecretRule> {
    Ok(SecretRule {
        role: state(role)?,
        refs: refs.iter().map(|one| state(one)).collect::<Result<_>>()?,
        events: events.iter().map(|one| state(one)).collect::<Result<_>>()?,
    })
}

pub(super) fn told(rule: &SecretRule) -> serde_json::Value {
    json!({ "role": rule.role.as_str(), "refs": words(&rule.refs), "events": words(&rule.events) })
}

impl Store {
    /// The project's secrets, by name.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn project_secrets(&self, project: ProjectId) -> Result<Vec<ProjectSecret>> {
        let rows = sqlx::query!(
            r#"SELECT s.name, s.version, s.role, s.refs, s.events, s.created_by, s.created_at, s.key_id AS "key_id!",
                      u.last_used_at AS "last_used_at?", u.last_used_by AS "last_used_by?",
                      u.last_used_build AS "last_used_build?"
               FROM project_secrets s LEFT JOIN LATERAL (
                   SELECT o.last_used_at, o.last_used_by, o.last_used_build FROM project_secrets o
                   WHERE o.project_id = s.project_id AND o.name = s.name AND o.last_used_at IS NOT NULL
                   ORDER BY o.version DESC LIMIT 1) u ON true
               WHERE s.project_id = $1 AND s.erased_at IS NULL ORDER BY s.name"#,
            project.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        let secrets = rows.into_iter().map(|row| {
            let last_use = match (row.last_used_at, row.last_used_by, row.last_used_build) {
                (Some(at), Some(by), Some(build)) => Some(SecretUse { at, by, build }),
                _ => None,
            };
            Ok(ProjectSecret {
                name: state(&row.name)?,
                version: row.version,
                rule: rule(&row.role, &row.refs, &row.events)?,
                set_by: row.created_by,
                set_at: row.created_at,
                last_use,
                key: row.key_id,
            })
        });
        secrets.collect()
    }

    /// The version that counts of one of the project's secrets; `None`: it has none of this name.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn sealed_secret(&self, project: ProjectId, name: &SecretName) -> Result<Option<SealedSecret>> {
        let row = sqlx::query!(
            r#"SELECT version, role, refs, events, key_id AS "key_id!", sealed_key AS "sealed_key!", sealed AS "sealed!"
               FROM project_secrets WHERE project_id = $1 AND name = $2 AND erased_at IS NULL"#,
            project.as_uuid(),
            name.as_str()
        )
        .fetch_optional(&self.pool)
        .await?;
        let secret = row.map(|row| {
            Ok(SealedSecret {
                version: row.version,
                rule: rule(&row.role, &row.refs, &row.events)?,
                key: SealedKey { by: row.key_id, bytes: row.sealed_key },
                bytes: row.sealed,
            })
        });
        secret.transpose()
    }

    /// What there is of a name.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn secret_standing(&self, project: ProjectId, name: &SecretName) -> Result<Standing> {
        let mut tx = self.begin().await?;
        standing(&mut tx, project, name).await
    }

    /// Sets a new version, which counts from now on; the value of the one before is erased.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: there is something else of the name now than `before`; [`StoreError::Exhausted`]: the project has too
    /// many, or no more room.
    pub async fn set_secret(&self, by: &By, new: &NewSecret<'_>) -> Result<()> {
        let mut tx = self.begin().await?;
        stays(&mut tx, new.project).await?;
        let (project, version) = (new.project.as_uuid(), new.before.last.saturating_add(1));
        if standing(&mut tx, new.project, new.name).await? != *new.before {
            return Err(StoreError::Stale(CHANGED));
        }
        if new.before.rule.is_none() {
            let there = sqlx::query_scalar!(
                r#"SELECT count(*) AS "count!" FROM project_secrets WHERE project_id = $1 AND erased_at IS NULL"#,
                project
            );
            if there.fetch_one(&mut *tx).await? >= MOST {
                let what = format!(
                    "the project keeps {MOST} secrets already, which is the most; remove one: farm secret rm NAME"
                );
                return Err(StoreError::Exhausted { what, wait: None });
            }
        }
        // What was of the name makes room.
        erase(&mut tx, new.project, new.name).await?;
        has_room(&mut tx, new.project).await?;
        let inserted = sqlx::query!(
            "INSERT INTO project_secrets (project_id, name, version, role, refs, events, key_id, sealed_key, sealed, created_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
            project,
            new.name.as_str(),
            version,
            new.rule.role.as_str(),
            &words(&new.rule.refs),
            &words(&new.rule.events),
            new.key.by,
            new.key.bytes,
            new.bytes,
            by.name
        )
        .execute(&mut *tx)
        .await?;
        if inserted.rows_affected() != 1 {
            return Err(StoreError::Stale(CHANGED));
        }
        sqlx::query!(
            "DELETE FROM project_secrets WHERE project_id = $1 AND name = $2 AND version <= $3",
            project,
            new.name.as_str(),
            version.saturating_sub(REMEMBERED)
        )
        .execute(&mut *tx)
        .await?;
        let detail = json!({ "version": version, "rule": told(new.rule) });
        let deed =
            Deed { project: Some(new.project), action: "secret.set", subject: new.name.as_str(), detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }

    /// Says anew who may use the version that counts.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: there is something else of the name now than `before`.
    pub async fn set_secret_rule(
        &self,
        by: &By,
        project: ProjectId,
        name: &SecretName,
        before: &Standing,
        rule: &SecretRule,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        if standing(&mut tx, project, name).await? != *before {
            return Err(StoreError::Stale(CHANGED));
        }
        let set = sqlx::query!(
            "UPDATE project_secrets SET role = $4, refs = $5, events = $6
             WHERE project_id = $1 AND name = $2 AND version = $3 AND erased_at IS NULL",
            project.as_uuid(),
            name.as_str(),
            before.last,
            rule.role.as_str(),
            &words(&rule.refs),
            &words(&rule.events)
        )
        .execute(&mut *tx)
        .await?;
        if set.rows_affected() != 1 {
            return Err(StoreError::Stale(CHANGED));
        }
        let detail = json!({ "version": before.last, "rule": told(rule) });
        let deed = Deed { project: Some(project), action: "secret.rule", subject: name.as_str(), detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }

    /// Removes a secret: no build is accepted with it from now on, and its value is erased. Builds that were go on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the project has none of this name.
    pub async fn remove_secret(&self, by: &By, project: ProjectId, name: &SecretName) -> Result<()> {
        let mut tx = self.begin().await?;
        let version = erase(&mut tx, project, name).await?.ok_or(StoreError::NotFound("secret"))?;
        let detail = json!({ "version": version });
        let deed = Deed { project: Some(project), action: "secret.remove", subject: name.as_str(), detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }

    /// Data keys of projects' secrets that were sealed by one of these keys of the farm: the next after that of a secret.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn secret_keys_by(
        &self,
        keys: &[String],
        after: Option<(ProjectId, &SecretName, i32)>,
        most: i64,
    ) -> Result<Vec<(ProjectId, SecretName, i32, SealedKey)>> {
        let rows = sqlx::query!(
            r#"SELECT project_id, name, version, key_id AS "key_id!", sealed_key AS "sealed_key!"
               FROM project_secrets
               WHERE key_id = ANY($1) AND ($3::uuid IS NULL OR (project_id, name, version) > ($3, $4, $5))
               ORDER BY project_id, name, version LIMIT $2"#,
            keys,
            most,
            after.map(|(project, _, _)| project.as_uuid()),
            after.map(|(_, name, _)| name.as_str()),
            after.map(|(_, _, version)| version)
        )
        .fetch_all(&self.pool)
        .await?;
        let keys = rows.into_iter().map(|row| {
            let key = SealedKey { by: row.key_id, bytes: row.sealed_key };
            Ok((row.project_id.into(), state(&row.name)?, row.version, key))
        });
        keys.collect()
    }

    /// Exchanges the data key of a project's secret for the same, sealed by another key. False: that version counts no more.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn reseal_secret_key(
        &self,
        epoch: Epoch,
        (project, name, version): (ProjectId, &SecretName, i32),
        old: &SealedKey,
        new: &SealedKey,
    ) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE project_secrets SET key_id = $4, sealed_key = $5
             WHERE project_id = $1 AND name = $2 AND version = $3 AND key_id = $6 AND sealed_key = $7",
            project.as_uuid(),
            name.as_str(),
            version,
            new.by,
            new.bytes,
            old.by,
            old.bytes
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }
}

/// Of a secret that somebody else has changed meanwhile.
const CHANGED: &str = "the secret was changed at this moment";

/// What there is of a name; held as it is until the transaction ends, if there is anything.
async fn standing(tx: &mut Tx, project: ProjectId, name: &SecretName) -> Result<Standing> {
    let row = sqlx::query!(
        r#"SELECT version, role, refs, events, erased_at IS NULL AS "counts!" FROM project_secrets
           WHERE project_id = $1 AND name = $2 ORDER BY version DESC LIMIT 1 FOR UPDATE"#,
        project.as_uuid(),
        name.as_str()
    )
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(Standing { last: 0, rule: None }) };
    let of_it = || rule(&row.role, &row.refs, &row.events);
    Ok(Standing { last: row.version, rule: row.counts.then(of_it).transpose()? })
}

/// Erases the value of the version that counts; gives its number.
async fn erase(tx: &mut Tx, project: ProjectId, name: &SecretName) -> Result<Option<i32>> {
    let version = sqlx::query_scalar!(
        "UPDATE project_secrets SET erased_at = farm_now(), key_id = NULL, sealed_key = NULL, sealed = NULL
         WHERE project_id = $1 AND name = $2 AND erased_at IS NULL RETURNING version",
        project.as_uuid(),
        name.as_str()
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(version)
}
