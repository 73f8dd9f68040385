//! The staging registry: where what untrusted machines build is pushed, and the tokens by which it lets in. Farm is its token
//! service (the distribution project's "Token Authentication Implementation"): it signs them itself, and nobody is asked for one.
//!
//! Each attempt has a repository of its own, and its worker gets tokens to push and pull there while its lease lives.
//!
//! Invariant: no token is wider than one repository; none that is lent lets anybody delete; and only [`Whose::Staging`] reads what is
//! there, which nobody's build, login or question can be.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use farm_proto::v1;
use farm_types::{AttemptId, Digest, FailureCode, Invalid, ProjectId, RegistryHost, Repository};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;
use uuid::Uuid;

use super::lending::{LendError, wishes};
use super::login::{ISSUER, SERVICE, Whose};
use super::{By, Registries, RegistryError};

/// How long a token is good. One is looked at when a request begins, so a long push needs no longer one.
const LIVES: Duration = Duration::from_secs(300);
/// So long before its making it is good: the clocks of a farm aren't all right.
const SKEW: Duration = Duration::from_secs(60);
/// What a worker's engine may do in its attempt's repository.
const LENT: &[&str] = &["pull", "push"];

/// The staging registry, and the key by which its tokens are signed.
pub struct Staging {
    host: RegistryHost,
    key: EcdsaKeyPair,
    /// Of that key, as tokens bear it.
    certificate: String,
    random: SystemRandom,
}

impl fmt::Debug for Staging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Staging").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Staging {
    /// The registry at this host, which trusts a certificate (DER) of this key (PKCS#8, of P-256).
    ///
    /// # Errors
    /// It is no such key.
    pub fn new(host: RegistryHost, key: &[u8], certificate: &[u8]) -> anyhow::Result<Self> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key, &random)
            .map_err(|why| anyhow::anyhow!("the key by which tokens are signed is none of P-256: {why}"))?;
        Ok(Self { host, key, certificate: STANDARD.encode(certificate), random })
    }

    /// The repository of an attempt.
    fn repository(&self, project: ProjectId, attempt: AttemptId) -> Result<Repository, Invalid> {
        format!("{}/{project}/{attempt}", self.host).parse()
    }

    /// A token with which its bearer may do this in a repository.
    fn token(
        &self,
        bearer: &str,
        repository: &Repository,
        actions: &[&str],
        now: SystemTime,
    ) -> Result<String, RegistryError> {
        let unsigned = |why: String| RegistryError { code: FailureCode::RegistryUnavailable, message: why };
        if *repository.host() != self.host {
            return Err(unsigned(format!("farm makes tokens for {} only", self.host)));
        }
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let access = if actions.is_empty() {
            json!([])
        } else {
            json!([{ "type": "repository", "name": repository.name(), "actions": actions }])
        };
        let head = json!({ "typ": "JWT", "alg": "ES256", "x5c": [self.certificate] });
        let claims = json!({
            "iss": ISSUER, "sub": bearer, "aud": SERVICE, "iat": now.as_secs(),
            "nbf": now.saturating_sub(SKEW).as_secs(), "exp": (now + LIVES).as_secs(),
            "jti": Uuid::new_v4().to_string(), "access": access,
        });
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(head), part(claims));
        let signature = self.key.sign(&self.random, signed.as_bytes());
        let signature = signature.map_err(|why| unsigned(format!("a token can't be signed: {why}")))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl Registries {
    /// The same with a staging registry.
    #[must_use]
    pub fn with_staging(mut self, staging: Option<Staging>) -> Self {
        self.staging = staging;
        self
    }

    /// Whether this is the staging registry.
    pub(super) fn is_staging(&self, host: &str) -> bool {
        self.staging.as_ref().is_some_and(|staging| staging.host.as_str() == host)
    }

    /// The host of the staging registry; `None`: there is none.
    pub fn staging_host(&self) -> Option<&RegistryHost> {
        self.staging.as_ref().map(|staging| &staging.host)
    }

    /// The registries as they answer the farm where it copies from the staging registry and cleans it.
    pub fn staging(&self) -> Option<By<'_>> {
        self.staging.as_ref().map(|_| By { registries: self, whose: Whose::Staging })
    }

    /// Where an untrusted machine's attempt pushes; `None`: there is no staging registry.
    pub fn staged(&self, project: ProjectId, attempt: AttemptId) -> Option<Repository> {
        self.staging.as_ref()?.repository(project, attempt).ok()
    }

    /// All that an untrusted machine's worker has to know of registries.
    pub fn lend_staging(&self, repository: &Repository) -> v1::Registry {
        let host = repository.registry();
        v1::Registry {
            host: host.to_owned(),
            plain_http: self.plain_http(host),
            // No two attempts may the same there.
            grant: Digest::of(format!("staging\n{repository}").as_bytes()).hex(),
            ..Default::default()
        }
    }

    /// A token for what the engine of an untrusted machine asks for, as far as it is the attempt's own repository.
    ///
    /// # Errors
    /// It asks for one of another registry, or the staging registry wants tokens for something else.
    pub fn lend_staging_token(
        &self,
        project: ProjectId,
        attempt: AttemptId,
        asked: &v1::LendTokenRequest,
    ) -> Result<v1::LendTokenResponse, LendError> {
        let host = RegistryHost::of_login(&asked.host)?;
        let Some(staging) = self.staging.as_ref().filter(|staging| staging.host == host) else {
            let message = format!(
                "to a machine that isn't trusted tokens of the staging registry only are lent, and {host} isn't that"
            );
            return Err(RegistryError { code: FailureCode::RegistryAuth, message }.into());
        };
        if asked.service != SERVICE {
            let message = format!(
                "the staging registry {host} wants tokens for service {:?}, and farm makes them for {SERVICE:?}: write that for \
                 auth.token.service into the registry's configuration",
                super::error::said(&asked.service)
            );
            return Err(RegistryError { code: FailureCode::RegistryRejected, message }.into());
        }
        let own = staging.repository(project, attempt)?;
        let (mut may, mut refused) = (Vec::new(), Vec::new());
        for (name, actions) in wishes(host.as_str(), &asked.scopes)? {
            if name == own.name() {
                may.extend(LENT.iter().copied().filter(|action| actions.contains(*action)));
            } else {
                refused.push(format!("{host}/{name}"));
            }
        }
        let now = SystemTime::now();
        let token = if may.is_empty() {
            String::new()
        } else {
            staging.token(&attempt.to_string(), &own, &may, now)?
        };
        tracing::debug!(repository = %own, ?may, ?refused, "a token of the staging registry is lent");
        Ok(v1::LendTokenResponse {
            token,
            expires_in: LIVES.as_secs(),
            issued_at: i64::try_from(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
                .unwrap_or_default(),
            refused,
        })
    }

    /// The farm's own token for what it does in a repository of the staging registry.
    pub(super) fn own_token(&self, repository: &Repository, actions: &str) -> Result<String, RegistryError> {
        let Some(staging) = &self.staging else {
            let message = "this coordinator has no staging registry (--staging)".to_owned();
            return Err(RegistryError { code: FailureCode::RegistryUnavailable, message });
        };
        let actions: Vec<&str> = actions.split(',').collect();
        staging.token("coordinator", repository, &actions, SystemTime::now())
    }
}

#[cfg(test)]
#[path = "staging_tests.rs"]
mod tests;
