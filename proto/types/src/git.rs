//! A place in a git repository, as sources name it: the repository, what of it, and which folder.
//!
//! The forms are BuildKit's (`util/gitutil`: `https://HOST/PATH.git#REF:SUBDIR`, `git@HOST:PATH`, `ssh://`); narrower, as the farm
//! fetches by https and ssh only.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;

/// Hexadecimal digits of a commit's name by SHA-1, and by SHA-256.
const COMMIT_DIGITS: [usize; 2] = [40, 64];
/// The longest ref, path or address that is taken, bytes.
const MAX_TEXT: usize = 1024;

/// The full name of a commit: 40 or 64 hexadecimal digits, small.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Commit(String);

impl Commit {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first seven digits.
    pub fn short(&self) -> &str {
        &self.0[..7]
    }

    /// Whether it names no commit: all zeros, with which git and forges say that a ref isn't there.
    pub fn is_none(&self) -> bool {
        self.0.bytes().all(|b| b == b'0')
    }
}

impl FromStr for Commit {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let is_hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if is_hex && COMMIT_DIGITS.contains(&text.len()) {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new("commit", text, "write its full name, 40 hexadecimal digits: git rev-parse HEAD"))
    }
}

/// The full name of a ref: `refs/heads/main`, `refs/tags/v1`, `refs/pull/7/head`. By the rules of git-check-ref-format(1), so that
/// it can't be mistaken for an option, a range or a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RefName(String);

impl RefName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The branch, if it is one.
    pub fn branch(&self) -> Option<&str> {
        self.0.strip_prefix("refs/heads/")
    }

    /// The tag, if it is one.
    pub fn tag(&self) -> Option<&str> {
        self.0.strip_prefix("refs/tags/")
    }
}

impl FromStr for RefName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.starts_with("refs/") && is_ref(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new("ref", text, "write its full name: refs/heads/BRANCH or refs/tags/TAG"))
    }
}

/// git-check-ref-format(1), rules 1 to 10.
fn is_ref(text: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    text.len() <= MAX_TEXT
        && text.split('/').all(is_part)
        && !text.starts_with('-')
        && !text.ends_with('.')
        && !text.contains("..")
        && !text.contains("@{")
        && text != "@"
        && !text.chars().any(|c| c.is_control() || " ~^:?*[\\".contains(c))
}

macro_rules! text_type {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

text_type!(Commit);
text_type!(RefName);
text_type!(GitUrl);

/// The address of a repository: `https://HOST[:PORT]/PATH` or `ssh://USER@HOST[:PORT]/PATH` (`USER@HOST:PATH` becomes that), without
/// a password. `http://` is taken as a form; whether it is allowed (to this machine only) is the farm's policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GitUrl(String);

impl GitUrl {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `https`, `http` or `ssh`.
    pub fn scheme(&self) -> &str {
        self.0.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// `HOST[:PORT]`, without the user.
    pub fn host(&self) -> &str {
        let (_, rest) = self.0.split_once("://").unwrap_or_default();
        let place = rest.split('/').next().unwrap_or_default();
        place.rsplit_once('@').map_or(place, |(_, host)| host)
    }

    /// The path, without the `/` in front.
    pub fn path(&self) -> &str {
        let (_, rest) = self.0.split_once("://").unwrap_or_default();
        rest.split_once('/').map_or("", |(_, path)| path)
    }
}

impl FromStr for GitUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |cure: &str| Err(Invalid::new("repository", text, cure));
        let form = "write https://HOST/PATH.git or git@HOST:PATH";
        if text.len() > MAX_TEXT
            || text.chars().any(|c| c.is_control() || c.is_whitespace() || "\\#?%;".contains(c))
        {
            return invalid(form);
        }
        let url = match text.split_once("://") {
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                scheme @ ("https" | "http" | "ssh") => format!("{scheme}://{rest}"),
                "git+ssh" => format!("ssh://{rest}"),
                "git+https" => format!("https://{rest}"),
                "git" => {
                    return invalid("git:// is neither encrypted nor signed; write https://HOST/PATH.git");
                }
                _ => {
                    return invalid(
                        "the farm fetches by https and ssh only; write https://HOST/PATH.git or git@HOST:PATH",
                    );
                }
            },
            None if text.starts_with("github.com/") => format!("https://{text}"),
            None => match text.split_once(':') {
                Some((place, path)) if place.contains('@') => {
                    format!("ssh://{place}/{}", path.trim_start_matches('/'))
                }
                _ => return invalid(form),
            },
        };
        let url = Self(url);
        let (_, rest) = url.0.split_once("://").unwrap_or_default();
        let place = rest.split('/').next().unwrap_or_default();
        let user = place.rsplit_once('@').map(|(user, _)| user);
        match (url.scheme(), user) {
            ("ssh", Some(user)) if is_name(user) => {}
            ("ssh", None) => {
                return invalid("whom to sign in as isn't said; write ssh://git@HOST/PATH or git@HOST:PATH");
            }
            ("ssh", Some(_)) => {
                return invalid(
                    "a user has letters, digits, - and _ only, and no password; write git@HOST:PATH",
                );
            }
            (_, None) => {}
            (_, Some(_)) => {
                return invalid(
                    "a password doesn't belong into an address; leave USER:PASSWORD@ out and keep the login with the farm",
                );
            }
        }
        let host = url.host().parse::<crate::RegistryHost>();
        if host.as_ref().map_or(true, |host| host.check().is_err()) {
            return invalid("its host is none; write https://HOST/PATH.git or git@HOST:PATH");
        }
        let is_part = |part: &str| !matches!(part, "" | "." | "..") && !part.starts_with('-');
        let path = url.path().trim_matches('/');
        if path.is_empty() || !path.split('/').all(is_part) {
            return invalid("its path names no repository; write https://HOST/PATH.git or git@HOST:PATH");
        }
        Ok(url)
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// What of a repository is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GitPoint {
    /// The head of its default branch.
    #[default]
    Head,
    /// A branch or, if there is none of that name, a tag.
    Named(String),
    /// A ref by its full name.
    Ref(RefName),
    /// A commit, which a ref of the repository has to be at, or which the server gives by its name.
    Commit(Commit),
}

impl FromStr for GitPoint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() || text == "HEAD" {
            return Ok(Self::Head);
        }
        if let Ok(commit) = text.parse() {
            return Ok(Self::Commit(commit));
        }
        if text.starts_with("refs/") {
            return text.parse().map(Self::Ref);
        }
        if is_ref(text) {
            return Ok(Self::Named(text.to_owned()));
        }
        Err(Invalid::new("ref", text, "write a branch, a tag, a full ref (refs/…) or a commit's 40 digits"))
    }
}

/// A source that the farm fetches by git.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitSource {
    /// The repository.
    pub repository: GitUrl,
    /// What of it.
    #[serde(default)]
    pub point: GitPoint,
    /// The commit that the point has to be at: nothing else is fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Commit>,
    /// The folder that is the context; empty: the whole repository. Relative, `/` between parts, no `.` or `..` in it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subdir: String,
    /// `--keep-git`: `.git` is part of the source.
    #[serde(default)]
    pub keep_git: bool,
    /// `--submodules`: these are fetched, too.
    #[serde(default)]
    pub submodules: bool,
    /// `--lfs`: what becomes of pointers of Git LFS. (Rows of before have `lfs`, which said something else.)
    #[serde(default, rename = "large_files", skip_serializing_if = "Lfs::is_refused")]
    pub lfs: Lfs,
}

/// What becomes of pointers of Git LFS among the files of a source. What they stand for isn't fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lfs {
    /// The fetch fails if there is one, so that no image has a pointer in a file's place and nobody knows.
    #[default]
    Refuse,
    /// They are taken as they are.
    Pointers,
}

impl Lfs {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Pointers => "pointers",
        }
    }

    pub(crate) fn is_refused(&self) -> bool {
        *self == Self::Refuse
    }
}

impl FromStr for Lfs {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "pointers" => Ok(Self::Pointers),
            _ => Err(Invalid::new(
                "lfs",
                text,
                "what is in Git LFS isn't fetched; write pointers to take its pointers as they are, or refuse",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_in_the_forms_of_buildkit_and_leave_in_one() {
        for (text, url, host, path) in [
            (
                "https://github.com/moby/buildkit.git",
                "https://github.com/moby/buildkit.git",
                "github.com",
                "moby/buildkit.git",
            ),
            (
                "git@github.com:moby/buildkit.git",
                "ssh://git@github.com/moby/buildkit.git",
                "github.com",
                "moby/buildkit.git",
            ),
            ("ssh://git@example.com:2222/a/b", "ssh://git@example.com:2222/a/b", "example.com:2222", "a/b"),
            ("github.com/moby/buildkit", "https://github.com/moby/buildkit", "github.com", "moby/buildkit"),
            ("http://127.0.0.1:8080/a.git", "http://127.0.0.1:8080/a.git", "127.0.0.1:8080", "a.git"),
        ] {
            let read: GitUrl = text.parse().unwrap();
            assert_eq!((read.as_str(), read.host(), read.path()), (url, host, path));
            assert_eq!(read.as_str().parse::<GitUrl>().unwrap(), read);
        }
    }

    #[test]
    fn what_git_could_take_for_something_else_is_refused() {
        for text in [
            "ext::sh -c id",
            "file:///etc",
            "/srv/app.git",
            "git://example.com/a",
            "https://user:pw@example.com/a",
            "ssh://-oProxyCommand=id@example.com/a",
            "ssh://example.com/a",
            "https://example.com/",
            "https:///a",
            "https://example.com/a/../b",
            "ssh://git@example.com/a/%2e%2e/b",
            "https://example.com/a//b",
            "git@-oProxyCommand=id:a",
            "https://example.com/-u",
            "https://exa mple.com/a",
        ] {
            assert!(text.parse::<GitUrl>().is_err(), "{text}");
        }
        for text in [
            "-x",
            "a..b",
            "a b",
            "--upload-pack=id",
            "a@{1}",
            "refs/heads/-/..",
            "a.lock",
            "/a",
            "a/",
            "a:b",
            "a\nb",
        ] {
            assert!(text.parse::<GitPoint>().is_err(), "{text}");
        }
    }
}
