//! Numbers, times and names as people read them, and text from elsewhere made harmless.
//!
//! Invariant: nothing that [`harmless`] returns can move the cursor, recolour the terminal, end a line or
//! turn the direction of writing.

use crate::Digest;

/// `812 B`, `4.1 kB`, `24.1 MB`: powers of a thousand, at most three digits before the unit.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut tenths = n / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    match tenths {
        0..1000 => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
        _ => format!("{} {}", tenths / 10, UNITS[unit]),
    }
}

/// A span of so many milliseconds: `0.3 s`, `41 s`, `1 min 5 s`, `2 h 3 min`, `3 d 4 h`.
pub fn span(ms: i64) -> String {
    let ms = ms.max(0);
    let s = ms / 1000;
    match s {
        0..10 => format!("{s}.{} s", ms % 1000 / 100),
        10..60 => format!("{s} s"),
        60..3600 => two(s / 60, "min", s % 60, "s"),
        3600..86_400 => two(s / 3600, "h", s % 3600 / 60, "min"),
        _ => two(s / 86_400, "d", s % 86_400 / 3600, "h"),
    }
}

fn two(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    }
}

/// How long ago `then` was, at `now` (both milliseconds since 1970): `just now`, `3 min ago`.
pub fn ago(then: i64, now: i64) -> String {
    let s = (now - then).max(0) / 1000;
    match s {
        0..5 => "just now".to_owned(),
        5..60 => format!("{s} s ago"),
        60..3600 => format!("{} min ago", s / 60),
        3600..86_400 => format!("{} h ago", s / 3600),
        _ => format!("{} d ago", s / 86_400),
    }
}

/// How far ahead `then` is, at `now` (both milliseconds since 1970): `now`, `in 3 min`, `in 90 d`.
pub fn ahead(then: i64, now: i64) -> String {
    let s = (then - now + 500) / 1000;
    match s {
        ..=0 => "now".to_owned(),
        1..60 => format!("in {s} s"),
        60..3600 => format!("in {} min", (s + 30) / 60),
        3600..172_800 => format!("in {} h", (s + 1800) / 3600),
        _ => format!("in {} d", (s + 43_200) / 86_400),
    }
}

/// What a job waits for, and when it is likely to start: `place 2 in the queue, starts in about 40 s: all …`. The start stands
/// in front of the reason, which may be cut off.
pub fn waiting(why: &str, starts_ms: i64, now_ms: i64) -> String {
    let s = (starts_ms - now_ms + 500) / 1000;
    let start = match s {
        // Unknown, or it should have started by now.
        _ if starts_ms == 0 || s <= 0 => return why.to_owned(),
        0..10 => "some seconds".to_owned(),
        10..95 => format!("about {} s", (s + 2) / 5 * 5),
        95..5400 => format!("about {} min", (s + 30) / 60),
        _ => format!("about {} h", (s + 1800) / 3600),
    };
    match why.split_once(": ") {
        Some((place, reason)) => format!("{place}, starts in {start}: {reason}"),
        None => format!("{why}, starts in {start}"),
    }
}

/// `1 file`, `3 files`.
pub fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// A digest in a few letters: `sha256:ff92…de00`; what is no digest stays as it is.
pub fn short_digest(digest: &str) -> String {
    digest.parse::<Digest>().map_or_else(|_| harmless(digest), |digest| digest.short())
}

/// The first line of a text, at most `width` characters of it, with an ellipsis when something is missing.
pub fn first_line(text: &str, width: usize) -> String {
    let mut lines = text.lines();
    let line = harmless(lines.next().unwrap_or_default());
    let cut = line.chars().count() > width;
    let mut shown: String = if cut { line.chars().take(width).collect() } else { line };
    if cut || lines.next().is_some() {
        shown.truncate(shown.trim_end().len());
        shown.push_str(" …");
    }
    shown
}

/// One line of foreign text without terminal control sequences, control characters (a tab stays) and
/// marks that turn the direction of writing.
pub fn harmless(line: &str) -> String {
    let mut kept = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '\u{1b}' => escape_length(rest),
            '\u{9b}' => c.len_utf8() + csi_length(&rest[c.len_utf8()..]).unwrap_or(0),
            '\t' => {
                kept.push(c);
                1
            }
            c if c.is_control() || is_direction_mark(c) => c.len_utf8(),
            c => {
                kept.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    kept
}

fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The length of the sequence that the escape at the start of `text` begins (ECMA-48); 1 when what follows
/// makes none.
fn escape_length(text: &str) -> usize {
    let after = &text[1..];
    match after.bytes().next() {
        Some(b'[') => csi_length(&after[1..]).map_or(1, |n| 2 + n),
        // Strings: to BEL, or to ESC \.
        Some(b']' | b'P' | b'X' | b'^' | b'_') => {
            let body = &after[1..];
            let bell = body.find('\u{7}').map(|i| i + 1);
            let terminator = body.find("\u{1b}\\").map(|i| i + 2);
            match (bell, terminator) {
                (Some(a), Some(b)) => 2 + a.min(b),
                (Some(n), None) | (None, Some(n)) => 2 + n,
                (None, None) => 1,
            }
        }
        Some(b' '..=b'/') => {
            let middle = after.bytes().take_while(|b| (b' '..=b'/').contains(b)).count();
            match after.as_bytes().get(middle) {
                Some(b'0'..=b'~') => 2 + middle,
                _ => 1,
            }
        }
        Some(b'0'..=b'~') => 2,
        _ => 1,
    }
}

/// The length of a control sequence behind its introducer, if it is one.
fn csi_length(text: &str) -> Option<usize> {
    let parameters = text.bytes().take_while(|b| (b' '..=b'?').contains(b)).count();
    matches!(text.as_bytes().get(parameters), Some(b'@'..=b'~')).then_some(parameters + 1)
}

/// `5/9` of `[final 5/9] RUN …`.
pub fn step_number(step: &str) -> Option<&str> {
    let inner = step.strip_prefix('[')?.split_once(']')?.0;
    let number = inner.rsplit(' ').next()?;
    let (n, of) = number.split_once('/')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (digits(n) && digits(of)).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_start_is_told_as_roughly_as_it_is_known() {
        let told = |seconds: i64| waiting("place 1", 1_000_000 + seconds * 1000, 1_000_000);
        for (seconds, words) in [
            (3, "place 1, starts in some seconds"),
            (41, "place 1, starts in about 40 s"),
            (94, "place 1, starts in about 95 s"),
            (200, "place 1, starts in about 3 min"),
            (7000, "place 1, starts in about 2 h"),
            (0, "place 1"),
            (-60, "place 1"),
        ] {
            assert_eq!(told(seconds), words);
        }
        assert_eq!(waiting("place 1", 0, 1_000_000), "place 1");
        assert_eq!(waiting("place 1: why", 1_020_000, 1_000_000), "place 1, starts in about 20 s: why");
    }
    #[test]
    fn what_is_to_come_is_told_by_its_nearest_number() {
        let (min, hour, day) = (60, 3600, 86_400);
        for (seconds, words) in [
            (-5, "now"),
            (40, "in 40 s"),
            (3 * min - 1, "in 3 min"),
            (12 * hour - 2, "in 12 h"),
            (90 * day - 1, "in 90 d"),
        ] {
            assert_eq!(ahead(1_000_000 + seconds * 1000, 1_000_000), words);
        }
    }

    #[test]
    fn numbers_have_units() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (4_120, "4.1 kB"),
            (99_999, "99.9 kB"),
            (126_000_000, "126 MB"),
            (24_100_000, "24.1 MB"),
            (999_999, "999 kB"),
            (1_000_000, "1.0 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (ms, text) in [
            (-5, "0.0 s"),
            (312, "0.3 s"),
            (9_999, "9.9 s"),
            (41_000, "41 s"),
            (65_000, "1 min 5 s"),
            (120_000, "2 min"),
            (7_380_000, "2 h 3 min"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(span(ms), text);
        }
        assert_eq!(ago(0, 190_000), "3 min ago");
        assert_eq!(ago(10, 0), "just now");
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(0, "file"), "0 files");
    }

    #[test]
    fn control_sequences_are_taken_out_and_the_text_stays() {
        for (raw, text) in [
            ("plain\ttext", "plain\ttext"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}(Bx", "x"),
            ("\u{1b}cwiped", "wiped"),
            ("a\u{8}b\u{0}c\u{7f}", "abc"),
            ("\u{9b}2Jx", "x"),
            ("\u{202e}evil", "evil"),
            ("\u{1b}]0;no end", "]0;no end"),
            ("\u{1b}[", "["),
            ("\u{1b}", ""),
            ("größe 木", "größe 木"),
        ] {
            assert_eq!(harmless(raw), text, "{raw:?}");
        }
    }

    #[test]
    fn long_or_many_lines_are_cut() {
        assert_eq!(first_line("RUN a\nb", 20), "RUN a …");
        assert_eq!(first_line("RUN abcdef", 5), "RUN a …");
        assert_eq!(first_line("RUN", 5), "RUN");
    }

    proptest! {
        #[test]
        fn whatever_comes_in_nothing_harmful_comes_out(raw in "[\u{1b}\\[\\]a-z0-9;\u{7}\u{9b}\\\\ \u{0}\u{202e}é]{0,30}") {
            let text = harmless(&raw);
            prop_assert!(!text.chars().any(|c| (c.is_control() && c != '\t') || is_direction_mark(c)), "{text:?}");
        }
    }
}
