//! What the farm's database holds, in memory, and what is outside of it: workers, coordinators' memories, a registry.
//!
//! Each method that stands for a transaction of the store states the same premises and takes the same decisions, by the same
//! pure functions. What lies between two transactions (a message, a plan, a step of the publisher) is a value that waits
//! until the test takes it up: late, twice, out of order, or never.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use farm_core::life::attempt::{Said, StopReason};
use farm_types::state::{
    AttemptState, BuildState, DestinationState, ExecutionState, JobState, PublicationState, TagState,
};
use farm_types::{Failure, Platform, Support};

/// Seconds; the coordinator's defaults.
pub const LEASE: i64 = 25;
pub const LEADER_TTL: i64 = 2;
pub const OUTAGE: i64 = 3;
pub const REBOOT_GRACE: i64 = 3;
pub const STOP_WITHIN: i64 = 60;
pub const ATTEMPT_DEADLINE: i64 = 2 * 3600;
pub const QUEUE_DEADLINE: i64 = 24 * 3600;
pub const PUBLISH_DEADLINE: i64 = 3600;
/// What the registry was given it takes within this, or never.
pub const LONGEST_PUT: i64 = 60;

/// Which row of a table.
pub type Row = usize;

#[derive(Debug, Clone)]
pub struct Build {
    pub execution: Row,
    pub state: BuildState,
    pub order: i64,
    pub tag: Option<u8>,
    /// The build whose index it publishes: itself, unless it goes back to an older one, or shares its execution.
    pub image: Row,
    pub queue_deadline: i64,
    pub publish_deadline: i64,
    pub failure: Option<Failure>,
    pub publication: Option<Publication>,
}

#[derive(Debug, Clone)]
pub struct Publication {
    pub state: PublicationState,
    pub destination: DestinationState,
    pub tag: TagState,
}

#[derive(Debug, Clone)]
pub struct Execution {
    pub state: ExecutionState,
    pub jobs: Vec<Row>,
}

#[derive(Debug, Clone)]
pub struct Job {
    pub execution: Row,
    pub platform: Platform,
    pub state: JobState,
    pub required: bool,
    pub attempts: u32,
    pub lost: u32,
    pub killed: u32,
    pub given_back: u32,
    pub excluded: Vec<Row>,
    pub not_before: i64,
    pub ready_at: i64,
    /// The attempt whose result it has.
    pub result: Option<Row>,
    pub failure: Option<Failure>,
}

#[derive(Debug, Clone)]
pub struct Attempt {
    pub job: Row,
    pub worker: Row,
    pub boot: u32,
    pub state: AttemptState,
    pub stop: Option<StopReason>,
    pub stop_since: i64,
    pub lease_expires: i64,
    pub offered_at: i64,
    /// How often its end was written.
    pub ends: u32,
}

/// A worker: what the database knows, and what it is.
#[derive(Debug, Clone)]
pub struct Worker {
    pub slots: u32,
    pub used: u32,
    pub offers: Vec<(Platform, Support)>,
    pub connected: bool,
    pub last_seen: i64,
    pub known_boot: u32,
    pub booted_at: i64,
    /// The attempt that it did not stop.
    pub quarantine: Option<Row>,
    // From here on: the process.
    pub alive: bool,
    pub boot: u32,
    pub running: Vec<Row>,
    /// It does not do what it is told to.
    pub deaf: bool,
    /// Ends that are on its disk until they are acknowledged.
    pub spool: Vec<(Row, Said)>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Leader {
    pub holder: Option<Row>,
    pub epoch: i64,
    pub expires: i64,
    pub settling_until: i64,
    pub silent_since: i64,
}

/// A transaction that a coordinator has decided on and not made yet.
#[derive(Debug, Clone)]
pub enum Write {
    Lease { job: Row, worker: Row },
    Merge { build: Row },
}

/// A task of a publisher, between two of its steps.
#[derive(Debug, Clone)]
pub struct Task {
    pub coordinator: Row,
    pub epoch: i64,
    pub build: Row,
    pub step: Step,
    /// When it last claimed the tag.
    pub claimed_at: i64,
    /// The tag was as it should be when it was looked at.
    pub is_there: bool,
    /// Its put that is waited for.
    pub put: usize,
    /// The build that has the tag, of a later look at it; `build` is then the one that it ought to point to.
    pub looks_for: Option<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The index is put by its digest.
    Index,
    Look,
    Claim,
    /// The clock is looked at, then the put is sent.
    Check,
    Send,
    /// Until the put has landed.
    Sent,
    Note,
    Verify,
    /// It learnt that it leads no more after it had sent something.
    AskRecheck,
    // A later look at a tag: it is claimed and put back if an older one is there.
    LookAgain,
    ClaimBack,
    CheckBack,
    SendBack,
    SentBack,
    NoteLook {
        is_put: bool,
        again: bool,
    },
}

/// A put on its way to the registry.
#[derive(Debug, Clone, Copy)]
pub struct Put {
    pub number: usize,
    pub tag: u8,
    pub build: Row,
    pub sent: i64,
}

/// Who has a tag, by the database.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    pub order: i64,
    pub build: Row,
    pub epoch: i64,
    pub claimed_at: i64,
    /// The put that belongs to the claim is known to be over.
    pub closed: bool,
    pub recheck_at: Option<i64>,
    pub recheck_until: i64,
}

#[derive(Debug, Clone, Default)]
pub struct World {
    pub now: i64,
    pub builds: Vec<Build>,
    pub executions: Vec<Execution>,
    pub jobs: Vec<Job>,
    pub attempts: Vec<Attempt>,
    pub workers: Vec<Worker>,
    pub leader: Leader,
    /// The epochs in which they think they lead.
    pub coordinators: [Option<i64>; 2],
    /// Those that stand still: they renew nothing, and their tasks wait.
    pub stopped: [bool; 2],
    pub writes: Vec<(i64, Row, Write)>,
    pub tasks: Vec<Task>,
    pub puts: Vec<Put>,
    /// How many were ever sent.
    pub sent: usize,
    pub heads: BTreeMap<u8, Head>,
    /// What the registry answers: the build that has put what the tag points to. It shows that one's index, whoever else has the same.
    pub registry: BTreeMap<u8, Row>,
}

impl World {
    pub fn time(&self, at: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + at, 0).unwrap_or_default()
    }

    /// `begin_leading`: nothing of a leader whose time is over is written.
    pub fn leads(&self, epoch: i64) -> bool {
        self.leader.epoch == epoch && self.leader.expires > self.now
    }

    pub fn is_live(&self, attempt: Row) -> bool {
        matches!(self.attempts[attempt].state, AttemptState::Offered | AttemptState::Running)
    }

    pub fn live(&self) -> Vec<Row> {
        (0..self.attempts.len()).filter(|row| self.is_live(*row)).collect()
    }
}
