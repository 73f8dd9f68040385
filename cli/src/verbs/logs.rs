//! `farm logs`.

use std::collections::HashMap;
use std::path::PathBuf;

use chrono::DateTime;
use farm_proto::v1::attempt_event::Event;
use farm_proto::v1::{AttemptEvent, AttemptEvents, GetBuildRequest};
use farm_types::spec::parse_duration;
use farm_types::{Invalid, Platform};

use super::{build_id, local_logs, now_ms};
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::follow::{Seen, follow};
use crate::output::Out;
use crate::output::json::{self, LogJson};
use crate::output::progress::Progress;
use crate::output::text::harmless;
use farm_types::lines::Lines;

/// Arguments of `farm logs`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farm logs 7f3k2m\n  farm logs 7f3k2m -f --platform linux/arm64\n  farm logs 7f3k2m -f --from 10m\n  farm logs 7f3k2m --from 2026-01-31T12:00:00Z\n  farm logs 7f3k2m --json | jq -r .text\n  farm logs --of coordinator -f"
)]
pub struct Args {
    /// The build, as `farm builds` lists it
    #[arg(value_name = "BUILD", required_unless_present = "of")]
    id: Option<String>,

    /// What a part of the farm on this machine has written instead: supervisor, postgres, registry, engine,
    /// network, coordinator, or a worker's name
    #[arg(long, value_name = "PART", conflicts_with_all = ["id", "platform", "json", "from"])]
    of: Option<String>,

    /// With --of: so many last lines
    #[arg(long, value_name = "N", default_value_t = 100, requires = "of")]
    tail: usize,

    /// With --of: the farm's folder [default: /var/lib/farm as root, else ~/.local/state/farm]
    #[arg(long, env = "FARM_LOCAL_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Go on until the build has ended; with --of until Ctrl-C
    #[arg(short, long)]
    follow: bool,

    /// Only this platform's output
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,

    /// Leave out what is older, by the workers' clocks: than a span like 10m or 2h, or than a time like
    /// 2026-01-31T12:00:00Z
    #[arg(long, value_name = "SPAN|TIME")]
    from: Option<String>,

    /// Print each line of output as a JSON object of its own
    #[arg(long)]
    json: bool,
}

/// Prints what a build's steps have written, in the words of `farm submit`.
///
/// # Errors
/// There is no such build, it has no such platform, or the farm can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    if let Some(part) = &args.of {
        return local_logs::run(part, args.state_dir.as_deref(), args.follow, args.tail).await;
    }
    let id = build_id(args.id.as_deref().unwrap_or_default())?;
    let only = match &args.platform {
        Some(text) => Some(text.parse::<Platform>()?.to_string()),
        None => None,
    };
    let from_ms = args.from.as_deref().map(|text| moment(text, now_ms())).transpose()?;
    let client = Client::connect(&setup.address).await?;
    let request = GetBuildRequest { build_id: id.clone() };
    let known = client.builds().get_build(request).await.map_err(|e| client.error(&e))?.into_inner();
    let known = known.build.unwrap_or_default();
    let platforms = known.spec.as_ref().map(|spec| spec.platforms.as_slice()).unwrap_or_default();
    if let Some(only) = only.as_ref().filter(|only| !platforms.contains(only)) {
        return Err(Error::Usage(format!("--platform {only}: build {id} has {}", platforms.join(", "))));
    }
    let (mut out, mut notes) = (Out::stdout(), Out::stderr());
    let mut progress = Progress::new(only.clone());
    progress.introduce(&known);
    let mut json_lines = JsonLines::default();
    let mut removed: Option<String> = None;
    let (closed, mut reader_gone) = tokio::sync::watch::channel(false);
    let following = follow(&client, &id, args.follow, tokio::time::sleep, |seen| {
        match seen {
            Seen::Build(build) if !args.json => out.lines(progress.build(build)),
            Seen::Attempt(events) if events.removed_ms != 0 => {
                if only.as_ref().is_none_or(|only| *only == events.platform) {
                    removed.get_or_insert_with(|| removed_text(&id, events));
                }
            }
            Seen::Attempt(events) => {
                let (older, events) = split(events, from_ms);
                let wanted = only.as_ref().is_none_or(|only| *only == events.platform);
                if args.json && wanted {
                    // Of what is older only the names of steps matter, and the begun lines.
                    json_lines.events(&older);
                    out.lines(json_lines.events(&events));
                } else if !args.json {
                    progress.skip(&older);
                    if !events.events.is_empty() {
                        out.lines(progress.events(&events));
                    }
                }
            }
            Seen::Build(_) => {}
            Seen::Away(why) => notes.line(&format!("the farm doesn't answer ({why}); trying again")),
            Seen::Back => notes.line("the farm is back"),
        }
        if out.is_closed() {
            closed.send_replace(true);
        }
    });
    tokio::select! {
        build = following => drop(build?),
        // `farm logs … | head`: there is nobody to print for.
        Ok(_) = reader_gone.wait_for(|closed| *closed) => return Ok(Exit::Done),
    }
    out.lines(if args.json { json_lines.finish() } else { progress.finish() });
    removed.map_or(Ok(Exit::Done), |why| Err(Error::Usage(why)))
}

/// Why there is nothing to print, and what can be done.
fn removed_text(id: &str, events: &AttemptEvents) -> String {
    let day = DateTime::from_timestamp_millis(events.removed_ms).unwrap_or_default().format("%Y-%m-%d");
    format!(
        "the log of build {id}, {}, was removed on {day}: the farm keeps logs for so long only (retention.logs_days of its \
         coordinator). How the build ended: farm show {id}; to build it once more: farm retry {id}",
        events.platform
    )
}

/// The moment that `--from` means, milliseconds since 1970.
fn moment(text: &str, now_ms: i64) -> Result<i64, Invalid> {
    if let Some(span) = parse_duration(text) {
        let span_ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        return Ok(now_ms.saturating_sub(span_ms));
    }
    DateTime::parse_from_rfc3339(text).map(|at| at.timestamp_millis()).map_err(|_| {
        Invalid::new("--from", text, "write a span like 90s, 10m or 2h, or a time like 2026-01-31T12:00:00Z")
    })
}

/// A piece of a stream in two: what is older than `from_ms`, and the rest.
fn split(events: &AttemptEvents, from_ms: Option<i64>) -> (AttemptEvents, AttemptEvents) {
    let with = |list| AttemptEvents { events: list, ..events.clone() };
    let is_older = |event: &AttemptEvent| from_ms.is_some_and(|from_ms| event.at_ms < from_ms);
    let (older, rest) = events.events.iter().cloned().partition(is_older);
    (with(older), with(rest))
}

/// Output lines as JSON objects.
#[derive(Default)]
struct JsonLines {
    streams: HashMap<(String, String, u32), (Lines, LogJson)>,
    names: HashMap<(String, String), String>,
}

impl JsonLines {
    fn events(&mut self, events: &AttemptEvents) -> Vec<String> {
        let mut out = Vec::new();
        for event in events.events.iter().filter_map(|event| event.event.as_ref()) {
            match event {
                Event::Step(step) => {
                    let key = (events.attempt_id.clone(), step.digest.clone());
                    self.names.insert(key, harmless(step.name.lines().next().unwrap_or_default()));
                }
                Event::Log(log) => {
                    let named = (events.attempt_id.clone(), log.step_digest.clone());
                    let step = self.names.get(&named).cloned().unwrap_or_default();
                    let key = (named.0, named.1, log.stream);
                    let (lines, object) = self.streams.entry(key).or_insert_with(|| {
                        let object = LogJson {
                            platform: events.platform.clone(),
                            attempt: events.attempt_number,
                            step,
                            stream: if log.stream == 2 { "stderr" } else { "stdout" },
                            text: String::new(),
                        };
                        (Lines::default(), object)
                    });
                    for line in lines.push(&log.data) {
                        object.text = line;
                        out.push(json::text(object));
                    }
                }
                _ => {}
            }
        }
        out
    }

    fn finish(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        for (lines, object) in self.streams.values_mut() {
            if let Some(line) = lines.finish() {
                object.text = line;
                out.push(json::text(object));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_is_a_span_or_a_time() {
        let now_ms = 1_000_000_000;
        assert_eq!(moment("10m", now_ms), Ok(now_ms - 600_000));
        assert_eq!(moment("0s", now_ms), Ok(now_ms));
        assert_eq!(moment("1970-01-01T00:00:02.500Z", now_ms), Ok(2_500));
        assert_eq!(moment("1970-01-01T02:00:00+02:00", now_ms), Ok(0));
        for text in ["", "10 laps", "yesterday", "2026-01-31", "12:00"] {
            let error = moment(text, now_ms).unwrap_err().to_string();
            assert!(error.contains("--from") && error.contains("10m"), "{error}");
        }
    }
}
