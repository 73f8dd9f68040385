//! The records of pax headers: `LENGTH KEY=VALUE\n`, where the length counts all of it.
//!
//! Source: POSIX.1-2017, `pax`, "pax Extended Header". A value may hold anything, line breaks too; an empty one takes
//! back what was said before.

use std::collections::HashSet;
use std::sync::Arc;

use super::{ArchiveError, shown};

/// A key and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// What a record takes in memory besides its bytes, about: two vectors, and what an allocator keeps of each.
const RECORD_COSTS: usize = 96;

/// Records in the order in which they were written: in some the order matters.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    /// What is said of all entries, which share it; it comes before the rest.
    shared: Arc<Vec<Pair>>,
    own: Vec<Pair>,
}

impl Records {
    /// Reads a header's contents, `most` records of it. `name` is for messages.
    ///
    /// # Errors
    /// The header isn't a row of records, or of too many.
    pub(super) fn parse(mut bytes: &[u8], name: &[u8], most: usize) -> Result<Self, ArchiveError> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            // Some programs fill the rest up.
            if bytes.iter().all(|byte| *byte == 0) {
                break;
            }
            let (key, value, rest) = record(bytes)
                .ok_or_else(|| ArchiveError::damaged(name, "a record of its pax header is none"))?;
            if records.len() >= most {
                let what = format!("its pax header has more than {most} records");
                return Err(ArchiveError::damaged(name, &what));
            }
            records.push((key.to_vec(), value.to_vec()));
            bytes = rest;
        }
        Ok(Self { shared: Arc::default(), own: records })
    }

    /// These, and behind them others, which win.
    pub(super) fn with(&self, others: Self) -> Self {
        let own = self.own.iter().cloned().chain(others.own).collect();
        Self { shared: Arc::clone(&self.shared), own }
    }

    /// These without those that others say anew, and behind them the others: for all entries, so they can be shared.
    pub(super) fn replaced(self, others: Self) -> Self {
        let anew: HashSet<&[u8]> = others.iter().map(|(key, _)| key).collect();
        let Self { shared, own } = self;
        let mut all = Arc::unwrap_or_clone(shared);
        all.extend(own);
        all.retain(|(key, _)| !anew.contains(key.as_slice()));
        all.extend(others.own);
        Self { shared: Arc::new(all), own: Vec::new() }
    }

    /// Bytes that they take in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.iter().map(|(key, value)| key.len() + value.len() + RECORD_COSTS).sum()
    }

    /// The last value of a key, unless that is empty.
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        let found = self.iter().rev().find(|(known, _)| *known == key.as_bytes());
        found.map(|(_, value)| value).filter(|value| !value.is_empty())
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        self.shared.iter().chain(&self.own).map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// The number that is the value of a key.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn number(&self, key: &str, name: &[u8]) -> Result<Option<u64>, ArchiveError> {
        self.get(key).map(|value| decimal(value).ok_or_else(|| not_understood(key, value, name))).transpose()
    }

    /// `mtime`: nanoseconds since 1970.
    ///
    /// # Errors
    /// It is no time.
    pub(super) fn mtime(&self, name: &[u8]) -> Result<Option<i64>, ArchiveError> {
        self.get("mtime")
            .map(|value| time(value).ok_or_else(|| not_understood("mtime", value, name)))
            .transpose()
    }
}

fn not_understood(key: &str, value: &[u8], name: &[u8]) -> ArchiveError {
    ArchiveError::damaged(name, &format!("its pax header says {key}={:?}", shown(value)))
}

/// The first record's key and value, and what follows.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..blank])?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let pair = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    Some((&pair[..equals], &pair[equals + 1..], rest))
}

/// Digits and nothing else.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok()
}

/// `[-]SECONDS[.FRACTION]` in nanoseconds; a time so far away that they don't fit is the farthest that does.
fn time(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (is_before, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds = i64::try_from(decimal(whole.as_bytes())?).unwrap_or(i64::MAX);
    let nanos: i64 = format!("{fraction:0<9.9}").parse().ok()?;
    let since = seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    Some(if is_before { -since } else { since })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_anything_and_the_last_one_counts() {
        let records = Records::parse(b"12 path=a\nb\n7 a==b\n9 path=c\n", b"x", 3).unwrap();
        assert_eq!(records.get("path"), Some(&b"c"[..]));
        assert_eq!(records.get("a"), Some(&b"=b"[..]));
        assert_eq!(records.iter().next().unwrap(), (&b"path"[..], &b"a\nb"[..]));
        let taken_back = records.with(Records::parse(b"8 path=\n", b"x", 1).unwrap());
        assert_eq!(taken_back.get("path"), None);
        let shared = Records::default().replaced(records).with(taken_back);
        assert_eq!((shared.get("path"), shared.get("a")), (None, Some(&b"=b"[..])));
        for broken in [&b"path=a\n"[..], b"8 path=a\n", b"99 path=a\n", b"9 pathaaa\n", b" path=a\n"] {
            assert!(Records::parse(broken, b"x", 9).is_err(), "{broken:?}");
        }
        // Of nothing there can be many, too, and each takes room.
        let empty = b"4 =\n".repeat(4);
        assert!(Records::parse(&empty, b"x", 3).unwrap_err().to_string().contains("more than 3 records"));
        assert!(Records::parse(&empty, b"x", 4).unwrap().bytes() >= 4 * size_of::<Pair>());
    }

    #[test]
    fn what_is_said_anew_takes_the_place_of_what_was_said() {
        let records = |bytes: &[u8]| Records::parse(bytes, b"x", 9).unwrap();
        let mut all = records(b"5 a=\n6 b=2\n");
        for _ in 0..3 {
            all = all.replaced(records(b"6 b=3\n6 c=4\n"));
            let found: Vec<_> = all.iter().collect();
            assert_eq!(found, [(&b"a"[..], &b""[..]), (b"b", b"3"), (b"c", b"4")]);
            assert_eq!(all.bytes(), 5 + 3 * RECORD_COSTS);
        }
    }

    #[test]
    fn times_have_fractions_and_may_lie_before_1970() {
        for (text, nanos) in [
            ("1", Some(1_000_000_000)),
            ("1.5", Some(1_500_000_000)),
            ("1600000000.123456789", Some(1_600_000_000_123_456_789)),
            ("0.0000000019", Some(1)),
            ("-1.25", Some(-1_250_000_000)),
            ("1.", Some(1_000_000_000)),
            ("99999999999999", Some(i64::MAX)),
            ("", None),
            (".5", None),
            ("1.x", None),
            ("--1", None),
        ] {
            assert_eq!(time(text.as_bytes()), nanos, "{text}");
        }
    }
}
