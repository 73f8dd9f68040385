//! Texts as parts of addresses and of forms.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All but what RFC 3986 (section 2.3) calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A text as a part of an address, or as a name or value of a form (application/x-www-form-urlencoded): whoever reads either gets
/// the text back, as a blank is `%20` and never `+`.
pub fn escaped(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_in_an_address_or_a_form_is_escaped() {
        assert_eq!(
            escaped("https://farm.example:7070/a b&c=é"),
            "https%3A%2F%2Ffarm.example%3A7070%2Fa%20b%26c%3D%C3%A9"
        );
        assert_eq!(escaped("a+b*%\u{0}"), "a%2Bb%2A%25%00");
        assert_eq!(escaped("a-Z_0.~"), "a-Z_0.~");
    }
}
