//! Which platforms the engine runs, and how.
//!
//! What an engine says of itself is neither complete nor always true (an emulator that was switched off
//! stays in a buildkitd's list; one that was registered may be missing in it), and neither is the kernel's
//! list of emulators. So both only give candidates, and a tiny build on the engine proves each of them.
//!
//! Invariant: a platform that was not proved is offered only when the worker's owner said so.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use farm_types::{Offer, Platform, Support};

use crate::buildkit::{Engine, EngineDescription};

/// How long a build that proves a platform, or an engine, may take.
pub const PROOF_WITHIN: Duration = Duration::from_secs(60);
/// Where the kernel tells of its emulators.
const BINFMT: &str = "/proc/sys/fs/binfmt_misc";

/// QEMU's names of the emulators that `binfmt` entries have, and the architectures that they run.
const EMULATORS: &[(&str, &str)] = &[
    ("qemu-aarch64", "arm64"),
    ("qemu-arm", "arm"),
    ("qemu-i386", "386"),
    ("qemu-x86_64", "amd64"),
    ("qemu-riscv64", "riscv64"),
    ("qemu-ppc64le", "ppc64le"),
    ("qemu-s390x", "s390x"),
    ("qemu-loongarch64", "loong64"),
    ("qemu-mips64el", "mips64le"),
    ("qemu-mips64", "mips64"),
];

/// Which platforms a worker offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// All that are found and proven.
    Found,
    /// Of these the ones that run so.
    Only(Support),
    /// These, without a proof.
    Told(Vec<Offer>),
}

impl Choice {
    fn takes(&self, support: Support) -> bool {
        match self {
            Self::Found | Self::Told(_) => true,
            Self::Only(only) => *only == support,
        }
    }
}

/// Finds the platforms that the engine runs, each proved by a build that runs an executable of it. Those
/// that were told are offered as told, without a proof. What is refused is logged, with the reason.
pub(crate) async fn find(engine: &Engine, description: &EngineDescription, choice: &Choice) -> Vec<Offer> {
    if let Choice::Told(told) = choice {
        return told.clone();
    }
    let is_here = is_here(engine, description);
    let emulators = if is_here { emulators(Path::new(BINFMT)) } else { BTreeSet::new() };
    let candidates = candidates(description, &emulators, is_here);
    let candidates = candidates.into_iter().filter(|(_, support)| choice.takes(*support));
    let (levels, others): (Vec<_>, Vec<_>) =
        candidates.partition(|(platform, support)| *support == Support::Native && is_level(platform));
    let others = others.into_iter().map(|candidate| prove(engine, candidate));
    let (others, levels) =
        futures::future::join(futures::future::join_all(others), prove_highest(engine, levels)).await;
    others.into_iter().flatten().chain(levels).collect()
}

/// Whether a platform is a feature level of its architecture: each has all that those below it have.
fn is_level(platform: &Platform) -> bool {
    platform.architecture() == "amd64" && !platform.variant().is_empty()
}

/// Proves the highest of these levels that runs, and offers it with those below.
async fn prove_highest(engine: &Engine, mut levels: Vec<(Platform, Support)>) -> Vec<Offer> {
    levels.sort();
    while let Some(highest) = levels.pop() {
        if let Some(proved) = prove(engine, highest).await {
            let below =
                levels.into_iter().map(|(platform, support)| Offer { platform, support, told: false });
            return below.chain([proved]).collect();
        }
    }
    Vec::new()
}

async fn prove(engine: &Engine, (platform, support): (Platform, Support)) -> Option<Offer> {
    match tokio::time::timeout(PROOF_WITHIN, engine.probe(&platform)).await {
        Ok(Ok(())) => Some(Offer { platform, support, told: false }),
        Ok(Err(error)) => {
            tracing::info!(%platform, %support, %error, "not offered: the probe build failed");
            None
        }
        Err(_) => {
            tracing::info!(%platform, %support, "not offered: the probe build took longer than {PROOF_WITHIN:?}");
            None
        }
    }
}

/// True when the engine runs on this machine's kernel, as far as that can be told.
fn is_here(engine: &Engine, description: &EngineDescription) -> bool {
    let ours = Platform::from_parts("linux", std::env::consts::ARCH, "");
    engine.address().to_string().starts_with("unix://")
        && ours.is_ok_and(|ours| ours.architecture() == description.architecture)
}

/// What may be offered, natively first. Without knowledge of the engine's kernel, all that it lists besides
/// its own architecture counts as emulated.
fn candidates(
    description: &EngineDescription,
    emulators: &BTreeSet<&'static str>,
    is_here: bool,
) -> Vec<(Platform, Support)> {
    let own = description.architecture.as_str();
    let compatible: &[(&str, &str)] = match own {
        "amd64" => &[("386", "")],
        "arm64" => &[("arm", "v7"), ("arm", "v6")],
        "arm" => &[("arm", "v6")],
        _ => &[],
    };
    let mut found: Vec<(Platform, Support)> = Vec::new();
    let mut add = |architecture: &str, variant: &str, support| {
        if let Ok(platform) = Platform::from_parts("linux", architecture, variant)
            && !found.iter().any(|(known, _)| *known == platform)
        {
            found.push((platform, support));
        }
    };
    add(own, "", Support::Native);
    if is_here {
        // The kernel asks its emulators first, so what has one is emulated even where the CPU could do it.
        for (architecture, variant) in compatible.iter().filter(|c| !emulators.contains(c.0)) {
            add(architecture, variant, Support::Native);
        }
    }
    for architecture in emulators.iter().copied().filter(|architecture| *architecture != own) {
        add(architecture, "", Support::Emulated);
        if architecture == "arm" {
            add(architecture, "v6", Support::Emulated);
        }
    }
    for platform in &description.platforms {
        // Finer variants of its own architecture are what its CPU can do besides.
        let is_own = platform.architecture() == own;
        let support = if is_own { Support::Native } else { Support::Emulated };
        add(platform.architecture(), platform.variant(), support);
    }
    found
}

/// The architectures that have an emulator which works inside containers too: enabled, and with flag F (the
/// kernel opened it when it was registered).
fn emulators(folder: &Path) -> BTreeSet<&'static str> {
    let works = |name: &str| {
        fs::read_to_string(folder.join(name)).is_ok_and(|entry| {
            let flags = entry.lines().find_map(|line| line.strip_prefix("flags:"));
            entry.lines().next() == Some("enabled") && flags.is_some_and(|flags| flags.contains('F'))
        })
    };
    let is_on = fs::read_to_string(folder.join("status")).is_ok_and(|status| status.trim() == "enabled");
    EMULATORS.iter().filter(|(name, _)| is_on && works(name)).map(|(_, architecture)| *architecture).collect()
}

/// The platforms for people: `linux/amd64 (v2, v3) native, linux/arm64 emulated`.
pub fn describe(offers: &[Offer]) -> String {
    let words: Vec<_> = Offer::grouped(offers)
        .into_iter()
        .map(|(offer, variants)| match variants.is_empty() {
            true => format!("{} {}", offer.platform, offer.support),
            false => format!("{} ({}) {}", offer.platform, variants.join(", "), offer.support),
        })
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buildkit::EngineKind;

    fn found(own: &str, listed: &[&str], emulators: &[&'static str], is_here: bool) -> String {
        let description = EngineDescription {
            key: "k".into(),
            kind: EngineKind::Docker,
            version: "1".into(),
            buildkit: String::new(),
            package: String::new(),
            platforms: listed.iter().map(|platform| platform.parse().unwrap()).collect(),
            containerd_store: true,
            architecture: own.into(),
        };
        let emulators = emulators.iter().copied().collect();
        let offers: Vec<_> = candidates(&description, &emulators, is_here)
            .into_iter()
            .map(|(platform, support)| Offer { platform, support, told: false })
            .collect();
        describe(&offers)
    }

    #[test]
    fn an_engine_here_is_native_for_its_cpu_and_emulates_what_the_kernel_knows() {
        let listed = ["linux/amd64", "linux/amd64/v2", "linux/arm64", "linux/amd64/v3"];
        assert_eq!(
            found("amd64", &listed, &["arm64"], true),
            "linux/amd64 (v2, v3) native, linux/386 native, linux/arm64 emulated"
        );
        // Not in the engine's list, but registered.
        assert_eq!(
            found("amd64", &["linux/amd64"], &["arm", "386"], true),
            "linux/amd64 native, linux/386 emulated, linux/arm/v7 emulated, linux/arm/v6 emulated"
        );
        assert_eq!(
            found("arm64", &[], &[], true),
            "linux/arm64 native, linux/arm/v7 native, linux/arm/v6 native"
        );
    }

    #[test]
    fn an_engine_elsewhere_emulates_all_but_its_own() {
        let listed = ["linux/arm64", "linux/amd64", "linux/arm/v7"];
        assert_eq!(
            found("arm64", &listed, &[], false),
            "linux/arm64 native, linux/amd64 emulated, linux/arm/v7 emulated"
        );
    }

    #[test]
    fn an_emulator_counts_when_it_is_enabled_and_works_in_containers() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("status", "enabled\n");
        write("qemu-aarch64", "enabled\ninterpreter /usr/bin/q\nflags: PF\noffset 0\n");
        write("qemu-arm", "disabled\ninterpreter /usr/bin/q\nflags: F\n");
        write("qemu-s390x", "enabled\ninterpreter /usr/bin/q\nflags: \n");
        assert_eq!(emulators(folder.path()), BTreeSet::from(["arm64"]));
        write("status", "disabled\n");
        assert!(emulators(folder.path()).is_empty());
        assert!(emulators(Path::new("/nonexistent")).is_empty());
    }
}
