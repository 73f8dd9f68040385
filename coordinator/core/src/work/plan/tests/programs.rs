//! Jobs that run no program of their platform.

use super::*;
use RunMode::Unneeded;

fn job_that_runs(state: &mut State, runs: &str, platform: &str, emulation: &str) -> JobId {
    let id = job(state, platform, emulation);
    state.waiting.last_mut().unwrap().runs = runs.parse().unwrap();
    id
}

fn reason(state: &State, now: i64) -> String {
    match plan(state, Limits::default(), at(now)).remove(0) {
        Decision::Assign { reason, .. } => reason,
        Decision::Hold { why, .. } => why.words(),
    }
}

/// Takes all slots of the engine of the worker with this number.
fn fill(state: &mut State, worker: usize) {
    let engine = state.workers[worker].engine;
    let slots = state.engines.get_mut(&engine).unwrap();
    slots.used = slots.total;
}

#[test]
fn a_job_without_programs_goes_to_any_worker_whatever_its_policy() {
    for runs in ["none", "engine"] {
        for policy in ["never", "fallback", "fallback=1m", "allow"] {
            let mut state = State::default();
            let job = job_that_runs(&mut state, runs, "linux/s390x", policy);
            let any = worker(&mut state, &[("linux/amd64", Native)], 1);
            assert_eq!(assigned(&state, 1), [(job, any, Unneeded)], "{runs} {policy}");
            assert_eq!(reason(&state, 1), "no program of linux/s390x runs");
        }
    }
    // One that would emulate it needn't.
    let mut state = State::default();
    let job = job_that_runs(&mut state, "none", "linux/s390x", "never");
    let any = worker(&mut state, &[("linux/s390x", Emulated)], 1);
    assert_eq!(assigned(&state, 1), [(job, any, Unneeded)]);
}

#[test]
fn a_native_worker_comes_first() {
    let mut state = State::default();
    let job = job_that_runs(&mut state, "none", "linux/arm64", "fallback");
    let other = worker(&mut state, &[("linux/amd64", Native)], 9);
    let native = worker(&mut state, &[("linux/arm64", Native)], 1);
    assert_eq!(assigned(&state, 1), [(job, native, Native)]);
    fill(&mut state, 1);
    assert_eq!(assigned(&state, 1), [(job, other, Unneeded)]);
    fill(&mut state, 0);
    assert_eq!(held(&state, 1).1, Waiting::Slots { support: Unneeded, used: 10, total: 10 });
    assert_eq!(reason(&state, 1), "all slots are in use (10 of 10)");
}

#[test]
fn what_the_engines_own_programs_make_is_left_to_native_workers_while_there_are_any() {
    let mut state = State::default();
    let job = job_that_runs(&mut state, "engine", "linux/arm64", "never");
    let other = worker(&mut state, &[("linux/amd64", Native)], 1);
    let native = worker(&mut state, &[("linux/arm64", Native)], 1);
    assert_eq!(assigned(&state, 1), [(job, native, Native)]);
    fill(&mut state, 1);
    assert_eq!(reason(&state, 1), "all native slots are in use (1 of 1)");
    // Silent ones are waited for as if the job was to be emulated; `never` forbids nothing here.
    state.workers[1].state = WorkerState::Offline;
    assert_eq!(
        held(&state, 1),
        (Some(at(30)), Waiting::Silent { wanted: wanted("linux/arm64"), aside: vec![] })
    );
    state.workers[0].last_seen = at(30);
    assert_eq!(assigned(&state, 30), [(job, other, Unneeded)]);
    state.workers[0].last_seen = at(1);
    state.waiting[0].emulation = "fallback=10s".parse().unwrap();
    assert_eq!(held(&state, 1).0, Some(at(10)));
    assert_eq!(assigned(&state, 10), [(job, other, Unneeded)]);
    state.waiting[0].emulation = Emulation::Allow;
    assert_eq!(assigned(&state, 1), [(job, other, Unneeded)]);
}

#[test]
fn the_programs_of_another_platform_are_run_where_that_is_offered() {
    let mut state = State::default();
    let job = job_that_runs(&mut state, "linux/arm64", "linux/s390x", "fallback");
    worker(&mut state, &[("linux/amd64", Native)], 9);
    let words = "no worker for linux/arm64 (programs of which the build runs) takes jobs now: see `farm workers`, \
                 or start one with `farm-worker`";
    assert_eq!(reason(&state, 1), words);
    let emulating = worker(&mut state, &[("linux/amd64", Native), ("linux/arm64", Emulated)], 1);
    assert_eq!(assigned(&state, 1), [(job, emulating, Emulated)]);
    let words = "programs of linux/arm64 run in the build, and no native linux/arm64 worker is connected; policy fallback";
    assert_eq!(reason(&state, 1), words);
    state.waiting[0].emulation = Emulation::Never;
    assert!(matches!(held(&state, 1).1, Waiting::NoWorker { emulated_refused: true, .. }));
    let native = worker(&mut state, &[("linux/arm64", Native)], 1);
    assert_eq!(assigned(&state, 1), [(job, native, Unneeded)]);
}

#[test]
fn what_workers_of_one_engine_offer_counts_together() {
    let mut state = State::default();
    let job = job_that_runs(&mut state, "linux/amd64,linux/arm64", "linux/s390x", "fallback");
    let native = worker(&mut state, &[("linux/amd64", Native)], 2);
    worker(&mut state, &[("linux/arm64", Emulated)], 2);
    assert!(assigned(&state, 1).is_empty());
    state.workers[1].engine = state.workers[0].engine;
    let [(found, _, Emulated)] = assigned(&state, 1)[..] else { panic!("{state:?}") };
    assert_eq!(found, job);
    // The offer of a silent worker doesn't count.
    state.workers[1].state = WorkerState::Offline;
    assert!(assigned(&state, 1).is_empty());
    state.waiting[0].runs = "linux/amd64".parse().unwrap();
    assert_eq!(assigned(&state, 1), [(job, native, Unneeded)]);
}

#[test]
fn a_worker_of_before_takes_only_what_it_offers() {
    let mut state = State::default();
    let job = job_that_runs(&mut state, "none", "linux/s390x", "fallback");
    let old = worker(&mut state, &[("linux/amd64", Native)], 1);
    state.workers[0].takes_unneeded = false;
    assert_eq!(
        reason(&state, 1),
        "no worker takes jobs now: see `farm workers`, or start one with `farm-worker`"
    );
    state.waiting[0].platform = "linux/amd64".parse().unwrap();
    assert_eq!(assigned(&state, 1), [(job, old, Native)]);
    state.workers[0].offers[0].support = Support::Emulated;
    assert_eq!(assigned(&state, 1), [(job, old, Emulated)]);
}

#[test]
fn when_nobody_is_there_it_says_so() {
    let mut state = State::default();
    job_that_runs(&mut state, "none", "linux/s390x", "never");
    assert!(matches!(
        held(&state, 1).1,
        Waiting::NoWorker { wanted: Wanted::Any, emulated_refused: false, .. }
    ));
    worker(&mut state, &[("linux/amd64", Native)], 1);
    state.workers[0].state = WorkerState::Offline;
    assert_eq!(held(&state, 1).1, Waiting::Silent { wanted: Wanted::Any, aside: vec![] });
    state.workers[0].state = WorkerState::Probation;
    assert_eq!(held(&state, 1), (Some(at(60)), Waiting::Probation { wanted: Wanted::Any, aside: vec![] }));
    // One whose engine is away offers nothing.
    state.workers[0].offers.clear();
    assert!(matches!(held(&state, 1).1, Waiting::NoWorker { wanted: Wanted::Any, .. }));
}

proptest! {
    /// Whatever the state: what is recorded of a job is true of where it went, and no job waits for want of a machine that
    /// it doesn't need.
    #[test]
    fn what_is_recorded_is_true_and_nothing_waits_without_need(
        workers in prop::collection::vec(
            (prop::collection::vec((0_usize..4, any::<bool>()), 0..4), 0_usize..3, -40_i64..1, any::<bool>(), any::<bool>()), 0..6),
        jobs in prop::collection::vec((0_usize..4, 0_usize..4, 0_usize..6, 1_u32..3), 0..10),
        slots in prop::collection::vec((1_u32..5, 0_u32..3), 3),
    ) {
        let platforms = ["linux/amd64", "linux/arm64", "linux/riscv64", "linux/s390x"];
        let policies = ["never", "fallback", "fallback=5s", "allow"];
        let runs = ["target", "none", "engine", "linux/amd64", "engine,linux/arm64", "linux/amd64,linux/arm64"];
        let limits = Limits::default();
        let mut state = State::default();
        let engines: Vec<EngineId> = slots.iter().map(|_| EngineId::generate()).collect();
        for (offers, engine, seen, connected, takes) in workers {
            let mut own: Vec<(&str, RunMode)> = Vec::new();
            for (platform, native) in offers {
                if !own.iter().any(|(known, _)| *known == platforms[platform]) {
                    own.push((platforms[platform], if native { Native } else { Emulated }));
                }
            }
            worker(&mut state, &own, 1);
            let last = state.workers.last_mut().unwrap();
            (last.engine, last.last_seen) = (engines[engine], at(seen));
            last.state = if connected { WorkerState::Online } else { WorkerState::Offline };
            last.takes_unneeded = takes;
        }
        state.engines = engines.iter().copied().zip(slots.iter().map(|&(total, used)| Slots { total, used: used.min(total), leased_at: None })).collect();
        for (platform, policy, what, weight) in jobs {
            job_that_runs(&mut state, runs[what], platforms[platform], policies[policy]);
            state.waiting.last_mut().unwrap().weight = weight;
        }
        let is_alive = |w: &WorkerView| w.state.is_leasable() && w.last_seen + limits.suspect_after > at(0);
        let native = |w: &WorkerView, platform: &Platform| {
            w.offers.iter().any(|o| o.platform == *platform && o.support == Support::Native)
        };
        let offers = |w: &WorkerView, platform: &Platform| w.offers.iter().any(|o| o.platform == *platform);
        let decisions = plan(&state, limits, at(0));
        let mut free: HashMap<EngineId, u32> = state.engines.iter().map(|(id, s)| (*id, s.total - s.used)).collect();
        for decision in &decisions {
            let Decision::Assign { job, worker, engine, support, reason } = decision else { continue };
            let job = state.waiting.iter().find(|j| j.job == *job).unwrap();
            let worker = state.workers.iter().find(|w| w.id == *worker).unwrap();
            let there = free.get_mut(engine).unwrap();
            prop_assert!(*there >= job.weight);
            *there -= job.weight;
            prop_assert!(is_alive(worker));
            prop_assert_eq!(reason.is_empty(), *support == Native);
            let mates: Vec<&WorkerView> =
                state.workers.iter().filter(|w| w.engine == *engine && is_alive(w)).collect();
            let free_choice = job.runs != Runs::Target && worker.takes_unneeded;
            let needed = if free_choice { job.runs.needed(&job.platform) } else { vec![&job.platform] };
            for platform in &needed {
                prop_assert!(mates.iter().any(|w| offers(w, platform)));
                // All of it by the CPU, unless the record says otherwise.
                prop_assert!(*support == Emulated || mates.iter().any(|w| native(w, platform)));
            }
            match support {
                Native => prop_assert!(native(worker, &job.platform)),
                Unneeded => prop_assert!(free_choice && !native(worker, &job.platform)),
                Emulated => prop_assert!(job.emulation != Emulation::Never && !needed.is_empty()),
            }
        }
        for decision in &decisions {
            let Decision::Hold { job, .. } = decision else { continue };
            let job = state.waiting.iter().find(|j| j.job == *job).unwrap();
            let Runs::Others { engine, platforms } = &job.runs else { continue };
            let home = state.workers.iter().any(|w| {
                native(w, &job.platform) && w.last_seen + limits.native_grace > at(0)
            });
            if platforms.is_empty() && !(*engine && home) {
                let idle = state.workers.iter().find(|w| {
                    is_alive(w) && w.takes_unneeded && !w.offers.is_empty() && free[&w.engine] >= job.weight
                });
                prop_assert!(idle.is_none(), "{:?} waits beside {:?}", job, idle);
            }
        }
    }
}
