//! A worker beside the engine, as a process. It has joined the farm before it is started, and is given no token.

use std::future::ready;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use rustix::process::Signal;

use super::engine::ping;
use super::joining::{Joining, state_dir};
use super::{Part, Started, ask, own_program, spawn, text, until_ready};
use crate::child::{Child, Recipe, Stop};
use crate::layout::Layout;

/// By this a worker ends whom the farm doesn't know, or not any more.
const REFUSED: i32 = 5;

/// One worker.
pub struct Worker {
    /// The state folder of the farm.
    pub layout: Layout,
    /// Its name in the farm.
    pub name: String,
    /// What the machine is called in the farm, if it isn't known there yet.
    pub machine: String,
    /// The engine's address.
    pub engine: String,
    /// The coordinator's port.
    pub port: u16,
    /// How many jobs the engine runs at once: its workers share them.
    pub slots: usize,
    /// Flags that say which platforms it offers, and what it may grant.
    pub offers: Vec<String>,
    /// Its machine is one that isn't trusted.
    pub untrusted: bool,
    /// Whether the farm has taken it since this supervisor began.
    pub was_taken: AtomicBool,
}

impl Worker {
    /// Has it join the farm, unless it has. The error is for people.
    pub async fn join(&self) -> Result<(), String> {
        self.joining().if_needed().await.map_err(|why| format!("it can't join the farm: {why}"))
    }

    fn joining(&self) -> Joining<'_> {
        let machine = (!self.untrusted).then_some(self.machine.as_str());
        Joining { layout: &self.layout, port: self.port, name: &self.name, machine }
    }

    fn spawn(&self) -> Result<Child, String> {
        let mut command = vec![text(&own_program("farm-worker")?)];
        let flags = [
            ("--engine", self.engine.clone()),
            ("--slots", self.slots.to_string()),
            ("--state-dir", text(&state_dir(&self.layout, &self.name))),
            // The port may be another than when it joined.
            ("--coordinator", format!("https://127.0.0.1:{}", self.port)),
        ];
        for (flag, value) in flags {
            command.extend([flag.to_owned(), value]);
        }
        command.extend(self.offers.iter().cloned());
        let mut recipe = Recipe::new(&self.name, command);
        // The first SIGTERM would let running jobs finish; they are accepted, and are run again by the next start.
        recipe.stop = Stop {
            signal: Signal::TERM,
            again_after: Some(Duration::from_millis(300)),
            grace: Duration::from_secs(30),
        };
        spawn(&self.layout, &recipe)
    }

    async fn until_taken(&self, child: &mut Child) -> Result<String, String> {
        let start = format!("farm-worker {} ready: ", self.name);
        until_ready(child, Duration::from_secs(60), |c| ready(c.log.line(&start))).await
    }
}

impl Part for Worker {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&self) -> BoxFuture<'_, Result<Started, String>> {
        Box::pin(async {
            self.join().await?;
            let mut child = self.spawn()?;
            let mut taken = self.until_taken(&mut child).await;
            let is_refused =
                |child: &mut Child| child.ended().is_some_and(|status| status.code() == Some(REFUSED));
            // It was revoked while the farm was up, or its database is another: who starts the farm wants its workers. Later
            // on whoever revokes one means it.
            if taken.is_err() && !self.was_taken.load(Ordering::Relaxed) && is_refused(&mut child) {
                self.joining().anew().await.map_err(|why| format!("it can't join the farm again: {why}"))?;
                child = self.spawn()?;
                taken = self.until_taken(&mut child).await;
            }
            let detail = taken?;
            self.was_taken.store(true, Ordering::Relaxed);
            Ok(Started { child, detail, guard: None, depends_on: None })
        })
    }

    /// A worker is as well as its engine; whether the coordinator knows it is told by `farm workers`.
    fn probe(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let Some(socket) = self.engine.strip_prefix("unix://").map(PathBuf::from) else { return Ok(()) };
            let silent = || format!("its engine {} doesn't answer", self.engine);
            ask(move || ping(&socket)).await.ok_or_else(silent)
        })
    }
}
