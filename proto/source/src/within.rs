//! Following links without leaving a folder: as if it were the root of all files.
//!
//! An absolute link begins at the folder, and `..` ends there. So does an engine with what it was sent, and buildx with the
//! Dockerfile and the ignore files of a folder.
//!
//! Invariant: no path that is given out has a link in it, and all lie in the folder.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

/// As many links are followed, as by other tools that do the same.
const MAX_LINKS: usize = 255;

/// How far a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leads {
    /// To something that is there: its place in the folder, without links.
    To(PathBuf),
    /// To a folder that is there, but what should be in it is missing: these names, one in the other.
    Missing { folder: PathBuf, names: Vec<OsString> },
    /// Nowhere: a link to something that isn't there or is no folder, or links in a circle.
    Nowhere,
}

/// Follows `path` within `root`. A link that it ends with is followed if `follow_last`.
///
/// # Errors
/// Those of the operating system, but for what is missing.
pub(super) fn follow(root: &Path, path: &Path, follow_last: bool) -> io::Result<Leads> {
    let mut real = PathBuf::new();
    let mut links = 0;
    // Names with whether they come from a link.
    let mut ahead: VecDeque<(OsString, bool)> = names(path).map(|name| (name, false)).collect();
    while let Some((name, of_link)) = ahead.pop_front() {
        if name == ".." {
            real.pop();
            continue;
        }
        let next = real.join(&name);
        let at = root.join(&next);
        let kind = match at.symlink_metadata() {
            Ok(metadata) => metadata.file_type(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if of_link {
                    return Ok(Leads::Nowhere);
                }
                let names = std::iter::once(name).chain(ahead.into_iter().map(|(name, _)| name)).collect();
                return Ok(Leads::Missing { folder: real, names });
            }
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Ok(Leads::Nowhere),
            Err(e) => return Err(e),
        };
        let is_last = ahead.is_empty();
        if kind.is_symlink() && (follow_last || !is_last) {
            links += 1;
            if links > MAX_LINKS {
                return Ok(Leads::Nowhere);
            }
            let target = at.read_link()?;
            if target.is_absolute() {
                real = PathBuf::new();
            }
            for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                ahead.push_front((name, true));
            }
            continue;
        }
        if !is_last && !kind.is_dir() {
            return Ok(Leads::Nowhere);
        }
        real = next;
    }
    Ok(Leads::To(real))
}

/// The names in a path, with `..` but without `/` and `.`.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_within_the_folder_or_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("d/e")).unwrap();
        fs::write(dir.path().join("secret"), "").unwrap();
        fs::write(root.join("d/f"), "").unwrap();
        for (link, target) in [
            ("in", "d/f"),
            ("abs", "/d/f"),
            ("up", "../../d/f"),
            ("out", "../secret"),
            ("real", dir.path().join("secret").to_str().unwrap()),
            ("d/e/back", ".."),
            ("loop", "loop"),
            ("folder", "d"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let to = |path: &str| Leads::To(path.into());
        let missing = |folder: &str, names: &[&str]| Leads::Missing {
            folder: folder.into(),
            names: names.iter().map(Into::into).collect(),
        };
        for (path, leads) in [
            ("in", to("d/f")),
            ("abs", to("d/f")),
            ("up", to("d/f")),
            ("out", Leads::Nowhere),
            ("real", Leads::Nowhere),
            ("d/e/back/f", to("d/f")),
            ("folder/e/back/f", to("d/f")),
            ("folder/new/x", missing("d", &["new", "x"])),
            ("loop", Leads::Nowhere),
            ("d/f/x", Leads::Nowhere),
            ("../../d/f", to("d/f")),
            ("", to("")),
            ("nothing", missing("", &["nothing"])),
        ] {
            assert_eq!(follow(&root, Path::new(path), true).unwrap(), leads, "{path}");
        }
        assert_eq!(follow(&root, Path::new("out"), false).unwrap(), to("out"));
    }
}
