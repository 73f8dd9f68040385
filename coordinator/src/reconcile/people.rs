//! Seals what was done, each second, and tells the heads: to the log, and to a file outside if there is one. How:
//! `farm_store::people::seals`.
//!
//! A head that was made and not told (the process ended in between) is held by the next one.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use chrono::SecondsFormat;
use farm_store::StoreError;
use farm_store::machines::leader::Epoch;
use farm_store::people::seals::Sealed;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Lead, turn};
use crate::shared::Shared;

/// How often a pass begins.
const TICK: Duration = Duration::from_secs(1);
/// About so many rows in one seal.
const BATCH: i64 = 1_000;
/// So many heads wait for the file outside; one that finds no room is in the log only, and held by the next.
const WAITING: usize = 64;

/// Seals while leading, until `shutdown`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let mut heads = shared.config.audit.head_file.clone().map(Heads::to);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while let Some(lead) = turn(&mut tick, &mut lead, &shutdown).await {
        if let Err(error) = seal_all(&shared, lead.epoch, &mut heads, &shutdown).await {
            tracing::warn!(%error, "what was done could not be sealed; trying again");
        }
    }
}

async fn seal_all(
    shared: &Shared,
    epoch: Epoch,
    heads: &mut Option<Heads>,
    shutdown: &CancellationToken,
) -> Result<(), StoreError> {
    while let Some(sealed) = shared.loops.seal_audit(epoch, BATCH).await? {
        tracing::info!(
            head = sealed.head.hex(),
            last_row = sealed.last_id,
            rows = sealed.rows,
            "audit sealed"
        );
        if let Some(heads) = heads {
            heads.tell(line(&sealed));
        }
        if !sealed.more || shutdown.is_cancelled() {
            break;
        }
    }
    Ok(())
}

/// The file outside, written by a thread of its own: a disk elsewhere may take its time or never answer, and neither sealing nor
/// the coordinator's end waits for it.
struct Heads {
    lines: SyncSender<String>,
    is_behind: bool,
}

impl Heads {
    fn to(path: PathBuf) -> Self {
        let (lines, told) = sync_channel::<String>(WAITING);
        std::thread::spawn(move || {
            for line in told {
                if let Err(error) = append(&path, &line) {
                    let path = path.display();
                    tracing::warn!(%path, %error, "the audit's head could not be written outside; it stands in this log");
                }
            }
        });
        Self { lines, is_behind: false }
    }

    /// Hands a line on, and waits for nothing.
    fn tell(&mut self, line: String) {
        let is_behind = self.lines.try_send(line).is_err();
        if is_behind && !self.is_behind {
            tracing::warn!(
                "the file for the audit's heads takes nothing; they stand in this log until it does"
            );
        }
        self.is_behind = is_behind;
    }
}

/// A line of the file outside.
fn line(sealed: &Sealed) -> String {
    let at = sealed.at.to_rfc3339_opts(SecondsFormat::Millis, true);
    format!("{at} {} {}\n", sealed.last_id, sealed.head.hex())
}

/// Appends a line, and comes back when it is on the disk.
fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    file.write_all(line.as_bytes())?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use farm_types::Digest;

    use super::*;

    #[test]
    fn a_file_that_never_answers_holds_nothing_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nobody-reads");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let mut heads = Heads::to(path);
        let is_refused = |_: &usize| {
            heads.tell("a head\n".to_owned());
            heads.is_behind
        };
        // All but those that wait and the one that is being written.
        assert!((0..200).filter(is_refused).count() >= 200 - WAITING - 1);
    }

    #[test]
    fn heads_are_appended_each_in_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("heads");
        let sealed = |last_id| Sealed {
            head: Digest::of(b"x"),
            last_id,
            rows: 1,
            at: chrono::DateTime::from_timestamp_millis(1_500).unwrap(),
            more: false,
        };
        for last_id in [7, 8] {
            append(&path, &line(&sealed(last_id))).unwrap();
        }
        let hex = Digest::of(b"x").hex();
        let expected = format!("1970-01-01T00:00:01.500Z 7 {hex}\n1970-01-01T00:00:01.500Z 8 {hex}\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        assert!(append(&folder.path().join("no/such/folder"), "x").is_err());
    }
}
