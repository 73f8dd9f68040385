//! The scheduler: which waiting job goes to which worker now, and what the others wait for.
//!
//! [`plan`] proposes and has no effect; the store carries a proposal out only where its premise still
//! holds. Its cost follows the heads of the queues and the workers it is given, never the queues' length.
//!
//! Order: projects by the share of slots that they hold, then jobs by virtual time. Worker: native before
//! emulated; not one that failed the job while there is another; the freest engine, of equally free ones the one whose last
//! lease is longest ago; then the worker's id. One that is on probation only when no other can come into question, and then
//! not at once. A job of which it is known that no lease will be given takes no slot and no place; so does one whose project
//! holds all that it may.
//!
//! A job that runs no program of its platform ([`Runs`]) goes to any worker, to one that offers the platform natively before
//! others; if it runs programs of the engine's own platform, which that may be taken from, it is as particular about that as
//! its policy is about emulation.
//!
//! A job that asks for entitlements goes to workers that may grant them all, and only while its project may ask for them.

mod able;

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use farm_types::state::WorkerState;
use farm_types::{
    Emulation, EngineId, Entitlements, FETCHES_AT_ONCE, JobId, Offer, Platform, ProjectId, RunMode, Runs,
    Support, TrustClass, WorkerId,
};

use self::able::{Able, able};
use crate::machines::state::is_silent;
use crate::work::aside::{Aside, set_aside};
use crate::work::waiting::{Waiting, Wanted};

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
    pub job: JobId,
    /// The project in whose share of the slots it runs.
    pub project: ProjectId,
    /// The platform that it is built for.
    pub platform: Platform,
    /// Whose programs run in it.
    pub runs: Runs,
    /// When it may be emulated.
    pub emulation: Emulation,
    /// How many slots of an engine it takes.
    pub weight: u32,
    /// Its place: the smaller goes first.
    pub virtual_time: DateTime<Utc>,
    /// Since when it waits for a worker.
    pub ready_at: DateTime<Utc>,
    /// It may not start before this.
    pub not_before: DateTime<Utc>,
    /// Workers that failed it: others go first.
    pub excluded: Vec<WorkerId>,
    /// Where it pushes to is being cleaned until then: nobody gets it before, unless the cleaning ends earlier.
    pub cleaned_until: Option<DateTime<Utc>>,
    /// It pushes somewhere, for which it is lent logins: only to machines that are trusted, or what it pushes is staged.
    pub pushes: bool,
    /// It moves a protected tag: only to machines that are trusted.
    pub protected: bool,
    /// A fork proposes it: only to machines that aren't trusted.
    pub proposed: bool,
    /// Its steps mount secrets or ssh keys, which go to machines that are trusted only.
    pub mounts: bool,
    /// What its steps may be given that ask for it.
    pub entitlements: Entitlements,
    /// It fetches a source and builds nothing, by whatever platform: only on machines that are trusted and have git. It takes no slot.
    pub fetches: bool,
    /// What it fetches is an archive, for which a worker has to know of them and needs no git.
    pub archive: bool,
    /// What it pushes has to pass a gate.
    pub gated: bool,
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
    /// When it last gave a sign, or since when it gets nothing.
    pub last_seen: DateTime<Utc>,
    /// Whether it takes jobs. One that is draining by its own word doesn't count as there, not even for a while.
    pub state: WorkerState,
    /// It takes jobs for platforms that it doesn't offer, if they run no program of them.
    pub takes_unneeded: bool,
    /// It serves secrets and ssh keys to its engine.
    pub takes_mounts: bool,
    /// How far its machine is trusted.
    pub trust: TrustClass,
    /// What it pushes can go to a staging registry.
    pub stages: bool,
    /// What isn't trusted may run on its engine.
    pub engine_is_fit: bool,
    /// What it may grant; of a machine that isn't trusted nothing counts.
    pub grants: Entitlements,
    /// It has git.
    pub has_git: bool,
    /// It fetches archives.
    pub takes_archives: bool,
    /// It runs gates.
    pub runs_gates: bool,
    /// So many fetches it runs.
    pub fetching: u32,
}

/// The slots of an engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slots {
    /// How many slots the engine has, for all its workers together.
    pub total: u32,
    /// How many of them are taken.
    pub used: u32,
    /// When some were last taken; never, on a new engine.
    pub leased_at: Option<DateTime<Utc>>,
}

/// What a project holds of the farm's slots, and what it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The slots that its attempts hold.
    pub held: u32,
    /// How much is its beside what others get.
    pub weight: u32,
    /// It holds no more; `None`: as many as there are.
    pub most: Option<u32>,
    /// What its builds may ask for.
    pub allowed: Entitlements,
}

impl Default for Share {
    fn default() -> Self {
        Self { held: 0, weight: 1, most: None, allowed: Entitlements::new() }
    }
}

impl Share {
    /// What it holds, by its weight.
    fn part(&self) -> f64 {
        f64::from(self.held) / f64::from(self.weight.max(1))
    }

    /// The most that it may hold, if a job of this weight would be more.
    fn is_reached_by(&self, weight: u32) -> Option<u32> {
        self.most.filter(|most| self.held.saturating_add(weight) > *most)
    }
}

/// All that a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// At most so many jobs of each queue as the store was asked for, the oldest first.
    pub waiting: Vec<WaitingJob>,
    /// Jobs of which the record can't be read: they wait for somebody who mends it, and hold up nobody.
    pub unreadable: Vec<JobId>,
    /// All workers that were not removed.
    pub workers: Vec<WorkerView>,
    /// The engines of these workers, with their slots.
    pub engines: HashMap<EngineId, Slots>,
    /// What the projects of these jobs hold and may.
    pub shares: HashMap<ProjectId, Share>,
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
        job: JobId,
        /// The worker that is to run it.
        worker: WorkerId,
        /// The engine whose slots it takes: the worker's.
        engine: EngineId,
        /// How the worker runs the programs.
        support: RunMode,
        /// Why it isn't native, in words; empty when it is.
        reason: String,
    },
    /// Leave it in the queue.
    Hold {
        job: JobId,
        /// Look again then at the latest, if only time can change it.
        until: Option<DateTime<Utc>>,
        /// What it waits for.
        why: Waiting,
    },
}

/// What may run a job at one moment, by its policy.
struct Choice {
    support: RunMode,
    reason: String,
    worker: WorkerId,
    engine: EngineId,
}

/// What of the machines is taken, also by the plan that is being made.
struct Taken<'a> {
    slots: &'a BTreeMap<EngineId, Slots>,
    /// Who got something in this plan, and when.
    turns: &'a BTreeMap<EngineId, usize>,
    /// How many fetches the workers run.
    fetching: &'a BTreeMap<WorkerId, u32>,
}

impl Taken<'_> {
    /// How much of this worker is free for the job, in slots or fetches.
    fn free(&self, job: &WaitingJob, worker: &WorkerView) -> u32 {
        if job.fetches {
            let running = self.fetching.get(&worker.id).copied().unwrap_or_default();
            return FETCHES_AT_ONCE.saturating_sub(running);
        }
        self.slots.get(&worker.engine).map_or(0, |slots| slots.total.saturating_sub(slots.used))
    }

    /// What of these workers is taken for jobs of this kind, and how much there is.
    fn sums(&self, job: &WaitingJob, candidates: &[&Able<'_>], engines: &[EngineId]) -> (u32, u32) {
        if job.fetches {
            let running = candidates.iter().filter_map(|able| self.fetching.get(&able.worker.id)).sum();
            let count = u32::try_from(candidates.len()).unwrap_or(u32::MAX);
            return (running, count.saturating_mul(FETCHES_AT_ONCE));
        }
        let sum = |of: fn(&Slots) -> u32| engines.iter().filter_map(|e| self.slots.get(e)).map(of).sum();
        (sum(|s| s.used), sum(|s| s.total))
    }
}

/// Proposes what to do with every waiting job at `now`.
pub fn plan(state: &State, limits: Limits, now: DateTime<Utc>) -> Vec<Decision> {
    let mut slots: BTreeMap<EngineId, Slots> = state.engines.iter().map(|(&id, &s)| (id, s)).collect();
    let mut shares = state.shares.clone();
    let mut waiting: Vec<&WaitingJob> = state.waiting.iter().collect();
    waiting.sort_by_key(|job| (job.virtual_time, job.job));
    let mut decisions = Vec::with_capacity(waiting.len());
    // Who got something in this very plan comes after all whose last lease is older, in the order of this plan.
    let mut turns: BTreeMap<EngineId, usize> = BTreeMap::new();
    let mut fetching: BTreeMap<WorkerId, u32> = state.workers.iter().map(|w| (w.id, w.fetching)).collect();
    while !waiting.is_empty() {
        // The next job: the oldest of the project that holds the least.
        let usual = Share::default();
        let share = |job: &WaitingJob| shares.get(&job.project).unwrap_or(&usual);
        let next = waiting
            .iter()
            .enumerate()
            .min_by(|(i, a), (j, b)| share(a).part().total_cmp(&share(b).part()).then(i.cmp(j)))
            .map_or(0, |(i, _)| i);
        let job = waiting.remove(next);
        let taken = Taken { slots: &slots, turns: &turns, fetching: &fetching };
        decisions.push(match choose(job, share(job), state, &taken, limits, now) {
            Ok(choice) => {
                if job.fetches {
                    *fetching.entry(choice.worker).or_default() += 1;
                }
                turns.insert(choice.engine, decisions.len());
                if let Some(engine) = slots.get_mut(&choice.engine) {
                    engine.used += job.weight;
                }
                shares.entry(job.project).or_default().held += job.weight;
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
    let unreadable = |&job| Decision::Hold { job, until: None, why: Waiting::Unreadable };
    decisions.extend(state.unreadable.iter().map(unreadable));
    decisions
}

fn choose(
    job: &WaitingJob,
    share: &Share,
    state: &State,
    taken: &Taken<'_>,
    limits: Limits,
    now: DateTime<Utc>,
) -> Result<Choice, (Option<DateTime<Utc>>, Waiting)> {
    if job.not_before > now {
        return Err((Some(job.not_before), Waiting::Backoff));
    }
    if let Some(until) = job.cleaned_until.filter(|until| *until > now) {
        return Err((Some(until), Waiting::Cleaning));
    }
    if !job.entitlements.is_subset(&share.allowed) {
        let entitlements = job.entitlements.difference(&share.allowed).copied().collect();
        return Err((None, Waiting::Forbidden { entitlements }));
    }
    if let Some(total) = share.is_reached_by(job.weight) {
        return Err((None, Waiting::Quota { used: share.held, total }));
    }
    let settling = state.settling.filter(|settling| settling.until > now);
    let is_alive = |worker: &WorkerView| {
        worker.state.is_leasable() && !is_silent(worker.last_seen, limits.suspect_after, now)
    };
    let able = able(job, state, &is_alive);
    // A native worker counts as there for a while after its last sign.
    let there_until = |worker: &WorkerView| match settling {
        Some(settling) if worker.last_seen + limits.native_grace >= settling.silent_since => settling.until,
        _ => worker.last_seen + limits.native_grace,
    };
    let native = able.iter().filter(|able| able.support == Support::Native);
    let native_until = native.map(|able| there_until(able.worker)).max();
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
    // What programs of the engine's own platform make may depend on which that is.
    let home_until = match &job.runs {
        Runs::Others { engine: true, .. } => {
            let home = able.iter().filter(|able| able.is_home);
            home.map(|able| there_until(able.worker)).max().filter(|until| *until > now)
        }
        _ => None,
    };
    let stays_home = home_until.is_some() && !waited_enough && job.emulation != Emulation::Allow;
    let comes_into_question = |able: &&Able<'_>| is_alive(able.worker) && (able.is_home || !stays_home);
    let allowed: Vec<Support> = [Support::Native, Support::Emulated]
        .into_iter()
        .filter(|support| *support == Support::Native || may_emulate)
        .collect();
    let on_probation = able
        .iter()
        .filter(comes_into_question)
        .any(|able| able.worker.state == WorkerState::Probation && allowed.contains(&able.support));
    let patience_ends = job.ready_at + limits.probation_patience;
    let mut full: Option<(RunMode, u32, u32)> = None;
    // Those on probation come into question when there is no other, and the job has waited for their trial builds.
    for sick in [false, true] {
        if sick && (full.is_some() || now < patience_ends) {
            break;
        }
        for &support in &allowed {
            let candidates: Vec<&Able<'_>> = able
                .iter()
                .filter(comes_into_question)
                .filter(|able| able.support == support)
                .filter(|able| (able.worker.state == WorkerState::Probation) == sick)
                .collect();
            let spared: Vec<&Able<'_>> =
                candidates.iter().copied().filter(|able| !job.excluded.contains(&able.worker.id)).collect();
            let candidates = if spared.is_empty() { candidates } else { spared };
            let mut engines: Vec<EngineId> = candidates.iter().map(|able| able.worker.engine).collect();
            engines.sort();
            engines.dedup();
            let free = |able: &Able<'_>| taken.free(job, able.worker);
            // A fetch weighs nothing, and is one.
            let needed = job.weight.max(1);
            let best = candidates.iter().filter(|able| free(able) >= needed).min_by_key(|able| {
                let engine = able.worker.engine;
                let leased_at = taken.slots.get(&engine).and_then(|slots| slots.leased_at);
                // `None` comes first: one that never had a lease, and one that got none in this plan.
                let turn = (taken.turns.get(&engine), leased_at);
                (!able.is_home, std::cmp::Reverse(free(able)), turn, able.worker.id)
            });
            if let Some(able) = best {
                let (support, worker) = (able.mode(), able.worker);
                let reason = match (support, able.emulated) {
                    (RunMode::Emulated, Some(platform)) => why_emulated(job, platform, native_served),
                    (RunMode::Unneeded, _) => format!("no program of {} runs", job.platform),
                    _ => String::new(),
                };
                return Ok(Choice { support, reason, worker: worker.id, engine: worker.engine });
            }
            if !engines.is_empty() && full.is_none() {
                let (used, total) = taken.sums(job, &candidates, &engines);
                let all_alike = candidates.iter().all(|able| able.is_home) || support == Support::Emulated;
                let mode = if all_alike { support.into() } else { RunMode::Unneeded };
                full = Some((mode, used, total));
            }
        }
    }
    let emulated_there = able.iter().any(|able| able.support == Support::Emulated && is_alive(able.worker));
    let waited = match job.emulation {
        Emulation::FallbackAfter(wait) if !waited_enough => {
            TimeDelta::from_std(wait).ok().map(|wait| job.ready_at + wait)
        }
        _ => None,
    };
    let unlocks = match job.emulation {
        Emulation::FallbackAfter(_) if !waited_enough => {
            waited.into_iter().chain(native_until.filter(|_| native_served)).min()
        }
        Emulation::Fallback => native_until.filter(|_| native_served),
        _ => None,
    };
    let leaves = home_until.filter(|_| stays_home).into_iter().chain(waited.filter(|_| stays_home)).min();
    let unlocks = unlocks.into_iter().chain(leaves).min();
    let wanted = match &job.runs {
        _ if job.archive => Wanted::Archives,
        _ if job.fetches => Wanted::Git,
        Runs::Others { platforms, .. } if !stays_home => {
            let platforms: Vec<Platform> = platforms.iter().cloned().collect();
            if platforms.is_empty() { Wanted::Any } else { Wanted::Programs(platforms) }
        }
        Runs::Others { .. } | Runs::Target => Wanted::Platform(job.platform.clone()),
    };
    // Where nobody may grant it, more workers of the same kind would be no cure.
    if able.is_empty() && !job.entitlements.is_empty() && able::would_be(job, state, &is_alive) {
        return Err((None, Waiting::Ungranted { wanted, entitlements: job.entitlements.clone() }));
    }
    let wanted = match job.gated && able.is_empty() && able::would_be_without_gate(job, state, &is_alive) {
        true => Wanted::Gates(Box::new(job.platform.clone())),
        false => wanted,
    };
    let set_aside =
        |wanted: &Wanted, only_native| set_aside(&state.aside, wanted, &job.entitlements, only_native);
    let emulated_refused = emulated_there && !may_emulate;
    Err(match full {
        Some((_, used, total)) if job.fetches => (unlocks, Waiting::Fetches { used, total }),
        Some((support, used, total)) => (unlocks, Waiting::Slots { support, used, total }),
        None if on_probation => {
            let aside = set_aside(&wanted, false);
            (unlocks.into_iter().chain([patience_ends]).min(), Waiting::Probation { wanted, aside })
        }
        None if native_served => {
            let aside = set_aside(&wanted, true);
            (unlocks, Waiting::Silent { wanted, aside })
        }
        None if job.proposed && !emulated_refused => {
            let aside = set_aside(&wanted, false);
            let aside = aside.into_iter().filter(|worker| worker.reason.is_of_untrusted()).collect();
            (unlocks, Waiting::Untrusted { aside })
        }
        None => {
            let aside = set_aside(&wanted, emulated_refused);
            (unlocks, Waiting::NoWorker { wanted, emulated_refused, aside })
        }
    })
}

/// Why this platform is emulated, for the record.
fn why_emulated(job: &WaitingJob, platform: &Platform, native_served: bool) -> String {
    let policy = job.emulation;
    let programs = if *platform == job.platform {
        String::new()
    } else {
        format!("programs of {platform} run in the build, and ")
    };
    if native_served {
        format!("{programs}no native {platform} worker had a free slot; policy {policy}")
    } else {
        format!("{programs}no native {platform} worker is connected; policy {policy}")
    }
}

#[cfg(test)]
mod tests;
