//! How farm's parts call a coordinator: the connections, who the caller is, and moving on when a coordinator fails.
//!
//! The command line, the workers and the coordinators among each other call through this crate, so all of them notice a
//! dead peer after the same time, trust the same certificates, and none prints its token. It knows none of the services;
//! those are in `farm-proto`.

mod bearer;
mod channel;
mod endpoints;

pub use bearer::{Bearer, BearerError, PROJECT};
pub use channel::{endpoint, wide};
pub use endpoints::Endpoints;
