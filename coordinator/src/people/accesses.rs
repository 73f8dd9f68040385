//! What projects may do at registries: what they are allowed, with what the configuration allows all of them, and their own logins, opened.
//! Asked of the database, and known for a moment.

use std::collections::HashMap;
use std::mem::take;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use farm_core::people::Refusal;
use farm_store::builds::mounts::SealedMounts;
use farm_store::people::logins::{LoginBy as Kind, SealedLogin, SealedPassword};
use farm_store::{Store, StoreError};
use farm_types::entitlement::{listed, words as words_of};
use farm_types::mounts::GivenLogin;
use farm_types::{
    AttemptId, BuildId, ImageTag, MountId, Mounts, ProjectId, ProjectName, RegistryHost, Repository,
    RepositoryPrefix, Role, RunOptions, ValueType,
};
use tonic::Status;
use uuid::Uuid;

use super::Member;
use crate::registry::helpers::Helpers;
use crate::registry::login::{Allowed, Kept, Login, LoginBy};
use crate::seal::{Keyring, Owner, Unopened};
use crate::unstored;

/// What was asked so lately isn't asked again.
const FRESH: Duration = Duration::from_secs(1);
/// How often the use of a login is noted.
const NOTED: Duration = Duration::from_secs(60);

/// What projects may do at registries.
#[derive(Debug)]
pub struct Accesses {
    store: Store,
    keyring: Arc<Keyring>,
    helpers: Arc<Helpers>,
    /// What every project may push to.
    shared: Vec<RepositoryPrefix>,
    known: Mutex<HashMap<ProjectId, (Arc<Allowed>, Instant)>>,
    /// When the use of logins was noted.
    noted: Mutex<HashMap<Uuid, Instant>>,
}

impl Accesses {
    /// `shared` is what every project may push to.
    pub fn new(
        store: Store,
        keyring: Arc<Keyring>,
        helpers: Arc<Helpers>,
        shared: Vec<RepositoryPrefix>,
    ) -> Self {
        Self { store, keyring, helpers, shared, known: Mutex::default(), noted: Mutex::default() }
    }

    /// What a project may.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn of(&self, project: ProjectId) -> Result<Arc<Allowed>, StoreError> {
        let known = self.known().get(&project).cloned();
        if let Some((allowed, _)) = known.filter(|(_, asked)| asked.elapsed() < FRESH) {
            return Ok(allowed);
        }
        let asked = Instant::now();
        let found = self.store.access(project).await?;
        let mut access = found.access;
        access.push.extend(self.shared.iter().cloned());
        let logins = found.logins.into_iter().map(|sealed| {
            let host = sealed.host.clone();
            (host, self.opened(project, &found.name, sealed))
        });
        let allowed = Arc::new(Allowed { access, logins: logins.collect(), with_logins: found.with_logins });
        let mut all = self.known();
        all.retain(|_, (_, asked)| asked.elapsed() < FRESH);
        all.insert(project, (Arc::clone(&allowed), asked));
        Ok(allowed)
    }

    /// What an attempt may: its project, and beside that its build by the logins that it was given, which count before the project's.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn of_attempt(
        &self,
        project: ProjectId,
        attempt: AttemptId,
        mounts: &Mounts,
    ) -> Result<Arc<Allowed>, StoreError> {
        let allowed = self.of(project).await?;
        if mounts.logins.is_empty() {
            return Ok(allowed);
        }
        let given = self.store.given_logins(project, attempt).await?;
        let mut allowed = Allowed::clone(&allowed);
        for id in &mounts.logins {
            let host: RegistryHost = id.as_str().parse().map_err(StoreError::corrupt)?;
            let kept = given
                .as_ref()
                .map_or(Kept::Removed, |(build, sealed)| self.given(project, *build, sealed, id, &host));
            // The row that says so was written with the build; what is known here may be older.
            allowed.with_logins.insert(host.clone());
            allowed.logins.insert(host, kept);
        }
        Ok(Arc::new(allowed))
    }

    fn given(
        &self,
        project: ProjectId,
        build: BuildId,
        sealed: &SealedMounts,
        id: &MountId,
        host: &RegistryHost,
    ) -> Kept {
        let Some(value) = sealed.values.iter().find(|value| value.id == *id) else { return Kept::Removed };
        let key = self.keyring.open(Owner::Build(project, build), &sealed.key);
        let clear = key.and_then(|key| key.open(ValueType::Login, id, &value.bytes));
        match clear.map(|clear| GivenLogin::read(&clear)) {
            Ok(Ok(mut login)) => {
                let (username, password) = (take(&mut login.username), take(&mut login.password));
                let by = LoginBy::Password(username, password.into());
                // It is the same one for as long as the build lasts.
                let version = build.as_uuid();
                Kept::Login(Arc::new(Login { project, host: host.clone(), version, by }))
            }
            Ok(Err(why)) => Kept::Lost(why.to_owned()),
            Err(why) => {
                tracing::error!(%project, %build, %host, %why, "a login that came with a build can't be opened");
                Kept::Lost(format!("{why}; submit the build again"))
            }
        }
    }

    fn opened(&self, project: ProjectId, name: &str, sealed: SealedLogin) -> Kept {
        let SealedLogin { host, version, by } = sealed;
        let (username, SealedPassword { key, bytes }) = match by {
            None => return Kept::Removed,
            Some(Kind::Helper(helper)) => {
                // Whoever runs the farm may have taken it from the project since it was chosen.
                return match self.helpers.check(&helper, name, &host) {
                    Ok(()) => {
                        let by = LoginBy::Helper(helper, Arc::clone(&self.helpers));
                        Kept::Login(Arc::new(Login { project, host, version, by }))
                    }
                    Err(why) => {
                        Kept::Lost(format!("credential helper {helper:?} isn't for it any more: {why}"))
                    }
                };
            }
            Some(Kind::Password(username, password)) => (username, password),
        };
        let key = self.keyring.open(Owner::Login(project, &host), &key);
        let password = key.and_then(|key| key.open_one(&bytes)).and_then(|clear| {
            // Only texts are sealed.
            std::str::from_utf8(&clear).map(|text| text.to_owned().into()).map_err(|_| Unopened::Forged)
        });
        match password {
            Ok(password) => {
                let by = LoginBy::Password(username, password);
                Kept::Login(Arc::new(Login { project, host, version, by }))
            }
            Err(why) => {
                tracing::error!(%project, %host, %why, "a project's login can't be opened");
                Kept::Lost(match why {
                    Unopened::KeyIsLost(_) => {
                        format!(
                            "{why}; whoever runs the farm puts it back into its file of keys, or the login is set again"
                        )
                    }
                    Unopened::Forged => format!("{why}; set it again: farm registry login {host}"),
                })
            }
        }
    }

    /// Notes that a registry was asked by a project's own login.
    pub async fn used(&self, login: &Login) {
        {
            let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            noted.retain(|_, at| at.elapsed() < NOTED);
            if noted.insert(login.version, Instant::now()).is_some() {
                return;
            }
        }
        if let Err(error) = self.store.login_used(login.project, login.version).await {
            tracing::warn!(%error, "the use of a login could not be noted");
        }
    }

    /// Makes a change count here at once.
    pub fn forget(&self, project: ProjectId) {
        self.known().remove(&project);
    }

    /// Refuses a build whose tags its submitter may not move; says whether one of them is protected.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` with what it takes; or the database can't be reached.
    pub async fn check_tags(&self, member: &Member, tags: &[ImageTag]) -> Result<bool, Status> {
        if tags.is_empty() {
            return Ok(false);
        }
        let access = &self.of(member.project).await.map_err(unstored::store)?.access;
        let role = member.caller.principal.role_in(member.project).unwrap_or(Role::Viewer);
        access.check(tags, role).map_err(|refusal| Status::permission_denied(words(refusal, member)))?;
        Ok(access.protects(tags))
    }

    /// Refuses to remove something from where the project may not push, and tags that are protected, whoever asks.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` or `FAILED_PRECONDITION` with what it takes; or the database can't be reached.
    pub async fn check_removal(
        &self,
        member: &Member,
        repository: &Repository,
        tags: &[ImageTag],
    ) -> Result<(), Status> {
        let access = &self.of(member.project).await.map_err(unstored::store)?.access;
        if !(access.logins.contains(repository.host()) || access.may_push(repository)) {
            let refusal = Refusal::Repository(repository.clone());
            return Err(Status::permission_denied(words(refusal, member)));
        }
        let protected = tags.iter().find_map(|tag| Some((tag, access.protecting(tag)?)));
        let Some((tag, pattern)) = protected else { return Ok(()) };
        let project = &member.project_name;
        Err(Status::failed_precondition(format!(
            "nobody removes {tag}: tags {pattern} of project {project} are protected. If it is to go all the same, take that away \
             first: farm project unprotect '{pattern}' --project {project}"
        )))
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
        let access = &self.of(member.project).await.map_err(unstored::store)?.access;
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

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<ProjectId, (Arc<Allowed>, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses to look at an image with the farm's credentials where the project may not pull from.
///
/// # Errors
/// `PERMISSION_DENIED` with what it takes.
pub fn check_pull(allowed: &Allowed, member: &Member, repository: &Repository) -> Result<(), Status> {
    if allowed.access.may_pull(repository) {
        return Ok(());
    }
    let (project, host) = (&member.project_name, repository.host());
    Err(Status::permission_denied(format!(
        "project {project} may not pull from {repository} with the farm's credentials; an admin of the farm can allow it: \
         farm project allow {project} --pull {repository}; or an admin of {project} gives it a login of its own: farm registry login \
         {host} --project {project}"
    )))
}

fn words(refusal: Refusal, member: &Member) -> String {
    let (who, project): (&str, &ProjectName) = (&member.name, &member.project_name);
    match refusal {
        Refusal::Repository(repository) => format!(
            "project {project} may not push to {repository}; an admin of the farm can allow it: farm project allow {project} \
             --push {repository}; or an admin of {project} gives it a login of its own: farm registry login {} --project {project}",
            repository.host()
        ),
        Refusal::Protected { tag, pattern, least } => format!(
            "{who} may not move {tag}: tags {pattern} of project {project} are moved by a {least}. Take another tag, or ask an admin \
             of {project} for the role: farm member set {who} --role {least} --project {project}"
        ),
    }
}
