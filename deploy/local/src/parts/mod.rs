//! The parts of a farm: what each is started with, when it is ready, how it is stopped.

mod coordinator;
mod engine;
pub mod joining;
mod postgres;
mod registry;
mod worker;

pub use coordinator::Coordinator;
pub use engine::{Engine, Network, engine_version};
pub use postgres::{Postgres, bin_for as postgres_bin_for};
pub use registry::Registry;
pub use worker::Worker;

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::child::{Child, Recipe};
use crate::layout::Layout;

const POLL: Duration = Duration::from_millis(20);

/// A part that is ready.
pub struct Started {
    pub child: Child,
    /// What people are told about it.
    pub detail: String,
    /// What lives as long as it does.
    pub guard: Option<Box<dyn Any + Send>>,
    /// It is also over when this changes.
    pub depends_on: Option<watch::Receiver<Option<u32>>>,
}

/// Something that the supervisor keeps running.
pub trait Part: Send + Sync {
    /// Its name: of its log, and in `farm status`.
    fn name(&self) -> &str;

    /// Starts it and returns when it is ready. Dropping the future ends what was started.
    ///
    /// The error is for people.
    fn start(&self) -> BoxFuture<'_, Result<Started, String>>;

    /// Does it still answer? Asked now and then while its process is there; the error is for people.
    fn probe(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    /// How long a start that fails is tried again before it counts.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }
}

/// Starts a process of the layout's, its log and record where they belong.
fn spawn(layout: &Layout, recipe: &Recipe) -> Result<Child, String> {
    Child::spawn(recipe, &layout.log(&recipe.name), &layout.run("parts"))
        .map_err(|e| format!("{}: {}", recipe.name, crate::explain(&e)))
}

/// How far a process is that starts.
enum Progress<T> {
    Ready(T),
    /// Silent so far: not for longer than its limit.
    Silent,
    /// It says that it is at work, however long that takes.
    Busy,
}

impl<T> From<Option<T>> for Progress<T> {
    fn from(found: Option<T>) -> Self {
        found.map_or(Self::Silent, Self::Ready)
    }
}

/// Asks until it is ready; fails when it ends before, or was silent for `limit`: then it is stopped.
async fn until_ready<T, F>(
    child: &mut Child,
    limit: Duration,
    mut probe: impl FnMut(&Child) -> F,
) -> Result<T, String>
where
    F: Future<Output: Into<Progress<T>>>,
{
    let mut begin = Instant::now();
    loop {
        match probe(child).await.into() {
            Progress::Ready(found) => return Ok(found),
            Progress::Busy => begin = Instant::now(),
            Progress::Silent => {}
        }
        if let Some(status) = child.ended() {
            return Err(child.obituary(status));
        }
        if begin.elapsed() > limit {
            child.stop().await;
            let mut text = format!("not ready after {} s", limit.as_secs());
            for line in child.log.tail(8) {
                text.push_str("\n  ");
                text.push_str(&line);
            }
            return Err(text);
        }
        sleep(POLL).await;
    }
}

/// Asks what blocks, off this thread.
async fn ask<T: Send + 'static>(question: impl FnOnce() -> Option<T> + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(question).await.ok().flatten()
}

/// A program of farm's own, which lies beside this one.
///
/// # Errors
/// It isn't there.
pub fn own_program(name: &str) -> Result<PathBuf, String> {
    // Asked once: the kernel says "(deleted)" of a program whose file was replaced since.
    static HERE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let here = HERE.get_or_init(|| {
        let program =
            std::env::current_exe().and_then(|path| path.canonicalize()).map_err(|e| e.to_string())?;
        Ok(program.parent().unwrap_or(Path::new("/")).to_owned())
    });
    let path = here.clone()?.join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} is missing: farm's programs must lie in one folder", path.display()))
    }
}

/// A path as an argument. Layouts hold plain characters only.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
