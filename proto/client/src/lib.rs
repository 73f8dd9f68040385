//! How farm's parts call a coordinator: the connections, whom they trust, who the caller is, and moving on when a
//! coordinator fails.
//!
//! The command line, the workers and the coordinators among each other call through this crate, so all of them notice a
//! dead peer after the same time, trust by the same rules, tell alike why they don't, and none prints its token or shows it
//! to whoever is between. It knows none of the services; those are in `farm-proto`.

mod bearer;
mod busy;
mod channel;
mod dial;
mod endpoints;
mod failure;
mod identity;
mod look;
mod trust;

pub use bearer::{Bearer, BearerError, PROJECT};
pub use busy::{PUSHBACK, Returns, busy, come_back, is_connection};
pub use channel::{EndpointError, Plaintext, Security, endpoint, is_loopback, wide};
pub use dial::{DialError, Stream, dial, dial_at};
pub use endpoints::Endpoints;
pub use failure::TlsFailure;
pub use identity::{Identity, IdentityError};
pub use look::{LookError, Shown, look};
pub use trust::{Authorities, Fingerprint, NoFingerprint, Trust, TrustError, key_to_pem, to_pem};
