//! Ids. Each is a newtype, so that a job's id is never taken for an attempt's.
//!
//! Uuids are of version 7 (RFC 9562), so that they sort by the time of their making. People see
//! [`ShortId`] only.

use std::fmt;
use std::str::FromStr;

use rand::RngExt;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::Invalid;

macro_rules! uuid_newtype {
    ($($(#[$doc:meta])* $name:ident, $thing:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id that sorts after those made before it.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id as a uuid, for the store and the wire.
            pub fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                Uuid::try_parse(text)
                    .map(Self)
                    .map_err(|_| Invalid::new($thing, text, "this is not a uuid"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    )*};
}

uuid_newtype! {
    /// A team's namespace.
    ProjectId, "project id";
    /// One request, by one principal.
    BuildId, "build id";
    /// The work of one or more equal builds.
    ExecutionId, "execution id";
    /// A node of an execution's graph.
    JobId, "job id";
    /// One try of a job by one worker.
    AttemptId, "attempt id";
    /// A worker daemon, known by its name.
    WorkerId, "worker id";
    /// The BuildKit that a worker drives.
    EngineId, "engine id";
    /// One life of a worker process: another one after each start.
    BootId, "boot id";
    /// An index on its way to its destinations.
    PublicationId, "publication id";
    /// An upload session, which pins what it was told is there.
    UploadId, "upload id";
    /// A person, a service or a job of another system, who calls the farm.
    PrincipalId, "principal id";
    /// What shows a principal.
    TokenId, "token id";
    /// A machine that workers joined from.
    MachineId, "machine id";
    /// What lets a worker join.
    InvitationId, "invitation id";
    /// A worker as it joined, until it is revoked.
    JoinId, "join id";
    /// A place where a forge tells the farm what happened.
    HookId, "hook id";
    /// Whom a project tells how its builds end.
    NoticeId, "notice id";
    /// A mirror that the farm repeats.
    MirrorId, "mirror id";
}

/// The fencing token of a lease. It is a secret between coordinator and worker: random, not ordered, and
/// never printed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseToken(Uuid);

impl LeaseToken {
    /// A new random token (122 bits).
    pub fn generate() -> Self {
        Self(Uuid::new_v4())
    }

    /// The token as a uuid, for the store and the wire.
    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for LeaseToken {
    fn from(token: Uuid) -> Self {
        Self(token)
    }
}

impl FromStr for LeaseToken {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Uuid::try_parse(text).map(Self).map_err(|_| Invalid::new("lease token", "…", "this is not a uuid"))
    }
}

impl fmt::Debug for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseToken(…)")
    }
}

/// The id of a build as people see, type and paste it: six or more of [`ShortId::ALPHABET`], unique within
/// a project. No letter of it can be taken for another (no i, l, o, u).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShortId(String);

impl ShortId {
    /// Crockford's base 32, in lower case.
    pub const ALPHABET: &'static [u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

    /// A random id of six letters (30 bits). Whoever stores it tries again when it is taken.
    pub fn generate() -> Self {
        let mut rng = rand::rng();
        Self((0..6).map(|_| char::from(Self::ALPHABET[rng.random_range(0..32)])).collect())
    }

    /// The letters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ShortId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let folded = text.trim().to_ascii_lowercase().replace('o', "0").replace(['i', 'l'], "1");
        if folded.len() < 6 || folded.len() > 16 || !folded.bytes().all(|b| Self::ALPHABET.contains(&b)) {
            return Err(Invalid::new(
                "build id",
                text,
                "a build id has six letters or digits, like 7f3k2m; `farm builds` lists them",
            ));
        }
        Ok(Self(folded))
    }
}

impl TryFrom<String> for ShortId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<ShortId> for String {
    fn from(id: ShortId) -> Self {
        id.0
    }
}

impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks a worker's name.
///
/// # Errors
/// It holds what a name can't.
pub fn check_worker_name(name: &str) -> Result<(), Invalid> {
    check_name("worker name", name)
}

/// A machine's or a pool's name: written like a worker's. `what` names the thing in the error.
///
/// # Errors
/// It holds what a name can't.
pub fn check_name(what: &'static str, name: &str) -> Result<(), Invalid> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if first && rest && name.len() <= 63 {
        return Ok(());
    }
    let cure = "use at most 63 letters, digits, dots, dashes and underscores, a letter or digit first";
    Err(Invalid::new(what, name, cure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_id_reads_back_as_it_was_written_also_in_capitals_and_with_lookalikes() {
        let id = ShortId::generate();
        assert_eq!(id.as_str().parse::<ShortId>().unwrap(), id);
        assert_eq!("7F3K2O".parse::<ShortId>().unwrap().as_str(), "7f3k20");
        assert!("7f3".parse::<ShortId>().is_err());
        assert!("../../etc".parse::<ShortId>().is_err());
    }

    #[test]
    fn a_workers_name_is_plain() {
        for name in ["w1", "arm-1.rack_2", &"x".repeat(63)] {
            assert!(check_worker_name(name).is_ok(), "{name}");
        }
        for name in ["", "-w", ".w", "_w", "w 1", "wörker", &"x".repeat(64)] {
            assert!(check_worker_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_lease_token_is_not_printed() {
        let token = LeaseToken::generate();
        assert!(!format!("{token:?}").contains(&token.as_uuid().to_string()));
    }
}
