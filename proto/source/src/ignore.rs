//! Which `.dockerignore` counts, and what it says.
//!
//! `<Dockerfile>.dockerignore` beside the Dockerfile wins over `.dockerignore` in the context's root, as it
//! does with Docker. The ignore file is read whether or not it names itself. Its links are followed like the Dockerfile's.

use std::ffi::OsStr;
use std::path::Path;

use farm_types::pattern::PatternSet;

use super::ContextError;
use super::location::{Links, Location, link_at};
use super::within::{Leads, follow};

/// An ignore file is no longer, bytes.
const LONGEST: u64 = 1 << 20;

/// The patterns of a location's context. What is said of them is added to `warnings`.
///
/// # Errors
/// The file can't be read, isn't UTF-8, holds a line that is no pattern, or leads where it may not.
pub(super) fn load(location: &Location, warnings: &mut Vec<String>) -> Result<PatternSet, ContextError> {
    let name = format!("{}.dockerignore", location.dockerfile_name);
    let shown = location.dockerfile.with_file_name(&name);
    match location.beside(OsStr::new(&name))? {
        Some(path) => return read(&path, &location.in_short(&shown)),
        None => not_followed(&shown, &location.in_short(&shown), location.links, warnings)?,
    }
    let shown = location.in_short(&location.root.join(".dockerignore"));
    in_folder(&location.root, &shown, location.links, warnings)
}

/// The patterns of a named context.
///
/// # Errors
/// As [`load`].
pub(super) fn load_named(
    root: &Path,
    links: Links,
    warnings: &mut Vec<String>,
) -> Result<PatternSet, ContextError> {
    in_folder(root, &root.join(".dockerignore").display().to_string(), links, warnings)
}

fn in_folder(
    root: &Path,
    shown: &str,
    links: Links,
    warnings: &mut Vec<String>,
) -> Result<PatternSet, ContextError> {
    match follow(root, Path::new(".dockerignore"), true) {
        Ok(Leads::To(path)) => read(&root.join(path), shown),
        Ok(Leads::Missing { .. } | Leads::Nowhere) => {
            not_followed(&root.join(".dockerignore"), shown, links, warnings)?;
            Ok(PatternSet::default())
        }
        Err(e) => Err(ContextError::unreadable(shown, &e)),
    }
}

/// Says so if this is a link: who has one means it to be read.
fn not_followed(
    path: &Path,
    shown: &str,
    links: Links,
    warnings: &mut Vec<String>,
) -> Result<(), ContextError> {
    let Some(target) = link_at(path) else { return Ok(()) };
    if links == Links::Inside {
        return Err(ContextError::IgnoreFile(format!(
            "{shown}: this is a link to {target}, and there is no such file in its folder or archive; put the file itself there"
        )));
    }
    warnings.push(format!(
        "{shown} is a link to {target}, which isn't in its folder or archive: it is not read, and leaves nothing out (the same \
         with buildx); put the file itself there"
    ));
    Ok(())
}

fn read(path: &Path, shown: &str) -> Result<PatternSet, ContextError> {
    match path.symlink_metadata() {
        Ok(found) if !found.is_file() => {
            let what = "this is no regular file; make it one, or take it away";
            return Err(ContextError::IgnoreFile(format!("{shown}: {what}")));
        }
        Ok(found) if found.len() > LONGEST => {
            let what = format!("this has {} bytes; it has {LONGEST} at most, so take some out", found.len());
            return Err(ContextError::IgnoreFile(format!("{shown}: {what}")));
        }
        Ok(_) => {}
        Err(e) => return Err(ContextError::unreadable(shown, &e)),
    }
    let bytes = std::fs::read(path).map_err(|e| ContextError::unreadable(shown, &e))?;
    parse(shown, &bytes)
}

/// Comments may hold any bytes, as with builders; a pattern is UTF-8, since names are.
fn parse(shown: &str, bytes: &[u8]) -> Result<PatternSet, ContextError> {
    let invalid = |what: String| ContextError::IgnoreFile(format!("{shown}: {what}"));
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut text = String::with_capacity(bytes.len());
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if !line.starts_with(b"#") {
            let line = std::str::from_utf8(line)
                .map_err(|_| invalid(format!("line {} isn't UTF-8; save the file as UTF-8", at + 1)))?;
            if line.contains(|c: char| c.is_control() && !"\r\t".contains(c)) {
                return Err(invalid(format!("line {} holds a control character; take it out", at + 1)));
            }
            text.push_str(line);
        }
        text.push('\n');
    }
    PatternSet::parse(&text).map_err(|e| invalid(e.to_string()))
}
