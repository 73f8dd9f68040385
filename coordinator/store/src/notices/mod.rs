//! Whom projects tell how their builds end ([`registered`]), what has ended and wasn't looked at ([`ended`]), what of that is told one by
//! one ([`hour`]), and what is on its way ([`outbox`]).
//!
//! Nothing is lost: what has ended is written down by the database in the very transaction in which it ends (the triggers of
//! `0057_notices.sql`), and goes from there in the one that makes messages of it.

pub mod ended;
pub mod hour;
pub mod outbox;
pub mod registered;
pub mod rule;
