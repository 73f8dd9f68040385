//! What a coordinator's handlers and loops share: its configuration, the database, the workers connected here.

use std::sync::Arc;

use farm_client::Security;
use farm_store::Store;
use tokio::sync::watch;
use uuid::Uuid;

use crate::agents::Agents;
use crate::blobs::Blobs;
use crate::config::Config;
use crate::forge::Forges;
use crate::hints::Hints;
use crate::hooks::nobody::Nobody;
use crate::limits::Doors;
use crate::link::Link;
use crate::notices::send::Senders;
use crate::others::Others;
use crate::people::accesses::Accesses;
use crate::people::identities::Identities;
use crate::people::local::Secret;
use crate::people::oidc::Exchange;
use crate::people::sign_in::SignIns;
use crate::registry::Registries;
use crate::registry::helpers::Helpers;
use crate::seal::Keyring;
use crate::tls::Tls;

/// One for each process, behind an `Arc`.
#[derive(Debug)]
pub struct Shared {
    /// This coordinator: another id after each start.
    pub id: Uuid,
    /// What tells the machine that it runs on from all others; `None` where that can't be known.
    pub machine: Option<String>,
    pub config: Config,
    pub store: Store,
    /// The same, by connections of their own: for the leader's loops.
    pub loops: Store,
    /// Whether the database answered when it was last asked.
    pub is_answered: watch::Sender<bool>,
    /// The bytes of snapshots, sealed logs and outputs.
    pub blobs: Blobs,
    /// Tells callers by what they show.
    pub identities: Arc<Identities>,
    /// How much callers may take.
    pub doors: Arc<Doors>,
    /// What projects may do at registries, and by which logins.
    pub accesses: Accesses,
    /// The programs that give short-lived logins at registries.
    pub helpers: Arc<Helpers>,
    /// Asks the forges of hooks.
    pub forges: Forges,
    /// Tells those who want to know how builds end.
    pub notices: Senders,
    /// Takes tokens of other systems' issuers.
    pub exchange: Exchange,
    /// Lets people in by their company's issuer; `None`: nobody signs in here.
    pub sign_in: Option<SignIns>,
    /// With what this coordinator calls the others.
    pub secret: Secret,
    /// What connections to the others have to be.
    pub peers: Security,
    /// This coordinator's side of TLS; `None`: it speaks without.
    pub tls: Option<Arc<Tls>>,
    /// The farm's keys, by which secrets are sealed.
    pub keyring: Arc<Keyring>,
    /// In the place of a hook that there isn't.
    pub nobody: Nobody,
    /// Wakes the loops and followers that a change concerns.
    pub hints: Arc<Hints>,
    /// The workers connected here.
    pub link: Link,
    /// The agents of ssh that are offered here.
    pub agents: Agents,
    /// The other coordinators, to be asked.
    pub others: Others,
    /// The registries of the configuration, with their credentials.
    /// The registries, with the credentials of the configuration.
    pub registries: Registries,
}
