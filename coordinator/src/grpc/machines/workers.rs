//! Workers as users see them, and why an administrator's wish is refused.

use chrono::TimeDelta;
use farm_core::machines::engine::Unfit;
use farm_core::machines::state::{is_silent, shown};
use farm_proto::v1;
use farm_store::machines::drain::{Done, Refusal};
use farm_store::machines::joins::Unconnected;
use farm_store::machines::sick::QUARANTINE_WORDS;
use farm_store::machines::workers::{Standing, WorkerRecord};
use farm_store::work::schedule::grants;
use farm_types::ids::check_worker_name;
use farm_types::state::WorkerState;
use farm_types::{TrustClass, suggest};
use tonic::Status;

use crate::grpc::status;
use crate::people::principal::Principal;
use crate::shared::Shared;
use crate::shown::present;

/// So many names are no mistake.
const MAX_NAMES: usize = 1000;
/// Why a worker whose certificate has ended for good gets no jobs.
const EXPIRED_WORDS: &str = "its certificate has ended and can't be renewed any more";
/// The same of one that has only joined.
const JOINED_WORDS: &str = "it has joined and not connected yet";
/// What makes room in the list for who has joined under the name.
const GONE: [WorkerState; 2] = [WorkerState::Offline, WorkerState::Expired];
/// What is said of another project's work.
const BUSY: &str = "busy";

/// All workers, by name, also those that have only joined. Of projects that the caller isn't in it is only said that a worker is
/// busy with them.
pub(super) async fn list(shared: &Shared, viewer: &Principal) -> Result<Vec<v1::Worker>, Status> {
    let store = &shared.store;
    let now = store.now().await.map_err(status::store)?;
    let suspect = TimeDelta::from_std(shared.config.limits.suspect()).unwrap_or(TimeDelta::MAX);
    let running = store.running_now().await.map_err(status::store)?;
    // First: one that connects in between is in both, and not in neither.
    let unconnected = store.unconnected().await.map_err(status::store)?;
    let workers = store.workers().await.map_err(status::store)?;
    let standings = store.standings().await.map_err(status::store)?;
    let shown = workers.into_iter().map(|worker| {
        let is_silent = is_silent(worker.last_seen, suspect, now);
        let running = running
            .iter()
            .filter(|running| running.worker == worker.id)
            .map(|running| match viewer.role_in(running.project) {
                Some(_) => format!("{} {}", running.build, running.platform),
                None => BUSY.to_owned(),
            })
            .collect();
        let standing = standings.iter().find(|standing| standing.worker == worker.id);
        let unfit = (worker.trust != TrustClass::Trusted).then(|| store.unfit(&worker)).flatten();
        show(worker, is_silent, running, standing, unfit)
    });
    // Whoever has joined anew is that, and not what had its name before and is gone.
    let is_past = |worker: &v1::Worker| {
        GONE.iter().any(|state| state.as_str() == worker.state)
            && unconnected.iter().any(|joined| joined.name == worker.name)
    };
    let shown: Vec<v1::Worker> = shown.filter(|worker| !is_past(worker)).collect();
    let mut all: Vec<v1::Worker> =
        shown.into_iter().chain(unconnected.into_iter().map(show_unconnected)).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    // One that has connected between the two questions, or joined by the name of one that is there.
    all.dedup_by(|b, a| a.name == b.name);
    Ok(all)
}

fn show_unconnected(worker: Unconnected) -> v1::Worker {
    v1::Worker {
        name: worker.name,
        state: WorkerState::Joined.to_string(),
        reason: JOINED_WORDS.to_owned(),
        since_ms: present::ms(worker.joined_at),
        machine: worker.machine,
        pool: worker.pool,
        trust: worker.trust,
        certificate_ends_ms: present::ms(worker.ends),
        ..v1::Worker::default()
    }
}

/// What is said of a name that no worker has: which one may be meant.
pub(super) async fn unknown(shared: &Shared, name: &str) -> Result<Status, Status> {
    let store = &shared.store;
    let workers = store.workers().await.map_err(status::store)?;
    let unconnected = store.unconnected().await.map_err(status::store)?;
    let known = workers.iter().map(|worker| worker.name.as_str());
    let instead = match suggest::nearest(name, known.chain(unconnected.iter().map(|it| it.name.as_str()))) {
        Some(near) => format!("did you mean {near}?"),
        None => "`farm workers` lists those that are there".to_owned(),
    };
    Ok(Status::not_found(format!("there is no worker {name}; {instead}")))
}

fn show(
    worker: WorkerRecord,
    is_silent: bool,
    running: Vec<String>,
    standing: Option<&Standing>,
    unfit: Option<Unfit>,
) -> v1::Worker {
    let state = match standing {
        Some(standing) if standing.expired => WorkerState::Expired,
        _ => shown(worker.state, is_silent, !running.is_empty()),
    };
    let (since, reason) = match state {
        WorkerState::Quarantined => (worker.quarantined_at, QUARANTINE_WORDS.to_owned()),
        WorkerState::Draining | WorkerState::Drained => (worker.drained_at, String::new()),
        WorkerState::Withdrawn => (worker.withdrawn_at, worker.withdrawn_why),
        WorkerState::Probation => (worker.probation_at, worker.probation_why),
        WorkerState::Suspect | WorkerState::Offline => (Some(worker.last_seen), String::new()),
        WorkerState::Expired => (standing.map(|standing| standing.ends), EXPIRED_WORDS.to_owned()),
        WorkerState::Online => (None, unfit.map_or_else(String::new, |unfit| unfit.words().to_owned())),
        WorkerState::Joined | WorkerState::Removed => (None, String::new()),
    };
    v1::Worker {
        name: worker.name,
        state: state.to_string(),
        platforms: worker
            .offers
            .iter()
            .map(|offer| v1::PlatformOffer {
                platform: offer.platform.to_string(),
                support: offer.support.to_string(),
                told: offer.told,
            })
            .collect(),
        slots: worker.slots,
        slots_free: worker.slots.saturating_sub(worker.slots_used),
        engine: worker.engine.name,
        engine_buildkit: worker.engine.buildkit,
        engine_package: worker.engine.package,
        last_seen_ms: present::ms(worker.last_seen),
        version: worker.software_version,
        running,
        reason,
        since_ms: since.map_or(0, present::ms),
        next_probe_ms: worker.probe_at.map_or(0, present::ms),
        release_ms: worker.release_at.map_or(0, present::ms),
        machine: standing.map(|standing| standing.machine.clone()).unwrap_or_default(),
        pool: standing.map(|standing| standing.pool.clone()).unwrap_or_default(),
        trust: standing.map(|standing| standing.trust.clone()).unwrap_or_default(),
        certificate_ends_ms: standing.map_or(0, |standing| present::ms(standing.ends)),
        entitlements: grants(&worker.features, worker.trust).iter().map(ToString::to_string).collect(),
    }
}

/// The names of a wish, each once.
pub(super) fn checked(mut names: Vec<String>) -> Result<Vec<String>, Status> {
    if names.is_empty() || names.len() > MAX_NAMES {
        return Err(Status::invalid_argument(format!("name 1 to {MAX_NAMES} workers")));
    }
    for name in &names {
        check_worker_name(name).map_err(status::invalid)?;
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Wakes those who look at workers, and shows the ones that were named.
pub(super) async fn changed(
    shared: &Shared,
    viewer: &Principal,
    names: &[String],
) -> Result<Vec<v1::Worker>, Status> {
    shared.hints.changed();
    let mut workers = list(shared, viewer).await?;
    workers.retain(|worker| names.contains(&worker.name));
    Ok(workers)
}

/// The status of a wish that was refused.
pub(super) async fn refused(shared: &Shared, done: Done) -> Result<(), Status> {
    let refusal = match done {
        Ok(()) => return Ok(()),
        Err(refusal) => refusal,
    };
    Err(match refusal {
        Refusal::Unknown(name) => {
            let unconnected = shared.store.unconnected().await.map_err(status::store)?;
            if !unconnected.iter().any(|worker| worker.name == name) {
                return Err(unknown(shared, &name).await?);
            }
            Status::failed_precondition(format!(
                "worker {name} has joined and never connected, so there is nothing of it but its certificate: `farm workers revoke \
                 {name}` takes that back"
            ))
        }
        Refusal::Connected(name) => Status::failed_precondition(format!(
            "worker {name} is connected, and only one that is gone can be removed; first `farm workers drain {name} \
             --wait`, then stop its farm-worker"
        )),
        Refusal::Leased(name) => Status::failed_precondition(format!(
            "worker {name} went away a moment ago and may come back to what it runs; try again in half a minute"
        )),
    })
}
