//! Seals over the audit: batches of its rows, each with a head that holds all rows before it ([`farm_core::audit`]).
//!
//! Deeds take no lock here and know nothing of the chain; the leader seals what they have written. The trouble with that is what
//! is still in flight: rows get their ids before they are committed, so a row may show up after later ones, and whoever sealed
//! "up to id N" would have left it out for ever. So the order of the chain is that of (transaction, id), and a row has its
//! transaction's number in it:
//!
//! * What Postgres calls a snapshot's `xmin` is the lowest number of a transaction that has not ended. A row whose
//!   transaction is below it is there for good, and no further row can come there: numbers are given out in their order, so a
//!   transaction that begins to write later has a higher one. All rows below it are sealed, none above.
//! * A seal holds all rows from one transaction on (where the seal before ended) and below another: so which rows it holds is
//!   said by what it holds itself, and a row that is put in between later is found as one that is too many.
//! * A transaction that stays open holds the sealing up, anyone's in that Postgres; what it holds up is sealed once it ends, and
//!   until then [`Store::verify_audit`](crate::Store) counts it as not sealed.
//! * Transactions are counted anew in another cluster of databases, into which a dump was read. So a row has the cluster's number,
//!   too; what the former one left unsealed is sealed first, all of it: nobody writes there any more.
//!
//! Only a leader seals, one batch after the other ([`LeaderTx`](crate::proof::LeaderTx)), and the number of a seal is one more
//! than that of the seal before.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_core::audit::{Row, beginning, head};
use farm_types::Digest;

use crate::machines::leader::Epoch;
use crate::pool::Session;
use crate::{Result, Store, StoreError, digest, fit};

/// What was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The head after it.
    pub head: Digest,
    /// Its last row.
    pub last_id: i64,
    /// How many rows.
    pub rows: usize,
    /// When.
    pub at: DateTime<Utc>,
    /// There may be more to seal now.
    pub more: bool,
}

/// The rows that may be sealed.
struct Turn {
    cluster: i64,
    from: i64,
    below: i64,
}

impl Store {
    /// Seals what has been written since the last seal and can't change any more, at most about `most` rows: rows of one
    /// transaction are sealed together. `None`: there is nothing. Then it asks the database once and writes nothing.
    ///
    /// # Errors
    /// [`StoreError::NotLeading`] when another coordinator leads.
    pub async fn seal_audit(&self, epoch: Epoch, most: i64) -> Result<Option<Sealed>> {
        let Some(turn) = self.audit_turn().await? else { return Ok(None) };
        let mut tx = self.begin_leading(epoch).await?;
        let last = sqlx::query!(
            r#"SELECT seal, head, coalesce((SELECT below_xid FROM audit_seals WHERE cluster = $1
                                            ORDER BY seal DESC LIMIT 1), 0) AS "from!"
               FROM audit_seals ORDER BY seal DESC LIMIT 1"#,
            turn.cluster
        )
        .fetch_optional(&mut *tx)
        .await?;
        let (number, previous, from) = match last {
            Some(last) => (last.seal, digest(&last.head)?, last.from),
            None => (0, beginning(), 0),
        };
        if from != turn.from {
            return Err(StoreError::Stale("somebody has sealed in this moment"));
        }
        let rows = rows(&mut tx, &turn, most).await?;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return Err(StoreError::Stale("what was to be sealed is gone"));
        };
        let count: i64 = fit(rows.len())?;
        let head = head(previous, &rows);
        let at = sqlx::query_scalar!(
            "INSERT INTO audit_seals (seal, cluster, from_xid, below_xid, first_id, last_id, row_count, previous, head)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING sealed_at",
            number + 1,
            turn.cluster,
            turn.from,
            last.xid + 1,
            first.id,
            last.id,
            count,
            &previous.as_bytes()[..],
            &head.as_bytes()[..]
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Some(Sealed { head, last_id: last.id, rows: rows.len(), at, more: count >= most }))
    }

    /// Which rows may be sealed, if there are any.
    async fn audit_turn(&self) -> Result<Option<Turn>> {
        let turn = sqlx::query_as!(
            Turn,
            r#"WITH here AS (SELECT farm_cluster() AS cluster,
                                    pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin),
                    turns AS (
                        SELECT l.cluster, 9223372036854775807 AS below, 0 AS place
                        FROM here h, (SELECT cluster FROM audit_seals ORDER BY seal DESC LIMIT 1) l
                        WHERE l.cluster <> h.cluster
                        UNION ALL SELECT cluster, xmin, 1 FROM here),
                    begun AS (
                        SELECT t.cluster, t.below, t.place,
                               coalesce((SELECT s.below_xid FROM audit_seals s WHERE s.cluster = t.cluster
                                         ORDER BY s.seal DESC LIMIT 1), 0) AS from_xid
                        FROM turns t)
               SELECT cluster AS "cluster!", from_xid AS "from!", below AS "below!" FROM begun b
               -- In this form it is one step into the index, whatever the planner expects of the table.
               WHERE (SELECT a.xid FROM audit a WHERE a.cluster = b.cluster AND a.xid >= b.from_xid AND a.xid < b.below
                      ORDER BY a.xid LIMIT 1) IS NOT NULL
               ORDER BY place LIMIT 1"#
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(turn)
    }

    /// Takes the rows of old seals away, in the chain's order and at most of so many seals; how many rows those were. The seals
    /// themselves stay, so that the chain is known to go on.
    ///
    /// # Errors
    /// [`StoreError::NotLeading`] when another coordinator leads.
    pub async fn remove_audit(&self, epoch: Epoch, kept: Duration, seals: i64) -> Result<u64> {
        let mut tx = self.begin_leading(epoch).await?;
        let old = sqlx::query_scalar!(
            "UPDATE audit_seals SET removed_at = farm_now()
             WHERE removed_at IS NULL AND seal = ANY (ARRAY(
                SELECT seal FROM (SELECT seal, sealed_at FROM audit_seals WHERE removed_at IS NULL
                                  ORDER BY seal LIMIT $2) first
                WHERE sealed_at <= farm_now() - make_interval(secs => $1)))
             RETURNING seal",
            kept.as_secs_f64(),
            seals
        )
        .fetch_all(&mut *tx)
        .await?;
        if old.is_empty() {
            return Ok(0);
        }
        // A statement of its own: only what was said before it lets rows go.
        let removed = sqlx::query!(
            "DELETE FROM audit a USING audit_seals s
             WHERE s.seal = ANY($1) AND a.cluster = s.cluster AND a.xid >= s.from_xid AND a.xid < s.below_xid",
            &old
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(removed.rows_affected())
    }
}

/// About `most` rows of a turn, in the chain's order: none of the last one's transaction is missing.
async fn rows(session: &mut Session, turn: &Turn, most: i64) -> Result<Vec<Row>> {
    let rows = sqlx::query_as!(
        ChainRow,
        r#"SELECT id, cluster, xid, at, project_id, principal, token_hint, address, action, subject,
                  detail::text AS "detail!"
           FROM audit WHERE cluster = $1 AND xid >= $2 AND xid < $3
           ORDER BY xid FETCH FIRST ($4) ROWS WITH TIES"#,
        turn.cluster,
        turn.from,
        turn.below,
        most
    )
    .fetch_all(session)
    .await?;
    let mut rows: Vec<Row> = rows.into_iter().map(Row::from).collect();
    rows.sort_by_key(|row| (row.xid, row.id));
    Ok(rows)
}

/// All rows of these transactions, in the chain's order.
pub(super) async fn rows_between(
    session: &mut Session,
    cluster: i64,
    from: i64,
    below: i64,
) -> Result<Vec<Row>> {
    rows(session, &Turn { cluster, from, below }, i64::MAX).await
}

struct ChainRow {
    id: i64,
    cluster: i64,
    xid: i64,
    at: DateTime<Utc>,
    project_id: Option<uuid::Uuid>,
    principal: String,
    token_hint: String,
    address: String,
    action: String,
    subject: String,
    detail: String,
}

impl From<ChainRow> for Row {
    fn from(row: ChainRow) -> Self {
        Self {
            id: row.id,
            cluster: row.cluster,
            xid: row.xid,
            at: row.at,
            project: row.project_id.map(Into::into),
            principal: row.principal,
            token_hint: row.token_hint,
            address: row.address,
            action: row.action,
            subject: row.subject,
            detail: row.detail,
        }
    }
}
