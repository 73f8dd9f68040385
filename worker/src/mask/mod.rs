//! Secrets' values in what a worker tells: found in whatever form, and masked.
//!
//! A [`Mask`] knows the values of one attempt. Their `pieces` are looked for in all `forms` that tools print them in; `patterns` is
//! the search, and a [`Masker`] applies it to a `stream` whose pieces are cut anywhere. [`Masking`] is where an attempt's mask is
//! kept from the moment its secrets are there; what leaves the worker goes through `told`, what it writes to its own log through
//! [`logs`].
//!
//! Invariants: what is told holds no value in any of these forms; where none is, nothing is changed. Without secrets nothing is
//! looked for, copied or held back. A value that can't be masked is told to be one.
//!
//! What it can't find is in `docs/security.md`.

mod forms;
pub mod logs;
mod patterns;
mod pieces;
mod stream;
pub mod told;

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

use farm_proto::v1::AttemptEvent;

use self::patterns::Patterns;
pub use self::patterns::{Unmasked, Why};
pub use self::stream::Masker;
use crate::notice;

/// The values of an attempt's secrets, to be masked wherever they stand. It isn't printed.
#[derive(Clone, Default)]
pub struct Mask(Option<Arc<Patterns>>);

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mask").finish_non_exhaustive()
    }
}

impl Mask {
    /// Of these values; and those that it leaves out.
    pub fn new(values: &[&[u8]]) -> (Self, Vec<Unmasked>) {
        let (patterns, unmasked) = Patterns::new(values);
        (Self(patterns.map(Arc::new)), unmasked)
    }

    /// Whether there is nothing to mask.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// For one stream of bytes.
    pub fn masker(&self) -> Masker {
        Masker::new(self.0.clone())
    }

    /// A text that is whole.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.bytes(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            // A value may begin or end within a letter.
            Cow::Owned(masked) => Cow::Owned(String::from_utf8_lossy(&masked).into_owned()),
        }
    }

    /// Bytes that are whole.
    pub fn bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        self.masker().take(bytes, true)
    }

    /// Masks texts in their places.
    pub fn apply<'a>(&self, texts: impl IntoIterator<Item = &'a mut String>) {
        for text in texts {
            if let Cow::Owned(masked) = self.text(text) {
                *text = masked;
            }
        }
    }
}

/// Where an attempt's mask is found by all who tell of it: empty until its secrets are there.
#[derive(Debug, Clone, Default)]
pub struct Masking(Arc<OnceLock<Mask>>);

impl Masking {
    /// The secrets are there, with their ids; from now on they are masked, also in the worker's own log. Answers with what the user has
    /// to be told: which of them aren't. To be called once, before anything can print one; off the async threads, as it takes half a
    /// second where there are some hundred kB of them.
    #[must_use]
    pub fn begin<'a>(&self, secrets: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<AttemptEvent> {
        let (ids, values): (Vec<_>, Vec<_>) = secrets.into_iter().unzip();
        let (mask, unmasked) = Mask::new(&values);
        logs::watch(&mask);
        // A second time would be a defect; the first ones stay masked.
        let _ = self.0.set(mask);
        let named = |unmasked: Unmasked| Some(notice(said(ids.get(unmasked.index)?, unmasked.why)));
        unmasked.into_iter().filter_map(named).collect()
    }

    /// The mask as it is now.
    pub fn mask(&self) -> Mask {
        self.0.get().cloned().unwrap_or_default()
    }
}

/// That a secret isn't masked, for people. Not how long it is.
fn said(id: &str, why: Why) -> String {
    match why {
        Why::TooShort => format!(
            "secret {id} is not masked in what this build prints: it has fewer than {} bytes (blanks and quotes left out), which \
             stand in any output by chance; take a longer one, or see that no step prints it",
            pieces::LEAST
        ),
        Why::TooLong => format!(
            "secret {id} is not masked in what this build prints: this build's secrets are too long together; take shorter ones, or \
             see that no step prints it"
        ),
    }
}

#[cfg(test)]
mod tests {
    use farm_proto::v1::attempt_event::Event;

    use super::*;

    #[test]
    fn what_cannot_be_masked_is_told_by_its_name_and_not_by_its_value() {
        let masking = Masking::default();
        let file = vec![b'x'; 1_400_000];
        let secrets: [(&str, &[u8]); 3] = [("pin", b"12 34\n"), ("big", &file), ("token", b"hunter2")];
        let told: Vec<String> = masking
            .begin(secrets)
            .into_iter()
            .map(|event| match event.event {
                Some(Event::Notice(notice)) => notice.text,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(told.len() == 2 && told[1].starts_with("secret big is not masked"), "{told:?}");
        assert!(told[0].starts_with("secret pin is not masked") && !told[0].contains("12"), "{told:?}");
        assert_eq!(masking.mask().text("is hunter2 12 34"), "is *** 12 34");
        assert_eq!(format!("{masking:?}"), "Masking(OnceLock(Mask(..)))");
    }

    #[test]
    fn without_secrets_nothing_is_copied() {
        let mask = Masking::default().mask();
        assert!(mask.is_empty() && matches!(mask.text("hunter2"), Cow::Borrowed("hunter2")));
        assert!(matches!(mask.masker().push(b"hunter2"), Cow::Borrowed(b"hunter2")));
        let (mask, _) = Mask::new(&[b"hunter2"]);
        assert!(matches!(mask.text("hunter3"), Cow::Borrowed("hunter3")));
    }
}
