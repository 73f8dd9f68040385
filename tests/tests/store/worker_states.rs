//! May a worker take jobs: what the database says, for all that can come together.

use farm_types::state::WorkerState;

use crate::fixture::world;

/// What may be said of a worker, as JSON of its row; each is there or not.
const FACTS: [(&str, &str); 7] = [
    ("removed_at", "\"2026-01-01\""),
    ("coordinator_id", "\"00000000-0000-7000-8000-000000000001\""),
    ("quarantined_at", "\"2026-01-01\""),
    ("draining", "true"),
    ("drained_at", "\"2026-01-01\""),
    ("withdrawn_at", "\"2026-01-01\""),
    ("probation_at", "\"2026-01-01\""),
];

/// In Rust's words.
fn expected(facts: [bool; 7]) -> WorkerState {
    match facts {
        [true, ..] => WorkerState::Removed,
        [_, false, ..] => WorkerState::Offline,
        [_, _, true, ..] => WorkerState::Quarantined,
        [_, _, _, true, ..] => WorkerState::Draining,
        [_, _, _, _, true, ..] => WorkerState::Drained,
        [_, _, _, _, _, true, _] => WorkerState::Withdrawn,
        [_, _, _, _, _, _, true] => WorkerState::Probation,
        _ => WorkerState::Online,
    }
}

#[tokio::test]
async fn the_database_and_rust_say_the_same_of_every_worker() {
    let world = world().await;
    let all: Vec<[bool; 7]> = (0..128).map(|n| std::array::from_fn(|at| n >> at & 1 == 1)).collect();
    let rows: Vec<String> = all
        .iter()
        .enumerate()
        .map(|(n, facts)| {
            let there = FACTS.iter().zip(facts).filter(|(_, is_there)| **is_there);
            let json: Vec<String> = there.map(|((name, value), _)| format!("\"{name}\": {value}")).collect();
            format!("({n}, '{{\"draining\": false, {}}}')", json.join(", ")).replace(", }", "}")
        })
        .collect();
    let said = world.database.psql(&format!(
        "SELECT farm_worker_state(jsonb_populate_record(NULL::workers, facts::jsonb)) \
         FROM (VALUES {}) AS worker (n, facts) ORDER BY n",
        rows.join(", ")
    ));
    let said: Vec<WorkerState> = said.lines().map(|word| word.parse().unwrap()).collect();
    assert_eq!(said, all.iter().copied().map(expected).collect::<Vec<_>>());
    // Nobody takes a job whom a single one of them keeps from it; probation alone does so only as long as there are others.
    for (facts, state) in all.iter().zip(said) {
        let is_kept = facts[0] || !facts[1] || facts[2..6].contains(&true);
        assert_eq!(state.is_leasable(), !is_kept, "{facts:?} is {state}");
    }
}

#[tokio::test]
async fn asking_for_a_workers_state_costs_no_call_of_a_function() {
    let world = world().await;
    for query in [
        "SELECT name FROM workers w WHERE farm_worker_state(w) = ANY('{online,probation}') FOR SHARE",
        "SELECT farm_worker_state(w) FROM workers w JOIN engines e ON e.id = w.engine_id WHERE w.removed_at IS NULL",
    ] {
        let plan = world.database.psql(&format!("EXPLAIN (VERBOSE) {query}"));
        assert!(plan.contains("CASE WHEN") && !plan.contains("farm_worker_state"), "{plan}");
    }
}
