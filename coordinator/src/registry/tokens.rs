//! Logins: how a registry lets in whom it answers, and the tokens that it wants to see.
//!
//! As the distribution project's "Token Authentication Specification" has it: `GET /v2/` is answered with a challenge
//! (RFC 6750, section 3) that names a token service, which gives tokens for a repository and what is to be done there.

use std::sync::PoisonError;

use farm_types::{FailureCode, Repository};
use reqwest::header::WWW_AUTHENTICATE;
use reqwest::{Method, RequestBuilder, Url};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::challenge::{Challenge, wanted};
use super::helpers::Given;
use super::login::Whose;
use super::realm::{Trust, trust};
use super::{Registries, RegistryError};
use crate::outbound::body::{End, read};
use crate::outbound::{Client, Failed, place};

/// The longest answer of a token service, bytes: of those there are the longest tokens have some KiB.
const MAX_TOKEN: usize = 64 * 1024;
/// As many grants, and ways in, are remembered; then all are asked for anew.
const MOST_GRANTS: usize = 1000;

/// What a token service answers with; under one of two names, by its age.
#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    /// Seconds. What is no number says nothing.
    #[serde(default)]
    expires_in: serde_json::Value,
    /// As RFC 3339 has it.
    #[serde(default)]
    issued_at: serde_json::Value,
}

/// A token as its service gave it. It isn't printed.
pub(super) struct GivenToken {
    pub(super) token: String,
    /// Seconds from its issue on; `None`: the service says nothing.
    pub(super) expires_in: Option<u64>,
    /// Seconds since 1970.
    pub(super) issued_at: Option<i64>,
}

/// By which login (`None`: the farm's) and for which repository a token is, and for what there.
pub(super) type Grant = (Option<Uuid>, String, &'static str);

/// What a token is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) repository: &'a Repository,
    /// Another one of the same registry, from which something is taken.
    pub(super) from: Option<&'a Repository>,
    /// What is to be done in the first one.
    pub(super) actions: &'static str,
}

impl Scope<'_> {
    fn key(&self, whose: &Whose) -> Grant {
        let of = match self.from {
            Some(from) => format!("{} {}", self.repository, from.name()),
            None => self.repository.to_string(),
        };
        (whose.version(), of, self.actions)
    }
}

/// What a request needs a token for.
pub(super) fn actions(method: &Method) -> &'static str {
    match *method {
        Method::PUT | Method::POST => "pull,push",
        Method::DELETE => "pull,delete",
        _ => "pull",
    }
}

/// With the login, where there is any.
pub(super) fn with_login(login: Option<&Given>, request: RequestBuilder) -> RequestBuilder {
    match login {
        Some(login) => request.basic_auth(&login.username, Some(login.password.expose_secret())),
        None => request,
    }
}

impl Registries {
    /// With what requests to a repository are made: a token; without one the login, if there is any.
    ///
    /// # Errors
    /// The registry or its token service refuses, can't be reached, or may not be asked.
    pub(super) async fn grant(
        &self,
        whose: &Whose,
        repository: &Repository,
        actions: &'static str,
        deadline: Instant,
    ) -> Result<Option<String>, RegistryError> {
        self.grant_of(whose, Scope { repository, from: None, actions }, deadline).await
    }

    /// The same for what concerns two repositories.
    pub(super) async fn grant_of(
        &self,
        whose: &Whose,
        scope: Scope<'_>,
        deadline: Instant,
    ) -> Result<Option<String>, RegistryError> {
        let Scope { repository, from, actions } = scope;
        if matches!(whose, Whose::Staging) {
            return self.own_token(repository, actions).map(Some);
        }
        let key = scope.key(whose);
        if let Some(token) = self.grants.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(token.clone());
        }
        let token = match self.challenge(repository, deadline).await? {
            Some(challenge) => {
                let mut scopes = vec![format!("repository:{}:{actions}", repository.name())];
                scopes.extend(from.map(|from| format!("repository:{}:pull", from.name())));
                let given = self.token(repository, &challenge, &scopes, whose, deadline).await?;
                given.map(|given| given.token)
            }
            None => None,
        };
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        if grants.len() >= MOST_GRANTS {
            grants.clear();
        }
        grants.insert(key, token.clone());
        Ok(token)
    }

    /// Forgets how the registry lets in: it may want something else by now, or forget tokens before their time.
    pub(super) fn forget(&self, whose: &Whose, repository: &Repository, actions: &'static str) {
        self.forget_of(whose, Scope { repository, from: None, actions });
    }

    /// The same of what concerns two repositories.
    pub(super) fn forget_of(&self, whose: &Whose, scope: Scope<'_>) {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner).remove(&scope.key(whose));
        self.forget_way(scope.repository.registry());
    }

    /// Forgets how this one lets in.
    pub(super) fn forget_way(&self, host: &str) {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    /// User name and password of a login, if there is one.
    ///
    /// # Errors
    /// A credential helper gives none.
    pub(super) async fn credentials(
        &self,
        host: &str,
        whose: &Whose,
    ) -> Result<Option<Given>, RegistryError> {
        match whose {
            Whose::Farm => {
                let known = self.known.get(host).filter(|known| !known.username.is_empty());
                Ok(known.map(|known| Given {
                    username: known.username.clone(),
                    password: known.password.clone(),
                }))
            }
            Whose::Project(login) if login.host.as_str() == host => {
                let shown = login.shown().await;
                shown.map(Some).map_err(|why| RegistryError::lost_login(&login.host, &why))
            }
            Whose::Project(_) | Whose::Staging | Whose::Nobody => Ok(None),
        }
    }

    /// How the registry lets in; asked once, since clients that ask each time double the requests.
    pub(super) async fn challenge(
        &self,
        repository: &Repository,
        deadline: Instant,
    ) -> Result<Option<Challenge>, RegistryError> {
        let host = repository.registry();
        if let Some(way) = self.known_way(host) {
            return Ok(way);
        }
        let (way, is_sure) = self.ask_way(repository, deadline).await?;
        if is_sure {
            let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
            if ways.len() >= MOST_GRANTS {
                ways.clear();
            }
            ways.insert(host.to_owned(), way.clone());
        }
        Ok(way)
    }

    /// How the registry lets in, as far as it was asked before.
    pub(super) fn known_way(&self, host: &str) -> Option<Option<Challenge>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
    }

    /// Asks the registry how it lets in, and keeps nothing of that; and whether it was sure.
    pub(super) async fn ask_way(
        &self,
        repository: &Repository,
        deadline: Instant,
    ) -> Result<(Option<Challenge>, bool), RegistryError> {
        let host = repository.registry();
        let client = self.client(repository);
        let asked = client.send(client.request(Method::GET, &self.url(host, "")));
        let response = match timeout_at(deadline, asked).await {
            Ok(answered) => answered.map_err(|failed| RegistryError::unsent(repository, &failed))?,
            Err(_) => return Err(RegistryError::timeout(repository, self.timeout)),
        };
        let headers = response.headers();
        let is_sure = headers.contains_key(WWW_AUTHENTICATE) || response.status().is_success();
        Ok((wanted(headers), is_sure))
    }

    /// A token; `None` from a service without logins, which gives one of no characters.
    pub(super) async fn token(
        &self,
        repository: &Repository,
        challenge: &Challenge,
        scopes: &[String],
        whose: &Whose,
        deadline: Instant,
    ) -> Result<Option<GivenToken>, RegistryError> {
        let host = repository.registry();
        let realm = Url::parse(&challenge.realm).ok();
        let plain_login = |url: &Url| !url.username().is_empty() || url.password().is_some();
        let Some(realm) = realm.filter(|url| url.host_str().is_some() && !plain_login(url)) else {
            return Err(RegistryError::rejected(repository, "it names a token service that has no address"));
        };
        let at = place(&realm);
        let known = self.known.get(host);
        let login = self.credentials(host, whose).await?;
        let has_login = login.is_some();
        let trust = trust(host, self.plain_http(host), known, &realm);
        match trust {
            Trust::Foreign if has_login => return Err(RegistryError::foreign_realm(repository, &at)),
            Trust::Plain if has_login => return Err(RegistryError::plain_realm(repository, &at)),
            _ => {}
        }
        let client = self.client(repository);
        let service = challenge.service.as_deref().map(|service| ("service", service));
        let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
        let query: Vec<_> = service.into_iter().chain(scopes).collect();
        let request = client.request(Method::GET, realm.as_str()).query(&query);
        let asked = self.ask_realm(client, host, &trust, login.as_ref(), request);
        let mut response = match timeout_at(deadline, asked).await {
            Ok(Ok(response)) => response,
            Ok(Err(failed)) => return Err(RegistryError::unsent_to_realm(repository, &at, &failed)),
            Err(_) => return Err(RegistryError::timeout(repository, self.timeout)),
        };
        let status = response.status();
        if !status.is_success() {
            if matches!(status.as_u16(), 401 | 403) {
                whose.refused().await;
            }
            return Err(RegistryError::no_token(repository, &at, status, whose));
        }
        let body = read(&mut response, MAX_TOKEN, deadline).await;
        match body.end {
            End::Whole => {}
            End::TooLong => return Err(RegistryError::too_long(repository, MAX_TOKEN)),
            End::Late => return Err(RegistryError::unended(repository, self.timeout)),
            End::Broken(error) => {
                return Err(RegistryError::unsent_to_realm(repository, &at, &Failed::Request(error)));
            }
        }
        let Ok(token) = serde_json::from_slice::<Token>(&body.bytes) else {
            // What it is instead is nobody's business: it may have been meant for somebody else.
            return Err(RegistryError::rejected(repository, format!("its token service {at} gave no token")));
        };
        let issued_at =
            token.issued_at.as_str().and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
        let given = GivenToken {
            expires_in: token.expires_in.as_u64(),
            issued_at: issued_at.map(|at| at.timestamp()),
            token: if token.token.is_empty() { token.access_token } else { token.token },
        };
        if given.token.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(RegistryError::rejected(repository, format!("its token service {at} gave no token")));
        }
        Ok(Some(given).filter(|given| !given.token.is_empty()))
    }

    async fn ask_realm(
        &self,
        client: &Client,
        host: &str,
        trust: &Trust,
        login: Option<&Given>,
        request: RequestBuilder,
    ) -> Result<reqwest::Response, Failed> {
        match trust {
            Trust::Own(place) if self.known.contains_key(host) => {
                client.send_to(place, with_login(login, request)).await
            }
            // An unknown registry's own host is no more than the registry is.
            Trust::Own(_) => client.send(with_login(login, request)).await,
            _ => client.send(request).await,
        }
    }
}

impl RegistryError {
    /// The token service is somebody else's, so it doesn't get the login.
    fn foreign_realm(repository: &Repository, at: &str) -> Self {
        let registry = repository.registry();
        let message = format!(
            "{registry} wants the login for {registry} to be sent to {at}, which farm does not do: it is another host; if \
             that is its token service, write realms = [\"{at}\"] for [registries.\"{registry}\"] into the coordinator's \
             configuration and start it again"
        );
        Self { code: FailureCode::RegistryAuth, message }
    }

    /// The token service has no TLS, so it doesn't get the login.
    fn plain_realm(repository: &Repository, at: &str) -> Self {
        let registry = repository.registry();
        let message = format!(
            "{registry} wants the login for {registry} to be sent to {at} without TLS, which farm does not do; configure its \
             token service (realm) with https, or, where the whole registry has no TLS, set plain_http = true for \
             [registries.\"{registry}\"] in the coordinator's configuration"
        );
        Self { code: FailureCode::RegistryAuth, message }
    }

    /// The token service gives none.
    fn no_token(repository: &Repository, at: &str, status: reqwest::StatusCode, whose: &Whose) -> Self {
        let (registry, name) = (repository.registry(), repository.name());
        if status.is_server_error() || [408, 425, 429].contains(&status.as_u16()) {
            let message = format!(
                "{registry} can't be reached or has trouble: its token service {at} answered {status}"
            );
            return Self { code: FailureCode::RegistryUnavailable, message };
        }
        Self::auth(repository, &format!("its token service {at} answered {status} for {name}"), whose)
    }
}
