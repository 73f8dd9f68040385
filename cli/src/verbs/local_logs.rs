//! `farm logs --of PART`: what a part of the farm on this machine has written.

use std::path::Path;
use std::time::Duration;

use farm_local::layout::Layout;
use farm_local::logs::Tail;
use farm_types::chain::io_in_short;
use farm_types::suggest::nearest;

use crate::error::{Error, Exit, Result};
use crate::output::Out;
use crate::output::text::harmless;

/// Prints the last `tail` lines of a part's log, and goes on with what comes if `follow`.
///
/// # Errors
/// There is no such part, or its log can't be read.
pub(crate) async fn run(part: &str, state_dir: Option<&Path>, follow: bool, tail: usize) -> Result<Exit> {
    let layout = Layout::find(state_dir)?;
    let path = layout.log(part);
    let known = parts(&layout);
    if !known.iter().any(|name| name == part) {
        return Err(Error::Usage(no_such(part, &known, &layout)));
    }
    let unreadable = |e: &std::io::Error| {
        Error::Usage(format!("the log {} can't be read ({}); use sudo", path.display(), io_in_short(e)))
    };
    let (mut log, lines) = Tail::begin(&path, tail).map_err(|e| unreadable(&e))?;
    let mut out = Out::stdout();
    for line in lines {
        out.line(&harmless(&line));
    }
    if !follow && let Some(line) = log.unfinished() {
        out.line(&harmless(&line));
    }
    while follow && !out.is_closed() {
        let lines = log.more().map_err(|e| unreadable(&e))?;
        if lines.is_empty() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for line in lines {
            out.line(&harmless(&line));
        }
    }
    Ok(Exit::Done)
}

fn parts(layout: &Layout) -> Vec<String> {
    let entries = std::fs::read_dir(layout.join("logs")).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".log")?.to_owned())).collect();
    names.sort();
    names
}

fn no_such(part: &str, known: &[String], layout: &Layout) -> String {
    if known.is_empty() {
        return format!(
            "--of {part}: no farm was ever up in {}; start it with farm up",
            layout.root().display()
        );
    }
    let meant = nearest(part, known.iter().map(String::as_str)).map(|n| format!("; did you mean {n}?"));
    format!("--of {part}: the parts are {}{}", known.join(", "), meant.unwrap_or_default())
}
