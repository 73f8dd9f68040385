//! `farm down`.

use std::path::PathBuf;
use std::time::Instant;

use farm_local::client;
use farm_local::control::{Event, Request};
use farm_local::layout::Layout;

use super::confirm;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::text::span;

/// Arguments of `farm down`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Builds that run are stopped; they were accepted, so the next farm up runs them again.\n\nExamples:\n  sudo farm down\n  sudo farm down --purge"
)]
pub struct Args {
    /// Where everything is kept [default: /var/lib/farm as root, else ~/.local/state/farm]
    #[arg(long, env = "FARM_LOCAL_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Also remove the state folder: builds, images in the registry, caches. Asks first
    #[arg(long)]
    purge: bool,

    /// Don't ask
    #[arg(long, requires = "purge")]
    yes: bool,
}

/// Stops the farm of this machine, in order; removes its folder if so told.
///
/// # Errors
/// It is another user's, doesn't answer, or its folder can't be removed.
pub fn run(args: &Args) -> Result<Exit> {
    let begin = Instant::now();
    let layout = Layout::find(args.state_dir.as_deref())?;
    let mut out = Out::stdout();
    let folder = layout.root().display().to_string();
    if args.purge {
        farm_local::purge::check(&layout)?;
        let question = format!("Remove {folder} with all builds and images in it?");
        let what = format!("--purge removes {folder} with all builds and images in it");
        if !args.yes && !confirm(&question, &what)? {
            out.line("nothing was stopped, nothing removed");
            return Ok(Exit::Usage);
        }
    }
    match client::ask(&layout, Request::Down)? {
        Some(mut answers) => {
            let mut has_stopped = false;
            while let Some(event) = answers.next_event()? {
                match event {
                    Event::Step { part, text, ms } => {
                        let took = span(i64::try_from(ms).unwrap_or_default());
                        out.line(&format!("{part:<12} {took:>6}  {text}"));
                    }
                    Event::Stopped => has_stopped = true,
                    _ => {}
                }
            }
            if !has_stopped {
                let found = client::clean(&layout)?;
                let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
                out.line(&format!(
                    "note  the supervisor was killed meanwhile; of what it left was ended: {found}"
                ));
            }
            let took = span(i64::try_from(begin.elapsed().as_millis()).unwrap_or_default());
            if !args.purge {
                out.line(&format!("the farm is down ({took}); farm up carries on with what is in {folder}"));
            }
        }
        None => {
            let found = client::clean(&layout)?;
            if !found.is_empty() {
                out.line(&format!("ended what a killed farm had left: {}", found.join(", ")));
            }
            if !args.purge {
                out.line(&format!("no farm is up in {folder}"));
            }
        }
    }
    if args.purge {
        let left = client::forget(&layout)?;
        for path in &left {
            out.line(&format!("kept  {path}, which farm didn't make"));
        }
        out.line(&format!("the farm in {folder} is removed"));
    }
    Ok(Exit::Done)
}
