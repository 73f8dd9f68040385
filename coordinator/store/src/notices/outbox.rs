//! Messages on their way: claimed by the coordinator that leads, sent, and then gone; or tried again, and given up after all.
//!
//! A message is sent at least once: whoever dies between its answer and the note of that leaves it to be sent again, under the same id.

use std::time::Duration;

use farm_types::{NoticeId, NoticeKind, ProjectId};
use serde_json::Value;
use uuid::Uuid;

use super::rule::{SealedAddress, sealed_of};
use crate::machines::leader::Epoch;
use crate::proof::LeaderTx;
use crate::{Result, Store, StoreError, state};

/// A claim counts for so long: longer than a request may take.
pub const CLAIM: Duration = Duration::from_secs(60);

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
    /// `failure`, `recovered`, `success`, `cancelled` or `summary`.
    pub event: String,
    /// What it says.
    pub facts: Value,
    /// How often it was tried.
    pub attempts: i32,
    /// For how long it is to be told.
    pub age: Duration,
}

impl Store {
    /// Whether anything has ended that wasn't looked at, or is soon to be sent.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn has_open_notices(&self) -> Result<bool> {
        let open = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM notice_events)
                   OR EXISTS (SELECT FROM notice_messages WHERE due_at <= farm_now() + interval '10 seconds') AS "open!""#
        );
        Ok(open.fetch_one(&self.pool).await?)
    }

    /// What is due: of each notice what is due for longest, then of each the next. Nothing of these notices, and nothing that goes to these
    /// hosts.
    ///
    /// # Errors
    /// The database can't be reached, or holds what isn't understood.
    pub async fn messages_to_send(
        &self,
        most: i64,
        but: &[NoticeId],
        not_at: &[String],
    ) -> Result<Vec<Message>> {
        let but: Vec<Uuid> = but.iter().map(|notice| notice.as_uuid()).collect();
        let rows = sqlx::query!(
            r#"SELECT m.project_id, p.name AS project_name, m.notice_id, n.name AS notice_name, n.kind, n.host, n.addresses, n.version,
                      n.key_id, n.sealed_key, n.sealed, coalesce(n.before_ends_at > farm_now(), false) AS "has_before!", m.id, m.event,
                      m.facts, m.attempts,
                      extract(epoch FROM farm_now() - greatest(m.created_at, m.hour_at + interval '1 hour'))::float8 AS "age!"
               FROM notice_messages m JOIN notices n ON n.project_id = m.project_id AND n.id = m.notice_id
                 JOIN projects p ON p.id = m.project_id
               WHERE m.due_at <= farm_now() AND (m.claimed_until IS NULL OR m.claimed_until <= farm_now())
                 AND (n.quiet_until IS NULL OR n.quiet_until <= farm_now()) AND n.id <> ALL($2) AND n.host <> ALL($3)
               ORDER BY row_number() OVER (PARTITION BY m.project_id, m.notice_id ORDER BY m.due_at, m.created_at, m.id), m.due_at, m.id
               LIMIT $1"#,
            most,
            &but,
            not_at
        )
        .fetch_all(&self.pool)
        .await?;
        let due = rows.into_iter().map(|row| {
            Ok(Message {
                project: row.project_id.into(),
                project_name: row.project_name,
                notice: row.notice_id.into(),
                notice_name: row.notice_name,
                kind: state(&row.kind)?,
                host: row.host,
                addresses: row.addresses,
                version: row.version,
                sealed: sealed_of(row.key_id, row.sealed_key, row.sealed),
                has_before: row.has_before,
                id: row.id,
                event: row.event,
                facts: row.facts,
                attempts: row.attempts,
                age: Duration::try_from_secs_f64(row.age).unwrap_or_default(),
            })
        });
        due.collect()
    }

    /// Has a message to oneself for a while ([`CLAIM`]). False: somebody has it, it isn't due, or the notice goes elsewhere by now.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn claim_message(&self, epoch: Epoch, of: &Message) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE notice_messages m SET claimed_until = farm_now() + make_interval(secs => $4) FROM notices n
             WHERE m.project_id = $1 AND m.id = $2 AND m.due_at <= farm_now() AND (m.claimed_until IS NULL OR m.claimed_until <= farm_now())
               AND n.project_id = m.project_id AND n.id = m.notice_id AND n.version = $3
               AND (n.quiet_until IS NULL OR n.quiet_until <= farm_now())",
            of.project.as_uuid(),
            of.id,
            of.version,
            CLAIM.as_secs_f64()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Notes that a message was taken: it goes.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: it isn't there any more. Or another coordinator leads.
    pub async fn message_sent(&self, epoch: Epoch, of: &Message) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        remove(&mut tx, of).await?;
        sqlx::query!(
            "UPDATE notices SET told_at = farm_now(), sent = sent + 1, trouble = '', trouble_at = NULL, quiet_until = NULL
             WHERE project_id = $1 AND id = $2",
            of.project.as_uuid(),
            of.notice.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// Has a message sent later; where the receiver has said for how long it wants to hear nothing, nothing of its notice is sent before.
    ///
    /// # Errors
    /// As of [`Self::message_sent`].
    pub async fn put_off_message(
        &self,
        epoch: Epoch,
        of: &Message,
        why: &str,
        wait: Duration,
        is_asked_for: bool,
    ) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE notice_messages SET claimed_until = NULL, attempts = attempts + 1, due_at = farm_now() + make_interval(secs => $3)
             WHERE project_id = $1 AND id = $2",
            of.project.as_uuid(),
            of.id,
            wait.as_secs_f64()
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the message"));
        }
        let quiet = is_asked_for.then_some(wait.as_secs_f64());
        sqlx::query!(
            "UPDATE notices SET trouble = $3, trouble_at = farm_now(), quiet_until = farm_now() + make_interval(secs => $4::float8)
             WHERE project_id = $1 AND id = $2",
            of.project.as_uuid(),
            of.notice.as_uuid(),
            why,
            quiet
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// Has a message sent no more: it goes, and is counted.
    ///
    /// # Errors
    /// As of [`Self::message_sent`].
    pub async fn give_up_message(&self, epoch: Epoch, of: &Message, why: &str) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        remove(&mut tx, of).await?;
        sqlx::query!(
            "UPDATE notices SET given_up = given_up + 1, trouble = $3, trouble_at = farm_now() WHERE project_id = $1 AND id = $2",
            of.project.as_uuid(),
            of.notice.as_uuid(),
            why
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }
}

async fn remove(tx: &mut LeaderTx, of: &Message) -> Result<()> {
    let gone = sqlx::query!(
        "DELETE FROM notice_messages WHERE project_id = $1 AND id = $2",
        of.project.as_uuid(),
        of.id
    )
    .execute(&mut **tx)
    .await?;
    if gone.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Stale("the message")) }
}
