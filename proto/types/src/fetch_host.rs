//! From where a project's builds may have engines fetch what `ADD` names.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::error::Invalid;

/// Hosts, at all ports: one (`git.example`, `192.0.2.7`, `[2001:db8::7]`), or all names below one (`*.example.com`, not that
/// itself). Names are in small letters, without a dot at their end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FetchHost {
    /// All names that end in a dot and this one.
    Below(String),
    /// One name.
    Name(String),
    /// One address.
    V4(Ipv4Addr),
    /// One address.
    V6(Ipv6Addr),
}

impl FetchHost {
    /// Whether a name, in small letters and without a dot at its end, is one of these.
    pub fn has_name(&self, name: &str) -> bool {
        match self {
            Self::Below(below) => name.strip_suffix(below.as_str()).is_some_and(|rest| rest.ends_with('.')),
            Self::Name(this) => this == name,
            Self::V4(_) | Self::V6(_) => false,
        }
    }
}

impl FromStr for FetchHost {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let shape = "write a host without its port (git.example, 192.0.2.7, [2001:db8::7]), or *.example.com for all names below one";
        let invalid = || Invalid::new("host to fetch from", text, shape);
        let six = text.strip_prefix('[').map_or(Some(text), |text| text.strip_suffix(']'));
        if let Some(address) = six.and_then(|six| six.parse().ok()) {
            return Ok(Self::V6(address));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::V4(address));
        }
        match text.strip_prefix("*.") {
            Some(below) => Ok(Self::Below(name(below).ok_or_else(invalid)?)),
            None => Ok(Self::Name(name(text).ok_or_else(invalid)?)),
        }
    }
}

/// A name of a host. What ends in a number is none: some would read it as an address.
fn name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = text.rsplit('.').next()?;
    let is_name = text.len() <= 253
        && text.split('.').all(is_label)
        && last.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    is_name.then(|| text.to_ascii_lowercase())
}

impl fmt::Display for FetchHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Name(name) => f.write_str(name),
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_in_its_usual_forms_and_written_as_it_was_read() {
        for (text, written) in [
            ("git.example", "git.example"),
            ("Git.Example.", "git.example"),
            ("*.Example.com", "*.example.com"),
            ("192.0.2.7", "192.0.2.7"),
            ("2001:DB8:0::7", "[2001:db8::7]"),
            ("[2001:db8::7]", "[2001:db8::7]"),
            ("localhost", "localhost"),
        ] {
            let host: FetchHost = text.parse().unwrap();
            assert_eq!(host.to_string(), written, "{text}");
            assert_eq!(written.parse(), Ok(host));
        }
        for text in [
            "",
            "*",
            "*.",
            "a:80",
            "https://a",
            "a/b",
            "*.*.a",
            "a*.b",
            "127.1",
            "0x7f.1",
            "1",
            "ä.b",
            "[a]",
            "a..b",
        ] {
            let error = text.parse::<FetchHost>().unwrap_err().to_string();
            assert!(error.contains("without its port"), "{error}");
        }
    }

    #[test]
    fn what_is_below_a_name_ends_at_a_dot_and_is_not_the_name() {
        let has = |host: &str, name: &str| host.parse::<FetchHost>().unwrap().has_name(name);
        assert!(has("*.example.com", "a.example.com") && has("*.example.com", "a.b.example.com"));
        assert!(!has("*.example.com", "example.com") && !has("*.example.com", "badexample.com"));
        assert!(has("a.example", "a.example") && !has("a.example", "b.a.example"));
    }
}
