//! Which farm a command means, and which defaults it has: the command line, the environment and the configuration
//! together.

use std::path::{Path, PathBuf};

use farm_types::{Invalid, ProjectName};

use super::{Config, Defaults, LOCAL, path};
use crate::error::Result;

/// Where a farm is looked for when neither `--url` nor FARM_URL says.
pub const DEFAULT_URL: &str = "http://127.0.0.1:7070";

/// Ways to show a build that buildx has and farm has too.
const BUILDX_PROGRESS: [&str; 5] = ["auto", "tty", "plain", "quiet", "none"];

/// Where a command goes, and what it takes for granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// The farm.
    pub address: Address,
    /// Values of flags that are not given.
    pub defaults: Defaults,
}

/// A farm's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `http://HOST:PORT` or `https://HOST[:PORT]`.
    pub url: String,
    /// The file with the token for it, if the context names one.
    pub token_file: Option<PathBuf>,
    /// The file with the CA that its certificate must lead to, and who names it; `None`: the system's CAs count.
    pub ca_file: Option<(PathBuf, &'static str)>,
    /// The project that is meant there, and who says so; `None`: the caller's only one.
    pub project: Option<(ProjectName, &'static str)>,
    /// Who says so.
    pub source: Source,
}

/// Who says which farm it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `--url`.
    Flag,
    /// FARM_URL.
    Environment,
    /// A context, with its name, and who named it: `--context`, FARM_CONTEXT or the configuration.
    Named(String, &'static str),
    /// Nobody: it is the farm on this machine.
    Nobody,
}

impl Setup {
    /// What holds for this command. The first of these counts: `--url`, `--context`, FARM_URL, FARM_CONTEXT, the
    /// configuration's `context`, the farm on this machine. Of CAs: `--ca`, FARM_CA, the context's; of projects `--project`,
    /// FARM_PROJECT, the context's.
    ///
    /// # Errors
    /// The configuration can't be taken, there is no context of the name, or no project can have its name.
    pub fn find(
        url: Option<&str>,
        context: Option<&str>,
        ca: Option<&Path>,
        project: Option<&str>,
    ) -> Result<Self> {
        // Who has no home has set nothing.
        let config = path().map(|path| Config::load(&path)).transpose()?.unwrap_or_default();
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut defaults = config.defaults.clone();
        if let Some(progress) = set("FARM_PROGRESS") {
            defaults.progress = Some(progress);
        }
        // Docker's own variable, where nobody has said it to farm. What only buildx has (rawjson) is passed over.
        let docker = set("BUILDKIT_PROGRESS").filter(|mode| BUILDX_PROGRESS.contains(&mode.as_str()));
        defaults.progress = defaults.progress.or(docker);
        if let Some(links) = set("FARM_CONTEXT_LINKS") {
            defaults.context_links = Some(links);
        }
        let mut address = Address::choose(url, context, set, &config)?;
        address.ca_file = named_ca(ca).or(address.ca_file);
        address.project = meant(project, set)?.or(address.project);
        Ok(Self { address, defaults })
    }
}

/// Who names a CA that is kept with its farm.
pub const KEPT: &str = "the context";

/// The file with a CA that this command was told, and by whom.
pub fn named_ca(flag: Option<&Path>) -> Option<(PathBuf, &'static str)> {
    let set = std::env::var_os("FARM_CA").filter(|value| !value.is_empty());
    let flag = flag.map(|file| (file.to_owned(), "--ca"));
    flag.or_else(|| set.map(|file| (file.into(), "FARM_CA")))
}

/// The project that this command was told, and by whom.
fn meant(
    flag: Option<&str>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<(ProjectName, &'static str)>> {
    let flag = flag.map(|name| (name.to_owned(), "--project"));
    // FARM_PROJECT= is as good as none.
    let set = || environment("FARM_PROJECT").filter(|name| !name.is_empty());
    let said = flag.or_else(|| set().map(|name| (name, "FARM_PROJECT")));
    said.map(|(name, from)| Ok((project(&name, from)?, from))).transpose()
}

fn project(name: &str, from: &str) -> Result<ProjectName, Invalid> {
    name.parse().map_err(|e: Invalid| Invalid { thing: from.to_owned(), ..e })
}

impl Address {
    /// ` (team)`, where a context has the address from; for messages.
    pub fn named(&self) -> String {
        match &self.source {
            Source::Named(name, _) => format!(" ({name})"),
            _ => String::new(),
        }
    }

    fn choose(
        url: Option<&str>,
        context: Option<&str>,
        environment: impl Fn(&str) -> Option<String>,
        config: &Config,
    ) -> Result<Self> {
        // FARM_URL= is as good as none.
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        let at = |url: String, source| Self { url, token_file: None, ca_file: None, project: None, source };
        if let Some(url) = url.filter(|url| !url.is_empty()) {
            return Ok(at(url.to_owned(), Source::Flag));
        }
        if let (None, Some(url)) = (context, set("FARM_URL")) {
            return Ok(at(url, Source::Environment));
        }
        let named = context
            .map(|name| (name.to_owned(), "--context"))
            .or_else(|| set("FARM_CONTEXT").map(|name| (name, "FARM_CONTEXT")))
            .or_else(|| config.context.clone().map(|name| (name, "the configuration's context")));
        match named {
            None => Ok(at(DEFAULT_URL.to_owned(), Source::Nobody)),
            Some((name, from)) if name == LOCAL => Ok(at(DEFAULT_URL.to_owned(), Source::Named(name, from))),
            Some((name, from)) => {
                let context = config.context(&name, from)?;
                let own = context.project.as_deref();
                let own = own.map(|name| project(name, "the context's project")).transpose()?;
                Ok(Self {
                    url: context.url.clone(),
                    token_file: context.token_file.clone(),
                    ca_file: context.ca_file.clone().map(|file| (file, KEPT)),
                    project: own.map(|name| (name, "the context")),
                    source: Source::Named(name, from),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::parse(
            "context = \"team\"\n[contexts.team]\nurl = \"http://team\"\ntoken_file = \"/t\"\nca_file = \"/ca\"\nproject = \"web\"\n\
             [contexts.other]\nurl = \"http://other\"\n",
        )
        .unwrap()
    }

    fn chosen(url: Option<&str>, context: Option<&str>, set: &[(&str, &str)]) -> (String, bool) {
        let environment =
            |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        let address = Address::choose(url, context, environment, &config()).unwrap();
        assert_eq!(address.token_file.is_some(), address.ca_file.is_some());
        (address.url, address.token_file.is_some())
    }

    #[test]
    fn the_nearest_word_counts_and_a_token_goes_only_with_its_context() {
        let both = [("FARM_URL", "http://env"), ("FARM_CONTEXT", "other")];
        assert_eq!(chosen(None, None, &[]), ("http://team".into(), true));
        assert_eq!(chosen(None, None, &both[1..]), ("http://other".into(), false));
        assert_eq!(chosen(None, None, &both), ("http://env".into(), false));
        assert_eq!(chosen(None, Some("team"), &both), ("http://team".into(), true));
        assert_eq!(chosen(None, Some("local"), &both), (DEFAULT_URL.into(), false));
        assert_eq!(chosen(Some("http://flag"), None, &both), ("http://flag".into(), false));
        assert_eq!(
            chosen(None, None, &[("FARM_URL", ""), ("FARM_CONTEXT", "")]),
            ("http://team".into(), true)
        );
    }

    #[test]
    fn of_projects_the_nearest_word_counts_and_a_contexts_own_goes_only_with_it() {
        let project = |url: Option<&str>, flag: Option<&str>, set: &[(&str, &str)]| {
            let environment =
                |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            let address = Address::choose(url, None, environment, &config()).unwrap();
            let chosen = meant(flag, environment).unwrap().or(address.project);
            chosen.map(|(name, from)| (name.to_string(), from))
        };
        let is = |name: &str, from| Some((name.to_owned(), from));
        let env = [("FARM_PROJECT", "env")];
        assert_eq!(project(None, Some("flag"), &env), is("flag", "--project"));
        assert_eq!(project(None, None, &env), is("env", "FARM_PROJECT"));
        assert_eq!(project(None, None, &[("FARM_PROJECT", "")]), is("web", "the context"));
        assert_eq!(project(None, None, &[("FARM_CONTEXT", "other")]), None);
        assert_eq!(project(None, None, &[("FARM_CONTEXT", "other"), env[0]]), is("env", "FARM_PROJECT"));
        assert_eq!(project(Some("http://flag"), None, &[]), None);
        assert_eq!(project(Some("http://flag"), None, &env), is("env", "FARM_PROJECT"));
    }

    #[test]
    fn what_no_project_is_called_is_told_with_who_said_it() {
        let none = |_: &str| None;
        let error = meant(Some("Web"), none).unwrap_err();
        assert_eq!(error.exit().code(), 2);
        assert!(error.to_string().starts_with("--project \"Web\": write 1 to 40"), "{error}");
        assert!(meant(Some(""), none).is_err());
        let set = |_: &str| Some("a_b".to_owned());
        let error = meant(None, set).unwrap_err().to_string();
        assert!(error.starts_with("FARM_PROJECT \"a_b\": "), "{error}");
    }

    #[test]
    fn a_context_that_there_is_not_is_told_with_who_named_it() {
        let environment = |name: &str| (name == "FARM_CONTEXT").then(|| "tema".to_owned());
        let error = Address::choose(None, None, environment, &config()).unwrap_err().to_string();
        assert!(error.starts_with("FARM_CONTEXT \"tema\": did you mean team?"), "{error}");
    }
}
