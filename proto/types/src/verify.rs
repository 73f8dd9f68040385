//! What is looked at in a result before it counts.

use serde::{Deserialize, Serialize};

use crate::error::Invalid;

/// What is looked at in a result before it counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// Nothing.
    #[default]
    Off,
    /// Whether its programs are of its platform's machine ([`crate::elf`]).
    Elf {
        /// But for what these patterns name, which are those of `.dockerignore`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        except: Vec<String>,
    },
}

impl Verify {
    /// Reads `elf` or `off` with what is excepted (empty: as nobody has said, which is `elf` only where something is excepted).
    ///
    /// # Errors
    /// Another word, exceptions of nothing, or one that is no pattern.
    pub fn new(word: &str, except: Vec<String>) -> Result<Self, Invalid> {
        let verify = match word {
            "" if except.is_empty() => Self::Off,
            "" | "elf" => Self::Elf { except },
            "off" if except.is_empty() => Self::Off,
            "off" => {
                return Err(Invalid::new(
                    "verify",
                    word,
                    "nothing is verified that something could be excepted from",
                ));
            }
            _ => return Err(Invalid::new("verify", word, "write elf or off")),
        };
        verify.excepted()?;
        Ok(verify)
    }

    /// The word that stands for it: `elf` or `off`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Elf { .. } => "elf",
        }
    }

    /// What it excepts.
    pub fn exceptions(&self) -> &[String] {
        match self {
            Self::Off => &[],
            Self::Elf { except } => except,
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
