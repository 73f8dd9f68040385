//! Seals what was done, each second, and tells the heads: to the log, and to a file outside if there is one. How:
//! `farm_store::people::seals`.
//!
//! A head that was made and not told (the process ended in between) is held by the next one.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
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

/// Seals while leading, until `shutdown`.
pub async fn run(shared: Arc<Shared>, mut lead: watch::Receiver<Option<Lead>>, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while let Some(lead) = turn(&mut tick, &mut lead, &shutdown).await {
        if let Err(error) = seal_all(&shared, lead.epoch, &shutdown).await {
            tracing::warn!(%error, "what was done could not be sealed; trying again");
        }
    }
}

async fn seal_all(shared: &Shared, epoch: Epoch, shutdown: &CancellationToken) -> Result<(), StoreError> {
    while let Some(sealed) = shared.store.seal_audit(epoch, BATCH).await? {
        tracing::info!(
            head = sealed.head.hex(),
            last_row = sealed.last_id,
            rows = sealed.rows,
            "audit sealed"
        );
        if let Some(path) = shared.config.audit.head_file.clone() {
            let line = line(&sealed);
            // Off the threads that serve calls: a disk elsewhere may take its time.
            let written = tokio::task::spawn_blocking(move || append(&path, &line)).await;
            if let Err(error) = written.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
                let path = shared.config.audit.head_file.as_deref().unwrap_or(Path::new("")).display();
                tracing::warn!(%path, %error, "the audit's head could not be written outside; it stands in this log");
            }
        }
        if !sealed.more || shutdown.is_cancelled() {
            break;
        }
    }
    Ok(())
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
