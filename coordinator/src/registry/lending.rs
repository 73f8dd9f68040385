//! What workers are lent of the registries' logins, for one attempt.
//!
//! A worker asks when its engine does, and for what it asks: so lent is only what a job pulls from or pushes to. A registry that speaks
//! token authentication gives tokens for repositories and for what is done there, so its login stays here: the worker gets a token for
//! what the engine asked for as far as its attempt may ([`Registries::lend_token`]). A registry without tokens takes the login for
//! everything: that is lent ([`Registries::lend_login`]), with the repositories from which the worker may have its engine pull. Workers of
//! before know neither, and are lent the farm's logins with the offer, and projects' own never: they don't keep apart what engines have.
//!
//! An engine that is kept from images of a host name is kept from those of all its ports, so a worker is also told what its attempt may
//! take of registries without a login there. Where any project has a login of its own, nobody is told that a repository may be taken: what
//! that login has pulled, another one may not be able to. Each image is looked up then, by the login that the attempt's project
//! uses (`public.rs`).
//!
//! Invariant: with the farm's login nothing is asked for that the attempt's project may not pull, nor a push anywhere but to the
//! attempt's own repositories; with a project's own nothing for another project, nor a push elsewhere. A token is for whoever asked, is not
//! kept here, and isn't printed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use farm_proto::v1;
use farm_types::{Digest, FailureCode, Invalid, ProjectId, RegistryHost, Repository, RepositoryPrefix};
use reqwest::Url;
use secrecy::ExposeSecret as _;
use tokio::time::Instant;

use super::challenge::Challenge;
use super::error::said;
use super::login::{Allowed, Kept, Whose};
use super::realm::{Trust, trust};
use super::{Registries, RegistryError};

/// The most scopes in one question: a push asks for its repository and one to take layers from.
const MOST_SCOPES: usize = 100;

/// Whose attempt it is, and what that may.
#[derive(Debug, Clone)]
pub struct Borrower<'a> {
    /// Its project.
    pub project: ProjectId,
    /// What the project may.
    pub allowed: &'a Allowed,
    /// Where the attempt pushes.
    own: Vec<&'a Repository>,
}

impl<'a> Borrower<'a> {
    /// One whose attempt pushes to these repositories, as far as its project still may.
    pub fn new(project: ProjectId, allowed: &'a Allowed, own: &'a [Repository]) -> Self {
        let own = own.iter().filter(|repository| allowed.still_pushes(repository)).collect();
        Self { project, allowed, own }
    }

    /// What it may pull of a registry with the farm's login; `None`: everything.
    fn bounds(&self, host: &str) -> Option<BTreeSet<String>> {
        let own = self.own.iter().filter(|repository| repository.registry() == host);
        let mut bounds: BTreeSet<String> = own.map(ToString::to_string).collect();
        let prefixes = self.allowed.access.push.iter().chain(&self.allowed.access.pull);
        for prefix in prefixes.filter(|prefix| prefix.is_of(host)) {
            match prefix {
                RepositoryPrefix::Below { path, .. } if !path.is_empty() => {
                    bounds.insert(prefix.to_string());
                }
                _ => return None,
            }
        }
        Some(bounds)
    }

    /// The same text for all that may do the same at a registry, by the same login.
    fn grant(&self, host: &RegistryHost) -> String {
        let login = match self.allowed.own(host) {
            Some(Kept::Login(login)) => login.version.to_string(),
            _ => String::new(),
        };
        let host = host.as_str();
        let bounds = self.bounds(host).map_or_else(|| "*".to_owned(), |all| Vec::from_iter(all).join(" "));
        let own: BTreeSet<&str> =
            self.own.iter().filter(|own| own.registry() == host).map(|own| own.name()).collect();
        let own = Vec::from_iter(own).join(" ");
        Digest::of(format!("{}\n{host}\n{login}\n{bounds}\n{own}", self.project).as_bytes()).hex()
    }

    /// Whether it may pull from a repository with the farm's login.
    pub(super) fn may_pull(&self, repository: &Repository) -> bool {
        self.own.contains(&repository) || self.allowed.access.may_pull(repository)
    }

    /// Whether it may do anything at a registry with the farm's login.
    fn is_of(&self, host: &str) -> bool {
        self.allowed.access.is_of(host) || self.own.iter().any(|own| own.registry() == host)
    }

    /// Of what is asked for in a repository, what it may by this login.
    fn may<'s>(
        &self,
        whose: &Whose,
        repository: &Repository,
        actions: impl Iterator<Item = &'s str>,
    ) -> BTreeSet<&'s str> {
        let is_own = self.own.contains(&repository);
        // What a project's own login may pull its registry says.
        let may_pull = matches!(whose, Whose::Project(_)) || self.may_pull(repository);
        actions.filter(|action| (*action == "pull" && may_pull) || (*action == "push" && is_own)).collect()
    }
}

/// Why no token is lent.
#[derive(Debug, thiserror::Error)]
pub enum LendError {
    /// The question makes no sense.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The registry, or its token service.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// What is asked for, by repository.
pub(super) type Wishes = BTreeMap<String, BTreeSet<String>>;

impl Registries {
    /// Whether the farm has a login of its own there.
    pub fn has_login(&self, host: &str) -> bool {
        self.known.get(host).is_some_and(|known| !known.username.is_empty())
    }

    /// Whether a registry has the host name of one with a login, or is it. An engine keeps the images of all ports of a host name under
    /// that name.
    pub(super) fn is_beside(&self, allowed: &Allowed, host: &RegistryHost) -> bool {
        let with_login = self.known.keys().filter(|known| self.has_login(known));
        allowed.is_shared(host)
            || with_login
                .filter_map(|known| known.parse().ok())
                .any(|known: RegistryHost| known.name() == host.name())
    }

    /// By which login images of a registry are looked up for an attempt, where that isn't for everybody: the same text for all who look by
    /// the same.
    pub(super) fn reader(&self, borrower: &Borrower<'_>, host: &RegistryHost) -> String {
        match borrower.allowed.own(host) {
            Some(Kept::Login(login)) => login.version.to_string(),
            Some(Kept::Lost(_)) => String::new(),
            Some(Kept::Removed) | None => {
                let is_farms = borrower.allowed.is_shared(host) && self.has_login(host.as_str());
                let is_farms = is_farms && borrower.is_of(host.as_str());
                if is_farms { format!("farm {}", borrower.project) } else { String::new() }
            }
        }
    }

    /// By whose login an attempt does what it does at a registry.
    ///
    /// # Errors
    /// There is none, or none any more; or it can't be opened.
    fn lends_by(&self, borrower: &Borrower<'_>, host: &RegistryHost) -> Result<Whose, RegistryError> {
        match borrower.allowed.logins.get(host) {
            Some(Kept::Login(login)) => Ok(Whose::Project(Arc::clone(login))),
            Some(Kept::Lost(why)) => Err(RegistryError::lost_login(host, why)),
            None if self.has_login(host.as_str()) => Ok(Whose::Farm),
            Some(Kept::Removed) if self.has_login(host.as_str()) && borrower.is_of(host.as_str()) => {
                Ok(Whose::Farm)
            }
            Some(Kept::Removed) | None => Err(RegistryError::no_login(host)),
        }
    }

    /// What a worker has to know of registries: where it gets tokens or logins from here, which images it may have its engine take, and
    /// which registry has no TLS. `asks`: it asks for tokens and logins, and keeps to what it is told; one that doesn't is lent the farm's
    /// logins at once.
    pub fn lend(&self, borrower: &Borrower<'_>, asks: bool) -> Vec<v1::Registry> {
        let allowed = borrower.allowed;
        let mut hosts: BTreeSet<RegistryHost> = BTreeSet::new();
        let known = self.known.keys().filter(|host| borrower.is_of(host) && !self.is_staging(host));
        hosts.extend(known.filter_map(|host| host.parse::<RegistryHost>().ok()));
        hosts.extend(borrower.own.iter().map(|repository| repository.host().clone()));
        if asks {
            hosts.extend(allowed.logins.keys().filter(|host| allowed.own(host).is_some()).cloned());
            // What the project is allowed at an engine's other registries of such a name; an engine has to be told of it.
            for prefix in allowed.access.push.iter().chain(&allowed.access.pull) {
                if let RepositoryPrefix::Below { host, .. } = prefix
                    && let Ok(host) = host.parse::<RegistryHost>()
                    && self.is_beside(allowed, &host)
                {
                    hosts.insert(host);
                }
            }
        }
        // Where the project may nothing, its engine may have got others' images with the farm's login or theirs all the same.
        let mut closed: BTreeSet<RegistryHost> = BTreeSet::new();
        if asks {
            let with_login = self.known.keys().filter(|host| self.has_login(host));
            closed.extend(with_login.filter_map(|host| host.parse::<RegistryHost>().ok()));
            closed.extend(allowed.with_logins.iter().cloned());
        }
        let closed = closed
            .iter()
            .filter(|host| !hosts.contains(host))
            .map(|host| v1::Registry { bounded: true, ..self.plain(host) });
        hosts.iter().map(|host| self.lent(borrower, host, asks)).chain(closed).collect()
    }

    fn plain(&self, host: &RegistryHost) -> v1::Registry {
        let plain_http = self.plain_http(host.as_str());
        v1::Registry { host: host.to_string(), plain_http, ..Default::default() }
    }

    /// What a worker has to know of one registry at which its attempt may something.
    fn lent(&self, borrower: &Borrower<'_>, host: &RegistryHost, asks: bool) -> v1::Registry {
        let (allowed, plain, name) = (borrower.allowed, self.plain(host), host.as_str());
        let is_own = allowed.own(host).is_some();
        let is_farms = !is_own && self.has_login(name);
        if !asks {
            return match self.known.get(name).filter(|_| is_farms) {
                Some(known) => v1::Registry {
                    username: known.username.clone(),
                    password: known.password.expose_secret().to_owned(),
                    ..plain
                },
                None => plain,
            };
        }
        let grant = if is_own || is_farms { borrower.grant(host) } else { String::new() };
        let is_asked = is_own || self.known.contains_key(name) || allowed.with_logins.contains(host);
        let is_asked = is_asked || borrower.own.iter().any(|own| own.host() == host);
        if is_own || allowed.is_shared(host) && is_asked {
            let reader = self.reader(borrower, host);
            return v1::Registry { grant, bounded: true, reader, ..plain };
        }
        let bounds = borrower.bounds(name);
        if is_farms {
            let bounded = bounds.is_some();
            return v1::Registry { grant, pull: bounds.into_iter().flatten().collect(), bounded, ..plain };
        }
        let all = || [name.to_owned()].into();
        let bounds = self.is_beside(allowed, host).then(|| bounds.unwrap_or_else(all));
        v1::Registry { pull: bounds.into_iter().flatten().collect(), ..plain }
    }

    /// The login that a worker's engine wants of a registry that has no tokens, for an attempt that may do something there.
    ///
    /// # Errors
    /// There is none for it, or none any more; the registry has tokens, or has trouble.
    pub async fn lend_login(
        &self,
        borrower: &Borrower<'_>,
        host: &RegistryHost,
    ) -> Result<(Whose, v1::LendLoginResponse), LendError> {
        let whose = self.lends_by(borrower, host)?;
        if matches!(whose, Whose::Farm) && !borrower.is_of(host.as_str()) {
            return Err(RegistryError::no_login(host).into());
        }
        let about = format!("{host}/any").parse()?;
        if self.challenge(&about, Instant::now() + self.timeout).await?.is_some() {
            let cure = "it has tokens, so its login is lent to nobody";
            return Err(Invalid::new("registry", host.as_str(), cure).into());
        }
        let given = self.credentials(host.as_str(), &whose).await?;
        let lent = given.map_or_else(v1::LendLoginResponse::default, |given| v1::LendLoginResponse {
            username: given.username,
            password: given.password.expose_secret().to_owned(),
        });
        tracing::debug!(%host, ?whose, "a login is lent");
        Ok((whose, lent))
    }

    /// A token for what an engine asks for, as far as its attempt may: by its project's own login or the farm's for that, else what
    /// anybody gets.
    ///
    /// # Errors
    /// There is no login for it, or none any more; or the registry or its token service has trouble, refuses the login, or is nowhere that
    /// farm goes.
    pub async fn lend_token(
        &self,
        borrower: &Borrower<'_>,
        asked: &v1::LendTokenRequest,
    ) -> Result<(Whose, v1::LendTokenResponse), LendError> {
        let host = RegistryHost::of_login(&asked.host)?;
        let by = self.lends_by(borrower, &host)?;
        let host = host.as_str();
        let wishes = wishes(host, &asked.scopes)?;
        let (mut granted, mut refused) = (Vec::new(), Vec::new());
        let mut about = None;
        for (name, actions) in &wishes {
            let Ok(repository) = format!("{host}/{name}").parse::<Repository>() else { continue };
            let may = borrower.may(&by, &repository, actions.iter().map(String::as_str));
            if may.is_empty() {
                refused.push(repository.clone());
            } else {
                granted.push(scope(name, may));
            }
            about.get_or_insert(repository);
        }
        let about = about.map_or_else(|| format!("{host}/any").parse(), Ok)?;
        let (whose, scopes) = if granted.is_empty() {
            let public = refused.iter().map(|repository| scope(repository.name(), ["pull"]));
            (Whose::Nobody, public.collect())
        } else {
            (by, granted)
        };
        let refused = refused.iter().map(ToString::to_string).collect();
        tracing::debug!(host, ?scopes, ?whose, ?refused, "a token is lent");
        let deadline = Instant::now() + self.timeout;
        let challenge = match self.challenge(&about, deadline).await? {
            Some(challenge) => challenge,
            None => self.told(&about, asked)?,
        };
        match self.token(&about, &challenge, &scopes, &whose, deadline).await {
            Ok(Some(given)) => {
                let lent = v1::LendTokenResponse {
                    token: given.token,
                    expires_in: given.expires_in.unwrap_or_default(),
                    issued_at: given.issued_at.unwrap_or_default(),
                    refused,
                };
                Ok((whose, lent))
            }
            Ok(None) => Ok((whose, v1::LendTokenResponse { refused, ..Default::default() })),
            // To whoever has no login it may give nothing at all.
            Err(error) if matches!(whose, Whose::Nobody) && error.code == FailureCode::RegistryAuth => {
                Ok((whose, v1::LendTokenResponse { refused, ..Default::default() }))
            }
            Err(error) => {
                // It may have another token service by now.
                self.forget_way(host);
                Err(error.into())
            }
        }
    }

    /// The token service that a registry told its client of and not us: some let anybody look at their root.
    fn told(&self, about: &Repository, asked: &v1::LendTokenRequest) -> Result<Challenge, RegistryError> {
        let host = about.registry();
        let realm = Url::parse(&asked.realm).ok().filter(|realm| {
            let is_own = trust(host, self.plain_http(host), self.known.get(host), realm);
            matches!(is_own, Trust::Own(_))
        });
        let Some(realm) = realm else {
            let message = format!(
                "{host} names {} to the engine as its token service and names none to farm, which asks only those that it is \
                 told of itself, that are the registry's own, or that realms of [registries.\"{host}\"] names in the \
                 coordinator's configuration",
                said(&asked.realm)
            );
            return Err(RegistryError { code: FailureCode::RegistryNotAllowed, message });
        };
        let service = Some(asked.service.clone()).filter(|service| !service.is_empty());
        Ok(Challenge { realm: realm.into(), service })
    }
}

/// The repositories in scopes, with what is to be done there. Other scopes (`registry:catalog:*`) are nobody's here.
pub(super) fn wishes(host: &str, scopes: &[String]) -> Result<Wishes, Invalid> {
    let mut wishes = Wishes::new();
    let all: Vec<&str> = scopes.iter().flat_map(|scopes| scopes.split_ascii_whitespace()).collect();
    if all.len() > MOST_SCOPES {
        let cure = format!("ask for at most {MOST_SCOPES} at once");
        return Err(Invalid::new("scopes", all.len().to_string(), cure));
    }
    for scope in all {
        let named = scope.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'));
        let Some((name, actions)) = named else { continue };
        // Under the same name as it would be judged, or not at all.
        let is_same = |repository: Repository| repository.registry() == host && repository.name() == name;
        if format!("{host}/{name}").parse().is_ok_and(is_same) {
            wishes.entry(name.to_owned()).or_default().extend(actions.split(',').map(str::to_owned));
        }
    }
    Ok(wishes)
}

fn scope<'a>(name: &str, actions: impl IntoIterator<Item = &'a str>) -> String {
    format!("repository:{name}:{}", Vec::from_iter(actions).join(","))
}

#[cfg(test)]
#[path = "lending_tests.rs"]
mod tests;
