//! Looks at where a hook's branches and tags are, by which it is found what its forge didn't deliver: one at a time of each hook, each a
//! build that fetches nothing. A look is begun before its build is submitted, and over when what it has found is held against what was
//! seen (`super::looked`); whatever dies, the next pass goes on with it.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::{BuildId, HookId, PrincipalId, ProjectId};
use serde_json::json;

use super::deliveries::Waiting;
use super::own::is_own;
use crate::machines::leader::Epoch;
use crate::people::audit::{By, Deed};
use crate::schema::shut_out;
use crate::{Result, Store, StoreError};

/// The schema from which on coordinators know of looks.
const SCHEMA: i32 = 56;

/// A hook's look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Whose hook.
    pub project: ProjectId,
    /// Its name.
    pub project_name: String,
    /// Which hook.
    pub hook: HookId,
    /// What people call it.
    pub hook_name: String,
    /// As whom it looks.
    pub principal: PrincipalId,
    /// Who sends to it.
    pub provider: String,
    /// `HOST[:PORT]`.
    pub host: String,
    /// `OWNER/REPO` there.
    pub full_name: String,
    /// By which its forge knows the repository.
    pub repository_id: Option<String>,
    /// Where its forge's API is, if not where its provider has it.
    pub api_url: Option<String>,
    /// Where.
    pub clone_url: Option<String>,
    /// Who is asked: `SCHEME://HOST[:PORT]` of that.
    pub asks: String,
    /// The default branch, if it is known.
    pub default_branch: Option<String>,
    /// The hook is there, and its repository isn't known to be another one.
    pub is_on: bool,
    /// What was missed is to be made up for. Else it is only looked whether the repository is still the hook's.
    pub makes_up: bool,
    /// The look before knew nothing of what it found.
    pub is_doubted: bool,
    /// Which of its looks this is.
    pub number: i64,
    /// The newest delivery when it began.
    pub after: i64,
    /// No look has said anything before.
    pub is_first: bool,
    /// How often they came to nothing, in a row.
    pub tries: i32,
    /// Its build, once that is submitted.
    pub build: Option<BuildId>,
    /// For so long it goes on.
    pub age: Duration,
}

/// Where it may be looked now.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// It is looked for lost deliveries. Else for the sake of schedules and base images only: whether the repository is still the hook's.
    pub sweeps: bool,
    /// How often each hook is looked for: what is due much later than that was planned before the clock was set back.
    pub period: Duration,
    /// Who is not to be asked ([`Look::asks`]).
    pub but: &'a [String],
    /// Projects that have a look under way: others come first.
    pub looking: &'a [ProjectId],
}

/// How a look ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookEnd {
    /// For people.
    pub result: String,
    /// It came to nothing.
    pub is_trouble: bool,
    /// The next one begins after so long.
    pub wait: Duration,
}

/// What the farm does for a hook of its own accord, as people see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// When the next look is due.
    pub due_at: Option<DateTime<Utc>>,
    /// When the last one was over, what came of it, and whether that is trouble.
    pub ended: Option<(DateTime<Utc>, String, bool)>,
    /// Names, lines, and when they come next.
    pub schedules: Vec<(String, String, DateTime<Utc>)>,
    /// Images upon which something is built; `*`: all.
    pub bases: Vec<String>,
}

struct Row {
    project_id: uuid::Uuid,
    project_name: String,
    hook_id: uuid::Uuid,
    hook_name: String,
    principal_id: uuid::Uuid,
    provider: String,
    host: String,
    full_name: String,
    repository_id: Option<String>,
    api_url: Option<String>,
    clone_url: Option<String>,
    asks: String,
    default_branch: Option<String>,
    is_on: bool,
    makes_up: bool,
    is_doubted: bool,
    looks: i64,
    after: i64,
    is_first: bool,
    tries: i32,
    build_id: Option<uuid::Uuid>,
    seconds: f64,
}

impl From<Row> for Look {
    fn from(row: Row) -> Self {
        Self {
            project: row.project_id.into(),
            project_name: row.project_name,
            hook: row.hook_id.into(),
            hook_name: row.hook_name,
            principal: row.principal_id.into(),
            provider: row.provider,
            host: row.host,
            full_name: row.full_name,
            repository_id: row.repository_id,
            api_url: row.api_url,
            clone_url: row.clone_url,
            asks: row.asks,
            default_branch: row.default_branch,
            is_on: row.is_on,
            makes_up: row.makes_up,
            is_doubted: row.is_doubted,
            number: row.looks,
            after: row.after,
            is_first: row.is_first,
            tries: row.tries,
            build: row.build_id.map(BuildId::from),
            age: Duration::try_from_secs_f64(row.seconds).unwrap_or_default(),
        }
    }
}

impl Store {
    /// Hooks that are to be looked for and of which no look is planned yet.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn unlooked_hooks(&self, most: i64, sweeps: bool) -> Result<Vec<(ProjectId, HookId)>> {
        let rows = sqlx::query!(
            "SELECT h.project_id, h.id FROM hooks h
             WHERE h.removed_at IS NULL AND h.repository_id IS NOT NULL AND h.clone_url IS NOT NULL AND h.strayed = ''
               AND (h.sweeps AND $2 OR EXISTS (SELECT FROM hook_schedules s WHERE s.project_id = h.project_id AND s.hook_id = h.id)
                    OR EXISTS (SELECT FROM hook_bases b WHERE b.project_id = h.project_id AND b.hook_id = h.id))
               AND NOT EXISTS (SELECT FROM hook_looks l WHERE l.project_id = h.project_id AND l.hook_id = h.id)
             LIMIT $1",
            most,
            sweeps
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.project_id.into(), row.id.into())).collect())
    }

    /// Plans a hook's first look.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn plan_look(
        &self,
        epoch: Epoch,
        (project, hook): (ProjectId, HookId),
        wait: Duration,
    ) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        sqlx::query!(
            "INSERT INTO hook_looks (project_id, hook_id, due_at) VALUES ($1, $2, farm_now() + make_interval(secs => $3))
             ON CONFLICT DO NOTHING",
            project.as_uuid(),
            hook.as_uuid(),
            wait.as_secs_f64()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// The looks that go on.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn looks_under_way(&self) -> Result<Vec<Look>> {
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT l.project_id, p.name AS project_name, l.hook_id, h.name AS hook_name, h.principal_id, h.provider, h.host, h.full_name,
                      h.repository_id, h.api_url, h.clone_url, coalesce(h.clone_host, h.host) AS "asks!", h.default_branch,
                      (h.removed_at IS NULL AND h.strayed = '' AND h.repository_id IS NOT NULL) AS "is_on!", h.sweeps AS makes_up,
                      l.is_doubted, l.looks, l.after, (l.looked_at IS NULL) AS "is_first!", l.tries, l.build_id,
                      extract(epoch FROM farm_now() - l.begun_at)::float8 AS "seconds!"
               FROM hook_looks l JOIN hooks h ON h.project_id = l.project_id AND h.id = l.hook_id JOIN projects p ON p.id = l.project_id
               WHERE l.begun_at IS NOT NULL ORDER BY l.begun_at"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(Look::from).collect())
    }

    /// The hook that is to be looked for now: that which is due for longest, of projects that look nowhere else before those that do.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn due_look(&self, turn: Turn<'_>) -> Result<Option<(ProjectId, HookId)>> {
        let looking: Vec<uuid::Uuid> = turn.looking.iter().map(|project| project.as_uuid()).collect();
        let row = sqlx::query!(
            "SELECT l.project_id, l.hook_id FROM hook_looks l JOIN hooks h ON h.project_id = l.project_id AND h.id = l.hook_id
             WHERE l.begun_at IS NULL AND (l.due_at <= farm_now() OR l.due_at > farm_now() + make_interval(secs => $2))
               AND h.removed_at IS NULL AND h.strayed = '' AND h.repository_id IS NOT NULL AND NOT coalesce(h.clone_host, h.host) = ANY($3)
               AND (h.sweeps AND $1 OR EXISTS (SELECT FROM hook_schedules s WHERE s.project_id = h.project_id AND s.hook_id = h.id)
                    OR EXISTS (SELECT FROM hook_bases b WHERE b.project_id = h.project_id AND b.hook_id = h.id)
                    OR EXISTS (SELECT FROM deliveries d WHERE d.project_id = h.project_id AND d.hook_id = h.id AND d.state = 'received'
                               AND d.own IS NOT NULL))
             ORDER BY l.project_id = ANY($4), l.due_at LIMIT 1",
            turn.sweeps,
            (turn.period * 2).as_secs_f64(),
            turn.but,
            &looking
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| (row.project_id.into(), row.hook_id.into())))
    }

    /// Whether it was seen within this time that a hook's repository is still its own.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn is_checked(&self, of: &Waiting, within: Duration) -> Result<bool> {
        let is_checked = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM hook_looks WHERE project_id = $1 AND hook_id = $2
                 AND fine_at > farm_now() - make_interval(secs => $3)) AS "checked!""#,
            of.project.as_uuid(),
            of.hook.as_uuid(),
            within.as_secs_f64()
        );
        Ok(is_checked.fetch_one(&self.pool).await?)
    }

    /// Has a hook be looked for now, for the sake of what waits for that; unless looks at it come to nothing. If that looks itself where its
    /// ref is, and has no place yet, it is begun anew later: it would keep others waiting, and what it has fetched is older than what these
    /// build meanwhile. True: it is, and whoever processes the time before says nothing about it any more.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn hurry_look(&self, epoch: Epoch, of: &Waiting, reason: &str) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        sqlx::query!(
            "INSERT INTO hook_looks AS l (project_id, hook_id, due_at) VALUES ($1, $2, farm_now())
             ON CONFLICT (project_id, hook_id) DO UPDATE SET due_at = EXCLUDED.due_at
             WHERE l.begun_at IS NULL AND l.tries = 0 AND l.due_at > EXCLUDED.due_at",
            of.project.as_uuid(),
            of.hook.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        let anew = sqlx::query!(
            "UPDATE deliveries SET looks = false, runs = runs + 1, reason = $5, due_at = farm_now() + interval '5 seconds'
             WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND state = 'received' AND runs = $4 AND looks AND order_key IS NULL",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            of.run,
            reason
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(anew.rows_affected() == 1)
    }

    /// Begins a hook's look: what is delivered from now on is left to itself. Answers who is asked ([`Look::asks`]).
    ///
    /// # Errors
    /// [`StoreError::Stale`]: one goes on, or the hook is none of those any more. [`StoreError::Older`]: an older coordinator runs, which would do the wrong thing with what is
    /// made up. Or another coordinator leads.
    pub async fn begin_look(&self, epoch: Epoch, (project, hook): (ProjectId, HookId)) -> Result<String> {
        let mut tx = self.begin_leading(epoch).await?;
        shut_out(tx.tx(), SCHEMA, "looks for lost deliveries").await?;
        is_own(&mut tx, (project, hook), false).await?;
        let begun = sqlx::query!(
            "UPDATE hook_looks l SET begun_at = farm_now(), looks = looks + 1, build_id = NULL, after = greatest(
                coalesce((SELECT max(d.sequence) FROM deliveries d WHERE d.project_id = $1 AND d.hook_id = $2), 0),
                coalesce((SELECT max(r.sequence) FROM ref_heads r WHERE r.project_id = $1 AND r.hook_id = $2), 0))
             WHERE l.project_id = $1 AND l.hook_id = $2 AND l.begun_at IS NULL",
            project.as_uuid(),
            hook.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        if begun.rows_affected() != 1 {
            return Err(StoreError::Stale("the look"));
        }
        let asks = sqlx::query_scalar!(
            r#"SELECT coalesce(clone_host, host) AS "asks!" FROM hooks WHERE project_id = $1 AND id = $2"#,
            project.as_uuid(),
            hook.as_uuid()
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(asks)
    }

    /// A look's build is there.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: it is over. Or another coordinator leads.
    pub async fn look_submitted(&self, epoch: Epoch, look: &Look, build: BuildId) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE hook_looks SET build_id = $4
             WHERE project_id = $1 AND hook_id = $2 AND looks = $3 AND begun_at IS NOT NULL AND build_id IS NULL",
            look.project.as_uuid(),
            look.hook.as_uuid(),
            look.number,
            build.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the look"));
        }
        tx.commit().await
    }

    /// What the farm does of its own accord for a project's hooks.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn watched(&self, project: ProjectId) -> Result<BTreeMap<HookId, Watched>> {
        let mut all: BTreeMap<HookId, Watched> = BTreeMap::new();
        let looks = sqlx::query!(
            "SELECT hook_id, due_at, ended_at, result, is_trouble FROM hook_looks WHERE project_id = $1",
            project.as_uuid()
        );
        for row in looks.fetch_all(&self.pool).await? {
            let one = all.entry(row.hook_id.into()).or_default();
            one.due_at = Some(row.due_at);
            one.ended = row.ended_at.map(|at| (at, row.result, row.is_trouble));
        }
        let schedules = sqlx::query!(
            "SELECT hook_id, name, line, next_at FROM hook_schedules WHERE project_id = $1 ORDER BY next_at, name, line",
            project.as_uuid()
        );
        for row in schedules.fetch_all(&self.pool).await? {
            all.entry(row.hook_id.into()).or_default().schedules.push((row.name, row.line, row.next_at));
        }
        let bases = sqlx::query!(
            "SELECT hook_id, image FROM hook_bases WHERE project_id = $1 ORDER BY image",
            project.as_uuid()
        );
        for row in bases.fetch_all(&self.pool).await? {
            all.entry(row.hook_id.into()).or_default().bases.push(row.image);
        }
        Ok(all)
    }

    /// Says whether it is looked for what a hook's forge didn't deliver.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the project has no hook of this name.
    pub async fn set_sweeps(&self, by: &By, project: ProjectId, name: &str, sweeps: bool) -> Result<()> {
        let mut tx = self.begin().await?;
        let hook = sqlx::query!(
            "SELECT id, sweeps FROM hooks WHERE project_id = $1 AND name = $2 AND removed_at IS NULL FOR NO KEY UPDATE",
            project.as_uuid(),
            name
        );
        let hook = hook.fetch_optional(&mut *tx).await?.ok_or(StoreError::NotFound("hook"))?;
        sqlx::query!(
            "UPDATE hooks SET sweeps = $3 WHERE project_id = $1 AND id = $2",
            project.as_uuid(),
            hook.id,
            sweeps
        )
        .execute(&mut *tx)
        .await?;
        if hook.sweeps != sweeps {
            // Once it is wanted again, the first look only notes where refs are: what was pushed meanwhile nobody has asked for.
            sqlx::query!(
                "UPDATE hook_looks SET looked_at = NULL WHERE project_id = $1 AND hook_id = $2",
                project.as_uuid(),
                hook.id
            )
            .execute(&mut *tx)
            .await?;
        }
        let detail = json!({ "sweep": sweeps });
        by.did(&mut tx, Deed { project: Some(project), action: "hook.set", subject: name, detail }).await?;
        tx.commit().await
    }
}
