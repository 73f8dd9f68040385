//! `farm prune`: makes room, at workers ([`workers`]) or in a registry ([`registry`]).

mod registry;
mod rules;
mod workers;

use std::time::Duration;

use farm_types::TagPattern;
use farm_types::run_options::parse_bytes;
use farm_types::spec::parse_duration_within;

use super::confirm;
use crate::config::Setup;
use crate::error::{Error, Exit, Result};

/// Nobody means more.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Arguments of `farm prune`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["workers", "registry"]))]
pub struct Args {
    /// What engines keep of former builds, of these workers, or of all that are connected
    #[arg(long, value_name = "NAME", num_args = 0..)]
    workers: Option<Vec<String>>,

    /// Tags of a repository that the farm has put there for the project, with their images
    #[arg(long, value_name = "REPO")]
    registry: Option<String>,

    /// Only what nobody has used, or put there, for so long: 90m, 72h, 30d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,

    /// Of caches: only down to this size, like 20gb; 0 leaves nothing that isn't in use
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "registry")]
    keep_size: Option<u64>,

    /// Of tags: keep so many of the newest that no pattern keeps
    #[arg(long, value_name = "N", conflicts_with = "workers")]
    keep_last: Option<usize>,

    /// Of tags: keep those of this pattern, in which * is any characters; may be given several times
    #[arg(long, value_name = "PATTERN", value_parser = pattern, conflicts_with = "workers")]
    keep: Vec<TagPattern>,

    /// Say what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,

    /// Don't ask
    #[arg(long, short)]
    yes: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Examples:
  farm prune --workers --older-than 72h --dry-run
  farm prune --workers w-arm1 w-arm2 --keep-size 20gb --yes
  farm prune --registry registry.example/team/app --keep-last 10 --keep 'v*' --dry-run
  farm prune --registry registry.example/team/app --older-than 30d --yes

Engines drop the least lately used first, and never what a build that runs has in use. With both
bounds only what is older goes, and only down to that size. Workers of one engine have one cache.
For admins of the farm; the farm goes on with it when the command is ended.

Of a repository's tags those stay that the project protects, that others have put there, that a
rule keeps, or whose image another tag that stays points to. With --keep-last and --older-than a
tag goes if neither keeps it. A repository to which a build is about to publish is left alone. For
admins of the project, as farm rm; what was removed before the command is ended is gone.

Exit codes:
  0  done
  1  a part of it was done
  2  a value can't be taken, or it isn't said what is to go
  3  no farm answers, or it refuses that";

fn duration(text: &str) -> std::result::Result<Duration, String> {
    let read = parse_duration_within(text, LONGEST).filter(|age| !age.is_zero());
    read.ok_or_else(|| "write a number and a unit, like 90m, 72h or 30d".to_owned())
}

fn size(text: &str) -> std::result::Result<u64, String> {
    if text == "0" {
        return Ok(0);
    }
    parse_bytes(text).map_err(|_| "write a size like 500mb or 20gb".to_owned())
}

fn pattern(text: &str) -> std::result::Result<TagPattern, String> {
    text.parse().map_err(|error: farm_types::Invalid| error.cure)
}

/// Makes room.
///
/// # Errors
/// It isn't said what is to go, nobody can be asked whether, or the farm refuses.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    match &args.registry {
        Some(repository) => Box::pin(registry::prune(repository.parse()?, &args, setup)).await,
        None => Box::pin(workers::prune(&args, setup)).await,
    }
}

/// Asks whether to do what can't be taken back, unless that was said.
///
/// # Errors
/// Nobody can be asked, or they say no.
fn agree(args: &Args, question: &str, what: &str) -> Result<()> {
    if args.dry_run || args.yes || confirm(question, what)? {
        return Ok(());
    }
    Err(Error::Cancelled("nothing was removed".to_owned()))
}
