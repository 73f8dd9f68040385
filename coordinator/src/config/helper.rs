//! `[credential_helpers.NAME]`: programs that give short-lived logins at registries.

use std::path::Path;

use farm_types::{Invalid, RegistryHost};
use serde::Deserialize;

/// The longest time for which a login counts, seconds: that of the longest ones that clouds give.
const LONGEST: u64 = 12 * 3600;

/// How a helper is asked, and answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HelperProtocol {
    /// As Docker's credential helpers are (docker/docker-credential-helpers, `get`): the registry's host; name and secret.
    #[default]
    Docker,
    /// As Kubernetes asks its kubelet's plugins (`credentialprovider.kubelet.k8s.io/v1`): these say for how long a login counts.
    Kubelet,
}

/// A program that gives short-lived logins at registries.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialHelper {
    /// The program, by its absolute path, and its arguments. Nothing is added to them.
    pub command: Vec<String>,
    /// The user that it runs as.
    pub user: String,
    /// The group; `None`: the one that is called as the user is.
    pub group: Option<String>,
    /// How it is asked.
    #[serde(default)]
    pub protocol: HelperProtocol,
    /// Registries that it gives logins for: HOST or HOST:PORT, or `*.` and how their hosts end.
    pub registries: Vec<String>,
    /// The projects that may choose it; `*`: all.
    pub projects: Vec<String>,
    /// For how long a login counts of which the helper doesn't say it.
    #[serde(default = "five_minutes")]
    pub keep_seconds: u64,
    /// How long it may take.
    #[serde(default = "ten")]
    pub timeout_seconds: u64,
}

fn ten() -> u64 {
    10
}

fn five_minutes() -> u64 {
    300
}

impl CredentialHelper {
    /// Refuses what can't be meant.
    pub(super) fn check(&mut self, name: &str) -> Result<(), Invalid> {
        let named = |what: &str| format!("credential_helpers.{name}.{what}");
        let invalid = |what: &str, value: &str, cure: &str| Err(Invalid::new(named(what), value, cure));
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return Err(Invalid::new(
                "credential helper",
                name,
                "a name has letters, digits, dots and dashes, like ecr",
            ));
        }
        let program = self.command.first().map(String::as_str).unwrap_or_default();
        if !Path::new(program).is_absolute() {
            return invalid(
                "command",
                program,
                "name the program by its absolute path, then its arguments: [\"/usr/local/bin/docker-credential-ecr-login\", \"get\"]",
            );
        }
        // setpriv takes what begins with a digit for an id: 0 would be root.
        for (what, value) in
            [("user", Some(self.user.as_str())), ("group", self.group.as_deref())].into_iter()
        {
            let Some(value) = value else { continue };
            if !value.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') || value == "root" {
                return invalid(what, value, "name a user of the helper's own, like farm-ecr, and not root");
            }
        }
        if self.registries.is_empty() {
            return invalid("registries", "", "say for which registries it is: HOST or *.HOST");
        }
        for written in &mut self.registries {
            match written.strip_prefix("*.") {
                Some(end) if end.parse::<RegistryHost>().is_ok_and(|host| host.as_str().contains('.')) => {
                    *written = written.to_lowercase();
                }
                None => *written = super::registry::host(written)?,
                Some(_) => return invalid("registries", written, "write HOST, HOST:PORT or *.HOST"),
            }
        }
        if self.projects.is_empty() {
            return invalid("projects", "", "say which projects may choose it, or \"*\" for all");
        }
        if !(1..=LONGEST).contains(&self.keep_seconds) {
            let cure = format!("from 1 to {LONGEST} (12 h)");
            return invalid("keep_seconds", &self.keep_seconds.to_string(), &cure);
        }
        if !(1..=10).contains(&self.timeout_seconds) {
            return invalid("timeout_seconds", &self.timeout_seconds.to_string(), "from 1 to 10");
        }
        Ok(())
    }

    /// Whether it gives logins for a registry.
    pub fn is_for(&self, host: &RegistryHost) -> bool {
        self.registries.iter().any(|pattern| match pattern.strip_prefix('*') {
            Some(end) => host.as_str().strip_suffix(end).is_some_and(|start| !start.is_empty()),
            None => pattern == host.as_str(),
        })
    }

    /// Whether a project may choose it.
    pub fn lets(&self, project: &str) -> bool {
        self.projects.iter().any(|name| name == "*" || name == project)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helper(text: &str) -> Result<CredentialHelper, String> {
        let mut helper: CredentialHelper = toml::from_str(text).map_err(|error| error.to_string())?;
        helper.check("ecr").map_err(|error| error.to_string())?;
        Ok(helper)
    }

    const WHOLE: &str = "command = ['/bin/h', 'get']\nuser = 'farm-ecr'\nregistries = ['*.ecr.example', 'r.example:5000']\nprojects = ['web']";

    #[test]
    fn a_helper_is_for_its_registries_and_its_projects() {
        let helper = helper(WHOLE).unwrap();
        for (host, is_its) in [
            ("1.ecr.example", true),
            ("a.b.ecr.example", true),
            ("ecr.example", false),
            ("evil-ecr.example", false),
            ("1.ecr.example.evil.example", false),
            ("1.ecr.example:444", false),
            ("r.example:5000", true),
            ("r.example", false),
        ] {
            assert_eq!(helper.is_for(&host.parse().unwrap()), is_its, "{host}");
        }
        assert!(helper.lets("web") && !helper.lets("webb") && !helper.lets(""));
        assert_eq!((helper.protocol, helper.keep_seconds), (HelperProtocol::Docker, 300));
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        for (from, to, word) in [
            ("'/bin/h', 'get'", "", "absolute path"),
            ("/bin/h", "h", "absolute path"),
            ("farm-ecr", "root", "not root"),
            ("farm-ecr", "0", "not root"),
            ("'*.ecr.example', 'r.example:5000'", "", "HOST"),
            ("*.ecr.example", "*.example", "write HOST"),
            ("*.ecr.example", "*", "registry"),
            ("'web'", "", "projects"),
            ("'web']", "'web']\nkeep_seconds = 50000", "12 h"),
            ("'web']", "'web']\ntimeout_seconds = 11", "1 to 10"),
            ("'web']", "'web']\nenv = 1", "unknown field"),
        ] {
            let text = WHOLE.replacen(from, to, 1);
            assert_ne!(text, WHOLE);
            let error = helper(&text).unwrap_err();
            assert!(error.contains(word), "{from:?} -> {to:?}: {error}");
        }
    }
}
