//! Postgres for tests: the system's binaries, a Unix socket only, nothing flushed to the disk.
//!
//! A test takes a [`Database`] of its own in the bed's shared server, a copy of one that is migrated already; one that
//! stops or kills the server takes a [`PrivatePostgres`].

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::bed::Bed;
use crate::process::{Child, RunAs, dying_with_parent, run};
use crate::sql;

const OLDEST: u32 = 15;
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(20);

/// A server with its data below one folder, which must be short (socket paths end at 107 bytes) and reachable for the
/// user `postgres` when tests run as root.
#[derive(Debug)]
pub struct Server {
    bin: PathBuf,
    folder: PathBuf,
    logs: PathBuf,
    user: Option<RunAs>,
    settings: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Makes a new cluster in `folder` and does not start it. Takes about a second.
    pub fn init(folder: &Path, logs: &Path) -> Server {
        let bin = find_binaries();
        let user = rustix::process::geteuid().is_root().then(postgres_user);
        fs::create_dir_all(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        if let Some(user) = user {
            chown(folder, Some(user.uid), Some(user.gid)).unwrap();
        }
        let mut initdb = Command::new(bin.join("initdb"));
        initdb.arg("-D").arg(folder.join("data"));
        initdb.args(["-U", "farm", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]);
        initdb.args(["--no-sync", "--no-instructions"]).current_dir("/");
        run(&mut dying_with_parent(&initdb, user));
        Server {
            bin,
            folder: folder.to_owned(),
            logs: logs.to_owned(),
            user,
            settings: Vec::new(),
            child: None,
        }
    }

    /// Settings from its next start on, as `-c` has them; they come after the harness's own, and so override them.
    pub fn set(&mut self, settings: &[&str]) {
        self.settings.extend(settings.iter().map(|setting| (*setting).to_owned()));
    }

    /// Starts it and returns when it answers. After [`Server::kill9`] its old children may hold the shared memory for
    /// a moment, so a start that fails is tried again.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "postgres runs already");
        let mut command = Command::new(self.bin.join("postgres"));
        command.arg("-D").arg(self.folder.join("data")).current_dir("/");
        for setting in [
            "listen_addresses=",
            &format!("unix_socket_directories={}", self.folder.display()),
            // The machine will not lose power during a test; but what was committed survives a crash of the server.
            "fsync=off",
            "full_page_writes=off",
            "max_connections=300",
            "max_wal_size=256MB",
            "shared_buffers=64MB",
            "log_min_duration_statement=1000",
        ] {
            command.args(["-c", setting]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let begin = std::time::Instant::now();
        loop {
            let mut child = Child::spawn_as("postgres", &command, &self.logs, self.user);
            let ready = loop {
                if !child.is_running() {
                    break false;
                }
                if self.answers() {
                    break true;
                }
                std::thread::sleep(Duration::from_millis(20));
                assert!(begin.elapsed() < START, "postgres does not answer\n{}", child.tail());
            };
            if ready {
                self.child = Some(child);
                return;
            }
            assert!(begin.elapsed() < START, "postgres does not start\n{}", child.tail());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn answers(&self) -> bool {
        let mut ready = Command::new(self.bin.join("pg_isready"));
        ready.arg("-q").arg("-h").arg(&self.folder).args(["-U", "farm", "-d", "postgres"]);
        ready.status().is_ok_and(|status| status.success())
    }

    /// A fast stop: sessions are rolled back and told.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.stop_with(Signal::INT, STOP);
        }
    }

    /// Asks it to end and doesn't wait: TERM (smart), INT (fast) or QUIT (immediate).
    pub fn ask_to_end(&mut self, signal: Signal) {
        if let Some(child) = &mut self.child {
            child.signal(signal);
        }
    }

    /// A crash of the postmaster.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill9();
        }
    }

    /// The process, for pausing it.
    pub fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("postgres is stopped")
    }

    pub fn url(&self, database: &str) -> String {
        let host = self.folder.to_str().unwrap().replace('%', "%25").replace('/', "%2F").replace(' ', "%20");
        format!("postgres://farm@localhost/{database}?host={host}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.cont();
            child.signal(Signal::INT);
        }
        if let Some(mut child) = self.child.take() {
            // SIGKILL would leave its children and its shared memory behind.
            for _ in 0..500 {
                if !child.is_running() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// The database of which those of tests are copies: to migrate each anew costs half of a test's start.
const TEMPLATE: &str = "farm_template";

/// Makes what databases of tests are copied from, in the bed's server at `maintenance`; `migrate` is given its URL.
pub fn make_template(maintenance: &str, migrate: impl FnOnce(&str)) {
    psql(maintenance, &format!("CREATE DATABASE {TEMPLATE} STRATEGY wal_log"));
    migrate(&sibling(maintenance, TEMPLATE));
}

/// The URL of another database of the same server.
fn sibling(url: &str, name: &str) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let server = base.rsplit_once('/').expect("a database URL has a path").0;
    format!("{server}/{name}?{query}")
}

/// A database of one test in the bed's server, dropped when the test is over.
#[derive(Debug)]
pub struct Database {
    url: String,
    name: String,
    maintenance: String,
}

impl Database {
    /// With the schema of this farm.
    pub fn create() -> Database {
        Database::make(&Bed::from_env().database_url, &format!("TEMPLATE {TEMPLATE}"))
    }

    /// With nothing in it.
    pub fn empty() -> Database {
        Database::empty_in(&Bed::from_env().database_url)
    }

    /// The same in the server that `maintenance`, a URL of any of its databases, leads to.
    pub fn empty_in(maintenance: &str) -> Database {
        Database::make(maintenance, "")
    }

    fn make(maintenance: &str, template: &str) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // One process per test: its number and a counter are unique within the bed's PID namespace.
        let name = format!("t{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let url = sibling(maintenance, &name);
        let database = Database { url, name, maintenance: maintenance.to_owned() };
        // The file copy strategy costs a checkpoint each; the log is quicker for a small template.
        ask(maintenance, &format!("CREATE DATABASE {} {template} STRATEGY wal_log", database.name));
        database
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs SQL and returns its rows, one a line, columns separated by `|`.
    pub fn psql(&self, sql: &str) -> String {
        ask(&self.url, sql)
    }

    /// Runs files of SQL, which may hold data for COPY.
    pub fn psql_files(&self, paths: &[PathBuf]) {
        let mut command = Command::new(psql_program());
        command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.url]);
        for path in paths {
            command.arg("-f").arg(path);
        }
        run(&mut command);
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        sql::close(&self.url);
        // The server may be down on purpose, and then the database goes with it.
        let _ = sql::ask(&self.maintenance, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
    }
}

/// A server of one test, in a folder of its own.
#[derive(Debug)]
pub struct PrivatePostgres {
    server: Server,
    _folder: TempDir,
}

impl PrivatePostgres {
    pub fn start() -> PrivatePostgres {
        let bed = Bed::from_env();
        let folder = bed.short_folder("pg");
        let mut server = Server::init(folder.path(), &bed.test_folder().join("private"));
        server.start();
        PrivatePostgres { server, _folder: folder }
    }

    /// The URL of its only database.
    pub fn url(&self) -> String {
        self.server.url("postgres")
    }
}

impl std::ops::Deref for PrivatePostgres {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.server
    }
}

impl std::ops::DerefMut for PrivatePostgres {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

/// Runs SQL at `url`; panics with the server's answer when it fails.
pub fn psql(url: &str, sql: &str) -> String {
    if is_shared(url) { ask(url, sql) } else { run(&mut psql_command(url, sql)).trim_end().to_owned() }
}

/// Whether it is a database of the bed's server, which no test stops: connections to it may stay.
fn is_shared(url: &str) -> bool {
    let server = |url: &str| url.split_once("?host=").map(|(_, host)| host.to_owned());
    std::env::var("FARM_TEST_DATABASE_URL").is_ok_and(|own| server(&own) == server(url))
}

fn ask(url: &str, sql: &str) -> String {
    sql::ask(url, sql).unwrap_or_else(|error| panic!("{url}: {error}\n{sql}"))
}

/// The same, or nothing when it fails.
pub fn try_psql(url: &str, sql: &str) -> Option<String> {
    let output = psql_command(url, sql).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

fn psql_command(url: &str, sql: &str) -> Command {
    let mut command = Command::new(psql_program());
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]);
    command
}

/// All that the database at `url` holds, as pg_dump writes it for whoever keeps copies.
pub fn dump(url: &str) -> Vec<u8> {
    let mut command = Command::new(find_binaries().join("pg_dump"));
    let output = command.args(["-d", url]).output().unwrap();
    assert!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The program itself: what Debian has in PATH is a script that looks for it, and takes five times as long.
pub fn psql_program() -> PathBuf {
    find_binaries().join("psql")
}

/// The newest server below Debian's folder that is new enough; `initdb` is not in PATH there.
fn find_binaries() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(version, bin)| *version >= OLDEST && bin.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().map_or_else(|| panic!("no Postgres {OLDEST} or newer: run tests/run.sh"), |(_, bin)| bin)
}

/// Postgres refuses to run as root; the package brings a user for it.
fn postgres_user() -> RunAs {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let ids = passwd.lines().find_map(|line| {
        let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
        Some(RunAs { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    });
    ids.unwrap_or_else(|| {
        // Another system's name for it: whoever owns its home will do.
        let owner = fs::metadata("/var/lib/postgresql").expect("no user postgres; is Postgres installed?");
        RunAs { uid: owner.uid(), gid: owner.gid() }
    })
}
