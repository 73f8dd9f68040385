//! What was begun by deliveries, and in which order: a push's intent is its place in its ref, whenever it was delivered and however
//! often.

use std::collections::BTreeMap;
use std::fmt;

use farm_types::{BuildId, Commit, HookId, RefName};

use super::deliveries::Waiting;
use crate::machines::leader::Epoch;
use crate::proof::LockedExecution;
use crate::{Result, Store, StoreError};

/// What a build is to the delivery that has begun it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The fetch of the rules.
    Rules,
    /// The fetch of an image's source.
    Source,
    /// The build of an image.
    Image,
}

impl Part {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Source => "source",
            Self::Image => "image",
        }
    }

    fn of(word: &str) -> Result<Self> {
        let all = [Self::Rules, Self::Source, Self::Image];
        let found = all.into_iter().find(|part| part.as_str() == word);
        found.ok_or_else(|| StoreError::corrupt(format!("{word:?} is no part of a delivery")))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// By which delivery a build is begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfDelivery {
    /// Whose.
    pub hook: HookId,
    /// Which.
    pub delivery: String,
    /// How often it was begun before.
    pub run: i32,
    /// What the build is to it.
    pub part: Part,
    /// The image's name in the file; empty of rules.
    pub image: String,
    /// Which ref it is about.
    pub git_ref: RefName,
    /// Its place among all intentions; `None`: it has none yet, and the build moves no tags.
    pub order_key: Option<i64>,
}

/// What a delivery says of where its ref is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moves {
    /// That it was moved.
    Told,
    /// The same, but nobody has told it: the farm has found it. One that was told makes up for it.
    Found,
    /// Nothing.
    No,
}

/// A delivery's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Among all intentions: its builds have it.
    pub order_key: i64,
    /// At which commit the delivery before it had seen the ref; `None`: it is the first.
    pub follows: Option<Commit>,
}

fn commit_of(text: Option<String>) -> Result<Option<Commit>> {
    text.map(|text| text.parse().map_err(StoreError::corrupt)).transpose()
}

/// Notes what a new build is to its delivery, as long as that waits and its hook is there.
pub(crate) async fn note(execution: &mut LockedExecution<'_>, build: BuildId, of: &OfDelivery) -> Result<()> {
    let (project, _) = execution.ids();
    let noted = sqlx::query!(
        "INSERT INTO hook_builds (project_id, hook_id, delivery_id, run, kind, image, git_ref, build_id, own, lineage, root)
         SELECT $1, $2, $3, $4, $5, $6, $7, $8, d.own, d.lineage, d.root FROM deliveries d JOIN hooks h ON h.project_id = d.project_id AND h.id = d.hook_id
         WHERE d.project_id = $1 AND d.hook_id = $2 AND d.id = $3 AND d.state = 'received' AND d.runs = $4 AND h.removed_at IS NULL
         FOR KEY SHARE",
        project,
        of.hook.as_uuid(),
        of.delivery,
        of.run,
        of.part.as_str(),
        of.image,
        of.git_ref.as_str(),
        build.as_uuid()
    )
    .execute(&mut **execution)
    .await?;
    if noted.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Stale("the delivery")) }
}

impl Store {
    /// What was begun by a delivery this time.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn begun(&self, of: &Waiting) -> Result<BTreeMap<(Part, String), BuildId>> {
        let rows = sqlx::query!(
            "SELECT kind, image, build_id FROM hook_builds
             WHERE project_id = $1 AND hook_id = $2 AND delivery_id = $3 AND run = $4",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            of.run
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|row| Ok(((Part::of(&row.kind)?, row.image), row.build_id.into()))).collect()
    }

    /// Has a delivery look where its ref is, if no other one does. False: another one does.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: it doesn't wait any more. Or another coordinator leads.
    pub async fn line_up(&self, epoch: Epoch, of: &Waiting, git_ref: &RefName) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let looks = sqlx::query_scalar!(
            r#"UPDATE deliveries d SET git_ref = $4, looks = d.order_key IS NOT NULL OR NOT EXISTS (
                   SELECT FROM deliveries o WHERE o.project_id = $1 AND o.hook_id = $2 AND o.git_ref = $4 AND o.id <> $3
                     AND o.state = 'received' AND o.looks AND o.order_key IS NULL)
               WHERE d.project_id = $1 AND d.hook_id = $2 AND d.id = $3 AND d.state = 'received' AND d.runs = $5
               RETURNING looks"#,
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            git_ref.as_str(),
            of.run
        )
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        looks.ok_or(StoreError::Stale("the delivery"))
    }

    /// Whether a delivery that was sent waits for its place about this ref, which what was made up about it then waits for; unless that
    /// looks already where the ref is.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn is_told(&self, of: &Waiting, git_ref: &RefName) -> Result<bool> {
        let is_told = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM deliveries d WHERE d.project_id = $1 AND d.hook_id = $2 AND d.id = $3 AND NOT d.looks)
                  AND EXISTS (SELECT FROM deliveries o WHERE o.project_id = $1 AND o.hook_id = $2 AND o.state = 'received' AND o.own IS NULL
                     AND o.pushes = $4 AND o.order_key IS NULL) AS "told!""#,
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            git_ref.as_str()
        );
        Ok(is_told.fetch_one(&self.pool).await?)
    }

    /// Whether a delivery has no place, and another one has had its own about the same ref at this commit, which nobody has moved since; or
    /// the ref is gone, so that nothing is to be had of it.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn is_placed_by_another(
        &self,
        of: &Waiting,
        git_ref: &RefName,
        commit: &Commit,
    ) -> Result<bool> {
        let is_placed = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM deliveries d WHERE d.project_id = $1 AND d.hook_id = $2 AND d.id = $3 AND d.order_key IS NULL)
                  AND EXISTS (SELECT FROM ref_heads r WHERE r.project_id = $1 AND r.hook_id = $2 AND r.git_ref = $4
                     AND (r.placed = $5 OR r.commit_id IS NULL)) AS "placed!""#,
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            git_ref.as_str(),
            commit.as_str()
        );
        Ok(is_placed.fetch_one(&self.pool).await?)
    }

    /// Where a ref was before it was at this commit, as deliveries about it say, one before the other.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn befores(&self, of: &Waiting, git_ref: &RefName, commit: &Commit) -> Result<Vec<Commit>> {
        let befores = sqlx::query_scalar!(
            r#"WITH RECURSIVE behind AS (
                   SELECT $4::text AS commit_id, 0 AS steps
                   UNION
                   SELECT d.moved_from, b.steps + 1 FROM behind b JOIN deliveries d ON d.moved_to = b.commit_id
                   WHERE d.project_id = $1 AND d.hook_id = $2 AND d.pushes = $3 AND d.moved_from IS NOT NULL AND b.steps < 50)
               SELECT DISTINCT commit_id AS "before!" FROM behind WHERE commit_id <> $4"#,
            of.project.as_uuid(),
            of.hook.as_uuid(),
            git_ref.as_str(),
            commit.as_str()
        );
        let befores = befores.fetch_all(&self.pool).await?;
        befores.iter().map(|text| text.parse().map_err(StoreError::corrupt)).collect()
    }

    /// Where a delivery that came later has seen this ref, by a look that began after this delivery was asked for, if one says as well
    /// that the ref was moved on from this commit; `None`: none has. So it has moved on from what this one tells, unless that is the same, or
    /// it was moved from there: then what was seen may be older.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn passed_by(
        &self,
        of: &Waiting,
        git_ref: &RefName,
        commit: &Commit,
    ) -> Result<Option<Commit>> {
        let placed = sqlx::query_scalar!(
            r#"SELECT placed FROM ref_heads WHERE project_id = $1 AND hook_id = $2 AND git_ref = $3
                 AND placed_by > $4 AND placed_after > $5
                 AND EXISTS (SELECT FROM deliveries d WHERE d.project_id = $1 AND d.hook_id = $2 AND d.pushes = $3 AND d.moved_from = $6)"#,
            of.project.as_uuid(),
            of.hook.as_uuid(),
            git_ref.as_str(),
            of.sequence,
            of.asked_at,
            commit.as_str()
        );
        commit_of(placed.fetch_optional(&self.pool).await?.flatten())
    }

    /// Gives a delivery its place among all intentions, if it has none: its ref was seen at this commit. Those about one ref get theirs one
    /// after the other ([`Self::line_up`]), so in the order in which the ref was at their commits. `None`: what was only found has a place
    /// already by another delivery.
    ///
    /// # Errors
    /// As of [`Self::line_up`].
    pub async fn place_delivery(
        &self,
        epoch: Epoch,
        of: &Waiting,
        git_ref: &RefName,
        commit: &Commit,
        moves: Moves,
    ) -> Result<Option<Placed>> {
        let mut tx = self.begin_leading(epoch).await?;
        let known = sqlx::query!(
            "SELECT order_key, follows FROM deliveries
             WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND state = 'received' AND runs = $4 FOR UPDATE",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            of.run
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::Stale("the delivery"))?;
        if let Some(order_key) = known.order_key {
            return Ok(Some(Placed { order_key, follows: commit_of(known.follows)? }));
        }
        let follows = sqlx::query_scalar!(
            "SELECT placed FROM ref_heads WHERE project_id = $1 AND hook_id = $2 AND git_ref = $3",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            git_ref.as_str()
        )
        .fetch_optional(&mut *tx)
        .await?
        .flatten();
        if moves == Moves::Found && follows.as_deref() == Some(commit.as_str()) {
            return Ok(None);
        }
        let order_key = sqlx::query_scalar!(
            r#"UPDATE deliveries SET order_key = nextval('order_keys'), follows = $5
               WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND state = 'received' AND runs = $4 AND order_key IS NULL
               RETURNING order_key AS "order_key!""#,
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            of.run,
            follows
        )
        .fetch_one(&mut *tx)
        .await?;
        if moves != Moves::No {
            sqlx::query!(
                "INSERT INTO ref_heads (project_id, hook_id, git_ref, sequence, commit_id, placed, placed_by, placed_after)
                 VALUES ($1, $2, $3, $4, $5, $5, $4, (
                    SELECT b.created_at FROM hook_builds h JOIN builds b ON b.project_id = h.project_id AND b.id = h.build_id
                    WHERE h.project_id = $1 AND h.hook_id = $2 AND h.delivery_id = $6 AND h.run = $7 AND h.kind = 'rules'))
                 ON CONFLICT (project_id, hook_id, git_ref) DO UPDATE SET placed = EXCLUDED.placed, placed_by = EXCLUDED.placed_by,
                    placed_after = EXCLUDED.placed_after, listed = NULL, gone_at = NULL, failed = NULL, failures = 0",
                of.project.as_uuid(),
                of.hook.as_uuid(),
                git_ref.as_str(),
                of.sequence,
                commit.as_str(),
                of.id,
                of.run
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(Some(Placed { order_key, follows: commit_of(follows)? }))
    }

    /// Whether a build of this image and ref was begun for what the ref was at later, by a delivery of the same kind: what a push wants
    /// built a schedule doesn't make superfluous, nor the other way round.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn is_overtaken(
        &self,
        of: &Waiting,
        git_ref: &RefName,
        image: &str,
        order_key: i64,
    ) -> Result<bool> {
        let later = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM hook_builds h JOIN builds b ON b.project_id = h.project_id AND b.id = h.build_id
                 WHERE h.project_id = $1 AND h.hook_id = $2 AND h.git_ref = $3 AND h.image = $4 AND h.kind = 'image'
                   AND b.order_key > $5 AND CASE WHEN h.own LIKE 'sweep %' THEN NULL ELSE h.own END IS NOT DISTINCT FROM $6::text) AS "later!""#,
            of.project.as_uuid(),
            of.hook.as_uuid(),
            git_ref.as_str(),
            image,
            order_key,
            of.lane()
        );
        Ok(later.fetch_one(&self.pool).await?)
    }

    /// Builds of an image and a ref that a delivery's takes the place of: older ones of the same kind that haven't come to their tags.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn superseded(
        &self,
        of: &Waiting,
        git_ref: &RefName,
        image: &str,
        order_key: i64,
    ) -> Result<Vec<BuildId>> {
        let found = sqlx::query_scalar!(
            "SELECT b.id FROM hook_builds h JOIN builds b ON b.project_id = h.project_id AND b.id = h.build_id
             WHERE h.project_id = $1 AND h.hook_id = $2 AND h.git_ref = $3 AND h.image = $4 AND h.kind = 'image'
               AND b.order_key < $5 AND b.state IN ('queued', 'running')
               AND CASE WHEN h.own LIKE 'sweep %' THEN NULL ELSE h.own END IS NOT DISTINCT FROM $6::text ORDER BY b.order_key",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            git_ref.as_str(),
            image,
            order_key,
            of.lane()
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(found.into_iter().map(BuildId::from).collect())
    }
}
