//! Docker engines for tests, each with its own data, sockets, bridge and control group.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::bed::Bed;
use crate::ports::http_status_on;
use crate::process::{Child, run};

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(30);
/// What engines and registries are made of collects its garbage a quarter as often: that was an eighth of engines' CPU time.
pub(crate) const SELDOM_COLLECTED: (&str, &str) = ("GOGC", "400");

/// An engine as `farm workers` names it, and as it is listed in `patched_engines`.
pub fn named(host: &str) -> String {
    let mut docker = Command::new("docker");
    docker.args(["--host", host, "version", "--format", "{{.Server.Version}}"]);
    format!("docker {}", run(&mut docker).trim())
}

/// A dockerd that keeps its images in containerd's store.
#[derive(Debug)]
pub struct Engine {
    name: String,
    /// On disk: `data/` and the configuration.
    folder: PathBuf,
    /// Short: the sockets.
    run: PathBuf,
    logs: PathBuf,
    bridge: Option<String>,
    child: Option<Child>,
}

impl Engine {
    /// Starts it without waiting; [`Engine::wait`] does. `mirror` stands in for Docker Hub; `change` has
    /// the last word on `daemon.json`. Without `bridge` it makes
    /// the usual `docker0`, which only one engine of a network namespace can have.
    pub fn spawn(
        name: &str,
        folder: &Path,
        run: &Path,
        logs: &Path,
        mirror: &str,
        bridge: Option<String>,
        change: impl FnOnce(&mut serde_json::Value),
    ) -> Engine {
        fs::create_dir_all(folder).unwrap();
        fs::create_dir_all(run).unwrap();
        let mut config = serde_json::json!({
            "features": {"containerd-snapshotter": true},
            "data-root": folder.join("data"),
            "exec-root": run.join("exec"),
            "pidfile": run.join("dockerd.pid"),
            "hosts": [format!("unix://{}", run.join("docker.sock").display())],
            "registry-mirrors": [format!("http://{mirror}")],
            // A group of its own, so that what a crash leaves running can be told from everything else. systemd, where
            // there is one, knows nothing of our PID namespace: hence cgroupfs.
            "cgroup-parent": format!("/{name}"),
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "shutdown-timeout": 5,
        });
        if let Some(bridge) = &bridge {
            // The first engine's rules are not for a second one to rewrite.
            config["bridge"] = bridge.as_str().into();
            config["iptables"] = false.into();
            config["ip6tables"] = false.into();
        }
        change(&mut config);
        fs::write(folder.join("daemon.json"), config.to_string()).unwrap();
        let mut engine = Engine {
            name: name.to_owned(),
            folder: folder.to_owned(),
            run: run.to_owned(),
            logs: logs.to_owned(),
            bridge,
            child: None,
        };
        engine.launch();
        engine
    }

    fn launch(&mut self) {
        let mut command = Command::new("dockerd");
        command.arg("--config-file").arg(self.folder.join("daemon.json"));
        command.env("OTEL_TRACES_EXPORTER", "none").env(SELDOM_COLLECTED.0, SELDOM_COLLECTED.1);
        self.child = Some(Child::spawn(&self.name, &command, &self.logs));
    }

    /// Returns when the engine answers.
    pub fn wait(&mut self) {
        let socket = self.socket();
        let child = self.child.as_mut().expect("the engine is stopped");
        child.wait_until("answer", START, |_| {
            let mut stream = UnixStream::connect(&socket).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
            http_status_on(&mut stream, "/_ping").filter(|status| *status == 200)
        });
    }

    pub fn socket(&self) -> PathBuf {
        self.run.join("docker.sock")
    }

    /// `unix:///…/docker.sock`
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Stops it in order. What builds and containers still run is killed first: it would outlive the engine, or make
    /// it wait.
    pub fn stop(&mut self) {
        self.kill_leftovers();
        if let Some(mut child) = self.child.take() {
            child.stop_term(STOP);
        }
        self.kill_leftovers();
    }

    /// A crash: what its builds run goes on running.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill9();
        }
    }

    /// Starts it on the same data after [`Engine::stop`] or [`Engine::kill9`].
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "the engine runs already");
        self.kill_leftovers();
        unmount_below(&self.folder);
        unmount_below(&self.run);
        self.launch();
        self.wait();
    }

    /// The process, for pausing it.
    pub fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("the engine is stopped")
    }

    /// The process id of its containerd.
    pub fn containerd(&self) -> u32 {
        let dockerd = self.child.as_ref().expect("the engine is stopped").pid();
        let output = Command::new("pgrep").args(["-P", &dockerd.to_string(), "-x", "containerd"]).output();
        let output = String::from_utf8(output.unwrap().stdout).unwrap();
        output.trim().parse().unwrap_or_else(|_| panic!("dockerd {dockerd} has no containerd: {output:?}"))
    }

    /// Process ids of all that this engine's builds and containers run now.
    pub fn build_processes(&self) -> Vec<u32> {
        processes_in_group(&self.name)
    }

    fn kill_leftovers(&self) {
        for pid in self.build_processes() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.cont();
        }
        if std::thread::panicking() {
            // No more panics: a crash will do, and Child prints what it said.
            self.child = None;
            self.kill_leftovers();
        } else {
            self.stop();
        }
        unmount_below(&self.folder);
        unmount_below(&self.run);
        remove_groups(&self.name);
        if let Some(bridge) = &self.bridge {
            let _ = Command::new("ip").args(["link", "del", bridge]).output();
        }
    }
}

/// An engine of one test with nothing in its store, on a bridge of its own.
#[derive(Debug)]
pub struct PrivateEngine {
    engine: Engine,
    _folders: (TempDir, TempDir),
}

impl PrivateEngine {
    pub fn start() -> PrivateEngine {
        PrivateEngine::start_with(|_| ())
    }

    /// The same, its `daemon.json` changed.
    pub fn start_with(change: impl FnOnce(&mut serde_json::Value)) -> PrivateEngine {
        let bed = Bed::from_env();
        let (bridge, number) = make_bridge();
        let name = format!("{}-{number}", group_of(&bed.state));
        let folders = (bed.folder("engine"), bed.short_folder("engine"));
        let logs = bed.test_folder().join("private");
        let mut engine = Engine::spawn(
            &name,
            folders.0.path(),
            folders.1.path(),
            &logs,
            &bed.registry,
            Some(bridge),
            change,
        );
        engine.wait();
        PrivateEngine { engine, _folders: folders }
    }
}

impl std::ops::Deref for PrivateEngine {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl std::ops::DerefMut for PrivateEngine {
    fn deref_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }
}

/// The control group of the bed whose state is in `state`: always the same one, so that a later bed finds what a
/// killed one left.
pub fn group_of(state: &Path) -> String {
    // FNV-1a: stable between builds, which std's hasher does not promise.
    let hash = state.to_str().unwrap().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("farm-test-{:08x}", hash & 0xffff_ffff)
}

/// Removes the empty control groups whose name begins with `prefix`.
pub fn remove_groups(prefix: &str) {
    let find = format!(
        "find /sys/fs/cgroup -depth -type d \\( -path '*/{prefix}' -o -path '*/{prefix}/*' -o -path '*/{prefix}-*' \\) -exec rmdir {{}} + 2>/dev/null"
    );
    let _ = Command::new("sh").args(["-c", &find]).status();
}

/// Unmounts all that is mounted at or below `folder`, innermost first.
pub fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut below: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|at| Path::new(at).starts_with(folder))
        .collect();
    below.reverse();
    for at in below {
        let _ = Command::new("umount").args(["-l", at]).output();
    }
}

fn processes_in_group(name: &str) -> Vec<u32> {
    let within = format!("/{name}/");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(&within))
        })
        .collect()
}

/// The kernel refuses a name that is taken, so numbers are tried until one is new.
fn make_bridge() -> (String, u32) {
    for number in 1..250 {
        let name = format!("farm{number}");
        let add = Command::new("ip").args(["link", "add", &name, "type", "bridge"]).output().unwrap();
        if add.status.success() {
            run(Command::new("ip").args(["addr", "add", &format!("172.30.{number}.1/24"), "dev", &name]));
            run(Command::new("ip").args(["link", "set", &name, "up"]));
            return (name, number);
        }
    }
    panic!("no bridge could be made; is this the test bed's network namespace?");
}
