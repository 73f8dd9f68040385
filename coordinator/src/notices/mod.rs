//! Whom projects tell how their builds end: what is told of an end ([`facts`]), in which form ([`webhook`], [`chat`], [`mail`]), and
//! by which way ([`send`]; mail by [`smtp`]). When something is sent, and again, is the leader's loop (`reconcile::notices`).
//!
//! What is told has texts in it that anybody may have written who pushes to a repository: refs, steps, what programs print. Each form
//! sees to it that they stay texts.
//!
//! Invariant: where a notice goes, and what it is signed by, is in nothing that is told or logged. To add a kind: its word in
//! `farm_types::NoticeKind`, its form here, and its place in [`send::Senders::send`].

pub mod address;
pub mod chat;
pub mod facts;
pub mod mail;
pub mod post;
pub mod said;
pub mod send;
pub mod sent;
pub mod smtp;
pub mod webhook;
