//! What farm decides, without doing it: pure and synchronous.
//!
//! Everything here is a function of its arguments, time included. No async, no IO, no database, so that
//! each decision can be tested by properties and replayed. The coordinator gathers the state, asks here,
//! and writes the answer with its premise in `WHERE`.
//!
//! Rooms by what is decided, with the names that the other layers have for it: [`builds`], [`work`], [`publish`],
//! [`machines`], [`hooks`], [`people`] and [`audit`]; [`life`] has the legal transitions of all.

pub mod audit;
pub mod builds;
pub mod hooks;
pub mod life;
pub mod machines;
pub mod people;
pub mod publish;
pub mod work;
