//! What names something that isn't on this machine: an address in place of a folder or a file.
//!
//! What is in git or in an archive a worker fetches; for the rest it is said what to do instead. The forms are those that BuildKit takes for
//! an address (`util/gitutil`, and buildx's `build/url.go`), so that none is mistaken for a path. One more: [`Address::of`].

use farm_types::{ArchiveSource, FetchSource, GitSource, Invalid, Lfs};

/// What kind of address it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// A git repository.
    Git,
    /// A file; as a context an archive.
    Web,
    /// Something else, by its scheme.
    Other,
}

impl Address {
    /// The address that a text is; `None`: it is a path.
    pub fn of(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let (place, _) = lower.split_once('#').unwrap_or((&lower, ""));
        let place = place.split('?').next().unwrap_or_default();
        if let Some((scheme, _)) = lower.split_once("://") {
            let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
            return is_scheme.then_some(match scheme {
                "git" | "ssh" | "git+ssh" | "git+https" | "git+http" => Self::Git,
                "http" | "https" if place.ends_with(".git") => Self::Git,
                "http" | "https" => Self::Web,
                _ => Self::Other,
            });
        }
        if lower.starts_with("github.com/") || is_scp(&lower) { Some(Self::Git) } else { None }
    }

    /// What to do instead of giving it as the context.
    pub fn instead_of_context(self) -> &'static str {
        "name a folder (farm submit .), a git repository (https://HOST/PATH.git#REF:FOLDER) or an archive (https://HOST/PATH.tar.gz)"
    }

    /// What to do instead of giving it as the Dockerfile.
    pub fn instead_of_dockerfile(self, text: &str) -> String {
        match self {
            Self::Git => {
                "name the repository as the context, and the file in it: farm submit URL -f FILE".to_owned()
            }
            Self::Web => format!(
                "bring it by standard input: curl -fsSL {} | farm submit CONTEXT -f - …",
                quoted(text)
            ),
            Self::Other => "name a file of this machine, or - for standard input".to_owned(),
        }
    }

    /// What to do instead of giving it as a named context.
    pub fn instead_of_named_context(self) -> &'static str {
        "name a folder, a git repository, an archive, or docker-image://IMAGE"
    }
}

/// What is fetched of an address that is a git repository or an archive; `None`: it is something else.
///
/// # Errors
/// It is none that the farm would fetch.
pub fn fetch_source(
    address: Address,
    text: &str,
    switches: GitSwitches,
) -> Result<Option<FetchSource>, Invalid> {
    match address {
        Address::Git => git_source(text, switches).map(|source| Some(source.into())),
        Address::Web => {
            let source: ArchiveSource = text.parse()?;
            Ok(Some(ArchiveSource { lfs: switches.lfs, ..source }.into()))
        }
        Address::Other => Ok(None),
    }
}

/// What `URL#REF:FOLDER` means in git, with the switches that go for all that is fetched.
///
/// # Errors
/// It is none that the farm would fetch.
fn git_source(text: &str, switches: GitSwitches) -> Result<GitSource, Invalid> {
    let (place, part) = text.split_once('#').unwrap_or((text, ""));
    let (point, subdir) = part.split_once(':').unwrap_or((part, ""));
    let GitSwitches { keep_git, submodules, lfs } = switches;
    Ok(GitSource {
        repository: place.parse()?,
        point: point.parse()?,
        expected: None,
        // As with buildx, which takes it from the root on.
        subdir: subdir.trim_start_matches("./").trim_matches('/').to_owned(),
        keep_git,
        submodules,
        lfs,
    })
}

/// What is fetched besides the files of the commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GitSwitches {
    /// `.git`.
    pub keep_git: bool,
    /// Submodules.
    pub submodules: bool,
    /// Pointers of Git LFS, as they are: of archives, too.
    pub lfs: Lfs,
}

/// `USER@HOST:PATH`, as scp(1) and git take it.
fn is_scp(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, path)) = rest.split_once(':') else { return false };
    let is_name = |name: &str, more: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    is_name(user, "-_.") && is_name(host, "-_.") && !path.is_empty()
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,~".contains(c);
    if text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use farm_types::GitPoint;

    use super::*;

    #[test]
    fn addresses_are_told_from_paths() {
        for text in [
            "https://github.com/moby/buildkit.git",
            "https://example.com/app.git#main:docker",
            "HTTPS://EXAMPLE.COM/APP.GIT?ref=main",
            "git://example.com/app",
            "ssh://git@example.com/app",
            "git@github.com:moby/buildkit",
            "deploy@git.example.com:team/app.git#v1",
            "github.com/moby/buildkit",
            "github.com/moby/buildkit#master",
        ] {
            assert_eq!(Address::of(text), Some(Address::Git), "{text}");
        }
        for text in
            ["http://example.com/Dockerfile", "https://example.com/context.tar.gz", "http://[::1]:80/x"]
        {
            assert_eq!(Address::of(text), Some(Address::Web), "{text}");
        }
        for text in ["ftp://example.com/x", "file:///etc", "s3://bucket/x", "oci-layout:///x"] {
            assert_eq!(Address::of(text), Some(Address::Other), "{text}");
        }
        for text in [
            ".",
            "app",
            "/srv/app",
            "../a b",
            "gitlab.com/x",
            "C:/x",
            "a@b",
            "@x:y",
            "a b@c:d",
            "./x://y",
            "app.git",
        ] {
            assert_eq!(Address::of(text), None, "{text}");
        }
    }

    #[test]
    fn what_to_do_can_be_pasted_into_a_shell() {
        let web = Address::Web.instead_of_dockerfile("http://x.example/D?a=1&b='2'");
        assert!(
            web.contains("curl -fsSL 'http://x.example/D?a=1&b='\\''2'\\''' | farm submit CONTEXT -f -"),
            "{web}"
        );
    }

    #[test]
    fn an_address_in_git_has_a_ref_and_a_folder() {
        let of = |text: &str| {
            let source = git_source(text, GitSwitches::default()).unwrap();
            (source.repository.to_string(), source.point, source.subdir)
        };
        let named = |name: &str| GitPoint::Named(name.to_owned());
        for (text, repository, point, subdir) in [
            ("https://x.example/a.git", "https://x.example/a.git", GitPoint::Head, ""),
            ("https://x.example/a.git#main", "https://x.example/a.git", named("main"), ""),
            ("git@x.example:a/b#v1:docker/web/", "ssh://git@x.example/a/b", named("v1"), "docker/web"),
            ("github.com/a/b#:./docker", "https://github.com/a/b", GitPoint::Head, "docker"),
        ] {
            assert_eq!(of(text), (repository.to_owned(), point, subdir.to_owned()), "{text}");
        }
        for text in
            ["git://x.example/a", "https://x.example/a.git#--upload-pack=x", "https://u:p@x.example/a.git"]
        {
            assert!(git_source(text, GitSwitches::default()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_that_is_no_repository_is_an_archives() {
        let of = |text: &str| {
            let address = Address::of(text).unwrap();
            fetch_source(address, text, GitSwitches::default())
        };
        let source = of("https://x.example/app.tar.gz?a=1").unwrap().unwrap();
        assert_eq!(source.archive().unwrap().archive.as_str(), "https://x.example/app.tar.gz?a=1");
        assert!(of("https://x.example/app.git").unwrap().unwrap().git().is_some());
        assert!(of("http://x.example/app.tar.gz").unwrap_err().to_string().contains("write https"));
        assert_eq!(of("s3://bucket/app.tar.gz").unwrap(), None);
    }
}
