//! What the scheduler promises. Of jobs that run no program of their platform: [`programs`]; of those that ask for entitlements:
//! [`entitled`].

mod entitled;
mod programs;

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::work::aside::Aside;
use crate::work::waiting::Reason;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
}

fn worker(state: &mut State, offers: &[(&str, RunMode)], slots: u32) -> WorkerId {
    let (id, engine) = (WorkerId::generate(), EngineId::generate());
    let offers = offers
        .iter()
        .map(|(platform, support)| Offer {
            platform: platform.parse().unwrap(),
            support: support.as_str().parse().unwrap(),
            told: false,
        })
        .collect();
    state.engines.insert(engine, Slots { total: slots, ..Slots::default() });
    state.workers.push(WorkerView {
        id,
        engine,
        offers,
        last_seen: at(0),
        state: WorkerState::Online,
        takes_unneeded: true,
        takes_mounts: true,
        trust: TrustClass::Trusted,
        stages: false,
        engine_is_fit: true,
        grants: Entitlements::new(),
        has_git: false,
        takes_archives: false,
        runs_gates: true,
        fetching: 0,
    });
    id
}

fn job(state: &mut State, platform: &str, emulation: &str) -> JobId {
    let job = JobId::generate();
    let place = i64::try_from(state.waiting.len()).unwrap();
    state.waiting.push(WaitingJob {
        job,
        project: ProjectId::from(uuid(1)),
        platform: platform.parse().unwrap(),
        runs: Runs::Target,
        emulation: emulation.parse().unwrap(),
        weight: 1,
        virtual_time: at(place),
        ready_at: at(0),
        not_before: at(0),
        excluded: Vec::new(),
        cleaned_until: None,
        pushes: true,
        protected: false,
        proposed: false,
        mounts: false,
        entitlements: Entitlements::new(),
        fetches: false,
        archive: false,
        gated: false,
    });
    job
}

fn uuid(n: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(n)
}

fn assigned(state: &State, now: i64) -> Vec<(JobId, WorkerId, RunMode)> {
    plan(state, Limits::default(), at(now))
        .into_iter()
        .filter_map(|decision| match decision {
            Decision::Assign { job, worker, support, .. } => Some((job, worker, support)),
            Decision::Hold { .. } => None,
        })
        .collect()
}

fn held(state: &State, now: i64) -> (Option<DateTime<Utc>>, Waiting) {
    match plan(state, Limits::default(), at(now)).remove(0) {
        Decision::Hold { until, why, .. } => (until, why),
        Decision::Assign { .. } => panic!("assigned"),
    }
}

fn wanted(platform: &str) -> Wanted {
    Wanted::Platform(platform.parse().unwrap())
}

use RunMode::{Emulated, Native};

#[test]
fn native_goes_before_emulated() {
    let mut state = State::default();
    let job = job(&mut state, "linux/arm64", "allow");
    worker(&mut state, &[("linux/arm64", Emulated)], 8);
    let native = worker(&mut state, &[("linux/arm64", Native)], 1);
    assert_eq!(assigned(&state, 1), [(job, native, Native)]);
}

#[test]
fn fallback_waits_for_a_busy_native_worker_and_allow_does_not() {
    let mut state = State::default();
    job(&mut state, "linux/arm64", "fallback");
    let native = worker(&mut state, &[("linux/arm64", Native)], 1);
    let engine = state.workers[0].engine;
    state.engines.insert(engine, Slots { total: 1, used: 1, leased_at: None });
    let emulating = worker(&mut state, &[("linux/arm64", Emulated)], 1);
    assert!(matches!(held(&state, 1).1, Waiting::Slots { support: Native, used: 1, total: 1 }));
    state.waiting[0].emulation = Emulation::Allow;
    assert_eq!(assigned(&state, 1)[0].1, emulating);
    assert_ne!(native, emulating);
}

#[test]
fn fallback_unlocks_thirty_seconds_after_the_last_native_heartbeat() {
    let mut state = State::default();
    job(&mut state, "linux/arm64", "fallback");
    worker(&mut state, &[("linux/arm64", Native)], 1);
    let emulating = worker(&mut state, &[("linux/arm64", Emulated)], 1);
    state.workers[0].state = WorkerState::Offline;
    state.workers[1].last_seen = at(29);
    assert_eq!(
        held(&state, 29),
        (Some(at(30)), Waiting::Silent { wanted: wanted("linux/arm64"), aside: vec![] })
    );
    assert_eq!(assigned(&state, 30)[0].1, emulating);
}

#[test]
fn fallback_with_a_duration_unlocks_when_the_job_has_waited_that_long() {
    let mut state = State::default();
    job(&mut state, "linux/arm64", "fallback=20s");
    worker(&mut state, &[("linux/arm64", Native)], 1);
    let engine = state.workers[0].engine;
    state.engines.insert(engine, Slots { total: 1, used: 1, leased_at: None });
    let emulating = worker(&mut state, &[("linux/arm64", Emulated)], 1);
    for worker in &mut state.workers {
        worker.last_seen = at(19);
    }
    assert_eq!(held(&state, 19).0, Some(at(20)));
    assert_eq!(assigned(&state, 20)[0].1, emulating);
}

#[test]
fn never_waits_and_says_that_emulation_was_refused() {
    let mut state = State::default();
    job(&mut state, "linux/arm64", "never");
    worker(&mut state, &[("linux/arm64", Emulated)], 1);
    assert!(matches!(held(&state, 1).1, Waiting::NoWorker { emulated_refused: true, .. }));
}

#[test]
fn a_worker_that_failed_the_job_is_shunned_while_there_is_another_but_unlocks_no_emulation() {
    let mut state = State::default();
    job(&mut state, "linux/arm64", "fallback");
    let bad = worker(&mut state, &[("linux/arm64", Native)], 4);
    worker(&mut state, &[("linux/arm64", Emulated)], 4);
    state.waiting[0].excluded = vec![bad];
    assert_eq!(assigned(&state, 1)[0].1, bad);
    let other = worker(&mut state, &[("linux/arm64", Native)], 1);
    assert_eq!(assigned(&state, 1)[0].1, other);
}

#[test]
fn a_silent_worker_and_one_whose_state_keeps_it_from_jobs_get_nothing() {
    let there = |spoil: &dyn Fn(&mut WorkerView)| {
        let mut state = State::default();
        job(&mut state, "linux/amd64", "never");
        worker(&mut state, &[("linux/amd64", Native)], 1);
        spoil(&mut state.workers[0]);
        assigned(&state, 0).len()
    };
    assert_eq!(there(&|w| w.last_seen = at(-12)), 0);
    for &state in WorkerState::ALL {
        let expected = usize::from(state == WorkerState::Online);
        assert_eq!(there(&|w| w.state = state), expected, "{state}");
    }
}

#[test]
fn a_job_that_nobody_can_run_holds_up_nobody() {
    let mut state = State::default();
    job(&mut state, "linux/s390x", "fallback");
    let runnable = job(&mut state, "linux/amd64", "fallback");
    worker(&mut state, &[("linux/amd64", Native)], 1);
    assert_eq!(assigned(&state, 1)[0].0, runnable);
}

#[test]
fn after_an_outage_of_all_coordinators_silence_unlocks_nothing_until_it_counts_again() {
    let mut state = State::default();
    job(&mut state, "linux/arm64", "fallback");
    worker(&mut state, &[("linux/arm64", Native)], 1);
    worker(&mut state, &[("linux/arm64", Emulated)], 1);
    state.workers[0].state = WorkerState::Offline;
    state.workers[1].last_seen = at(600);
    state.settling = Some(Settling { silent_since: at(5), until: at(625) });
    assert_eq!(held(&state, 601).0, Some(at(625)));
    assert_eq!(assigned(&State { settling: None, ..state }, 601).len(), 1);
}

#[test]
fn a_job_whose_repository_is_cleaned_takes_no_slot_and_holds_up_nobody() {
    let mut state = State::default();
    let held_back = job(&mut state, "linux/amd64", "fallback");
    state.waiting[0].cleaned_until = Some(at(60));
    let behind = job(&mut state, "linux/amd64", "fallback");
    let only = worker(&mut state, &[("linux/amd64", Native)], 1);
    assert_eq!(assigned(&state, 1), [(behind, only, Native)]);
    assert_eq!(held(&state, 1), (Some(at(60)), Waiting::Cleaning));
    // What is over doesn't count any more.
    state.workers[0].last_seen = at(60);
    assert_eq!(assigned(&state, 60), [(held_back, only, Native)]);
}

#[test]
fn the_project_that_holds_least_goes_first() {
    let mut state = State::default();
    let greedy = job(&mut state, "linux/amd64", "fallback");
    let modest = job(&mut state, "linux/amd64", "fallback");
    state.waiting[1].project = ProjectId::from(uuid(2));
    state.shares.insert(state.waiting[0].project, Share { held: 3, ..Share::default() });
    worker(&mut state, &[("linux/amd64", Native)], 1);
    assert_eq!(assigned(&state, 1)[0].0, modest);
    assert_ne!(greedy, modest);
}

#[test]
fn a_project_holds_no_more_than_it_may_and_says_so_and_others_go_on() {
    let mut state = State::default();
    let jobs: Vec<JobId> = (0..4).map(|_| job(&mut state, "linux/amd64", "fallback")).collect();
    state.waiting[3].project = ProjectId::from(uuid(2));
    state.shares.insert(state.waiting[0].project, Share { held: 1, most: Some(2), ..Share::default() });
    worker(&mut state, &[("linux/amd64", Native)], 10);
    let given: Vec<JobId> = assigned(&state, 1).into_iter().map(|(job, ..)| job).collect();
    assert_eq!(given, [jobs[3], jobs[0]]);
    let waits = |n: usize| {
        plan(&state, Limits::default(), at(1)).into_iter().find_map(|decision| match decision {
            Decision::Hold { job, until, why } if job == jobs[n] => Some((until, why)),
            _ => None,
        })
    };
    assert_eq!(waits(1), Some((None, Waiting::Quota { used: 2, total: 2 })));
    assert_eq!(waits(2), waits(1));
}

#[test]
fn a_fetch_takes_no_slot_and_goes_to_trusted_workers_with_git_only() {
    let mut state = State::default();
    worker(&mut state, &[("linux/s390x", RunMode::Native)], 1);
    job(&mut state, "linux/amd64", "fallback");
    let fetch = state.waiting.last_mut().unwrap();
    (fetch.fetches, fetch.weight, fetch.pushes) = (true, 0, false);
    let held = |state: &State| match plan(state, Limits::default(), at(1)).remove(0) {
        Decision::Hold { why, .. } => Some(why),
        Decision::Assign { support, .. } => {
            assert_eq!(support, RunMode::Native);
            None
        }
    };
    let none = Waiting::NoWorker { wanted: Wanted::Git, emulated_refused: false, aside: vec![] };
    assert_eq!(held(&state), Some(none.clone()));
    (state.workers[0].has_git, state.workers[0].trust) = (true, TrustClass::Untrusted);
    assert_eq!(held(&state), Some(none));
    state.workers[0].trust = TrustClass::Trusted;
    state.engines.values_mut().for_each(|slots| slots.used = 1);
    assert_eq!(held(&state), None);
    state.workers[0].fetching = FETCHES_AT_ONCE - 1;
    let again = WaitingJob { job: JobId::generate(), ..state.waiting[0].clone() };
    state.waiting.push(again);
    let decisions = plan(&state, Limits::default(), at(1));
    let full = Waiting::Fetches { used: FETCHES_AT_ONCE, total: FETCHES_AT_ONCE };
    assert!(matches!(&decisions[0], Decision::Assign { .. }));
    assert!(matches!(&decisions[1], Decision::Hold { why, .. } if *why == full));
    // An archive needs no git, and a worker that knows of archives.
    state.waiting.truncate(1);
    (state.waiting[0].archive, state.workers[0].fetching) = (true, 0);
    let none = Waiting::NoWorker { wanted: Wanted::Archives, emulated_refused: false, aside: vec![] };
    assert_eq!(held(&state), Some(none));
    (state.workers[0].has_git, state.workers[0].takes_archives) = (false, true);
    assert_eq!(held(&state), None);
}

#[test]
fn slots_are_shared_by_weight() {
    let mut state = State::default();
    for n in 0..16 {
        job(&mut state, "linux/amd64", "fallback");
        state.waiting[n].project = ProjectId::from(uuid(u128::from(n % 2 == 0) + 1));
    }
    state.shares.insert(ProjectId::from(uuid(2)), Share { weight: 3, ..Share::default() });
    worker(&mut state, &[("linux/amd64", Native)], 8);
    let given = assigned(&state, 1);
    let of_heavy = given.iter().filter(|(job, ..)| {
        state.waiting.iter().any(|waiting| waiting.job == *job && waiting.project == ProjectId::from(uuid(2)))
    });
    assert_eq!((given.len(), of_heavy.count()), (8, 6));
}

proptest! {
    /// Whatever a project may hold: no plan gives it more, and what it may not hold keeps no other project from a slot.
    #[test]
    fn no_plan_gives_a_project_more_than_it_may_hold(
        slots in 0_u32..8,
        shares in prop::collection::vec((0_u32..5, 1_u32..4, prop::option::of(1_u32..5)), 3),
        jobs in prop::collection::vec((0_usize..3, 1_u32..3), 0..16),
    ) {
        let mut state = State::default();
        let project = |n: usize| ProjectId::from(uuid(u128::try_from(n).unwrap() + 1));
        for (n, (held, weight, most)) in shares.iter().enumerate() {
            state.shares.insert(project(n), Share { held: *held, weight: *weight, most: *most, ..Share::default() });
        }
        for (n, weight) in &jobs {
            job(&mut state, "linux/amd64", "never");
            let last = state.waiting.last_mut().unwrap();
            (last.project, last.weight) = (project(*n), *weight);
        }
        worker(&mut state, &[("linux/amd64", Native)], slots);
        let mut held: HashMap<ProjectId, u32> = HashMap::new();
        let decisions = plan(&state, Limits::default(), at(0));
        for decision in &decisions {
            let Decision::Assign { job, .. } = decision else { continue };
            let job = state.waiting.iter().find(|waiting| waiting.job == *job).unwrap();
            *held.entry(job.project).or_default() += job.weight;
        }
        for (project, given) in &held {
            let share = &state.shares[project];
            prop_assert!(share.most.is_none_or(|most| share.held + given <= most), "{share:?} {given}");
        }
        // Whoever is told that it is the slots that are wanting could not have had one.
        let left = slots - held.values().sum::<u32>();
        for decision in &decisions {
            if let Decision::Hold { job, why: Waiting::Slots { .. }, .. } = decision {
                let job = state.waiting.iter().find(|waiting| waiting.job == *job).unwrap();
                prop_assert!(job.weight > left);
            }
        }
    }

    /// Among engines that are alike nobody starves, whoever's id is the lowest: each gets its share, to one job.
    #[test]
    fn engines_that_are_alike_take_turns(engines in 1_usize..6, slots in 1_u32..4, at_once in prop::collection::vec(1_usize..5, 1..20)) {
        let mut state = State::default();
        for _ in 0..engines {
            worker(&mut state, &[("linux/amd64", Native)], slots);
        }
        let mut given: HashMap<EngineId, usize> = state.engines.keys().map(|engine| (*engine, 0)).collect();
        for (second, jobs) in (0..).zip(at_once) {
            state.waiting.clear();
            for _ in 0..jobs {
                job(&mut state, "linux/amd64", "never");
            }
            for decision in plan(&state, Limits::default(), at(1)) {
                if let Decision::Assign { engine, .. } = decision {
                    *given.get_mut(&engine).unwrap() += 1;
                    // A lease after the other, each of which is over before the next pass.
                    let order = i64::try_from(given.values().sum::<usize>()).unwrap();
                    state.engines.get_mut(&engine).unwrap().leased_at = Some(at(second) + TimeDelta::milliseconds(order));
                }
            }
        }
        let (most, least) = (given.values().max().unwrap(), given.values().min().unwrap());
        prop_assert!(most - least <= 1, "{:?}", given);
    }

    /// Whatever the state: no engine is given more than it has, nobody gets a job that they don't offer,
    /// emulation happens only where the policy allows it, and every job gets exactly one answer.
    #[test]
    fn a_plan_never_oversteps(
        workers in prop::collection::vec((0_usize..3, any::<bool>(), 1_u32..4, 0_u32..4, -40_i64..1, any::<bool>()), 0..6),
        jobs in prop::collection::vec((0_usize..3, 0_usize..4, 1_u32..3), 0..12),
    ) {
        let platforms = ["linux/amd64", "linux/arm64", "linux/riscv64"];
        let policies = ["never", "fallback", "fallback=5s", "allow"];
        let mut state = State::default();
        for (platform, native, total, used, seen, connected) in workers {
            worker(&mut state, &[(platforms[platform], if native { Native } else { Emulated })], total);
            let last = state.workers.last_mut().unwrap();
            last.last_seen = at(seen);
            last.state = if connected { WorkerState::Online } else { WorkerState::Offline };
            state.engines.insert(last.engine, Slots { total, used, leased_at: None });
        }
        for (platform, policy, weight) in jobs {
            job(&mut state, platforms[platform], policies[policy]);
            state.waiting.last_mut().unwrap().weight = weight;
        }
        let decisions = plan(&state, Limits::default(), at(0));
        prop_assert_eq!(decisions.len(), state.waiting.len());
        let mut used: HashMap<EngineId, u32> = HashMap::new();
        for decision in &decisions {
            let Decision::Assign { job, worker, engine, support, reason } = decision else { continue };
            prop_assert_eq!(reason.is_empty(), *support == Native);
            let job = state.waiting.iter().find(|j| j.job == *job).unwrap();
            let worker = state.workers.iter().find(|w| w.id == *worker).unwrap();
            prop_assert!(worker.state.is_leasable() && worker.last_seen + Limits::default().suspect_after > at(0));
            prop_assert!(worker.offers.iter().any(|o| o.platform == job.platform && RunMode::from(o.support) == *support));
            prop_assert!(*support == Native || job.emulation != Emulation::Never);
            if *support == Emulated && job.emulation == Emulation::Fallback {
                prop_assert!(!state.workers.iter().any(|w| w.last_seen > at(-30)
                    && w.offers.iter().any(|o| o.platform == job.platform && o.support == Support::Native)));
            }
            *used.entry(*engine).or_default() += job.weight;
        }
        for (engine, taken) in used {
            let slots = state.engines[&engine];
            prop_assert!(slots.used + taken <= slots.total);
        }
    }
}

#[test]
fn durations_too_long_for_a_clock_do_not_panic() {
    let mut state = State::default();
    job(&mut state, "linux/arm64", "fallback");
    state.waiting[0].emulation = Emulation::FallbackAfter(Duration::MAX);
    assert!(matches!(held(&state, 1).1, Waiting::NoWorker { .. }));
}

#[test]
fn a_worker_on_probation_is_taken_when_there_is_no_other_and_not_at_once() {
    let mut state = State::default();
    let sick = worker(&mut state, &[("linux/arm64", Native)], 1);
    state.workers[0].state = WorkerState::Probation;
    let waiting = job(&mut state, "linux/arm64", "fallback");
    let wanted = wanted("linux/arm64");
    assert_eq!(held(&state, 5), (Some(at(30)), Waiting::Probation { wanted, aside: vec![] }));
    state.workers[0].last_seen = at(60);
    assert_eq!(assigned(&state, 60), [(waiting, sick, Native)]);
    // Probation unlocks no emulation, as long as the policy wants none beside a native worker.
    let emulating = worker(&mut state, &[("linux/arm64", Emulated)], 1);
    state.workers[1].last_seen = at(50);
    assert!(assigned(&state, 50).is_empty());
    state.waiting[0].emulation = "allow".parse().unwrap();
    assert_eq!(assigned(&state, 50), [(waiting, emulating, Emulated)]);
    // One that is well is waited for, however long.
    state.waiting[0].emulation = "fallback".parse().unwrap();
    let sound = worker(&mut state, &[("linux/arm64", Native)], 1);
    state.workers.iter_mut().for_each(|worker| worker.last_seen = at(1000));
    assert_eq!(assigned(&state, 1000), [(waiting, sound, Native)]);
    let engine = state.workers[2].engine;
    state.engines.get_mut(&engine).unwrap().used = 1;
    assert!(matches!(held(&state, 1000).1, Waiting::Slots { used: 1, total: 1, .. }));
}

#[test]
fn a_machine_that_is_not_trusted_builds_only_what_pushes_nowhere() {
    let mut state = State::default();
    let untrusted = worker(&mut state, &[("linux/amd64", RunMode::Native)], 4);
    state.workers[0].trust = TrustClass::Untrusted;
    let pushes = job(&mut state, "linux/amd64", "fallback");
    let kept = job(&mut state, "linux/amd64", "fallback");
    state.waiting[1].pushes = false;
    assert_eq!(assigned(&state, 1), [(kept, untrusted, RunMode::Native)]);
    let trusted = worker(&mut state, &[("linux/amd64", RunMode::Native)], 1);
    let now = assigned(&state, 1);
    assert!(now.contains(&(pushes, trusted, RunMode::Native)), "{now:?}");
    assert!(now.iter().any(|(job, _, _)| *job == kept), "{now:?}");
}

#[test]
fn with_a_staging_registry_it_builds_what_pushes_and_still_mounts_and_grants_nothing() {
    let mut state = State::default();
    let untrusted = worker(&mut state, &[("linux/amd64", RunMode::Native)], 8);
    (state.workers[0].trust, state.workers[0].stages) = (TrustClass::Untrusted, true);
    let pushes = job(&mut state, "linux/amd64", "fallback");
    job(&mut state, "linux/amd64", "fallback");
    state.waiting[1].mounts = true;
    job(&mut state, "linux/amd64", "fallback");
    state.waiting[2].protected = true;
    job(&mut state, "linux/amd64", "fallback");
    state.waiting[3].entitlements = [farm_types::Entitlement::NetworkHost].into();
    let project = state.waiting[3].project;
    state.shares.entry(project).or_default().allowed = farm_types::Entitlement::ALL.into();
    assert_eq!(assigned(&state, 1), [(pushes, untrusted, RunMode::Native)]);
}

#[test]
fn a_machine_that_is_not_trusted_builds_nothing_on_an_engine_that_is_too_old() {
    let mut state = State::default();
    worker(&mut state, &[("linux/amd64", RunMode::Native)], 4);
    (state.workers[0].trust, state.workers[0].engine_is_fit) = (TrustClass::Untrusted, false);
    let reason = Reason::EngineTooOld("its engine (docker 28) is too old".to_owned());
    let offers = state.workers[0].offers.clone();
    state.aside.push(Aside { name: "fork".into(), offers, grants: Entitlements::new(), reason });
    let kept = job(&mut state, "linux/amd64", "fallback");
    state.waiting[0].pushes = false;
    assert_eq!(assigned(&state, 1), []);
    let words = held(&state, 1).1.words();
    assert!(
        words.contains("fork takes nothing: its machine isn't trusted, and its engine (docker 28) is"),
        "{words}"
    );
    // Of a machine that is trusted it doesn't matter.
    let trusted = worker(&mut state, &[("linux/amd64", RunMode::Native)], 1);
    state.workers[1].engine_is_fit = false;
    assert_eq!(assigned(&state, 1), [(kept, trusted, RunMode::Native)]);
}

#[test]
fn secrets_go_to_trusted_machines_whose_worker_serves_them() {
    let mut state = State::default();
    worker(&mut state, &[("linux/amd64", RunMode::Native)], 1);
    state.workers[0].trust = TrustClass::Untrusted;
    worker(&mut state, &[("linux/amd64", RunMode::Native)], 1);
    state.workers[1].takes_mounts = false;
    let mounts = job(&mut state, "linux/amd64", "fallback");
    (state.waiting[0].pushes, state.waiting[0].mounts) = (false, true);
    assert_eq!(assigned(&state, 1), []);
    let fit = worker(&mut state, &[("linux/amd64", RunMode::Native)], 1);
    assert_eq!(assigned(&state, 1), [(mounts, fit, RunMode::Native)]);
}

#[test]
fn a_job_with_a_gate_waits_for_a_worker_that_runs_gates() {
    let mut state = State::default();
    worker(&mut state, &[("linux/amd64", RunMode::Native)], 1);
    state.workers[0].runs_gates = false;
    let gated = job(&mut state, "linux/amd64", "fallback");
    state.waiting[0].gated = true;
    assert_eq!(assigned(&state, 1), []);
    let [Decision::Hold { why, .. }] = &plan(&state, Limits::default(), at(1))[..] else { panic!() };
    assert!(why.words().contains("before there were gates"), "{}", why.words());
    // Where there is none at all, that is what is said.
    state.workers.clear();
    let [Decision::Hold { why, .. }] = &plan(&state, Limits::default(), at(1))[..] else { panic!() };
    assert!(!why.words().contains("gates"), "{}", why.words());
    let fit = worker(&mut state, &[("linux/amd64", RunMode::Native)], 1);
    assert_eq!(assigned(&state, 1), [(gated, fit, RunMode::Native)]);
}
