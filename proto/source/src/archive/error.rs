//! Why an archive can't be taken, in texts of a bounded length.

use std::io;

/// Why an archive can't be taken; each text is a sentence with its cure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// Its bytes can't be got, or what they are to be written to doesn't take them.
    #[error("can't be read or unpacked ({0})")]
    Io(#[from] io::Error),
    /// The archive is cut off.
    #[error("ends {0}, so it is cut off; see whether what writes it failed, and send it whole")]
    Cut(String),
    /// It says something that makes no sense.
    #[error("is damaged: {0:?}: {1}; make it anew")]
    Damaged(String, String),
    /// It has something that can't be taken.
    #[error("has {name:?}, which can't be taken: {why}; {cure}")]
    Unsupported {
        /// The name of the entry.
        name: String,
        /// What is wrong with it.
        why: String,
        /// What to do about it.
        cure: String,
    },
    /// Its files have more bytes than they may.
    #[error("has more bytes than it may")]
    TooLarge,
    /// It has more entries than it may.
    #[error("has more entries than it may")]
    TooMany,
    /// It was told to stop.
    #[error("was broken off")]
    BrokenOff,
    /// None of these; the text says all.
    #[error("{0}")]
    Other(String),
}

/// What an archive says, as a message repeats it: names and values may be as long as the archive.
pub(crate) fn shown(text: &[u8]) -> String {
    const LONGEST: usize = 200;
    // No character has more bytes.
    let text = String::from_utf8_lossy(&text[..text.len().min(4 * LONGEST + 4)]).into_owned();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl ArchiveError {
    pub(super) fn damaged(name: &[u8], what: &str) -> Self {
        Self::Damaged(shown(name), what.to_owned())
    }

    pub(crate) fn unsupported(name: &[u8], why: &str, cure: &str) -> Self {
        Self::Unsupported { name: shown(name), why: why.to_owned(), cure: cure.to_owned() }
    }
}
