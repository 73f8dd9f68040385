//! One stream of bytes on its way, whose pieces are cut anywhere.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::patterns::{Found, Patterns};

/// What stands for a value.
const MASK: &[u8] = b"***";

/// Masks a stream. Of each piece it gives what can't be the beginning of a value, and keeps the rest until more comes. It isn't
/// printed.
///
/// Invariant: all that it gives, put together, is the same however the stream was cut.
#[derive(Clone, Default)]
pub struct Masker {
    patterns: Option<Arc<Patterns>>,
    /// What may be the beginning of a value.
    held: Vec<u8>,
    /// How much of it was given all the same: the few bytes at a line's end.
    given: usize,
    /// What of it belongs to a value for sure.
    covered: Vec<Range<usize>>,
    /// What was given last is a mask, and the value behind it ended there or goes on in what is held.
    masked: bool,
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masker").finish_non_exhaustive()
    }
}

impl Masker {
    pub(super) fn new(patterns: Option<Arc<Patterns>>) -> Self {
        Self { patterns, ..Self::default() }
    }

    /// Takes the next bytes; gives those that are decided.
    pub fn push<'a>(&mut self, data: &'a [u8]) -> Cow<'a, [u8]> {
        self.take(data, false)
    }

    /// The rest of the stream, which is a new one from here on.
    pub fn finish(&mut self) -> Vec<u8> {
        let rest = self.take(&[], true).into_owned();
        self.masked = false;
        rest
    }

    pub(super) fn take<'a>(&mut self, data: &'a [u8], is_all: bool) -> Cow<'a, [u8]> {
        let Some(patterns) = self.patterns.clone() else { return Cow::Borrowed(data) };
        let text = if self.held.is_empty() {
            Cow::Borrowed(data)
        } else {
            self.held.extend_from_slice(data);
            Cow::Owned(std::mem::take(&mut self.held))
        };
        let from = std::mem::take(&mut self.given);
        let Found { ranges, decided, kept } = patterns.look(&text, std::mem::take(&mut self.covered), is_all);
        let decided = decided.max(from);
        let mut out = Cow::Borrowed(&data[..0]);
        if ranges.is_empty()
            && let Cow::Borrowed(text) = text
        {
            out = Cow::Borrowed(text.get(..decided).unwrap_or_default());
            self.masked &= decided == 0;
        } else {
            let mut at = from;
            let out = out.to_mut();
            for range in ranges.iter().take_while(|range| range.start < decided) {
                out.extend_from_slice(text.get(at..range.start).unwrap_or_default());
                if !(range.start <= from && self.masked) {
                    out.extend_from_slice(MASK);
                }
                at = range.end;
            }
            out.extend_from_slice(text.get(at..decided).unwrap_or_default());
            if decided > from {
                self.masked = at >= decided;
            }
        }
        // Not all of these would be found again, as what is kept may begin behind where they do.
        let left = ranges.into_iter().filter(|range| range.end > decided);
        self.covered = left.map(|range| range.start.max(decided) - kept..range.end - kept).collect();
        self.held = text.get(kept..).unwrap_or_default().to_vec();
        self.given = decided - kept;
        out
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
