//! `farm status`.

use std::path::PathBuf;

use farm_local::client;
use farm_local::control::{PartState, Status};
use farm_local::layout::Layout;
use serde_json::json;

use super::now_ms;
use crate::error::{Error, Exit, Result};
use crate::output::Out;
use crate::output::json;
use crate::output::text::{ago, columns, harmless};

/// Arguments of `farm status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all parts run, 1 some don't, 3 no farm is up here.\n\nExamples:\n  sudo farm status\n  sudo farm status --json"
)]
pub struct Args {
    /// Where everything is kept [default: /var/lib/farm as root, else ~/.local/state/farm]
    #[arg(long, env = "FARM_LOCAL_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Says how the parts of the farm on this machine are.
///
/// # Errors
/// It isn't up, is another user's, or doesn't answer.
pub fn run(args: &Args) -> Result<Exit> {
    let layout = Layout::find(args.state_dir.as_deref())?;
    let mut out = Out::stdout();
    let Some(status) = client::status(&layout)? else {
        let folder = layout.root().display();
        let kept = if layout.is_marked() { "its state is kept" } else { "there is none yet" };
        return Err(Error::Farm(format!("no farm is up in {folder} ({kept}); start it with farm up")));
    };
    if args.json {
        out.line(&json::text(&status_json(&status)));
    } else {
        out.lines(lines(&status));
    }
    let well = status.state == "up" && status.parts.iter().all(|part| part.state == PartState::Running);
    Ok(if well { Exit::Done } else { Exit::BuildFailed })
}

/// A table of the parts, then where things are.
pub(super) fn lines(status: &Status) -> Vec<String> {
    let now = now_ms();
    let mut rows = vec![["PART", "STATE", "SINCE", "PID", "RESTARTS", ""].map(str::to_owned).to_vec()];
    rows.extend(status.parts.iter().map(|part| {
        vec![
            part.name.clone(),
            part.state.as_str().to_owned(),
            ago(part.since_ms, now),
            part.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            part.restarts.to_string(),
            harmless(&part.detail),
        ]
    }));
    let mut lines = columns(&rows);
    if status.state != "up" {
        lines.push(format!("note  the farm is {}", status.state));
    }
    lines.extend(status.notices.iter().map(|notice| format!("note  {}", harmless(notice))));
    lines.push(format!("farm      {}  (token in {})", status.url, status.token_file));
    lines.push(format!("registry  {}", status.registry));
    lines.push(format!("engine    DOCKER_HOST={}", status.engine));
    lines.push(format!("state     {}  (logs: farm logs --of PART)", status.state_dir));
    lines
}

fn status_json(status: &Status) -> serde_json::Value {
    let parts: Vec<_> = status
        .parts
        .iter()
        .map(|part| {
            json!({
                "name": part.name, "state": part.state.as_str(), "since_ms": part.since_ms, "pid": part.pid,
                "restarts": part.restarts, "detail": part.detail,
            })
        })
        .collect();
    json!({
        "state": status.state, "pid": status.pid, "since_ms": status.since_ms, "url": status.url,
        "registry": status.registry, "engine": status.engine, "state_dir": status.state_dir,
        "token_file": status.token_file, "notices": status.notices, "parts": parts,
    })
}
