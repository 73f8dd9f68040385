//! The Dockerfile that runs an image.

use std::fmt::Write as _;
use std::str::FromStr;

use farm_types::Invalid;

use super::Order;

/// A variable and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    name: String,
    value: String,
}

impl FromStr for Setting {
    type Err = Invalid;

    /// Reads `NAME=VALUE`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |cure: &str| Err(Invalid::new("--env", text, cure));
        let Some((name, value)) = text.split_once('=') else { return invalid("write NAME=VALUE") };
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(is_part) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return invalid("a name has letters, digits and _ only, and no digit in front");
        }
        if value.contains(['\n', '\r', '\0']) {
            return invalid("a value has one line");
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

/// The whole file. Its platform comes with the build, so that FROM needs none.
pub(super) fn text(order: &Order) -> String {
    let mut text = format!("FROM {}@{}\n", order.repository, order.digest);
    for Setting { name, value } in &order.environment {
        // Between single quotes nothing is expanded; a quote itself stands between double ones.
        let _ = writeln!(text, "ENV {name}='{}'", value.replace('\'', r#"'"'"'"#));
    }
    // A list of strings is always written.
    let command = serde_json::to_string(&order.command).unwrap_or_default();
    let _ = writeln!(text, "RUN {command}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_two_instructions_and_its_variables() {
        let order = Order {
            repository: "localhost:5002/app".parse().unwrap(),
            digest: "sha256:00".into(),
            shown: "app".into(),
            platform: "linux/arm64".parse().unwrap(),
            command: vec!["./a".into(), "say \"hi\"\n$X".into()],
            environment: vec!["X=it's $HOME \\".parse().unwrap()],
            network: Default::default(),
            emulation: Default::default(),
        };
        assert_eq!(
            text(&order),
            "FROM localhost:5002/app@sha256:00\nENV X='it'\"'\"'s $HOME \\'\nRUN [\"./a\",\"say \\\"hi\\\"\\n$X\"]\n"
        );
    }

    #[test]
    fn a_variable_has_a_name_and_one_line() {
        for text in ["A", "=1", "1A=1", "A-B=1", "A=1\n2"] {
            assert!(text.parse::<Setting>().is_err(), "{text}");
        }
    }
}
