//! `farm config`: farms by name, and defaults of flags.

use std::path::{Path, PathBuf};

use farm_types::ProjectName;
use serde_json::{Value, json};

use super::{logout, of_flag};
use crate::config::DEFAULT_URL;
use crate::config::edit::Edit;
use crate::config::kept::{
    absolute, ca_file, forget, forget_token, homeless, is_same, kept_sign_in, replace_token, token_file,
    token_of,
};
use crate::config::{Config, KEYS, LOCAL, NamedFarm, Setup, Source, path};
use crate::error::{Exit, Result};
use crate::output::text::{columns, harmless};
use crate::output::{Out, json};

/// Arguments of `farm config`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to change; without it what is set is shown
    #[command(subcommand)]
    change: Option<Change>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `farm config` can change.
#[derive(Debug, clap::Subcommand)]
enum Change {
    /// Add a farm by a name of your choice
    Add(Add),
    /// Use this farm when nothing else is said; local is the one on this machine
    Use {
        /// A name that was added, or local
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Forget a farm, and end what came of signing in to it
    Remove {
        /// A name that was added
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Set what a flag means when it isn't given: platform, emulation, progress or context-links
    Set {
        /// platform, emulation, progress or context-links
        #[arg(value_name = "KEY")]
        key: String,
        /// What the flag takes
        #[arg(value_name = "VALUE")]
        value: String,
    },
    /// Take a default back
    Unset {
        /// platform, emulation, progress or context-links
        #[arg(value_name = "KEY")]
        key: String,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    /// Letters, digits, dots, hyphens and underscores
    #[arg(value_name = "NAME")]
    name: String,

    /// Where the farm is: http://HOST:PORT or https://HOST
    #[arg(value_name = "ADDRESS")]
    address: String,

    /// The file with the token for it; it is read anew each time
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Read the token from standard input and keep it in a file that is yours only
    #[arg(long, conflicts_with = "token_file")]
    token_stdin: bool,

    /// Change a farm that is there already
    #[arg(long)]
    replace: bool,
}

const AFTER_HELP: &str = "\
Examples:
  farm config
  farm config add team https://farm.example --token-stdin <token
  farm config add team https://farm.example --ca ca.pem --token-file token
  farm config add web https://farm.example --token-stdin --project web <token
  farm config use team
  farm builds --context team
  farm config set platform linux/amd64,linux/arm64

Which farm is meant is said by the first of: --url, --context, FARM_URL, FARM_CONTEXT, `farm
config use`; else it is the one on this machine. FARM_TOKEN and FARM_TOKEN_FILE count before a
context's own token; a context's token goes nowhere else. Which project is meant there is said by
the first of: --project, FARM_PROJECT, the context; else it is your only one. It all stands in
~/.config/farm/config.toml (FARM_CONFIG names another file), which may be edited by hand.";

/// Shows or changes what is set.
///
/// # Errors
/// A name or a value can't be taken, or the file can't be read or written.
pub(crate) async fn run(
    args: Args,
    url: Option<&str>,
    context: Option<&str>,
    (ca, project): (Option<&Path>, Option<&str>),
) -> Result<Exit> {
    let mut out = Out::stdout();
    let Some(change) = args.change else {
        show(&mut out, args.json, &Setup::find(url, context, ca, project)?)?;
        return Ok(Exit::Done);
    };
    let mut edit = Edit::open(path().ok_or_else(homeless)?)?;
    let said = match change {
        Change::Add(add) => {
            let said = self::add(edit, add, ca, project).await?;
            out.line(&said);
            return Ok(Exit::Done);
        }
        Change::Use { name } => {
            edit.choose(&name)?;
            let url = edit.config().contexts.get(&name).map_or(DEFAULT_URL, |context| context.url.as_str());
            format!("{name} ({}) is used from now on", harmless(url))
        }
        Change::Remove { name } => {
            let said = remove(edit, &name).await?;
            out.line(&said);
            return Ok(Exit::Done);
        }
        Change::Set { key, value } => {
            edit.set(&key, Some(&value))?;
            format!("--{key} is {value} where it isn't given")
        }
        Change::Unset { key } => {
            edit.set(&key, None)?;
            format!("--{key} has no default of yours any more")
        }
    };
    edit.save()?;
    out.line(&said);
    Ok(Exit::Done)
}

async fn remove(mut edit: Edit, name: &str) -> Result<String> {
    edit.remove(name)?;
    let was = edit.config().context.as_deref() == Some(name);
    let now = if was { "; what is used now is the farm on this machine" } else { "" };
    let farm = edit.config().contexts.get(name).cloned();
    // What isn't forgotten has lost nothing.
    edit.save()?;
    let mut has_ended = false;
    if let Some(farm) = farm {
        // Made by `add --token-stdin` and `farm login`.
        if let Some(ours) = token_file(name).ok().filter(|ours| farm.token_file.as_ref() == Some(ours)) {
            if let Some(sign_in) = kept_sign_in(&ours) {
                // By the CA that goes next.
                has_ended = logout::end_former(&farm, sign_in).await;
            }
            forget_token(&ours)?;
        }
        if let Some(ours) = ca_file(name).ok().filter(|ours| farm.ca_file.as_ref() == Some(ours)) {
            forget(&ours)?;
        }
    }
    let ended = if has_ended { ", and your sign-in there has ended" } else { "" };
    Ok(format!("{name} is forgotten{ended}{now}"))
}

async fn add(mut edit: Edit, add: Add, ca: Option<&Path>, project: Option<&str>) -> Result<String> {
    let Add { name, address, token_file: named, token_stdin, replace } = add;
    let url = address.trim_end_matches('/');
    let project: Option<ProjectName> = project.map(|project| of_flag("--project", project)).transpose()?;
    let kept = match named {
        Some(file) => Some(absolute("--token-file", &file)?),
        None if token_stdin => Some(token_file(&name)?),
        None => None,
    };
    let ca_file = ca.map(|file| absolute("--ca", file)).transpose()?;
    if let Some(file) = &ca_file {
        farm_client::Trust::from_file(file).map_err(|e| crate::error::Error::Usage(format!("--ca: {e}")))?;
    }
    // All is checked before anything is written.
    let project = project.map(|name| name.to_string());
    let farm = NamedFarm { url: url.to_owned(), token_file: kept.clone(), ca_file, project };
    let before = edit.config().contexts.get(&name).cloned();
    edit.add(&name, &farm, replace)?;
    let token = if token_stdin { Some(token_of(std::io::stdin())?) } else { None };
    let ours = token_file(&name).ok();
    let is_ours =
        |file: Option<&PathBuf>| file.zip(ours.as_ref()).is_some_and(|(file, ours)| is_same(file, ours));
    // What was kept here for the farm that was there, and isn't any more.
    let former = before.filter(|before| is_ours(before.token_file.as_ref()));
    let former = former.filter(|_| token_stdin || !is_ours(kept.as_ref())).zip(ours.clone());
    let mut former_sign_in = former.as_ref().and_then(|(_, ours)| kept_sign_in(ours));
    if let (Some(token), Some(file)) = (token, &kept) {
        // Of the same token, which is written there once more, the end stays known.
        let goes_on = former_sign_in.take_if(|former| former.token == token.trim());
        replace_token(file, &token, goes_on.and_then(|is| is.ends_ms), edit)?;
    } else {
        edit.save()?;
    }
    if let (Some((farm, ours)), Some(sign_in)) = (former, former_sign_in) {
        logout::end_former(&farm, sign_in).await;
        if !token_stdin {
            forget_token(&ours)?;
            let ours = ours.display();
            Out::stderr().line(&format!("{ours}, with the token of your former sign-in, is removed"));
        }
    }
    let file = kept.map(|file| format!(", its token in {}", file.display())).unwrap_or_default();
    let project = farm.project.map(|project| format!(", project {project}")).unwrap_or_default();
    Ok(format!("{name} is {}{project}{file}; `farm config use {name}` makes it the usual one", harmless(url)))
}

fn show(out: &mut Out, as_json: bool, setup: &Setup) -> Result<()> {
    let file = path();
    let config = file.as_deref().map(Config::load).transpose()?.unwrap_or_default();
    let used = match &setup.address.source {
        Source::Named(name, _) => name.as_str(),
        Source::Nobody => LOCAL,
        Source::Flag | Source::Environment => "",
    };
    if as_json {
        let contexts: Vec<Value> = config
            .contexts
            .iter()
            .map(
                |(name, context)| json!({
                    "name": name, "url": context.url, "token_file": context.token_file, "ca_file": context.ca_file,
                    "project": context.project,
                }),
            )
            .collect();
        let defaults: serde_json::Map<String, Value> =
            KEYS.iter().map(|key| ((*key).to_owned(), config.defaults.get(key).into())).collect();
        let source = match &setup.address.source {
            Source::Flag => "--url",
            Source::Environment => "FARM_URL",
            Source::Named(_, "--context") => "--context",
            Source::Named(_, "FARM_CONTEXT") => "FARM_CONTEXT",
            Source::Named(..) => "configuration",
            Source::Nobody => "default",
        };
        let project = setup.address.project.as_ref().map(|(name, _)| name.as_str());
        let used = Some(used).filter(|name| !name.is_empty());
        out.line(&json::text(&json!({
            "file": file, "contexts": contexts, "defaults": defaults,
            "used": {"context": used, "url": setup.address.url, "from": source, "project": project},
        })));
        return Ok(());
    }
    let with_projects = config.contexts.values().any(|context| context.project.is_some());
    let head = ["", "FARM", "ADDRESS", if with_projects { "PROJECT" } else { "" }, "TOKEN"];
    let mut rows = vec![head.map(ToOwned::to_owned).to_vec()];
    let mark = |name: &str| if name == used { "*" } else { "" }.to_owned();
    rows.push(
        [mark(LOCAL).as_str(), LOCAL, DEFAULT_URL, "", "(this machine's)"].map(ToOwned::to_owned).to_vec(),
    );
    for (name, context) in &config.contexts {
        let token = match &context.token_file {
            Some(file) => harmless(&file.display().to_string()),
            None => "(as for any farm)".to_owned(),
        };
        let project = context.project.clone().unwrap_or_default();
        rows.push(vec![mark(name), harmless(name), harmless(&context.url), project, token]);
    }
    out.lines(columns(&rows));
    for key in KEYS {
        if let Some(value) = config.defaults.get(key) {
            out.line(&format!("--{key}  {}", harmless(value)));
        }
    }
    out.line(&match file {
        Some(file) if file.exists() => format!("file  {}", file.display()),
        Some(file) => format!("file  {}, which isn't there yet", file.display()),
        None => "file  none, since neither HOME nor XDG_CONFIG_HOME names a folder".to_owned(),
    });
    let url = harmless(&setup.address.url);
    out.line(&match &setup.address.source {
        Source::Flag => format!("used  {url}, from --url"),
        Source::Environment => format!("used  {url}, from FARM_URL"),
        Source::Named(name, from) => format!("used  {} ({url}), from {from}", harmless(name)),
        Source::Nobody => format!("used  {url}, since nothing else is set"),
    });
    if let Some((name, from)) = &setup.address.project {
        out.line(&format!("used  project {name}, from {from}"));
    }
    Ok(())
}
