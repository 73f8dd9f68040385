//! A value that was put somewhere and must be found nowhere else: in which forms it could lie there, and the search for them.
//!
//! A form is one that programs make of bytes without meaning harm: base64 at each place within longer data, hexadecimal as Postgres
//! dumps it, escaped for JSON or a URL, UTF-16. Compressed data (gzip) is looked into as well. What is encrypted isn't found, which is
//! the point. To add a form: a line in [`Planted::of`].

use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use flate2::read::MultiGzDecoder;
use memchr::memmem::{Finder, find_iter};

/// Shorter ones are found by chance.
const SHORTEST: usize = 12;
/// How gzip begins (RFC 1952, section 2.3.1).
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];
/// So much of what one compressed piece unfolds to is looked at, bytes.
const UNFOLDED: u64 = 256 * 1024 * 1024;

/// A value that must be nowhere.
#[derive(Debug)]
pub struct Planted {
    value: Vec<u8>,
    /// Each with its name.
    forms: Vec<(String, Finder<'static>)>,
}

impl Planted {
    /// A value of its own, which begins so.
    pub fn new(begins: &str) -> Planted {
        let random: [u8; 16] = rand::random();
        Planted::of(format!("{begins}{}", hex(&random)).as_bytes())
    }

    /// This value.
    pub fn of(value: &[u8]) -> Planted {
        assert!(value.len() >= SHORTEST, "a planted value has at least {SHORTEST} bytes");
        let mut forms: Vec<(String, Vec<u8>)> = vec![
            ("itself".to_owned(), value.to_vec()),
            ("hexadecimal".to_owned(), hex(value).into_bytes()),
            ("HEXADECIMAL".to_owned(), hex(value).to_uppercase().into_bytes()),
            ("escaped for a URL".to_owned(), percent(value, false).into_bytes()),
            ("escaped for a URL as a whole".to_owned(), percent(value, true).into_bytes()),
            ("a list of numbers".to_owned(), numbers(value).into_bytes()),
            ("backwards".to_owned(), value.iter().rev().copied().collect()),
        ];
        for place in 0..3 {
            for (name, engine) in [("base64", &STANDARD), ("base64url", &URL_SAFE)] {
                forms.push((format!("{name} at {place}"), within(engine, value, place)));
            }
        }
        if let Ok(text) = std::str::from_utf8(value) {
            let json = serde_json::to_string(text).unwrap();
            forms.push(("escaped for JSON".to_owned(), json.as_bytes()[1..json.len() - 1].to_vec()));
            let wide = text.encode_utf16().flat_map(u16::to_le_bytes);
            forms.push(("UTF-16".to_owned(), wide.collect()));
        }
        forms.sort_by(|one, other| one.1.cmp(&other.1));
        forms.dedup_by(|one, other| one.1 == other.1);
        let finder = |(name, form): (String, Vec<u8>)| (name, Finder::new(&form).into_owned());
        Planted { value: value.to_vec(), forms: forms.into_iter().map(finder).collect() }
    }

    /// The value as it is planted.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// The same, of one that is text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.value).unwrap()
    }

    /// In which form it is in these bytes and where; `None`: in none.
    pub fn find(&self, bytes: &[u8]) -> Option<String> {
        let found = self.forms.iter().find_map(|(name, form)| Some((name, form.find(bytes)?)));
        if let Some((name, at)) = found {
            return Some(format!("{name} at byte {at}"));
        }
        find_iter(bytes, &GZIP).find_map(|at| {
            let mut unfolded = Vec::new();
            // What isn't compressed, or ends in the middle, is looked at as far as it goes.
            let _ = MultiGzDecoder::new(&bytes[at..]).take(UNFOLDED).read_to_end(&mut unfolded);
            let found = self.forms.iter().find(|(_, form)| form.find(&unfolded).is_some());
            found.map(|(name, _)| format!("{name}, compressed, at byte {at}"))
        })
    }

    /// Panics when it is in these bytes, in whatever form.
    #[track_caller]
    pub fn is_not_in(&self, place: &str, bytes: impl AsRef<[u8]>) {
        if let Some(found) = self.find(bytes.as_ref()) {
            panic!("the planted value is in {place}: {found}");
        }
    }

    /// Panics when it is in a file below this folder, or in a file's name; gives how many were looked at. What goes while it is looked at
    /// is passed over.
    #[track_caller]
    pub fn is_not_below(&self, folder: &Path) -> usize {
        let mut looked = 0;
        let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                self.is_not_in(
                    &format!("the name of {}", path.display()),
                    path.as_os_str().as_encoded_bytes(),
                );
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file()
                    && let Ok(bytes) = std::fs::read(&path)
                {
                    self.is_not_in(&path.display().to_string(), bytes);
                    looked += 1;
                }
            }
        }
        looked
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn percent(bytes: &[u8], all: bool) -> String {
    let plain = |byte: u8| !all && (byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    let one = |byte: &u8| match plain(*byte) {
        true => char::from(*byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    bytes.iter().map(one).collect()
}

fn numbers(bytes: &[u8]) -> String {
    bytes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What is the same of base64 whatever is around the value, when so many bytes of a group of three come before it.
fn within(engine: &impl base64::Engine, value: &[u8], before: usize) -> Vec<u8> {
    let all = [&vec![0; before][..], value].concat();
    let text = engine.encode(&all);
    // A character stands for six bits.
    let (first, last) = ((before * 8).div_ceil(6), all.len() * 8 / 6);
    text.as_bytes()[first..last].to_vec()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use base64::Engine as _;

    use super::*;

    #[test]
    fn each_form_is_found_within_other_bytes_and_another_value_is_not() {
        let planted = Planted::of(b"hunter2 \"of\" \xc3\xa4da?>");
        let value = planted.value().to_vec();
        let around = |form: &[u8]| [&b"some bytes before "[..], form, b" and after"].concat();
        for before in 0..7 {
            for after in 0..4 {
                let all = [&b"0123456"[..before], &value, &b"abc"[..after]].concat();
                for text in [STANDARD.encode(&all), URL_SAFE.encode(&all), hex(&all)] {
                    assert!(planted.find(&around(text.as_bytes())).is_some(), "{before} {after} {text}");
                }
            }
        }
        let json = serde_json::json!({ "a": planted.text() }).to_string();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&around(&value)).unwrap();
        let wide: Vec<u8> = planted.text().encode_utf16().flat_map(u16::to_le_bytes).collect();
        for form in [
            value.clone(),
            json.into_bytes(),
            gzip.finish().unwrap(),
            wide,
            format!("{value:?}").into_bytes(),
        ] {
            assert!(planted.find(&around(&form)).is_some(), "{form:?}");
        }
        assert_eq!(planted.find(&around(b"hunter2 \"of\" bob and GZIP \x1f\x8b\x08 of nothing")), None);
        assert_eq!(Planted::new("a-").find(Planted::new("a-").value()), None);
    }

    #[test]
    fn a_folder_is_looked_through_to_its_depths() {
        let folder = tempfile::tempdir().unwrap();
        let planted = Planted::new("planted-");
        let deep = folder.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), b"nothing").unwrap();
        assert_eq!(planted.is_not_below(folder.path()), 1);
        std::fs::write(deep.join("other"), STANDARD.encode(planted.value())).unwrap();
        let found = std::panic::catch_unwind(|| planted.is_not_below(folder.path()));
        assert!(found.is_err(), "it is there");
    }
}
