//! What looks find: held against what was seen ([`farm_core::hooks`]), noted, and made up for; and how a look ends that says nothing.

use std::collections::BTreeMap;

use farm_core::hooks::{Head, Missed, Seen};
use farm_types::{Commit, HookId, ProjectId, RefName};

use super::deliveries::Waiting;
use super::looks::{Look, LookEnd};
use super::own::{NewOwn, is_own, make};
use crate::machines::leader::Epoch;
use crate::proof::LeaderTx;
use crate::{Result, Store, StoreError, state};

fn commit(text: Option<String>) -> Result<Option<Commit>> {
    text.as_deref().map(state).transpose()
}

impl Store {
    /// What a look is held against, as it is now; and the commit by which the farm knows the repository best: the one that its default
    /// branch was at last, else another branch or tag.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn seen(&self, look: &Look) -> Result<(Seen, Option<Commit>)> {
        let (project, hook) = (look.project.as_uuid(), look.hook.as_uuid());
        let (own, listed_to) = ("sweep ", self.listed_to(look).await?);
        // What else speaks of a ref says nothing of where it was moved, and what has its place is seen by that.
        let waiting = sqlx::query_scalar!(
            "SELECT DISTINCT CASE WHEN own IS NULL THEN pushes ELSE substr(own, length($3) + 1) END FROM deliveries
             WHERE project_id = $1 AND hook_id = $2 AND state = 'received' AND order_key IS NULL
               AND (own IS NULL AND pushes IS DISTINCT FROM '' OR starts_with(own, $3))",
            project,
            hook,
            own
        )
        .fetch_all(&self.pool)
        .await?;
        // After what waits: what got its place meanwhile is seen in one of the two at least.
        let rows = sqlx::query!(
            r#"SELECT git_ref, sequence, placed, listed, (gone_at IS NOT NULL) AS "is_gone!" FROM ref_heads
               WHERE project_id = $1 AND hook_id = $2 AND (git_ref LIKE 'refs/heads/%' OR git_ref LIKE 'refs/tags/%')
               ORDER BY git_ref = coalesce('refs/heads/' || $3::text, '') DESC, seen_at DESC, git_ref"#,
            project,
            hook,
            look.default_branch
        )
        .fetch_all(&self.pool)
        .await?;
        let mut heads: BTreeMap<RefName, Head> = BTreeMap::new();
        let mut best = None;
        for row in rows {
            let head = Head {
                sequence: row.sequence,
                placed: commit(row.placed)?,
                listed: commit(row.listed)?,
                is_gone: row.is_gone,
            };
            // What a look has found there is newer.
            best = best.or_else(|| head.listed.clone()).or_else(|| head.placed.clone());
            heads.insert(state(&row.git_ref)?, head);
        }
        let has_unread = waiting.iter().any(Option::is_none);
        let waiting = waiting.iter().flatten().map(|name| state(name)).collect::<Result<_>>()?;
        let (after, is_first) = (look.after, look.is_first);
        Ok((Seen { heads, after, waiting, has_unread, is_first, listed_to }, best))
    }

    async fn listed_to(&self, look: &Look) -> Result<Option<RefName>> {
        let name = sqlx::query_scalar!(
            "SELECT listed_to FROM hook_looks WHERE project_id = $1 AND hook_id = $2",
            look.project.as_uuid(),
            look.hook.as_uuid()
        );
        name.fetch_optional(&self.pool).await?.flatten().as_deref().map(state).transpose()
    }

    /// Ends a look that says nothing.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: it is over. Or another coordinator leads.
    pub async fn end_look(&self, epoch: Epoch, look: &Look, end: &LookEnd) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        over(&mut tx, look, end, false).await?;
        tx.commit().await
    }

    /// Ends a look of whose list the farm knows nothing: the next one is to look through the history, too.
    ///
    /// # Errors
    /// As of [`Self::end_look`].
    pub async fn doubt_look(&self, epoch: Epoch, look: &Look, end: &LookEnd) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        over(&mut tx, look, end, false).await?;
        sqlx::query!(
            "UPDATE hook_looks SET is_doubted = true WHERE project_id = $1 AND hook_id = $2",
            look.project.as_uuid(),
            look.hook.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// Ends a look that has found that the hook's repository is another one: until a signed delivery says otherwise nothing is done for
    /// the hook of the farm's own accord.
    ///
    /// # Errors
    /// As of [`Self::end_look`].
    pub async fn stray(&self, epoch: Epoch, look: &Look, why: &str, end: &LookEnd) -> Result<()> {
        let (project, hook) = (look.project.as_uuid(), look.hook.as_uuid());
        let mut tx = self.begin_leading(epoch).await?;
        // A delivery that came since the look began knows better.
        sqlx::query!(
            "UPDATE hooks h SET strayed = $3 WHERE h.project_id = $1 AND h.id = $2 AND h.strayed = '' AND NOT EXISTS (
                SELECT FROM deliveries d WHERE d.project_id = $1 AND d.hook_id = $2 AND d.own IS NULL AND d.sequence > $4)",
            project,
            hook,
            why,
            look.after
        )
        .execute(&mut *tx)
        .await?;
        over(&mut tx, look, end, false).await?;
        // It isn't known to be the hook's any more.
        sqlx::query!(
            "UPDATE hook_looks SET fine_at = NULL, is_doubted = true WHERE project_id = $1 AND hook_id = $2",
            project,
            hook
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// Takes what a look has found: notes where refs are, makes what was missed up, and ends the look.
    ///
    /// # Errors
    /// As of [`Self::end_look`], and if the hook was removed or set meanwhile; [`StoreError::Older`]: an older coordinator runs.
    pub async fn take_look(
        &self,
        epoch: Epoch,
        look: &Look,
        (missed, made): (&Missed, &[NewOwn]),
        default_branch: Option<&str>,
        end: &LookEnd,
    ) -> Result<()> {
        let (project, hook) = (look.project.as_uuid(), look.hook.as_uuid());
        let mut tx = self.begin_leading(epoch).await?;
        is_own(&mut tx, (look.project, look.hook), !made.is_empty()).await?;
        over(&mut tx, look, end, true).await?;
        let listed_to = missed.listed_to.as_ref().map(RefName::as_str);
        sqlx::query!(
            "UPDATE hook_looks SET listed_to = $3 WHERE project_id = $1 AND hook_id = $2",
            project,
            hook,
            listed_to
        )
        .execute(&mut *tx)
        .await?;
        let names: Vec<String> = missed.noted.keys().map(ToString::to_string).collect();
        let commits: Vec<String> = missed.noted.values().map(ToString::to_string).collect();
        sqlx::query!(
            "INSERT INTO ref_heads AS r (project_id, hook_id, git_ref, sequence, commit_id, listed)
             SELECT $1, $2, said.name, 0, said.at, said.at FROM unnest($3::text[], $4::text[]) AS said (name, at)
             ON CONFLICT (project_id, hook_id, git_ref) DO UPDATE SET listed = EXCLUDED.listed, gone_at = NULL,
                commit_id = coalesce(r.commit_id, EXCLUDED.commit_id), seen_at = farm_now()",
            project,
            hook,
            &names,
            &commits
        )
        .execute(&mut *tx)
        .await?;
        let gone: Vec<String> = missed.gone.iter().map(ToString::to_string).collect();
        sqlx::query!(
            "UPDATE ref_heads SET gone_at = farm_now()
             WHERE project_id = $1 AND hook_id = $2 AND git_ref = ANY($3) AND gone_at IS NULL",
            project,
            hook,
            &gone
        )
        .execute(&mut *tx)
        .await?;
        if let Some(branch) = default_branch {
            named(&mut tx, (look.project, look.hook), branch, look.after).await?;
        }
        for new in made {
            make(&mut tx, look.project, look.hook, new).await?;
        }
        tx.commit().await
    }

    /// Notes which branch is a repository's default one, by a delivery, unless a later one has said it.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn note_default_branch(&self, epoch: Epoch, of: &Waiting, branch: &str) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        named(&mut tx, (of.project, of.hook), branch, of.sequence).await?;
        tx.commit().await
    }
}

/// Notes which branch is a repository's default one, by what came at this place among deliveries.
async fn named(tx: &mut LeaderTx, (project, hook): (ProjectId, HookId), branch: &str, at: i64) -> Result<()> {
    sqlx::query!(
        "UPDATE hooks SET default_branch = $3, default_branch_at = $4
         WHERE project_id = $1 AND id = $2 AND default_branch_at <= $4
           AND (default_branch, default_branch_at) IS DISTINCT FROM ($3, $4)",
        project.as_uuid(),
        hook.as_uuid(),
        branch,
        at
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Ends a look. What its build has brought was read, or is of no use, and is long.
async fn over(tx: &mut LeaderTx, look: &Look, end: &LookEnd, has_looked: bool) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE hook_looks SET begun_at = NULL, build_id = NULL, due_at = farm_now() + make_interval(secs => $4), ended_at = farm_now(),
            result = $5, is_trouble = $6, tries = CASE WHEN $6 THEN tries + 1 ELSE 0 END,
            looked_at = CASE WHEN $7 THEN farm_now() ELSE looked_at END, fine_at = CASE WHEN $7 THEN farm_now() ELSE fine_at END,
            is_doubted = is_doubted AND NOT $7
         WHERE project_id = $1 AND hook_id = $2 AND looks = $3 AND begun_at IS NOT NULL",
        look.project.as_uuid(),
        look.hook.as_uuid(),
        look.number,
        end.wait.as_secs_f64(),
        end.result,
        end.is_trouble,
        has_looked
    )
    .execute(&mut **tx)
    .await?;
    if done.rows_affected() != 1 {
        return Err(StoreError::Stale("the look"));
    }
    if let Some(build) = look.build {
        sqlx::query!(
            "UPDATE jobs SET result = result #- '{fetched,refs}' WHERE project_id = $1 AND result IS NOT NULL
               AND execution_id = (SELECT execution_id FROM builds WHERE project_id = $1 AND id = $2 AND look)",
            look.project.as_uuid(),
            build.as_uuid()
        )
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}
