//! `farm cancel`.

use farm_proto::v1::{Build, CancelBuildRequest};

use super::build_id;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::follow::is_final;
use crate::output::Out;

/// Arguments of `farm cancel`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  farm cancel 7f3k2m")]
pub struct Args {
    /// The build, as `farm builds` lists it
    #[arg(value_name = "BUILD")]
    id: String,
}

/// Asks for the build's end and doesn't wait for it.
///
/// # Errors
/// There is no such build, or the farm can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let id = build_id(&args.id)?;
    let client = Client::connect(&setup.address).await?;
    let request = CancelBuildRequest { build_id: id };
    let answer = client.builds().cancel_build(request).await.map_err(|e| client.error(&e))?.into_inner();
    Out::stdout().line(&told(&answer.build.unwrap_or_default()));
    Ok(Exit::Done)
}

/// What became of the wish.
pub(super) fn told(build: &Build) -> String {
    let id = &build.id;
    match build.state.as_str() {
        "cancelled" => format!("build {id} is cancelled"),
        "publishing" => format!("build {id} is being published already and stays as it is"),
        state if is_final(build) => format!("build {id} had {state} already and stays as it is"),
        _ => format!("build {id} is being cancelled   farm show {id}"),
    }
}
