//! The index: many manifests made into one, from exact bytes, always in the same way.
//!
//! Formats: OCI image-spec v1.1 (`image-index.md`) and Docker's manifest list (distribution spec, "Image
//! Manifest V 2, Schema 2"). The bytes depend on the children only: platforms in the order of their text,
//! then attestations in the same order, fields in a fixed order. So the same build, merged twice, has one
//! digest, and a repeated put is no change. A build of one platform may ask for its manifest in the place of an index
//! ([`alone`]): then these are the bytes that its worker pushed.

pub mod cut;
pub mod removal;

use std::collections::BTreeMap;

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
    /// Absent where the normal form has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl From<&Platform> for IndexPlatform {
    fn from(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture().to_owned(),
            os: platform.os().to_owned(),
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
    /// Its attestation manifests, as BuildKit put them beside it.
    pub attestations: Vec<Descriptor>,
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
            Ok(Child { platform, manifest, attestations })
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
/// architecture in it).
pub fn merge(children: &[Child], missing: &[Platform]) -> Result<Index, Invalid> {
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
    // Docker's list has no annotations.
    let docker = missing.is_empty()
        && children
            .iter()
            .all(|child| child.manifest.media_type == DOCKER_MANIFEST && child.attestations.is_empty());
    let media_type = if docker { DOCKER_LIST } else { OCI_INDEX };
    let images = children.iter().map(|child| Descriptor {
        platform: Some(IndexPlatform::from(&child.platform)),
        ..child.manifest.clone()
    });
    let attestations = children.iter().flat_map(|child| child.attestations.iter().cloned());
    let document = IndexDocument {
        schema_version: 2,
        media_type: media_type.to_owned(),
        manifests: images.chain(attestations).collect(),
        annotations: lacks(missing),
    };
    let bytes = serde_json::to_vec(&document)
        .map_err(|e| Invalid::new("index", "", format!("it can't be written: {e}")))?;
    let manifests = document.manifests.iter().map(|descriptor| descriptor.digest).collect();
    Ok(Index { digest: Digest::of(&bytes), bytes, media_type, manifests })
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
/// There are more children, or attestations, which would be lost; or the bytes are others, or no image's.
pub fn alone(children: &[Child], bytes: Vec<u8>) -> Result<Index, Invalid> {
    let [Child { platform, manifest, attestations }] = children else {
        let cure = "only an index holds more than one platform";
        return Err(Invalid::new("manifest", children.len().to_string(), cure));
    };
    let digest = manifest.digest;
    let invalid = |why: &str| Invalid::new("manifest", digest.to_string(), why);
    if !attestations.is_empty() {
        return Err(invalid(&format!("{platform} has attestations, which only an index holds")));
    }
    if Digest::of(&bytes) != digest {
        return Err(invalid("its bytes are others"));
    }
    let media_type = [OCI_MANIFEST, DOCKER_MANIFEST].into_iter().find(|known| *known == manifest.media_type);
    let media_type =
        media_type.ok_or_else(|| invalid(&format!("{:?} is no image's type", manifest.media_type)))?;
    Ok(Index { bytes, digest, media_type, manifests: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn child(platform: &str, media_type: &str) -> Child {
        Child {
            platform: platform.parse().unwrap(),
            manifest: Descriptor {
                media_type: media_type.to_owned(),
                digest: Digest::of(platform.as_bytes()),
                size: 480,
                platform: None,
                annotations: BTreeMap::new(),
            },
            attestations: Vec::new(),
        }
    }

    fn attested(platform: &str) -> Child {
        let mut child = child(platform, OCI_MANIFEST);
        let annotations = [
            (REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned()),
            (REFERENCE_DIGEST.to_owned(), child.manifest.digest.to_string()),
        ];
        child.attestations.push(Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest: Digest::of(format!("att {platform}").as_bytes()),
            size: 566,
            platform: Some(IndexPlatform {
                architecture: "unknown".into(),
                os: "unknown".into(),
                variant: None,
            }),
            annotations: annotations.into(),
        });
        child
    }

    #[test]
    fn platforms_are_spelled_in_their_normal_form_or_as_they_are() {
        assert_eq!(spelled("linux", "arm64", "v8"), "linux/arm64");
        assert_eq!(spelled("windows", "amd64", ""), "windows/amd64");
        assert_eq!(spelled("", "", ""), "");
    }

    #[test]
    fn the_bytes_are_these() {
        let index =
            merge(&[child("linux/arm/v7", OCI_MANIFEST), child("linux/amd64", OCI_MANIFEST)], &[]).unwrap();
        let expected = format!(
            concat!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":["#,
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":480,"#,
                r#""platform":{{"architecture":"amd64","os":"linux"}}}},"#,
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":480,"#,
                r#""platform":{{"architecture":"arm","os":"linux","variant":"v7"}}}}]}}"#
            ),
            Digest::of(b"linux/amd64"),
            Digest::of(b"linux/arm/v7"),
        );
        assert_eq!(String::from_utf8(index.bytes.clone()).unwrap(), expected);
        assert_eq!(index.digest, Digest::of(&index.bytes));
    }

    #[test]
    fn it_is_dockers_list_only_when_every_child_is_dockers() {
        let docker = [child("linux/amd64", DOCKER_MANIFEST), child("linux/arm64", DOCKER_MANIFEST)];
        assert_eq!(merge(&docker, &[]).unwrap().media_type, DOCKER_LIST);
        let mixed = [child("linux/amd64", DOCKER_MANIFEST), child("linux/arm64", OCI_MANIFEST)];
        assert_eq!(merge(&mixed, &[]).unwrap().media_type, OCI_INDEX);
        // What was optional and is missing is said, always in one way; so it is no list of Docker's.
        let lacks = |names: &str| merge(&docker, &Platform::parse_list(names).unwrap()).unwrap();
        let index = lacks("linux/s390x,linux/riscv64");
        assert_eq!((index.media_type, &index), (OCI_INDEX, &lacks("linux/riscv64,linux/s390x")));
        let text = String::from_utf8(index.bytes).unwrap();
        assert!(
            text.ends_with(r#""annotations":{"farm.platforms.missing":"linux/riscv64,linux/s390x"}}"#),
            "{text}"
        );
    }

    #[test]
    fn attestations_stay_flat_after_the_images_in_the_same_order() {
        let index = merge(&[attested("linux/arm64"), attested("linux/amd64")], &[]).unwrap();
        let document: IndexDocument = serde_json::from_slice(&index.bytes).unwrap();
        let digests: Vec<Digest> = document.manifests.iter().map(|d| d.digest).collect();
        let expected = ["linux/amd64", "linux/arm64", "att linux/amd64", "att linux/arm64"];
        assert_eq!(digests, expected.map(|text| Digest::of(text.as_bytes())));
    }

    #[test]
    fn what_buildkit_pushed_with_attestations_is_taken_apart() {
        let whole = attested("linux/amd64");
        let document = |manifests| IndexDocument {
            schema_version: 2,
            media_type: OCI_INDEX.into(),
            manifests,
            annotations: BTreeMap::new(),
        };
        let both = vec![whole.manifest.clone(), whole.attestations[0].clone()];
        assert_eq!(split(whole.platform.clone(), document(both)).unwrap(), whole);
        assert!(split(whole.platform.clone(), document(whole.attestations.clone())).is_err());
        let two = vec![whole.manifest.clone(), child("linux/arm64", OCI_MANIFEST).manifest];
        assert!(split(whole.platform.clone(), document(two)).is_err());
        let foreign = vec![child("linux/arm64", OCI_MANIFEST).manifest, whole.attestations[0].clone()];
        assert!(split(whole.platform.clone(), document(foreign)).is_err());
    }

    #[test]
    fn a_manifest_alone_is_exactly_what_was_pushed() {
        let bytes = br#"{"schemaVersion":2,  "config":{}}"#.to_vec();
        let mut only = child("linux/amd64", DOCKER_MANIFEST);
        only.manifest.digest = Digest::of(&bytes);
        let kept = alone(std::slice::from_ref(&only), bytes.clone()).unwrap();
        assert_eq!((kept.bytes.as_slice(), kept.digest), (bytes.as_slice(), Digest::of(&bytes)));
        assert_eq!((kept.media_type, kept.manifests.len()), (DOCKER_MANIFEST, 0));
        assert!(!is_index(kept.media_type) && is_index(OCI_INDEX) && is_index(DOCKER_LIST));
        assert!(alone(std::slice::from_ref(&only), b"other".to_vec()).is_err());
        assert!(alone(&[only.clone(), child("linux/arm64", OCI_MANIFEST)], bytes.clone()).is_err());
        assert!(alone(&[], bytes.clone()).is_err());
        let mut attested = attested("linux/amd64");
        attested.manifest.digest = Digest::of(&bytes);
        assert!(alone(&[attested], bytes.clone()).unwrap_err().to_string().contains("attestations"));
        only.manifest.media_type = "application/json".to_owned();
        assert!(alone(&[only], bytes).is_err());
    }

    #[test]
    fn two_of_a_platform_and_one_manifest_for_two_are_refused() {
        let twice = [child("linux/amd64", OCI_MANIFEST), child("linux/amd64", OCI_MANIFEST)];
        assert!(merge(&twice, &[]).unwrap_err().to_string().contains("twice"));
        let wrong = Child { platform: "linux/arm64".parse().unwrap(), ..child("linux/amd64", OCI_MANIFEST) };
        let same = [child("linux/amd64", OCI_MANIFEST), wrong];
        assert!(merge(&same, &[]).unwrap_err().to_string().contains("same one"));
        assert!(merge(&[], &[]).is_err());
    }

    proptest! {
        #[test]
        fn the_order_of_the_children_does_not_matter(seed in any::<u64>()) {
            let mut children: Vec<Child> =
                ["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/s390x"].iter().map(|p| attested(p)).collect();
            let sorted = merge(&children, &[]).unwrap();
            let len = children.len();
            let turn = usize::try_from(seed % 4).unwrap();
            children.rotate_left(turn);
            children.swap(0, (turn + 1) % len);
            prop_assert_eq!(merge(&children, &[]).unwrap(), sorted);
        }
    }
}
