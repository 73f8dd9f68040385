//! Failures: wire to domain and back, in texts that can be stored and fit into a message.

use farm_types::failure::SourceExcerpt;
use farm_types::{Failure, Invalid};

use crate::v1;

impl From<&Failure> for v1::Failure {
    fn from(failure: &Failure) -> Self {
        Self {
            cause: failure.cause.to_string(),
            code: failure.code.to_string(),
            message: failure.message.clone(),
            step: failure.step.clone().unwrap_or_default(),
            exit_code: failure.exit_code,
            source: failure.source.as_ref().map(|source| v1::SourceExcerpt {
                file: source.file.clone(),
                first_line: source.first_line,
                lines: source.lines.clone(),
                marked_from: source.marked.0,
                marked_to: source.marked.1,
            }),
            log_tail: failure.log_tail.clone(),
        }
    }
}

/// A text without NUL, which Postgres can't hold: foreign text (a Dockerfile's lines, a program's output) may
/// have it.
pub fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// The longest text of a failure that is taken, characters, and the most lines of one list, and their length: all of it fits into a
/// message ([`crate::MAX_MESSAGE_BYTES`]).
const LONGEST_TEXT: usize = 16 * 1024;
const MOST_LINES: usize = 200;
const LONGEST_LINE: usize = 4 * 1024;

/// A text as it may be stored, cut where it is too long.
fn cut(text: String, longest: usize) -> String {
    let text = without_nul(text);
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Cuts a failure's texts where they are too long: so it can be stored, and fits into a message. One that doesn't is told for ever. To be
/// called behind a mask, which doesn't know a secret by a part of it.
pub fn fit(failure: &mut v1::Failure) {
    let v1::Failure { code, message, step, source, log_tail, cause: _, exit_code: _ } = failure;
    let storable = |text: &mut String| *text = cut(std::mem::take(text), LONGEST_TEXT);
    let lines = |lines: &mut Vec<String>| {
        lines.truncate(MOST_LINES);
        for line in lines {
            *line = cut(std::mem::take(line), LONGEST_LINE);
        }
    };
    [code, message, step].into_iter().for_each(storable);
    lines(log_tail);
    if let Some(source) = source {
        storable(&mut source.file);
        lines(&mut source.lines);
    }
}

impl TryFrom<v1::Failure> for Failure {
    type Error = Invalid;

    fn try_from(mut failure: v1::Failure) -> Result<Self, Invalid> {
        fit(&mut failure);
        Ok(Self {
            cause: failure.cause.parse()?,
            code: failure.code.into(),
            message: failure.message,
            step: (!failure.step.is_empty()).then_some(failure.step),
            exit_code: failure.exit_code,
            source: failure.source.map(|source| SourceExcerpt {
                file: source.file,
                first_line: source.first_line,
                lines: source.lines,
                marked: (source.marked_from, source.marked_to),
            }),
            log_tail: failure.log_tail,
        })
    }
}

#[cfg(test)]
mod tests {
    use farm_types::{Cause, FailureCode};

    use super::*;

    #[test]
    fn a_failure_fits_into_a_message_however_long_its_texts_are() {
        let text = "ü".repeat(9 << 20);
        let failure = Failure {
            step: Some(text.clone()),
            source: Some(SourceExcerpt {
                file: text.clone(),
                first_line: 1,
                lines: vec!["\u{1f40b}".repeat(20_000); 300],
                marked: (1, 1),
            }),
            log_tail: vec!["\u{1f40b}".repeat(20_000); 300],
            ..Failure::new(Cause::User, FailureCode::ArchiveUnusable, text)
        };
        let mut wire = v1::Failure::from(&failure);
        fit(&mut wire);
        let length = prost::Message::encoded_len(&wire);
        assert!(length < crate::MAX_MESSAGE_BYTES - (1 << 20), "{length}");
        assert!(wire.message.starts_with('ü') && wire.message.ends_with('…'));
    }

    #[test]
    fn a_failure_survives_the_way_there_and_back() {
        let failure = Failure {
            step: Some("[2/3] RUN false".into()),
            exit_code: Some(1),
            source: Some(SourceExcerpt {
                file: "Dockerfile".into(),
                first_line: 1,
                lines: vec!["FROM x".into(), "RUN false".into()],
                marked: (2, 2),
            }),
            log_tail: vec!["no".into()],
            ..Failure::new(Cause::User, FailureCode::RunFailed, "exit code 1")
        };
        assert_eq!(Failure::try_from(v1::Failure::from(&failure)).unwrap(), failure);
    }
}
