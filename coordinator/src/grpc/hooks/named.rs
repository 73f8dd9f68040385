//! Which repository a new hook is for, as somebody names it.

use farm_hooks::Provider;
use farm_proto::v1::AddHookRequest;
use farm_types::ids::check_name;
use farm_types::{GitUrl, Invalid, RegistryHost};

use crate::forge::Kind;
use crate::forge::ask::api;

/// The longest name of a repository, bytes.
const LONGEST: usize = 255;

/// What a hook is for, checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub provider: Provider,
    pub host: String,
    pub full_name: String,
    pub name: String,
    pub clone_url: Option<String>,
    pub api_url: Option<String>,
}

impl Named {
    pub(super) fn read(asked: &AddHookRequest) -> Result<Self, Invalid> {
        let provider: Provider = asked.provider.parse()?;
        let (mut host, mut path) = (asked.host.clone(), asked.repository.clone());
        // As an image's name has it.
        if provider == Provider::Distribution
            && host.is_empty()
            && let Some((registry, rest)) = path.split_once('/')
        {
            (host, path) = (registry.to_owned(), rest.to_owned());
        }
        if provider == Provider::Dockerhub && !path.contains('/') {
            path = format!("library/{path}");
        }
        if host.is_empty() {
            let usual = provider.usual_host().ok_or_else(|| {
                Invalid::new("host", "", format!("say where the {provider} is, as --host git.example.com"))
            })?;
            usual.clone_into(&mut host);
        }
        let host = host.to_ascii_lowercase();
        host.parse::<RegistryHost>().and_then(|host| host.check()).map_err(|_| {
            Invalid::new("host", &host, "write HOST or HOST:PORT, without https:// and without a path")
        })?;
        check_path(provider, &path)?;
        let name = match asked.name.as_str() {
            "" => path.rsplit('/').next().unwrap_or_default(),
            name => name,
        };
        check_name("hook", name)?;
        let clone_url = if provider.is_registry() {
            if !asked.clone_url.is_empty() {
                return Err(Invalid::new(
                    "clone URL",
                    &asked.clone_url,
                    "a registry has images only; leave it out",
                ));
            }
            None
        } else {
            let url = match asked.clone_url.as_str() {
                "" => format!("https://{host}/{path}.git"),
                url => url.to_owned(),
            };
            Some(url.parse::<GitUrl>()?.to_string())
        };
        let api_url = match (asked.api_url.as_str(), Kind::of(provider)) {
            ("", _) => None,
            (url, Some(_)) => Some(api(url).map_err(|cure| Invalid::new("API URL", url, cure))?),
            (url, None) => {
                let cure = format!("the farm knows no API of {provider}; leave it out");
                return Err(Invalid::new("API URL", url, cure));
            }
        };
        Ok(Self { provider, host, name: name.to_owned(), full_name: path, clone_url, api_url })
    }
}

fn check_path(provider: Provider, path: &str) -> Result<(), Invalid> {
    let is_part = |part: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        !part.is_empty()
            && part.chars().all(is_plain)
            && !part.starts_with('-')
            && !matches!(part, "." | "..")
    };
    let parts: Vec<&str> = path.split('/').collect();
    let (is_fit, form) = match provider {
        Provider::Github | Provider::Gitea | Provider::Forgejo => (parts.len() == 2, "OWNER/REPO"),
        Provider::Gitlab => (parts.len() >= 2, "GROUP/PROJECT"),
        Provider::Generic | Provider::Dockerhub | Provider::Distribution => (true, "REPO or OWNER/REPO"),
    };
    if is_fit && path.len() <= LONGEST && parts.iter().all(|part| is_part(part)) && !path.ends_with(".git") {
        return Ok(());
    }
    Err(Invalid::new(
        "repository",
        path,
        format!("write {form}, as it stands at {provider}, without a host and without .git"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(provider: &str, repository: &str, host: &str) -> Result<Named, Invalid> {
        let (provider, repository, host) = (provider.to_owned(), repository.to_owned(), host.to_owned());
        Named::read(&AddHookRequest { provider, repository, host, ..Default::default() })
    }

    #[test]
    fn a_repository_is_named_as_its_forge_has_it() {
        for (provider, repository, host, expected) in [
            ("github", "acme/app", "", "github.com acme/app app https://github.com/acme/app.git"),
            (
                "gitlab",
                "acme/group/app",
                "",
                "gitlab.com acme/group/app app https://gitlab.com/acme/group/app.git",
            ),
            (
                "gitea",
                "acme/app",
                "Git.example:3000",
                "git.example:3000 acme/app app https://git.example:3000/acme/app.git",
            ),
            ("generic", "app", "git.example", "git.example app app https://git.example/app.git"),
            ("dockerhub", "alpine", "", "docker.io library/alpine alpine -"),
            ("distribution", "r.example:5000/base/app", "", "r.example:5000 base/app app -"),
        ] {
            let Named { host, full_name, name, clone_url, .. } = read(provider, repository, host).unwrap();
            let url = clone_url.as_deref().unwrap_or("-");
            assert_eq!(format!("{host} {full_name} {name} {url}"), expected);
        }
        for (provider, repository, host) in [
            ("github", "app", ""),
            ("github", "acme/app/x", ""),
            ("github", "acme/app.git", ""),
            ("github", "https://github.com/acme/app", ""),
            ("github", "acme/-u", ""),
            ("github", "acme/..", ""),
            ("github", "acme/app", "https://github.com"),
            ("gitea", "acme/app", ""),
            ("forgejo", "acme/app", "a b"),
            ("bitbucket", "acme/app", ""),
        ] {
            assert!(read(provider, repository, host).is_err(), "{provider} {repository} {host}");
        }
    }
}
