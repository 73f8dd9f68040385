//! Approvals of what forks propose: who has let which head be built. By a member of the project, or by a comment of somebody of whom
//! the forge says that they may write.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::{BuildId, Commit, HookId, ProjectId};
use serde_json::json;
use uuid::Uuid;

use super::builds::OfDelivery;
use super::forks::{SCHEMA, UNUSED, number};
use crate::people::audit::{By, Deed};
use crate::schema::shut_out;
use crate::{Result, Store, StoreError, Tx, fit, state};

/// What a fork proposes isn't approved any more.
pub const UNAPPROVED: &str = "the approval of the fork's head";
/// A head has to be there for so long before a comment counts for it that doesn't name it in full: who writes one looks at it first.
const SEEN: Duration = Duration::from_secs(120);

/// What is to be approved.
#[derive(Debug, Clone, Copy)]
pub struct Approval<'a> {
    /// Whose hook.
    pub project: ProjectId,
    /// Which.
    pub hook: HookId,
    /// The pull request's number.
    pub number: u64,
    /// Which head of it.
    pub head: Head<'a>,
}

/// A head, as whoever approves it knows it.
#[derive(Debug, Clone, Copy)]
pub enum Head<'a> {
    /// As they were shown it.
    Shown {
        /// Its commit.
        commit: &'a Commit,
        /// The branch that it is to go to.
        base: &'a str,
        /// Its repository, by the forge's id.
        repository: &'a str,
    },
    /// As it was when they wrote a comment.
    Commented {
        /// How the commit's name begins, if they have written that.
        begins: Option<&'a str>,
        /// The branch that it is to go to, if they have written that.
        base: Option<&'a str>,
        /// The comment's delivery's place.
        sequence: i64,
        /// When it was written, by the forge's clock.
        at: Option<DateTime<Utc>>,
        /// When it came, by the farm's.
        received_at: DateTime<Utc>,
    },
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approved {
    /// Which head.
    pub commit: Commit,
    /// Who has approved it.
    pub by: String,
    /// It was approved before.
    pub is_again: bool,
}

/// What a build waits for: the fetch of rules that a delivery about a fork's pull request has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// Which hook.
    pub hook: HookId,
    /// What people call it.
    pub hook_name: String,
    /// `OWNER/REPO` that is to take it.
    pub repository: String,
    /// The delivery.
    pub delivery: String,
    /// The pull request's number.
    pub number: u64,
    /// The head that is proposed.
    pub commit: Commit,
    /// The branch that it is to go to.
    pub base: String,
    /// The branch that it comes from.
    pub head: String,
    /// The repository of that, by its forge's id and by its name; empty: nobody says.
    pub head_repository: (String, String),
    /// The account that has opened it, by its forge's id and by its name; empty: nobody says.
    pub opener: (String, String),
    /// What would be built.
    pub images: Vec<String>,
    /// Since when it waits.
    pub held_at: Option<DateTime<Utc>>,
    /// Who has approved it, and when.
    pub approved: Option<(String, DateTime<Utc>)>,
    /// Why it waits no more; empty: it does, or is being built.
    pub over: String,
    /// Where the head is by now.
    pub newest: Commit,
}

impl Waits {
    /// Somebody may approve it.
    pub fn is_held(&self) -> bool {
        self.held_at.is_some()
            && self.approved.is_none()
            && self.over.is_empty()
            && self.newest == self.commit
    }
}

/// A pull request, and what counts of it.
struct Row {
    commit: Commit,
    base: String,
    repository: String,
}

/// The pull request of an approval, if that may be given: whoever asks holds its row until the transaction ends.
async fn fit_for(tx: &mut Tx, of: &Approval<'_>) -> Result<Row> {
    let row = sqlx::query!(
        "SELECT p.sequence, p.commit_id, p.base, p.head_repository, p.is_fork, p.is_open, p.at, p.moved_at, p.based_at
         FROM pull_requests p JOIN hooks h ON h.project_id = p.project_id AND h.id = p.hook_id
         WHERE p.project_id = $1 AND p.hook_id = $2 AND p.number = $3 AND h.removed_at IS NULL FOR UPDATE OF p",
        of.project.as_uuid(),
        of.hook.as_uuid(),
        number(of.number)?
    )
    .fetch_optional(&mut **tx)
    .await?;
    let number = of.number;
    let refused = |why: String| Err(StoreError::Conflict(why));
    let Some(row) = row else {
        return refused(format!(
            "the farm was told of no pull request {number} lately; push to it, or redeliver what the forge has sent of it"
        ));
    };
    if !row.is_fork {
        return refused(format!("pull request {number} isn't a fork's, so nobody has to approve it"));
    }
    if !row.is_open {
        return refused(format!("pull request {number} is closed"));
    }
    let commit: Commit = state(&row.commit_id)?;
    let again = format!("look at it, and comment again: /farm approve {commit} {}", row.base);
    match of.head {
        Head::Shown { commit: shown, .. } if *shown != commit => {
            return refused(format!(
                "pull request {number} has moved on: its head is at {} by now and not at {} any more; look at that and approve it by itself",
                commit.short(),
                shown.short()
            ));
        }
        Head::Shown { base, repository, .. } if base != row.base || repository != row.head_repository => {
            return refused(format!(
                "pull request {number} is to go to {} by now, from another place than was shown; look at it anew",
                row.base
            ));
        }
        Head::Commented { begins: Some(begins), .. } if !commit.as_str().starts_with(begins) => {
            return refused(format!(
                "the comment is about {begins}, and the head of pull request {number} is at {}; comment again",
                commit.short()
            ));
        }
        Head::Commented { base: Some(base), .. } if base != row.base => {
            return refused(format!(
                "the comment is about a head for branch {base}, and pull request {number} is to go to {}; {again}",
                row.base
            ));
        }
        // What has been elsewhere, or was closed, meanwhile is to be approved by itself, though it is as it was.
        Head::Commented { sequence, .. } if row.sequence > sequence => {
            return refused(format!(
                "pull request {number} has moved on since the comment was written; {again}"
            ));
        }
        // Who names a head in full means that one, but may have seen it on its way to another branch.
        Head::Commented { begins, base: None, received_at, .. }
            if begins == Some(commit.as_str()) && row.based_at + SEEN > received_at =>
        {
            return refused(format!(
                "within the {} minutes before the comment came, pull request {number} was opened or is to go to another branch, so who has \
                 written it may have seen it for another one; {again}",
                SEEN.as_secs() / 60
            ));
        }
        // What its author has seen nobody knows otherwise: two commits whose names begin in the same way are made in a moment.
        Head::Commented { begins, at, received_at, .. } if begins != Some(commit.as_str()) => {
            let Some((moved, written)) = row.at.zip(at) else {
                return refused(format!(
                    "its forge doesn't say when pull request {number} was changed, or the comment was written, so who has written it may have \
                     seen another head; {again}"
                ));
            };
            if moved >= written {
                return refused(format!(
                    "pull request {number} has moved on since the comment was written; {again}"
                ));
            }
            // The forge's word, and what the farm has seen: either may be late.
            if moved + SEEN > written || row.moved_at + SEEN > received_at {
                return refused(format!(
                    "pull request {number} was changed within the {} minutes before the comment was written, so who has written it may have \
                     seen another head; {again}",
                    SEEN.as_secs() / 60
                ));
            }
        }
        Head::Shown { .. } | Head::Commented { .. } => {}
    }
    Ok(Row { commit, base: row.base, repository: row.head_repository })
}

/// By whom a head is approved, if an approval of it counts.
async fn given(tx: &mut Tx, of: &Approval<'_>, row: &Row) -> Result<Option<String>> {
    let by = sqlx::query_scalar!(
        "SELECT approved_by FROM fork_approvals
         WHERE project_id = $1 AND hook_id = $2 AND number = $3 AND commit_id = $4 AND base = $5 AND head_repository = $6
           AND ended_at IS NULL AND (used_at IS NOT NULL OR approved_at > farm_now() - make_interval(secs => $7))",
        of.project.as_uuid(),
        of.hook.as_uuid(),
        number(of.number)?,
        row.commit.as_str(),
        row.base,
        row.repository,
        UNUSED.as_secs_f64()
    );
    Ok(by.fetch_optional(&mut **tx).await?)
}

/// Has a delivery go on by the approval that counts when an image of it is submitted: that is used from now on.
///
/// # Errors
/// [`StoreError::Stale`] of [`UNAPPROVED`]: none does any more.
pub(crate) async fn use_approval(tx: &mut Tx, project: Uuid, of: &OfDelivery) -> Result<()> {
    let (hook, id) = (of.hook.as_uuid(), &of.delivery);
    let is_begun = sqlx::query_scalar!(
        "SELECT true FROM fork_deliveries WHERE project_id = $1 AND hook_id = $2 AND delivery_id = $3 AND run = $4 AND approved_by IS NOT NULL",
        project,
        hook,
        id,
        of.run
    );
    if is_begun.fetch_optional(&mut **tx).await?.is_some() {
        return Ok(());
    }
    let used = sqlx::query_scalar!(
        "UPDATE fork_approvals a SET used_at = coalesce(a.used_at, farm_now()) FROM fork_deliveries f
         WHERE f.project_id = $1 AND f.hook_id = $2 AND f.delivery_id = $3 AND f.run = $4
           AND a.project_id = f.project_id AND a.hook_id = f.hook_id AND a.number = f.number AND a.commit_id = f.commit_id
           AND a.base = f.base AND a.head_repository = f.head_repository
           AND a.ended_at IS NULL AND (a.used_at IS NOT NULL OR a.approved_at > farm_now() - make_interval(secs => $5))
         RETURNING a.approved_by",
        project,
        hook,
        id,
        of.run,
        UNUSED.as_secs_f64()
    );
    let by = used.fetch_optional(&mut **tx).await?.ok_or(StoreError::Stale(UNAPPROVED))?;
    sqlx::query!(
        "UPDATE fork_deliveries SET approved_by = $5, approved_at = farm_now()
         WHERE project_id = $1 AND hook_id = $2 AND delivery_id = $3 AND run = $4",
        project,
        hook,
        id,
        of.run,
        by
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl Store {
    /// Whether an approval may be given, before anybody is asked who gives it; `Some`: it is already, and by whom.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: why not, and what to do. Or the database can't be reached.
    pub async fn may_be_approved(&self, of: &Approval<'_>) -> Result<Option<Approved>> {
        let mut tx = self.begin().await?;
        let row = fit_for(&mut tx, of).await?;
        let by = given(&mut tx, of, &row).await?;
        Ok(by.map(|by| Approved { commit: row.commit, by, is_again: true }))
    }

    /// Approves a head: deliveries that wait for that go on. Approving it twice is no error.
    ///
    /// # Errors
    /// As of [`Self::may_be_approved`]; [`StoreError::Older`]: older coordinators run, which would do the wrong thing with it.
    pub async fn approve(&self, by: &By, of: &Approval<'_>) -> Result<Approved> {
        let (project, hook, number) = (of.project.as_uuid(), of.hook.as_uuid(), number(of.number)?);
        let mut tx = self.begin().await?;
        let row = fit_for(&mut tx, of).await?;
        if let Some(by) = given(&mut tx, of, &row).await? {
            return Ok(Approved { commit: row.commit, by, is_again: true });
        }
        // They would have nothing follow from it, or give it to any worker. Before the first one they do no harm.
        shut_out(&mut tx, SCHEMA, "pull requests of forks").await?;
        sqlx::query!(
            "INSERT INTO fork_approvals (project_id, hook_id, number, commit_id, base, head_repository, approved_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (project_id, hook_id, number, commit_id, base, head_repository)
             DO UPDATE SET approved_by = EXCLUDED.approved_by, approved_at = farm_now(), used_at = NULL, ended_at = NULL",
            project,
            hook,
            number,
            row.commit.as_str(),
            row.base,
            row.repository,
            by.name
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "UPDATE deliveries d SET due_at = farm_now() FROM fork_deliveries f
             WHERE f.project_id = $1 AND f.hook_id = $2 AND f.number = $3 AND f.held_at IS NOT NULL
               AND d.project_id = f.project_id AND d.hook_id = f.hook_id AND d.id = f.delivery_id
               AND d.state = 'received' AND d.due_at > farm_now()",
            project,
            hook,
            number
        )
        .execute(&mut *tx)
        .await?;
        let name =
            sqlx::query_scalar!("SELECT name FROM hooks WHERE project_id = $1 AND id = $2", project, hook)
                .fetch_one(&mut *tx)
                .await?;
        let detail = json!({
            "pull_request": of.number,
            "commit": row.commit.as_str(),
            "base": row.base,
            "head_repository": row.repository,
            "by_comment": matches!(of.head, Head::Commented { .. }),
        });
        by.did(&mut tx, Deed { project: Some(of.project), action: "fork.approve", subject: &name, detail })
            .await?;
        tx.commit().await?;
        Ok(Approved { commit: row.commit, by: by.name.clone(), is_again: false })
    }

    /// What a build waits for; `None`: it is no fetch of rules for a fork's pull request, or what it is about was forgotten.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn waits_for_approval(&self, project: ProjectId, build: BuildId) -> Result<Option<Waits>> {
        let row = sqlx::query!(
            "SELECT f.hook_id, h.name, h.full_name, f.delivery_id, f.number, f.commit_id, f.base, f.head, f.head_repository, f.head_name,
                    f.opener_id, f.opener, f.images, f.held_at, f.approved_by, f.approved_at, d.state, d.reason,
                    p.commit_id AS newest, p.is_open
             FROM hook_builds b
             JOIN fork_deliveries f ON f.project_id = b.project_id AND f.hook_id = b.hook_id AND f.delivery_id = b.delivery_id
               AND f.run = b.run
             JOIN deliveries d ON d.project_id = f.project_id AND d.hook_id = f.hook_id AND d.id = f.delivery_id
             JOIN hooks h ON h.project_id = f.project_id AND h.id = f.hook_id
             JOIN pull_requests p ON p.project_id = f.project_id AND p.hook_id = f.hook_id AND p.number = f.number
             WHERE b.project_id = $1 AND b.build_id = $2 AND b.kind = 'rules'",
            project.as_uuid(),
            build.as_uuid()
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let mut approved = row.approved_by.zip(row.approved_at);
        if approved.is_none() {
            // It is approved, and goes on in a moment.
            let given = sqlx::query!(
                "SELECT approved_by, approved_at FROM fork_approvals
                 WHERE project_id = $1 AND hook_id = $2 AND number = $3 AND commit_id = $4 AND base = $5 AND head_repository = $6
                   AND ended_at IS NULL AND (used_at IS NOT NULL OR approved_at > farm_now() - make_interval(secs => $7))",
                project.as_uuid(),
                row.hook_id,
                row.number,
                row.commit_id,
                row.base,
                row.head_repository,
                UNUSED.as_secs_f64()
            )
            .fetch_optional(&self.pool)
            .await?;
            approved = given.map(|given| (given.approved_by, given.approved_at));
        }
        let over = match (row.state.as_str(), row.is_open) {
            ("received", true) => String::new(),
            ("received", false) => "the pull request is closed".to_owned(),
            (_, _) if row.reason.is_empty() => "it is done".to_owned(),
            (_, _) => row.reason,
        };
        Ok(Some(Waits {
            hook: row.hook_id.into(),
            hook_name: row.name,
            repository: row.full_name,
            delivery: row.delivery_id,
            number: fit(row.number)?,
            commit: state(&row.commit_id)?,
            base: row.base,
            head: row.head,
            head_repository: (row.head_repository, row.head_name),
            opener: (row.opener_id, row.opener),
            images: row.images,
            held_at: row.held_at,
            approved,
            over,
            newest: state(&row.newest)?,
        }))
    }
}
