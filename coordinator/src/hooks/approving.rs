//! Members of a project let what forks propose be built, by a call or on a page. (Comments at the forge: `reconcile::hooks::forks`.)

use farm_proto::v1;
use farm_store::StoreError;
use farm_store::hooks::approvals::{Approval, Head, Waits};
use farm_store::people::audit::By;
use farm_types::{BuildId, Invalid, ProjectId, ShortId};

use crate::shared::Shared;

/// Why nothing was approved.
#[derive(Debug, thiserror::Error)]
pub enum Unapproved {
    /// Another commit is meant.
    #[error("{0}")]
    Commit(Invalid),
    /// It isn't held, the head has moved on, or older coordinators run; in words.
    #[error("{0}")]
    Unheld(String),
    /// The database.
    #[error("{0}")]
    Store(StoreError),
}

impl From<StoreError> for Unapproved {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(why) | StoreError::Older(why) => Self::Unheld(why),
            other => Self::Store(other),
        }
    }
}

/// A build of a project.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    pub project: ProjectId,
    pub build: BuildId,
    pub id: &'a ShortId,
}

/// What a fork proposes, by the build that people know it by.
///
/// # Errors
/// The build is no such one, or the database can't be reached.
pub(crate) async fn proposed(shared: &Shared, of: Named<'_>) -> Result<Waits, Unapproved> {
    shared.store.waits_for_approval(of.project, of.build).await?.ok_or_else(|| {
        Unapproved::Unheld(format!(
            "build {} waits for no approval: it isn't the fetch of rules that a delivery about a fork's pull request has begun; `farm hook \
             deliveries HOOK` names that",
            of.id
        ))
    })
}

/// Approves what a build is held for; `commit`: how the commit's name begins that is meant, or nothing. True: it was approved before.
///
/// # Errors
/// It isn't held, the head has moved on, another commit is meant, or the database can't be reached.
pub(crate) async fn approve(
    shared: &Shared,
    by: &By,
    of: Named<'_>,
    commit: &str,
) -> Result<(Waits, bool), Unapproved> {
    let mut waits = proposed(shared, of).await?;
    let (id, number) = (of.id, waits.number);
    let meant = commit.to_ascii_lowercase();
    if !waits.commit.as_str().starts_with(&meant) {
        let cure = format!("build {id} is about {} of pull request {number}; look at that", waits.commit);
        return Err(Unapproved::Commit(Invalid::new("commit", commit, cure)));
    }
    if waits.approved.is_some() {
        return Ok((waits, true));
    }
    if !waits.over.is_empty() {
        return Err(Unapproved::Unheld(format!(
            "build {id} isn't held for approval any more: {}",
            waits.over
        )));
    }
    if waits.held_at.is_none() {
        let why = format!(
            "build {id} isn't held for approval yet: its rules are being read; try again in a moment"
        );
        return Err(Unapproved::Unheld(why));
    }
    let head = Head::Shown { commit: &waits.commit, base: &waits.base, repository: &waits.head_repository.0 };
    let approval = Approval { project: of.project, hook: waits.hook, number, head };
    let approved = shared.store.approve(by, &approval).await?;
    shared.hints.delivered.notify_one();
    tracing::info!(build = %id, pull_request = number, commit = waits.commit.short(), by = by.name, "a fork's head was approved");
    let at = shared.store.now().await.map_err(Unapproved::Store)?;
    waits.approved = Some((approved.by, at));
    Ok((waits, approved.is_again))
}

/// As callers are shown it.
pub fn present(of: &Waits, id: &ShortId) -> v1::Proposal {
    let is_held = of.is_held();
    let (approved_by, approved_ms) =
        of.approved.clone().map(|(by, at)| (by, at.timestamp_millis())).unwrap_or_default();
    v1::Proposal {
        build_id: id.to_string(),
        hook: of.hook_name.clone(),
        delivery: of.delivery.clone(),
        repository: of.repository.clone(),
        number: of.number,
        commit: of.commit.to_string(),
        head: of.head.clone(),
        head_repository: of.head_repository.1.clone(),
        head_repository_id: of.head_repository.0.clone(),
        base: of.base.clone(),
        opener: of.opener.1.clone(),
        opener_id: of.opener.0.clone(),
        images: of.images.clone(),
        held: is_held,
        held_ms: of.held_at.map_or(0, |at| at.timestamp_millis()),
        approved_by,
        approved_ms,
        over: of.over.clone(),
        newest: of.newest.to_string(),
    }
}
