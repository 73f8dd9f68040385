//! What a notice tells and where it goes, as rows have it.

use farm_types::{NoticeOn, RefPattern};

use crate::builds::mounts::SealedKey;
use crate::{Result, state};

/// So much is told by a notice in an hour; the rest comes as one summary when the hour is over.
pub const MOST_AN_HOUR: i32 = 30;

/// Where a notice goes and what it is signed by, sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedAddress {
    /// Its data key.
    pub key: SealedKey,
    /// What is sealed by that.
    pub bytes: Vec<u8>,
}

/// Which ends of which builds are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// How they end.
    pub on: Vec<NoticeOn>,
    /// Of these hooks only; none: of all.
    pub hooks: Vec<String>,
    /// Of these refs only; none: of all.
    pub refs: Vec<RefPattern>,
}

pub(super) fn sealed_of(
    by: Option<String>,
    key: Option<Vec<u8>>,
    bytes: Option<Vec<u8>>,
) -> Option<SealedAddress> {
    Some(SealedAddress { key: SealedKey { by: by?, bytes: key? }, bytes: bytes? })
}

pub(super) fn rule_of(events: &[String], hooks: Vec<String>, refs: &[String]) -> Result<Rule> {
    let on = events.iter().map(|one| state(one)).collect::<Result<_>>()?;
    let refs = refs.iter().map(|one| state(one)).collect::<Result<_>>()?;
    Ok(Rule { on, hooks, refs })
}
