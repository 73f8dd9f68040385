//! The coordinator's configuration: a TOML file, and flags that override it.
//!
//! Each limit's name bears its unit. To add one: the field with its default, its line in
//! `docs/reference/coordinator.md`, and a flag only if it differs from machine to machine.

mod audit;
mod flags;
mod helper;
mod hooks;
mod keys;
mod leadership;
mod limits;
mod mail;
mod outbound;
mod registry;
mod retention;
mod staging;
mod tls;
mod web;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use farm_core::machines::engine::PatchedEngines;
use farm_types::spec::Verify;
use farm_types::{Invalid, RepositoryPrefix};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

pub use self::audit::Audit;
use crate::outbound::{Allowed, Rules, place, proxies};
use crate::people::oidc::Settings;
use crate::people::sign_in::settings::Settings as SignIn;

pub use self::flags::{Flags, KeysVerb, Migrate, Verb};
pub use self::helper::{CredentialHelper, HelperProtocol};
pub use self::hooks::Hooks;
pub use self::keys::Keys;
pub use self::leadership::Leadership;
pub use self::limits::Limits;
pub use self::mail::{Mail, MailTls};
pub use self::outbound::Outbound;
pub use self::registry::Registry;
pub use self::retention::Retention;
pub use self::staging::Staging;
pub use self::tls::{Tls, TlsMode};
pub use self::web::Web;

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

/// What is looked at in results before they count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DefaultVerify {
    /// Whether their programs are of their platform's machine.
    #[default]
    Elf,
    /// Nothing.
    Off,
}

impl From<DefaultVerify> for Verify {
    fn from(what: DefaultVerify) -> Self {
        match what {
            DefaultVerify::Elf => Self::Elf { except: Vec::new() },
            DefaultVerify::Off => Self::Off,
        }
    }
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
    /// How many connections to Postgres this process opens at most for calls; leadership and the leader's loops have their own.
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
    /// What every project may push to: REGISTRY, REGISTRY/REPO or `*`.
    #[serde(deserialize_with = "prefixes")]
    pub shared_registries: Vec<RepositoryPrefix>,
    /// What is looked at in results whose build and project don't say it.
    pub default_verify: DefaultVerify,
    /// Callers who show a token of another system.
    pub oidc: Settings,
    /// The issuer at which people sign in; `None`: nobody does.
    pub sign_in: Option<SignIn>,
    /// Deadlines, sizes and counts (`[limits]`).
    pub limits: Limits,
    /// Who leads among several coordinators.
    pub leadership: Leadership,
    /// What is kept, and for how long.
    pub retention: Retention,
    /// Where forges deliver.
    pub hooks: Hooks,
    /// Where pages are shown.
    pub web: Web,
    /// The server by which notices are mailed; `None`: none are.
    pub mail: Option<Mail>,
    /// Certificates, and whether there is TLS at all.
    pub tls: Tls,
    /// The farm's keys.
    pub keys: Keys,
    /// Keys that stand in the environment, in place of a file.
    #[serde(skip)]
    pub keys_text: Option<SecretString>,
    /// Somebody has said that secrets may come and go without TLS.
    pub insecure_secrets: bool,
    /// Where the audit's heads go besides the log.
    pub audit: Audit,
    /// Registries by host and port, as in `localhost:5002`; once read in the form in which references name them.
    pub registries: BTreeMap<String, Registry>,
    /// The registry to which what untrusted machines build is pushed first.
    pub staging: Staging,
    /// Programs that give short-lived logins at registries, by their names.
    pub credential_helpers: BTreeMap<String, CredentialHelper>,
    /// Where else requests may go than to public addresses.
    pub outbound: Outbound,
    /// Engines older than what machines that aren't trusted need, that have its fixes all the same.
    pub patched_engines: PatchedEngines,
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
            shared_registries: Vec::new(),
            default_verify: DefaultVerify::default(),
            oidc: Settings::default(),
            sign_in: None,
            limits: Limits::default(),
            leadership: Leadership::default(),
            retention: Retention::default(),
            hooks: Hooks::default(),
            web: Web::default(),
            mail: None,
            tls: Tls::default(),
            keys: Keys::default(),
            keys_text: None,
            insecure_secrets: false,
            audit: Audit::default(),
            registries: BTreeMap::new(),
            staging: Staging::default(),
            credential_helpers: BTreeMap::new(),
            outbound: Outbound::default(),
            patched_engines: PatchedEngines::default(),
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
        if let Some(listen) = flags.hooks_listen {
            config.hooks.listen = Some(listen);
        }
        if let Some(url) = &flags.hooks_url {
            config.hooks.url = Some(url.clone());
        }
        if let Some(listen) = flags.web_listen {
            config.web.listen = Some(listen);
        }
        if let Some(url) = &flags.public_url {
            config.web.public_url = Some(url.clone());
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
        config.shared_registries.extend(flags.shared_registries.iter().cloned());
        config.default_verify = flags.default_verify.unwrap_or(config.default_verify);
        config.outbound.allow.extend(flags.outbound_allow.iter().cloned());
        if let Some(registry) = &flags.staging {
            config.staging.registry = Some(registry.clone());
        }
        config.patched_engines.extend(flags.patched_engines.iter().cloned());
        if let Some(mode) = flags.tls {
            config.tls.mode = mode;
        }
        if config.tls.mode == TlsMode::Local {
            (config.tls.certificate, config.tls.key) = (None, None);
        }
        config.tls.insecure_plaintext |= flags.insecure_plaintext;
        config.insecure_secrets |= flags.insecure_secrets;
        config.keys_text = flags.keys.clone().filter(|keys| !keys.expose_secret().is_empty());
        // `FARM_CA=` is as good as none.
        if let Some(file) = flags.ca.as_ref().filter(|file| !file.as_os_str().is_empty()) {
            config.tls.ca = Some(file.clone());
        }
        config.check()?;
        Ok(config)
    }

    /// Where the other coordinators reach this one. A coordinator that speaks TLS is reached by https, whatever was written.
    pub fn advertised(&self) -> String {
        let scheme = if self.speaks_tls() { "https" } else { "http" };
        if let Some(advertise) = &self.advertise {
            let advertise = advertise.trim_end_matches('/');
            return match advertise.strip_prefix("http://") {
                Some(place) => format!("{scheme}://{place}"),
                None => advertise.to_owned(),
            };
        }
        if !self.listen.ip().is_unspecified() {
            return format!("{scheme}://{}", self.listen);
        }
        let name = host_name().unwrap_or_else(|| "localhost".to_owned());
        format!("{scheme}://{name}:{}", self.listen.port())
    }

    /// Whether there are connections with TLS at all; where nobody but this machine reaches the address there are others beside.
    pub fn offers_tls(&self) -> bool {
        self.tls.mode != TlsMode::Off
    }

    /// Whether all connections are encrypted.
    pub fn speaks_tls(&self) -> bool {
        self.tls.is_on(self.listen.ip())
    }

    /// The names by which a certificate of the farm's own CA lets this coordinator be called.
    pub fn names(&self) -> Vec<String> {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let advertised: Option<http::Uri> = self.advertised().parse().ok();
        let advertised = advertised
            .as_ref()
            .and_then(http::Uri::host)
            .map(|host| host.trim_matches(['[', ']']).to_owned());
        let listens = Some(self.listen.ip()).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
        let others = [&self.hooks.url, &self.web.public_url].into_iter().flatten();
        let others = others.filter_map(|url| {
            let uri: http::Uri = url.parse().ok()?;
            uri.host().map(|host| host.trim_matches(['[', ']']).to_owned())
        });
        let advertised = advertised.into_iter().chain(others);
        let more =
            host_name().into_iter().chain(advertised).chain(listens).chain(self.tls.names.iter().cloned());
        for name in more {
            // What is no name a certificate could bear (a host may be called anything) is left out.
            if tls::is_name(&name) && !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Whether who delivers to hooks has to speak TLS.
    pub fn hooks_speak_tls(&self) -> bool {
        self.hooks.listen.is_some_and(|listen| self.tls.is_on(listen.ip()))
    }

    /// The beginning of hooks' URLs, without a `/` at its end; `None`: nothing says where forges reach this farm.
    pub fn hooks_url(&self) -> Option<String> {
        if let Some(url) = &self.hooks.url {
            return Some(url.trim_end_matches('/').to_owned());
        }
        let listen = self.hooks.listen?;
        let scheme = if self.hooks_speak_tls() { "https" } else { "http" };
        if !listen.ip().is_unspecified() {
            return Some(format!("{scheme}://{listen}"));
        }
        let advertised: Option<http::Uri> = self.advertised().parse().ok();
        let host = advertised.as_ref().and_then(http::Uri::host).unwrap_or("localhost");
        Some(format!("{scheme}://{host}:{}", listen.port()))
    }

    /// Where people find a build's page, by its project and short id; `None`: nobody has said it.
    pub fn build_url(&self, project: &str, short_id: &str) -> Option<String> {
        self.web.build(project, short_id)
    }

    /// Whether browsers have to speak TLS.
    pub fn web_speaks_tls(&self) -> bool {
        self.web.listen.is_some_and(|listen| self.tls.is_on(listen.ip()))
    }

    /// The issuer at which people sign in; `None`: nobody does.
    pub fn issuer(&self) -> Option<&str> {
        self.sign_in.as_ref().map(|sign_in| sign_in.issuer.as_str())
    }

    /// Whom tokens of other systems have to be made for, unless a trust says something else.
    pub fn audience(&self) -> String {
        self.oidc.audience.clone().unwrap_or_else(|| self.advertised())
    }

    /// The file with the local admin's token.
    pub fn token_file(&self) -> PathBuf {
        self.token_file.clone().unwrap_or_else(|| self.state_dir.join("token"))
    }

    /// The file with the farm's keys; `None`: they stand in the environment.
    pub fn keys_file(&self) -> Option<PathBuf> {
        let file = || self.keys.file.clone().unwrap_or_else(|| self.state_dir.join("keys"));
        self.keys_text.is_none().then(file)
    }

    /// The folder with the key by which tokens of the staging registry are signed.
    pub fn staging_folder(&self) -> PathBuf {
        self.staging.folder.clone().unwrap_or_else(|| self.state_dir.join("staging"))
    }

    /// Where requests may go: to public addresses, what `[outbound]` allows, and the registries and issuers that are named.
    pub fn rules(&self) -> Rules {
        let named = self.registries.keys().filter_map(|host| host.parse().ok().map(Allowed::Place));
        let company = self.sign_in.iter().map(|sign_in| &sign_in.issuer);
        let issuers = self.oidc.issuers.keys().chain(company).filter_map(|issuer| issuer.parse().ok());
        let issuers = issuers.filter_map(|issuer| place(&issuer).parse().ok().map(Allowed::Place));
        Rules::new(self.outbound.allow.iter().cloned().chain(named).chain(issuers), proxies())
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
        self.tls.check(self.listen)?;
        self.hooks.check(self.listen)?;
        self.web.check(self.listen)?;
        if let Some(mail) = &mut self.mail {
            mail.complete()?;
        }
        for listen in [self.hooks.listen, self.web.listen].into_iter().flatten() {
            self.tls.check(listen)?;
        }
        self.audit.check()?;
        if let Some(sign_in) = &mut self.sign_in {
            sign_in.complete()?;
        }
        for (written, registry) in std::mem::take(&mut self.registries) {
            let host = registry::host(&written)?;
            let registry = registry.with_password_read(&host)?;
            if self.registries.insert(host.clone(), registry).is_some() {
                let cure = format!("this registry stands twice, each time as {host}; keep one");
                return Err(Invalid::new("registry", written, cure));
            }
        }
        for (name, helper) in &mut self.credential_helpers {
            helper.check(name)?;
        }
        self.staging.complete()?;
        if let Some(host) = &self.staging.registry {
            // So that requests may go there, wherever it is.
            self.registries.entry(host.clone()).or_default();
        }
        Ok(())
    }
}

fn prefixes<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<RepositoryPrefix>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

/// What this machine is called.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
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
