//! What was delivered. The row is the queue: it is there before the sender hears that it is, and whoever leads processes it, again if
//! need be, until it is done, ignored or has failed.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::{Digest, HookId, Invalid, PrincipalId, ProjectId, RefPattern};
use serde_json::json;
use uuid::Uuid;

use super::secrets::used;
use crate::machines::leader::Epoch;
use crate::people::audit::{By, Deed};
use crate::proof::LeaderTx;
use crate::{Result, Store, StoreError, Tx, digest, from_json, state, to_json};

/// A delivery about a fork's pull request waits so long for somebody who approves that.
pub const HELD: Duration = Duration::from_secs(14 * 24 * 3600);

/// A push is made up for so often.
const MADE_UP: i32 = 3;

/// Where a ref was that is gone for so long nobody needs any more.
const GONE_REFS: Duration = Duration::from_secs(30 * 24 * 3600);

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeliveryState {
    /// It waits, or is tried again.
    Received,
    /// What follows from it was done.
    Done,
    /// Nothing follows from it.
    Ignored,
    /// What follows from it can't be done.
    Failed,
}

impl DeliveryState {
    /// All.
    pub const ALL: [Self; 4] = [Self::Received, Self::Done, Self::Ignored, Self::Failed];

    /// The word for it, everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Done => "done",
            Self::Ignored => "ignored",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for DeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeliveryState {
    type Err = Invalid;

    fn from_str(text: &str) -> std::result::Result<Self, Invalid> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| {
            Invalid::new("state", text, format!("there are {}", Self::ALL.map(Self::as_str).join(", ")))
        })
    }
}

/// A delivery that has just come, and is its hook's.
#[derive(Debug, Clone, Copy)]
pub struct NewDelivery<'a> {
    /// Whose hook.
    pub project: ProjectId,
    /// Which.
    pub hook: HookId,
    /// The sender's id of it.
    pub id: &'a str,
    /// What kind of event it is, in the sender's word.
    pub event: &'a str,
    /// Those headers by which it is read.
    pub headers: &'a BTreeMap<String, String>,
    /// As it came.
    pub body: &'a [u8],
    /// By which of the hook's secrets it was signed.
    pub secret: Uuid,
    /// How it stands: what waits is `Received`.
    pub state: DeliveryState,
    /// Why it is so.
    pub reason: &'a str,
    /// What it says of the hook's repository.
    pub says: Says<'a>,
}

/// What a delivery that is signed says of its hook's repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says<'a> {
    /// Nothing.
    Nothing,
    /// It has its id and its name.
    Same,
    /// It has another name now, or another one has its name: why the farm does nothing for the hook of its own accord.
    Strayed(&'a str),
}

/// What became of keeping it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// It is there.
    New,
    /// It was there, and is processed, or will be once more, as it had failed.
    Again,
    /// It was there, and is over.
    Over {
        /// How it ended.
        state: DeliveryState,
        /// Why.
        reason: String,
        /// What it has begun.
        builds: Vec<String>,
    },
    /// One of the same id was there, with another body.
    Other,
    /// The hook was removed meanwhile, or the secret doesn't count any more.
    Gone,
}

/// A delivery that waits, and its hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Whose hook.
    pub project: ProjectId,
    /// Its name.
    pub project_name: String,
    /// Which hook.
    pub hook: HookId,
    /// What people call it.
    pub hook_name: String,
    /// Who sends.
    pub provider: String,
    /// `HOST[:PORT]`.
    pub host: String,
    /// `OWNER/REPO` there.
    pub full_name: String,
    /// By which its forge knows the repository.
    pub repository_id: Option<String>,
    /// Where it is fetched.
    pub clone_url: Option<String>,
    /// Where its forge's API is, if not where its provider has it.
    pub api_url: Option<String>,
    /// The sender's id of the delivery.
    pub id: String,
    /// In which order it came.
    pub sequence: i64,
    /// How often it was tried in vain.
    pub attempts: i32,
    /// How often it was begun before.
    pub run: i32,
    /// When it came.
    pub received_at: DateTime<Utc>,
    /// As whom it is done what follows.
    pub principal: PrincipalId,
    /// For which refs that is a publisher.
    pub publishes: Vec<RefPattern>,
    /// Since when it is asked for: when it came, or was to be processed once more.
    pub asked_at: DateTime<Utc>,
    /// Its forge is told how builds stand.
    pub is_told: bool,
    /// The repository's default branch, as the farm knows it.
    pub default_branch: Option<String>,
    /// What the farm has made it for; `None`: it was sent.
    pub own: Option<String>,
    /// It is known of which ref it says that it was moved.
    pub is_read: bool,
    /// Why the farm does nothing for the hook of its own accord; empty: it does.
    pub strayed: String,
}

impl Waiting {
    /// Whose builds end one another: those of pushes (made up or not), those of one schedule, those of one base image.
    pub(crate) fn lane(&self) -> Option<&str> {
        self.own.as_deref().filter(|own| !own.starts_with("sweep "))
    }

    /// Somebody has asked that it be processed once more.
    pub fn is_asked_again(&self) -> bool {
        self.asked_at != self.received_at
    }
}

/// A delivery, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The sender's id of it.
    pub id: String,
    /// In which order it came.
    pub sequence: i64,
    /// What kind of event it is.
    pub event: String,
    /// When it came.
    pub received_at: DateTime<Utc>,
    /// How it stands.
    pub state: DeliveryState,
    /// Why.
    pub reason: String,
    /// What it has begun.
    pub builds: Vec<String>,
    /// How often it was tried in vain.
    pub attempts: i32,
    /// When it was over.
    pub finished_at: Option<DateTime<Utc>>,
    /// Bytes.
    pub body_bytes: i64,
}

/// How a delivery ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Not `Received`.
    pub state: DeliveryState,
    /// Why.
    pub reason: String,
    /// What it has begun, by short ids.
    pub builds: Vec<String>,
}

impl Store {
    /// Keeps a delivery, unless it is there. One that had failed and comes again is tried again.
    ///
    /// # Errors
    /// The database can't be reached; then it was not kept, unless the answer was lost.
    pub async fn keep_delivery(&self, new: &NewDelivery<'_>) -> Result<Kept> {
        let (project, hook) = (new.project.as_uuid(), new.hook.as_uuid());
        let mut tx = self.begin().await?;
        // Whoever removes the hook, or its secret, waits; or was first.
        let there = sqlx::query_scalar!(
            "SELECT true FROM hooks h JOIN hook_secrets s ON s.project_id = h.project_id AND s.hook_id = h.id
             WHERE h.project_id = $1 AND h.id = $2 AND h.removed_at IS NULL AND s.id = $3
               AND (s.ends_at IS NULL OR s.ends_at > farm_now()) FOR KEY SHARE",
            project,
            hook,
            new.secret
        )
        .fetch_optional(&mut *tx)
        .await?;
        if there.is_none() {
            return Ok(Kept::Gone);
        }
        let own = Digest::of(new.body);
        let kept = sqlx::query!(
            "INSERT INTO deliveries (project_id, hook_id, id, event, headers, body, body_digest, state, reason, finished_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, CASE WHEN $8 = 'received' THEN NULL ELSE farm_now() END)
             ON CONFLICT (project_id, hook_id, id) DO NOTHING",
            project,
            hook,
            new.id,
            new.event,
            to_json(new.headers)?,
            new.body,
            own.as_bytes().as_slice(),
            new.state.as_str(),
            new.reason
        )
        .execute(&mut *tx)
        .await?;
        let answer = if kept.rows_affected() == 1 {
            Kept::New
        } else {
            let row = sqlx::query!(
                "SELECT state, reason, builds, body_digest FROM deliveries WHERE project_id = $1 AND hook_id = $2 AND id = $3 FOR UPDATE",
                project,
                hook,
                new.id
            )
            .fetch_one(&mut *tx)
            .await?;
            let state: DeliveryState = state(&row.state)?;
            if digest(&row.body_digest)? != own {
                return Ok(Kept::Other);
            }
            match state {
                DeliveryState::Received => Kept::Again,
                DeliveryState::Failed if new.state == DeliveryState::Received => {
                    forget_approval(&mut tx, (project, hook), new.id).await?;
                    sqlx::query!(
                        "UPDATE deliveries SET state = 'received', reason = '', attempts = 0, due_at = farm_now(), finished_at = NULL,
                            runs = runs + 1, order_key = NULL, looks = false, again_at = farm_now()
                         WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND state = 'failed'",
                        project,
                        hook,
                        new.id
                    )
                    .execute(&mut *tx)
                    .await?;
                    Kept::Again
                }
                state => Kept::Over { state, reason: row.reason, builds: row.builds },
            }
        };
        let strayed = match new.says {
            Says::Nothing => None,
            Says::Same => Some(""),
            Says::Strayed(why) => Some(why),
        };
        // One that comes again says how it was.
        if let (Some(strayed), Kept::New) = (strayed, &answer) {
            sqlx::query!(
                "UPDATE hooks SET strayed = $3 WHERE project_id = $1 AND id = $2 AND strayed <> $3",
                project,
                hook,
                strayed
            )
            .execute(&mut *tx)
            .await?;
        }
        used(&mut tx, new.project, new.hook, new.secret).await?;
        sqlx::query!(
            "UPDATE hooks SET last_delivery_at = farm_now() WHERE project_id = $1 AND id = $2
               AND coalesce(last_delivery_at, '-infinity') < farm_now() - interval '10 seconds'",
            project,
            hook
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(answer)
    }

    /// What waits and is due: what is due for longest first, so that nobody's many keep others waiting.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn waiting_deliveries(&self, most: i64) -> Result<Vec<Waiting>> {
        let rows = sqlx::query!(
            r#"SELECT d.project_id, p.name AS project_name, d.hook_id, h.name AS hook_name, h.provider, h.host, h.full_name,
                      h.repository_id, h.clone_url, h.api_url, h.principal_id, h.publishes, d.id, d.sequence, d.attempts, d.runs, d.received_at,
                      h.default_branch, d.own, (d.pushes IS NOT NULL) AS "is_read!", h.strayed,
                      coalesce(d.again_at, d.received_at) AS "asked_at!",
                      EXISTS (SELECT FROM hook_tokens t WHERE t.project_id = h.project_id AND t.hook_id = h.id) AS "is_told!"
               FROM deliveries d JOIN hooks h ON h.project_id = d.project_id AND h.id = d.hook_id JOIN projects p ON p.id = d.project_id
               WHERE d.state = 'received' AND d.due_at <= farm_now() ORDER BY d.due_at, d.sequence LIMIT $1"#,
            most
        )
        .fetch_all(&self.pool)
        .await?;
        let waiting = rows.into_iter().map(|row| {
            Ok(Waiting {
                project: row.project_id.into(),
                project_name: row.project_name,
                hook: row.hook_id.into(),
                hook_name: row.hook_name,
                provider: row.provider,
                host: row.host,
                full_name: row.full_name,
                repository_id: row.repository_id,
                clone_url: row.clone_url,
                api_url: row.api_url,
                id: row.id,
                sequence: row.sequence,
                attempts: row.attempts,
                run: row.runs,
                received_at: row.received_at,
                principal: row.principal_id.into(),
                publishes: row.publishes.iter().map(|one| state(one)).collect::<Result<_>>()?,
                asked_at: row.asked_at,
                is_told: row.is_told,
                default_branch: row.default_branch,
                own: row.own,
                is_read: row.is_read,
                strayed: row.strayed,
            })
        });
        waiting.collect()
    }

    /// What a delivery that waits has brought: those headers that were kept, and the body. `None`: it doesn't wait any more.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn delivered(&self, of: &Waiting) -> Result<Option<(BTreeMap<String, String>, Vec<u8>)>> {
        let row = sqlx::query!(
            "SELECT headers, body FROM deliveries WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND state = 'received'",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| Ok((from_json(row.headers)?, row.body))).transpose()
    }

    /// Ends a delivery that waits. What was done for it and isn't in the same transaction has to stand being done again.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: it doesn't wait any more, or was begun anew. Or another coordinator leads.
    pub async fn end_delivery(&self, epoch: Epoch, of: &Waiting, end: &End) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE deliveries SET state = $5, reason = $6, builds = $7, finished_at = farm_now()
             WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND state = 'received' AND attempts = $4 AND runs = $8",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            of.attempts,
            end.state.as_str(),
            end.reason,
            &end.builds,
            of.run
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the delivery"));
        }
        let missed = of.own.as_deref().and_then(|own| own.strip_prefix("sweep "));
        match (missed, end.state) {
            (Some(missed), DeliveryState::Failed) => unmake(&mut tx, of, missed).await?,
            (Some(missed), DeliveryState::Ignored) => pass_over(&mut tx, of, missed).await?,
            _ => {}
        }
        tx.commit().await
    }

    /// Has a delivery that waits looked at again after so long: what was begun by it goes on.
    ///
    /// # Errors
    /// As of [`Self::end_delivery`].
    pub async fn go_on_with_delivery(
        &self,
        epoch: Epoch,
        of: &Waiting,
        wait: Duration,
        reason: &str,
    ) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE deliveries SET due_at = farm_now() + make_interval(secs => $5), reason = $6
             WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND state = 'received' AND attempts = $4 AND runs = $7",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            of.attempts,
            wait.as_secs_f64(),
            reason,
            of.run
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the delivery"));
        }
        tx.commit().await
    }

    /// Has a delivery that waits tried again after so long; `is_anew`: without what it has begun.
    ///
    /// # Errors
    /// As of [`Self::end_delivery`].
    pub async fn put_off_delivery(
        &self,
        epoch: Epoch,
        of: &Waiting,
        wait: Duration,
        reason: &str,
        is_anew: bool,
    ) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE deliveries SET attempts = attempts + 1, due_at = farm_now() + make_interval(secs => $5), reason = $6,
                looks = looks AND NOT $7, runs = runs + CASE WHEN $7 THEN 1 ELSE 0 END
             WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND state = 'received' AND attempts = $4 AND runs = $8",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            of.attempts,
            wait.as_secs_f64(),
            reason,
            is_anew,
            of.run
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the delivery"));
        }
        tx.commit().await
    }

    /// What was delivered to a hook, the newest first: at most so many that came before this one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the project has no hook of this name. Or the database can't be reached.
    pub async fn deliveries(
        &self,
        project: ProjectId,
        name: &str,
        before: Option<i64>,
        most: i64,
    ) -> Result<Vec<Delivery>> {
        let hook = self.hook_named(project, name).await?;
        let rows = sqlx::query!(
            r#"SELECT id, sequence, event, received_at, state, reason, builds, attempts, finished_at,
                      octet_length(body)::bigint AS "body_bytes!"
               FROM deliveries WHERE project_id = $1 AND hook_id = $2 AND sequence < $3 ORDER BY sequence DESC LIMIT $4"#,
            project.as_uuid(),
            hook.as_uuid(),
            before.unwrap_or(i64::MAX),
            most
        )
        .fetch_all(&self.pool)
        .await?;
        let deliveries = rows.into_iter().map(|row| {
            Ok(Delivery {
                id: row.id,
                sequence: row.sequence,
                event: row.event,
                received_at: row.received_at,
                state: state(&row.state)?,
                reason: row.reason,
                builds: row.builds,
                attempts: row.attempts,
                finished_at: row.finished_at,
                body_bytes: row.body_bytes,
            })
        });
        deliveries.collect()
    }

    /// Has a delivery that is over processed once more, as it came.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the project has no such hook, or that no such delivery. [`StoreError::Conflict`]: it waits.
    pub async fn redeliver(&self, by: &By, project: ProjectId, name: &str, id: &str) -> Result<()> {
        let hook = self.hook_named(project, name).await?;
        let mut tx = self.begin().await?;
        let done = sqlx::query!(
            "UPDATE deliveries SET state = 'received', reason = '', attempts = 0, due_at = farm_now(), finished_at = NULL,
                builds = '{}', runs = runs + 1, order_key = NULL, looks = false, again_at = farm_now()
             WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND state <> 'received'",
            project.as_uuid(),
            hook.as_uuid(),
            id
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            let waits = sqlx::query_scalar!(
                "SELECT true FROM deliveries WHERE project_id = $1 AND hook_id = $2 AND id = $3",
                project.as_uuid(),
                hook.as_uuid(),
                id
            );
            return Err(match waits.fetch_optional(&mut *tx).await? {
                Some(_) => StoreError::Conflict(format!("delivery {id} waits to be processed already")),
                None => StoreError::NotFound("delivery"),
            });
        }
        forget_approval(&mut tx, (project.as_uuid(), hook.as_uuid()), id).await?;
        let detail = json!({ "delivery": id });
        by.did(&mut tx, Deed { project: Some(project), action: "hook.redeliver", subject: name, detail })
            .await?;
        tx.commit().await
    }

    /// The project's hook of this name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: it has none.
    pub async fn hook_named(&self, project: ProjectId, name: &str) -> Result<HookId> {
        let id = sqlx::query_scalar!(
            "SELECT id FROM hooks WHERE project_id = $1 AND name = $2 AND removed_at IS NULL",
            project.as_uuid(),
            name
        );
        id.fetch_optional(&self.pool).await?.map(HookId::from).ok_or(StoreError::NotFound("hook"))
    }

    /// Removes at most `limit` deliveries that were over so long ago and as many statuses, as many refs that are gone for 30 days, and then hooks that were removed and have no
    /// deliveries any more. Answers how many deliveries.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn remove_deliveries(&self, epoch: Epoch, kept: Duration, limit: i64) -> Result<u64> {
        let mut tx = self.begin_leading(epoch).await?;
        let removed = sqlx::query!(
            "DELETE FROM deliveries WHERE (project_id, hook_id, id) IN (
                SELECT project_id, hook_id, id FROM deliveries
                WHERE state <> 'received' AND finished_at < farm_now() - make_interval(secs => $1) ORDER BY finished_at LIMIT $2)",
            kept.as_secs_f64(),
            limit
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "DELETE FROM statuses WHERE (project_id, hook_id, commit_id, context) IN (
                SELECT project_id, hook_id, commit_id, context FROM statuses
                WHERE wanted_at < farm_now() - make_interval(secs => $1) ORDER BY wanted_at LIMIT $2)",
            kept.as_secs_f64(),
            limit
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "DELETE FROM commit_readings WHERE (project_id, hook_id, commit_id, git_ref, kind) IN (
                SELECT project_id, hook_id, commit_id, git_ref, kind FROM commit_readings
                WHERE asked_at < farm_now() - make_interval(secs => $1) ORDER BY asked_at LIMIT $2)",
            kept.as_secs_f64(),
            limit
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "DELETE FROM ref_heads WHERE (project_id, hook_id, git_ref) IN (
                SELECT project_id, hook_id, git_ref FROM ref_heads
                WHERE gone_at < farm_now() - make_interval(secs => $1)
                   OR commit_id IS NULL AND seen_at < farm_now() - make_interval(secs => $1) LIMIT $2)",
            GONE_REFS.as_secs_f64(),
            limit
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "DELETE FROM hook_roots WHERE (project_id, hook_id, root) IN (
                SELECT project_id, hook_id, root FROM hook_roots
                WHERE made_at < farm_now() - make_interval(secs => $1) ORDER BY made_at LIMIT $2)",
            kept.as_secs_f64(),
            limit
        )
        .execute(&mut *tx)
        .await?;
        // What waits for an approval may do so for longer than what is over is kept.
        sqlx::query!(
            "WITH requests AS (DELETE FROM pull_requests WHERE (project_id, hook_id, number) IN (
                SELECT project_id, hook_id, number FROM pull_requests
                WHERE seen_at < farm_now() - make_interval(secs => $1) ORDER BY seen_at LIMIT $2))
             DELETE FROM fork_approvals WHERE (project_id, hook_id, number, commit_id, base, head_repository) IN (
                SELECT project_id, hook_id, number, commit_id, base, head_repository FROM fork_approvals
                WHERE approved_at < farm_now() - make_interval(secs => $1) ORDER BY approved_at LIMIT $2)",
            (kept + HELD * 2).as_secs_f64(),
            limit
        )
        .execute(&mut *tx)
        .await?;
        if removed.rows_affected() == 0 {
            sqlx::query!(
                "DELETE FROM hooks h WHERE h.removed_at < farm_now() - make_interval(secs => $1)
                   AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.project_id = h.project_id AND d.hook_id = h.id)",
                kept.as_secs_f64()
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(removed.rows_affected())
    }
}

/// A push that was made up has failed: unless it has got its place, or this was the third time, the next look finds it again.
async fn unmake(tx: &mut LeaderTx, of: &Waiting, git_ref: &str) -> Result<()> {
    sqlx::query!(
        "UPDATE ref_heads r SET failed = r.listed, failures = CASE WHEN r.failed = r.listed THEN r.failures + 1 ELSE 1 END,
            listed = CASE WHEN r.failed = r.listed AND r.failures >= $5 THEN r.listed END
         FROM deliveries d WHERE d.project_id = $1 AND d.hook_id = $2 AND d.id = $3 AND d.order_key IS NULL
           AND r.project_id = $1 AND r.hook_id = $2 AND r.git_ref = $4 AND r.listed IS NOT NULL",
        of.project.as_uuid(),
        of.hook.as_uuid(),
        of.id,
        git_ref,
        MADE_UP - 1
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A push that was made up came to nothing, as its ref is elsewhere by now: should the ref go back there, that is news.
async fn pass_over(tx: &mut LeaderTx, of: &Waiting, git_ref: &str) -> Result<()> {
    sqlx::query!(
        "UPDATE ref_heads r SET listed = NULL
         FROM deliveries d WHERE d.project_id = $1 AND d.hook_id = $2 AND d.id = $3 AND d.order_key IS NULL
           AND r.project_id = $1 AND r.hook_id = $2 AND r.git_ref = $4 AND r.listed IS NOT NULL",
        of.project.as_uuid(),
        of.hook.as_uuid(),
        of.id,
        git_ref
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What a delivery has gone on by counts no more when it is processed anew.
async fn forget_approval(tx: &mut Tx, (project, hook): (Uuid, Uuid), delivery: &str) -> Result<()> {
    sqlx::query!(
        "DELETE FROM fork_deliveries WHERE project_id = $1 AND hook_id = $2 AND delivery_id = $3",
        project,
        hook,
        delivery
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
