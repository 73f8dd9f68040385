//! How the engine gets in at registries: with a login, or with tokens that somebody else has.
//!
//! BuildKit's protocol (`session/auth`): of a registry that wants a token it asks first who stands behind tokens of its host
//! (`GetTokenAuthority`: a public key), and has that one fetch each. It keeps tokens by that key: for another session it uses
//! those that are there if the session signs with the same one (`VerifyTokenAuthority`; NaCl's `sign`: signature, then message).
//! So a key stands for what its attempt may do at the host ([`Lending::grants`]), and for this process. Where we say that we
//! stand behind none (`UNIMPLEMENTED`), the engine asks for a login (`Credentials`), and gets its tokens itself.
//!
//! Invariant: where tokens are lent, the engine is told no login but the one that the coordinator lends, for registries without tokens, and not
//! that there is none. An engine keeps what it got without one for whoever has none, and would try another session with that.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bollard_buildkit_proto::moby::filesync::v1::auth_server;
use bollard_buildkit_proto::moby::filesync::v1::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse, GetTokenAuthorityRequest,
    GetTokenAuthorityResponse, VerifyTokenAuthorityRequest, VerifyTokenAuthorityResponse,
};
use farm_types::{Cause, Failure, FailureCode, RegistryHost, Repository};
use ring::hmac;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tonic::{Request, Response, Status};

use crate::buildkit::types::{Grant, Lending, Login, TokenAsked};

/// What is served here.
pub(super) const METHODS: &[&str] = &[
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.filesync.v1.Auth/FetchToken",
    "/moby.filesync.v1.Auth/GetTokenAuthority",
    "/moby.filesync.v1.Auth/VerifyTokenAuthority",
];

/// Answers how to get in, and notes what it couldn't give.
pub(in crate::buildkit) struct Auth {
    logins: Vec<Login>,
    lending: Option<Lending>,
    notes: Arc<Notes>,
}

/// Why what was asked for in one solve wasn't given.
#[derive(Default)]
pub(in crate::buildkit) struct Notes(Mutex<Vec<Failure>>);

impl Auth {
    pub(in crate::buildkit) fn new(logins: Vec<Login>, lending: Option<Lending>, notes: Arc<Notes>) -> Self {
        Self { logins, lending, notes }
    }

    /// What this attempt may do at a registry, if tokens of that one are lent.
    fn grant(&self, host: &str) -> Option<(&Lending, &Grant)> {
        let asked = host_key(host);
        let lending = self.lending.as_ref()?;
        let (_, grant) = lending.grants.iter().find(|(host, _)| host_key(host) == asked)?;
        Some((lending, grant))
    }

    fn key(&self, host: &str, salt: &[u8]) -> Result<Ed25519KeyPair, Status> {
        let Some((_, grant)) = self.grant(host) else {
            return Err(Status::unimplemented("the engine fetches its tokens itself"));
        };
        // Each part with its length, so that no two lists of parts are the same bytes.
        let mut mac = hmac::Context::with_key(secret());
        for part in [salt, host_key(host).as_bytes(), grant.name.as_bytes()] {
            mac.update(&part.len().to_be_bytes());
            mac.update(part);
        }
        Ed25519KeyPair::from_seed_unchecked(mac.sign().as_ref())
            .map_err(|error| Status::internal(format!("no key can be made of a seed: {error}")))
    }

    /// An answer that can't be given, told to the engine and kept for [`Notes::explain`].
    fn failed(&self, failure: Failure) -> Status {
        let status = match failure.cause {
            Cause::User => Status::permission_denied(failure.message.clone()),
            _ => Status::unavailable(failure.message.clone()),
        };
        self.notes.noted().push(failure);
        status
    }
}

/// What the keys of this process are made of.
fn secret() -> &'static hmac::Key {
    static SECRET: OnceLock<hmac::Key> = OnceLock::new();
    SECRET.get_or_init(|| hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()))
}

/// The one text of a host, whatever its name is written like: Docker Hub has several, and capitals don't matter.
fn host_key(host: &str) -> String {
    RegistryHost::of_login(host).map_or_else(|_| host.to_owned(), |host| host.to_string())
}

#[tonic::async_trait]
impl auth_server::Auth for Auth {
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let host = request.into_inner().host;
        let asked = host_key(&host);
        if let Some((lending, _)) = self.grant(&host) {
            let lent = lending.tokens.lend_login(asked).await.map_err(|failure| self.failed(failure))?;
            return Ok(Response::new(CredentialsResponse { username: lent.username, secret: lent.password }));
        }
        let login = self.logins.iter().find(|login| host_key(&login.host) == asked);
        // An empty name means anonymous.
        Ok(Response::new(login.map_or_else(CredentialsResponse::default, |login| CredentialsResponse {
            username: login.username.clone(),
            secret: login.password.clone(),
        })))
    }

    async fn fetch_token(
        &self,
        request: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        let FetchTokenRequest { host, realm, service, scopes, .. } = request.into_inner();
        let Some((lending, _)) = self.grant(&host) else {
            return Err(Status::unimplemented("the engine fetches its tokens itself"));
        };
        let asked = TokenAsked { host, realm, service, scopes };
        let lent = lending.tokens.lend(asked).await.map_err(|failure| self.failed(failure))?;
        if let (true, Some(repository)) = (lent.token.is_empty(), lent.refused.first()) {
            return Err(self.failed(untaken(&lending.project, repository)));
        }
        Ok(Response::new(FetchTokenResponse {
            token: lent.token,
            expires_in: i64::try_from(lent.expires_in).unwrap_or_default(),
            issued_at: lent.issued_at,
        }))
    }

    async fn get_token_authority(
        &self,
        request: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        let GetTokenAuthorityRequest { host, salt } = request.into_inner();
        let key = self.key(&host, &salt)?;
        Ok(Response::new(GetTokenAuthorityResponse { public_key: key.public_key().as_ref().to_vec() }))
    }

    async fn verify_token_authority(
        &self,
        request: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        let VerifyTokenAuthorityRequest { host, payload, salt } = request.into_inner();
        let key = self.key(&host, &salt)?;
        let signed = [key.sign(&payload).as_ref(), &payload].concat();
        Ok(Response::new(VerifyTokenAuthorityResponse { signed }))
    }
}

impl Notes {
    fn noted(&self) -> MutexGuard<'_, Vec<Failure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A solve's failure, in better words if it is one of not getting in: the engine knows what a registry said, and we know
    /// why. `said` is all that the engine says.
    pub(in crate::buildkit) fn explain(
        &self,
        failure: Failure,
        said: &str,
        lending: Option<&Lending>,
    ) -> Failure {
        let with = |Failure { cause, code, message, .. }: Failure, failure: Failure| Failure {
            cause,
            code,
            message,
            ..failure
        };
        if let Some(own) = self.noted().iter().find(|own| said.contains(&own.message)) {
            return with(own.clone(), failure);
        }
        let Some(lending) = lending else { return failure };
        // What one may not know of is told as if it weren't there.
        let is_about_login = match failure.code {
            FailureCode::RegistryAuth => true,
            FailureCode::BaseImageMissing => !said.trim_end().ends_with("not found"),
            _ => false,
        };
        // An engine may have had the token from before, so that nothing was asked for.
        let untold = lending.grants.iter().filter(|_| is_about_login).find_map(|(host, grant)| {
            named(said, host).find(|named| {
                let below = |prefix: &String| {
                    named
                        .strip_prefix(prefix.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                !grant.pull.is_empty() && !grant.pull.iter().any(below)
            })
        });
        match untold {
            Some(repository) => with(untaken(&lending.project, repository), failure),
            None => failure,
        }
    }
}

/// The repositories of a registry that a text names.
fn named<'a>(text: &'a str, host: &str) -> impl Iterator<Item = &'a str> {
    let begin = format!("{host}/");
    let starts: Vec<usize> = text.match_indices(&begin).map(|(at, _)| at).collect();
    starts.into_iter().filter_map(move |at| {
        let named = text.get(at..)?;
        let name = named.get(begin.len()..)?;
        let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
        let length = name.find(|c: char| !is_part(c)).unwrap_or(name.len());
        named.get(..begin.len() + length).filter(|_| length > 0)
    })
}

/// The project may not, and nobody else may.
pub(in crate::buildkit) fn untaken(project: &str, repository: &str) -> Failure {
    let host = repository.split('/').next().unwrap_or_default();
    let message = format!(
        "{repository} is not there for everybody, and project {project} may not pull from it with the farm's credentials; an \
         admin of {project} can give it a login of its own: farm registry login {host} --project {project}; or an admin of the farm \
         can allow it: farm project allow {project} --pull {repository}"
    );
    Failure::new(Cause::User, FailureCode::RegistryAuth, message)
}

/// The login by which the project looks may not.
pub(in crate::buildkit) fn unread(project: &str, repository: &Repository) -> Failure {
    let host = repository.host();
    let message = format!(
        "{host} doesn't let the login that project {project} has there read {}; give its user that right, or set another login: farm \
         registry login {host} --project {project}",
        repository.name()
    );
    Failure::new(Cause::User, FailureCode::RegistryAuth, message)
}

/// The project may not, and nobody can be asked what others may.
pub(in crate::buildkit) fn bounded(project: &str, repository: &str) -> Failure {
    let message = format!(
        "project {project} may not pull from {repository} with the farm's credentials, and its registry takes no others; an \
         admin of the farm can allow it: farm project allow {project} --pull {repository}"
    );
    Failure::new(Cause::User, FailureCode::RegistryAuth, message)
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
