//! Emulators: lets the kernel run another architecture's programs by QEMU.
//!
//! The registration is the kernel's and so the whole machine's: what is there is kept as it is, what is missing is
//! registered where allowed, and the files that say how come from the distribution's package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde::{Deserialize, Serialize};

use crate::child::boot_id;
use crate::layout::Layout;

const FOLDER: &str = "/proc/sys/fs/binfmt_misc";
const INSTALL: &str = "sudo apt-get install qemu-user-static binfmt-support";

/// What farm has changed in this kernel, so that it takes back this and nothing else. Kept in the state folder, and void
/// once the machine was started anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    boot_id: String,
    /// Where binfmt_misc is seen was empty before.
    mounted: bool,
    /// The entries that were made.
    registered: Vec<String>,
}

impl Changes {
    fn path(layout: &Layout) -> PathBuf {
        layout.run("binfmt.json")
    }

    /// What was noted since this machine's start.
    pub fn load(layout: &Layout) -> Self {
        let noted = fs::read(Self::path(layout)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let noted = noted.filter(|noted: &Self| noted.boot_id == boot_id());
        noted.unwrap_or_else(|| Self { boot_id: boot_id(), ..Self::default() })
    }

    fn save(&self, layout: &Layout) -> Result<(), String> {
        let text = serde_json::to_string(self).map_err(|e| e.to_string())?;
        layout.write(&Self::path(layout), &text).map_err(|e| e.to_string())
    }

    /// Unmounts what [`enable`] mounted; for when a farm goes down.
    pub fn unmount(mut self, layout: &Layout) {
        // Somebody may look into it just now: then it stays, as on most machines it is there anyhow.
        if self.mounted && unmount(FOLDER, UnmountFlags::empty()).is_ok() {
            self.mounted = false;
            let _ = self.save(layout);
        }
    }

    /// Takes back what [`enable`] registered; for when a farm is forgotten.
    pub fn forget(self, layout: &Layout) {
        if self.registered.is_empty() {
            return self.unmount(layout);
        }
        let was_seen = is_seen();
        if !was_seen && !mount_it() {
            return;
        }
        for name in self.registered.iter().filter(|name| name.starts_with("qemu-") && !name.contains('/')) {
            let _ = fs::write(Path::new(FOLDER).join(name), "-1");
        }
        if !was_seen || self.mounted {
            let _ = unmount(FOLDER, UnmountFlags::empty());
        }
    }
}

/// Sees to it that programs of `architecture` (as in platforms) run here, in containers too. Gives the name of the
/// entry that had to be registered, if any.
///
/// # Errors
/// Why they don't, with the cure.
pub fn enable(architecture: &str, layout: &Layout) -> Result<Option<String>, String> {
    let Some(qemu) = qemu_name(architecture) else {
        return Err(format!("no emulator is known for {architecture}"));
    };
    let name = format!("qemu-{qemu}");
    if works(&name) {
        return Ok(None);
    }
    if !rustix::process::geteuid().is_root() {
        return Err(format!(
            "its emulator isn't registered, which needs root: {INSTALL}, then sudo update-binfmts --enable {name}"
        ));
    }
    let mut changes = Changes::load(layout);
    if !is_seen() {
        if !mount_it() {
            return Err("binfmt_misc can't be mounted here (a container without privileges?)".to_owned());
        }
        changes.mounted = true;
        changes.save(layout)?;
    }
    if works(&name) {
        return Ok(None);
    }
    // Noted before it is done: one that was noted and isn't there is no trouble, one that is there and wasn't noted is.
    if !changes.registered.contains(&name) {
        changes.registered.push(name.clone());
        changes.save(layout)?;
    }
    register(&name)?;
    Ok(Some(name))
}

fn register(name: &str) -> Result<(), String> {
    let _ = Command::new("update-binfmts")
        .args(["--enable", name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if works(name) {
        return Ok(());
    }
    // Where systemd keeps the registrations, they are files in the kernel's own format.
    let entries = fs::read_dir("/usr/lib/binfmt.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let own = entries.filter(|path| {
        path.file_name()
            .and_then(|n| n.to_str())
            .is_some_and(|n| n.starts_with(&format!("{name}.")) || n.starts_with(&format!("{name}-static")))
    });
    for path in own {
        let text = fs::read_to_string(&path).unwrap_or_default();
        if let Some(line) = text.lines().find(|line| line.starts_with(':')) {
            if Path::new(FOLDER).join(name).exists() {
                let _ = fs::write(Path::new(FOLDER).join(name), "-1");
            }
            let _ = fs::write(Path::new(FOLDER).join("register"), line);
        }
        if works(name) {
            return Ok(());
        }
    }
    Err(format!(
        "its emulator {name} isn't installed or can't be registered: {INSTALL}, then farm down and farm up"
    ))
}

/// Enabled, and with flag F: opened by the kernel when it was registered, so that containers have it too.
fn works(name: &str) -> bool {
    let is_on = fs::read_to_string(Path::new(FOLDER).join("status")).is_ok_and(|s| s.trim() == "enabled");
    is_on
        && fs::read_to_string(Path::new(FOLDER).join(name)).is_ok_and(|entry| {
            let flags = entry.lines().find_map(|line| line.strip_prefix("flags:"));
            entry.lines().next() == Some("enabled") && flags.is_some_and(|flags| flags.contains('F'))
        })
}

fn is_seen() -> bool {
    Path::new(FOLDER).join("register").exists()
}

fn mount_it() -> bool {
    mount("binfmt_misc", FOLDER, "binfmt_misc", MountFlags::empty(), None).is_ok()
}

/// QEMU's word for an architecture.
fn qemu_name(architecture: &str) -> Option<&'static str> {
    Some(match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "386" => "i386",
        "arm" => "arm",
        "riscv64" => "riscv64",
        "ppc64le" => "ppc64le",
        "s390x" => "s390x",
        "loong64" => "loongarch64",
        "mips64le" => "mips64el",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_before_the_machine_was_started_anew_is_not_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::find(Some(folder.path())).unwrap();
        layout.prepare().unwrap();
        let ours = Changes { registered: vec!["qemu-aarch64".into()], ..Changes::load(&layout) };
        ours.save(&layout).unwrap();
        assert_eq!(Changes::load(&layout), ours);
        Changes { boot_id: "another".into(), ..ours }.save(&layout).unwrap();
        assert_eq!(Changes::load(&layout), Changes { boot_id: boot_id(), ..Changes::default() });
    }
}
