//! The coordinator's configuration: a TOML file, and flags that override it.
//!
//! Each limit's name bears its unit. To add one: the field with its default, its line in
//! `docs/reference/coordinator.md`, and a flag only if it differs from machine to machine.

mod audit;
mod flags;
mod leadership;
mod limits;
mod registry;
mod retention;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use farm_types::Invalid;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

pub use self::audit::Audit;
pub use self::flags::{Flags, Migrate, Verb};
pub use self::leadership::Leadership;
pub use self::limits::Limits;
pub use self::registry::Registry;
pub use self::retention::Retention;

/// As long as it takes: with a year at most, sums of times stay in their range. Seconds.
const YEAR: u64 = 366 * 24 * 3600;

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
    /// Postgres; its password may stand in it.
    pub database_url: SecretString,
    /// How many connections to Postgres this process opens at most.
    pub database_connections: u32,
    /// How long a start waits for Postgres, seconds.
    pub database_wait_seconds: u64,
    /// When the schema is brought up to date.
    pub database_migrate: WhenToMigrate,
    /// The folder for all that isn't in Postgres: snapshots, sealed logs, outputs.
    pub state_dir: PathBuf,
    /// File with the local admin's token; `None`: `token` in the state folder.
    pub token_file: Option<PathBuf>,
    /// Whoever was known so lately goes on calling while the database doesn't answer, seconds.
    pub identity_grace_seconds: u64,
    /// Deadlines, sizes and counts (`[limits]`).
    pub limits: Limits,
    /// Who leads among several coordinators.
    pub leadership: Leadership,
    /// What is kept, and for how long.
    pub retention: Retention,
    /// Where the audit's heads go besides the log.
    pub audit: Audit,
    /// Registries by host and port, as in `localhost:5002`; once read in the form in which references name them.
    pub registries: BTreeMap<String, Registry>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            advertise: None,
            database_url: SecretString::default(),
            database_connections: 16,
            database_wait_seconds: 30,
            database_migrate: WhenToMigrate::Start,
            state_dir: PathBuf::from("/var/lib/farm"),
            token_file: None,
            identity_grace_seconds: 60,
            limits: Limits::default(),
            leadership: Leadership::default(),
            retention: Retention::default(),
            audit: Audit::default(),
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
        if self.database_url.expose_secret().is_empty() {
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
        in_range("identity_grace_seconds", self.identity_grace_seconds, 0, 24 * 3600)?;
        in_range("database_connections", self.database_connections.into(), 1, 1000)?;
        self.limits.check()?;
        self.leadership.check()?;
        self.retention.check()?;
        self.audit.check()?;
        for (written, registry) in std::mem::take(&mut self.registries) {
            let host = registry::host(&written)?;
            let registry = registry.with_password_read(&host)?;
            if self.registries.insert(host.clone(), registry).is_some() {
                let cure = format!("this registry stands twice, each time as {host}; keep one");
                return Err(Invalid::new("registry", written, cure));
            }
        }
        Ok(())
    }
}

/// # Errors
/// The value is less than `least`, or more than `most`.
fn in_range(name: &'static str, value: u64, least: u64, most: u64) -> Result<(), Invalid> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Invalid::new(name, value.to_string(), format!("write a number from {least} to {most}")))
}

#[cfg(test)]
mod tests;
