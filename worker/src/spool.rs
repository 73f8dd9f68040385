//! Results that nobody acknowledged yet, on disk, so that a restart of the worker loses none.
//!
//! One file an attempt: the encoded `Finished` message. It is written before the coordinator is told, and
//! removed after the coordinator answered; in between it may be told twice, which the lease token makes
//! harmless. A file holds a lease token, so the folder is the worker's own (mode 0700).

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use farm_proto::v1;
use farm_types::AttemptId;
use prost::Message as _;

/// Older results are dropped at start: their builds met their deadline long ago.
const KEPT: Duration = Duration::from_secs(24 * 3600);

const SUFFIX: &str = "finished";

/// The folder of results that no coordinator has acknowledged. They outlive the process.
#[derive(Debug, Clone)]
pub struct Spool {
    folder: PathBuf,
}

impl Spool {
    /// Opens the folder, and makes it if need be.
    ///
    /// # Errors
    /// The folder can't be made.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let folder = state_dir.join("results");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// The results that a former life of this worker left. What can't be read is dropped, with a log line.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn load(&self) -> io::Result<Vec<(AttemptId, v1::Finished)>> {
        let mut results = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            match read(&path) {
                Ok(Some(result)) => results.push(result),
                Ok(None) => drop(fs::remove_file(&path)),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "dropped a result that can't be read");
                    let _ = fs::remove_file(&path);
                }
            }
        }
        Ok(results)
    }

    /// Keeps a result. It is whole on disk, or not there at all.
    ///
    /// # Errors
    /// The disk doesn't take it.
    pub fn keep(&self, attempt: AttemptId, finished: &v1::Finished) -> io::Result<()> {
        let path = self.path(attempt);
        let unfinished = path.with_extension("part");
        let mut file = fs::File::create(&unfinished)?;
        file.write_all(&finished.encode_to_vec())?;
        file.sync_all()?;
        fs::rename(unfinished, path)
    }

    /// Forgets a result. One that is not there is forgotten already.
    pub fn forget(&self, attempt: AttemptId) {
        match fs::remove_file(self.path(attempt)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%attempt, %error, "an acknowledged result stays on disk");
            }
            _ => {}
        }
    }

    fn path(&self, attempt: AttemptId) -> PathBuf {
        self.folder.join(format!("{attempt}.{SUFFIX}"))
    }
}

/// `None` for a file that is no result, or too old a one.
fn read(path: &Path) -> io::Result<Option<(AttemptId, v1::Finished)>> {
    if path.extension().is_none_or(|extension| extension != SUFFIX) {
        return Ok(None);
    }
    let age = SystemTime::now().duration_since(fs::metadata(path)?.modified()?).unwrap_or_default();
    if age > KEPT {
        return Ok(None);
    }
    let bytes = fs::read(path)?;
    let finished = v1::Finished::decode(&bytes[..]).map_err(io::Error::other)?;
    let attempt = finished.lease.as_ref().and_then(|lease| lease.attempt_id.parse().ok());
    Ok(attempt.map(|attempt| (attempt, finished)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::offered;

    #[test]
    fn a_result_outlives_a_restart_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path()).unwrap();
        let lease = offered().lease;
        let attempt: AttemptId = lease.as_ref().unwrap().attempt_id.parse().unwrap();
        let finished = v1::Finished { lease, outcome: None, self_check: None, pushed: None };
        spool.keep(attempt, &finished).unwrap();
        fs::write(folder.path().join("results/x.part"), "half").unwrap();
        fs::write(folder.path().join("results/y.finished"), "\u{ff}junk").unwrap();
        let again = Spool::open(folder.path()).unwrap();
        assert_eq!(again.load().unwrap(), [(attempt, finished)]);
        assert_eq!(fs::read_dir(folder.path().join("results")).unwrap().count(), 1);
        again.forget(attempt);
        again.forget(attempt);
        assert!(again.load().unwrap().is_empty());
    }
}
