//! What forges and registries deliver ([`deliver`]), and how it is taken ([`receive`]). It is kept before its sender hears so, and what
//! follows from it is done by whoever leads (`reconcile::hooks`), as is what the forge is told, by the hook's [`token`]; what forks propose
//! only once somebody has approved it ([`approving`]).
//!
//! Invariant: who isn't a hook's is told nothing, and can't tell by the time it takes whether there is one ([`nobody`]).

pub mod approving;
pub mod deliver;
pub mod nobody;
pub mod receive;
pub mod token;
