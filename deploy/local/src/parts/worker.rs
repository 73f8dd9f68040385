//! A worker beside the engine, as a process.

use std::future::ready;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use rustix::process::Signal;

use super::engine::ping;
use super::{Part, Started, ask, own_program, spawn, text, until_ready};
use crate::child::{Recipe, Stop};
use crate::layout::Layout;

/// One worker.
pub struct Worker {
    /// The state folder of the farm.
    pub layout: Layout,
    /// Its name in the farm.
    pub name: String,
    /// The engine's address.
    pub engine: String,
    /// The coordinator's port.
    pub port: u16,
    /// How many jobs the engine runs at once: its workers share them.
    pub slots: usize,
    /// Flags that say which platforms it offers.
    pub offers: Vec<String>,
}

impl Part for Worker {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&self) -> BoxFuture<'_, Result<Started, String>> {
        Box::pin(async {
            let mut command = vec![text(&own_program("farm-worker")?)];
            let flags = [
                ("--coordinator", format!("http://127.0.0.1:{}", self.port)),
                ("--token-file", text(&self.layout.token())),
                ("--name", self.name.clone()),
                ("--engine", self.engine.clone()),
                ("--slots", self.slots.to_string()),
                ("--state-dir", text(&self.layout.join("workers").join(&self.name))),
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
            let mut child = spawn(&self.layout, &recipe)?;
            let start = format!("farm-worker {} ready: ", self.name);
            let detail =
                until_ready(&mut child, Duration::from_secs(60), |c| ready(c.log.line(&start))).await?;
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
