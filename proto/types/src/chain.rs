//! Errors that were led to by others: the causes below an error, and the words for them.

use std::error::Error;
use std::io;

/// An error and those that led to it; the last is the cause of all.
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The cause at the bottom: "connection refused" rather than "error sending request".
pub fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    chain(error).last().unwrap_or(error)
}

/// The cause at the bottom in a few words, the system's without their number.
pub fn in_short(error: &(dyn Error + 'static)) -> String {
    let cause = innermost(error);
    cause.downcast_ref().map_or_else(|| cause.to_string(), io_in_short)
}

/// An io error in a few words: of the system's own the kind, which has no number in it, where Rust has a word for it.
pub fn io_in_short(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(_) if !error.kind().to_string().starts_with("uncategorized") => error.kind().to_string(),
        _ => error.to_string(),
    }
}

/// A text and then the causes below it, in one line, each once.
pub fn with_causes(text: &str, below: Option<&(dyn Error + 'static)>) -> String {
    let mut text = text.to_owned();
    for cause in below.into_iter().flat_map(chain).map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("error sending request")]
    struct Outer(#[source] io::Error);

    #[test]
    fn the_systems_errors_are_told_in_words() {
        let refused = Outer(io::Error::from_raw_os_error(111));
        assert_eq!(in_short(&refused), "connection refused");
        assert_eq!(in_short(&io::Error::other("just so")), "just so");
        // An error number that Rust has no kind for.
        assert!(in_short(&io::Error::from_raw_os_error(92)).contains("92"));
        assert_eq!(chain(&refused).count(), 2);
    }

    #[test]
    fn causes_stand_behind_a_text_once_each() {
        let outer = Outer(io::Error::other("no route"));
        assert_eq!(with_causes("", Some(&outer)), "error sending request: no route");
        assert_eq!(with_causes("transport: no route", outer.source()), "transport: no route");
        assert_eq!(with_causes("it ended", None), "it ended");
    }
}
