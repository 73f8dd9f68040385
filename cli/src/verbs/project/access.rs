//! `farm project allow`, `deny`, `protect` and `unprotect`: where a project may push to, pull from and fetch from, and who moves its tags.

use farm_proto::v1::{AllowRepositoriesRequest, GetAccessRequest, GetAccessResponse, ProtectTagsRequest};
use farm_types::{FetchHost, ProjectName, RepositoryPrefix, Role, TagPattern};
use serde::Serialize;

use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Result};
use crate::output::Out;
use crate::output::text::harmless;
use crate::verbs::of_flag;

/// Arguments of `farm project allow` and `deny`.
#[derive(Debug, clap::Args)]
pub struct Repositories {
    /// The project
    #[arg(value_name = "NAME")]
    name: String,

    /// Where it may push to, and pull from: REGISTRY, REGISTRY/REPO with all below it, or *. May be given several times
    #[arg(long, value_name = "REPO")]
    push: Vec<String>,

    /// Where it may pull from with the farm's credentials
    #[arg(long, value_name = "REPO")]
    pull: Vec<String>,

    /// From where ADD fetches, in its builds: a host, or *.example.com for all names below one. From
    /// the first one on from nowhere else; base images (FROM) aren't meant
    #[arg(long, value_name = "HOST")]
    fetch: Vec<String>,
}

pub const ALLOW_HELP: &str = "\
Examples:
  farm project allow web --push registry.example/web --pull registry.example/base
  farm project allow web --push '*'
  farm project allow web --fetch github.com --fetch '*.example.com'";

pub const DENY_HELP: &str = "Examples:\n  farm project deny web --push registry.example/web";

pub const PROTECT_HELP: &str = "\
Examples:
  farm project protect 'v*' --role publisher --project web
  farm project protect latest --role admin

Of several patterns that a tag fits the strictest counts. To move latest and v* of a new project
needs publisher.";

/// What a project is allowed, as `farm project show --json` prints it.
#[derive(Debug, Serialize)]
pub struct AccessJson {
    push: Vec<String>,
    pull: Vec<String>,
    shared: Vec<String>,
    fetch: Vec<String>,
    protected: Vec<ProtectedJson>,
    entitlements: Vec<String>,
    logins: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ProtectedJson {
    pattern: String,
    role: String,
}

impl From<GetAccessResponse> for AccessJson {
    fn from(access: GetAccessResponse) -> Self {
        let GetAccessResponse { push, pull, shared, protected, entitlements, logins, fetch } = access;
        let protected = protected.into_iter();
        let protected = protected.map(|tags| ProtectedJson { pattern: tags.pattern, role: tags.role });
        Self { push, pull, shared, fetch, protected: protected.collect(), entitlements, logins }
    }
}

impl AccessJson {
    /// A line for each kind of what is allowed.
    pub fn lines(&self) -> Vec<String> {
        let list = |all: &[&String]| {
            let all: Vec<String> = all.iter().map(|one| harmless(one)).collect();
            if all.is_empty() { "nowhere".to_owned() } else { all.join(", ") }
        };
        let push: Vec<&String> = self.push.iter().chain(&self.shared).collect();
        let mut lines = vec![format!("pushes to  {}", list(&push))];
        if !self.pull.is_empty() {
            lines.push(format!("pulls from {}, too", list(&self.pull.iter().collect::<Vec<_>>())));
        }
        if !self.logins.is_empty() {
            lines.push(format!("logs in at {}", list(&self.logins.iter().collect::<Vec<_>>())));
        }
        if !self.fetch.is_empty() {
            lines.push(format!(
                "ADD from   {}, and nowhere else",
                list(&self.fetch.iter().collect::<Vec<_>>())
            ));
        }
        let tags = self.protected.iter();
        lines.extend((!self.entitlements.is_empty()).then(|| self.allowed()));
        lines.extend(
            tags.map(|tags| format!("tags {}  need role {}", harmless(&tags.pattern), harmless(&tags.role))),
        );
        lines
    }
}

impl AccessJson {
    /// What its builds may ask for.
    pub fn allowed(&self) -> String {
        let names: Vec<String> = self.entitlements.iter().map(|name| harmless(name)).collect();
        let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        format!("may ask    for {names} (--allow)")
    }
}

/// What the project of the client's calls is allowed.
///
/// # Errors
/// The farm refuses, or can't be asked.
pub(crate) async fn of(client: &Client) -> Result<AccessJson> {
    let asked = through(async || client.projects().get_access(GetAccessRequest {}).await).await;
    Ok(asked.map_err(|status| client.error(&status))?.into())
}

/// Allows, or takes back.
///
/// # Errors
/// A name can't be taken, the farm refuses, or it can't be asked.
pub(crate) async fn allow(args: Repositories, allowed: bool, setup: &Setup, out: &mut Out) -> Result<()> {
    let name: ProjectName = args.name.parse()?;
    let read = |flag: &str, all: &[String]| -> Result<Vec<RepositoryPrefix>> {
        all.iter().map(|repo| Ok(of_flag(flag, repo)?)).collect()
    };
    let (push, pull) = (read("--push", &args.push)?, read("--pull", &args.pull)?);
    let fetch: Vec<FetchHost> =
        args.fetch.iter().map(|host| Ok(of_flag("--fetch", host)?)).collect::<Result<_>>()?;
    let push = push.iter().map(|prefix| ("push", "push to", prefix.to_string()));
    let pull = pull.iter().map(|prefix| ("pull", "pull from", prefix.to_string()));
    let fetch = fetch.iter().map(|host| ("fetch", "fetch from", host.to_string()));
    let places: Vec<_> = push.chain(pull).chain(fetch).collect();
    if places.is_empty() {
        let cure = "say where: --push REGISTRY/REPO, --pull REGISTRY/REPO or --fetch HOST";
        return Err(Error::Usage(cure.to_owned()));
    }
    let client = Client::connect(&setup.address).await?;
    for (access, words, place) in places {
        let request = AllowRepositoriesRequest {
            project: name.to_string(),
            access: access.to_owned(),
            repositories: place.clone(),
            allowed,
        };
        let answer = client.projects().allow_repositories(request).await.map_err(|e| client.error(&e))?;
        let already = if answer.into_inner().changed { "" } else { ", as before" };
        out.line(&match (access, allowed) {
            ("fetch", true) => format!("project {name} may {words} {place}, and from what else was listed{already}"),
            ("fetch", false) => format!(
                "{place} isn't listed for project {name}{already}; with nothing listed it fetches from every public host"
            ),
            (_, true) => format!("project {name} may {words} {place}{already}"),
            (_, false) => format!("project {name} may not {words} {place}{already}"),
        });
    }
    Ok(())
}

/// Says who moves tags; `None`: whoever may build.
///
/// # Errors
/// The pattern or the role is none, the farm refuses, or it can't be asked.
pub(crate) async fn protect(pattern: &str, role: Option<&str>, setup: &Setup, out: &mut Out) -> Result<()> {
    let pattern: TagPattern = of_flag("pattern", pattern)?;
    let role: Option<Role> = role.map(|role| of_flag("--role", role)).transpose()?;
    let client = Client::connect(&setup.address).await?;
    let request = ProtectTagsRequest {
        pattern: pattern.to_string(),
        role: role.map(|role| role.to_string()).unwrap_or_default(),
    };
    client.projects().protect_tags(request).await.map_err(|e| client.error(&e))?;
    out.line(&match role {
        Some(role) => format!("to move tags {pattern} needs role {role} now"),
        None => format!("whoever may build may move tags {pattern}, unless another pattern says otherwise"),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_project_is_allowed_stands_in_lines() {
        let one = |text: &str| vec![text.to_owned()];
        let mut access = AccessJson {
            push: one("r/web"),
            pull: one("r/base"),
            shared: one("s"),
            fetch: one("*.example.com"),
            protected: Vec::new(),
            entitlements: one("network.host"),
            logins: one("r"),
        };
        access.protected.push(ProtectedJson { pattern: "v*".into(), role: "publisher".into() });
        assert_eq!(
            access.lines(),
            [
                "pushes to  r/web, s",
                "pulls from r/base, too",
                "logs in at r",
                "ADD from   *.example.com, and nowhere else",
                "may ask    for network.host (--allow)",
                "tags v*  need role publisher"
            ]
        );
        let none = AccessJson {
            push: vec![],
            pull: vec![],
            shared: vec![],
            fetch: vec![],
            protected: vec![],
            entitlements: vec![],
            logins: vec![],
        };
        assert_eq!(none.lines(), ["pushes to  nowhere"]);
        assert_eq!(none.allowed(), "may ask    for nothing (--allow)");
    }
}
