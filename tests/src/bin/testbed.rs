//! `farm-testbed --state DIR [--cache DIR] [--keep | --memory SIZE] -- COMMAND…`: starts what farm's tests share, runs COMMAND with its
//! whereabouts in the environment, stops all in order and returns COMMAND's exit code.
//!
//! Meant for fresh network, mount and PID namespaces (tests/run.sh makes them): then the fixed ports and the bridge meet
//! nothing else, and nothing outlives the bed, however it ends. What a killed bed leaves on disk the next one sweeps.
//!
//! With `--memory` DIR is memory, of which the bed takes SIZE at most: engines, registries and tests make and remove some
//! hundred thousand files, and where that is slow it takes most of the time. After a failure logs are on the disk all the same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test harness: a panic is the report"
)]

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use farm_tests::bed::Bed;
use farm_tests::database::{Server, make_template};
use farm_tests::engine::{Engine, group_of, remove_groups, unmount_below};
use farm_tests::farm::{is_built, program};
use farm_tests::process::{Child, dying_with_parent, run};
use farm_tests::registry::{Login, Registry};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

const REGISTRY_PORT: u16 = 5002;
const AUTH_REGISTRY_PORT: u16 = 5003;
const USER: &str = "farm-test";
/// How long COMMAND may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(20);

struct Options {
    state: PathBuf,
    cache: PathBuf,
    keep: bool,
    /// As `mount` has it; `None`: the disk.
    memory: Option<String>,
    command: Vec<String>,
}

/// Fields are dropped in order, so a panic halfway still stops the engine before the registries.
struct Parts {
    engine: Engine,
    registry: Registry,
    auth_registry: Registry,
    postgres: Server,
    bed: Bed,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!(
                "farm-testbed: {message}\nusage: farm-testbed --state DIR [--cache DIR] [--keep | --memory SIZE] -- COMMAND..."
            );
            return ExitCode::from(2);
        }
    };
    assert!(rustix::process::geteuid().is_root(), "the test bed starts an engine and so needs root");
    let _lock = lock(&options.state);
    let run = Path::new("/tmp").join(group_of(&options.state));
    sweep(&options.state, &run);
    prepare(&options, &run);

    // One thread for all: what is started here dies with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begin = Instant::now();
    let parts = start(&options, &run);
    eprintln!(
        "test bed ready in {:.1} s, logs in {}",
        begin.elapsed().as_secs_f32(),
        options.state.join("logs").display()
    );
    let status = runtime.block_on(attend(&options, &parts));
    let begin = Instant::now();
    stop(parts);
    unmount_below(&run);
    let _ = fs::remove_dir_all(&run);
    if !options.keep {
        // After a failure the logs are what one wants to see; the data is never.
        let kept: &[&str] = if status.success() { &[] } else { &["logs", "tests"] };
        if options.memory.is_some() {
            bring_to_disk(&options.state, kept);
        }
        clear(&options.state, kept);
    }
    eprintln!("test bed stopped in {:.1} s", begin.elapsed().as_secs_f32());
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let (mut state, mut cache, mut keep, mut memory) = (None, None, false, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--state" => state = Some(PathBuf::from(args.next().ok_or("--state needs a folder")?)),
            "--cache" => cache = Some(PathBuf::from(args.next().ok_or("--cache needs a folder")?)),
            "--keep" => keep = true,
            "--memory" => memory = Some(args.next().ok_or("--memory needs a size")?),
            "--" => break,
            other => return Err(format!("unknown argument {other}")),
        }
    }
    let state = std::path::absolute(state.ok_or("--state is missing")?).map_err(|error| error.to_string())?;
    let command: Vec<String> = args.collect();
    if command.is_empty() {
        return Err("no COMMAND after --".to_owned());
    }
    if memory.is_some() && (keep || std::env::var_os("FARM_TEST_NAMESPACE").is_none()) {
        return Err("--memory is for namespaces of the bed's own, and what is in it can't be kept".to_owned());
    }
    let cache = cache.unwrap_or_else(|| state.with_file_name("base-images"));
    Ok(Options { cache, state, keep, memory, command })
}

/// One bed per state folder at a time; the kernel frees the lock however its holder ends.
fn lock(state: &Path) -> File {
    fs::create_dir_all(state.parent().unwrap()).unwrap();
    let file = File::create(state.with_extension("lock")).unwrap();
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        eprintln!("another test bed uses {}: waiting for its end", state.display());
        rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
    }
    file
}

/// Removes what a killed bed left. Its processes and mounts went with its namespaces; if it had none, its mounts are
/// undone here.
fn sweep(state: &Path, run: &Path) {
    for folder in [state, run, &logs_on_disk(state)] {
        unmount_below(folder);
        if folder.exists() {
            fs::remove_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        }
    }
    remove_groups(&group_of(state));
}

/// Where logs are while the bed is in memory.
fn logs_on_disk(state: &Path) -> PathBuf {
    state.with_extension("logs")
}

fn prepare(options: &Options, folder: &Path) {
    let state = &options.state;
    if let Some(size) = &options.memory {
        fs::create_dir_all(state).unwrap();
        let how = format!("mode=755,size={size}");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &how, "farm-test"]).arg(state));
        // They are wanted most where the bed comes to a bad end.
        let on_disk = logs_on_disk(state);
        fs::create_dir_all(&on_disk).unwrap();
        fs::create_dir_all(state.join("logs")).unwrap();
        run(Command::new("mount").arg("--bind").arg(&on_disk).arg(state.join("logs")));
    }
    fs::create_dir_all(state.join("logs")).unwrap();
    fs::create_dir_all(folder).unwrap();
    if std::env::var_os("FARM_TEST_NAMESPACE").is_some() {
        // Memory that goes with the mount namespace: the database's files and all sockets.
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "farm-test"]).arg(folder));
        // Fixed places where the engine's parts keep sockets and state.
        for fixed in ["/run/containerd", "/run/docker", "/run/runc"] {
            fs::create_dir_all(fixed).unwrap();
            run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=711", "farm-test", fixed]));
        }
    }
}

fn start(options: &Options, run: &Path) -> Parts {
    let state = &options.state;
    let logs = state.join("logs");
    let password = random_hex();
    let registry_address = format!("localhost:{REGISTRY_PORT}");

    // Everything that takes a while begins before anything is waited for.
    let mut engine = Engine::spawn(
        &group_of(state),
        &state.join("engine"),
        &run.join("engine"),
        &logs,
        &registry_address,
        None,
        |_| (),
    );
    let mut registry = Registry::spawn("registry", &state.join("registry"), &logs, REGISTRY_PORT, None);
    let login = Login { user: USER, password: &password };
    let mut auth_registry = Registry::spawn(
        "auth-registry",
        &state.join("auth-registry"),
        &logs,
        AUTH_REGISTRY_PORT,
        Some(login),
    );
    let init = {
        let (folder, logs) = (run.join("pg"), logs.clone());
        thread::spawn(move || Server::init(&folder, &logs))
    };
    registry.wait();
    let mut images = load_base_images(&options.cache, &registry_address, &logs);
    auth_registry.wait();
    let mut postgres = init.join().expect("the reason is above");
    postgres.start();
    // Where it isn't built, as before the first `tests/run.sh sqlx`, each test migrates for itself.
    let coordinator = is_built("farm-coordinator").then(|| program("farm-coordinator"));
    make_template(&postgres.url("postgres"), |url| {
        if let Some(mut coordinator) = coordinator {
            farm_tests::process::run(coordinator.args(["migrate", "--database-url", url]));
        }
    });
    engine.wait();
    let status = images.wait_exit(Duration::from_secs(600));
    assert!(status.success(), "loading the base images failed\n{}", images.tail());

    let bed = Bed {
        database_url: postgres.url("postgres"),
        registry: registry_address,
        auth_registry: format!("localhost:{AUTH_REGISTRY_PORT}"),
        auth_user: USER.to_owned(),
        auth_password: password,
        engine: engine.url(),
        state: state.clone(),
        run: run.to_owned(),
    };
    Parts { engine, registry, auth_registry, postgres, bed }
}

fn load_base_images(cache: &Path, registry: &str, logs: &Path) -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("deploy").join("base-images.sh");
    let mut command = Command::new(script);
    command.arg("--cache").arg(cache).args(["--registry", registry, "--only", "python"]);
    Child::spawn("base-images", &command, logs)
}

/// Runs COMMAND to its end, or to its end after a signal.
async fn attend(options: &Options, parts: &Parts) -> ExitStatus {
    let mut command = Command::new(&options.command[0]);
    // tests/run.sh has left nothing in there but what tests may see.
    command.args(&options.command[1..]).envs(std::env::vars_os()).envs(parts.bed.to_env());
    command.env("DATABASE_URL", &parts.bed.database_url); // what #[sqlx::test] reads
    command.env("DOCKER_HOST", &parts.bed.engine);
    command.env("DOCKER_CONFIG", parts.bed.state.join("docker-config"));
    let mut command = tokio::process::Command::from(dying_with_parent(&command, None));
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", options.command[0]));
    let mut interrupt = signal(SignalKind::interrupt()).unwrap();
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    tokio::select! {
        status = child.wait() => return status.unwrap(),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    // Also after Ctrl-C: a shell in the background has made COMMAND deaf to that.
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
        let _ = kill_process(pid, Signal::TERM);
    }
    eprintln!("farm-testbed: stopping");
    if let Ok(status) = tokio::time::timeout(GRACE, child.wait()).await {
        return status.unwrap();
    }
    child.start_kill().unwrap();
    child.wait().await.unwrap()
}

/// The engine first, while what it may still talk to is there.
fn stop(parts: Parts) {
    let Parts { mut engine, mut registry, mut auth_registry, mut postgres, bed: _ } = parts;
    engine.stop();
    drop(engine);
    registry.stop();
    auth_registry.stop();
    postgres.stop();
}

/// Takes what is kept out of memory, and gives the memory back.
fn bring_to_disk(state: &Path, kept: &[&str]) {
    let aside = state.with_extension("kept");
    let _ = fs::remove_dir_all(&aside);
    fs::create_dir_all(&aside).unwrap();
    for name in kept.iter().filter(|name| state.join(name).exists()) {
        run(Command::new("cp").arg("-a").arg(state.join(name)).arg(&aside));
    }
    unmount_below(state);
    fs::remove_dir_all(state).unwrap();
    fs::remove_dir_all(logs_on_disk(state)).unwrap();
    fs::rename(aside, state).unwrap();
}

/// Empties `state` but for `kept`; removes it when nothing is to be kept.
fn clear(state: &Path, kept: &[&str]) {
    unmount_below(state);
    for entry in fs::read_dir(state).unwrap().flatten() {
        if kept.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let removed = if entry.path().is_dir() {
            fs::remove_dir_all(entry.path())
        } else {
            fs::remove_file(entry.path())
        };
        removed.unwrap_or_else(|error| eprintln!("farm-testbed: {}: {error}", entry.path().display()));
    }
    if kept.is_empty() {
        let _ = fs::remove_dir(state);
    }
}

fn random_hex() -> String {
    use std::io::Read;
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
