//! A registry's host, as references, configuration and engines name it: one text for each.
//!
//! Grammar: distribution's `reference` package (`domain`). Beyond it names of hosts have no capitals (RFC 4343), and ports no
//! zeros in front. The grammar takes hosts that no request could be sent to; [`RegistryHost::check`] is for the edge, where
//! something is asked for. What lies in a database is only read.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::error::Invalid;

/// The registry of names without one.
pub const DOCKER_HUB: &str = "docker.io";
/// Other names of it: the first in references, the others where logins are kept and asked for.
const LEGACY_HUB: &str = "index.docker.io";
const HUB_LOGINS: [&str; 2] = ["registry-1.docker.io", "https://index.docker.io/v1/"];
/// The longest name of a host, and of one of its labels (RFC 1035).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A registry's host and port in the one form that farm keeps: `localhost:5002`, `[::1]:5002`, `docker.io`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistryHost(String);

impl RegistryHost {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host that a key of a configuration or an engine's question about a login is about: also by the names under which
    /// logins for Docker Hub are kept.
    ///
    /// # Errors
    /// It is no host.
    pub fn of_login(text: &str) -> Result<Self, Invalid> {
        if HUB_LOGINS.contains(&text.to_ascii_lowercase().as_str()) {
            return Ok(Self(DOCKER_HUB.to_owned()));
        }
        text.parse()
    }

    /// The name or address, without the port.
    pub fn name(&self) -> &str {
        split(&self.0).0
    }

    /// Whether it is the machine itself, where Docker expects no TLS.
    pub fn is_loopback(&self) -> bool {
        let name = self.name();
        let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        name == "localhost"
            || name.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback())
            || literal.is_some_and(|ip| ip.parse().is_ok_and(|ip: Ipv6Addr| ip.is_loopback()))
    }

    /// Refuses what no request could be sent to, though it is a host by the grammar.
    ///
    /// # Errors
    /// The port, the address or the name can't be one.
    pub fn check(&self) -> Result<(), Invalid> {
        let invalid = |cure: &str| Err(Invalid::new("registry", self.as_str(), cure));
        let (name, port) = split(&self.0);
        if let Some(port) = port.filter(|port| !port.parse::<u16>().is_ok_and(|number| number > 0)) {
            return invalid(&format!("{port:?} is no port; write a number from 1 to 65535"));
        }
        if let Some(literal) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            return match literal.parse::<Ipv6Addr>() {
                Ok(_) => Ok(()),
                Err(_) => {
                    invalid("what stands in brackets is no IPv6 address; write one like [fd00::7]:5000")
                }
            };
        }
        if name.len() > MAX_NAME || name.split('.').any(|label| label.len() > MAX_LABEL) {
            return invalid(
                "no host has so long a name; write its name or address, for example registry.example:5000",
            );
        }
        // What ends in a number is taken for an address by all that send requests (WHATWG URL, "ends in a number").
        let last = name.rsplit_once('.').map_or(name, |(_, last)| last);
        let hexadecimal = |rest: &str| rest.bytes().all(|b| b.is_ascii_hexdigit());
        let is_number = is_digits(last) || last.strip_prefix("0x").is_some_and(hexadecimal);
        if is_number && name.parse::<Ipv4Addr>().is_err() {
            return invalid("this is no IPv4 address; write four numbers from 0 to 255, like 10.0.0.7:5000");
        }
        Ok(())
    }
}

impl FromStr for RegistryHost {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |cure: &str| Err(Invalid::new("registry", text, cure));
        let lower = text.to_ascii_lowercase();
        let (name, port) = split(&lower);
        let is_name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            Some(literal) => {
                !literal.is_empty() && literal.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
            }
            // As in Docker a name with `_` is none by the grammar, and taken where it could be a folder as well.
            None => name.split('.').all(is_label) || is_component(text),
        };
        if name.contains(':') && !name.contains(['[', ']']) {
            return invalid("an IPv6 address stands in brackets; write it like [fd00::7]:5000");
        }
        if !is_name {
            return invalid("this is no host; write its name or address, for example registry.example:5000");
        }
        let host = match port.map(|port| (port, port.parse::<u16>())) {
            None => name.to_owned(),
            Some((port, _)) if !is_digits(port) => {
                return invalid(&format!("{port:?} is no port; write a number from 1 to 65535"));
            }
            Some((_, Ok(number))) => format!("{name}:{number}"),
            Some((_, Err(_))) => lower,
        };
        Ok(Self(if host == LEGACY_HUB { DOCKER_HUB.to_owned() } else { host }))
    }
}

/// The name or address, and the port. Colons within brackets are the address's.
fn split(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// `[a-z0-9]` and, between these, `-`.
fn is_label(label: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !label.is_empty() && label.bytes().all(is_part) && !label.starts_with('-') && !label.ends_with('-')
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Runs of `[a-z0-9]`, with `.`, `_`, `__` or any number of `-` between them.
pub(crate) fn is_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators: Vec<&str> = component.split(|c: char| u8::try_from(c).is_ok_and(is_word)).collect();
    // The first and the last piece are in front of the first character of a word and behind the last one.
    let [first, between @ .., last] = separators.as_slice() else { return false };
    let is_separator =
        |text: &&str| matches!(*text, "" | "." | "_" | "__") || text.bytes().all(|b| b == b'-');
    first.is_empty() && last.is_empty() && between.iter().all(is_separator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(text: &str) -> String {
        text.parse::<RegistryHost>().unwrap_or_else(|e| panic!("{e}")).to_string()
    }

    #[test]
    fn one_host_has_one_text() {
        for (written, kept) in [
            ("LOCALHOST:5002", "localhost:5002"),
            ("Registry.Example", "registry.example"),
            ("localhost:05002", "localhost:5002"),
            ("[FD00::7]:5002", "[fd00::7]:5002"),
            ("[::1]", "[::1]"),
            ("10.0.0.7:5000", "10.0.0.7:5000"),
            ("Index.Docker.io", "docker.io"),
            ("a_b.example", "a_b.example"),
        ] {
            assert_eq!(host(written), kept);
        }
        let login = |text: &str| RegistryHost::of_login(text).unwrap().to_string();
        for text in ["docker.io", "registry-1.docker.io", "https://index.docker.io/v1/", "INDEX.docker.io"] {
            assert_eq!(login(text), "docker.io");
        }
        assert_eq!(login("R.example:5000"), "r.example:5000");
        let name = |text: &str| text.parse::<RegistryHost>().unwrap().name().to_owned();
        for (host, its) in
            [("R.example:5000", "r.example"), ("docker.io", "docker.io"), ("[::1]:5002", "[::1]")]
        {
            assert_eq!(name(host), its);
        }
    }

    #[test]
    fn what_is_no_host_is_refused_with_the_cure() {
        for (text, cure) in [
            ("localhost:", "no port"),
            ("localhost:+5", "no port"),
            ("localhost:5x", "no port"),
            ("::1", "in brackets"),
            ("fd00::7:5000", "in brackets"),
            ("[::1", "no host"),
            ("[]", "no host"),
            ("[::ffff:1.2.3.4]", "no host"),
            ("", "no host"),
            ("-a", "no host"),
            ("a..b", "no host"),
            ("é.example", "no host"),
            ("a b", "no host"),
            ("a_b:5000", "no host"),
            ("A_b.example", "no host"),
        ] {
            let error = text.parse::<RegistryHost>().unwrap_err().to_string();
            assert!(error.contains(cure), "{text}: {error}");
        }
    }

    #[test]
    fn what_no_request_can_be_sent_to_is_seen() {
        let (label, name) = (format!("{}.example", "a".repeat(64)), "a.".repeat(127) + "a");
        for (text, cure) in [
            ("localhost:99999", "no port"),
            ("localhost:0", "no port"),
            ("[:::]:5002", "no IPv6 address"),
            ("256.1.1.1:5000", "no IPv4 address"),
            ("127.1", "no IPv4 address"),
            ("1.2.3.4.5", "no IPv4 address"),
            ("a.0x7f", "no IPv4 address"),
            (&label, "so long a name"),
            (&name, "so long a name"),
        ] {
            let error = text.parse::<RegistryHost>().unwrap().check().unwrap_err().to_string();
            assert!(error.contains(cure), "{text}: {error}");
        }
        for text in [
            "localhost:5002",
            "[::1]:5002",
            "[FD00::7]",
            "10.0.0.7",
            "r.example:65535",
            "a_b.example",
            "r2.x1",
        ] {
            text.parse::<RegistryHost>().unwrap().check().unwrap_or_else(|e| panic!("{e}"));
        }
    }

    #[test]
    fn the_machine_itself_is_known_by_all_its_names() {
        let is = |text: &str| text.parse::<RegistryHost>().unwrap().is_loopback();
        for text in [
            "localhost",
            "LocalHost:5002",
            "127.0.0.1:5002",
            "127.8.9.1",
            "[::1]",
            "[::1]:5002",
            "[0:0:0:0:0:0:0:1]:1",
        ] {
            assert!(is(text), "{text}");
        }
        for text in
            ["localhost.example", "127.evil.example", "10.0.0.7", "[fd00::1]:5002", "docker.io", "[::2]"]
        {
            assert!(!is(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_is_read_as_itself(text in "(\\[[0-9a-fA-F:]{2,9}\\]|[a-zA-Z0-9_.-]{1,12})(:[0-9]{1,6})?") {
            if let Ok(host) = text.parse::<RegistryHost>() {
                prop_assert_eq!(host.as_str().parse::<RegistryHost>().unwrap(), host);
            }
        }
    }
}
