//! The repository of a hook at its forge, as the hook's token reaches it.

use farm_hooks::Provider;
use farm_store::hooks::tokens::SealedToken;
use farm_types::{HookId, ProjectId};
use secrecy::SecretString;

use crate::forge::{Named, Repository};
use crate::seal::{Owner, Unopened};
use crate::shared::Shared;

/// Why a hook's forge can't be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The token can't be opened.
    #[error("the hook's token can't be opened: {0}; give it another: farm hook token HOOK")]
    Sealed(#[from] Unopened),
    /// There is nothing that could be asked.
    #[error("of {0} no API is known")]
    NoApi(Provider),
}

/// The repository that a hook is for, with the hook's token.
///
/// # Errors
/// The token can't be opened, or there is no API.
pub fn repository(
    shared: &Shared,
    (project, hook): (ProjectId, HookId),
    named: Named<'_>,
    sealed: &SealedToken,
) -> Result<Repository, Unusable> {
    let key = shared.keyring.open(Owner::Token(project, hook, sealed.version), &sealed.key)?;
    let token = key.open_one(&sealed.bytes)?;
    let token = std::str::from_utf8(&token).map_err(|_| Unopened::Forged)?;
    Repository::of(named, SecretString::from(token)).ok_or(Unusable::NoApi(named.provider))
}
