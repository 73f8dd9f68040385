//! The form of what is published, and what its tags have to point to: wire to domain and back.

use farm_types::packaging::{Annotation, Level, Packaging};
use farm_types::{ExpectedTag, ImageRef, ImageTag, Invalid, SigningKeyName};

use crate::v1;

/// So many tags of a build may be expected somewhere.
const MOST_EXPECTED: usize = 1000;

impl From<&Annotation> for v1::Annotation {
    fn from(annotation: &Annotation) -> Self {
        Self {
            level: annotation.level.as_str().to_owned(),
            platform: annotation.platform.as_ref().map(ToString::to_string).unwrap_or_default(),
            key: annotation.key.clone(),
            value: annotation.value.clone(),
        }
    }
}

impl TryFrom<&v1::Annotation> for Annotation {
    type Error = Invalid;

    fn try_from(wire: &v1::Annotation) -> Result<Self, Invalid> {
        let known = [Level::Index, Level::Manifest, Level::ManifestDescriptor];
        let level = known.into_iter().find(|level| level.as_str() == wire.level).ok_or_else(|| {
            Invalid::new("annotation", &wire.level, "its level is index, manifest or manifest-descriptor")
        })?;
        let platform = match wire.platform.is_empty() {
            true => None,
            false if level == Level::Index => {
                return Err(Invalid::new("annotation", &wire.key, "the index is of all platforms"));
            }
            false => Some(wire.platform.parse()?),
        };
        Self::new(level, platform, &wire.key, &wire.value)
    }
}

impl From<&ExpectedTag> for v1::ExpectedTag {
    fn from(expected: &ExpectedTag) -> Self {
        Self {
            tag: expected.tag.to_string(),
            digest: expected.digest.map(|digest| digest.to_string()).unwrap_or_default(),
        }
    }
}

impl TryFrom<&v1::ExpectedTag> for ExpectedTag {
    type Error = Invalid;

    fn try_from(wire: &v1::ExpectedTag) -> Result<Self, Invalid> {
        let digest = (!wire.digest.is_empty()).then(|| wire.digest.parse()).transpose()?;
        Ok(Self { tag: wire.tag.parse()?, digest })
    }
}

/// The form that a spec asks for.
pub(crate) fn packaging(spec: &v1::BuildSpec) -> Result<Packaging, Invalid> {
    let word = |word: &str| (!word.is_empty()).then(|| word.to_owned());
    Ok(Packaging {
        media_types: word(&spec.media_types).map(|word| word.parse()).transpose()?.unwrap_or_default(),
        annotations: spec.annotations.iter().map(Annotation::try_from).collect::<Result<_, _>>()?,
        attestations: word(&spec.attestations).map(|word| word.parse()).transpose()?.unwrap_or_default(),
        rewrite_timestamp: spec.rewrite_timestamp,
    })
}

/// What its tags are expected to point to.
pub(crate) fn expected(all: &[v1::ExpectedTag], tags: &[ImageTag]) -> Result<Vec<ExpectedTag>, Invalid> {
    if all.len() > MOST_EXPECTED {
        let cure = format!("name at most {MOST_EXPECTED}");
        return Err(Invalid::new("expected tags", all.len().to_string(), cure));
    }
    let mut list: Vec<ExpectedTag> = Vec::new();
    for wire in all {
        let expected = ExpectedTag::try_from(wire)?;
        let invalid = |cure: &str| Err(Invalid::new("expected tag", &wire.tag, cure));
        if !tags.contains(&expected.tag) {
            return invalid("it is none of the tags that are moved");
        }
        if list.iter().any(|other| other.tag == expected.tag) {
            return invalid("it is named twice");
        }
        list.push(expected);
    }
    Ok(list)
}

/// The generator of an SBOM.
pub(crate) fn generator(text: &str) -> Result<Option<ImageRef>, Invalid> {
    (!text.is_empty()).then(|| text.parse()).transpose()
}

/// By which key of the project it is signed.
pub(crate) fn signing_key(text: &str) -> Result<Option<SigningKeyName>, Invalid> {
    (!text.is_empty()).then(|| text.parse()).transpose()
}
