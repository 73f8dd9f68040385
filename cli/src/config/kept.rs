//! What is kept beside the configuration file for a farm that has a name: its token, with the end of a sign-in's, and its CA.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use chrono::DateTime;
use farm_types::chain::io_in_short;
use farm_types::{Digest, Invalid};

use super::edit::{Edit, write_private};
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

/// Whether both are one file, by whichever name or link.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let real = |file: &Path| file.canonicalize().ok();
    one == other || real(one).is_some_and(|one| Some(one) == real(other))
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

/// A sign-in that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignIn {
    pub token: String,
    /// Until when it counts, milliseconds since 1970; `None`: that isn't known here.
    pub ends_ms: Option<i64>,
}

/// The sign-in of which the token is kept there, if it is one and not an admin's.
pub fn kept_sign_in(file: &Path) -> Option<SignIn> {
    let token = std::fs::read_to_string(file).ok()?.trim().to_owned();
    let said = || std::fs::read_to_string(ends_file(file)).ok();
    let ends_ms = || {
        let said = said()?;
        let (ends, of) = said.trim().split_once(' ')?;
        // That of another token says nothing of this one, which somebody has put in its place.
        (of == digest(&token))
            .then(|| DateTime::parse_from_rfc3339(ends).ok())?
            .map(|at| at.timestamp_millis())
    };
    let ends_ms = ends_ms();
    token.starts_with(SIGNED_IN).then_some(SignIn { token, ends_ms })
}

/// Says of which token something is, and not what it is.
fn digest(token: &str) -> String {
    Digest::of(token.trim().as_bytes()).hex()
}

/// Keeps a token, and until when it counts if it is of a sign-in.
///
/// # Errors
/// It can't be written.
pub fn keep_token(file: &Path, token: &str, ends_ms: Option<i64>) -> Result<()> {
    write_private(file, token.as_bytes())?;
    let ends = ends_ms.and_then(DateTime::from_timestamp_millis);
    match ends {
        Some(ends) => {
            let said = format!("{} {}\n", ends.to_rfc3339(), digest(token));
            write_private(&ends_file(file), said.as_bytes())
        }
        None => Ok(()),
    }
}

/// Keeps a token in the place of the one there, if any, and saves the configuration that goes with it. Where that can't be saved nothing
/// is changed.
///
/// # Errors
/// The configuration or the token can't be written.
pub fn replace_token(file: &Path, token: &str, ends_ms: Option<i64>, edit: Edit) -> Result<()> {
    let was = std::fs::read_to_string(file).ok().filter(|was| !was.is_empty());
    let was_until = kept_sign_in(file).and_then(|was| was.ends_ms);
    // A token is never beside an address that it isn't for: first the old one goes, then the address is changed.
    forget_token(file)?;
    if let Err(error) = edit.save() {
        if let Some(was) = was {
            keep_token(file, &was, was_until)?;
        }
        return Err(error);
    }
    keep_token(file, token, ends_ms)
}

/// Forgets a token that is kept there, and what goes with it.
///
/// # Errors
/// It can't be done.
pub fn forget_token(file: &Path) -> Result<()> {
    forget(&ends_file(file))?;
    forget(file)
}

/// Beside a sign-in's token: until when it counts, and which token that is said of.
fn ends_file(token: &Path) -> PathBuf {
    token.with_extension("ends")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_is_kept_with_its_end_and_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("farm.example.token");
        assert_eq!(kept_sign_in(&file), None);
        let fine = |done: Result<()>| done.unwrap_or_else(|e| panic!("{e}"));
        fine(keep_token(&file, "farm_i_abc\n", Some(1_800_000_000_000)));
        let is = kept_sign_in(&file).unwrap();
        assert_eq!((is.token.as_str(), is.ends_ms), ("farm_i_abc", Some(1_800_000_000_000)));
        // Another token that was put there, and what somebody has written.
        std::fs::write(&file, "farm_i_other\n").unwrap();
        assert_eq!(kept_sign_in(&file).unwrap().ends_ms, None);
        std::fs::write(folder.path().join("farm.example.ends"), "tomorrow").unwrap();
        assert_eq!(kept_sign_in(&file).unwrap().ends_ms, None);
        fine(forget_token(&file));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        fine(keep_token(&file, "farm_p_abc\n", None));
        assert_eq!(kept_sign_in(&file), None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_is_the_same_by_all_its_names_and_one_that_is_not_there_by_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a.token"), folder.path().join("link"));
        let roundabout = folder.path().join("sub/../a.token");
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(is_same(&file, &file) && !is_same(&file, &link) && !is_same(&file, &roundabout));
        std::fs::write(&file, "farm_p_abc").unwrap();
        assert!(is_same(&file, &link) && is_same(&roundabout, &file));
        assert!(!is_same(&file, &folder.path().join("b.token")));
    }

    #[test]
    fn a_token_is_one_word_and_never_nothing() {
        assert_eq!(token_of(&b" farm_abc\n"[..]).unwrap(), "farm_abc\n");
        assert!(token_of(&b"\n"[..]).unwrap_err().to_string().contains("--token-stdin"));
    }
}
