//! Where a secret's value is cut: the pieces of it that are looked for, each for itself.
//!
//! Tools print a key line by line, between quotes, indented, wrapped at a column, or a part of it only. So of a value of several
//! lines each line is a piece, wherever it is that a line ends: a line break, or the two characters that stand for one (`\n`).
//! A long line, or a file without lines, is cut into short pieces that overlap, so that of an excerpt only its ends can stay
//! visible. Lines that say nothing by themselves (`}`, `-----BEGIN … KEY-----`) are looked for together with what is around them.
//!
//! Invariant: each byte that counts ([`counts`]) is in a piece, but for those of long runs of the same byte and for the `n` that
//! stands for a line break.

use std::ops::Range;

/// The fewest bytes that count in a value that is masked: shorter ones stand in any output by chance, as words or numbers.
pub(crate) const LEAST: usize = 6;
/// The same of a line of a longer value: nobody has chosen it to be a secret by itself.
const LEAST_LINE: usize = 8;
/// Up to here a line is one piece, bytes. Of a longer one pieces of [`STEP`] and [`OVERLAP`] are made.
const LONGEST_WHOLE: usize = 128;
const STEP: usize = 28;
/// As many bytes belong to two pieces: in base64 the characters at a piece's ends depend on its neighbours.
const OVERLAP: usize = 4;
/// As many bytes that count, before and behind, belong to lines that say nothing by themselves.
const AROUND: usize = 8;
/// So many bytes in a row that don't count separate what is before from what is behind.
pub(super) const LONGEST_GAP: usize = 256;

/// Whether a byte counts when a value is looked for. Blanks and line breaks don't, as tools wrap, fold and indent; nor do the marks
/// that quoting adds (`"`, `'`, `\`), however often it was quoted.
pub(super) fn counts(byte: u8) -> bool {
    !matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | b'"' | b'\'' | b'\\')
}

/// The bytes that count.
pub(super) fn counted(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().copied().filter(|byte| counts(*byte))
}

/// A piece of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its bytes in the value.
    pub(super) range: Range<usize>,
    /// Whether a line, or the value, ends with it.
    pub(super) ends: bool,
}

/// The pieces that the value is looked for by: lines, and what is between lines.
pub(super) fn by_lines(value: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut dull: Option<Range<usize>> = None;
    let around = |dull: Range<usize>| {
        let (before, behind) = value.split_at(dull.start);
        let behind = behind.get(dull.len()..).unwrap_or_default();
        let before = reach(before.iter().rev());
        tiles(dull.start - before..dull.end + reach(behind.iter()))
    };
    for line in lines(value) {
        if is_telling(value.get(line.clone()).unwrap_or_default()) {
            pieces.extend(dull.take().into_iter().flat_map(around));
            pieces.extend(tiles(line));
        } else {
            dull = Some(dull.map_or(line.clone(), |dull| dull.start..line.end));
        }
    }
    pieces.extend(dull.into_iter().flat_map(around));
    usable(value, pieces)
}

/// The line breaks that are written as characters, with what is around them: where backslashes are encoded (`%5C%5Cn`) they count.
pub(super) fn around_written_breaks(value: &[u8]) -> Vec<Piece> {
    let lines = lines(value);
    let between = lines.windows(2).filter_map(|pair| match pair {
        [before, behind] => Some(before.end..behind.start),
        _ => None,
    });
    let is_written = |gap: &Range<usize>| value.get(gap.clone()).is_some_and(|gap| gap.contains(&b'\\'));
    let with_neighbours = |gap: Range<usize>| {
        let (before, behind) = value.split_at(gap.start);
        let before = reach(before.iter().rev());
        let behind = reach(behind.get(gap.len()..).unwrap_or_default().iter());
        tiles(gap.start - before..gap.end + behind)
    };
    between.filter(is_written).flat_map(with_neighbours).collect()
}

/// As far as [`AROUND`] bytes that count reach, or all.
fn reach<'a>(bytes: impl Iterator<Item = &'a u8>) -> usize {
    let mut left = AROUND;
    bytes
        .take_while(|byte| {
            let is_in = left > 0;
            left -= usize::from(is_in && counts(**byte));
            is_in
        })
        .count()
}

/// The pieces of the value as it is encoded as a whole, whatever its lines are.
pub(super) fn by_length(value: &[u8]) -> Vec<Piece> {
    usable(value, tiles(0..value.len()))
}

/// Without those that are a run of one byte, if there are others.
fn usable(value: &[u8], mut pieces: Vec<Piece>) -> Vec<Piece> {
    let of = |piece: &Piece| value.get(piece.range.clone()).unwrap_or_default();
    if pieces.iter().any(|piece| is_varied(of(piece))) {
        pieces.retain(|piece| is_varied(of(piece)));
    }
    pieces
}

/// The lines, without the blanks at their ends.
fn lines(value: &[u8]) -> Vec<Range<usize>> {
    let mut lines = Vec::new();
    let mut line: Option<Range<usize>> = None;
    let mut bytes = value.iter().copied().enumerate();
    while let Some((at, byte)) = bytes.next() {
        // `\n` or `\r`, in two characters, or in more where it was quoted again.
        let is_first = byte == b'\\' && at.checked_sub(1).and_then(|at| value.get(at)) != Some(&b'\\');
        let is_written = is_first && {
            let mut ahead = bytes.clone();
            let is_end =
                ahead.find(|(_, next)| *next != b'\\').is_some_and(|(_, next)| matches!(next, b'n' | b'r'));
            if is_end {
                bytes = ahead;
            }
            is_end
        };
        if is_written || matches!(byte, b'\n' | b'\r') {
            lines.extend(line.take());
        } else if !byte.is_ascii_whitespace() {
            lines.extend(line.take_if(|line| at - line.end > LONGEST_GAP));
            line = Some(line.map_or(at, |line| line.start)..at + 1);
        }
    }
    lines.extend(line);
    lines
}

/// Whether a line is worth to be looked for by itself. What keys in text form begin and end with isn't: certificates do, too.
fn is_telling(line: &[u8]) -> bool {
    let is_armour = line.starts_with(b"-----BEGIN ") || line.starts_with(b"-----END ");
    !is_armour && counted(line).count() >= LEAST_LINE && is_varied(line)
}

fn is_varied(bytes: &[u8]) -> bool {
    let mut bytes = counted(bytes);
    let first = bytes.next();
    bytes.any(|byte| Some(byte) != first)
}

/// A range as one piece, or as pieces of about the same length that overlap.
fn tiles(range: Range<usize>) -> Vec<Piece> {
    let length = range.len();
    if length <= LONGEST_WHOLE {
        return vec![Piece { range, ends: true }];
    }
    let count = (length - OVERLAP).div_ceil(STEP);
    let step = (length - OVERLAP).div_ceil(count);
    (range.start..range.end - OVERLAP)
        .step_by(step)
        .map(|start| {
            let end = range.end.min(start + step + OVERLAP);
            Piece { range: start..end, ends: end == range.end }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(value: &str) -> Vec<&str> {
        by_lines(value.as_bytes()).into_iter().map(|piece| &value[piece.range]).collect()
    }

    #[test]
    fn lines_are_pieces_and_what_says_nothing_goes_with_its_neighbours() {
        assert_eq!(texts("hunter2"), ["hunter2"]);
        assert_eq!(texts(" 'hunter2'\n"), [" 'hunter2'\n"]);
        assert_eq!(texts(" 'hunter22'\n"), ["'hunter22'"]);
        assert_eq!(
            texts("first line\nsecond line\r\nthird line"),
            ["first line", "second line", "third line"]
        );
        // However a line break is written.
        assert_eq!(
            texts(r"first line\nsecond line\\r\\nthird line"),
            ["first line", "second line", "third line"]
        );
        assert_eq!(
            texts("{\n  \"password\": \"x1\",\n}"),
            ["{\n  \"password", "\"password\": \"x1\",", "word\": \"x1\",\n}"]
        );
        assert_eq!(texts("a\nb\nc\nd\ne\nf"), ["a\nb\nc\nd\ne\nf"]);
        assert_eq!(texts("========\nab"), ["========\nab"]);
        assert_eq!(texts("aaaaaaaaa"), ["aaaaaaaaa"]);
    }

    #[test]
    fn what_keys_begin_and_end_with_is_no_piece_by_itself() {
        let key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n-----END KEY-----\n";
        assert_eq!(
            texts(key),
            ["-----BEGIN KEY-----\nMIIEvQIB", "MIIEvQIBADANBgkq", "ADANBgkq\n-----END KEY-----\n"]
        );
    }

    proptest! {
        #[test]
        fn every_byte_that_counts_is_in_a_piece(value in proptest::collection::vec(any::<u8>(), 1..900)) {
            for pieces in [by_lines(&value), by_length(&value)] {
                for (at, byte) in value.iter().enumerate().filter(|(_, byte)| counts(**byte)) {
                    if at > 0 && value[at - 1] == b'\\' {
                        continue;
                    }
                    let is_in = pieces.iter().any(|piece| piece.range.contains(&at));
                    prop_assert!(is_in, "byte {at} ({byte}) of {value:?} is in none of {pieces:?}");
                }
            }
        }

        #[test]
        fn an_excerpt_of_a_long_line_holds_a_whole_piece(length in 129usize..5000, at in 0usize..5000) {
            let at = at % (length - 63);
            let whole = |piece: &Piece| piece.range.start >= at && piece.range.end <= at + 64;
            prop_assert!(tiles(0..length).iter().any(whole));
        }
    }
}
