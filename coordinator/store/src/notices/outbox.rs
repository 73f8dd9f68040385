//! Messages on their way: claimed by the coordinator that leads, sent, and then gone; or tried again, and given up after all.
//!
//! A message is sent at least once: whoever dies between its answer and the note of that leaves it to be sent again, under the same id.

use std::time::Duration;

use farm_types::{NoticeId, NoticeKind, ProjectId};
use serde_json::Value;
use uuid::Uuid;

use super::rule::{SealedAddress, sealed_of};
use crate::machines::leader::Epoch;
use crate::pool::Session;
use crate::unreadable::readable;
use crate::{Result, Store, StoreError, state};

/// A claim counts for so long: longer than a request may take.
pub const CLAIM: Duration = Duration::from_secs(60);
/// That of a mail, for whose end its server may take minutes.
pub const CLAIM_OF_MAIL: Duration = Duration::from_secs(400);
/// So many of one notice are read at once.
const OF_ONE: i64 = 10;
/// So many mails of a project are sent in an hour.
pub const MOST_MAILS: i32 = 200;

/// A message that is to be sent, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Whose.
    pub project: ProjectId,
    /// Its name.
    pub project_name: String,
    /// By which notice.
    pub notice: NoticeId,
    /// What people call that.
    pub notice_name: String,
    /// By what it is told.
    pub kind: NoticeKind,
    /// `HOST[:PORT]` of what is called; empty of mail.
    pub host: String,
    /// Of mail: to whom.
    pub addresses: Vec<String>,
    /// Which of its addresses the notice has.
    pub version: Uuid,
    /// Where it goes; `None` of mail.
    pub sealed: Option<SealedAddress>,
    /// It is also signed by the secret before.
    pub has_before: bool,
    /// By which the receiver knows it again.
    pub id: Uuid,
}

/// What a message says, and how it went so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// `failure`, `recovered`, `success`, `cancelled` or `summary`.
    pub event: String,
    /// What it says.
    pub facts: Value,
    /// How often in a row nothing was taken.
    pub attempts: i32,
    /// How often it was answered so that only a few more tries are worth it.
    pub doubts: i32,
    /// For how long it is to be told.
    pub age: Duration,
}

/// When something is sent again that wasn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    /// After so long.
    pub wait: Duration,
    /// Only a few more tries are worth it.
    pub is_doubtful: bool,
}

impl Store {
    /// Whether anything has ended that wasn't looked at, or is soon to be sent.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn has_open_notices(&self) -> Result<bool> {
        let open = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM notice_events)
                   OR EXISTS (SELECT FROM notice_messages m JOIN notices n ON n.project_id = m.project_id AND n.id = m.notice_id
                              WHERE m.due_at <= farm_now() + interval '10 seconds'
                                AND (n.next_at IS NULL OR n.next_at <= farm_now() + interval '10 seconds')) AS "open!""#
        );
        Ok(open.fetch_one(&self.pool).await?)
    }

    /// What is due: of each notice what is due for longest, then of each the next. Nothing of these notices, of those that are put off or
    /// have something under way, and nothing that goes to these hosts.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn messages_to_send(
        &self,
        most: i64,
        but: &[NoticeId],
        not_at: &[String],
    ) -> Result<Vec<Message>> {
        let but: Vec<Uuid> = but.iter().map(|notice| notice.as_uuid()).collect();
        let rows = sqlx::query!(
            r#"SELECT n.project_id, p.name AS project_name, n.id AS notice_id, n.name AS notice_name, n.kind, n.host, n.addresses, n.version,
                      n.key_id, n.sealed_key, n.sealed, coalesce(n.before_ends_at > farm_now(), false) AS "has_before!", m.id
               FROM notices n JOIN projects p ON p.id = n.project_id
                 CROSS JOIN LATERAL (
                    SELECT o.id, o.due_at, row_number() OVER (ORDER BY o.due_at, o.id) AS place FROM notice_messages o
                    WHERE o.project_id = n.project_id AND o.notice_id = n.id AND o.due_at <= farm_now() ORDER BY o.due_at, o.id LIMIT $4) m
               WHERE (n.next_at IS NULL OR n.next_at <= farm_now()) AND (n.claimed_until IS NULL OR n.claimed_until <= farm_now())
                 AND n.id <> ALL($2) AND n.host <> ALL($3)
               ORDER BY m.place, m.due_at, m.id LIMIT $1"#,
            most,
            &but,
            not_at,
            OF_ONE
        )
        .fetch_all(&self.pool)
        .await?;
        let due = rows.into_iter().filter_map(|row| {
            let kind = readable("a notice", row.notice_id, state(&row.kind))?;
            Some(Message {
                project: row.project_id.into(),
                project_name: row.project_name,
                notice: row.notice_id.into(),
                notice_name: row.notice_name,
                kind,
                host: row.host,
                addresses: row.addresses,
                version: row.version,
                sealed: sealed_of(row.key_id, row.sealed_key, row.sealed),
                has_before: row.has_before,
                id: row.id,
            })
        });
        Ok(due.collect())
    }

    /// Has a notice to oneself for a while ([`CLAIM`]), to send this by it. `None`: somebody has it, it is put off, or it goes elsewhere by
    /// now; or the message isn't there any more.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn claim_message(&self, epoch: Epoch, of: &Message) -> Result<Option<Claimed>> {
        let claim = if of.kind == NoticeKind::Mail { CLAIM_OF_MAIL } else { CLAIM };
        let mut tx = self.begin_leading(epoch).await?;
        let claimed = sqlx::query!(
            r#"UPDATE notices n SET claimed_until = farm_now() + make_interval(secs => $5) FROM notice_messages m
               WHERE n.project_id = $1 AND n.id = $2 AND n.version = $3 AND (n.claimed_until IS NULL OR n.claimed_until <= farm_now())
                 AND (n.next_at IS NULL OR n.next_at <= farm_now())
                 AND m.project_id = n.project_id AND m.notice_id = n.id AND m.id = $4 AND m.due_at <= farm_now()
               RETURNING m.event, m.facts, m.doubts, n.attempts,
                 extract(epoch FROM farm_now() - greatest(m.created_at, m.hour_at + interval '1 hour'))::float8 AS "age!""#,
            of.project.as_uuid(),
            of.notice.as_uuid(),
            of.version,
            of.id,
            claim.as_secs_f64()
        )
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(claimed.map(|row| Claimed {
            event: row.event,
            facts: row.facts,
            attempts: row.attempts,
            doubts: row.doubts,
            age: Duration::try_from_secs_f64(row.age).unwrap_or_default(),
        }))
    }

    /// Counts a mail of a project's. `Some`: it has had all that it may have in this hour, and how long that lasts.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn count_mail(&self, project: ProjectId) -> Result<Option<Duration>> {
        let row = sqlx::query!(
            r#"INSERT INTO notice_mails AS h (project_id, mails) VALUES ($1, 1)
               ON CONFLICT (project_id) DO UPDATE SET
                 mails = CASE WHEN h.hour_at > farm_now() - interval '1 hour' THEN least(h.mails, $2) + 1 ELSE 1 END,
                 hour_at = CASE WHEN h.hour_at > farm_now() - interval '1 hour' THEN h.hour_at ELSE farm_now() END
               RETURNING h.mails, extract(epoch FROM h.hour_at + interval '1 hour' - farm_now())::float8 AS "left!""#,
            project.as_uuid(),
            MOST_MAILS
        )
        .fetch_one(&self.pool)
        .await?;
        let left = Duration::try_from_secs_f64(row.left).unwrap_or_default();
        Ok((row.mails > MOST_MAILS).then_some(left.max(Duration::from_secs(1))))
    }

    /// Notes that a message was taken: it goes. That is so whoever leads by then.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: it isn't there any more.
    pub async fn message_sent(&self, of: &Message) -> Result<()> {
        let mut tx = self.begin().await?;
        remove(&mut tx, of).await?;
        sqlx::query!(
            "UPDATE notices SET told_at = farm_now(), sent = sent + 1, trouble = '', trouble_at = NULL, attempts = 0, next_at = NULL,
                claimed_until = NULL WHERE project_id = $1 AND id = $2",
            of.project.as_uuid(),
            of.notice.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// Has a message sent later, and nothing of its notice before: what comes first is told first.
    ///
    /// # Errors
    /// As of [`Self::message_sent`]; or another coordinator leads.
    pub async fn put_off_message(&self, epoch: Epoch, of: &Message, why: &str, again: Again) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE notice_messages SET doubts = doubts + $3 WHERE project_id = $1 AND id = $2",
            of.project.as_uuid(),
            of.id,
            i32::from(again.is_doubtful)
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the message"));
        }
        sqlx::query!(
            "UPDATE notices SET trouble = $3, trouble_at = farm_now(), attempts = attempts + 1,
                next_at = farm_now() + make_interval(secs => $4::float8), claimed_until = NULL WHERE project_id = $1 AND id = $2",
            of.project.as_uuid(),
            of.notice.as_uuid(),
            why,
            again.wait.as_secs_f64()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// Has a message sent no more: it goes, and is counted.
    ///
    /// # Errors
    /// As of [`Self::put_off_message`].
    pub async fn give_up_message(&self, epoch: Epoch, of: &Message, why: &str) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        remove(&mut tx, of).await?;
        sqlx::query!(
            "UPDATE notices SET given_up = given_up + 1, trouble = $3, trouble_at = farm_now(), claimed_until = NULL WHERE project_id = $1 AND id = $2",
            of.project.as_uuid(),
            of.notice.as_uuid(),
            why
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }
}

async fn remove(tx: &mut Session, of: &Message) -> Result<()> {
    let gone = sqlx::query!(
        "DELETE FROM notice_messages WHERE project_id = $1 AND id = $2",
        of.project.as_uuid(),
        of.id
    )
    .execute(&mut *tx)
    .await?;
    if gone.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Stale("the message")) }
}
