//! Emulators: lets the kernel run another architecture's programs by QEMU.
//!
//! The registration is the kernel's and so the whole machine's: what is there is kept as it is, what is missing is
//! registered where allowed, and the files that say how come from the distribution's package.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const FOLDER: &str = "/proc/sys/fs/binfmt_misc";
const INSTALL: &str = "sudo apt-get install qemu-user-static binfmt-support";

/// Sees to it that programs of `architecture` (as in platforms) run here, in containers too. Gives the name of the
/// entry that had to be registered, if any.
///
/// # Errors
/// Why they don't, with the cure.
pub fn enable(architecture: &str) -> Result<Option<String>, String> {
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
    if !Path::new(FOLDER).join("register").exists() && !mount() {
        return Err("binfmt_misc can't be mounted here (a container without privileges?)".to_owned());
    }
    if works(&name) {
        return Ok(None);
    }
    let _ = Command::new("update-binfmts")
        .args(["--enable", &name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if works(&name) {
        return Ok(Some(name));
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
            if Path::new(FOLDER).join(&name).exists() {
                let _ = fs::write(Path::new(FOLDER).join(&name), "-1");
            }
            let _ = fs::write(Path::new(FOLDER).join("register"), line);
        }
        if works(&name) {
            return Ok(Some(name));
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

fn mount() -> bool {
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("binfmt_misc", FOLDER, "binfmt_misc", flags, None).is_ok()
}

/// Takes a registration back that [`enable`] made.
pub fn forget(name: &str) {
    if name.starts_with("qemu-") && !name.contains('/') {
        let _ = fs::write(Path::new(FOLDER).join(name), "-1");
    }
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
