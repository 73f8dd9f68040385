//! The key that join tokens are shown with. It is in the folder before one is shown: if the farm's answer gets lost, the token
//! counts for that key only.
//!
//! Invariant: it is the same one for all tokens, whatever they are refused with, until the folder has a certificate for it. That a
//! token "was used" says nothing: it may have been by this very key, in a call whose answer got lost.

use std::io;
use std::path::Path;

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;

use super::files::{remove, replace};
use super::key::Key;

/// Until there is a certificate for the key.
const JOINING: &str = "joining.pem";

/// The key that waits in the folder for a certificate; if there is none, or it is damaged, a new one, which waits from now on.
///
/// # Errors
/// What is there can't be read, the system gives no random numbers, or the folder can't be written.
pub fn key(folder: &Path) -> io::Result<Key> {
    let kept = match std::fs::read(folder.join(JOINING)) {
        Ok(text) => PrivatePkcs8KeyDer::from_pem_slice(&text).ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        // It may be whole, and a token may count for it alone.
        Err(error) => return Err(io::Error::new(error.kind(), format!("{JOINING} can't be read: {error}"))),
    };
    if let Some(key) = kept.and_then(|der| Key::of(der.secret_pkcs8_der())) {
        return Ok(key);
    }
    let key = Key::generate().map_err(io::Error::other)?;
    let text = format!(
        "The key that a worker of farm shows its join token with, until it has a certificate.\n{}",
        key.pem()
    );
    replace(folder, JOINING, &text)?;
    Ok(key)
}

/// Forgets the key: the folder has a certificate for it.
///
/// # Errors
/// It can't be removed.
pub fn forget(folder: &Path) -> io::Result<()> {
    remove(&folder.join(JOINING))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_key_until_that_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let next = || key(folder.path()).unwrap();
        let first = next();
        let again = next();
        assert_eq!((again.public(), again.pem()), (first.public(), first.pem()));
        // What is damaged is replaced.
        let half = std::fs::read_to_string(folder.path().join(JOINING)).unwrap();
        std::fs::write(folder.path().join(JOINING), &half[..half.len() / 2]).unwrap();
        let anew = next();
        assert_ne!(anew.public(), first.public());
        assert_eq!(next().public(), anew.public());
        for _ in 0..2 {
            forget(folder.path()).unwrap();
        }
        assert_ne!(next().public(), anew.public());
    }

    #[test]
    fn what_cant_be_read_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        // A folder can't, whoever asks.
        std::fs::create_dir(folder.path().join(JOINING)).unwrap();
        let error = key(folder.path()).err().unwrap().to_string();
        assert!(error.contains("joining.pem can't be read"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
