//! Where an engine may fetch by itself what a build names: images, and the URLs and repositories of `ADD`.
//!
//! An engine fetches with its own process's network, so whoever writes a Dockerfile would reach what that reaches: services on the
//! loopback of the engine's machine, the farm's own hosts, and the credentials that clouds give to machines. [`Fetches::judge`] says
//! of one source why it isn't fetched; `solve/sources.rs` says the same of all of them to the engine, as rules that it heeds before it
//! dials. The two are held against each other by `solve/sources_tests.rs`.
//!
//! Invariant: what isn't read as a source of a kind that is known, at a host in one of its usual forms, is refused. So no other
//! spelling of an address leads to it: an engine's Go, curl and libc read many (`127.1`, `0x7f000001`, `①27.0.0.1`, `%31`).
//!
//! What can't be told from a name is where it leads: addresses in DNS and redirects are a firewall's to bound (`docs/security.md`).

mod host;
mod place;

use std::net::{Ipv4Addr, Ipv6Addr};

use farm_types::{Cause, Failure, FailureCode, FetchHost};

pub(crate) use self::host::{Host, IMAGE, LOCAL, OTHERS, read};
pub use self::place::Place;
pub(crate) use self::place::{LOCALHOST, REGISTRY_PORTS, Spot, usual};

/// Where what is named may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Loopback,
    LinkLocal,
    Metadata,
    Tunnel,
    Nobody,
    Private,
    Farm,
}

impl Kind {
    /// In words, after the host.
    fn words(self) -> &'static str {
        match self {
            Self::Loopback => "is the loopback of the engine's own machine",
            Self::LinkLocal => "is link-local, where clouds keep their machines' credentials",
            Self::Metadata => "is where a cloud keeps its machines' credentials",
            Self::Tunnel => "is an address in an old form of tunnel",
            Self::Nobody => "is no host's own address",
            Self::Private => "is in a private network, and this worker's machine isn't trusted",
            Self::Farm => "is a host of the farm's own",
        }
    }
}

/// What an engine may fetch by itself, for one attempt. The default is the strictest.
#[derive(Debug, Clone, Default)]
pub struct Fetches {
    /// The farm's own hosts.
    pub(crate) closed: Vec<Host>,
    /// Where everything is fetched from all the same, as whoever runs the worker says.
    pub(crate) open: Vec<Place>,
    /// Where images are taken from all the same, as the farm says.
    pub(crate) registries: Vec<Place>,
    /// Images are taken from everywhere: the coordinator is of before, and doesn't say where from.
    pub(crate) images_anywhere: bool,
    /// Addresses of private networks are open.
    pub(crate) private: bool,
    /// Whose build it is.
    pub(crate) project: String,
    /// What isn't an image is fetched from these hosts only, as far as the rest lets it; `None`: from everywhere.
    pub(crate) only: Option<Vec<FetchHost>>,
}

/// Why a source isn't fetched.
enum Refused {
    /// It isn't read as one.
    Unread(&'static str),
    /// Its host is closed, to whichever project.
    Closed(Kind),
    /// The project fetches from other hosts.
    NotListed,
}

impl Fetches {
    /// Why this isn't fetched; `None`: it is.
    fn judge(&self, identifier: &str) -> Option<Refused> {
        let source = match read(identifier) {
            Ok(Some(source)) => source,
            // What farm sends itself.
            Ok(None) => return None,
            Err(why) => return Some(Refused::Unread(why)),
        };
        let is_open = self.open.iter().any(|place| place.has(&source));
        let is_registry = source.is_image()
            && (self.images_anywhere || self.registries.iter().any(|place| place.is_registry_of(&source)));
        if !(is_open || is_registry)
            && let Some(kind) = self.kind(&source.host)
        {
            return Some(Refused::Closed(kind));
        }
        (!source.is_image() && !self.lists(&source.host)).then_some(Refused::NotListed)
    }

    /// The same, in words.
    #[cfg(test)]
    pub(crate) fn refuse(&self, identifier: &str) -> Option<String> {
        self.judge(identifier).map(|refused| self.words(&refused, identifier))
    }

    /// Why a repository at this host isn't fetched, and who can change that; `None`: it is.
    pub(crate) fn refuse_repository(&self, identifier: &str, host: &str, place: &str) -> Option<String> {
        let refused = self.judge(identifier)?;
        let why = self.words(&refused, identifier);
        Some(match refused {
            Refused::NotListed => {
                let project = &self.project;
                format!(
                    "{why}; an admin of the farm can allow it: farm project allow {project} --fetch {host}"
                )
            }
            _ => format!(
                "{why}; whoever runs the worker's machine can allow it: farm-worker --fetch-from {place}"
            ),
        })
    }

    /// What keeps the address closed to which a host's name leads, in words; `None`: nothing. (That the project lists the host is asked of
    /// its name.)
    pub(crate) fn closes(&self, identifier: &str) -> Option<String> {
        match self.judge(identifier)? {
            Refused::NotListed => None,
            refused => Some(self.words(&refused, identifier)),
        }
    }

    fn words(&self, refused: &Refused, identifier: &str) -> String {
        let host = match read(identifier) {
            Ok(Some(source)) => source.host.to_string(),
            _ => String::new(),
        };
        match refused {
            Refused::Unread(why) => (*why).to_owned(),
            Refused::Closed(kind) => format!("{host} {}", kind.words()),
            Refused::NotListed => {
                let listed: Vec<String> =
                    self.only.iter().flatten().take(10).map(ToString::to_string).collect();
                let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
                format!(
                    "project {} fetches from listed hosts only ({listed}), and {host} is none of them",
                    self.project
                )
            }
        }
    }

    /// Whether the project fetches from a host what isn't an image, as far as that is open.
    pub(crate) fn lists(&self, host: &Host) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|listed| is_listed(listed, host)))
    }

    /// What a project's builds fetch that isn't an image is fetched from these hosts only; none: from everywhere. One that can't be read
    /// opens nothing.
    pub(crate) fn list(&mut self, project: &str, hosts: &[String]) {
        self.project = project.to_owned();
        self.only = (!hosts.is_empty()).then(|| hosts.iter().filter_map(|host| host.parse().ok()).collect());
    }

    /// Whether this source is named among what is open.
    pub(crate) fn opens(&self, identifier: &str) -> bool {
        let source = read(identifier).ok().flatten();
        source.is_some_and(|source| self.open.iter().any(|place| place.has(&source)))
    }

    /// The farm's own hosts.
    pub(crate) fn farm(&self) -> impl Iterator<Item = String> {
        self.closed.iter().map(|host| match host {
            Host::V6(address) => address.to_string(),
            host => host.to_string(),
        })
    }

    /// What keeps a host closed.
    pub(crate) fn kind(&self, host: &Host) -> Option<Kind> {
        let kind = match host {
            Host::Name(name) => of_name(name),
            Host::V4(address) => of_v4(*address),
            Host::V6(address) => of_v6(*address),
        };
        let kind = kind.filter(|kind| *kind != Kind::Private || !self.private);
        kind.or_else(|| self.closed.contains(host).then_some(Kind::Farm))
    }

    /// Nothing is fetched from these hosts of the farm's. One that can't be read can't be named in a build either.
    pub(crate) fn close(&mut self, hosts: &[String]) {
        self.closed.extend(hosts.iter().filter_map(|host| host.parse().ok()));
    }

    /// These are open.
    pub(crate) fn open(&mut self, places: &[Place]) {
        self.open.extend_from_slice(places);
    }

    /// Images may be taken from these places. Those that can't be read open nothing.
    pub fn take_images_from<'a>(&mut self, places: impl IntoIterator<Item = &'a str>) {
        self.registries.extend(places.into_iter().filter_map(|place| place.parse().ok()));
    }

    /// The failure of a solve that was kept from a source, if it was by this.
    pub(crate) fn explain(&self, failure: Failure, identifier: &str) -> Failure {
        let Some(refused) = self.judge(identifier) else { return failure };
        let why = self.words(&refused, identifier);
        let (place, is_image) = match read(identifier) {
            Ok(Some(source)) => (source.place(), source.is_image()),
            _ => (String::new(), false),
        };
        let cure = match (place.as_str(), is_image) {
            _ if matches!(refused, Refused::NotListed) => {
                let host = match read(identifier) {
                    Ok(Some(source)) => source.host.to_string(),
                    _ => place.clone(),
                };
                format!(
                    "an admin of the farm can allow it: farm project allow {} --fetch {host}; or COPY what is in the context",
                    self.project
                )
            }
            ("", _) => "name another source, or COPY what is in the context".to_owned(),
            (place, false) => format!(
                "whoever runs the worker's machine can allow it: farm-worker --fetch-from {place}; or COPY what is in the context"
            ),
            (place, true) => format!(
                "an admin of the farm can name that registry in the coordinator's configuration, [registries.{place:?}]; or whoever runs the \
                 worker's machine allows it: farm-worker --fetch-from {place}"
            ),
        };
        let message = format!("the engine fetches nothing from {}: {why}; {cure}", without_login(identifier));
        Failure { cause: Cause::User, code: FailureCode::SourceDenied, message, ..failure }
    }
}

/// Whether a host is one of those that are listed.
fn is_listed(listed: &FetchHost, host: &Host) -> bool {
    match (listed, host) {
        (FetchHost::V4(listed), Host::V4(host)) => listed == host,
        (FetchHost::V6(listed), Host::V6(host)) => listed == host,
        (listed, Host::Name(name)) => listed.has_name(name),
        _ => false,
    }
}

/// Without what stands before an `@` of its host, which may be a password.
fn without_login(identifier: &str) -> String {
    let Some((scheme, rest)) = identifier.split_once("://") else { return identifier.to_owned() };
    if scheme.eq_ignore_ascii_case("docker-image") {
        return identifier.strip_prefix("docker-image://").unwrap_or(identifier).to_owned();
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    // A query often has a signature in it.
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    format!("{scheme}://{host}{path}")
}

/// Names that lead to the engine's own machine, and those by which clouds' metadata services are known.
pub(crate) const LOOPBACK_NAMES: [&str; 12] = [
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost4.localdomain4",
    "localhost6",
    "localhost6.localdomain6",
    "ip6-localhost",
    "ip6-loopback",
    "host.docker.internal",
    "gateway.docker.internal",
    "host.containers.internal",
    "kubernetes.docker.internal",
];
pub(crate) const METADATA_NAMES: [&str; 8] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "metadata.azure.internal",
    "metadata.azure.com",
    "metadata.tencentyun.com",
    "instance-data",
    "instance-data.ec2.internal",
];
pub(crate) const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
/// The first two groups of the networks that have them (of EC2, and of GCE).
pub(crate) const METADATA_V6: [(u16, u16); 2] = [(0xfd00, 0xec2), (0xfd20, 0xce)];

fn of_name(name: &str) -> Option<Kind> {
    if LOOPBACK_NAMES.contains(&name) || name.ends_with(".localhost") {
        return Some(Kind::Loopback);
    }
    METADATA_NAMES.contains(&name).then_some(Kind::Metadata)
}

fn of_v4(address: Ipv4Addr) -> Option<Kind> {
    let [a, b, ..] = address.octets();
    match (a, b) {
        _ if METADATA_V4.contains(&address) => Some(Kind::Metadata),
        (0 | 127, _) => Some(Kind::Loopback),
        (169, 254) => Some(Kind::LinkLocal),
        (224.., _) => Some(Kind::Nobody),
        (10, _) | (172, 16..=31) | (192, 168) | (100, 64..=127) => Some(Kind::Private),
        _ => None,
    }
}

fn of_v6(address: Ipv6Addr) -> Option<Kind> {
    let [a, b, ..] = address.segments();
    match (a, b) {
        _ if METADATA_V6.contains(&(a, b)) => Some(Kind::Metadata),
        (0x2002, _) | (0x2001, 0) => Some(Kind::Tunnel),
        (0x2000..=0x3fff, _) => None,
        (0xfc00..=0xfdff, _) => Some(Kind::Private),
        (0xfe80..=0xfebf, _) => Some(Kind::LinkLocal),
        _ if address.is_loopback() || address.is_unspecified() => Some(Kind::Loopback),
        // Also all that only holds an address of IPv4.
        _ => Some(Kind::Nobody),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetches() -> Fetches {
        Fetches { private: true, ..Fetches::default() }
    }

    #[test]
    fn a_refusal_names_the_source_the_rule_and_the_cure_and_no_password() {
        let failure = || Failure::new(Cause::Infrastructure, FailureCode::EngineError, "denied by policy");
        let told =
            fetches().explain(failure(), "http://me:s3cret@169.254.169.254:80/latest/?X-Signature=abc");
        assert_eq!((told.cause, told.code), (Cause::User, FailureCode::SourceDenied));
        assert_eq!(
            told.message,
            "the engine fetches nothing from http://169.254.169.254:80/latest/: 169.254.169.254 is link-local, where clouds keep their \
             machines' credentials; whoever runs the worker's machine can allow it: farm-worker --fetch-from 169.254.169.254:80; or COPY \
             what is in the context"
        );
        let mut listing = fetches();
        listing.list("web", &["*.example.com".to_owned(), "git.example".to_owned()]);
        let told = listing.explain(failure(), "https://pypi.example/a.whl");
        assert_eq!((told.cause, told.code), (Cause::User, FailureCode::SourceDenied));
        assert_eq!(
            told.message,
            "the engine fetches nothing from https://pypi.example/a.whl: project web fetches from listed hosts only (*.example.com, \
             git.example), and pypi.example is none of them; an admin of the farm can allow it: farm project allow web --fetch \
             pypi.example; or COPY what is in the context"
        );
        // To list it wouldn't open it.
        assert!(listing.explain(failure(), "http://127.0.0.1/").message.contains("--fetch-from"));
        let told = fetches().explain(failure(), "docker-image://localhost:5000/os:1").message;
        assert!(told.contains("localhost:5000/os:1: localhost is the loopback"), "{told}");
        assert!(told.contains("[registries.\"localhost:5000\"]"), "{told}");
        let told = fetches().explain(failure(), "http://2130706433/").message;
        assert!(told.contains("usual forms"), "{told}");
        // Of what isn't refused by this the engine's words stay.
        assert_eq!(fetches().explain(failure(), "docker-image://r.example/os:1"), failure());
    }

    #[test]
    fn private_networks_are_for_machines_that_are_trusted() {
        for host in ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "[fd12::1]"] {
            let source = format!("git://{host}/team/app.git#main");
            assert_eq!(fetches().refuse(&source), None, "{host}");
            assert!(Fetches::default().refuse(&source).unwrap().contains("private network"), "{host}");
        }
        for host in ["172.15.0.1", "172.32.0.1", "100.63.255.255", "100.128.0.1", "9.9.9.9", "[2606:4700::1]"]
        {
            assert_eq!(Fetches::default().refuse(&format!("https://{host}/")), None, "{host}");
        }
    }
}
