//! What a build may be allowed beyond a step's walls: BuildKit's entitlements, as `--allow` names them.
//!
//! Nobody has any unless all of three give it: the build asks, its project may, and its worker's machine may.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;
use crate::suggest::nearest;

/// What RUN instructions may be given, if whoever may say so has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Entitlement {
    /// The engine's own network (`RUN --network=host`, `--network host`): all that listens there, also on its loopback.
    #[serde(rename = "network.host")]
    NetworkHost,
    /// No walls (`RUN --security=insecure`): root on the engine's machine.
    #[serde(rename = "security.insecure")]
    SecurityInsecure,
}

/// Several of them.
pub type Entitlements = BTreeSet<Entitlement>;

impl Entitlement {
    /// All.
    pub const ALL: [Self; 2] = [Self::NetworkHost, Self::SecurityInsecure];

    /// BuildKit's word for it, and ours. A worker that may give it says so by the same word, as a feature.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
        }
    }

    /// Those that stand among a worker's features.
    pub fn among(features: &[String]) -> Entitlements {
        Self::ALL.into_iter().filter(|one| features.iter().any(|feature| feature == one.as_str())).collect()
    }

    /// Reads a list with commas between; an empty one has none.
    ///
    /// # Errors
    /// One of them isn't known.
    pub fn list(text: &str) -> Result<Entitlements, Invalid> {
        text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::parse).collect()
    }
}

/// A list of them for people: `network.host and security.insecure`.
pub fn words(all: &Entitlements) -> String {
    let names: Vec<&str> = all.iter().map(|one| one.as_str()).collect();
    names.join(" and ")
}

/// A list of them as flags take it: `network.host,security.insecure`.
pub fn listed(all: &Entitlements) -> String {
    let names: Vec<&str> = all.iter().map(|one| one.as_str()).collect();
    names.join(",")
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Entitlement {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Some(known) = Self::ALL.into_iter().find(|one| one.as_str() == text) {
            return Ok(known);
        }
        let name = text.split_once('=').map_or(text, |(name, _)| name);
        let cure = match name {
            "network.host" | "security.insecure" => format!("it takes no value; write {name}"),
            "device" => "a worker's devices are not for builds; leave it out".to_owned(),
            "buildx.local.delete" => "farm deletes nothing where an output goes; leave it out".to_owned(),
            "ssh" | "fs" | "image" | "registry" => of_bake(),
            _ if ["fs.", "image.", "registry."].iter().any(|kind| name.starts_with(kind)) => of_bake(),
            _ => {
                let words = Self::ALL.map(Self::as_str);
                let meant =
                    nearest(text, words).map(|near| format!("did you mean {near}? ")).unwrap_or_default();
                format!("{meant}there are {}", words.join(" and "))
            }
        };
        Err(Invalid::new("entitlement", text, cure))
    }
}

fn of_bake() -> String {
    "that is for docker buildx bake, whose file may name files of your machine; a build reads its context only".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_for_builds_is_refused_with_what_it_would_be() {
        assert_eq!(Entitlement::list("network.host, security.insecure,").unwrap().len(), 2);
        assert_eq!(Entitlement::list("").unwrap(), Entitlements::new());
        for (text, cure) in [
            ("network.hots", "did you mean network.host?"),
            ("root", "there are network.host and security.insecure"),
            ("network.host=eth0", "takes no value"),
            ("device", "devices are not for builds"),
            ("device=nvidia.com/gpu=all", "devices are not for builds"),
            ("fs.read=/etc", "docker buildx bake"),
            ("fs=/", "docker buildx bake"),
            ("ssh", "docker buildx bake"),
            ("buildx.local.delete", "deletes nothing"),
        ] {
            let error = text.parse::<Entitlement>().unwrap_err().to_string();
            assert!(error.contains(cure), "{text}: {error}");
        }
    }

    #[test]
    fn a_workers_features_may_hold_anything() {
        let features = ["progress", "network.host", "network.hosts", "device"].map(str::to_owned);
        assert_eq!(Entitlement::among(&features), [Entitlement::NetworkHost].into());
        assert_eq!(words(&Entitlement::ALL.into()), "network.host and security.insecure");
        assert_eq!(listed(&Entitlement::ALL.into()), "network.host,security.insecure");
        let json = serde_json::to_string(&Entitlements::from(Entitlement::ALL)).unwrap();
        assert_eq!(json, r#"["network.host","security.insecure"]"#);
    }
}
