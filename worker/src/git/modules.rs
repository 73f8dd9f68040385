//! Submodules: where a commit's `.gitmodules` (gitmodules(5)) says that they are.
//!
//! Of that file the paths and addresses are read, no more: a branch, a way of updating or a command in it has no effect.

use std::collections::BTreeMap;

use farm_types::FailureCode;
use farm_types::git::{Commit, GitUrl};

use super::error::{FetchError, user};
use super::tree::Module;

/// The most of one source, and how deep they lie in each other.
pub(crate) const MOST: usize = 100;
pub(crate) const DEEPEST: usize = 5;

/// A submodule to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Submodule {
    pub(crate) url: GitUrl,
    pub(crate) commit: Commit,
    /// From the root of the commit that it is in.
    pub(crate) path: String,
}

/// Reads what `git config -z --get-regexp` prints of the file, and gives each of a commit's submodules its address.
///
/// # Errors
/// One has none, or one that isn't fetched.
pub(crate) fn read(output: &[u8], parent: &GitUrl, modules: &[Module]) -> Result<Vec<Submodule>, FetchError> {
    let text = String::from_utf8_lossy(output);
    let mut said: BTreeMap<&str, (Option<&str>, Option<&str>)> = BTreeMap::new();
    for entry in text.split('\0') {
        let Some((key, value)) = entry.split_once('\n') else { continue };
        let Some((name, what)) = key.strip_prefix("submodule.").and_then(|rest| rest.rsplit_once('.')) else {
            continue;
        };
        let of = said.entry(name).or_default();
        match what {
            "path" => of.0 = Some(value),
            "url" => of.1 = Some(value),
            _ => {}
        }
    }
    let by_path: BTreeMap<&str, &str> = said.values().filter_map(|(path, url)| (*path).zip(*url)).collect();
    modules
        .iter()
        .map(|module| {
            let invalid = |why: String| {
                let text = format!(
                    "submodule {} of {parent}: {why}; mend .gitmodules, or leave submodules out",
                    module.path
                );
                user(FailureCode::GitSubmodule, text)
            };
            let said = by_path
                .get(module.path.as_str())
                .ok_or_else(|| invalid(".gitmodules has no address for it".to_owned()))?;
            let url = resolve(parent, said).map_err(invalid)?;
            Ok(Submodule { url, commit: module.commit.clone(), path: module.path.clone() })
        })
        .collect()
}

/// An address as it stands there, or one from the repository's own (`./`, `../`).
fn resolve(parent: &GitUrl, said: &str) -> Result<GitUrl, String> {
    if !said.starts_with("./") && !said.starts_with("../") {
        return said.parse().map_err(|error: farm_types::Invalid| error.to_string());
    }
    let (begin, path) = parent.as_str().split_at(parent.as_str().len() - parent.path().len());
    let mut parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    for part in said.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop().ok_or_else(|| format!("{said:?} leads out of {}", parent.host()))?;
            }
            name => parts.push(name),
        }
    }
    format!("{begin}{}", parts.join("/")).parse().map_err(|error: farm_types::Invalid| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_absolute_or_from_the_repositorys_own() {
        let parent: GitUrl = "https://h.example/team/app.git".parse().unwrap();
        let url = |said: &str| resolve(&parent, said).map(String::from);
        assert_eq!(url("../lib.git").unwrap(), "https://h.example/team/lib.git");
        assert_eq!(url("../../other/lib").unwrap(), "https://h.example/other/lib");
        assert_eq!(url("git@g.example:a/b.git").unwrap(), "ssh://git@g.example/a/b.git");
        for bad in
            ["../../../x", "ext::sh -c id", "file:///etc", "/srv/a.git", "-u", "../../..", "https://a:b@h/x"]
        {
            assert!(url(bad).is_err(), "{bad}");
        }
        let module = |path: &str| Module { path: path.to_owned(), commit: "a".repeat(40).parse().unwrap() };
        let file = b"submodule.a.b.path\nlib\0submodule.a.b.url\n../lib.git\0submodule.a.b.update\n!id\0";
        let found = read(file, &parent, &[module("lib")]).unwrap();
        assert_eq!(found[0].url.as_str(), "https://h.example/team/lib.git");
        assert_eq!(
            read(file, &parent, &[module("other")]).unwrap_err().code(),
            Some(&FailureCode::GitSubmodule)
        );
    }
}
