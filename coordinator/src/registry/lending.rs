//! What workers are lent of the registries' logins, for one attempt.
//!
//! A registry that speaks token authentication gives tokens for repositories and for what is done there, so its login stays
//! here: a worker asks for a token when its engine does, and gets one for what the engine asked for as far as its attempt may
//! ([`Registries::lend_token`]). A registry without tokens takes the login for everything: that is lent, with the repositories
//! from which the worker may have its engine pull. Workers of before know neither, and are lent logins.
//!
//! An engine that is kept from images of a host name is kept from those of all its ports, so a worker is also told what its attempt may
//! take of registries without a login there.
//!
//! Invariant: with the farm's login nothing is asked for that the attempt's project may not pull, nor a push anywhere but to the
//! attempt's own repositories. A token is for whoever asked, is not kept here, and isn't printed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use farm_core::people::Access;
use farm_proto::v1;
use farm_types::{Digest, FailureCode, Invalid, ProjectId, RegistryHost, Repository, RepositoryPrefix};
use reqwest::Url;
use secrecy::ExposeSecret as _;
use tokio::time::Instant;

use super::challenge::Challenge;
use super::error::said;
use super::realm::{Trust, trust};
use super::tokens::{Manner, Whose};
use super::{Registries, RegistryError};

/// The most scopes in one question: a push asks for its repository and one to take layers from.
const MOST_SCOPES: usize = 100;

/// Whose attempt it is, and what that may.
#[derive(Debug, Clone, Copy)]
pub struct Borrower<'a> {
    /// Its project.
    pub project: ProjectId,
    /// What the project is allowed.
    pub access: &'a Access,
    /// Where the attempt pushes.
    pub own: &'a [Repository],
}

impl Borrower<'_> {
    /// What it may pull of a registry with the farm's login; `None`: everything.
    fn bounds(&self, host: &str) -> Option<BTreeSet<String>> {
        let own = self.own.iter().filter(|repository| repository.registry() == host);
        let mut bounds: BTreeSet<String> = own.map(ToString::to_string).collect();
        let prefixes = self.access.push.iter().chain(&self.access.pull);
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

    /// The same text for all that may do the same at a registry.
    fn grant(&self, host: &str) -> String {
        let bounds = self.bounds(host).map_or_else(|| "*".to_owned(), |all| Vec::from_iter(all).join(" "));
        let own: BTreeSet<&str> =
            self.own.iter().filter(|own| own.registry() == host).map(Repository::name).collect();
        let own = Vec::from_iter(own).join(" ");
        Digest::of(format!("{}\n{host}\n{bounds}\n{own}", self.project).as_bytes()).hex()
    }

    /// Of what is asked for in a repository, what it may.
    fn may<'a>(&self, repository: &Repository, actions: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
        let is_own = self.own.contains(repository);
        let may_pull = is_own || self.access.may_pull(repository);
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
type Wishes = BTreeMap<String, BTreeSet<String>>;

impl Registries {
    pub(super) fn has_login(&self, host: &str) -> bool {
        self.known.get(host).is_some_and(|known| !known.username.is_empty())
    }

    fn manner(&self, host: &str) -> Manner {
        let word = self.manners.get(host).map(|manner| manner.load(Ordering::Relaxed));
        Manner::from_word(word.unwrap_or_default())
    }

    /// Asks the registries with a login that weren't asked yet how they let in. Cancel safe.
    pub async fn learn(&self) {
        let hosts = self.manners.keys().filter(|host| self.manner(host) == Manner::Unknown);
        let asked = hosts.filter_map(|host| format!("{host}/any").parse::<Repository>().ok());
        let deadline = Instant::now() + self.timeout;
        let asked = asked.map(async |repository| {
            if let Err(error) = self.challenge(&repository, deadline).await {
                tracing::debug!(%error, "a registry does not say yet how it lets in");
            }
        });
        futures::future::join_all(asked).await;
    }

    /// Whether a registry has the host name of one with a login, or is it. An engine keeps the images of all ports of a host name under
    /// that name.
    pub(super) fn is_beside(&self, host: &RegistryHost) -> bool {
        let with_login = self.known.keys().filter(|known| self.has_login(known));
        with_login
            .filter_map(|known| known.parse().ok())
            .any(|known: RegistryHost| known.name() == host.name())
    }

    /// What a worker needs to push where its attempt pushes, and to pull from the configured registries that its project may
    /// use; and of which others it has to know. `asks`: it asks for tokens, and keeps to the repositories that it is told.
    pub fn lend(&self, borrower: &Borrower<'_>, asks: bool) -> Vec<v1::Registry> {
        let known = self.known.keys().map(String::as_str);
        let (mut hosts, others): (Vec<&str>, Vec<&str>) = known.partition(|host| borrower.access.is_of(host));
        for repository in borrower.own {
            if !hosts.contains(&repository.registry()) {
                hosts.push(repository.registry());
            }
        }
        // What the project is allowed at an engine's other registries of such a name; an engine has to be told of it.
        let is_beside = |host: &str| asks && host.parse().is_ok_and(|host| self.is_beside(&host));
        for prefix in borrower.access.push.iter().chain(&borrower.access.pull) {
            if let RepositoryPrefix::Below { host, .. } = prefix
                && !hosts.contains(&host.as_str())
                && is_beside(host)
            {
                hosts.push(host);
            }
        }
        let lent = |host: &str| {
            let plain = v1::Registry {
                host: host.to_owned(),
                plain_http: self.plain_http(host),
                ..Default::default()
            };
            let Some(known) = self.known.get(host).filter(|_| self.has_login(host)) else {
                let all = || [host.to_owned()].into();
                let bounds = is_beside(host).then(|| borrower.bounds(host).unwrap_or_else(all));
                return v1::Registry { pull: bounds.into_iter().flatten().collect(), ..plain };
            };
            let bounds = borrower.bounds(host).filter(|_| asks);
            let bounded = bounds.is_some();
            let plain = v1::Registry { pull: bounds.into_iter().flatten().collect(), bounded, ..plain };
            // One that wasn't asked yet is asked when the engine wants a token.
            if asks && self.manner(host) != Manner::Login {
                return v1::Registry { grant: borrower.grant(host), ..plain };
            }
            v1::Registry {
                username: known.username.clone(),
                password: known.password.expose_secret().to_owned(),
                ..plain
            }
        };
        // Where the project may nothing, its engine may have got others' images with the farm's login all the same.
        let others = others.into_iter().filter(|host| asks && !hosts.contains(host) && self.has_login(host));
        let closed = others.map(|host| v1::Registry {
            host: host.to_owned(),
            plain_http: self.plain_http(host),
            bounded: true,
            ..Default::default()
        });
        hosts.iter().copied().map(lent).chain(closed).collect()
    }

    /// A token for what an engine asks for, as far as its attempt may: by the farm's login for that, else what anybody gets.
    ///
    /// # Errors
    /// It is about no registry that has a login; or the registry or its token service has trouble, refuses the farm, or is
    /// nowhere that it goes.
    pub async fn lend_token(
        &self,
        borrower: &Borrower<'_>,
        asked: &v1::LendTokenRequest,
    ) -> Result<v1::LendTokenResponse, LendError> {
        let host = RegistryHost::of_login(&asked.host)?;
        let host = host.as_str();
        if !self.has_login(host) {
            return Err(Invalid::new(
                "registry",
                host,
                "farm has no login for it, so it lends no tokens of it",
            )
            .into());
        }
        let wishes = wishes(host, &asked.scopes)?;
        let (mut granted, mut refused) = (Vec::new(), Vec::new());
        let mut about = None;
        for (name, actions) in &wishes {
            let Ok(repository) = format!("{host}/{name}").parse::<Repository>() else { continue };
            let may = borrower.may(&repository, actions.iter().map(String::as_str));
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
            (Whose::Farm, granted)
        };
        let refused = refused.iter().map(ToString::to_string).collect();
        tracing::debug!(host, ?scopes, ?whose, ?refused, "a token is lent");
        let deadline = Instant::now() + self.timeout;
        let challenge = match self.challenge(&about, deadline).await? {
            Some(challenge) => challenge,
            None => self.told(&about, asked)?,
        };
        match self.token(&about, &challenge, &scopes, whose, deadline).await {
            Ok(Some(given)) => Ok(v1::LendTokenResponse {
                token: given.token,
                expires_in: given.expires_in.unwrap_or_default(),
                issued_at: given.issued_at.unwrap_or_default(),
                refused,
            }),
            Ok(None) => Ok(v1::LendTokenResponse { refused, ..Default::default() }),
            // To whoever has no login it may give nothing at all.
            Err(error) if whose == Whose::Nobody && error.code == FailureCode::RegistryAuth => {
                Ok(v1::LendTokenResponse { refused, ..Default::default() })
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
fn wishes(host: &str, scopes: &[String]) -> Result<Wishes, Invalid> {
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
