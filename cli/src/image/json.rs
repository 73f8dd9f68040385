//! The JSON of `farm inspect --json`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{Blob, Image, Variant};
use crate::output::json::BuildJson;

/// What `farm inspect --json` prints.
#[derive(Debug, Serialize)]
pub struct ImageJson<'a> {
    /// What was asked for, with what was left out filled in.
    reference: &'a str,
    /// The digest of the index, or of the lone image's manifest.
    digest: &'a str,
    /// The media type of the same.
    media_type: &'a str,
    /// The length of the same, bytes.
    size_bytes: usize,
    /// The annotations in the same.
    annotations: &'a BTreeMap<String, String>,
    /// index, image or artifact.
    kind: &'static str,
    /// What an artifact is, or what an index says of itself; else null.
    artifact_type: Option<&'a str>,
    /// The images, in the index's order.
    platforms: Vec<VariantJson<'a>>,
    /// What the index has besides images, in its order.
    artifacts: Vec<VariantJson<'a>>,
    /// The build of this farm that made it; null when it isn't this farm's.
    build: Option<BuildJson>,
}

/// An image for one platform, or another thing in its place.
#[derive(Debug, Serialize)]
struct VariantJson<'a> {
    platform: &'a str,
    /// What it is, when it is no image; else null.
    artifact_type: Option<&'a str>,
    /// The same for people: Helm chart; else null.
    artifact: Option<String>,
    /// The digest of what it is about (signs, attests); else null.
    subject: Option<&'a str>,
    digest: &'a str,
    media_type: &'a str,
    /// The length of the manifest, bytes.
    size_bytes: usize,
    /// The length of config and layers together, compressed, bytes.
    image_bytes: u64,
    /// What the config says that it is, where that is another platform; else null.
    config_platform: Option<&'a str>,
    layers: Vec<BlobJson<'a>>,
    /// The descriptor of the config.
    config_blob: Option<BlobJson<'a>>,
    /// The config as it stands in the registry; null when there is none.
    config: &'a Value,
    /// What the manifest says.
    annotations: &'a BTreeMap<String, String>,
    /// What the index's entry for it says.
    entry_annotations: &'a BTreeMap<String, String>,
    attestations: Vec<AttestationJson<'a>>,
    /// The worker that built it, if this farm did; else null.
    worker: Option<&'a str>,
    /// native or emulated; likewise.
    support: Option<&'a str>,
    /// Why something is missing; else null.
    problem: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct BlobJson<'a> {
    digest: &'a str,
    media_type: &'a str,
    size_bytes: u64,
}

#[derive(Debug, Serialize)]
struct AttestationJson<'a> {
    digest: &'a str,
    predicate_types: &'a [String],
    size_bytes: u64,
}

impl<'a> ImageJson<'a> {
    /// The image, with these of its variants.
    pub fn new(image: &'a Image, variants: &[&'a Variant]) -> Self {
        let (artifacts, images): (Vec<&Variant>, _) =
            variants.iter().copied().partition(|variant| variant.is_artifact());
        let all = |variants: Vec<&'a Variant>| {
            variants.into_iter().map(|variant| VariantJson::new(image, variant)).collect()
        };
        let lone = artifacts.first().filter(|_| !image.is_index());
        Self {
            reference: &image.reference,
            digest: &image.digest,
            media_type: &image.media_type,
            size_bytes: image.manifest.len(),
            annotations: &image.annotations,
            kind: match lone {
                _ if image.is_index() => "index",
                Some(_) => "artifact",
                None => "image",
            },
            artifact_type: image.index_type.as_deref().or(lone.and_then(|lone| lone.what.artifact_type())),
            platforms: all(images),
            artifacts: all(artifacts),
            build: image.build.as_ref().map(|build| BuildJson::new(build, None, &[])),
        }
    }
}

impl<'a> VariantJson<'a> {
    fn new(image: &'a Image, variant: &'a Variant) -> Self {
        let made = image.made_by(variant);
        let some = |text: &'a String| Some(text.as_str()).filter(|text| !text.is_empty());
        Self {
            platform: &variant.raw.platform,
            artifact_type: variant.what.artifact_type(),
            artifact: variant.is_artifact().then(|| variant.what.words()),
            subject: variant.manifest.subject.as_ref().map(|subject| subject.digest.as_str()),
            digest: &variant.raw.digest,
            media_type: &variant.raw.media_type,
            size_bytes: variant.raw.manifest.len(),
            image_bytes: variant.raw.image_bytes,
            config_platform: some(&variant.raw.config_platform),
            layers: variant.layers().iter().map(BlobJson::from).collect(),
            config_blob: variant.manifest.config.as_ref().map(BlobJson::from),
            config: &variant.config,
            annotations: &variant.manifest.annotations,
            entry_annotations: &variant.entry_annotations,
            attestations: variant
                .raw
                .attestations
                .iter()
                .map(|attestation| AttestationJson {
                    digest: &attestation.digest,
                    predicate_types: &attestation.predicate_types,
                    size_bytes: attestation.size,
                })
                .collect(),
            worker: made.map(|attempt| attempt.worker.as_str()),
            support: made.map(|attempt| attempt.support.as_str()),
            problem: some(&variant.raw.problem),
        }
    }
}

impl<'a> From<&'a Blob> for BlobJson<'a> {
    fn from(blob: &'a Blob) -> Self {
        Self { digest: &blob.digest, media_type: &blob.media_type, size_bytes: blob.size }
    }
}
