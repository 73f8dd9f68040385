//! A worker that has joined a farm: what it keeps of that in its state folder, and how it stays in.
//!
//! [`join`] is the command by which a join token becomes a certificate, for the key that [`pending`] keeps until then; [`files`]
//! keeps that, [`age`] reckons when another one is due, and [`renewal`] gets it. A worker that shows a token instead has nothing of all this.
//!
//! Invariant: the key of a certificate is made here and never leaves the folder, which nobody else may read.

pub mod age;
pub mod files;
pub mod join;
pub mod key;
pub mod pending;
pub mod renewal;
