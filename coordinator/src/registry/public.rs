//! What may be read of a registry: an image that a worker may let its engine take though nobody has said that its project may. That is what
//! everybody may read, and, where some project has a login of its own, what the attempt's project may by the login that it uses there.
//!
//! Invariant: nothing is asked with another login than that, and nothing is remembered, but how registries that the farm or the project
//! has a login for let in: what may be read now need not be so later.

use std::sync::Arc;

use farm_types::{FailureCode, ImageRef, Invalid, Repository};
use reqwest::{Method, StatusCode};
use tokio::time::{Instant, timeout_at};

use super::challenge::Challenge;
use super::lending::{Borrower, LendError};
use super::login::{Kept, Whose};
use super::requests::{Asked, MAX_MANIFEST, Shown, Told};
use super::{ACCEPTED, Registries, RegistryError};

/// As many images are looked up at once: each is a few requests of a worker's choosing, to registries that may be slow.
pub(super) const MOST_AT_ONCE: usize = 32;

/// How a registry answers whoever looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// With the image.
    Readable,
    /// That it hasn't got it. Some say so of what they don't show.
    Absent,
    /// That it wants to know who asks, or somebody else.
    Refused,
}

/// What came of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The answer.
    pub seen: Seen,
    /// To whom it was given: the same text for all who look by the same login. Empty: to everybody.
    pub reader: String,
}

impl Registries {
    /// Whether an image may be read by whoever has no login, or by the login by which the attempt's project looks. Asked of registries
    /// that the farm or a project has a login for, and of those beside them: an engine keeps the images of all ports of a host name
    /// under that name.
    ///
    /// # Errors
    /// It is of another registry; or the registry has trouble, or is nowhere that farm goes; or too many are looked up.
    pub async fn look_up(&self, borrower: &Borrower<'_>, image: &ImageRef) -> Result<Looked, LendError> {
        let host = image.repository.host();
        if !self.is_beside(borrower.allowed, host) {
            let cure = "farm has no login for its registry, so it doesn't look there for a worker";
            return Err(Invalid::new("image", image.to_string(), cure).into());
        }
        let whose = self.looks_by(borrower, &image.repository)?;
        let deadline = Instant::now() + self.timeout;
        let Ok(Ok(_turn)) = timeout_at(deadline, self.looks.acquire()).await else {
            return Err(RegistryError::too_many_looks(&image.repository).into());
        };
        let looked = self.look(image, &whose, deadline).await;
        if looked.is_err() {
            // It may have another token service by now.
            self.forget_way(host.as_str());
        }
        let seen = looked?;
        let reader = match whose {
            Whose::Nobody => String::new(),
            Whose::Farm | Whose::Project(_) => self.reader(borrower, host),
        };
        tracing::debug!(%image, ?seen, reader, "an image was looked up for a worker");
        Ok(Looked { seen, reader })
    }

    /// By whose login an image is looked up for an attempt.
    fn looks_by(&self, borrower: &Borrower<'_>, repository: &Repository) -> Result<Whose, RegistryError> {
        let host = repository.host();
        match borrower.allowed.own(host) {
            Some(Kept::Login(login)) => Ok(Whose::Project(Arc::clone(login))),
            Some(Kept::Lost(why)) => Err(RegistryError::lost_login(host, why)),
            // Elsewhere a worker knows itself what its project may take with the farm's.
            Some(Kept::Removed) | None => {
                let is_farms = borrower.allowed.is_shared(host) && self.has_login(host.as_str());
                Ok(if is_farms && borrower.may_pull(repository) { Whose::Farm } else { Whose::Nobody })
            }
        }
    }

    async fn look(&self, image: &ImageRef, whose: &Whose, deadline: Instant) -> Result<Seen, RegistryError> {
        let repository = &image.repository;
        let way = self.way(repository, whose, deadline).await?;
        let mut told = self.tell_of(image, way.as_ref(), whose, deadline).await?;
        let other = match &told {
            // Some let anybody look at their root, and want a token then; or they want another one by now.
            Some(Told::No(refusal)) if refusal.is_about_login() => refusal.challenge.clone().map(Some),
            Some(_) => None,
            // The token service doesn't let us in, or isn't the registry's any more.
            None => {
                self.forget_way(repository.registry());
                Some(self.way(repository, whose, deadline).await?)
            }
        };
        if let Some(other) = other.filter(|other| *other != way) {
            if told.is_some() && way.is_some() {
                self.forget_way(repository.registry());
            }
            told = self.tell_of(image, other.as_ref(), whose, deadline).await?;
        }
        match told {
            None => Ok(Seen::Refused),
            Some(Told::Answer(_)) => Ok(Seen::Readable),
            Some(Told::No(refusal)) if refusal.is_absence() => Ok(Seen::Absent),
            Some(Told::No(refusal)) if refusal.is_about_login() => Ok(Seen::Refused),
            Some(Told::No(refusal)) => Err(RegistryError::of(repository, &refusal, whose)),
        }
    }

    /// How a registry lets in. Of those that users name nothing is kept here: there are as many as anybody likes.
    async fn way(
        &self,
        repository: &Repository,
        whose: &Whose,
        deadline: Instant,
    ) -> Result<Option<Challenge>, RegistryError> {
        let host = repository.registry();
        match self.known_way(host) {
            Some(way) => Ok(way),
            None if self.is_known(host) || whose.version().is_some() => {
                self.challenge(repository, deadline).await
            }
            None => self.ask_way(repository, deadline).await.map(|(way, _)| way),
        }
    }

    /// What a registry tells of an image; `None`: its token service doesn't let in whoever asks.
    async fn tell_of(
        &self,
        image: &ImageRef,
        way: Option<&Challenge>,
        whose: &Whose,
        deadline: Instant,
    ) -> Result<Option<Told>, RegistryError> {
        let repository = &image.repository;
        let Some(challenge) = way else {
            return self.send_look(image, Shown::Login(whose), deadline).await.map(Some);
        };
        let scopes = [format!("repository:{}:pull", repository.name())];
        match self.token(repository, challenge, &scopes, whose, deadline).await {
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
    pub(super) fn too_many_looks(repository: &Repository) -> Self {
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
