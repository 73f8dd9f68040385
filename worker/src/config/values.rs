//! What flags' texts become: names, slots, platforms, places, sizes and spans, each checked where it is read.

use std::str::FromStr;
use std::time::Duration;

use farm_types::spec::parse_duration;
use farm_types::{Invalid, Offer, Support};

use crate::buildkit::Place;

/// More at once is a slip of the finger.
const MOST_SLOTS: usize = 1024;

/// A worker's name: at most 63 letters, digits, dots, dashes and underscores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkerName(pub(super) String);

impl std::fmt::Display for WorkerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for WorkerName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        farm_types::ids::check_worker_name(text)?;
        Ok(Self(text.to_owned()))
    }
}

/// How many jobs run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slots(pub(super) usize);

impl FromStr for Slots {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.parse() {
            Ok(slots) if (1..=MOST_SLOTS).contains(&slots) => Ok(Self(slots)),
            _ => Err(Invalid::new("slots", text, format!("write a number from 1 to {MOST_SLOTS}"))),
        }
    }
}

/// What `--platforms` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ToldPlatforms(pub(super) Vec<Offer>);

impl FromStr for ToldPlatforms {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut offers: Vec<Offer> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (platform, support) = match part.split_once('=') {
                Some((platform, support)) => (platform.parse()?, support.parse()?),
                None => (part.parse()?, Support::Native),
            };
            if offers.iter().any(|offer| offer.platform == platform) {
                return Err(Invalid::new("platform", part, "it stands twice; leave one of them out"));
            }
            offers.push(Offer { platform, support, told: true });
        }
        if offers.is_empty() {
            let cure =
                "name at least one, for example linux/amd64; or leave the flag out, and they are found";
            return Err(Invalid::new("platforms", text, cure));
        }
        Ok(Self(offers))
    }
}

/// A span of time.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok_or_else(|| "write a number and a unit, like 90s, 10m or 2h; at most 30 days".to_owned())
}

/// What `--fetch-from` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places(pub(super) Vec<Place>);

pub(super) fn places(text: &str) -> Result<Places, Invalid> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(str::parse).collect::<Result<_, _>>().map(Places)
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid =
            || Invalid::new("size", text, "write bytes, or a number and a unit, like 500MB or 10GiB");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1000_u64.pow(2),
            "gb" => 1000_u64.pow(3),
            "tb" => 1000_u64.pow(4),
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            _ => return Err(invalid()),
        };
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).map(Self).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_kinds_of_units() {
        for (text, bytes) in
            [("0", 0), ("512", 512), ("500MB", 500_000_000), ("10GiB", 10 << 30), ("1 kib", 1024)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "GiB", "10G", "1.5GB", "-1", "99999999TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn slots_are_a_small_number() {
        assert_eq!("4".parse(), Ok(Slots(4)));
        for text in ["0", "-1", "many", "99999"] {
            assert!(text.parse::<Slots>().unwrap_err().to_string().contains("1 to 1024"), "{text}");
        }
    }

    #[test]
    fn told_platforms_are_native_unless_said() {
        let told: ToldPlatforms = "linux/amd64, arm64=emulated".parse().unwrap();
        let offers: Vec<_> = told.0.iter().map(|o| (o.platform.to_string(), o.support, o.told)).collect();
        let amd64 = ("linux/amd64".to_owned(), Support::Native, true);
        assert_eq!(offers, [amd64, ("linux/arm64".to_owned(), Support::Emulated, true)]);
        let error = |text: &str| text.parse::<ToldPlatforms>().unwrap_err().to_string();
        assert!(error("linux/arm46").contains("did you mean arm64"));
        assert!(error("linux/arm64=qemu").contains("native or emulated"));
        assert!(error("arm64,linux/arm64/v8=emulated").contains("twice"));
        assert!(error("").contains("at least one"));
    }
}
