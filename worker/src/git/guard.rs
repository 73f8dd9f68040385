//! Where sources are fetched from: a host's addresses are looked up once and judged, and whoever fetches, git or farm, is held to them.
//!
//! The rules are those of what engines fetch ([`crate::buildkit::Fetches`]); here addresses are known, so these are judged, too, and a
//! name that leads into the farm leads nowhere.

use std::net::IpAddr;
use std::time::Duration;

use farm_types::FailureCode;
use farm_types::git::GitUrl;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::error::{FetchError, trouble, user};
use crate::buildkit::Fetches;

/// For a name.
const LOOKUP_WITHIN: Duration = Duration::from_secs(20);

/// The host of a repository and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// As the address names it; an IPv6 address without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// At least one.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Who is to be called, and for what.
#[derive(Debug, Clone)]
pub(crate) struct Asked<'a> {
    /// What is fetched, as people are told.
    pub(crate) shown: String,
    /// `https`, `http` or `ssh`.
    pub(crate) scheme: &'a str,
    /// `HOST[:PORT]`.
    pub(crate) host: &'a str,
    /// The failure of one that is closed.
    pub(crate) closed: FailureCode,
    /// The failure of one that isn't found.
    pub(crate) unreachable: FailureCode,
}

/// The way to a repository's host.
///
/// # Errors
/// It is closed, or isn't found.
pub(crate) async fn route(url: &GitUrl, reach: &Fetches) -> Result<Route, FetchError> {
    let asked = Asked {
        shown: url.to_string(),
        scheme: url.scheme(),
        host: url.host(),
        closed: FailureCode::GitHostClosed,
        unreachable: FailureCode::GitUnreachable,
    };
    route_to(asked, reach).await
}

/// The way to a host.
///
/// # Errors
/// It is closed, or isn't found.
pub(crate) async fn route_to(asked: Asked<'_>, reach: &Fetches) -> Result<Route, FetchError> {
    let Asked { shown, scheme, host: place, closed: code, unreachable } = asked;
    let refused = |why: &str| user(code.clone(), format!("nothing is fetched from {shown}: {why}"));
    let (host, port) =
        split(scheme, place).ok_or_else(|| refused("its host isn't written in a usual form"))?;
    // As engines name it; `git` is what has ssh's port.
    let kind = if scheme == "ssh" { "git" } else { scheme };
    let place = |host: &str| {
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    };
    let identifier = |host: &str| format!("{kind}://{}/", place(host));
    let closed = |why: &str| {
        refused(&format!(
            "{why}; whoever runs the worker's machine can allow it: farm-worker --fetch-from {}",
            place(&host)
        ))
    };
    if let Some(why) = reach.refuse_repository(&identifier(&host), &host, &place(&host)) {
        return Err(refused(&why));
    }
    let is_open = reach.opens(&identifier(&host));
    if scheme == "http" && !is_open {
        return Err(closed("http is neither encrypted nor signed; write https"));
    }
    let addresses = look_up(&host, port).await.map_err(|why| {
        trouble(unreachable.clone(), format!("{shown} can't be reached: {host} isn't found: {why}"))
    })?;
    if scheme == "http" && !addresses.iter().all(IpAddr::is_loopback) {
        return Err(closed(
            "http is neither encrypted nor signed, so it is for this machine only; write https",
        ));
    }
    if !is_open {
        for address in &addresses {
            if let Some(why) = reach.closes(&identifier(&address.to_string())) {
                return Err(closed(&format!("{host} is at {address}, and {why}")));
            }
        }
        for farm in reach.farm() {
            let of_farm = look_up(&farm, port).await.unwrap_or_default();
            if of_farm.iter().any(|address| addresses.contains(address)) {
                return Err(closed(&format!("{host} is where the farm's own host {farm} is")));
            }
        }
    }
    Ok(Route { host, port, addresses })
}

fn split(scheme: &str, place: &str) -> Option<(String, u16)> {
    let usual = match scheme {
        "ssh" => 22,
        "http" => 80,
        _ => 443,
    };
    if let Some(six) = place.strip_prefix('[') {
        let (host, port) = six.split_once(']')?;
        let port = port.strip_prefix(':').map_or(Some(usual), |port| port.parse().ok())?;
        return Some((host.to_owned(), port));
    }
    match place.split_once(':') {
        Some((host, port)) => Some((host.to_owned(), port.parse().ok()?)),
        None => Some((place.to_owned(), usual)),
    }
}

async fn look_up(host: &str, port: u16) -> Result<Vec<IpAddr>, String> {
    let found = timeout(LOOKUP_WITHIN, lookup_host((host, port))).await;
    let found = found.map_err(|_| format!("no answer within {} s", LOOKUP_WITHIN.as_secs()))?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map_err(|error| error.to_string())? {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(url: &str, open: &[&str]) -> Option<String> {
        let mut reach = Fetches { private: true, ..Fetches::default() };
        reach.close(&["127.0.0.9".to_owned()]);
        reach.open(&open.iter().map(|place| place.parse().unwrap()).collect::<Vec<_>>());
        route(&url.parse().unwrap(), &reach).await.err().map(|error| error.to_string())
    }

    #[tokio::test]
    async fn hosts_are_judged_by_their_addresses_too_and_http_is_for_this_machine() {
        for (url, why) in [
            ("https://127.0.0.1/a.git", "loopback"),
            ("ssh://git@localhost/a.git", "loopback"),
            ("https://[::1]:8443/a.git", "loopback"),
            ("ssh://git@169.254.169.254/a.git", "link-local"),
            ("https://metadata.google.internal/a.git", "credentials"),
            ("http://192.0.2.1/a.git", "write https"),
            ("https://127.0.0.9/a.git", "loopback"),
        ] {
            let said = refusal(url, &[]).await.unwrap();
            assert!(said.contains(why) && said.contains("--fetch-from"), "{said}");
        }
        assert!(
            refusal("http://192.0.2.1/a.git", &["192.0.2.1"]).await.unwrap().contains("this machine only")
        );
        assert_eq!(refusal("http://127.0.0.1:8080/a.git", &["127.0.0.1:8080"]).await, None);
        assert!(refusal("http://127.0.0.1:8081/a.git", &["127.0.0.1:8080"]).await.is_some());
        assert_eq!(refusal("ssh://git@127.0.0.1:2222/a.git", &["127.0.0.0/8"]).await, None);
        assert_eq!(refusal("https://192.0.2.1/a.git", &[]).await, None);
    }
}
