//! The premises of writes, as types: what a transaction must hold before it may write.
//!
//! | type | what it proves, until the transaction's end |
//! |---|---|
//! | [`LeaderTx`] | this coordinator leads, and whoever takes over waits |
//! | [`LockedExecution`] | nobody else moves the states of the execution, its jobs and attempts, nor those of its builds before they are built |
//! | [`LockedPublication`] | this coordinator leads, and nobody else settles the publication's destinations and tags |
//!
//! Each is made only by the statement that takes the lock ([`Store::begin_leading`](crate::Store), `tx.lock_execution`,
//! `tx.lock_publication`), or by drawing an id that nobody else can know ([`LockedExecution::newborn`]). A function that writes
//! under a lock asks for it by its type (`execution: &mut LockedExecution<'_>`), runs its queries on it, as on a transaction,
//! and has the ids from it. So it can't be called without the lock, nor with the ids of something else, and the transaction
//! can't be committed while the proof is still needed.
//!
//! Invariant: a state of an execution, job or attempt is written on a [`LockedExecution`]; one of a build, publication,
//! destination or tag on any of the three. SQL is text, so the compiler doesn't see that; `rules` reads it off the sources.
//! A lock doesn't replace the premise in `WHERE`: it keeps true what was read before.
//!
//! Order, here as everywhere: the leader's epoch, execution, publication, builds, jobs, workers, attempts, engines. Workers and
//! attempts, many at once, by their ids.
//!
//! To add a proof: a type in a file of its own that borrows the transaction, with private fields, made where the lock is taken;
//! its name in `rules`, if a state may be written under it.

mod execution;
mod leader;
mod publication;
#[cfg(test)]
mod rules;

pub(crate) use execution::LockedExecution;
pub(crate) use leader::LeaderTx;
pub(crate) use publication::LockedPublication;
