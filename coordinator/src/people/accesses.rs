//! What projects are allowed, with what the configuration allows all of them: asked of the database, and known for a moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use farm_core::people::{Access, Refusal};
use farm_store::{Store, StoreError};
use farm_types::entitlement::{listed, words as words_of};
use farm_types::{ImageTag, ProjectId, ProjectName, Repository, RepositoryPrefix, Role, RunOptions};
use tonic::Status;

use super::Member;
use crate::unstored;

/// What was asked so lately isn't asked again.
const FRESH: Duration = Duration::from_secs(1);

/// What projects are allowed.
#[derive(Debug)]
pub struct Accesses {
    store: Store,
    /// What every project may push to.
    shared: Vec<RepositoryPrefix>,
    known: Mutex<HashMap<ProjectId, (Arc<Access>, Instant)>>,
}

impl Accesses {
    /// `shared` is what every project may push to.
    pub fn new(store: Store, shared: Vec<RepositoryPrefix>) -> Self {
        Self { store, shared, known: Mutex::default() }
    }

    /// What a project is allowed.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn of(&self, project: ProjectId) -> Result<Arc<Access>, StoreError> {
        let known = self.known().get(&project).cloned();
        if let Some((access, _)) = known.filter(|(_, asked)| asked.elapsed() < FRESH) {
            return Ok(access);
        }
        let asked = Instant::now();
        let mut access = self.store.access(project).await?;
        access.push.extend(self.shared.iter().cloned());
        let access = Arc::new(access);
        let mut all = self.known();
        all.retain(|_, (_, asked)| asked.elapsed() < FRESH);
        all.insert(project, (Arc::clone(&access), asked));
        Ok(access)
    }

    /// Makes a change count here at once.
    pub fn forget(&self, project: ProjectId) {
        self.known().remove(&project);
    }

    /// Refuses a build whose tags its submitter may not move.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` with what it takes; or the database can't be reached.
    pub async fn check_tags(&self, member: &Member, tags: &[ImageTag]) -> Result<(), Status> {
        if tags.is_empty() {
            return Ok(());
        }
        let access = self.of(member.project).await.map_err(unstored::store)?;
        let role = member.caller.principal.role_in(member.project).unwrap_or(Role::Viewer);
        access.check(tags, role).map_err(|refusal| Status::permission_denied(words(refusal, member)))
    }

    /// Refuses a build that asks for what its project may not.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` with what it takes; or the database can't be reached.
    pub async fn check_entitlements(&self, member: &Member, run: &RunOptions) -> Result<(), Status> {
        let asked = run.entitlements();
        if asked.is_empty() {
            return Ok(());
        }
        let access = self.of(member.project).await.map_err(unstored::store)?;
        let (missing, all) = (&asked - &access.entitlements, &asked | &access.entitlements);
        if missing.is_empty() {
            return Ok(());
        }
        let project = &member.project_name;
        Err(Status::permission_denied(format!(
            "{} asks for {}, which project {project} may not use; an admin of the farm can allow it: farm project set {project} \
             --allow {}",
            member.name,
            words_of(&missing),
            listed(&all)
        )))
    }

    /// Refuses to look at an image with the farm's credentials where the project may not pull from.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` with what it takes; or the database can't be reached.
    pub async fn check_pull(&self, member: &Member, repository: &Repository) -> Result<(), Status> {
        let access = self.of(member.project).await.map_err(unstored::store)?;
        if access.may_pull(repository) {
            return Ok(());
        }
        let project = &member.project_name;
        Err(Status::permission_denied(format!(
            "project {project} may not pull from {repository} with the farm's credentials; an admin of the farm can allow it: \
             farm project allow {project} --pull {repository}"
        )))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<ProjectId, (Arc<Access>, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn words(refusal: Refusal, member: &Member) -> String {
    let (who, project): (&str, &ProjectName) = (&member.name, &member.project_name);
    match refusal {
        Refusal::Repository(repository) => format!(
            "project {project} may not push to {repository}; an admin of the farm can allow it: farm project allow {project} \
             --push {repository}"
        ),
        Refusal::Protected { tag, pattern, least } => format!(
            "{who} may not move {tag}: tags {pattern} of project {project} are moved by a {least}. Take another tag, or ask an admin \
             of {project} for the role: farm member set {who} --role {least} --project {project}"
        ),
    }
}
