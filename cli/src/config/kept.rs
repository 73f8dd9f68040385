//! What is kept beside the configuration file for a farm that has a name: its token, and its CA.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use farm_types::Invalid;
use farm_types::chain::io_in_short;

use super::folder;
use crate::error::{Error, Result};
use crate::place::Place;

/// What tokens of sign-ins begin with.
const SIGNED_IN: &str = "farm_i_";

/// Who has no place for a configuration can't change it.
pub fn homeless() -> Error {
    Error::Usage(
        "neither HOME nor XDG_CONFIG_HOME names a folder that is there; say with FARM_CONFIG where the configuration is to be"
            .to_owned(),
    )
}

/// Where the token of a farm is kept.
///
/// # Errors
/// This user has no place for it.
pub fn token_file(name: &str) -> Result<PathBuf> {
    let folder = folder().ok_or_else(|| {
        Error::Usage("HOME names no folder that is there; give the token by --token-file".to_owned())
    })?;
    Ok(folder.join(format!("{name}.token")))
}

/// Where the CA of a farm is kept.
///
/// # Errors
/// This user has no place for it.
pub fn ca_file(name: &str) -> Result<PathBuf> {
    Ok(folder().ok_or_else(homeless)?.join(format!("{name}.ca.pem")))
}

/// A file that the user named, as it can be named from any folder.
///
/// # Errors
/// The working folder is gone.
pub fn absolute(flag: &str, file: &Path) -> Result<PathBuf> {
    Ok(std::path::absolute(file).map_err(|e| {
        Invalid::new(flag, file.display().to_string(), format!("it has no place ({})", io_in_short(&e)))
    })?)
}

/// Takes what is kept out of its file, and the file away. What a link leads to is emptied, and the link stays.
///
/// # Errors
/// It can't be done.
pub fn forget(file: &Path) -> Result<()> {
    if !file.parent().is_some_and(Path::is_dir) {
        return Ok(());
    }
    let failed = |why: String| Error::Usage(format!("the token file {}: {why}", file.display()));
    let place = Place::find(file).map_err(failed)?;
    if !place.is_regular() {
        return Err(failed("this is no regular file; name one with --token-file".to_owned()));
    }
    place.clear().map_err(|e| failed(io_in_short(&e)))?;
    place.give_up();
    Ok(())
}

/// The token that stands in an input, with one line break behind it.
///
/// # Errors
/// It can't be read, or there is none.
pub fn token_of(input: impl std::io::Read) -> Result<String> {
    let mut token = String::new();
    input
        .take(64 * 1024)
        .read_to_string(&mut token)
        .map_err(|e| Error::Usage(format!("standard input can't be read ({})", io_in_short(&e))))?;
    match token.trim() {
        "" => Err(Error::Usage(
            "--token-stdin: standard input is empty; the token is expected there".to_owned(),
        )),
        token => Ok(format!("{token}\n")),
    }
}

/// The token of a sign-in, if one is kept there and not an admin's.
pub fn kept_sign_in(file: &Path) -> Option<String> {
    let token = std::fs::read_to_string(file).ok()?.trim().to_owned();
    token.starts_with(SIGNED_IN).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_never_nothing() {
        assert_eq!(token_of(&b" farm_abc\n"[..]).unwrap(), "farm_abc\n");
        assert!(token_of(&b"\n"[..]).unwrap_err().to_string().contains("--token-stdin"));
    }
}
