//! What a repository advertises (git-ls-remote(1)), and which commit of it is meant.
//!
//! Invariant: what is chosen by a ref is what that ref is at now; whoever names a commit besides gets that one or nothing. A commit by
//! its name alone has to be a branch's or a tag's: a forge also gives by name what anybody pushed into a fork.

use std::collections::BTreeMap;

use farm_types::git::{Commit, GitPoint, GitSource, RefName};
use farm_types::{FailureCode, MOST_TAGS};

use super::error::{FetchError, user};

/// What is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// The object that is asked for: a commit, or the tag that leads to it.
    pub(crate) wanted: Commit,
    /// The commit, if it is known before it is here.
    pub(crate) commit: Commit,
    /// The ref that is at it.
    pub(crate) git_ref: Option<RefName>,
    /// The repository's tags that look like versions.
    pub(crate) versions: Vec<String>,
}

/// The three numbers of a tag like `v1.2.3` or `1.2.3-rc.1` (semver.org); `None`: it names no version.
fn version(tag: &str) -> Option<Vec<u64>> {
    let bare = tag.strip_prefix(['v', 'V']).unwrap_or(tag);
    let numbers = bare.split(['-', '+']).next()?;
    let numbers: Vec<u64> = numbers.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    (numbers.len() == 3).then_some(numbers)
}

/// The refs of a repository.
#[derive(Debug, Default)]
pub(crate) struct Refs {
    head: Option<Commit>,
    head_ref: Option<RefName>,
    /// What each is at, and what that leads to when it is a tag.
    all: BTreeMap<RefName, (Commit, Option<Commit>)>,
}

impl Refs {
    /// Reads the output of `git ls-remote --symref`. Names that git itself wouldn't make are left out.
    pub(crate) fn read(output: &[u8]) -> Self {
        let mut refs = Self::default();
        for line in String::from_utf8_lossy(output).lines() {
            let Some((what, name)) = line.split_once('\t') else { continue };
            if let Some(target) = what.strip_prefix("ref: ") {
                if name == "HEAD" {
                    refs.head_ref = target.parse().ok();
                }
                continue;
            }
            let Ok(at) = what.parse::<Commit>() else { continue };
            if name == "HEAD" {
                refs.head = Some(at);
            } else if let Some(of) = name.strip_suffix("^{}").and_then(|name| name.parse::<RefName>().ok())
                && let Some((_, leads)) = refs.all.get_mut(&of)
            {
                *leads = Some(at);
            } else if let Ok(name) = name.parse() {
                refs.all.insert(name, (at, None));
            }
        }
        refs
    }

    /// Where branches and tags are.
    pub(crate) fn named(&self) -> impl Iterator<Item = (RefName, Commit)> {
        let is_named = |name: &RefName| name.branch().is_some() || name.tag().is_some();
        let at = |(name, (at, leads)): (&RefName, &(Commit, Option<Commit>))| {
            (name.clone(), leads.as_ref().unwrap_or(at).clone())
        };
        self.all.iter().filter(move |(name, _)| is_named(name)).map(at)
    }

    /// The default branch, if it says which that is.
    pub(crate) fn default_branch(&self) -> Option<&str> {
        self.head_ref.as_ref().and_then(RefName::branch)
    }

    fn is_empty(&self) -> bool {
        self.head.is_none() && self.all.is_empty()
    }

    fn chosen(&self, name: &RefName) -> Option<Chosen> {
        let (at, leads) = self.all.get(name)?;
        let commit = leads.as_ref().unwrap_or(at).clone();
        Some(Chosen { wanted: at.clone(), commit, git_ref: Some(name.clone()), versions: Vec::new() })
    }

    pub(crate) fn head(&self) -> Option<Chosen> {
        if let Some(chosen) = self.head_ref.as_ref().and_then(|name| self.chosen(name)) {
            return Some(chosen);
        }
        let head = self.head.clone()?;
        Some(Chosen { wanted: head.clone(), commit: head, git_ref: None, versions: Vec::new() })
    }

    fn at(&self, commit: &Commit) -> Option<Chosen> {
        let at_head = self.head().filter(|chosen| chosen.commit == *commit);
        let named = |is: fn(&RefName) -> bool| {
            let mut names = self.all.keys().filter(|name| is(name)).filter_map(|name| self.chosen(name));
            names.find(|chosen| chosen.commit == *commit)
        };
        at_head
            .or_else(|| named(|name| name.branch().is_some()))
            .or_else(|| named(|name| name.tag().is_some()))
    }

    fn told(&self, chosen: Chosen) -> Chosen {
        let mut versions: Vec<(Vec<u64>, &str)> =
            self.all.keys().filter_map(RefName::tag).filter_map(|tag| Some((version(tag)?, tag))).collect();
        // If there are too many, those that are left out are none that is the highest of something.
        versions.sort_by(|a, b| b.cmp(a));
        let versions = versions.into_iter().take(MOST_TAGS).map(|(_, tag)| tag.to_owned()).collect();
        Chosen { versions, ..chosen }
    }

    /// What a source means; `None`: a commit that no branch and no tag is at, which has to be looked for below them.
    ///
    /// # Errors
    /// The repository is empty, there is no such ref, or it is at another commit than is expected.
    pub(crate) fn choose(&self, source: &GitSource) -> Result<Option<Chosen>, FetchError> {
        let url = &source.repository;
        if self.is_empty() {
            let text = format!("{url} has no commit yet; push one");
            return Err(user(FailureCode::GitRepositoryEmpty, text));
        }
        let missing = |what: String| {
            let text = format!("{url} has no {what}; `git ls-remote {url}` lists what there is");
            user(FailureCode::GitRefMissing, text)
        };
        let (chosen, what) = match &source.point {
            GitPoint::Head => (
                self.head().ok_or_else(|| missing("default branch".to_owned()))?,
                "its default branch".to_owned(),
            ),
            GitPoint::Named(name) => {
                let full = |folder: &str| {
                    format!("refs/{folder}/{name}").parse().ok().and_then(|name: RefName| self.chosen(&name))
                };
                let chosen = full("heads").or_else(|| full("tags"));
                (chosen.ok_or_else(|| missing(format!("branch or tag {name}")))?, name.clone())
            }
            GitPoint::Ref(name) => {
                (self.chosen(name).ok_or_else(|| missing(format!("ref {name}")))?, name.to_string())
            }
            GitPoint::Commit(commit) => {
                if source.expected.as_ref().is_some_and(|expected| expected != commit) {
                    let text = format!(
                        "{url}: commit {} is named, and another one expected; name one",
                        commit.short()
                    );
                    return Err(user(FailureCode::GitRefMoved, text));
                }
                return Ok(self.at(commit).map(|chosen| self.told(chosen)));
            }
        };
        match &source.expected {
            // Forges name an annotated tag by itself.
            Some(expected) if *expected != chosen.commit && *expected != chosen.wanted => {
                let text = format!(
                    "{url}: {what} is at {} and not at {} any more; build what it is at now, or name the commit alone",
                    chosen.commit.short(),
                    expected.short()
                );
                Err(user(FailureCode::GitRefMoved, text))
            }
            _ => Ok(Some(self.told(chosen))),
        }
    }
}

/// A commit that isn't below a branch or tag.
pub(crate) fn unknown(source: &GitSource, commit: &Commit) -> FetchError {
    let text = format!(
        "no branch and no tag of {} has commit {commit}; push it, or name the ref that is at it",
        source.repository
    );
    user(FailureCode::GitCommitMissing, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oid(c: char) -> String {
        c.to_string().repeat(40)
    }

    fn choose(point: &str, expected: Option<char>) -> Result<Option<(String, Option<String>)>, String> {
        let (a, b, c, d, e) = (oid('a'), oid('b'), oid('c'), oid('d'), oid('e'));
        let output = format!(
            "ref: refs/heads/main\tHEAD\n{a}\tHEAD\n{a}\trefs/heads/main\n{b}\trefs/heads/v1\n{e}\trefs/pull/7/head\n\
             {c}\trefs/tags/v1\n{d}\trefs/tags/v1^{{}}\n{a}\trefs/heads/..\n"
        );
        let source = GitSource {
            repository: "https://h.example/a.git".parse().unwrap(),
            point: point.parse().unwrap(),
            expected: expected.map(|c| oid(c).parse().unwrap()),
            subdir: String::new(),
            keep_git: false,
            submodules: false,
            lfs: Default::default(),
        };
        let chosen = Refs::read(output.as_bytes()).choose(&source);
        let short =
            |chosen: Chosen| (chosen.commit.as_str()[..1].to_owned(), chosen.git_ref.map(String::from));
        chosen.map(|chosen| chosen.map(short)).map_err(|error| error.code().unwrap().to_string())
    }

    #[test]
    fn a_point_is_what_its_ref_is_at_and_nothing_else_is_taken_for_it() {
        let at = |commit: &str, name: &str| Ok(Some((commit.to_owned(), Some(name.to_owned()))));
        assert_eq!(choose("HEAD", None), at("a", "refs/heads/main"));
        assert_eq!(choose("v1", None), at("b", "refs/heads/v1"));
        assert_eq!(choose("refs/tags/v1", None), at("d", "refs/tags/v1"));
        assert_eq!(choose("refs/tags/v1", Some('c')), at("d", "refs/tags/v1"));
        assert_eq!(choose("refs/pull/7/head", Some('e')), at("e", "refs/pull/7/head"));
        assert_eq!(choose(&oid('d'), None), at("d", "refs/tags/v1"));
        assert_eq!(choose(&oid('a'), Some('a')), at("a", "refs/heads/main"));
        // What only a pull request has isn't taken by its name alone.
        assert_eq!(choose(&oid('e'), None), Ok(None));
        assert_eq!(choose(&oid('f'), None), Ok(None));
        let refs = Refs::read(
            format!("ref: refs/heads/main\tHEAD\n{0}\tHEAD\n{0}\trefs/heads/main\n{1}\trefs/tags/v1\n{2}\trefs/tags/v1^{{}}\n{0}\trefs/pull/7/head\n", oid('a'), oid('b'), oid('c'))
                .as_bytes(),
        );
        let named: Vec<String> =
            refs.named().map(|(name, at)| format!("{name} {}", &at.as_str()[..1])).collect();
        assert_eq!(
            (named, refs.default_branch()),
            (vec!["refs/heads/main a".to_owned(), "refs/tags/v1 c".to_owned()], Some("main"))
        );
        assert_eq!(choose("main", Some('b')), Err("git_ref_moved".to_owned()));
        assert_eq!(choose(&oid('a'), Some('b')), Err("git_ref_moved".to_owned()));
        assert_eq!(choose("v2", None), Err("git_ref_missing".to_owned()));
        assert_eq!(choose("refs/heads/HEAD", None), Err("git_ref_missing".to_owned()));
    }
}
