//! Which images an engine may take where an attempt may not take all of a registry's: a source policy (BuildKit 0.11 and newer;
//! `sourcepolicy/pb/policy.proto`), which it heeds for whatever names an image, and also for what it has already.
//!
//! An engine asks no registry for what is named by its digest and is in its store, if that came from a registry of the same host
//! name, *whatever its port* (`util/contentutil/source.go`). So all ports of a bounded registry's name are closed. What a
//! frontend has resolved is a tag with its digest to the policy, as a user may have written it: a rule can't tell them apart.
//!
//! Of several rules that match, the last one counts.

use bollard_buildkit_proto::moby::buildkit::v1::sourcepolicy::{
    MatchType, Policy, PolicyAction, Rule, Selector,
};
use farm_types::{ImageRef, RegistryHost};

use crate::buildkit::public::{At, Readable};
use crate::buildkit::types::Bounds;

/// The policy for these bounds, with what everybody may read and what the attempt has pushed; `None`: no registry has any.
pub(super) fn of(bounds: &Bounds, public: &[Readable]) -> Option<Policy> {
    let closed = bounds.within.keys().map(|host| {
        let all = format!("(?i)^[a-z+.-]*image[a-z+.-]*://({})(:[0-9]+)?/", names(host.name()));
        rule(PolicyAction::Deny, all)
    });
    let open = bounds.open.iter().filter(|(host, _)| is_closed(bounds, host));
    let within = bounds.within.iter().map(|(host, bound)| (host, &bound.pull));
    let pull = open.chain(within).flat_map(|(host, pull)| {
        let paths = pull.iter().filter_map(|all| all.strip_prefix(host.as_str()));
        paths.map(|path| below(host, &format!("{}([/:@]|$)", literal(path))))
    });
    let pushed = bounds.pushed.iter().map(Readable::one);
    let public = public.iter().cloned().chain(pushed).filter_map(|readable| {
        let host = readable.repository().host();
        let name = literal(&format!("/{}", readable.repository().name()));
        let rest = match &readable {
            Readable::All(_) => is_alone(bounds, host).then(|| "([:@]|$)".to_owned())?,
            Readable::One { at: At::Tag(tag), .. } => format!("{}$", literal(&format!(":{tag}"))),
            Readable::One { at: At::Digest(digest), .. } => {
                format!("(:[^/:@]+)?{}$", literal(&format!("@{digest}")))
            }
        };
        is_closed(bounds, host).then(|| below(host, &format!("{name}{rest}")))
    });
    let rules: Vec<Rule> = closed.chain(pull).chain(public).collect();
    (!rules.is_empty()).then_some(Policy { version: 1, rules })
}

/// What may be opened for an image that everybody may read: its repository, where an engine can't have another registry's images under
/// that name; else by its digest came whatever the other one has in a repository that is called the same.
pub(super) fn readable(bounds: &Bounds, image: &ImageRef) -> Readable {
    match is_alone(bounds, image.repository.host()) {
        true => Readable::All(image.repository.clone()),
        false => Readable::one(image),
    }
}

/// Whether this registry has bounds, and no other one of which there are any or may be images has its name.
fn is_alone(bounds: &Bounds, host: &RegistryHost) -> bool {
    let mut named =
        bounds.within.keys().chain(bounds.open.keys()).filter(|other| other.name() == host.name());
    bounds.within.contains_key(host) && named.all(|other| other == host)
}

/// Whether images of this host are not taken unless they are allowed.
pub(super) fn is_closed(bounds: &Bounds, host: &RegistryHost) -> bool {
    bounds.within.keys().any(|closed| closed.name() == host.name())
}

/// The names under which a host can be named, as an expression: its login would be told under any of them.
fn names(host: &str) -> String {
    let names: &[&str] = match host {
        "docker.io" => &["docker.io", "index.docker.io", "registry-1.docker.io"],
        host => &[host],
    };
    names.iter().map(|name| literal(name)).collect::<Vec<_>>().join("|")
}

/// Allows what a host has below this; hosts in small letters or capitals.
fn below(host: &RegistryHost, path: &str) -> Rule {
    rule(PolicyAction::Allow, format!("^docker-image://(?i:{}){path}", names(host.as_str())))
}

pub(super) fn rule(action: PolicyAction, expression: String) -> Rule {
    let selector =
        Selector { identifier: expression, match_type: MatchType::Regex.into(), constraints: Vec::new() };
    Rule { action: action.into(), selector: Some(selector), updates: None }
}

/// A text as a regular expression (RE2) that matches it.
pub(super) fn literal(text: &str) -> String {
    let escaped = |c: char| if c.is_ascii_alphanumeric() { vec![c] } else { vec!['\\', c] };
    text.chars().flat_map(escaped).collect()
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
