//! Forgets a farm: removes its folder, and nothing else.

use std::fs;
use std::path::Path;

use crate::binfmt::Changes;
use crate::layout::{Layout, MARKER, OWN_ENTRIES, device};
use crate::sweep::mounts_below;
use crate::{Error, Result, failed};

/// Removes what farm made in the folder, then the folder if it is empty. Needs the folder's lock held, and nothing
/// running. Gives what it left there.
///
/// # Errors
/// The folder isn't farm's, something is mounted in it, or a file can't be removed. Nothing was removed in the first
/// two cases.
pub fn purge(layout: &Layout) -> Result<Vec<String>> {
    check(layout)?;
    Changes::load(layout).forget(layout);
    let Some(ours) = device(layout.root()) else { return Ok(Vec::new()) };
    // The marker goes last, so that a purge that was cut off can be repeated.
    for name in OWN_ENTRIES.iter().filter(|name| **name != MARKER).chain([&MARKER]) {
        let path = layout.join(name);
        remove(&path, ours)?;
    }
    let left: Vec<String> = fs::read_dir(layout.root())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .collect();
    if left.is_empty() {
        // It may be a mount point, or in a folder that isn't ours to change: empty is good enough.
        let _ = fs::remove_dir(layout.root());
    }
    Ok(left)
}

/// Refuses what must not be removed.
///
/// # Errors
/// As [`purge`].
pub fn check(layout: &Layout) -> Result<()> {
    if !layout.is_marked() {
        return Err(Error::Usage(format!(
            "{} was not made by farm up (there is no {MARKER} in it): nothing is removed",
            layout.root().display()
        )));
    }
    let mounts = mounts_below(layout.root());
    if let Some(first) = mounts.first() {
        return Err(Error::Usage(format!(
            "{} is mounted in the folder: nothing is removed; umount it first",
            first.display()
        )));
    }
    Ok(())
}

/// Never follows a link, never leaves the device.
fn remove(path: &Path, ours: u64) -> Result<()> {
    let at = |e: std::io::Error| failed(path.display(), &e);
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(at(e)),
    };
    if !metadata.is_dir() {
        return fs::remove_file(path).map_err(at);
    }
    if device(path) != Some(ours) {
        return Err(Error::Usage(format!("{} is on another device: not removed", path.display())));
    }
    for entry in fs::read_dir(path).map_err(at)? {
        remove(&entry.map_err(at)?.path(), ours)?;
    }
    fs::remove_dir(path).map_err(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn it_removes_what_farm_made_and_nothing_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::find(Some(&folder.path().join("farm"))).unwrap();
        layout.prepare().unwrap();
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("thesis"), "x").unwrap();
        symlink(&outside, layout.join("registry/data")).unwrap();
        fs::write(layout.join("notes.txt"), "mine").unwrap();
        let left = purge(&layout).unwrap();
        assert_eq!(left, [layout.join("notes.txt").display().to_string()]);
        assert!(outside.join("thesis").exists() && !layout.join("registry").exists());
        assert!(purge(&layout).unwrap_err().to_string().contains("not made by farm up"));
    }
}
