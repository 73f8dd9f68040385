//! Mirrors that the farm repeats by itself: what is copied to which tag, how often and in whose name. How that goes: [`super::mirror_runs`].

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::{Digest, ImageRef, ImageTag, MirrorId, Platform, PrincipalId, ProjectId, Role};
use serde_json::json;

use crate::people::audit::{By, Deed};
use crate::people::standing::stays;
use crate::unreadable::readable;
use crate::{Result, Store, StoreError, Tx, digest, fit, words};

/// The most mirrors of a project.
const MOST: i64 = 100;
/// By so much the first interval is longer at most, by chance: that part of it, and no more than so many seconds.
const SPREAD: (f64, f64) = (0.1, 600.0);

/// A mirror that is to be repeated.
#[derive(Debug, Clone)]
pub struct NewMirror {
    /// Whose.
    pub project: ProjectId,
    /// What it is known by, if it isn't there yet.
    pub id: MirrorId,
    /// The image.
    pub source: ImageRef,
    /// The tag that it gets.
    pub destination: ImageTag,
    /// Of an index these only; none: all of it.
    pub platforms: Vec<Platform>,
    /// Each platform's image gets a tag of its own, too.
    pub per_arch: bool,
    /// From the begin of one run to that of the next.
    pub every: Duration,
    /// In whose name; `None`: whoever has the farm's token file.
    pub owner: Option<PrincipalId>,
    /// The most that may be done by that.
    pub most: Role,
}

/// A mirror, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// What it is known by.
    pub id: MirrorId,
    /// The image.
    pub source: String,
    /// The tag that it gets.
    pub destination: String,
    /// Of an index these only; none: all of it.
    pub platforms: Vec<String>,
    /// Each platform's image gets a tag of its own, too.
    pub per_arch: bool,
    /// From the begin of one run to that of the next, seconds.
    pub every_seconds: i64,
    /// Who has asked for it.
    pub created_by: String,
    /// When.
    pub created_at: DateTime<Utc>,
    /// When the next run is due.
    pub next_at: DateTime<Utc>,
    /// The number of the last run; 0: there was none.
    pub run: i64,
    /// It goes on.
    pub is_running: bool,
    /// When it began.
    pub began_at: Option<DateTime<Utc>>,
    /// Its build of the destination itself, if that is kept.
    pub build: Option<String>,
    /// When the last one that has ended did so.
    pub ended_at: Option<DateTime<Utc>>,
    /// What that has copied.
    pub digest: Option<Digest>,
    /// Why it failed; empty: it didn't.
    pub trouble: String,
    /// So many have failed in a row.
    pub failures: i32,
}

impl Store {
    /// Has an image copied again and again, and the first time now; answers the mirror, and the number of the run that begins, or goes on.
    /// The same that is there already is taken over by whoever asks; another one for the same tag goes.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the project was removed. [`StoreError::Exhausted`]: it has too many.
    pub async fn add_mirror(&self, by: &By, new: &NewMirror) -> Result<(Mirror, i64)> {
        let (source, destination) = (new.source.to_string(), new.destination.to_string());
        let (project, platforms) = (new.project.as_uuid(), words(&new.platforms));
        let every: i64 = fit(new.every.as_secs())?;
        let owner = new.owner.map(PrincipalId::as_uuid);
        let mut tx = self.begin().await?;
        stays(&mut tx, new.project).await?;
        let kept = sqlx::query_scalar!(
            "UPDATE mirrors SET every_seconds = $6, owner_id = $7, most = $8, created_by = $9, failures = 0, trouble = '',
                    anchor = farm_now() + make_interval(secs => random() * least($10::float8 * $6::bigint, $11::float8)),
                    next_at = CASE WHEN is_running THEN next_at ELSE farm_now() END
             WHERE project_id = $1 AND destination = $2 AND source = $3 AND platforms = $4 AND per_arch = $5 RETURNING id",
            project,
            destination,
            source,
            &platforms,
            new.per_arch,
            every,
            owner,
            new.most.as_str(),
            by.name,
            SPREAD.0,
            SPREAD.1
        )
        .fetch_optional(&mut *tx)
        .await?;
        if kept.is_none() {
            sqlx::query!(
                "DELETE FROM mirrors WHERE project_id = $1 AND destination = $2",
                project,
                destination
            )
            .execute(&mut *tx)
            .await?;
            let there = sqlx::query_scalar!(
                r#"SELECT count(*) AS "count!" FROM mirrors WHERE project_id = $1"#,
                project
            );
            if there.fetch_one(&mut *tx).await? >= MOST {
                let what = format!(
                    "the project repeats {MOST} mirrors, and may not repeat more: `farm mirror rm` ends some"
                );
                return Err(StoreError::Exhausted { what, wait: None });
            }
            let made = sqlx::query!(
                "INSERT INTO mirrors (project_id, id, source, destination, platforms, per_arch, every_seconds, owner_id, most, created_by, anchor)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10,
                         farm_now() + make_interval(secs => random() * least($11::float8 * $7::bigint, $12::float8)))
                 ON CONFLICT (project_id, destination) DO NOTHING",
                project,
                new.id.as_uuid(),
                source,
                destination,
                &platforms,
                new.per_arch,
                every,
                owner,
                new.most.as_str(),
                by.name,
                SPREAD.0,
                SPREAD.1
            )
            .execute(&mut *tx)
            .await?;
            if made.rows_affected() != 1 {
                return Err(StoreError::Conflict(format!(
                    "somebody else has {destination} mirrored, since a moment ago; try again"
                )));
            }
        }
        let detail = json!({
            "id": kept.unwrap_or_else(|| new.id.as_uuid()), "source": source, "platforms": platforms, "per_arch_tags": new.per_arch,
            "every_seconds": every
        });
        by.did(
            &mut tx,
            Deed { project: Some(new.project), action: "mirror.add", subject: &destination, detail },
        )
        .await?;
        let mirror = listed(&mut tx, new.project, Some(&destination)).await?.pop();
        let mirror = mirror.ok_or(StoreError::Stale("the mirror"))?;
        tx.commit().await?;
        let run = if mirror.is_running { mirror.run } else { mirror.run + 1 };
        Ok((mirror, run))
    }

    /// The project's mirrors, by where they go.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn mirrors(&self, project: ProjectId) -> Result<Vec<Mirror>> {
        let mut tx = self.begin().await?;
        listed(&mut tx, project, None).await
    }

    /// Ends that an image is copied to this tag again and again. Builds that go on go on.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the project has none to this tag.
    pub async fn remove_mirror(&self, by: &By, project: ProjectId, destination: &ImageTag) -> Result<Mirror> {
        let destination = destination.to_string();
        let mut tx = self.begin().await?;
        let mirror = listed(&mut tx, project, Some(&destination)).await?.pop();
        let mirror = mirror.ok_or(StoreError::NotFound("mirror"))?;
        let removed = sqlx::query!(
            "DELETE FROM mirrors WHERE project_id = $1 AND id = $2",
            project.as_uuid(),
            mirror.id.as_uuid()
        );
        if removed.execute(&mut *tx).await?.rows_affected() != 1 {
            return Err(StoreError::NotFound("mirror"));
        }
        let detail = json!({ "id": mirror.id, "source": mirror.source });
        by.did(
            &mut tx,
            Deed { project: Some(project), action: "mirror.remove", subject: &destination, detail },
        )
        .await?;
        tx.commit().await?;
        Ok(mirror)
    }
}

/// A project's mirrors, or that to one tag.
async fn listed(tx: &mut Tx, project: ProjectId, destination: Option<&str>) -> Result<Vec<Mirror>> {
    let rows = sqlx::query!(
        r#"SELECT m.id, m.source, m.destination, m.platforms, m.per_arch, m.every_seconds, m.created_by, m.created_at, m.next_at, m.run,
                  m.is_running, m.began_at, m.ended_at, m.digest, m.trouble, m.failures,
                  (SELECT b.short_id FROM mirror_builds r JOIN builds b ON b.project_id = r.project_id AND b.id = r.build_id
                   WHERE r.project_id = m.project_id AND r.mirror_id = m.id AND r.run = m.run AND r.part = '') AS build
           FROM mirrors m WHERE m.project_id = $1 AND ($2::text IS NULL OR m.destination = $2) ORDER BY m.destination"#,
        project.as_uuid(),
        destination
    )
    .fetch_all(&mut **tx)
    .await?;
    let mirrors = rows.into_iter().filter_map(|row| {
        let copied = row.digest.as_deref().map(digest).transpose();
        Some(Mirror {
            id: row.id.into(),
            source: row.source,
            destination: row.destination,
            platforms: row.platforms,
            per_arch: row.per_arch,
            every_seconds: row.every_seconds,
            created_by: row.created_by,
            created_at: row.created_at,
            next_at: row.next_at,
            run: row.run,
            is_running: row.is_running,
            began_at: row.began_at,
            build: row.build,
            ended_at: row.ended_at,
            digest: readable("a mirror", row.id, copied)?,
            trouble: row.trouble,
            failures: row.failures,
        })
    });
    Ok(mirrors.collect())
}

/// Ends all mirrors of a project that is removed.
pub(crate) async fn remove_all(tx: &mut Tx, project: ProjectId) -> Result<()> {
    sqlx::query!("DELETE FROM mirrors WHERE project_id = $1", project.as_uuid()).execute(&mut **tx).await?;
    Ok(())
}
