//! The farm's keys, as whoever runs it handles them: `farm-coordinator keys`, and what a start says of them.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;

use crate::config::{Config, KeysVerb};
use crate::seal::{KeyId, Keyring, remove, rotate};
use crate::shared::Shared;

/// How often coordinators look for new keys.
pub const LOOK: Duration = Duration::from_secs(5);
/// So long after a new key came no old one is taken out: a coordinator that hasn't seen it may still seal by the old one.
const SEEN_BY_ALL: Duration = Duration::from_secs(60);

/// The keys of the configuration; makes the file when it isn't there.
///
/// # Errors
/// They can't be read, made or taken.
pub fn open(config: &Config) -> anyhow::Result<Keyring> {
    match (&config.keys_text, config.keys_file()) {
        (Some(text), _) => {
            Keyring::from_text(text.expose_secret()).context("FARM_KEYS, the farm's keys, can't be taken")
        }
        (None, Some(file)) => Keyring::of_file(&file).context("the farm's keys can't be used"),
        (None, None) => anyhow::bail!("a bug: there is neither a file nor a variable for the farm's keys"),
    }
}

/// Logs what can't be opened by the keys that are here.
pub async fn tell_of_lost(shared: &Shared) {
    let known = shared.keyring.ids();
    let used = match shared.store.keys_in_use().await {
        Ok(used) => used,
        Err(error) => return tracing::warn!(%error, "whether all keys are here is not known"),
    };
    for (id, count) in used.iter().filter(|(id, _)| known.iter().all(|known| known.as_str() != id)) {
        tracing::error!(
            key = id,
            sealed = count,
            "the farm's key by which this was sealed isn't here: builds and projects' secrets that need it will fail, until it is put \
             back into the file of keys"
        );
    }
}

/// What the command does.
///
/// # Errors
/// The file of keys or the database can't be used, or the key is needed.
pub async fn command(config: &Config, verb: &KeysVerb) -> anyhow::Result<ExitCode> {
    let in_file = || {
        config.keys_file().context(
            "the farm's keys stand in FARM_KEYS: change them there, the one that is to seal first, and start the coordinators \
             again",
        )
    };
    match verb {
        KeysVerb::Ls => {
            let keyring = match config.keys_file() {
                Some(file) if !file.exists() => {
                    anyhow::bail!(
                        "there is no key in {} yet: the coordinator's first start makes one",
                        file.display()
                    )
                }
                _ => open(config)?,
            };
            let used = crate::open_store(config)?.keys_in_use().await?;
            let ids: Vec<String> = keyring.ids().iter().map(ToString::to_string).collect();
            say(&format!("{:<14}{:<10}{}", "KEY", "SEALS", "SEALED BY IT"));
            for (place, id) in ids.iter().enumerate() {
                let count = used.iter().find(|(used, _)| used == id).map_or(0, |(_, count)| *count);
                say(&format!("{id:<14}{:<10}{count}", if place == 0 { "yes" } else { "" }));
            }
            for (id, count) in used.iter().filter(|(id, _)| !ids.contains(id)) {
                say(&format!("{id:<14}{:<10}{count}", "missing"));
            }
        }
        KeysVerb::Rotate => {
            let id: KeyId = rotate(&in_file()?)?;
            say(&format!(
                "{id} seals from now on; coordinators take it up within {} s, and the one that leads seals anew what is there. \
                 Keep a copy of the file.",
                LOOK.as_secs()
            ));
        }
        KeysVerb::Rm { id } => {
            let file = in_file()?;
            let used = crate::open_store(config)?.keys_in_use().await?;
            if let Some((_, count)) = used.iter().find(|(used, _)| used == id) {
                anyhow::bail!(
                    "{count} are sealed by {id}: without it they can't be opened; after `keys rotate` the coordinator that \
                     leads seals them anew within seconds, and logs those that can't be"
                );
            }
            let age = std::fs::metadata(&file)?.modified()?.elapsed().unwrap_or_default();
            if let Some(rest) = SEEN_BY_ALL.checked_sub(age) {
                anyhow::bail!(
                    "the keys were changed a moment ago, and a coordinator may not have seen it yet: try again in {} s",
                    rest.as_secs() + 1
                );
            }
            remove(&file, id)?;
            say(&format!("{id} is taken out"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn say(line: &str) {
    // A reader that has gone is no reason to end with an error.
    let _ = writeln!(std::io::stdout(), "{line}");
}
