//! Lines out of bytes that were cut anywhere.
//!
//! Invariant: the lines are the same however the bytes were cut.

use crate::text::harmless;

/// A line longer than this is handed out in parts, bytes.
const LONGEST_LINE: usize = 64 * 1024;

/// Puts together the lines of one stream.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes; answers the lines that are now whole, without line breaks and made harmless.
    pub fn push(&mut self, mut data: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        while !data.is_empty() {
            let room = LONGEST_LINE - self.partial.len();
            match data.iter().take(room + 1).position(|b| *b == b'\n') {
                Some(end) => {
                    self.partial.extend_from_slice(&data[..end]);
                    lines.push(self.take());
                    data = &data[end + 1..];
                }
                None if data.len() > room => {
                    self.partial.extend_from_slice(&data[..room]);
                    lines.push(self.take());
                    data = &data[room..];
                }
                None => {
                    self.partial.extend_from_slice(data);
                    data = &[];
                }
            }
        }
        lines
    }

    /// The last line, when it had no line break at its end.
    pub fn finish(&mut self) -> Option<String> {
        (!self.partial.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        let bytes = std::mem::take(&mut self.partial);
        let line = bytes.strip_suffix(b"\r").unwrap_or(&bytes);
        // A carriage return within a line begins it anew, as progress bars do: what was written last stays.
        let shown = line.rsplit(|b| *b == b'\r').find(|part| !part.is_empty()).unwrap_or_default();
        harmless(&String::from_utf8_lossy(shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut out: Vec<String> = pieces.iter().flat_map(|piece| lines.push(piece)).collect();
        out.extend(lines.finish());
        out
    }

    #[test]
    fn lines_are_put_together_across_pieces() {
        assert_eq!(all(&[b"ab", b"c\nd", b"\n", b"\ne"]), ["abc", "d", "", "e"]);
        assert_eq!(
            all(&["gr\u{f6}".as_bytes().split_at(3).0, "gr\u{f6}ss\n".as_bytes().split_at(3).1]),
            ["gröss"]
        );
        assert_eq!(all(&[b"\x1b[3", b"1mred\x1b[0m\n"]), ["red"]);
        assert_eq!(all(&[b"bad \xff byte\n"]), ["bad \u{fffd} byte"]);
    }

    #[test]
    fn a_progress_bar_leaves_its_last_state() {
        assert_eq!(all(&[b" 10%\r 50%\r100%\r\nnext\r\n"]), ["100%", "next"]);
    }

    #[test]
    fn an_endless_line_is_handed_out_in_parts() {
        let piece = vec![b'x'; LONGEST_LINE * 2 + 10];
        let lengths: Vec<usize> = all(&[&piece]).iter().map(String::len).collect();
        assert_eq!(lengths, [LONGEST_LINE, LONGEST_LINE, 10]);
        let mut exact = vec![b'x'; LONGEST_LINE];
        exact.push(b'\n');
        assert_eq!(all(&[&exact]).len(), 1);
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_lines_are_the_same(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(0x1b), any::<u8>()], 0..60),
            cuts in proptest::collection::vec(0usize..60, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= bytes.len()).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            pieces.push(&bytes[from..]);
            prop_assert_eq!(all(&pieces), all(&[&bytes]));
        }
    }
}
