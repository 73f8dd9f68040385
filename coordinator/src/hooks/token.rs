//! The repository of a hook at its forge, as the hook's token reaches it, or the App whose key it has.

use std::sync::Arc;

use farm_hooks::Provider;
use farm_store::hooks::tokens::SealedToken;
use farm_types::{HookId, ProjectId};
use secrecy::SecretString;

use crate::forge::github::app::{App, Key};
use crate::forge::{Access, Named, Repository};
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
    let access = match &sealed.app {
        Some(app) => {
            let key = Key::parse(token).map_err(|_| Unopened::Forged)?;
            let (name, id, installation) = (app.name.clone(), app.id, app.installation);
            Access::App(Arc::new(App { name, id, installation, key }))
        }
        None => Access::Token(SecretString::from(token)),
    };
    Repository::of(named, access).ok_or(Unusable::NoApi(named.provider))
}
