//! By what the images of a build are signed: one of the keys that its project keeps for that.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Invalid, SecretName};

/// What a project calls a signing key of its own by; in form a secret's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SigningKeyName(SecretName);

impl SigningKeyName {
    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for SigningKeyName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let own = |error: Invalid| Invalid { thing: "name of a signing key".to_owned(), ..error };
        text.parse().map(Self).map_err(own)
    }
}

impl TryFrom<String> for SigningKeyName {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<SigningKeyName> for String {
    fn from(name: SigningKeyName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for SigningKeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_name_is_written_as_a_secrets_and_told_as_its_own() {
        assert_eq!("release.2026".parse::<SigningKeyName>().unwrap().as_str(), "release.2026");
        // A path is a file's, as cosign takes it.
        let error = "./cosign.key".parse::<SigningKeyName>().unwrap_err().to_string();
        assert!(error.starts_with("name of a signing key"), "{error}");
    }
}
