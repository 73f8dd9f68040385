//! What of a context is meant, on the disk: the paths to which the patterns of a [`Selection`] lead.
//!
//! Followed as an engine follows them (BuildKit, fsutil `followlinks.go`): a link on the way is meant, and what it leads to,
//! with the context as its root. Nothing else is looked at: an unreadable folder, or a name that is no text, matters only when
//! something names it.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use farm_dockerfile::{Pattern, Selection, exact, matches};

use super::ContextError;

/// As many links as Linux follows in one path (path_resolution(7)).
const MAX_LINKS: u8 = 40;

/// The part of a folder that is meant.
#[derive(Debug, Clone, Default)]
pub(super) struct Meant {
    /// Everything in it is meant.
    pub(super) is_whole: bool,
    /// What of it, if not all.
    pub(super) children: BTreeMap<OsString, Meant>,
}

impl Meant {
    /// Everything.
    pub(super) fn whole() -> Self {
        Self { is_whole: true, ..Self::default() }
    }
}

/// Finds what is meant of the folder at `root`.
///
/// # Errors
/// A folder in which a pattern looks for names can't be listed.
pub(super) fn find(root: &Path, selection: &Selection) -> Result<Meant, ContextError> {
    let mut finder = Finder { root, found: Meant::default(), walked: HashSet::new() };
    match selection {
        Selection::All => finder.found.is_whole = true,
        Selection::Only(patterns) => {
            for pattern in patterns {
                finder.walk(&[], pattern.names(), 0)?;
            }
        }
    }
    Ok(finder.found)
}

struct Finder<'a> {
    root: &'a Path,
    found: Meant,
    walked: HashSet<(Vec<OsString>, Vec<String>)>,
}

impl Finder<'_> {
    /// Goes on from the folder at `at`, a path without links.
    fn walk(&mut self, at: &[OsString], names: &[String], links: u8) -> Result<(), ContextError> {
        let Some((name, rest)) = names.split_first() else {
            self.take(at, true);
            return Ok(());
        };
        if links > MAX_LINKS || !self.walked.insert((at.to_vec(), names.to_vec())) {
            return Ok(());
        }
        match exact(name) {
            Some(name) => self.enter(at, OsStr::new(&name), rest, links),
            None => {
                let folder: PathBuf = self.root.join(at.iter().collect::<PathBuf>());
                let shown = || at.iter().collect::<PathBuf>().display().to_string();
                let listing = match std::fs::read_dir(&folder) {
                    Ok(listing) => listing,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                    Err(e) => return Err(ContextError::unreadable(&shown(), &e)),
                };
                for entry in listing {
                    let entry = entry.map_err(|e| ContextError::unreadable(&shown(), &e))?;
                    if matches(name, &entry.file_name().to_string_lossy()) {
                        self.enter(at, &entry.file_name(), rest, links)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn enter(
        &mut self,
        at: &[OsString],
        name: &OsStr,
        rest: &[String],
        links: u8,
    ) -> Result<(), ContextError> {
        let place: Vec<OsString> = at.iter().cloned().chain([name.to_owned()]).collect();
        let path = self.root.join(place.iter().collect::<PathBuf>());
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            // The engine says what is missing.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(e) => {
                let shown = place.iter().collect::<PathBuf>().display().to_string();
                return Err(ContextError::unreadable(&shown, &e));
            }
        };
        if metadata.is_symlink() {
            self.take(&place, false);
            let Ok(target) = std::fs::read_link(&path) else { return Ok(()) };
            let Some(target) = target.to_str() else { return Ok(()) };
            let above = if target.starts_with('/') { &[] } else { at };
            let mut names = above.to_vec();
            for name in target.split('/') {
                match name {
                    "" | "." => {}
                    ".." => drop(names.pop()),
                    name => names.push(name.into()),
                }
            }
            // From the root on, since what lies on the way may be a link itself.
            let Some(names) =
                names.into_iter().map(|name| name.into_string().ok()).collect::<Option<Vec<_>>>()
            else {
                return Ok(());
            };
            let literal = Pattern::literal(&names.join("/"));
            let onward: Vec<String> = literal.names().iter().chain(rest).cloned().collect();
            return self.walk(&[], &onward, links + 1);
        }
        if rest.is_empty() || metadata.is_dir() {
            if rest.is_empty() {
                self.take(&place, true);
            } else {
                self.walk(&place, rest, links)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, place: &[OsString], is_whole: bool) {
        let mut meant = &mut self.found;
        for name in place {
            meant = meant.children.entry(name.clone()).or_default();
        }
        meant.is_whole |= is_whole;
    }
}
