//! Who uses the farm: oneself and tokens ([`tokens`]), how people sign in ([`sign_in`]), projects and their members ([`projects`]),
//! what these trust ([`trusts`]), which secrets they keep ([`secrets`]), by what they sign ([`signing_keys`]) and how they log in at registries ([`logins`]) and for git
//! ([`git_logins`]), and
//! what was done ([`audit`]).

mod audit;
mod git_logins;
mod logins;
mod projects;
mod secrets;
mod settings;
mod sign_in;
mod signing_keys;
mod tokens;
mod trusts;

pub use audit::Audit;
pub use git_logins::GitLogins;
pub use logins::RegistryLogins;
pub use projects::Projects;
pub use secrets::Secrets;
pub use sign_in::SignIn;
pub use signing_keys::SigningKeys;
pub use tokens::People;
pub use trusts::Trusts;

use chrono::{DateTime, Utc};

/// Milliseconds since the epoch, as the wire has times.
fn millis(at: DateTime<Utc>) -> i64 {
    at.timestamp_millis()
}

/// The same; 0: there is none.
fn millis_of(at: Option<DateTime<Utc>>) -> i64 {
    at.map_or(0, millis)
}
