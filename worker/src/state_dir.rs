//! The folder that is one worker's own.
//!
//! Two workers in one folder would remove each other's files, so a worker claims it for its life. The claim
//! is a lock on a file in it, which the kernel frees when the process ends, however that is.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// The file that the lock is on.
pub const LOCK: &str = "lock";

/// Holds a folder until it is dropped.
#[derive(Debug)]
pub struct Claim {
    _held: File,
    home: String,
}

impl Claim {
    /// Names the folder among all machines and their starts: whoever has claimed it later knows that whoever had it
    /// before has ended. That is, on one running kernel, since there such a claim is single.
    pub fn home(&self) -> String {
        self.home.clone()
    }
}

/// Makes the folder (mode 0700) if need be, and claims it.
///
/// # Errors
/// It can't be made, or another worker of this machine has it.
pub fn claim(folder: &Path) -> io::Result<Claim> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let held = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(folder.join(LOCK))?;
    let metadata = held.metadata()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let home = format!("{}:{}:{}", kernel.trim(), metadata.dev(), metadata.ino());
    match flock(&held, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Claim { _held: held, home }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another worker uses this folder; stop it, or give this one another --state-dir",
        )),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_worker() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("a/b");
        let claimed = claim(&place).unwrap();
        let home = claimed.home();
        assert!(claim(&place).unwrap_err().to_string().contains("--state-dir"));
        drop(claimed);
        assert_eq!(claim(&place).unwrap().home(), home);
        assert_ne!(claim(&folder.path().join("c")).unwrap().home(), home);
    }
}
