//! Where a call comes from: the connection's other end, or, if that is a proxy that the configuration trusts, what it says.
//!
//! One header counts, which the configuration names: a proxy that writes one may pass on what its clients have put into the
//! other. It is read from its end, as each proxy adds to that what it has seen itself; whatever is left of the first address
//! that is no trusted proxy's was written by somebody else.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;
use serde::Deserialize;

/// Where a call comes from; in its request's extensions, where that is known.
#[derive(Debug, Clone, Copy)]
pub struct Origin(pub IpAddr);

/// In which header trusted proxies say where a call came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For: 198.51.100.7, 10.0.0.3`
    #[default]
    XForwardedFor,
    /// `Forwarded: for=198.51.100.7;proto=https` (RFC 7239)
    Forwarded,
}

/// The proxies that are believed.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    trusted: Vec<IpNet>,
    header: ProxyHeader,
}

impl Proxies {
    /// Those at these addresses, which say it in this header.
    pub fn new(trusted: Vec<IpNet>, header: ProxyHeader) -> Self {
        Self { trusted, header }
    }

    /// Whether a proxy that is believed has this address.
    pub fn is_one(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|net| net.contains(&address))
    }

    /// Where a call with these headers comes from, over a connection from `peer`.
    pub fn caller(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut caller = peer.to_canonical();
        if self.trusted.is_empty() || !self.is_one(caller) {
            return caller;
        }
        let (name, read): (_, fn(&str) -> Option<IpAddr>) = match self.header {
            ProxyHeader::XForwardedFor => ("x-forwarded-for", address),
            ProxyHeader::Forwarded => ("forwarded", of_forwarded),
        };
        let said: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        for entry in said.iter().flat_map(|value| value.split(',')).rev() {
            // What can't be read ends it: whoever wrote what is left of it isn't known.
            let Some(before) = read(entry.trim()) else { break };
            caller = before.to_canonical();
            if !self.is_one(caller) {
                break;
            }
        }
        caller
    }
}

/// An address, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let whole = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    whole.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
}

/// The `for` of an element of `Forwarded`.
fn of_forwarded(element: &str) -> Option<IpAddr> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(node.trim().trim_matches('"'))
}

/// What is counted as one place: an IPv4 address, or a network that one IPv6 user usually has whole.
pub fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(header: ProxyHeader) -> Proxies {
        Proxies::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], header)
    }

    fn caller(header: ProxyHeader, peer: &str, name: &'static str, said: &[&str]) -> String {
        let said = said.iter().map(|value| (name.parse().unwrap(), value.parse().unwrap()));
        proxies(header).caller(peer.parse().unwrap(), &said.collect()).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_says_where_a_call_comes_from() {
        let of =
            |peer: &str, said: &[&str]| caller(ProxyHeader::XForwardedFor, peer, "x-forwarded-for", said);
        assert_eq!(of("198.51.100.7", &["203.0.113.1"]), "198.51.100.7");
        assert_eq!(of("10.0.0.3", &["203.0.113.1"]), "203.0.113.1");
        assert_eq!(of("::ffff:10.0.0.3", &["203.0.113.1:4711"]), "203.0.113.1");
        assert_eq!(of("fd00::1", &["[2001:db8::9]:4711"]), "2001:db8::9");
        assert_eq!(of("10.0.0.3", &[]), "10.0.0.3");
        // What the client wrote itself is left of what the proxies added.
        assert_eq!(of("10.0.0.3", &["1.2.3.4, 203.0.113.1, 10.0.0.2"]), "203.0.113.1");
        assert_eq!(of("10.0.0.3", &["1.2.3.4", "203.0.113.1"]), "203.0.113.1");
        assert_eq!(of("10.0.0.3", &["1.2.3.4, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(of("10.0.0.3", &["1.2.3.4, "]), "10.0.0.3");
        assert_eq!(of("10.0.0.3", &["10.0.0.1, 10.0.0.2"]), "10.0.0.1");
    }

    #[test]
    fn the_header_that_the_proxies_do_not_write_does_not_count() {
        let standard = ProxyHeader::Forwarded;
        let of = |said: &[&str]| caller(standard, "10.0.0.3", "forwarded", said);
        assert_eq!(of(&["for=1.2.3.4, proto=https;For=\"[2001:db8::9]:47\";by=10.0.0.3"]), "2001:db8::9");
        assert_eq!(of(&["for=203.0.113.1;proto=https", "for=10.0.0.2"]), "203.0.113.1");
        assert_eq!(of(&["for=1.2.3.4, for=_hidden"]), "10.0.0.3");
        assert_eq!(of(&["proto=https"]), "10.0.0.3");
        assert_eq!(caller(standard, "10.0.0.3", "x-forwarded-for", &["1.2.3.4"]), "10.0.0.3");
        assert_eq!(caller(ProxyHeader::XForwardedFor, "10.0.0.3", "forwarded", &["for=1.2.3.4"]), "10.0.0.3");
    }

    #[test]
    fn an_ipv6_network_is_one_place() {
        let place = |text: &str| place(text.parse().unwrap()).to_string();
        assert_eq!(place("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(place("::ffff:203.0.113.1"), "203.0.113.1");
        assert_eq!(place("203.0.113.1"), "203.0.113.1");
    }
}
