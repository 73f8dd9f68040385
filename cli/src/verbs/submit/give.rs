//! What a build made, into the hands of whoever asked for it: seen to before the build, brought after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use farm_proto::v1::Build;
use farm_types::{Invalid, Platform};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::now_ms;
use super::plan::Plan;
use crate::connect::Client;
use crate::error::{Error, Result};
use crate::interrupt::Interrupts;
use crate::output::display::Display;
use crate::output::live::EVERY;
use crate::output::text::bytes;
use crate::outputs::deliver::{Delivered, deliver, total};
use crate::outputs::destination;
use crate::outputs::docker::DockerEngine;
use crate::outputs::download::Source;
use crate::outputs::wanted::Wanted;

/// What is said to whoever leaves a build that has outputs.
pub(super) const LEFT: &str = "nobody receives its outputs then; submit it again for them";

/// How long what was asked to end may take for it. Who reads from a pipe, or an engine, may never take what it is given.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where outputs go that need more than a file.
#[derive(Debug)]
pub(super) struct Giving {
    /// The Docker engines, one for each `--load`.
    engines: Vec<DockerEngine>,
}

impl Giving {
    /// Sees whether all can be written, and finds the Docker engines. What is only loaded is built for what runs there, unless
    /// platforms were named.
    ///
    /// # Errors
    /// Something can't be written, or no engine answers.
    pub(super) async fn prepare(plan: &mut Plan) -> Result<Self> {
        destination::check(&plan.wanted, plan.result_files.places(), &plan.location.dockerfile)?;
        let mut engines = Vec::new();
        for context in plan.wanted.loads() {
            engines.push(DockerEngine::find(context).await?);
        }
        if plan.platforms.is_empty() && plan.wanted.only_loads() {
            plan.platforms.extend(engines.iter().find_map(|engine| engine.platform.clone()));
        }
        Ok(Self { engines })
    }

    /// The Docker engines, one for each `--load`.
    pub(super) fn engines(&self) -> &[DockerEngine] {
        &self.engines
    }

    /// Sees what can't be for these platforms.
    ///
    /// # Errors
    /// Something can't be; the text has the cure.
    pub(super) fn check(&self, plan: &Plan, platforms: &[Platform]) -> Result<()> {
        plan.wanted.check(platforms, plan.attests())?;
        let is_index = platforms.len() > 1 || plan.attests();
        if let (true, Some(old)) = (is_index, self.engines.iter().find(|engine| !engine.keeps_indexes)) {
            let cure = "this Docker engine keeps single images only; name one --platform and no --provenance, or turn its \
                        containerd image store on";
            return Err(Invalid::new("--load", &old.shown, cure).into());
        }
        Ok(())
    }

    /// Brings all that the build made where it belongs. Ctrl-C ends it; what was not complete is not there then.
    ///
    /// # Errors
    /// It can't be fetched or written.
    pub(super) async fn give(
        &self,
        client: &Client,
        build: &Build,
        wanted: &Wanted,
        mut interrupts: Interrupts,
        display: &mut Display,
    ) -> Result<Vec<Delivered>> {
        if !wanted.gives_out() {
            return Ok(Vec::new());
        }
        let received = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = watch::channel(false);
        let source = Source {
            client: client.clone(),
            build: build.id.clone(),
            received: Arc::clone(&received),
            stop: stopped,
            runtime: Handle::current(),
        };
        let sum = total(build, wanted);
        let press = interrupts.wishes() + 1;
        let giving = deliver(&source, build, wanted, &self.engines);
        let is_live = display.is_live();
        let show = || {
            if is_live {
                let text =
                    format!("receiving  {} of {}", bytes(received.load(Ordering::Relaxed)), bytes(sum));
                display.prepare(Some(&text));
                display.draw(now_ms());
            }
        };
        let pressed = async |nth| interrupts.press(press + nth).await;
        let (given, is_stopped) = attended(giving, pressed, &stop, PATIENCE, show).await;
        display.prepare(None);
        match given {
            Some(given) if given.is_ok() || !is_stopped => given,
            // It was stopped in between, or left to itself.
            _ => Err(Error::Cancelled(format!(
                "cancelled; build {} is done, what was not complete is not there. Submit it again for the rest",
                build.id
            ))),
        }
    }
}

/// Waits for its end, and whether it was asked to stop. After the first press (0) it is told so, and has `patience` for what
/// it is at, or until the second press (1): `None`.
async fn attended<T>(
    giving: impl Future<Output = T>,
    mut pressed: impl AsyncFnMut(u32),
    stop: &watch::Sender<bool>,
    patience: Duration,
    mut show: impl FnMut(),
) -> (Option<T>, bool) {
    tokio::pin!(giving);
    let mut rounds = interval(EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut until: Option<Instant> = None;
    loop {
        tokio::select! {
            given = &mut giving => return (Some(given), until.is_some()),
            () = pressed(u32::from(until.is_some())) => {
                if until.is_some() {
                    return (None, true);
                }
                until = Some(Instant::now() + patience);
                stop.send_replace(true);
            }
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => return (None, true),
            _ = rounds.tick() => show(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// Pressed so many times, and then no more.
    fn presses(times: u32) -> impl AsyncFnMut(u32) {
        async move |nth| {
            if nth >= times {
                pending::<()>().await;
            }
        }
    }

    #[tokio::test]
    async fn what_never_ends_is_left_after_a_while_or_at_the_second_press() {
        for (times, patience) in [(1, Duration::from_millis(20)), (2, LONG)] {
            let (stop, stopped) = watch::channel(false);
            let ended = attended(pending::<()>(), presses(times), &stop, patience, || {}).await;
            assert_eq!((ended, *stopped.borrow()), ((None, true), true), "{times}");
        }
    }

    #[tokio::test]
    async fn what_ends_when_it_is_asked_to_is_waited_for() {
        let (stop, mut stopped) = watch::channel(false);
        let giving = async { stopped.wait_for(|stop| *stop).await.is_ok() };
        assert_eq!(attended(giving, presses(1), &stop, LONG, || {}).await, (Some(true), true));
        let (stop, _) = watch::channel(false);
        assert_eq!(attended(ready(1), presses(0), &stop, LONG, || {}).await, (Some(1), false));
    }
}
