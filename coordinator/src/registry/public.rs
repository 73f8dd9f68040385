//! What everybody may read of a registry: an image that a worker may let its engine take though its project may not pull from
//! there with the farm's login.
//!
//! Invariant: nothing is asked with a login here, and nothing is remembered: what everybody may read now need not be so later.

use farm_types::{FailureCode, ImageRef, Invalid, RegistryHost};
use reqwest::Method;
use tokio::time::Instant;

use super::challenge::Challenge;
use super::lending::LendError;
use super::requests::{Asked, MAX_MANIFEST, Shown, Told};
use super::tokens::Whose;
use super::{ACCEPTED, Registries, RegistryError};

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
    /// It is of another registry; or the registry has trouble, or is nowhere that farm goes.
    pub async fn look_up(&self, image: &ImageRef) -> Result<Seen, LendError> {
        let repository = &image.repository;
        let name = repository.host().name();
        let with_login = self.known.keys().filter(|host| self.has_login(host));
        let is_beside = |host: &String| host.parse().is_ok_and(|host: RegistryHost| host.name() == name);
        if !with_login.into_iter().any(is_beside) {
            let cure = "farm has no login for its registry, so it doesn't look there for a worker";
            return Err(Invalid::new("image", image.to_string(), cure).into());
        }
        let deadline = Instant::now() + self.timeout;
        let way = self.challenge(repository, deadline).await?;
        let mut told = self.tell_anybody(image, way.as_ref(), deadline).await?;
        // Some let anybody look at their root.
        if let (None, Some(Told::No(refusal))) = (&way, &told)
            && let Some(challenge) = &refusal.challenge
        {
            told = self.tell_anybody(image, Some(challenge), deadline).await?;
        }
        let seen = match told {
            None => Seen::Refused,
            Some(Told::Answer(_)) => Seen::Public,
            Some(Told::No(refusal)) if refusal.is_absence() => Seen::Absent,
            Some(Told::No(refusal)) if refusal.is_about_login() => Seen::Refused,
            Some(Told::No(refusal)) => return Err(RegistryError::of(repository, &refusal).into()),
        };
        tracing::debug!(%image, ?seen, "an image was looked up for a worker");
        Ok(seen)
    }

    /// What a registry tells whoever has no login of an image; `None`: its token service lets nobody in.
    async fn tell_anybody(
        &self,
        image: &ImageRef,
        way: Option<&Challenge>,
        deadline: Instant,
    ) -> Result<Option<Told>, RegistryError> {
        let repository = &image.repository;
        let path = format!("manifests/{}", image.at());
        let asked = Asked { method: Method::HEAD, accept: ACCEPTED, ..Asked::get(&path, MAX_MANIFEST) };
        let Some(challenge) = way else {
            return self.send(repository, &asked, Shown::Nothing, deadline).await.map(Some);
        };
        let scopes = [format!("repository:{}:pull", repository.name())];
        match self.token(repository, challenge, &scopes, Whose::Nobody, deadline).await {
            Ok(Some(given)) => {
                self.send(repository, &asked, Shown::Token(&given.token), deadline).await.map(Some)
            }
            Ok(None) => Ok(None),
            Err(error) if error.code == FailureCode::RegistryAuth => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
#[path = "public_tests.rs"]
mod tests;
