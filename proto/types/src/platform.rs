//! Platforms, always in containerd's normal form, and how a worker supports them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;
use crate::suggest::nearest;

/// A platform `os/architecture[/variant]`, normalised as containerd's `platforms` package does: `arm64/v8`
/// is `arm64`, `amd64/v1` is `amd64`, `arm` is `arm/v7`, `x86_64` is `amd64`, `aarch64` is `arm64`.
///
/// Only Linux is built by farm; other systems are refused when they are parsed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    os: String,
    architecture: String,
    variant: String,
}

/// The architectures that BuildKit's Linux workers know, by GOARCH name.
pub const ARCHITECTURES: &[&str] =
    &["amd64", "arm64", "arm", "386", "riscv64", "ppc64le", "s390x", "loong64", "mips64le", "mips64"];

/// Other names of architectures: (as written, architecture, variant).
const ALIASES: &[(&str, &str, &str)] = &[
    ("x86_64", "amd64", ""),
    ("x86-64", "amd64", ""),
    ("aarch64", "arm64", ""),
    ("i386", "386", ""),
    ("i686", "386", ""),
    ("armhf", "arm", "v7"),
    ("armel", "arm", "v6"),
    ("armv7l", "arm", "v7"),
];

impl Platform {
    /// Normalises the three parts as an image's config or an index names them; an empty `os` is Linux.
    ///
    /// # Errors
    /// The system isn't Linux, the architecture is unknown, or the variant doesn't go with it.
    pub fn from_parts(os: &str, architecture: &str, variant: &str) -> Result<Self, Invalid> {
        let written = match variant {
            "" => format!("{os}/{architecture}"),
            _ => format!("{os}/{architecture}/{variant}"),
        };
        let invalid = |cure: String| Err(Invalid::new("platform", &written, cure));
        let os = if os.is_empty() { "linux".to_owned() } else { os.to_ascii_lowercase() };
        if os != "linux" {
            if ARCHITECTURES.contains(&os.as_str()) || ALIASES.iter().any(|a| a.0 == os) {
                return invalid(format!("write the system first, for example linux/{os}"));
            }
            let guess = nearest(&os, ["linux"]).map(|_| "; did you mean linux?").unwrap_or_default();
            return invalid(format!("farm builds for linux only, not for {os:?}{guess}"));
        }
        let architecture = architecture.to_ascii_lowercase();
        let (architecture, implied) = match ALIASES.iter().find(|alias| alias.0 == architecture) {
            Some(&(_, name, variant)) => (name.to_owned(), variant),
            None => (architecture, ""),
        };
        if !ARCHITECTURES.contains(&architecture.as_str()) {
            let known = ARCHITECTURES.iter().chain(ALIASES.iter().map(|alias| &alias.0)).copied();
            return invalid(match nearest(&architecture, known) {
                Some(guess) => format!("unknown architecture {architecture:?}; did you mean {guess}?"),
                None => {
                    format!("unknown architecture {architecture:?}; known are {}", ARCHITECTURES.join(", "))
                }
            });
        }
        let variant = if variant.is_empty() { implied.to_owned() } else { variant.to_ascii_lowercase() };
        let bare = variant.strip_prefix('v').unwrap_or(&variant);
        let variant = match (architecture.as_str(), bare) {
            ("arm64", "" | "8") | ("amd64", "" | "1") => String::new(),
            ("arm", "") => "v7".to_owned(),
            ("arm", "5" | "6" | "7" | "8") | ("amd64", "2" | "3" | "4") | ("arm64", "9") => {
                format!("v{bare}")
            }
            (_, "") => String::new(),
            (_, _) => {
                return invalid(format!("architecture {architecture} has no variant {variant:?}"));
            }
        };
        Ok(Self { os, architecture, variant })
    }

    /// What stands where rows and messages name a platform, for a job that is for none; nobody is shown it.
    pub fn none() -> Self {
        Self { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: String::new() }
    }

    /// The system: `linux`.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The architecture, by its GOARCH name.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The variant, like `v7`, or the empty string.
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// The normal form `linux/arm/v7` as a file name or a tag may hold it: `linux-arm-v7`.
    pub fn slug(&self) -> String {
        self.to_string().replace('/', "-")
    }

    /// Parses a list as `--platform` takes it: separated by commas, blanks around them are dropped, the
    /// order is kept, and what stands twice (after normalising) counts once.
    ///
    /// # Errors
    /// The first entry that is no platform, or an empty list.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, Invalid> {
        let mut list = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let platform: Self = part.parse()?;
            if !list.contains(&platform) {
                list.push(platform);
            }
        }
        if list.is_empty() {
            return Err(Invalid::new("platform", text, "name at least one, for example linux/amd64"));
        }
        Ok(list)
    }
}

impl FromStr for Platform {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parts: Vec<&str> = text.trim().split('/').collect();
        match parts[..] {
            ["linux"] | [""] => {
                Err(Invalid::new("platform", text, "write os/architecture, for example linux/amd64"))
            }
            // `docker buildx build --platform arm64` means linux/arm64.
            [architecture] => Self::from_parts("linux", architecture, "").map_err(|mut e| {
                e.value = text.to_owned();
                e
            }),
            [os, architecture] => Self::from_parts(os, architecture, ""),
            [os, architecture, variant] => Self::from_parts(os, architecture, variant),
            _ => Err(Invalid::new(
                "platform",
                text,
                "write os/architecture[/variant], for example linux/arm64",
            )),
        }
    }
}

impl TryFrom<String> for Platform {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.to_string()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a worker runs a platform's executables. The order is the scheduler's preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Support {
    /// By its own CPU.
    Native,
    /// By QEMU's user mode emulation, registered with the kernel's binfmt_misc.
    Emulated,
}

impl Support {
    /// `native` or `emulated`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Emulated => "emulated",
        }
    }
}

impl FromStr for Support {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "native" => Ok(Self::Native),
            "emulated" => Ok(Self::Emulated),
            _ => Err(Invalid::new("platform support", text, "write native or emulated")),
        }
    }
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A platform that a worker offers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Offer {
    /// Which platform.
    pub platform: Platform,
    /// Natively or emulated.
    pub support: Support,
    /// True when the worker's owner said so (`--platforms`); false when a probe build proved it.
    pub told: bool,
}

impl Offer {
    /// The offers for people: those of an architecture's variants (`v2`, `v3` of amd64) with the plain one, if there is one of
    /// the same support.
    pub fn grouped(offers: &[Self]) -> Vec<(&Self, Vec<&str>)> {
        let plain = |offer: &Self, other: &Self| {
            let (a, b) = (&offer.platform, &other.platform);
            a.variant.is_empty()
                && (&a.os, &a.architecture) == (&b.os, &b.architecture)
                && offer.support == other.support
        };
        let is_below = |offer: &&Self| {
            !offer.platform.variant.is_empty() && offers.iter().any(|other| plain(other, offer))
        };
        let heads = offers.iter().filter(|offer| !is_below(offer));
        heads
            .map(|head| {
                let below = offers.iter().filter(is_below).filter(|offer| plain(head, offer));
                let mut variants: Vec<&str> = below.map(|offer| offer.platform.variant()).collect();
                variants.sort_unstable();
                (head, variants)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> String {
        text.parse::<Platform>().unwrap().to_string()
    }

    #[test]
    fn platforms_are_normalised_as_containerd_does() {
        for (written, normal) in [
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("Linux/AArch64", "linux/arm64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/i386", "linux/386"),
            ("arm64", "linux/arm64"),
        ] {
            assert_eq!(parsed(written), normal, "{written}");
        }
    }

    #[test]
    fn a_mistyped_platform_is_answered_with_a_guess() {
        let error = |text: &str| text.parse::<Platform>().unwrap_err().to_string();
        assert!(error("linux/arm46").ends_with("did you mean arm64?"), "{}", error("linux/arm46"));
        assert!(error("linus/arm64").ends_with("did you mean linux?"));
        assert!(error("amd64/linux").contains("linux/amd64"));
        assert!(error("windows/amd64").contains("linux only"));
        assert!(error("linux/amd64/v9").contains("no variant"));
        assert!(error("linux").contains("os/architecture"));
        assert!(error("a/b/c/d").contains("[/variant]"));
    }

    #[test]
    fn variants_stand_with_the_plain_platform_where_that_is_offered_alike() {
        let offer = |(platform, support): &(&str, Support)| {
            let platform = platform.parse().unwrap();
            Offer { platform, support: *support, told: false }
        };
        let shown = |offers: &[(&str, Support)]| {
            let offers: Vec<Offer> = offers.iter().map(offer).collect();
            let groups = Offer::grouped(&offers).into_iter();
            groups
                .map(|(head, variants)| format!("{} {}", head.platform, variants.join("+")))
                .collect::<Vec<_>>()
        };
        use Support::{Emulated, Native};
        assert_eq!(
            shown(&[
                ("linux/386", Native),
                ("linux/amd64/v3", Native),
                ("linux/amd64", Native),
                ("linux/amd64/v2", Native)
            ]),
            ["linux/386 ", "linux/amd64 v2+v3"]
        );
        assert_eq!(
            shown(&[("linux/arm/v7", Native), ("linux/arm/v6", Native), ("linux/amd64", Native)]),
            ["linux/arm/v7 ", "linux/arm/v6 ", "linux/amd64 "]
        );
        assert_eq!(
            shown(&[("linux/amd64", Emulated), ("linux/amd64/v2", Native)]),
            ["linux/amd64 ", "linux/amd64/v2 "]
        );
    }

    #[test]
    fn a_list_keeps_its_order_and_drops_what_is_equal_after_normalising() {
        let list = Platform::parse_list(" linux/arm64/v8, linux/amd64,linux/arm64").unwrap();
        assert_eq!(list.iter().map(ToString::to_string).collect::<Vec<_>>(), ["linux/arm64", "linux/amd64"]);
        assert!(Platform::parse_list(" , ").is_err());
    }

    proptest! {
        #[test]
        fn the_normal_form_reads_back_as_itself(text in "(linux/)?(amd64|arm64|arm|386|s390x)(/v[1-9])?") {
            if let Ok(platform) = text.parse::<Platform>() {
                prop_assert_eq!(platform.to_string().parse::<Platform>().unwrap(), platform);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = text.parse::<Platform>();
        }
    }
}
