//! `farm up`.

use std::time::{Duration, Instant};

use farm_local::client::{self, Events, Up};
use farm_local::control::{Event, Status};
use farm_local::layout::{Layout, ROOT_STATE};
use farm_local::settings::{Flags, Settings};
use std::path::Path;

use super::status::lines as status_lines;
use crate::config::DEFAULT_URL;
use crate::error::{Error, Exit, Result};
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
carries on where it was, also after a crash. Flags are kept for the next time; own, found and
none take what was said back.

Examples:
  sudo farm up
  sudo farm up --registry-port 5005 --platforms linux/amd64,linux/arm64,linux/riscv64
  sudo farm up --untrusted
  farm up --engine unix:///var/run/docker.sock --no-emulation";

/// How long others may hold the folder without being a farm.
const BUSY: Duration = Duration::from_secs(20);

/// Starts a farm on this machine, unless it is up.
///
/// # Errors
/// Something it needs is missing or taken, or a part doesn't start; nothing is left running then.
pub fn run(args: &Args) -> Result<Exit> {
    let begin = Instant::now();
    let layout = Layout::find(args.flags.state_dir.as_deref())?;
    let settings = args.flags.settings(layout.remembered().as_ref())?;
    let mut out = Out::stdout();
    loop {
        match client::up(&layout, &settings)? {
            Up::Already(status) if settings.untrusted && !status.settings.untrusted => {
                return Err(Error::Usage(
                    "the farm is up without an untrusted worker; farm down, then farm up --untrusted"
                        .to_owned(),
                ));
            }
            Up::Already(status) => {
                out.lines(status_lines(&status));
                out.line(&already(&settings.differences(&status.settings)));
                return Ok(Exit::Done);
            }
            Up::Starting(mut events, by_another) => {
                if by_another {
                    out.line("note  another farm up is starting it; this one only looks on");
                } else if let kept @ [_, ..] = &*remembered(&args.flags, &settings) {
                    out.line(&format!("note  as the last time: {}", kept.join("; ")));
                }
                if follow(&mut events, begin, &mut out)? {
                    return Ok(Exit::Done);
                }
                // Two began in the same moment, and the other one was faster.
                if begin.elapsed() > BUSY {
                    return Err(Error::Farm(format!(
                        "somebody holds {} and no farm answers there; see who with fuser",
                        layout.join("lock").display()
                    )));
                }
            }
        }
    }
}

/// Until it is up; false when another supervisor has the folder.
fn follow(events: &mut Events, begin: Instant, out: &mut Out) -> Result<bool> {
    while let Some(event) = events.next_event()? {
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
                return Ok(true);
            }
            Event::Busy => return Ok(false),
            Event::Status(_) | Event::Failed(..) | Event::Stopped => {}
        }
    }
    Err(Error::Farm("the supervisor was killed while it started; farm up begins anew".to_owned()))
}

fn already(differences: &[String]) -> String {
    match differences {
        [] => "the farm is up already".to_owned(),
        some => format!(
            "the farm is up already, and stays as it is: {}; to change that: farm down, then farm up",
            some.join("; ")
        ),
    }
}

/// What isn't as usual, and wasn't said now.
fn remembered(flags: &Flags, settings: &Settings) -> Vec<String> {
    let said = flags.settings(None).map(|said| said.unusual()).unwrap_or_default();
    settings.unusual().into_iter().filter(|value| !said.contains(value)).collect()
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
