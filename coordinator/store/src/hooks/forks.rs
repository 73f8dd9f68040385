//! Pull requests of forks: what deliveries propose, and what of that waits until somebody approves it ([`super::approvals`]).
//!
//! Invariant: what is approved is one head commit, for one base, from one repository, as the newest delivery about the pull request has
//! it. Whoever notes that a pull request has moved, asks whether it is approved, or approves holds the pull request's row meanwhile, so
//! none of them is overtaken.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::{Commit, HookId};

use super::deliveries::{HELD, Waiting};
use crate::machines::leader::Epoch;
use crate::{Result, Store, StoreError, Tx};

/// The schema from which on coordinators know of pull requests of forks. Older ones have nothing follow from them, which does no harm until
/// one is approved.
pub(crate) const SCHEMA: i32 = 55;
/// So many deliveries of a hook about forks wait at once, and so many of what one account has opened.
pub const MOST: Most = Most { of_hook: 100, of_opener: 25 };
/// An approval by which nothing was built for so long ends.
pub const UNUSED: Duration = Duration::from_secs(24 * 3600);
/// The rules of one that has waited longer are fetched anew: they may not be kept any more.
const FRESH: Duration = Duration::from_secs(20 * 3600);

/// How many deliveries about forks wait at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// Of one hook.
    pub of_hook: i64,
    /// And of these what was opened by one account.
    pub of_opener: i64,
}

/// A pull request, as a delivery has it. Names in it are whatever people chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Its number in the repository.
    pub number: u64,
    /// The commit of its head.
    pub commit: Commit,
    /// The branch that it is to go to.
    pub base: String,
    /// The branch that it comes from.
    pub head: String,
    /// The repository of that, by its forge's id; empty: nobody says.
    pub head_repository: String,
    /// What that is called; empty: nobody says.
    pub head_name: String,
    /// Its head is in another repository.
    pub is_fork: bool,
    /// It isn't closed.
    pub is_open: bool,
    /// The account that has opened it, by its forge's id and by its name; empty: nobody says.
    pub opener: (String, String),
    /// When it was so, by the forge's clock.
    pub at: Option<DateTime<Utc>>,
}

/// How what a delivery proposes stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stands {
    /// Somebody has approved it.
    Approved {
        /// Who.
        by: String,
        /// Its rules were fetched so long ago that they may not be kept.
        is_stale: bool,
        /// An image of it was submitted: it goes on by that, whatever becomes of the approval.
        is_begun: bool,
    },
    /// Nobody has.
    Open,
    /// It comes to nothing any more, and why.
    Over(String),
}

pub(super) fn number(of: u64) -> Result<i64> {
    i64::try_from(of).map_err(StoreError::corrupt)
}

impl Store {
    /// Notes how a delivery has a pull request. False: a later one was about the same, by the forge's clock where it says when, and else
    /// by the order in which they came. If it has moved on or was closed, approvals of what it was end, and deliveries that wait for one look at that.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn see_proposal(&self, epoch: Epoch, of: &Waiting, proposal: &Proposal) -> Result<bool> {
        let (project, hook, number) = (of.project.as_uuid(), of.hook.as_uuid(), number(proposal.number)?);
        let mut tx = self.begin_leading(epoch).await?;
        // Each look at a delivery comes here, and nearly none has anything new.
        let known = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM pull_requests WHERE project_id = $1 AND hook_id = $2 AND number = $3 AND sequence = $4
                 AND commit_id = $5 AND base = $6 AND head_repository = $7 AND is_fork = $8 AND is_open = $9
                 AND at IS NOT DISTINCT FROM $10) AS "known!""#,
            project,
            hook,
            number,
            of.sequence,
            proposal.commit.as_str(),
            proposal.base,
            proposal.head_repository,
            proposal.is_fork,
            proposal.is_open,
            proposal.at
        )
        .fetch_one(&mut *tx)
        .await?;
        if known {
            tx.commit().await?;
            return Ok(true);
        }
        let seen = sqlx::query!(
            "INSERT INTO pull_requests (project_id, hook_id, number, sequence, commit_id, base, head_repository, is_fork, is_open, at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             ON CONFLICT (project_id, hook_id, number) DO UPDATE SET sequence = EXCLUDED.sequence, commit_id = EXCLUDED.commit_id,
                base = EXCLUDED.base, head_repository = EXCLUDED.head_repository, is_fork = EXCLUDED.is_fork,
                is_open = EXCLUDED.is_open, at = EXCLUDED.at, seen_at = farm_now(),
                moved_at = CASE WHEN (pull_requests.commit_id, pull_requests.base, pull_requests.head_repository, pull_requests.is_open)
                    = (EXCLUDED.commit_id, EXCLUDED.base, EXCLUDED.head_repository, EXCLUDED.is_open)
                    THEN pull_requests.moved_at ELSE farm_now() END
             WHERE CASE WHEN pull_requests.at IS NULL OR EXCLUDED.at IS NULL THEN pull_requests.sequence <= EXCLUDED.sequence
                ELSE (pull_requests.at, pull_requests.sequence) <= (EXCLUDED.at, EXCLUDED.sequence) END",
            project,
            hook,
            number,
            of.sequence,
            proposal.commit.as_str(),
            proposal.base,
            proposal.head_repository,
            proposal.is_fork,
            proposal.is_open,
            proposal.at
        )
        .execute(&mut *tx)
        .await?;
        if seen.rows_affected() != 1 {
            return Ok(false);
        }
        sqlx::query!(
            "UPDATE fork_approvals SET ended_at = farm_now()
             WHERE project_id = $1 AND hook_id = $2 AND number = $3 AND ended_at IS NULL
               AND NOT ($4 AND commit_id = $5 AND base = $6 AND head_repository = $7)",
            project,
            hook,
            number,
            proposal.is_open,
            proposal.commit.as_str(),
            proposal.base,
            proposal.head_repository
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "UPDATE deliveries d SET due_at = farm_now() FROM fork_deliveries f
             WHERE f.project_id = $1 AND f.hook_id = $2 AND f.number = $3 AND f.held_at IS NOT NULL
               AND d.project_id = f.project_id AND d.hook_id = f.hook_id AND d.id = f.delivery_id
               AND d.state = 'received' AND d.sequence <> $4 AND d.due_at > farm_now()",
            project,
            hook,
            number,
            of.sequence
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Notes that a delivery is about a fork's pull request. `Some`: too many wait already, in words.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: it doesn't wait any more. Or another coordinator leads.
    pub async fn note_fork(
        &self,
        epoch: Epoch,
        of: &Waiting,
        proposal: &Proposal,
        most: Most,
    ) -> Result<Option<String>> {
        let (project, hook) = (of.project.as_uuid(), of.hook.as_uuid());
        let (opener, login) = &proposal.opener;
        let mut tx = self.begin_leading(epoch).await?;
        let noted = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM deliveries d JOIN fork_deliveries f
                 ON f.project_id = d.project_id AND f.hook_id = d.hook_id AND f.delivery_id = d.id
               WHERE d.project_id = $1 AND d.hook_id = $2 AND d.id = $3 AND d.state = 'received' AND d.runs = $4 AND d.fork
                 AND f.run = d.runs) AS "noted!""#,
            project,
            hook,
            of.id,
            of.run
        )
        .fetch_one(&mut *tx)
        .await?;
        if noted {
            tx.commit().await?;
            return Ok(None);
        }
        let marked = sqlx::query!(
            "UPDATE deliveries SET fork = true WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND state = 'received' AND runs = $4",
            project,
            hook,
            of.id,
            of.run
        )
        .execute(&mut *tx)
        .await?;
        if marked.rows_affected() != 1 {
            return Err(StoreError::Stale("the delivery"));
        }
        let known = sqlx::query!(
            "UPDATE fork_deliveries SET run = $4, held_at = CASE WHEN run = $4 THEN held_at END,
                approved_by = CASE WHEN run = $4 THEN approved_by END, approved_at = CASE WHEN run = $4 THEN approved_at END
             WHERE project_id = $1 AND hook_id = $2 AND delivery_id = $3",
            project,
            hook,
            of.id,
            of.run
        )
        .execute(&mut *tx)
        .await?;
        if known.rows_affected() == 1 {
            tx.commit().await?;
            return Ok(None);
        }
        let waiting = sqlx::query!(
            r#"SELECT count(*) AS "all!", count(*) FILTER (WHERE f.opener_id = $3) AS "own!"
               FROM deliveries d JOIN fork_deliveries f
                 ON f.project_id = d.project_id AND f.hook_id = d.hook_id AND f.delivery_id = d.id
               WHERE d.project_id = $1 AND d.hook_id = $2 AND d.state = 'received'"#,
            project,
            hook,
            opener
        )
        .fetch_one(&mut *tx)
        .await?;
        let too_many = if waiting.own >= most.of_opener {
            let who = if login.is_empty() { "this account" } else { login };
            Some(format!("{} pull requests of {who} wait already", waiting.own))
        } else if waiting.all >= most.of_hook {
            Some(format!("{} pull requests of forks wait already", waiting.all))
        } else {
            None
        };
        if let Some(why) = too_many {
            tx.commit().await?;
            return Ok(Some(format!(
                "{why}, and no more are taken: approve or close some, then have this one processed again (farm hook redeliver)"
            )));
        }
        sqlx::query!(
            "INSERT INTO fork_deliveries (project_id, hook_id, delivery_id, run, number, commit_id, base, head, head_repository, head_name,
                                          opener_id, opener)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            project,
            hook,
            of.id,
            of.run,
            number(proposal.number)?,
            proposal.commit.as_str(),
            proposal.base,
            proposal.head,
            proposal.head_repository,
            proposal.head_name,
            opener,
            login
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(None)
    }

    /// How what a delivery proposes stands. Once an image of it was submitted it goes on by that, whatever becomes of the approval.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: it doesn't wait any more. Or another coordinator leads.
    pub async fn stands(&self, epoch: Epoch, of: &Waiting, proposal: &Proposal) -> Result<Stands> {
        let mut tx = self.begin_leading(epoch).await?;
        let stands = stand(tx.tx(), of, proposal).await?;
        tx.commit().await?;
        Ok(stands)
    }

    /// Has a delivery wait until somebody approves what it proposes; until then it is in nobody's way. Of one that somebody has approved
    /// meanwhile, or that has come to nothing, nothing is changed: it is looked at again at once.
    ///
    /// # Errors
    /// As of [`Self::stands`].
    pub async fn hold(
        &self,
        epoch: Epoch,
        of: &Waiting,
        proposal: &Proposal,
        (images, reason): (&[String], &str),
    ) -> Result<()> {
        let (project, hook) = (of.project.as_uuid(), of.hook.as_uuid());
        let mut tx = self.begin_leading(epoch).await?;
        let is_open = stand(tx.tx(), of, proposal).await? == Stands::Open;
        sqlx::query!(
            "UPDATE fork_deliveries SET images = $5, held_at = CASE WHEN $6 THEN coalesce(held_at, farm_now()) ELSE held_at END
             WHERE project_id = $1 AND hook_id = $2 AND delivery_id = $3 AND run = $4",
            project,
            hook,
            of.id,
            of.run,
            images,
            is_open
        )
        .execute(&mut *tx)
        .await?;
        let held = sqlx::query!(
            "UPDATE deliveries SET reason = $5, looks = false,
                due_at = CASE WHEN $6 THEN farm_now() + make_interval(secs => $7) ELSE farm_now() END
             WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND state = 'received' AND runs = $4",
            project,
            hook,
            of.id,
            of.run,
            reason,
            is_open,
            HELD.as_secs_f64()
        )
        .execute(&mut *tx)
        .await?;
        if held.rows_affected() != 1 {
            return Err(StoreError::Stale("the delivery"));
        }
        tx.commit().await
    }

    /// Has a delivery that can't go on now leave the line of its ref ([`Self::line_up`]): others about that may look meanwhile.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn step_aside(&self, epoch: Epoch, of: &Waiting) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        sqlx::query!(
            "UPDATE deliveries SET looks = false WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND state = 'received' AND runs = $4
               AND looks AND order_key IS NULL",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            of.run
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }
}

/// By which a fork's builds are known: whose caches they have.
pub fn scope(hook: HookId, number: u64) -> String {
    format!("{hook}/{number}")
}

/// Whoever asks holds the pull request's row until the transaction ends.
async fn stand(tx: &mut Tx, of: &Waiting, proposal: &Proposal) -> Result<Stands> {
    let (project, hook) = (of.project.as_uuid(), of.hook.as_uuid());
    let number = number(proposal.number)?;
    let now = sqlx::query!(
        "SELECT sequence, commit_id, base, head_repository, is_open FROM pull_requests
         WHERE project_id = $1 AND hook_id = $2 AND number = $3 FOR UPDATE",
        project,
        hook,
        number
    )
    .fetch_optional(&mut **tx)
    .await?
    .ok_or(StoreError::Stale("the pull request"))?;
    let own = sqlx::query!(
        r#"SELECT f.approved_by, coalesce(f.held_at < coalesce(f.approved_at, farm_now()) - make_interval(secs => $5), false) AS "is_stale!",
                  coalesce(f.held_at < farm_now() - make_interval(secs => $6), false) AS "is_late!"
           FROM fork_deliveries f JOIN deliveries d ON d.project_id = f.project_id AND d.hook_id = f.hook_id AND d.id = f.delivery_id
           WHERE f.project_id = $1 AND f.hook_id = $2 AND f.delivery_id = $3 AND f.run = $4 AND d.state = 'received' AND d.runs = f.run
           FOR UPDATE OF f"#,
        project,
        hook,
        of.id,
        of.run,
        FRESH.as_secs_f64(),
        // The clock that wakes it is the same, and may be a moment early.
        HELD.as_secs_f64() - 60.0
    )
    .fetch_optional(&mut **tx)
    .await?
    .ok_or(StoreError::Stale("the delivery"))?;
    if let Some(by) = own.approved_by {
        return Ok(Stands::Approved { by, is_stale: own.is_stale, is_begun: true });
    }
    if !now.is_open {
        return Ok(Stands::Over("the pull request was closed before anything of it was built".to_owned()));
    }
    if now.commit_id != proposal.commit.as_str() {
        let at = now.commit_id.get(..12).unwrap_or_default();
        return Ok(Stands::Over(format!(
            "the pull request's head has moved on to {at}, which has to be approved by itself"
        )));
    }
    // One that somebody wants once more goes on, as long as the head is the same.
    let is_other = now.sequence != of.sequence && of.run == 0;
    if is_other || now.base != proposal.base || now.head_repository != proposal.head_repository {
        return Ok(Stands::Over("a later delivery is about the same pull request".to_owned()));
    }
    let by = sqlx::query_scalar!(
        "SELECT approved_by FROM fork_approvals
         WHERE project_id = $1 AND hook_id = $2 AND number = $3 AND commit_id = $4 AND base = $5 AND head_repository = $6
           AND ended_at IS NULL AND (used_at IS NOT NULL OR approved_at > farm_now() - make_interval(secs => $7))",
        project,
        hook,
        number,
        proposal.commit.as_str(),
        proposal.base,
        proposal.head_repository,
        UNUSED.as_secs_f64()
    )
    .fetch_optional(&mut **tx)
    .await?;
    if let Some(by) = by {
        return Ok(Stands::Approved { by, is_stale: own.is_stale, is_begun: false });
    }
    if own.is_late {
        let days = HELD.as_secs() / (24 * 3600);
        return Ok(Stands::Over(format!(
            "nobody has approved it within {days} days; push again, or redeliver it"
        )));
    }
    Ok(Stands::Open)
}
