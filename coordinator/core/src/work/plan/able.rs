//! What a worker is to a job: whether all that the job runs can run there, and how.
//!
//! A job that runs programs of its platform needs a worker that offers it. One that runs none can be built anywhere, where
//! the other platforms are run whose programs its Dockerfile names; for these the worker's engine counts, so what other
//! workers offer on it, too.

use farm_types::state::WorkerState;
use farm_types::{Entitlements, Platform, RunMode, Runs, Support, TrustClass};

use super::{State, WaitingJob, WorkerView};

/// A worker that could build a job.
pub(super) struct Able<'a> {
    pub(super) worker: &'a WorkerView,
    /// How it runs the programs: emulated if some of them are.
    pub(super) support: Support,
    /// It offers the job's platform natively.
    pub(super) is_home: bool,
    /// One platform of which programs would be emulated, if any would.
    pub(super) emulated: Option<&'a Platform>,
}

impl Able<'_> {
    /// How the attempt's record says that the programs run.
    pub(super) fn mode(&self) -> RunMode {
        match self.support {
            Support::Native if !self.is_home => RunMode::Unneeded,
            support => support.into(),
        }
    }
}

/// The workers that could build the job, whether they are heard of or not; one that isn't trusted builds nothing that mounts
/// secrets, pushes to a staging registry only and nothing for a protected tag, grants nothing, and builds nothing at all on an engine that isn't fit for that. What a fork proposes is built by such ones only.
/// `is_alive` says of a worker that it is.
pub(super) fn able<'a>(
    job: &'a WaitingJob,
    state: &'a State,
    is_alive: &impl Fn(&WorkerView) -> bool,
) -> Vec<Able<'a>> {
    let workers = state.workers.iter().filter(|worker| worker.state != WorkerState::Draining);
    let workers = workers.filter(|worker| match worker.trust {
        TrustClass::Trusted => !job.proposed,
        TrustClass::Untrusted if job.fetches => false,
        TrustClass::Untrusted => {
            worker.engine_is_fit && !job.mounts && (!job.pushes || worker.stages && !job.protected)
        }
    });
    let workers = workers.filter(|worker| worker.takes_mounts || !job.mounts);
    let workers = workers.filter(|worker| worker.runs_gates || !job.gated);
    let workers = workers.filter(|worker| grants(worker, &job.entitlements));
    workers.filter_map(|worker| one(job, worker, state, is_alive)).collect()
}

/// Whether somebody could build the job if it asked for no entitlement.
pub(super) fn would_be(job: &WaitingJob, state: &State, is_alive: &impl Fn(&WorkerView) -> bool) -> bool {
    let plain = WaitingJob { entitlements: Entitlements::new(), ..job.clone() };
    !able(&plain, state, is_alive).is_empty()
}

/// Whether somebody could build the job if it had no gate.
pub(super) fn would_be_without_gate(
    job: &WaitingJob,
    state: &State,
    is_alive: &impl Fn(&WorkerView) -> bool,
) -> bool {
    !able(&WaitingJob { gated: false, ..job.clone() }, state, is_alive).is_empty()
}

fn grants(worker: &WorkerView, asked: &Entitlements) -> bool {
    asked.is_empty() || worker.trust == TrustClass::Trusted && asked.is_subset(&worker.grants)
}

fn one<'a>(
    job: &'a WaitingJob,
    worker: &'a WorkerView,
    state: &'a State,
    is_alive: &impl Fn(&WorkerView) -> bool,
) -> Option<Able<'a>> {
    if job.fetches {
        // Its engine has no part in it.
        let able = Able { worker, support: Support::Native, is_home: true, emulated: None };
        let has_means = if job.archive { worker.takes_archives } else { worker.has_git };
        return has_means.then_some(able);
    }
    let is_home = offer(worker, &job.platform) == Some(Support::Native);
    let platforms = match &job.runs {
        Runs::Others { platforms, .. } if worker.takes_unneeded => platforms,
        // One from before there were such jobs takes what it offers.
        Runs::Others { .. } | Runs::Target => {
            let support = offer(worker, &job.platform)?;
            let emulated = (support == Support::Emulated).then_some(&job.platform);
            return Some(Able { worker, support, is_home, emulated });
        }
    };
    // One that runs nothing builds nothing.
    let is_of_use = |platform| offer(worker, platform).is_some();
    if worker.offers.is_empty() || !platforms.is_empty() && !platforms.iter().any(is_of_use) {
        return None;
    }
    let mut able = Able { worker, support: Support::Native, is_home, emulated: None };
    for platform in platforms {
        let there = offer(worker, platform).or_else(|| {
            let mates = state.workers.iter().filter(|mate| mate.engine == worker.engine);
            mates.filter(|mate| is_alive(mate)).filter_map(|mate| offer(mate, platform)).min()
        });
        if there? == Support::Emulated {
            able.support = Support::Emulated;
            able.emulated = able.emulated.or(Some(platform));
        }
    }
    Some(able)
}

/// How the worker offers a platform.
fn offer(worker: &WorkerView, platform: &Platform) -> Option<Support> {
    worker.offers.iter().filter(|offer| offer.platform == *platform).map(|offer| offer.support).min()
}
