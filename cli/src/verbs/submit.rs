//! `farm submit`: from a folder to published tags.
//!
//! Check the command, find the farm, read and upload the source, submit, follow to the end ([`super::watch`]), bring what it
//! made ([`give`]). Until the build is submitted Ctrl-C and signals just end the command, since nothing was begun.
//!
//! Invariant: one invocation makes at most one build, however often the call is repeated, because each
//! repetition bears the same idempotency key and the same body.

mod buildx;
mod call;
mod dry;
mod environment;
mod give;
mod ignored;
mod plan;
mod results;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use farm_dockerfile::Sources;
use farm_proto::v1::GetFarmRequest;
use farm_types::snapshot::{ROOT_CONTEXT, named_root};
use farm_types::{BuildSpec, Invalid, Platform};

use super::now_ms;
use super::watch::{LEFT_ENDING, Watched, exit, left_running, mode, watch};
use crate::calls;
use crate::config::{Address, Defaults, Setup};
use crate::connect::Client;
use crate::context::Source;
use crate::error::{Error, Exit, Result};
use crate::input::Input;
use crate::interrupt::{Interrupts, Role};
use crate::output::Mode;
use crate::output::Out;
use crate::output::display::Display;
use crate::output::json::{self, BuildJson, UploadJson};
use crate::output::live::EVERY;
use crate::output::summary::{NO_TAG, summary};
use crate::output::text::{bytes, count, harmless};
use crate::outputs::deliver::Delivered;
use crate::source::{self, Rest};
use crate::switches;
use crate::upload::{Sending, Uploaded};
use buildx::Others;
use call::Asked;
use dry::DryRun;
use give::Giving;
use ignored::Ignored;
use plan::Plan;

/// What takes no longer needs no line of its own.
const MOMENT: Duration = Duration::from_millis(300);

/// Arguments of `farm submit`.
#[derive(Debug, Default, clap::Args)]
// As with buildx: of a flag that has one value the last one counts.
#[command(after_help = AFTER_HELP, args_override_self = true)]
pub struct Args {
    /// The folder that COPY and ADD read from; -: an archive, or a Dockerfile, from standard input
    #[arg(default_value = ".", value_name = "CONTEXT")]
    pub(super) context: String,

    /// Where to publish: REGISTRY/REPO:TAG; may be given several times
    #[arg(short, long, value_name = "REPO:TAG")]
    tag: Vec<String>,

    /// The platforms, separated by commas [default: all that the farm has native workers for]
    #[arg(long, value_name = "OS/ARCH,…")]
    pub(super) platform: Vec<String>,

    /// The Dockerfile [default: CONTEXT/Dockerfile]; -: from standard input
    #[arg(short, long, value_name = "FILE", value_parser = path_or_none())]
    pub(super) file: Option<PathBuf>,

    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,

    /// Set a build argument; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) build_arg: Vec<String>,

    /// Set a label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,

    /// Use no cached results
    #[arg(long)]
    no_cache: bool,

    /// Use no cached results of these stages
    #[arg(long, value_name = "STAGE,…")]
    no_cache_filter: Vec<String>,

    /// The network of RUN instructions: default or none
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,

    /// A further line of /etc/hosts for RUN instructions
    #[arg(long, value_name = "HOST=ADDRESS")]
    add_host: Vec<String>,

    /// The size of /dev/shm for RUN instructions, like 64m
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<String>,

    /// A limit for RUN instructions, like nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,

    /// Ask the registry for every base image anew
    #[arg(long)]
    pull: bool,

    /// Attach a provenance attestation: mode=min or mode=max [default: none]
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "mode=min")]
    provenance: Option<String>,

    /// The same: type=provenance,mode=max
    #[arg(long, value_name = "PARAMETERS")]
    attest: Vec<String>,

    /// What the tags of a build for one platform point to: an index, or the image's manifest itself [default: index]
    #[arg(long, value_name = "index|manifest")]
    single_platform: Option<String>,

    /// Give COPY --from=NAME and FROM NAME another source
    #[arg(long, value_name = "NAME=FOLDER|docker-image://IMAGE")]
    build_context: Vec<String>,

    /// Where links may lead to the Dockerfile and .dockerignore: buildx (as with buildx), or inside: nowhere out of the context
    /// [env: FARM_CONTEXT_LINKS] [default: buildx]
    #[arg(long, value_name = "WHERE")]
    pub(super) context_links: Option<String>,

    /// When a platform may be emulated: never, fallback, fallback=DURATION or allow [default: fallback]
    #[arg(long, value_name = "POLICY")]
    emulation: Option<String>,

    /// Fail when it isn't built within this time, like 90s, 10m or 2h, waiting included
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,

    /// Only check the Dockerfile, as farm check does
    #[arg(long)]
    pub(super) check: bool,

    /// Ask the Dockerfile's frontend instead: build, check, outline or targets, and ,format=json
    #[arg(long, value_name = "METHOD")]
    call: Option<String>,

    /// Show what would be read, built and published, and by whom; send nothing
    #[arg(long, conflicts_with_all = ["detach", "quiet"])]
    dry_run: bool,

    /// Return as soon as the build is accepted
    #[arg(long)]
    detach: bool,

    /// Write the digest of what was published to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,

    /// Write what was published to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,

    /// How to show what happens [env: FARM_PROGRESS] [default: auto]
    #[arg(long, value_enum, value_name = "HOW")]
    progress: Option<Mode>,

    /// Print only the digest of what was published
    #[arg(short, long, conflicts_with = "progress")]
    quiet: bool,

    /// Print one JSON object at the end; what happens meanwhile goes to standard error
    #[arg(long)]
    pub(super) json: bool,

    /// Submitting again with the same key gives the same build [default: a random one]
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,

    /// Give the result out: a folder, - (an archive of its files), or type=local, tar, oci, docker, registry or cacheonly
    #[arg(short, long, value_name = "FORM")]
    output: Vec<String>,

    /// Load the image into this machine's Docker engine, as --output type=docker does
    #[arg(long)]
    load: bool,

    /// Publish to the registries of the tags, as is done when neither --output nor --load is given
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    push: Option<bool>,

    #[command(flatten)]
    others: Others,

    #[command(flatten)]
    ignored: Ignored,
}

const AFTER_HELP: &str = "\
Examples:
  farm submit . -t localhost:5002/app:latest --platform linux/amd64,linux/arm64
  farm submit web -f docker/web.Dockerfile --build-arg VERSION=1.4 -t registry.example/web:1.4
  farm submit . -t registry.example/app:ci --emulation never --detach
  farm submit . -t localhost:5002/app:latest --platform linux/amd64,linux/arm64 --dry-run
  farm submit . -t app --load
  farm submit . --output out --target binaries

Flags mean what they mean to `docker buildx build`. What differs:
  Without --output, --load and --push the result is pushed to the registries of the tags.
  Without -t and without these the build shows only that it can be built.
  Provenance is attached only when it is asked for (buildx attaches mode=min).
  Without --platform it is built for all platforms that the farm has native workers for.
  A tag points to an index also of one platform; --single-platform manifest changes that.
  --build-arg BUILDKIT_SYNTAX and BUILDKIT_CACHE_MOUNT_NS are refused: farm sets them.
  What buildx has besides (--secret, --cache-to, …) is refused with what to do instead.

SOURCE_DATE_EPOCH, DOCKER_DEFAULT_PLATFORM and BUILDKIT_PROGRESS of the environment count as with
buildx; docs/reference/buildx-flags.md lists all variables, and all that differs.

Emulation policies:
  never         wait for a native worker
  fallback      emulate when no native worker is connected
  fallback=10m  the same, and also when the job has waited that long
  allow         emulate when no native slot is free

Exit codes:
  0    built and published, or given out; with --detach: accepted
  1    the build failed
  2    the command, a value or a file can't be taken
  3    no farm answers, or it refuses the token
  129  the terminal went away (SIGHUP); the build goes on: farm attach BUILD
  130  cancelled: by Ctrl-C, by SIGTERM, by SIGHUP where there is no terminal, or by farm cancel";

impl Args {
    /// Puts a person's defaults in the place of flags that are not given.
    fn take_defaults(&mut self, defaults: &Defaults) {
        if self.platform.is_empty() {
            self.platform.extend(defaults.platform.clone());
        }
        if self.emulation.is_none() {
            self.emulation.clone_from(&defaults.emulation);
        }
        if self.context_links.is_none() {
            self.context_links.clone_from(&defaults.context_links);
        }
    }
}

/// Builds and publishes.
///
/// # Errors
/// Something that was asked for can't be taken, or the farm doesn't answer.
pub async fn run(mut args: Args, setup: &Setup) -> Result<Exit> {
    args.take_defaults(&setup.defaults);
    let (detach, dry_run, as_json) = (args.detach, args.dry_run, args.json);
    let mode = mode(args.progress, args.quiet, &setup.defaults)?;
    // Of an answer standard output has nothing but it.
    let asks = args.check || args.call.as_deref().is_some_and(|method| !method.starts_with("build"));
    // A detached command that is ended ends as any other: it leaves no build to be cancelled.
    // Nobody but who waits here has a use for an answer.
    let is_answer = Asked::new(args.check, args.call.as_deref()).is_ok_and(|asked| asked.is_some());
    let role = if is_answer { Role::Purpose } else { Role::Owner };
    let mut interrupts = (!detach).then(|| Interrupts::listen(role));
    // Listened for from here on, as what came from standard input lies on the disk.
    let plan = Plan::new(args, environment, Input::until(interrupts.clone()));
    if interrupts.as_ref().is_some_and(Interrupts::is_any) {
        return Err(nothing_submitted());
    }
    let mut plan = plan?;
    let mut display = Display::new(mode, as_json || asks || plan.wanted.takes_stdout())?;
    let giving = tokio::select! {
        giving = Giving::prepare(&mut plan) => giving?,
        () = told_to_end(interrupts.as_mut()) => return Err(nothing_submitted()),
    };
    if dry_run {
        let dry = tokio::select! {
            dry = DryRun::new(&plan, &giving, &setup.address) => dry?,
            () = told_to_end(interrupts.as_mut()) => return Err(nothing_submitted()),
        };
        let mut out = Out::stdout();
        if as_json {
            out.line(&json::text(&dry))
        } else {
            out.lines(dry.lines())
        }
        return Ok(Exit::Done);
    }
    plan.result_files.clear()?;
    let sending = Arc::new(Sending::default());
    let ended = tokio::select! {
        brought = bring(&plan, &setup.address, &sending) => brought,
        () = told_to_end(interrupts.as_mut()) => Err(nothing_submitted()),
        () = look_on(&mut display, &plan.location.shown, &sending) => return Ok(Exit::Done), // never
    };
    display.prepare(None);
    let brought = match ended {
        Ok(brought) => brought,
        Err(error) => {
            display.finish(None, Vec::new());
            return Err(error);
        }
    };
    let Brought { client, source, uploaded, platforms, chosen, meant } = brought;
    if let Err(error) = giving.check(&plan, &platforms) {
        display.finish(None, Vec::new());
        return Err(error);
    }
    let platforms_told: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    let partial = meant.as_ref().map(partial).unwrap_or_default();
    let rest = Rest { location: &plan.location, is_temporary: plan.temporary.is_some() };
    let rest = (!partial.is_empty()).then_some(rest);
    let spec = BuildSpec { partial, ..plan.spec(uploaded.snapshot(), platforms)? };
    let (build, replayed) = tokio::select! {
        accepted = calls::submit(&client, uploaded.request(&plan.idempotency_key, &spec)) => accepted?,
        // The first press, or signal, is heeded once the build is known.
        () = pressed_twice(interrupts.as_mut()) => {
            display.finish(None, Vec::new());
            return Err(calls::left());
        }
    };

    let upload = UploadJson {
        files: source.files,
        new_files: uploaded.new_files,
        sent_bytes: uploaded.sent_bytes,
        seconds: uploaded.took.as_secs_f64(),
    };
    let chosen = match plan.platforms_from {
        _ if chosen => format!("  for {}, all that is native here", platforms_told.join(", ")),
        Some(variable) => format!("  for {}, by {variable}", platforms_told.join(", ")),
        None => String::new(),
    };
    display
        .line(&format!("{}{chosen}", first_line(&build.id, &plan.location.shown, &uploaded, source.files)));
    if replayed {
        display.line("this is the build that was submitted before with this idempotency key");
    }
    plan.warnings
        .iter()
        .chain(&source.warnings)
        .for_each(|warning| display.line(&format!("warning  {warning}")));
    drop(source);
    let Some(mut interrupts) = interrupts else {
        display.line(&format!("submitted   farm logs {} -f", build.id));
        display.finish(None, Vec::new());
        if as_json {
            Out::stdout().line(&json::text(&BuildJson::new(&build, Some(upload), &[])));
        } else if mode == Mode::Quiet {
            // What a script goes on with.
            Out::stdout().line(&build.id);
        }
        return Ok(Exit::Done);
    };

    let last = match watch(&client, &build.id, &mut interrupts, &mut display, rest).await? {
        Watched::Ended(build) => *build,
        Watched::Left(exit) => {
            let mut lines = vec![left_running(&build.id)];
            lines.extend(plan.wanted.gives_out().then(|| give::LEFT.to_owned()));
            display.finish(None, lines);
            return Ok(exit);
        }
        Watched::Abandoned => {
            display.finish(None, vec![LEFT_ENDING.to_owned()]);
            return Ok(Exit::Cancelled);
        }
    };
    let given = match last.state.as_str() {
        "succeeded" => giving.give(&client, &last, &plan.wanted, interrupts.clone(), &mut display).await,
        _ => Ok(Vec::new()),
    };
    let asked = plan.asked.filter(|_| last.state == "succeeded");
    match asked {
        Some(asked) => {
            let lines = asked.lines(&last, display.warnings());
            display.finish(None, Vec::new());
            if !as_json {
                Out::stdout().lines(lines);
            }
        }
        None => {
            let mut lines = summary(&last, display.warnings(), now_ms());
            if plan.wanted.is_only_cached() {
                // Tags or not, that was asked for.
                lines.retain(|line| line != NO_TAG);
            }
            // The last line is how the build ended.
            let place = lines.len().saturating_sub(1);
            let told = given.iter().flatten().flat_map(Delivered::lines);
            lines.splice(place..place, told);
            display.finish(Some(&last), lines);
        }
    }
    let given = given?;
    let image = given.iter().find_map(|delivered| delivered.image.as_ref());
    if last.state == "succeeded" {
        let files = std::mem::take(&mut plan.result_files);
        let more = interrupts.wishes() + 1;
        tokio::select! {
            written = files.write(&last, image, |note| Out::stderr().line(note)) => written?,
            () = interrupts.press(more) => {
                let text = "left; the build is done, but not all that was to be written of it was";
                return Err(Error::Cancelled(text.to_owned()));
            }
        }
    }
    if let (Mode::Quiet, false, Some(image)) = (mode, plan.wanted.pushes(), image) {
        let mut out = if plan.wanted.takes_stdout() { Out::stderr() } else { Out::stdout() };
        out.line(&image.id().to_string());
    }
    if as_json {
        let mut object = BuildJson::new(&last, Some(upload), display.warnings());
        object.outputs = given;
        Out::stdout().line(&json::text(&object));
    }
    Ok(asked.map_or_else(|| exit(&last), |asked| asked.exit(&last, display.warnings())))
}

/// What is there before the build is submitted.
struct Brought {
    client: Client,
    source: Arc<Source>,
    uploaded: Uploaded,
    platforms: Vec<Platform>,
    /// The platforms were chosen by the farm.
    chosen: bool,
    /// What of the contexts was read; `None`: all.
    meant: Option<Sources>,
}

/// How it ends when it is told to before the build is submitted.
fn nothing_submitted() -> Error {
    Error::Cancelled("cancelled; nothing was submitted".to_owned())
}

/// Until the command is to end, if anybody listens.
async fn told_to_end(interrupts: Option<&mut Interrupts>) {
    match interrupts {
        Some(interrupts) => interrupts.any().await,
        None => std::future::pending().await,
    }
}

/// Until the end was asked for twice, if anybody listens.
async fn pressed_twice(interrupts: Option<&mut Interrupts>) {
    match interrupts {
        Some(interrupts) => interrupts.press(2).await,
        None => std::future::pending().await,
    }
}

/// Shows that the source is read and sent, once that takes longer than a moment. Never ends.
async fn look_on(display: &mut Display, context: &str, sending: &Sending) {
    if !display.is_live() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(MOMENT).await;
    loop {
        let text = match sending.bytes() {
            None => format!("reading {context}"),
            Some((sent, total)) => {
                format!("sending {}  {} of {}", harmless(context), bytes(sent), bytes(total))
            }
        };
        display.prepare(Some(&text));
        display.draw(now_ms());
        tokio::time::sleep(EVERY).await;
    }
}

/// Finds the farm, reads the source and uploads it.
async fn bring(plan: &Plan, address: &Address, sending: &Arc<Sending>) -> Result<Brought> {
    // The farm is looked for while the source is read; where it isn't, the source doesn't matter.
    let finding = async {
        let client = Client::connect(address).await?;
        if !plan.platforms.is_empty() {
            return Ok((client, plan.platforms.clone()));
        }
        let about =
            client.farm().get_farm(GetFarmRequest {}).await.map_err(|e| client.error(&e))?.into_inner();
        let platforms = native(&about.native_platforms)?;
        let single = plan.single_platform.check(platforms.len(), plan.provenance);
        single.map_err(|mut e| {
            "--single-platform".clone_into(&mut e.thing);
            e
        })?;
        Ok((client, platforms))
    };
    let is_temporary = plan.temporary.is_some();
    let chosen = plan.platforms.is_empty();
    let (client, platforms, source, meant) = if chosen {
        // What is meant may depend on the platforms.
        let (client, platforms) = finding.await?;
        let meant = plan.meant(&platforms)?;
        (client, platforms, source::read(&plan.location, is_temporary, meant.as_ref()).await?, meant)
    } else {
        let meant = plan.meant(&plan.platforms)?;
        let reading = source::read(&plan.location, is_temporary, meant.as_ref());
        let ((client, platforms), source) = tokio::try_join!(finding, reading)?;
        (client, platforms, source, meant)
    };
    let (source, uploaded) =
        source::send(&client, source, &plan.location, (is_temporary, meant.as_ref()), sending).await?;
    Ok(Brought { uploaded, client, source, platforms, chosen, meant })
}

/// The roots of which a part was read, and of what, as a build names them.
fn partial(meant: &Sources) -> BTreeMap<String, Vec<String>> {
    let named = meant.named.iter().map(|(name, selection)| (named_root(name), selection));
    let all = named.chain([(ROOT_CONTEXT.to_owned(), &meant.context)]);
    all.filter_map(|(root, selection)| Some((root, selection.texts()?))).collect()
}

fn native(platforms: &[String]) -> Result<Vec<Platform>> {
    if platforms.is_empty() {
        return Err(Error::Usage(
            "no --platform was given, and the farm has no native worker now to choose from; name platforms, for example \
             --platform linux/amd64 (`farm workers` lists what there is)"
                .to_owned(),
        ));
    }
    Ok(platforms.iter().map(|platform| platform.parse()).collect::<Result<_, farm_types::Invalid>>()?)
}

/// `build 7f3k2m  app @ snapshot 9c1e…  12 files, 3 new (4.1 kB sent)`.
fn first_line(id: &str, context: &str, uploaded: &Uploaded, files: usize) -> String {
    let sent = match (uploaded.new_files, uploaded.sent_bytes) {
        (_, 0) => "all known to the farm".to_owned(),
        (new, sent) => format!("{new} new ({} sent)", bytes(sent)),
    };
    format!(
        "build {}  {} @ snapshot {}…  {}, {sent}",
        harmless(id),
        harmless(context),
        &uploaded.tree_id.hex()[..4],
        count(files, "file")
    )
}

/// A path, or nothing, which is as good as no flag.
pub(super) fn path_or_none() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// What a switch of buildx can be.
fn go_bool(text: &str) -> std::result::Result<bool, &'static str> {
    switches::go_bool(text).ok_or("write true or false")
}

/// A variable's value: of `--build-arg NAME`, and of those in [`environment`](mod@environment).
fn environment(name: &str) -> std::result::Result<Option<String>, Invalid> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            let cure = "its value in the environment is not UTF-8; give it as NAME=VALUE, or change it";
            Err(Invalid::new("variable", name, cure))
        }
    }
}

#[cfg(test)]
mod tests;
