//! Attestations beside an image, as artifacts that refer to it.

use farm_core::publish::referrer::{EMPTY_CONFIG, artifact, fallback_tag, listed};
use farm_core::publish::{Attached, OCI_INDEX};
use farm_types::{Digest, Repository};

use super::{By, RegistryError};

impl By<'_> {
    /// Puts an attestation as a referrer of its image, of which the repository has both. Where the registry lists no referrers the list
    /// under the image's tag for that gets it: whoever calls sees to it that nobody of farm's writes that at the same time. Done twice, it
    /// is there once.
    ///
    /// # Errors
    /// The registry refuses or can't be reached; or what lies under that tag is no list.
    pub async fn attach(&self, repository: &Repository, attached: &Attached) -> Result<(), RegistryError> {
        let unusable = |why: String| RegistryError::rejected(repository, why);
        let at = attached.attestation.to_string();
        let Some(pushed) = self.manifest(repository, &at).await? else {
            return Err(unusable(format!(
                "the attestation {at} is not there any more; submit the build again"
            )));
        };
        let artifact =
            artifact(&pushed.bytes, &attached.subject).map_err(|error| unusable(error.to_string()))?;
        if !self.has_blob(repository, Digest::of(EMPTY_CONFIG)).await? {
            self.put_blob(repository, EMPTY_CONFIG).await?;
        }
        if self.put_referrer(repository, &artifact).await? {
            return Ok(());
        }
        let tag = fallback_tag(attached.subject.digest);
        let before = self.manifest(repository, &tag).await?;
        let list = listed(before.as_ref().map(|list| list.bytes.as_slice()), &artifact)
            .map_err(|error| unusable(format!("{repository}:{tag}: {error}")))?;
        match list {
            Some(list) => self.put(repository, &tag, &list, OCI_INDEX).await,
            None => Ok(()),
        }
    }
}
