//! `deny.toml`: those of cargo-deny's keys that are used.
//!
//! Where cargo-deny knows several levels, here is one, so that the file can't promise less than what is checked.

use semver::{Version, VersionReq};
use serde::{Deserialize, Deserializer, de::Error};
use spdx::{Expression, Licensee};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    pub graph: Graph,
    pub licenses: Licenses,
    pub bans: Bans,
    #[expect(dead_code, reason = "read for its levels only: nothing but what they forbid is checked")]
    pub sources: Sources,
    /// cargo-deny's own matter.
    #[serde(default)]
    #[expect(dead_code, reason = "it may be there")]
    pub advisories: Option<toml::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[expect(dead_code, reason = "only one value is possible")]
pub struct Graph {
    pub targets: Vec<String>,
    all_features: No,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[expect(dead_code, reason = "only one value is possible, or it is about what cargo-deny finds in files")]
pub struct Licenses {
    #[serde(deserialize_with = "licences")]
    pub allow: Vec<Licensee>,
    #[serde(default)]
    pub exceptions: Vec<Exception>,
    #[serde(default)]
    pub clarify: Vec<Clarification>,
    confidence_threshold: f64,
    include_dev: Yes,
    unused_allowed_license: Level,
    private: Private,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    #[serde(rename = "crate")]
    pub which: Which,
    #[serde(deserialize_with = "licences")]
    pub allow: Vec<Licensee>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[expect(dead_code, reason = "cargo-deny compares the files")]
pub struct Clarification {
    #[serde(rename = "crate")]
    pub which: Which,
    #[serde(deserialize_with = "expression")]
    pub expression: Expression,
    license_files: Vec<toml::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only one value is possible")]
pub struct Private {
    ignore: No,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[expect(dead_code, reason = "only one value is possible")]
pub struct Bans {
    multiple_versions: Level,
    multiple_versions_include_dev: Yes,
    wildcards: Level,
    allow_wildcard_paths: Yes,
    #[serde(default)]
    pub deny: Vec<Reasoned>,
    #[serde(default)]
    pub skip: Vec<Reasoned>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reasoned {
    #[serde(rename = "crate")]
    pub which: Which,
    pub reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[expect(dead_code, reason = "only one value is possible")]
pub struct Sources {
    unknown_registry: Level,
    unknown_git: Level,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Deny,
}

#[derive(Debug)]
pub struct Yes;

#[derive(Debug)]
pub struct No;

impl<'de> Deserialize<'de> for Yes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if bool::deserialize(from)? { Ok(Yes) } else { Err(D::Error::custom("this check knows `true` only")) }
    }
}

impl<'de> Deserialize<'de> for No {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if bool::deserialize(from)? { Err(D::Error::custom("this check knows `false` only")) } else { Ok(No) }
    }
}

/// A crate, all versions of it or some: `name`, `name@1.2.3`, `name:1.2`, the last a requirement as in a manifest.
#[derive(Debug)]
pub struct Which {
    name: String,
    versions: VersionReq,
}

impl Which {
    pub fn is(&self, name: &str, version: &Version) -> bool {
        // Only for one that lets all pass would a pre-release not be any.
        self.name == name && (self.versions == VersionReq::STAR || self.versions.matches(version))
    }
}

impl std::fmt::Display for Which {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}", self.name)?;
        if self.versions == VersionReq::STAR { Ok(()) } else { write!(out, " {}", self.versions) }
    }
}

impl<'de> Deserialize<'de> for Which {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let (name, versions) = match (text.split_once('@'), text.split_once(':')) {
            (Some((name, version)), _) => (name, VersionReq::parse(&format!("={version}"))),
            (None, Some((name, requirement))) => (name, VersionReq::parse(requirement)),
            (None, None) => (text.as_str(), Ok(VersionReq::STAR)),
        };
        let versions = versions.map_err(|error| D::Error::custom(format!("`{text}`: {error}")))?;
        Ok(Which { name: name.to_owned(), versions })
    }
}

fn licences<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Licensee>, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    let licence = |name: String| {
        Licensee::parse(&name).map_err(|error| D::Error::custom(format!("`{name}`: {}", error.reason)))
    };
    names.into_iter().map(licence).collect()
}

fn expression<'de, D: Deserializer<'de>>(from: D) -> Result<Expression, D::Error> {
    let text = String::deserialize(from)?;
    Expression::parse(&text).map_err(|error| D::Error::custom(format!("`{text}`: {}", error.reason)))
}

impl Rules {
    /// # Errors
    /// What of the file isn't known here, or allows what this check doesn't.
    pub fn parse(text: &str) -> Result<Rules, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }
}
