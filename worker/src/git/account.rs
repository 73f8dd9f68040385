//! Whom git runs as.
//!
//! A worker that runs as root gives git a user of its own: what a repository could make of a fault in git then has neither the worker's
//! key nor its engine. Any other worker can only run it as itself.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

/// In this order: the user that farm's package makes, and the one that every system has.
const NAMES: [&str; 2] = ["farm-git", "nobody"];

/// A user of the machine. It has a line in /etc/passwd, since ssh refuses to run as one that has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// Whom git runs as; `None`: as the worker.
    ///
    /// # Errors
    /// The worker is root, and there is nobody else.
    pub(crate) fn find() -> io::Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let known = fs::read_to_string("/etc/passwd")?;
        Self::among(&known).map(Some).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "/etc/passwd has neither farm-git nor nobody, whom git is to run as",
            )
        })
    }

    fn among(known: &str) -> Option<Self> {
        NAMES.into_iter().find_map(|name| {
            known.lines().find_map(|line| match line.split(':').collect::<Vec<_>>()[..] {
                [of, _, uid, gid, ..] if of == name => {
                    let (uid, gid) = (uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?);
                    (uid != 0).then(|| Self { name: name.to_owned(), uid, gid })
                }
                _ => None,
            })
        })
    }

    /// Lets it pass through all folders above `folder`. Of the one directly above, the worker's own, it becomes the group and may
    /// only pass; what else lies there is closed to it.
    ///
    /// # Errors
    /// It can't pass one further up, which isn't ours to open.
    pub(crate) fn let_through(&self, folder: &Path) -> io::Result<()> {
        let may_pass = |metadata: &fs::Metadata| {
            let of_group = metadata.gid() == self.gid && metadata.mode() & 0o010 != 0;
            of_group || metadata.mode() & 0o001 != 0
        };
        for (i, above) in folder.ancestors().skip(1).enumerate() {
            let metadata = fs::metadata(above)?;
            if may_pass(&metadata) {
                continue;
            }
            if i > 0 {
                let text = format!(
                    "the user {}, whom git runs as, can't pass {}; chmod o+x it",
                    self.name,
                    above.display()
                );
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
            }
            for beside in fs::read_dir(above)? {
                let beside = beside?;
                let metadata = beside.metadata()?;
                if beside.path() != folder && !metadata.is_symlink() {
                    fs::set_permissions(beside.path(), fs::Permissions::from_mode(metadata.mode() & 0o7700))?;
                }
            }
            chown(above, None, Some(self.gid))?;
            fs::set_permissions(above, fs::Permissions::from_mode((metadata.mode() & 0o7700) | 0o010))?;
        }
        Ok(())
    }
}

/// Makes a folder, and those above it, that others may pass only.
pub(crate) fn passage(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711))
}

/// Makes a folder that is the account's, closed to others.
pub(crate) fn own_folder(folder: &Path, account: Option<&Account>) -> io::Result<()> {
    fs::create_dir(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    give(folder, account)
}

/// Gives a file or folder to the account.
pub(crate) fn give(path: &Path, account: Option<&Account>) -> io::Result<()> {
    account.map_or(Ok(()), |account| chown(path, Some(account.uid), Some(account.gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_gets_farms_own_user_or_nobody_but_never_root() {
        let nobody =
            "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65533:nobody:/nonexistent:/usr/sbin/nologin\n";
        let found = |text: &str| Account::among(text).map(|account| (account.name, account.uid, account.gid));
        assert_eq!(found(nobody), Some(("nobody".to_owned(), 65534, 65533)));
        let both = format!("{nobody}farm-git:x:998:997::/:/usr/sbin/nologin\n");
        assert_eq!(found(&both), Some(("farm-git".to_owned(), 998, 997)));
        assert_eq!(found("farm-git:x:0:0::/:\nnobody\n"), None);
    }
}
