//! Forgets a farm: removes its folder, and nothing else.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::binfmt::Changes;
use crate::layout::{Layout, MARKER, OWN_ENTRIES};
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
    for name in OWN_ENTRIES {
        remove(&layout.join(name))?;
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
    layout.check_owner()?;
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

/// Never follows a link, never leaves the device, and goes as deep as a build has made folders: rm(1) can.
fn remove(path: &Path) -> Result<()> {
    let mut rm = Command::new("rm");
    rm.args(["-rf", "--one-file-system", "--"]).arg(path).stdin(Stdio::null());
    let output = rm.output().map_err(|e| failed("rm", &e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or("it doesn't say why");
    Err(Error::Failed(format!("{} can't be removed: {first}; mend that and try again", path.display())))
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
        // Deeper than a path can be written.
        let deep = "import os\nfor n in range(3000):\n os.mkdir('abcdefghij')\n os.chdir('abcdefghij')";
        let made = Command::new("python3").args(["-c", deep]).current_dir(layout.join("engine")).status();
        assert!(made.unwrap().success());
        let left = purge(&layout).unwrap();
        assert_eq!(left, [layout.join("notes.txt").display().to_string()]);
        assert!(outside.join("thesis").exists() && !layout.join("registry").exists());
        assert!(purge(&layout).unwrap_err().to_string().contains("not made by farm up"));
    }
}
