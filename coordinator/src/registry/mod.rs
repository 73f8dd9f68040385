//! Registries: what farm reads from them and puts there. The client's types stay in this folder.
//!
//! Protocol: OCI distribution-spec v1.1. Bytes are exact both ways: a digest is always that of the bytes
//! as they came. Nothing is retried here; the publish pass does that, with its rows as memory.

mod delete;
mod error;
pub mod image;
pub mod inspect;
mod requests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farm_core::publish::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use farm_proto::v1;
use farm_types::{Digest, Invalid, RegistryHost, Repository};
use oci_distribution::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_distribution::secrets::RegistryAuth;
use oci_distribution::{Client, Reference, RegistryOperation};
use reqwest::Method;

use self::requests::{Asked, Grants, MAX_MANIFEST, MAX_TAGS};
use crate::config::Registry;
pub use delete::Deleted;
pub use error::RegistryError;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// What farm reads.
const ACCEPTED: &[&str] = &[OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// The pages of one list of tags may take so many times as long as one request.
const LISTING: u32 = 4;

/// A page of tags.
#[derive(serde::Deserialize)]
struct Tags {
    /// Some registries write null for none.
    tags: Option<Vec<String>>,
}

/// A manifest as it came.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Exactly these bytes.
    pub bytes: Vec<u8>,
    /// What they say that they are.
    pub media_type: String,
}

/// What one call is made with.
struct Call {
    client: Arc<Client>,
    reference: Reference,
    auth: RegistryAuth,
}

/// The registries that farm talks to, each with its credentials.
pub struct Registries {
    known: BTreeMap<String, Registry>,
    timeout: Duration,
    clients: Mutex<HashMap<String, Arc<Client>>>,
    deleters: Mutex<HashMap<String, reqwest::Client>>,
    readers: Mutex<HashMap<String, reqwest::Client>>,
    grants: Mutex<Grants>,
    /// Of registries without a login: whether they let anybody in (true), or only with a token.
    open: Mutex<HashMap<String, bool>>,
}

impl std::fmt::Debug for Registries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registries").field("known", &self.known).finish_non_exhaustive()
    }
}

impl Registries {
    /// Registries as configured; a host that isn't is reached anonymously.
    ///
    /// # Errors
    /// A CA file can't be read.
    pub fn new(known: BTreeMap<String, Registry>, timeout: Duration) -> Result<Self, Invalid> {
        // What makes clients here takes the process's provider, and in tests nobody has chosen one before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registries = Self {
            known,
            timeout,
            clients: Mutex::default(),
            deleters: Mutex::default(),
            readers: Mutex::default(),
            grants: Mutex::default(),
            open: Mutex::default(),
        };
        for host in registries.known.keys() {
            registries.client(host)?;
        }
        Ok(registries)
    }

    /// What a worker needs to push to these repositories, and to pull from every configured registry.
    pub fn lend(&self, repositories: &[Repository]) -> Vec<v1::Registry> {
        let mut hosts: Vec<&str> = self.known.keys().map(String::as_str).collect();
        for repository in repositories {
            if !hosts.contains(&repository.registry()) {
                hosts.push(repository.registry());
            }
        }
        hosts
            .into_iter()
            .map(|host| {
                let known = self.known.get(host);
                v1::Registry {
                    host: host.to_owned(),
                    username: known.map(|r| r.username.clone()).unwrap_or_default(),
                    password: known.map(|r| r.password.clone()).unwrap_or_default(),
                    plain_http: self.plain_http(host),
                }
            })
            .collect()
    }

    /// The manifest under this digest or tag; `None` when it isn't there.
    ///
    /// # Errors
    /// The registry refuses or can't be reached.
    pub async fn manifest(
        &self,
        repository: &Repository,
        at: &str,
    ) -> Result<Option<Manifest>, RegistryError> {
        let path = format!("manifests/{at}");
        let asked = Asked { accept: ACCEPTED, ..Asked::get(&path, MAX_MANIFEST) };
        let Some(answer) = self.ask(repository, &asked).await? else { return Ok(None) };
        let rejected = |why: String| RegistryError::rejected(repository, why);
        let media_type =
            image::media_type(&answer.body).map_err(|why| rejected(format!("{at} is no manifest: {why}")))?;
        let is_other = |digest: Digest| Digest::of(&answer.body) != digest;
        if at.parse().is_ok_and(is_other) {
            return Err(rejected(format!("it gives other bytes for {at}")));
        }
        Ok(Some(Manifest { bytes: answer.body, media_type }))
    }

    /// What a tag or digest points to; `None` when it isn't there.
    ///
    /// # Errors
    /// The registry refuses or can't be reached.
    pub async fn head(&self, repository: &Repository, at: &str) -> Result<Option<Digest>, RegistryError> {
        let path = format!("manifests/{at}");
        let asked = Asked { method: Method::HEAD, accept: ACCEPTED, ..Asked::get(&path, MAX_MANIFEST) };
        let Some(answer) = self.ask(repository, &asked).await? else { return Ok(None) };
        let Some(digest) = answer.headers.get("Docker-Content-Digest") else {
            // It need not say it.
            let manifest = self.manifest(repository, at).await?;
            return Ok(manifest.map(|manifest| Digest::of(&manifest.bytes)));
        };
        let digest = digest.to_str().unwrap_or_default();
        digest.parse().map(Some).map_err(|e: Invalid| RegistryError::rejected(repository, e.to_string()))
    }

    /// Puts a manifest under a digest or tag.
    ///
    /// # Errors
    /// The registry refuses or can't be reached.
    pub async fn put(
        &self,
        repository: &Repository,
        at: &str,
        bytes: &[u8],
        media_type: &str,
    ) -> Result<(), RegistryError> {
        let media_type = http::HeaderValue::from_str(media_type)
            .map_err(|e| RegistryError::rejected(repository, e.to_string()))?;
        let path = format!("manifests/{at}");
        let body = Some((bytes.to_vec(), media_type));
        let asked = Asked { method: Method::PUT, body, ..Asked::get(&path, MAX_TAGS) };
        match self.ask(repository, &asked).await? {
            Some(_) => Ok(()),
            None => Err(RegistryError::missing(repository)),
        }
    }

    /// Some of the repository's tags, at most `limit`, as its registry orders them.
    ///
    /// # Errors
    /// The registry refuses or can't be reached.
    pub async fn tags(&self, repository: &Repository, limit: usize) -> Result<Vec<String>, RegistryError> {
        self.page(repository, limit, None).await
    }

    /// A page of the repository's tags (distribution-spec v1.1, "Listing Tags").
    async fn page(
        &self,
        repository: &Repository,
        limit: usize,
        last: Option<&str>,
    ) -> Result<Vec<String>, RegistryError> {
        let limit = limit.to_string();
        let mut query = vec![("n", limit.as_str())];
        query.extend(last.map(|last| ("last", last)));
        let asked = Asked { query: &query, ..Asked::get("tags/list", MAX_TAGS) };
        let Some(answer) = self.ask(repository, &asked).await? else { return Ok(Vec::new()) };
        let page: Tags = serde_json::from_slice(&answer.body)
            .map_err(|error| RegistryError::rejected(repository, format!("its list of tags: {error}")))?;
        Ok(page.tags.unwrap_or_default())
    }

    /// All of the repository's tags, unless there are more than `most`.
    ///
    /// # Errors
    /// The registry refuses or can't be reached.
    pub async fn all_tags(
        &self,
        repository: &Repository,
        most: usize,
    ) -> Result<Option<Vec<String>>, RegistryError> {
        let listed = tokio::time::timeout(self.timeout * LISTING, self.pages(repository, most)).await;
        listed.unwrap_or_else(|_| Err(RegistryError::unended(repository, self.timeout * LISTING)))
    }

    async fn pages(
        &self,
        repository: &Repository,
        most: usize,
    ) -> Result<Option<Vec<String>>, RegistryError> {
        const PAGE: usize = 1000;
        let (mut all, mut known) = (Vec::<String>::new(), HashSet::<String>::new());
        loop {
            let page = self.page(repository, PAGE, all.last().map(String::as_str)).await?;
            // A registry that knows no pages gives all at once, and the same again.
            let before = all.len();
            all.extend(page.into_iter().filter(|tag| known.insert(tag.clone())));
            if all.len() == before {
                return Ok(Some(all));
            }
            if all.len() > most {
                return Ok(None);
            }
        }
    }

    /// A small blob of at most `limit` bytes, such as an image's config; checked against its digest.
    ///
    /// # Errors
    /// The registry refuses, can't be reached, or gives other bytes.
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: Digest,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let path = format!("blobs/{digest}");
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let answer = self.ask(repository, &Asked::get(&path, most)).await?;
        let bytes = answer
            .ok_or_else(|| RegistryError::rejected(repository, format!("it has no blob {digest}")))?
            .body;
        if Digest::of(&bytes) == digest {
            Ok(bytes)
        } else {
            Err(RegistryError::rejected(repository, format!("the blob {digest} has another digest")))
        }
    }

    /// Finds out once whether a registry lets anybody in. The client would ask that before each of its calls.
    async fn learn(&self, repository: &Repository, at: &str) -> Result<(), RegistryError> {
        let host = repository.registry();
        let has_login = self.known.get(host).is_some_and(|registry| !registry.username.is_empty());
        let is_known = self.open.lock().unwrap_or_else(PoisonError::into_inner).contains_key(host);
        if has_login || is_known {
            return Ok(());
        }
        let call = self.prepare(repository, at)?;
        let asked = call.client.auth(&call.reference, &RegistryAuth::Anonymous, RegistryOperation::Pull);
        // What is wrong with it is told by the call that follows.
        if let Ok(Ok(token)) = tokio::time::timeout(self.timeout, asked).await {
            let is_open = token.is_none();
            self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), is_open);
            if is_open {
                // It has noted that it is to ask.
                self.forget_client(host);
            }
        }
        Ok(())
    }

    fn forget_client(&self, host: &str) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    async fn bounded<T>(
        &self,
        repository: &Repository,
        made: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        tokio::time::timeout(self.timeout, made)
            .await
            .unwrap_or_else(|_| Err(RegistryError::timeout(repository, self.timeout)))
    }

    /// Registries on this machine's loopback are taken for plain HTTP, as Docker does, unless configured.
    fn plain_http(&self, host: &str) -> bool {
        let local = host.parse().is_ok_and(|host: RegistryHost| host.is_loopback());
        self.known.get(host).and_then(|registry| registry.plain_http).unwrap_or(local)
    }

    /// Refuses a repository that no request could be sent to, whoever would be asked.
    ///
    /// # Errors
    /// Its host makes no address.
    pub fn check(&self, repository: &Repository) -> Result<(), Invalid> {
        let host = repository.registry();
        repository.host().check().map_err(|e| Invalid::new("tag", repository.to_string(), e.cure))?;
        reqwest::Url::parse(&format!("https://{host}/v2/{}/tags/list", repository.name())).map(drop).map_err(
            |why| {
                let cure = format!(
                    "no request can be sent to its registry {host:?} ({why}); write REGISTRY/REPO:TAG"
                );
                Invalid::new("tag", repository.to_string(), cure)
            },
        )
    }

    fn prepare(&self, repository: &Repository, at: &str) -> Result<Call, RegistryError> {
        let host = repository.registry();
        let client =
            self.client(host).map_err(|error| RegistryError::rejected(repository, error.to_string()))?;
        let name = repository.name().to_owned();
        let reference = if at.starts_with("sha256:") {
            Reference::with_digest(host.to_owned(), name, at.to_owned())
        } else {
            Reference::with_tag(host.to_owned(), name, at.to_owned())
        };
        let auth = match self.known.get(host) {
            Some(registry) if !registry.username.is_empty() => {
                RegistryAuth::Basic(registry.username.clone(), registry.password.clone())
            }
            // A token of no characters, which an open registry does not look at, keeps the client from asking.
            _ if self.open.lock().unwrap_or_else(PoisonError::into_inner).get(host) == Some(&true) => {
                RegistryAuth::Bearer(String::new())
            }
            _ => RegistryAuth::Anonymous,
        };
        Ok(Call { client, reference, auth })
    }

    fn client(&self, host: &str) -> Result<Arc<Client>, Invalid> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(host) {
            return Ok(Arc::clone(client));
        }
        let mut config = ClientConfig {
            read_timeout: Some(self.timeout),
            connect_timeout: Some(CONNECT),
            user_agent: concat!("farm/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        if self.plain_http(host) {
            config.protocol = ClientProtocol::HttpsExcept(vec![host.to_owned()]);
        }
        if let Some(file) = self.known.get(host).and_then(|registry| registry.ca_file.as_ref()) {
            let invalid = |why: String| Invalid::new("CA file", file.display().to_string(), why);
            let data = std::fs::read(file).map_err(|e| invalid(e.to_string()))?;
            config.extra_root_certificates.push(Certificate { encoding: CertificateEncoding::Pem, data });
        }
        let client = Client::try_from(config)
            .map_err(|e| Invalid::new("registry", host, format!("its client can't be made: {e}")))?;
        let client = Arc::new(client);
        clients.insert(host.to_owned(), Arc::clone(&client));
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use farm_types::FailureCode;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A registry that has nothing, and notes the first line and the login of every request. A simulation: real ones
    /// can't be made to change their minds. `locks_after`: from then on it wants a token.
    async fn registry(locks_after: usize) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (noted, at) = (Arc::clone(&seen), host.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (noted, at) = (Arc::clone(&noted), at.clone());
                tokio::spawn(async move {
                    loop {
                        let mut head = Vec::new();
                        while !head.ends_with(b"\r\n\r\n") {
                            let Ok(byte) = stream.read_u8().await else { return };
                            head.push(byte);
                        }
                        let head = String::from_utf8(head).unwrap();
                        let line = head.lines().next().unwrap().to_owned();
                        let is_token = line.starts_with("GET /token");
                        let is_let_in = head.to_lowercase().contains("authorization: bearer t0ken");
                        let count = {
                            let mut noted = noted.lock().unwrap();
                            noted.push(line.clone());
                            noted.len()
                        };
                        let answer = if is_token {
                            "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{\"token\":\"t0ken\"}".to_owned()
                        } else if count > locks_after && !is_let_in {
                            format!(
                                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://{at}/token\",service=\"s\"\r\nContent-Length: 0\r\n\r\n"
                            )
                        } else if line.starts_with("GET /v2/ ") {
                            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()
                        } else {
                            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned()
                        };
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        (host, seen)
    }

    fn asked(seen: &Mutex<Vec<String>>) -> usize {
        seen.lock().unwrap().iter().filter(|line| line.starts_with("GET /v2/ ")).count()
    }

    #[test]
    fn plain_http_is_for_this_machine_and_for_those_that_say_so() {
        let known =
            [("r.example".to_owned(), Registry { plain_http: Some(true), ..Registry::default() })].into();
        let registries = Registries::new(known, Duration::from_secs(1)).unwrap();
        for host in ["localhost:5002", "127.0.0.1", "[::1]:5002", "[::1]", "r.example"] {
            assert!(registries.plain_http(host), "{host}");
        }
        for host in ["127.evil.example", "[fd00::1]:5002", "docker.io", "localhost.example"] {
            assert!(!registries.plain_http(host), "{host}");
        }
    }

    #[tokio::test]
    async fn what_no_request_can_be_sent_to_is_refused_at_once() {
        let registries = Registries::new(BTreeMap::new(), Duration::from_secs(1)).unwrap();
        // A name of letters and hyphens that stands for no letters of another script (RFC 3492).
        let bad: Repository = "xn--a.example/app".parse().unwrap();
        let error = registries.check(&bad).unwrap_err().to_string();
        assert!(error.contains("xn--a.example"), "{error}");
        let error = registries.head(&bad, "1").await.unwrap_err();
        assert!(!error.is_transient(), "{error:?}");
        for text in [
            "localhost:5002/app",
            "[::1]:5002/a/b",
            "docker.io/app",
            "a_b.example/c",
            "xn--bcher-kva.example/a",
        ] {
            registries.check(&text.parse().unwrap()).unwrap();
        }
    }

    #[tokio::test]
    async fn a_registry_without_tls_is_told_at_once_from_one_that_is_away() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        // What a server without TLS answers to somebody who begins it.
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
            }
        });
        let tls = Registry { plain_http: Some(false), ..Registry::default() };
        let registries =
            Registries::new([(host.clone(), tls.clone())].into(), Duration::from_secs(10)).unwrap();
        let repository: Repository = format!("{host}/a").parse().unwrap();
        let error = registries.head(&repository, "1").await.unwrap_err();
        assert_eq!(error.code, FailureCode::RegistryRejected, "{error}");
        assert!(error.message.contains("by TLS") && error.message.contains("plain_http"), "{error}");
        let deleted = registries.delete(&repository, Digest::of(b"x")).await.unwrap_err();
        assert_eq!(deleted.code, FailureCode::RegistryRejected, "{deleted}");
        // Nobody is there at all.
        let away = "127.0.0.1:1".to_owned();
        let registries = Registries::new([(away.clone(), tls)].into(), Duration::from_secs(10)).unwrap();
        let error = registries.head(&format!("{away}/a").parse().unwrap(), "1").await.unwrap_err();
        assert!(error.is_transient(), "{error}");
    }

    #[tokio::test]
    async fn an_open_registry_is_asked_once_whether_it_wants_a_login() {
        let (host, seen) = registry(usize::MAX).await;
        let registries = Registries::new(BTreeMap::new(), Duration::from_secs(10)).unwrap();
        let repository: Repository = format!("{host}/a").parse().unwrap();
        for tag in ["1", "2", "3"] {
            assert_eq!(registries.head(&repository, tag).await.unwrap(), None);
            assert!(registries.manifest(&repository, tag).await.unwrap().is_none());
        }
        assert_eq!(asked(&seen), 1, "{:?}", seen.lock().unwrap());
    }

    #[tokio::test]
    async fn a_manifest_is_deleted_with_a_token_for_that_where_one_is_wanted() {
        let gone = |at: &str| at.parse::<Repository>().unwrap();
        let registries = Registries::new(BTreeMap::new(), Duration::from_secs(10)).unwrap();
        for locks_after in [usize::MAX, 0] {
            let (host, seen) = registry(locks_after).await;
            let deleted = registries.delete(&gone(&format!("{host}/a/b")), Digest::of(b"x")).await;
            assert_eq!(deleted.unwrap(), Deleted::Gone);
            let seen = seen.lock().unwrap();
            let line = format!("DELETE /v2/a/b/manifests/{} HTTP/1.1", Digest::of(b"x"));
            assert!(seen.last().is_some_and(|last| *last == line), "{seen:?}");
            let wants_token = locks_after == 0;
            let token = "GET /token?service=s&scope=repository%3Aa%2Fb%3Apull%2Cdelete HTTP/1.1";
            assert_eq!(seen.iter().any(|line| line == token), wants_token, "{seen:?}");
        }
    }

    #[tokio::test]
    async fn a_registry_that_is_no_longer_open_is_logged_into() {
        // Asked, and one call answered; then it wants a token.
        let (host, seen) = registry(2).await;
        let registries = Registries::new(BTreeMap::new(), Duration::from_secs(10)).unwrap();
        let repository: Repository = format!("{host}/a").parse().unwrap();
        assert!(registries.manifest(&repository, "1").await.unwrap().is_none());
        assert!(registries.manifest(&repository, "2").await.unwrap().is_none());
        assert!(seen.lock().unwrap().iter().any(|line| line.starts_with("GET /token")), "{seen:?}");
    }
}
