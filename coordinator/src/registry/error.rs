//! What goes wrong with a registry, by what follows from it.

use farm_types::chain::{chain, in_short};
use farm_types::{Cause, Failure, FailureCode, Repository};
use oci_distribution::errors::{OciDistributionError, OciErrorCode};

/// How a registry failed farm, in words for the build's owner.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct RegistryError {
    /// What it makes of a publication: whether the registry is away, refuses, or has no such repository.
    pub code: FailureCode,
    /// The sentence that a person reads. It names the registry.
    pub message: String,
}

impl RegistryError {
    /// The registry answered, and means no.
    pub fn rejected(repository: &Repository, why: impl Into<String>) -> Self {
        let why = said(&why.into());
        let message = format!("{} did not take {}: {why}", repository.registry(), repository.name());
        Self { code: FailureCode::RegistryRejected, message }
    }

    /// The registry answered, with something that nobody can use.
    pub(super) fn unusable(repository: &Repository, why: &str) -> Self {
        let why = said(why);
        let message = format!("{} has something else there than an image: {why}", repository.registry());
        Self { code: FailureCode::RegistryRejected, message }
    }

    /// The registry took too long.
    pub(super) fn timeout(repository: &Repository, limit: std::time::Duration) -> Self {
        let message = format!("{} did not answer within {} s", repository.registry(), limit.as_secs());
        Self { code: FailureCode::RegistryUnavailable, message }
    }

    /// The registry began to answer, and took too long.
    pub(super) fn unended(repository: &Repository, limit: std::time::Duration) -> Self {
        let message =
            format!("{} did not end its answer within {} s", repository.registry(), limit.as_secs());
        Self { code: FailureCode::RegistryUnavailable, message }
    }

    /// The registry says more than farm reads. That may pass: what goes wrong between farm and a registry can send
    /// anything, and a build is not to fail as its user's mistake by it.
    pub(super) fn too_long(repository: &Repository, most: usize) -> Self {
        let (registry, name) = (repository.registry(), repository.name());
        let message = format!("{registry} says too much of {name}: its answer is longer than {most} bytes");
        Self { code: FailureCode::RegistryUnavailable, message }
    }

    /// The registry knows no such repository.
    pub(super) fn missing(repository: &Repository) -> Self {
        let (registry, name) = (repository.registry(), repository.name());
        let message = format!("{registry} has no repository {name}; make it there first");
        Self { code: FailureCode::RepositoryMissing, message }
    }

    /// The registry and farm don't come to TLS with each other, which waiting doesn't mend.
    pub(super) fn no_tls(repository: &Repository, why: &str) -> Self {
        let registry = repository.registry();
        let message = format!(
            "{registry} can't be asked by TLS ({why}); if it has none, set plain_http = true for \
             [registries.\"{registry}\"] in the coordinator's configuration, and if its certificate is of a CA of its own, \
             ca_file"
        );
        Self { code: FailureCode::RegistryRejected, message }
    }

    /// True when it may pass by itself.
    pub fn is_transient(&self) -> bool {
        self.code == FailureCode::RegistryUnavailable
    }

    /// The failure that it makes of a publication.
    pub fn failure(&self) -> Failure {
        let cause = if self.is_transient() { Cause::Infrastructure } else { Cause::User };
        Failure::new(cause, self.code.clone(), self.message.clone())
    }

    /// Absence as `None`, all else as an error.
    pub(super) fn or_absent<T>(
        repository: &Repository,
        error: OciDistributionError,
    ) -> Result<Option<T>, Self> {
        match &error {
            OciDistributionError::ImageManifestNotFoundError(_) => Ok(None),
            OciDistributionError::RegistryError { envelope, .. }
                if envelope.errors.iter().any(|e| {
                    matches!(
                        e.code,
                        OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound
                    )
                }) =>
            {
                Ok(None)
            }
            OciDistributionError::ServerError { code: 404, .. } => Ok(None),
            _ => Err(Self::of(repository, error)),
        }
    }

    /// Sorts a client's error.
    pub(super) fn of(repository: &Repository, error: OciDistributionError) -> Self {
        let (registry, name) = (repository.registry(), repository.name());
        let auth = |why: String| Self {
            code: FailureCode::RegistryAuth,
            message: format!(
                "{registry} refuses access to {name} ({why}); set username and password for \
                 [registries.\"{registry}\"] in the coordinator's configuration"
            ),
        };
        let unavailable = |why: String| Self {
            code: FailureCode::RegistryUnavailable,
            message: format!("{registry} can't be reached or has trouble: {}", said(&why)),
        };
        match error {
            OciDistributionError::UnauthorizedError { .. } => auth("401 unauthorized".to_owned()),
            // The token endpoint's own trouble is told by its text only.
            OciDistributionError::AuthenticationFailure(why)
                if ["408", "425", "429", "500", "502", "503", "504"]
                    .iter()
                    .any(|code| why.contains(code)) =>
            {
                unavailable(format!("its login answered {}", first_line(&why)))
            }
            OciDistributionError::AuthenticationFailure(why) => auth(first_line(&why)),
            OciDistributionError::ServerError { code: 401 | 403, .. } => auth("access denied".to_owned()),
            OciDistributionError::ServerError { code, message, .. }
                if [408, 425, 429].contains(&code) || code >= 500 =>
            {
                unavailable(format!("it answered {code} {}", first_line(&message)))
            }
            OciDistributionError::ServerError { code: 404, .. } => Self::missing(repository),
            OciDistributionError::ServerError { code, message, .. } => {
                Self::rejected(repository, format!("it answered {code} {}", first_line(&message)))
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                let has = |codes: &[OciErrorCode]| envelope.errors.iter().any(|e| codes.contains(&e.code));
                if has(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                    auth("access denied".to_owned())
                } else if has(&[OciErrorCode::Toomanyrequests]) {
                    unavailable("it asks for fewer requests".to_owned())
                } else {
                    let texts: Vec<&str> = envelope.errors.iter().map(|e| e.message.as_str()).collect();
                    // The status is not told here: it may have been 429, and a refusal has a word of its own.
                    let wordless = |word: &str| OciErrorCode::Other(word.to_owned());
                    if has(&[wordless("UNKNOWN"), wordless("UNAVAILABLE")]) {
                        unavailable(texts.join("; "))
                    } else {
                        Self::rejected(repository, texts.join("; "))
                    }
                }
            }
            // No request could be made of it, and none ever will.
            OciDistributionError::RequestError(error) if error.is_builder() => {
                Self::rejected(repository, format!("no request can be sent to it: {}", in_short(&error)))
            }
            OciDistributionError::RequestError(error) => match tls_trouble(&error) {
                Some(why) => Self::no_tls(repository, &why),
                None => unavailable(in_short(&error)),
            },
            OciDistributionError::IoError(error) => unavailable(error.to_string()),
            other => Self::rejected(repository, other.to_string()),
        }
    }
}

/// What TLS has against the other side, if that is what went wrong.
pub(super) fn tls_trouble(error: &reqwest::Error) -> Option<String> {
    chain(error).find_map(tls_within).map(ToString::to_string)
}

/// The system's errors don't give what they hold as their source, and hold each other.
fn tls_within<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let held = || tls_within(error.downcast_ref::<std::io::Error>()?.get_ref()?);
    error.downcast_ref().or_else(held)
}

/// The first line of what a registry said.
fn first_line(text: &str) -> String {
    said(text.lines().next().unwrap_or_default())
}

/// What a registry said, cut, on one line, without what a terminal or a database would choke on.
pub(super) fn said(text: &str) -> String {
    const LONGEST: usize = 300;
    let plain = |c: char| if c.is_whitespace() { Some(' ') } else { (!c.is_control()).then_some(c) };
    let mut plain = text.chars().filter_map(plain);
    let mut cut: String = plain.by_ref().take(LONGEST).collect();
    if plain.next().is_some() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_the_registry_has_no_word_for_may_pass() {
        let repository: Repository = "localhost:1/x".parse().unwrap();
        let code_of = |code: &str| {
            let body = format!(r#"{{"errors":[{{"code":"{code}","message":"no"}}]}}"#);
            let envelope = serde_json::from_str(&body).unwrap();
            let url = "http://localhost:1/v2/x".to_owned();
            RegistryError::of(&repository, OciDistributionError::RegistryError { envelope, url }).code
        };
        for (said, code) in [
            ("UNKNOWN", FailureCode::RegistryUnavailable),
            ("UNAVAILABLE", FailureCode::RegistryUnavailable),
            ("TOOMANYREQUESTS", FailureCode::RegistryUnavailable),
            ("MANIFEST_INVALID", FailureCode::RegistryRejected),
            ("SOMETHING_ELSE", FailureCode::RegistryRejected),
            ("DENIED", FailureCode::RegistryAuth),
        ] {
            assert_eq!(code_of(said), code, "{said}");
        }
    }

    #[test]
    fn what_a_registry_says_fits_into_the_database_and_on_a_line() {
        let repository: Repository = "localhost:1/x".parse().unwrap();
        let noise = format!("a\u{0}b\n\u{1b}[2J{}", "x".repeat(100_000));
        let body = serde_json::json!({"errors": [{"code": "MANIFEST_INVALID", "message": noise}, {"code": "X", "message": noise}]});
        let envelope = || serde_json::from_value(body.clone()).unwrap();
        let url = || "http://localhost:1/v2/x".to_owned();
        for error in [
            OciDistributionError::RegistryError { envelope: envelope(), url: url() },
            OciDistributionError::ServerError { code: 400, url: url(), message: noise.clone() },
            OciDistributionError::ServerError { code: 503, url: url(), message: noise.clone() },
            OciDistributionError::AuthenticationFailure(noise.clone()),
            OciDistributionError::SpecViolationError(noise.clone()),
        ] {
            let message = RegistryError::of(&repository, error).failure().message;
            assert!(message.contains("ab") && message.len() < 600, "{message:?}");
            assert!(!message.contains(char::is_control), "{message:?}");
        }
    }
}
