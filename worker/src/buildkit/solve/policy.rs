//! Which images an engine may take where it gets a login for all of a registry: a source policy (BuildKit 0.11 and newer;
//! `sourcepolicy/pb/policy.proto`), which it heeds for whatever names an image, and also for what it has already.
//!
//! Of several rules that match, the last one counts.

use bollard_buildkit_proto::moby::buildkit::v1::sourcepolicy::{
    MatchType, Policy, PolicyAction, Rule, Selector,
};

use crate::buildkit::types::Login;

/// The policy for these logins; `None`: they are for all of their registries.
pub(super) fn of(logins: &[Login]) -> Option<Policy> {
    let bounded = logins.iter().filter(|login| !login.pull.is_empty());
    let rules: Vec<Rule> = bounded.flat_map(of_login).collect();
    (!rules.is_empty()).then_some(Policy { version: 1, rules })
}

fn of_login(login: &Login) -> impl Iterator<Item = Rule> {
    // The login would be told under any of these names, and in capitals.
    let names: &[&str] = match login.host.as_str() {
        "docker.io" => &["docker.io", "index.docker.io", "registry-1.docker.io"],
        host => &[host],
    };
    let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
    let all = rule(PolicyAction::Deny, format!("(?i)^[a-z+.-]*image[a-z+.-]*://({})/", names.join("|")));
    let may = login.pull.iter().map(|repository| {
        rule(PolicyAction::Allow, format!("^docker-image://{}([/:@]|$)", literal(repository)))
    });
    std::iter::once(all).chain(may)
}

fn rule(action: PolicyAction, expression: String) -> Rule {
    let selector =
        Selector { identifier: expression, match_type: MatchType::Regex.into(), constraints: Vec::new() };
    Rule { action: action.into(), selector: Some(selector), updates: None }
}

/// A text as a regular expression (RE2) that matches it.
fn literal(text: &str) -> String {
    let escaped = |c: char| if c.is_ascii_alphanumeric() { vec![c] } else { vec!['\\', c] };
    text.chars().flat_map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_logins_with_bounds_have_rules_and_allowing_comes_last() {
        let login = |host: &str, pull: &[&str]| Login {
            host: host.into(),
            username: "u".into(),
            password: "p".into(),
            pull: pull.iter().map(|text| (*text).to_owned()).collect(),
        };
        assert_eq!(of(&[login("a.example", &[])]), None);
        let policy =
            of(&[login("a.example", &[]), login("b.example:5000", &["b.example:5000/web_x"])]).unwrap();
        let rules: Vec<(i32, String)> =
            policy.rules.into_iter().map(|rule| (rule.action, rule.selector.unwrap().identifier)).collect();
        assert_eq!(
            rules,
            [
                (1, r"(?i)^[a-z+.-]*image[a-z+.-]*://(b\.example\:5000)/".to_owned()),
                (0, r"^docker-image://b\.example\:5000\/web\_x([/:@]|$)".to_owned()),
            ]
        );
        let policy = of(&[login("docker.io", &["docker.io/acme"])]).unwrap();
        let denied = &policy.rules[0].selector.as_ref().unwrap().identifier;
        assert!(denied.contains(r"registry\-1\.docker\.io"), "{denied}");
    }
}
