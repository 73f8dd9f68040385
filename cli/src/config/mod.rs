//! What a person has set once: farms by name (contexts), and defaults of flags.
//!
//! The file is `$FARM_CONFIG`, or `config.toml` in `$XDG_CONFIG_HOME/farm` or `~/.config/farm`. `farm config` writes it
//! ([`edit`]) and keeps its comments; it may as well be written by hand.
//!
//! Invariant: a context's token is sent to its own address only, not to one from `--url` or FARM_URL; and that of a farm on
//! this machine to no other machine. What a context's farm is believed by (`ca_file`) goes with it in the same way.

pub mod edit;
pub mod kept;
mod setup;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farm_types::chain::io_in_short;
use farm_types::suggest::nearest;
use farm_types::{Emulation, Invalid, Platform, ProjectName};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::folders::user_folder;
use crate::output::Mode;
use farm_source::Links;
pub use setup::{Address, DEFAULT_URL, KEPT, Setup, Source, named_ca};

/// The name that stands for the farm on this machine, and can't be given to another.
pub const LOCAL: &str = "local";

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The context that is used when nothing else is said.
    pub context: Option<String>,
    /// Farms by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, NamedFarm>,
    /// Values of flags that are not given.
    #[serde(default)]
    pub defaults: Defaults,
}

/// A farm that the user gave a name: what `--context` means. (The code's own `context` is what a build reads.)
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedFarm {
    /// Its address, or several with commas between.
    pub url: String,
    /// The file with the token for it; `None`: found as without a context.
    pub token_file: Option<PathBuf>,
    /// The file with the CA that its certificate must lead to; `None`: the system's CAs count.
    pub ca_file: Option<PathBuf>,
    /// The project that commands mean there.
    pub project: Option<String>,
}

/// Values of flags that are not given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// `--platform` of `farm submit` and `farm check`.
    pub platform: Option<String>,
    /// `--emulation` of `farm submit`, `farm run` and `farm test`.
    pub emulation: Option<String>,
    /// `--progress` of `farm submit`.
    pub progress: Option<String>,
    /// `--context-links` of `farm submit` and `farm check`.
    #[serde(rename = "context-links")]
    pub context_links: Option<String>,
}

/// The flags that have defaults.
pub const KEYS: [&str; 4] = ["platform", "emulation", "progress", "context-links"];

impl Defaults {
    /// The value of one of [`KEYS`].
    pub fn get(&self, key: &str) -> Option<&str> {
        match key {
            "platform" => self.platform.as_deref(),
            "emulation" => self.emulation.as_deref(),
            "progress" => self.progress.as_deref(),
            "context-links" => self.context_links.as_deref(),
            _ => None,
        }
    }

    /// How progress is shown.
    ///
    /// # Errors
    /// The value is no way to show it.
    pub fn progress(&self) -> Result<Option<Mode>, Invalid> {
        self.progress.as_deref().map(progress).transpose()
    }
}

/// Whether a default can be taken.
///
/// # Errors
/// There is no such key, or its flag doesn't take this value.
pub fn check_default(key: &str, value: &str) -> Result<(), Invalid> {
    match key {
        "platform" => Platform::parse_list(value).map(drop),
        "emulation" => value.parse::<Emulation>().map(drop),
        "progress" => progress(value).map(drop),
        "context-links" => value.parse::<Links>().map(drop),
        _ => Err(unknown_key(key)),
    }
}

/// What is said of a key that there is not.
pub fn unknown_key(key: &str) -> Invalid {
    let meant = nearest(key, KEYS).map(|near| format!("did you mean {near}? ")).unwrap_or_default();
    Invalid::new("key", key, format!("{meant}there are {}", KEYS.join(", ")))
}

fn progress(value: &str) -> Result<Mode, Invalid> {
    use clap::ValueEnum as _;
    Mode::from_str(value, false)
        .map_err(|_| Invalid::new("progress", value, "write auto, tty, plain, json or quiet"))
}

impl Config {
    /// Reads the file; one that is not there says nothing.
    ///
    /// # Errors
    /// It can't be read, or has something in it that farm doesn't know.
    pub fn load(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if is_absent(&e) => return Ok(Self::default()),
            // After su or setpriv HOME may still be another's: what that one has set is not for us.
            Err(e)
                if e.kind() == std::io::ErrorKind::PermissionDenied
                    && std::env::var_os("FARM_CONFIG").is_none() =>
            {
                return Ok(Self::default());
            }
            Err(e) => {
                let why = io_in_short(&e);
                return Err(Error::Usage(format!("can't read the configuration {} ({why})", path.display())));
            }
        };
        Self::parse(&text).map_err(|why| {
            Error::Usage(format!("the configuration {}: {why}; mend it, or remove the file", path.display()))
        })
    }

    /// Understands the file's text.
    ///
    /// # Errors
    /// What can't be taken, and in which line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml_edit::de::from_str(text).map_err(|e| {
            let line = e.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let at = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            format!("{at}{}", e.message().lines().next().unwrap_or_default())
        })?;
        for key in KEYS {
            if let Some(value) = config.defaults.get(key) {
                check_default(key, value).map_err(|e| format!("defaults: {e}"))?;
            }
        }
        for (name, farm) in &config.contexts {
            if let Some(project) = &farm.project {
                project.parse::<ProjectName>().map_err(|e| format!("contexts.{name}: {e}"))?;
            }
        }
        Ok(config)
    }

    /// The context of this name.
    ///
    /// # Errors
    /// There is none; `from` says who named it.
    pub fn context(&self, name: &str, from: &str) -> Result<&NamedFarm, Invalid> {
        let names = || self.contexts.keys().map(String::as_str).chain([LOCAL]);
        self.contexts.get(name).ok_or_else(|| {
            let meant =
                nearest(name, names()).map(|near| format!("did you mean {near}? ")).unwrap_or_default();
            let known: Vec<&str> = names().collect();
            Invalid::new(
                from,
                name,
                format!("{meant}known are {}; `farm config add NAME ADDRESS` adds one", known.join(", ")),
            )
        })
    }
}

/// Whether the system says so of a file that is not there; below a HOME like /dev/null nothing is.
pub fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// Where the file is, whether it is there or not; `None`: this user has no place for one.
pub fn path() -> Option<PathBuf> {
    let named = std::env::var_os("FARM_CONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
    named.or_else(|| folder().map(|folder| folder.join("config.toml")))
}

/// Where farm keeps what a person has set: `$XDG_CONFIG_HOME/farm` or `~/.config/farm`.
pub fn folder() -> Option<PathBuf> {
    Some(user_folder("XDG_CONFIG_HOME", ".config")?.join("farm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_understood() {
        let config = Config::parse(
            "context = \"team\"\n[contexts.team]\nurl = \"https://farm.example\"\ntoken_file = \"/t\"\n\
             [defaults]\nplatform = \"linux/amd64,arm64\"\nemulation = \"never\"\nprogress = \"plain\"\n",
        )
        .unwrap();
        assert_eq!(config.context.as_deref(), Some("team"));
        assert_eq!(config.context("team", "--context").unwrap().url, "https://farm.example");
        assert_eq!(config.defaults.progress(), Ok(Some(Mode::Plain)));
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        let error = |text: &str| Config::parse(text).unwrap_err();
        assert!(error("a = 1\n").starts_with("line 1: unknown field `a`"), "{}", error("a = 1\n"));
        assert!(error("context = \"x\"\n\n[contexts.x]\nurl = 3\n").starts_with("line 4: "));
        assert!(error("[defaults]\nemulation = \"nver\"\n").contains("nver"));
        assert!(error("[defaults\n").starts_with("line 1: "));
        let project = error("[contexts.x]\nurl = \"http://x\"\nproject = \"Web\"\n");
        assert!(project.starts_with("contexts.x: project \"Web\": write 1 to 40"), "{project}");
        let none = Config::parse("[contexts.team]\nurl = \"http://x\"\n").unwrap();
        let unknown = none.context("taem", "--context").unwrap_err().to_string();
        assert!(unknown.contains("did you mean team?"), "{unknown}");
    }

    #[test]
    fn defaults_are_what_their_flags_take() {
        for (key, value) in
            [("platform", "linux/amd64,linux/arm64"), ("emulation", "fallback=10m"), ("progress", "tty")]
        {
            assert_eq!(check_default(key, value), Ok(()), "{key}");
        }
        for (key, value) in
            [("platform", "linux/arm46"), ("emulation", "maybe"), ("progress", "loud"), ("plaform", "x")]
        {
            assert!(check_default(key, value).is_err(), "{key}");
        }
    }
}
