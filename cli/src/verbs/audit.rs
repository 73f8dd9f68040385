//! `farm audit`: what was done, by whom; and whether that still stands as it was written.

mod verify;

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use farm_proto::v1::{AuditEntry, ListAuditRequest};
use farm_types::spec::parse_duration_within;
use serde_json::json;

use super::now_ms;
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::json;
use crate::output::people::AuditJson;
use crate::output::text::{columns, harmless};

/// As many as the farm gives at once.
const PAGE: u32 = 1_000;
/// As many as are listed, if neither a number nor a time is said.
const FEW: u32 = 50;
/// `--since` reaches back so far, as a duration.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(100 * 366 * 24 * 3600);

/// Arguments of `farm audit`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// All from then on: 2d, 12h, or 2026-11-28T10:00:00Z; without it the last 50
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,

    /// At most so many
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// What was done in the farm and in all projects. For admins of the farm
    #[arg(long)]
    all: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Reckon the chain of all that was done anew, and say what is proven. For admins of the farm
    #[arg(long, conflicts_with_all = ["since", "limit", "all"])]
    verify: bool,

    /// A head that was kept outside of the farm: 64 hex digits; may be given several times
    #[arg(long = "head", value_name = "HEX", requires = "verify")]
    heads: Vec<String>,

    /// A file with such heads, as the coordinator's `audit.head_file` is one
    #[arg(long = "heads", value_name = "FILE", requires = "verify")]
    file: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
Examples:
  farm audit
  farm audit --since 2d --project web
  farm audit --all --since 2026-11-01T00:00:00Z --json
  farm audit --verify --heads /mnt/elsewhere/farm-heads

A project's admin sees what was done in it; an admin of the farm with --all the whole farm.

--verify shows that rows weren't changed, removed or put in between by whoever didn't reckon the
chain anew. Whoever holds the database can do that: only a head that was kept where they don't get
at it proves the rows before it. Exit code 1: something isn't as it was, or a head isn't there.";

/// From when on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Ago(i64),
    At(i64),
}

fn since(text: &str) -> std::result::Result<Since, String> {
    if let Some(ago) = parse_duration_within(text, LONGEST) {
        let ms = i64::try_from(ago.as_millis()).map_err(|e| e.to_string())?;
        return Ok(Since::Ago(ms));
    }
    let at = DateTime::parse_from_rfc3339(text).map(|at| at.timestamp_millis()).ok().filter(|at| *at >= 0);
    let cure = "write how long ago, like 12h or 2d, or a time like 2026-11-28T10:00:00Z";
    at.map(Since::At).ok_or_else(|| cure.to_owned())
}

impl Since {
    fn ms(self, now: i64) -> i64 {
        match self {
            Self::Ago(ms) => (now - ms).max(0),
            Self::At(ms) => ms,
        }
    }
}

/// Lists what was done, newest first; or says whether it stands.
///
/// # Errors
/// The farm refuses, or can't be asked; a file of heads can't be read.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    if args.verify {
        return verify::run(args.heads, args.file.as_deref(), args.json, setup).await;
    }
    let client = Client::connect(&setup.address).await?;
    let since_ms = args.since.map_or(0, |since| since.ms(now_ms()));
    let limit = args.limit.unwrap_or(if args.since.is_some() { u32::MAX } else { FEW });
    let entries = list(&client, args.all, since_ms, limit).await?;
    let mut out = Out::stdout();
    if args.json {
        let entries: Vec<AuditJson> = entries.iter().map(AuditJson::from).collect();
        out.line(&json::text(&json!({ "audit": entries })));
    } else if entries.is_empty() {
        out.line("nothing was done in this time");
    } else {
        out.lines(table(&entries));
    }
    Ok(Exit::Done)
}

/// So many entries, newest first, or as many as there are; page by page.
async fn list(client: &Client, all: bool, since_ms: i64, limit: u32) -> Result<Vec<AuditEntry>> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut entries: Vec<AuditEntry> = Vec::new();
    let mut page_token = String::new();
    loop {
        let page_size = u32::try_from(limit - entries.len()).map_or(PAGE, |wanted| wanted.min(PAGE));
        let request = ListAuditRequest { since_ms, page_size, page_token };
        let asked = through(async || match all {
            true => client.audit().list_farm_audit(request.clone()).await,
            false => client.audit().list_audit(request.clone()).await,
        });
        let page = asked.await.map_err(|status| client.error(&status))?;
        entries.extend(page.entries);
        entries.truncate(limit);
        if page.next_page_token.is_empty() || entries.len() == limit {
            return Ok(entries);
        }
        page_token = page.next_page_token;
    }
}

fn table(entries: &[AuditEntry]) -> Vec<String> {
    let head = ["TIME", "WHO", "ACTION", "SUBJECT", "PROJECT", "ADDRESS"].map(ToOwned::to_owned).to_vec();
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { harmless(text) };
    let rows = entries.iter().map(|entry| {
        let who = match entry.token_hint.as_str() {
            "" => harmless(&entry.principal),
            hint => format!("{} ({})", harmless(&entry.principal), harmless(hint)),
        };
        vec![
            at(entry.at_ms),
            who,
            harmless(&entry.action),
            or_dash(&entry.subject),
            or_dash(&entry.project),
            or_dash(&entry.address),
        ]
    });
    columns(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

/// A time to the second, as `--since` takes it.
fn at(ms: i64) -> String {
    DateTime::<Utc>::from_timestamp_millis(ms)
        .map_or_else(|| "-".to_owned(), |at| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_duration_or_a_point() {
        assert_eq!(since("2d"), Ok(Since::Ago(172_800_000)));
        assert_eq!(since("400d").map(|since| since.ms(1_000)), Ok(0));
        assert_eq!(since("1970-01-01T00:00:01Z"), Ok(Since::At(1_000)));
        assert_eq!(since("1970-01-01T02:00:01+02:00"), Ok(Since::At(1_000)));
        for wrong in ["", "yesterday", "2026-11-28", "1960-01-01T00:00:00Z"] {
            assert!(since(wrong).unwrap_err().contains("2d"), "{wrong}");
        }
    }

    #[test]
    fn who_did_what_to_what_from_where_stands_in_a_line() {
        let of_ada = AuditEntry {
            at_ms: 1_000,
            project: "web".into(),
            principal: "ada".into(),
            token_hint: "farm_p_12345".into(),
            address: "192.0.2.7".into(),
            action: "build.submit".into(),
            subject: "7f3k2m".into(),
            ..Default::default()
        };
        let own = AuditEntry {
            principal: "admin".into(),
            action: "worker.drain".into(),
            subject: "w1".into(),
            ..of_ada.clone()
        };
        let own =
            AuditEntry { project: String::new(), token_hint: String::new(), address: String::new(), ..own };
        assert_eq!(
            table(&[of_ada, own]),
            [
                "TIME                  WHO                 ACTION        SUBJECT  PROJECT  ADDRESS",
                "1970-01-01T00:00:01Z  ada (farm_p_12345)  build.submit  7f3k2m   web      192.0.2.7",
                "1970-01-01T00:00:01Z  admin               worker.drain  w1       -        -",
            ]
        );
    }
}
