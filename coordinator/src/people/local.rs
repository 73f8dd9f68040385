//! What farm's own callers show: the token file of the local admin, and what one coordinator shows to the others.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use farm_client::{Bearer, BearerError};
use farm_types::Digest;

/// The digest of the local admin's token, from its file; makes it (mode 0600) when it isn't there.
///
/// # Errors
/// The file can't be read or made, or is empty.
pub fn admin_token(path: &Path) -> std::io::Result<Digest> {
    let token = match std::fs::read_to_string(path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let secret: [u8; 32] = rand::random();
            let token = format!("farm_{}", Digest::from(secret).hex());
            // Whole or not at all, also when the machine loses its power; another coordinator may be first.
            let beside = path.with_extension(format!("{}.new", std::process::id()));
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&beside)?;
            writeln!(file, "{token}")?;
            file.sync_all()?;
            let linked = std::fs::hard_link(&beside, path);
            std::fs::remove_file(&beside)?;
            match linked {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    std::fs::read_to_string(path)?.trim().to_owned()
                }
                linked => linked.map(|()| token)?,
            }
        }
        Err(error) => return Err(error),
    };
    if token.is_empty() {
        return Err(std::io::Error::other("it is empty; delete it, and a new token is made"));
    }
    Ok(Digest::of(token.as_bytes()))
}

/// What this coordinator shows to the other ones when it calls them.
#[derive(Debug, Clone)]
pub struct Secret {
    bearer: Bearer,
    digest: Digest,
}

impl Secret {
    /// A new one, of 32 random bytes.
    ///
    /// # Errors
    /// Never: what it consists of is fit for a header.
    pub fn generate() -> Result<Self, BearerError> {
        let random: [u8; 32] = rand::random();
        let token = format!("farm_peer_{}", Digest::from(random).hex());
        Ok(Self { bearer: token.parse()?, digest: Digest::of(token.as_bytes()) })
    }

    /// What the others know it by.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What shows it in each call.
    pub(crate) fn bearer(&self) -> Bearer {
        self.bearer.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/token");
        let made = admin_token(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let token = std::fs::read_to_string(&path).unwrap();
        assert_eq!(Digest::of(token.trim().as_bytes()), made);
        assert_eq!(admin_token(&path).unwrap(), made);
        std::fs::write(&path, "\n").unwrap();
        assert!(admin_token(&path).unwrap_err().to_string().contains("delete it"));
    }
}
