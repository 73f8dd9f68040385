//! PEM, as keys come in it (RFC 7468, and the headers of before).

use std::str::Lines;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What stands between two lines of PEM.
pub struct Block<'a> {
    /// `RSA PRIVATE KEY`.
    pub label: &'a str,
    /// Its headers say that a passphrase is needed.
    pub is_encrypted: bool,
    /// `None`: it isn't base64, or has no end.
    pub bytes: Option<Zeroizing<Vec<u8>>>,
}

/// The blocks of a text, whatever stands between them.
pub fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(label) = between(line, "-----BEGIN ") else { continue };
        // As long as it can become: what grows leaves copies behind.
        let mut body = Zeroizing::new(String::with_capacity(body_length(lines.clone(), label)));
        let (mut is_encrypted, mut is_whole) = (false, false);
        for line in lines.by_ref() {
            if between(line, "-----END ") == Some(label) {
                is_whole = true;
                break;
            }
            match line.split_once(':') {
                Some((name, value)) => {
                    is_encrypted |= name.trim() == "Proc-Type" && value.contains("ENCRYPTED");
                }
                None => body.extend(line.split_ascii_whitespace()),
            }
        }
        let bytes = is_whole.then(|| BASE64.decode(body.as_bytes()).ok().map(Zeroizing::new)).flatten();
        blocks.push(Block { label, is_encrypted, bytes });
    }
    blocks
}

/// The bytes of the lines up to the end of a block.
fn body_length(lines: Lines<'_>, label: &str) -> usize {
    lines.take_while(|line| between(line, "-----END ") != Some(label)).map(str::len).sum()
}

fn between<'a>(line: &'a str, begin: &str) -> Option<&'a str> {
    line.trim().strip_prefix(begin)?.strip_suffix("-----")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_as_much_memory_as_it_is_long_whatever_stands_behind_it() {
        let text = "AAAA\nBB\n-----END X-----\n-----BEGIN X-----\nCCCC";
        assert_eq!(body_length(text.lines(), "X"), 6);
        assert_eq!(body_length("AAAA\nBB".lines(), "X"), 6);
        let many = "-----BEGIN X-----\n-----END X-----\n".repeat(9000);
        assert_eq!(blocks(&many).len(), 9000);
    }
}
