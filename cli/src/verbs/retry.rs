//! `farm retry`: the same build once more.

use farm_proto::v1::{Build, RetryBuildRequest};
use farm_types::{Invalid, SecretSource};

use super::build_id;
use super::watch::{How, see_out};
use crate::agents::Offering;
use crate::calls;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::interrupt::{Interrupts, Role};
use crate::mounts::{Mounting, environment};
use crate::output::Mode;
use crate::output::Out;
use crate::output::display::Display;
use crate::output::json::{self, BuildJson};
use crate::output::text::harmless;
use crate::security::covered_for_secrets;

/// Arguments of `farm retry`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The build, as `farm builds` lists it; it has ended
    #[arg(value_name = "BUILD")]
    id: String,

    /// Build only the platforms that failed or were cancelled; take the others' results over
    #[arg(long)]
    failed_only: bool,

    /// Give a secret of the build again, as farm submit takes it: id=ID,src=FILE or id=ID,env=NAME
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,

    /// Give ssh keys of the build again, or offer the agent that it asks, as for farm submit
    #[arg(long, value_name = "SSH")]
    ssh: Vec<String>,

    /// Give a login of the build again, as your Docker configuration has it now
    #[arg(long, value_name = "HOST")]
    registry_login: Vec<String>,

    /// Return as soon as the build is accepted
    #[arg(long)]
    detach: bool,

    #[command(flatten)]
    how: How,

    /// Retrying again with the same key gives the same build [default: a random one]
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

const AFTER_HELP: &str = "\
Examples:
  farm retry 7f3k2m
  farm retry 7f3k2m --failed-only
  farm retry 7f3k2m --failed-only --detach
  farm retry 7f3k2m --secret id=npm,src=.npmrc

It is a new build of the same source with the same flags; nothing is read from this machine but
secrets: those that the build was given the farm has erased, so they have to be given again, and
an ssh agent that it asks has to be offered again. It keeps the old one's place in the order of
builds: a tag that a newer build has, or will have, isn't moved. What --failed-only takes over
must still be where it was pushed; a platform whose image is gone from the registry is built
again.

Exit codes:
  0    built and published, or left running; with --detach: accepted
  1    the build failed
  2    there is no such build, it can't be retried, or a value can't be taken
  3    no farm answers, or it refuses the token
  129  the terminal went away; the build goes on
  130  cancelled, also by SIGTERM";

/// Builds once more.
///
/// # Errors
/// There is no such build, it has not ended, or the farm can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let id = build_id(&args.id)?;
    let mode = args.how.mode(&setup.defaults)?;
    let mut display = Display::new(mode, args.how.json)?;
    let mut mounting = Mounting::read(&args.secret, &args.ssh, environment)?;
    mounting.take_logins(&args.registry_login, environment)?;
    let of_project = |source: &SecretSource| matches!(source, SecretSource::Project(_));
    if let Some((id, _)) = mounting.mounts().secrets.iter().find(|(_, source)| of_project(source)) {
        let cure = "a retry takes the project's secrets by itself, as they are now; leave it out";
        return Err(Invalid::new("--secret", id.as_str(), cure).into());
    }
    let address = match mounting.is_private() {
        true => covered_for_secrets(&setup.address)?,
        false => setup.address.clone(),
    };
    if let (true, Some(id)) = (args.detach, mounting.agents().keys().next()) {
        let cure = "with --detach nobody is there whose agent could sign; leave --detach out";
        return Err(Invalid::new("--ssh", id.as_str(), cure).into());
    }
    let mut told = Out::stderr();
    mounting.warnings().iter().for_each(|warning| told.line(&format!("warning  {warning}")));
    let client = Client::connect(&address).await?;
    let request = RetryBuildRequest {
        build_id: id.clone(),
        idempotency_key: args.idempotency_key.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        failed_only: args.failed_only,
        values: mounting.values(),
        agents: mounting.agents().keys().map(ToString::to_string).collect(),
    };
    let mut interrupts = (!args.detach).then(|| Interrupts::listen(Role::Owner));
    let pressed_twice = async {
        match &mut interrupts {
            // The first press is heeded once the build is known.
            Some(interrupts) => interrupts.press(2).await,
            None => std::future::pending().await,
        }
    };
    let (build, replayed) = tokio::select! {
        accepted = calls::retry(&client, request) => accepted?,
        () = pressed_twice => return Err(calls::left()),
    };
    display.line(&first_line(&build, &id));
    if replayed {
        display.line("this is the build that was made before with this idempotency key");
    }
    let Some(interrupts) = interrupts else {
        display.line(&format!("submitted   farm attach {}", build.id));
        display.finish(None, Vec::new());
        if args.how.json {
            Out::stdout().line(&json::text(&BuildJson::new(&build, None, &[])));
        } else if mode == Mode::Quiet {
            // What a script goes on with.
            Out::stdout().line(&build.id);
        }
        return Ok(Exit::Done);
    };
    let _offering = Offering::start(&client, &build.id, mounting.agents());
    see_out(&client, &build.id, interrupts, display, args.how.json).await
}

/// `build 9d2mxe  retry of 7f3k2m for linux/arm64; linux/amd64 is taken over`.
fn first_line(build: &Build, of: &str) -> String {
    let platforms = |taken: bool| -> Vec<&str> {
        let jobs = build.jobs.iter().filter(|job| job.taken_from.is_empty() != taken);
        jobs.map(|job| job.platform.as_str()).collect()
    };
    let (taken, anew) = (platforms(true), platforms(false));
    let is = if taken.len() == 1 { "is" } else { "are" };
    let what = match (anew.is_empty(), taken.is_empty()) {
        (_, true) => format!("for {}", anew.join(", ")),
        (true, false) => "to publish what it built".to_owned(),
        (false, false) => format!("for {}; {} {is} taken over", anew.join(", "), taken.join(", ")),
    };
    format!("build {}  retry of {of} {}", harmless(&build.id), harmless(&what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_says_what_runs_and_what_is_taken_over() {
        let job = |platform: &str, taken_from: &str| farm_proto::v1::Job {
            platform: platform.into(),
            taken_from: taken_from.into(),
            ..Default::default()
        };
        let line = |jobs| first_line(&Build { id: "9d2mxe".into(), jobs, ..Default::default() }, "7f3k2m");
        assert_eq!(
            line(vec![job("linux/amd64", "7f3k2m"), job("linux/arm64", "")]),
            "build 9d2mxe  retry of 7f3k2m for linux/arm64; linux/amd64 is taken over"
        );
        assert_eq!(
            line(vec![job("linux/amd64", "7f3k2m"), job("linux/arm64", "7f3k2m")]),
            "build 9d2mxe  retry of 7f3k2m to publish what it built"
        );
        assert_eq!(line(vec![job("linux/amd64", "")]), "build 9d2mxe  retry of 7f3k2m for linux/amd64");
    }
}
