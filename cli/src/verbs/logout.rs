//! `farm logout`: the token goes, and what the farm is known by stays.

use crate::config::edit::Edit;
use crate::config::kept::{forget, homeless, token_file};
use crate::config::{LOCAL, Setup, Source, path};
use crate::error::{Error, Exit, Result};
use crate::output::Out;
use crate::output::text::harmless;

/// Arguments of `farm logout`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Which of the farms in `farm config` [default: the one that is used]
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

const AFTER_HELP: &str = "\
Examples:
  farm logout
  farm logout team

The address and the CA stay, so that `farm login` knows the farm again; `farm config remove NAME`
forgets these, too.";

/// Takes away the token that is kept for a farm.
///
/// # Errors
/// There is no such farm, its token is kept by somebody else, or the file can't be taken away.
pub fn run(args: Args, setup: impl FnOnce() -> Result<Setup>) -> Result<Exit> {
    let name = match args.name {
        Some(name) => name,
        None => match setup()?.address.source {
            Source::Named(name, _) => name,
            _ => LOCAL.to_owned(),
        },
    };
    if name == LOCAL {
        return Err(Error::Usage(
            "the farm on this machine has a token of its own, which isn't kept for you; \
             `farm logout NAME` is for those that `farm config` lists"
                .to_owned(),
        ));
    }
    let edit = Edit::open(path().ok_or_else(homeless)?)?;
    let farm = edit.config().context(&name, "context")?;
    let ours = token_file(&name)?;
    let said = match &farm.token_file {
        Some(file) if *file != ours => {
            return Err(Error::Usage(format!(
                "the token for {name} is in {}, which is yours; delete it yourself",
                file.display()
            )));
        }
        Some(file) if file.exists() => {
            forget(file)?;
            format!(
                "the token for {name} ({}) is gone; the farm itself may still take it",
                harmless(&farm.url)
            )
        }
        _ => format!("there is no token for {name} ({})", harmless(&farm.url)),
    };
    Out::stdout().line(&said);
    Ok(Exit::Done)
}
