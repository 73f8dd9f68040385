//! `farm logs --of PART`: what a part of the farm on this machine has written.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use farm_local::layout::Layout;
use farm_local::logs::last_lines;
use farm_types::suggest::nearest;

use crate::error::{Error, Exit, Result, io_in_short};
use crate::output::Out;
use crate::output::text::harmless;

/// Prints the last `tail` lines of a part's log, and goes on with what comes if `follow`.
///
/// # Errors
/// There is no such part, or its log can't be read.
pub async fn run(part: &str, state_dir: Option<&Path>, follow: bool, tail: usize) -> Result<Exit> {
    let layout = Layout::find(state_dir)?;
    let path = layout.log(part);
    let known = parts(&layout);
    if !known.iter().any(|name| name == part) {
        return Err(Error::Usage(no_such(part, &known, &layout)));
    }
    let unreadable = |e: &std::io::Error| {
        Error::Usage(format!("the log {} can't be read ({}); use sudo", path.display(), io_in_short(e)))
    };
    let mut file = File::open(&path).map_err(|e| unreadable(&e))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|e| unreadable(&e))?;
    let mut out = Out::stdout();
    for line in last_lines(&String::from_utf8_lossy(&bytes), tail) {
        out.line(&harmless(&line));
    }
    let mut at = u64::try_from(bytes.len()).unwrap_or_default();
    let mut rest = Vec::new();
    while follow && !out.is_closed() {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut file = File::open(&path).map_err(|e| unreadable(&e))?;
        // It was made small meanwhile.
        if file.metadata().map_err(|e| unreadable(&e))?.len() < at {
            at = 0;
        }
        let read = file
            .seek(SeekFrom::Start(at))
            .and_then(|_| file.read_to_end(&mut rest))
            .map_err(|e| unreadable(&e))?;
        at += u64::try_from(read).unwrap_or_default();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            out.line(&harmless(String::from_utf8_lossy(&line).trim_end()));
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
