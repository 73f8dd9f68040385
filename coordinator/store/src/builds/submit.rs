//! Accepting builds, and cancelling them.

use std::collections::BTreeMap;
use std::time::Duration;

use farm_core::life;
use farm_core::life::attempt::StopReason;
use farm_types::spec::Purpose;
use farm_types::{
    BuildId, BuildSpec, Digest, ExecutionId, ExpectedTag, JobId, Origin, Platform, ProjectId, Runs, ShortId,
    Take, TrustClass,
};
use serde_json::json;

use crate::builds::mounts::{NewMounts, keep, with_secrets};
use crate::builds::submitter::Submitter;
use crate::hooks::approvals::use_approval;
use crate::hooks::builds::{OfDelivery, note};
use crate::hooks::forks::SCHEMA as FORKS_SCHEMA;
use crate::people::audit::{By, Deed};
use crate::people::quotas::{admits, is_there, room_for_copies};
use crate::people::signing_keys::{UsedSigningKey, take_signing_key};
use crate::proof::LockedExecution;
use crate::schema::shut_out;
use crate::sources::snapshots::name_nothing;
use crate::work::decide::{PublishLimit, build_event, built, decide, stop_jobs};
use crate::work::queue::{FETCH, queue_class};
use crate::{Result, Store, StoreError, to_json};

/// The schema from which on coordinators know of fetches.
const FETCH_SCHEMA: i32 = 49;
/// The schema from which on they know of archives.
const ARCHIVE_SCHEMA: i32 = 58;
/// The schema from which on they know of copies, and of all that can be said of one.
const COPY_SCHEMA: i32 = 65;
/// That of which coordinators know the form of what is published, and tags that are moved only while they point somewhere.
const FORM_SCHEMA: i32 = 66;
/// The schema from which on they know of gates.
const GATE_SCHEMA: i32 = 67;

/// A build to accept.
#[derive(Debug, Clone)]
pub struct NewBuild {
    /// Whose.
    pub project: ProjectId,
    /// What it is to be, if it isn't there yet: what is sealed is sealed for it.
    pub id: BuildId,
    /// The client's key: one per intention.
    pub idempotency_key: String,
    /// What is asked for.
    pub spec: BuildSpec,
    /// Whose programs run, per platform; of those that are not named it isn't known.
    pub runs: BTreeMap<Platform, Runs>,
    /// What it may mount, sealed.
    pub mounts: Option<NewMounts>,
    /// By which key what it publishes is signed, as its spec names it.
    pub signing: Option<UsedSigningKey>,
    /// Who asks.
    pub by: By,
    /// The same, exactly.
    pub submitter: Submitter,
    /// How long its jobs may wait for a worker.
    pub queue_limit: Duration,
    /// Of a copy: how long that may take. It is published at once.
    pub publish_limit: PublishLimit,
    /// It moves a protected tag.
    pub protected: bool,
    /// By which delivery it is begun; `None`: by nobody's.
    pub of: Option<OfDelivery>,
    /// A fork proposes it ([`crate::hooks::forks::scope`]): machines that aren't trusted build it, it has caches of its own, and nothing else.
    pub fork: Option<String>,
}

/// What [`Store::submit`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// The build.
    pub id: BuildId,
    /// The key was known: nothing new was made.
    pub replayed: bool,
}

impl Store {
    /// Accepts a build: the build, its execution, a job per platform and the first events, in one
    /// transaction.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the key is known with another body, or the snapshot isn't there; [`StoreError::Older`] when older
    /// coordinators run that can't have such a build; [`StoreError::Exhausted`] when the project has too many;
    /// [`StoreError::Stale`] when one of its secrets or its signing key was changed, or a fork's head isn't approved any more ([`UNAPPROVED`](crate::hooks::approvals::UNAPPROVED)).
    pub async fn submit(&self, new: &NewBuild) -> Result<Submitted> {
        let spec = to_json(&new.spec)?;
        let request = request_digest(&new.spec)?;
        let project = new.project.as_uuid();
        if let Some(known) = self.known_build(new.project, &new.idempotency_key, request).await? {
            return Ok(known);
        }
        let tree = &new.spec.snapshot.tree_id.as_bytes()[..];
        let mut tx = self.begin().await?;
        let is_fetch = new.spec.purpose.fetch().is_some();
        // The farm looks of its own accord: what a project may have built, that is none of.
        let is_look = new.spec.purpose.fetch().is_some_and(|fetch| fetch.take == Take::Refs);
        if is_look {
            is_there(&mut tx, new.project).await?;
        } else {
            admits(&mut tx, new.project, !new.spec.exports.is_empty() || new.mounts.is_some()).await?;
        }
        let is_archive = new.spec.purpose.fetch().is_some_and(|fetch| fetch.source.archive().is_some());
        let is_of_archive = new.spec.origins.values().any(|origin| matches!(origin, Origin::Archive(_)));
        if is_archive || is_of_archive {
            // They can't read it, nor what is built of it.
            shut_out(&mut tx, ARCHIVE_SCHEMA, "fetches of archives").await?;
        }
        if is_fetch {
            // They would give it to any worker.
            shut_out(&mut tx, FETCH_SCHEMA, "fetches of sources").await?;
            name_nothing(&mut tx, new.project).await?;
        }
        let BuildSpec { packaging, sbom, expected, .. } = &new.spec;
        if !packaging.is_default() || sbom.is_some() || !expected.is_empty() {
            // They would publish it without, and move tags that are to stay.
            shut_out(&mut tx, FORM_SCHEMA, "the form of what is published").await?;
        }
        if new.spec.purpose.copy().is_some() {
            // They can't read it.
            shut_out(&mut tx, COPY_SCHEMA, "copies of images").await?;
            room_for_copies(&mut tx, new.project).await?;
            name_nothing(&mut tx, new.project).await?;
        }
        if new.spec.gate.is_some() {
            // They would give it to any worker, and publish what has passed none.
            shut_out(&mut tx, GATE_SCHEMA, "gates").await?;
        }
        if new.fork.is_some() {
            check_proposed(&new.spec, new.protected)?;
            // They would give it to any worker.
            shut_out(&mut tx, FORKS_SCHEMA, "pull requests of forks").await?;
        }
        let snapshot = sqlx::query!(
            "UPDATE snapshots SET last_used_at = farm_now()
             WHERE project_id = $1 AND tree_id = $2 AND content_key = $3",
            project,
            tree,
            &new.spec.snapshot.content_key.as_bytes()[..]
        )
        .execute(&mut *tx)
        .await?;
        if snapshot.rows_affected() != 1 {
            return Err(StoreError::Conflict(format!(
                "the snapshot {} is not on the farm; upload the source again",
                new.spec.snapshot.tree_id.short()
            )));
        }
        let mut execution = LockedExecution::newborn(&mut tx, new.project);
        let (_, execution_id) = execution.ids();
        sqlx::query!(
            "INSERT INTO executions (project_id, id, spec, tree_id, repositories, protected, fork) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            project,
            execution_id,
            spec,
            tree,
            &new.spec.repositories().iter().map(ToString::to_string).collect::<Vec<_>>(),
            new.protected,
            new.fork
        )
        .execute(&mut *execution)
        .await?;
        let (kind, weight, platforms) = match new.spec.purpose {
            Purpose::Run(_) => ("run", 1, &new.spec.platforms[..]),
            Purpose::Fetch(_) => (FETCH, 0, &new.spec.platforms[..]),
            Purpose::Image | Purpose::Call(_) => ("build", 1, &new.spec.platforms[..]),
            // No worker takes part.
            Purpose::Copy(_) => ("copy", 0, &[][..]),
        };
        let entitlements: Vec<String> = new.spec.run.entitlements().iter().map(ToString::to_string).collect();
        for platform in platforms {
            let emulation = new.spec.emulation.to_string();
            let runs = new.runs.get(platform).cloned().unwrap_or_default();
            sqlx::query!(
                "INSERT INTO jobs (project_id, id, execution_id, kind, unit_key, platform, state, queue_class,
                                   virtual_time, emulation, ready_at, runs, entitlements, weight, archive, required, gated)
                 VALUES ($1, $2, $3, $7, $4, $4, 'ready', $5, farm_now(), $6, farm_now(), $8, $9, $10, $11, $12, $13)",
                project,
                JobId::generate().as_uuid(),
                execution_id,
                platform.to_string(),
                match is_fetch {
                    true => FETCH.to_owned(),
                    false => {
                        let trust = if new.fork.is_some() { TrustClass::Untrusted } else { TrustClass::Trusted };
                        queue_class(&platform.to_string(), &emulation, &runs, &entitlements, trust)
                    }
                },
                emulation,
                kind,
                runs.to_string(),
                &entitlements,
                weight,
                is_archive,
                !new.spec.optional.contains(platform),
                new.spec.gate.is_some()
            )
            .execute(&mut *execution)
            .await?;
        }
        let (id, short_id) = (new.id, ShortId::generate());
        let inserted = sqlx::query!(
            "INSERT INTO builds (project_id, id, short_id, idempotency_key, request_digest, execution_id, spec,
                                 created_by, queue_deadline, deadline, submitter, order_key, look)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, farm_now() + make_interval(secs => $9),
                     farm_now() + make_interval(secs => ($7::jsonb ->> 'timeout_ms')::float8 / 1000), $10,
                     coalesce($11, nextval('order_keys')), $12)
             ON CONFLICT DO NOTHING",
            project,
            id.as_uuid(),
            short_id.as_str(),
            new.idempotency_key,
            &request.as_bytes()[..],
            execution_id,
            spec,
            new.by.name,
            new.queue_limit.as_secs_f64(),
            to_json(&new.submitter)?,
            new.of.as_ref().and_then(|of| of.order_key),
            is_look
        )
        .execute(&mut *execution)
        .await?;
        if inserted.rows_affected() != 1 {
            // The same key came at the same moment, or the short id is taken: the caller's next call finds
            // the one, or draws another.
            tx.rollback().await?;
            return match self.known_build(new.project, &new.idempotency_key, request).await? {
                Some(known) => Ok(known),
                None => Box::pin(self.submit(new)).await,
            };
        }
        keep(&mut execution, (id, &short_id), &new.by.name, new.mounts.as_ref()).await?;
        take_signing_key(&mut execution, (id, &short_id), &new.by.name, new.signing.as_ref()).await?;
        if let Some(of) = &new.of {
            note(&mut execution, id, of).await?;
            if new.fork.is_some() {
                use_approval(execution.tx(), project, of).await?;
            }
        }
        build_event(&mut execution, project, id.as_uuid(), "queued").await?;
        let mut detail = with_secrets(
            match &new.spec.purpose {
                Purpose::Fetch(fetch) => json!({ "fetch": to_json(&fetch.source.shown())? }),
                Purpose::Copy(copy) => json!({
                    copy.verb.as_str(): copy.from.to_string(),
                    "tags": new.spec.tags.iter().map(ToString::to_string).collect::<Vec<_>>(),
                }),
                _ => json!({
                    "platforms": to_json(&new.spec.platforms)?,
                    "tags": new.spec.tags.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "tree": new.spec.snapshot.tree_id.to_string(),
                }),
            },
            new.mounts.as_ref(),
        );
        if let (Some(key), Some(detail)) = (&new.spec.sign, detail.as_object_mut()) {
            detail.insert("sign".to_owned(), json!(key));
        }
        let deed =
            Deed { project: Some(new.project), action: "build.submit", subject: short_id.as_str(), detail };
        // Of a look everybody sees that and when it was: farm hook show.
        if !is_look {
            new.by.did(execution.tx(), deed).await?;
        }
        if new.spec.purpose.copy().is_some() {
            built(&mut execution, new.publish_limit).await?;
        }
        tx.commit().await?;
        Ok(Submitted { id, replayed: false })
    }

    /// Whether a build was accepted by this key for this request already.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the key is known with another body; or the database can't be reached.
    pub async fn is_known(&self, new: &NewBuild) -> Result<bool> {
        let request = request_digest(&new.spec)?;
        Ok(self.known_build(new.project, &new.idempotency_key, request).await?.is_some())
    }

    /// The build that this key made, if it was for the same request.
    pub(crate) async fn known_build(
        &self,
        project: ProjectId,
        key: &str,
        request: Digest,
    ) -> Result<Option<Submitted>> {
        let known = sqlx::query!(
            "SELECT id, request_digest, short_id FROM builds WHERE project_id = $1 AND idempotency_key = $2",
            project.as_uuid(),
            key
        )
        .fetch_optional(&self.pool)
        .await?;
        match known {
            None => Ok(None),
            Some(known) if known.request_digest == request.as_bytes() => {
                Ok(Some(Submitted { id: known.id.into(), replayed: true }))
            }
            Some(known) => Err(StoreError::Conflict(format!(
                "the idempotency key {:?} was used for build {} with another request; choose a new key",
                key, known.short_id
            ))),
        }
    }

    /// Asks for the end of a build. One that is final stays as it is, and so does one that is publishing, once there is
    /// something to publish. The execution is stopped when no other build wants it.
    ///
    /// # Errors
    /// There is no such build.
    pub async fn cancel(
        &self,
        by: &By,
        project: ProjectId,
        build: BuildId,
        publish: PublishLimit,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        let known = sqlx::query!(
            "SELECT execution_id, short_id FROM builds WHERE project_id = $1 AND id = $2",
            project.as_uuid(),
            build.as_uuid()
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::NotFound("build"))?;
        let deed = Deed {
            project: Some(project),
            action: "build.cancel",
            subject: &known.short_id,
            detail: json!({}),
        };
        let mut execution = tx.lock_execution(project, ExecutionId::from(known.execution_id)).await?;
        let (project, execution_id) = execution.ids();
        let asked = sqlx::query!(
            "UPDATE builds SET state = $3 WHERE project_id = $1 AND id = $2 AND state = ANY($4)",
            project,
            build.as_uuid(),
            life::build::ASK_CANCEL.word(),
            &life::build::ASK_CANCEL.premise()
        )
        .execute(&mut *execution)
        .await?;
        if asked.rows_affected() == 0 {
            if call_off(&mut execution, build).await? {
                by.did(execution.tx(), deed).await?;
            }
            tx.commit().await?;
            return Ok(());
        }
        by.did(execution.tx(), deed).await?;
        build_event(&mut execution, project, build.as_uuid(), life::build::ASK_CANCEL.word()).await?;
        let wanted = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM builds WHERE project_id = $1 AND execution_id = $2
                              AND state IN ('queued', 'running')) AS "wanted!""#,
            project,
            execution_id
        )
        .fetch_one(&mut *execution)
        .await?;
        if wanted {
            sqlx::query!(
                "UPDATE builds SET state = $3, finished_at = farm_now()
                 WHERE project_id = $1 AND id = $2 AND state = ANY($4)",
                project,
                build.as_uuid(),
                life::build::CANCELLED.word(),
                &life::build::CANCELLED.premise()
            )
            .execute(&mut *execution)
            .await?;
            build_event(&mut execution, project, build.as_uuid(), life::build::CANCELLED.word()).await?;
        } else {
            stop_jobs(&mut execution, StopReason::Cancelled).await?;
            decide(&mut execution, publish).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// Refuses what no fork is given, whoever asks for it in its name.
fn check_proposed(spec: &BuildSpec, protected: bool) -> Result<()> {
    let is_plain = spec.purpose == Purpose::Image
        && spec.repositories().is_empty()
        && spec.tags.is_empty()
        && spec.exports.is_empty()
        && spec.mounts.is_empty()
        && spec.run.entitlements().is_empty()
        && spec.sign.is_none()
        && !protected;
    match is_plain {
        true => Ok(()),
        false => Err(StoreError::Conflict(
            "what a fork proposes is built, and neither published nor signed, nor given secrets, logins or entitlements"
                .to_owned(),
        )),
    }
}

/// Cancels a build that is publishing and has nothing to publish yet: as long as its results can't be merged, no tag can have
/// been touched. False: it isn't such a one.
async fn call_off(execution: &mut LockedExecution<'_>, build: BuildId) -> Result<bool> {
    let (project, _) = execution.ids();
    // Whoever keeps what was merged holds this row as well; the statement after sees what that one has written.
    sqlx::query_scalar!(
        "SELECT id FROM builds WHERE project_id = $1 AND id = $2 FOR UPDATE",
        project,
        build.as_uuid()
    )
    .fetch_one(&mut **execution)
    .await?;
    let called_off = sqlx::query!(
        "UPDATE builds b SET state = $3, finished_at = farm_now()
         WHERE project_id = $1 AND id = $2 AND state = ANY($4)
           AND NOT EXISTS (SELECT FROM publications p WHERE p.project_id = b.project_id AND p.build_id = b.id)",
        project,
        build.as_uuid(),
        life::build::CALL_OFF.word(),
        &life::build::CALL_OFF.premise()
    )
    .execute(&mut **execution)
    .await?;
    if called_off.rows_affected() != 1 {
        return Ok(false);
    }
    build_event(execution, project, build.as_uuid(), life::build::CALL_OFF.word()).await?;
    Ok(true)
}

/// What tells one request from another. To where tags pointed when it was made is none of it: whoever asks again with the same key
/// means the same.
fn request_digest(spec: &BuildSpec) -> Result<Digest> {
    let expected = spec.expected.iter().map(|one| ExpectedTag { digest: None, ..one.clone() }).collect();
    let spec = to_json(&BuildSpec { expected, ..spec.clone() })?;
    Ok(Digest::of(spec.to_string().as_bytes()))
}
