//! An archive at a web address, as sources name it.
//!
//! As `docker build URL` takes it: the archive is the context. Narrower: by https only, and without a login in the address.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Invalid;
use crate::git::Lfs;

/// The longest address that is taken, bytes.
const MAX_TEXT: usize = 2048;
/// What stands behind the address of an archive whose bytes are known: `#sha256=` and 64 digits.
const CHECKSUM: &str = "sha256=";

/// The address of an archive: `https://HOST[:PORT]/PATH[?QUERY]`, without a user and a password.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArchiveUrl(String);

impl ArchiveUrl {
    /// The text, with its query.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same without its query, in which there often is a signature: for people, and for what is kept.
    pub fn without_query(&self) -> Self {
        Self(self.0.split('?').next().unwrap_or_default().to_owned())
    }

    /// `HOST[:PORT]`.
    pub fn host(&self) -> &str {
        let (_, rest) = self.0.split_once("://").unwrap_or_default();
        rest.split(['/', '?']).next().unwrap_or_default()
    }
}

/// The address without its query.
impl fmt::Display for ArchiveUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.split('?').next().unwrap_or_default())
    }
}

/// The same: what is printed of a spec tells nobody the query.
impl fmt::Debug for ArchiveUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArchiveUrl({self})")
    }
}

impl FromStr for ArchiveUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |cure: &str| {
            // Neither a password nor a signature is repeated.
            let shown = match text.rsplit_once('@') {
                // Of a password, or of a signature: which can't be told.
                Some((before, _)) if before.contains(['?', '#']) => "https://…",
                Some((_, behind)) => behind,
                None => text,
            };
            Err(Invalid::new("archive", shown.split(['?', '#']).next().unwrap_or_default(), cure))
        };
        let form = "write https://HOST/PATH.tar.gz";
        if text.len() > MAX_TEXT
            || text.chars().any(|c| c.is_control() || c.is_whitespace() || "\\#".contains(c))
        {
            return invalid(form);
        }
        let Some((scheme, rest)) = text.split_once("://") else { return invalid(form) };
        match scheme.to_ascii_lowercase().as_str() {
            "https" => {}
            "http" => {
                return invalid(
                    "archives are fetched by https only, as http is neither encrypted nor signed; write https",
                );
            }
            _ => return invalid("archives are fetched by https only; write https://HOST/PATH.tar.gz"),
        }
        let place = rest.split(['/', '?']).next().unwrap_or_default();
        if place.contains('@') {
            return invalid(
                "a password doesn't belong into an address, and none is sent; leave USER:PASSWORD@ out",
            );
        }
        let host = place.parse::<crate::RegistryHost>();
        if host.as_ref().map_or(true, |host| host.check().is_err()) {
            return invalid("its host is none; write https://HOST/PATH.tar.gz");
        }
        if !rest[place.len()..].starts_with('/') {
            return invalid("it names no file; write https://HOST/PATH.tar.gz");
        }
        Ok(Self(format!("https://{rest}")))
    }
}

impl TryFrom<String> for ArchiveUrl {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<ArchiveUrl> for String {
    fn from(url: ArchiveUrl) -> Self {
        url.0
    }
}

/// An archive that the farm fetches. Its text is `URL`, or `URL#sha256=DIGITS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveSource {
    /// Where it is.
    pub archive: ArchiveUrl,
    /// What its bytes have to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Digest>,
    /// `--lfs`: what becomes of pointers of Git LFS, which archives of forges have, too. Not in its text.
    #[serde(default, skip_serializing_if = "Lfs::is_refused")]
    pub lfs: Lfs,
}

impl FromStr for ArchiveSource {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (archive, behind) = text.split_once('#').unwrap_or((text, ""));
        // No checksum has one: it stands behind a password with # in it.
        let archive = if behind.contains('@') { text } else { archive };
        let archive: ArchiveUrl = archive.parse()?;
        let checksum = match behind {
            "" => None,
            behind => Some(checksum(behind).ok_or_else(|| {
                Invalid::new(
                    "checksum",
                    behind,
                    "behind # of an archive there is sha256= and 64 hexadecimal digits",
                )
            })?),
        };
        Ok(Self { archive, checksum, lfs: Lfs::default() })
    }
}

/// Reads `sha256=DIGITS`.
fn checksum(text: &str) -> Option<Digest> {
    let digits = text.strip_prefix(CHECKSUM)?;
    format!("sha256:{}", digits.to_ascii_lowercase()).parse().ok()
}

impl fmt::Display for ArchiveSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.checksum {
            Some(checksum) => write!(f, "{}#{CHECKSUM}{}", self.archive, checksum.hex()),
            None => self.archive.fmt(f),
        }
    }
}

/// Which archive a source is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveOrigin {
    /// The address that was named, without its query.
    pub archive: ArchiveUrl,
    /// The digest of its bytes, as they came.
    pub digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_at_an_address_of_https_and_its_query_is_shown_to_nobody() {
        let source: ArchiveSource =
            format!("HTTPS://X.example:8443/a/v1.tar.gz?X-Sig=abc#sha256={}", "AB".repeat(32))
                .parse()
                .unwrap();
        assert_eq!(source.archive.as_str(), "https://X.example:8443/a/v1.tar.gz?X-Sig=abc");
        assert_eq!(source.archive.host(), "X.example:8443");
        assert_eq!(source.checksum.unwrap().hex(), "ab".repeat(32));
        assert_eq!(
            source.to_string(),
            format!("https://X.example:8443/a/v1.tar.gz#sha256={}", "ab".repeat(32))
        );
        assert_eq!(source.archive.as_str().parse(), Ok(source.archive.clone()));
        let printed = format!("{source:?}");
        assert!(printed.contains("X.example:8443/a/v1.tar.gz") && !printed.contains("abc"), "{printed}");
        for (text, why) in [
            ("http://x.example/a.tar", "https only"),
            ("ftp://x.example/a.tar", "https only"),
            ("https://me:hunter2@x.example/a.tar?s=hunter2", "password doesn't belong"),
            ("https://me:hunter2@s@x.example/a.tar", "password doesn't belong"),
            ("https://me:hunter2?s@x.example/a.tar", "its host is none"),
            ("https://me:hunter2#s@x.example/a.tar", "write https://HOST"),
            ("https://me:22#hunter2@x.example/a.tar", "write https://HOST"),
            ("https://me:22?hunter2@x.example", "names no file"),
            ("https://x.example/a b.tar?s=hunter2@hunter2", "write https://HOST"),
            ("https://x.example?s=hunter2", "names no file"),
            ("https://x.example", "names no file"),
            ("https:///a.tar", "host is none"),
            ("https://x.example/a b.tar", "write https://HOST"),
            ("https://x.example/a.tar#sha256=12", "64 hexadecimal digits"),
            ("https://x.example/a.tar#main:docker", "64 hexadecimal digits"),
            ("x.tar", "write https://HOST"),
        ] {
            let error = text.parse::<ArchiveSource>().unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
