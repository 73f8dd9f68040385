//! What `farm up` can be told, and what of it the supervisor gets.

use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use farm_types::entitlement::listed;
use farm_types::{Entitlement, Entitlements, FetchHost, Platform};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What takes a flag of the last time back.
const OWN: &str = "own";
const FOUND: &str = "found";
const NONE: &str = "none";
const YES: &str = "yes";

/// The staging registry's port where none is said.
fn staging_port() -> u16 {
    5004
}

/// The port for webhooks beside the coordinator's usual one.
const HOOKS_PORT: u16 = 7071;
/// That for pages.
const WEB_PORT: u16 = 7072;

/// Flags of `farm up`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Where everything is kept [default: /var/lib/farm as root, else ~/.local/state/farm]
    #[arg(long, env = "FARM_LOCAL_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Build with this engine (unix:///PATH or tcp://HOST:PORT) instead of starting an own one [default: own]
    #[arg(long, value_name = "ADDRESS")]
    pub engine: Option<String>,

    /// The platforms to offer [default: found, which is the machine's own and those that it can emulate]
    #[arg(long, value_name = "LIST")]
    pub platforms: Option<String>,

    /// Offer only what this machine runs natively
    #[arg(long, conflicts_with = "platforms")]
    pub no_emulation: bool,

    /// The registry's port on localhost [default: 5002]
    #[arg(long, value_name = "PORT")]
    pub registry_port: Option<u16>,

    /// The coordinator's port on 127.0.0.1 [default: 7070]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,

    /// The port on 127.0.0.1 for webhooks, or none [default: 7071; with another --port none]
    #[arg(long, value_name = "PORT|none")]
    pub hooks_port: Option<String>,

    /// How browsers reach the farm's pages, to which forges link: https://HOST[:PORT], or none [default: none]
    #[arg(long, value_name = "URL|none")]
    pub public_url: Option<String>,
    /// The port on 127.0.0.1 for pages, or none [default: 7072; with another --port none]
    #[arg(long, value_name = "PORT|none")]
    pub web_port: Option<String>,

    /// How many jobs run at once [default: the number of CPUs]
    #[arg(long, value_name = "N")]
    pub slots: Option<usize>,

    /// Let builds of project default be given network.host or security.insecure, or both with a comma, that ask for it; none
    /// takes it back [default: none]
    #[arg(long, value_name = "LIST")]
    pub allow: Option<String>,

    /// From where engines may fetch though it is closed else, for whichever build: HOST, HOST:PORT or a network of IPv4, as
    /// farm-worker has it. May be given several times; none takes it back [default: none]
    #[arg(long, value_name = "HOST")]
    pub fetch_from: Vec<String>,

    /// Also start a staging registry, and an untrusted worker with an engine of its own that reaches
    /// nothing but that and public addresses; none takes it back [default: none]
    #[arg(long, num_args = 0..=1, default_missing_value = "yes", value_name = "yes|none")]
    pub untrusted: Option<String>,

    /// An engine that has the fixes which untrusted builds need, as its distribution says, though its BuildKit is older than
    /// 0.31.2, like "docker 28.5.2+dfsg4". May be given several times; none takes it back [default: none]
    #[arg(long, value_name = "ENGINE")]
    pub patched_engine: Vec<String>,

    /// The staging registry's port on localhost [default: 5004]
    #[arg(long, value_name = "PORT")]
    pub staging_port: Option<u16>,

    /// The coordinator's configuration: logins of registries, own CAs, limits [default: none]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What the flags come to, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// An engine that is there already; `None`: farm's own.
    pub engine: Option<String>,
    /// The platforms that were named; empty: what is found.
    pub platforms: Vec<String>,
    /// Also what needs QEMU.
    pub emulation: bool,
    /// The registry's port on localhost.
    pub registry_port: u16,
    /// The coordinator's port on 127.0.0.1.
    pub port: u16,
    /// That for webhooks; `None`: it takes none.
    #[serde(default)]
    pub hooks_port: Option<u16>,
    /// How browsers reach the farm's pages; `None`: nothing links there.
    #[serde(default)]
    pub public_url: Option<String>,
    /// That for pages; `None`: it shows none. It may be the one for webhooks.
    #[serde(default)]
    pub web_port: Option<u16>,
    /// Jobs at once; `None`: as many as there are CPUs.
    pub slots: Option<usize>,
    /// The coordinator's configuration file.
    pub config: Option<PathBuf>,
    /// What builds of project default may be given, and the workers of this machine grant.
    #[serde(default)]
    pub allow: Entitlements,
    /// From where the workers whose engine is trusted have it fetch in addition.
    #[serde(default)]
    pub fetch_from: Vec<String>,
    /// There is an untrusted worker, too.
    #[serde(default)]
    pub untrusted: bool,
    /// Engines that have the fixes which untrusted builds need.
    #[serde(default)]
    pub patched_engines: Vec<String>,
    /// The staging registry's port on localhost.
    #[serde(default = "staging_port")]
    pub staging_port: u16,
    /// Project default is to be told, as something was said of it here or before.
    #[serde(default)]
    pub tell_project: bool,
}

impl Flags {
    /// Checks the values. What isn't said is as it was the last time, and as usual where there was none.
    ///
    /// # Errors
    /// A value that can't be meant.
    pub fn settings(&self, last: Option<&Settings>) -> Result<Settings> {
        let usual = Settings::default();
        let last = last.unwrap_or(&usual);
        let (platforms, emulation) = match &self.platforms {
            Some(list) if list == FOUND => (Vec::new(), true),
            Some(list) => (platforms(list)?, true),
            None if self.no_emulation => (Vec::new(), false),
            None => (last.platforms.clone(), last.emulation),
        };
        let engine = match self.engine.as_deref() {
            Some(OWN) => None,
            Some(engine) if engine.starts_with("unix:///") || engine.starts_with("tcp://") => {
                Some(engine.to_owned())
            }
            Some(engine) => {
                return Err(Error::Usage(format!(
                    "--engine {engine}: write unix:///PATH of its socket, or tcp://HOST:PORT, or {OWN}"
                )));
            }
            None => last.engine.clone(),
        };
        let ports = [
            ("--registry-port", self.registry_port),
            ("--port", self.port),
            ("--staging-port", self.staging_port),
        ];
        for (flag, port) in ports {
            if port == Some(0) {
                return Err(Error::Usage(format!("{flag} 0: write a port from 1 to 65535")));
            }
        }
        let port = self.port.unwrap_or(last.port);
        let registry_port = self.registry_port.unwrap_or(last.registry_port);
        if registry_port == port {
            return Err(Error::Usage(format!(
                "--port and --registry-port are both {port}; give one of them another"
            )));
        }
        // A second farm beside a first one has other ports, and these aren't guessed.
        let last_or_none = |before: Option<u16>| before.filter(|_| port == last.port);
        let hooks_port = or_none("--hooks-port", self.hooks_port.as_deref(), last_or_none(last.hooks_port))?;
        let web_port = or_none("--web-port", self.web_port.as_deref(), last_or_none(last.web_port))?;
        for (flag, own) in [("--hooks-port", hooks_port), ("--web-port", web_port)] {
            if own.is_some_and(|own| [port, registry_port].contains(&own)) {
                return Err(Error::Usage(format!(
                    "{flag} is as another port of the farm's; give one of them another"
                )));
            }
        }
        let untrusted = match self.untrusted.as_deref() {
            Some(NONE) => false,
            Some(YES) => true,
            Some(other) => {
                return Err(Error::Usage(format!(
                    "--untrusted {other}: write --untrusted, or --untrusted {NONE}"
                )));
            }
            None => last.untrusted,
        };
        let staging_port = self.staging_port.unwrap_or(last.staging_port);
        if untrusted && [port, registry_port].contains(&staging_port) {
            return Err(Error::Usage(format!(
                "--staging-port is {staging_port}, as another port of the farm's is; give one of them another"
            )));
        }
        if let Some(slots) = self.slots
            && !(1..=1024).contains(&slots)
        {
            return Err(Error::Usage(format!("--slots {slots}: write a number from 1 to 1024")));
        }
        let config = match &self.config {
            Some(file) if file.as_os_str() == NONE => None,
            Some(file) => {
                let at = |e: &std::io::Error| Error::Usage(format!("--config {}: {e}", file.display()));
                let file = std::path::absolute(file).map_err(|e| at(&e))?;
                std::fs::File::open(&file).map_err(|e| at(&e))?;
                Some(file)
            }
            None => last.config.clone(),
        };
        let allow = match self.allow.as_deref() {
            Some(NONE) => Entitlements::new(),
            Some(list) => {
                Entitlement::list(list).map_err(|e| Error::Usage(format!("--allow {list}: {e}")))?
            }
            None => last.allow.clone(),
        };
        let fetch_from = match &*self.fetch_from {
            [] => last.fetch_from.clone(),
            [none] if none == NONE => Vec::new(),
            places => {
                places.iter().try_for_each(|place| is_place(place))?;
                places.to_vec()
            }
        };
        let patched_engines = match &*self.patched_engine {
            [] => last.patched_engines.clone(),
            [none] if none == NONE => Vec::new(),
            engines => {
                engines.iter().try_for_each(|engine| is_engine(engine))?;
                engines.to_vec()
            }
        };
        let public_url = match self.public_url.as_deref() {
            Some(NONE) => None,
            Some(url) => Some(is_url(url)?.to_owned()),
            None => last.public_url.clone(),
        };
        Ok(Settings {
            fetch_from,
            patched_engines,
            tell_project: self.allow.is_some() || !allow.is_empty(),
            allow,
            engine,
            platforms,
            emulation,
            registry_port,
            port,
            hooks_port,
            public_url,
            web_port,
            slots: self.slots.or(last.slots),
            config,
            untrusted,
            staging_port,
        })
    }
}

fn listed_or_none(all: &[String], between: &str) -> String {
    if all.is_empty() { NONE.to_owned() } else { all.join(between) }
}

/// Checks how browsers are to reach the farm, as far as it can be told here; the coordinator looks closer.
fn is_url(text: &str) -> Result<&str> {
    let host =
        ["https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or_default();
    if host.is_empty()
        || host.starts_with('/')
        || text.contains(|c: char| c.is_whitespace() || "@?#".contains(c))
    {
        return Err(Error::Usage(format!(
            "--public-url {text}: write https://HOST[:PORT], as browsers reach this farm, or {NONE}"
        )));
    }
    Ok(text)
}

/// A port that may be none; what isn't said is as it is given.
fn or_none(flag: &str, said: Option<&str>, else_: Option<u16>) -> Result<Option<u16>> {
    let Some(text) = said else { return Ok(else_) };
    if text == NONE {
        return Ok(None);
    }
    let port = text.parse().ok().filter(|port| *port > 0);
    let wrong = || Error::Usage(format!("{flag} {text}: write a port from 1 to 65535, or {NONE}"));
    port.map(Some).ok_or_else(wrong)
}

/// Checks what a coordinator is told of an engine: its name and its whole version.
fn is_engine(text: &str) -> Result<()> {
    match text.split(' ').collect::<Vec<_>>()[..] {
        [name, version]
            if !name.is_empty() && version.bytes().any(|b| b.is_ascii_digit()) && !text.contains(',') =>
        {
            Ok(())
        }
        _ => Err(Error::Usage(format!(
            "--patched-engine {text:?}: write its name and its whole version with one blank between, as `farm workers` shows them: \
             \"docker 28.5.2+dfsg4\", or {NONE}"
        ))),
    }
}

/// Checks what a worker is told to have fetched from, in its words.
fn is_place(text: &str) -> Result<()> {
    let is_net = |(net, bits): (&str, &str)| {
        net.parse::<Ipv4Addr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= 32)
    };
    let host = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && !host.ends_with(':') => host,
        _ => text,
    };
    let is_host = matches!(host.parse(), Ok(host) if !matches!(host, FetchHost::Below(_)));
    if text.split_once('/').map_or(is_host, is_net) {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "--fetch-from {text}: write a host with or without its port (git.internal, 10.0.0.5:3000), or a network of IPv4 \
         (10.0.0.0/8), or {NONE}"
    )))
}

fn platforms(list: &str) -> Result<Vec<String>> {
    let mut platforms: Vec<String> = Vec::new();
    for part in list.split(',').map(str::trim) {
        let platform: Platform = part.parse().map_err(|e| Error::Usage(format!("--platforms: {e}")))?;
        if !platforms.contains(&platform.to_string()) {
            platforms.push(platform.to_string());
        }
    }
    Ok(platforms)
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            engine: None,
            platforms: Vec::new(),
            emulation: true,
            registry_port: 5002,
            port: 7070,
            hooks_port: Some(HOOKS_PORT),
            public_url: None,
            web_port: Some(WEB_PORT),
            slots: None,
            config: None,
            allow: Entitlements::new(),
            fetch_from: Vec::new(),
            patched_engines: Vec::new(),
            untrusted: false,
            staging_port: staging_port(),
            tell_project: false,
        }
    }
}

impl Settings {
    /// This machine's architecture in the words of platforms: `amd64`.
    pub fn own_architecture() -> &'static str {
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }

    /// The named platforms, natively run and emulated ones apart.
    pub fn split(&self) -> (Vec<&str>, Vec<&str>) {
        self.platforms.iter().map(String::as_str).partition(|platform| {
            let architecture = platform.split('/').nth(1).unwrap_or_default();
            matches!(
                (Self::own_architecture(), architecture),
                ("amd64", "amd64" | "386") | ("arm64", "arm64" | "arm")
            )
        })
    }

    /// Jobs at once.
    pub fn slots(&self) -> usize {
        self.slots.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }

    /// Each flag, and what it is, in words.
    fn values(&self) -> [(&'static str, String); 14] {
        let platforms = match (self.platforms.is_empty(), self.emulation) {
            (true, true) => "what is found".to_owned(),
            (true, false) => "what is native".to_owned(),
            (false, _) => self.platforms.join(","),
        };
        let config = self.config.as_ref().map_or_else(|| NONE.to_owned(), |file| file.display().to_string());
        let port = |port: Option<u16>| port.map_or_else(|| NONE.to_owned(), |port| port.to_string());
        [
            ("--engine", self.engine.clone().unwrap_or_else(|| "its own".to_owned())),
            ("--platforms", platforms),
            ("--registry-port", self.registry_port.to_string()),
            ("--port", self.port.to_string()),
            ("--hooks-port", port(self.hooks_port)),
            ("--web-port", port(self.web_port)),
            ("--public-url", self.public_url.clone().unwrap_or_else(|| NONE.to_owned())),
            ("--slots", self.slots().to_string()),
            ("--config", config),
            ("--allow", if self.allow.is_empty() { NONE.to_owned() } else { listed(&self.allow) }),
            ("--fetch-from", listed_or_none(&self.fetch_from, ",")),
            ("--patched-engine", listed_or_none(&self.patched_engines, ", ")),
            ("--untrusted", if self.untrusted { YES } else { NONE }.to_owned()),
            ("--staging-port", self.staging_port.to_string()),
        ]
    }

    /// How these differ from those that are in force, in words; empty: not at all.
    pub fn differences(&self, running: &Self) -> Vec<String> {
        let both = self.values().into_iter().zip(running.values());
        let differ = both.filter(|((_, now), (_, then))| now != then);
        differ.map(|((flag, now), (_, then))| format!("{flag} is {then}, not {now}")).collect()
    }

    /// What isn't as usual, in words.
    pub fn unusual(&self) -> Vec<String> {
        let both = self.values().into_iter().zip(Self::default().values());
        let differ = both.filter(|((_, now), (_, usual))| now != usual);
        differ.map(|((flag, now), _)| format!("{flag} is {now}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Flags {
        Flags::default()
    }

    #[test]
    fn a_slip_is_answered_with_thing_value_and_cure() {
        let error = |flags: Flags| flags.settings(None).unwrap_err().to_string();
        assert!(
            error(Flags { platforms: Some("linux/arm46".into()), ..flags() }).contains("did you mean arm64")
        );
        assert!(error(Flags { platforms: Some("windows/amd64".into()), ..flags() }).contains("linux only"));
        assert!(error(Flags { engine: Some("/run/docker.sock".into()), ..flags() }).contains("unix:///PATH"));
        assert!(error(Flags { port: Some(5002), ..flags() }).contains("both 5002"));
        assert!(error(Flags { slots: Some(0), ..flags() }).contains("1 to 1024"));
        assert!(
            error(Flags { allow: Some("network.hots".into()), ..flags() })
                .contains("did you mean network.host")
        );
        for place in ["http://a", "*.a", "a b", "10.0.0.0/33", "127.1", "a,b"] {
            let told = error(Flags { fetch_from: vec![place.into()], ..flags() });
            assert!(told.contains("--fetch-from") && told.contains("10.0.0.0/8"), "{told}");
        }
        let told = error(Flags { patched_engine: vec!["docker".into()], ..flags() });
        assert!(told.contains("--patched-engine") && told.contains("28.5.2"), "{told}");
        assert!(error(Flags { registry_port: Some(0), ..flags() }).contains("1 to 65535"));
        assert!(error(Flags { hooks_port: Some("0".into()), ..flags() }).contains("1 to 65535"));
        assert!(error(Flags { hooks_port: Some("7070".into()), ..flags() }).contains("another port"));
        for url in ["farm.example", "https://", "https://a@farm.example", "ftp://farm.example"] {
            assert!(
                error(Flags { public_url: Some(url.into()), ..flags() }).contains("as browsers reach"),
                "{url}"
            );
        }
        assert!(
            error(Flags { web_port: Some("7070".into()), ..flags() }).contains("--web-port is as another")
        );
        assert!(error(Flags { web_port: Some("http".into()), ..flags() }).contains("--web-port http"));
    }

    #[test]
    fn named_platforms_are_native_or_emulated_by_the_machine() {
        let settings =
            Flags { platforms: Some("amd64,arm64,linux/s390x,arm64".into()), ..flags() }.settings(None);
        let settings = settings.unwrap();
        let (native, emulated) = settings.split();
        assert!(native.len() == 1 && emulated.len() == 2, "{native:?} {emulated:?}");
        assert_eq!(native[0], format!("linux/{}", Settings::own_architecture()));
    }

    #[test]
    fn webhooks_and_pages_have_ports_beside_the_usual_one_and_beside_another_only_if_it_is_said() {
        let first = flags().settings(None).unwrap();
        assert_eq!((first.hooks_port, first.web_port), (Some(HOOKS_PORT), Some(WEB_PORT)));
        let moved = Flags { port: Some(7080), ..flags() }.settings(Some(&first)).unwrap();
        assert_eq!((moved.hooks_port, moved.web_port), (None, None));
        let one = Flags { web_port: Some("7071".into()), ..flags() }.settings(None).unwrap();
        assert_eq!((one.hooks_port, one.web_port), (Some(7071), Some(7071)), "they may share one");
        let said = Flags { hooks_port: Some("7081".into()), ..flags() }.settings(Some(&moved)).unwrap();
        assert_eq!((said.port, said.hooks_port), (7080, Some(7081)));
        assert_eq!(flags().settings(Some(&said)).unwrap(), said);
        let none = Flags { hooks_port: Some("none".into()), ..flags() }.settings(Some(&said)).unwrap();
        assert_eq!(none.hooks_port, None);
        let url = Some("https://farm.example".to_owned());
        let public = Flags { public_url: url.clone(), ..flags() }.settings(None).unwrap();
        assert_eq!(flags().settings(Some(&public)).unwrap().public_url, url);
        let none = Flags { public_url: Some("none".into()), ..flags() }.settings(Some(&public)).unwrap();
        assert_eq!(none.public_url, None);
    }

    #[test]
    fn a_second_start_with_other_flags_is_told_what_differs() {
        let running = flags().settings(None).unwrap();
        assert!(running.differences(&running).is_empty());
        let other =
            Flags { registry_port: Some(5005), no_emulation: true, ..flags() }.settings(None).unwrap();
        let found = other.differences(&running);
        assert_eq!(
            found,
            ["--platforms is what is found, not what is native", "--registry-port is 5002, not 5005"]
        );
    }

    #[test]
    fn what_is_not_said_is_as_the_last_time_until_it_is_taken_back() {
        let first = Flags {
            engine: Some("tcp://b:1".into()),
            platforms: Some("amd64".into()),
            registry_port: Some(5005),
            slots: Some(3),
            ..flags()
        };
        let last = first.settings(None).unwrap();
        assert_eq!(flags().settings(Some(&last)).unwrap(), last);
        assert_eq!(last.unusual()[0], "--engine is tcp://b:1");
        let back = Flags {
            engine: Some("own".into()),
            platforms: Some("found".into()),
            registry_port: Some(5002),
            ..flags()
        };
        let back = back.settings(Some(&last)).unwrap();
        assert_eq!(back, Settings { slots: Some(3), ..Settings::default() });
        // A remembered port counts when two are compared.
        let both = Flags { port: Some(5005), ..flags() }.settings(Some(&last));
        assert!(both.unwrap_err().to_string().contains("both 5005"));
        // What was allowed is so until it is taken back, which the farm has to be told, too.
        let allowed = Flags { allow: Some("network.host".into()), ..flags() }.settings(None).unwrap();
        assert_eq!(flags().settings(Some(&allowed)).unwrap(), allowed);
        let none = Flags { allow: Some("none".into()), ..flags() }.settings(Some(&allowed)).unwrap();
        assert_eq!(none, Settings { tell_project: true, ..Settings::default() });
        assert_eq!(none.differences(&allowed), ["--allow is network.host, not none"]);
        let opened = Flags { fetch_from: vec!["git.internal:80".into(), "10.0.0.0/8".into()], ..flags() };
        let opened = opened.settings(None).unwrap();
        assert_eq!(flags().settings(Some(&opened)).unwrap(), opened);
        assert_eq!(opened.unusual(), ["--fetch-from is git.internal:80,10.0.0.0/8"]);
        let none = Flags { fetch_from: vec!["none".into()], ..flags() }.settings(Some(&opened)).unwrap();
        assert_eq!(none, Settings::default());
        let patched =
            Flags { patched_engine: vec!["docker 28.5.2".into()], ..flags() }.settings(None).unwrap();
        assert_eq!(flags().settings(Some(&patched)).unwrap(), patched);
        let untrusted = Flags { untrusted: Some("yes".into()), ..flags() }.settings(None).unwrap();
        assert_eq!(flags().settings(Some(&untrusted)).unwrap(), untrusted);
        let none = Flags { untrusted: Some("none".into()), ..flags() }.settings(Some(&untrusted)).unwrap();
        assert_eq!(none, Settings::default());
        let both = Flags { port: Some(5004), ..flags() }.settings(Some(&untrusted)).unwrap_err().to_string();
        assert!(both.contains("--staging-port is 5004"), "{both}");
        let missing = Flags { config: Some("/nonexistent/farm.toml".into()), ..flags() }.settings(None);
        assert!(missing.unwrap_err().to_string().contains("--config /nonexistent/farm.toml"));
    }
}
