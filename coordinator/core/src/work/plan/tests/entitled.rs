//! Jobs that ask for entitlements go to nobody who may not grant them, whatever else is free.

use farm_types::Entitlement;
use farm_types::Entitlement::{NetworkHost, SecurityInsecure};

use super::*;

fn asks(state: &mut State, entitlements: &[Entitlement]) -> JobId {
    let id = job(state, "linux/amd64", "allow");
    let last = state.waiting.last_mut().unwrap();
    last.entitlements = entitlements.iter().copied().collect();
    let share = state.shares.entry(last.project).or_default();
    share.allowed = Entitlement::ALL.into();
    id
}

fn words(state: &State) -> String {
    match &plan(state, Limits::default(), at(1))[..] {
        [Decision::Hold { until: None, why, .. }] => why.words(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_job_waits_for_who_may_grant_all_that_it_asks_for() {
    let mut state = State::default();
    let job = asks(&mut state, &[NetworkHost, SecurityInsecure]);
    // Without anybody it is told as others are.
    assert!(words(&state).starts_with("no worker for linux/amd64 takes jobs now"), "{}", words(&state));
    worker(&mut state, &[("linux/amd64", RunMode::Native)], 4);
    state.workers[0].grants = [NetworkHost].into();
    let all = "network.host,security.insecure";
    assert_eq!(
        words(&state),
        format!(
            "no worker for linux/amd64 may grant network.host and security.insecure: whoever runs one can start it with \
             `farm-worker --allow {all}`, or this machine's farm with `farm up --allow {all}`"
        )
    );
    let entitled = worker(&mut state, &[("linux/amd64", RunMode::Emulated)], 1);
    state.workers[1].grants = Entitlement::ALL.into();
    // Who isn't trusted grants nothing, even to what pushes nowhere.
    state.waiting[0].pushes = false;
    state.workers[1].trust = TrustClass::Untrusted;
    assert!(words(&state).contains("may grant"), "{}", words(&state));
    state.workers[1].trust = TrustClass::Trusted;
    let decisions = plan(&state, Limits::default(), at(1));
    assert!(
        matches!(&decisions[..], [Decision::Assign { job: it, worker, .. }] if (*it, *worker) == (job, entitled)),
        "{decisions:?}"
    );
    // One that may, and is full or silent, is waited for as any.
    state.engines.values_mut().for_each(|slots| slots.used = slots.total);
    assert_eq!(words(&state), "all emulated slots are in use (1 of 1)");
    // What was taken from the project counts for what waits.
    state.shares.values_mut().for_each(|share| share.allowed = [NetworkHost].into());
    assert_eq!(
        words(&state),
        "its project may not use security.insecure any more; an admin of the farm can allow it: farm project set NAME \
         --allow security.insecure"
    );
}

proptest! {
    /// Whatever the state: nothing is granted by whom it isn't allowed, or to whom; and others are served as if nobody asked.
    #[test]
    fn nothing_is_given_that_was_not_allowed(
        workers in prop::collection::vec((0_usize..4, any::<bool>(), 1_u32..4), 0..6),
        jobs in prop::collection::vec((0_usize..4, any::<bool>()), 0..10),
        allowed in 0_usize..4,
    ) {
        let sets = [vec![], vec![NetworkHost], vec![SecurityInsecure], vec![NetworkHost, SecurityInsecure]];
        let mut state = State::default();
        for (grants, trusted, slots) in workers {
            worker(&mut state, &[("linux/amd64", RunMode::Native)], slots);
            let last = state.workers.last_mut().unwrap();
            last.grants = sets[grants].iter().copied().collect();
            last.trust = if trusted { TrustClass::Trusted } else { TrustClass::Untrusted };
        }
        for (asked, pushes) in jobs {
            asks(&mut state, &sets[asked]);
            state.waiting.last_mut().unwrap().pushes = pushes;
        }
        let allowed: Entitlements = sets[allowed].iter().copied().collect();
        state.shares.values_mut().for_each(|share| share.allowed = allowed.clone());
        for decision in plan(&state, Limits::default(), at(1)) {
            let find = |id| state.waiting.iter().find(|job| job.job == id).unwrap();
            match decision {
                Decision::Assign { job, worker, .. } => {
                    let job = find(job);
                    let worker = state.workers.iter().find(|w| w.id == worker).unwrap();
                    prop_assert!(job.entitlements.is_subset(&allowed));
                    prop_assert!(job.entitlements.is_subset(&worker.grants));
                    prop_assert!(job.entitlements.is_empty() || worker.trust == TrustClass::Trusted);
                }
                Decision::Hold { job, why, .. } => {
                    let is_one = |why: &Waiting| matches!(why, Waiting::Forbidden { .. } | Waiting::Ungranted { .. });
                    prop_assert!(!find(job).entitlements.is_empty() || !is_one(&why));
                }
            }
        }
    }
}
