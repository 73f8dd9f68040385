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
use crate::people::audit::{By, Deed};
use crate::{Result, Store, StoreError, Tx, digest, from_json, state, to_json};

/// A delivery about a fork's pull request waits so long for somebody who approves that.
pub const HELD: Duration = Duration::from_secs(14 * 24 * 3600);

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
    /// It has its place, so what follows from it is of one commit.
    pub is_placed: bool,
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
    /// The ref that it is about; empty: none, or nobody has read it yet.
    pub git_ref: String,
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

    /// What waits and is due: what is due for longest first, so that nobody's many keep others waiting. Of pushes that wait for their place
    /// about one ref the newest only, and none while another one looks where that is: most of the older ones are passed by then.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn waiting_deliveries(&self, most: i64) -> Result<Vec<Waiting>> {
        let rows = sqlx::query!(
            r#"SELECT d.project_id, p.name AS project_name, d.hook_id, h.name AS hook_name, h.provider, h.host, h.full_name,
                      h.repository_id, h.clone_url, h.api_url, h.principal_id, h.publishes, d.id, d.sequence, d.attempts, d.runs, d.received_at,
                      h.default_branch, d.own, (d.pushes IS NOT NULL) AS "is_read!",
                      (d.order_key IS NOT NULL) AS "is_placed!", h.strayed,
                      coalesce(d.again_at, d.received_at) AS "asked_at!",
                      EXISTS (SELECT FROM hook_tokens t WHERE t.project_id = h.project_id AND t.hook_id = h.id) AS "is_told!"
               FROM deliveries d JOIN hooks h ON h.project_id = d.project_id AND h.id = d.hook_id JOIN projects p ON p.id = d.project_id
               WHERE d.state = 'received' AND d.due_at <= farm_now()
                 AND (d.pushes IS DISTINCT FROM d.git_ref OR d.looks OR d.order_key IS NOT NULL OR NOT EXISTS (
                     SELECT FROM deliveries o WHERE o.project_id = d.project_id AND o.hook_id = d.hook_id AND o.git_ref = d.git_ref
                       AND o.id <> d.id AND o.state = 'received' AND o.order_key IS NULL
                       AND (o.looks OR (o.sequence > d.sequence AND o.due_at <= farm_now() AND o.pushes = o.git_ref))))
               ORDER BY d.due_at, d.sequence LIMIT $1"#,
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
                is_placed: row.is_placed,
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
                      octet_length(body)::bigint AS "body_bytes!", coalesce(git_ref, pushes, '') AS "git_ref!"
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
                git_ref: row.git_ref,
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
    /// [`StoreError::NotFound`]: the project has no such hook, or that no such delivery. [`StoreError::Conflict`]: it waits, or another one
    /// about the same image does.
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
        .await
        .map_err(|error| another_waits(error, id))?;
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
}

/// Why a delivery isn't processed once more.
fn another_waits(error: sqlx::Error, id: &str) -> StoreError {
    let constraint = error.as_database_error().and_then(|error| error.constraint());
    if constraint == Some("deliveries_coalesced") {
        let why = format!(
            "another delivery about the image of {id} waits to be processed, and comes to the same: see what becomes of that"
        );
        return StoreError::Conflict(why);
    }
    error.into()
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
