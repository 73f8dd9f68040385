//! A source as an engine names it, read strictly: `https://HOST[:PORT]/…`, `git://HOST/…`, `docker-image://HOST/…`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use farm_types::Invalid;

/// What an image's identifier begins with, and those of what else is fetched.
pub(crate) const IMAGE: &str = "docker-image";
pub(crate) const OTHERS: [&str; 3] = ["http", "https", "git"];
/// What farm sends itself, over the session.
pub(crate) const LOCAL: &str = "local";

const NO_KIND: &str =
    "it is no image, no http or https URL and no git repository, and engines fetch nothing else here";
const NO_FORM: &str = "its host isn't written in one of the usual forms: a name in ASCII, an IPv4 address as four decimal numbers, an IPv6 \
                       address in brackets, and a port as a number";

/// A host in one of the usual forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// In small letters, without a dot at its end.
    Name(String),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

impl FromStr for Host {
    type Err = Invalid;

    /// With the brackets of an IPv6 address or without.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid =
            || Invalid::new("host", text, "write a name, an IPv4 address, or an IPv6 address in brackets");
        let six = text.strip_prefix('[').map_or(Some(text), |text| text.strip_suffix(']'));
        if let Some(address) = six.and_then(|six| six.parse().ok()) {
            return Ok(Self::V6(address));
        }
        plain(text).ok_or_else(invalid)
    }
}

/// What an engine is to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// In small letters.
    pub(crate) scheme: String,
    pub(crate) host: Host,
    pub(crate) port: Option<u16>,
}

impl Source {
    pub(crate) fn is_image(&self) -> bool {
        self.scheme == IMAGE
    }

    /// Its host and port.
    pub(crate) fn place(&self) -> String {
        self.port.map_or_else(|| self.host.to_string(), |port| format!("{}:{port}", self.host))
    }
}

/// Reads what an engine names a source by; `None`: farm sends it itself.
///
/// # Errors
/// It is of no kind that is fetched, or its host could be read as several: why.
pub(crate) fn read(identifier: &str) -> Result<Option<Source>, &'static str> {
    let (scheme, rest) = identifier.split_once("://").ok_or(NO_KIND)?;
    if scheme == LOCAL {
        return Ok(None);
    }
    let scheme = scheme.to_ascii_lowercase();
    let is_image = scheme == IMAGE;
    if !is_image && !OTHERS.contains(&scheme.as_str()) {
        return Err(NO_KIND);
    }
    let authority = match rest.find(['/', '?', '#']) {
        Some(end) => &rest[..end],
        None => rest,
    };
    if is_image && !rest[authority.len()..].starts_with('/') {
        return Err(NO_FORM);
    }
    let place = match authority.split_once('@') {
        Some((user, place)) if !is_image && user.chars().all(is_of_user) => place,
        Some(_) => return Err(NO_FORM),
        None => authority,
    };
    let (host, port) = split(place).ok_or(NO_FORM)?;
    Ok(Some(Source { scheme, host, port }))
}

/// A host and a port.
pub(super) fn split(place: &str) -> Option<(Host, Option<u16>)> {
    if let Some(rest) = place.strip_prefix('[') {
        let (six, rest) = rest.split_once(']')?;
        // Without the dots of one of IPv4 in it.
        let host = Some(six).filter(|six| !six.contains('.'))?.parse().ok().map(Host::V6)?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(number(port)?))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match place.split_once(':') {
        Some((host, port)) => Some((plain(host)?, Some(number(port)?))),
        None => Some((plain(place)?, None)),
    }
}

fn number(port: &str) -> Option<u16> {
    (port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())).then(|| port.parse().ok())?
}

/// A name, or an IPv4 address as four decimal numbers. What ends in a number is no name: it would be read as an address.
fn plain(text: &str) -> Option<Host> {
    if let Ok(address) = text.parse() {
        return Some(Host::V4(address));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = name.rsplit('.').next()?;
    let is_name =
        name.split('.').all(is_label) && last.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    is_name.then(|| Host::Name(name.to_ascii_lowercase()))
}

/// What may stand before an `@` without being read as the host by anybody.
fn is_of_user(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:%".contains(c)
}
