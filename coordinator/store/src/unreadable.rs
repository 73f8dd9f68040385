//! Rows that make no sense: a list goes on without them, and the log says it once of each.
//!
//! Whoever reads many rows asks [`readable`] of each, so that one bad row costs itself only.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};

use crate::{Result, StoreError};

/// As many are remembered; then it begins anew.
const MOST: usize = 1000;

/// What was told already, in this process.
static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What was read of the row of a `what` named `id`; nothing when it can't be, and the log has it.
pub(crate) fn readable<T>(what: &str, id: impl Display, read: Result<T>) -> Option<T> {
    read.map_err(|error| tell(what, id, &error)).ok()
}

/// Logs what went wrong with one of many: once, if it is the row's fault and so the same the next time.
pub(crate) fn tell(what: &str, id: impl Display, error: &StoreError) {
    if error.is_transient() {
        tracing::warn!(%id, %error, "{what} could not be worked on; trying again");
    } else if is_news(format!("{what} {id}: {error}")) {
        tracing::error!(%id, %error, "{what} can't be read or worked on; it is left out until that is mended");
    }
}

fn is_news(words: String) -> bool {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.len() >= MOST {
        told.clear();
    }
    told.insert(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_cant_be_read_is_told_once() {
        assert_eq!(readable("test", 1, Ok(7)), Some(7));
        assert_eq!(readable::<u8>("test", 2, Err(StoreError::corrupt("x"))), None);
        assert!(!is_news("test 2: the database holds what it must not: x".to_owned()));
        assert!(is_news("test 3: the database holds what it must not: x".to_owned()));
    }
}
