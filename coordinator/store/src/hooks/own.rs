//! What the farm delivers to itself: schedules that are due, and base images that have moved; in each case the rules of the default branch
//! have said so, when they were read last. A row like those that senders have brought, which goes the same way; that it is the farm's
//! own says `deliveries.own`, which no sender can write.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::{Commit, Digest, HookId, ImageTag, ProjectId};
use serde_json::json;
use uuid::Uuid;

use super::deliveries::Waiting;
use crate::machines::leader::Epoch;
use crate::proof::LeaderTx;
use crate::schema::shut_out;
use crate::{Result, Store, StoreError};

/// The schema from which on coordinators know of deliveries of the farm's own.
const SCHEMA: i32 = 56;
/// The kind of what makes up for pushes.
const SWEEP: &str = "sweep";
/// So many moves of images a hook builds upon within an hour at most.
const MOST_AN_HOUR: i64 = 12;

/// A delivery that the farm makes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOwn {
    /// What kind of event it is: `sweep`, `schedule`, `base_image`.
    pub event: &'static str,
    /// What of that kind: a ref, a schedule, an image.
    pub of: String,
    /// What it says, as the coordinator reads it.
    pub body: Vec<u8>,
    /// The hooks whose builds have led to it.
    pub lineage: Vec<HookId>,
    /// Of an image that has moved.
    pub root: Option<Root>,
    /// Of a push that is made up for: at which commit a look has found its ref.
    pub found: Option<Commit>,
    /// It is processed after so long.
    pub wait: Duration,
}

impl NewOwn {
    /// What it is made for, in one line.
    fn own(&self) -> String {
        format!("{} {}", self.event, self.of)
    }
}

/// By what a hook is to build upon an image that has moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The move by which all began that has led to it.
    pub id: Uuid,
    /// As which of those that its rules name the hook builds upon the image; `*`: they don't name it, and any will do.
    pub base: String,
    /// Which delivery, and which image in it, tells the hook: the same however often that is processed.
    pub told_by: Uuid,
}

/// What became of a delivery that was to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It is there, or one that is the same and wasn't begun yet.
    There,
    /// The hook has built upon this image, since what all began by, already.
    Known,
    /// The hook has built upon too many moves of images lately.
    TooMany,
    /// The hook was removed, or its repository is another one.
    Gone,
}

/// By what an image came into a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Came {
    /// The hooks whose builds have led to it, one to the other.
    pub lineage: Vec<HookId>,
    /// The move by which all began; else the build that has put it there.
    pub root: Uuid,
}

/// A schedule whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Whose.
    pub project: ProjectId,
    /// Of which hook.
    pub hook: HookId,
    /// What the hook is called.
    pub hook_name: String,
    /// The rules' own name for it.
    pub name: String,
    /// When it comes, as in crontab(5).
    pub line: String,
    /// When it was to come.
    pub next_at: DateTime<Utc>,
    /// The branch that it builds.
    pub default_branch: Option<String>,
    /// The farm does something for the hook of its own accord.
    pub is_on: bool,
    /// The farm's time.
    pub now: DateTime<Utc>,
}

/// A hook whose repository has something that is built upon an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upon {
    /// Which.
    pub hook: HookId,
    /// What people call it.
    pub name: String,
    /// The branch that is built.
    pub default_branch: String,
    /// As which of those that its rules name; `*`: they don't name it, and any will do.
    pub base: String,
}

/// What the rules of a default branch say of times and images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Planned {
    /// The name, the line, and when it comes next.
    pub schedules: Vec<(String, String, DateTime<Utc>)>,
    /// Images, by their names; `*`: all.
    pub bases: Vec<String>,
}

/// Holds a hook's row against whoever removes or sets it, or hears that its name is another repository's.
///
/// # Errors
/// [`StoreError::Stale`]: that was done; or, if it is about pushes that were `missed`, nobody wants these made up for.
pub(super) async fn is_own(
    tx: &mut LeaderTx,
    (project, hook): (ProjectId, HookId),
    missed: bool,
) -> Result<()> {
    let there = sqlx::query_scalar!(
        "SELECT id FROM hooks WHERE project_id = $1 AND id = $2 AND removed_at IS NULL AND repository_id IS NOT NULL AND strayed = ''
           AND (sweeps OR NOT $3) FOR NO KEY UPDATE",
        project.as_uuid(),
        hook.as_uuid(),
        missed
    );
    there.fetch_optional(&mut **tx).await?.map(drop).ok_or(StoreError::Stale("the hook"))
}

/// Makes a delivery. What is the same and wasn't begun yet is left as it is, if it is about an image.
///
/// # Errors
/// As of [`is_own`]; [`StoreError::Older`]: an older coordinator runs that would do the wrong thing.
pub(super) async fn make(tx: &mut LeaderTx, project: ProjectId, hook: HookId, new: &NewOwn) -> Result<Made> {
    shut_out(tx.tx(), SCHEMA, "deliveries of the farm's own").await?;
    is_own(tx, (project, hook), new.event == SWEEP).await?;
    let lineage: Vec<Uuid> = new.lineage.iter().map(|hook| hook.as_uuid()).collect();
    if let Some(root) = &new.root
        && let Some(made) = take_root(tx, (project, hook), (new, lineage.as_slice()), root).await?
    {
        return Ok(made);
    }
    let digest = Digest::of(&new.body);
    sqlx::query!(
        "INSERT INTO deliveries (project_id, hook_id, id, event, headers, body, body_digest, state, own, lineage, due_at, root, found)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 'received', $8, $9, farm_now() + make_interval(secs => $10), $11, $12)
         ON CONFLICT (project_id, hook_id, own) WHERE state = 'received' AND git_ref IS NULL AND own LIKE 'base_image %'
         DO UPDATE SET lineage = ARRAY(SELECT DISTINCT unnest(deliveries.lineage || EXCLUDED.lineage))",
        project.as_uuid(),
        hook.as_uuid(),
        format!("{}-{}", new.event, Uuid::new_v4().simple()),
        new.event,
        json!({}),
        new.body,
        digest.as_bytes().as_slice(),
        new.own(),
        &lineage,
        new.wait.as_secs_f64(),
        new.root.as_ref().map(|root| root.id),
        new.found.as_ref().map(Commit::as_str)
    )
    .execute(&mut **tx)
    .await?;
    Ok(Made::There)
}

/// Notes that a hook builds upon what began by this: once for each image that its rules name, as what is built upon one isn't built upon
/// another; upon what they don't name once. `None`: it is to have a delivery of its own.
async fn take_root(
    tx: &mut LeaderTx,
    (project, hook): (ProjectId, HookId),
    (new, lineage): (&NewOwn, &[Uuid]),
    root: &Root,
) -> Result<Option<Made>> {
    let (project, hook) = (project.as_uuid(), hook.as_uuid());
    let lately = sqlx::query!(
        r#"SELECT EXISTS (SELECT FROM hook_roots WHERE project_id = $1 AND hook_id = $2 AND root = $3
                     AND (base IN ($4, '') OR $4 = '*')) AS "known!",
                  EXISTS (SELECT FROM hook_roots WHERE project_id = $1 AND hook_id = $2 AND root = $3 AND told_by = $5) AS "told!",
                  (SELECT count(DISTINCT root) FROM hook_roots WHERE project_id = $1 AND hook_id = $2 AND is_own AND root <> $3
                     AND made_at > farm_now() - interval '1 hour') AS "count!""#,
        project,
        hook,
        root.id,
        root.base,
        root.told_by
    )
    .fetch_one(&mut **tx)
    .await?;
    // The process has ended before it could say so.
    if lately.told {
        return Ok(Some(Made::There));
    }
    if lately.known {
        return Ok(Some(Made::Known));
    }
    let joined = sqlx::query!(
        "UPDATE deliveries SET lineage = ARRAY(SELECT DISTINCT unnest(lineage || $4::uuid[]))
         WHERE project_id = $1 AND hook_id = $2 AND own = $3 AND state = 'received' AND git_ref IS NULL",
        project,
        hook,
        new.own(),
        lineage
    );
    let is_joined = joined.execute(&mut **tx).await?.rows_affected() > 0;
    if !is_joined && lately.count >= MOST_AN_HOUR {
        return Ok(Some(Made::TooMany));
    }
    sqlx::query!(
        "INSERT INTO hook_roots (project_id, hook_id, root, is_own, base, told_by) VALUES ($1, $2, $3, $4, $5, $6)",
        project,
        hook,
        root.id,
        !is_joined,
        root.base,
        root.told_by
    )
    .execute(&mut **tx)
    .await?;
    Ok(is_joined.then_some(Made::There))
}

impl Store {
    /// Schedules whose time has come, those that are due for longest first; and those whose next time was said before the clock was set
    /// back.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn due_schedules(&self, most: i64) -> Result<Vec<Due>> {
        let rows = sqlx::query!(
            r#"SELECT s.project_id, s.hook_id, h.name AS hook_name, s.name, s.line, s.next_at, h.default_branch,
                      (h.repository_id IS NOT NULL AND h.strayed = '') AS "is_on!", farm_now() AS "now!"
               FROM hook_schedules s JOIN hooks h ON h.project_id = s.project_id AND h.id = s.hook_id
               WHERE (s.next_at <= farm_now() OR s.set_at > farm_now() + interval '1 minute') AND h.removed_at IS NULL
               ORDER BY s.next_at LIMIT $1"#,
            most
        )
        .fetch_all(&self.pool)
        .await?;
        let due = rows.into_iter().map(|row| Due {
            project: row.project_id.into(),
            hook: row.hook_id.into(),
            hook_name: row.hook_name,
            name: row.name,
            line: row.line,
            next_at: row.next_at,
            default_branch: row.default_branch,
            is_on: row.is_on,
            now: row.now,
        });
        Ok(due.collect())
    }

    /// Has a schedule come next at this time (`None`: never), and makes its delivery, unless one of it waits or goes on. False: it does.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: somebody has done it. [`StoreError::Older`]: an older coordinator runs that would do the wrong thing. Or
    /// another coordinator leads.
    pub async fn come(
        &self,
        epoch: Epoch,
        due: &Due,
        next_at: Option<DateTime<Utc>>,
        new: Option<&NewOwn>,
    ) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        if new.is_some() {
            is_own(&mut tx, (due.project, due.hook), false).await?;
        }
        let done = match next_at {
            Some(next_at) => sqlx::query!(
                "UPDATE hook_schedules SET next_at = $6, set_at = farm_now()
                 WHERE project_id = $1 AND hook_id = $2 AND name = $3 AND line = $4 AND next_at = $5",
                due.project.as_uuid(),
                due.hook.as_uuid(),
                due.name,
                due.line,
                due.next_at,
                next_at
            )
            .execute(&mut *tx)
            .await?,
            None => sqlx::query!(
                "DELETE FROM hook_schedules WHERE project_id = $1 AND hook_id = $2 AND name = $3 AND line = $4 AND next_at = $5",
                due.project.as_uuid(),
                due.hook.as_uuid(),
                due.name,
                due.line,
                due.next_at
            )
            .execute(&mut *tx)
            .await?,
        };
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the schedule"));
        }
        let mut is_new = false;
        if let Some(new) = new {
            let waits = sqlx::query_scalar!(
                "SELECT true FROM deliveries WHERE project_id = $1 AND hook_id = $2 AND state = 'received' AND own = $3 LIMIT 1",
                due.project.as_uuid(),
                due.hook.as_uuid(),
                new.own()
            )
            .fetch_optional(&mut *tx)
            .await?;
            is_new = waits.is_none();
            if is_new {
                make(&mut tx, due.project, due.hook, new).await?;
            }
        }
        tx.commit().await?;
        Ok(is_new)
    }

    /// Keeps what the rules of a hook's default branch say of times and images, unless those of a later place were read. What was there
    /// keeps its next time, unless that is later than it can be, as it was said before the clock was set back.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn plan_hook(&self, epoch: Epoch, of: &Waiting, place: i64, planned: &Planned) -> Result<()> {
        let (project, hook) = (of.project.as_uuid(), of.hook.as_uuid());
        let mut tx = self.begin_leading(epoch).await?;
        let is_newer = sqlx::query!(
            "UPDATE hooks SET planned = $3 WHERE project_id = $1 AND id = $2 AND planned < $3",
            project,
            hook,
            place
        );
        if is_newer.execute(&mut *tx).await?.rows_affected() != 1 {
            return Ok(());
        }
        let names: Vec<String> = planned.schedules.iter().map(|(name, ..)| name.clone()).collect();
        let lines: Vec<String> = planned.schedules.iter().map(|(_, line, _)| line.clone()).collect();
        let times: Vec<DateTime<Utc>> = planned.schedules.iter().map(|(.., next)| *next).collect();
        sqlx::query!(
            "DELETE FROM hook_schedules s WHERE s.project_id = $1 AND s.hook_id = $2 AND NOT EXISTS (
                SELECT FROM unnest($3::text[], $4::text[]) AS said (name, line) WHERE said.name = s.name AND said.line = s.line)",
            project,
            hook,
            &names,
            &lines
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "INSERT INTO hook_schedules (project_id, hook_id, name, line, next_at)
             SELECT $1, $2, said.name, said.line, said.next_at
             FROM unnest($3::text[], $4::text[], $5::timestamptz[]) AS said (name, line, next_at)
             ON CONFLICT (project_id, hook_id, name, line) DO UPDATE SET next_at = EXCLUDED.next_at, set_at = farm_now()
             WHERE EXCLUDED.next_at > farm_now() AND EXCLUDED.next_at < hook_schedules.next_at",
            project,
            hook,
            &names,
            &lines,
            &times
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "DELETE FROM hook_bases WHERE project_id = $1 AND hook_id = $2 AND NOT image = ANY($3)",
            project,
            hook,
            &planned.bases
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "INSERT INTO hook_bases (project_id, hook_id, image) SELECT $1, $2, said.image FROM unnest($3::text[]) AS said (image)
             ON CONFLICT DO NOTHING",
            project,
            hook,
            &planned.bases
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// The hooks of a project in whose default branches something is built upon an image.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn built_upon(&self, project: ProjectId, image: &ImageTag) -> Result<Vec<Upon>> {
        let rows = sqlx::query!(
            r#"SELECT h.id, h.name, h.default_branch AS "default_branch!",
                      CASE WHEN EXISTS (SELECT FROM hook_bases b WHERE b.project_id = $1 AND b.hook_id = h.id AND b.image = $2)
                           THEN $2 ELSE '*' END AS "base!"
               FROM hooks h
               WHERE h.project_id = $1 AND h.removed_at IS NULL AND h.repository_id IS NOT NULL AND h.strayed = ''
                 AND h.default_branch IS NOT NULL
                 AND EXISTS (SELECT FROM hook_bases b WHERE b.project_id = $1 AND b.hook_id = h.id AND b.image IN ($2, '*'))
               ORDER BY h.name"#,
            project.as_uuid(),
            image.to_string()
        )
        .fetch_all(&self.pool)
        .await?;
        let upon = rows.into_iter().map(|row| Upon {
            hook: row.id.into(),
            name: row.name,
            default_branch: row.default_branch,
            base: row.base,
        });
        Ok(upon.collect())
    }

    /// Makes deliveries of a project's hooks, all at once, and says of each what became of it.
    ///
    /// # Errors
    /// [`StoreError::Older`]: an older coordinator runs that would do the wrong thing. Or another coordinator leads.
    pub async fn make_own(
        &self,
        epoch: Epoch,
        project: ProjectId,
        all: &[(HookId, NewOwn)],
    ) -> Result<Vec<Made>> {
        let mut tx = self.begin_leading(epoch).await?;
        // Hooks are held in one order, whoever makes what.
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by_key(|n| all.get(*n).map(|(hook, _)| hook.as_uuid()));
        let mut made = vec![Made::Gone; all.len()];
        for n in order {
            let (Some((hook, new)), Some(made)) = (all.get(n), made.get_mut(n)) else { continue };
            *made = match make(&mut tx, project, *hook, new).await {
                Err(StoreError::Stale(_)) => Made::Gone,
                done => done?,
            };
        }
        tx.commit().await?;
        Ok(made)
    }

    /// By what an image came into a registry; `None`: the farm hasn't put it there at a hook's wish. By the digest of what was put there,
    /// whoever's; where that isn't known, by the last that was to be put under its name.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn came(&self, image: &ImageTag, digest: Option<Digest>) -> Result<Option<Came>> {
        // Two statements: each has an index of its own.
        let put = match digest {
            Some(digest) => sqlx::query!(
                "SELECT project_id, build_id FROM publications WHERE index_digest = $1 ORDER BY order_key DESC LIMIT 1",
                digest.as_bytes().as_slice()
            )
            .fetch_optional(&self.pool)
            .await?
            .map(|row| (row.project_id, row.build_id)),
            None => sqlx::query!(
                "SELECT p.project_id, p.build_id FROM tags t JOIN publications p ON p.project_id = t.project_id AND p.id = t.publication_id
                 WHERE t.project_id IN (SELECT id FROM projects) AND t.registry = $1 AND t.repository = $2 AND t.tag = $3
                 ORDER BY p.order_key DESC LIMIT 1",
                image.repository.registry(),
                image.repository.name(),
                image.tag
            )
            .fetch_optional(&self.pool)
            .await?
            .map(|row| (row.project_id, row.build_id)),
        };
        let Some((project, build)) = put else { return Ok(None) };
        let came = sqlx::query!(
            r#"WITH RECURSIVE tried AS (
                   SELECT b.project_id, b.id, b.retry_of, 0 AS depth FROM builds b WHERE b.project_id = $1 AND b.id = $2
                   UNION ALL
                   SELECT b.project_id, b.id, b.retry_of, tried.depth + 1 FROM tried JOIN builds b ON b.project_id = tried.project_id
                     AND b.id = tried.retry_of WHERE tried.depth < 100
               )
               SELECT h.lineage || h.hook_id AS "lineage!", coalesce(h.root, h.build_id) AS "root!" FROM tried
               JOIN hook_builds h ON h.project_id = tried.project_id AND h.build_id = tried.id
               WHERE h.kind = 'image' ORDER BY tried.depth DESC LIMIT 1"#,
            project,
            build
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(came
            .map(|row| Came { lineage: row.lineage.into_iter().map(HookId::from).collect(), root: row.root }))
    }
}
