//! What has ended and is to be told: what follows from it for each notice is decided in one transaction, with which it is over.
//!
//! Whether a build has recovered is told by how the last one of its line has ended, of the same image and ref of a hook. An older one
//! that ends late says nothing of the line, and nobody is told that it has failed: nothing would ever say that this is over.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::{BuildId, Digest, HookId, NoticeOn, ProjectId};
use serde_json::Value;
use uuid::Uuid;

use super::hour::{End, Hour, Summary};
use super::rule::{MOST_AN_HOUR, Rule, rule_of};
use crate::machines::leader::Epoch;
use crate::proof::LeaderTx;
use crate::unreadable::readable;
use crate::{Result, Store, StoreError, from_json, to_json};

/// A line that nothing has ended of for so long is forgotten.
const LINE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Something that has ended in a project that has notices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Whose.
    pub project: ProjectId,
    /// Its name.
    pub project_name: String,
    /// In which order they have ended, about.
    pub id: i64,
    /// What.
    pub what: What,
    /// Of a build that is there: its place among all intentions.
    pub order_key: Option<i64>,
    /// When.
    pub ended_at: DateTime<Utc>,
}

/// What has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A build.
    Build(BuildId),
    /// A delivery has failed.
    Delivery {
        /// Which hook it came to.
        hook: HookId,
        /// The sender's id of it.
        id: String,
        /// Why.
        reason: String,
    },
}

/// By which delivery a build, or the one that it retries, was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BegunBy {
    /// Which hook.
    pub hook: HookId,
    /// The sender's id of the delivery.
    pub delivery: String,
    /// What people call the hook; `None`: it was removed long ago.
    pub hook_name: Option<String>,
    /// The image's name in the rules.
    pub image: String,
    /// Which ref it is about.
    pub git_ref: String,
}

/// A delivery, as it came, and its hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Came {
    /// What people call the hook.
    pub hook: String,
    /// Who sends.
    pub provider: String,
    /// `HOST[:PORT]` of the repository.
    pub host: String,
    /// `OWNER/REPO` there.
    pub full_name: String,
    /// What kind of event it is, in the sender's word.
    pub event: String,
    /// Which ref it is about, if it came so far that that is known.
    pub git_ref: Option<String>,
    /// Those headers that were kept.
    pub headers: BTreeMap<String, String>,
    /// As it came.
    pub body: Vec<u8>,
}

/// How something has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Well.
    Succeeded,
    /// It has failed.
    Failed,
    /// Nobody wanted it any more.
    Cancelled,
}

/// What is told of an end.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// How.
    pub how: How,
    /// The hook that has begun it, by its name.
    pub hook: Option<String>,
    /// Which ref it is of.
    pub git_ref: Option<String>,
    /// What it is one of.
    pub line: Option<Digest>,
    /// What people call it, in summaries.
    pub name: String,
    /// For whoever makes the message.
    pub facts: Value,
}

/// What an end says of its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// That it is as it was, or that it has failed.
    So,
    /// That it is well again.
    Recovered,
    /// Nothing: a newer one has ended before.
    Late,
}

/// As what an end is told by a rule.
fn event(rule: &Rule, told: &Told, stands: Stands) -> Option<NoticeOn> {
    let is_of_hook =
        rule.hooks.is_empty() || told.hook.as_ref().is_some_and(|hook| rule.hooks.contains(hook));
    let covers = |full: &String| rule.refs.iter().any(|one| one.covers(full));
    let is_of_ref = rule.refs.is_empty() || told.git_ref.as_ref().is_some_and(covers);
    let events: &[NoticeOn] = match told.how {
        How::Failed if stands == Stands::Late => &[],
        How::Failed => &[NoticeOn::Failure],
        How::Succeeded if stands == Stands::Recovered => &[NoticeOn::Recovered, NoticeOn::Success],
        How::Succeeded => &[NoticeOn::Success],
        How::Cancelled => &[NoticeOn::Cancelled],
    };
    let wanted = events.iter().copied().find(|event| rule.on.contains(event));
    wanted.filter(|_| is_of_hook && is_of_ref)
}

impl Store {
    /// What has ended and wasn't looked at, the oldest first.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn ended(&self, most: i64) -> Result<Vec<Ended>> {
        let rows = sqlx::query!(
            "SELECT e.project_id, p.name AS project_name, e.id, e.build_id, e.hook_id, e.delivery_id, e.reason, e.ended_at,
                    (SELECT b.order_key FROM builds b WHERE b.project_id = e.project_id AND b.id = e.build_id) AS order_key
             FROM notice_events e JOIN projects p ON p.id = e.project_id ORDER BY e.id LIMIT $1",
            most
        )
        .fetch_all(&self.pool)
        .await?;
        let ended = rows.into_iter().filter_map(|row| {
            let what = match (row.build_id, row.hook_id, row.delivery_id) {
                (Some(build), None, None) => Ok(What::Build(build.into())),
                (None, Some(hook), Some(id)) => {
                    Ok(What::Delivery { hook: hook.into(), id, reason: row.reason })
                }
                _ => Err(StoreError::corrupt("an end is of a build or of a delivery")),
            };
            Some(Ended {
                project: row.project_id.into(),
                project_name: row.project_name,
                id: row.id,
                what: readable("an end", row.id, what)?,
                order_key: row.order_key,
                ended_at: row.ended_at,
            })
        });
        Ok(ended.collect())
    }

    /// By which delivery the build of an image, or one that it retries, was begun.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn begun_by(&self, project: ProjectId, build: BuildId) -> Result<Option<BegunBy>> {
        let row = sqlx::query!(
            r#"WITH RECURSIVE before AS (
                SELECT id, retry_of, 0 AS depth FROM builds WHERE project_id = $1 AND id = $2
                UNION ALL SELECT b.id, b.retry_of, f.depth + 1 FROM before f JOIN builds b ON b.project_id = $1 AND b.id = f.retry_of)
               SELECT h.hook_id, h.delivery_id, h.image, h.git_ref,
                 (SELECT o.name FROM hooks o WHERE o.project_id = h.project_id AND o.id = h.hook_id) AS hook_name
               FROM before f JOIN hook_builds h ON h.project_id = $1 AND h.build_id = f.id AND h.kind = 'image' ORDER BY f.depth LIMIT 1"#,
            project.as_uuid(),
            build.as_uuid()
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| BegunBy {
            hook: row.hook_id.into(),
            delivery: row.delivery_id,
            hook_name: row.hook_name,
            image: row.image,
            git_ref: row.git_ref,
        }))
    }

    /// A delivery as it came; `None`: it isn't kept any more.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn delivery_that_came(
        &self,
        project: ProjectId,
        hook: HookId,
        id: &str,
    ) -> Result<Option<Came>> {
        let row = sqlx::query!(
            "SELECT h.name, h.provider, h.host, h.full_name, d.event, d.git_ref, d.headers, d.body
             FROM deliveries d JOIN hooks h ON h.project_id = d.project_id AND h.id = d.hook_id
             WHERE d.project_id = $1 AND d.hook_id = $2 AND d.id = $3",
            project.as_uuid(),
            hook.as_uuid(),
            id
        )
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            Ok(Came {
                hook: row.name,
                provider: row.provider,
                host: row.host,
                full_name: row.full_name,
                event: row.event,
                git_ref: row.git_ref,
                headers: from_json(row.headers)?,
                body: row.body,
            })
        })
        .transpose()
    }

    /// Makes messages of an end, for each notice whose rule wants it; with that it was looked at. `None`: nobody is told of it. Gives how
    /// many there are.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: it was looked at already. Or another coordinator leads.
    pub async fn tell(&self, epoch: Epoch, of: &Ended, told: Option<&Told>) -> Result<usize> {
        let mut tx = self.begin_leading(epoch).await?;
        let looked_at = sqlx::query!(
            "DELETE FROM notice_events WHERE project_id = $1 AND id = $2",
            of.project.as_uuid(),
            of.id
        )
        .execute(&mut *tx)
        .await?;
        if looked_at.rows_affected() != 1 {
            return Err(StoreError::Stale("the end"));
        }
        let mut made = 0;
        if let Some(told) = told {
            let stands = go_on(&mut tx, of, told).await?;
            let rows = sqlx::query!(
                "SELECT id, events, hooks, refs FROM notices WHERE project_id = $1 ORDER BY id FOR NO KEY UPDATE",
                of.project.as_uuid()
            )
            .fetch_all(&mut *tx)
            .await?;
            for row in rows {
                let rule = rule_of(&row.events, row.hooks, &row.refs);
                let Some(rule) = readable("a notice", row.id, rule) else { continue };
                if let Some(event) = event(&rule, told, stands) {
                    add(&mut tx, of, row.id, event, told).await?;
                    made += 1;
                }
            }
        }
        tx.commit().await?;
        Ok(made)
    }

    /// Forgets lines of which nothing has ended for long. Answers how many.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn forget_notice_lines(&self, epoch: Epoch, limit: i64) -> Result<u64> {
        let mut tx = self.begin_leading(epoch).await?;
        let gone = sqlx::query!(
            "DELETE FROM notice_lines WHERE (project_id, line) IN (
                SELECT project_id, line FROM notice_lines WHERE ended_at < farm_now() - make_interval(secs => $1) LIMIT $2)",
            LINE.as_secs_f64(),
            limit
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(gone.rows_affected())
    }
}

/// Notes how a line stands by an end.
async fn go_on(tx: &mut LeaderTx, of: &Ended, told: &Told) -> Result<Stands> {
    let Some((line, order_key)) = told.line.zip(of.order_key) else { return Ok(Stands::So) };
    let failed = match told.how {
        How::Cancelled => return Ok(Stands::So),
        How::Failed => true,
        How::Succeeded => false,
    };
    let before = sqlx::query!(
        "SELECT order_key, failed FROM notice_lines WHERE project_id = $1 AND line = $2 FOR UPDATE",
        of.project.as_uuid(),
        line.as_bytes().as_slice()
    )
    .fetch_optional(&mut **tx)
    .await?;
    if before.as_ref().is_some_and(|before| before.order_key > order_key) {
        return Ok(Stands::Late);
    }
    sqlx::query!(
        "INSERT INTO notice_lines (project_id, line, order_key, failed, ended_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (project_id, line) DO UPDATE SET order_key = EXCLUDED.order_key, failed = EXCLUDED.failed,
            ended_at = EXCLUDED.ended_at",
        of.project.as_uuid(),
        line.as_bytes().as_slice(),
        order_key,
        failed,
        of.ended_at
    )
    .execute(&mut **tx)
    .await?;
    let has_recovered = !failed && before.is_some_and(|before| before.failed);
    Ok(if has_recovered { Stands::Recovered } else { Stands::So })
}

/// Puts a message into the outbox, or adds it to the hour's summary where there is too much. The notice's row is held.
async fn add(tx: &mut LeaderTx, of: &Ended, notice: Uuid, event: NoticeOn, told: &Told) -> Result<()> {
    let hour = sqlx::query!(
        r#"UPDATE notices SET hour_count = CASE WHEN hour_at > farm_now() - interval '1 hour' THEN hour_count ELSE 0 END,
               hour_lines = CASE WHEN hour_at > farm_now() - interval '1 hour' THEN hour_lines ELSE '{}' END,
               hour_at = CASE WHEN hour_at > farm_now() - interval '1 hour' THEN hour_at ELSE farm_now() END
           WHERE project_id = $1 AND id = $2 RETURNING hour_count, hour_lines, hour_at, hour_at + interval '1 hour' AS "ends_at!""#,
        of.project.as_uuid(),
        notice
    )
    .fetch_one(&mut **tx)
    .await?;
    let end = End { event, name: &told.name, hook: told.hook.as_deref(), git_ref: told.git_ref.as_deref() };
    let mut said: Hour = Hour { count: hour.hour_count, lines: from_json(hour.hour_lines)? };
    if said.tells(&end) {
        let mut facts = told.facts.clone();
        if let (MOST_AN_HOUR, Some(facts)) = (said.count, facts.as_object_mut()) {
            facts.insert("held_until".to_owned(), to_json(&hour.ends_at)?);
        }
        sqlx::query!(
            "UPDATE notices SET hour_count = $3, hour_lines = $4 WHERE project_id = $1 AND id = $2",
            of.project.as_uuid(),
            notice,
            said.count,
            to_json(&said.lines)?
        )
        .execute(&mut **tx)
        .await?;
        sqlx::query!(
            "INSERT INTO notice_messages (project_id, id, notice_id, event, facts) VALUES ($1, $2, $3, $4, $5)",
            of.project.as_uuid(),
            Uuid::now_v7(),
            notice,
            event.as_str(),
            facts
        )
        .execute(&mut **tx)
        .await?;
        return Ok(());
    }
    let there = sqlx::query_scalar!(
        "SELECT facts FROM notice_messages WHERE project_id = $1 AND notice_id = $2 AND hour_at = $3 FOR UPDATE",
        of.project.as_uuid(),
        notice,
        hour.hour_at
    )
    .fetch_optional(&mut **tx)
    .await?;
    let mut summary: Summary = there.map(from_json).transpose()?.unwrap_or_default();
    summary.add(&end);
    sqlx::query!(
        "INSERT INTO notice_messages (project_id, id, notice_id, event, facts, hour_at, due_at) VALUES ($1, $2, $3, 'summary', $4, $5, $6)
         ON CONFLICT (project_id, notice_id, hour_at) DO UPDATE SET facts = EXCLUDED.facts",
        of.project.as_uuid(),
        Uuid::now_v7(),
        notice,
        to_json(&summary)?,
        hour.hour_at,
        hour.ends_at
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_wants_ends_of_its_hooks_and_refs_and_says_once_that_something_is_well_again() {
        let rule = |on: &[NoticeOn], hooks: &[&str], refs: &[&str]| Rule {
            on: on.to_vec(),
            hooks: hooks.iter().map(|one| (*one).to_owned()).collect(),
            refs: refs.iter().map(|one| one.parse().unwrap()).collect(),
        };
        let told = |how, hook: Option<&str>, git_ref: Option<&str>| Told {
            how,
            hook: hook.map(ToOwned::to_owned),
            git_ref: git_ref.map(ToOwned::to_owned),
            line: None,
            name: String::new(),
            facts: Value::Null,
        };
        let (all, usual) = (rule(&NoticeOn::ALL, &[], &[]), rule(&NoticeOn::USUAL, &[], &[]));
        let of_cli = |how| told(how, None, None);
        for (how, stands, by_all, by_usual) in [
            (How::Failed, Stands::So, Some(NoticeOn::Failure), Some(NoticeOn::Failure)),
            (How::Failed, Stands::Late, None, None),
            (How::Succeeded, Stands::So, Some(NoticeOn::Success), None),
            (How::Succeeded, Stands::Late, Some(NoticeOn::Success), None),
            (How::Succeeded, Stands::Recovered, Some(NoticeOn::Recovered), Some(NoticeOn::Recovered)),
            (How::Cancelled, Stands::So, Some(NoticeOn::Cancelled), None),
        ] {
            assert_eq!(event(&all, &of_cli(how), stands), by_all);
            assert_eq!(event(&usual, &of_cli(how), stands), by_usual);
        }
        let success = rule(&[NoticeOn::Success], &[], &[]);
        assert_eq!(event(&success, &of_cli(How::Succeeded), Stands::Recovered), Some(NoticeOn::Success));
        let main = rule(&NoticeOn::USUAL, &["app", "web"], &["refs/heads/main", "refs/tags/v*"]);
        for (hook, git_ref, is_wanted) in [
            (Some("app"), Some("refs/heads/main"), true),
            (Some("web"), Some("refs/tags/v1"), true),
            (Some("app"), Some("refs/heads/other"), false),
            (Some("other"), Some("refs/heads/main"), false),
            (Some("app"), None, false),
            (None, None, false),
        ] {
            let told = told(How::Failed, hook, git_ref);
            assert_eq!(event(&main, &told, Stands::So).is_some(), is_wanted, "{hook:?} {git_ref:?}");
        }
    }
}
