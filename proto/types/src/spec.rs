//! What a build asks for.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::copy::CopySpec;
use crate::error::Invalid;
use crate::expected::ExpectedTag;
use crate::export::Export;
use crate::fetch::{FetchSpec, Origin};
use crate::gate::Gate;
use crate::image::{ImageRef, ImageTag, Repository};
use crate::mounts::Mounts;
use crate::packaging::{MediaTypes, Packaging, Placement};
use crate::platform::Platform;
use crate::run_options::RunOptions;
use crate::signing::SigningKeyName;
use crate::snapshot::SnapshotRef;

pub use crate::emulation::{Emulation, parse_duration, parse_duration_within};
pub use crate::verify::Verify;

/// A build as it was asked for. The flags' names and meanings are those of `docker buildx build`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSpec {
    /// The source.
    pub snapshot: SnapshotRef,
    /// The platforms, in the order of the request; never empty, none twice.
    pub platforms: Vec<Platform>,
    /// `--optional`: those of them without which the others are published all the same; never all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub optional: Vec<Platform>,
    /// The tags to move; may be empty: then the build proves only that it can be built.
    pub tags: Vec<ImageTag>,
    /// The Dockerfile's path within the snapshot's root `dockerfile`.
    pub dockerfile: String,
    /// `--target`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `--build-arg`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `--no-cache`.
    #[serde(default)]
    pub no_cache: bool,
    /// `--no-cache-filter`: stages whose cached results are not used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_cache_stages: Vec<String>,
    /// How RUN instructions run.
    #[serde(default)]
    pub run: RunOptions,
    /// `--pull`.
    #[serde(default)]
    pub pull: PullMode,
    /// `--provenance`.
    #[serde(default)]
    pub provenance: Provenance,
    /// `--sbom`: the image that scans what is built, and makes an SBOM of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom: Option<ImageRef>,
    /// `--single-platform`.
    #[serde(default, skip_serializing_if = "SinglePlatform::is_index")]
    pub single_platform: SinglePlatform,
    /// `--build-context`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// `--emulation`.
    #[serde(default)]
    pub emulation: Emulation,
    /// `--timeout`: from when the farm has accepted it until all is built, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// `--output`: what each platform's result is made into for the client.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<Export>,
    /// The names that images in exports bear; published nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_names: Vec<ImageTag>,
    /// `--secret` and `--ssh`: which there are, without their values.
    #[serde(default, skip_serializing_if = "Mounts::is_empty")]
    pub mounts: Mounts,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Purpose::is_image")]
    pub purpose: Purpose,
    /// The roots of the source that hold a part of their folder only: what one of these patterns names (as in COPY). The
    /// others hold all of theirs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub partial: BTreeMap<String, Vec<String>>,
    /// Where roots of the source were fetched from; of the others nobody says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub origins: BTreeMap<String, Origin>,
    /// `--verify`, `--verify-except`.
    #[serde(default, skip_serializing_if = "Verify::is_default")]
    pub verify: Verify,
    /// The form of what is published.
    #[serde(default, skip_serializing_if = "Packaging::is_default")]
    pub packaging: Packaging,
    /// `--if-unchanged`: some or all of its tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected: Vec<ExpectedTag>,
    /// `--gate`: what each platform's image has to pass before it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// `--sign`: by which key of its project what it publishes is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign: Option<SigningKeyName>,
}

/// What a build is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// An image, published where it has tags.
    #[default]
    Image,
    /// To run this image: its Dockerfile is one that runs it. Nothing is published.
    Run(String),
    /// To ask the Dockerfile's frontend something. No step runs, nothing is published.
    Call(Call),
    /// To fetch a source. Its snapshot is at first that of no roots, and the fetched one when it has succeeded; it has one
    /// platform, [`crate::Platform::none`], that nobody is shown. Nothing is built.
    Fetch(Box<FetchSpec>),
    /// To copy an image to its tags. Its snapshot is that of no roots, its platform as of a fetch. Nothing is built.
    Copy(Box<CopySpec>),
}

impl Purpose {
    fn is_image(&self) -> bool {
        *self == Self::Image
    }

    /// What is fetched, if that is what it is for.
    pub fn fetch(&self) -> Option<&FetchSpec> {
        match self {
            Self::Fetch(fetch) => Some(fetch),
            _ => None,
        }
    }

    /// What is copied, if that is what it is for.
    pub fn copy(&self) -> Option<&CopySpec> {
        match self {
            Self::Copy(copy) => Some(copy),
            _ => None,
        }
    }

    /// Whether something is built, or at least asked of an engine.
    pub fn is_build(&self) -> bool {
        !matches!(self, Self::Fetch(_) | Self::Copy(_))
    }
}

/// What a Dockerfile's frontend can be asked: `--call`. (BuildKit's subrequests.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Call {
    /// What its rules find wrong.
    Check,
    /// The build arguments, secrets and the like that the target takes.
    Outline,
    /// The stages that can be built.
    Targets,
}

impl Call {
    /// The word that stands for it: `check`, `outline` or `targets`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Outline => "outline",
            Self::Targets => "targets",
        }
    }
}

impl FromStr for Call {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "check" | "lint" => Ok(Self::Check),
            "outline" => Ok(Self::Outline),
            "targets" => Ok(Self::Targets),
            _ => Err(Invalid::new("call", text, "write check, outline or targets")),
        }
    }
}

impl BuildSpec {
    /// A fetch, as the build that it is; `snapshot`: what is known to have been fetched, or that of no roots.
    pub fn to_fetch(fetch: FetchSpec, snapshot: SnapshotRef) -> Self {
        Self { snapshot, ..Self::of_nothing(Purpose::Fetch(Box::new(fetch))) }
    }

    /// A copy, as the build that it is.
    pub fn to_copy(copy: CopySpec, tags: Vec<ImageTag>) -> Self {
        Self { tags, ..Self::of_nothing(Purpose::Copy(Box::new(copy))) }
    }

    fn of_nothing(purpose: Purpose) -> Self {
        Self {
            snapshot: SnapshotRef::none(),
            platforms: vec![Platform::none()],
            optional: Vec::new(),
            tags: Vec::new(),
            dockerfile: "Dockerfile".to_owned(),
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            no_cache: false,
            no_cache_stages: Vec::new(),
            run: RunOptions::default(),
            pull: PullMode::default(),
            provenance: Provenance::default(),
            sbom: None,
            single_platform: SinglePlatform::default(),
            named_contexts: BTreeMap::new(),
            emulation: Emulation::default(),
            timeout_ms: None,
            exports: Vec::new(),
            image_names: Vec::new(),
            mounts: Mounts::default(),
            purpose,
            partial: BTreeMap::new(),
            origins: BTreeMap::new(),
            verify: Verify::default(),
            packaging: Packaging::default(),
            expected: Vec::new(),
            gate: None,
            sign: None,
        }
    }

    /// The repositories that its tags stand in, each once, in the order of the tags.
    pub fn repositories(&self) -> Vec<Repository> {
        let mut list: Vec<Repository> = Vec::new();
        for tag in &self.tags {
            if !list.contains(&tag.repository) {
                list.push(tag.repository.clone());
            }
        }
        list
    }

    /// Whether attestations are made.
    pub fn attests(&self) -> bool {
        self.provenance != Provenance::Off || self.sbom.is_some()
    }

    /// Refuses a form that can't hold what is built.
    ///
    /// # Errors
    /// It can't.
    pub fn check_packaging(&self) -> Result<(), Invalid> {
        let (packaging, attests) = (&self.packaging, self.attests());
        self.single_platform
            .check(self.platforms.len(), attests && packaging.attestations == Placement::Inline)?;
        if let (true, Some(first)) = (packaging.media_types == MediaTypes::Docker, self.optional.first()) {
            let cure = "Docker's list can't say which platforms it lacks; write --media-type oci";
            return Err(Invalid::new("optional platform", first.to_string(), cure));
        }
        packaging.check(&self.platforms, self.single_platform.is_index(), attests)
    }

    /// Refuses optional platforms that aren't among those of the build, or are all of them.
    ///
    /// # Errors
    /// There are such.
    pub fn check_optional(platforms: &[Platform], optional: &[Platform]) -> Result<(), Invalid> {
        if let Some(other) = optional.iter().find(|platform| !platforms.contains(platform)) {
            let all: Vec<String> = platforms.iter().map(ToString::to_string).collect();
            let cure = format!("the build isn't for it; it is for {}", all.join(", "));
            return Err(Invalid::new("optional platform", other.to_string(), cure));
        }
        if !optional.is_empty() && platforms.iter().all(|platform| optional.contains(platform)) {
            let cure =
                "one platform at least has to be required, or nothing may be published; leave one out here";
            return Err(Invalid::new("optional platform", platforms[0].to_string(), cure));
        }
        Ok(())
    }

    /// Refuses a gate where nothing is pushed that it could be run in.
    ///
    /// # Errors
    /// There is such a gate.
    pub fn check_gate(&self) -> Result<(), Invalid> {
        let Some(gate) = self.gate.as_ref().filter(|_| self.tags.is_empty()) else { return Ok(()) };
        let cure = "a gate is run in what was pushed, and this build pushes nothing; name a tag (-t), or leave the gate out";
        Err(Invalid::new("gate", gate.shown(), cure))
    }

    /// Refuses a signature where nothing is published that it could be of.
    ///
    /// # Errors
    /// There is to be one.
    pub fn check_sign(&self) -> Result<(), Invalid> {
        let Some(key) = self.sign.as_ref().filter(|_| self.tags.is_empty()) else { return Ok(()) };
        let cure = "what is published is signed, and this build publishes nothing; name a tag (-t), or leave the key out";
        Err(Invalid::new("signing key", key.as_str(), cure))
    }

    /// Refuses a login for a registry that is pushed to: what is pushed there is published by the project's login or the farm's, after
    /// the build's is erased.
    ///
    /// # Errors
    /// There is one.
    pub fn check_logins(&self) -> Result<(), Invalid> {
        let pushed = self.repositories();
        let both =
            self.mounts.logins.iter().find(|host| pushed.iter().any(|own| own.registry() == host.as_str()));
        let Some(host) = both else { return Ok(()) };
        let cure = format!(
            "the build pushes there, too, and what is pushed is published by the project's login or the farm's; give the project one of its \
             own: farm registry login {host}; or have an admin of the farm let it pull: farm project allow PROJECT --pull {host}/REPO"
        );
        Err(Invalid::new("--registry-login", host.as_str(), cure))
    }
}

/// Where a named context comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedContext {
    /// `docker-image://REF`: an image takes the place of the stage or base.
    Image(String),
    /// A folder: the snapshot's root `context:NAME`.
    Local,
}

/// Whether base images are asked for anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullMode {
    /// The engine decides; it asks for a tag's digest, and keeps the layers that it has.
    #[default]
    Default,
    /// `--pull`: every base image is resolved at the registry.
    Always,
}

/// Whether a provenance attestation is attached. Off unless asked for, which differs from buildx.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// None.
    #[default]
    Off,
    /// `mode=min`.
    Min,
    /// `mode=max`.
    Max,
}

impl Provenance {
    /// The word that stands for it: `off`, `min` or `max`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Min => "min",
            Self::Max => "max",
        }
    }
}

impl FromStr for Provenance {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "false" | "off" | "0" => Ok(Self::Off),
            "true" | "1" | "min" | "mode=min" => Ok(Self::Min),
            "max" | "mode=max" => Ok(Self::Max),
            _ => Err(Invalid::new("provenance", text, "write false, mode=min or mode=max")),
        }
    }
}

/// What the tags of a build for one platform point to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinglePlatform {
    /// An index that lists that one, so that every tag of farm's has the same form.
    #[default]
    Index,
    /// The image's manifest itself, for those who take no index.
    Manifest,
}

impl SinglePlatform {
    /// The word that stands for it: `index` or `manifest`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Manifest => "manifest",
        }
    }

    fn is_index(&self) -> bool {
        *self == Self::Index
    }

    /// Refuses what a manifest alone can't hold.
    ///
    /// # Errors
    /// There are several platforms, or attestations are to stand in an index.
    pub fn check(self, platforms: usize, holds_attestations: bool) -> Result<(), Invalid> {
        let invalid = |cure: &str| Err(Invalid::new("single platform", self.as_str(), cure));
        match self {
            Self::Manifest if platforms > 1 => invalid(&format!(
                "the build is for {platforms} platforms, and only an index holds several; name one platform, or leave this \
                 out"
            )),
            Self::Manifest if holds_attestations => invalid(
                "provenance and SBOM stand beside the image in an index; have them refer to the image (--attestations referrers), or \
                 leave one of the two out",
            ),
            _ => Ok(()),
        }
    }
}

impl FromStr for SinglePlatform {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "index" => Ok(Self::Index),
            "manifest" => Ok(Self::Manifest),
            _ => Err(Invalid::new("single platform", text, "write index or manifest")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_alone_is_for_one_platform_without_attestations() {
        let manifest: SinglePlatform = "manifest".parse().unwrap();
        assert_eq!(manifest.check(1, false), Ok(()));
        assert!(manifest.check(2, false).unwrap_err().to_string().contains("for 2 platforms"));
        assert!(manifest.check(1, true).unwrap_err().to_string().contains("attestations"));
        assert_eq!(SinglePlatform::Index.check(3, true), Ok(()));
        assert!("list".parse::<SinglePlatform>().is_err());
    }

    #[test]
    fn optional_platforms_are_some_of_the_builds() {
        let all = Platform::parse_list("linux/amd64,linux/arm64").unwrap();
        assert_eq!(BuildSpec::check_optional(&all, &[]), Ok(()));
        assert_eq!(BuildSpec::check_optional(&all, &all[1..]), Ok(()));
        let none = BuildSpec::check_optional(&all, &all).unwrap_err().to_string();
        assert!(none.contains("one platform at least"), "{none}");
        let other = Platform::parse_list("linux/riscv64").unwrap();
        let other = BuildSpec::check_optional(&all, &other).unwrap_err().to_string();
        assert!(other.contains("it is for linux/amd64, linux/arm64"), "{other}");
    }
}
