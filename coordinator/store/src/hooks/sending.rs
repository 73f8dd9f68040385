//! Sending how commits are to be shown ([`super::statuses`]): one coordinator sends, the one that leads. It claims a row, asks the forge, and
//! writes down what became of it. While a claim counts nobody else sends about that row, so a request of one that was cut off, or that
//! nobody has answered, never comes after a newer one.

use std::time::Duration;

use farm_types::{BuildId, HookId, ProjectId};
use uuid::Uuid;

use super::statuses::{Detail, StatusState};
use super::tokens::{KnownApp, SealedToken};
use crate::builds::mounts::SealedKey;
use crate::machines::leader::Epoch;
use crate::proof::LeaderTx;
use crate::{Result, Store, StoreError, from_json, state};

/// A claim counts for so long: longer than a request may take.
pub const CLAIM: Duration = Duration::from_secs(60);

/// Why a forge hasn't taken something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Untaken<'a> {
    /// In words.
    pub why: &'a str,
    /// Nobody has said that it is over: the request may still be under way, so the claim stays until it ends.
    pub may_come: bool,
}

/// What a try in vain counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// The forge wasn't asked, or may be asked later only.
    Nothing,
    /// It can't now.
    Away,
    /// It doesn't know what it is about.
    Unknown,
}

/// A status that is to be sent, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToSend {
    /// Whose hook.
    pub project: ProjectId,
    /// Its name.
    pub project_name: String,
    /// Which hook.
    pub hook: HookId,
    /// What people call it.
    pub hook_name: String,
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
    /// The hook's token.
    pub token: SealedToken,
    /// At which commit.
    pub commit: String,
    /// In which context.
    pub context: String,
    /// How it is to be shown.
    pub state: StatusState,
    /// Why.
    pub description: String,
    /// The short id of the build that it is about.
    pub build: Option<String>,
    /// And its id.
    pub build_id: Option<BuildId>,
    /// It waits for somebody who approves it, by this build; empty: nobody can any more.
    pub held: Option<String>,
    /// More of why.
    pub detail: Option<Detail>,
    /// The check run in which an App shows it.
    pub check: Check,
    /// The one that is to be sent.
    pub version: i64,
    /// The branch or tag whose commit it is.
    pub branch: Option<String>,
    /// What the forge has put others of this commit and branch in.
    pub pipeline: Option<String>,
    /// How often it was tried while the forge couldn't.
    pub attempts: i32,
    /// How often the forge didn't know what it is about.
    pub unknowns: i32,
    /// For how long it is wanted.
    pub age: Duration,
}

/// A check run, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Check {
    /// The version with which the one under way began; `None`: none is.
    pub of: Option<i64>,
    /// By which the forge knows it; `None`: nobody has heard that it was made.
    pub id: Option<i64>,
    /// The version that the forge was asked to show, and nobody has heard that it does.
    pub tried: Option<i64>,
}

impl ToSend {
    /// The version with which the check run begins, or has begun, in which it is shown.
    pub fn check_of(&self) -> i64 {
        self.check.of.unwrap_or(self.version)
    }

    /// Those that are asked at one place come one after the other.
    pub fn place(&self) -> &str {
        self.api_url.as_deref().unwrap_or(&self.host)
    }
}

impl Store {
    /// What is to be sent and is due: of each hook what is due for longest, then of each the next. Nothing of these hooks, and nothing that is
    /// to be asked at these places ([`ToSend::place`]).
    ///
    /// # Errors
    /// The database can't be reached, or holds what isn't understood.
    pub async fn statuses_to_send(
        &self,
        most: i64,
        but: &[HookId],
        not_at: &[String],
    ) -> Result<Vec<ToSend>> {
        let but: Vec<Uuid> = but.iter().map(|hook| hook.as_uuid()).collect();
        let rows = sqlx::query!(
            r#"SELECT s.project_id, p.name AS project_name, s.hook_id, h.name AS hook_name, h.provider, h.host, h.api_url, h.full_name,
                      h.repository_id, t.version AS token_version, t.key_id, t.sealed_key, t.sealed, t.app, t.app_id, t.installation,
                      s.commit_id, s.context, s.state, s.description, s.build, s.build_id, s.held, s.detail, s.check_of, s.check_id,
                      s.check_tried, s.version, s.branch, s.attempts, s.unknowns,
                      extract(epoch FROM farm_now() - s.wanted_at)::float8 AS "age!",
                      (SELECT o.pipeline FROM statuses o WHERE o.project_id = s.project_id AND o.hook_id = s.hook_id
                         AND o.commit_id = s.commit_id AND o.branch = s.branch AND o.pipeline IS NOT NULL ORDER BY o.context LIMIT 1) AS pipeline
               FROM statuses s JOIN hooks h ON h.project_id = s.project_id AND h.id = s.hook_id JOIN projects p ON p.id = s.project_id
                 JOIN hook_tokens t ON t.project_id = s.project_id AND t.hook_id = s.hook_id
               WHERE s.version > s.sent_version AND s.given_up IS NULL AND s.due_at <= farm_now()
                 AND (s.claimed_until IS NULL OR s.claimed_until <= farm_now())
                 AND s.hook_id <> ALL($2) AND coalesce(h.api_url, h.host) <> ALL($3)
               ORDER BY row_number() OVER (PARTITION BY s.project_id, s.hook_id ORDER BY s.due_at, s.wanted_at, s.context),
                 s.due_at, s.wanted_at, s.context LIMIT $1"#,
            most,
            &but,
            not_at
        )
        .fetch_all(&self.pool)
        .await?;
        let due = rows.into_iter().map(|row| {
            Ok(ToSend {
                project: row.project_id.into(),
                project_name: row.project_name,
                hook: row.hook_id.into(),
                hook_name: row.hook_name,
                provider: row.provider,
                host: row.host,
                api_url: row.api_url,
                full_name: row.full_name,
                repository_id: row.repository_id,
                token: SealedToken {
                    version: row.token_version,
                    key: SealedKey { by: row.key_id, bytes: row.sealed_key },
                    bytes: row.sealed,
                    app: match (row.app, row.app_id, row.installation) {
                        (Some(name), Some(id), Some(installation)) => {
                            Some(KnownApp { name, id, installation })
                        }
                        _ => None,
                    },
                },
                commit: row.commit_id,
                context: row.context,
                state: state(&row.state)?,
                description: row.description,
                build: row.build,
                build_id: row.build_id.map(BuildId::from),
                held: row.held,
                detail: row.detail.map(from_json).transpose()?,
                check: Check { of: row.check_of, id: row.check_id, tried: row.check_tried },
                version: row.version,
                branch: row.branch,
                pipeline: row.pipeline,
                attempts: row.attempts,
                unknowns: row.unknowns,
                age: Duration::try_from_secs_f64(row.age).unwrap_or_default(),
            })
        });
        due.collect()
    }

    /// Has a status to oneself for a while ([`CLAIM`]). Of one that a check run shows it is noted that the forge is asked. False: something else is wanted by now, somebody has it, or the hook has another token.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn claim_status(&self, epoch: Epoch, of: &ToSend) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        if !has_token(&mut tx, of).await? {
            return Ok(false);
        }
        let done = sqlx::query!(
            "UPDATE statuses SET claimed_until = farm_now() + make_interval(secs => $6),
                check_of = CASE WHEN $7 THEN coalesce(check_of, version) ELSE check_of END,
                check_tried = CASE WHEN $7 THEN version ELSE check_tried END
             WHERE project_id = $1 AND hook_id = $2 AND commit_id = $3 AND context = $4 AND version = $5 AND sent_version < $5
               AND given_up IS NULL AND due_at <= farm_now() AND (claimed_until IS NULL OR claimed_until <= farm_now())",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.commit,
            of.context,
            of.version,
            CLAIM.as_secs_f64(),
            of.token.app.is_some()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Notes that the forge has taken it, and the pipeline that it has put it in.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: it isn't there any more, or the hook has another token. Or another coordinator leads.
    pub async fn status_sent(&self, epoch: Epoch, of: &ToSend, pipeline: Option<&str>) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        if !has_token(&mut tx, of).await? {
            return Err(StoreError::Stale("the hook's token"));
        }
        let done = sqlx::query!(
            "UPDATE statuses SET sent_version = $5, claimed_until = NULL, pipeline = coalesce($6, pipeline)
             WHERE project_id = $1 AND hook_id = $2 AND commit_id = $3 AND context = $4 AND sent_version < $5 AND version >= $5",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.commit,
            of.context,
            of.version,
            pipeline
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the status"));
        }
        taken(&mut tx, of).await?;
        tx.commit().await
    }

    /// Notes that the forge shows it in this check run. One that is over is left as it is: what comes after begins another.
    ///
    /// # Errors
    /// As of [`Self::status_sent`].
    pub async fn check_sent(&self, epoch: Epoch, of: &ToSend, id: i64, is_over: bool) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        if !has_token(&mut tx, of).await? {
            return Err(StoreError::Stale("the hook's token"));
        }
        let done = sqlx::query!(
            "UPDATE statuses SET sent_version = $5, claimed_until = NULL, check_tried = NULL,
                check_of = CASE WHEN $7 THEN NULL ELSE check_of END, check_id = CASE WHEN $7 THEN NULL ELSE $6::bigint END
             WHERE project_id = $1 AND hook_id = $2 AND commit_id = $3 AND context = $4 AND sent_version < $5 AND version >= $5
               AND check_of IS NOT NULL",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.commit,
            of.context,
            of.version,
            id,
            is_over
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the status"));
        }
        taken(&mut tx, of).await?;
        tx.commit().await
    }

    /// Gives a claim back, and has another check run made, as the one that was under way is over: nobody had heard that.
    ///
    /// # Errors
    /// As of [`Self::status_sent`].
    pub async fn begin_check_anew(&self, epoch: Epoch, of: &ToSend) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE statuses SET check_of = $5, check_id = NULL, check_tried = NULL, claimed_until = NULL
             WHERE project_id = $1 AND hook_id = $2 AND commit_id = $3 AND context = $4 AND sent_version < $5 AND version >= $5
               AND check_of IS NOT NULL",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.commit,
            of.context,
            of.version
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the status"));
        }
        tx.commit().await
    }

    /// Has it sent later. What has become wanted meanwhile is sent when it is due.
    ///
    /// # Errors
    /// As of [`Self::status_sent`].
    pub async fn put_off_status(
        &self,
        epoch: Epoch,
        of: &ToSend,
        untaken: Untaken<'_>,
        wait: Duration,
        counts: Counts,
    ) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        trouble(&mut tx, of, untaken.why).await?;
        let done = sqlx::query!(
            "UPDATE statuses SET claimed_until = CASE WHEN $9 THEN claimed_until END,
                due_at = CASE WHEN version = $5 THEN farm_now() + make_interval(secs => $6) ELSE due_at END,
                attempts = attempts + CASE WHEN $7 AND version = $5 THEN 1 ELSE 0 END,
                unknowns = unknowns + CASE WHEN $8 AND version = $5 THEN 1 ELSE 0 END
             WHERE project_id = $1 AND hook_id = $2 AND commit_id = $3 AND context = $4 AND sent_version < $5 AND version >= $5",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.commit,
            of.context,
            of.version,
            wait.as_secs_f64(),
            counts == Counts::Away,
            counts == Counts::Unknown,
            untaken.may_come
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the status"));
        }
        if counts == Counts::Unknown && of.pipeline.is_some() {
            // It may be the pipeline that isn't there any more.
            sqlx::query!(
                "UPDATE statuses SET pipeline = NULL WHERE project_id = $1 AND hook_id = $2 AND commit_id = $3 AND pipeline = $4",
                of.project.as_uuid(),
                of.hook.as_uuid(),
                of.commit,
                of.pipeline
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await
    }

    /// Has it sent no more, unless something else is wanted or the hook gets another token.
    ///
    /// # Errors
    /// As of [`Self::status_sent`].
    pub async fn give_up_status(&self, epoch: Epoch, of: &ToSend, untaken: Untaken<'_>) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        trouble(&mut tx, of, untaken.why).await?;
        let done = sqlx::query!(
            "UPDATE statuses SET claimed_until = CASE WHEN $7 THEN claimed_until END, given_up = CASE WHEN version = $5 THEN $6 END
             WHERE project_id = $1 AND hook_id = $2 AND commit_id = $3 AND context = $4 AND sent_version < $5 AND version >= $5",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.commit,
            of.context,
            of.version,
            untaken.why,
            untaken.may_come
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the status"));
        }
        tx.commit().await
    }
}

/// Whether the hook has the token still by which this was, or is to be, sent; nobody changes that before the transaction ends. What one
/// before was answered says nothing of the present one.
async fn has_token(tx: &mut LeaderTx, of: &ToSend) -> Result<bool> {
    let token = sqlx::query_scalar!(
        "SELECT true FROM hook_tokens WHERE project_id = $1 AND hook_id = $2 AND version = $3 FOR NO KEY UPDATE",
        of.project.as_uuid(),
        of.hook.as_uuid(),
        of.token.version
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(token.is_some())
}

/// Notes that the forge has taken the last one.
async fn taken(tx: &mut LeaderTx, of: &ToSend) -> Result<()> {
    sqlx::query!(
        "UPDATE hook_tokens SET told_at = farm_now(), trouble = '', trouble_at = NULL
         WHERE project_id = $1 AND hook_id = $2 AND version = $3",
        of.project.as_uuid(),
        of.hook.as_uuid(),
        of.token.version
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Notes why the forge hasn't taken the last one.
async fn trouble(tx: &mut LeaderTx, of: &ToSend, why: &str) -> Result<()> {
    let noted = sqlx::query!(
        "UPDATE hook_tokens SET trouble = $4, trouble_at = farm_now() WHERE project_id = $1 AND hook_id = $2 AND version = $3",
        of.project.as_uuid(),
        of.hook.as_uuid(),
        of.token.version,
        why
    )
    .execute(&mut **tx)
    .await?;
    if noted.rows_affected() != 1 {
        return Err(StoreError::Stale("the hook's token"));
    }
    Ok(())
}
