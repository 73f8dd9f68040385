//! What people and scripts see of what a project trusts.

use std::collections::BTreeMap;

use farm_proto::v1::Trust;
use serde::Serialize;

use super::text::{ago, columns, harmless, time};

/// The claims that tell what a trust is about; the others are conditions.
const IDS: [&str; 5] = ["repository_id", "repository_owner_id", "project_id", "namespace_id", "sub"];

/// A trust, as `farm trust ls --json` prints it.
#[derive(Debug, Serialize)]
pub struct TrustJson<'a> {
    id: &'a str,
    provider: &'a str,
    name: &'a str,
    issuer: &'a str,
    audience: &'a str,
    claims: BTreeMap<&'a str, &'a [String]>,
    role: &'a str,
    created: Option<String>,
    created_by: &'a str,
    last_used: Option<String>,
}

impl<'a> From<&'a Trust> for TrustJson<'a> {
    fn from(trust: &'a Trust) -> Self {
        Self {
            id: &trust.id,
            provider: &trust.provider,
            name: &trust.name,
            issuer: &trust.issuer,
            audience: &trust.audience,
            claims: trust.claims.iter().map(|(claim, of)| (claim.as_str(), of.values.as_slice())).collect(),
            role: &trust.role,
            created: time(trust.created_ms),
            created_by: &trust.created_by,
            last_used: time(trust.last_used_ms),
        }
    }
}

/// What a trust is about, in words that only tell: `github acme/app`.
pub fn named(trust: &Trust) -> String {
    format!("{} {}", harmless(&trust.provider), harmless(&trust.name))
}

/// What tells the thing that it is about: `repository_id 74, repository_owner_id 65`.
pub fn ids(trust: &Trust) -> String {
    let all = IDS.iter().filter_map(|id| Some((*id, trust.claims.get(*id)?)));
    let all = all.map(|(id, of)| format!("{id} {}", harmless(&of.values.join(" or "))));
    all.collect::<Vec<_>>().join(", ")
}

/// What else its tokens have to say: `environment production, ref refs/heads/main`. Nothing, if that is all the same.
pub fn conditions(trust: &Trust) -> String {
    let mut others: Vec<String> = trust
        .claims
        .iter()
        .filter(|(claim, _)| !IDS.contains(&claim.as_str()))
        .map(|(claim, of)| format!("{} {}", harmless(claim), harmless(&of.values.join(" or "))))
        .collect();
    others.sort();
    others.join(", ")
}

/// A table of what a project trusts.
pub fn trusts(trusts: &[Trust], now: i64) -> Vec<String> {
    // Two may be about the same; then only their ids tell them apart.
    let is_alike = |trust: &Trust| trusts.iter().filter(|other| other.name == trust.name).count() > 1;
    let id = if trusts.iter().any(is_alike) { "ID" } else { "" };
    let head = ["OF", "TRUSTED", "ROLE", "KNOWN BY", "ONLY IF", "BY", "ADDED", "USED", id];
    let rows = trusts.iter().map(|trust| {
        vec![
            harmless(&trust.provider),
            harmless(&trust.name),
            harmless(&trust.role),
            ids(trust),
            conditions(trust),
            harmless(&trust.created_by),
            ago(trust.created_ms, now),
            if trust.last_used_ms > 0 { ago(trust.last_used_ms, now) } else { "never".to_owned() },
            if is_alike(trust) { harmless(&trust.id) } else { String::new() },
        ]
    });
    columns(&[head.map(ToOwned::to_owned).to_vec()].into_iter().chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use farm_proto::v1::ClaimValues;

    use super::*;

    #[test]
    fn what_is_trusted_stands_with_what_it_is_known_by_and_on_which_conditions() {
        let values = |of: &[&str]| ClaimValues { values: of.iter().map(|&value| value.to_owned()).collect() };
        let app = Trust {
            id: "one".into(),
            provider: "github".into(),
            name: "acme/app".into(),
            role: "builder".into(),
            claims: [
                ("ref".to_owned(), values(&["refs/heads/main", "refs/tags/v*"])),
                ("repository_owner_id".to_owned(), values(&["65"])),
                ("repository_id".to_owned(), values(&["74"])),
                ("environment".to_owned(), values(&["production"])),
            ]
            .into(),
            created_by: "ada".into(),
            created_ms: 1_000,
            last_used_ms: 2_000,
            ..Default::default()
        };
        let one = trusts(std::slice::from_ref(&app), 61_000);
        assert!(one[0].ends_with("USED"), "{one:?}");
        assert!(one[1].contains("repository_id 74, repository_owner_id 65  environment production, ref refs/heads/main or refs/tags/v*  ada"));
        let again = Trust { id: "two".into(), last_used_ms: 0, ..app.clone() };
        let both = trusts(&[app, again], 61_000);
        assert!(both[1].ends_with("59 s ago    one") || both[1].ends_with("one"), "{both:?}");
        assert!(both[2].contains("never") && both[2].ends_with("two"), "{both:?}");
    }
}
