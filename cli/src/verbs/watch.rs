//! Follows a build to its end: shows it, and does what Ctrl-C and signals ask for. The same for `farm submit`, `attach` and
//! `retry`.
//!
//! On a terminal the first Ctrl-C asks whether to leave the build running or to cancel it, and the second cancels it.
//! Elsewhere nobody can be asked, so the first one cancels; so does a signal that means the build
//! ([`crate::interrupt`]). One more leaves at once: the farm ends the build all the same.

use std::cell::RefCell;

use farm_proto::v1::Build;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::calls::cancel;
use crate::config::Defaults;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::follow::{Seen, follow};
use crate::interrupt::Interrupts;
use crate::keys::Keys;
use crate::output::Mode;
use crate::output::Out;
use crate::output::display::Display;
use crate::output::json::{self, BuildJson};
use crate::output::live::EVERY;
use crate::output::summary::summary;
use crate::output::text::bytes;
use crate::source::Rest;
use crate::verbs::now_ms;

/// How a build is shown; the flags of `farm attach` and `farm retry`.
#[derive(Debug, Clone, clap::Args)]
pub struct How {
    /// How to show what happens [env: FARM_PROGRESS] [default: auto]
    #[arg(long, value_enum, value_name = "HOW")]
    progress: Option<Mode>,

    /// Print only the digest of what was published
    #[arg(short, long, conflicts_with = "progress")]
    quiet: bool,

    /// Print one JSON object at the end; what happens meanwhile goes to standard error
    #[arg(long)]
    pub(super) json: bool,
}

impl How {
    /// The way that was asked for.
    ///
    /// # Errors
    /// The environment or the settings name none that there is.
    pub(super) fn mode(&self, defaults: &Defaults) -> Result<Mode> {
        mode(self.progress, self.quiet, defaults)
    }
}

/// The way that flags and settings ask for.
///
/// # Errors
/// The environment or the settings name none that there is.
pub(super) fn mode(progress: Option<Mode>, quiet: bool, defaults: &Defaults) -> Result<Mode> {
    Ok(match progress {
        _ if quiet => Mode::Quiet,
        Some(mode) => mode,
        // Where there is no terminal a habit of tty is no mistake.
        None => match defaults.progress()?.unwrap_or_default() {
            Mode::Tty => Mode::Auto,
            mode => mode,
        },
    })
}

/// Watches a build to its end, and says how it ended: the last part of a command.
///
/// # Errors
/// The farm can't be asked any more.
pub(super) async fn see_out(
    client: &Client,
    id: &str,
    interrupts: Interrupts,
    display: Display,
    as_json: bool,
) -> Result<Exit> {
    Ok(Box::pin(see_end(client, id, interrupts, display, as_json)).await?.0)
}

/// The same, with what it was at its end, if that was seen.
///
/// # Errors
/// The farm can't be asked any more.
pub(super) async fn see_end(
    client: &Client,
    id: &str,
    mut interrupts: Interrupts,
    mut display: Display,
    as_json: bool,
) -> Result<(Exit, Option<Box<Build>>)> {
    let last = match watch(client, id, &mut interrupts, &mut display, None).await? {
        Watched::Ended(build) => *build,
        Watched::Left(exit) => {
            display.finish(None, vec![left_running(id)]);
            return Ok((exit, None));
        }
        Watched::Abandoned => {
            display.finish(None, vec![LEFT_ENDING.to_owned()]);
            return Ok((Exit::Cancelled, None));
        }
    };
    let lines = summary(&last, display.warnings(), now_ms());
    display.finish(Some(&last), lines);
    if as_json {
        Out::stdout().line(&json::text(&BuildJson::new(&last, None, display.warnings())));
    }
    Ok((exit(&last), Some(Box::new(last))))
}

/// The last line of a command whose user did not wait for the end of a build that was to be cancelled.
pub(super) const LEFT_ENDING: &str = "left; the farm still ends the build";

/// The last line of a command whose user left the build running.
pub(super) fn left_running(id: &str) -> String {
    format!("left running   farm attach {id}")
}

/// How a command ends whose build has ended so.
pub(super) fn exit(build: &Build) -> Exit {
    match build.state.as_str() {
        "succeeded" => Exit::Done,
        "cancelled" => Exit::Cancelled,
        _ => Exit::BuildFailed,
    }
}

/// How the watching ended.
#[derive(Debug)]
pub(super) enum Watched {
    /// With the build, which is final.
    Ended(Box<Build>),
    /// The build goes on; so the command ends.
    Left(Exit),
    /// The build was to be cancelled, which the farm does without the command.
    Abandoned,
}

/// Watches until the build has ended, or is left running. `rest` is the whole of a source of which a part was sent.
///
/// # Errors
/// The farm can't be asked any more, or the rest of the source can't be sent; then the build is cancelled.
pub(super) async fn watch(
    client: &Client,
    id: &str,
    interrupts: &mut Interrupts,
    display: &mut Display,
    rest: Option<Rest<'_>>,
) -> Result<Watched> {
    let display = RefCell::new(display);
    let is_live = display.borrow().is_live();
    let (want, wanted) = tokio::sync::watch::channel(false);
    let following = follow(client, id, true, sleep, |seen| {
        if let Seen::Build(build) = &seen {
            want.send_replace(build.source_is_wanted);
        }
        display.borrow_mut().seen(&seen, now_ms());
    });
    let drawing = async {
        let mut rounds = interval(EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            display.borrow_mut().draw(now_ms());
        }
    };
    let mut leaving = interrupts.clone();
    let last = tokio::select! {
        last = following => last?,
        left = heed(client, id, interrupts, &display) => return Ok(left),
        exit = leaving.leaving() => return Ok(Watched::Left(exit)),
        error = complete(client, id, rest, wanted, &display) => {
            cancel(client, id).await?;
            return Err(error);
        }
        () = drawing, if is_live => None,
    };
    let nothing = || Error::Farm(format!("the farm at {} told nothing of build {id}", client.url()));
    last.map(|build| Watched::Ended(Box::new(build))).ok_or_else(nothing)
}

/// Sends the whole source whenever the build wants it. Returns only when that can't be done.
async fn complete(
    client: &Client,
    id: &str,
    rest: Option<Rest<'_>>,
    mut wanted: tokio::sync::watch::Receiver<bool>,
    display: &RefCell<&mut Display>,
) -> Error {
    let Some(rest) = rest else { return std::future::pending().await };
    loop {
        if wanted.wait_for(|wanted| *wanted).await.is_err() {
            return std::future::pending().await;
        }
        display
            .borrow_mut()
            .line("the build needs more of its source than the Dockerfile names: sending all of it");
        match rest.send(client, id).await {
            Ok(uploaded) => {
                let sent = bytes(uploaded.sent_bytes);
                display.borrow_mut().line(&format!("all of the source is there ({sent} sent)"));
            }
            Err(error) => return error,
        }
        if wanted.wait_for(|wanted| !*wanted).await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Does what is asked for; returns when the user leaves the build, running or not. The command ends as any other then, so that
/// what it has put on the disk goes.
async fn heed(
    client: &Client,
    id: &str,
    interrupts: &mut Interrupts,
    display: &RefCell<&mut Display>,
) -> Watched {
    let can_ask = display.borrow().is_live() && Keys::can_be_read();
    let mut presses = 1;
    interrupts.press(presses).await;
    loop {
        if !can_ask || interrupts.is_told() {
            break;
        }
        let question =
            format!("build {id}: l leaves it running, c cancels it, any other key goes on watching");
        display.borrow_mut().ask(Some(&question));
        let answer = tokio::select! {
            key = Keys::one() => key,
            () = interrupts.press(presses + 1) => Some(b'c'),
        };
        display.borrow_mut().ask(None);
        match answer {
            Some(b'l' | b'L') => return Watched::Left(Exit::Done),
            Some(b'c' | b'C') => break,
            _ => {
                presses += 1;
                interrupts.press(presses).await;
            }
        }
    }
    display.borrow_mut().line(&format!("cancelling build {id}; Ctrl-C again to leave at once"));
    // A farm that doesn't answer must not keep the next one from being heard.
    let leave = interrupts.wishes() + 1;
    tokio::select! {
        cancelled = cancel(client, id) => {
            if let Err(error) = cancelled {
                display.borrow_mut().line(&format!("error: {error}"));
            }
            interrupts.press(leave).await;
        }
        () = interrupts.press(leave) => {}
    }
    Watched::Abandoned
}
