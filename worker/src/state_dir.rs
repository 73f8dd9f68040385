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
pub struct Claim {
    _held: UnixListener,
    home: String,
}

impl Claim {
    /// Names the folder among all machines and their starts: whoever has claimed it later knows that whoever had it
    /// before has ended. That is, in one network namespace of one running kernel, since there such a claim is single.
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
    let metadata = fs::metadata(folder)?;
    let name = format!("farm-worker:{}:{}", metadata.dev(), metadata.ino());
    let kernel = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let network = fs::metadata("/proc/self/ns/net")?;
    let home = format!("{}:{}:{}:{name}", kernel.trim(), network.dev(), network.ino());
    let address = SocketAddr::from_abstract_name(name)?;
    match UnixListener::bind_addr(&address) {
        Ok(held) => Ok(Claim { _held: held, home }),
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
        let home = claimed.home();
        assert!(claim(&place).unwrap_err().to_string().contains("--state-dir"));
        drop(claimed);
        assert_eq!(claim(&place).unwrap().home(), home);
        assert_ne!(claim(&folder.path().join("c")).unwrap().home(), home);
    }
}
