//! How commits are to be shown at their forge: the outbox of statuses, a row for each commit and context there.
//!
//! A row says what is wanted now, and not what was to be said on the way: what comes later takes its place, and only the newest is sent.
//! It is said by a delivery while that is processed ([`Store::want_statuses`]), and by the end of the build that has come of it
//! ([`Store::settle_status`]). Of two deliveries about one commit the later one counts; how it stands as a whole (`farm`) is kept for each ref and
//! kind of event, and is red as long as one of them is.
//!
//! Who sends them: [`super::sending`].

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use farm_types::state::BuildState;
use farm_types::{BuildId, Commit, Failure, HookId, Invalid, ProjectId, RefName, ShortId};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::deliveries::Waiting;
use crate::machines::leader::Epoch;
use crate::proof::LeaderTx;
use crate::{Result, Store, Tx, from_json, state, to_json};

/// How something stands, as forges show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StatusState {
    /// It isn't over.
    Pending,
    /// All is well.
    Success,
    /// It isn't.
    Failure,
    /// Nobody wants it any more.
    Cancelled,
}

impl StatusState {
    /// All.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Success, Self::Failure, Self::Cancelled];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for StatusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for StatusState {
    type Err = Invalid;

    fn from_str(text: &str) -> std::result::Result<Self, Invalid> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| Invalid::new("status", text, "no such state"))
    }
}

/// How a context of a commit is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `farm`, or `farm/IMAGE`.
    pub context: String,
    /// How it stands. With a build: pending, until that has ended.
    pub state: StatusState,
    /// Why, in one line.
    pub description: String,
    /// What it is about.
    pub build: Option<(BuildId, ShortId)>,
    /// It waits for somebody who approves it, which is done by this build.
    pub held: Option<ShortId>,
}

/// More of why something is red than fits into a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// All of it.
    pub text: String,
    /// What is wrong on which lines of the repository's rules.
    #[serde(default)]
    pub places: Vec<(u32, String)>,
}

/// What a delivery is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Where it is shown.
    pub commit: Commit,
    /// Which ref it is of.
    pub git_ref: RefName,
    /// Which kind of event, in the rules' words.
    pub kind: &'static str,
    /// The branch or tag whose commit it is.
    pub branch: Option<String>,
}

/// What a delivery has come to as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole<'a> {
    /// That isn't known yet.
    Open,
    /// Its rules are in order.
    Fine,
    /// Nothing comes of it: why, in a line, and all that there is to say.
    Red(&'a str, &'a Detail),
}

/// What is pending and whose build has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Whose hook.
    pub project: ProjectId,
    /// Which.
    pub hook: HookId,
    /// At which commit.
    pub commit: String,
    /// In which context.
    pub context: String,
    /// As it was read.
    pub version: i64,
    /// How the build has ended; `None`: it isn't there any more.
    pub state: Option<BuildState>,
    /// Of one that has failed.
    pub failure: Option<Failure>,
    /// When it was submitted, and when it ended.
    pub took: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

impl Store {
    /// Says how the contexts of a commit are to be shown, as long as a delivery waits and no later one has said something of them. What a
    /// build, or its retry, has ended as is left alone. True: something has changed.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn want_statuses(
        &self,
        epoch: Epoch,
        of: &Waiting,
        about: &About,
        wanted: &[Wanted],
        whole: Whole<'_>,
    ) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let mut changed = 0;
        for one in wanted {
            changed += want(&mut tx, of, about, one).await?;
        }
        let trouble = match whole {
            Whole::Open => None,
            Whole::Fine => Some(("", None)),
            Whole::Red(why, detail) => Some((why, Some(detail))),
        };
        if let Some(trouble) = trouble {
            read(&mut tx, of, about, trouble).await?;
            changed += show_whole(&mut tx, of, about).await?;
        }
        tx.commit().await?;
        Ok(changed > 0)
    }

    /// Ends what a delivery has said to be pending and of which nothing comes: it has no build. What a fork proposes and nobody has approved
    /// stays pending: anybody may propose a commit that others have made, and by that alone it isn't shown as gone wrong. It can't be approved
    /// any more.
    ///
    /// # Errors
    /// As of [`Self::want_statuses`].
    pub async fn leave_statuses(&self, epoch: Epoch, of: &Waiting, why: &str) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let left = sqlx::query!(
            "UPDATE statuses SET description = $4, state = CASE WHEN EXISTS (
                    SELECT FROM deliveries d WHERE d.project_id = $1 AND d.hook_id = $2 AND d.id = $3 AND d.fork)
                  AND NOT EXISTS (SELECT FROM fork_deliveries f WHERE f.project_id = $1 AND f.hook_id = $2 AND f.delivery_id = $3
                    AND f.approved_by IS NOT NULL)
                THEN 'pending' ELSE 'cancelled' END, held = CASE WHEN EXISTS (
                    SELECT FROM deliveries d WHERE d.project_id = $1 AND d.hook_id = $2 AND d.id = $3 AND d.fork)
                  AND NOT EXISTS (SELECT FROM fork_deliveries f WHERE f.project_id = $1 AND f.hook_id = $2 AND f.delivery_id = $3
                    AND f.approved_by IS NOT NULL)
                THEN '' END, version = nextval('status_versions'), wanted_at = farm_now(),
                attempts = 0, unknowns = 0, due_at = farm_now(), given_up = NULL
             WHERE project_id = $1 AND hook_id = $2 AND delivery_id = $3 AND state = 'pending' AND build_id IS NULL",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            why
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(left.rows_affected() > 0)
    }

    /// What is pending and whose builds have ended.
    ///
    /// # Errors
    /// The database can't be reached, or holds what isn't understood.
    pub async fn ended_statuses(&self, most: i64) -> Result<Vec<Ended>> {
        let rows = sqlx::query!(
            // No outer join: which of its columns may be null, sqlx takes from the plan, and that isn't always the same.
            r#"SELECT s.project_id AS "project_id!", s.hook_id AS "hook_id!", s.commit_id AS "commit_id!", s.context AS "context!",
                      s.version AS "version!", b.state AS "state?", b.failure AS "failure?", b.created_at AS "created_at?",
                      b.finished_at AS "finished_at?"
               FROM statuses s JOIN builds b ON b.project_id = s.project_id AND b.id = s.build_id
               WHERE s.state = 'pending' AND b.state IN ('succeeded', 'failed', 'cancelled')
               UNION ALL
               SELECT s.project_id, s.hook_id, s.commit_id, s.context, s.version, NULL, NULL, NULL, NULL FROM statuses s
               WHERE s.state = 'pending' AND s.build_id IS NOT NULL
                 AND NOT EXISTS (SELECT FROM builds b WHERE b.project_id = s.project_id AND b.id = s.build_id)
               LIMIT $1"#,
            most
        )
        .fetch_all(&self.pool)
        .await?;
        let ended = rows.into_iter().map(|row| {
            Ok(Ended {
                project: row.project_id.into(),
                hook: row.hook_id.into(),
                commit: row.commit_id,
                context: row.context,
                version: row.version,
                state: row.state.as_deref().map(state).transpose()?,
                failure: row.failure.map(from_json).transpose()?,
                took: row.created_at.zip(row.finished_at),
            })
        });
        ended.collect()
    }

    /// Says what has become of something, by the end of its build. False: something else has been said of it meanwhile.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn settle_status(
        &self,
        epoch: Epoch,
        of: &Ended,
        state: StatusState,
        description: &str,
    ) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE statuses SET state = $6, description = $7, version = nextval('status_versions'), wanted_at = farm_now(),
                attempts = 0, unknowns = 0, due_at = farm_now(), given_up = NULL
             WHERE project_id = $1 AND hook_id = $2 AND commit_id = $3 AND context = $4 AND version = $5 AND state = 'pending'",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.commit,
            of.context,
            of.version,
            state.as_str(),
            description
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Whether anything is pending or to be sent, be it due or not.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn has_open_statuses(&self) -> Result<bool> {
        let open = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM statuses WHERE state = 'pending' AND build_id IS NOT NULL)
                   OR EXISTS (SELECT FROM statuses WHERE version > sent_version AND given_up IS NULL) AS "open!""#
        );
        Ok(open.fetch_one(&self.pool).await?)
    }
}

/// Has what was said by the end of a build, or of another retry of what that is a retry of, said by the end of this retry.
pub(crate) async fn retried(
    tx: &mut Tx,
    project: Uuid,
    old: Uuid,
    (new, short): (Uuid, &ShortId),
) -> Result<()> {
    sqlx::query!(
        "WITH RECURSIVE before AS (
            SELECT id, retry_of FROM builds WHERE project_id = $1 AND id = $2
            UNION ALL SELECT b.id, b.retry_of FROM before f JOIN builds b ON b.project_id = $1 AND b.id = f.retry_of)
         UPDATE statuses SET build_id = $3, build = $4, state = 'pending', description = 'it is being built again',
            version = nextval('status_versions'), wanted_at = farm_now(), attempts = 0, unknowns = 0, due_at = farm_now(), given_up = NULL
         WHERE project_id = $1 AND begun_id IN (SELECT id FROM before)",
        project,
        old,
        new,
        short.as_str()
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The context of a delivery as a whole.
pub const WHOLE: &str = "farm";

/// Says how one context is to be shown. How many rows look different by it.
async fn want(tx: &mut LeaderTx, of: &Waiting, about: &About, one: &Wanted) -> Result<u64> {
    let build = match &one.build {
        Some((begun, short)) => {
            let (id, newest) =
                newest_retry(tx, of, *begun).await?.unwrap_or((begun.as_uuid(), short.to_string()));
            Some((begun.as_uuid(), id, newest))
        }
        None => None,
    };
    let done = sqlx::query!(
        "INSERT INTO statuses (project_id, hook_id, commit_id, context, delivery_id, asked_at, state, description, begun_id, build_id, build,
            branch, held)
         SELECT $1, $2, $4, $5, $3, $6, $7, $8, $9, $12, $10, $13, $14 FROM deliveries d
           JOIN hook_tokens t ON t.project_id = d.project_id AND t.hook_id = d.hook_id
         WHERE d.project_id = $1 AND d.hook_id = $2 AND d.id = $3 AND d.state = 'received' AND d.runs = $11 FOR KEY SHARE
         ON CONFLICT (project_id, hook_id, commit_id, context) DO UPDATE SET delivery_id = EXCLUDED.delivery_id,
            asked_at = EXCLUDED.asked_at, state = EXCLUDED.state, description = EXCLUDED.description, begun_id = EXCLUDED.begun_id,
            build_id = EXCLUDED.build_id, build = EXCLUDED.build, branch = EXCLUDED.branch, held = EXCLUDED.held, version = nextval('status_versions'),
            wanted_at = farm_now(), attempts = 0, unknowns = 0, due_at = farm_now(), given_up = NULL
         WHERE (statuses.asked_at, statuses.delivery_id) <= (EXCLUDED.asked_at, EXCLUDED.delivery_id)
           AND (statuses.begun_id IS DISTINCT FROM EXCLUDED.begun_id OR EXCLUDED.begun_id IS NULL AND (
                statuses.state <> EXCLUDED.state OR EXCLUDED.state <> 'pending' AND statuses.description <> EXCLUDED.description
                OR statuses.held IS DISTINCT FROM EXCLUDED.held))",
        of.project.as_uuid(),
        of.hook.as_uuid(),
        of.id,
        about.commit.as_str(),
        one.context,
        of.asked_at,
        one.state.as_str(),
        one.description,
        build.as_ref().map(|(begun, _, _)| *begun),
        build.as_ref().map(|(_, _, short)| short.as_str()),
        of.run,
        build.as_ref().map(|(_, id, _)| *id),
        about.branch,
        one.held.as_ref().map(ShortId::as_str)
    )
    .execute(&mut **tx)
    .await?;
    if done.rows_affected() == 0 {
        // It looks so already; all the same no earlier delivery has a say in it any more.
        sqlx::query!(
            "UPDATE statuses s SET delivery_id = $3, asked_at = $6 FROM deliveries d
             WHERE s.project_id = $1 AND s.hook_id = $2 AND s.commit_id = $4 AND s.context = $5 AND (s.asked_at, s.delivery_id) < ($6, $3)
               AND d.project_id = $1 AND d.hook_id = $2 AND d.id = $3 AND d.state = 'received' AND d.runs = $7",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            about.commit.as_str(),
            one.context,
            of.asked_at,
            of.run
        )
        .execute(&mut **tx)
        .await?;
    }
    Ok(done.rows_affected())
}

/// The newest retry of a build, or of a retry of it.
async fn newest_retry(tx: &mut LeaderTx, of: &Waiting, build: BuildId) -> Result<Option<(Uuid, String)>> {
    let row = sqlx::query!(
        r#"WITH RECURSIVE after AS (
            SELECT id, short_id, created_at FROM builds WHERE project_id = $1 AND retry_of = $2
            UNION ALL SELECT b.id, b.short_id, b.created_at FROM after a JOIN builds b ON b.project_id = $1 AND b.retry_of = a.id)
         SELECT id AS "id!", short_id AS "short_id!" FROM after ORDER BY created_at DESC, id DESC LIMIT 1"#,
        of.project.as_uuid(),
        build.as_uuid()
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|row| (row.id, row.short_id)))
}

/// Notes what a delivery has made of its commit, unless a later one of that ref and kind has.
async fn read(
    tx: &mut LeaderTx,
    of: &Waiting,
    about: &About,
    (trouble, detail): (&str, Option<&Detail>),
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO commit_readings AS r (project_id, hook_id, commit_id, git_ref, kind, delivery_id, asked_at, trouble, detail)
         SELECT $1, $2, $4, $5, $6, $3, $7, $8, $10 FROM deliveries d
           JOIN hook_tokens t ON t.project_id = d.project_id AND t.hook_id = d.hook_id
         WHERE d.project_id = $1 AND d.hook_id = $2 AND d.id = $3 AND d.state = 'received' AND d.runs = $9 FOR KEY SHARE
         ON CONFLICT (project_id, hook_id, commit_id, git_ref, kind) DO UPDATE SET delivery_id = EXCLUDED.delivery_id,
            asked_at = EXCLUDED.asked_at, trouble = EXCLUDED.trouble, detail = EXCLUDED.detail
         WHERE (r.asked_at, r.delivery_id) <= (EXCLUDED.asked_at, EXCLUDED.delivery_id)
           AND ((r.asked_at, r.delivery_id, r.trouble) <> (EXCLUDED.asked_at, EXCLUDED.delivery_id, EXCLUDED.trouble)
             OR r.detail IS DISTINCT FROM EXCLUDED.detail)",
        of.project.as_uuid(),
        of.hook.as_uuid(),
        of.id,
        about.commit.as_str(),
        about.git_ref.as_str(),
        about.kind,
        of.asked_at,
        trouble,
        of.run,
        detail.map(to_json).transpose()?
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Shows a commit as a whole as what was read of it says: red by the newest that is, and green where it was red and nothing is any more.
async fn show_whole(tx: &mut LeaderTx, of: &Waiting, about: &About) -> Result<u64> {
    let (project, hook, commit) = (of.project.as_uuid(), of.hook.as_uuid(), about.commit.as_str());
    let red = sqlx::query!(
        "INSERT INTO statuses (project_id, hook_id, commit_id, context, delivery_id, asked_at, state, description, branch, detail)
         SELECT r.project_id, r.hook_id, r.commit_id, $4, r.delivery_id, r.asked_at, 'failure', r.trouble, $5, r.detail FROM commit_readings r
         WHERE r.project_id = $1 AND r.hook_id = $2 AND r.commit_id = $3 AND r.trouble <> '' ORDER BY r.asked_at DESC, r.delivery_id DESC LIMIT 1
         ON CONFLICT (project_id, hook_id, commit_id, context) DO UPDATE SET delivery_id = EXCLUDED.delivery_id,
            asked_at = EXCLUDED.asked_at, state = EXCLUDED.state, description = EXCLUDED.description,
            detail = EXCLUDED.detail, version = nextval('status_versions'), wanted_at = farm_now(), attempts = 0, unknowns = 0,
            due_at = farm_now(), given_up = NULL
         WHERE statuses.state <> EXCLUDED.state OR statuses.description <> EXCLUDED.description
           OR statuses.detail IS DISTINCT FROM EXCLUDED.detail",
        project,
        hook,
        commit,
        WHOLE,
        about.branch
    )
    .execute(&mut **tx)
    .await?;
    let green = sqlx::query!(
        "UPDATE statuses SET state = 'success', description = 'the rules are read', detail = NULL, version = nextval('status_versions'),
            wanted_at = farm_now(), attempts = 0, unknowns = 0, due_at = farm_now(), given_up = NULL
         WHERE project_id = $1 AND hook_id = $2 AND commit_id = $3 AND context = $4 AND state <> 'success' AND NOT EXISTS (
            SELECT FROM commit_readings r WHERE r.project_id = $1 AND r.hook_id = $2 AND r.commit_id = $3 AND r.trouble <> '')",
        project,
        hook,
        commit,
        WHOLE
    )
    .execute(&mut **tx)
    .await?;
    Ok(red.rows_affected() + green.rows_affected())
}
