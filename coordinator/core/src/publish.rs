//! The index: many manifests made into one, from exact bytes, always in the same way.
//!
//! Formats: OCI image-spec v1.1 (`image-index.md`) and Docker's manifest list (distribution spec, "Image
//! Manifest V 2, Schema 2"). The bytes depend on the children and the form that was asked for only: platforms in the order of their
//! text, then attestations in the same order, fields in a fixed order. So the same build, merged twice, has one
//! digest, and a repeated put is no change. A build of one platform may ask for its manifest in the place of an index
//! ([`alone`]): then these are the bytes that its worker pushed.

pub mod bundle;
pub mod cut;
pub mod mirror;
pub mod referrer;
pub mod removal;
pub mod signature;

use std::collections::BTreeMap;

use farm_types::packaging::{Level, MediaTypes, Packaging, Placement};
use farm_types::{Digest, Invalid, Platform};
use serde::{Deserialize, Serialize};

/// The media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of a Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// The media type of a Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The annotation of an index that names the platforms that were wanted, optional, and are missing: `linux/riscv64,linux/s390x`.
pub const MISSING: &str = "farm.platforms.missing";
/// The annotation by which an attestation manifest names what it is.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// The annotation by which an attestation manifest names the manifest that it is about.
pub const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// A descriptor as an index holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The type of what it points to.
    pub media_type: String,
    /// The digest of what it points to.
    pub digest: Digest,
    /// The length of what it points to, bytes.
    pub size: u64,
    /// The platform, if it is an image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<IndexPlatform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A platform as an index spells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexPlatform {
    /// The architecture as Go names it (`amd64`).
    pub architecture: String,
    /// The operating system as Go names it (`linux`).
    pub os: String,
    /// Of the operating system, where an image's config says it.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// What the image needs of it.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Absent where the normal form has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl From<&Platform> for IndexPlatform {
    fn from(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture().to_owned(),
            os: platform.os().to_owned(),
            os_version: None,
            os_features: Vec::new(),
            variant: (!platform.variant().is_empty()).then(|| platform.variant().to_owned()),
        }
    }
}

/// A platform in its normal form, or as it is written when it has none (farm builds for Linux only, but shows and copies all).
pub fn spelled(os: &str, architecture: &str, variant: &str) -> String {
    Platform::from_parts(os, architecture, variant).map_or_else(
        |_| {
            let parts = [os, architecture, variant].into_iter().filter(|part| !part.is_empty());
            parts.collect::<Vec<_>>().join("/")
        },
        |platform| platform.to_string(),
    )
}

/// An index or a manifest list, as it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexDocument {
    /// Always 2: the OCI image-spec keeps Docker's number.
    pub schema_version: u32,
    /// [`OCI_INDEX`] or [`DOCKER_LIST`].
    #[serde(default)]
    pub media_type: String,
    /// Images and attestations, in the order in which they are listed.
    pub manifests: Vec<Descriptor>,
    /// Of the whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What one job pushed, as it was read back from the registry and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// The job's platform, which the image's config was seen to have.
    pub platform: Platform,
    /// The image's manifest.
    pub manifest: Descriptor,
    /// What the manifest is annotated with.
    pub annotations: BTreeMap<String, String>,
    /// What the config says of the operating system beside its name.
    pub system: System,
    /// Its attestation manifests, as BuildKit put them beside it.
    pub attestations: Vec<Descriptor>,
}

/// An operating system, as an image's config tells it (image-spec, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct System {
    /// Its version.
    pub version: Option<String>,
    /// What the image needs of it.
    pub features: Vec<String>,
}

/// An attestation that is to refer to its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The image.
    pub subject: referrer::Subject,
    /// The attestation manifest as BuildKit pushed it.
    pub attestation: Digest,
}

/// The merged index, or the manifest that stands in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The document exactly as it is put: its digest depends on each byte.
    pub bytes: Vec<u8>,
    pub digest: Digest,
    /// [`OCI_INDEX`], or [`DOCKER_LIST`] when every child is Docker's; of a manifest alone its own.
    pub media_type: &'static str,
    /// The digests of what it lists, attestations too; nothing of a manifest alone.
    pub manifests: Vec<Digest>,
    /// What is put beside it, before any tag points to it.
    pub referrers: Vec<Attached>,
}

/// Whether this is the type of something that lists manifests.
pub fn is_index(media_type: &str) -> bool {
    [OCI_INDEX, DOCKER_LIST].contains(&media_type)
}

/// Whether an index's entry is not an image but what attests one.
pub fn is_attestation(descriptor: &Descriptor) -> bool {
    descriptor.annotations.get(REFERENCE_TYPE).is_some_and(|kind| kind == "attestation-manifest")
}

/// Takes apart what BuildKit pushed when attestations were asked for: an index of one image manifest and
/// its attestation manifests.
///
/// # Errors
/// It has no image manifest, or more than one.
pub fn split(platform: Platform, document: IndexDocument) -> Result<Child, Invalid> {
    let (attestations, mut images): (Vec<_>, Vec<_>) =
        document.manifests.into_iter().partition(is_attestation);
    match (images.pop(), images.len()) {
        (Some(manifest), 0) => {
            for attestation in &attestations {
                let about = attestation.annotations.get(REFERENCE_DIGEST).map(String::as_str);
                if about != Some(manifest.digest.to_string().as_str()) {
                    return Err(Invalid::new(
                        "attestation",
                        attestation.digest.to_string(),
                        "it is not about the manifest that it came with",
                    ));
                }
            }
            Ok(Child {
                platform,
                manifest,
                annotations: BTreeMap::new(),
                system: System::default(),
                attestations,
            })
        }
        (None, _) => Err(Invalid::new("index", platform.to_string(), "it holds no image manifest")),
        (Some(_), more) => Err(Invalid::new(
            "index",
            platform.to_string(),
            format!("it holds {} image manifests where one is due", more + 1),
        )),
    }
}

/// Merges the children, given in any order. `missing`: platforms that were optional and of which there is no child; an OCI index says so.
///
/// # Errors
/// No child; two of one platform; one manifest for two platforms (then one of them has the wrong
/// architecture in it); or a child that hasn't the form that was asked for.
pub fn merge(children: &[Child], missing: &[Platform], form: &Packaging) -> Result<Index, Invalid> {
    let mut children: Vec<&Child> = children.iter().collect();
    children.sort_by_key(|child| child.platform.to_string());
    if children.is_empty() {
        return Err(Invalid::new("index", "", "it would hold nothing"));
    }
    for pair in children.windows(2) {
        if pair[0].platform == pair[1].platform {
            return Err(Invalid::new(
                "platform",
                pair[0].platform.to_string(),
                "it stands twice in the index",
            ));
        }
    }
    for (i, child) in children.iter().enumerate() {
        if let Some(other) = children[..i].iter().find(|c| c.manifest.digest == child.manifest.digest) {
            return Err(Invalid::new(
                "manifest",
                child.manifest.digest.to_string(),
                format!(
                    "{} and {} have the same one, so one of them is wrong",
                    other.platform, child.platform
                ),
            ));
        }
    }
    for child in &children {
        check_form(child, form)?;
    }
    let inline = form.attestations == Placement::Inline;
    let mut annotations = form.annotations_of(Level::Index, None);
    annotations.extend(lacks(missing));
    let images: Vec<Descriptor> = children.iter().map(|child| listed(child, form)).collect();
    let attestations =
        children.iter().filter(|_| inline).flat_map(|child| child.attestations.iter().cloned());
    let attestations: Vec<Descriptor> = attestations.collect();
    // Docker's list has no annotations.
    let docker = form.media_types != MediaTypes::Oci
        && annotations.is_empty()
        && attestations.is_empty()
        && images.iter().all(|image| image.media_type == DOCKER_MANIFEST && image.annotations.is_empty());
    if form.media_types == MediaTypes::Docker && !docker {
        let cure =
            "Docker's list can't say which platforms it lacks, nor anything else; write --media-type oci";
        return Err(Invalid::new("index", "docker", cure));
    }
    let media_type = if docker { DOCKER_LIST } else { OCI_INDEX };
    let document = IndexDocument {
        schema_version: 2,
        media_type: media_type.to_owned(),
        manifests: images.into_iter().chain(attestations).collect(),
        annotations,
    };
    let bytes = serde_json::to_vec(&document)
        .map_err(|e| Invalid::new("index", "", format!("it can't be written: {e}")))?;
    let manifests = document.manifests.iter().map(|descriptor| descriptor.digest).collect();
    let referrers = referrers(children.iter().copied(), form);
    Ok(Index { digest: Digest::of(&bytes), bytes, media_type, manifests, referrers })
}

/// A child's image as the index lists it.
fn listed(child: &Child, form: &Packaging) -> Descriptor {
    let System { version, features } = child.system.clone();
    let platform =
        IndexPlatform { os_version: version, os_features: features, ..IndexPlatform::from(&child.platform) };
    let mut annotations = child.manifest.annotations.clone();
    annotations.extend(form.annotations_of(Level::ManifestDescriptor, Some(&child.platform)));
    Descriptor { platform: Some(platform), annotations, ..child.manifest.clone() }
}

/// What is attached to the images of these children.
fn referrers<'a>(children: impl IntoIterator<Item = &'a Child>, form: &Packaging) -> Vec<Attached> {
    if form.attestations != Placement::Referrers {
        return Vec::new();
    }
    let of = |child: &'a Child| {
        let subject = referrer::Subject::from(&child.manifest);
        let attestations = child.attestations.iter();
        attestations.map(move |own| Attached { subject: subject.clone(), attestation: own.digest })
    };
    children.into_iter().flat_map(of).collect()
}

/// Sees whether an image has the form that its worker was asked for: one of before doesn't know of it.
fn check_form(child: &Child, form: &Packaging) -> Result<(), Invalid> {
    let wrong = |why: &str| {
        let why = format!("{why}, as the worker is of an older version; update it");
        Err(Invalid::new("image", child.platform.to_string(), why))
    };
    let wanted = match form.media_types {
        MediaTypes::Auto => None,
        MediaTypes::Oci => Some(OCI_MANIFEST),
        MediaTypes::Docker => Some(DOCKER_MANIFEST),
    };
    if wanted.is_some_and(|wanted| child.manifest.media_type != wanted) {
        return wrong(&format!("it was pushed as {}", child.manifest.media_type));
    }
    let annotations = form.annotations_of(Level::Manifest, Some(&child.platform));
    if let Some((key, _)) =
        annotations.iter().find(|(key, value)| child.annotations.get(*key) != Some(*value))
    {
        return wrong(&format!("it was pushed without its annotation {key}"));
    }
    Ok(())
}

/// What an index says of platforms that it lacks.
fn lacks(missing: &[Platform]) -> BTreeMap<String, String> {
    let mut names: Vec<String> = missing.iter().map(ToString::to_string).collect();
    names.sort();
    let entry = (!names.is_empty()).then(|| (MISSING.to_owned(), names.join(",")));
    entry.into_iter().collect()
}

/// The manifest of the only child in the place of an index. `bytes` are those that the registry gave for it.
///
/// # Errors
/// There are more children, or attestations that are to stand in an index; or the bytes are others, no image's, or not of the form that
/// was asked for.
pub fn alone(children: &[Child], bytes: Vec<u8>, form: &Packaging) -> Result<Index, Invalid> {
    let [child @ Child { platform, manifest, attestations, .. }] = children else {
        let cure = "only an index holds more than one platform";
        return Err(Invalid::new("manifest", children.len().to_string(), cure));
    };
    let digest = manifest.digest;
    let invalid = |why: &str| Invalid::new("manifest", digest.to_string(), why);
    check_form(child, form)?;
    if !attestations.is_empty() && form.attestations == Placement::Inline {
        return Err(invalid(&format!("{platform} has attestations, which only an index holds")));
    }
    if Digest::of(&bytes) != digest {
        return Err(invalid("its bytes are others"));
    }
    let media_type = [OCI_MANIFEST, DOCKER_MANIFEST].into_iter().find(|known| *known == manifest.media_type);
    let media_type =
        media_type.ok_or_else(|| invalid(&format!("{:?} is no image's type", manifest.media_type)))?;
    Ok(Index { bytes, digest, media_type, manifests: Vec::new(), referrers: referrers([child], form) })
}

#[cfg(test)]
mod tests;
