//! `farm run`: a variant of an image, on a worker of its platform.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use farm_proto::v1::StepLog;
use farm_types::run_options::Network;
use farm_types::spec::parse_duration;
use farm_types::{Emulation, ImageRef, Invalid, Platform};

use super::inspect::{inspect, of_platform};
use crate::calls;
use crate::config::{Defaults, Setup};
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::image::Image;
use crate::interrupt::{Interrupts, Role};
use crate::output::Out;
use crate::output::text::harmless;
use crate::running::{Ended, Order, Setting, Told, watch};
use farm_types::lines::Lines;

/// What `docker run` and timeout(1) end with, too.
const FARM_FAILED: u8 = 125;
const TIMED_OUT: u8 = 124;

/// Arguments of `farm run`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// REGISTRY/REPO[:TAG][@DIGEST]
    #[arg(value_name = "IMAGE")]
    image: String,

    /// Which of the image's platforms [default: the only one, or the only one that is native here]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,

    #[command(flatten)]
    how: How,

    /// Say nothing but what the program says
    #[arg(short, long)]
    quiet: bool,

    /// Run this in place of the image's default arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// How an image is run; the same for `farm run` and `farm test`.
#[derive(Debug, clap::Args)]
pub struct How {
    /// Run this program in place of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,

    /// Set a variable of the environment
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// default or none
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,

    /// When it may be emulated: never, fallback, fallback=DURATION or allow [default: fallback]
    #[arg(long, value_name = "POLICY")]
    emulation: Option<String>,

    /// End it after that time, waiting for a worker included
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    timeout: String,
}

const AFTER_HELP: &str = "\
Examples:
  farm run localhost:5002/app:latest --platform linux/arm64
  farm run localhost:5002/app:latest --platform linux/arm64 -- --version
  farm run python:3.11-slim --platform linux/amd64 --entrypoint python3 -- -c 'print(1)'

What runs is a step of a build: the image's environment, user and folder, a copy of its files that
is dropped at the end, the engine's network. There is no terminal, no standard input, no port and
no volume; the engine may cut what is written after 2 MiB. Nothing is taken from a cache. A worker
that is lost has its run begun anew on another.

Exit codes:
  N    what the program ended with
  124  it took longer than --timeout
  125  it could not be run; why stands on standard error
  130  cancelled (Ctrl-C, SIGTERM, SIGHUP)";

/// A run asks for no entitlements.
fn network(text: Option<&str>) -> Result<Network, Invalid> {
    match text.map(str::parse).transpose()?.unwrap_or_default() {
        Network::Host => Err(Invalid::new(
            "--network",
            "host",
            "the engine's own network is for builds only that may (farm submit --allow); write default or none",
        )),
        network => Ok(network),
    }
}

impl How {
    /// Checks all that can be checked here.
    ///
    /// # Errors
    /// The first thing that can't be taken.
    pub fn check(&self, defaults: &Defaults) -> Result<Checked> {
        let emulation = self.emulation.as_deref().or(defaults.emulation.as_deref());
        Ok(Checked {
            environment: self.env.iter().map(|text| text.parse()).collect::<Result<_, Invalid>>()?,
            network: network(self.network.as_deref())?,
            emulation: emulation.map(str::parse).transpose()?.unwrap_or_default(),
            limit: parse_duration(&self.timeout).filter(|limit| !limit.is_zero()).ok_or_else(|| {
                Invalid::new("--timeout", &self.timeout, "write a time like 90s, 10m or 2h, at most 30 days")
            })?,
            entrypoint: self.entrypoint.clone(),
        })
    }
}

/// [`How`], checked.
#[derive(Debug)]
pub struct Checked {
    environment: Vec<Setting>,
    network: Network,
    emulation: Emulation,
    /// How long a run may take.
    pub limit: Duration,
    entrypoint: Option<String>,
}

impl Checked {
    /// What is to be run of this image on this platform.
    ///
    /// # Errors
    /// The image hasn't got the platform, or has nothing to run.
    pub fn order(
        &self,
        image: &Image,
        reference: &ImageRef,
        platform: &Platform,
        arguments: &[String],
    ) -> Result<Order> {
        let variant = of_platform(image, platform)?;
        Ok(Order {
            repository: reference.repository.clone(),
            digest: variant.raw.digest.clone(),
            shown: reference.to_string(),
            platform: platform.clone(),
            command: Order::command(variant, self.entrypoint.as_deref(), arguments)?,
            environment: self.environment.clone(),
            network: self.network,
            emulation: self.emulation,
        })
    }
}

/// Runs a variant of an image.
///
/// # Errors
/// None: what went wrong is told here, since the exit code is the program's.
pub(crate) async fn run(args: Args, setup: impl FnOnce() -> Result<Setup>) -> Result<Exit> {
    let mut notes = Out::stderr();
    match attempt(args, setup, &mut notes).await {
        Ok(exit) => Ok(exit),
        Err(error @ Error::Cancelled(_)) => Err(error),
        Err(error) => {
            notes.lines(error.shown().lines());
            Ok(Exit::Of(FARM_FAILED))
        }
    }
}

async fn attempt(args: Args, setup: impl FnOnce() -> Result<Setup>, notes: &mut Out) -> Result<Exit> {
    let setup = setup()?;
    let reference: ImageRef = args.image.parse()?;
    let platform = args.platform.as_deref().map(str::parse::<Platform>).transpose()?;
    let how = args.how.check(&setup.defaults)?;
    let mut interrupts = Interrupts::listen(Role::Purpose);
    let prepared = async {
        let client = Client::connect(&setup.address).await?;
        let image = inspect(&client, &reference).await?;
        let platform = match platform {
            Some(platform) => platform,
            None => only(&client, &image).await?,
        };
        let ready = how.order(&image, &reference, &platform, &args.command)?.prepare(&client).await?;
        Ok::<_, Error>((client, platform, ready))
    };
    let (client, platform, ready) = tokio::select! {
        prepared = prepared => prepared?,
        () = interrupts.press(1) => return Err(Error::Cancelled("cancelled; nothing was run".to_owned())),
    };
    // What the farm may have accepted has to be known to be cancelled; who presses again doesn't wait for that.
    let build = tokio::select! {
        build = ready.start(&client) => build?,
        () = interrupts.press(2) => return Err(calls::left()),
    };
    if !args.quiet {
        notes.line(&format!("run {}  {reference}  {platform}", harmless(&build.id)));
    }
    let mut stdout = Sink::new(std::io::stdout().is_terminal(), Box::new(std::io::stdout()));
    let mut stderr = Sink::new(std::io::stderr().is_terminal(), Box::new(std::io::stderr()));
    let watching = watch(&client, &build.id, how.limit, |told| match told {
        Told::Note(note) if !args.quiet => notes.line(&format!("{platform}  {note}")),
        Told::Started { on, why } if !args.quiet => {
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            notes.line(&format!("{platform}  {on}{why}"));
        }
        Told::Anew => {
            stdout.finish();
            stderr.finish();
        }
        Told::Note(_) | Told::Started { .. } => {}
        Told::Output(log) if log.stream == 2 => stderr.take(log),
        Told::Output(log) => stdout.take(log),
    });
    let ended = tokio::select! {
        ended = watching => ended?,
        () = interrupts.press(1) => {
            tokio::select! {
                cancelled = calls::cancel(&client, &build.id) => cancelled?,
                () = interrupts.press(2) => {}
            }
            return Err(Error::Cancelled(format!("cancelled   farm logs {}", build.id)));
        }
    };
    stdout.finish();
    stderr.finish();
    match ended {
        // As a shell does it, codes are a byte.
        Ended::Exited(code) => Ok(Exit::Of(u8::try_from(code & 0xff).unwrap_or(u8::MAX))),
        Ended::Cancelled => Err(Error::Cancelled(format!("build {} was cancelled", build.id))),
        Ended::TimedOut => {
            notes.line(&format!(
                "error: --timeout: it was not done within {}, and was cancelled   farm logs {}",
                args.how.timeout, build.id
            ));
            Ok(Exit::Of(TIMED_OUT))
        }
        Ended::Failed(why) => {
            notes.line(&format!("error: {why}   farm logs {}", build.id));
            Ok(Exit::Of(FARM_FAILED))
        }
    }
}

/// The platform that is meant when none is named.
async fn only(client: &Client, image: &Image) -> Result<Platform> {
    image.require_images()?;
    let there: Vec<Platform> = image.images().filter_map(|v| v.raw.platform.parse().ok()).collect();
    if let [one] = &there[..] {
        return Ok(one.clone());
    }
    let request = farm_proto::v1::GetFarmRequest {};
    let about = client.farm().get_farm(request).await.map_err(|e| client.error(&e))?.into_inner();
    let mut native = there.into_iter().filter(|p| about.native_platforms.contains(&p.to_string()));
    match (native.next(), native.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(Error::Usage(format!(
            "{} has {}; choose one with --platform",
            image.reference,
            image.platforms()
        ))),
    }
}

/// Where a program's output goes: as it is, or to a terminal line by line and made harmless.
struct Sink {
    lines: Option<Lines>,
    to: Box<dyn std::io::Write + Send>,
}

impl Sink {
    fn new(is_terminal: bool, to: Box<dyn std::io::Write + Send>) -> Self {
        Self { lines: is_terminal.then(Lines::default), to }
    }

    fn take(&mut self, log: &StepLog) {
        // A reader that is gone has had enough; the program's exit code still counts.
        let _ = match &mut self.lines {
            None => self.to.write_all(&log.data),
            Some(lines) => lines.push(&log.data).iter().try_for_each(|line| writeln!(self.to, "{line}")),
        };
        let _ = self.to.flush();
    }

    fn finish(&mut self) {
        if let Some(line) = self.lines.as_mut().and_then(Lines::finish) {
            let _ = writeln!(self.to, "{line}");
        }
        let _ = self.to.flush();
    }
}
