//! `farm rules`: `.farm.yaml`, read on this machine; no farm is asked. What an event makes of it is in [`explain`].

mod explain;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use farm_rules::{FILE_NAME, MOST_BYTES, Rules};
use farm_types::chain::io_in_short;

use crate::error::{Error, Exit, Result};
use crate::output::Out;
use crate::output::text::{count, harmless};

/// Arguments of `farm rules`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    deed: Deed,
}

/// What `farm rules` can do.
#[derive(Debug, clap::Subcommand)]
enum Deed {
    /// Say all that is wrong with the file
    #[command(after_help = CHECK_HELP)]
    Check {
        /// The file; -: standard input
        #[arg(default_value = FILE_NAME, value_name = "FILE")]
        file: PathBuf,
    },
    /// Say what an event would make of the file: what would be built, and why the rest wouldn't
    #[command(after_help = explain::AFTER_HELP)]
    Explain(Box<explain::Args>),
}

const AFTER_HELP: &str = "\
Examples:
  farm rules check
  farm rules explain --ref refs/heads/main --default-branch main

A repository says in .farm.yaml what is to be built when something happens in it. Both commands
read it on this machine and ask no farm.";

const CHECK_HELP: &str = "\
Examples:
  farm rules check
  farm rules check services/.farm.yaml

Every mistake has a line FILE:LINE:COLUMN: WHAT \"VALUE\": CURE on standard error. Whether the project
may push to the destinations and use the secrets only the farm knows.

Exit codes:
  0    it is right
  2    it isn't, or it can't be read";

/// Checks or explains the file.
///
/// # Errors
/// It is wrong or can't be read, or there can't be such an event.
pub fn run(args: Args) -> Result<Exit> {
    match args.deed {
        Deed::Check { file } => {
            let rules = read(&file)?;
            let names: Vec<&str> = rules.images().iter().map(|image| image.name.as_str()).collect();
            let (file, images) = (harmless(&file.to_string_lossy()), count(names.len(), "image"));
            Out::stdout().line(&format!("{file} is right: {images} ({})", names.join(", ")));
        }
        Deed::Explain(args) => explain::run(&args)?,
    }
    Ok(Exit::Done)
}

/// Reads a file of rules. Its mistakes go to standard error, a line each.
///
/// # Errors
/// It is wrong, or can't be read.
fn read(path: &Path) -> Result<Rules> {
    read_with_text(path).map(|(rules, _)| rules)
}

/// The same, with the text.
///
/// # Errors
/// As [`read`].
pub(super) fn read_with_text(path: &Path) -> Result<(Rules, String)> {
    let name = harmless(&path.to_string_lossy());
    let failed = |e: &std::io::Error| match e.kind() {
        ErrorKind::NotFound => Error::Usage(format!(
            "{name} isn't there; it says what is built when something happens in the repository: write one, or name another"
        )),
        _ => Error::Usage(format!("{name} can't be read ({})", io_in_short(e))),
    };
    let most = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX) + 1;
    let mut bytes = Vec::new();
    let taken = if path == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    taken.map_err(|e| failed(&e))?;
    // A character may be cut where too much of it ends.
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) if e.as_bytes().len() > MOST_BYTES => String::from_utf8_lossy(e.as_bytes()).into_owned(),
        Err(_) => return Err(Error::Usage(format!("{name} is no text in UTF-8; write it anew in UTF-8"))),
    };
    let rules = Rules::parse(&text).map_err(|problems| {
        let lines = problems.iter().map(|problem| format!("{name}:{}", harmless(&problem.to_string())));
        Out::stderr().lines(lines);
        Error::Usage(format!("{name} has {}", count(problems.iter().count(), "mistake")))
    })?;
    Ok((rules, text))
}
