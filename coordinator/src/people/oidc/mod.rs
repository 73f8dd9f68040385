//! Callers who show a token of another system (OpenID Connect): a job of GitHub Actions or GitLab, or anything else whose
//! issuer publishes its keys. Nobody stores a secret for them.
//!
//! An admin of a project trusts something ([`trust::Rule`]): an issuer, and what its tokens have to say. A token is looked at in
//! this order: its form ([`jws`]), whether anybody here trusts its issuer, its signature by a key that the issuer publishes
//! ([`issuer`]), its times and whom it is for ([`claims`]), which rule of the project fits ([`trust`]), and whether it comes for
//! the first time ([`exchange`]). So a stranger learns nothing of a project before their token is known to be real, and
//! even then not whether there is such a project.
//!
//! What an issuer says goes out by [`fetch::Fetch`] only. To add an algorithm: a variant of [`jws::Algorithm`], and how a key of
//! it is read and verifies. To add a provider: a variant of [`trust::Provider`], with the ids that tell its things apart.

pub mod claims;
pub mod exchange;
pub mod fetch;
pub mod issuer;
pub mod jws;
pub mod refused;
pub mod trust;

use std::collections::BTreeMap;

use serde::Deserialize;

pub use exchange::{Exchange, Exchanged};
pub use refused::Refused;

use jws::Algorithm;

/// What is configured of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Whom tokens have to be made for, unless a trust says something else; `None`: this farm's address.
    pub audience: Option<String>,
    /// What is particular about an issuer, by its URL as tokens write it.
    pub issuers: BTreeMap<String, IssuerSettings>,
}

/// What is configured of one issuer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IssuerSettings {
    /// How it may sign.
    pub algorithms: Vec<Algorithm>,
    /// It has no TLS. Only on this machine.
    pub plain_http: bool,
}

impl Default for IssuerSettings {
    fn default() -> Self {
        Self { algorithms: Algorithm::ALL.to_vec(), plain_http: false }
    }
}
