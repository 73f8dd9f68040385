//! Tags as versions, and ranges of them. [Semantic Versioning 2.0.0](https://semver.org); ranges as Cargo writes them.

use std::fmt;
use std::str::FromStr;

use farm_types::Invalid;
use semver::{BuildMetadata, Prerelease, Version, VersionReq};

/// The version that a git tag names, with or without a `v` in front: `v1.2.3`, `2.0.0-rc.1`.
pub fn version_of(tag: &str) -> Option<Version> {
    let bare = tag.strip_prefix(['v', 'V']).unwrap_or(tag);
    Version::parse(bare).ok()
}

/// A range like `>=1.2, <3`; `1.2` is what is compatible with it, `*` all. A pre-release is in it if the version is that it comes
/// before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRange(VersionReq);

impl VersionRange {
    /// Whether a version is in it.
    pub fn covers(&self, version: &Version) -> bool {
        let release = Version { pre: Prerelease::EMPTY, build: BuildMetadata::EMPTY, ..version.clone() };
        self.0.matches(&release) || self.0.matches(version)
    }
}

impl FromStr for VersionRange {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        VersionReq::parse(text).map(Self).map_err(|_| {
            let cure = "it is no range of versions; write one like \">=1.2, <3\", \"1.2\" (what is compatible with it) or \"*\"";
            Invalid::new("semver", text, cure)
        })
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_take_pre_releases_of_what_is_in_them() {
        let covers =
            |range: &str, tag: &str| range.parse::<VersionRange>().unwrap().covers(&version_of(tag).unwrap());
        for (range, tag, covered) in [
            (">=1.2, <3", "v1.2.0", true),
            (">=1.2, <3", "3.0.0", false),
            (">=1.2, <3", "v2.0.0-rc.1", true),
            (">=1.2, <3", "v3.0.0-rc.1", false),
            ("1.2", "V1.9.0", true),
            ("1.2", "2.0.0", false),
            ("*", "v0.0.1-a+b", true),
            (">=2.0.0-rc.2", "2.0.0-rc.2", true),
        ] {
            assert_eq!(covers(range, tag), covered, "{range} {tag}");
        }
        for tag in ["v1", "1.2", "vv1.2.3", "release-1.2.3", "", "1.02.3"] {
            assert_eq!(version_of(tag), None, "{tag}");
        }
        assert!(">=1 <2 x".parse::<VersionRange>().is_err());
    }
}
