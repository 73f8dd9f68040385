//! By whose login a registry is asked: a project's own, where it has one there, and else the farm's.
//!
//! Invariant: what was accepted or pushed by a project's own login is never gone on with by the farm's, unless the project may do that
//! with the farm's: its login may be one that could not do it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use farm_core::people::Access;
use farm_types::{ProjectId, RegistryHost, Repository};
use secrecy::SecretString;
use uuid::Uuid;

use super::helpers::{Given, Helpers};

/// Who makes the staging registry's tokens: `issuer` in its configuration.
pub const ISSUER: &str = "farm";
/// For whom: `service` there.
pub const SERVICE: &str = "farm-staging";

/// A project's login at a registry, opened. The password isn't printed, and is erased with the last copy.
pub struct Login {
    /// Whose.
    pub project: ProjectId,
    /// The registry.
    pub host: RegistryHost,
    /// Another one each time that it is set: what was got by one is nothing to the next.
    pub version: Uuid,
    /// What it is.
    pub by: LoginBy,
}

/// What a login is. Nothing of it is printed.
#[derive(Clone)]
pub enum LoginBy {
    /// The user's name there, and the password, or a token of the registry's.
    Password(String, SecretString),
    /// A credential helper's name, by which it is asked: it gives both, for a while.
    Helper(String, Arc<Helpers>),
}

impl Login {
    /// The name and password that count now.
    ///
    /// # Errors
    /// Its helper gives none; why.
    pub(super) async fn shown(&self) -> Result<Given, String> {
        match &self.by {
            LoginBy::Password(username, password) => {
                Ok(Given { username: username.clone(), password: password.clone() })
            }
            LoginBy::Helper(name, helpers) => helpers.get(name, &self.host).await,
        }
    }

    /// The registry doesn't take it: a helper may have a newer one.
    pub(super) async fn refused(&self) {
        if let LoginBy::Helper(name, helpers) = &self.by {
            helpers.forget(name, &self.host).await;
        }
    }

    /// Who that is at the registry, for people.
    pub fn who(&self) -> String {
        match &self.by {
            LoginBy::Password(username, _) => format!("{username:?}"),
            LoginBy::Helper(name, _) => format!("of credential helper {name:?}"),
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("project", &self.project)
            .field("host", &self.host)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What there is of a project's login at a registry.
#[derive(Debug, Clone)]
pub enum Kept {
    /// It counts.
    Login(Arc<Login>),
    /// It counts, and can't be opened; why.
    Lost(String),
    /// It was removed.
    Removed,
}

/// What a project may do at registries, and by which logins; as of one moment.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// What it is allowed with the farm's credentials, and which tags are protected.
    pub access: Access,
    /// Its own logins, by their registries; of an attempt also those that its build was given.
    pub logins: BTreeMap<RegistryHost, Kept>,
    /// The registries at which any project has, or had lately, a login of its own: what engines have of these isn't everybody's.
    pub with_logins: BTreeSet<RegistryHost>,
}

impl Allowed {
    /// Its own login at a registry, opened or not; `None`: it has none.
    pub fn own(&self, host: &RegistryHost) -> Option<&Kept> {
        self.logins.get(host).filter(|kept| !matches!(kept, Kept::Removed))
    }

    /// Whether what was accepted with this repository may still be pushed there: not after its own login was removed, unless it may do so
    /// with the farm's.
    pub fn still_pushes(&self, repository: &Repository) -> bool {
        match self.logins.get(repository.host()) {
            Some(Kept::Removed) => self.access.may_push(repository),
            _ => true,
        }
    }

    /// Whether engines may have images under this host's name that some project has pulled or pushed by its own login. They keep those of
    /// all ports under one name.
    pub fn is_shared(&self, host: &RegistryHost) -> bool {
        self.with_logins.iter().any(|other| other.name() == host.name())
    }
}

/// By whose login a registry is asked.
#[derive(Debug, Clone)]
pub enum Whose {
    /// That of the configuration; nobody's, where there is none.
    Farm,
    /// A project's.
    Project(Arc<Login>),
    /// None: by tokens that farm makes itself, at the staging registry only.
    Staging,
    /// Nobody's: what anybody gets.
    Nobody,
}

impl Whose {
    /// What tells what was got by one login from what was got by another.
    pub(super) fn version(&self) -> Option<Uuid> {
        match self {
            Self::Project(login) => Some(login.version),
            Self::Farm | Self::Staging | Self::Nobody => None,
        }
    }

    /// The registry doesn't take the login.
    pub(super) async fn refused(&self) {
        if let Self::Project(login) = self {
            login.refused().await;
        }
    }
}
