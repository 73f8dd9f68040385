//! The farm's keys, as whoever runs it handles them: `farm-coordinator keys`, and what a start says of them.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use farm_store::machines::keys::KeysOf;
use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

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

/// Tells the other coordinators which keys are here, and agrees with them by which is sealed: a key that one of them hasn't yet seals
/// nothing.
pub(crate) async fn agree(shared: &Shared) {
    let ids: Vec<String> = shared.keyring.ids().iter().map(ToString::to_string).collect();
    let silence = shared.config.leadership.silence();
    let known = match shared.store.note_keys(shared.id, &ids).await {
        Ok(()) => shared.store.keys_of_coordinators(silence).await,
        Err(error) => Err(error),
    };
    let known = match known {
        Ok(known) => known,
        // It stays what it was.
        Err(error) => {
            return tracing::debug!(%error, "it can't be asked which keys the other coordinators have");
        }
    };
    let others = known.iter().filter(|of| of.coordinator != shared.id).map(|of| &of.ids[..]);
    let Some(seals) = shared.keyring.agree(others) else { return };
    let lacking = lacking(&known, ids.first());
    if shared.keyring.seals_by_newest() {
        tracing::info!(key = %seals, "by this key of the farm is sealed from now on");
    } else {
        tracing::warn!(
            key = %seals,
            newest = ids.first(),
            "not all coordinators have the farm's newest key, so an older one seals: give their files of keys the same; those without it: \
             {lacking}"
        );
    }
}

/// The addresses of coordinators that haven't this key.
fn lacking(known: &[KeysOf], key: Option<&String>) -> String {
    let lack = known.iter().filter(|of| key.is_some_and(|key| !of.ids.contains(key)));
    lack.map(|of| of.address.as_str()).collect::<Vec<_>>().join(", ")
}

/// Logs what can't be opened by the keys that are here.
pub(crate) async fn tell_of_lost(shared: &Shared) {
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
pub(crate) async fn command(config: &Config, verb: &KeysVerb) -> anyhow::Result<ExitCode> {
    let in_file = || {
        config.keys_file().context(
            "the farm's keys stand in FARM_KEYS: change them there. First put the new key behind the others and start all coordinators \
             again; then put it in front, which seals, and start them once more",
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
            let store = crate::open_store(config)?;
            let used = store.keys_in_use().await?;
            let ids: Vec<String> = keyring.ids().iter().map(ToString::to_string).collect();
            say(&format!("{:<14}{:<10}{}", "KEY", "SEALS", "SEALED BY IT"));
            for (place, id) in ids.iter().enumerate() {
                let count = used.iter().find(|(used, _)| used == id).map_or(0, |(_, count)| *count);
                say(&format!("{id:<14}{:<10}{count}", if place == 0 { "yes" } else { "" }));
            }
            for (id, count) in used.iter().filter(|(id, _)| !ids.contains(id)) {
                say(&format!("{id:<14}{:<10}{count}", "missing"));
            }
            let lacking =
                lacking(&store.keys_of_coordinators(config.leadership.silence()).await?, ids.first());
            if let (Some(newest), false) = (ids.first(), lacking.is_empty()) {
                let _ = writeln!(
                    std::io::stderr(),
                    "{newest} seals nothing yet, as coordinators haven't got it: {lacking}"
                );
            }
        }
        KeysVerb::Rotate => {
            let id: KeyId = rotate(&in_file()?)?;
            say(&format!(
                "{id} seals as soon as all coordinators have it: those that share this file take it up within {} s, and others have to be \
                 given it (`farm-coordinator keys ls` says whether one lacks it). Then the one that leads seals anew what is there. Keep a \
                 copy of the file.",
                LOOK.as_secs()
            ));
        }
        KeysVerb::Rm { id } => {
            let file = in_file()?;
            let store = crate::open_store(config)?;
            let used = store.keys_in_use().await?;
            let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let newest = Keyring::from_text(&Zeroizing::new(text))?.newest().map(|newest| newest.to_string());
            let lacking =
                lacking(&store.keys_of_coordinators(config.leadership.silence()).await?, newest.as_ref());
            if let (Some(newest), false) = (&newest, lacking.is_empty()) {
                anyhow::bail!(
                    "coordinators haven't got the newest key, {newest}, and go on with an older one: {lacking}; give them the file first"
                );
            }
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
