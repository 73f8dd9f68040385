//! `farm test`: every variant of an image, side by side.

use farm_proto::v1::Build;
use farm_types::{ImageRef, Platform};
use futures::future::{join_all, try_join_all};

use super::inspect::inspect;
use super::run::{Checked, How};
use crate::calls;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::interrupt::{Interrupts, Role};
use crate::output::text::harmless;
use crate::output::{Out, json, window};
use crate::running::compare::{Ran, TestJson, side_by_side, verdict};
use crate::running::{Ended, Told, watch};
use farm_types::lines::Lines;

/// The width where the output is no terminal.
const WIDTH: usize = 120;

/// Arguments of `farm test`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// REGISTRY/REPO[:TAG][@DIGEST]
    #[arg(value_name = "IMAGE")]
    image: String,

    /// These of the image's platforms, separated by commas [default: all]
    #[arg(long, value_name = "OS/ARCH,…")]
    platform: Vec<String>,

    #[command(flatten)]
    how: How,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Run this in place of the image's default arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

const AFTER_HELP: &str = "\
Examples:
  farm test localhost:5002/app:latest
  farm test localhost:5002/app:latest -- --version
  farm test localhost:5002/app:latest --entrypoint /bin/sh -- -c './app.py && ./selfcheck'

Runs every platform of the image as `farm run` does (see there what a run has and what it has
not), each on a worker of that platform, and shows what they wrote side by side. Lines with a bar
between them are not the same.

Exit codes:
  0    every platform ended with exit code 0
  1    one did not, or could not be run
  2    the command or a value can't be taken
  3    no farm answers, or it refuses the token
  130  cancelled (Ctrl-C, SIGTERM, SIGHUP)";

/// Runs all variants of an image.
///
/// # Errors
/// The image can't be read, or it hasn't got a platform that was named.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let reference: ImageRef = args.image.parse()?;
    let how = args.how.check(&setup.defaults)?;
    let mut chosen: Vec<Platform> = Vec::new();
    for list in &args.platform {
        chosen.extend(Platform::parse_list(list)?);
    }
    let mut interrupts = Interrupts::listen(Role::Purpose);
    let prepared = async {
        let client = Client::connect(&setup.address).await?;
        let image = inspect(&client, &reference).await?;
        Ok::<_, Error>((client, image))
    };
    let cancelled = || Error::Cancelled("cancelled".to_owned());
    let (client, image) = tokio::select! {
        prepared = prepared => prepared?,
        () = interrupts.press(1) => return Err(cancelled()),
    };
    let mut notes = Out::stderr();
    image.require_images()?;
    if chosen.is_empty() {
        for variant in image.images() {
            match variant.raw.platform.parse() {
                Ok(platform) => chosen.push(platform),
                Err(_) => notes
                    .line(&format!("{} is left out: farm runs Linux only", harmless(&variant.raw.platform))),
            }
        }
    }
    let mut known = std::collections::BTreeSet::new();
    chosen.retain(|platform| known.insert(platform.to_string()));
    if chosen.is_empty() {
        return Err(Error::Usage(format!("{reference} has no platform that farm runs")));
    }
    // Before anything runs it is seen whether all can, and all that they need is brought.
    let orders: Vec<_> = chosen
        .iter()
        .map(|platform| how.order(&image, &reference, platform, &args.command))
        .collect::<Result<_>>()?;
    let ready = tokio::select! {
        ready = try_join_all(orders.iter().map(|order| order.prepare(&client))) => ready?,
        () = interrupts.press(1) => return Err(cancelled()),
    };
    // What the farm may have accepted has to be known to be cancelled; who presses again doesn't wait for that.
    let started = tokio::select! {
        started = join_all(ready.into_iter().map(|ready| ready.start(&client))) => started,
        () = interrupts.press(2) => return Err(calls::left()),
    };
    let (builds, failed): (Vec<_>, Vec<_>) = started.into_iter().partition(Result::is_ok);
    let builds: Vec<Build> = builds.into_iter().flatten().collect();
    if let Some(Err(error)) = failed.into_iter().next() {
        // One that doesn't begin is no comparison: the others are not left running.
        join_all(builds.iter().map(|build| calls::cancel(&client, &build.id))).await;
        return Err(error);
    }
    let all =
        join_all(chosen.iter().zip(&builds).map(|(platform, build)| watched(&client, &how, platform, build)));
    let runs: Vec<Ran> = tokio::select! {
        runs = all => runs.into_iter().collect::<Result<_>>()?,
        () = interrupts.press(1) => {
            tokio::select! {
                _ = join_all(builds.iter().map(|build| calls::cancel(&client, &build.id))) => {}
                () = interrupts.press(2) => {}
            }
            return Err(cancelled());
        }
    };
    let mut out = Out::stdout();
    if args.json {
        out.line(&json::text(&TestJson::new(&image.reference, &runs)));
    } else {
        let width = window(std::io::stdout()).map_or(WIDTH, |(columns, _)| columns);
        out.lines(side_by_side(&runs, width));
        out.lines(verdict(&image.reference, &runs));
    }
    Ok(if runs.iter().all(Ran::is_good) { Exit::Done } else { Exit::BuildFailed })
}

/// Follows one run to its end.
async fn watched(client: &Client, how: &Checked, platform: &Platform, build: &Build) -> Result<Ran> {
    let mut ran = Ran {
        platform: platform.clone(),
        build: build.id.clone(),
        on: String::new(),
        lines: Vec::new(),
        ended: Ended::Cancelled,
    };
    let mut streams = [Lines::default(), Lines::default()];
    let (on, lines) = (&mut ran.on, &mut ran.lines);
    let ended = watch(client, &build.id, how.limit, |told| match told {
        Told::Started { on: where_it_is, .. } => *on = where_it_is,
        Told::Note(_) => {}
        Told::Anew => {
            lines.clear();
            streams = [Lines::default(), Lines::default()];
        }
        Told::Output(log) => {
            let new = streams[usize::from(log.stream == 2)].push(&log.data);
            lines.extend(new.into_iter().map(|line| line.replace('\t', "    ")));
        }
    })
    .await?;
    ran.lines.extend(streams.iter_mut().filter_map(Lines::finish));
    ran.ended = ended;
    Ok(ran)
}
