//! What was pushed to registries for builds that came to nothing, and taking it out again.
//!
//! Garbage is what was pushed for builds that failed, were cancelled, or whose every tag in that repository was newer
//! already, once they have been final for a while, unless something that was published needs the same bytes. What was
//! published stays, also when its tags have moved on: people deploy by digest.
//!
//! Bytes are named by their digest, so a build that runs may be about to push, or find there, the very bytes that are
//! being removed. Therefore a repository is cleaned only while no attempt runs that pushes there, and none begins
//! until that is over ([`Store::begin_cleaning`], the scheduler's and the lease's look at `cleanings`). What builds that are
//! under way have pushed already, or took over, is in use ([`Cleaning::in_use`]). Where there is always an attempt, after a
//! while none is begun any more, so that those that run come to their end ([`BUSY`], [`DRAIN`]).

use std::collections::BTreeMap;
use std::time::Duration;

use farm_types::{Digest, ProjectId, Repository};

use crate::machines::leader::Epoch;
use crate::pool::Session;
use crate::proof::LeaderTx;
use crate::unreadable::readable;
use crate::work::attempts::Lease;
use crate::{Result, Store, StoreError, Tx, digest, state};

/// A repository that is being cleaned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaning {
    /// Which.
    pub repository: Repository,
    /// What nothing that was published needs, as far as farm knows.
    pub garbage: Vec<Digest>,
    /// For whose builds each of these was pushed.
    pub pushed_for: BTreeMap<Digest, Vec<ProjectId>>,
    /// What builds under way have pushed there, or have put there: it stays with all that it lists, and so does what lists
    /// one of these, as it may be put once more.
    pub in_use: Vec<Digest>,
}

/// A repository that was never without an attempt at any look for so long is not given new ones for [`DRAIN`].
const BUSY: Duration = Duration::from_secs(6 * 3600);
/// So long at most; then it is for the next time.
const DRAIN: Duration = Duration::from_secs(15 * 60);
/// How often it is looked meanwhile whether the last attempt has ended.
const DRAIN_LOOK: Duration = Duration::from_secs(30);

/// How a cleaning ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// These are not there any more.
    pub removed: Vec<Digest>,
    /// These are needed by something that farm didn't know of, and stay.
    pub needed: Vec<Digest>,
    /// These stay since there is no login any more by which they could be removed.
    pub left: Vec<Digest>,
    /// Why the rest is still there; empty when there is no rest.
    pub trouble: String,
}

impl Store {
    /// Repositories, at most `limit`, in which there may be garbage of builds that have been final for `after`.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn due_cleanings(&self, after: Duration, limit: i64) -> Result<Vec<Repository>> {
        let rows = sqlx::query!(
            r#"SELECT registry AS "registry!", repository AS "repository!" FROM (
                   SELECT DISTINCT d.registry, d.repository FROM pushed_digests d
                   WHERE d.fate IS NULL AND d.pushed_at < farm_now() - make_interval(secs => $1)
                     -- What is in the staging registry goes sooner (staging.rs).
                     AND d.repository <> d.project_id::text || '/' || d.attempt_id::text
                 UNION
                   SELECT DISTINCT d.registry, d.repository FROM destinations d
                   WHERE d.fate IS NULL AND d.settled_at < farm_now() - make_interval(secs => $1)) undecided
               WHERE NOT EXISTS (
                   SELECT FROM cleanings c WHERE c.registry = undecided.registry
                   AND c.repository = undecided.repository AND c.next_at > farm_now())
               ORDER BY 1, 2 LIMIT $2"#,
            after.as_secs_f64(),
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        let named = rows.into_iter().filter_map(|row| {
            let read = repository(&row.registry, &row.repository);
            readable("a repository", format!("{}/{}", row.registry, row.repository), read)
        });
        Ok(named.collect())
    }

    /// Decides what in a repository is garbage, and keeps attempts that would push there from beginning for `lasts`.
    /// `None`: an attempt is under way there, or there is nothing to remove; it is looked at again after `again`.
    ///
    /// # Errors
    /// [`StoreError::NotLeading`] when another coordinator leads.
    pub async fn begin_cleaning(
        &self,
        epoch: Epoch,
        at: &Repository,
        after: Duration,
        lasts: Duration,
        again: Duration,
    ) -> Result<Option<Cleaning>> {
        if !self.close_door(epoch, at, lasts, again).await? {
            return Ok(None);
        }
        // What takes long comes now: nothing waits for this transaction, and the door is closed by a row.
        let mut tx = self.begin_leading(epoch).await?;
        self.keep_published(&mut tx, at).await?;
        let in_use = in_use(&mut tx, at).await?;
        let mut pushed_for = self.garbage(&mut tx, at, after).await?;
        pushed_for.retain(|digest, _| !in_use.contains(digest));
        let garbage: Vec<Digest> = pushed_for.keys().copied().collect();
        if garbage.is_empty() {
            sqlx::query!(
                "UPDATE cleanings SET until = farm_now() WHERE registry = $1 AND repository = $2",
                at.registry(),
                at.name()
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok((!garbage.is_empty()).then(|| Cleaning { repository: at.clone(), garbage, pushed_for, in_use }))
    }

    /// Keeps attempts that would push there from beginning, if none is under way; says whether.
    async fn close_door(
        &self,
        epoch: Epoch,
        at: &Repository,
        lasts: Duration,
        again: Duration,
    ) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        // Whoever leases or takes results over for this repository holds it too: they are before this, and seen, or
        // after it, and see it. So as little as possible is asked until the end.
        sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))::text", at.to_string())
            .fetch_one(&mut *tx)
            .await?;
        let busy = is_busy(&mut tx, at).await?;
        if busy {
            sqlx::query!(
                "INSERT INTO cleanings AS c (registry, repository, until, next_at, busy_since)
                 VALUES ($1, $2, farm_now(), farm_now() + make_interval(secs => $3), farm_now())
                 ON CONFLICT (registry, repository) DO UPDATE SET
                    busy_since = CASE WHEN c.drains_until <= farm_now() THEN farm_now()
                                      ELSE coalesce(c.busy_since, farm_now()) END,
                    drains_until = CASE
                        WHEN c.drains_until > farm_now() THEN c.drains_until
                        WHEN c.drains_until IS NULL AND c.busy_since < farm_now() - make_interval(secs => $4)
                        THEN farm_now() + make_interval(secs => $5) END",
                at.registry(),
                at.name(),
                again.as_secs_f64(),
                BUSY.as_secs_f64(),
                DRAIN.as_secs_f64()
            )
            .execute(&mut *tx)
            .await?;
            sqlx::query!(
                "UPDATE cleanings SET until = coalesce(drains_until, farm_now()), next_at = farm_now()
                    + make_interval(secs => CASE WHEN drains_until IS NULL THEN $3::float8 ELSE $4 END)
                 WHERE registry = $1 AND repository = $2",
                at.registry(),
                at.name(),
                again.as_secs_f64(),
                DRAIN_LOOK.as_secs_f64()
            )
            .execute(&mut *tx)
            .await?;
        } else {
            sqlx::query!(
                "INSERT INTO cleanings (registry, repository, until, next_at)
                 VALUES ($1, $2, farm_now() + make_interval(secs => $3), farm_now() + make_interval(secs => $4))
                 ON CONFLICT (registry, repository) DO UPDATE SET until = EXCLUDED.until,
                    next_at = EXCLUDED.next_at, trouble = '', busy_since = NULL, drains_until = NULL",
                at.registry(),
                at.name(),
                lasts.as_secs_f64(),
                again.as_secs_f64()
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(!busy)
    }

    /// Notes of all that was published in this repository, or belongs to a build that was, that it stays.
    async fn keep_published(&self, tx: &mut LeaderTx, at: &Repository) -> Result<()> {
        sqlx::query!(
            "UPDATE destinations d SET fate = 'kept' WHERE d.registry = $1 AND d.repository = $2 AND d.fate IS NULL
               AND d.state <> 'pending' AND EXISTS (
                   SELECT FROM tags t WHERE t.project_id = d.project_id AND t.publication_id = d.publication_id
                   AND t.registry = d.registry AND t.repository = d.repository
                   AND t.state IN ('wanted', 'put', 'verified'))",
            at.registry(),
            at.name()
        )
        .execute(&mut **tx)
        .await?;
        sqlx::query!(
            "UPDATE pushed_digests p SET fate = 'kept' WHERE p.registry = $1 AND p.repository = $2 AND p.fate IS NULL
               AND (farm_published($1, $2, p.digest)
                OR EXISTS (
                   SELECT FROM attempts a JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
                   JOIN builds b ON b.project_id = j.project_id AND b.execution_id = j.execution_id
                   JOIN publications u ON u.project_id = b.project_id AND u.build_id = b.id
                   JOIN destinations d ON d.project_id = u.project_id AND d.publication_id = u.id
                   WHERE a.project_id = p.project_id AND a.id = p.attempt_id
                   AND d.registry = $1 AND d.repository = $2 AND d.fate = 'kept'))",
            at.registry(),
            at.name()
        )
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    /// What is undecided once the published is kept, of builds that have been final for `after`.
    async fn garbage(
        &self,
        tx: &mut LeaderTx,
        at: &Repository,
        after: Duration,
    ) -> Result<BTreeMap<Digest, Vec<ProjectId>>> {
        let rows = sqlx::query!(
            r#"SELECT digest AS "digest!", project_id AS "project!" FROM (
                   SELECT p.digest, p.project_id FROM pushed_digests p
                   WHERE p.registry = $1 AND p.repository = $2 AND p.fate IS NULL AND NOT EXISTS (
                       SELECT FROM attempts a JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
                       JOIN builds b ON b.project_id = j.project_id AND b.execution_id = j.execution_id
                       WHERE a.project_id = p.project_id AND a.id = p.attempt_id
                       AND (b.finished_at IS NULL OR b.finished_at > farm_now() - make_interval(secs => $3)))
                 UNION
                   SELECT u.index_digest, u.project_id FROM destinations d
                   JOIN publications u ON u.project_id = d.project_id AND u.id = d.publication_id
                   JOIN builds b ON b.project_id = u.project_id AND b.id = u.build_id
                   WHERE d.registry = $1 AND d.repository = $2 AND d.fate IS NULL AND d.state <> 'pending'
                   AND b.finished_at < farm_now() - make_interval(secs => $3)) undecided
               WHERE NOT farm_published($1, $2, undecided.digest)
               ORDER BY 1, 2"#,
            at.registry(),
            at.name(),
            after.as_secs_f64()
        )
        .fetch_all(&mut **tx)
        .await?;
        let mut pushed_for: BTreeMap<Digest, Vec<ProjectId>> = BTreeMap::new();
        for row in rows {
            pushed_for.entry(digest(&row.digest)?).or_default().push(row.project.into());
        }
        Ok(pushed_for)
    }

    /// Notes what an attempt has pushed that will fail all the same. That its lease has ended is no error: then nobody notes it.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn note_pushed(
        &self,
        lease: Lease,
        repositories: &[Repository],
        digest: Digest,
        media_type: &str,
    ) -> Result<()> {
        for repository in repositories {
            sqlx::query!(
                "INSERT INTO pushed_digests (project_id, registry, repository, digest, attempt_id, media_type)
                 SELECT project_id, $3, $4, $5, id, $6 FROM attempts
                 WHERE id = $1 AND lease_token = $2 AND state IN ('offered', 'running') ON CONFLICT DO NOTHING",
                lease.attempt.as_uuid(),
                lease.token.as_uuid(),
                repository.registry(),
                repository.name(),
                &digest.as_bytes()[..],
                media_type
            )
            .execute(&self.pool)
            .await?;
        }
        Ok(())
    }

    /// Which of these something needs that was published in the repository, as far as farm knows.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn needed(&self, at: &Repository, of: &[Digest]) -> Result<Vec<Digest>> {
        let of: Vec<Vec<u8>> = of.iter().map(|digest| digest.as_bytes().to_vec()).collect();
        let rows = sqlx::query_scalar!(
            r#"SELECT asked.digest AS "digest!" FROM unnest($3::bytea[]) AS asked (digest)
               WHERE farm_published($1, $2, asked.digest)"#,
            at.registry(),
            at.name(),
            &of
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|bytes| digest(bytes)).collect()
    }

    /// Notes how a cleaning ended; attempts that push there may begin again, and it is looked at again after `again`.
    ///
    /// # Errors
    /// [`StoreError::NotLeading`] when another coordinator leads; [`StoreError::Stale`] when the cleaning's time is over: then
    /// somebody decides anew.
    pub async fn end_cleaning(
        &self,
        epoch: Epoch,
        at: &Repository,
        ended: &Cleaned,
        again: Duration,
    ) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let over = sqlx::query!(
            "UPDATE cleanings SET until = farm_now(), next_at = farm_now() + make_interval(secs => $3), trouble = $4
             WHERE registry = $1 AND repository = $2 AND until > farm_now()",
            at.registry(),
            at.name(),
            again.as_secs_f64(),
            ended.trouble
        )
        .execute(&mut *tx)
        .await?;
        if over.rows_affected() != 1 {
            return Err(StoreError::Stale("the cleaning's time is over"));
        }
        for (fate, digests) in [("removed", &ended.removed), ("kept", &ended.needed), ("kept", &ended.left)] {
            let digests: Vec<Vec<u8>> = digests.iter().map(|digest| digest.as_bytes().to_vec()).collect();
            sqlx::query!(
                "UPDATE pushed_digests SET fate = $4
                 WHERE registry = $1 AND repository = $2 AND digest = ANY($3) AND fate IS NULL",
                at.registry(),
                at.name(),
                &digests,
                fate
            )
            .execute(&mut *tx)
            .await?;
            sqlx::query!(
                "UPDATE destinations d SET fate = $4 FROM publications u
                 WHERE d.registry = $1 AND d.repository = $2 AND d.fate IS NULL AND d.state <> 'pending'
                   AND u.project_id = d.project_id AND u.id = d.publication_id AND u.index_digest = ANY($3)",
                at.registry(),
                at.name(),
                &digests,
                fate
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// Whether something is under way that pushes to this repository, or looks there for what is.
pub(super) async fn is_busy(tx: &mut Session, at: &Repository) -> Result<bool> {
    let busy = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM attempts a JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
               JOIN executions e ON e.project_id = j.project_id AND e.id = j.execution_id
               WHERE a.state IN ('offered', 'running') AND $1 = ANY(e.repositories))
           -- What is copied there is looked for there before.
           OR EXISTS (
               SELECT FROM builds b JOIN executions e ON e.project_id = b.project_id AND e.id = b.execution_id
               JOIN jobs j ON j.project_id = e.project_id AND j.execution_id = e.id
               JOIN attempts a ON a.project_id = j.project_id AND a.job_id = j.id
               WHERE b.state = 'publishing' AND $1 = ANY(e.repositories) AND a.staged)
           OR EXISTS (
               SELECT FROM builds b JOIN executions e ON e.project_id = b.project_id AND e.id = b.execution_id
               WHERE b.state = 'publishing' AND $1 = ANY(e.repositories) AND b.spec #> '{purpose,copy}' IS NOT NULL) AS "busy!""#,
        at.to_string()
    )
    .fetch_one(tx)
    .await?;
    Ok(busy)
}

/// What builds that are under way need of what is in this repository: the results of their jobs, and what was merged of
/// them. While the door is closed no result comes in.
pub(super) async fn in_use(tx: &mut Session, at: &Repository) -> Result<Vec<Digest>> {
    let words = sqlx::query_scalar!(
        r#"SELECT word AS "word!" FROM (
               SELECT j.result ->> 'digest' AS word FROM builds b
               JOIN executions e ON e.project_id = b.project_id AND e.id = b.execution_id
               JOIN jobs j ON j.project_id = e.project_id AND j.execution_id = e.id
               WHERE b.finished_at IS NULL AND $1 = ANY(e.repositories)
             UNION
               SELECT 'sha256:' || encode(u.index_digest, 'hex') FROM builds b
               JOIN executions e ON e.project_id = b.project_id AND e.id = b.execution_id
               JOIN publications u ON u.project_id = b.project_id AND u.build_id = b.id
               WHERE b.finished_at IS NULL AND $1 = ANY(e.repositories)) used
           WHERE word IS NOT NULL"#,
        at.to_string()
    )
    .fetch_all(tx)
    .await?;
    words.iter().map(|word| state(word)).collect()
}

/// Refuses while a repository of the execution is being cleaned, and keeps cleanings from beginning until the
/// transaction's end.
pub(crate) async fn hold_off_cleanings(tx: &mut Tx, repositories: &[String]) -> Result<()> {
    if repositories.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "SELECT pg_advisory_xact_lock_shared(hashtextextended(name, 0))::text FROM unnest($1::text[]) AS name",
        repositories
    )
    .fetch_all(&mut **tx)
    .await?;
    // A statement of its own, so that it sees what was committed while the one before waited.
    let cleaned = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM cleanings
                          WHERE registry || '/' || repository = ANY($1) AND until > farm_now()) AS "cleaned!""#,
        repositories
    )
    .fetch_one(&mut **tx)
    .await?;
    if cleaned { Err(StoreError::Stale("its repository is being cleaned")) } else { Ok(()) }
}

fn repository(registry: &str, name: &str) -> Result<Repository> {
    state(&format!("{registry}/{name}"))
}
