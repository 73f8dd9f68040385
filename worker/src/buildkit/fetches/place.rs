//! Where is fetched from all the same: a host at one port or all, or a network.

use std::net::Ipv4Addr;
use std::str::FromStr;

use farm_types::Invalid;

use super::host::{Host, Source, split};

/// A host, at one port or at all; or a network of IPv4, at all ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A host.
    Host(Spot),
    /// The addresses that begin with so many bits of this one.
    Net(Ipv4Addr, u32),
}

/// A host, at one port or at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    pub(crate) host: Host,
    pub(crate) port: Option<u16>,
}

/// The ports of a registry that is named without one.
pub(crate) const REGISTRY_PORTS: [u16; 2] = [80, 443];

/// The ports of a scheme that stand in no URL. A git repository's may be any of these, as its scheme isn't told.
pub(crate) fn usual(scheme: &str) -> &'static [u16] {
    match scheme {
        "http" => &[80],
        "git" => &[22, 80, 443, 9418],
        _ => &[443],
    }
}

impl Spot {
    /// Whether it is this host: `localhost` is its addresses as well.
    fn is(&self, host: &Host) -> bool {
        let is_local = matches!(&self.host, Host::Name(name) if name == "localhost");
        self.host == *host
            || is_local && LOCALHOST.iter().any(|address| address.parse().is_ok_and(|it: Host| it == *host))
    }
}

/// What `localhost` stands for besides.
pub(crate) const LOCALHOST: [&str; 2] = ["127.0.0.1", "::1"];

impl Place {
    /// Whether a source is there.
    pub(crate) fn has(&self, source: &Source) -> bool {
        match self {
            Self::Host(spot) => {
                let is_port = |port: u16| match source.port {
                    Some(named) => named == port,
                    None => usual(&source.scheme).contains(&port),
                };
                spot.is(&source.host) && spot.port.is_none_or(is_port)
            }
            Self::Net(..) => self.holds(&source.host),
        }
    }

    /// The same of an image whose registry it is: without a port it is at those that belong to the schemes.
    pub(crate) fn is_registry_of(&self, source: &Source) -> bool {
        match self {
            Self::Host(Spot { host: _, port: None }) => {
                self.has(source) && source.port.is_none_or(|port| REGISTRY_PORTS.contains(&port))
            }
            _ => self.has(source),
        }
    }

    pub(crate) fn holds(&self, host: &Host) -> bool {
        let Self::Net(net, bits) = self else { return false };
        let within =
            |address: Ipv4Addr| (address.to_bits() ^ net.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0;
        match host {
            Host::V4(address) => within(*address),
            // By that name it is at the first of its addresses.
            Host::Name(name) => name == "localhost" && within(Ipv4Addr::LOCALHOST),
            Host::V6(_) => false,
        }
    }
}

impl FromStr for Place {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || {
            let cure = "write a host with or without its port (git.internal, 127.0.0.1:8080, [fd00::7]:3000), or a network of IPv4 \
                        (10.0.0.0/8)";
            Invalid::new("place to fetch from", text, cure)
        };
        if let Some((net, bits)) = text.split_once('/') {
            if let (Ok(host @ Host::V6(_)), "128") = (net.parse(), bits) {
                return Ok(Self::Host(Spot { host, port: None }));
            }
            let (net, bits): (Ipv4Addr, u32) =
                (net.parse().map_err(|_| invalid())?, bits.parse().map_err(|_| invalid())?);
            return if bits <= 32 { Ok(Self::Net(net, bits)) } else { Err(invalid()) };
        }
        let (host, port) = split(text).ok_or_else(invalid)?;
        Ok(Self::Host(Spot { host, port }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::read;
    use super::*;

    fn has(place: &str, source: &str) -> bool {
        place.parse::<Place>().unwrap().has(&read(source).unwrap().unwrap())
    }

    #[test]
    fn a_place_is_its_host_at_its_port_in_whatever_form() {
        assert!(
            has("127.0.0.1:8080", "http://127.0.0.1:8080/a") && !has("127.0.0.1:8080", "http://127.0.0.1/a")
        );
        assert!(
            has("Git.Internal", "git://git.internal/a") && has("git.internal", "https://GIT.internal.:1/")
        );
        assert!(has("a.example:443", "https://a.example/") && !has("a.example:443", "http://a.example/"));
        assert!(has("a.example:443", "git://a.example/x") && !has("a.example:444", "git://a.example/x"));
        assert!(has("[::1]:80", "http://[0:0::1]/") && has("localhost:5000", "http://127.0.0.1:5000/"));
        assert!(has("10.0.0.0/8", "http://10.9.8.7:1/") && !has("10.0.0.0/8", "http://11.0.0.1/"));
        assert!(has("0.0.0.0/0", "http://1.2.3.4/") && has("127.0.0.1/32", "http://localhost/"));
        let registry = |place: &str, image: &str| {
            place
                .parse::<Place>()
                .unwrap()
                .is_registry_of(&read(&format!("docker-image://{image}")).unwrap().unwrap())
        };
        assert!(registry("localhost", "localhost/x:1") && !registry("localhost", "localhost:6379/x:1"));
        assert!(
            registry("localhost:5000", "localhost:5000/x") && !registry("localhost:5000", "localhost:5001/x")
        );
        for text in ["", "a b", "http://a", "1", "10.0.0.0/33", "fd00::/8", "a:b", "a:70000", "127.1", "*"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
