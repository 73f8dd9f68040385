//! Names that nobody else uses, contexts, farms, and looks into the registry and the engine.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use farm_tests::bed::Bed;
use farm_tests::farm::{Farm, FarmBuilder, Output, WorkerSpec, output};
use farm_tests::process::run;
use serde_json::Value;
use tempfile::TempDir;

/// An index of both architectures in the bed's registry; layers of it need not be pushed again.
pub const BASE: &str = "localhost:5002/python:3.11-slim";

/// What a single worker offers when a test is not about platforms.
pub const BOTH: &str = "linux/amd64,linux/arm64=emulated";

/// No build of these tests takes so long.
pub const LONG: Duration = Duration::from_secs(60);

/// A lost worker is noticed within seconds.
pub const QUICK_LEASES: &str = "[leadership]\nlease_seconds = 2\nrenew_milliseconds = 500\nstatement_seconds = 1\n\
                                [limits]\nheartbeat_milliseconds = 1000\nsuspect_seconds = 3\nlease_seconds = 6\nnative_grace_seconds = 3\n";

/// A few random digits of hexadecimal.
pub fn nonce() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap()[..8].to_owned()
}

/// A repository of this test in the bed's open registry.
pub fn repository(name: &str) -> String {
    format!("{}/{name}-{}", Bed::from_env().registry, nonce())
}

/// A farm with one worker, `w1`, for both architectures.
pub fn small_farm() -> Farm {
    with_worker(Farm::builder())
}

/// The same with these settings.
pub fn with_worker(builder: FarmBuilder) -> Farm {
    builder.worker(WorkerSpec::new("w1").platforms(BOTH).slots(2)).start()
}

/// A build context.
#[derive(Debug)]
pub struct Context(TempDir);

impl Context {
    pub fn empty() -> Context {
        Context(Bed::from_env().folder("context"))
    }

    pub fn new(dockerfile: &str) -> Context {
        Context::empty().file("Dockerfile", dockerfile)
    }

    /// Writes a file, with its folders.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Context {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn text(&self) -> &str {
        self.path().to_str().unwrap()
    }
}

/// `farm submit CONTEXT ARGS`.
pub fn submit(farm: &Farm, context: &Context, args: &[&str]) -> Output {
    let mut all = vec!["submit", context.text()];
    all.extend(args);
    farm.cli(&all)
}

/// The id in the first line of `farm submit`.
pub fn build_id(stdout: &str) -> String {
    let id = stdout.lines().find_map(|line| line.strip_prefix("build ")?.split(' ').next());
    id.unwrap_or_else(|| panic!("no build in:\n{stdout}")).to_owned()
}

/// `farm show --json`.
pub fn show(farm: &Farm, id: &str) -> Value {
    farm.cli(&["show", id, "--json"]).json()
}

/// How many builds the farm has taken.
pub fn builds(farm: &Farm) -> usize {
    farm.cli(&["builds", "--json"]).json()["builds"].as_array().unwrap().len()
}

/// The text holds all of these, in any order.
#[track_caller]
pub fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
}

/// A command that can't be taken: exit code, nothing on standard output, and all of these in the error's line.
#[track_caller]
pub fn refused(output: &Output, status: i32, parts: &[&str]) {
    assert_eq!(output.status, status, "{output:?}");
    assert_eq!(output.stdout, "", "{output:?}");
    assert!(output.stderr.starts_with("error: "), "{output:?}");
    says(&output.stderr, parts);
}

/// Asks until there is an answer.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < limit, "no {what} within {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a tag or digest of a registry is: its manifest or index as it is stored, or nothing.
pub fn raw(reference: &str) -> Option<String> {
    raw_as(reference, &[])
}

/// The same with further flags of skopeo.
pub fn raw_as(reference: &str, flags: &[&str]) -> Option<String> {
    let mut command = Command::new("skopeo");
    command.args(["inspect", "--raw", "--tls-verify=false"]).args(flags);
    let answer = output(command.arg(format!("docker://{reference}")));
    if answer.status == 0 {
        return Some(answer.stdout);
    }
    // "Not there" must not be confused with "can't be asked".
    says(&answer.stderr, &["unknown"]);
    None
}

/// The digest of such a text.
pub fn digest_of(text: &str) -> String {
    let mut sum = Command::new("sha256sum");
    sum.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = sum.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let sum = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    format!("sha256:{}", &sum[..64])
}

/// An index as JSON; the tag must be there.
#[track_caller]
pub fn index(reference: &str) -> Value {
    serde_json::from_str(&raw(reference).unwrap_or_else(|| panic!("{reference} is not there"))).unwrap()
}

/// The config of an image for one architecture.
pub fn config(reference: &str, architecture: &str) -> Value {
    let mut command = Command::new("skopeo");
    command.args(["inspect", "--config", "--tls-verify=false", "--override-arch", architecture]);
    serde_json::from_str(&run(command.arg(format!("docker://{reference}")))).unwrap()
}

/// What an image prints.
pub fn run_image(platform: &str, image: &str, args: &[&str]) -> String {
    let mut command = Command::new("docker");
    command.args(["--host", &Bed::from_env().engine, "run", "--rm", "--pull", "always"]);
    run(command.args(["--platform", platform, image]).args(args))
}

/// Process ids of all that run with this text in their command line.
pub fn processes_with(text: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let lines = entries.filter_map(|path| Some((fs::read(path.join("cmdline")).ok()?, path)));
    let holds = |line: &[u8]| line.windows(text.len()).any(|part| part == text.as_bytes());
    lines.filter(|(line, _)| holds(line)).map(|(_, path)| path).collect()
}
