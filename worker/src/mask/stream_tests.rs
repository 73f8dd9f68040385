//! Values in all the forms that tools print, in texts that are cut anywhere.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::super::Mask;
use super::super::pieces::counts;

fn mask(values: &[&[u8]]) -> Mask {
    let (mask, unmasked) = Mask::new(values);
    assert_eq!(unmasked, [], "{values:?}");
    mask
}

/// What a stream becomes that is cut at these places.
fn streamed(mask: &Mask, text: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(text.len());
    let (mut masker, mut all, mut at) = (mask.masker(), Vec::new(), 0);
    for cut in cuts {
        all.extend_from_slice(&masker.push(&text[at..cut]));
        at = cut;
    }
    all.extend(masker.finish());
    all
}

fn wrapped(text: &str, width: usize, end: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    letters.chunks(width).map(|line| line.iter().collect::<String>() + end).collect()
}

fn hex(value: &[u8]) -> String {
    value.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn percent(value: &str, keeps: &str, space: &str) -> String {
    let letter = |byte: u8| match byte {
        b' ' => space.to_owned(),
        byte if byte.is_ascii_alphanumeric() || keeps.as_bytes().contains(&byte) => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    value.bytes().map(letter).collect()
}

/// A value as tools print it, written apart from how it is looked for.
///
/// With what doesn't depend on it, before and behind, in characters.
fn printed(value: &str) -> Vec<(&'static str, String, (usize, usize))> {
    let json = serde_json::to_string(value).unwrap();
    vec![
        ("as it is", value.to_owned()),
        ("without what is around it", value.trim().to_owned()),
        ("lines of Windows", value.replace('\n', "\r\n")),
        ("in one line", value.replace('\n', " ")),
        ("indented", value.replace('\n', "\n        ")),
        ("folded", wrapped(value, 10, "\n")),
        ("a character per line", wrapped(value, 1, "\n")),
        ("JSON", json.clone()),
        ("JSON in JSON", serde_json::to_string(&json).unwrap()),
        ("JSON with slashes escaped", json.replace('/', "\\/")),
        ("between quotes of a shell", format!("'{}'", value.replace('\'', "'\\''"))),
        ("Rust's and Go's quotes", format!("{value:?}")),
        ("base64", STANDARD.encode(value)),
        ("base64 of its line", STANDARD.encode(format!("{value}\n"))),
        ("base64 without padding", STANDARD_NO_PAD.encode(value)),
        ("base64 for addresses", URL_SAFE.encode(value)),
        ("base64 for addresses without padding", URL_SAFE_NO_PAD.encode(value)),
        ("base64 at 76", wrapped(&STANDARD.encode(value), 76, "\n")),
        ("base64 at 64", wrapped(&STANDARD.encode(value), 64, "\r\n")),
        ("hexadecimal", hex(value.as_bytes())),
        ("hexadecimal in capitals", hex(value.as_bytes()).to_uppercase()),
        ("hexadecimal at 60", wrapped(&hex(value.as_bytes()), 60, "\n")),
        ("of an address, all encoded", percent(value, "-._~", "%20")),
        ("of an address, in small letters", {
            let text = percent(value, "", "+");
            let mut parts = text.split('%');
            let first = parts.next().unwrap().to_owned();
            parts.fold(first, |text, part| format!("{text}%{}{}", part[..2].to_lowercase(), &part[2..]))
        }),
        ("of an address, the least", percent(value, "-._~!*();/?:@&=+$,#", "%20")),
        ("of a form", percent(value, "*-._", "+")),
    ]
    .into_iter()
    // Nobody encodes these.
    .filter(|(form, _)| *form != "of an address, in small letters" || !value.contains(['-', '.', '_', '~']))
    .map(|(form, text)| (form, text, (0, 0)))
    .chain([
        ("base64 behind a name", STANDARD.encode(format!("deploy:{value}")), (10, 0)),
        ("base64 behind a letter", URL_SAFE.encode(format!("x{value}")), (2, 0)),
        (
            "base64 within something",
            STANDARD_NO_PAD.encode(format!("{{\"name\":\"x\",\"t\":\"{value}\",\"z\":1}}")),
            (23, 11),
        ),
    ])
    .collect()
}

/// No excerpt of so many bytes that count is left of it.
fn leaves_nothing(masked: &[u8], form: &str, excerpt: usize) -> Result<(), TestCaseError> {
    let form: Vec<u8> = form.bytes().filter(|byte| counts(*byte)).collect();
    let left: Vec<u8> = masked.iter().copied().filter(|byte| counts(*byte)).collect();
    for part in form.windows(excerpt.min(form.len())) {
        let is_left = left.windows(part.len()).any(|window| window == part);
        prop_assert!(
            !is_left,
            "{:?} is left in {:?}",
            String::from_utf8_lossy(part),
            String::from_utf8_lossy(&left)
        );
    }
    Ok(())
}

/// Passwords, tokens, files of lines: with all that forms have to encode.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[A-Z0-9]{6,40}",
        "[!-~]{9,60}",
        "[!-~][ -~]{10,60}[!-~]",
        "ey[A-Za-z0-9_-]{150,400}",
        "(-----BEGIN KEY-----\n)([A-Z0-9+/]{64}\n){2,5}[A-Z0-9+/]{2,63}==\n(-----END KEY-----\n)",
        "([A-Z]{1,9}=[!-~]{1,30}\n){2,6}",
        "([A-Z0-9]{1,3}\n){6,9}",
        "[A-ZäöüßÄ€]{8,30}",
    ]
    // A line of one byte only is told to be one.
    .prop_filter("too short", |value| value.bytes().filter(|byte| counts(*byte)).count() > 8)
}

/// What stands around: nothing of it is in a value or in one of its forms.
const AROUND: &str = "([g-z.,;]{0,9}[ \n]){0,12}";

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_value_is_masked_in_each_form_however_the_stream_is_cut(
        value in value(), before in AROUND, behind in AROUND,
        cuts in proptest::collection::vec(any::<usize>(), 0..12),
    ) {
        let mask = mask(&[value.as_bytes()]);
        for (form, printed, (foreign, also)) in printed(&value) {
            let text = format!("{before}{printed}{behind}");
            let masked = streamed(&mask, text.as_bytes(), &cuts);
            leaves_nothing(&masked, &printed[foreign..printed.len() - also], 6).map_err(|left| TestCaseError::fail(format!("{form} of {value:?}: {left}")))?;
            prop_assert_eq!(&masked, &streamed(&mask, text.as_bytes(), &[]), "{}: it depends on the cuts {:?}", form, &cuts);
            // What stands around it stays as it is.
            prop_assert!(masked.starts_with(before.trim_end().as_bytes()) && masked.ends_with(behind.trim_start().as_bytes()), "{}: {:?}", form, String::from_utf8_lossy(&masked));
        }
    }

    #[test]
    fn a_text_without_the_value_is_not_changed(
        value in "[A-Z0-9!@#]{8,40}", text in "([a-z.,:;/=\u{e4}-]{0,30}[ \r\n\t]{0,3}){0,40}",
        cuts in proptest::collection::vec(any::<usize>(), 0..12),
    ) {
        let mask = mask(&[value.as_bytes()]);
        prop_assert_eq!(String::from_utf8(streamed(&mask, text.as_bytes(), &cuts)).unwrap(), text.clone());
        prop_assert!(matches!(mask.text(&text), Cow::Borrowed(same) if same == text));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn of_a_long_value_no_long_excerpt_is_left(
        value in proptest::collection::vec(any::<u8>(), 300..900), from in any::<usize>(), length in 64usize..200,
        cuts in proptest::collection::vec(any::<usize>(), 0..12),
    ) {
        let mask = mask(&[&value]);
        let from = from % (value.len() - length);
        let excerpt = &value[from..from + length];
        // Of 64 bytes the one piece, of more all but the ends.
        for (form, printed) in [("base64", STANDARD.encode(excerpt)), ("hexadecimal", hex(excerpt))] {
            let masked = streamed(&mask, format!("got: {printed} (so)").as_bytes(), &cuts);
            leaves_nothing(&masked, &printed, 66).map_err(|left| TestCaseError::fail(format!("{form}: {left}")))?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Values of two letters: they overlap, contain each other, and begin in each other.
    #[test]
    fn what_is_masked_is_what_any_value_covers(
        values in proptest::collection::vec("[ab]{6,9}", 1..4), text in "[ab \n]{0,60}",
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let values: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
        let (mask, _) = Mask::new(&values);
        let masked = streamed(&mask, text.as_bytes(), &cuts);
        prop_assert_eq!(String::from_utf8(masked).unwrap(), slowly(&values, &text));
    }
}

/// The same by looking at every place. Of three letters at most behind which a line ends nothing is covered.
fn slowly(values: &[&[u8]], text: &str) -> String {
    let places: Vec<usize> = (0..text.len()).filter(|at| counts(text.as_bytes()[*at])).collect();
    let mut is_covered = vec![false; text.len()];
    for value in values {
        for window in places.windows(value.len()) {
            if window.iter().map(|at| text.as_bytes()[*at]).eq(value.iter().copied()) {
                let mut broken = (1..4).filter(|at| text[window[at - 1]..window[*at]].contains('\n'));
                let first = window[broken.next_back().unwrap_or(0)];
                (first..=window[value.len() - 1]).for_each(|at| is_covered[at] = true);
            }
        }
    }
    let mut masked = String::new();
    for (at, c) in text.char_indices() {
        match is_covered[at] {
            false => masked.push(c),
            true if at == 0 || !is_covered[at - 1] => masked.push_str("***"),
            true => {}
        }
    }
    masked
}

#[test]
fn only_what_may_be_the_beginning_of_a_value_is_held_back() {
    let mut masker = mask(&[b"hunter2", b"-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEF\n"]).masker();
    assert_eq!(*masker.push(b"Step 1: it works\n"), *b"Step 1: it works\n");
    assert_eq!(*masker.push(b"pass: hunt"), *b"pass: ");
    assert_eq!(*masker.push(b"\n"), *b"");
    assert_eq!(*masker.push(b"ing\n"), *b"hunt\ning\n");
    assert_eq!(*masker.push(b"hunter"), *b"");
    assert_eq!(*masker.push(b"2 and hunt"), *b"*** and ");
    assert_eq!(masker.finish(), b"hunt");
    // A line's end waits for no other line because of its last letters.
    assert_eq!(*masker.push(b"so hun\n"), *b"so hun\n");
    assert_eq!(*masker.push(b"t"), *b"");
    assert_eq!(*masker.push(b"er2 and hu\nn"), *b"*** and ");
    assert_eq!(*masker.push(b"\nter"), *b"");
    assert_eq!(*masker.push(b"2."), *b"hu\nn\n***.");
    // A line of a key goes out as soon as it is known to be one.
    assert_eq!(*masker.push(b"MIIEvQIBADANBgkq\n"), *b"***\n");
    assert_eq!(*masker.push(b"hkiG9w0BAQEF\n"), *b"***\n");
    assert_eq!(masker.finish(), b"");
}

#[test]
fn blanks_without_an_end_are_not_held_for_ever() {
    let mut masker = mask(&[b"hunter2"]).masker();
    let mut given = masker.push(b"hunt").into_owned();
    for _ in 0..100 {
        given.extend_from_slice(&masker.push(&[b'\n'; 10]));
    }
    assert_eq!(given.len(), 1004);
    // Within that they don't matter.
    let text = format!("hun{}ter2", " ".repeat(256));
    assert_eq!(mask(&[b"hunter2"]).text(&text), "***");
}

#[test]
fn values_that_touch_or_overlap_are_one_mask() {
    let mask = mask(&[b"abcdef", b"defghi", b"abcdefghijkl"]);
    for (text, masked) in [
        ("-abcdefghi-", "-***-"),
        ("-abcdefabcdef-", "-***-"),
        ("-abcdef\nabcdef-", "-***\n***-"),
        ("-abcdefghijkl-", "-***-"),
        ("-abcdefghijk-", "-***jk-"),
        ("abcdef abcde", "*** abcde"),
    ] {
        assert_eq!(mask.text(text), masked);
        let cuts: Vec<usize> = (0..=text.len()).collect();
        assert_eq!(String::from_utf8(streamed(&mask, text.as_bytes(), &cuts)).unwrap(), masked);
    }
}

/// Files as people have them: no line of them that says something is left when a tool prints its parts.
#[test]
fn lines_of_files_are_found_by_themselves() {
    let key = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ", "DWxpbmUgdHdvIG9mIGEga2V5", "Zg=="];
    let account = serde_json::json!({
        "type": "service_account",
        "private_key": format!("-----BEGIN KEY-----\n{}\n-----END KEY-----\n", key.join("\n")),
    });
    let pretty = serde_json::to_string_pretty(&account).unwrap();
    let mask = mask(&[pretty.as_bytes()]);
    // What `jq -r .private_key` prints of it.
    let masked = mask.text(account["private_key"].as_str().unwrap()).into_owned();
    assert!(key[..2].iter().all(|line| !masked.contains(line)), "{masked}");
    assert_eq!(mask.text(&format!("it is {} and\n{}", key[0], key[1])), "it is *** and\n***");
    assert_eq!(mask.text(&pretty), "{\n  \"***\\n***\\n***");
}

#[test]
fn a_file_too_long_for_all_forms_is_masked_as_it_is_and_in_base64() {
    let mut state = 7u32;
    let value: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/"[usize::try_from(state >> 8).unwrap() % 38]
    })
    .take(120_000)
    .collect();
    let mask = mask(&[b"hunter2", &value]);
    let all = mask.bytes(&value);
    assert_eq!(*all, *b"***");
    let encoded = STANDARD.encode(&value);
    assert_eq!(mask.text(&encoded), "***");
    assert_eq!(mask.text(&STANDARD.encode("hunter2")), "***");
}
