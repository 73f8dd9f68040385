//! A farm of one test: coordinator, workers and the command line, as processes, on a database of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::bed::Bed;
use crate::database::Database;
use crate::environment;
use crate::network::Network;
use crate::ports::free_port;
use crate::process::Child;

const READY: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(30);
/// Tests' registries are on loopback, at ports of their own: as an administrator would allow a network of registries. By a
/// variable, which older coordinators don't look at.
pub const ALLOW_LOOPBACK: (&str, &str) = ("FARM_OUTBOUND_ALLOW", "127.0.0.0/8,::1/128");

/// One worker's flags.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    pub name: String,
    /// `unix:///…/docker.sock`; the bed's shared engine unless set.
    pub engine: String,
    pub slots: u32,
    /// As `--platforms` has it (`linux/amd64,linux/arm64=emulated`); what the worker finds unless set.
    pub platforms: Option<String>,
    /// The only coordinator that it knows; all unless set.
    pub coordinator: Option<usize>,
    /// Where it finds the coordinator, instead of where that is.
    pub url: Option<String>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    network: Option<Arc<Network>>,
}

impl WorkerSpec {
    /// One slot on the bed's engine.
    pub fn new(name: &str) -> WorkerSpec {
        WorkerSpec {
            name: name.to_owned(),
            engine: Bed::from_env().engine,
            slots: 1,
            platforms: None,
            coordinator: None,
            url: None,
            args: Vec::new(),
            env: Vec::new(),
            network: None,
        }
    }

    /// In a network of its own.
    pub fn behind(mut self, network: &Arc<Network>) -> WorkerSpec {
        self.network = Some(network.clone());
        self
    }

    pub fn engine(mut self, url: &str) -> WorkerSpec {
        url.clone_into(&mut self.engine);
        self
    }

    pub fn slots(mut self, slots: u32) -> WorkerSpec {
        self.slots = slots;
        self
    }

    pub fn platforms(mut self, platforms: &str) -> WorkerSpec {
        self.platforms = Some(platforms.to_owned());
        self
    }

    /// Knows this coordinator only (from 0).
    pub fn coordinator(mut self, place: usize) -> WorkerSpec {
        self.coordinator = Some(place);
        self
    }

    /// Finds the coordinator there.
    pub fn by(mut self, url: &str) -> WorkerSpec {
        self.url = Some(url.to_owned());
        self
    }

    pub fn arg(mut self, arg: &str) -> WorkerSpec {
        self.args.push(arg.to_owned());
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> WorkerSpec {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }
}

#[derive(Debug, Default)]
pub struct FarmBuilder {
    database_url: Option<String>,
    config: Option<String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    workers: Vec<WorkerSpec>,
    more_coordinators: usize,
    is_guarded: bool,
    is_verifying: bool,
    tls: bool,
    ca: Option<PathBuf>,
}

impl FarmBuilder {
    /// Without the bed's network being allowed: requests go to public addresses and to what the configuration names.
    pub fn guarded(mut self) -> FarmBuilder {
        self.is_guarded = true;
        self
    }

    /// All connections with TLS, by the farm's own CA.
    pub fn tls(mut self) -> FarmBuilder {
        self.tls = true;
        self
    }

    /// All connections with TLS, by the certificate in the configuration; clients trust this CA.
    pub fn trusting(mut self, ca: &Path) -> FarmBuilder {
        self.ca = Some(ca.to_owned());
        self
    }

    /// So many coordinators on one database and one folder, instead of one.
    pub fn coordinators(mut self, count: usize) -> FarmBuilder {
        self.more_coordinators = count - 1;
        self
    }

    /// Another database than a fresh one in the bed's server.
    pub fn database_url(mut self, url: &str) -> FarmBuilder {
        self.database_url = Some(url.to_owned());
        self
    }

    /// With what is looked at in results unless it is said: tests that aren't about that don't wait for it.
    pub fn verifying(mut self) -> FarmBuilder {
        self.is_verifying = true;
        self
    }

    /// The coordinator's configuration file (TOML); flags given by the harness override it.
    pub fn config(mut self, toml: &str) -> FarmBuilder {
        self.config = Some(toml.to_owned());
        self
    }

    /// A further flag of the coordinator.
    pub fn arg(mut self, arg: &str) -> FarmBuilder {
        self.args.push(arg.to_owned());
        self
    }

    /// A variable in the coordinator's environment.
    pub fn env(mut self, key: &str, value: &str) -> FarmBuilder {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn worker(mut self, spec: WorkerSpec) -> FarmBuilder {
        self.workers.push(spec);
        self
    }

    /// Starts all and returns when all are ready.
    pub fn start(self) -> Farm {
        let bed = Bed::from_env();
        let folder = bed.test_folder().join(format!("farm-{}", free_port()));
        std::fs::create_dir_all(&folder).unwrap();
        let database = self.database_url.is_none().then(Database::create);
        let database_url = self.database_url.unwrap_or_else(|| database.as_ref().unwrap().url().to_owned());
        let ports = (0..=self.more_coordinators).map(|_| (free_port(), None)).collect();
        let mut args = vec![
            "--database-url".to_owned(),
            database_url.clone(),
            "--state-dir".to_owned(),
            text(&folder.join("coordinator")),
            "--token-file".to_owned(),
            text(&folder.join("token")),
        ];
        if let Some(config) = &self.config {
            let path = folder.join("coordinator.toml");
            std::fs::write(&path, config).unwrap();
            args.extend(["--config".to_owned(), text(&path)]);
        }
        args.extend(self.args);
        let mut env = self.env;
        if !self.is_guarded {
            env.push((ALLOW_LOOPBACK.0.to_owned(), ALLOW_LOOPBACK.1.to_owned()));
        }
        if !self.is_verifying {
            env.push(("FARM_DEFAULT_VERIFY".to_owned(), "off".to_owned()));
        }
        if self.tls {
            args.extend(["--tls".to_owned(), "on".to_owned()]);
        }
        let own_ca = self.tls.then(|| folder.join("coordinator/tls/ca.pem"));
        let mut farm = Farm {
            workers: BTreeMap::new(),
            coordinators: ports,
            coordinator_args: args,
            coordinator_env: env,
            ca: self.ca.or(own_ca),
            folder,
            database_url,
            _database: database,
        };
        // One after the other: the first makes schema and token.
        for place in 0..farm.coordinators.len() {
            farm.start_coordinator_at(place);
        }
        for spec in &self.workers {
            farm.spawn_worker(spec.clone());
        }
        for spec in &self.workers {
            farm.wait_worker(&spec.name);
        }
        farm
    }
}

/// Fields are dropped in order: workers, coordinator, then the database under them.
#[derive(Debug)]
pub struct Farm {
    workers: BTreeMap<String, (WorkerSpec, Option<Child>)>,
    /// Each with its port.
    coordinators: Vec<(u16, Option<Child>)>,
    coordinator_args: Vec<String>,
    coordinator_env: Vec<(String, String)>,
    /// Whom clients trust, where there is TLS.
    ca: Option<PathBuf>,
    folder: PathBuf,
    database_url: String,
    _database: Option<Database>,
}

/// What a run of the command line gave.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit code; 128 + N when signal N ended it.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Standard output; panics with everything when the command failed.
    pub fn ok(self) -> String {
        assert!(self.status == 0, "exit {}\nstdout:\n{}\nstderr:\n{}", self.status, self.stdout, self.stderr);
        self.stdout
    }

    /// Standard output as JSON.
    pub fn json(self) -> serde_json::Value {
        let stdout = self.ok();
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("not JSON ({error}):\n{stdout}"))
    }
}

impl Farm {
    pub fn builder() -> FarmBuilder {
        FarmBuilder::default()
    }

    pub fn url(&self) -> String {
        self.url_of(0)
    }

    /// Where a coordinator is (from 0).
    pub fn url_of(&self, place: usize) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.coordinators[place].0)
    }

    /// The port of the first coordinator.
    pub fn port(&self) -> u16 {
        self.coordinators[0].0
    }

    /// The CA that clients trust; none without TLS.
    pub fn ca_file(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// The CA that the coordinators have made for themselves, which they have on loopback, too.
    pub fn own_ca(&self) -> PathBuf {
        self.folder.join("coordinator/tls/ca.pem")
    }

    /// Where all coordinators are, with commas between them.
    pub fn urls(&self) -> String {
        (0..self.coordinators.len()).map(|place| self.url_of(place)).collect::<Vec<_>>().join(",")
    }

    pub fn token_file(&self) -> PathBuf {
        self.folder.join("token")
    }

    pub fn token(&self) -> String {
        std::fs::read_to_string(self.token_file())
            .expect("the coordinator has written its token")
            .trim()
            .to_owned()
    }

    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// Logs and state of this farm.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts the coordinator (again: same port, same state) and waits until it is ready.
    pub fn start_coordinator(&mut self) {
        self.start_coordinator_at(0);
    }

    pub fn start_coordinator_at(&mut self, place: usize) {
        let (port, running) = &mut self.coordinators[place];
        assert!(running.is_none(), "the coordinator runs already");
        let mut command = program("farm-coordinator");
        command.args(["--listen", &format!("127.0.0.1:{port}")]).args(&self.coordinator_args);
        command.envs(self.coordinator_env.iter().map(|(key, value)| (key, value)));
        let name = if place == 0 { "coordinator".to_owned() } else { format!("coordinator-{place}") };
        let mut child = Child::spawn(&name, &command, &self.folder);
        child.wait_for_line("farm-coordinator ready on ", READY);
        *running = Some(child);
    }

    /// The coordinator's process, for signals and its log.
    pub fn coordinator(&mut self) -> &mut Child {
        self.coordinator_at(0)
    }

    pub fn coordinator_at(&mut self, place: usize) -> &mut Child {
        self.coordinators[place].1.as_mut().expect("the coordinator is stopped")
    }

    pub fn kill_coordinator(&mut self) {
        self.kill_coordinator_at(0);
    }

    pub fn kill_coordinator_at(&mut self, place: usize) {
        self.coordinators[place].1.take().expect("the coordinator is stopped").kill9();
    }

    /// SIGTERM, and waits for an orderly end.
    pub fn stop_coordinator(&mut self) {
        self.stop_coordinator_at(0);
    }

    pub fn stop_coordinator_at(&mut self, place: usize) {
        self.coordinators[place].1.take().expect("the coordinator is stopped").stop_term(STOP);
    }

    /// Adds a worker and waits until it is registered.
    pub fn add_worker(&mut self, spec: WorkerSpec) {
        let name = spec.name.clone();
        self.spawn_worker(spec);
        self.wait_worker(&name);
    }

    /// Adds a worker without waiting.
    pub fn spawn_worker(&mut self, spec: WorkerSpec) {
        let name = spec.name.clone();
        assert!(
            self.workers.get(&name).is_none_or(|(_, child)| child.is_none()),
            "worker {name} runs already"
        );
        let (mut command, urls) = match &spec.network {
            None => {
                let urls = spec.coordinator.map_or_else(|| self.urls(), |place| self.url_of(place));
                (program("farm-worker"), spec.url.clone().unwrap_or(urls))
            }
            Some(network) => {
                let urls = format!("http://{}:{}", network.gateway(), self.coordinators[0].0);
                let mut command = network.command(&binary("farm-worker"));
                // That network is the test's own.
                command.env("FARM_INSECURE_HTTP", "1");
                (command, urls)
            }
        };
        command.args(["--coordinator", &urls]).arg("--token-file").arg(self.token_file());
        command.args(["--name", &name, "--engine", &spec.engine, "--slots", &spec.slots.to_string()]);
        command.arg("--state-dir").arg(self.folder.join(&name));
        if let Some(platforms) = &spec.platforms {
            command.args(["--platforms", platforms]);
        }
        if let Some(ca) = &self.ca {
            command.env("FARM_CA", ca);
        }
        command.args(&spec.args).envs(spec.env.iter().map(|(key, value)| (key, value)));
        let child = Child::spawn(&name, &command, &self.folder);
        self.workers.insert(name, (spec, Some(child)));
    }

    /// Waits until a worker says that it is registered; returns that line.
    pub fn wait_worker(&mut self, name: &str) -> String {
        self.worker(name).wait_for_line(&format!("farm-worker {name} ready: "), READY)
    }

    /// A worker's process, for signals and its log.
    pub fn worker(&mut self, name: &str) -> &mut Child {
        let worker = self.workers.get_mut(name).unwrap_or_else(|| panic!("no worker {name}"));
        worker.1.as_mut().unwrap_or_else(|| panic!("worker {name} is stopped"))
    }

    pub fn kill_worker(&mut self, name: &str) {
        self.worker(name).kill9();
        self.forget(name);
    }

    /// SIGTERM, and waits for an orderly end.
    pub fn stop_worker(&mut self, name: &str) {
        self.worker(name).stop_term(STOP);
        self.forget(name);
    }

    /// Starts a stopped worker with its flags and its state as before, and waits until it is registered.
    pub fn start_worker(&mut self, name: &str) {
        let spec = self.workers.get(name).unwrap_or_else(|| panic!("no worker {name}")).0.clone();
        self.add_worker(spec);
    }

    fn forget(&mut self, name: &str) {
        if let Some((_, child)) = self.workers.get_mut(name) {
            *child = None;
        }
    }

    /// `farm ARGS` against this farm, with a home of its own: no settings of the user's are seen.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_by(&self.url(), args)
    }

    /// `farm ARGS` by these coordinators.
    pub fn command_by(&self, urls: &str, args: &[&str]) -> Command {
        let mut command = client(urls, &self.token_file(), &self.folder, args);
        if let Some(ca) = &self.ca {
            command.env("FARM_CA", ca);
        }
        command
    }

    /// Runs `farm ARGS` to its end.
    pub fn cli(&self, args: &[&str]) -> Output {
        output(&mut self.command(args))
    }

    /// Starts `farm ARGS`; its output goes to `NAME.log`, both streams together.
    pub fn cli_spawn(&self, name: &str, args: &[&str]) -> Child {
        Child::spawn(name, &self.command(args), &self.folder)
    }
}

/// `farm ARGS` against a farm, with `home` as its home: no settings of the user's are seen.
pub fn client(url: &str, token_file: &Path, home: &Path, args: &[&str]) -> Command {
    let mut command = program("farm");
    command.args(args).env("FARM_URL", url).env("FARM_TOKEN_FILE", token_file).env("HOME", home);
    command.env_remove("DOCKER_CONFIG");
    command
}

/// Runs a command to its end without input.
pub fn output(command: &mut Command) -> Output {
    use std::os::unix::process::ExitStatusExt;
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let status = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    Output {
        status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A command of a program of this workspace; of the test's environment it gets little ([`environment`]).
pub fn program(name: &str) -> Command {
    environment::command(binary(name))
}

/// A program of this workspace, in the build that this test belongs to.
pub fn binary(name: &str) -> PathBuf {
    let path = place(name);
    assert!(path.exists(), "{} is not built: cargo build --workspace --all-targets", path.display());
    path
}

/// Whether that program is there.
pub fn is_built(name: &str) -> bool {
    place(name).exists()
}

fn place(name: &str) -> PathBuf {
    // target/debug/deps/e2e-0123 -> target/debug
    let test = std::env::current_exe().unwrap();
    let profile =
        test.parent().map(|deps| if deps.ends_with("deps") { deps.parent().unwrap() } else { deps });
    profile.unwrap().join(name)
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
