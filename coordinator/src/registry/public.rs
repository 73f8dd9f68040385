//! What everybody may read of a registry: an image that a worker may let its engine take though its project may not pull from
//! there with the farm's login.
//!
//! Invariant: nothing is asked with a login here, and nothing is remembered, but how registries of the configuration let in: what
//! everybody may read now need not be so later.

use farm_types::{FailureCode, ImageRef, Invalid, Repository};
use reqwest::{Method, StatusCode};
use tokio::time::{Instant, timeout_at};

use super::challenge::Challenge;
use super::lending::LendError;
use super::requests::{Asked, MAX_MANIFEST, Shown, Told};
use super::tokens::Whose;
use super::{ACCEPTED, Registries, RegistryError};

/// As many images are looked up at once: each is a few requests of a worker's choosing, to registries that may be slow.
pub(super) const MOST_AT_ONCE: usize = 32;

/// How a registry answers whoever has no login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// With the image.
    Public,
    /// That it hasn't got it. Some say so of what they don't show.
    Absent,
    /// That it wants to know who asks.
    Refused,
}

impl Registries {
    /// Whether everybody may read an image. Asked of registries that the farm has a login for, and of those beside them: an engine
    /// keeps the images of all ports of a host name under that name.
    ///
    /// # Errors
    /// It is of another registry; or the registry has trouble, or is nowhere that farm goes; or too many are looked up.
    pub async fn look_up(&self, image: &ImageRef) -> Result<Seen, LendError> {
        let host = image.repository.host();
        if !self.is_beside(host) {
            let cure = "farm has no login for its registry, so it doesn't look there for a worker";
            return Err(Invalid::new("image", image.to_string(), cure).into());
        }
        let deadline = Instant::now() + self.timeout;
        let Ok(Ok(_turn)) = timeout_at(deadline, self.looks.acquire()).await else {
            return Err(RegistryError::too_many_looks(&image.repository).into());
        };
        let looked = self.look(image, deadline).await;
        if looked.is_err() {
            // It may have another token service by now.
            self.forget_way(host.as_str());
        }
        let seen = looked?;
        tracing::debug!(%image, ?seen, "an image was looked up for a worker");
        Ok(seen)
    }

    async fn look(&self, image: &ImageRef, deadline: Instant) -> Result<Seen, RegistryError> {
        let repository = &image.repository;
        let way = self.way(repository, deadline).await?;
        let mut told = self.tell_anybody(image, way.as_ref(), deadline).await?;
        let other = match &told {
            // Some let anybody look at their root, and want a token then; or they want another one by now.
            Some(Told::No(refusal)) if refusal.is_about_login() => refusal.challenge.clone().map(Some),
            Some(_) => None,
            // The token service lets nobody in, or isn't the registry's any more.
            None => {
                self.forget_way(repository.registry());
                Some(self.way(repository, deadline).await?)
            }
        };
        if let Some(other) = other.filter(|other| *other != way) {
            if told.is_some() && way.is_some() {
                self.forget_way(repository.registry());
            }
            told = self.tell_anybody(image, other.as_ref(), deadline).await?;
        }
        match told {
            None => Ok(Seen::Refused),
            Some(Told::Answer(_)) => Ok(Seen::Public),
            Some(Told::No(refusal)) if refusal.is_absence() => Ok(Seen::Absent),
            Some(Told::No(refusal)) if refusal.is_about_login() => Ok(Seen::Refused),
            Some(Told::No(refusal)) => Err(RegistryError::of(repository, &refusal)),
        }
    }

    /// How a registry lets in. Of those that users name nothing is kept here: there are as many as anybody likes.
    async fn way(
        &self,
        repository: &Repository,
        deadline: Instant,
    ) -> Result<Option<Challenge>, RegistryError> {
        let host = repository.registry();
        match self.known_way(host) {
            Some(way) => Ok(way),
            None if self.is_known(host) => self.challenge(repository, deadline).await,
            None => self.ask_way(repository, deadline).await.map(|(way, _)| way),
        }
    }

    /// What a registry tells whoever has no login of an image; `None`: its token service lets nobody in.
    async fn tell_anybody(
        &self,
        image: &ImageRef,
        way: Option<&Challenge>,
        deadline: Instant,
    ) -> Result<Option<Told>, RegistryError> {
        let repository = &image.repository;
        let Some(challenge) = way else {
            return self.send_look(image, Shown::Nothing, deadline).await.map(Some);
        };
        let scopes = [format!("repository:{}:pull", repository.name())];
        match self.token(repository, challenge, &scopes, Whose::Nobody, deadline).await {
            Ok(Some(given)) => self.send_look(image, Shown::Token(&given.token), deadline).await.map(Some),
            Ok(None) => Ok(None),
            Err(error) if error.code == FailureCode::RegistryAuth => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for an image's manifest; without its bytes, if the registry can do that.
    async fn send_look(
        &self,
        image: &ImageRef,
        shown: Shown<'_>,
        deadline: Instant,
    ) -> Result<Told, RegistryError> {
        let path = format!("manifests/{}", image.at());
        let get = Asked { accept: ACCEPTED, ..Asked::get(&path, MAX_MANIFEST) };
        let head = Asked { method: Method::HEAD, accept: ACCEPTED, ..Asked::get(&path, MAX_MANIFEST) };
        let told = self.send(&image.repository, &head, shown, deadline).await?;
        let knows_no_head = |status: StatusCode| {
            [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED].contains(&status)
        };
        match told {
            Told::No(refusal) if knows_no_head(refusal.status) => {
                self.send(&image.repository, &get, shown, deadline).await
            }
            told => Ok(told),
        }
    }
}

impl RegistryError {
    /// There was no turn in time.
    fn too_many_looks(repository: &Repository) -> Self {
        let message = format!(
            "farm looks up {MOST_AT_ONCE} images at once for its workers, and had no turn for one of {repository} in time; that \
             passes once other registries answer"
        );
        Self { code: FailureCode::RegistryUnavailable, message }
    }
}

#[cfg(test)]
#[path = "public_tests.rs"]
mod tests;
