//! What people and scripts see of the secrets that a project keeps, and of those of a build. Never a value.

use farm_proto::v1::{Build, ProjectSecret};
use serde::Serialize;

use super::text::{ago, columns, harmless, time};

/// A secret, as `farm secret ls --json` prints it.
#[derive(Debug, Serialize)]
pub struct ProjectSecretJson<'a> {
    name: &'a str,
    version: u32,
    set: Option<String>,
    set_by: &'a str,
    last_used: Option<String>,
    last_used_by: Option<&'a str>,
    last_used_build: Option<&'a str>,
    role: &'a str,
    refs: &'a [String],
    events: &'a [String],
    missing_key: Option<&'a str>,
}

impl<'a> From<&'a ProjectSecret> for ProjectSecretJson<'a> {
    fn from(secret: &'a ProjectSecret) -> Self {
        let known = |text: &'a str| (!text.is_empty()).then_some(text);
        Self {
            name: &secret.name,
            version: secret.version,
            set: time(secret.set_ms),
            set_by: &secret.set_by,
            last_used: time(secret.last_used_ms),
            last_used_by: known(&secret.last_used_by),
            last_used_build: known(&secret.last_used_build),
            role: &secret.role,
            refs: &secret.refs,
            events: &secret.events,
            missing_key: known(&secret.missing_key),
        }
    }
}

/// Who may use a secret: `publisher, jobs of refs/heads/main or refs/tags/v*, by push`.
pub fn rule(secret: &ProjectSecret) -> String {
    rule_words(&secret.role, &secret.refs, &secret.events)
}

/// The same of whatever has such a rule.
pub fn rule_words(role: &str, refs: &[String], events: &[String]) -> String {
    let mut words = vec![harmless(role)];
    if !refs.is_empty() {
        words.push(format!("jobs of {}", harmless(&refs.join(" or "))));
    }
    if !events.is_empty() {
        words.push(format!("by {}", harmless(&events.join(" or "))));
    }
    words.join(", ")
}

/// A table of what a project keeps.
pub fn secrets(secrets: &[ProjectSecret], now: i64) -> Vec<String> {
    let head = ["NAME", "VERSION", "SET", "BY", "LAST USED", "RULE"];
    let rows = secrets.iter().map(|secret| {
        let version = match secret.missing_key.as_str() {
            "" => secret.version.to_string(),
            key => format!("{}, sealed by key {}, which isn't here", secret.version, harmless(key)),
        };
        let used = match secret.last_used_ms {
            0 => "never".to_owned(),
            at => format!("{}, {}", ago(at, now), harmless(&secret.last_used_build)),
        };
        vec![
            harmless(&secret.name),
            version,
            ago(secret.set_ms, now),
            harmless(&secret.set_by),
            used,
            rule(secret),
        ]
    });
    columns(&[head.map(ToOwned::to_owned).to_vec()].into_iter().chain(rows).collect::<Vec<_>>())
}

/// A secret of a build, as `farm show --json` prints it.
#[derive(Debug, Serialize)]
pub struct BuildSecretJson {
    /// As the Dockerfile calls it.
    pub id: String,
    /// As the project calls it, if it is the project's.
    pub project_secret: Option<String>,
    /// Which version of it the build was accepted with.
    pub version: Option<u32>,
}

/// The secrets that a build's steps may mount, by id.
pub fn of_build(build: &Build) -> Vec<BuildSecretJson> {
    let named = build.spec.iter().flat_map(|spec| &spec.secrets);
    let mut all: Vec<BuildSecretJson> = named
        .map(|(id, source)| BuildSecretJson {
            id: id.clone(),
            project_secret: source.strip_prefix("project:").map(ToOwned::to_owned),
            version: build.secret_versions.get(id).copied(),
        })
        .collect();
    all.sort_by(|one, other| one.id.cmp(&other.id));
    all
}

/// The same in lines: `secret npm (project, version 3)`.
pub fn lines_of_build(build: &Build) -> Vec<String> {
    let line = |secret: BuildSecretJson| {
        let version = secret.version.map(|version| format!(", version {version}")).unwrap_or_default();
        let from = match secret.project_secret {
            None => "given with the build".to_owned(),
            Some(name) if name == secret.id => format!("project{version}"),
            Some(name) => format!("project's {}{version}", harmless(&name)),
        };
        format!("secret {} ({from})", harmless(&secret.id))
    };
    let hosts = build.spec.iter().flat_map(|spec| &spec.registry_logins);
    let logins = hosts.map(|host| format!("login at {} (given with the build)", harmless(host)));
    of_build(build).into_iter().map(line).chain(logins).collect()
}

#[cfg(test)]
mod tests {
    use farm_proto::v1::BuildSpec;

    use super::*;

    #[test]
    fn what_is_kept_is_told_with_its_use_and_its_rule() {
        let npm = ProjectSecret {
            name: "npm".into(),
            version: 3,
            set_ms: 1_000,
            set_by: "ada".into(),
            role: "builder".into(),
            ..Default::default()
        };
        assert_eq!(
            secrets(std::slice::from_ref(&npm), 61_000),
            [
                "NAME  VERSION  SET        BY   LAST USED  RULE",
                "npm   3        1 min ago  ada  never      builder"
            ]
        );
        let used = ProjectSecret {
            last_used_ms: 2_000,
            last_used_build: "7f3k2m".into(),
            refs: vec!["refs/heads/main".into(), "refs/tags/v*".into()],
            events: vec!["push".into()],
            role: "publisher".into(),
            missing_key: "0123456789ab".into(),
            ..npm
        };
        let told = secrets(&[used], 61_000).remove(1);
        assert!(
            told.contains(", 7f3k2m") && told.contains("sealed by key 0123456789ab, which isn't here"),
            "{told}"
        );
        assert!(told.ends_with("publisher, jobs of refs/heads/main or refs/tags/v*, by push"), "{told}");
    }

    #[test]
    fn a_build_tells_which_versions_it_was_accepted_with() {
        let secrets = [("npm", "project:npm"), ("deploy", "project:DEPLOY"), ("word", "given")];
        let build = Build {
            spec: Some(BuildSpec {
                secrets: secrets.map(|(id, from)| (id.to_owned(), from.to_owned())).into(),
                ..Default::default()
            }),
            secret_versions: [("npm".to_owned(), 3), ("deploy".to_owned(), 1)].into(),
            ..Default::default()
        };
        assert_eq!(
            lines_of_build(&build),
            [
                "secret deploy (project's DEPLOY, version 1)",
                "secret npm (project, version 3)",
                "secret word (given with the build)"
            ]
        );
        assert!(lines_of_build(&Build::default()).is_empty());
    }
}
