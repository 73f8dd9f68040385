//! What a project may take of the farm, what it takes now, and what its builds are where they don't say it themselves.
//!
//! Running slots are kept by the scheduler (`work/schedule.rs` tells it of them); builds that wait, builds a minute and stored
//! bytes are asked for here, where a build or a source comes in. A project without limits costs no statement.

use std::time::Duration;

use farm_types::spec::Verify;
use farm_types::{Emulation, Platform, ProjectId};
use serde_json::{Map, Value, json};

use super::audit::{By, Deed};
use crate::{Result, Store, StoreError, Tx, fit, state};

/// What a project may take; `None`: as much as there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Its share of the slots beside other projects'.
    pub weight: u32,
    /// Slots at once.
    pub max_running_slots: Option<u32>,
    /// Builds that wait at once.
    pub max_queued_builds: Option<u32>,
    /// Builds that are accepted within a minute.
    pub builds_per_minute: Option<u32>,
    /// Bytes of its sources, outputs and secrets.
    pub max_stored_bytes: Option<u64>,
}

/// A quota's number: as it was, or another; a limit's may be none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuotaChange {
    pub weight: Option<u32>,
    pub max_running_slots: Option<Option<u32>>,
    pub max_queued_builds: Option<Option<u32>>,
    pub builds_per_minute: Option<Option<u32>>,
    pub max_stored_bytes: Option<Option<u64>>,
}

/// What a build is that doesn't say it itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Empty: those that the farm has native workers for.
    pub platforms: Vec<Platform>,
    /// `None`: as the farm has it.
    pub emulation: Option<Emulation>,
    /// What is looked at in results; `None`: as the farm has it.
    pub verify: Option<Verify>,
}

/// What a project takes now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    pub running_slots: u64,
    pub queued_builds: u64,
    /// Accepted within the last minute.
    pub builds: u64,
    pub stored_bytes: u64,
}

/// So many copies of a project are under way at once, whatever it may take else.
const MOST_COPIES: i64 = 100;

/// Refuses a copy where too many are under way: they wait in no queue, so no limit of that counts them. Two that come at the same moment may
/// both be let in.
pub(crate) async fn room_for_copies(tx: &mut Tx, project: ProjectId) -> Result<()> {
    let under_way = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM builds WHERE project_id = $1 AND state = 'publishing' AND spec #> '{purpose,copy}' IS NOT NULL"#,
        project.as_uuid()
    );
    match under_way.fetch_one(&mut **tx).await? {
        ..MOST_COPIES => Ok(()),
        _ => Err(StoreError::Exhausted {
            what: format!(
                "{MOST_COPIES} copies of the project are under way; wait until some have ended, or cancel some"
            ),
            wait: None,
        }),
    }
}

impl Store {
    /// What a project may take, and what its builds are by default.
    ///
    /// # Errors
    /// There is no such project, or the database can't be reached.
    pub async fn settings(&self, project: ProjectId) -> Result<(Quota, Defaults)> {
        let row = sqlx::query!(
            "SELECT weight, max_running_slots, max_queued_builds, builds_per_minute, max_stored_bytes,
                    default_platforms, default_emulation, default_verify
             FROM projects WHERE id = $1 AND removed_at IS NULL",
            project.as_uuid()
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or(StoreError::NotFound("project"))?;
        let quota = Quota {
            weight: fit(row.weight)?,
            max_running_slots: row.max_running_slots.map(fit).transpose()?,
            max_queued_builds: row.max_queued_builds.map(fit).transpose()?,
            builds_per_minute: row.builds_per_minute.map(fit).transpose()?,
            max_stored_bytes: row.max_stored_bytes.map(fit).transpose()?,
        };
        let emulation = row.default_emulation;
        let defaults = Defaults {
            platforms: row.default_platforms.iter().map(|name| state(name)).collect::<Result<_>>()?,
            emulation: if emulation.is_empty() { None } else { Some(state(&emulation)?) },
            verify: match row.default_verify.as_str() {
                "" => None,
                word => Some(Verify::new(word, Vec::new()).map_err(StoreError::corrupt)?),
            },
        };
        Ok((quota, defaults))
    }

    /// What a project takes now.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn used(&self, project: ProjectId) -> Result<Used> {
        let row = sqlx::query!(
            r#"SELECT (SELECT coalesce(sum(weight), 0) FROM attempts
                       WHERE project_id = $1 AND state IN ('offered', 'running')) AS "slots!: i64",
                      (SELECT count(*) FROM builds WHERE project_id = $1 AND state = 'queued' AND NOT look) AS "queued!",
                      (SELECT count(*) FROM (SELECT created_at FROM builds WHERE project_id = $1 AND NOT look
                                             ORDER BY id DESC LIMIT 10000) AS last
                       WHERE last.created_at > farm_now() - interval '1 minute') AS "builds!""#,
            project.as_uuid()
        )
        .fetch_one(&self.pool)
        .await?;
        let stored_bytes = stored(&self.pool, project).await?;
        Ok(Used {
            running_slots: fit(row.slots)?,
            queued_builds: fit(row.queued)?,
            builds: fit(row.builds)?,
            stored_bytes,
        })
    }

    /// How many bytes of sources a project may bring yet; `None`: as many as it likes. Others that ask at the same moment hear the
    /// same: to count what they bring meanwhile, each object would have to sum up all of the project's under a lock.
    ///
    /// # Errors
    /// `Exhausted`: none; or the database can't be reached.
    pub async fn room(&self, project: ProjectId) -> Result<Option<u64>> {
        let most = sqlx::query_scalar!(
            "SELECT max_stored_bytes FROM projects WHERE id = $1 AND removed_at IS NULL",
            project.as_uuid()
        );
        let Some(most) = most.fetch_optional(&self.pool).await?.flatten() else { return Ok(None) };
        let stored = stored(&self.pool, project).await?;
        Ok(Some(within(fit(most)?, stored)?))
    }

    /// Changes what a project may take.
    ///
    /// # Errors
    /// There is no such project, or the database can't be reached.
    pub async fn set_quota(&self, by: &By, project: ProjectId, change: &QuotaChange) -> Result<()> {
        let mut detail = Map::new();
        let mut said = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                detail.insert(name.to_owned(), value);
            }
        };
        said("weight", change.weight.map(|weight| json!(weight)));
        said("max_running_slots", change.max_running_slots.map(|most| json!(most)));
        said("max_queued_builds", change.max_queued_builds.map(|most| json!(most)));
        said("builds_per_minute", change.builds_per_minute.map(|most| json!(most)));
        said("max_stored_bytes", change.max_stored_bytes.map(|most| json!(most)));
        let int = |most: Option<Option<u32>>| most.flatten().map(fit::<_, i32>).transpose();
        let mut tx = self.begin().await?;
        let changed = sqlx::query_scalar!(
            r#"UPDATE projects SET
                weight = coalesce($2, weight),
                max_running_slots = CASE WHEN $3 THEN $4 ELSE max_running_slots END,
                max_queued_builds = CASE WHEN $5 THEN $6 ELSE max_queued_builds END,
                builds_per_minute = CASE WHEN $7 THEN $8 ELSE builds_per_minute END,
                max_stored_bytes = CASE WHEN $9 THEN $10 ELSE max_stored_bytes END
               WHERE id = $1 AND removed_at IS NULL RETURNING name"#,
            project.as_uuid(),
            change.weight.map(fit::<_, i32>).transpose()?,
            change.max_running_slots.is_some(),
            int(change.max_running_slots)?,
            change.max_queued_builds.is_some(),
            int(change.max_queued_builds)?,
            change.builds_per_minute.is_some(),
            int(change.builds_per_minute)?,
            change.max_stored_bytes.is_some(),
            change.max_stored_bytes.flatten().map(fit::<_, i64>).transpose()?
        )
        .fetch_optional(&mut *tx)
        .await?;
        let name = changed.ok_or(StoreError::NotFound("project"))?;
        let detail = Value::Object(detail);
        by.did(&mut tx, Deed { project: Some(project), action: "project.quota", subject: &name, detail })
            .await?;
        tx.commit().await
    }

    /// Says what builds of a project are by default; what is `None` stays as it was.
    ///
    /// # Errors
    /// There is no such project, or the database can't be reached.
    pub async fn set_defaults(
        &self,
        by: &By,
        project: ProjectId,
        platforms: Option<&[Platform]>,
        emulation: Option<Option<Emulation>>,
        verify: Option<Option<Verify>>,
    ) -> Result<()> {
        let platforms: Option<Vec<String>> =
            platforms.map(|platforms| platforms.iter().map(ToString::to_string).collect());
        let emulation = emulation.map(|policy| policy.map(|policy| policy.to_string()).unwrap_or_default());
        let verify = verify.map(|verify| verify.map(|verify| verify.as_str()).unwrap_or_default());
        let mut tx = self.begin().await?;
        let changed = sqlx::query_scalar!(
            "UPDATE projects SET default_platforms = coalesce($2, default_platforms),
                                 default_emulation = coalesce($3, default_emulation),
                                 default_verify = coalesce($4, default_verify)
             WHERE id = $1 AND removed_at IS NULL RETURNING name",
            project.as_uuid(),
            platforms.as_deref(),
            emulation,
            verify
        )
        .fetch_optional(&mut *tx)
        .await?;
        let name = changed.ok_or(StoreError::NotFound("project"))?;
        let detail = json!({ "platforms": platforms, "emulation": emulation, "verify": verify });
        let deed = Deed { project: Some(project), action: "project.defaults", subject: &name, detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }
}

/// Refuses what is to be stored of a project whose bytes are used up.
///
/// # Errors
/// `Exhausted`: they are.
pub(crate) async fn has_room(tx: &mut Tx, project: ProjectId) -> Result<()> {
    let most = sqlx::query_scalar!("SELECT max_stored_bytes FROM projects WHERE id = $1", project.as_uuid());
    let Some(most) = most.fetch_optional(&mut **tx).await?.flatten() else { return Ok(()) };
    within(fit(most)?, stored(&mut **tx, project).await?).map(drop)
}

/// Holds a project against its removal.
///
/// # Errors
/// It was removed.
pub(crate) async fn is_there(tx: &mut Tx, project: ProjectId) -> Result<()> {
    let there = sqlx::query_scalar!(
        "SELECT id FROM projects WHERE id = $1 AND removed_at IS NULL FOR KEY SHARE",
        project.as_uuid()
    );
    there.fetch_optional(&mut **tx).await?.map(drop).ok_or(StoreError::NotFound("project"))
}

/// Holds a project as it is until the transaction ends, and lets one more build of it in; `stores`: it brings secrets, or gives outputs.
///
/// # Errors
/// `Exhausted`: one of its limits is reached; `NotFound`: it isn't there any more.
pub(crate) async fn admits(tx: &mut Tx, project: ProjectId, stores: bool) -> Result<()> {
    let quota = sqlx::query!(
        "SELECT max_queued_builds, builds_per_minute, max_stored_bytes FROM projects
         WHERE id = $1 AND removed_at IS NULL FOR KEY SHARE",
        project.as_uuid()
    )
    .fetch_optional(&mut **tx)
    .await?
    .ok_or(StoreError::NotFound("project"))?;
    if let (Some(most), true) = (quota.max_stored_bytes, stores) {
        within(fit(most)?, stored(&mut **tx, project).await?)?;
    }
    if quota.max_queued_builds.is_none() && quota.builds_per_minute.is_none() {
        return Ok(());
    }
    // One after the other: builds that come at the same moment count each other.
    sqlx::query_scalar!("SELECT id FROM projects WHERE id = $1 FOR NO KEY UPDATE", project.as_uuid())
        .fetch_one(&mut **tx)
        .await?;
    let row = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM builds WHERE project_id = $1 AND state = 'queued' AND NOT look) AS "queued!",
                  (SELECT extract(epoch FROM last.created_at + interval '1 minute' - farm_now())::float8
                   FROM (SELECT created_at FROM builds WHERE project_id = $1 AND NOT look
                         ORDER BY id DESC OFFSET $2::bigint - 1 LIMIT 1) AS last
                   WHERE last.created_at > farm_now() - interval '1 minute') AS wait"#,
        project.as_uuid(),
        i64::from(quota.builds_per_minute.unwrap_or(1))
    )
    .fetch_one(&mut **tx)
    .await?;
    if let (Some(most), Some(wait)) = (quota.builds_per_minute, row.wait) {
        return Err(StoreError::Exhausted {
            what: format!("the project's limit of {most} builds a minute is reached"),
            wait: Some(Duration::try_from_secs_f64(wait.max(0.0)).unwrap_or_default()),
        });
    }
    match quota.max_queued_builds {
        Some(most) if row.queued >= i64::from(most) => Err(StoreError::Exhausted {
            what: format!(
                "{} builds of the project wait already, and its limit is {most}; submit it again when one of them has begun \
                 (`farm builds`), or cancel one",
                row.queued
            ),
            wait: None,
        }),
        _ => Ok(()),
    }
}

/// How much may come yet.
fn within(most: u64, stored: u64) -> Result<u64> {
    let left = most.saturating_sub(stored);
    if left > 0 {
        return Ok(left);
    }
    Err(StoreError::Exhausted { what: full(stored, most), wait: None })
}

/// That a project's bytes are used up, in words.
pub fn full(stored: u64, most: u64) -> String {
    format!(
        "the project's sources, outputs and secrets have {stored} bytes on the farm, and its limit is {most}; what isn't used goes by \
         itself (days, by the farm's configuration), an admin of the farm can raise it: farm project set --max-stored-bytes"
    )
}

/// The bytes of a project's sources, outputs and secrets, as they are stored.
async fn stored<'e>(session: impl sqlx::PgExecutor<'e>, project: ProjectId) -> Result<u64> {
    let sum = sqlx::query_scalar!(
        r#"SELECT ((SELECT coalesce(sum(size), 0) FROM objects WHERE project_id = $1)
                 + (SELECT coalesce(sum(size), 0) FROM output_pieces WHERE project_id = $1)
                 + (SELECT coalesce(sum(length(sealed)), 0) FROM build_values WHERE project_id = $1)
                 + (SELECT coalesce(sum(length(sealed)), 0) FROM project_secrets WHERE project_id = $1)
                 + (SELECT coalesce(sum(length(sealed)), 0) FROM registry_logins WHERE project_id = $1))::bigint AS "sum!""#,
        project.as_uuid()
    );
    fit(sum.fetch_one(session).await?)
}
