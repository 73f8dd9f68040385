//! `farm up`.

use std::time::Instant;

use farm_local::client;
use farm_local::control::{Event, Status};
use farm_local::layout::{Layout, ROOT_STATE};
use farm_local::settings::Flags;
use std::path::Path;

use super::status::lines as status_lines;
use crate::connect::DEFAULT_URL;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::text::{harmless, span};

/// Arguments of `farm up`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
}

const AFTER_HELP: &str = "\
It starts a private Postgres, a registry on localhost, a Docker engine in namespaces of its
own, a coordinator, a worker for this machine's platform and one for what QEMU emulates. What
dies is started again. Everything lies in the state folder; farm down ends it, and farm up
carries on where it was, also after a crash.

Examples:
  sudo farm up
  sudo farm up --registry-port 5005 --platforms linux/amd64,linux/arm64,linux/riscv64
  farm up --engine unix:///var/run/docker.sock --no-emulation";

/// Starts a farm on this machine, unless it is up.
///
/// # Errors
/// Something it needs is missing or taken, or a part doesn't start; nothing is left running then.
pub fn run(args: &Args) -> Result<Exit> {
    let begin = Instant::now();
    let settings = args.flags.settings()?;
    let layout = Layout::find(args.flags.state_dir.as_deref())?;
    let mut out = Out::stdout();
    if let Some(status) = client::status(&layout)? {
        out.lines(status_lines(&status));
        let differences = settings.differences(&status.settings);
        if differences.is_empty() {
            out.line("the farm is up already");
        } else {
            out.line(&format!(
                "the farm is up already, and stays as it is: {}; to change that: farm down, then farm up",
                differences.join("; ")
            ));
        }
        return Ok(Exit::Done);
    }
    let mut starting = client::start(&layout, &settings)?;
    while let Some(event) = starting.next_event()? {
        match event {
            Event::Step { part, text, ms } => {
                let took = span(i64::try_from(ms).unwrap_or_default());
                out.line(&format!("{part:<12} {took:>6}  {}", harmless(&text)));
            }
            Event::Notice(text) => out.line(&format!("note  {}", harmless(&text))),
            Event::Ready(status) => {
                let took = span(i64::try_from(begin.elapsed().as_millis()).unwrap_or_default());
                for line in hints(&status) {
                    out.line(&line);
                }
                out.line(&format!("the farm is up ({took})   farm status"));
                break;
            }
            Event::Status(_) | Event::Failed(..) | Event::Stopped => {}
        }
    }
    Ok(Exit::Done)
}

/// What a shell has to be told when the farm isn't where it is looked for.
fn hints(status: &Status) -> Vec<String> {
    let mut hints = Vec::new();
    if status.url != DEFAULT_URL {
        hints.push(format!("export FARM_URL={}", status.url));
    }
    if Path::new(&status.state_dir) != Path::new(ROOT_STATE) {
        hints.push(format!("export FARM_TOKEN_FILE={}", status.token_file));
    }
    hints
}
