//! What a build made, into the hands of whoever asked for it: seen to before the build, brought after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use farm_proto::v1::Build;
use farm_types::{Invalid, Platform, Provenance};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::now_ms;
use super::plan::Plan;
use crate::connect::Farm;
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

/// Where outputs go that need more than a file.
#[derive(Debug)]
pub(super) struct Giving {
    /// One for each `--load`.
    engines: Vec<DockerEngine>,
}

impl Giving {
    /// Sees whether all can be written, and finds the Docker engines. What is only loaded is built for what runs there, unless
    /// platforms were named.
    ///
    /// # Errors
    /// Something can't be written, or no engine answers.
    pub(super) async fn prepare(plan: &mut Plan) -> Result<Self> {
        destination::check(&plan.wanted)?;
        let mut engines = Vec::new();
        for context in plan.wanted.loads() {
            engines.push(DockerEngine::find(context).await?);
        }
        if plan.platforms.is_empty() && !plan.wanted.pushes() {
            plan.platforms.extend(engines.iter().find_map(|engine| engine.platform.clone()));
        }
        Ok(Self { engines })
    }

    /// The engines.
    pub(super) fn engines(&self) -> &[DockerEngine] {
        &self.engines
    }

    /// Sees what can't be for these platforms.
    ///
    /// # Errors
    /// With the cure.
    pub(super) fn check(&self, plan: &Plan, platforms: &[Platform]) -> Result<()> {
        plan.wanted.check(platforms, plan.provenance)?;
        let is_index = platforms.len() > 1 || plan.provenance != Provenance::Off;
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
        farm: &Farm,
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
            farm: farm.clone(),
            build: build.id.clone(),
            received: Arc::clone(&received),
            stop: stopped,
            runtime: Handle::current(),
        };
        let sum = total(build, wanted);
        let press = interrupts.wishes() + 1;
        let giving = deliver(&source, build, wanted, &self.engines);
        tokio::pin!(giving);
        let mut rounds = interval(EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let is_live = display.is_live();
        let mut is_stopped = false;
        let given = loop {
            tokio::select! {
                given = &mut giving => break given,
                () = interrupts.press(press), if !is_stopped => {
                    is_stopped = true;
                    stop.send_replace(true);
                }
                _ = rounds.tick(), if is_live => {
                    let text = format!("receiving  {} of {}", bytes(received.load(Ordering::Relaxed)), bytes(sum));
                    display.prepare(Some(&text));
                    display.draw(now_ms());
                }
            }
        };
        display.prepare(None);
        match given {
            // It was stopped in between.
            Err(_) if is_stopped => Err(Error::Cancelled(format!(
                "cancelled; build {} is done, what was not complete is not there. Submit it again for the rest",
                build.id
            ))),
            given => given,
        }
    }
}
