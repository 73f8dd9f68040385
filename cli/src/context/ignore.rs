//! Which `.dockerignore` counts, and what it says.
//!
//! `<Dockerfile>.dockerignore` beside the Dockerfile wins over `.dockerignore` in the context's root, as it
//! does with Docker. The ignore file is read whether or not it names itself.

use std::io;
use std::path::Path;

use farm_types::pattern::PatternSet;

use super::ContextError;

/// The patterns for a context whose Dockerfile (if it has one) is `dockerfile`.
///
/// # Errors
/// The file can't be read, isn't UTF-8, or holds a line that is no pattern.
pub(super) fn load(root: &Path, dockerfile: Option<&Path>) -> Result<PatternSet, ContextError> {
    let mut candidates = Vec::new();
    if let Some(dockerfile) = dockerfile {
        let mut name = dockerfile.as_os_str().to_owned();
        name.push(".dockerignore");
        candidates.push(name.into());
    }
    candidates.push(root.join(".dockerignore"));
    for path in candidates {
        match std::fs::metadata(&path) {
            Ok(found) if !found.is_file() => {
                let what = "this is no regular file; make it one, or take it away";
                return Err(ContextError::IgnoreFile(format!("{}: {what}", path.display())));
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(ContextError::unreadable(&path.display().to_string(), &e)),
        }
        match std::fs::read(&path) {
            Ok(bytes) => return parse(&path, &bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(ContextError::unreadable(&path.display().to_string(), &e)),
        }
    }
    Ok(PatternSet::default())
}

fn parse(path: &Path, bytes: &[u8]) -> Result<PatternSet, ContextError> {
    let invalid = |what: String| ContextError::IgnoreFile(format!("{}: {what}", path.display()));
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        invalid(format!("line {line} isn't UTF-8; save the file as UTF-8"))
    })?;
    if let Some(at) = text.find(|c: char| c.is_control() && !"\n\r\t".contains(c)) {
        let line = text[..at].matches('\n').count() + 1;
        return Err(invalid(format!("line {line} holds a control character; take it out")));
    }
    PatternSet::parse(text).map_err(|e| invalid(e.to_string()))
}
