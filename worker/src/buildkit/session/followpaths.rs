//! Which entries of a tree an engine needs that names some paths (`followpaths`).
//!
//! It is an economy, and a large one: an engine reads the same context up to three times, twice for one file.
//! What is sent too much is legal, what is missing is an error; so a pattern that isn't understood here
//! (`[…]`, `**`, `\`) selects everything.
//!
//! Followed like a path by the kernel, with the tree as root: `*` and `?` match within one name, a symbolic
//! link on the way is selected and so is what it leads to, and a folder is selected with all below it.
//! (BuildKit's own way of doing it: fsutil, `followlinks.go`.)

use std::collections::HashSet;

use farm_dockerfile::matches;

use crate::buildkit::tree::{TreeEntry, TreeKind, find, subtree};

/// As many links as Linux follows in one path (path_resolution(7)).
const MAX_LINKS: u8 = 40;

/// Marks the entries that these patterns need; `None` stands for all.
pub(crate) fn select(entries: &[TreeEntry], patterns: &[String]) -> Option<Vec<bool>> {
    if patterns.is_empty()
        || patterns.iter().any(|pattern| pattern.contains(['[', '\\']) || pattern.contains("**"))
    {
        return None;
    }
    let mut walk = Walk { entries, taken: vec![false; entries.len()], walked: HashSet::new() };
    for pattern in patterns {
        walk.walk(None, &clean("", pattern), 0);
    }
    Some(walk.taken)
}

struct Walk<'a> {
    entries: &'a [TreeEntry],
    taken: Vec<bool>,
    walked: HashSet<(Option<usize>, Vec<String>)>,
}

impl Walk<'_> {
    /// Goes on from the folder at this place (the root, if none).
    fn walk(&mut self, folder: Option<usize>, names: &[String], links: u8) {
        let Some((name, rest)) = names.split_first() else {
            self.take(folder.map_or(0..self.entries.len(), |place| subtree(self.entries, place)));
            return;
        };
        if links > MAX_LINKS || !self.walked.insert((folder, names.to_vec())) {
            return;
        }
        let entries = self.entries;
        let prefix = folder.map_or(String::new(), |place| format!("{}/", entries[place].path));
        if name.contains(['*', '?']) {
            let range = folder.map_or(0..entries.len(), |place| subtree(entries, place));
            for place in range {
                let child = entries[place].path.strip_prefix(&prefix);
                if child.is_some_and(|child| !child.contains('/') && matches(name, child)) {
                    self.enter(place, rest, links);
                }
            }
        } else if let Some(place) = find(entries, &format!("{prefix}{name}")) {
            self.enter(place, rest, links);
        }
    }

    fn enter(&mut self, place: usize, rest: &[String], links: u8) {
        let entry = &self.entries[place];
        match &entry.kind {
            TreeKind::Symlink { target } => {
                self.take(place..place + 1);
                let parent = entry.path.rsplit_once('/').map_or("", |(parent, _)| parent);
                let mut names = clean(parent, target);
                names.extend_from_slice(rest);
                self.walk(None, &names, links + 1);
            }
            // Taken with what is found below it.
            TreeKind::Folder => self.walk(Some(place), rest, links),
            TreeKind::File { .. } | TreeKind::Fifo if rest.is_empty() => self.take(place..place + 1),
            TreeKind::File { .. } | TreeKind::Fifo => {}
        }
    }

    /// Takes these entries, and the folders that the first one lies in.
    fn take(&mut self, range: std::ops::Range<usize>) {
        if let Some(first) = self.entries.get(range.start) {
            for (slash, _) in first.path.match_indices('/') {
                if let Some(parent) = find(self.entries, &first.path[..slash]) {
                    self.taken[parent] = true;
                }
            }
        }
        self.taken[range].fill(true);
    }
}

/// The names of `path` as seen from `folder`, without `.` and `..`; nothing leads out of the root.
fn clean(folder: &str, path: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let folder = if path.starts_with('/') { "" } else { folder };
    for name in folder.split('/').chain(path.split('/')) {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            _ => names.push(name.to_owned()),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buildkit::tree::{MemoryTree, SourceTree};

    fn tree() -> MemoryTree {
        let mut tree = MemoryTree::new(
            ["Dockerfile", "a/one.py", "a/two.txt", "a/deep/x", "b/one.py", "c.py", "lib/v1/f", "ü d/ö.py"]
                .map(|path| (path, 0o644, vec![])),
        );
        for (path, target) in [
            ("current", "lib/v1"),
            ("a/up", "../b/one.py"),
            ("loop", "loop/x"),
            ("abs", "/a/deep"),
            ("out", "../../../c.py"),
        ] {
            tree.add(TreeEntry {
                path: path.into(),
                mode: 0o777,
                mtime: 0,
                kind: TreeKind::Symlink { target: target.into() },
            });
        }
        tree
    }

    fn chosen(patterns: &[&str]) -> Vec<String> {
        let tree = tree();
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        let taken = select(tree.entries(), &patterns).unwrap();
        tree.entries()
            .iter()
            .zip(taken)
            .filter(|(_, taken)| *taken)
            .map(|(entry, _)| entry.path.clone())
            .collect()
    }

    #[test]
    fn a_file_comes_with_its_folders_and_a_folder_with_its_content() {
        assert_eq!(chosen(&["Dockerfile", "nope", ".dockerignore"]), ["Dockerfile"]);
        assert_eq!(chosen(&["/a/deep"]), ["a", "a/deep", "a/deep/x"]);
        assert_eq!(chosen(&["./b/"]), ["b", "b/one.py"]);
        assert_eq!(chosen(&["ü d/ö.py"]), ["ü d", "ü d/ö.py"]);
    }

    #[test]
    fn wildcards_match_within_one_name() {
        assert_eq!(chosen(&["*.py"]), ["c.py"]);
        let links = ["abs", "current", "loop", "out"].map(str::to_owned);
        let mut found = chosen(&["*/*.py"]);
        found.retain(|path| !links.contains(path));
        assert_eq!(found, ["a", "a/one.py", "b", "b/one.py", "ü d", "ü d/ö.py"]);
        assert_eq!(chosen(&["?/t*o.t?t"]), ["a", "a/two.txt"]);
        assert!(
            matches("*a*b", "xaxxab") && !matches("*a*b", "xaxxa") && matches("**", "") && !matches("?", "")
        );
    }

    #[test]
    fn links_on_the_way_are_followed() {
        assert_eq!(chosen(&["current/f"]), ["current", "lib", "lib/v1", "lib/v1/f"]);
        assert_eq!(chosen(&["current"]), ["current", "lib", "lib/v1", "lib/v1/f"]);
        assert_eq!(chosen(&["a/u*"]), ["a", "a/up", "b", "b/one.py"]);
        assert_eq!(chosen(&["abs"]), ["a", "a/deep", "a/deep/x", "abs"]);
        assert_eq!(chosen(&["out"]), ["c.py", "out"]);
        assert_eq!(chosen(&["loop"]), ["loop"]);
    }

    #[test]
    fn what_is_not_understood_selects_all() {
        let tree = tree();
        for pattern in ["[ab]/x", "a/**/x", "a\\*"] {
            assert!(select(tree.entries(), &[pattern.to_owned()]).is_none());
        }
        assert!(select(tree.entries(), &[]).is_none());
        assert_eq!(chosen(&["."]).len(), tree.entries().len());
    }
}
