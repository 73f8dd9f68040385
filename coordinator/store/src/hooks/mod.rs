//! What forges and registries tell the farm: the hooks that are [`registered`], their [`secrets`] (sealed: this crate opens none), what
//! was delivered ([`deliveries`]), where refs were then ([`heads`]), and what was begun ([`builds`]).

pub mod builds;
pub mod deliveries;
pub mod heads;
pub mod registered;
pub mod secrets;
