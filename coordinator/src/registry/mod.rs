//! Registries: what farm reads from them and puts there. The client's types stay in this folder.
//!
//! Protocol: OCI distribution-spec v1.1. Bytes are exact both ways: a digest is always that of the bytes
//! as they came. Nothing is retried here; the publish pass does that, with its rows as memory.

mod challenge;
mod clients;
pub mod copy;
mod delete;
mod error;
pub mod helpers;
pub mod image;
pub mod inspect;
pub mod lending;
pub mod login;
mod memory;
mod public;
mod realm;
pub mod referrers;
mod requests;
pub mod staging;
pub mod tags;
mod tokens;
pub mod tree;
mod untag;
pub mod usage;
mod verify;
mod waits;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farm_core::publish::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use farm_types::{Digest, Invalid, Repository};
use reqwest::Method;
use tokio::sync::Semaphore;
use uuid::Uuid;

use self::challenge::Challenge;
use self::login::{Allowed, Kept, Login, Whose};
use self::memory::Memory;
use self::requests::{Answer, Asked, MAX_MANIFEST, MAX_TAGS, Told};
use self::staging::Staging;
use self::tokens::Grant;
use self::waits::Waits;
use crate::config::Registry;
use crate::outbound::{Client, Outbound};
pub use delete::Deleted;
pub use error::RegistryError;
pub use public::{Looked, Seen};
pub use untag::Untagged;
pub use verify::Unverified;
pub use waits::Limit;

/// The media types that farm asks for and understands.
const ACCEPTED: &[&str] = &[OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// A manifest as the registry gave it.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The manifest byte for byte: its digest depends on them.
    pub bytes: Vec<u8>,
    /// The media type that these bytes declare.
    pub media_type: String,
}

/// The registries that farm talks to, each with its credentials.
pub struct Registries {
    known: BTreeMap<String, Registry>,
    timeout: Duration,
    /// Of those that are known, by host.
    clients: HashMap<String, Client>,
    /// For all others.
    others: Client,
    grants: Mutex<HashMap<Grant, Option<String>>>,
    /// How each registry lets in: with a token, if there is anything here.
    ways: Mutex<HashMap<String, Option<Challenge>>>,
    /// Which are to be left alone for a while.
    waits: Waits,
    /// What was seen of manifests.
    memory: Memory,
    /// Turns of those who look images up for workers.
    looks: Semaphore,
    /// Where untrusted machines push.
    staging: Option<Staging>,
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
    pub fn new(
        known: BTreeMap<String, Registry>,
        outbound: &Outbound,
        timeout: Duration,
    ) -> Result<Self, Invalid> {
        // What makes clients here takes the process's provider, and in tests nobody has chosen one before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let made = known.iter().map(|(host, registry)| {
            clients::client(outbound, host, registry).map(|client| (host.clone(), client))
        });
        let clients = made.collect::<Result<_, _>>()?;
        let others = clients::client(outbound, "of no name", &Registry::default())?;
        Ok(Self {
            known,
            timeout,
            clients,
            others,
            grants: Mutex::default(),
            ways: Mutex::default(),
            waits: Waits::default(),
            memory: Memory::default(),
            looks: Semaphore::new(public::MOST_AT_ONCE),
            staging: None,
        })
    }

    /// What registries have said of how much may be read there and nobody was told of yet: by which of projects' logins (`None`: the farm's),
    /// and which registry.
    pub fn new_limits(&self) -> Vec<(Option<Uuid>, String, Limit)> {
        self.waits.news()
    }

    /// Whether the configuration has something on a registry, its credentials for one.
    pub fn is_known(&self, host: &str) -> bool {
        self.known.contains_key(host)
    }

    /// The registries as they answer for a project whose results are there or come there: by its own login, and else by the farm's.
    ///
    /// # Errors
    /// The login is removed and the project may not push there with the farm's; or it can't be opened.
    pub fn to_publish(&self, allowed: &Allowed, repository: &Repository) -> Result<By<'_>, RegistryError> {
        if !allowed.still_pushes(repository) {
            return Err(RegistryError::no_login(repository.host()));
        }
        self.to_read(allowed, repository)
    }

    /// The registries as they answer for a project that looks at an image: by its own login, and else by the farm's. Whether it may with
    /// that, the caller has asked.
    ///
    /// # Errors
    /// The project's login can't be opened.
    pub fn to_read(&self, allowed: &Allowed, repository: &Repository) -> Result<By<'_>, RegistryError> {
        match allowed.own(repository.host()) {
            Some(Kept::Login(login)) => Ok(By { registries: self, whose: Whose::Project(Arc::clone(login)) }),
            Some(Kept::Lost(why)) => Err(RegistryError::lost_login(repository.host(), why)),
            Some(Kept::Removed) | None => Ok(By { registries: self, whose: Whose::Farm }),
        }
    }

    /// The registries as they answer the farm.
    #[cfg(test)]
    pub(crate) fn farm(&self) -> By<'_> {
        By { registries: self, whose: Whose::Farm }
    }
}

/// The registries, asked by somebody's login.
#[derive(Debug, Clone)]
pub struct By<'a> {
    registries: &'a Registries,
    whose: Whose,
}

impl By<'_> {
    /// The project's own login, if it is that.
    pub fn own(&self) -> Option<&Login> {
        match &self.whose {
            Whose::Project(login) => Some(login),
            Whose::Farm | Whose::Staging | Whose::Nobody => None,
        }
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
        self.see(repository, Digest::of(&answer.body));
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
            // Registries need not send this header (OCI distribution-spec); the manifest itself tells.
            let manifest = self.manifest(repository, at).await?;
            return Ok(manifest.map(|manifest| Digest::of(&manifest.bytes)));
        };
        let digest = digest.to_str().unwrap_or_default();
        let digest: Digest =
            digest.parse().map_err(|e: Invalid| RegistryError::rejected(repository, e.to_string()))?;
        self.see(repository, digest);
        Ok(Some(digest))
    }

    /// Notes that a manifest is there.
    fn see(&self, repository: &Repository, digest: Digest) {
        self.registries.memory.see(self.whose.version(), repository, digest);
    }

    /// Whether this process has seen that a manifest is there, within so long; nothing is asked.
    pub fn saw(&self, repository: &Repository, digest: Digest, within: Duration) -> bool {
        self.registries.memory.saw(self.whose.version(), repository, digest, within)
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
        self.put_and_tell(repository, at, bytes, media_type).await.map(drop)
    }

    /// Puts a manifest that has a subject under its digest; true when the registry lists it by that (distribution-spec v1.1, "Pushing
    /// Manifests with Subject").
    ///
    /// # Errors
    /// The registry refuses or can't be reached.
    pub async fn put_referrer(
        &self,
        repository: &Repository,
        bytes: &[u8],
        media_type: &str,
    ) -> Result<bool, RegistryError> {
        let at = Digest::of(bytes).to_string();
        let answer = self.put_and_tell(repository, &at, bytes, media_type).await?;
        Ok(answer.headers.contains_key("OCI-Subject"))
    }

    async fn put_and_tell(
        &self,
        repository: &Repository,
        at: &str,
        bytes: &[u8],
        media_type: &str,
    ) -> Result<Answer, RegistryError> {
        let media_type = http::HeaderValue::from_str(media_type)
            .map_err(|e| RegistryError::rejected(repository, e.to_string()))?;
        let path = format!("manifests/{at}");
        let body = Some((bytes.to_vec(), media_type));
        let asked = Asked { method: Method::PUT, body, ..Asked::get(&path, MAX_TAGS) };
        let is_tag = at.parse::<Digest>().is_err();
        match self.tell(repository, &asked).await? {
            Told::Answer(answer) => {
                self.see(repository, Digest::of(bytes));
                Ok(answer)
            }
            Told::No(refusal) if is_tag && refusal.is_about_immutability() => {
                Err(RegistryError::immutable(repository, at, &refusal))
            }
            Told::No(refusal) if refusal.is_absence() => Err(RegistryError::missing(repository)),
            Told::No(refusal) => Err(RegistryError::of(repository, &refusal, &self.whose)),
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
}

impl Registries {
    /// Refuses a repository that no request could be sent to, whoever would be asked, or that is the farm's own.
    ///
    /// # Errors
    /// Its host makes no address, or is the staging registry.
    pub fn check(&self, repository: &Repository) -> Result<(), Invalid> {
        let host = repository.registry();
        if self.is_staging(host) {
            let cure = "this is the farm's staging registry, from which everything goes; name another one";
            return Err(Invalid::new("tag", repository.to_string(), cure));
        }
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
}

#[cfg(test)]
mod guard_tests;
#[cfg(test)]
mod tests;
