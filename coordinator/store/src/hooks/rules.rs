//! Rules that a project keeps at a hook, which count in the place of its repository's file.
//!
//! All are kept for a while: a delivery that is under way goes on by those that counted when it was begun, so that what it makes of them
//! is the same in each pass.

use chrono::{DateTime, Utc};
use farm_types::{HookId, ProjectId};
use serde_json::json;

use crate::people::audit::{By, Deed};
use crate::schema::shut_out;
use crate::{Result, Store, StoreError};

/// The schema from which on coordinators know of them.
const SCHEMA: i32 = 58;
/// As long those are kept that don't count any more, for deliveries that are under way: far longer than one is.
const KEPT_SECONDS: f64 = 30.0 * 86_400.0;

/// So often they are set within a day at most, as all of them are kept for so long.
const MOST_A_DAY: i64 = 100;

/// A project's own rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookRules {
    /// As they were written.
    pub text: String,
    /// Who set them.
    pub set_by: String,
    /// When.
    pub set_at: DateTime<Utc>,
}

impl Store {
    /// Keeps rules at a hook; `None`: the repository's file counts again. False: those count already.
    ///
    /// From the first ones on, coordinators that know nothing of these are kept out: they would build by the repository's file.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the project has no such hook. [`StoreError::Older`]: such a coordinator runs.
    /// [`StoreError::Exhausted`]: they were set too often.
    pub async fn set_hook_rules(
        &self,
        by: &By,
        project: ProjectId,
        name: &str,
        hook: HookId,
        text: Option<&str>,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        shut_out(&mut tx, SCHEMA, "a project's own rules").await?;
        let locked = sqlx::query_scalar!(
            "SELECT id FROM hooks WHERE project_id = $1 AND id = $2 AND name = $3 AND removed_at IS NULL FOR NO KEY UPDATE",
            project.as_uuid(),
            hook.as_uuid(),
            name
        );
        locked.fetch_optional(&mut *tx).await?.ok_or(StoreError::NotFound("hook"))?;
        let counting = sqlx::query_scalar!(
            "SELECT rules FROM hook_rules WHERE project_id = $1 AND hook_id = $2 ORDER BY version DESC LIMIT 1",
            project.as_uuid(),
            hook.as_uuid()
        );
        let counting = counting.fetch_optional(&mut *tx).await?.flatten();
        if counting.as_deref() == text {
            return Ok(false);
        }
        let lately = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM hook_rules
               WHERE project_id = $1 AND hook_id = $2 AND set_at > farm_now() - interval '1 day'"#,
            project.as_uuid(),
            hook.as_uuid()
        )
        .fetch_one(&mut *tx)
        .await?;
        if lately >= MOST_A_DAY {
            let what =
                format!("the rules of hook {name} were set {lately} times within a day; wait until tomorrow");
            return Err(StoreError::Exhausted { what, wait: None });
        }
        sqlx::query!(
            "INSERT INTO hook_rules (project_id, hook_id, version, rules, set_by)
             VALUES ($1, $2, (SELECT coalesce(max(version), 0) + 1 FROM hook_rules WHERE project_id = $1 AND hook_id = $2), $3, $4)",
            project.as_uuid(),
            hook.as_uuid(),
            text,
            by.name
        )
        .execute(&mut *tx)
        .await?;
        // Of those that came before the last ones of that time none counts for anybody.
        sqlx::query!(
            "DELETE FROM hook_rules WHERE project_id = $1 AND hook_id = $2 AND version < (
                SELECT max(version) FROM hook_rules
                WHERE project_id = $1 AND hook_id = $2 AND set_at < farm_now() - make_interval(secs => $3))",
            project.as_uuid(),
            hook.as_uuid(),
            KEPT_SECONDS
        )
        .execute(&mut *tx)
        .await?;
        let action = if text.is_some() { "hook.rules" } else { "hook.rules.remove" };
        let detail = json!({ "id": hook, "bytes": text.map(str::len) });
        by.did(&mut tx, Deed { project: Some(project), action, subject: name, detail }).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// The rules that are kept at a hook, as of then; `None` of the time: now. `None`: the repository's file counts.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn hook_rules(
        &self,
        project: ProjectId,
        hook: HookId,
        at: Option<DateTime<Utc>>,
    ) -> Result<Option<HookRules>> {
        let row = sqlx::query!(
            "SELECT rules, set_by, set_at FROM hook_rules
             WHERE project_id = $1 AND hook_id = $2 AND set_at <= coalesce($3, farm_now()) ORDER BY version DESC LIMIT 1",
            project.as_uuid(),
            hook.as_uuid(),
            at
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row
            .and_then(|row| row.rules.map(|text| HookRules { text, set_by: row.set_by, set_at: row.set_at })))
    }
}
