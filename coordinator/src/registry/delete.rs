//! Taking a manifest out of a registry (OCI distribution-spec v1.1, "Deleting Manifests").
//!
//! The client that gets farm's other tokens knows no such scope, so this one is got here. Tokens are
//! as the distribution project's "Token Authentication Specification" has them, with the scope `delete`.

use std::sync::PoisonError;

use farm_types::chain::in_short;
use farm_types::{Digest, FailureCode, Repository};
use reqwest::header::WWW_AUTHENTICATE;
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode};
use secrecy::ExposeSecret as _;
use serde::Deserialize;

use super::clients::CONNECT;
use super::{Registries, RegistryError};

/// What became of a manifest that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone, or wasn't there.
    Gone,
    /// The registry is configured to delete nothing.
    NotAllowed,
}

/// What a token service answers with; under one of two names, by its age.
#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Registries {
    /// Takes the manifest of this digest out of the repository. Registries that keep a tag by its manifest take the tags
    /// away that point to it.
    ///
    /// # Errors
    /// The registry refuses this caller or can't be reached.
    pub async fn delete(&self, repository: &Repository, digest: Digest) -> Result<Deleted, RegistryError> {
        self.bounded(repository, self.delete_now(repository, digest)).await
    }

    async fn delete_now(&self, repository: &Repository, digest: Digest) -> Result<Deleted, RegistryError> {
        let host = repository.registry();
        let client = self.deleter(repository)?;
        let scheme = if self.plain_http(host) { "http" } else { "https" };
        // What people write for Docker Hub is not where it answers.
        let answers_at = if host == "docker.io" { "index.docker.io" } else { host };
        let url = format!("{scheme}://{answers_at}/v2/{}/manifests/{digest}", repository.name());
        let mut response = send(repository, self.with_login(host, client.delete(&url))).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(challenge) = bearer(&response)
        {
            let scope = format!("repository:{}:pull,delete", repository.name());
            let asked =
                client.get(&challenge.realm).query(&[("service", &challenge.service), ("scope", &scope)]);
            let answer = send(repository, self.with_login(host, asked)).await?;
            if answer.status().is_success() {
                let body = bounded_body(answer).await.map_err(|error| unreachable(repository, &error))?;
                let token: Token = serde_json::from_slice(&body)
                    .map_err(|error| RegistryError::rejected(repository, format!("its token: {error}")))?;
                let token = if token.token.is_empty() { token.access_token } else { token.token };
                response = send(repository, client.delete(&url).bearer_auth(token)).await?;
            }
        }
        let status = response.status();
        match status {
            _ if status.is_success() => Ok(Deleted::Gone),
            StatusCode::NOT_FOUND => Ok(Deleted::Gone),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(Deleted::NotAllowed),
            StatusCode::BAD_REQUEST if says_unsupported(response).await => Ok(Deleted::NotAllowed),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(RegistryError {
                code: FailureCode::RegistryAuth,
                message: format!(
                    "{host} doesn't let farm delete in {} ({status}); give the user of [registries.\"{host}\"] the right \
                     to delete, or set retention.unpublished_hours to 0",
                    repository.name()
                ),
            }),
            _ if status.is_server_error() || [408, 425, 429].contains(&status.as_u16()) => {
                Err(RegistryError {
                    code: FailureCode::RegistryUnavailable,
                    message: format!("{host} can't be reached or has trouble: it answered {status}"),
                })
            }
            _ => Err(RegistryError::rejected(repository, format!("it answered {status} to a deletion"))),
        }
    }

    pub(super) fn with_login(&self, host: &str, request: RequestBuilder) -> RequestBuilder {
        match self.known.get(host) {
            Some(known) if !known.username.is_empty() => {
                request.basic_auth(&known.username, Some(known.password.expose_secret()))
            }
            _ => request,
        }
    }

    fn deleter(&self, repository: &Repository) -> Result<Client, RegistryError> {
        let host = repository.registry();
        let mut clients = self.deleters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(host) {
            return Ok(client.clone());
        }
        let client = self.http_client(repository, reqwest::redirect::Policy::none())?;
        clients.insert(host.to_owned(), client.clone());
        Ok(client)
    }

    /// A client for a registry, with its own CA if it has one.
    pub(super) fn http_client(
        &self,
        repository: &Repository,
        redirects: reqwest::redirect::Policy,
    ) -> Result<Client, RegistryError> {
        let rejected = |why: String| RegistryError::rejected(repository, why);
        let mut builder = Client::builder()
            .connect_timeout(CONNECT)
            .redirect(redirects)
            .user_agent(concat!("farm/", env!("CARGO_PKG_VERSION")));
        let known = self.known.get(repository.registry());
        if let Some(file) = known.and_then(|registry| registry.ca_file.as_ref()) {
            let pem = std::fs::read(file)
                .map_err(|error| rejected(format!("CA file {:?}: {error}", file.display())))?;
            for certificate in
                Certificate::from_pem_bundle(&pem).map_err(|error| rejected(error.to_string()))?
            {
                builder = builder.add_root_certificate(certificate);
            }
        }
        builder.build().map_err(|error| rejected(error.to_string()))
    }
}

async fn send(repository: &Repository, request: RequestBuilder) -> Result<Response, RegistryError> {
    request.send().await.map_err(|error| unreachable(repository, &error))
}

fn unreachable(repository: &Repository, error: &reqwest::Error) -> RegistryError {
    let why = in_short(error);
    if error.is_builder() {
        return RegistryError::rejected(repository, format!("no request can be sent to it: {why}"));
    }
    if let Some(why) = super::error::tls_trouble(error) {
        return RegistryError::no_tls(repository, &why);
    }
    let message = format!("{} can't be reached or has trouble: {why}", repository.registry());
    RegistryError { code: FailureCode::RegistryUnavailable, message }
}

/// The beginning of an answer: tokens and refusals are short.
async fn bounded_body(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    const MOST: usize = 64 * 1024;
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        let room = MOST - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
        if body.len() >= MOST {
            break;
        }
    }
    Ok(body)
}

/// Whether a refusal says that deletion is not supported, as some registries do with 400.
async fn says_unsupported(response: Response) -> bool {
    let body = bounded_body(response).await.unwrap_or_default();
    String::from_utf8_lossy(&body).contains("UNSUPPORTED")
}

/// Where to get a token (RFC 6750, section 3).
struct Challenge {
    realm: String,
    service: String,
}

fn bearer(response: &Response) -> Option<Challenge> {
    let header = response.headers().get(WWW_AUTHENTICATE)?.to_str().ok()?;
    challenge(header)
}

fn challenge(header: &str) -> Option<Challenge> {
    let challenges = http_auth::parse_challenges(header).ok()?;
    let bearer = challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"))?;
    let value = |name: &str| {
        let (_, value) = bearer.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.to_unescaped())
    };
    Some(Challenge { realm: value("realm")?, service: value("service").unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What farm makes of an answer with this status and body.
    async fn answered(status: &str, body: &str) -> Result<Deleted, RegistryError> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("127.0.0.1:{}/a", listener.local_addr().unwrap().port()).parse().unwrap();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let registries = Registries::new(Default::default(), std::time::Duration::from_secs(10)).unwrap();
        registries.delete(&at, Digest::of(b"x")).await
    }

    #[tokio::test]
    async fn a_registry_that_deletes_nothing_is_told_from_one_that_has_trouble_or_refuses() {
        let unsupported = "{\"errors\":[{\"code\":\"UNSUPPORTED\"}]}";
        assert_eq!(answered("202 Accepted", "").await.unwrap(), Deleted::Gone);
        assert_eq!(answered("405 Method Not Allowed", unsupported).await.unwrap(), Deleted::NotAllowed);
        assert_eq!(answered("400 Bad Request", unsupported).await.unwrap(), Deleted::NotAllowed);
        let code = async |status: &str| answered(status, "").await.unwrap_err().code;
        assert_eq!(code("400 Bad Request").await, FailureCode::RegistryRejected);
        assert_eq!(code("403 Forbidden").await, FailureCode::RegistryAuth);
        assert_eq!(code("429 Too Many Requests").await, FailureCode::RegistryUnavailable);
        assert_eq!(code("503 Service Unavailable").await, FailureCode::RegistryUnavailable);
    }

    #[test]
    fn a_challenge_says_where_the_token_is() {
        let found = challenge("Bearer realm=\"https://a/token\",service=\"r.example\",scope=\"x\"").unwrap();
        assert_eq!((found.realm.as_str(), found.service.as_str()), ("https://a/token", "r.example"));
        // A registry may offer more than one way, and need not quote.
        let second = challenge("Basic realm=\"x\", bearer Realm=\"https://b/t\", service=r").unwrap();
        assert_eq!((second.realm.as_str(), second.service.as_str()), ("https://b/t", "r"));
        assert!(challenge("Basic realm=\"x\"").is_none() && challenge("Bearer").is_none());
    }
}
