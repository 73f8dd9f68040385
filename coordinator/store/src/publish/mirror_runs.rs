//! Runs of mirrors: each one copies an image once, by builds as others are.
//!
//! A run is begun once, whoever leads ([`Store::begin_mirrors`]), and has a number. Of that the keys of its builds are made ([`run_key`]), so
//! whoever takes over in the middle finds those that are there. One goes on or none: while it does, no other is due.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_core::publish::mirror::{Ran, next};
use farm_types::state::BuildState;
use farm_types::{
    BuildId, Digest, Failure, ImageRef, ImageTag, MirrorId, Platform, PrincipalId, PrincipalKind, ProjectId,
    Role, ShortId,
};
use serde_json::json;

use crate::machines::leader::Epoch;
use crate::people::audit::{By, Deed};
use crate::unreadable::readable;
use crate::{Result, Store, StoreError, Tx, digest, fit, from_json, state};

/// A build of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunBuild {
    /// What stands behind the destination's tag; empty: nothing.
    pub part: String,
    /// What it is known by.
    pub short_id: ShortId,
    /// Where it stands.
    pub state: BuildState,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// What it publishes.
    pub digest: Option<Digest>,
}

/// In whose name a run copies, as that one stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// What it is known by.
    pub id: PrincipalId,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: PrincipalKind,
    /// What it may do in the project; `None`: nothing any more.
    pub role: Option<Role>,
}

/// A run that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Whose.
    pub project: ProjectId,
    /// The project's name.
    pub project_name: String,
    /// Of which mirror.
    pub mirror: MirrorId,
    /// The image.
    pub source: ImageRef,
    /// The tag that it gets.
    pub destination: ImageTag,
    /// Of an index these only; none: all of it.
    pub platforms: Vec<Platform>,
    /// Each platform's image gets a tag of its own, too.
    pub per_arch: bool,
    /// Its number.
    pub number: i64,
    /// When it began.
    pub began_at: DateTime<Utc>,
    /// So often its builds could not be made for now.
    pub tries: u32,
    /// In whose name; `None`: whoever has the farm's token file.
    pub owner: Option<Owner>,
    /// The most that may be done by that.
    pub most: Role,
    /// Who has asked for it.
    pub created_by: String,
    /// Its builds so far.
    pub builds: Vec<RunBuild>,
    /// The farm's time.
    pub now: DateTime<Utc>,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    /// All of it was copied: this.
    Copied(Digest),
    /// It wasn't, or not all of it: why.
    Failed(String),
    /// Nothing was begun: why not.
    Refused(String),
}

/// By which idempotency key a run makes its build of the destination itself; of the others `-` and their part follow.
pub fn run_key(mirror: MirrorId, number: i64) -> String {
    format!("mirror {mirror} {number}")
}

impl Run {
    /// By which idempotency key it makes the build of a part.
    pub fn key(&self, part: &str) -> String {
        let key = run_key(self.mirror, self.number);
        if part.is_empty() { key } else { format!("{key}-{part}") }
    }

    /// Its build of a part.
    pub fn build(&self, part: &str) -> Option<&RunBuild> {
        self.builds.iter().find(|build| build.part == part)
    }
}

impl Store {
    /// Begins a run of each mirror that is due and has none; those that are due for longest first. Answers how many. One whose last run has
    /// ended later than now is due as well: the clock was set back.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn begin_mirrors(&self, epoch: Epoch, most: i64) -> Result<u64> {
        // Mostly nothing is due, and then nothing is held.
        let due = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM mirrors m JOIN projects p ON p.id = m.project_id AND p.removed_at IS NULL
                              WHERE NOT m.is_running
                                AND (m.next_at <= farm_now() OR m.ended_at > farm_now() + interval '1 minute')) AS "due!""#
        );
        if !due.fetch_one(&self.pool).await? {
            return Ok(0);
        }
        let mut tx = self.begin_leading(epoch).await?;
        let begun = sqlx::query!(
            "UPDATE mirrors m SET is_running = true, run = run + 1, began_at = farm_now(), look_at = farm_now(), tries = 0,
                    next_at = least(m.next_at, farm_now()), ended_at = least(m.ended_at, farm_now())
             FROM (SELECT d.project_id, d.id FROM mirrors d JOIN projects p ON p.id = d.project_id AND p.removed_at IS NULL
                   WHERE NOT d.is_running AND (d.next_at <= farm_now() OR d.ended_at > farm_now() + interval '1 minute')
                   ORDER BY d.next_at LIMIT $1 FOR UPDATE OF d) due
             WHERE m.project_id = due.project_id AND m.id = due.id AND NOT m.is_running",
            most
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(begun.rows_affected())
    }

    /// Runs that go on and are to be looked at, with their builds.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn mirror_runs(&self, most: i64) -> Result<Vec<Run>> {
        let rows = sqlx::query!(
            r#"SELECT m.project_id, p.name AS project_name, m.id, m.source, m.destination, m.platforms, m.per_arch, m.run,
                      m.began_at AS "began_at!", m.tries, m.most, m.created_by, m.owner_id, o.name AS "owner_name?", o.kind AS "owner_kind?",
                      CASE WHEN o.is_farm_admin THEN 'admin' ELSE r.role END AS owner_role, farm_now() AS "now!"
               FROM mirrors m JOIN projects p ON p.id = m.project_id AND p.removed_at IS NULL
               LEFT JOIN principals o ON o.id = m.owner_id
               LEFT JOIN members r ON r.project_id = m.project_id AND r.principal_id = m.owner_id
               WHERE m.is_running AND m.look_at <= farm_now() ORDER BY m.look_at LIMIT $1"#,
            most
        )
        .fetch_all(&self.pool)
        .await?;
        let mut runs = Vec::with_capacity(rows.len());
        for row in rows {
            let (project, mirror) = (ProjectId::from(row.project_id), MirrorId::from(row.id));
            let builds = self.builds_of_run(project, mirror, row.run).await?;
            let read = || {
                let owner = match (row.owner_id, row.owner_name, row.owner_kind) {
                    (Some(id), Some(name), Some(kind)) => Some(Owner {
                        id: id.into(),
                        name,
                        kind: state(&kind)?,
                        role: row.owner_role.as_deref().map(state).transpose()?,
                    }),
                    _ => None,
                };
                let platforms = row.platforms.iter().map(|one| state(one)).collect::<Result<_>>()?;
                Ok(Run {
                    project,
                    project_name: row.project_name,
                    mirror,
                    source: state(&row.source)?,
                    destination: state(&row.destination)?,
                    platforms,
                    per_arch: row.per_arch,
                    number: row.run,
                    began_at: row.began_at,
                    tries: fit(row.tries)?,
                    owner,
                    most: state(&row.most)?,
                    created_by: row.created_by,
                    builds,
                    now: row.now,
                })
            };
            runs.extend(readable("a mirror", row.id, read()));
        }
        Ok(runs)
    }

    async fn builds_of_run(&self, project: ProjectId, mirror: MirrorId, run: i64) -> Result<Vec<RunBuild>> {
        let rows = sqlx::query!(
            r#"SELECT m.part, b.short_id, b.state, b.failure,
                      (SELECT p.index_digest FROM publications p WHERE p.project_id = b.project_id AND p.build_id = b.id) AS index_digest
               FROM mirror_builds m JOIN builds b ON b.project_id = m.project_id AND b.id = m.build_id
               WHERE m.project_id = $1 AND m.mirror_id = $2 AND m.run = $3 ORDER BY m.part"#,
            project.as_uuid(),
            mirror.as_uuid(),
            run
        )
        .fetch_all(&self.pool)
        .await?;
        let builds = rows.into_iter().map(|row| {
            Ok(RunBuild {
                part: row.part,
                short_id: state(&row.short_id)?,
                state: state(&row.state)?,
                failure: row.failure.map(from_json).transpose()?,
                digest: row.index_digest.as_deref().map(digest).transpose()?,
            })
        });
        builds.collect()
    }

    /// Notes a build of a run; those of the runs before are forgotten.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: the run has ended, or its mirror was removed. Or another coordinator leads.
    pub async fn note_mirror_build(&self, epoch: Epoch, run: &Run, part: &str, build: BuildId) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        hold(tx.tx(), run).await?;
        let (project, mirror) = (run.project.as_uuid(), run.mirror.as_uuid());
        sqlx::query!(
            "DELETE FROM mirror_builds WHERE project_id = $1 AND mirror_id = $2 AND run <> $3",
            project,
            mirror,
            run.number
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "INSERT INTO mirror_builds (project_id, mirror_id, run, part, build_id) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (project_id, mirror_id, run, part) DO NOTHING",
            project,
            mirror,
            run.number,
            part,
            build.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// Has a run looked at again after a while; `is_trouble`: as something could not be done for now.
    ///
    /// # Errors
    /// As [`Self::note_mirror_build`].
    pub async fn look_at_mirror_later(
        &self,
        epoch: Epoch,
        run: &Run,
        after: Duration,
        is_trouble: bool,
    ) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        hold(tx.tx(), run).await?;
        sqlx::query!(
            "UPDATE mirrors SET look_at = farm_now() + make_interval(secs => $3), tries = tries + $4 WHERE project_id = $1 AND id = $2",
            run.project.as_uuid(),
            run.mirror.as_uuid(),
            after.as_secs_f64(),
            i32::from(is_trouble)
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// Ends a run, and says when the next one is due. One that was refused is audited, as no build tells of it.
    ///
    /// # Errors
    /// As [`Self::note_mirror_build`].
    pub async fn end_mirror_run(&self, epoch: Epoch, run: &Run, end: &RunEnd) -> Result<DateTime<Utc>> {
        let mut tx = self.begin_leading(epoch).await?;
        let held = hold(tx.tx(), run).await?;
        let (copied, trouble) = match end {
            RunEnd::Copied(digest) => (Some(digest), ""),
            RunEnd::Failed(why) | RunEnd::Refused(why) => (None, why.as_str()),
        };
        let failures = if copied.is_some() { 0 } else { held.failures.saturating_add(1) };
        let ran = Ran { due: held.next_at, began: held.began_at, ended: held.now };
        let next_at = next(held.anchor, ran, held.every_seconds, fit(failures)?);
        sqlx::query!(
            "UPDATE mirrors SET is_running = false, ended_at = farm_now(), digest = $3, trouble = $4, failures = $5, next_at = $6
             WHERE project_id = $1 AND id = $2",
            run.project.as_uuid(),
            run.mirror.as_uuid(),
            copied.map(|digest| digest.as_bytes().as_slice()),
            trouble,
            failures,
            next_at
        )
        .execute(&mut *tx)
        .await?;
        if let RunEnd::Refused(why) = end {
            let by = By { name: run.created_by.clone(), token_hint: String::new(), address: String::new() };
            let (subject, detail) = (run.destination.to_string(), json!({ "id": run.mirror, "why": why }));
            let deed =
                Deed { project: Some(run.project), action: "mirror.refused", subject: &subject, detail };
            by.did(tx.tx(), deed).await?;
        }
        tx.commit().await?;
        Ok(next_at)
    }
}

/// What counts for a run's end.
struct Held {
    anchor: DateTime<Utc>,
    next_at: DateTime<Utc>,
    began_at: DateTime<Utc>,
    every_seconds: i64,
    failures: i32,
    now: DateTime<Utc>,
}

/// Holds a mirror whose run goes on.
async fn hold(tx: &mut Tx, run: &Run) -> Result<Held> {
    let held = sqlx::query_as!(
        Held,
        r#"SELECT anchor, next_at, began_at AS "began_at!", every_seconds, failures, farm_now() AS "now!" FROM mirrors
           WHERE project_id = $1 AND id = $2 AND run = $3 AND is_running FOR UPDATE"#,
        run.project.as_uuid(),
        run.mirror.as_uuid(),
        run.number
    );
    held.fetch_optional(&mut **tx).await?.ok_or(StoreError::Stale("the mirror's run"))
}
