//! A farm of one test as people have it: started by `farm up`, in a folder and on ports of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use farm_tests::bed::Bed;
use farm_tests::farm::{Output, output, program};
use farm_tests::ports::free_port;
use farm_tests::process::run;
use serde_json::Value;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

/// Ends with the test, and takes its folder along.
#[derive(Debug)]
pub struct Local {
    folder: TempDir,
    pub port: u16,
    pub registry_port: u16,
}

impl Local {
    /// Nothing is started yet.
    pub fn new() -> Local {
        let folder = Bed::from_env().short_folder("local");
        // Postgres, which is another user, must pass.
        run(Command::new("chmod").arg("755").arg(folder.path()));
        Local { folder, port: free_port(), registry_port: free_port() }
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("farm")
    }

    pub fn registry(&self) -> String {
        format!("localhost:{}", self.registry_port)
    }

    /// The `farm` command in the environment that `farm up` tells people to set.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = program("farm");
        command.args(args).stdin(Stdio::null());
        command.env("FARM_LOCAL_STATE_DIR", self.state());
        command.env("FARM_URL", format!("http://127.0.0.1:{}", self.port));
        command.env("FARM_TOKEN_FILE", self.state().join("token"));
        command
    }

    pub fn farm(&self, args: &[&str]) -> Output {
        output(&mut self.command(args))
    }

    /// `farm up` with this farm's ports and these flags.
    pub fn up_command(&self, flags: &[&str]) -> Command {
        let (port, registry) = (self.port.to_string(), self.registry_port.to_string());
        let mut args = vec!["up", "--port", &port, "--registry-port", &registry];
        args.extend(flags);
        self.command(&args)
    }

    pub fn up_with(&self, flags: &[&str]) -> Output {
        output(&mut self.up_command(flags))
    }

    /// `farm up` on the bed's engine, for what the native platform takes: the least that is a farm.
    pub fn up_small(&self) -> Output {
        self.up_with(&["--engine", &Bed::from_env().engine, "--no-emulation"])
    }

    pub fn up(&self) -> String {
        let out = self.up_with(&[]);
        assert_eq!(out.status, 0, "{out:?}");
        out.stdout
    }

    pub fn status(&self) -> Value {
        let out = self.farm(&["status", "--json"]);
        assert!(matches!(out.status, 0 | 1), "{out:?}");
        serde_json::from_str(&out.stdout).unwrap()
    }

    /// The processes of the parts that run.
    pub fn pids(&self) -> BTreeMap<String, u64> {
        let status = self.status();
        let parts = status["parts"].as_array().unwrap();
        parts
            .iter()
            .filter(|part| part["state"] == "running")
            .map(|part| (part["name"].as_str().unwrap().to_owned(), part["pid"].as_u64().unwrap()))
            .collect()
    }

    /// These workers are online, all on this machine, by certificates of their own; the token is nowhere about them.
    pub fn workers_show_certificates_only(&self, names: &[&str]) {
        let listed = self.farm(&["workers", "--json"]);
        let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
        let listed: Vec<_> = listed["workers"].as_array().unwrap().iter().collect();
        assert_eq!(listed.len(), names.len(), "{listed:?}");
        let token = fs::read_to_string(self.state().join("token")).unwrap();
        let pids = self.pids();
        for (name, worker) in names.iter().zip(listed) {
            assert_eq!((worker["name"].as_str(), worker["state"].as_str()), (Some(*name), Some("online")));
            assert_eq!(worker["machine"], names[0], "{worker}");
            assert!(worker["certificate_ends"].is_string(), "{worker}");
            for file in ["environ", "cmdline"] {
                let told = fs::read(format!("/proc/{}/{file}", pids[*name])).unwrap();
                let told = String::from_utf8_lossy(&told).into_owned();
                assert!(!told.is_empty() && !told.to_lowercase().contains("token"), "{name}: {told}");
                assert!(!told.contains(token.trim()));
            }
        }
    }

    /// How often a worker has joined.
    pub fn joins(&self) -> usize {
        let audit = self.farm(&["audit", "--all", "--since", "1d", "--json"]);
        assert_eq!(audit.status, 0, "{audit:?}");
        audit.stdout.matches("worker.join").count()
    }

    pub fn supervisor(&self) -> u64 {
        self.status()["pid"].as_u64().unwrap()
    }

    /// Puts the base image that the bed has made, both platforms, into this farm's registry.
    pub fn bring_base(&self) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut push = Command::new(root.join("deploy/base-images.sh"));
        push.args(["--only", "python", "--registry", &self.registry(), "--cache"]);
        run(push.arg(root.join("target/base-images")));
    }

    /// A build context whose only step is `step`, on the base image of [`Local::bring_base`].
    pub fn context(&self, step: &str) -> TempDir {
        let context = Bed::from_env().folder("context");
        let text = format!("FROM {}/python:3.11-slim\nRUN {step}\n", self.registry());
        fs::write(context.path().join("Dockerfile"), text).unwrap();
        context
    }

    pub fn tag(&self) -> String {
        format!("{}/app:latest", self.registry())
    }

    /// The bytes of the index that the tag names.
    pub fn index(&self) -> String {
        let mut inspect = Command::new("skopeo");
        inspect.args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{}", self.tag())]);
        run(&mut inspect)
    }

    /// The control groups of what its engine has run; on a machine of its own, too, they are the kernel's.
    pub fn groups(&self) -> Vec<String> {
        let config = fs::read_to_string(self.state().join("engine/daemon.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        let name = config["cgroup-parent"].as_str().unwrap().trim_start_matches('/');
        let found = run(Command::new("find").args(["/sys/fs/cgroup", "-maxdepth", "2", "-name", name]));
        found.lines().map(str::to_owned).collect()
    }

    /// Processes that have this farm's folder among their arguments; those that only wait to be reaped have none.
    pub fn processes(&self) -> Vec<String> {
        let folder = self.state().display().to_string();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter_map(|entry| {
                let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
                let words = fs::read(entry.path().join("cmdline")).ok()?;
                let words = String::from_utf8_lossy(&words).replace('\0', " ");
                words.contains(&folder).then(|| format!("{pid} {words}"))
            })
            .collect()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in fs::read_dir(self.state().join("logs")).into_iter().flatten().flatten() {
                let text = fs::read_to_string(log.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!(
                    "--- {}\n{}",
                    log.path().display(),
                    lines[lines.len().saturating_sub(15)..].join("\n")
                );
            }
        }
        let _ = self.command(&["down"]).output();
    }
}

/// Holds back a part's program, or its end: a folder for the front of PATH with a script of that name, which waits for
/// the file `go` in it and then becomes the program.
pub fn held_back(program: &str) -> TempDir {
    let folder = Bed::from_env().short_folder("held");
    let real = run(Command::new("sh").args(["-c", &format!("command -v {program}")]));
    let here = folder.path().display();
    let text = format!(
        "#!/bin/sh\necho held back\nwhile ! test -e {here}/go; do sleep 0.05; done\nexec {} \"$@\"\n",
        real.trim()
    );
    let script = folder.path().join(program);
    fs::write(&script, text).unwrap();
    run(Command::new("chmod").arg("755").arg(folder.path()).arg(script));
    folder
}

/// The environment's PATH with this folder in front.
pub fn path_with(folder: &TempDir) -> String {
    format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap())
}

/// Asks until it holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the farm says that it is in this state.
pub fn is(local: &Local, state: &str) -> bool {
    let out = local.farm(&["status", "--json"]);
    serde_json::from_str::<Value>(&out.stdout).is_ok_and(|status| status["state"] == state)
}

pub fn kill9(pid: u64) {
    run(Command::new("kill").args(["-9", &pid.to_string()]));
}

/// Runs the calling test anew in network, mount and process namespaces of its own, which stand for a machine where
/// nobody else comes and goes. True in there; false outside, once it has passed.
pub fn on_a_machine_of_its_own(test: &str) -> bool {
    const INSIDE: &str = "FARM_TEST_OWN_MACHINE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut inner = Command::new("unshare");
    inner.args(["--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]);
    // The shell reaps what a dead supervisor leaves, as the first process of a machine does.
    inner.args(["sh", "-c", "ip link set lo up; \"$@\"; exit $?", "sh"]);
    inner.arg(std::env::current_exe().unwrap()).args([test, "--exact", "--nocapture", "--test-threads=1"]);
    let out = output(inner.env(INSIDE, "1").stdin(Stdio::null()));
    assert!(out.status == 0 && out.stdout.contains("1 passed"), "{}\n{}", out.stdout, out.stderr);
    false
}

/// What a farm could leave on a machine besides processes: mounts, links, network namespaces, packet filter rules,
/// entries of shared folders. Not the mounts of the bed's own engine: they were copied when this machine began, and go
/// whenever the engine removes what they are mounted on.
pub fn traces() -> BTreeMap<&'static str, Vec<String>> {
    let lines = |program: &str, args: &[&str]| -> Vec<String> {
        let output = Command::new(program).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(Path::new(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|e| e.path().display().to_string()).collect();
        names.sort();
        names
    };
    let bed = Bed::from_env();
    let of_the_bed = [bed.state.join("engine"), bed.run.join("engine")];
    let mut mounts = lines("findmnt", &["-rno", "TARGET,SOURCE"]);
    mounts.retain(|line| {
        !of_the_bed.iter().any(|folder| Path::new(line.split(' ').next().unwrap()).starts_with(folder))
    });
    BTreeMap::from([
        ("mounts", mounts),
        (
            "links",
            lines("ip", &["-o", "link"]).iter().map(|l| l.split(':').nth(1).unwrap().to_owned()).collect(),
        ),
        (
            "rules",
            lines("iptables-save", &[]).iter().map(|l| l.split('[').next().unwrap().to_owned()).collect(),
        ),
        ("/run", names("/run")),
        ("/run/netns", names("/run/netns")),
        ("/opt", names("/opt")),
    ])
}
