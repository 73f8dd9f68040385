//! The user's own folders, as the XDG Base Directory Specification names them, and those of a farm on this machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where a farm that root has started leaves what its users need.
const LOCAL_FOLDER: &str = "/var/lib/farm";

/// What this variable says, or else this folder in the user's home; `None` where neither is known. A home that isn't there
/// is none: nobody makes one by the way.
pub fn user_folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let is_there = |name: &str, path: &OsString| name != "HOME" || Path::new(path).is_dir();
    user_folder_of(|name| std::env::var_os(name).filter(|path| is_there(name, path)), variable, below_home)
}

/// Where a farm on this machine leaves a file for its users: the user's own farm, or root's.
pub fn local_files(name: &str) -> Vec<PathBuf> {
    let own = user_folder("XDG_STATE_HOME", ".local/state").map(|state| state.join("farm"));
    own.into_iter().chain([PathBuf::from(LOCAL_FOLDER)]).map(|folder| folder.join(name)).collect()
}

/// A relative path is as good as none (XDG Base Directory Specification): it would mean another place in each folder.
fn user_folder_of(
    environment: impl Fn(&str) -> Option<OsString>,
    variable: &str,
    below_home: &str,
) -> Option<PathBuf> {
    let absolute = |name: &str| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_the_user_is_absolute_or_none() {
        let found = |set: &[(&str, &str)]| {
            let environment =
                |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
            user_folder_of(environment, "XDG_CACHE_HOME", ".cache").map(|path| path.display().to_string())
        };
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("HOME", ""), ("XDG_CACHE_HOME", "")]), None);
        assert_eq!(found(&[("HOME", "."), ("XDG_CACHE_HOME", "cache")]), None);
        assert_eq!(found(&[("HOME", "/h"), ("XDG_CACHE_HOME", "cache")]).as_deref(), Some("/h/.cache"));
        assert_eq!(found(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]).as_deref(), Some("/c"));
        assert_eq!(found(&[("XDG_CACHE_HOME", "/c")]).as_deref(), Some("/c"));
    }
}
