//! All forms of all values of an attempt, and where a text holds one.
//!
//! Invariants: what is found depends on the bytes of a text and not on how they come in pieces; what can't be a form's beginning any
//! more is decided at once.

use std::collections::BTreeSet;
use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::forms::{self, Wealth};
use super::pieces::{LONGEST_GAP, counts};

/// How many bytes the forms of all values may take. While an attempt runs up to twenty times that is taken in memory (binary files;
/// ten times for text), and three times as much for the moment in which it is prepared.
const MOST_BYTES: usize = 2_600_000;

/// Why a value isn't masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It would be found by chance.
    TooShort,
    /// There are too many bytes of values.
    TooLong,
}

/// A value that isn't masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unmasked {
    /// Which of the values, from 0.
    pub index: usize,
    /// Why it isn't.
    pub why: Why,
}

/// The forms that are looked for.
pub(super) struct Patterns {
    automaton: AhoCorasick,
    /// The forms in their order, for what may still become one.
    forms: Vec<Vec<u8>>,
    /// With which bytes forms begin.
    begins: [bool; 256],
    longest: usize,
}

/// What of a text is to be masked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The bytes of forms, in rising order; none touches another.
    pub(super) ranges: Vec<Range<usize>>,
    /// From here on it depends on what follows.
    pub(super) decided: usize,
    /// What follows depends on what is from here on.
    pub(super) kept: usize,
}

/// So many bytes of a form aren't masked if a line ends behind them. Nearly any letter begins some form, and a line's end isn't to
/// wait for the next line because of its last letter.
const FEW: usize = 3;

/// The bytes of a text that count, and where they stand in it.
#[derive(Default)]
struct View {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

impl Patterns {
    /// Those of these values, which of them it leaves out, and why. `None`: there is nothing to look for.
    pub(super) fn new(values: &[&[u8]]) -> (Option<Self>, Vec<Unmasked>) {
        let mut unmasked = Vec::new();
        let mut known = BTreeSet::new();
        // Short ones first: passwords aren't to be found less often because of a long file beside them.
        let mut order: Vec<(usize, &[u8])> = values.iter().copied().enumerate().collect();
        order.sort_by_key(|(_, value)| value.len());
        // What is left when each that there is room for is looked for as it is.
        let least = |value: &[u8]| value.len().saturating_mul(Wealth::LEAST);
        let mut room = MOST_BYTES;
        order.retain(|(index, value)| {
            let left = room.checked_sub(least(value));
            room = left.unwrap_or(room);
            if left.is_none() {
                unmasked.push(Unmasked { index: *index, why: Why::TooLong });
            }
            left.is_some()
        });
        for (index, value) in order {
            room += least(value);
            let fits = |(_, most): &&(Wealth, usize)| value.len().saturating_mul(*most) <= room;
            let wealth = Wealth::ALL.iter().find(fits).map_or(Wealth::Bare, |(wealth, _)| *wealth);
            let forms = forms::of(value, wealth);
            if forms.is_empty() {
                unmasked.push(Unmasked { index, why: Why::TooShort });
            }
            room = room.saturating_sub(forms.iter().map(Vec::len).sum());
            known.extend(forms);
        }
        unmasked.sort_by_key(|unmasked| unmasked.index);
        if known.is_empty() {
            return (None, unmasked);
        }
        let forms: Vec<Vec<u8>> = known.into_iter().collect();
        let mut builder = AhoCorasick::builder();
        let Ok(automaton) = builder.kind(Some(AhoCorasickKind::ContiguousNFA)).build(&forms) else {
            // It has room for a thousand times as much.
            let all = (0..values.len()).map(|index| Unmasked { index, why: Why::TooLong });
            return (None, all.collect());
        };
        let mut begins = [false; 256];
        for first in forms.iter().filter_map(|form| form.first()) {
            if let Some(begins) = begins.get_mut(usize::from(*first)) {
                *begins = true;
            }
        }
        let longest = forms.iter().map(Vec::len).max().unwrap_or(0);
        (Some(Self { automaton, forms, begins, longest }), unmasked)
    }

    /// Looks through a text, of which these ranges are known to be masked. `is_all`: nothing follows it.
    pub(super) fn look(&self, text: &[u8], known: Vec<Range<usize>>, is_all: bool) -> Found {
        let mut ranges = known;
        let mut view = View::default();
        let mut gap = 0;
        for (place, byte) in text.iter().enumerate() {
            if !counts(*byte) {
                gap += 1;
                continue;
            }
            if gap > LONGEST_GAP {
                self.find(text, &view, &mut ranges);
                view = View::default();
            }
            gap = 0;
            view.bytes.push(*byte);
            view.places.push(place);
        }
        self.find(text, &view, &mut ranges);
        let ranges = merged(ranges);
        let begun = (!is_all && gap <= LONGEST_GAP).then(|| self.begun(&view)).flatten();
        let Some(begun) = begun else { return Found { ranges, decided: text.len(), kept: text.len() } };
        let kept = view.places.get(begun).copied().unwrap_or_default();
        let is_few = view.places.len() - begun <= FEW;
        let is_decided = is_few && text.get(text.len() - gap..).is_some_and(|behind| behind.contains(&b'\n'));
        Found { ranges, decided: if is_decided { text.len() } else { kept }, kept }
    }

    /// Adds what is found.
    fn find(&self, text: &[u8], view: &View, ranges: &mut Vec<Range<usize>>) {
        for found in self.automaton.find_overlapping_iter(&view.bytes) {
            let places = view.places.get(found.range()).unwrap_or_default();
            let is_broken = |pair: &[usize]| matches!(pair, [a, b] if text.get(*a..*b).is_some_and(|gap| gap.contains(&b'\n')));
            let skipped = places.windows(2).take(FEW).rposition(is_broken).map_or(0, |at| at + 1);
            let (Some(first), Some(last)) = (places.get(skipped), places.last()) else { continue };
            match ranges.last_mut() {
                // All of a run of the same byte would be a range each.
                Some(before) if (before.start..=before.end).contains(first) => {
                    before.end = before.end.max(last + 1)
                }
                _ => ranges.push(*first..last + 1),
            }
        }
    }

    /// Where in the view a form begins that its end is the beginning of.
    fn begun(&self, view: &View) -> Option<usize> {
        let from = (view.bytes.len() + 1).saturating_sub(self.longest);
        (from..view.bytes.len()).find(|at| self.is_begun(view.bytes.get(*at..).unwrap_or_default()))
    }

    fn is_begun(&self, text: &[u8]) -> bool {
        if !text.first().and_then(|first| self.begins.get(usize::from(*first))).is_some_and(|begins| *begins)
        {
            return false;
        }
        let at = self.forms.partition_point(|form| form.as_slice() <= text);
        self.forms.get(at).is_some_and(|form| form.starts_with(text))
    }
}

/// In rising order, those that overlap or touch as one.
fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    ranges.dedup_by(|range, before| {
        let touches = range.start <= before.end;
        if touches {
            before.end = before.end.max(range.end);
        }
        touches
    });
    ranges
}
