//! Reading the audit: what was done, newest first, and whether it still stands as it was written.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use farm_core::audit::{beginning, head};
use farm_types::{Digest, ProjectId};

use super::seals::rows_between;
use crate::{Result, Store, Tx, digest, fit};

/// So many seals are read at once.
const SEALS: i64 = 500;
/// So many rows are looked at together, or those of one seal.
const ROWS: i64 = 5_000;

/// One deed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The row's number.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// In which project; `None`: the farm's.
    pub project: Option<String>,
    /// By whom.
    pub principal: String,
    /// The first characters of the token that was shown; empty: the farm's own.
    pub token_hint: String,
    /// From where; empty: that isn't known.
    pub address: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// What else there is, as JSON.
    pub detail: String,
}

/// Which entries are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Of which project; `None`: all.
    pub project: Option<ProjectId>,
    /// From then on.
    pub since: DateTime<Utc>,
    /// Older than this one.
    pub before: Option<(DateTime<Utc>, i64)>,
    /// At most so many.
    pub most: i64,
}

/// What is wrong with a seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Its first and last row, as they were sealed.
    pub rows: (i64, i64),
    /// When it was sealed.
    pub sealed_at: DateTime<Utc>,
    /// It doesn't go on where the seal before ended; else: its rows aren't those that were sealed.
    pub is_link: bool,
}

/// A head that was kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// It.
    pub head: Digest,
    /// Where it is in the chain; `None`: nowhere.
    pub found: Option<Found>,
}

/// Where a head is in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The last row that it holds.
    pub last_id: i64,
    /// When it was made.
    pub sealed_at: DateTime<Utc>,
    /// All that is before it in the chain was found as it was sealed.
    pub is_whole: bool,
    /// So many of the rows that are there come after it.
    pub rows_after: i64,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// So many rows were looked at, in so many seals.
    pub rows: i64,
    /// In how many.
    pub seals: i64,
    /// The first and the last of them, in the chain's order.
    pub first_id: Option<i64>,
    /// The last.
    pub last_id: Option<i64>,
    /// The head after the last seal; `None`: there is no seal.
    pub head: Option<Digest>,
    /// So many rows are not sealed yet.
    pub unsealed: i64,
    /// So many were old and were removed; by when the last of them had been sealed.
    pub removed: Option<(i64, DateTime<Utc>)>,
    /// What is wrong, in the chain's order.
    pub broken: Vec<Broken>,
    /// The heads that were brought, in their order.
    pub outside: Vec<Outside>,
    /// Where the last seal of each cluster ended.
    below: BTreeMap<i64, i64>,
}

struct SealRow {
    seal: i64,
    cluster: i64,
    from_xid: i64,
    below_xid: i64,
    first_id: i64,
    last_id: i64,
    row_count: i64,
    previous: Vec<u8>,
    head: Vec<u8>,
    sealed_at: DateTime<Utc>,
    removed_at: Option<DateTime<Utc>>,
}

impl Store {
    /// What was done, newest first.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn audit(&self, asked: &Asked) -> Result<Vec<Entry>> {
        let (before, before_id) =
            asked.before.unwrap_or((self.now().await? + chrono::TimeDelta::days(1), i64::MAX));
        let entries = match asked.project {
            Some(project) => {
                sqlx::query_as!(
                    Entry,
                    r#"SELECT a.id, a.at, p.name AS "project?", a.principal, a.token_hint, a.address, a.action, a.subject,
                              a.detail::text AS "detail!"
                       FROM audit a LEFT JOIN projects p ON p.id = a.project_id
                       WHERE a.project_id = $1 AND a.at >= $2 AND (a.at, a.id) < ($3, $4)
                       ORDER BY a.at DESC, a.id DESC LIMIT $5"#,
                    project.as_uuid(),
                    asked.since,
                    before,
                    before_id,
                    asked.most
                )
                .fetch_all(&self.pool)
                .await?
            }
            None => {
                sqlx::query_as!(
                    Entry,
                    r#"SELECT a.id, a.at, p.name AS "project?", a.principal, a.token_hint, a.address, a.action, a.subject,
                              a.detail::text AS "detail!"
                       FROM audit a LEFT JOIN projects p ON p.id = a.project_id
                       WHERE a.at >= $1 AND (a.at, a.id) < ($2, $3)
                       ORDER BY a.at DESC, a.id DESC LIMIT $4"#,
                    asked.since,
                    before,
                    before_id,
                    asked.most
                )
                .fetch_all(&self.pool)
                .await?
            }
        };
        Ok(entries)
    }

    /// Reckons the whole chain anew, and looks for heads that were kept elsewhere.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn verify_audit(&self, outside: &[Digest]) -> Result<Verified> {
        let mut found = Verified::default();
        let mut wanted: BTreeMap<Digest, Option<Found>> = outside.iter().map(|head| (*head, None)).collect();
        // One state of things all through: what is old may be removed meanwhile.
        let mut tx = self.begin().await?;
        sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *tx).await?;
        let mut last = 0;
        loop {
            let seals = seals_after(&mut tx, last).await?;
            let Some(newest) = seals.last() else { break };
            last = newest.seal;
            for together in grouped(&seals) {
                look(&mut tx, together, &mut found, &mut wanted).await?;
            }
        }
        let rows = found.rows;
        let places = outside.iter().map(|head| {
            let place = wanted.get(head).copied().flatten();
            Outside { head: *head, found: place.map(|at| Found { rows_after: rows - at.rows_after, ..at }) }
        });
        found.outside = places.collect();
        found.unsealed = unsealed_deeds(&mut tx).await?;
        found.broken.extend(put_where_all_was_removed(&mut tx).await?);
        tx.rollback().await?;
        Ok(found)
    }
}

/// Looks at these seals of one cluster, which follow each other, and what they hold.
async fn look(
    tx: &mut Tx,
    seals: &[SealRow],
    found: &mut Verified,
    wanted: &mut BTreeMap<Digest, Option<Found>>,
) -> Result<()> {
    let (Some(first), Some(last)) = (seals.first(), seals.last()) else { return Ok(()) };
    let rows = if first.removed_at.is_some() {
        Vec::new()
    } else {
        rows_between(tx, first.cluster, first.from_xid, last.below_xid).await?
    };
    for seal in seals {
        let recorded = digest(&seal.head)?;
        let previous = digest(&seal.previous)?;
        let mut broken = |is_link| {
            found.broken.push(Broken {
                rows: (seal.first_id, seal.last_id),
                sealed_at: seal.sealed_at,
                is_link,
            });
        };
        // Between two seals there is no room for a row.
        let begins = found.below.insert(seal.cluster, seal.below_xid).unwrap_or(0);
        if previous != found.head.unwrap_or_else(beginning) || seal.from_xid != begins {
            broken(true);
        }
        if seal.removed_at.is_some() {
            let before = found.removed.map_or(0, |(rows, _)| rows);
            found.removed = Some((before + seal.row_count, seal.sealed_at));
        } else {
            let from = rows.partition_point(|row| row.xid < seal.from_xid);
            let below = rows.partition_point(|row| row.xid < seal.below_xid);
            let own = rows.get(from..below).unwrap_or_default();
            if head(previous, own) != recorded {
                broken(false);
            }
            found.rows += fit::<_, i64>(own.len())?;
            found.seals += 1;
            found.first_id = found.first_id.or(own.first().map(|row| row.id));
            found.last_id = own.last().map(|row| row.id).or(found.last_id);
        }
        found.head = Some(recorded);
        if let Some(place) = wanted.get_mut(&recorded) {
            // How many there are in all is known at the end.
            let (is_whole, rows_after) = (found.broken.is_empty(), found.rows);
            *place = Some(Found { last_id: seal.last_id, sealed_at: seal.sealed_at, is_whole, rows_after });
        }
    }
    Ok(())
}

async fn seals_after(tx: &mut Tx, seal: i64) -> Result<Vec<SealRow>> {
    let seals = sqlx::query_as!(
        SealRow,
        "SELECT seal, cluster, from_xid, below_xid, first_id, last_id, row_count, previous, head, sealed_at, removed_at
         FROM audit_seals WHERE seal > $1 ORDER BY seal LIMIT $2",
        seal,
        SEALS
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(seals)
}

/// Rows that no seal holds.
async fn unsealed_deeds(tx: &mut Tx) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM audit a
           LEFT JOIN (SELECT cluster, max(below_xid) AS below_xid FROM audit_seals GROUP BY cluster) s
               ON s.cluster = a.cluster
           WHERE a.xid >= coalesce(s.below_xid, 0)"#
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(count)
}

/// Rows where those that were there are removed, as they were old: somebody has put them in.
async fn put_where_all_was_removed(tx: &mut Tx) -> Result<Option<Broken>> {
    let row = sqlx::query!(
        "SELECT min(a.id) AS first, max(a.id) AS last, max(s.sealed_at) AS sealed_at FROM audit_seals s
         JOIN audit a ON a.cluster = s.cluster AND a.xid >= s.from_xid AND a.xid < s.below_xid
         WHERE s.removed_at IS NOT NULL"
    )
    .fetch_one(&mut **tx)
    .await?;
    let (Some(first), Some(last), Some(sealed_at)) = (row.first, row.last, row.sealed_at) else {
        return Ok(None);
    };
    Ok(Some(Broken { rows: (first, last), sealed_at, is_link: false }))
}

/// Seals that are looked at together: of one cluster, all there or all removed, and not too many rows.
fn grouped(seals: &[SealRow]) -> Vec<&[SealRow]> {
    let mut groups = Vec::new();
    let (mut begin, mut rows) = (0, 0_i64);
    for (at, pair) in seals.windows(2).enumerate() {
        let [one, next] = pair else { continue };
        rows = rows.saturating_add(one.row_count);
        let is_one = one.cluster == next.cluster
            && one.removed_at.is_some() == next.removed_at.is_some()
            && one.below_xid == next.from_xid;
        if !is_one || rows >= ROWS {
            groups.push(&seals[begin..=at]);
            (begin, rows) = (at + 1, 0);
        }
    }
    groups.push(&seals[begin..]);
    groups
}
