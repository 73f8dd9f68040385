//! An image as `farm inspect` knows it: what the farm read from its registry, understood ([`Image`]), as a tree
//! ([`tree`]) and as JSON ([`json`]).
//!
//! Formats: OCI image-spec v1.1 (`manifest.md`, `config.md`, `image-index.md`); Docker's schema 2 has the same fields.

pub mod json;
pub mod tree;
mod what;

use std::collections::BTreeMap;

use farm_proto::v1::{Attempt, Build, ImageAttestation, ImageVariant, InspectImageResponse};
use farm_types::Platform;
use serde::Deserialize;
use serde_json::Value;

use crate::error::Error;
use crate::output::summary::{deciding_attempt, platform_jobs};
use crate::output::text::harmless;
pub use what::What;

/// An image, or several under one index.
#[derive(Debug)]
pub struct Image {
    /// Registry, repository, and tag or digest.
    pub reference: String,
    /// The digest of these bytes.
    pub digest: String,
    /// The media type of these bytes.
    pub media_type: String,
    /// The index or manifest, byte for byte.
    pub manifest: Vec<u8>,
    /// What the index or manifest says of itself.
    pub annotations: BTreeMap<String, String>,
    /// What the index says that it is, if it is one and says it.
    pub index_type: Option<String>,
    /// In the index's order, images and other things; of a lone image itself.
    pub variants: Vec<Variant>,
    /// The build of this farm that made it.
    pub build: Option<Build>,
}

/// An image for one platform, or another thing that the registry holds in its place.
#[derive(Debug)]
pub struct Variant {
    /// An image, an attestation, or what else registries hold.
    pub what: What,
    /// The answer of the farm, which has read it.
    pub raw: ImageVariant,
    /// The manifest, as far as it is understood.
    pub manifest: ManifestDocument,
    /// The config as it came; null when there is none.
    pub config: Value,
    /// What the index's entry says besides.
    pub entry_annotations: BTreeMap<String, String>,
}

/// An image manifest or an index, as far as it is understood.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ManifestDocument {
    /// The image's config.
    pub config: Option<Blob>,
    /// The image's layers, from the lowest.
    pub layers: Option<Vec<Blob>>,
    /// The index's entries.
    manifests: Option<Vec<Entry>>,
    /// What the one who made it says.
    pub annotations: BTreeMap<String, String>,
    /// What it is, when it is no image.
    pub artifact_type: Option<String>,
    /// What it is about: the manifest that is signed, attested, and so on.
    pub subject: Option<Blob>,
}

/// A descriptor: what the registry has under a digest.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Blob {
    pub media_type: String,
    pub digest: String,
    /// The length, bytes.
    pub size: u64,
    /// What the one who refers to it says of it.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    digest: String,
    annotations: BTreeMap<String, String>,
}

impl From<InspectImageResponse> for Image {
    fn from(answer: InspectImageResponse) -> Self {
        let document = read(&answer.manifest);
        let has_entries = document.manifests.is_some();
        let entries = document.manifests.unwrap_or_default();
        let variants = answer.variants.into_iter().map(|raw| {
            let entry = entries.iter().find(|entry| entry.digest == raw.digest);
            let manifest = read(&raw.manifest);
            Variant {
                what: What::of(&raw.media_type, !raw.manifest.is_empty(), &manifest),
                manifest,
                config: serde_json::from_slice(&raw.config).unwrap_or_default(),
                entry_annotations: entry.map(|entry| entry.annotations.clone()).unwrap_or_default(),
                raw,
            }
        });
        Self {
            variants: variants.collect(),
            reference: answer.reference,
            digest: answer.digest,
            media_type: answer.media_type,
            manifest: answer.manifest.into(),
            annotations: document.annotations,
            // Of a lone one it is the variant's.
            index_type: document.artifact_type.filter(|_| has_entries),
            build: answer.build,
        }
    }
}

/// What can't be read is as if it weren't there: the bytes themselves are there for `--raw`.
fn read(bytes: &[u8]) -> ManifestDocument {
    serde_json::from_slice(bytes).unwrap_or_default()
}

impl Image {
    /// Whether it is several images under one index.
    pub fn is_index(&self) -> bool {
        self.variants.first().is_none_or(|variant| variant.raw.digest != self.digest)
    }

    /// The variant of this platform.
    pub fn variant(&self, platform: &Platform) -> Option<&Variant> {
        let wanted = platform.to_string();
        self.images().find(|variant| variant.raw.platform == wanted)
    }

    /// Those of its variants that are images, as far as can be told.
    pub fn images(&self) -> impl Iterator<Item = &Variant> {
        self.variants.iter().filter(|variant| !variant.is_artifact())
    }

    /// Those that are something else.
    pub fn artifacts(&self) -> impl Iterator<Item = &Variant> {
        self.variants.iter().filter(|variant| variant.is_artifact())
    }

    /// That it is an image, or has some.
    ///
    /// # Errors
    /// It is something else, and what.
    pub fn require_images(&self) -> Result<(), Error> {
        let Some(other) = self.variants.first().filter(|_| self.images().next().is_none()) else {
            return Ok(());
        };
        let name = harmless(&self.reference);
        Err(Error::Usage(format!(
            "{name}: this is no image but something else ({}), and has no platforms",
            other.what.words()
        )))
    }

    /// Its platforms, in the index's order, separated by commas.
    pub fn platforms(&self) -> String {
        let names: Vec<&str> = self.images().map(|variant| variant.raw.platform.as_str()).collect();
        names.join(", ")
    }

    /// The attempt that made this variant, if it was made by the build that is known.
    pub fn made_by(&self, variant: &Variant) -> Option<&Attempt> {
        let jobs = platform_jobs(self.build.as_ref()?);
        deciding_attempt(jobs.into_iter().find(|job| job.platform == variant.raw.platform)?)
    }
}

impl Variant {
    /// The layers, from the lowest.
    pub fn layers(&self) -> &[Blob] {
        self.manifest.layers.as_deref().unwrap_or_default()
    }

    /// A list of words in the config's `config` (`Entrypoint`, `Cmd`, `Env`).
    pub fn words(&self, name: &str) -> Vec<&str> {
        let list = self.config["config"][name].as_array();
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// A word in the config's `config` (`User`, `WorkingDir`); empty when it isn't there.
    pub fn word(&self, name: &str) -> &str {
        self.config["config"][name].as_str().unwrap_or_default()
    }

    /// What runs when the image is run.
    pub fn command(&self) -> Vec<&str> {
        [self.words("Entrypoint"), self.words("Cmd")].concat()
    }
}

/// What an attestation attests, in a word.
pub fn attested(attestation: &ImageAttestation) -> Vec<&str> {
    let word = |predicate: &'_ String| match predicate.as_str() {
        p if p.starts_with("https://slsa.dev/provenance") => "provenance",
        p if p.starts_with("https://spdx.dev") || p.contains("cyclonedx") => "SBOM",
        _ => "attestation",
    };
    attestation.predicate_types.iter().map(word).collect()
}
