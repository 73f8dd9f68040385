//! What a piece of a value looks like when it was encoded: the forms that are looked for.
//!
//! A form is written without what doesn't count (`counts` in `pieces`), so quoting, wrapping at a column and line breaks need none of
//! their own; but a line break that became two characters counts as a letter (`n`).
//!
//! To add a form: in [`of`], a line in the table of the tests beside `stream`, and in `docs/security.md`.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use super::pieces::{LEAST, Piece, around_written_breaks, by_length, by_lines, counted};

/// Which forms there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wealth {
    /// All of them.
    All,
    /// As it is, base64 wherever it begins, hexadecimal.
    Usual,
    /// As it is, and base64 of all of it.
    Few,
    /// As it is.
    Bare,
}

impl Wealth {
    /// From the richest on, each with the bytes that the forms of a value take for each of its own, at most or nearly so. Below them
    /// all is [`Self::Bare`].
    pub(super) const ALL: [(Self, usize); 3] = [(Self::All, 200), (Self::Usual, 24), (Self::Few, 5)];
    /// The same of the poorest.
    pub(super) const LEAST: usize = 2;
}

/// All forms of a value's pieces; none when it is too short.
pub(super) fn of(value: &[u8], wealth: Wealth) -> BTreeSet<Vec<u8>> {
    let mut forms = BTreeSet::new();
    let mut add = |form: &[u8]| {
        let form: Vec<u8> = counted(form).collect();
        if form.len() >= LEAST {
            forms.insert(form);
        }
    };
    if counted(value).count() < LEAST {
        return forms;
    }
    let (lines, whole) = (by_lines(value), by_length(value));
    let bytes = |piece: &Piece| value.get(piece.range.clone()).unwrap_or_default();
    for piece in &lines {
        add(bytes(piece));
        if wealth == Wealth::All {
            escaped(bytes(piece), &mut add);
        }
    }
    if wealth == Wealth::All {
        for piece in &around_written_breaks(value) {
            in_addresses(bytes(piece), &mut add);
        }
    }
    match wealth {
        Wealth::All | Wealth::Usual => {
            for piece in lines.iter().chain(&whole) {
                hexadecimal(bytes(piece), &mut add);
                (0..3).for_each(|shift| base64(bytes(piece), shift, piece.ends, &mut add));
            }
        }
        Wealth::Few => {
            for piece in &whole {
                base64(bytes(piece), piece.range.start % 3, piece.ends, &mut add);
            }
        }
        Wealth::Bare => {}
    }
    forms
}

/// As in texts between quotes and in addresses, with line breaks as they are and as they are on Windows.
fn escaped(piece: &[u8], add: &mut impl FnMut(&[u8])) {
    let mut both = |piece: &[u8]| {
        for style in QUOTES {
            add(&quoted(piece, *style));
        }
        in_addresses(piece, add);
    };
    both(piece);
    if piece.contains(&b'\n') && !piece.contains(&b'\r') {
        let lines: Vec<&[u8]> = piece.split(|byte| *byte == b'\n').collect();
        both(&lines.join(b"\r\n".as_slice()));
    }
}

/// Percent-encoded.
fn in_addresses(piece: &[u8], add: &mut impl FnMut(&[u8])) {
    for keeps in KEPT {
        add(&percent(piece, *keeps, b"%20", true));
        add(&percent(piece, *keeps, b"%20", false));
    }
    for keeps in [KEPT[0], is_kept_in_forms] {
        add(&percent(piece, keeps, b"+", true));
        add(&percent(piece, keeps, b"+", false));
    }
}

/// How a language writes what can't stand between quotes as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// JSON, with letters of all languages as they are. `markup`: but `<`, `>` and `&` aren't, as Go does it.
    Json { markup: bool },
    /// JSON in ASCII: `\u00e9`, or `\u00E9`.
    Ascii { upper: bool },
    /// Go's `%q`, Python's `repr`: `\x1b`.
    Go,
    /// Each byte that isn't ASCII by itself: Python's bytes, `\xc3\xa9`.
    Bytes,
}

const QUOTES: &[Quotes] = &[
    Quotes::Json { markup: false },
    Quotes::Json { markup: true },
    Quotes::Ascii { upper: false },
    Quotes::Ascii { upper: true },
    Quotes::Go,
    Quotes::Bytes,
];

/// Backslashes and quotes are left out, as they don't count.
fn quoted(piece: &[u8], style: Quotes) -> Vec<u8> {
    let mut text = Vec::with_capacity(piece.len());
    let in_bytes = |text: &mut Vec<u8>, bytes: &[u8]| {
        for byte in bytes {
            text.extend(format!("x{byte:02x}").bytes());
        }
    };
    for chunk in piece.utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut room = [0; 4];
            let raw = c.encode_utf8(&mut room).as_bytes();
            match c {
                '\n' => text.push(b'n'),
                '\r' => text.push(b'r'),
                '\t' => text.push(b't'),
                '\u{8}' => text.push(b'b'),
                '\u{c}' => text.push(b'f'),
                '<' | '>' | '&' if style == (Quotes::Json { markup: true }) => unicode(&mut text, c, false),
                ' '..='\u{7e}' => text.extend(raw),
                _ => match style {
                    Quotes::Json { .. } if c >= '\u{7f}' => text.extend(raw),
                    Quotes::Go if c > '\u{9f}' => text.extend(raw),
                    Quotes::Json { .. } => unicode(&mut text, c, false),
                    Quotes::Ascii { upper } => unicode(&mut text, c, upper),
                    Quotes::Go | Quotes::Bytes => in_bytes(&mut text, raw),
                },
            }
        }
        in_bytes(&mut text, chunk.invalid());
    }
    text
}

/// `\u` and four digits, of each half where there are two (RFC 8259, 7).
fn unicode(text: &mut Vec<u8>, c: char, upper: bool) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let digits = if upper { format!("u{unit:04X}") } else { format!("u{unit:04x}") };
        text.extend(digits.bytes());
    }
}

/// What is written as it is in addresses, beside letters and digits: nothing that means something anywhere (RFC 3986, 2.3), and what
/// the functions of the usual languages keep in addition.
const KEPT: &[fn(u8) -> bool] = &[
    |byte| matches!(byte, b'-' | b'.' | b'_' | b'~'),
    // Python's quote.
    |byte| matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/'),
    // encodeURIComponent.
    |byte| matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'*' | b'(' | b')'),
    // Go's PathEscape.
    |byte| matches!(byte, b'-' | b'.' | b'_' | b'~' | b'$' | b'&' | b'+' | b'=' | b':' | b'@'),
    // encodeURI: all that is reserved.
    |byte| b"-._~!*();/?:@&=+$,#".contains(&byte),
];

/// What forms keep (`application/x-www-form-urlencoded`).
fn is_kept_in_forms(byte: u8) -> bool {
    matches!(byte, b'*' | b'-' | b'.' | b'_')
}

fn percent(piece: &[u8], keeps: fn(u8) -> bool, space: &[u8], upper: bool) -> Vec<u8> {
    let mut text = Vec::with_capacity(piece.len());
    for byte in piece {
        match byte {
            b' ' => text.extend(space),
            byte if byte.is_ascii_alphanumeric() || keeps(*byte) => text.push(*byte),
            byte if upper => text.extend(format!("%{byte:02X}").bytes()),
            byte => text.extend(format!("%{byte:02x}").bytes()),
        }
    }
    text
}

fn hexadecimal(piece: &[u8], add: &mut impl FnMut(&[u8])) {
    let digits: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
    add(digits.as_bytes());
    add(digits.to_ascii_uppercase().as_bytes());
}

/// The characters that depend on the piece only, if `shift` bytes of the same three (0 to 2) stand before it. `ends`: also as it is
/// at the end of a text, with and without padding. Before the line break at the end of one the last character is the same.
fn base64(piece: &[u8], shift: usize, ends: bool, add: &mut impl FnMut(&[u8])) {
    let before = [0; 2];
    let mut bytes = before.get(..shift).unwrap_or_default().to_vec();
    bytes.extend(piece);
    let first = (shift * 8).div_ceil(6);
    let known = bytes.len() * 8 / 6;
    let mut of = |bytes: &[u8], until: usize| {
        for text in [STANDARD.encode(bytes), URL_SAFE.encode(bytes)] {
            add(text.as_bytes().get(first..until.min(text.len())).unwrap_or_default());
        }
    };
    of(&bytes, known);
    if ends {
        of(&bytes, (bytes.len() * 8).div_ceil(6));
        of(&bytes, usize::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(value: &str, wealth: Wealth) -> Vec<String> {
        of(value.as_bytes(), wealth).into_iter().map(|form| String::from_utf8(form).unwrap()).collect()
    }

    fn has(value: &str, form: &str) {
        let all = texts(value, Wealth::All);
        assert!(all.iter().any(|known| known == form), "{form}: {all:?}");
    }

    #[test]
    fn a_word_has_few_forms_and_a_value_that_is_too_short_none() {
        assert_eq!(texts("hunter2", Wealth::Bare), ["hunter2"]);
        assert_eq!(texts("hunter2", Wealth::Few), ["aHVudGVyM", "aHVudGVyMg", "aHVudGVyMg==", "hunter2"]);
        assert!(texts("a b'c\"d\\e", Wealth::All).is_empty());
    }

    #[test]
    fn signs_are_written_as_addresses_and_quotes_have_them() {
        for form in [
            "p%40ss%2Fw%C3%B6rd%25",
            "p%40ss%2fw%c3%b6rd%25",
            "p%40ss/w%C3%B6rd%25",
            "p@ss/w%C3%B6rd%25",
            "p@ss/wu00f6rd%",
            "p@ss/wu00F6rd%",
            "p@ss/wxc3xb6rd%",
        ] {
            has("p@ss/wörd%", form);
        }
        has("a b&cdefg", "a+b%26cdefg");
        has("a b&cdefg", "a%20b&cdefg");
        has("a b&cdefg", "abu0026cdefg");
        // Two characters for a line break, of short lines.
        has("ab\ncd\nef", "abncdnef");
        has("ab\ncd\nef", "abrncdrnef");
        has("ab\ncd\nef", "ab%0D%0Acd%0D%0Aef");
        has("abc\u{1b}\tdef", "abcu001btdef");
        has("abc\u{1b}\tdef", "abcx1btdef");
    }

    #[test]
    fn base64_is_known_wherever_it_begins() {
        for before in ["", "u", "u:", "usr"] {
            for behind in ["", "\n", "x", "xyz"] {
                let text = STANDARD.encode(format!("{before}hunter2+secret?{behind}"));
                let known = texts("hunter2+secret?", Wealth::All)
                    .into_iter()
                    .filter(|form| text.contains(form.as_str()));
                let longest = known.map(|form| form.len()).max().unwrap();
                assert!(longest >= 19, "{text}: {longest}");
            }
        }
    }
}
