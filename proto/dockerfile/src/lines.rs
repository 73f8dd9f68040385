//! A file's text cut into instructions: continuations joined, comments and blank lines taken out, here-documents attached.
//!
//! BuildKit, `frontend/dockerfile/parser/parser.go`. Invariant: every line belongs to at most one instruction.

use crate::words;

/// An instruction's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Without continuations; what follows in here-documents is not in it.
    pub(crate) text: String,
    /// The first line in the file, from 1.
    pub(crate) first: u32,
    /// The last one, inclusive.
    pub(crate) last: u32,
}

/// A file in instructions.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pub(crate) instructions: Vec<Line>,
    pub(crate) is_unterminated: bool,
}

/// The end of a here-document.
struct Document {
    end: String,
    /// Tabs before it are dropped: `<<-`.
    strips: bool,
}

pub(crate) fn read(text: &str, escape: char) -> Lines {
    let mut instructions: Vec<Line> = Vec::new();
    let mut open: Option<Line> = None;
    let mut documents = std::collections::VecDeque::new();
    for (number, line) in (1_u32..).zip(text.lines()) {
        if let Some(Document { end, strips }) = documents.front() {
            let line = if *strips { line.trim_start_matches('\t') } else { line };
            if line == end {
                documents.pop_front();
            }
            if let Some(last) = instructions.last_mut() {
                last.last = number;
            }
            continue;
        }
        let trimmed = line.trim_start();
        if trimmed.starts_with('#') || (trimmed.is_empty() && open.is_none()) {
            continue;
        }
        let is_first = open.is_none();
        let mut instruction =
            open.take().unwrap_or(Line { text: String::new(), first: number, last: number });
        instruction.last = number;
        if trimmed.is_empty() {
            // Within a continuation an empty line is passed over.
            open = Some(instruction);
            continue;
        }
        // What was begun goes on with all of the line, its first blanks too.
        let line = if is_first { trimmed } else { line };
        match continued(line, escape) {
            // A first line of nothing but the escape begins nothing.
            Some("") if is_first => {}
            Some(part) => {
                instruction.text.push_str(part);
                open = Some(instruction);
            }
            None => {
                instruction.text.push_str(line);
                documents.extend(here_documents(&instruction.text));
                instructions.push(instruction);
            }
        }
    }
    if let Some(last) = open {
        instructions.push(last);
    }
    Lines { instructions, is_unterminated: !documents.is_empty() }
}

/// The line without the escape at its end, if it goes on. An escaped escape is a character like others.
fn continued(line: &str, escape: char) -> Option<&str> {
    let part = line.trim_end_matches([' ', '\t', '\r']).strip_suffix(escape)?;
    (!part.ends_with(escape)).then_some(part)
}

/// The ends of the here-documents that an instruction begins.
fn here_documents(text: &str) -> Vec<Document> {
    let (mut word, mut rest) = words::split(text);
    if word.eq_ignore_ascii_case("ONBUILD") {
        (word, rest) = words::split(rest);
    }
    if !text.contains("<<") || !["RUN", "COPY", "ADD"].iter().any(|known| known.eq_ignore_ascii_case(word)) {
        return Vec::new();
    }
    // A list of strings has none.
    let (_, arguments) = words::flags(rest);
    if words::list(arguments).is_some() {
        return Vec::new();
    }
    // Here the backslash escapes, whatever the directive says.
    words::quoted(rest, '\\').into_iter().filter_map(document).collect()
}

/// `[N]<<[-]WORD`.
fn document(word: &str) -> Option<Document> {
    let name = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (strips, name) = name.strip_prefix('-').map_or((false, name), |name| (true, name));
    if name.is_empty() || name.contains('<') {
        return None;
    }
    Some(Document { end: words::unquote(name, '\\'), strips })
}

/// Whether a word of COPY or ADD stands for a here-document.
pub(crate) fn is_document(word: &str) -> bool {
    document(word).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<(String, u32, u32)> {
        read(text, '\\').instructions.into_iter().map(|line| (line.text, line.first, line.last)).collect()
    }

    fn one(text: &str, first: u32, last: u32) -> (String, u32, u32) {
        (text.to_owned(), first, last)
    }

    #[test]
    fn continuations_are_joined_and_comments_left_out() {
        assert_eq!(
            cut("# c\n\n FROM x\nRUN a \\\n  # in between\n\n  b \\ \t\r\n c\n"),
            [one("FROM x", 3, 3), one("RUN a   b  c", 4, 8)]
        );
        assert_eq!(cut("RUN echo \\\\\nUSER x"), [one("RUN echo \\\\", 1, 1), one("USER x", 2, 2)]);
        assert_eq!(cut("\\\nFROM x\n"), [one("FROM x", 2, 2)]);
        assert_eq!(cut("RUN x \\"), [one("RUN x ", 1, 1)]);
        assert_eq!(read("RUN a `\n b\n", '`').instructions[0].text, "RUN a  b");
        assert_eq!(cut("FROM x\r\nRUN y\r\n"), [one("FROM x", 1, 1), one("RUN y", 2, 2)]);
    }

    #[test]
    fn here_documents_belong_to_their_instruction() {
        let text = "RUN <<A <<-'B C' cat\nFROM no\nA\n\tx\n\tB C\nFROM y\n";
        assert_eq!(cut(text), [one("RUN <<A <<-'B C' cat", 1, 5), one("FROM y", 6, 6)]);
        assert_eq!(cut("ONBUILD COPY <<E /x\ny\nE\nUSER z").len(), 2);
        for none in [
            "RUN [\"cat\", \"<<E\"]\nUSER x",
            "RUN echo $((1<<2))\nUSER x",
            "ENV A=<<E\nUSER x",
            "RUN cat <<<E\nUSER x",
            "RUN echo \"<<E x\"\nUSER x",
        ] {
            assert_eq!(cut(none).len(), 2, "{none}");
        }
        assert!(read("RUN <<E\nx\n", '\\').is_unterminated);
    }
}
