//! Why a token gets nobody in, by what follows from it.

use farm_store::StoreError;
use farm_types::Invalid;

/// As much of a text that somebody else wrote is repeated, characters.
const SHOWN: usize = 120;

/// A token was refused. The texts are for whoever sent it.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// What was sent with it is malformed, whatever it shows. Nobody was asked anything.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It shows nobody: it is no token, is forged, for somebody else, out of its time, or was used before. Another one may do.
    #[error("{0}")]
    Token(String),
    /// It is real, and nothing trusts whom it shows.
    #[error("{0}")]
    Untrusted(String),
    /// Its issuer can't be asked. The same token may do later.
    #[error("{0}")]
    Unavailable(String),
    /// The farm isn't set up for it, or not as its issuer wants it. Whoever runs it has to do something.
    #[error("{0}")]
    Setup(String),
    /// The farm's own database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A text of somebody else's as messages repeat it: short, in quotes, and nothing in it moves a cursor.
pub(in crate::people) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A length of time in one unit: `59 min`.
pub(super) fn span(seconds: i64) -> String {
    match seconds.abs() {
        ..120 => format!("{} s", seconds.abs()),
        120..7200 => format!("{} min", seconds.abs() / 60),
        7200..172_800 => format!("{} h", seconds.abs() / 3600),
        _ => format!("{} days", seconds.abs() / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_repeated_shortly_and_harmlessly() {
        assert_eq!(shown("a\u{1b}[2Jb\u{202e}"), "\"a\\u{1b}[2Jb\\u{202e}\"");
        assert_eq!(shown(&"é".repeat(SHOWN)).chars().count(), SHOWN + 2);
        assert_eq!(shown(&"é".repeat(SHOWN + 1)).chars().count(), SHOWN + 3);
    }

    #[test]
    fn a_time_is_told_in_one_unit() {
        let all = [0, 119, 120, -3599, 7199, 7200, 172_799, 172_800].map(span);
        assert_eq!(all, ["0 s", "119 s", "2 min", "59 min", "119 min", "2 h", "47 h", "2 days"]);
    }
}
