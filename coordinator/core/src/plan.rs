//! The scheduler: which waiting job goes to which worker now, and what the others wait for.
//!
//! [`plan`] proposes and has no effect; the store carries a proposal out only where its premise still
//! holds. Its cost follows the heads of the queues and the workers it is given, never the queues' length.
//!
//! Order: projects by the share of slots that they hold, then jobs by virtual time. Worker: native before
//! emulated; not one that failed the job while there is another; the freest engine; then the worker's id. One that is on
//! probation only when no other can come into question, and then not at once.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use farm_types::{Emulation, EngineId, JobId, Offer, Platform, ProjectId, Support, WorkerId};

use crate::aside::Aside;

/// The numbers of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A worker that was silent for so long gets no new job.
    pub suspect_after: TimeDelta,
    /// A platform counts as natively served until so long after its last native worker's last heartbeat.
    pub native_grace: TimeDelta,
    /// A job that nobody but workers on probation could run waits for so long before it is given to one after all.
    pub probation_patience: TimeDelta,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            suspect_after: TimeDelta::seconds(12),
            native_grace: TimeDelta::seconds(30),
            probation_patience: TimeDelta::seconds(60),
        }
    }
}

/// A job at the head of its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingJob {
    /// Which job.
    pub job: JobId,
    /// Whose.
    pub project: ProjectId,
    /// What it is built for.
    pub platform: Platform,
    /// When it may be emulated.
    pub emulation: Emulation,
    /// Slots that it takes.
    pub weight: u32,
    /// Its place: the smaller goes first.
    pub virtual_time: DateTime<Utc>,
    /// Since when it waits for a worker.
    pub ready_at: DateTime<Utc>,
    /// It may not start before this.
    pub not_before: DateTime<Utc>,
    /// Workers that failed it.
    pub excluded: Vec<WorkerId>,
}

/// A worker as the farm knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    /// Which worker.
    pub id: WorkerId,
    /// Its engine, which has the slots.
    pub engine: EngineId,
    /// What it runs.
    pub offers: Vec<Offer>,
    /// When it last gave a sign.
    pub last_seen: DateTime<Utc>,
    /// A coordinator holds its control stream.
    pub connected: bool,
    /// It takes no new job.
    pub draining: bool,
    /// It failed several jobs for reasons of its own, and has not shown since that it can build.
    pub on_probation: bool,
}

/// The slots of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// How many there are.
    pub total: u32,
    /// How many are taken.
    pub used: u32,
}

/// All that a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The heads of all queues.
    pub waiting: Vec<WaitingJob>,
    /// All workers that were not removed.
    pub workers: Vec<WorkerView>,
    /// Their engines.
    pub engines: HashMap<EngineId, Slots>,
    /// Per project: the slots that its running attempts hold, divided by its weight.
    pub shares: HashMap<ProjectId, f64>,
    /// Workers that get no ordinary jobs: for the words only.
    pub aside: Vec<Aside>,
    /// While set and in the future: the farm was out, so a worker's silence means nothing yet; a native
    /// worker that was seen after `silent_since` counts as there.
    pub settling: Option<Settling>,
}

/// The time after an outage of all coordinators, in which nobody's silence is held against them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settling {
    /// When the outage began.
    pub silent_since: DateTime<Utc>,
    /// When silence counts again.
    pub until: DateTime<Utc>,
}

/// What is proposed for one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Lease it to this worker.
    Assign {
        /// The job.
        job: JobId,
        /// Who runs it.
        worker: WorkerId,
        /// On whose slots.
        engine: EngineId,
        /// How the worker supports the platform.
        support: Support,
        /// Why the platform is emulated, in words; empty when it isn't.
        reason: String,
    },
    /// Leave it where it is.
    Hold {
        /// The job.
        job: JobId,
        /// Look again then at the latest, if only time can change it.
        until: Option<DateTime<Utc>>,
        /// What it waits for.
        why: Waiting,
    },
}

/// What a job waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// Its turn to be tried again.
    Backoff,
    /// All slots of the workers that could run it are taken.
    Slots {
        /// What runs it there.
        support: Support,
        /// Taken slots.
        used: u32,
        /// All slots.
        total: u32,
    },
    /// Nobody offers the platform in a way that its policy allows.
    NoWorker {
        /// The platform.
        platform: Platform,
        /// An emulating worker is there, but the policy doesn't allow it (yet).
        emulated_refused: bool,
    },
    /// Its native workers are silent; they may come back.
    Silent {
        /// The platform.
        platform: Platform,
    },
    /// All who could run it are on probation.
    Probation {
        /// The platform.
        platform: Platform,
    },
}

impl Waiting {
    /// The reason in words, for the job's owner.
    pub fn words(&self) -> String {
        match self {
            Self::Backoff => "a moment before it is tried again".to_owned(),
            Self::Slots { support, used, total } => {
                format!("all {support} {SLOTS_WORDS} ({used} of {total})")
            }
            Self::NoWorker { platform, emulated_refused: false } => {
                format!(
                    "no worker for {platform} takes jobs now: see `farm workers`, or start one with `farm-worker`"
                )
            }
            Self::NoWorker { platform, emulated_refused: true } => {
                format!(
                    "no native worker for {platform} is connected, and the policy does not allow emulation"
                )
            }
            Self::Silent { platform } => {
                format!("the native workers for {platform}, silent for a moment, to come back")
            }
            Self::Probation { platform } => {
                format!("a trial build for {platform} to succeed: all workers for it are on probation")
            }
        }
    }
}

/// What the words of a job that waits for nothing but a slot have in them: such a job has a place in the queue.
pub const SLOTS_WORDS: &str = "slots are in use";

/// What may run a job at one moment, by its policy.
struct Choice {
    support: Support,
    reason: String,
    worker: WorkerId,
    engine: EngineId,
}

/// Proposes what to do with every waiting job at `now`.
pub fn plan(state: &State, limits: Limits, now: DateTime<Utc>) -> Vec<Decision> {
    let mut slots: BTreeMap<EngineId, Slots> = state.engines.iter().map(|(&id, &s)| (id, s)).collect();
    let mut shares = state.shares.clone();
    let mut waiting: Vec<&WaitingJob> = state.waiting.iter().collect();
    waiting.sort_by_key(|job| (job.virtual_time, job.job));
    let mut decisions = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        // The next job: the oldest of the project that holds the least.
        let share = |job: &WaitingJob| shares.get(&job.project).copied().unwrap_or(0.0);
        let next = waiting
            .iter()
            .enumerate()
            .min_by(|(i, a), (j, b)| share(a).total_cmp(&share(b)).then(i.cmp(j)))
            .map_or(0, |(i, _)| i);
        let job = waiting.remove(next);
        decisions.push(match choose(job, state, &slots, limits, now) {
            Ok(choice) => {
                if let Some(engine) = slots.get_mut(&choice.engine) {
                    engine.used += job.weight;
                }
                *shares.entry(job.project).or_default() += f64::from(job.weight);
                Decision::Assign {
                    job: job.job,
                    worker: choice.worker,
                    engine: choice.engine,
                    support: choice.support,
                    reason: choice.reason,
                }
            }
            Err((until, why)) => Decision::Hold { job: job.job, until, why },
        });
    }
    decisions
}

fn choose(
    job: &WaitingJob,
    state: &State,
    slots: &BTreeMap<EngineId, Slots>,
    limits: Limits,
    now: DateTime<Utc>,
) -> Result<Choice, (Option<DateTime<Utc>>, Waiting)> {
    if job.not_before > now {
        return Err((Some(job.not_before), Waiting::Backoff));
    }
    let settling = state.settling.filter(|settling| settling.until > now);
    let offers = |support: Support| {
        state.workers.iter().filter(move |worker| {
            !worker.draining
                && worker.offers.iter().any(|o| o.platform == job.platform && o.support == support)
        })
    };
    // A native worker counts as there for a while after its last sign.
    let native_until = offers(Support::Native)
        .map(|worker| match settling {
            Some(settling) if worker.last_seen + limits.native_grace >= settling.silent_since => {
                settling.until
            }
            _ => worker.last_seen + limits.native_grace,
        })
        .max();
    let native_served = native_until.is_some_and(|until| until > now);
    let waited_enough = match job.emulation {
        Emulation::FallbackAfter(wait) => {
            TimeDelta::from_std(wait).is_ok_and(|wait| now >= job.ready_at + wait)
        }
        _ => false,
    };
    let may_emulate = match job.emulation {
        Emulation::Never => false,
        Emulation::Fallback | Emulation::FallbackAfter(_) => !native_served || waited_enough,
        Emulation::Allow => true,
    };
    let alive = |worker: &&WorkerView| worker.connected && worker.last_seen + limits.suspect_after > now;
    let allowed: Vec<Support> = [Support::Native, Support::Emulated]
        .into_iter()
        .filter(|support| *support == Support::Native || may_emulate)
        .collect();
    let on_probation =
        allowed.iter().any(|support| offers(*support).filter(alive).any(|worker| worker.on_probation));
    let patience_ends = job.ready_at + limits.probation_patience;
    let mut full: Option<(Support, u32, u32)> = None;
    // Those on probation come into question when there is no other, and the job has waited for their trial builds.
    for sick in [false, true] {
        if sick && (full.is_some() || now < patience_ends) {
            break;
        }
        for &support in &allowed {
            let candidates: Vec<&WorkerView> =
                offers(support).filter(alive).filter(|worker| worker.on_probation == sick).collect();
            let spared: Vec<&WorkerView> =
                candidates.iter().copied().filter(|w| !job.excluded.contains(&w.id)).collect();
            let candidates = if spared.is_empty() { candidates } else { spared };
            let mut engines: Vec<EngineId> = candidates.iter().map(|worker| worker.engine).collect();
            engines.sort();
            engines.dedup();
            let free = |engine: EngineId| slots.get(&engine).map_or(0, |s| s.total.saturating_sub(s.used));
            let best = candidates
                .iter()
                .filter(|worker| free(worker.engine) >= job.weight)
                .min_by_key(|worker| (std::cmp::Reverse(free(worker.engine)), worker.id));
            if let Some(worker) = best {
                let reason = match support {
                    Support::Native => String::new(),
                    Support::Emulated => why_emulated(job, native_served),
                };
                return Ok(Choice { support, reason, worker: worker.id, engine: worker.engine });
            }
            if !engines.is_empty() && full.is_none() {
                let sum = |of: fn(&Slots) -> u32| engines.iter().filter_map(|e| slots.get(e)).map(of).sum();
                full = Some((support, sum(|s| s.used), sum(|s| s.total)));
            }
        }
    }
    let emulated_there = offers(Support::Emulated).any(|worker| alive(&worker));
    let unlocks = match job.emulation {
        Emulation::FallbackAfter(wait) if !waited_enough => {
            let waited = TimeDelta::from_std(wait).ok().map(|wait| job.ready_at + wait);
            waited.into_iter().chain(native_until.filter(|_| native_served)).min()
        }
        Emulation::Fallback => native_until.filter(|_| native_served),
        _ => None,
    };
    Err(match full {
        Some((support, used, total)) => (unlocks, Waiting::Slots { support, used, total }),
        None if on_probation => (
            unlocks.into_iter().chain([patience_ends]).min(),
            Waiting::Probation { platform: job.platform.clone() },
        ),
        None if native_served => (unlocks, Waiting::Silent { platform: job.platform.clone() }),
        None => (
            unlocks,
            Waiting::NoWorker {
                platform: job.platform.clone(),
                emulated_refused: emulated_there && !may_emulate,
            },
        ),
    })
}

/// Why a job is emulated, for the record.
fn why_emulated(job: &WaitingJob, native_served: bool) -> String {
    let (platform, policy) = (&job.platform, job.emulation);
    if native_served {
        format!("no native {platform} worker had a free slot; policy {policy}")
    } else {
        format!("no native {platform} worker is connected; policy {policy}")
    }
}

#[cfg(test)]
mod tests;
