//! What the command line takes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use farm_core::machines::engine::PatchedEngine;
use farm_types::RepositoryPrefix;
use secrecy::SecretString;

use super::{DefaultVerify, TlsMode};
use crate::outbound::Allowed;

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
    /// Where to listen for webhooks, as 0.0.0.0:7071 [default: nowhere].
    #[arg(long, value_name = "ADDRESS", env = "FARM_HOOKS_LISTEN")]
    pub hooks_listen: Option<SocketAddr>,
    /// How forges reach that, where a proxy or another name is between: https://HOST[:PORT][/PATH], behind which /hooks/… comes
    /// [default: what it listens on].
    #[arg(long, value_name = "URL", env = "FARM_HOOKS_URL")]
    pub hooks_url: Option<String>,
    /// Where to listen for browsers, as 0.0.0.0:7072; it may be where webhooks are delivered [default: nowhere].
    #[arg(long, value_name = "ADDRESS", env = "FARM_WEB_LISTEN")]
    pub web_listen: Option<SocketAddr>,
    /// How browsers reach that: https://HOST[:PORT], behind which /b/BUILD comes [default: what it listens on].
    #[arg(long, value_name = "URL", env = "FARM_PUBLIC_URL")]
    pub public_url: Option<String>,
    /// Postgres, as postgres://USER@HOST/DB or postgres://USER@localhost/DB?host=/SOCKET/FOLDER.
    #[arg(long, global = true, value_name = "URL", env = "FARM_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<SecretString>,
    /// Folder for snapshots [default: /var/lib/farm].
    #[arg(long, value_name = "DIR", env = "FARM_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// File with the local admin's token; it is made, readable by its owner only, when it isn't there
    /// [default: STATE_DIR/token].
    #[arg(long, value_name = "FILE", env = "FARM_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// What every project may push to: REGISTRY, REGISTRY/REPO or *. May be given several times.
    #[arg(long = "shared-registry", value_name = "REGISTRY")]
    pub shared_registries: Vec<RepositoryPrefix>,
    /// What is looked at in results whose build and project don't say it: elf (whether their programs are of their platform's machine) or
    /// off [default: elf].
    #[arg(long, value_name = "WHAT", env = "FARM_DEFAULT_VERIFY")]
    pub default_verify: Option<DefaultVerify>,
    /// Where farm may send requests to registries beyond public addresses: a network (10.0.0.0/8) or a host and port
    /// (registry.internal:5000); besides those of the configuration file. May be repeated.
    #[arg(long, value_name = "WHERE", env = "FARM_OUTBOUND_ALLOW", value_delimiter = ',')]
    pub outbound_allow: Vec<Allowed>,
    /// The registry to which what untrusted machines build is pushed first, as HOST[:PORT]. It has to let in whoever has a token of
    /// the farm's; without one no untrusted worker is invited.
    #[arg(long, value_name = "REGISTRY", env = "FARM_STAGING")]
    pub staging: Option<String>,
    /// An engine that is older than machines that aren't trusted need (BuildKit 0.31.2), and has the fixes, as its distribution
    /// says: its name and whole version, as `farm workers` shows them, like "docker 28.5.2+dfsg4". May be repeated.
    #[arg(
        long = "patched-engine",
        value_name = "ENGINE",
        env = "FARM_PATCHED_ENGINES",
        value_delimiter = ','
    )]
    pub patched_engines: Vec<PatchedEngine>,
    /// TLS: on, off, or auto, which is on unless it listens on loopback, where TLS and plain HTTP are served side by side;
    /// local is the same by the farm's own CA, whatever the configuration file names. Without a certificate in the configuration file
    /// the farm makes its own CA, in STATE_DIR/tls [default: auto].
    #[arg(long, value_name = "MODE", env = "FARM_TLS")]
    pub tls: Option<TlsMode>,
    /// Go on without TLS on an address that other machines reach (with --tls off): whoever is between sees tokens,
    /// sources and registry passwords.
    #[arg(long, env = "FARM_INSECURE_PLAINTEXT", value_parser = clap::builder::FalseyValueParser::new())]
    pub insecure_plaintext: bool,
    /// Take secrets also over connections without TLS, and lend them so: whoever is between sees them.
    #[arg(long, env = "FARM_INSECURE_SECRETS", value_parser = clap::builder::FalseyValueParser::new())]
    pub insecure_secrets: bool,
    /// The farm's keys, by which secrets are sealed, in place of the file STATE_DIR/keys: by the environment only.
    #[arg(long, hide = true, value_name = "KEYS", env = "FARM_KEYS", hide_env_values = true)]
    pub keys: Option<SecretString>,
    /// PEM file with the CA of the farm's other coordinators [default: the farm's own; with a certificate in the
    /// configuration file, those that the system trusts].
    #[arg(long, value_name = "FILE", env = "FARM_CA")]
    pub ca: Option<PathBuf>,
    /// How the log is written: plain or json.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "plain", value_parser = ["plain", "json"])]
    pub log: String,
}

/// What the program does besides serving.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Verb {
    /// Bring the database's schema up to date, and end.
    Migrate(Migrate),
    /// The farm's keys, by which secrets are sealed: list them, make a new one, take an old one out.
    #[command(subcommand)]
    Keys(KeysVerb),
}

/// What `keys` does. All of it is done on a machine that has the file; coordinators that run find a new key by themselves.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum KeysVerb {
    /// Which keys there are, and how much is sealed by each.
    Ls,
    /// Make a new key, by which all that comes is sealed from now on; the coordinator that leads seals what is there anew.
    Rotate,
    /// Take a key out of the file, by which nothing is sealed any more.
    Rm {
        /// As `keys ls` shows it.
        id: String,
    },
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
