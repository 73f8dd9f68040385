//! The form of what is published: media types, annotations, where attestations stand.
//!
//! Formats: OCI image-spec v1.1 (`annotations.md`, `manifest.md`, `image-index.md`) and Docker's older ones, which have no annotations.
//! The syntax of `--annotation` is that of `docker buildx build`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;
use crate::platform::Platform;

/// So many annotations a build may have, and so long each of them may be, bytes.
const MOST_ANNOTATIONS: usize = 100;
const ANNOTATION_BYTES: usize = 16 * 1024;
/// All of them together, bytes: those of descriptors stand in the index once for each platform, and registries take 4 MiB.
const ALL_BYTES: usize = 64 * 1024;

/// How what is built is published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packaging {
    /// `--media-type`.
    #[serde(default, skip_serializing_if = "MediaTypes::is_auto")]
    pub media_types: MediaTypes,
    /// `--annotation`; none twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<Annotation>,
    /// `--attestations`.
    #[serde(default, skip_serializing_if = "Placement::is_inline")]
    pub attestations: Placement,
    /// `--rewrite-timestamp`: files of layers are no younger than SOURCE_DATE_EPOCH.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rewrite_timestamp: bool,
}

/// Of whose formats manifests and indexes are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaTypes {
    /// As what was pushed has it, which is OCI's unless an engine knows better.
    #[default]
    Auto,
    /// OCI image-spec.
    Oci,
    /// Docker's manifest, schema 2, and manifest list.
    Docker,
}

impl MediaTypes {
    /// The word for it: `auto`, `oci` or `docker`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Oci => "oci",
            Self::Docker => "docker",
        }
    }

    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

impl FromStr for MediaTypes {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        [Self::Auto, Self::Oci, Self::Docker]
            .into_iter()
            .find(|types| types.as_str() == text)
            .ok_or_else(|| Invalid::new("media type", text, "write auto, oci or docker"))
    }
}

/// Where attestations stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// In the index, behind the images, as BuildKit puts them.
    #[default]
    Inline,
    /// Beside the image, as artifacts whose subject it is (distribution-spec v1.1, "Listing Referrers").
    Referrers,
    /// Nowhere.
    None,
}

impl Placement {
    /// The word for it: `inline`, `referrers` or `none`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Referrers => "referrers",
            Self::None => "none",
        }
    }

    fn is_inline(&self) -> bool {
        *self == Self::Inline
    }
}

impl FromStr for Placement {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        [Self::Inline, Self::Referrers, Self::None]
            .into_iter()
            .find(|place| place.as_str() == text)
            .ok_or_else(|| Invalid::new("attestations", text, "write inline, referrers or none"))
    }
}

/// What an annotation is written on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The index.
    Index,
    /// The image's manifest.
    Manifest,
    /// The image's descriptor in the index.
    ManifestDescriptor,
}

impl Level {
    /// The word for it, as buildx has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Manifest => "manifest",
            Self::ManifestDescriptor => "manifest-descriptor",
        }
    }
}

/// One annotation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Annotation {
    /// On what.
    pub level: Level,
    /// Of this platform's image only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Its name.
    pub key: String,
    /// Any text.
    pub value: String,
}

impl Annotation {
    /// Reads `[LEVEL[PLATFORM],…:]KEY=VALUE`, where LEVEL is `manifest` unless said: one for each level.
    ///
    /// # Errors
    /// There is no `=`, no key, or a level that farm or the format doesn't have.
    pub fn parse(text: &str) -> Result<Vec<Self>, Invalid> {
        let invalid = |cure: &str| Invalid::new("annotation", text, cure);
        let (left, value) =
            text.split_once('=').ok_or_else(|| invalid("write KEY=VALUE or LEVEL:KEY=VALUE"))?;
        let (levels, key) = match left.split_once(':') {
            Some((levels, key)) => (levels, key),
            None => ("manifest", left),
        };
        let one = |level: &str| {
            let (word, platform) = match level.split_once('[') {
                None => (level, None),
                Some((word, rest)) => {
                    let platform =
                        rest.strip_suffix(']').ok_or_else(|| invalid("close the platform by ]"))?;
                    (word, Some(platform.parse()?))
                }
            };
            let level = match word {
                "index" if platform.is_some() => {
                    return Err(invalid("the index is of all platforms; write index:KEY=VALUE"));
                }
                "index" => Level::Index,
                "manifest" => Level::Manifest,
                "manifest-descriptor" => Level::ManifestDescriptor,
                "index-descriptor" => {
                    let cure =
                        "nothing in a registry lists an index; write index, manifest or manifest-descriptor";
                    return Err(invalid(cure));
                }
                _ => {
                    let cure = "write index, manifest or manifest-descriptor before the colon; a key that has one needs its level: manifest:KEY=VALUE";
                    return Err(invalid(cure));
                }
            };
            Self::new(level, platform, key, value)
        };
        levels.split(',').map(one).collect()
    }

    /// One, if its key may be that.
    ///
    /// # Errors
    /// It is empty, or has blanks; or both are too long together.
    pub fn new(level: Level, platform: Option<Platform>, key: &str, value: &str) -> Result<Self, Invalid> {
        let invalid = |cure: &str| Err(Invalid::new("annotation", key, cure));
        if key.is_empty() || key.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return invalid("a key is one word, like org.opencontainers.image.licenses");
        }
        if key.len() + value.len() > ANNOTATION_BYTES {
            return invalid("key and value may have 16 KiB together");
        }
        if value.contains('\0') {
            return invalid("its value holds a NUL byte");
        }
        Ok(Self { level, platform, key: key.to_owned(), value: value.to_owned() })
    }

    fn is_of(&self, level: Level, platform: Option<&Platform>) -> bool {
        self.level == level && self.platform.as_ref().is_none_or(|own| platform == Some(own))
    }
}

impl fmt::Display for Annotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.level.as_str())?;
        if let Some(platform) = &self.platform {
            write!(f, "[{platform}]")?;
        }
        write!(f, ":{}={}", self.key, self.value)
    }
}

impl Packaging {
    /// Whether nothing was asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The annotations on one thing; those of the platform go before those of all.
    pub fn annotations_of(&self, level: Level, platform: Option<&Platform>) -> BTreeMap<String, String> {
        let mut all: Vec<&Annotation> =
            self.annotations.iter().filter(|annotation| annotation.is_of(level, platform)).collect();
        all.sort_by_key(|annotation| annotation.platform.is_some());
        all.into_iter().map(|annotation| (annotation.key.clone(), annotation.value.clone())).collect()
    }

    /// Refuses what the formats can't carry.
    ///
    /// # Errors
    /// Annotations or attestations in Docker's formats, annotations of an index that isn't made or of platforms that aren't built, one
    /// twice with two values, or too many.
    pub fn check(&self, platforms: &[Platform], is_index: bool, attests: bool) -> Result<(), Invalid> {
        if self.annotations.len() > MOST_ANNOTATIONS {
            let cure = format!("a build has at most {MOST_ANNOTATIONS}");
            return Err(Invalid::new("annotations", self.annotations.len().to_string(), cure));
        }
        let bytes: usize = self.annotations.iter().map(|one| one.key.len() + one.value.len()).sum();
        if bytes > ALL_BYTES {
            let cure = format!("all annotations of a build may have {} KiB together", ALL_BYTES / 1024);
            return Err(Invalid::new("annotations", bytes.to_string(), cure));
        }
        for (i, annotation) in self.annotations.iter().enumerate() {
            let invalid = |cure: String| Err(Invalid::new("annotation", annotation.to_string(), cure));
            if self.media_types == MediaTypes::Docker {
                return invalid(
                    "Docker's formats carry none; leave it out, or write --media-type oci".to_owned(),
                );
            }
            if annotation.level != Level::Manifest && !is_index {
                return invalid(
                    "the tag points to the image's manifest, and there is no index; write manifest:KEY=VALUE, or leave \
                     --single-platform manifest out"
                        .to_owned(),
                );
            }
            if annotation.platform.as_ref().is_some_and(|platform| !platforms.contains(platform)) {
                let all: Vec<String> = platforms.iter().map(ToString::to_string).collect();
                return invalid(format!("the build isn't for that platform; it is for {}", all.join(", ")));
            }
            let is_same = |other: &&Annotation| {
                (other.level, &other.platform, &other.key)
                    == (annotation.level, &annotation.platform, &annotation.key)
            };
            if let Some(other) = self.annotations[..i].iter().find(is_same) {
                return invalid(format!("it is said twice, before as {:?}; write it once", other.value));
            }
        }
        if attests && self.media_types == MediaTypes::Docker {
            let cure = "Docker's formats carry no attestations; write --media-type oci, or leave provenance and SBOM out";
            return Err(Invalid::new("media type", self.media_types.as_str(), cure));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platforms() -> Vec<Platform> {
        Platform::parse_list("linux/amd64,linux/arm64").unwrap()
    }

    #[test]
    fn annotations_are_read_as_buildx_reads_them() {
        let read = |text: &str| {
            let all = Annotation::parse(text).unwrap();
            all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(read("a=b=c"), "manifest:a=b=c");
        assert_eq!(read("index,manifest:a="), "index:a= manifest:a=");
        assert_eq!(
            read("manifest[linux/arm64/v8],manifest-descriptor:o.k=v:w"),
            "manifest[linux/arm64]:o.k=v:w manifest-descriptor:o.k=v:w"
        );
        for (text, part) in [
            ("a", "KEY=VALUE"),
            ("=b", "one word"),
            ("a b=c", "one word"),
            ("image:a=b", "before the colon"),
            ("index-descriptor:a=b", "nothing in a registry"),
            ("index[linux/amd64]:a=b", "all platforms"),
            ("manifest[linux/amd64:a=b", "close"),
            ("manifest[vax]:a=b", "vax"),
        ] {
            let error = Annotation::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_platforms_own_annotation_goes_before_that_of_all() {
        let annotations = ["manifest[linux/arm64]:k=arm", "k=all", "index:k=index", "other=1"];
        let annotations = annotations.iter().flat_map(|text| Annotation::parse(text).unwrap()).collect();
        let packaging = Packaging { annotations, ..Packaging::default() };
        let of = |level, platform: usize| packaging.annotations_of(level, platforms().get(platform));
        assert_eq!(of(Level::Manifest, 0), [("k", "all"), ("other", "1")].map(owned).into());
        assert_eq!(of(Level::Manifest, 1), [("k", "arm"), ("other", "1")].map(owned).into());
        assert_eq!(packaging.annotations_of(Level::Index, None), [("k", "index")].map(owned).into());
        assert!(of(Level::ManifestDescriptor, 0).is_empty());
        assert_eq!(packaging.check(&platforms(), true, true), Ok(()));
    }

    fn owned((key, value): (&str, &str)) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn what_a_format_cannot_carry_is_refused() {
        let with = |texts: &[&str]| Packaging {
            annotations: texts.iter().flat_map(|text| Annotation::parse(text).unwrap()).collect(),
            ..Packaging::default()
        };
        let refused = |packaging: &Packaging, is_index, attests| {
            packaging.check(&platforms(), is_index, attests).unwrap_err().to_string()
        };
        let docker = |packaging| Packaging { media_types: MediaTypes::Docker, ..packaging };
        assert!(refused(&docker(with(&["a=b"])), true, false).contains("--media-type oci"));
        assert!(refused(&docker(with(&[])), true, true).contains("attestations"));
        assert_eq!(docker(with(&[])).check(&platforms(), true, false), Ok(()));
        // An engine that makes them writes OCI's, wherever they are to go.
        let none = Packaging { attestations: Placement::None, ..docker(with(&[])) };
        assert!(refused(&none, true, true).contains("attestations"));
        assert!(refused(&with(&["index:a=b"]), false, false).contains("no index"));
        assert_eq!(with(&["a=b"]).check(&platforms(), false, false), Ok(()));
        assert!(refused(&with(&["manifest[linux/s390x]:a=b"]), true, false).contains("isn't for"));
        assert!(refused(&with(&["a=b", "a=c"]), true, false).contains("twice"));
    }

    #[test]
    fn the_words_read_back_and_nothing_said_is_nothing_written() {
        for types in [MediaTypes::Auto, MediaTypes::Oci, MediaTypes::Docker] {
            assert_eq!(types.as_str().parse(), Ok(types));
        }
        for place in [Placement::Inline, Placement::Referrers, Placement::None] {
            assert_eq!(place.as_str().parse(), Ok(place));
        }
        assert!("both".parse::<Placement>().is_err() && "zip".parse::<MediaTypes>().is_err());
        assert_eq!(serde_json::to_string(&Packaging::default()).unwrap(), "{}");
        assert!(Packaging::default().is_default());
    }
}
