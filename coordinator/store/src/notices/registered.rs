//! A project's notices, as they are kept: where they go is sealed. This crate has no key; who opens that is the coordinator.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::{NoticeId, NoticeKind, ProjectId};
use serde_json::json;
use uuid::Uuid;

use super::rule::{MOST_AN_HOUR, Rule, SealedAddress, rule_of, sealed_of};
use crate::builds::mounts::SealedKey;
use crate::machines::leader::Epoch;
use crate::people::audit::{By, Deed};
use crate::people::standing::stays;
use crate::schema::shut_out;
use crate::unreadable::readable;
use crate::{Result, Store, StoreError, Tx, state, words};

/// The schema from which on coordinators know of notices.
const SCHEMA: i32 = 57;
/// The most notices of a project.
const MOST: i64 = 50;
/// Between two samples of a notice is so much.
const BETWEEN_TESTS: Duration = Duration::from_secs(10);

/// A notice that is to be made.
#[derive(Debug, Clone)]
pub struct NewNotice {
    /// Whose.
    pub project: ProjectId,
    /// What it is known by.
    pub id: NoticeId,
    /// What people call it.
    pub name: String,
    /// By what it is told.
    pub kind: NoticeKind,
    /// `HOST[:PORT]` of what is called; empty of mail.
    pub host: String,
    /// Of mail: to whom.
    pub addresses: Vec<String>,
    /// What is told.
    pub rule: Rule,
    /// Another one each time that what is sealed changes.
    pub version: Uuid,
    /// Where it goes; `None` of mail.
    pub sealed: Option<SealedAddress>,
}

/// A notice, as people see it, and what is sealed of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What it is known by.
    pub id: NoticeId,
    /// What people call it.
    pub name: String,
    /// By what it is told.
    pub kind: NoticeKind,
    /// `HOST[:PORT]` of what is called; empty of mail.
    pub host: String,
    /// Of mail: to whom.
    pub addresses: Vec<String>,
    /// What is told.
    pub rule: Rule,
    /// Which of its addresses it has.
    pub version: Uuid,
    /// Where it goes; `None` of mail.
    pub sealed: Option<SealedAddress>,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: DateTime<Utc>,
    /// When something was taken last.
    pub told_at: Option<DateTime<Utc>>,
    /// So much was taken.
    pub sent: i64,
    /// So much waits.
    pub waiting: i64,
    /// So much was given up.
    pub given_up: i64,
    /// Why the last one wasn't taken, and when that was.
    pub trouble: Option<(String, DateTime<Utc>)>,
    /// Something waits, and nothing is sent before then.
    pub next_at: Option<DateTime<Utc>>,
    /// There is too much to tell in this hour: the rest comes as one summary, then.
    pub held_until: Option<DateTime<Utc>>,
    /// Until then it is signed by the secret before, too.
    pub before_ends_at: Option<DateTime<Utc>>,
}

/// The data key of where a notice goes, which one of the farm's keys has sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeKey {
    /// Whose notice.
    pub project: ProjectId,
    /// Which.
    pub notice: NoticeId,
    /// Which of its addresses.
    pub version: Uuid,
    /// The data key.
    pub key: SealedKey,
}

impl Store {
    /// Makes a notice.
    ///
    /// From the first one on, coordinators that know nothing of notices are kept out: they would let a key of the farm be taken out that
    /// has sealed where one goes, and lead without telling anybody.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: the project has one of this name. [`StoreError::Older`]: such a coordinator runs. [`StoreError::Exhausted`]: it has too many.
    /// [`StoreError::NotFound`]: the project was removed, or has no hook of a name in the rule.
    pub async fn add_notice(&self, by: &By, new: &NewNotice) -> Result<()> {
        let mut tx = self.begin().await?;
        stays(&mut tx, new.project).await?;
        shut_out(&mut tx, SCHEMA, "notices").await?;
        let there = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM notices WHERE project_id = $1"#,
            new.project.as_uuid()
        )
        .fetch_one(&mut *tx)
        .await?;
        if there == 0 {
            // While there was none nobody has written down what ended.
            sqlx::query!("DELETE FROM notice_lines WHERE project_id = $1", new.project.as_uuid())
                .execute(&mut *tx)
                .await?;
        }
        if there >= MOST {
            let what =
                format!("the project has {there} notices, and more than {MOST} it may not have: remove some");
            return Err(StoreError::Exhausted { what, wait: None });
        }
        let known = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM hooks WHERE project_id = $1 AND removed_at IS NULL AND name = ANY($2)"#,
            new.project.as_uuid(),
            &new.rule.hooks
        )
        .fetch_one(&mut *tx)
        .await?;
        if usize::try_from(known).ok() != Some(new.rule.hooks.len()) {
            return Err(StoreError::NotFound("hook"));
        }
        let (events, refs) = (words(&new.rule.on), words(&new.rule.refs));
        let key = new.sealed.as_ref().map(|sealed| &sealed.key);
        let done = sqlx::query!(
            "INSERT INTO notices (project_id, id, name, kind, host, addresses, events, hooks, refs, version, key_id, sealed_key, sealed,
                                  created_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (project_id, name) DO NOTHING",
            new.project.as_uuid(),
            new.id.as_uuid(),
            new.name,
            new.kind.as_str(),
            new.host,
            &new.addresses,
            &events,
            &new.rule.hooks,
            &refs,
            new.version,
            key.map(|key| key.by.as_str()),
            key.map(|key| key.bytes.as_slice()),
            new.sealed.as_ref().map(|sealed| sealed.bytes.as_slice()),
            by.name
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            let why = format!("the project has a notice {} already; give this one another name", new.name);
            return Err(StoreError::Conflict(why));
        }
        let detail = json!({
            "id": new.id, "kind": new.kind.as_str(), "host": new.host, "addresses": new.addresses, "on": events,
            "hooks": new.rule.hooks, "refs": refs
        });
        let deed = Deed { project: Some(new.project), action: "notice.add", subject: &new.name, detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }

    /// The project's notices, by name.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn notices(&self, project: ProjectId) -> Result<Vec<Notice>> {
        let rows = sqlx::query!(
            r#"SELECT n.id, n.name, n.kind, n.host, n.addresses, n.events, n.hooks, n.refs, n.version, n.key_id, n.sealed_key, n.sealed,
                      n.created_by, n.created_at, n.told_at, n.sent, n.given_up, n.trouble, n.trouble_at,
                      CASE WHEN n.next_at > farm_now() THEN n.next_at END AS next_at,
                      CASE WHEN n.hour_count >= $2 AND n.hour_at > farm_now() - interval '1 hour'
                           THEN n.hour_at + interval '1 hour' END AS held_until,
                      CASE WHEN n.before_ends_at > farm_now() THEN n.before_ends_at END AS before_ends_at,
                      (SELECT count(*) FROM notice_messages m WHERE m.project_id = n.project_id AND m.notice_id = n.id) AS "waiting!"
               FROM notices n WHERE n.project_id = $1 ORDER BY n.name"#,
            project.as_uuid(),
            MOST_AN_HOUR
        )
        .fetch_all(&self.pool)
        .await?;
        let notices = rows.into_iter().filter_map(|row| {
            let (kind, rule) = (state(&row.kind), rule_of(&row.events, row.hooks, &row.refs));
            Some(Notice {
                id: row.id.into(),
                name: row.name,
                kind: readable("a notice", row.id, kind)?,
                host: row.host,
                addresses: row.addresses,
                rule: readable("a notice", row.id, rule)?,
                version: row.version,
                sealed: sealed_of(row.key_id, row.sealed_key, row.sealed),
                created_by: row.created_by,
                created_at: row.created_at,
                told_at: row.told_at,
                sent: row.sent,
                waiting: row.waiting,
                given_up: row.given_up,
                trouble: row.trouble_at.map(|at| (row.trouble, at)),
                next_at: row.next_at,
                held_until: row.held_until,
                before_ends_at: row.before_ends_at,
            })
        });
        Ok(notices.collect())
    }

    /// Gives a notice another secret; for a day it is signed by the one before as well.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: somebody else has changed or removed it meanwhile.
    pub async fn rotate_notice(
        &self,
        by: &By,
        project: ProjectId,
        of: &Notice,
        (version, sealed): (Uuid, &SealedAddress),
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        let done = sqlx::query!(
            "UPDATE notices SET version = $4, key_id = $5, sealed_key = $6, sealed = $7, before_ends_at = farm_now() + interval '1 day'
             WHERE project_id = $1 AND id = $2 AND version = $3",
            project.as_uuid(),
            of.id.as_uuid(),
            of.version,
            version,
            sealed.key.by,
            sealed.key.bytes,
            sealed.bytes
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the notice"));
        }
        let detail = json!({ "id": of.id });
        let deed = Deed { project: Some(project), action: "notice.rotate", subject: &of.name, detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }

    /// Notes that somebody has a sample sent.
    ///
    /// # Errors
    /// [`StoreError::Exhausted`]: somebody had one sent a moment ago. [`StoreError::NotFound`]: it was removed meanwhile.
    pub async fn notice_tested(&self, by: &By, project: ProjectId, of: &Notice) -> Result<()> {
        let mut tx = self.begin().await?;
        let before = sqlx::query_scalar!(
            "SELECT tested_at > farm_now() - make_interval(secs => $3) FROM notices WHERE project_id = $1 AND id = $2 FOR UPDATE",
            project.as_uuid(),
            of.id.as_uuid(),
            BETWEEN_TESTS.as_secs_f64()
        )
        .fetch_optional(&mut *tx)
        .await?;
        if before.ok_or(StoreError::NotFound("notice"))? == Some(true) {
            let what = format!(
                "a sample was sent by notice {} a moment ago, and so often that it would be a nuisance none is: try again in {} s",
                of.name,
                BETWEEN_TESTS.as_secs()
            );
            return Err(StoreError::Exhausted { what, wait: None });
        }
        sqlx::query!(
            "UPDATE notices SET tested_at = farm_now() WHERE project_id = $1 AND id = $2",
            project.as_uuid(),
            of.id.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        let detail = json!({ "id": of.id });
        by.did(&mut tx, Deed { project: Some(project), action: "notice.test", subject: &of.name, detail })
            .await?;
        tx.commit().await
    }

    /// A sample was taken: what waits is sent now.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn notice_goes_on(&self, project: ProjectId, id: NoticeId) -> Result<()> {
        sqlx::query!(
            "UPDATE notices SET attempts = 0, next_at = NULL WHERE project_id = $1 AND id = $2",
            project.as_uuid(),
            id.as_uuid()
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Removes a notice, with what waits to be told by it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the project has none of this name.
    pub async fn remove_notice(&self, by: &By, project: ProjectId, name: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        let removed = sqlx::query_scalar!(
            "DELETE FROM notices WHERE project_id = $1 AND name = $2 RETURNING id",
            project.as_uuid(),
            name
        )
        .fetch_optional(&mut *tx)
        .await?;
        let id = removed.ok_or(StoreError::NotFound("notice"))?;
        let deed = Deed {
            project: Some(project),
            action: "notice.remove",
            subject: name,
            detail: json!({ "id": id }),
        };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }

    /// Data keys of where notices go that were sealed by one of these keys of the farm: the next after that of a notice.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn notice_keys_by(
        &self,
        keys: &[String],
        after: Option<(ProjectId, NoticeId)>,
        most: i64,
    ) -> Result<Vec<NoticeKey>> {
        let rows = sqlx::query!(
            r#"SELECT project_id, id, version, key_id AS "key_id!", sealed_key AS "sealed_key!" FROM notices
               WHERE key_id = ANY($1) AND ($3::uuid IS NULL OR (project_id, id) > ($3, $4)) ORDER BY project_id, id LIMIT $2"#,
            keys,
            most,
            after.map(|(project, _)| project.as_uuid()),
            after.map(|(_, notice)| notice.as_uuid())
        )
        .fetch_all(&self.pool)
        .await?;
        let keys = rows.into_iter().map(|row| NoticeKey {
            project: row.project_id.into(),
            notice: row.id.into(),
            version: row.version,
            key: SealedKey { by: row.key_id, bytes: row.sealed_key },
        });
        Ok(keys.collect())
    }

    /// Exchanges such a data key for the same, sealed by another key. False: it was rotated or removed meanwhile.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn reseal_notice_key(&self, epoch: Epoch, old: &NoticeKey, new: &SealedKey) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE notices SET key_id = $4, sealed_key = $5
             WHERE project_id = $1 AND id = $2 AND version = $3 AND key_id = $6 AND sealed_key = $7",
            old.project.as_uuid(),
            old.notice.as_uuid(),
            old.version,
            new.by,
            new.bytes,
            old.key.by,
            old.key.bytes
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }
}

/// Removes all notices of a project that is removed, and what they would have told.
pub(crate) async fn remove_all(tx: &mut Tx, project: ProjectId) -> Result<()> {
    sqlx::query!("DELETE FROM notices WHERE project_id = $1", project.as_uuid()).execute(&mut **tx).await?;
    sqlx::query!("DELETE FROM notice_events WHERE project_id = $1", project.as_uuid())
        .execute(&mut **tx)
        .await?;
    sqlx::query!("DELETE FROM notice_lines WHERE project_id = $1", project.as_uuid())
        .execute(&mut **tx)
        .await?;
    sqlx::query!("DELETE FROM notice_mails WHERE project_id = $1", project.as_uuid())
        .execute(&mut **tx)
        .await?;
    Ok(())
}
