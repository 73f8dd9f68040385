use proptest::prelude::*;

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
}

fn record() -> Record {
    Record {
        worker: WorkerId::generate(),
        engine: EngineId::generate(),
        trusted_at: at(-100_000),
        probation_at: None,
        succeeded_at: None,
        failures: Vec::new(),
    }
}

fn failing(codes: &[&str]) -> Record {
    found(codes, SelfCheck::Failed)
}

fn found(codes: &[&str], found: SelfCheck) -> Record {
    let failed = |(n, code): (i64, &&str)| Failed {
        job: JobId::generate(),
        at: at(n),
        code: code.parse().unwrap(),
        found,
    };
    Record { failures: (0..).zip(codes).map(failed).collect(), ..record() }
}

fn sick(records: &[Record], now: i64) -> Vec<WorkerId> {
    judge(records, at(now))
        .into_iter()
        .filter_map(|verdict| match verdict {
            Verdict::Probation { worker, why } => {
                assert!(why.contains("in a row"), "{why}");
                Some(worker)
            }
            Verdict::Well { .. } => None,
        })
        .collect()
}

#[test]
fn several_jobs_in_a_row_that_failed_for_the_machines_reasons_are_needed() {
    let sound = Record { succeeded_at: Some(at(2)), ..record() };
    let worker = failing(&["engine_lost", "no_space", "engine_lost"]);
    assert_eq!(sick(&[worker.clone(), sound.clone()], 10), [worker.worker]);
    assert!(sick(&[failing(&["engine_lost"; 2]), sound.clone()], 10).is_empty());
    // The same job three times over may be the job's own doing.
    let mut poison = worker.clone();
    let job = JobId::generate();
    poison.failures.iter_mut().for_each(|failed| failed.job = job);
    assert!(sick(&[poison, sound.clone()], 10).is_empty());
}

#[test]
fn a_failures_code_is_held_against_no_worker_that_found_itself_well() {
    let sound = Record { succeeded_at: Some(at(2)), ..record() };
    let codes = [
        "engine_lost",
        "session_lost",
        "engine_error",
        "no_space",
        "worker_disk",
        "source_unreadable",
        "registry_unavailable",
        "emulator_missing",
        "worker_stopped",
        "run_killed",
        "run_failed",
        "words of a user",
    ];
    for code in codes {
        for passed in [SelfCheck::Passed, SelfCheck::Missing] {
            assert!(sick(&[found(&[code; 9], passed), sound.clone()], 10).is_empty(), "{code} {passed:?}");
        }
        let worker = failing(&[code; 3]);
        assert_eq!(sick(&[worker.clone(), sound.clone()], 10), [worker.worker], "{code}");
    }
    // What the coordinator measures, or no job can bring about.
    for code in ["worker_lost", "no_progress", "stopped_unasked"] {
        let worker = found(&[code; 3], SelfCheck::Missing);
        assert_eq!(sick(&[worker.clone(), sound.clone()], 10), [worker.worker], "{code}");
    }
}

#[test]
fn a_success_time_a_passed_probe_and_a_resume_make_up_for_it() {
    let worker = failing(&["engine_lost"; 3]);
    assert!(sick(&[Record { succeeded_at: Some(at(1)), ..worker.clone() }], 10).is_empty());
    assert!(sick(&[Record { trusted_at: at(0), ..worker.clone() }], 10).is_empty());
    assert!(sick(std::slice::from_ref(&worker), 3600).is_empty());
    assert_eq!(sick(std::slice::from_ref(&worker), 10), [worker.worker]);
}

#[test]
fn what_all_engines_suffer_alike_is_held_against_none() {
    let (one, other) = (failing(&["engine_lost"; 3]), failing(&["engine_lost"; 3]));
    assert!(sick(&[one.clone(), other.clone()], 10).is_empty());
    // One that fares better shows that it need not be so.
    let sound = Record { succeeded_at: Some(at(5)), ..record() };
    assert_eq!(sick(&[one.clone(), other.clone(), sound], 10), [one.worker, other.worker]);
    // Two workers beside one engine are no witnesses for each other.
    let twin = Record { engine: one.engine, ..other };
    assert_eq!(sick(&[one.clone(), twin.clone()], 10), [one.worker, twin.worker]);
    // One that had nothing to do says nothing.
    assert_eq!(sick(&[one.clone(), record()], 10), [one.worker]);
}

#[test]
fn a_coordinator_that_gives_nothing_is_the_workers_fault_only_where_others_reach_it() {
    let cut_off = found(&["source_unreachable"; 3], SelfCheck::Passed);
    assert!(sick(&[cut_off.clone(), record()], 10).is_empty());
    let before = Record { succeeded_at: Some(at(-5)), ..record() };
    assert!(sick(&[cut_off.clone(), before], 10).is_empty());
    let since = Record { succeeded_at: Some(at(5)), ..record() };
    assert_eq!(sick(&[cut_off.clone(), since], 10), [cut_off.worker]);
}

#[test]
fn an_ordinary_success_ends_probation() {
    let on_probation = Record { probation_at: Some(at(10)), ..failing(&["engine_lost"; 3]) };
    assert!(judge(std::slice::from_ref(&on_probation), at(20)).is_empty());
    let well = Record { succeeded_at: Some(at(15)), ..on_probation };
    assert_eq!(judge(std::slice::from_ref(&well), at(20)), [Verdict::Well { worker: well.worker }]);
}

#[test]
fn probes_come_at_once_then_after_growing_waits() {
    let waits: Vec<u64> = (0..9).map(|n| probe_wait(n).as_secs()).collect();
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 320, 600, 600]);
    assert_eq!(probe_wait(u32::MAX), Duration::from_secs(600));
}

proptest! {
    /// Whatever happens, nobody is judged by fewer jobs than it takes, nor by what came before its last success.
    #[test]
    fn nobody_is_judged_by_too_little(
        ends in prop::collection::vec((0..3_usize, 0..4_u128, 0..3000_i64, 0..3_usize), 0..40),
        now in 0..3000_i64,
    ) {
        let mut records = [record(), record(), record()];
        for (worker, job, when, what) in ends.iter().filter(|end| end.2 <= now) {
            let record = &mut records[*worker];
            let job = JobId::from(uuid::Uuid::from_u128(*job));
            match what {
                0 => record.succeeded_at = record.succeeded_at.max(Some(at(*when))),
                1 => record.failures.push(Failed {
                    job,
                    at: at(*when),
                    code: FailureCode::EngineLost,
                    found: SelfCheck::Failed,
                }),
                _ => record.failures.push(Failed {
                    job,
                    at: at(*when),
                    code: FailureCode::SourceUnreachable,
                    found: SelfCheck::Passed,
                }),
            }
        }
        for worker in sick(&records, now) {
            let record = records.iter().find(|record| record.worker == worker).unwrap();
            let since = record.succeeded_at.unwrap_or(at(-1)).max(at(now) - WINDOW);
            let jobs: BTreeSet<JobId> =
                record.failures.iter().filter(|failed| failed.at > since).map(|failed| failed.job).collect();
            prop_assert!(jobs.len() >= SEVERAL);
        }
    }
}
