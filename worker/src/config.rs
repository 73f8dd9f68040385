//! What a worker is told when it starts: flags, each with an environment variable as its fallback.
//!
//! A flag's text becomes a checked value here, once; a wrong one is answered with the thing, the value and
//! the cure, and exit code 2. To add a flag: a field of [`Flags`], one of [`Config`], and its line in
//! [`Flags::into_config`].

mod values;

use std::ffi::OsString;
use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use farm_client::{Bearer, BearerError, Identity, Plaintext, Security, Trust};
use farm_types::{Entitlement, Entitlements, Invalid, Support};

use crate::buildkit::{EngineAddress, Place};
use crate::disk::Room;
use crate::joined::files::{Joined, Pair};
use crate::link::Coordinators;
use crate::platforms::Choice;

pub(crate) use self::values::WorkerName;
use self::values::{Places, Size, Slots, ToldPlatforms, places, span};

/// Builds what a farm's coordinator hands out, on the engine of this machine. Which farm that is, and what the worker is in it,
/// stands in its state folder since `farm-worker join`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Where the coordinator is: https://HOST:PORT. Of a farm that has several, all of them with commas between them: the
    /// worker holds on to one, and moves when that one fails [default: as it was when the worker joined].
    #[arg(long, env = "FARM_WORKER_COORDINATOR", value_name = "URL[,URL...]")]
    coordinator: Option<Coordinators>,

    /// For a worker that hasn't joined: a file that holds the farm's own token, and nothing else. Without it, the
    /// environment variable FARM_TOKEN is the token itself.
    #[arg(long, env = "FARM_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// A PEM file with the farm's CA, which its coordinators print the place of when they start; no other CA counts
    /// then [default: as it was when the worker joined; else those that the system trusts].
    #[arg(long, env = "FARM_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Send the token over http:// to other machines, too. Whoever is between sees it, and can be a worker with it.
    #[arg(long, env = "FARM_INSECURE_HTTP", value_parser = clap::builder::FalseyValueParser::new())]
    insecure_http: bool,

    /// The name that people see and that no other worker of the farm may have [default: that of its certificate; of a worker
    /// that hasn't joined the host's name].
    #[arg(long, env = "FARM_WORKER_NAME", value_name = "NAME")]
    name: Option<WorkerName>,

    /// The engine to build with: unix:///PATH (a Docker engine or a buildkitd) or tcp://HOST:PORT.
    #[arg(
        long,
        env = "FARM_WORKER_ENGINE",
        value_name = "ADDRESS",
        default_value = "unix:///var/run/docker.sock"
    )]
    engine: EngineAddress,

    /// Where the worker keeps its certificate, source files, and results that are not delivered yet; no two workers share it
    /// [default: $STATE_DIRECTORY, else $XDG_STATE_HOME/farm/worker-NAME or ~/.local/state/farm/worker-NAME].
    #[arg(long, env = "FARM_WORKER_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// How many jobs run at once [default: the number of CPUs].
    #[arg(long, env = "FARM_WORKER_SLOTS", value_name = "N")]
    slots: Option<Slots>,

    /// The platforms to offer, told instead of found and proven, for example
    /// linux/amd64,linux/arm64=emulated. Without =emulated a platform is native.
    #[arg(long, env = "FARM_WORKER_PLATFORMS", value_name = "LIST")]
    platforms: Option<ToldPlatforms>,

    /// Of the platforms that are found, offer only those that run natively, or only those that are emulated.
    /// So two workers can share an engine and its slots.
    #[arg(long, env = "FARM_WORKER_ONLY", value_name = "native|emulated", conflicts_with = "platforms")]
    only: Option<Support>,

    /// What builds of this worker may be given, if they ask for it and their project may: network.host, security.insecure, or
    /// both with a comma. The engine must give it, too. With the first a step reaches whatever the engine's machine reaches, its
    /// loopback included; with the second it is root there [default: nothing].
    #[arg(long, env = "FARM_WORKER_ALLOW", value_name = "LIST", value_parser = Entitlement::list, default_value = "", hide_default_value = true)]
    allow: Entitlements,

    /// From where the engine may fetch what builds name (FROM, ADD) though it is closed else: loopback, link-local addresses and the
    /// farm's own hosts; on a machine that isn't trusted private networks, too. A host, with its port if it's to be that one only,
    /// or a network: 127.0.0.1:8080, git.internal, 10.0.0.0/8. Several with commas [default: nothing].
    #[arg(long, env = "FARM_WORKER_FETCH_FROM", value_name = "LIST", value_parser = places, default_value = "", hide_default_value = true)]
    fetch_from: Places,

    /// Say that builds on this engine reach no metadata service (169.254.169.254), no coordinator and none of your other machines, as
    /// you have fenced it off. A worker on a machine that isn't trusted gets nothing without it.
    #[arg(long, env = "FARM_WORKER_FENCED_ENGINE", value_parser = clap::builder::FalseyValueParser::new())]
    fenced_engine: bool,

    /// How much disk the source files may take: bytes, or a number with kB, MB, GB, TB, KiB, MiB, GiB, TiB.
    /// What running jobs use is kept beyond it.
    #[arg(long, env = "FARM_WORKER_CACHE_BYTES", value_name = "SIZE", default_value = "10GiB")]
    cache_bytes: Size,

    /// With less free on the disk of the engine, or of the state folder, what is kept of former builds is dropped: the
    /// engine's build cache, the least lately used first, and source files. Bytes, or a number with a unit.
    #[arg(long, env = "FARM_WORKER_PRUNE_BELOW", value_name = "SIZE", default_value = "5GiB")]
    prune_below: Size,

    /// With less free there, no job is taken until there is more.
    #[arg(long, env = "FARM_WORKER_MIN_FREE", value_name = "SIZE", default_value = "1GiB")]
    min_free: Size,

    /// The folder in which the engine keeps everything, whose disk is watched [default: what a Docker engine on a
    /// socket says, if that folder is on this machine].
    #[arg(long, env = "FARM_WORKER_ENGINE_ROOT", value_name = "DIR")]
    engine_root: Option<PathBuf>,

    /// How long what runs may still take after the first signal, as 90s, 10m or 2h; then it is given back, and another
    /// worker runs it, which is no failed try of it. For machines that are taken away [default: to its end].
    #[arg(long, env = "FARM_WORKER_RELEASE_AFTER", value_name = "DURATION", value_parser = span)]
    release_after: Option<Duration>,

    /// How log lines on stderr look. RUST_LOG says which ones there are [default there: info].
    #[arg(long, env = "FARM_WORKER_LOG", value_name = "FORMAT", default_value = "plain")]
    log: LogFormat,
}

/// A worker's settings, checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub coordinators: Coordinators,
    /// What a connection has to be before the token goes over it.
    pub security: Security,
    /// By what the worker shows who it is.
    pub shows: Shows,
    /// The worker's name.
    pub name: String,
    pub engine: EngineAddress,
    /// The folder that is the worker's own.
    pub state_dir: PathBuf,
    /// How many attempts run at once; at least 1.
    pub slots: usize,
    /// Which platforms the flags allow to offer.
    pub platforms: Choice,
    /// Which entitlements may be granted.
    pub allow: Entitlements,
    /// From where the engine may fetch in addition.
    pub fetch_from: Vec<Place>,
    /// Whoever runs the machine says that the engine is fenced off.
    pub fenced_engine: bool,
    /// The bound of the content cache, bytes.
    pub cache_bytes: u64,
    /// How much room there is to be on the disks.
    pub room: Room,
    /// Where the engine keeps everything, if it was said.
    pub engine_root: Option<PathBuf>,
    /// What runs for so long after the worker was asked to end is given back.
    pub release_after: Option<Duration>,
}

/// By what a worker shows who it is.
#[derive(Debug, Clone)]
pub enum Shows {
    /// A token, in each call.
    Token(Bearer),
    /// A certificate, which connections show.
    Certificate(Pair),
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Plain,
    /// One JSON object a line.
    Json,
}

impl Flags {
    /// How log lines are to look.
    pub fn log(&self) -> LogFormat {
        self.log
    }

    /// Fills in what was not given, and reads the certificate, or else the token.
    ///
    /// # Errors
    /// There is neither, no default could be found for the name or the folder, or two flags don't go together.
    pub fn into_config(self) -> Result<Config, Invalid> {
        let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let said = self.name.map(|WorkerName(name)| name);
        let state_dir = match self.state_dir {
            Some(folder) => folder,
            None => default_state_dir(&said.clone().map_or_else(host_name, Ok)?, env)?,
        };
        let joined = Joined::load(&state_dir)
            .map_err(|e| Invalid::new("--state-dir", state_dir.to_string_lossy(), e.to_string()))?;
        let ca = self.ca.filter(|file| !file.as_os_str().is_empty());
        let (token_file, token) = (self.token_file, env("FARM_TOKEN"));
        let Member { coordinators, security, shows, name } = match joined {
            Some(joined) => {
                if token_file.is_some() || token.is_some() {
                    tracing::info!(
                        "the worker has joined the farm: its certificate is shown, not the token that is set"
                    );
                }
                member(joined, self.coordinator, ca, said)?
            }
            None if token_file.is_none() && token.is_none() => {
                let cure = "its worker has joined no farm: run the line that `farm workers invite` prints (farm-worker join …); \
                            or give the farm's own token, by --token-file FILE or FARM_TOKEN";
                return Err(Invalid::new("--state-dir", state_dir.to_string_lossy(), cure));
            }
            None => {
                let coordinators = self.coordinator.ok_or_else(|| {
                    let cure = "write https://HOST:PORT of the farm's coordinator; a worker that has joined knows it";
                    Invalid::new("--coordinator", "", cure)
                })?;
                Member {
                    shows: Shows::Token(read_token(token_file, token)?),
                    security: security(&coordinators, ca, self.insecure_http)?,
                    name: said.map_or_else(host_name, Ok)?,
                    coordinators,
                }
            }
        };
        let cpus = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let slots = self.slots.map_or_else(cpus, |slots| slots.0);
        let room = Room { wanted: self.prune_below.0, least: self.min_free.0 };
        if room.least > room.wanted {
            let cure = format!(
                "it would take no jobs before it prunes; write at most what --prune-below says ({} bytes)",
                room.wanted
            );
            return Err(Invalid::new("--min-free", room.least.to_string(), cure));
        }
        if let Some(root) = self.engine_root.as_ref().filter(|root| !root.is_dir()) {
            let cure =
                "there is no such folder on this machine; leave the flag out where the engine is elsewhere";
            return Err(Invalid::new("--engine-root", root.to_string_lossy(), cure));
        }
        Ok(Config {
            coordinators,
            security,
            shows,
            name,
            engine: self.engine,
            state_dir,
            slots,
            allow: self.allow,
            platforms: match (self.platforms, self.only) {
                (Some(told), _) => Choice::Told(told.0),
                (None, Some(only)) => Choice::Only(only),
                (None, None) => Choice::Found,
            },
            fetch_from: self.fetch_from.0,
            fenced_engine: self.fenced_engine,
            cache_bytes: self.cache_bytes.0,
            room,
            engine_root: self.engine_root,
            release_after: self.release_after,
        })
    }
}

/// What says where the farm is and who the worker is there.
struct Member {
    coordinators: Coordinators,
    security: Security,
    shows: Shows,
    name: String,
}

/// Of a worker that has joined; what was said besides counts as far as it fits.
fn member(
    joined: Joined,
    coordinators: Option<Coordinators>,
    ca: Option<PathBuf>,
    name: Option<String>,
) -> Result<Member, Invalid> {
    let is = &joined.farm.name;
    if let Some(other) = name.filter(|name| name != is) {
        let cure = format!(
            "the worker of this state folder has joined as {is}: leave the name out, or give another --state-dir"
        );
        return Err(Invalid::new("--name", other, cure));
    }
    let farm = joined.farm.coordinators.join(",");
    let coordinators = match coordinators {
        Some(said) => said,
        None => farm.parse()?,
    };
    if let Some(open) = coordinators.urls().find(|url| !url.is_tls()) {
        let cure = format!(
            "a certificate is shown over https:// only: leave --coordinator (FARM_WORKER_COORDINATOR) out, and the worker calls \
             {farm}, where it has joined"
        );
        return Err(Invalid::new("--coordinator", open.to_string(), cure));
    }
    let trust = match &ca {
        Some(file) => {
            Trust::from_file(file).map_err(|e| Invalid::new("--ca", file.to_string_lossy(), e.to_string()))?
        }
        None => joined.trust().map_err(|e| Invalid::new("farm.json", "", e.to_string()))?,
    };
    let identity =
        Identity::from_pem(&joined.pair.pem).map_err(|e| Invalid::new("identity.pem", "", e.to_string()))?;
    let security = Security { trust, identity, ..Security::default() };
    Ok(Member { coordinators, security, name: joined.farm.name, shows: Shows::Certificate(joined.pair) })
}

fn security(coordinators: &Coordinators, ca: Option<PathBuf>, insecure: bool) -> Result<Security, Invalid> {
    let plaintext = if insecure { Plaintext::Anywhere } else { Plaintext::Loopback };
    if let Some(open) = coordinators.urls().find(|url| url.is_open() && !insecure) {
        let cure = "it is another machine, and over http:// whoever is between sees the worker's token: write https:// \
                    (and the farm's CA, --ca), or give --insecure-http if that network is nobody else's";
        return Err(Invalid::new("--coordinator", open.to_string(), cure));
    }
    let trust = match ca {
        Some(file) => Trust::from_file(&file)
            .map_err(|e| Invalid::new("--ca", file.to_string_lossy(), e.to_string()))?,
        None => Trust::System,
    };
    Ok(Security { trust, plaintext, ..Security::default() })
}

fn read_token(file: Option<PathBuf>, variable: Option<OsString>) -> Result<Bearer, Invalid> {
    match (file, variable) {
        (Some(file), _) => {
            let text = fs::read_to_string(&file)
                .map_err(|e| Invalid::new("--token-file", file.to_string_lossy(), e.to_string()))?;
            let wrong = |e: BearerError| Invalid::new("--token-file", file.to_string_lossy(), e.to_string());
            text.parse().map_err(wrong)
        }
        (None, Some(text)) => {
            let wrong = |e: BearerError| Invalid::new("FARM_TOKEN", "…", e.to_string());
            text.to_string_lossy().parse().map_err(wrong)
        }
        (None, None) => Err(Invalid::new("token", "", "give --token-file FILE, or set FARM_TOKEN")),
    }
}

/// This machine's name, as a worker's.
pub(crate) fn host_name() -> Result<String, Invalid> {
    let invalid = |cure: String| Invalid::new("worker name", "", cure);
    let text = fs::read_to_string("/proc/sys/kernel/hostname")
        .map_err(|e| invalid(format!("this host's name can't be read ({e}); give --name NAME")))?;
    let name: WorkerName = text.trim().parse()?;
    Ok(name.0)
}

/// Where a worker of this name keeps what is its own.
pub(crate) fn default_state_dir(
    name: &str,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<PathBuf, Invalid> {
    if let Some(folder) = env("STATE_DIRECTORY") {
        return Ok(folder.into());
    }
    let base = env("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| env("HOME").map(|home| PathBuf::from(home).join(".local/state")))
        .ok_or_else(|| Invalid::new("state folder", "", "HOME is not set; give --state-dir DIR"))?;
    Ok(base.join("farm").join(format!("worker-{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::joined::files::{Farm, Pair};
    use crate::joined::key::Key;
    use crate::testing::Authority;
    use clap::Parser;

    #[derive(Debug, Parser)]
    #[command(name = "farm-worker")]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(words: &[&str]) -> Flags {
        Line::try_parse_from([&["farm-worker"], words].concat()).unwrap().flags
    }

    fn joined(folder: &std::path::Path) {
        let key = Key::generate().unwrap();
        let certificate = Authority::new().certificate("w7", &key.public(), (60_000, 40_000));
        let farm = Farm {
            coordinators: vec!["https://a.example:7070".to_owned(), "https://b.example".to_owned()],
            ca: None,
            name: "w7".to_owned(),
            machine: "m".to_owned(),
            pool: "default".to_owned(),
            trust: "trusted".to_owned(),
        };
        Joined { farm, pair: Pair::of(Some(certificate), &key, 0).unwrap() }.keep(folder).unwrap();
    }

    #[test]
    fn a_worker_that_has_joined_needs_nothing_but_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        joined(folder.path());
        let at = folder.path().to_str().unwrap();
        let config = flags(&["--state-dir", at]).into_config().unwrap();
        assert_eq!(config.name, "w7");
        assert_eq!(config.coordinators.to_string(), "https://a.example:7070, https://b.example");
        assert!(matches!(config.shows, Shows::Certificate(_)));
        // A token that is set besides, and isn't even there, is none that is needed.
        let told =
            ["--state-dir", at, "--token-file", "/nowhere/token", "--coordinator", "https://c.example"];
        let config = flags(&told).into_config().unwrap();
        assert_eq!(config.coordinators.to_string(), "https://c.example");
        assert!(matches!(config.shows, Shows::Certificate(_)));
        let error = |words: &[&str]| {
            flags(&[&["--state-dir", at], words].concat()).into_config().unwrap_err().to_string()
        };
        let text = error(&["--coordinator", "http://127.0.0.1:7070"]);
        assert!(text.contains("https:// only") && text.contains("https://a.example:7070"), "{text}");
        let text = error(&["--name", "w8"]);
        assert!(text.contains("\"w8\"") && text.contains("joined as w7"), "{text}");
        fs::write(folder.path().join("identity.pem"), "").unwrap();
        assert!(error(&[]).contains("join --again"));
    }

    #[test]
    fn without_certificate_and_token_both_cures_are_told_the_join_first() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_str().unwrap();
        let text = flags(&["--state-dir", at]).into_config().unwrap_err().to_string();
        assert!(text.contains(at), "{text}");
        assert!(text.find("farm workers invite").unwrap() < text.find("--token-file").unwrap(), "{text}");
        let token = folder.path().join("token");
        fs::write(&token, "farm_abc\n").unwrap();
        let words = ["--state-dir", at, "--token-file", token.to_str().unwrap()];
        assert!(flags(&words).into_config().unwrap_err().to_string().contains("--coordinator"));
        let words = [&words[..], &["--coordinator", "http://127.0.0.1:7070", "--name", "w"]].concat();
        let config = flags(&words).into_config().unwrap();
        assert!(matches!(config.shows, Shows::Token(_)) && config.name == "w");
    }

    #[test]
    fn a_mistyped_flag_is_answered_with_thing_value_and_cure() {
        let error =
            Line::try_parse_from(["farm-worker", "--coordinator", "http://h:1", "--cache-bytes", "10G"])
                .unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains("--cache-bytes") && text.contains("10G") && text.contains("10GiB"), "{text}");
    }

    #[test]
    fn a_token_goes_to_no_other_machine_in_the_clear_unless_it_is_said() {
        let of = |url: &str, ca: Option<&str>, insecure| {
            security(&url.parse().unwrap(), ca.map(PathBuf::from), insecure).map_err(|e| e.to_string())
        };
        let refused = of("http://127.0.0.1:1,http://farm.example:7070", None, false).unwrap_err();
        assert!(refused.contains("http://farm.example:7070") && refused.contains("https://"), "{refused}");
        assert!(of("http://farm.example:7070", None, true).is_ok());
        assert!(of("https://farm.example,http://localhost:1", None, false).is_ok());
        let missing = of("https://farm.example", Some("/nowhere/ca.pem"), false).unwrap_err();
        assert!(missing.contains("--ca") && missing.contains("/nowhere/ca.pem"), "{missing}");
    }

    #[test]
    fn a_token_is_needed_and_is_read_without_its_newline() {
        assert!(read_token(None, None).unwrap_err().to_string().contains("--token-file"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "farm_abc\n").unwrap();
        assert!(read_token(Some(file.clone()), None).is_ok());
        fs::write(&file, "\n").unwrap();
        assert!(read_token(Some(file), None).unwrap_err().to_string().contains("empty"));
    }

    #[test]
    fn the_state_folder_follows_the_service_manager_then_the_user() {
        let with = |known: &'static [(&str, &str)]| {
            move |name: &str| known.iter().find(|k| k.0 == name).map(|k| OsString::from(k.1))
        };
        let folder = |known| default_state_dir("w", with(known)).map(|path| path.display().to_string());
        assert_eq!(folder(&[("STATE_DIRECTORY", "/s"), ("HOME", "/h")]).as_deref(), Ok("/s"));
        assert_eq!(folder(&[("HOME", "/h")]).as_deref(), Ok("/h/.local/state/farm/worker-w"));
        assert!(folder(&[]).unwrap_err().to_string().contains("--state-dir"));
    }
}
