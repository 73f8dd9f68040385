//! `farm attach`: the view of `farm submit` on a build that is there already.

use farm_proto::v1::GetBuildRequest;

use super::show::head;
use super::watch::{How, see_out};
use super::{build_id, now_ms};
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::interrupt::{Interrupts, Role};
use crate::output::display::Display;

/// Arguments of `farm attach`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The build, as `farm builds` lists it
    #[arg(value_name = "BUILD")]
    id: String,

    #[command(flatten)]
    how: How,
}

const AFTER_HELP: &str = "\
Examples:
  farm attach 7f3k2m
  farm attach 7f3k2m --progress plain
  farm attach 7f3k2m --json

It is shown from its beginning, and the command ends with the build; of one that has ended all
that it has said and how it ended. On a terminal Ctrl-C asks whether to leave it running or to
cancel it; elsewhere it cancels it, as with `farm submit`. Other signals (SIGTERM, SIGHUP) end
only the watching. `farm logs BUILD -f` watches and touches nothing.

Exit codes:
  0    built and published, or left running
  1    the build failed
  2    there is no such build, or a value can't be taken
  3    no farm answers, or it refuses the token
  130  cancelled
  129, 143  ended by SIGHUP or SIGTERM; the build goes on";

/// Watches a build to its end.
///
/// # Errors
/// There is no such build, or the farm can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let id = build_id(&args.id)?;
    let mut display = Display::new(args.how.mode(&setup.defaults)?, args.how.json)?;
    let client = Client::connect(&setup.address).await?;
    let request = GetBuildRequest { build_id: id.clone() };
    let answer = client.builds().get_build(request).await.map_err(|e| client.error(&e))?.into_inner();
    let build = answer.build.ok_or_else(|| Error::Farm(format!("the farm gave no build for {id}")))?;
    // From here on Ctrl-C is about the build.
    let interrupts = Interrupts::listen(Role::Viewer);
    display.line(&head(&build, now_ms()));
    display.introduce(&build);
    see_out(&client, &id, interrupts, display, args.how.json).await
}
