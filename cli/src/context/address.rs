//! What names something that isn't on this machine: an address in place of a folder or a file.
//!
//! Docker fetches such things; farm doesn't yet, and says what to do instead. The forms are those that BuildKit takes for
//! an address (`util/gitutil`, and buildx's `build/url.go`), so that none is mistaken for a path. One more: [`Address::of`].

/// What kind of address it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// A git repository.
    Git,
    /// A file or an archive.
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
    pub fn instead_of_context(self, text: &str) -> String {
        match self {
            Self::Git => format!("clone it and name the folder: git clone {}", cloned(text)),
            Self::Web => format!("bring it by standard input: curl -fsSL {} | farm submit - …", quoted(text)),
            Self::Other => "name a folder, for example: farm submit .".to_owned(),
        }
    }

    /// What to do instead of giving it as the Dockerfile.
    pub fn instead_of_dockerfile(self, text: &str) -> String {
        match self {
            Self::Git => format!("clone it and name the file in it: git clone {}", cloned(text)),
            Self::Web => format!(
                "bring it by standard input: curl -fsSL {} | farm submit CONTEXT -f - …",
                quoted(text)
            ),
            Self::Other => "name a file of this machine, or - for standard input".to_owned(),
        }
    }

    /// What to do instead of giving it as a named context.
    pub fn instead_of_named_context(self, text: &str) -> String {
        match self {
            Self::Git => format!("clone it and name the folder: git clone {}", cloned(text)),
            Self::Web => format!(
                "fetch it into a folder and name that: mkdir NAME && curl -fsSL {} | tar -xz -C NAME",
                quoted(text)
            ),
            Self::Other => "name a folder, or docker-image://IMAGE".to_owned(),
        }
    }
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

/// What git takes of a text: the part behind `#` is Docker's.
fn cloned(text: &str) -> String {
    let (place, part) = text.split_once('#').unwrap_or((text, ""));
    let branch = part.split(':').next().filter(|branch| !branch.is_empty());
    let branch = branch.map(|branch| format!("--branch {} ", quoted(branch))).unwrap_or_default();
    let scheme = if place.to_ascii_lowercase().starts_with("github.com/") { "https://" } else { "" };
    format!("{branch}{}", quoted(&format!("{scheme}{place}")))
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,~".contains(c);
    if text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
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
        let git = Address::Git.instead_of_context("https://x.example/a.git#v1:sub");
        assert!(git.ends_with("git clone --branch v1 https://x.example/a.git"), "{git}");
        let git = Address::Git.instead_of_named_context("github.com/moby/buildkit");
        assert!(git.ends_with("git clone https://github.com/moby/buildkit"), "{git}");
        let web = Address::Web.instead_of_dockerfile("http://x.example/D?a=1&b='2'");
        assert!(
            web.contains("curl -fsSL 'http://x.example/D?a=1&b='\\''2'\\''' | farm submit CONTEXT -f -"),
            "{web}"
        );
    }
}
