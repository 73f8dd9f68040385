//! Requests to registries, bounded: in time from the first byte sent to the last one read, and in the bytes of the answer.

use farm_types::Repository;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, StatusCode};
use tokio::time::{Instant, timeout_at};

use super::error::Refusal;
use super::login::Whose;
use super::tokens::{Scope, actions, with_login};
use super::{By, Registries, RegistryError};
use crate::outbound::Failed;
use crate::outbound::body::{End, read};

/// The longest manifest that is read, bytes: what registries take at most, too.
pub(super) const MAX_MANIFEST: usize = 4 * 1024 * 1024;
/// The longest page of a list of tags, bytes: a thousand tags of the longest kind.
pub(super) const MAX_TAGS: usize = 1024 * 1024;
/// As much of an error's text is read.
const MAX_ERROR: usize = 8 * 1024;

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
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// How a registry answered one request.
pub(super) enum Told {
    Answer(Answer),
    No(Refusal),
}

/// What a request shows.
#[derive(Clone, Copy)]
pub(super) enum Shown<'a> {
    Token(&'a str),
    /// The login, where there is any.
    Login(&'a Whose),
}

impl<'a> Shown<'a> {
    pub(super) fn of(token: Option<&'a str>, whose: &'a Whose) -> Self {
        token.map_or(Self::Login(whose), Self::Token)
    }
}

impl By<'_> {
    /// Makes a request; `None` when what it is about isn't there.
    ///
    /// # Errors
    /// The registry refuses, can't be reached or asked, doesn't end its answer in time, or says too much.
    pub(super) async fn ask(
        &self,
        repository: &Repository,
        asked: &Asked<'_>,
    ) -> Result<Option<Answer>, RegistryError> {
        match self.tell(repository, asked).await? {
            Told::Answer(answer) => Ok(Some(answer)),
            Told::No(refusal) if refusal.is_absence() => Ok(None),
            Told::No(refusal) => Err(RegistryError::of(repository, &refusal, &self.whose)),
        }
    }

    /// Makes a request. A refused login is tried once more with a new token: a registry may forget tokens before their time.
    /// All of it has one limit of time.
    ///
    /// # Errors
    /// The registry can't be reached or asked, doesn't end its answer in time, or says too much.
    pub(super) async fn tell(
        &self,
        repository: &Repository,
        asked: &Asked<'_>,
    ) -> Result<Told, RegistryError> {
        let (registries, whose) = (self.registries, &self.whose);
        registries.may_be_asked(whose, repository)?;
        let deadline = Instant::now() + registries.timeout;
        let scope = Scope { repository, from: None, actions: actions(&asked.method) };
        let token = registries.grant_of(whose, scope, deadline).await?;
        let shown = Shown::of(token.as_deref(), whose);
        let mut told = registries.send(repository, asked, shown, deadline).await?;
        registries.note(whose, repository, &mut told);
        if !matches!(&told, Told::No(refusal) if refusal.is_about_login()) {
            return Ok(told);
        }
        registries.forget_of(whose, scope);
        whose.refused().await;
        let token = registries.grant_of(whose, scope, deadline).await?;
        let shown = Shown::of(token.as_deref(), whose);
        let mut told = registries.send(repository, asked, shown, deadline).await?;
        registries.note(whose, repository, &mut told);
        Ok(told)
    }
}

impl Registries {
    /// Refuses what would be sent to a registry that has asked to be left alone.
    ///
    /// # Errors
    /// It has.
    pub(super) fn may_be_asked(&self, whose: &Whose, repository: &Repository) -> Result<(), RegistryError> {
        match self.waits.left(whose.version(), repository.registry()) {
            Some((_, limit)) => Err(RegistryError::left_alone(repository, &limit, whose)),
            None => Ok(()),
        }
    }

    /// Notes what an answer says of when more may be asked, and how much; a refusal is told what is known of that.
    pub(super) fn note(&self, whose: &Whose, repository: &Repository, told: &mut Told) {
        match told {
            Told::Answer(answer) => {
                self.waits.note(whose.version(), repository.registry(), &answer.headers, false);
            }
            Told::No(refusal) => self.note_refusal(whose, repository, refusal),
        }
    }

    /// The same of a refusal.
    pub(super) fn note_refusal(&self, whose: &Whose, repository: &Repository, refusal: &mut Refusal) {
        let (of, host) = (whose.version(), repository.registry());
        self.waits.note(of, host, &refusal.headers, refusal.may_pass());
        refusal.limit = self.waits.limit_of(of, host);
    }

    /// With what lets it in.
    ///
    /// # Errors
    /// A credential helper gives no login.
    pub(super) async fn showing(
        &self,
        host: &str,
        shown: Shown<'_>,
        request: RequestBuilder,
    ) -> Result<RequestBuilder, RegistryError> {
        Ok(match shown {
            Shown::Token(token) => request.bearer_auth(token),
            Shown::Login(whose) => with_login(self.credentials(host, whose).await?.as_ref(), request),
        })
    }

    /// Makes a request once.
    ///
    /// # Errors
    /// As [`By::tell`].
    pub(super) async fn send(
        &self,
        repository: &Repository,
        asked: &Asked<'_>,
        shown: Shown<'_>,
        deadline: Instant,
    ) -> Result<Told, RegistryError> {
        let client = self.client(repository);
        let host = repository.registry();
        let url = self.url(host, &format!("{}/{}", repository.name(), asked.path));
        let mut request = client.request(asked.method.clone(), &url).query(asked.query);
        if !asked.accept.is_empty() {
            request = request.header(reqwest::header::ACCEPT, asked.accept.join(", "));
        }
        if let Some((bytes, media_type)) = &asked.body {
            request = request.header(CONTENT_TYPE, media_type).body(bytes.clone());
        }
        let request = self.showing(host, shown, request).await?;
        let mut response = match timeout_at(deadline, client.send(request)).await {
            Ok(answered) => answered.map_err(|failed| RegistryError::unsent(repository, &failed))?,
            Err(_) => return Err(RegistryError::timeout(repository, self.timeout)),
        };
        let (status, mut headers) = (response.status(), response.headers().clone());
        if response.url().host_str() != reqwest::Url::parse(&url).ok().as_ref().and_then(|url| url.host_str())
        {
            // What another host asks for, to which it was led, isn't the registry's wish.
            headers.remove(reqwest::header::RETRY_AFTER);
        }
        // A put that was led elsewhere comes back as a read.
        let is_put = asked.method == Method::PUT;
        let is_done =
            status.is_success() && (!is_put || [StatusCode::CREATED, StatusCode::ACCEPTED].contains(&status));
        let body = read(&mut response, if is_done { asked.most } else { MAX_ERROR }, deadline).await;
        match body.end {
            End::Late if is_done || body.bytes.is_empty() => {
                Err(RegistryError::unended(repository, self.timeout))
            }
            // As much of an error as was read will do, whatever comes after.
            _ if !is_done => Ok(Told::No(Refusal::new(repository, status, &headers, &body.bytes))),
            End::Whole | End::Late => Ok(Told::Answer(Answer { status, headers, body: body.bytes })),
            End::TooLong => Err(RegistryError::too_long(repository, asked.most)),
            End::Broken(error) => Err(RegistryError::unsent(repository, &Failed::Request(error))),
        }
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
        crate::registry::tests::reach(Default::default(), Duration::from_secs(seconds))
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";

    #[tokio::test]
    async fn a_registry_that_never_ends_its_answer_is_waited_for_once_and_told() {
        let at = endless(OK, b" ", Duration::from_millis(100)).await;
        let registries = registries(3);
        let digest = farm_types::Digest::of(b"x");
        let begun = Instant::now();
        let by = registries.farm();
        let (manifest, tags, blob) =
            tokio::join!(by.manifest(&at, "1"), by.tags(&at, 10), by.blob(&at, digest, 1 << 20));
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
        longer(registries.farm().manifest(&at, "1").await.unwrap_err(), MAX_MANIFEST);
        longer(registries.farm().tags(&at, 10).await.unwrap_err(), MAX_TAGS);
        longer(registries.farm().blob(&at, farm_types::Digest::of(b"x"), 100).await.unwrap_err(), 100);
    }

    #[tokio::test]
    async fn of_an_error_a_part_is_read_and_its_status_told() {
        static PIECE: [u8; 1024] = [b'x'; 1024];
        let at = endless("HTTP/1.1 500 Oh\r\n\r\n", &PIECE, Duration::ZERO).await;
        let media_type = farm_core::publish::OCI_INDEX;
        let registries = registries(60);
        let (read, put) = (
            registries.farm().manifest(&at, "1").await,
            registries.farm().put(&at, "1", b"{}", media_type).await,
        );
        for error in [read.unwrap_err(), put.unwrap_err()] {
            assert!(error.is_transient() && error.message.contains("it answered 500"), "{error}");
            // What is there may be no registry, and its text not for those who named it.
            assert!(!error.message.contains("xxx"), "{error}");
        }
        // A put is answered by 201, or it was none.
        let at = endless(OK, &PIECE, Duration::ZERO).await;
        let put = registries.farm().put(&at, "1", b"{}", media_type).await.unwrap_err();
        assert!(!put.is_transient() && put.message.contains("it answered 200"), "{put}");
    }
}
