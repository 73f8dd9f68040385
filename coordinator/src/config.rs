//! The coordinator's configuration: a TOML file, and flags that override it.
//!
//! Each limit's name bears its unit. To add one: the field with its default, its line in
//! `docs/reference/coordinator.md`, and a flag only if it differs from machine to machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farm_types::{Invalid, RegistryHost};
use serde::Deserialize;

/// What the command line takes.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "farm-coordinator",
    version,
    about = "The coordinator of a farm: takes builds, gives jobs to workers, publishes"
)]
pub struct Flags {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// Configuration file (TOML).
    #[arg(long, global = true, value_name = "FILE", env = "FARM_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where to listen for users and workers [default: 127.0.0.1:7070].
    #[arg(long, value_name = "ADDRESS", env = "FARM_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Where the farm's other coordinators reach this one, as http://HOST:PORT or https://HOST:PORT. Needed only where
    /// there are several [default: what it listens on; if that is every address, this host's name].
    #[arg(long, value_name = "URL", env = "FARM_ADVERTISE")]
    pub advertise: Option<String>,
    /// Postgres, as postgres://USER@HOST/DB or postgres://USER@localhost/DB?host=/SOCKET/FOLDER.
    #[arg(long, global = true, value_name = "URL", env = "FARM_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Folder for snapshots [default: /var/lib/farm].
    #[arg(long, value_name = "DIR", env = "FARM_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// File with the local admin's token; it is made, readable by its owner only, when it isn't there
    /// [default: STATE_DIR/token].
    #[arg(long, value_name = "FILE", env = "FARM_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// How the log is written: plain or json.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "plain", value_parser = ["plain", "json"])]
    pub log: String,
}

/// What the program does besides serving.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Verb {
    /// Bring the database's schema up to date, and end.
    Migrate(Migrate),
}

/// What `migrate` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Migrate {
    /// Only say what would run; exit code 3 when something would.
    #[arg(long)]
    pub check: bool,
    /// One migration may take so long; then it is undone.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub limit: Duration,
    /// A migration that gets no lock is tried again for so long.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub patience: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    farm_types::spec::parse_duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "write it as 90s, 10m or 2h, up to 720h".to_owned())
}

/// When migrations run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenToMigrate {
    /// At each start, if any have to.
    Start,
    /// By `farm-coordinator migrate` only.
    Manual,
}

/// The configuration in force.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the other coordinators reach this one; `None`: derived from `listen`.
    pub advertise: Option<String>,
    /// Postgres.
    pub database_url: String,
    /// Connections to Postgres.
    pub database_connections: u32,
    /// How long a start waits for Postgres, seconds.
    pub database_wait_seconds: u64,
    /// When the schema is brought up to date.
    pub database_migrate: WhenToMigrate,
    /// Folder for snapshots.
    pub state_dir: PathBuf,
    /// File with the local admin's token; `None`: `token` in the state folder.
    pub token_file: Option<PathBuf>,
    /// Numbers.
    pub limits: Limits,
    /// Who leads among several coordinators.
    pub leadership: Leadership,
    /// What is kept, and for how long.
    pub retention: Retention,
    /// Registries by host and port, as in `localhost:5002`; once read in the form in which references name them.
    pub registries: BTreeMap<String, Registry>,
}

/// The numbers that can be turned.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Workers give a sign so often, milliseconds.
    pub heartbeat_milliseconds: u64,
    /// A worker that was silent for so long gets no new job, seconds.
    pub suspect_seconds: u64,
    /// A lease ends so long after the last sign, seconds; at least three heartbeats.
    pub lease_seconds: u64,
    /// A platform counts as natively served for so long after its last native worker's sign, seconds.
    pub native_grace_seconds: u64,
    /// A job may wait for a worker for so long, seconds.
    pub queue_deadline_seconds: u64,
    /// One try of a job may take so long, seconds.
    pub attempt_deadline_seconds: u64,
    /// A try of which nothing is heard for so long is tried elsewhere, seconds.
    pub progress_deadline_seconds: u64,
    /// A publication may take so long, seconds.
    pub publish_deadline_seconds: u64,
    /// An upload session lives for so long after its last call, seconds.
    pub upload_session_seconds: u32,
    /// The longest file in a snapshot, bytes.
    pub max_file_bytes: u64,
    /// Platforms of one build.
    pub max_platforms: usize,
    /// Tags of one build.
    pub max_tags: usize,
    /// A request to a registry may take so long, seconds.
    pub registry_timeout_seconds: u64,
    /// The blob store may take so long for one step (a write of some MiB, a read of a piece), seconds.
    pub blob_timeout_seconds: u64,
    /// What the steps of one attempt may write, bytes; the rest is cut off, and the stream says so.
    pub log_bytes: u64,
    /// The longest output of one platform that is given to a client (`--output`, `--load`), bytes.
    pub output_bytes: u64,
}

/// How long a coordinator leads, and what others wait for.
///
/// The defaults outlive a database that stalls for ten seconds: the leader's place is kept, and once it is answered again it
/// goes on. Those who would rather have a new leader sooner after a crash shorten the lease.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Leadership {
    /// The place of a leader that gives no sign is kept for so long, seconds.
    pub lease_seconds: u64,
    /// The leader gives its sign, and the others look for it, so often, milliseconds.
    pub renew_milliseconds: u64,
    /// One statement of the leader's may take so long, seconds. Whoever takes over waits for what is under way.
    pub statement_seconds: u64,
}

impl Default for Leadership {
    fn default() -> Self {
        Self { lease_seconds: 15, renew_milliseconds: 1_000, statement_seconds: 10 }
    }
}

impl Leadership {
    /// `lease_seconds`.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    /// `renew_milliseconds`.
    pub fn renew(&self) -> Duration {
        Duration::from_millis(self.renew_milliseconds)
    }

    /// `statement_seconds`.
    pub fn statement(&self) -> Duration {
        Duration::from_secs(self.statement_seconds)
    }

    /// A coordinator that gave no sign for so long is away. If nobody gave one, nobody could.
    pub fn silence(&self) -> Duration {
        (self.renew() * 5).max(Duration::from_secs(5))
    }

    /// A leader that couldn't give its sign for so long decides nothing until it has: what it knows is too old.
    pub fn fresh(&self) -> Duration {
        self.silence().min(self.lease())
    }

    fn check(&self) -> Result<(), Invalid> {
        for (name, value, least, most) in [
            ("leadership.lease_seconds", self.lease_seconds, 1, 300),
            ("leadership.renew_milliseconds", self.renew_milliseconds, 100, 60_000),
            ("leadership.statement_seconds", self.statement_seconds, 1, 60),
        ] {
            if value < least || value > most {
                let cure = format!("write a number from {least} to {most}");
                return Err(Invalid::new(name, value.to_string(), cure));
            }
        }
        if self.lease_seconds * 1000 < self.renew_milliseconds * 3 {
            let cure = format!(
                "it must be at least three times renew_milliseconds, which is {}: a sign may get lost",
                self.renew_milliseconds
            );
            return Err(Invalid::new("leadership.lease_seconds", self.lease_seconds.to_string(), cure));
        }
        if self.statement_seconds >= self.lease_seconds {
            let cure = format!(
                "it must be less than lease_seconds, which is {}: whoever takes over waits for the statement, too",
                self.lease_seconds
            );
            return Err(Invalid::new(
                "leadership.statement_seconds",
                self.statement_seconds.to_string(),
                cure,
            ));
        }
        Ok(())
    }
}

/// What is kept, and for how long. Days count from a build's end or a source's last use; 0 is for ever.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Logs move from Postgres to the blobs so long after their build's end, seconds.
    pub seal_after_seconds: u64,
    /// Logs.
    pub logs_days: u64,
    /// Builds, with all that is known of them. What was published stays published.
    pub builds_days: u64,
    /// Sources.
    pub snapshots_days: u64,
    /// What was pushed to registries for builds that failed, were cancelled or superseded; hours after their end.
    pub unpublished_hours: u64,
    /// What builds made for their clients (`--output`, `--load`) and nobody has fetched; minutes after their end.
    pub outputs_minutes: u64,
    /// Workers that are gone, and that no administrator has drained.
    pub workers_days: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            seal_after_seconds: 300,
            logs_days: 30,
            builds_days: 90,
            snapshots_days: 7,
            unpublished_hours: 24,
            outputs_minutes: 60,
            workers_days: 7,
        }
    }
}

impl Retention {
    /// `logs_days`; `None`: for ever.
    pub fn logs(&self) -> Option<Duration> {
        days(self.logs_days)
    }

    /// `builds_days`; `None`: for ever.
    pub fn builds(&self) -> Option<Duration> {
        days(self.builds_days)
    }

    /// `snapshots_days`; `None`: for ever.
    pub fn snapshots(&self) -> Option<Duration> {
        days(self.snapshots_days)
    }

    /// `unpublished_hours`; `None`: for ever.
    pub fn unpublished(&self) -> Option<Duration> {
        (self.unpublished_hours > 0).then(|| Duration::from_secs(self.unpublished_hours * 3600))
    }

    /// `outputs_minutes`; `None`: for ever.
    pub fn outputs(&self) -> Option<Duration> {
        (self.outputs_minutes > 0).then(|| Duration::from_secs(self.outputs_minutes * 60))
    }

    /// `workers_days`; `None`: for ever.
    pub fn workers(&self) -> Option<Duration> {
        days(self.workers_days)
    }
}

fn days(days: u64) -> Option<Duration> {
    (days > 0).then(|| Duration::from_secs(days * 24 * 3600))
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            heartbeat_milliseconds: 5_000,
            suspect_seconds: 12,
            lease_seconds: 25,
            native_grace_seconds: 30,
            queue_deadline_seconds: 24 * 3600,
            attempt_deadline_seconds: 6 * 3600,
            progress_deadline_seconds: 15 * 60,
            publish_deadline_seconds: 3600,
            upload_session_seconds: 3600,
            max_file_bytes: 8 * 1024 * 1024 * 1024,
            max_platforms: 32,
            max_tags: 64,
            registry_timeout_seconds: 30,
            blob_timeout_seconds: 30,
            log_bytes: 64 * 1024 * 1024,
            output_bytes: 8 * 1024 * 1024 * 1024,
        }
    }
}

impl Limits {
    /// `lease_seconds`.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    /// `suspect_seconds`.
    pub fn suspect(&self) -> Duration {
        Duration::from_secs(self.suspect_seconds)
    }
}

/// How a registry is reached.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    /// User name; empty: anonymous.
    pub username: String,
    /// Password; or leave it out and name a file.
    pub password: String,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// No TLS. Registries on this machine's loopback have none unless this says `false`.
    pub plain_http: Option<bool>,
    /// File with the certificates (PEM) of the registry's own CA.
    pub ca_file: Option<PathBuf>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("username", &self.username)
            .field("password", &"…")
            .field("plain_http", &self.plain_http)
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            advertise: None,
            database_url: String::new(),
            database_connections: 16,
            database_wait_seconds: 30,
            database_migrate: WhenToMigrate::Start,
            state_dir: PathBuf::from("/var/lib/farm"),
            token_file: None,
            limits: Limits::default(),
            leadership: Leadership::default(),
            retention: Retention::default(),
            registries: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reads the file that the flags name, applies the flags, and checks all of it.
    ///
    /// # Errors
    /// The file can't be read or holds what it can't; a value is out of its range.
    pub fn load(flags: &Flags) -> Result<Self, Invalid> {
        let mut config = match &flags.config {
            Some(path) => Self::read(path)?,
            None => Self::default(),
        };
        if let Some(listen) = flags.listen {
            config.listen = listen;
        }
        if let Some(advertise) = &flags.advertise {
            config.advertise = Some(advertise.clone());
        }
        if let Some(url) = &flags.database_url {
            config.database_url.clone_from(url);
        }
        if let Some(dir) = &flags.state_dir {
            config.state_dir.clone_from(dir);
        }
        if let Some(file) = &flags.token_file {
            config.token_file = Some(file.clone());
        }
        config.check()?;
        Ok(config)
    }

    /// Where the other coordinators reach this one.
    pub fn advertised(&self) -> String {
        if let Some(advertise) = &self.advertise {
            return advertise.trim_end_matches('/').to_owned();
        }
        if !self.listen.ip().is_unspecified() {
            return format!("http://{}", self.listen);
        }
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        match name.trim() {
            "" => format!("http://localhost:{}", self.listen.port()),
            name => format!("http://{name}:{}", self.listen.port()),
        }
    }

    /// The file with the local admin's token.
    pub fn token_file(&self) -> PathBuf {
        self.token_file.clone().unwrap_or_else(|| self.state_dir.join("token"))
    }

    fn read(path: &Path) -> Result<Self, Invalid> {
        let invalid = |cure: String| Invalid::new("configuration file", path.display().to_string(), cure);
        let text = std::fs::read_to_string(path).map_err(|e| invalid(e.to_string()))?;
        toml::from_str(&text).map_err(|e| invalid(e.to_string()))
    }

    fn check(&mut self) -> Result<(), Invalid> {
        if self.database_url.is_empty() {
            return Err(Invalid::new(
                "database URL",
                "",
                "name the Postgres with --database-url or `database_url` in the configuration file, for \
                 example postgres://farm@localhost/farm",
            ));
        }
        if let Some(advertise) = &self.advertise {
            let uri: Option<http::Uri> = advertise.parse().ok();
            let is_fit = uri.is_some_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https"))
                    && matches!(uri.path(), "" | "/")
                    && uri.host().is_some_and(|host| !host.is_empty())
            });
            if !is_fit {
                let cure = "write http://HOST:PORT or https://HOST:PORT, as the farm's other coordinators reach this one";
                return Err(Invalid::new("advertise", advertise, cure));
            }
        }
        let limits = &self.limits;
        // A year is for ever here, and keeps sums of times in their range.
        const YEAR: u64 = 366 * 24 * 3600;
        for (name, value, most) in [
            ("database_connections", u64::from(self.database_connections), 1000),
            ("heartbeat_milliseconds", limits.heartbeat_milliseconds, 60_000),
            ("suspect_seconds", limits.suspect_seconds, YEAR),
            ("lease_seconds", limits.lease_seconds, YEAR),
            ("native_grace_seconds", limits.native_grace_seconds, YEAR),
            ("queue_deadline_seconds", limits.queue_deadline_seconds, YEAR),
            ("attempt_deadline_seconds", limits.attempt_deadline_seconds, YEAR),
            ("publish_deadline_seconds", limits.publish_deadline_seconds, YEAR),
            ("upload_session_seconds", limits.upload_session_seconds.into(), YEAR),
            ("registry_timeout_seconds", limits.registry_timeout_seconds, 3600),
            ("blob_timeout_seconds", limits.blob_timeout_seconds, 3600),
            ("max_platforms", u64::try_from(limits.max_platforms).unwrap_or(u64::MAX), 1000),
            ("log_bytes", limits.log_bytes, 1 << 40),
            ("output_bytes", limits.output_bytes, 1 << 50),
            ("max_tags", u64::try_from(limits.max_tags).unwrap_or(u64::MAX), 10_000),
        ] {
            if value == 0 || value > most {
                return Err(Invalid::new(
                    name,
                    value.to_string(),
                    format!("write a number from 1 to {most}"),
                ));
            }
        }
        self.leadership.check()?;
        let kept = &self.retention;
        // Days of a century; 0 has its own meaning.
        for (name, value, most) in [
            ("seal_after_seconds", kept.seal_after_seconds, YEAR),
            ("logs_days", kept.logs_days, 36_500),
            ("builds_days", kept.builds_days, 36_500),
            ("snapshots_days", kept.snapshots_days, 36_500),
            ("unpublished_hours", kept.unpublished_hours, 36_500 * 24),
            ("outputs_minutes", kept.outputs_minutes, 36_500 * 24 * 60),
            ("workers_days", kept.workers_days, 36_500),
        ] {
            if value > most {
                return Err(Invalid::new(
                    name,
                    value.to_string(),
                    format!("write a number up to {most}; days: 0 is for ever"),
                ));
            }
        }
        if limits.lease_seconds * 1000 < limits.heartbeat_milliseconds * 3 {
            return Err(Invalid::new(
                "lease_seconds",
                limits.lease_seconds.to_string(),
                "it must be at least three heartbeats",
            ));
        }
        for (written, mut registry) in std::mem::take(&mut self.registries) {
            let host =
                RegistryHost::of_login(&written).and_then(|host| host.check().map(|()| host.to_string()));
            let host = host.map_err(|_| {
                let cure = "name the host and port only, for example localhost:5002";
                Invalid::new("registry", &written, cure)
            })?;
            if let Some(file) = &registry.password_file {
                let read = std::fs::read_to_string(file).map_err(|e| {
                    Invalid::new(
                        "password file",
                        file.display().to_string(),
                        format!("{e} (registry {host})"),
                    )
                })?;
                registry.password = read.trim_end().to_owned();
            }
            if self.registries.insert(host.clone(), registry).is_some() {
                let cure = format!("this registry stands twice, each time as {host}; keep one");
                return Err(Invalid::new("registry", written, cure));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn load(text: &str, flags: &[&str]) -> Result<Config, Invalid> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("farm.toml");
        std::fs::write(&path, text).unwrap();
        let mut all = vec!["farm-coordinator", "--config", path.to_str().unwrap()];
        all.extend(flags);
        Config::load(&Flags::parse_from(all))
    }

    #[test]
    fn flags_override_the_file_and_the_rest_has_defaults() {
        let text = "database_url = 'postgres://a/b'\nlisten = '127.0.0.1:1'\n[limits]\nlease_seconds = 40\n\
                    [registries.'r:5000']\nusername = 'u'\npassword = 'p'\n";
        let config = load(text, &["--listen", "127.0.0.1:2"]).unwrap();
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.limits.lease_seconds, 40);
        assert_eq!(config.limits.suspect_seconds, 12);
        assert!(!format!("{config:?}").contains("\"p\""), "a password is printed");
    }

    #[test]
    fn others_reach_it_where_it_listens_unless_told_otherwise() {
        let advertised = |flags: &[&str]| load("database_url='x'", flags).map(|config| config.advertised());
        assert_eq!(advertised(&["--listen", "10.0.0.1:7"]).unwrap(), "http://10.0.0.1:7");
        let everywhere = advertised(&["--listen", "0.0.0.0:7"]).unwrap();
        assert!(everywhere.ends_with(":7") && !everywhere.contains("0.0.0.0"), "{everywhere}");
        assert_eq!(advertised(&["--advertise", "https://c1.example/"]).unwrap(), "https://c1.example");
        for wrong in ["c1:7070", "http://", "http://c1/path", "ftp://c1"] {
            let error = advertised(&["--advertise", wrong]).unwrap_err().to_string();
            assert!(error.contains("http://HOST:PORT") && error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn registries_are_kept_as_references_name_them() {
        for (written, kept) in [
            ("LOCALHOST:5002", "localhost:5002"),
            ("[FD00::7]:5000", "[fd00::7]:5000"),
            ("index.docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
        ] {
            let config =
                load(&format!("database_url='x'\n[registries.'{written}']\nusername='u'"), &[]).unwrap();
            assert_eq!(config.registries[kept].username, "u", "{written}");
        }
    }

    #[test]
    fn mistakes_name_the_thing_and_the_cure() {
        assert!(load("", &[]).unwrap_err().to_string().contains("--database-url"));
        let registry = |key: &str| load(&format!("database_url='x'\n[registries.'{key}']"), &[]);
        for wrong in ["r.example/app", "https://r.example", "localhost:99999"] {
            let error = registry(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains("host and port only"), "{error}");
        }
        let twice = "database_url='x'\n[registries.'R.example']\n[registries.'r.example']";
        assert!(load(twice, &[]).unwrap_err().to_string().contains("stands twice"));
        let error = load("database_url='x'\nlisten_adress='y'", &[]).unwrap_err().to_string();
        assert!(error.contains("listen_adress"), "{error}");
        let error = load("database_url='x'\n[limits]\nlease_seconds=5", &[]).unwrap_err().to_string();
        assert!(error.contains("three heartbeats"), "{error}");
        let error = load("database_url='x'\ndatabase_connections=0", &[]).unwrap_err().to_string();
        assert!(error.contains("from 1 to 1000"), "{error}");
        let error = load("database_url='x'\n[retention]\nlogs_days=40000", &[]).unwrap_err().to_string();
        assert!(error.contains("logs_days") && error.contains("0 is for ever"), "{error}");
        for (wrong, cure) in [
            ("lease_seconds=0", "from 1 to 300"),
            ("renew_milliseconds=50", "from 100 to 60000"),
            ("renew_milliseconds=6000", "at least three times renew_milliseconds, which is 6000"),
            ("lease_seconds=8", "less than lease_seconds, which is 8"),
        ] {
            let error =
                load(&format!("database_url='x'\n[leadership]\n{wrong}"), &[]).unwrap_err().to_string();
            assert!(error.contains("leadership.") && error.contains(cure), "{error}");
        }
        let for_ever =
            load("database_url='x'\n[retention]\nlogs_days=0\nbuilds_days=0\nsnapshots_days=0", &[]);
        assert_eq!(for_ever.unwrap().retention.logs(), None);
        let text = "database_url='x'\n[limits]\nqueue_deadline_seconds=9223372036854775807";
        assert!(load(text, &[]).unwrap_err().to_string().contains("queue_deadline_seconds"));
    }
}
