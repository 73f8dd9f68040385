//! What an engine may fetch by itself ([`Fetches`]), as rules of a source policy. They come before those of `policy`: of rules that
//! match the last one counts.
//!
//! First all is denied. Then is allowed what is written in a usual form, so that nobody else can read another host in it (but for
//! images only at hosts that the project lists, if it lists any); of that is denied what is closed; and last come the places that are
//! open all the same. An engine matches what it calls a source by: an
//! image's name in full, a URL as it was written, `git://HOST/PATH#REF` of a repository whatever its scheme. It does so before it
//! dials, but for the host key of a repository by ssh, which the frontend asks for when it reads the Dockerfile.

use std::net::{Ipv4Addr, Ipv6Addr};

use bollard_buildkit_proto::moby::buildkit::v1::sourcepolicy::{Policy, PolicyAction, Rule};

use farm_types::FetchHost;

use super::policy::{literal, rule};
use crate::buildkit::fetches::{
    Fetches, Host, IMAGE, LOCAL, LOCALHOST, LOOPBACK_NAMES, METADATA_NAMES, METADATA_V4, METADATA_V6, OTHERS,
    Place, REGISTRY_PORTS, Spot, usual,
};

/// A number from 0 to 255 as it is usually written, any part of an address, and a group of one of IPv6.
const OCTET: &str = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
const ANY: &str = "[0-9]{1,3}";
/// What may stand before an `@` without being read as the host by anybody.
const USER: &str = r"([A-Za-z0-9._~!$&'()*+,;=:%-]*@)?";
const PORT: &str = "(:[0-9]{1,5})?";
const REST: &str = "([/?#]|$)";

/// These rules, and after them those of another policy.
pub(super) fn policy(fetches: &Fetches, bounds: Option<Policy>) -> Policy {
    let mut rules = rules(fetches);
    rules.extend(bounds.into_iter().flat_map(|policy| policy.rules));
    Policy { version: 1, rules }
}

fn rules(fetches: &Fetches) -> Vec<Rule> {
    let mut rules = vec![
        rule(PolicyAction::Deny, "^".to_owned()),
        rule(PolicyAction::Allow, format!("^{LOCAL}://")),
        rule(PolicyAction::Allow, image(&usual_host(), PORT)),
    ];
    let others = match &fetches.only {
        None => Some(usual_host()),
        Some(only) => any_of(only.iter().map(of_listed)),
    };
    rules.extend(others.map(|hosts| rule(PolicyAction::Allow, other(&OTHERS, &hosts, PORT))));
    let closed = any_case(&closed(fetches).join("|"));
    rules.push(rule(PolicyAction::Deny, image(&closed, PORT)));
    rules.push(rule(PolicyAction::Deny, other(&OTHERS, &closed, PORT)));
    for place in &fetches.open {
        let ports = |scheme: &'static str| match place {
            Place::Host(spot) => spot.port.map_or_else(|| PORT.to_owned(), |port| at(port, usual(scheme))),
            Place::Net(..) => PORT.to_owned(),
        };
        rules.push(rule(PolicyAction::Allow, image(&of_place(place), &ports(IMAGE))));
        let Some(hosts) = of_listed_place(fetches, place) else { continue };
        for scheme in OTHERS {
            rules.push(rule(PolicyAction::Allow, other(&[scheme], &hosts, &ports(scheme))));
        }
    }
    if fetches.images_anywhere {
        rules.push(rule(PolicyAction::Allow, image(&usual_host(), PORT)));
    }
    for place in &fetches.registries {
        let port = match place {
            Place::Host(spot) => spot.port.map_or_else(
                || format!("(:({}))?", REGISTRY_PORTS.map(|port| port.to_string()).join("|")),
                |port| at(port, usual(IMAGE)),
            ),
            Place::Net(..) => PORT.to_owned(),
        };
        rules.push(rule(PolicyAction::Allow, image(&of_place(place), &port)));
    }
    rules
}

/// Images at a host.
fn image(host: &str, port: &str) -> String {
    format!("^{}://({host}){port}/", any_case(IMAGE))
}

/// What else is fetched from a host.
fn other(schemes: &[&str], host: &str, port: &str) -> String {
    format!("^{}://{USER}({host}){port}{REST}", any_case(&schemes.join("|")))
}

/// In small letters or capitals. Not for what anything may stand in: some letters beyond ASCII are the same as one of it then.
fn any_case(expression: &str) -> String {
    format!("(?i:{expression})")
}

/// This port; where it needn't be said, also without.
fn at(port: u16, usual: &[u16]) -> String {
    if usual.contains(&port) { format!("(:0*{port})?") } else { format!(":0*{port}") }
}

/// A host in a form that everybody reads alike, at an address that hosts have.
fn usual_host() -> String {
    let name = r"([A-Za-z0-9_-]+\.)*[A-Za-z_][A-Za-z0-9_-]*\.?";
    let four = [OCTET; 4].join(r"\.");
    let six = r"\[([23][0-9A-Fa-f]{3}|[Ff][CDcd][0-9A-Fa-f]{2}):[0-9A-Fa-f:]*\]";
    format!("{name}|{four}|{six}")
}

/// What is closed, of hosts in their usual form.
fn closed(fetches: &Fetches) -> Vec<String> {
    let mut closed: Vec<String> =
        LOOPBACK_NAMES.iter().chain(&METADATA_NAMES).map(|name| of_name(name)).collect();
    closed.push(r"([a-z0-9_-]+\.)+localhost\.?".to_owned());
    closed.extend(METADATA_V4.iter().map(|address| of_v4(*address)));
    closed.extend(["0", "127", "22[4-9]", "23[0-9]", "24[0-9]", "25[0-5]"].map(|first| net(&[first])));
    closed.push(net(&["169", "254"]));
    // 6to4 and Teredo lead to addresses of IPv4.
    closed.push(r"\[2002:[0-9a-f:]*\]".to_owned());
    closed.push(r"\[2001:(0{1,4}:|:)[0-9a-f:]*\]".to_owned());
    closed.extend(METADATA_V6.iter().map(|(a, b)| format!(r"\[0*{a:x}:0*{b:x}:[0-9a-f:]*\]")));
    if !fetches.private {
        closed.extend([net(&["10"]), net(&["172", "(1[6-9]|2[0-9]|3[01])"]), net(&["192", "168"])]);
        closed.push(net(&["100", "(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])"]));
        closed.push(r"\[f[cd][0-9a-f]{2}:[0-9a-f:]*\]".to_owned());
    }
    closed.extend(fetches.closed.iter().map(of_host));
    closed
}

/// Addresses that begin so.
fn net(first: &[&str]) -> String {
    let rest = std::iter::repeat_n(ANY, 4 - first.len());
    first.iter().copied().chain(rest).collect::<Vec<_>>().join(r"\.")
}

/// A spot's host, and what it stands for besides.
fn hosts_of(spot: &Spot) -> impl Iterator<Item = Host> {
    let is_local = matches!(&spot.host, Host::Name(name) if name == "localhost");
    let local = LOCALHOST.iter().filter(move |_| is_local).filter_map(|address| address.parse().ok());
    local.chain([spot.host.clone()])
}

/// Of these hosts any; `None`: there is none.
fn any_of(hosts: impl Iterator<Item = String>) -> Option<String> {
    let hosts: Vec<String> = hosts.collect();
    (!hosts.is_empty()).then(|| any_case(&hosts.join("|")))
}

/// What of a place a project lists; `None`: nothing.
fn of_listed_place(fetches: &Fetches, place: &Place) -> Option<String> {
    let Some(only) = &fetches.only else { return Some(of_place(place)) };
    match place {
        Place::Host(spot) => {
            any_of(hosts_of(spot).filter(|host| fetches.lists(host)).map(|host| of_host(&host)))
        }
        Place::Net(..) => {
            let localhost = Host::Name("localhost".to_owned());
            let local = (place.holds(&localhost) && fetches.lists(&localhost)).then(|| of_host(&localhost));
            let within = only.iter().filter(
                |listed| matches!(listed, FetchHost::V4(address) if place.holds(&Host::V4(*address))),
            );
            any_of(local.into_iter().chain(within.map(of_listed)))
        }
    }
}

fn of_listed(listed: &FetchHost) -> String {
    match listed {
        FetchHost::Below(name) => format!(r"((?-i:[A-Za-z0-9_-]+)\.)+{}", of_name(name)),
        FetchHost::Name(name) => of_name(name),
        FetchHost::V4(address) => of_v4(*address),
        FetchHost::V6(address) => of_v6(*address),
    }
}

fn of_place(place: &Place) -> String {
    match place {
        Place::Host(spot) => {
            let hosts: Vec<String> = hosts_of(spot).map(|host| of_host(&host)).collect();
            any_case(&hosts.join("|"))
        }
        &Place::Net(address, bits) => {
            let holds = place.holds(&Host::Name("localhost".to_owned()));
            let local = holds.then(|| of_name("localhost"));
            let octets = address.octets().into_iter().zip([0, 8, 16, 24]);
            let octets: Vec<String> =
                octets.map(|(octet, before)| of_octet(octet, bits.saturating_sub(before))).collect();
            any_case(&local.into_iter().chain([octets.join(r"\.")]).collect::<Vec<_>>().join("|"))
        }
    }
}

/// Numbers that begin with so many bits of this one.
fn of_octet(octet: u8, bits: u32) -> String {
    if bits == 0 {
        return OCTET.to_owned();
    }
    let is_alike = |other: &u8| (other ^ octet) >> (8 - bits.min(8)) == 0;
    let alike: Vec<String> = (0..=u8::MAX).filter(is_alike).map(|number| number.to_string()).collect();
    format!("({})", alike.join("|"))
}

fn of_host(host: &Host) -> String {
    match host {
        Host::Name(name) => of_name(name),
        Host::V4(address) => of_v4(*address),
        Host::V6(address) => of_v6(*address),
    }
}

fn of_name(name: &str) -> String {
    format!(r"{}\.?", literal(name))
}

fn of_v4(address: Ipv4Addr) -> String {
    literal(&address.to_string())
}

/// All spellings of an address: zeros before a group's digits, and `::` for any groups that are zero.
fn of_v6(address: Ipv6Addr) -> String {
    let groups = address.segments();
    let spell = |groups: &[u16]| {
        let spelled: Vec<String> = groups.iter().map(|group| format!("0{{0,3}}{group:x}")).collect();
        spelled.join(":")
    };
    let mut spellings = vec![spell(&groups)];
    for begin in 0..8 {
        let zeros = groups[begin..].iter().take_while(|group| **group == 0).count();
        for end in begin + 1..=begin + zeros {
            spellings.push(format!("{}::{}", spell(&groups[..begin]), spell(&groups[end..])));
        }
    }
    format!(r"\[({})\]", spellings.join("|"))
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
