//! In the place of a hook that there isn't: a secret that is nobody's, sealed as hooks' are, so that opening it takes as long.

use farm_hooks::NOBODYS_SECRET;
use farm_store::hooks::secrets::SealedSecret;
use farm_types::{HookId, ProjectId};
use uuid::Uuid;

use crate::seal::{Keyring, Owner};

/// A hook that is nobody's.
#[derive(Debug)]
pub struct Nobody {
    pub project: ProjectId,
    pub hook: HookId,
    pub secret: SealedSecret,
}

impl Nobody {
    /// Another one in each life of a coordinator.
    pub fn new(keyring: &Keyring) -> Self {
        let (project, hook, id) = (ProjectId::generate(), HookId::generate(), Uuid::new_v4());
        let (key, sealed) = keyring.new_data_key(Owner::Hook(project, hook, id));
        let bytes = key.seal_one(NOBODYS_SECRET.as_bytes());
        Self { project, hook, secret: SealedSecret { id, key: sealed, bytes } }
    }
}
