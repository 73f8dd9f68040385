//! The first process in the engine's namespaces.
//!
//! `unshare` gives it new network, mount and process namespaces. It makes them fit for an engine, starts dockerd and
//! waits. When it ends, however it ends, the kernel kills everything else in its process namespace, and with the last
//! process the mounts, the bridge, the veths and the packet filter's rules are gone: nothing of an engine outlives
//! it, and nothing of it was ever visible on the machine.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

/// What the supervisor gives it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// dockerd's configuration.
    #[arg(long)]
    config: PathBuf,
    /// Where the engine's data is, for a look at the file system.
    #[arg(long)]
    data: PathBuf,
    /// The name server that its network has.
    #[arg(long)]
    nameserver: Option<String>,
    /// Neither it nor its builds reach addresses that aren't public, and these.
    #[arg(long, value_delimiter = ',')]
    closed: Option<Vec<String>>,
}

/// The device that is the way out.
const WAY_OUT: &str = "tap0";

/// What isn't public (RFC 6890): this machine, its neighbours, metadata services of clouds, and what is none of anybody's.
const CLOSED: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// Prepares the namespaces, starts the engine, and ends with it.
pub fn main(args: &Args) -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("error: engine-init is for farm's own use, in namespaces that it makes");
        return ExitCode::from(2);
    }
    match prepare(args).and_then(|()| run(args)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(3)
        }
    }
}

fn prepare(args: &Args) -> Result<(), String> {
    let at = |what: &str| {
        let what = what.to_owned();
        move |e: io::Error| format!("{what}: {e}")
    };
    try_overlay(&args.data)?;
    let resolv = Path::new("/etc/resolv.conf");
    // Where it leads to, also when nothing is there.
    let target = match fs::read_link(resolv) {
        Ok(to) => PathBuf::from("/etc").join(to),
        Err(_) => resolv.to_owned(),
    };
    let search = fs::read_to_string(resolv).unwrap_or_default();
    // A /run of its own: sockets, pid files and locks of the machine's engine, its firewall daemon and its bus are not
    // this engine's business, and what it leaves there goes with it.
    mount("farm", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755"))
        .map_err(|e| at("a private /run can't be mounted")(e.into()))?;
    fs::create_dir_all("/run/lock").map_err(at("/run/lock"))?;
    if !Path::new("/var/run").exists() {
        let _ = symlink("/run", "/var/run");
    }
    if let Some(nameserver) = &args.nameserver {
        let mut text = format!("nameserver {nameserver}\n");
        for line in search.lines().filter(|l| l.starts_with("search ") || l.starts_with("options ")) {
            text.push_str(line);
            text.push('\n');
        }
        fs::write("/run/resolv.conf", text).map_err(at("/run/resolv.conf"))?;
        // The machine's own may be a link into the /run that is hidden now; elsewhere nothing is made on its disk.
        let real = target.components().collect::<PathBuf>();
        let is_hidden = real.starts_with("/run") || target.to_string_lossy().contains("../run/");
        if !target.exists() && is_hidden {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(at("/etc/resolv.conf"))?;
            }
            fs::write(&target, "").map_err(at("/etc/resolv.conf"))?;
        }
        if target.exists() {
            mount_bind("/run/resolv.conf", &target)
                .map_err(|e| at("/etc/resolv.conf can't be replaced")(e.into()))?;
        }
    }
    // Before there is a way out.
    if let Some(more) = &args.closed {
        close(args.nameserver.as_deref(), more)?;
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).stdin(Stdio::null()).status();
    match up {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("ip link set lo up: {status}")),
        Err(e) => Err(format!("ip can't be started ({e}): sudo apt-get install iproute2")),
    }
}

/// Keeps what leaves by the way out from what isn't public: what the engine itself sends is refused, what its builds send is dropped, in
/// a table that dockerd doesn't touch (it puts rules of its own before those of others in the usual one).
fn close(nameserver: Option<&str>, more: &[String]) -> Result<(), String> {
    let rule = |program: &str, words: &[&str]| {
        let status = Command::new(program).arg("-w").args(words).stdin(Stdio::null()).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{program} {}: {status}", words.join(" "))),
            Err(e) => Err(format!("{program} can't be started ({e}): sudo apt-get install iptables")),
        }
    };
    let more = more.iter().map(String::as_str).filter(|one| !one.is_empty());
    let closed: Vec<&str> = CLOSED.iter().copied().chain(more).collect();
    for (table, chain, end) in [("filter", "OUTPUT", "REJECT"), ("mangle", "FORWARD", "DROP")] {
        let begin = ["-t", table, "-A", chain, "-o", WAY_OUT];
        for protocol in ["udp", "tcp"] {
            if let Some(at) = nameserver {
                let allowed = ["-d", at, "-p", protocol, "--dport", "53", "-j", "ACCEPT"];
                rule("iptables", &[&begin[..], &allowed].concat())?;
            }
        }
        for network in &closed {
            rule("iptables", &[&begin[..], &["-d", network, "-j", end]].concat())?;
        }
        // The way out has no IPv6 today.
        if Path::new("/proc/net/if_inet6").exists() {
            rule("ip6tables", &[&begin[..], &["-j", end]].concat())?;
        }
    }
    Ok(())
}

/// Says it in plain words, before the engine does in its own.
fn try_overlay(data: &Path) -> Result<(), String> {
    let base = data.join(".overlay-trial");
    let _ = fs::remove_dir_all(&base);
    let folder = |name: &str| {
        let path = base.join(name);
        fs::create_dir_all(&path).map(|()| path)
    };
    let trial = || -> io::Result<()> {
        let (lower, upper, work, at) = (folder("lower")?, folder("upper")?, folder("work")?, folder("at")?);
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
        mount("overlay", &at, "overlay", MountFlags::empty(), Some(options.as_c_str()))?;
        unmount(&at, UnmountFlags::empty())?;
        Ok(())
    };
    let result = trial();
    let _ = fs::remove_dir_all(&base);
    result.map_err(|e| match e.kind() {
        io::ErrorKind::StorageFull => format!("{}: {e}; free some space, or choose another --state-dir", data.display()),
        _ => format!(
            "overlayfs can't be mounted in {} ({e}). The own engine needs it: load it (modprobe overlay), choose a \
             --state-dir on ext4 or xfs, or name an engine that is there already with --engine ADDRESS",
            data.display()
        ),
    })
}

fn run(args: &Args) -> Result<ExitCode, String> {
    let mut dockerd = Command::new("dockerd");
    dockerd.arg("--config-file").arg(&args.config).stdin(Stdio::null());
    let dockerd = dockerd.spawn().map_err(|e| format!("dockerd can't be started: {e}"))?;
    let engine = i32::try_from(dockerd.id()).ok().and_then(Pid::from_raw).ok_or("dockerd has no number")?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || pass_signals(engine))
        .map_err(|e| e.to_string())?;
    // Orphans of the whole namespace come here.
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == engine => {
                let code = status.exit_status().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
                return Ok(ExitCode::from(code));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(format!("waiting for dockerd: {e}")),
        }
    }
}

fn pass_signals(engine: Pid) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
        while terminate.recv().await.is_some() {
            let _ = kill_process(engine, Signal::TERM);
        }
    });
}
