//! TLS: the certificates by which this coordinator shows who it is, and the connections that begin with it.
//!
//! Without a certificate of one's own PKI in the configuration the farm has a CA of its own ([`authority`]), which all its
//! coordinators share with the state folder; each makes its own certificate with it, in memory only. What is shown is
//! looked at again every few seconds ([`held`]), and changes for new connections only. [`incoming`] makes connections of
//! what is accepted, encrypted or not. Workers show certificates of their own ([`clients`]), which another CA of the farm's makes.
//!
//! Invariant: nothing of a client is read before the handshake is over, and no client holds up another by beginning one.

mod authority;
mod clients;
mod held;
mod incoming;
mod refuse;
mod server;

pub use authority::{Authority, PublicPoint, Purpose};
pub use incoming::{Connection, Peer, incoming};
pub use server::{Side, Tls, of_peers};
