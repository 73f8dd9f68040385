//! What forges and registries tell the farm: the hooks that are [`registered`], their [`secrets`] (sealed: this crate opens none), what
//! was delivered ([`deliveries`]), and where refs were then ([`heads`]).

pub mod deliveries;
pub mod heads;
pub mod registered;
pub mod secrets;
