//! The folder that is one worker's own.
//!
//! Two workers in one folder would remove each other's files, so a worker claims it for its life. The claim
//! is a name in the kernel (an abstract socket), which goes with the process, however that ends.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

/// Holds a folder until it is dropped.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "it is held, not used")] UnixListener);

/// Makes the folder (mode 0700) if need be, and claims it.
///
/// # Errors
/// It can't be made, or another worker of this machine has it.
pub fn claim(folder: &Path) -> io::Result<Claim> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let metadata = fs::metadata(folder)?;
    let name = format!("farm-worker:{}:{}", metadata.dev(), metadata.ino());
    let address = SocketAddr::from_abstract_name(name)?;
    match UnixListener::bind_addr(&address) {
        Ok(listener) => Ok(Claim(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another worker uses this folder; stop it, or give this one another --state-dir",
        )),
        Err(error) => Err(error),
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
        assert!(claim(&place).unwrap_err().to_string().contains("--state-dir"));
        drop(claimed);
        assert!(claim(&place).is_ok());
    }
}
