//! Builds at the edge: submitting, listing, cancelling and retrying them, their records as the wire shows them, and what
//! they made for clients.

pub mod accept;
pub(super) mod agents;
mod given;
mod guarded;
pub(super) mod mounts;
pub mod outputs;
mod page;
mod retry;
mod secrets;
pub mod service;
mod signing;
