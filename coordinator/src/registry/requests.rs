//! Requests to registries, bounded: in time from the first byte sent to the last one read, and in the bytes of the answer.
//!
//! The registry client reads whole bodies, however long, and bounds each piece of them but not the sum; so farm makes its
//! requests itself, and the client only gets the tokens. Of a token service's answer only the time is bounded therefore.

use std::sync::PoisonError;

use farm_types::{FailureCode, Repository};
use oci_distribution::RegistryOperation;
use oci_distribution::errors::OciDistributionError;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Method, StatusCode};
use tokio::time::{Instant, timeout_at};

use super::{Registries, RegistryError};

/// The longest manifest that is read, bytes: what registries take at most, too.
pub(super) const MAX_MANIFEST: usize = 4 * 1024 * 1024;
/// The longest page of a list of tags, bytes: a thousand tags of the longest kind.
pub(super) const MAX_TAGS: usize = 1024 * 1024;
/// As much of an error's text is read.
const MAX_ERROR: usize = 8 * 1024;
/// As many grants are remembered; then all are asked for anew.
const MOST_GRANTS: usize = 1000;

/// A request to a repository.
pub(super) struct Asked<'a> {
    pub(super) method: Method,
    /// The path behind the repository's name (`manifests/latest`).
    pub(super) path: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) accept: &'a [&'a str],
    /// What is sent, and its type.
    pub(super) body: Option<(Vec<u8>, HeaderValue)>,
    /// The longest answer that is taken, bytes.
    pub(super) most: usize,
}

impl<'a> Asked<'a> {
    /// A `GET`, with an answer of at most so many bytes.
    pub(super) fn get(path: &'a str, most: usize) -> Self {
        Self { method: Method::GET, path, query: &[], accept: &[], body: None, most }
    }
}

/// An answer that is a success.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// How a registry answered one request.
enum Told {
    Answer(Answer),
    Error(OciDistributionError),
}

/// With what requests to a repository are made: a token; without one the login, if there is any.
pub(super) type Grants = std::collections::HashMap<(String, bool), Option<String>>;

impl Registries {
    /// Makes a request; `None` when what it is about isn't there. A refused login is tried once more with a new token: a
    /// registry may forget tokens before their time. All of it has one limit of time.
    ///
    /// # Errors
    /// The registry refuses, can't be reached, doesn't end its answer in time, or says too much.
    pub(super) async fn ask(
        &self,
        repository: &Repository,
        asked: &Asked<'_>,
    ) -> Result<Option<Answer>, RegistryError> {
        let deadline = Instant::now() + self.timeout;
        self.learn(repository, deadline).await?;
        let key = (repository.to_string(), asked.method == Method::PUT);
        for is_last in [false, true] {
            let granted = self.grants.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
            let token = match granted {
                Some(token) => token,
                None => self.grant(repository, &key, deadline).await?,
            };
            let refused = match self.send(repository, asked, token.as_deref(), deadline).await? {
                Told::Answer(answer) => return Ok(Some(answer)),
                Told::Error(error) => RegistryError::or_absent(repository, error),
            };
            if is_last || !refused.as_ref().is_err_and(|error| error.code == FailureCode::RegistryAuth) {
                return refused;
            }
            self.grants.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            self.forget_client(repository.registry());
            // One that was open may not be any more.
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.entry(repository.registry().to_owned()).and_modify(|open| *open = false);
        }
        Ok(None)
    }

    /// Gets a token, where the registry wants one.
    async fn grant(
        &self,
        repository: &Repository,
        key: &(String, bool),
        deadline: Instant,
    ) -> Result<Option<String>, RegistryError> {
        let call = self.prepare(repository)?;
        let operation = if key.1 { RegistryOperation::Push } else { RegistryOperation::Pull };
        let asked = call.client.auth(&call.reference, &call.auth, operation);
        let Ok(answered) = timeout_at(deadline, asked).await else {
            return Err(RegistryError::timeout(repository, self.timeout));
        };
        let token = answered.map_err(|error| RegistryError::of(repository, error))?;
        // A registry without logins gives a token of no characters.
        let token = token.filter(|token| !token.is_empty());
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        if grants.len() >= MOST_GRANTS {
            grants.clear();
        }
        grants.insert(key.clone(), token.clone());
        Ok(token)
    }

    async fn send(
        &self,
        repository: &Repository,
        asked: &Asked<'_>,
        token: Option<&str>,
        deadline: Instant,
    ) -> Result<Told, RegistryError> {
        let client = self.reader(repository)?;
        let url = self.url(repository, asked.path);
        let mut request = client.request(asked.method.clone(), &url).query(asked.query);
        if !asked.accept.is_empty() {
            request = request.header(reqwest::header::ACCEPT, asked.accept.join(", "));
        }
        if let Some((bytes, media_type)) = &asked.body {
            request = request.header(CONTENT_TYPE, media_type).body(bytes.clone());
        }
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => self.with_login(repository.registry(), request),
        };
        let mut response = match timeout_at(deadline, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Ok(Told::Error(OciDistributionError::RequestError(error))),
            Err(_) => return Err(RegistryError::timeout(repository, self.timeout)),
        };
        let (status, headers) = (response.status(), response.headers().clone());
        // A put that was led elsewhere comes back as a read.
        let is_put = asked.method == Method::PUT;
        let is_done =
            status.is_success() && (!is_put || [StatusCode::CREATED, StatusCode::ACCEPTED].contains(&status));
        let most = if is_done { asked.most } else { MAX_ERROR };
        let mut body = Vec::new();
        loop {
            match timeout_at(deadline, response.chunk()).await {
                Ok(Ok(Some(piece))) if body.len() + piece.len() <= most => body.extend_from_slice(&piece),
                Ok(Ok(Some(_))) if is_done => {
                    return Err(RegistryError::too_long(repository, most));
                }
                // As much of an error as was read will do, whatever comes after.
                Ok(Ok(Some(_))) => break,
                Ok(Ok(None)) => break,
                Ok(Err(_)) if !is_done => break,
                Ok(Err(error)) => return Ok(Told::Error(OciDistributionError::RequestError(error))),
                Err(_) if !is_done && !body.is_empty() => break,
                Err(_) => return Err(RegistryError::unended(repository, self.timeout)),
            }
        }
        Ok(if is_done {
            Told::Answer(Answer { headers, body })
        } else {
            Told::Error(refusal(status, url, &body))
        })
    }

    fn url(&self, repository: &Repository, path: &str) -> String {
        let host = repository.registry();
        let scheme = if self.plain_http(host) { "http" } else { "https" };
        // What people write for Docker Hub is not where it answers.
        let answers_at = if host == "docker.io" { "index.docker.io" } else { host };
        format!("{scheme}://{answers_at}/v2/{}/{path}", repository.name())
    }

    fn reader(&self, repository: &Repository) -> Result<Client, RegistryError> {
        let mut clients = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(repository.registry()) {
            return Ok(client.clone());
        }
        // Registries send who wants a blob to where it lies.
        let client = self.http_client(repository, reqwest::redirect::Policy::limited(5))?;
        clients.insert(repository.registry().to_owned(), client.clone());
        Ok(client)
    }
}

/// What an answer says that is no success (distribution-spec v1.1, "Error Codes").
fn refusal(status: StatusCode, url: String, body: &[u8]) -> OciDistributionError {
    if status == StatusCode::UNAUTHORIZED {
        return OciDistributionError::UnauthorizedError { url };
    }
    // These say what follows whatever is written beside them.
    let may_pass = [408, 425, 429].contains(&status.as_u16());
    match serde_json::from_slice(body) {
        Ok(envelope) if status.is_client_error() && !may_pass => {
            OciDistributionError::RegistryError { envelope, url }
        }
        _ => OciDistributionError::ServerError {
            code: status.as_u16(),
            url,
            message: String::from_utf8_lossy(body).into_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A registry that answers whatever it is asked with `head` and then, until nobody listens any more, with `piece` each
    /// `pause`. A simulation: real ones don't misbehave when they are asked to.
    async fn endless(head: &'static str, piece: &'static [u8], pause: Duration) -> Repository {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("127.0.0.1:{}/app", listener.local_addr().unwrap().port()).parse().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut asked = [0; 4096];
                    let read = stream.read(&mut asked).await.unwrap();
                    if asked[..read].starts_with(b"GET /v2/ ") {
                        let open = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                        stream.write_all(open).await.unwrap();
                        return;
                    }
                    let _ = stream.write_all(head.as_bytes()).await;
                    while stream.write_all(piece).await.is_ok() {
                        tokio::time::sleep(pause).await;
                    }
                });
            }
        });
        at
    }

    fn registries(seconds: u64) -> Registries {
        Registries::new(Default::default(), Duration::from_secs(seconds)).unwrap()
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";

    #[tokio::test]
    async fn a_registry_that_never_ends_its_answer_is_waited_for_once_and_told() {
        let at = endless(OK, b" ", Duration::from_millis(100)).await;
        let registries = registries(3);
        let digest = farm_types::Digest::of(b"x");
        let begun = Instant::now();
        let (manifest, tags, blob) = tokio::join!(
            registries.manifest(&at, "1"),
            registries.tags(&at, 10),
            registries.blob(&at, digest, 1 << 20)
        );
        for error in [manifest.unwrap_err(), tags.unwrap_err(), blob.unwrap_err()] {
            assert!(error.is_transient(), "{error}");
            assert!(error.message.contains("did not end its answer within 3 s"), "{error}");
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_is_not_read_to_its_end() {
        static PIECE: [u8; 65536] = [b' '; 65536];
        let at = endless(OK, &PIECE, Duration::ZERO).await;
        let registries = registries(60);
        let longer = |error: RegistryError, most: usize| {
            assert!(error.is_transient(), "{error}");
            assert!(error.message.contains(&format!("longer than {most} bytes")), "{error}");
        };
        longer(registries.manifest(&at, "1").await.unwrap_err(), MAX_MANIFEST);
        longer(registries.tags(&at, 10).await.unwrap_err(), MAX_TAGS);
        longer(registries.blob(&at, farm_types::Digest::of(b"x"), 100).await.unwrap_err(), 100);
    }

    #[tokio::test]
    async fn of_an_error_a_part_is_read_and_told() {
        static PIECE: [u8; 1024] = [b'x'; 1024];
        let at = endless("HTTP/1.1 500 Oh\r\n\r\n", &PIECE, Duration::ZERO).await;
        let media_type = farm_core::publish::OCI_INDEX;
        let registries = registries(60);
        let (read, put) =
            (registries.manifest(&at, "1").await, registries.put(&at, "1", b"{}", media_type).await);
        for error in [read.unwrap_err(), put.unwrap_err()] {
            assert!(error.is_transient() && error.message.contains("it answered 500 xxx"), "{error}");
            assert!(error.message.len() < 1000, "{error}");
        }
        // A put is answered by 201, or it was none.
        let at = endless(OK, &PIECE, Duration::ZERO).await;
        let put = registries.put(&at, "1", b"{}", media_type).await.unwrap_err();
        assert!(!put.is_transient() && put.message.contains("it answered 200"), "{put}");
    }
}
