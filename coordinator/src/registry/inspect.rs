//! An image read as a whole: the index, each variant's manifest and config, and what attests it.
//!
//! Formats: OCI image-spec v1.1 (`image-index.md`, `manifest.md`, `config.md`) and Docker's schema 2; attestation
//! manifests as BuildKit lays them beside an image (`docs/attestations/attestation-storage.md`).
//!
//! Invariant: an image that is there is shown, however odd; what can't be read of it is said in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use farm_core::publish::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, IndexDocument, OCI_INDEX, OCI_MANIFEST, REFERENCE_DIGEST,
    is_attestation, spelled,
};
use farm_types::suggest::nearest;
use farm_types::{Digest, ImageRef, Repository};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;

use super::image::{ImageConfig, ImageManifest};
use super::{By, Manifest, RegistryError};

/// The longest config that is read, bytes. All that is read of an image must fit into one answer.
const MAX_CONFIG: u64 = 1024 * 1024;
/// The most bytes of manifests and configs in all.
const MAX_ALL: usize = 3 * 1024 * 1024;
/// The most entries of an index that are read.
const MAX_ENTRIES: usize = 256;
/// How long reading all of it may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
/// How many manifests are read at once.
const AT_ONCE: usize = 4;
/// How many tags are looked through for one that was meant.
const TAGS: usize = 1000;
/// How many tags are named in a sentence.
const FEW_TAGS: usize = 6;
/// The annotation of an attestation manifest's layer that says what it attests.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// An image as its registry holds it.
#[derive(Debug)]
pub struct Inspected {
    /// The digest of the manifest's bytes.
    pub digest: Digest,
    /// The index, or the image's own manifest.
    pub manifest: Manifest,
    /// Each image of the index, in its order; or the image itself.
    pub variants: Vec<Variant>,
}

/// An image for one platform.
#[derive(Debug, Default)]
pub struct Variant {
    /// As the index says, or else as the config does.
    pub platform: String,
    /// The digest of its manifest.
    pub digest: String,
    /// The media type of its manifest.
    pub media_type: String,
    /// Empty when it couldn't be read.
    pub manifest: Vec<u8>,
    /// Empty when it couldn't be read.
    pub config: Vec<u8>,
    /// What the config says, where that differs from `platform`.
    pub config_platform: String,
    /// Bytes of config and layers, compressed.
    pub image_bytes: u64,
    /// The attestations that lie beside it in the index.
    pub attestations: Vec<Attestation>,
    /// Why its manifest or config couldn't be read; empty when they could.
    pub problem: String,
}

/// An attestation manifest.
#[derive(Debug)]
pub struct Attestation {
    /// The digest of its manifest.
    pub digest: Digest,
    /// The types of what its statements say (`https://slsa.dev/provenance/v1`).
    pub predicate_types: Vec<String>,
    /// The length of its statements together, bytes.
    pub size: u64,
}

/// The part of an attestation manifest that is read.
#[derive(Deserialize)]
struct Statements {
    #[serde(default)]
    layers: Vec<Statement>,
}

#[derive(Deserialize)]
struct Statement {
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl By<'_> {
    /// The image; `None` when there is none under this tag or digest.
    ///
    /// # Errors
    /// The registry refuses or can't be reached, or what is there is no image's manifest.
    pub async fn inspect(&self, image: &ImageRef) -> Result<Option<Inspected>, RegistryError> {
        let read = tokio::time::timeout(PATIENCE, self.read(image)).await;
        read.unwrap_or_else(|_| Err(RegistryError::timeout(&image.repository, PATIENCE)))
    }

    async fn read(&self, image: &ImageRef) -> Result<Option<Inspected>, RegistryError> {
        let repository = &image.repository;
        let Some(manifest) = self.manifest(repository, &image.at()).await? else { return Ok(None) };
        let rejected = |why: &str| Err(RegistryError::unusable(repository, &format!("{image}: {why}")));
        let digest = Digest::of(&manifest.bytes);
        if image.digest.is_some_and(|asked| asked != digest) {
            return rejected("the registry gives other bytes for this digest");
        }
        let variants = match manifest.media_type.as_str() {
            OCI_INDEX | DOCKER_LIST => {
                let Ok(index) = serde_json::from_slice::<IndexDocument>(&manifest.bytes) else {
                    return rejected("its index can't be read");
                };
                if index.manifests.len() > MAX_ENTRIES {
                    let count = index.manifests.len();
                    return rejected(&format!(
                        "its index lists {count} things, and farm reads {MAX_ENTRIES} at most"
                    ));
                }
                self.variants(repository, index).await?
            }
            OCI_MANIFEST | DOCKER_MANIFEST => {
                let mut variant = Variant { digest: digest.to_string(), ..Variant::default() };
                self.fill(repository, &mut variant, manifest.clone()).await?;
                vec![variant]
            }
            other => return rejected(&format!("it is a {other}, which farm can't read")),
        };
        Ok(Some(Inspected { digest, manifest, variants }))
    }

    /// A sentence about the tag of the repository that was perhaps meant, or about those that there are; empty when the
    /// registry says nothing.
    pub async fn instead_of(&self, repository: &Repository, written: &str) -> String {
        let Ok(mut tags) = self.tags(repository, TAGS).await else { return String::new() };
        if let Some(near) = nearest(written, tags.iter().map(String::as_str)) {
            return format!("; did you mean {repository}:{near}?");
        }
        tags.sort();
        match tags.as_slice() {
            [] => String::new(),
            [one] => format!("; its only tag is {one}"),
            few if few.len() <= FEW_TAGS => format!("; its tags are {}", few.join(", ")),
            many => {
                format!("; it has {} tags, such as {}", many.len(), many[many.len() - FEW_TAGS..].join(", "))
            }
        }
    }

    async fn variants(
        &self,
        repository: &Repository,
        index: IndexDocument,
    ) -> Result<Vec<Variant>, RegistryError> {
        // One about an image that isn't listed is shown by itself.
        let listed: BTreeSet<String> =
            index.manifests.iter().filter(|d| !is_attestation(d)).map(|d| d.digest.to_string()).collect();
        let is_beside = |d: &Descriptor| {
            is_attestation(d) && d.annotations.get(REFERENCE_DIGEST).is_some_and(|of| listed.contains(of))
        };
        let (attestations, images): (Vec<_>, Vec<_>) = index.manifests.into_iter().partition(is_beside);
        let about = |d: &Descriptor| d.annotations.get(REFERENCE_DIGEST).cloned().unwrap_or_default();
        // What is read is bounded while it is read.
        let left = AtomicUsize::new(MAX_ALL);
        let mut variants: Vec<Variant> = stream::iter(images)
            .map(|descriptor| self.variant(repository, descriptor, &left))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let read = stream::iter(attestations)
            .map(async |d: Descriptor| (about(&d), self.attestation(repository, d.digest).await))
            .buffered(AT_ONCE);
        let read: Vec<_> = read.collect().await;
        for (about, attestation) in read {
            if let Some(variant) = variants.iter_mut().find(|variant| variant.digest == about) {
                variant.attestations.push(attestation?);
            }
        }
        Ok(variants)
    }

    async fn variant(
        &self,
        repository: &Repository,
        descriptor: Descriptor,
        left: &AtomicUsize,
    ) -> Result<Variant, RegistryError> {
        let platform = descriptor.platform.as_ref();
        let mut variant = Variant {
            platform: platform
                .map(|p| spelled(&p.os, &p.architecture, p.variant.as_deref().unwrap_or_default()))
                .unwrap_or_default(),
            digest: descriptor.digest.to_string(),
            media_type: descriptor.media_type,
            ..Variant::default()
        };
        match variant.media_type.as_str() {
            OCI_MANIFEST | DOCKER_MANIFEST => {}
            OCI_INDEX | DOCKER_LIST => {
                "this is an index of its own; ask for it by its digest".clone_into(&mut variant.problem);
                return Ok(variant);
            }
            // Something that the index lists as it is, a build cache for example.
            _ => {
                variant.image_bytes = descriptor.size;
                return Ok(variant);
            }
        }
        let too_long = "the index is too long to show all of it; ask for this manifest by its digest";
        if left.load(Ordering::Relaxed) == 0 {
            too_long.clone_into(&mut variant.problem);
            return Ok(variant);
        }
        match self.manifest(repository, &variant.digest).await {
            // An odd one keeps nobody from seeing the others.
            Err(error) if !error.is_transient() => variant.problem = error.message,
            Err(error) => return Err(error),
            Ok(None) => "the registry hasn't got this manifest".clone_into(&mut variant.problem),
            Ok(Some(manifest)) if Digest::of(&manifest.bytes) != descriptor.digest => {
                "the registry gives other bytes for this digest".clone_into(&mut variant.problem);
            }
            Ok(Some(manifest)) => self.fill(repository, &mut variant, manifest).await?,
        }
        let size = variant.manifest.len() + variant.config.len();
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(size));
        if taken.is_err() {
            left.store(0, Ordering::Relaxed);
            (variant.manifest, variant.config) = (Vec::new(), Vec::new());
            too_long.clone_into(&mut variant.problem);
        }
        Ok(variant)
    }

    /// Takes over what the manifest says, and its config.
    async fn fill(
        &self,
        repository: &Repository,
        variant: &mut Variant,
        manifest: Manifest,
    ) -> Result<(), RegistryError> {
        variant.media_type = manifest.media_type;
        variant.manifest = manifest.bytes;
        let Ok(image) = serde_json::from_slice::<ImageManifest>(&variant.manifest) else {
            "this is no image's manifest".clone_into(&mut variant.problem);
            return Ok(());
        };
        let sizes = image.layers.iter().flatten().map(|layer| layer.size);
        variant.image_bytes = sizes.fold(image.config.size, u64::saturating_add);
        if !image.config.is_image_config() {
            return Ok(()); // Some other thing that registries hold: a chart, a signature.
        }
        if image.config.size > MAX_CONFIG {
            "its config is too long to be shown".clone_into(&mut variant.problem);
            return Ok(());
        }
        match self.blob(repository, image.config.digest, MAX_CONFIG).await {
            Ok(config) => variant.config = config,
            Err(error) if error.is_transient() => return Err(error),
            Err(_) => {
                "the registry hasn't got its config".clone_into(&mut variant.problem);
                return Ok(());
            }
        }
        if let Ok(config) = serde_json::from_slice::<ImageConfig>(&variant.config) {
            let says = spelled(&config.os, &config.architecture, &config.variant);
            if variant.platform.is_empty() {
                variant.platform = says;
            } else if variant.platform != says {
                variant.config_platform = says;
            }
        }
        Ok(())
    }

    async fn attestation(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<Attestation, RegistryError> {
        let manifest = match self.manifest(repository, &digest.to_string()).await {
            Err(error) if error.is_transient() => return Err(error),
            read => read.ok().flatten(),
        };
        let statements = manifest.and_then(|m| serde_json::from_slice::<Statements>(&m.bytes).ok());
        let layers = statements.map(|statements| statements.layers).unwrap_or_default();
        Ok(Attestation {
            digest,
            size: layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size)),
            predicate_types: layers
                .into_iter()
                .filter_map(|mut layer| layer.annotations.remove(PREDICATE_TYPE))
                .collect(),
        })
    }
}
