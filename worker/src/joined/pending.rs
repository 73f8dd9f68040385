//! The key that a join token is shown with. It is in the folder before the token is shown: if the farm's answer gets lost, the
//! token counts for that key only.

use std::io;
use std::path::Path;

use farm_types::Digest;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;

use super::files::{remove, replace};
use super::key::Key;

/// Until there is a certificate for the key.
const JOINING: &str = "joining.pem";

/// The key that this join token is shown with: the one that is in the folder, if the token was shown before and nothing came of
/// it that is known, else another one, which is there from now on.
///
/// # Errors
/// The system gives no random numbers, or the folder can't be written.
pub fn of_token(folder: &Path, token: &str) -> io::Result<Key> {
    let line = format!("token: {}\n", Digest::of(token.as_bytes()).hex());
    // One that can't be read is of no use to the token either.
    let kept = std::fs::read_to_string(folder.join(JOINING)).ok().filter(|text| text.contains(&line));
    let der = kept.and_then(|text| PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).ok());
    if let Some(key) = der.and_then(|der| Key::of(der.secret_pkcs8_der())) {
        return Ok(key);
    }
    let key = Key::generate().map_err(io::Error::other)?;
    let text = format!(
        "The key that a worker of farm shows with the join token whose SHA-256 stands here, until it has a certificate.\n\
         {line}{}",
        key.pem()
    );
    replace(folder, JOINING, &text)?;
    Ok(key)
}

/// Forgets the key of a join token: it has a certificate, or will have none.
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
    fn a_join_token_is_shown_with_one_key_until_that_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let key = |token| of_token(folder.path(), token).unwrap();
        let first = key("farm_j_1");
        let again = key("farm_j_1");
        assert_eq!((again.public(), again.pem()), (first.public(), first.pem()));
        let text = std::fs::read_to_string(folder.path().join(JOINING)).unwrap();
        assert!(!text.contains("farm_j_"), "the token stands in the folder");
        let other = key("farm_j_2");
        assert_ne!(other.public(), first.public());
        // What is damaged is replaced.
        let half = std::fs::read_to_string(folder.path().join(JOINING)).unwrap();
        std::fs::write(folder.path().join(JOINING), &half[..half.len() / 2]).unwrap();
        let anew = key("farm_j_2");
        assert_ne!(anew.public(), other.public());
        assert_eq!(key("farm_j_2").public(), anew.public());
        for _ in 0..2 {
            forget(folder.path()).unwrap();
        }
        assert_ne!(key("farm_j_2").public(), anew.public());
    }
}
