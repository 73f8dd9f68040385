//! Which engines may run what is built on machines that aren't trusted: those that are new enough, and fenced off.
//!
//! Fenced off is one from which builds reach no metadata service, no coordinator and no other machine of its owner's: farm's own are
//! (`farm up --untrusted`), and of others whoever runs the machine says it (`farm-worker --fenced-engine`).
//!
//! Of BuildKit's releases those from [`LEAST`] on keep a build from its engine as far as is known; of others an administrator may
//! know it, as distributions mend their packages without another version of BuildKit's. Nothing but a whole version that is read, or
//! that is listed, counts: an engine that says nothing is too old.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use farm_types::{FEATURE_FENCED, Invalid};
use serde::Deserialize;

/// The first BuildKit that what isn't trusted may run on, unless the engine is listed (GHSA-7236-3392-c5c6, and what 0.31.2 mends).
pub const LEAST: Release = Release(0, 31, 2);

/// A release of BuildKit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(pub u64, pub u64, pub u64);

impl Release {
    /// `v0.31.2`, as BuildKit says it; Docker adds `-moby`, and packagers what begins with `+`. What else follows makes it none:
    /// it may be from before the release.
    fn read(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text.split_once('+').map_or(text, |(text, _)| text);
        let text = text.strip_suffix("-moby").unwrap_or(text);
        let mut numbers = text.split('.').map(|number| {
            let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            number.parse().ok().filter(|_| is_number)
        });
        let release = Self(numbers.next()??, numbers.next()??, numbers.next()??);
        // What was built without saying of what says so.
        (numbers.next().is_none() && release > Self(0, 0, 0)).then_some(release)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What a worker says of its engine's version. It is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineVersion {
    /// `docker 28.5.2+dfsg4`, `buildkitd v0.32.2`.
    pub name: String,
    /// The release of BuildKit in it, in its words; empty: it doesn't say.
    pub buildkit: String,
    /// The package that it was installed by, with its version: `docker.io 28.5.2+dfsg4-5`; empty: it isn't known.
    pub package: String,
}

impl EngineVersion {
    /// The release of BuildKit in it.
    fn release(&self) -> Option<Release> {
        Release::read(&self.buildkit)
    }

    /// The text by which it would be listed: that of its package, which tells more, if it is known.
    fn listed_as(&self) -> &str {
        if self.package.is_empty() { &self.name } else { &self.package }
    }

    /// What keeps what isn't trusted from it, with the cure, for people; what is said is "its engine …".
    pub fn too_old(&self) -> String {
        let package = if self.package.is_empty() { String::new() } else { format!(", {}", self.package) };
        let is = match self.release() {
            Some(release) => format!("has BuildKit {release}"),
            None => "doesn't say which BuildKit it has".to_owned(),
        };
        format!(
            "its engine ({}{package}) {is}, and without trust one of {LEAST} or newer is needed: update it; or, if this version has the fixes, \
             whoever runs the farm lists it: patched_engines = [{:?}] in the coordinator's configuration",
            self.name,
            self.listed_as()
        )
    }
}

/// Engines that have the fixes of newer ones, as an administrator knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct PatchedEngines(BTreeSet<PatchedEngine>);

impl PatchedEngines {
    /// Whether this one is new enough.
    fn admit(&self, engine: &EngineVersion) -> bool {
        let is_listed = |text: &str| !text.is_empty() && self.0.iter().any(|listed| listed.0 == text);
        engine.release().is_some_and(|release| release >= LEAST)
            || is_listed(&engine.name)
            || is_listed(&engine.package)
    }
}

/// Why nothing that isn't trusted runs on an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It is too old: why, with the cure, in words.
    TooOld(String),
    /// Nobody has said that it is fenced off.
    Unfenced,
}

/// What is said of an engine that nobody has fenced off, after "its machine isn't trusted, and ".
pub const UNFENCED_WORDS: &str = "nobody has said that its engine is fenced off from metadata services, the coordinator and other machines: whoever \
     runs it fences it off (docs/guide/untrusted.md says how), and starts it with `farm-worker --fenced-engine`";

impl Unfit {
    /// For people, after "its machine isn't trusted, and ".
    pub fn words(&self) -> &str {
        match self {
            Self::TooOld(words) => words,
            Self::Unfenced => UNFENCED_WORDS,
        }
    }
}

impl PatchedEngines {
    /// What keeps what isn't trusted from an engine whose worker has these features; `None`: nothing does.
    pub fn unfit(&self, engine: &EngineVersion, features: &[String]) -> Option<Unfit> {
        if !self.admit(engine) {
            return Some(Unfit::TooOld(engine.too_old()));
        }
        let is_fenced = features.iter().any(|feature| feature == FEATURE_FENCED);
        (!is_fenced).then_some(Unfit::Unfenced)
    }
}

impl Extend<PatchedEngine> for PatchedEngines {
    fn extend<I: IntoIterator<Item = PatchedEngine>>(&mut self, engines: I) {
        self.0.extend(engines);
    }
}

impl FromIterator<PatchedEngine> for PatchedEngines {
    fn from_iter<I: IntoIterator<Item = PatchedEngine>>(engines: I) -> Self {
        Self(engines.into_iter().collect())
    }
}

/// An engine as it is listed: `KIND VERSION` or `PACKAGE VERSION`, in full.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct PatchedEngine(String);

impl FromStr for PatchedEngine {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let words: Vec<&str> = text.split(' ').collect();
        match words[..] {
            [name, version] if !name.is_empty() && version.bytes().any(|b| b.is_ascii_digit()) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(Invalid::new(
                "patched engine",
                text,
                "write its name and its whole version with one blank between, as `farm workers` shows them: docker 28.5.2+dfsg4, or \
                 the package's: docker.io 28.5.2+dfsg4-5",
            )),
        }
    }
}

impl TryFrom<String> for PatchedEngine {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(buildkit: &str) -> EngineVersion {
        EngineVersion {
            name: "docker 28.5.2+dfsg4".to_owned(),
            buildkit: buildkit.to_owned(),
            package: "docker.io 28.5.2+dfsg4-5".to_owned(),
        }
    }

    fn listing(engines: &[&str]) -> PatchedEngines {
        engines.iter().map(|text| text.parse::<PatchedEngine>().unwrap()).collect()
    }

    #[test]
    fn releases_from_the_fixed_one_on_are_admitted_and_nothing_that_only_looks_like_one() {
        let nothing = PatchedEngines::default();
        for text in
            ["v0.31.2", "0.31.2", "v0.31.3", "v0.32.0", "v1.0.0", "v0.31.2-moby", "v0.31.2+dfsg1", "v0.100.0"]
        {
            assert!(nothing.admit(&of(text)), "{text}");
        }
        for text in [
            "",
            "v0.31.1",
            "v0.9.9",
            "v0.0.0+unknown",
            "v0.31.2-rc1",
            "v0.32.0-rc1",
            "v0.32.0-5-gabcdef",
            "v0.32",
            "0.31.2.1",
            "v0.+31.2",
            "v0.31.2 ",
            "vv0.31.2",
            "x",
            "v99999999999999999999.0.0",
        ] {
            assert!(!nothing.admit(&of(text)), "{text}");
        }
    }

    #[test]
    fn a_listed_version_is_admitted_and_none_that_is_like_it() {
        for listed in ["docker 28.5.2+dfsg4", "docker.io 28.5.2+dfsg4-5"] {
            assert!(listing(&[listed]).admit(&of("v0.0.0+unknown")), "{listed}");
        }
        for listed in
            ["docker 28.5.2", "docker 28.5.2+dfsg4-5", "docker.io 28.5.2+dfsg4-6", "Docker 28.5.2+dfsg4"]
        {
            assert!(!listing(&[listed]).admit(&of("")), "{listed}");
        }
        // One that says nothing is like nothing.
        assert!(!listing(&["docker 28.5.2"]).admit(&EngineVersion::default()));
        for text in ["", "docker", "docker ", " 28", "docker  28", "docker 28 5", "docker latest"] {
            assert!(text.parse::<PatchedEngine>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_engine_is_fit_if_it_is_new_enough_and_said_to_be_fenced_off() {
        let features = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let nothing = PatchedEngines::default();
        assert_eq!(nothing.unfit(&of("v0.31.2"), &features(&["tokens", FEATURE_FENCED])), None);
        assert_eq!(nothing.unfit(&of("v0.31.2"), &features(&["tokens", "fenced"])), Some(Unfit::Unfenced));
        let old = nothing.unfit(&of("v0.31.1"), &features(&[FEATURE_FENCED]));
        assert!(matches!(old, Some(Unfit::TooOld(words)) if words.contains("0.31.1")));
        assert!(Unfit::Unfenced.words().contains("farm-worker --fenced-engine"));
    }

    #[test]
    fn the_sentence_names_the_engine_the_least_and_the_line_to_write() {
        let words = of("v0.0.0+unknown").too_old();
        assert!(words.contains("docker 28.5.2+dfsg4, docker.io 28.5.2+dfsg4-5"), "{words}");
        assert!(words.contains("doesn't say which BuildKit") && words.contains("0.31.2 or newer"), "{words}");
        assert!(words.contains(r#"patched_engines = ["docker.io 28.5.2+dfsg4-5"]"#), "{words}");
        let bare = EngineVersion { package: String::new(), ..of("") }.too_old();
        assert!(bare.contains(r#"["docker 28.5.2+dfsg4"]"#), "{bare}");
        assert!(of("v0.31.1").too_old().contains("has BuildKit 0.31.1,"));
    }
}
