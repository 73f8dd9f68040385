//! Whose programs run when an image is built for one platform, and by which means.
//!
//! An image that only files are copied into, or that is cross-compiled on the engine's own platform, can be built by any
//! worker. [`Runs`] is what is known of that before a job begins, [`RunMode`] what became of it. Invariant: what isn't known
//! is [`Runs::Target`], so that such a job goes to a worker that runs its platform.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;
use crate::platform::{Platform, Support};

/// Whose programs the build of one platform runs.
///
/// As text: `target`; or `none`; or, separated by commas, `engine` and platforms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Runs {
    /// Those of the platform that is built for, maybe others besides; or it isn't known.
    #[default]
    Target,
    /// None of that platform.
    Others {
        /// Some of the engine's own platform, whichever that is.
        engine: bool,
        /// Some of these.
        platforms: BTreeSet<Platform>,
    },
}

impl Runs {
    /// No program at all.
    pub fn nothing() -> Self {
        Self::Others { engine: false, platforms: BTreeSet::new() }
    }

    /// The platforms that must run where this one is built.
    pub fn needed<'a>(&'a self, target: &'a Platform) -> Vec<&'a Platform> {
        match self {
            Self::Target => vec![target],
            Self::Others { platforms, .. } => platforms.iter().collect(),
        }
    }
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Others { engine, platforms } = self else { return f.write_str("target") };
        if !engine && platforms.is_empty() {
            return f.write_str("none");
        }
        let words = engine.then(|| "engine".to_owned()).into_iter();
        let words: Vec<String> = words.chain(platforms.iter().map(ToString::to_string)).collect();
        f.write_str(&words.join(","))
    }
}

impl FromStr for Runs {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "target" => return Ok(Self::Target),
            "none" => return Ok(Self::nothing()),
            _ => {}
        }
        let (mut engine, mut platforms) = (false, BTreeSet::new());
        for word in text.split(',') {
            if word == "engine" {
                engine = true;
            } else {
                platforms.insert(word.parse()?);
            }
        }
        Ok(Self::Others { engine, platforms })
    }
}

impl TryFrom<String> for Runs {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Runs> for String {
    fn from(runs: Runs) -> Self {
        runs.to_string()
    }
}

/// How a worker runs the programs that an attempt needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunMode {
    /// By its own CPU.
    Native,
    /// Some of them by an emulator.
    Emulated,
    /// The worker doesn't offer the platform natively, and needn't: no program of it runs.
    Unneeded,
}

impl RunMode {
    /// `native`, `emulated` or `unneeded`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => Support::Native.as_str(),
            Self::Emulated => Support::Emulated.as_str(),
            Self::Unneeded => "unneeded",
        }
    }
}

impl From<Support> for RunMode {
    fn from(support: Support) -> Self {
        match support {
            Support::Native => Self::Native,
            Support::Emulated => Self::Emulated,
        }
    }
}

impl FromStr for RunMode {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == Self::Unneeded.as_str() { Ok(Self::Unneeded) } else { Ok(text.parse::<Support>()?.into()) }
    }
}

impl fmt::Display for RunMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_read_back_as_what_they_say() {
        for (text, needed) in [
            ("target", vec!["linux/s390x"]),
            ("none", vec![]),
            ("engine", vec![]),
            ("engine,linux/amd64", vec!["linux/amd64"]),
            ("linux/amd64,linux/arm64", vec!["linux/amd64", "linux/arm64"]),
        ] {
            let runs: Runs = text.parse().unwrap();
            assert_eq!(runs.to_string(), text);
            let target = "linux/s390x".parse().unwrap();
            let found: Vec<String> = runs.needed(&target).iter().map(ToString::to_string).collect();
            assert_eq!(found, needed, "{text}");
        }
        for wrong in ["", "nothing", "engine,", "none,engine"] {
            assert!(wrong.parse::<Runs>().is_err(), "{wrong}");
        }
        for mode in [RunMode::Native, RunMode::Emulated, RunMode::Unneeded] {
            assert_eq!(mode.as_str().parse::<RunMode>().unwrap(), mode);
        }
    }
}
