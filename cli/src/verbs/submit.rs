//! `farm submit`: from a folder to published tags.
//!
//! Check the command, find the farm, read and upload the source, submit, follow to the end ([`super::watch`]), bring what it
//! made ([`give`]). Until the build is submitted Ctrl-C and signals just end the command, since nothing was begun.
//!
//! Invariant: one invocation makes at most one build, however often the call is repeated, because each
//! repetition bears the same idempotency key and the same body.

mod args;
mod bring;
mod buildx;
mod call;
mod dry;
mod environment;
mod flag;
mod give;
mod ignored;
mod packaging;
mod plan;
mod remote;
mod results;
mod secrets;
mod templated;

use farm_proto::v1::Build;
use farm_types::snapshot::ROOT_CONTEXT;
use farm_types::{BuildSpec, Origin};

use super::expected::expected;
use super::now_ms;
use super::watch::{LEFT_ENDING, Watched, exit, left_running, mode, watch};
use crate::agents::Offering;
use crate::calls;
use crate::config::Setup;
use crate::error::{Error, Exit, Result};
use crate::fetch::Done;
use crate::input::Input;
use crate::interrupt::{Interrupts, Role};
use crate::mounts::{Mounting, environment as variable};
use crate::output::Mode;
use crate::output::Out;
use crate::output::display::Display;
use crate::output::json::{self, BuildJson, UploadJson};
use crate::output::summary::{NO_TAG, summary};
use crate::output::text::{bytes, count, harmless};
use crate::outputs::deliver::Delivered;
use crate::security::covered_for_secrets as covered;
use crate::source::Rest;
use crate::upload::{self, Uploaded};
pub use args::Args;
pub(super) use args::path_or_none;
use bring::{Bringing, Brought, Chosen, Progress, bring, look_on, partial};
use call::Asked;
use dry::DryRun;
use environment::EPOCH;
use give::Giving;
use plan::Plan;

/// Builds and publishes.
///
/// # Errors
/// Something that was asked for can't be taken, or the farm doesn't answer.
pub(crate) async fn run(mut args: Args, setup: &Setup) -> Result<Exit> {
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
    let plan = Plan::new(args, variable, Input::until(interrupts.clone()));
    if interrupts.as_ref().is_some_and(Interrupts::is_any) {
        return Err(nothing_submitted());
    }
    let mut plan = plan?;
    // Before anything is sent, and on standard error also where nothing else is said.
    let mut told = Out::stderr();
    plan.secrets().iter().for_each(|warning| told.line(&format!("warning  {warning}")));
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
    let address = match plan.mounting.is_private() {
        true => covered(&setup.address)?,
        false => setup.address.clone(),
    };
    plan.result_files.clear()?;
    let progress = Progress::default();
    let ended = tokio::select! {
        brought = Box::pin(bring(&plan, &address, &progress)) => brought,
        () = told_to_end(interrupts.as_mut()) => {
            let more = interrupts.as_ref().map_or(0, Interrupts::wishes) + 1;
            tokio::select! {
                () = progress.cancel() => {}
                () = pressed(interrupts.as_mut(), more) => {}
            }
            Err(nothing_submitted())
        }
        () = look_on(&mut display, &plan.location.shown, &progress) => return Ok(Exit::Done), // never
    };
    display.prepare(None);
    let brought = match ended {
        Ok(Bringing::Brought(brought)) => *brought,
        Ok(Bringing::Unfetched(build, said)) => {
            said.iter().for_each(|line| display.line(line));
            display.finish(Some(&build), summary(&build, &[], now_ms()));
            if as_json {
                Out::stdout().line(&json::text(&BuildJson::new(&build, None, &[])));
            }
            return Ok(exit(&build));
        }
        Err(error) => {
            display.finish(None, Vec::new());
            return Err(error);
        }
    };
    let Brought { client, source, uploaded, platforms, chosen, meant, fetched } = brought;
    fetched.iter().for_each(|(root, done)| display.line(&fetched_line(root, done)));
    if let Err(error) = giving.check(&plan, &platforms) {
        display.finish(None, Vec::new());
        return Err(error);
    }
    let platforms_told: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    let partial = meant.as_ref().map(partial).unwrap_or_default();
    let rest = Rest { location: &plan.location, is_temporary: plan.temporary.is_some() };
    let rest = (!partial.is_empty()).then_some(rest);
    let origins = fetched.iter().map(|(root, done)| (root.clone(), done.fetched.origin.clone())).collect();
    let mut spec = BuildSpec { partial, origins, ..plan.spec(uploaded.snapshot(), platforms)? };
    let commit = spec.origins.get(ROOT_CONTEXT).and_then(Origin::git);
    if plan.if_unchanged {
        spec.expected = expected(&client, &spec.tags).await?;
    }
    if let (true, Some(origin)) = (plan.takes_epoch, commit) {
        spec.build_args.insert(EPOCH.to_owned(), origin.committed_at.to_string());
    }
    let mut request = upload::request(&uploaded, &plan.idempotency_key, &spec, plan.mounting.values());
    // What isn't said here, the project says.
    if let (None, Some(spec)) = (plan.emulation, &mut request.spec) {
        spec.emulation.clear();
    }
    if let (None, Some(spec)) = (&plan.verify, &mut request.spec) {
        spec.verify.clear();
    }
    let (build, replayed) = tokio::select! {
        accepted = calls::submit(&client, request) => accepted?,
        // The first press, or signal, is heeded once the build is known.
        () = pressed(interrupts.as_mut(), 2) => {
            display.finish(None, Vec::new());
            return Err(calls::left());
        }
    };

    if lost_secrets(&plan.mounting, &build) {
        calls::cancel(&client, &build.id).await?;
        display.finish(None, Vec::new());
        let text =
            "this farm is older and takes no secrets, so the build was cancelled; have the farm updated";
        return Err(Error::Farm(text.to_owned()));
    }
    if plan.gate.is_some() && build.spec.as_ref().is_some_and(|spec| spec.gate.is_empty()) {
        calls::cancel(&client, &build.id).await?;
        display.finish(None, Vec::new());
        let text = "this farm is older and runs no gates, so the build was cancelled; have the farm updated";
        return Err(Error::Farm(text.to_owned()));
    }
    if plan.sign.is_some() && build.spec.as_ref().is_some_and(|spec| spec.sign.is_empty()) {
        calls::cancel(&client, &build.id).await?;
        display.finish(None, Vec::new());
        return Err(Error::Farm(calls::UNSIGNED.to_owned()));
    }
    let upload = UploadJson {
        files: source.files,
        new_files: uploaded.new_files,
        sent_bytes: uploaded.sent_bytes,
        seconds: uploaded.took.as_secs_f64(),
    };
    let chosen = match plan.platforms_from {
        _ if chosen == Chosen::ByProject => {
            format!("  for {}, as the project has it", platforms_told.join(", "))
        }
        _ if chosen == Chosen::Native => {
            format!("  for {}, all that is native here", platforms_told.join(", "))
        }
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

    let agents = plan.mounting.agents();
    let offering = Offering::start(&client, &build.id, agents);
    let last = match watch(&client, &build.id, &mut interrupts, &mut display, rest).await? {
        Watched::Ended(build) => *build,
        Watched::Left(exit) => {
            let mut lines = vec![left_running(&build.id)];
            lines.extend(plan.wanted.gives_out().then(|| give::LEFT.to_owned()));
            lines.extend((!agents.is_empty()).then(|| AGENT_LEFT.to_owned()));
            display.finish(None, lines);
            return Ok(exit);
        }
        Watched::Abandoned => {
            display.finish(None, vec![LEFT_ENDING.to_owned()]);
            return Ok(Exit::Cancelled);
        }
    };
    drop(offering);
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

/// What is said when the build goes on without the agent that it may ask.
const AGENT_LEFT: &str = "a step that asks your ssh agent fails without this command";

/// Whether the build may mount something or was given logins, and the farm has taken note of none of it: one of before drops what it
/// doesn't know.
fn lost_secrets(mounting: &Mounting, build: &Build) -> bool {
    let has_some = build.spec.as_ref().is_some_and(|spec| {
        !spec.secrets.is_empty() || !spec.ssh.is_empty() || !spec.registry_logins.is_empty()
    });
    !mounting.mounts().is_empty() && !has_some
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

/// Until the end was asked for so often, if anybody listens.
async fn pressed(interrupts: Option<&mut Interrupts>, times: u32) {
    match interrupts {
        Some(interrupts) => interrupts.press(times).await,
        None => std::future::pending().await,
    }
}

/// `fetched https://x.example/app.git  refs/heads/main is commit 1f2e3d4  12 files`, or of an archive its digest.
fn fetched_line(root: &str, done: &Done) -> String {
    let name = root.strip_prefix("context:").map(|name| format!(" as {name}")).unwrap_or_default();
    let files = count(usize::try_from(done.fetched.files).unwrap_or(usize::MAX), "file");
    let line = match &done.fetched.origin {
        Origin::Git(origin) => {
            let folder =
                if origin.subdir.is_empty() { String::new() } else { format!("  {}", origin.subdir) };
            let at = origin.full_ref.as_ref().map(|name| format!("{name} is ")).unwrap_or_default();
            let commit = origin.commit.short();
            format!("fetched {}{folder}{name}  {at}commit {commit}  {files}", origin.repository)
        }
        Origin::Archive(origin) => {
            format!("fetched {}{name}  {}  {files}", origin.archive, origin.digest.short())
        }
    };
    harmless(&line)
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

#[cfg(test)]
mod tests;
