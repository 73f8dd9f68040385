//! Accepting a build, whoever asks for it: somebody who calls, or a hook to which something was delivered.

use std::time::Duration;

use farm_proto::v1;
use farm_store::StoreError;
use farm_store::builds::mounts::SECRET_CHANGED;
use farm_store::builds::record::BuildRecord;
use farm_store::builds::submit::NewBuild;
use farm_store::hooks::approvals::UNAPPROVED;
use farm_store::hooks::builds::OfDelivery;
use farm_store::people::signing_keys::SIGNING_KEY_CHANGED;
use farm_store::work::decide::PublishLimit;
use farm_types::{BuildId, BuildSpec, ImageRef, Invalid, ProjectId, SnapshotRef};
use tonic::Status;

use super::{given, mounts, signing};
use crate::dockerfile;
use crate::grpc::status;
use crate::people::Member;
use crate::people::accesses::check_pull;
use crate::shared::Shared;

/// So often a build is tried whose project's secrets, or signing key, are changed at the same moment.
pub(super) const SECRET_TRIES: usize = 5;

/// What is asked for.
pub struct Asked {
    /// One per intention.
    pub idempotency_key: String,
    /// The build.
    pub spec: v1::BuildSpec,
    /// What it is given to mount.
    pub values: Vec<v1::MountValue>,
    /// By which delivery it is begun.
    pub of: Option<OfDelivery>,
    /// A fork proposes it: whose caches it has.
    pub fork: Option<String>,
}

/// Accepts a build of a member, if it may have all that it asks for. True: the key was known, and nothing new was made.
///
/// # Errors
/// What is wrong with it, or what the member may not, as the call is answered.
pub(crate) async fn accept(
    shared: &Shared,
    member: &Member,
    asked: Asked,
) -> Result<(BuildRecord, bool), Status> {
    check_key(&asked.idempotency_key).map_err(status::invalid)?;
    let spec = with_defaults(shared, member.project, asked.spec).await?;
    let spec = BuildSpec::try_from(spec).map_err(status::invalid)?;
    if spec.purpose.fetch().is_some() && spec.snapshot != SnapshotRef::none() {
        return Err(Status::invalid_argument("a fetch has no snapshot: that is what it brings"));
    }
    let protected = may(shared, member, &spec).await?;
    let publish_limit = copy_limit(shared, &spec);
    let runs = dockerfile::runs(shared, member.project, &spec).await.map_err(status::unread)?;
    let by = member.name.as_str();
    let mut new = NewBuild {
        project: member.project,
        id: BuildId::generate(),
        mounts: None,
        signing: None,
        idempotency_key: asked.idempotency_key,
        spec,
        runs,
        by: member.caller.by(),
        submitter: member.caller.principal.submitter(),
        queue_limit: Duration::from_secs(shared.config.limits.queue_deadline_seconds),
        publish_limit,
        protected,
        of: asked.of,
        fork: asked.fork,
    };
    // What was accepted already needs nobody to be asked again.
    let is_new = !shared.store.is_known(&new).await.map_err(status::store)?;
    // Lists are in the order of ids: as late as can be, so that it is that of intentions.
    new.id = BuildId::generate();
    let mut tries = 1;
    let submitted = loop {
        new.mounts = mounts::seal(shared, member, new.id, &new.spec.mounts, &asked.values).await?;
        new.signing = signing::find(shared, member, &new.spec).await?;
        if is_new && tries == 1 {
            given::verify(shared, member.project, &new.spec.mounts, &asked.values).await?;
        }
        match shared.store.submit(&new).await {
            Err(StoreError::Stale(SECRET_CHANGED | SIGNING_KEY_CHANGED)) if tries < SECRET_TRIES => {
                tries += 1
            }
            // It is looked at again by whoever has asked.
            Err(StoreError::Stale(UNAPPROVED)) => {
                return Err(Status::aborted(format!("superseded: {UNAPPROVED}")));
            }
            done => break done.map_err(status::store)?,
        }
    };
    shared.hints.changed();
    let record = shared.store.build_by_id(member.project, submitted.id).await.map_err(status::store)?;
    tracing::info!(build = %record.short_id, by, replayed = submitted.replayed, "build accepted");
    Ok((record, submitted.replayed))
}

/// Refuses what a member may not have built, pushed or copied; says whether a tag of it is protected.
///
/// # Errors
/// What is wrong with it, or what the member may not, as the call is answered.
pub(crate) async fn may(shared: &Shared, member: &Member, spec: &BuildSpec) -> Result<bool, Status> {
    check(shared, spec).map_err(status::invalid)?;
    let protected = shared.accesses.check_tags(member, &spec.tags).await?;
    shared.accesses.check_entitlements(member, &spec.run).await?;
    spec.check_logins().map_err(status::invalid)?;
    shared.registries.allow(&spec.repositories()).await.map_err(status::invalid)?;
    if let Some(copy) = spec.purpose.copy() {
        check_source(shared, member, &copy.from).await?;
    }
    Ok(protected)
}

/// How long a copy may take.
pub(super) fn copy_limit(shared: &Shared, spec: &BuildSpec) -> PublishLimit {
    let own = spec.timeout_ms.map(Duration::from_millis);
    PublishLimit(own.unwrap_or(Duration::from_secs(shared.config.limits.copy_deadline_seconds)))
}

/// Refuses a copy of what the project may not pull, or from where the farm asks nothing.
async fn check_source(shared: &Shared, member: &Member, from: &ImageRef) -> Result<(), Status> {
    let repository = &from.repository;
    shared.registries.check(repository).map_err(|invalid| status::invalid(of_source(invalid)))?;
    let source = std::slice::from_ref(repository);
    shared.registries.allow(source).await.map_err(|invalid| status::invalid(of_source(invalid)))?;
    let allowed = shared.accesses.of(member.project).await.map_err(status::store)?;
    let is_own = allowed.own(repository.host()).is_some();
    if !is_own && shared.registries.is_known(repository.registry()) {
        check_pull(&allowed, member, repository)?;
    }
    Ok(())
}

fn of_source(invalid: Invalid) -> Invalid {
    Invalid { thing: "image".to_owned(), ..invalid }
}

/// The spec with what the project says where it says nothing.
async fn with_defaults(
    shared: &Shared,
    project: ProjectId,
    mut spec: v1::BuildSpec,
) -> Result<v1::BuildSpec, Status> {
    // A fetch has neither, nor has a copy.
    let is_build = spec.fetch.is_none() && spec.copy.is_none();
    let is_unverified = spec.verify.is_empty() && spec.verify_except.is_empty() && !spec.tags.is_empty();
    if is_build && (spec.platforms.is_empty() || spec.emulation.is_empty() || is_unverified) {
        let (_, defaults) = shared.store.settings(project).await.map_err(status::store)?;
        if spec.platforms.is_empty() {
            spec.platforms = defaults.platforms.iter().map(ToString::to_string).collect();
        }
        if let (true, Some(policy)) = (spec.emulation.is_empty(), defaults.emulation) {
            spec.emulation = policy.to_string();
        }
        if is_unverified {
            let verify = defaults.verify.unwrap_or(shared.config.default_verify.into());
            verify.as_str().clone_into(&mut spec.verify);
        }
    }
    Ok(spec)
}

fn check(shared: &Shared, spec: &BuildSpec) -> Result<(), Invalid> {
    let limits = &shared.config.limits;
    if spec.platforms.len() > limits.max_platforms {
        let count = spec.platforms.len().to_string();
        return Err(Invalid::new(
            "platforms",
            count,
            format!("a build has at most {}", limits.max_platforms),
        ));
    }
    if spec.tags.len() > limits.max_tags {
        let count = spec.tags.len().to_string();
        return Err(Invalid::new("tags", count, format!("a build has at most {}", limits.max_tags)));
    }
    spec.repositories().iter().try_for_each(|repository| shared.registries.check(repository))
}

/// Refuses what is no key for one intention.
///
/// # Errors
/// It is empty or too long.
pub(super) fn check_key(key: &str) -> Result<(), Invalid> {
    if (1..=128).contains(&key.len()) {
        return Ok(());
    }
    Err(Invalid::new("idempotency key", key, "write 1 to 128 bytes"))
}
