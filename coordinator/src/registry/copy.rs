//! Copying an image from one registry to another, like the staging registry and where it belongs: by digest, and nothing of it as a whole in memory.
//!
//! What is there already is left out, so a copy that was cut off goes on where it was. The manifest comes last: what is there by its
//! digest is there whole.
//!
//! Invariant: what is put has been checked to be the bytes of its digest, and no more of them than its manifest says. Whoever pushed it is
//! believed nothing.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use farm_core::publish::{DOCKER_MANIFEST, Descriptor, OCI_MANIFEST, is_index};
use farm_types::digest::Hasher;
use farm_types::{Digest, Platform, Repository};
use http_body::{Body, Frame, SizeHint};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::Refusal;
use super::image::{ChildError, ImageManifest, in_json, wrong};
use super::requests::{Asked, Shown, Told};
use super::tokens::Scope;
use super::{By, Manifest, RegistryError};
use crate::outbound::Failed;
use crate::outbound::body::read;

/// One blob may take so long.
const LONGEST: Duration = Duration::from_secs(3600);
/// Pieces of a blob that were read and not sent yet.
const AHEAD: usize = 4;
/// As much of an answer without a meaning is read.
const MAX_ANSWER: usize = 8 * 1024;

/// What a registry makes of the wish to take a blob over from another repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounted {
    /// It is there.
    Yes,
    /// It isn't: this one.
    No,
    /// It isn't, and others won't be, either.
    Refused,
}

/// What is to be copied of an image: all that it consists of.
#[derive(Debug)]
pub struct Staged {
    /// Configs, layers and attestations, with their length.
    pub blobs: BTreeMap<Digest, u64>,
    /// Manifests in the order in which they are put; the last one is the one that was named.
    pub manifests: Vec<(Digest, Manifest)>,
}

impl Staged {
    /// The length of all blobs.
    pub fn bytes(&self) -> u64 {
        self.blobs.values().fold(0, |sum, size| sum.saturating_add(*size))
    }
}

impl By<'_> {
    /// Reads what an attempt pushed, checks that it is an image of that platform of at most `most` bytes, and lists what it consists of.
    ///
    /// # Errors
    /// The registry; or the image isn't there, is another platform's, or says of its parts what they aren't.
    pub async fn staged(
        &self,
        repository: &Repository,
        digest: Digest,
        platform: &Platform,
        most: u64,
    ) -> Result<Staged, ChildError> {
        let pushed = self.child(repository, digest, platform).await?;
        let mut staged = Staged { blobs: BTreeMap::new(), manifests: Vec::new() };
        staged.add(repository, &pushed.child.manifest, pushed.image)?;
        for attestation in &pushed.child.attestations {
            let manifest = self.exact(repository, attestation.digest).await?;
            staged.add(repository, attestation, manifest)?;
        }
        if pushed.child.manifest.digest != digest {
            let index = self.exact(repository, digest).await?;
            staged.manifests.push((digest, index));
        }
        if staged.bytes() > most {
            let why = format!("it has {} bytes, and on this farm at most {most} are copied", staged.bytes());
            return Err(wrong(repository, digest, &why));
        }
        Ok(staged)
    }

    /// Whether a blob is there.
    ///
    /// # Errors
    /// The registry refuses or can't be reached.
    pub async fn has_blob(&self, repository: &Repository, digest: Digest) -> Result<bool, RegistryError> {
        let path = format!("blobs/{digest}");
        let asked = Asked { method: Method::HEAD, ..Asked::get(&path, MAX_ANSWER) };
        Ok(self.ask(repository, &asked).await?.is_some())
    }

    /// Copies a blob of this length from here. Cancelled, it has copied nothing.
    ///
    /// # Errors
    /// One of the two registries refuses or can't be reached; or there are other bytes, or none.
    pub async fn copy_blob(
        &self,
        from: &Repository,
        (digest, size): (Digest, u64),
        to: &By<'_>,
        into: &Repository,
    ) -> Result<(), RegistryError> {
        let copied = timeout(LONGEST, self.copy(from, (digest, size), to, into)).await;
        copied.unwrap_or_else(|_| Err(RegistryError::unended(into, LONGEST)))
    }

    async fn copy(
        &self,
        from: &Repository,
        (digest, size): (Digest, u64),
        to: &By<'_>,
        into: &Repository,
    ) -> Result<(), RegistryError> {
        let limit = self.registries.timeout;
        let blob = self.open(from, digest).await?;
        let place = to.begin_upload(into).await?;
        let (pieces, waiting) = mpsc::channel(AHEAD);
        let upload = to.upload(into, place, digest, Pieces { waiting, left: size });
        let pump = pump(from, into, blob, (digest, size), pieces, limit);
        tokio::pin!(upload, pump);
        tokio::select! {
            biased;
            pumped = &mut pump => pumped?,
            // Before it has all: it doesn't want it.
            uploaded = &mut upload => {
                uploaded?;
                return Err(RegistryError::rejected(into, format!("it said that it had {digest} before it had")));
            }
        }
        match timeout(limit, upload).await {
            Ok(uploaded) => uploaded,
            Err(_) => Err(RegistryError::timeout(into, limit)),
        }
    }

    /// Begins to read a blob. A refused login is tried once more with a new token: they end while a long copy goes on.
    async fn open(&self, repository: &Repository, digest: Digest) -> Result<Response, RegistryError> {
        self.registries.may_be_asked(&self.whose, repository)?;
        let deadline = Instant::now() + self.registries.timeout;
        match self.open_once(repository, digest, deadline).await? {
            Ok(response) => Ok(response),
            Err(refusal) if refusal.is_about_login() => {
                self.registries.forget(&self.whose, repository, "pull");
                self.whose.refused().await;
                let again = self.open_once(repository, digest, deadline).await?;
                again.map_err(|refusal| RegistryError::of(repository, &refusal, &self.whose))
            }
            Err(refusal) => Err(RegistryError::of(repository, &refusal, &self.whose)),
        }
    }

    async fn open_once(
        &self,
        repository: &Repository,
        digest: Digest,
        deadline: Instant,
    ) -> Result<Result<Response, Refusal>, RegistryError> {
        let (registries, whose) = (self.registries, &self.whose);
        let token = registries.grant(whose, repository, "pull", deadline).await?;
        let url = registries.url(repository.registry(), &format!("{}/blobs/{digest}", repository.name()));
        let client = registries.client(repository);
        let request = client.request(Method::GET, &url);
        let request =
            registries.showing(repository.registry(), Shown::of(token.as_deref(), whose), request).await?;
        let mut response = match timeout_at(deadline, client.send(request)).await {
            Ok(answered) => answered.map_err(|failed| RegistryError::unsent(repository, &failed))?,
            Err(_) => return Err(RegistryError::timeout(repository, registries.timeout)),
        };
        if response.status().is_success() {
            return Ok(Ok(response));
        }
        // Blobs mostly lie elsewhere, to where the registry leads.
        let is_led = response.url().host_str() != Url::parse(&url).ok().as_ref().and_then(Url::host_str);
        let mut refusal = refusal(repository, &mut response, deadline).await;
        if !is_led {
            registries.note_refusal(whose, repository, &mut refusal);
        }
        Ok(Err(refusal))
    }

    /// Has a registry take a blob over from another repository of its own. What it doesn't has to be brought there. (OCI
    /// distribution-spec v1.1, "Mounting a blob from another repository".)
    ///
    /// # Errors
    /// The registry can't be reached, or has trouble.
    pub async fn mount_blob(
        &self,
        from: &Repository,
        digest: Digest,
        into: &Repository,
    ) -> Result<Mounted, RegistryError> {
        let (registries, whose) = (self.registries, &self.whose);
        registries.may_be_asked(whose, into)?;
        let deadline = Instant::now() + registries.timeout;
        let scope = Scope { repository: into, from: Some(from), actions: "pull,push" };
        let token = match registries.grant_of(whose, scope, deadline).await {
            Ok(token) => token,
            Err(error) if error.is_transient() => return Err(error),
            // Not for both repositories; each by itself may be granted all the same.
            Err(_) => return Ok(Mounted::Refused),
        };
        let digest = digest.to_string();
        let query = [("mount", digest.as_str()), ("from", from.name())];
        let asked = Asked { method: Method::POST, query: &query, ..Asked::get("blobs/uploads/", MAX_ANSWER) };
        let shown = Shown::of(token.as_deref(), whose);
        let mut told = registries.send(into, &asked, shown, deadline).await?;
        registries.note(whose, into, &mut told);
        match told {
            Told::Answer(answer) if answer.status == StatusCode::CREATED => Ok(Mounted::Yes),
            // It has begun an upload in the place of that, and forgets it by itself.
            Told::Answer(_) => Ok(Mounted::No),
            Told::No(refusal) if refusal.may_pass() => Err(RegistryError::of(into, &refusal, whose)),
            Told::No(refusal) => {
                if refusal.is_about_login() {
                    // The token may have come to its end.
                    registries.forget_of(whose, scope);
                }
                Ok(Mounted::Refused)
            }
        }
    }

    /// Puts a short blob that is here.
    ///
    /// # Errors
    /// The registry refuses or can't be reached.
    pub async fn put_blob(
        &self,
        repository: &Repository,
        blob: impl Into<Bytes>,
    ) -> Result<(), RegistryError> {
        let blob = blob.into();
        let (digest, left) = (Digest::of(&blob), u64::try_from(blob.len()).unwrap_or(u64::MAX));
        let limit = self.registries.timeout;
        let place = self.begin_upload(repository).await?;
        let (pieces, waiting) = mpsc::channel(1);
        // There is room for it.
        let _ = pieces.try_send(Ok(blob));
        drop(pieces);
        let upload = self.upload(repository, place, digest, Pieces { waiting, left });
        timeout(limit, upload).await.unwrap_or_else(|_| Err(RegistryError::timeout(repository, limit)))
    }

    /// Begins an upload; answers where it goes on.
    async fn begin_upload(&self, repository: &Repository) -> Result<Url, RegistryError> {
        let asked = Asked { method: Method::POST, ..Asked::get("blobs/uploads/", MAX_ANSWER) };
        let Some(answer) = self.ask(repository, &asked).await? else {
            return Err(RegistryError::missing(repository));
        };
        let url =
            self.registries.url(repository.registry(), &format!("{}/blobs/uploads/", repository.name()));
        place_of_upload(repository, &url, answer.headers.get(LOCATION))
    }

    /// Sends a blob to where its upload goes on, and ends that.
    async fn upload(
        &self,
        repository: &Repository,
        mut place: Url,
        digest: Digest,
        pieces: Pieces,
    ) -> Result<(), RegistryError> {
        let (registries, whose) = (self.registries, &self.whose);
        let deadline = Instant::now() + registries.timeout;
        let token = registries.grant(whose, repository, "pull,push", deadline).await?;
        place.query_pairs_mut().append_pair("digest", &digest.to_string());
        let client = registries.client(repository);
        let request = client.request(Method::PUT, place.as_str());
        let request =
            request.header(CONTENT_TYPE, "application/octet-stream").body(reqwest::Body::wrap(pieces));
        let request =
            registries.showing(repository.registry(), Shown::of(token.as_deref(), whose), request).await?;
        let answered = client.send_straight(request).await;
        let mut response = answered.map_err(|failed| RegistryError::unsent(repository, &failed))?;
        if response.status() == StatusCode::CREATED {
            return Ok(());
        }
        let deadline = Instant::now() + registries.timeout;
        let mut refusal = refusal(repository, &mut response, deadline).await;
        registries.note_refusal(whose, repository, &mut refusal);
        if refusal.status == StatusCode::UNAUTHORIZED {
            // What was sent is gone; the next try of the whole copy has a new token, and finds what was brought before.
            registries.forget(whose, repository, "pull,push");
            if token.is_some() {
                return Err(RegistryError::late_token(repository));
            }
        }
        Err(RegistryError::of(repository, &refusal, whose))
    }
}

impl Staged {
    /// Adds a manifest with what it lists, if it is what its index says.
    fn add(
        &mut self,
        repository: &Repository,
        described: &Descriptor,
        manifest: Manifest,
    ) -> Result<(), ChildError> {
        let digest = described.digest;
        let is_wrong = |why: &str| wrong(repository, digest, why);
        if u64::try_from(manifest.bytes.len()) != Ok(described.size)
            || manifest.media_type != described.media_type
        {
            return Err(is_wrong("its index says another type or length of it"));
        }
        if ![OCI_MANIFEST, DOCKER_MANIFEST].contains(&manifest.media_type.as_str())
            || is_index(&manifest.media_type)
        {
            return Err(is_wrong("it is no image's manifest"));
        }
        let listed: ImageManifest =
            serde_json::from_slice(&manifest.bytes).map_err(|error| is_wrong(&in_json(&error)))?;
        for blob in std::iter::once(listed.config).chain(listed.layers.into_iter().flatten()) {
            if self.blobs.insert(blob.digest, blob.size).is_some_and(|other| other != blob.size) {
                return Err(is_wrong("it says two lengths of one blob"));
            }
        }
        self.manifests.push((digest, manifest));
        Ok(())
    }
}

/// What an answer says that is no success.
async fn refusal(repository: &Repository, response: &mut Response, deadline: Instant) -> Refusal {
    let (status, headers) = (response.status(), response.headers().clone());
    let body = read(response, MAX_ANSWER, deadline).await;
    Refusal::new(repository, status, &headers, &body.bytes)
}

/// Where an upload goes on: at the registry itself, as it is to have the login.
fn place_of_upload(
    repository: &Repository,
    asked: &str,
    location: Option<&reqwest::header::HeaderValue>,
) -> Result<Url, RegistryError> {
    let unusable = |why: &str| RegistryError::rejected(repository, format!("it takes no upload: {why}"));
    let asked = Url::parse(asked).map_err(|_| unusable("it has no address"))?;
    let location = location.and_then(|location| location.to_str().ok());
    let location = location.ok_or_else(|| unusable("it doesn't say where to"))?;
    let place = asked.join(location).map_err(|_| unusable("what it names is no address"))?;
    if place.origin() != asked.origin() {
        return Err(unusable("it wants it sent elsewhere"));
    }
    Ok(place)
}

/// Reads a blob and passes it on; the last piece once all of it was seen to be what it should be. What is passed on ends with an error
/// otherwise, so that no upload is whole.
///
/// # Errors
/// Nothing comes, or other bytes. Where nobody takes the pieces any more it ends well: whoever took them knows why.
async fn pump(
    from: &Repository,
    into: &Repository,
    mut blob: Response,
    (digest, size): (Digest, u64),
    pieces: mpsc::Sender<Result<Bytes, std::io::Error>>,
    limit: Duration,
) -> Result<(), RegistryError> {
    let send = async |piece: Bytes| match timeout(limit, pieces.send(Ok(piece))).await {
        Ok(sent) => Ok(sent.is_ok()),
        Err(_) => Err(RegistryError::timeout(into, limit)),
    };
    let (mut hasher, mut left, mut held) = (Hasher::new(), size, Bytes::new());
    let read = loop {
        let piece = match timeout(limit, blob.chunk()).await {
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) if left > 0 => break Err(other(from, digest)),
            Ok(Ok(None)) => break Ok(()),
            Ok(Err(error)) => break Err(RegistryError::unsent(from, &Failed::Request(error))),
            Err(_) => break Err(RegistryError::unended(from, limit)),
        };
        match left.checked_sub(u64::try_from(piece.len()).unwrap_or(u64::MAX)) {
            Some(rest) => left = rest,
            None => break Err(other(from, digest)),
        }
        hasher.update(&piece);
        let before = std::mem::replace(&mut held, piece);
        if !before.is_empty() && !send(before).await? {
            return Ok(());
        }
    };
    let read = read.and_then(|()| if hasher.finish() == digest { Ok(()) } else { Err(other(from, digest)) });
    if let Err(error) = read {
        let _ = pieces.try_send(Err(std::io::Error::other("the copy is given up")));
        return Err(error);
    }
    if !held.is_empty() {
        send(held).await?;
    }
    Ok(())
}

fn other(from: &Repository, digest: Digest) -> RegistryError {
    RegistryError::rejected(from, format!("the blob {digest} has another digest or length"))
}

/// A blob on its way, as a request's body.
struct Pieces {
    waiting: mpsc::Receiver<Result<Bytes, std::io::Error>>,
    left: u64,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let next = match ready!(self.waiting.poll_recv(task)) {
            Some(Ok(piece)) => {
                self.left = self.left.saturating_sub(u64::try_from(piece.len()).unwrap_or(u64::MAX));
                Some(Ok(Frame::data(piece)))
            }
            Some(Err(error)) => Some(Err(error)),
            None if self.left > 0 => Some(Err(std::io::Error::other("the copy was cut off"))),
            None => None,
        };
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
