//! Secrets and ssh keys of builds, as they are kept: sealed. This crate has no key; who opens them is the coordinator.
//!
//! Invariant: a build's data key is there only until the build has ended or all of it is built (a trigger of the schema sees to
//! that, whoever writes it), and no longer are its values.

use std::collections::BTreeMap;

use farm_core::people::secrets::SecretRule;
use farm_types::{AttemptId, BuildId, MountId, Mounts, ProjectId, SecretName, ShortId, ValueType};
use serde_json::{Map, Value};

use crate::machines::leader::Epoch;
use crate::proof::LockedExecution;
use crate::schema::shut_out;
use crate::work::attempts::Lease;
use crate::{Result, Store, StoreError, from_json, state, to_json, words};

/// A data key, sealed by one of the farm's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedKey {
    /// By which.
    pub by: String,
    /// The sealed bytes.
    pub bytes: Vec<u8>,
}

/// A value, sealed by a data key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedValue {
    /// For which kind of mount.
    pub mount: ValueType,
    /// Which of them.
    pub id: MountId,
    /// The sealed bytes.
    pub bytes: Vec<u8>,
}

/// All that a build was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedMounts {
    /// The build's data key.
    pub key: SealedKey,
    /// The values.
    pub values: Vec<SealedValue>,
}

/// One of the project's secrets that a build is accepted with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedSecret {
    /// As the build calls it.
    pub mount: MountId,
    /// As the project does.
    pub name: SecretName,
    /// Which version its value was.
    pub version: i32,
    /// The rule by which whoever asks may use it.
    pub rule: SecretRule,
}

/// What a new build is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMounts {
    /// All values, those of the project's secrets as well.
    pub sealed: SealedMounts,
    /// Of them those of the project.
    pub used: Vec<UsedSecret>,
}

/// Which ssh agents a leased attempt's build may ask.
#[derive(Debug, Clone)]
pub struct LeasedAgents {
    /// Which build it is.
    pub build: BuildId,
    /// What its spec names.
    pub mounts: Mounts,
}

/// What a leased attempt's build may mount.
#[derive(Debug, Clone)]
pub struct LeasedMounts {
    /// Whose build it is.
    pub project: ProjectId,
    /// Which.
    pub build: BuildId,
    /// What its spec names.
    pub mounts: Mounts,
    /// What it was given; `None`: nothing, or it is erased.
    pub sealed: Option<SealedMounts>,
}

/// The schema from which on coordinators know of logins that come with a build.
const LOGINS: i32 = 46;

/// What a build that uses a secret hears when that was changed or removed since it was read.
pub const SECRET_CHANGED: &str = "a secret of the project was changed at this moment";

/// Keeps what a new build was given, and notes the use of the project's secrets.
///
/// # Errors
/// [`StoreError::Stale`] with [`SECRET_CHANGED`]: a version that is used counts no more, or another rule says who may use it.
/// [`StoreError::Older`]: coordinators run that would lend what a login of the build has pulled to anybody.
pub(crate) async fn keep(
    execution: &mut LockedExecution<'_>,
    (build, short_id): (BuildId, &ShortId),
    by: &str,
    mounts: Option<&NewMounts>,
) -> Result<()> {
    let Some(NewMounts { sealed: mounts, used }) = mounts else { return Ok(()) };
    let (project, _) = execution.ids();
    // In one order, so that two builds don't wait for each other.
    let secrets: BTreeMap<&str, &UsedSecret> =
        used.iter().map(|secret| (secret.name.as_str(), secret)).collect();
    for (name, secret) in secrets {
        let rule = &secret.rule;
        let noted = sqlx::query!(
            "UPDATE project_secrets SET last_used_at = farm_now(), last_used_by = $4, last_used_build = $5
             WHERE project_id = $1 AND name = $2 AND version = $3 AND erased_at IS NULL
               AND role = $6 AND refs = $7 AND events = $8",
            project,
            name,
            secret.version,
            by,
            short_id.as_str(),
            rule.role.as_str(),
            &words(&rule.refs),
            &words(&rule.events)
        )
        .execute(&mut **execution)
        .await?;
        if noted.rows_affected() != 1 {
            return Err(StoreError::Stale(SECRET_CHANGED));
        }
    }
    if !used.is_empty() {
        let versions: BTreeMap<&str, i32> =
            used.iter().map(|secret| (secret.mount.as_str(), secret.version)).collect();
        sqlx::query!(
            "UPDATE builds SET secret_versions = $3 WHERE project_id = $1 AND id = $2",
            project,
            build.as_uuid(),
            to_json(&versions)?
        )
        .execute(&mut **execution)
        .await?;
    }
    sqlx::query!(
        "INSERT INTO build_keys (project_id, build_id, key_id, sealed) VALUES ($1, $2, $3, $4)",
        project,
        build.as_uuid(),
        mounts.key.by,
        mounts.key.bytes
    )
    .execute(&mut **execution)
    .await?;
    let logins = mounts.values.iter().filter(|value| value.mount == ValueType::Login);
    let hosts: Vec<String> = logins.map(|login| login.id.to_string()).collect();
    if !hosts.is_empty() {
        shut_out(execution.tx(), LOGINS, "logins that come with a build").await?;
        note_hosts(execution, &hosts).await?;
        sqlx::query!(
            "INSERT INTO given_logins (host) SELECT unnest($1::text[]) ORDER BY 1
             ON CONFLICT (host) DO UPDATE SET given_at = farm_now()
             WHERE given_logins.given_at < farm_now() - interval '1 hour'",
            &hosts
        )
        .execute(&mut **execution)
        .await?;
    }
    let kinds: Vec<String> = mounts.values.iter().map(|value| value.mount.to_string()).collect();
    let ids: Vec<String> = mounts.values.iter().map(|value| value.id.to_string()).collect();
    let sealed: Vec<Vec<u8>> = mounts.values.iter().map(|value| value.bytes.clone()).collect();
    sqlx::query!(
        "INSERT INTO build_values (project_id, build_id, mount, id, sealed)
         SELECT $1, $2, v.mount, v.id, v.sealed FROM unnest($3::text[], $4::text[], $5::bytea[]) AS v (mount, id, sealed)",
        project,
        build.as_uuid(),
        &kinds,
        &ids,
        &sealed
    )
    .execute(&mut **execution)
    .await?;
    Ok(())
}

/// At how many registries the builds of a project may be given logins within [`HOSTS_FOR_DAYS`].
pub const MOST_LOGIN_HOSTS: i64 = 20;
/// For so long a registry at which a build was given a login is closed to others, and counts.
pub const HOSTS_FOR_DAYS: i32 = 30;

/// Notes that a project's builds are given logins at these registries.
///
/// # Errors
/// [`StoreError::Exhausted`]: they would be too many.
async fn note_hosts(execution: &mut LockedExecution<'_>, hosts: &[String]) -> Result<()> {
    let (project, _) = execution.ids();
    // One after another, or two builds would not count each other's.
    sqlx::query!("SELECT id FROM projects WHERE id = $1 FOR NO KEY UPDATE", project)
        .fetch_one(&mut **execution)
        .await?;
    sqlx::query!(
        "INSERT INTO login_hosts (project_id, host) SELECT $1, unnest($2::text[]) ORDER BY 2
         ON CONFLICT (project_id, host) DO UPDATE SET given_at = farm_now()
         WHERE login_hosts.given_at < farm_now() - interval '1 hour'",
        project,
        hosts
    )
    .execute(&mut **execution)
    .await?;
    let counted = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM login_hosts
           WHERE project_id = $1 AND given_at > farm_now() - make_interval(days => $2)"#,
        project,
        HOSTS_FOR_DAYS
    );
    let count = counted.fetch_one(&mut **execution).await?;
    if count > MOST_LOGIN_HOSTS { Err(too_many_hosts(count)) } else { Ok(()) }
}

fn too_many_hosts(count: i64) -> StoreError {
    let what = format!(
        "the builds of this project would be given logins at {count} registries within {HOSTS_FOR_DAYS} days, and {MOST_LOGIN_HOSTS} are taken; \
         an admin of the project sets those that stay: farm registry login HOST"
    );
    StoreError::Exhausted { what, wait: None }
}

/// What the audit says of a build, with the project's secrets that it uses, if it uses any: NAME to VERSION.
pub(crate) fn with_secrets(mut detail: Value, mounts: Option<&NewMounts>) -> Value {
    let used = mounts.map_or(&[][..], |mounts| &mounts.used);
    if !used.is_empty() {
        let versions: Map<String, Value> =
            used.iter().map(|secret| (secret.name.to_string(), secret.version.into())).collect();
        detail["secrets"] = versions.into();
    }
    detail
}

impl Store {
    /// Which agents the build of a leased attempt may ask, for whoever holds the lease. No value is read for that.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: the lease has ended, by a word or by its time, or is another's.
    pub async fn leased_agents(&self, lease: Lease) -> Result<LeasedAgents> {
        let row = sqlx::query!(
            r#"SELECT b.id, coalesce(b.spec -> 'mounts', '{}') AS "mounts!"
               FROM attempts a
               JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
               JOIN builds b ON b.project_id = j.project_id AND b.execution_id = j.execution_id
               WHERE a.id = $1 AND a.lease_token = $2 AND a.state IN ('offered', 'running') AND a.stop_reason = ''
                 AND a.lease_expires_at > farm_now() AND farm_is_holder(a.worker_id, $3)
               ORDER BY b.id LIMIT 1"#,
            lease.attempt.as_uuid(),
            lease.token.as_uuid(),
            lease.holder()
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or(StoreError::Stale("the lease has ended"))?;
        Ok(LeasedAgents { build: row.id.into(), mounts: from_json(row.mounts)? })
    }

    /// What the build of a leased attempt may mount, for whoever holds the lease.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: the lease has ended, by a word or by its time, or is another's.
    pub async fn leased_mounts(&self, lease: Lease) -> Result<LeasedMounts> {
        let row = sqlx::query!(
            r#"SELECT b.project_id, b.id, coalesce(b.spec -> 'mounts', '{}') AS "mounts!",
                      k.key_id AS "key_id?", k.sealed AS "sealed?"
               FROM attempts a
               JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
               JOIN builds b ON b.project_id = j.project_id AND b.execution_id = j.execution_id
               LEFT JOIN build_keys k ON k.project_id = b.project_id AND k.build_id = b.id
               WHERE a.id = $1 AND a.lease_token = $2 AND a.state IN ('offered', 'running') AND a.stop_reason = ''
                 AND a.lease_expires_at > farm_now() AND farm_is_holder(a.worker_id, $3)
               ORDER BY k.build_id IS NULL, b.id LIMIT 1"#,
            lease.attempt.as_uuid(),
            lease.token.as_uuid(),
            lease.holder()
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or(StoreError::Stale("the lease has ended"))?;
        let mut leased = LeasedMounts {
            project: row.project_id.into(),
            build: row.id.into(),
            mounts: from_json(row.mounts)?,
            sealed: None,
        };
        let (Some(by), Some(bytes)) = (row.key_id, row.sealed) else { return Ok(leased) };
        let rows = sqlx::query!(
            "SELECT mount, id, sealed FROM build_values WHERE project_id = $1 AND build_id = $2 ORDER BY mount, id",
            row.project_id,
            row.id
        )
        .fetch_all(&self.pool)
        .await?;
        let values = rows
            .into_iter()
            .map(|row| Ok(SealedValue { mount: state(&row.mount)?, id: state(&row.id)?, bytes: row.sealed }));
        let values = values.collect::<Result<_>>()?;
        leased.sealed = Some(SealedMounts { key: SealedKey { by, bytes }, values });
        Ok(leased)
    }
}

impl Store {
    /// The logins that the build of an attempt was given; `None`: none, or they are erased.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn given_logins(
        &self,
        project: ProjectId,
        attempt: AttemptId,
    ) -> Result<Option<(BuildId, SealedMounts)>> {
        let rows = sqlx::query!(
            "SELECT k.build_id, k.key_id, k.sealed AS sealed_key, v.id, v.sealed
             FROM attempts a
             JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
             JOIN builds b ON b.project_id = j.project_id AND b.execution_id = j.execution_id
             JOIN build_keys k ON k.project_id = b.project_id AND k.build_id = b.id
             JOIN build_values v ON v.project_id = k.project_id AND v.build_id = k.build_id
             WHERE a.project_id = $1 AND a.id = $2 AND v.mount = 'registry-login' ORDER BY k.build_id, v.id",
            project.as_uuid(),
            attempt.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        let mut found: Option<(BuildId, SealedMounts)> = None;
        for row in rows {
            let key = SealedKey { by: row.key_id, bytes: row.sealed_key };
            let build: BuildId = row.build_id.into();
            let (of, sealed) = found.get_or_insert_with(|| (build, SealedMounts { key, values: Vec::new() }));
            if *of == build {
                let id = state(&row.id)?;
                sealed.values.push(SealedValue { mount: ValueType::Login, id, bytes: row.sealed });
            }
        }
        Ok(found)
    }

    /// Refuses a build that would be given logins at too many registries, before anybody asks these.
    ///
    /// # Errors
    /// [`StoreError::Exhausted`]: they would be too many; or the database can't be reached.
    pub async fn admits_login_hosts(&self, project: ProjectId, hosts: &[String]) -> Result<()> {
        let counted = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM (
                   SELECT host FROM login_hosts
                   WHERE project_id = $1 AND given_at > farm_now() - make_interval(days => $3)
                   UNION SELECT unnest($2::text[])) h"#,
            project.as_uuid(),
            hosts,
            HOSTS_FOR_DAYS
        );
        let count = counted.fetch_one(&self.pool).await?;
        if count > MOST_LOGIN_HOSTS { Err(too_many_hosts(count)) } else { Ok(()) }
    }

    /// Forgets registries at which logins were given with builds that ended their time; gives how many.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn forget_login_hosts(&self, epoch: Epoch, limit: i64) -> Result<u64> {
        let mut tx = self.begin_leading(epoch).await?;
        let of_projects = sqlx::query!(
            "DELETE FROM login_hosts WHERE (project_id, host) IN (
                SELECT project_id, host FROM login_hosts WHERE given_at < farm_now() - make_interval(days => $2)
                ORDER BY given_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
            limit,
            HOSTS_FOR_DAYS
        )
        .execute(&mut *tx)
        .await?;
        let of_all = sqlx::query!(
            "DELETE FROM given_logins WHERE host IN (
                SELECT host FROM given_logins WHERE given_at < farm_now() - make_interval(days => $2)
                ORDER BY given_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
            limit,
            HOSTS_FOR_DAYS
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(of_projects.rows_affected() + of_all.rows_affected())
    }

    /// By which keys of the farm something is sealed, and how much.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn keys_in_use(&self) -> Result<Vec<(String, i64)>> {
        let rows = sqlx::query!(
            r#"SELECT key_id AS "key_id!", count(*) AS "count!" FROM (
                   SELECT key_id FROM build_keys
                   UNION ALL SELECT key_id FROM project_secrets WHERE key_id IS NOT NULL
                   UNION ALL SELECT key_id FROM registry_logins WHERE key_id IS NOT NULL
                   UNION ALL SELECT key_id FROM git_logins
                   UNION ALL SELECT key_id FROM signing_keys
                   UNION ALL SELECT key_id FROM hook_secrets
                   UNION ALL SELECT key_id FROM hook_tokens
                   UNION ALL SELECT key_id FROM notices WHERE key_id IS NOT NULL) k
               GROUP BY key_id ORDER BY key_id"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.key_id, row.count)).collect())
    }

    /// Data keys of builds that were sealed by one of these keys of the farm: the next after that of a build.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn build_keys_by(
        &self,
        keys: &[String],
        after: Option<(ProjectId, BuildId)>,
        most: i64,
    ) -> Result<Vec<(ProjectId, BuildId, SealedKey)>> {
        let rows = sqlx::query!(
            "SELECT project_id, build_id, key_id, sealed FROM build_keys
             WHERE key_id = ANY($1) AND ($3::uuid IS NULL OR (project_id, build_id) > ($3, $4))
             ORDER BY project_id, build_id LIMIT $2",
            keys,
            most,
            after.map(|(project, _)| project.as_uuid()),
            after.map(|(_, build)| build.as_uuid())
        )
        .fetch_all(&self.pool)
        .await?;
        let keys = rows.into_iter().map(|row| {
            let key = SealedKey { by: row.key_id, bytes: row.sealed };
            (row.project_id.into(), row.build_id.into(), key)
        });
        Ok(keys.collect())
    }

    /// Exchanges a build's data key for the same, sealed by another key. False: the build has ended meanwhile.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn reseal_build_key(
        &self,
        epoch: Epoch,
        project: ProjectId,
        build: BuildId,
        old: &SealedKey,
        new: &SealedKey,
    ) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE build_keys SET key_id = $3, sealed = $4
             WHERE project_id = $1 AND build_id = $2 AND key_id = $5 AND sealed = $6",
            project.as_uuid(),
            build.as_uuid(),
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
