//! How RUN instructions run: what `--network`, `--allow`, `--add-host`, `--shm-size` and `--ulimit` say.
//!
//! The texts are those that BuildKit's dockerfile frontend takes (`frontend/dockerui/attr.go`).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::entitlement::{Entitlement, Entitlements};
use crate::error::Invalid;

/// What RUN instructions get.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOptions {
    /// `--network`.
    #[serde(default)]
    pub network: Network,
    /// `--allow`.
    #[serde(default, skip_serializing_if = "Entitlements::is_empty")]
    pub allow: Entitlements,
    /// `--add-host`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_hosts: Vec<AddHost>,
    /// `--shm-size`, bytes; `None`: the engine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_bytes: Option<u64>,
    /// `--ulimit`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<Ulimit>,
    /// The machine's name as they see it; `None`: the engine's own choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Hostname>,
}

impl RunOptions {
    /// All that is asked for, also by `--network host`.
    pub fn entitlements(&self) -> Entitlements {
        let of_network = (self.network == Network::Host).then_some(Entitlement::NetworkHost);
        self.allow.iter().copied().chain(of_network).collect()
    }
}

/// A machine's name: one label of letters, digits and hyphens (RFC 1123).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Hostname(String);

impl FromStr for Hostname {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let is_part = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let is_whole = (1..=63).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-');
        if is_whole && text.bytes().all(is_part) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid::new("hostname", text, "write 1 to 63 letters, digits and hyphens"))
        }
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Hostname> for String {
    fn from(hostname: Hostname) -> Self {
        hostname.0
    }
}

impl TryFrom<String> for Hostname {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

/// Which network RUN instructions have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The engine's.
    #[default]
    Default,
    /// None but a loopback.
    None,
    /// That of the engine's own process, which takes an entitlement.
    Host,
}

impl Network {
    /// The word that stands for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::None => "none",
            Self::Host => "host",
        }
    }
}

impl FromStr for Network {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "default" => Ok(Self::Default),
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            _ => Err(Invalid::new("network", text, "write default, none or host")),
        }
    }
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct AddHost {
    host: String,
    address: IpAddr,
}

impl FromStr for AddHost {
    type Err = Invalid;

    /// Reads `HOST=ADDRESS`, or Docker's older `HOST:ADDRESS`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |cure: &str| Invalid::new("host", text, cure);
        let shape = "write HOST=ADDRESS, for example db=10.0.0.7 or db=fd00::7";
        let (host, address) =
            text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(|| invalid(shape))?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || !host.chars().all(is_name) {
            return Err(invalid(shape));
        }
        if address == "host-gateway" {
            return Err(invalid(
                "farm's builds run on many machines, and none of them is your host; write an address",
            ));
        }
        // One pair of brackets, around addresses of both kinds.
        let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']')).unwrap_or(address);
        Ok(Self { host: host.to_owned(), address: bare.parse().map_err(|_| invalid(shape))? })
    }
}

impl fmt::Display for AddHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.host, self.address)
    }
}

/// A limit of processes (getrlimit(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Ulimit {
    name: String,
    soft: i64,
    hard: i64,
}

/// The names that Docker knows (docker/go-units, ulimit.go).
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

impl FromStr for Ulimit {
    type Err = Invalid;

    /// Reads `NAME=SOFT` or `NAME=SOFT:HARD`; -1 is no limit.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |cure: String| Invalid::new("ulimit", text, cure);
        let shape = || invalid("write NAME=SOFT or NAME=SOFT:HARD, for example nofile=1024:4096".to_owned());
        let (name, limits) = text.split_once('=').ok_or_else(shape)?;
        if !ULIMITS.contains(&name) {
            return Err(invalid(format!("the names are {}", ULIMITS.join(", "))));
        }
        let number = |text: &str| text.parse::<i64>().ok().filter(|n| *n >= -1).ok_or_else(shape);
        let (soft, hard) = match limits.split_once(':') {
            Some((soft, hard)) => (number(soft)?, number(hard)?),
            None => (number(limits)?, number(limits)?),
        };
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(invalid("the soft limit is above the hard one".to_owned()));
        }
        Ok(Self { name: name.to_owned(), soft, hard })
    }
}

impl Ulimit {
    /// Which limit.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Ulimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}:{}", self.name, self.soft, self.hard)
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }

        impl TryFrom<String> for $type {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }
    };
}

as_text!(AddHost);
as_text!(Ulimit);

/// Reads `64m`, `1.5g`, `512kB`, `64 MiB`, `1048576`: powers of 1024, as `--shm-size` does (docker/go-units, `RAMInBytes`).
///
/// # Errors
/// It is no such text.
pub fn parse_bytes(text: &str) -> Result<u64, Invalid> {
    let invalid = || Invalid::new("size", text, "write bytes, or 64m, 1.5g; the units are b, k, m, g, t, p");
    let lower = text.to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let power = match unit.strip_prefix(' ').unwrap_or(unit) {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(invalid()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| match text {
        "" => Some(0),
        text if text.bytes().all(|b| b.is_ascii_digit()) => text.parse::<u128>().ok(),
        _ => None,
    };
    let of = 1024_u128.pow(power);
    let bytes = || {
        let parts = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let part = digits(fraction)?.checked_mul(of)? / parts;
        u64::try_from(digits(whole)?.checked_mul(of)?.checked_add(part)?).ok()
    };
    // The engine counts in signed numbers.
    let is_number = !whole.is_empty() || !fraction.is_empty();
    bytes().filter(|bytes| is_number && i64::try_from(*bytes).is_ok()).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_in_both_ways_and_given_in_buildkits() {
        for (text, read) in [
            ("db=10.0.0.7", "db=10.0.0.7"),
            ("db:10.0.0.7", "db=10.0.0.7"),
            ("a.b-c_d:fd00::7", "a.b-c_d=fd00::7"),
            ("db=[fd00::7]", "db=fd00::7"),
            ("db:[::1]", "db=::1"),
            ("db=[10.0.0.7]", "db=10.0.0.7"),
        ] {
            assert_eq!(text.parse::<AddHost>().unwrap().to_string(), read);
        }
        for text in [
            "",
            "db",
            "db=",
            "=10.0.0.7",
            "db=x",
            "d,b=10.0.0.7",
            "d b=10.0.0.7",
            "db=10.0.0.7,x=10.0.0.8",
            "db=[[::1]]",
            "db=[::1",
        ] {
            assert!(text.parse::<AddHost>().is_err(), "{text}");
        }
        let error = "db:host-gateway".parse::<AddHost>().unwrap_err().to_string();
        assert!(error.contains("your host"), "{error}");
    }

    #[test]
    fn limits_and_sizes_are_read_as_docker_reads_them() {
        for (text, read) in [
            ("nofile=1024:4096", "nofile=1024:4096"),
            ("core=0", "core=0:0"),
            ("memlock=-1", "memlock=-1:-1"),
        ] {
            assert_eq!(text.parse::<Ulimit>().unwrap().to_string(), read);
        }
        for text in
            ["", "nofile", "nofile=", "nofile=x", "nofile=2:1", "nofile=-1:5", "files=1", "nofile=1,core=0"]
        {
            assert!(text.parse::<Ulimit>().is_err(), "{text}");
        }
        for (text, bytes) in [
            ("64m", 64 << 20),
            ("1G", 1 << 30),
            ("512kb", 512 << 10),
            ("1048576", 1 << 20),
            ("7b", 7),
            ("0", 0),
            ("64MiB", 64 << 20),
            ("64 m", 64 << 20),
            ("1.5m", 3 << 19),
            (".5g", 1 << 29),
            ("1.g", 1 << 30),
            ("1t", 1 << 40),
            ("0.0001k", 0),
        ] {
            assert_eq!(parse_bytes(text).unwrap(), bytes);
        }
        for text in [
            "",
            "m",
            "-1",
            "1e",
            "1.5.1g",
            ".",
            ".m",
            "64mm",
            "64mi",
            "64bb",
            "64  m",
            "99999999999999999999",
            "9000p",
        ] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_engines_own_network_takes_an_entitlement() {
        let entitlements = |network: &str, allow: &str| {
            let allow = Entitlement::list(allow).unwrap();
            RunOptions { network: network.parse().unwrap(), allow, ..RunOptions::default() }.entitlements()
        };
        assert_eq!(entitlements("none", ""), Entitlements::new());
        assert_eq!(entitlements("host", ""), [Entitlement::NetworkHost].into());
        assert_eq!(entitlements("host", "network.host,security.insecure").len(), 2);
        assert!("bridge".parse::<Network>().is_err());
    }
}
