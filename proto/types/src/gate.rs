//! The command that an image must pass before a tag points at it: `--gate`.
//!
//! Invariants: what is read is what is shown, and read again it is the same; a command that was taken fits into a line of a
//! Dockerfile, however it is escaped there.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;

/// The longest command, bytes. BuildKit reads no line of a Dockerfile that is longer than 65,535, and a byte is written as six there at
/// most.
pub const LONGEST_GATE: usize = 8192;

/// As much of a command as is shown in a line, characters.
const SHOWN: usize = 200;

/// A command that is run in the image, by the image's own user, environment and working directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Gate {
    /// For `/bin/sh -c`.
    Shell(String),
    /// A program with its arguments, for images without a shell; never empty.
    Exec(Vec<String>),
}

impl Gate {
    /// What is started: a program and its arguments.
    pub fn arguments(&self) -> Vec<&str> {
        match self {
            Self::Shell(command) => vec!["/bin/sh", "-c", command],
            Self::Exec(arguments) => arguments.iter().map(String::as_str).collect(),
        }
    }

    /// In one line, for people: blanks and line breaks are one blank, and what is long is cut.
    pub fn shown(&self) -> String {
        let text = self.to_string();
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    }
}

impl FromStr for Gate {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |cure: &str| Err(Invalid::new("gate", shortened(text), cure));
        if text.len() > LONGEST_GATE {
            return invalid(&format!(
                "it has {} bytes, and {LONGEST_GATE} at most are taken; put it into a script of the image",
                text.len()
            ));
        }
        if text.contains('\0') {
            return invalid("it holds a NUL byte, which no program takes");
        }
        let trimmed = text.trim();
        // As Docker tells them apart, but that what was meant as an array and is none is no command, either.
        if let Ok(arguments) = serde_json::from_str::<Vec<String>>(trimmed) {
            return match arguments.first() {
                Some(program) if program.is_empty() => {
                    invalid("the program has no name; write it like [\"/app\", \"--self-test\"]")
                }
                None => invalid("it names no program; write it like [\"/app\", \"--self-test\"]"),
                _ if arguments.iter().any(|argument| argument.contains('\0')) => {
                    invalid("it holds a NUL byte, which no program takes")
                }
                Some(_) => Ok(Self::Exec(arguments)),
            };
        }
        if trimmed.starts_with("[\"") || trimmed.starts_with("['") {
            return invalid(
                "it begins as a JSON array and is none of texts; write it like [\"/app\", \"--self-test\"]",
            );
        }
        if trimmed.is_empty() {
            return invalid("it is empty; write a command, like python -c \"import app\"");
        }
        Ok(Self::Shell(text.to_owned()))
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shell(command) => f.write_str(command),
            Self::Exec(arguments) => {
                let words = arguments.iter().map(|word| serde_json::Value::from(word.as_str()).to_string());
                write!(f, "[{}]", words.collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl TryFrom<String> for Gate {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Gate> for String {
    fn from(gate: Gate) -> Self {
        gate.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> String {
        text.parse::<Gate>().unwrap_err().to_string()
    }

    #[test]
    fn an_array_is_a_program_and_anything_else_the_shells() {
        let exec: Gate = r#" ["/app", "--self-test", "a \"b\""] "#.parse().unwrap();
        assert_eq!(exec.arguments(), ["/app", "--self-test", "a \"b\""]);
        assert_eq!(exec.to_string(), r#"["/app","--self-test","a \"b\""]"#);
        for command in
            ["python -c \"import app\"", "[ -x /app ] && /app", "[ \"$A\" = b ]", "[[ x ]]", "a\nb\\\n"]
        {
            let shell: Gate = command.parse().unwrap();
            assert_eq!(shell.arguments(), ["/bin/sh", "-c", command]);
        }
        assert_eq!("a\n\tb  c".parse::<Gate>().unwrap().shown(), "a b c");
        assert_eq!("é".repeat(300).parse::<Gate>().unwrap().shown(), format!("{}…", "é".repeat(SHOWN)));
    }

    #[test]
    fn what_is_no_command_is_refused_with_the_cure() {
        for (text, cure) in [
            ("", "it is empty"),
            (" \n", "it is empty"),
            ("[]", "names no program"),
            ("[\"\"]", "has no name"),
            ("[\"/app\", 1]", "begins as a JSON array"),
            ("['/app']", "begins as a JSON array"),
            ("a\0b", "NUL"),
            (r#"["/app", "\u0000"]"#, "NUL"),
        ] {
            assert!(refused(text).contains(cure), "{text:?}: {}", refused(text));
        }
        assert!(refused(&"x".repeat(LONGEST_GATE + 1)).contains("8193 bytes"));
        assert!("x".repeat(LONGEST_GATE).parse::<Gate>().is_ok());
    }

    proptest! {
        #[test]
        fn what_was_taken_is_read_again_as_the_same(text in any::<String>(), words in prop::collection::vec(any::<String>(), 0..4)) {
            let array = serde_json::Value::from(words).to_string();
            for text in [text, array] {
                if let Ok(gate) = text.parse::<Gate>() {
                    prop_assert_eq!(gate.to_string().parse::<Gate>().unwrap(), gate);
                }
            }
        }
    }
}
