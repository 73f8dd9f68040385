//! What farm understands of an image: enough to know that it is the platform that it should be.

use std::collections::BTreeMap;
use std::time::Duration;

use farm_core::publish::{Child, Descriptor, IndexDocument, OCI_INDEX, System, is_index, split};
use farm_types::{Cause, Digest, Failure, FailureCode, Platform, Repository};
use serde::Deserialize;

use super::login::Whose;
use super::{By, Manifest, RegistryError};

/// What was seen so lately is there.
pub const LATELY: Duration = Duration::from_secs(10);
/// The longest config that is read, bytes.
const MAX_CONFIG: u64 = 8 * 1024 * 1024;

/// An image manifest, as far as farm reads it (OCI image-spec, manifest.md).
#[derive(Debug, Deserialize)]
pub(super) struct ImageManifest {
    pub(super) config: Blob,
    /// BuildKit writes null for an image without layers.
    pub(super) layers: Option<Vec<Blob>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// A blob's descriptor.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Blob {
    #[serde(default)]
    media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Blob {
    /// Whether this is the config of an image, and not of something else that is stored as one.
    pub(super) fn is_image_config(&self) -> bool {
        ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"]
            .contains(&self.media_type.as_str())
    }
}

/// An image's config, as far as farm reads it (OCI image-spec, config.md).
#[derive(Debug, Deserialize)]
pub(super) struct ImageConfig {
    pub(super) os: String,
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) variant: String,
    #[serde(rename = "os.version", default)]
    os_version: Option<String>,
    #[serde(rename = "os.features", default)]
    os_features: Option<Vec<String>>,
}

/// What a job pushed, as it was read back.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The image with its attestations, as [`farm_core::publish::merge`] takes it.
    pub child: Child,
    /// The image's manifest, byte for byte.
    pub image: Manifest,
    /// The length of config and layers together, compressed.
    pub bytes: u64,
}

/// Why a child can't be merged.
#[derive(Debug)]
pub enum ChildError {
    /// The registry didn't answer, or refused.
    Registry(RegistryError),
    /// What was pushed is not seen there.
    Missing(Box<Failure>),
    /// What was pushed isn't what it should be.
    Wrong(Box<Failure>),
}

impl From<RegistryError> for ChildError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

/// The media type that a manifest's bytes declare, or that follows from their form.
///
/// # Errors
/// They are no manifest.
pub fn media_type(bytes: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Header {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let header: Header = serde_json::from_slice(bytes).map_err(|e| in_json(&e))?;
    Ok(header.media_type.unwrap_or_else(|| {
        // `mediaType` may be left out of OCI manifests (image-spec, manifest.md).
        let of = if header.manifests.is_some() { OCI_INDEX } else { farm_core::publish::OCI_MANIFEST };
        of.to_owned()
    }))
}

/// Where JSON isn't what it should be. serde's own words have pieces of what was read in them, and whoever named the registry
/// needn't be one who may read that.
pub fn in_json(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "it has another form than is expected",
        _ => "it is no JSON",
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}

impl By<'_> {
    /// Reads back what a job pushed, checks that it is an image of that platform, and takes its attestations
    /// along. Of what was read before it is only looked whether it is still there, unless that was seen a moment ago.
    ///
    /// # Errors
    /// The registry; or the image is gone or another platform's.
    pub async fn child(
        &self,
        repository: &Repository,
        digest: Digest,
        platform: &Platform,
    ) -> Result<Pushed, ChildError> {
        // What lies in the staging registry is copied out of it whole.
        let memory = (!matches!(self.whose, Whose::Staging)).then_some(&self.registries.memory);
        let known = memory.and_then(|memory| memory.child(repository, digest, platform));
        if let Some(known) = known
            && (self.saw(repository, digest, LATELY)
                || self.head(repository, &digest.to_string()).await? == Some(digest))
        {
            return Ok(known);
        }
        let pushed = self.read_child(repository, digest, platform).await?;
        if let Some(memory) = memory {
            memory.keep(repository, digest, &pushed);
        }
        Ok(pushed)
    }

    async fn read_child(
        &self,
        repository: &Repository,
        digest: Digest,
        platform: &Platform,
    ) -> Result<Pushed, ChildError> {
        let pushed = self.exact(repository, digest).await?;
        let mut child = if is_index(&pushed.media_type) {
            let document: IndexDocument =
                serde_json::from_slice(&pushed.bytes).map_err(|e| wrong(repository, digest, &in_json(&e)))?;
            split(platform.clone(), document).map_err(|e| wrong(repository, digest, &e.to_string()))?
        } else {
            let size = u64::try_from(pushed.bytes.len()).unwrap_or(u64::MAX);
            let manifest = Descriptor {
                media_type: pushed.media_type.clone(),
                digest,
                size,
                platform: None,
                annotations: Default::default(),
            };
            Child {
                platform: platform.clone(),
                manifest,
                annotations: BTreeMap::new(),
                system: System::default(),
                attestations: Vec::new(),
            }
        };
        let image = if child.manifest.digest == digest {
            pushed
        } else {
            self.exact(repository, child.manifest.digest).await?
        };
        for attestation in &child.attestations {
            self.exact(repository, attestation.digest).await?;
        }
        let manifest: ImageManifest =
            serde_json::from_slice(&image.bytes).map_err(|e| wrong(repository, digest, &in_json(&e)))?;
        if manifest.config.size > MAX_CONFIG {
            return Err(wrong(repository, digest, "its config is too long"));
        }
        let config = self.blob(repository, manifest.config.digest, MAX_CONFIG).await?;
        let config: ImageConfig =
            serde_json::from_slice(&config).map_err(|e| wrong(repository, digest, &in_json(&e)))?;
        let found = Platform::from_parts(&config.os, &config.architecture, &config.variant)
            .map_err(|e| wrong(repository, digest, &e.to_string()))?;
        if found != *platform {
            return Err(ChildError::Wrong(Box::new(Failure::new(
                Cause::User,
                FailureCode::WrongPlatform,
                format!(
                    "the image built for {platform} says that it is {found}: a base image in the Dockerfile \
                     has that platform only; name one that has {platform}"
                ),
            ))));
        }
        let bytes =
            manifest.layers.iter().flatten().map(|layer| layer.size).sum::<u64>() + manifest.config.size;
        child.annotations = manifest.annotations.unwrap_or_default();
        child.system = System {
            version: config.os_version.filter(|version| !version.is_empty()),
            features: config.os_features.unwrap_or_default(),
        };
        Ok(Pushed { child, image, bytes })
    }

    pub(super) async fn exact(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<Manifest, ChildError> {
        let manifest = self.manifest(repository, &digest.to_string()).await?.ok_or_else(|| {
            ChildError::Missing(Box::new(Failure::new(
                Cause::Infrastructure,
                FailureCode::PushedImageMissing,
                format!("{repository}@{digest} was pushed but is not there any more; submit the build again"),
            )))
        })?;
        if Digest::of(&manifest.bytes) == digest {
            Ok(manifest)
        } else {
            Err(wrong(repository, digest, "the registry gives other bytes for this digest"))
        }
    }
}

pub(super) fn wrong(repository: &Repository, digest: Digest, why: &str) -> ChildError {
    ChildError::Wrong(Box::new(Failure::new(
        Cause::Bug,
        FailureCode::PushedImageWrong,
        format!("{repository}@{digest} can't be merged: {why}"),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifests_type_is_what_it_says_or_what_it_looks_like() {
        assert_eq!(media_type(br#"{"mediaType":"x/y"}"#).unwrap(), "x/y");
        assert_eq!(media_type(br#"{"manifests":[]}"#).unwrap(), OCI_INDEX);
        assert_eq!(media_type(br#"{"config":{}}"#).unwrap(), farm_core::publish::OCI_MANIFEST);
        assert!(media_type(b"<html>").is_err());
    }
}
