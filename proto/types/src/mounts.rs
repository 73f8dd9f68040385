//! What RUN instructions may mount besides files: secrets (`--mount=type=secret`) and ssh keys or agents (`--mount=type=ssh`). And
//! logins at registries, which are given with a build as these are, and mounted nowhere.
//!
//! A spec names them and says where each comes from. Their values are never in it: a spec is shown, stored in clear and hashed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;

/// The longest secret, bytes. BuildKit's own limit.
pub const MOST_SECRET_BYTES: usize = 500 * 1024;
/// The most bytes of the keys of one `--ssh` together. The largest key that is taken has some 3000.
pub const MOST_SSH_BYTES: usize = 64 * 1024;
/// The most mounts of a build, secrets and ssh together.
pub const MOST_MOUNTS: usize = 64;
/// The most bytes of all values of a build together.
pub const MOST_MOUNTED_BYTES: usize = 4 * 1024 * 1024;
/// The id of `--ssh default`, and of `RUN --mount=type=ssh` without one.
pub const DEFAULT_SSH: &str = "default";

/// What a Dockerfile calls a secret or an ssh agent by: `id=`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MountId(String);

impl MountId {
    /// The id as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MountId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // It becomes a file's name below /run/secrets, and stands in lists.
        let fits = (1..=255).contains(&text.len())
            && !text.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, ',' | '=' | '"'));
        if fits {
            return Ok(Self(text.to_owned()));
        }
        let cure = "write 1 to 255 bytes without spaces, commas, = and quotation marks";
        Err(Invalid::new("id of a secret", text, cure))
    }
}

impl TryFrom<String> for MountId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<MountId> for String {
    fn from(id: MountId) -> Self {
        id.0
    }
}

impl fmt::Display for MountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a project calls a secret of its own by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

impl SecretName {
    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins && text.len() <= 64 && text.chars().all(is_part) {
            return Ok(Self(text.to_owned()));
        }
        let cure = "write 1 to 64 letters, digits, -, _ and ., a letter or digit first";
        Err(Invalid::new("name of a secret", text, cure))
    }
}

impl TryFrom<String> for SecretName {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> Self {
        name.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a secret's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretSource {
    /// Whoever submits the build gives it for this one.
    Given,
    /// The project has it.
    Project(SecretName),
}

impl FromStr for SecretSource {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.split_once(':') {
            None if text == "given" => Ok(Self::Given),
            Some(("project", name)) => name.parse().map(Self::Project),
            _ => Err(Invalid::new("source of a secret", text, "write given or project:NAME")),
        }
    }
}

impl TryFrom<String> for SecretSource {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<SecretSource> for String {
    fn from(source: SecretSource) -> Self {
        source.to_string()
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.write_str("given"),
            Self::Project(name) => write!(f, "project:{name}"),
        }
    }
}

/// What signs for an ssh mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SshSource {
    /// Keys that whoever submits the build gives for this one.
    Keys,
    /// The agent of whoever follows the build.
    Agent,
}

impl SshSource {
    /// The word that stands for it: `keys` or `agent`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Agent => "agent",
        }
    }
}

impl FromStr for SshSource {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        [Self::Keys, Self::Agent]
            .into_iter()
            .find(|source| source.as_str() == text)
            .ok_or_else(|| Invalid::new("source of ssh keys", text, "write keys or agent"))
    }
}

/// All that a build's RUN instructions may mount besides files, and the logins that it was given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounts {
    /// `--secret`, by the ids that the Dockerfile has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<MountId, SecretSource>,
    /// `--ssh`, likewise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ssh: BTreeMap<MountId, SshSource>,
    /// `--registry-login`: registries, as images' names have them, from which it pulls by a login that it was given.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub logins: BTreeSet<MountId>,
}

impl Mounts {
    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty() && self.ssh.is_empty() && self.logins.is_empty()
    }

    /// Those whose values whoever submits the build gives, and has to give again when it is built anew.
    pub fn given(&self) -> impl Iterator<Item = (ValueType, &MountId)> {
        let secrets = self.secrets.iter().filter(|(_, source)| **source == SecretSource::Given);
        let keys = self.ssh.iter().filter(|(_, source)| **source == SshSource::Keys);
        let secrets = secrets.map(|(id, _)| (ValueType::Secret, id));
        let logins = self.logins.iter().map(|host| (ValueType::Login, host));
        secrets.chain(keys.map(|(id, _)| (ValueType::Ssh, id))).chain(logins)
    }

    /// The agents of whoever follows the build that it may ask.
    pub fn agents(&self) -> impl Iterator<Item = &MountId> {
        self.ssh.iter().filter(|(_, source)| **source == SshSource::Agent).map(|(id, _)| id)
    }
}

/// What a step mounts that isn't files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MountType {
    /// `--mount=type=secret`: a file or a variable.
    Secret,
    /// `--mount=type=ssh`: an agent's socket.
    Ssh,
}

/// What a value is for that a build is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ValueType {
    /// What `--mount=type=secret` has.
    Secret,
    /// What signs for `--mount=type=ssh`: private keys in PEM, one after the other.
    Ssh,
    /// No mount: the login at the registry that is its id, a [`GivenLogin`] in JSON. It goes to no worker with the mounts.
    Login,
}

impl ValueType {
    /// The word that stands for it, which is the flag's: `secret`, `ssh` or `registry-login`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Ssh => "ssh",
            Self::Login => "registry-login",
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ValueType {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        [Self::Secret, Self::Ssh, Self::Login]
            .into_iter()
            .find(|mount| mount.as_str() == text)
            .ok_or_else(|| Invalid::new("type of value", text, "write secret, ssh or registry-login"))
    }
}

/// A login that a build was given. It isn't printed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenLogin {
    /// The user's name at the registry.
    pub username: String,
    /// The password, or a token of the registry's.
    pub password: String,
}

impl GivenLogin {
    /// The longest user name, and the longest password, bytes: tokens of clouds have some KiB.
    pub const LONGEST: (usize, usize) = (255, 16 * 1024);

    /// Reads one as a value has it.
    ///
    /// # Errors
    /// It is none, or no registry could take it; what is wrong, without any of it.
    pub fn read(value: &[u8]) -> Result<Self, &'static str> {
        let login: Self = serde_json::from_slice(value).map_err(|_| "it is no login")?;
        login.check()?;
        Ok(login)
    }

    /// # Errors
    /// No registry could take it; what is wrong, without any of it.
    pub fn check(&self) -> Result<(), &'static str> {
        let (name, password) = Self::LONGEST;
        if self.username.is_empty() || self.password.is_empty() {
            return Err("it has no user's name, or no password");
        }
        if self.username.len() > name || self.password.len() > password {
            return Err("its user's name has more than 255 bytes, or its password more than 16 KiB");
        }
        // RFC 7617, section 2.
        if self.username.contains(':') || self.username.chars().any(char::is_control) {
            return Err("its user's name has a colon, or what can't be printed");
        }
        Ok(())
    }
}

impl fmt::Debug for GivenLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GivenLogin").finish_non_exhaustive()
    }
}

impl Drop for GivenLogin {
    fn drop(&mut self) {
        use zeroize::Zeroize as _;
        self.password.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_are_what_fits_a_file_a_list_and_a_flag() {
        for id in ["npm", "default", "npm.rc", "a/b", "SECRET_1", "schlüssel"] {
            assert_eq!(id.parse::<MountId>().unwrap().as_str(), id);
        }
        for id in ["", "a b", "a,b", "a=b", "a\n", "\"a\"", &"x".repeat(256)] {
            assert!(id.parse::<MountId>().is_err(), "{id:?}");
        }
        for name in ["npm", "NPM_TOKEN", "a.b-c", "1"] {
            assert_eq!(name.parse::<SecretName>().unwrap().as_str(), name);
        }
        for name in ["", "-a", ".a", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(name.parse::<SecretName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_spec_says_where_each_comes_from_and_which_have_to_be_given_again() {
        let id = |text: &str| text.parse::<MountId>().unwrap();
        let project = SecretSource::Project("npm".parse().unwrap());
        let mounts = Mounts {
            secrets: [(id("a"), SecretSource::Given), (id("b"), project)].into(),
            ssh: [(id("default"), SshSource::Agent), (id("git"), SshSource::Keys)].into(),
            logins: [id("r.example:5000")].into(),
        };
        let text = serde_json::to_string(&mounts).unwrap();
        let expected = r#"{"secrets":{"a":"given","b":"project:npm"},"ssh":{"default":"agent","git":"keys"},"logins":["r.example:5000"]}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Mounts>(&text).unwrap(), mounts);
        let given: Vec<_> = mounts.given().map(|(mount, id)| format!("{mount} {id}")).collect();
        assert_eq!(given, ["secret a", "ssh git", "registry-login r.example:5000"]);
        assert_eq!(mounts.agents().map(MountId::as_str).collect::<Vec<_>>(), ["default"]);
        assert!("project:-".parse::<SecretSource>().is_err() && "file".parse::<SecretSource>().is_err());
    }

    #[test]
    fn a_login_is_what_a_registry_can_take_and_is_not_printed() {
        let read = |text: &str| GivenLogin::read(text.as_bytes());
        let login = read(r#"{"username":"ci","password":"hunter2"}"#).unwrap();
        assert_eq!((login.username.as_str(), login.password.as_str()), ("ci", "hunter2"));
        assert!(!format!("{login:?}").contains("hunter2"));
        let long = format!(r#"{{"username":"ci","password":"{}"}}"#, "x".repeat(16 * 1024 + 1));
        for text in [
            "",
            "hunter2",
            r#"{"username":"ci"}"#,
            r#"{"username":"","password":"hunter2"}"#,
            r#"{"username":"a:b","password":"hunter2"}"#,
            r#"{"username":"ci","password":""}"#,
            long.as_str(),
        ] {
            let why = read(text).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
