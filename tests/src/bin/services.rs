//! `farm-services ROOT`: in a root that the Debian package was installed into, starts both services as their units say (user,
//! environment, folder), holds them to what they tell a service manager, and stops them. What the units' comments leave to
//! whoever runs the machine is done as they say. In the test bed: `tests/run.sh package`.
//!
//! systemd itself doesn't run here; how it shuts services in is left to `systemd-analyze`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use farm_tests::environment;
use farm_tests::process::{Child, run};

const TOLD_WITHIN: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(30);
/// Where the notifications go, in the root.
const SOCKETS: &str = "/run/farm-services";

fn main() {
    let root = std::env::args().nth(1).expect("usage: farm-services ROOT");
    let root = fs::canonicalize(root).unwrap();
    fs::create_dir_all(inside(&root, SOCKETS)).unwrap();
    let coordinator = Service::start(&root, "farm-coordinator");
    coordinator.says("READY=1\nSTATUS=serving on http://127.0.0.1:7070");
    assert!(coordinator.extended.get() > 0, "the first start migrates, and doesn't ask for its time");
    // As /etc/farm/worker.env has it.
    let invite = [
        "env",
        "FARM_TOKEN_FILE=/var/lib/farm-coordinator/token",
        "farm",
        "workers",
        "invite",
        "--name",
        "w1",
    ];
    let line = run(&mut chroot(&root, "root", &invite));
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(&words[..3], ["farm-worker", "join", "https://127.0.0.1:7070"], "{line}");
    let joined = run(&mut chroot(&root, "root", &words));
    assert!(joined.contains("systemctl enable --now farm-worker"), "{joined}");
    let worker = Service::start(&root, "farm-worker");
    worker.says("READY=1\nSTATUS=in the farm: linux/");

    let mut list =
        chroot(&root, "root", &["env", "FARM_TOKEN_FILE=/var/lib/farm-coordinator/token", "farm", "workers"]);
    let workers = run(&mut list);
    assert!(workers.contains("online"), "{workers}");
    worker.stop();
    coordinator.stop();
}

struct Service {
    unit: String,
    socket: UnixDatagram,
    child: Child,
    begin: Instant,
    /// So often it was said that the start takes longer.
    extended: Cell<u32>,
}

impl Service {
    fn start(root: &Path, name: &str) -> Service {
        let unit = Unit::read(&inside(root, &format!("/usr/lib/systemd/system/{name}.service")));
        let notify = format!("{SOCKETS}/{name}");
        let socket = UnixDatagram::bind(inside(root, &notify)).unwrap();
        socket.set_read_timeout(Some(TOLD_WITHIN)).unwrap();
        fs::set_permissions(inside(root, &notify), fs::Permissions::from_mode(0o777)).unwrap();

        let (user, state) = (unit.one("User"), format!("/var/lib/{}", unit.one("StateDirectory")));
        let mode = unit.one("StateDirectoryMode");
        run(&mut chroot(root, "root", &["install", "-d", "-m", mode, "-o", user, "-g", user, &state]));
        let mut words = vec!["env".to_owned(), "-i".to_owned()];
        for fixed in ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG=C.UTF-8"] {
            words.push(fixed.to_owned());
        }
        words.push(format!("HOME={state}"));
        words.push(format!("STATE_DIRECTORY={state}"));
        words.extend(unit.all("Environment").iter().cloned());
        for file in unit.all("EnvironmentFile") {
            words.extend(assignments(&fs::read_to_string(inside(root, file)).unwrap()));
        }
        words.push(format!("NOTIFY_SOCKET={notify}"));
        words.push(unit.one("ExecStart").to_owned());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let begin = Instant::now();
        let child = Child::spawn(name, &chroot(root, user, &words), &root.with_extension("logs"));
        Service { unit: name.to_owned(), socket, child, begin, extended: Cell::new(0) }
    }

    /// The next notification begins so.
    fn says(&self, expected: &str) {
        let mut told = self.told(expected);
        // A coordinator's first start migrates.
        while told.starts_with("EXTEND_TIMEOUT_USEC=") {
            self.extended.set(self.extended.get() + 1);
            told = self.told(expected);
        }
        assert!(told.starts_with(expected), "{}.service: {told:?} where {expected:?} was due", self.unit);
        println!("{}.service, uid {}, after {:?}: {told:?}", self.unit, self.user_id(), self.begin.elapsed());
    }

    fn told(&self, expected: &str) -> String {
        let mut buffer = [0; 1024];
        let length = self.socket.recv(&mut buffer).unwrap_or_else(|error| {
            panic!("{}.service: no {expected:?} ({error})\n{}", self.unit, self.child.tail());
        });
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    fn user_id(&self) -> u32 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        let id = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert_ne!(id, 0, "{}.service runs as root", self.unit);
        id
    }

    fn stop(mut self) {
        self.child.signal(rustix::process::Signal::TERM);
        self.says("STOPPING=1\n");
        let status = self.child.wait_exit(STOP);
        assert!(status.success(), "{}.service ended with {status}\n{}", self.unit, self.child.tail());
    }
}

/// The settings of a unit, each with all its values.
struct Unit(BTreeMap<String, Vec<String>>);

impl Unit {
    fn read(path: &Path) -> Unit {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in assignments(&text) {
            let (key, value) = line.split_once('=').unwrap();
            settings.entry(key.to_owned()).or_default().push(value.to_owned());
        }
        Unit(settings)
    }

    fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    fn one(&self, key: &str) -> &str {
        match self.all(key) {
            [value] => value,
            other => panic!("{key} is there {} times", other.len()),
        }
    }
}

fn assignments(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && line.contains('='));
    lines.map(str::to_owned).collect()
}

fn chroot(root: &Path, user: &str, words: &[&str]) -> Command {
    let mut command = environment::command("chroot");
    command.arg(format!("--userspec={user}")).arg(root).args(words).current_dir("/");
    command
}

fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}
