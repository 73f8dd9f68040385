//! What `farm up` can be told, and what of it the supervisor gets.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use farm_types::Platform;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Flags of `farm up`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Where everything is kept [default: /var/lib/farm as root, else ~/.local/state/farm]
    #[arg(long, env = "FARM_LOCAL_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Build with this engine (unix:///PATH or tcp://HOST:PORT) instead of starting an own one
    #[arg(long, value_name = "ADDRESS")]
    pub engine: Option<String>,

    /// The platforms to offer [default: the machine's own, and those that it can emulate]
    #[arg(long, value_name = "LIST")]
    pub platforms: Option<String>,

    /// Offer only what this machine runs natively
    #[arg(long, conflicts_with = "platforms")]
    pub no_emulation: bool,

    /// The registry's port on localhost
    #[arg(long, value_name = "PORT", default_value_t = 5002)]
    pub registry_port: u16,

    /// The coordinator's port on 127.0.0.1
    #[arg(long, value_name = "PORT", default_value_t = 7070)]
    pub port: u16,

    /// How many jobs run at once [default: the number of CPUs]
    #[arg(long, value_name = "N")]
    pub slots: Option<usize>,
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
    /// Jobs at once.
    pub slots: usize,
}

impl Flags {
    /// Checks the values.
    ///
    /// # Errors
    /// A value that can't be meant.
    pub fn settings(&self) -> Result<Settings> {
        let mut platforms = Vec::new();
        for part in self.platforms.iter().flat_map(|list| list.split(',')).map(str::trim) {
            let platform: Platform = part.parse().map_err(|e| Error::Usage(format!("--platforms: {e}")))?;
            if platform.os() != "linux" {
                return Err(Error::Usage(format!("--platforms {platform}: only linux platforms are built")));
            }
            if !platforms.contains(&platform.to_string()) {
                platforms.push(platform.to_string());
            }
        }
        if let Some(engine) = &self.engine
            && !engine.starts_with("unix:///")
            && !engine.starts_with("tcp://")
        {
            return Err(Error::Usage(format!(
                "--engine {engine}: write unix:///PATH of its socket, or tcp://HOST:PORT"
            )));
        }
        for (flag, port) in [("--registry-port", self.registry_port), ("--port", self.port)] {
            if port == 0 {
                return Err(Error::Usage(format!("{flag} 0: write a port from 1 to 65535")));
            }
        }
        if self.registry_port == self.port {
            return Err(Error::Usage(format!(
                "--port and --registry-port are both {}; give one of them another",
                self.port
            )));
        }
        let cpus = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let slots = self.slots.unwrap_or(cpus);
        if !(1..=1024).contains(&slots) {
            return Err(Error::Usage(format!("--slots {slots}: write a number from 1 to 1024")));
        }
        Ok(Settings {
            engine: self.engine.clone(),
            platforms,
            emulation: !self.no_emulation,
            registry_port: self.registry_port,
            port: self.port,
            slots,
        })
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

    /// How these differ from those that are in force, in words; empty: not at all.
    pub fn differences(&self, running: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |flag: &str, now: String, then: String| {
            if now != then {
                found.push(format!("{flag} is {then}, not {now}"));
            }
        };
        let engine = |s: &Self| s.engine.clone().unwrap_or_else(|| "its own".to_owned());
        let named = |s: &Self| match (s.platforms.is_empty(), s.emulation) {
            (true, true) => "what is found".to_owned(),
            (true, false) => "what is native".to_owned(),
            (false, _) => s.platforms.join(","),
        };
        compare("--engine", engine(self), engine(running));
        compare("--platforms", named(self), named(running));
        compare("--registry-port", self.registry_port.to_string(), running.registry_port.to_string());
        compare("--port", self.port.to_string(), running.port.to_string());
        compare("--slots", self.slots.to_string(), running.slots.to_string());
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Flags {
        Flags { registry_port: 5002, port: 7070, ..Flags::default() }
    }

    #[test]
    fn a_slip_is_answered_with_thing_value_and_cure() {
        let error = |flags: Flags| flags.settings().unwrap_err().to_string();
        assert!(
            error(Flags { platforms: Some("linux/arm46".into()), ..flags() }).contains("did you mean arm64")
        );
        assert!(error(Flags { platforms: Some("windows/amd64".into()), ..flags() }).contains("linux only"));
        assert!(error(Flags { engine: Some("/run/docker.sock".into()), ..flags() }).contains("unix:///PATH"));
        assert!(error(Flags { port: 5002, ..flags() }).contains("both 5002"));
        assert!(error(Flags { slots: Some(0), ..flags() }).contains("1 to 1024"));
        assert!(error(Flags { registry_port: 0, ..flags() }).contains("1 to 65535"));
    }

    #[test]
    fn named_platforms_are_native_or_emulated_by_the_machine() {
        let settings =
            Flags { platforms: Some("amd64,arm64,linux/s390x,arm64".into()), ..flags() }.settings();
        let settings = settings.unwrap();
        let (native, emulated) = settings.split();
        assert!(native.len() == 1 && emulated.len() == 2, "{native:?} {emulated:?}");
        assert_eq!(native[0], format!("linux/{}", Settings::own_architecture()));
    }

    #[test]
    fn a_second_start_with_other_flags_is_told_what_differs() {
        let running = flags().settings().unwrap();
        assert!(running.differences(&running).is_empty());
        let other = Flags { registry_port: 5005, no_emulation: true, ..flags() }.settings().unwrap();
        let found = other.differences(&running);
        assert_eq!(
            found,
            ["--platforms is what is found, not what is native", "--registry-port is 5002, not 5005"]
        );
    }
}
