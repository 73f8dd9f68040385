//! What forges and registries send when something happens there: whether it is theirs ([`verify`]), and what it says
//! ([`parse`]); and how the farm signs what it sends itself ([`signed`]). Pure: no IO, no clock.
//!
//! Which of them sends is a property of the hook, never guessed from what comes. Who acts is the forge's account, never a
//! commit's author: of that anybody writes what they like. To add one: a word in [`Provider`], how its deliveries are signed in
//! `verify.rs`, and a file that reads them.

mod about;
mod checks;
mod delivery;
mod generic;
mod gitlab;
mod headers;
mod hub;
mod images;
mod outgoing;
mod parts;
mod ping;
mod provider;
mod read;
#[cfg(test)]
mod tests;
mod verify;

pub use about::{About, Expected, about};
pub use delivery::{
    Actor, Again, AgainCheck, Comment, Delivery, Happened, MovedImage, Outcome, Proposed, PullRequestState,
    Repository, Source,
};
pub use headers::Headers;
pub use outgoing::signed;
pub use ping::{Ping, ping};
pub use provider::Provider;
pub use read::{delivery_id, parse};
pub use verify::{MOST_SECRETS, NOBODYS_SECRET, Refused, check_secret, new_secret, verify};

/// The longest body that is taken, bytes: GitHub sends no longer one.
pub const MOST_BODY_BYTES: usize = 25 * 1024 * 1024;
