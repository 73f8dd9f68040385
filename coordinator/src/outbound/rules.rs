//! Where farm may send requests: to public addresses, and to what the configuration names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use farm_types::{Invalid, RegistryHost};
use ipnet::IpNet;
use reqwest::Url;
use serde::Deserialize;

use super::address::not_public;

/// A host and port as tags name registries, in the form in which URLs have them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Place {
    host: String,
    /// `None`: the one that belongs to the scheme.
    port: Option<u16>,
}

impl Place {
    /// Whether a URL leads there. Entries for `localhost` are for its addresses, too.
    pub fn is_of(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let is_host = host == self.host || self.host == "localhost" && ["127.0.0.1", "[::1]"].contains(&host);
        let port = url.port_or_known_default();
        is_host && self.port.map_or_else(|| url.port().is_none(), |own| port == Some(own))
    }

    /// The name or address, without the port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it is written as an address.
    pub fn is_address(&self) -> bool {
        literal(&self.host).is_some()
    }

    /// Whether it is the coordinator's own machine.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || literal(&self.host).is_some_and(|ip| ip.to_canonical().is_loopback())
    }
}

impl FromStr for Place {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |cure: String| Invalid::new("host", text, cure);
        let example = "write its name and port as a tag has them, for example registry.internal:5000";
        let host: RegistryHost = text.parse().map_err(|_| invalid(example.to_owned()))?;
        host.check().map_err(|e| invalid(e.cure))?;
        let parse = |scheme: &str| Url::parse(&format!("{scheme}://{host}/"));
        let (Ok(tls), Ok(plain)) = (parse("https"), parse("http")) else {
            return Err(invalid(example.to_owned()));
        };
        // Each scheme leaves its own port out.
        let port = tls.port().or_else(|| plain.port());
        let host = tls.host_str().unwrap_or_default().to_owned();
        Ok(Self { host, port })
    }
}

impl TryFrom<String> for Place {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// An entry of `outbound.allow`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Allowed {
    /// Addresses, at every port.
    Net(IpNet),
    /// A host at one port, whatever its address.
    Place(Place),
}

impl FromStr for Allowed {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let cure =
            "write a network (10.0.0.0/8) or a host and port as a tag has them (registry.internal:5000)";
        let invalid = |_| Invalid::new("outbound.allow", text, cure);
        if text.contains('/') {
            return text.parse().map(Self::Net).map_err(|_| Invalid::new("outbound.allow", text, cure));
        }
        text.parse().map(Self::Place).map_err(invalid)
    }
}

impl TryFrom<String> for Allowed {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

/// Why farm sends no request somewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct Refused {
    /// The host and, where it is known, the port.
    pub place: String,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It is at an address that isn't public.
    #[error("at {0}, {1}")]
    Address(IpAddr, &'static str),
    /// It is the proxy that farm itself goes through.
    #[error("the proxy that the coordinator goes through")]
    Proxy,
    /// It was led there from TLS.
    #[error("without TLS, led there from where there was TLS")]
    Downgrade,
    /// It is no URL that farm follows.
    #[error("not an address that farm follows ({0})")]
    Form(&'static str),
}

/// How a place is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dial {
    /// Whatever its address is: the configuration names it.
    Named,
    /// If its address is public, or within an allowed network.
    Judged,
}

/// The rules of one coordinator.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    places: Vec<Place>,
    nets: Vec<IpNet>,
    /// Hosts of the proxies that the environment names.
    pub(super) proxies: Vec<String>,
}

impl Rules {
    /// What is allowed beyond public addresses.
    pub fn new(allowed: impl IntoIterator<Item = Allowed>, proxies: Vec<String>) -> Self {
        let mut rules = Self { proxies, ..Self::default() };
        for entry in allowed {
            match entry {
                Allowed::Net(net) => rules.nets.push(net),
                Allowed::Place(place) => rules.places.push(place),
            }
        }
        rules
    }

    /// Whether the configuration names this place.
    pub fn names(&self, url: &Url) -> bool {
        self.places.iter().any(|place| place.is_of(url))
    }

    /// How the URL's host is dialled; its addresses, if it has a name, are judged then.
    ///
    /// # Errors
    /// Nobody is asked there.
    pub fn of_url(&self, url: &Url) -> Result<Dial, Refused> {
        let refused = |why: Why| Err(Refused { place: place(url), why });
        if !["http", "https"].contains(&url.scheme()) {
            return refused(Why::Form("neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refused(Why::Form("there is a login in it"));
        }
        let Some(host) = url.host_str() else { return refused(Why::Form("it has no host")) };
        if self.names(url) {
            return Ok(Dial::Named);
        }
        // A proxy would take it for its own machine, so this is not left to the resolver.
        let bare = host.trim_end_matches('.');
        let is_local = bare == "localhost" || bare.ends_with(".localhost");
        let local = is_local.then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        if let Some(address) = literal(host).or(local) {
            self.of_address(address).map_err(|why| Refused { place: place(url), why })?;
        } else if self.proxies.iter().any(|proxy| proxy == bare) {
            return refused(Why::Proxy);
        }
        Ok(Dial::Judged)
    }

    /// Whether an address may be dialled for a host that isn't named.
    ///
    /// # Errors
    /// It isn't public, and no network that is allowed has it.
    pub fn of_address(&self, address: IpAddr) -> Result<(), Why> {
        let plain = address.to_canonical();
        match not_public(address) {
            Some(what) if !self.nets.iter().any(|net| net.contains(&plain)) => {
                Err(Why::Address(address, what))
            }
            _ => Ok(()),
        }
    }
}

/// The host and port of a URL, as tags name them.
pub fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None if url.scheme() == "http" => format!("{host}:80"),
        None => host.to_owned(),
    }
}

/// The address that a URL's host is written as.
fn literal(host: &str) -> Option<IpAddr> {
    let six = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    six.map_or_else(|| host.parse().ok().map(IpAddr::V4), |six| six.parse::<Ipv6Addr>().ok().map(IpAddr::V6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str]) -> Rules {
        Rules::new(allow.iter().map(|text| text.parse().unwrap()), vec!["proxy.internal".to_owned()])
    }

    fn dial(rules: &Rules, url: &str) -> Result<Dial, Refused> {
        rules.of_url(&url.parse().unwrap())
    }

    #[test]
    fn odd_forms_of_addresses_are_judged_as_what_they_are() {
        let rules = rules(&[]);
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "017700000001",
            "127.0.0.1.",
            "0",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:0:0:1]",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "app.localhost",
            "%6c%6f%63alhost",
            "①②⑦.0.0.1",
        ] {
            let refused = dial(&rules, &format!("http://{host}:7070/v2/")).unwrap_err();
            assert!(matches!(refused.why, Why::Address(..)), "{host}: {refused}");
        }
        for host in ["169.254.169.254", "[fd00:ec2::254]", "10.0.0.1", "[64:ff9b::a00:1]", "2852039166"] {
            assert!(dial(&rules, &format!("https://{host}/")).is_err(), "{host}");
        }
        for host in ["1.1.1.1", "[2606:4700::1111]", "registry.example", "localhost.example"] {
            assert_eq!(dial(&rules, &format!("https://{host}/")), Ok(Dial::Judged), "{host}");
        }
    }

    #[test]
    fn a_login_another_scheme_and_the_proxy_are_no_places_to_go_to() {
        let rules = rules(&[]);
        for url in
            ["https://a@1.1.1.1/", "https://:b@registry.example/", "ftp://registry.example/", "file:///etc"]
        {
            assert!(matches!(dial(&rules, url).unwrap_err().why, Why::Form(_)), "{url}");
        }
        assert_eq!(dial(&rules, "https://proxy.internal:22/").unwrap_err().why, Why::Proxy);
    }

    #[test]
    fn what_is_named_is_allowed_at_its_port_only() {
        let rules = rules(&["localhost:5002", "registry.internal", "[FD00::7]:5000", "10.1.2.3:5000"]);
        for url in [
            "http://localhost:5002/v2/",
            "http://127.0.0.1:5002/v2/",
            "http://[::1]:5002/v2/",
            "https://registry.internal/v2/",
            "https://registry.internal:443/v2/",
            "http://registry.internal/v2/",
            "https://[fd00::7]:5000/",
            "https://10.1.2.3:5000/",
        ] {
            assert_eq!(dial(&rules, url), Ok(Dial::Named), "{url}");
        }
        for url in
            ["http://localhost:7070/", "http://127.0.0.2:5002/", "https://10.1.2.3/", "https://[fd00::7]/"]
        {
            assert!(dial(&rules, url).is_err(), "{url}");
        }
        // Not named at this port, so its address counts.
        assert_eq!(dial(&rules, "https://registry.internal:8443/"), Ok(Dial::Judged));
    }

    #[test]
    fn a_network_is_allowed_at_every_port_and_in_every_form() {
        let rules = rules(&["10.0.0.0/8", "fd00::/8"]);
        for url in ["https://10.9.9.9:1/", "http://[fd00::1]:2/", "https://[::ffff:10.0.0.1]/"] {
            assert_eq!(dial(&rules, url), Ok(Dial::Judged), "{url}");
        }
        assert!(dial(&rules, "https://127.0.0.1/").is_err());
    }

    #[test]
    fn mistakes_in_entries_name_the_cure() {
        for text in ["10.0.0.0/33", "https://registry.internal", "a:99999", "", "10.0.0.256"] {
            let error = text.parse::<Allowed>().unwrap_err().to_string();
            assert!(error.contains("10.0.0.0/8") && error.contains("registry.internal:5000"), "{error}");
        }
    }
}
