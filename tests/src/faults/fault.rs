//! A fault: what is done to which part of the farm.

use std::fmt;

use super::rows::{Held, Row};
use super::trap::{How, Point};
use crate::line::Wrong;
use crate::network::Weather;

/// Which of the coordinators, as things are when the fault comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Leader,
    Other,
}

/// Whose link to Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    One(Role),
    Both,
}

/// How the door of the registry misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Answers 500.
    Errors,
    /// Answers 429.
    Busy,
    /// Holds each request up.
    Slow,
    /// Breaks answers off in the middle.
    Truncates,
    /// The registry does as it is told, and the answer is lost.
    LosesAnswers,
    /// Begins its answers and never ends them.
    Endless,
}

/// The three ways in which Postgres is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Nobody new is let in, and it ends when all have left: which a coordinator's connections don't by themselves.
    Smart,
    /// Sessions are rolled back and told.
    Fast,
    /// As a crash, but said.
    Immediate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    KillWorker(usize),
    PauseWorker(usize),
    KillCoordinator(Role),
    PauseCoordinator(Role),
    KillEngine(usize),
    PauseEngine(usize),
    KillPostgres,
    PausePostgres,
    /// An administrator's shutdown.
    ShutPostgres(Shutdown),
    /// At a step of a publish pass, the coordinator that is at it.
    AtStep(Point, How),
    KillRegistry,
    Registry(Trouble),
    /// Connections of a worker are cut, and new ones refused.
    CutLink(usize),
    /// Nothing comes through any more, in either direction, and nobody is told.
    FreezeLink(usize),
    /// Of the worker that has a network of its own.
    Network(Weather),
    /// What coordinators and Postgres say to each other.
    PostgresLink {
        wrong: Wrong,
        whose: Whose,
        /// The connections that were there stay dead when it is over, as after a router that has forgotten them;
        /// else what was sent meanwhile arrives late.
        forgets: bool,
    },
    /// Statements that come to this wait.
    HangStatement(Held),
    /// A row of a build's own, until it is put back.
    SpoilRow(Row),
    /// Whoever opens or reads a blob waits.
    HangBlobs,
}

impl Fault {
    /// What it is done to: which kind of part, and which of them.
    pub(super) fn place(self) -> (u8, usize) {
        match self {
            Fault::KillWorker(n) | Fault::PauseWorker(n) => (0, n),
            Fault::KillCoordinator(_) | Fault::PauseCoordinator(_) | Fault::AtStep(..) => (1, 0),
            Fault::KillEngine(n) | Fault::PauseEngine(n) => (2, n),
            Fault::KillPostgres | Fault::PausePostgres | Fault::ShutPostgres(_) => (3, 0),
            Fault::KillRegistry => (4, 0),
            Fault::Registry(_) => (5, 0),
            Fault::CutLink(n) | Fault::FreezeLink(n) => (6, n),
            Fault::Network(_) => (7, 0),
            Fault::PostgresLink { .. } => (8, 0),
            Fault::HangStatement(_) => (9, 0),
            Fault::SpoilRow(_) => (10, 0),
            Fault::HangBlobs => (11, 0),
        }
    }

    /// Its kind, for counting.
    pub fn kind(self) -> &'static str {
        match self {
            Fault::KillWorker(_) => "worker_kill",
            Fault::PauseWorker(_) => "worker_pause",
            Fault::KillCoordinator(_) => "coordinator_kill",
            Fault::PauseCoordinator(_) => "coordinator_pause",
            Fault::KillEngine(_) => "engine_kill",
            Fault::PauseEngine(_) => "engine_pause",
            Fault::KillPostgres => "postgres_kill",
            Fault::PausePostgres => "postgres_pause",
            Fault::ShutPostgres(Shutdown::Smart) => "postgres_smart",
            Fault::ShutPostgres(Shutdown::Fast) => "postgres_fast",
            Fault::ShutPostgres(Shutdown::Immediate) => "postgres_immediate",
            Fault::AtStep(_, How::Kill) => "step_kill",
            Fault::AtStep(_, How::Stop) => "step_stop",
            Fault::KillRegistry => "registry_kill",
            Fault::Registry(Trouble::Errors) => "registry_500",
            Fault::Registry(Trouble::Busy) => "registry_429",
            Fault::Registry(Trouble::Slow) => "registry_slow",
            Fault::Registry(Trouble::Truncates) => "registry_truncated",
            Fault::Registry(Trouble::LosesAnswers) => "registry_answer_lost",
            Fault::CutLink(_) => "link_cut",
            Fault::FreezeLink(_) => "link_frozen",
            Fault::Network(Weather::Lossy) => "network_lossy",
            Fault::Network(Weather::HalfOpen) => "network_half_open",
            Fault::Network(Weather::Down) => "network_down",
            Fault::Network(Weather::Silent | Weather::Fair) => "network_silent",
            Fault::PostgresLink { wrong: Wrong::Silent, .. } => "postgres_link_silent",
            Fault::PostgresLink { wrong: Wrong::HalfOpen(_), .. } => "postgres_link_half_open",
            Fault::PostgresLink { wrong: Wrong::Slow, .. } => "postgres_link_slow",
            Fault::HangStatement(_) => "statement_hang",
            Fault::SpoilRow(_) => "row_unreadable",
            Fault::HangBlobs => "blob_hang",
            Fault::Registry(Trouble::Endless) => "registry_endless",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::KillWorker(n)
            | Fault::PauseWorker(n)
            | Fault::KillEngine(n)
            | Fault::PauseEngine(n)
            | Fault::CutLink(n)
            | Fault::FreezeLink(n) => write!(out, "{} {n}", self.kind()),
            Fault::KillCoordinator(role) | Fault::PauseCoordinator(role) => {
                write!(out, "{} {role:?}", self.kind())
            }
            Fault::AtStep(point, _) => write!(out, "{} {point}", self.kind()),
            Fault::PostgresLink { wrong, whose, forgets } => {
                let then = if *forgets { ", forgets" } else { "" };
                write!(out, "{} {wrong:?} {whose:?}{then}", self.kind())
            }
            Fault::HangStatement(held) => write!(out, "{} {held:?}", self.kind()),
            Fault::SpoilRow(row) => write!(out, "{} {row:?}", self.kind()),
            _ => out.write_str(self.kind()),
        }
    }
}
