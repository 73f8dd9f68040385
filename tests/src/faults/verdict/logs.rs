//! What the farm kept of what steps wrote: each line once, in order, none missing.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Case, Report};
use crate::farm::output;
use crate::faults::facts::{Attempt, Build};

pub fn check(case: &Case<'_>, report: &mut Report) {
    for (id, user) in &case.submitted {
        let Some(lines) = user.lines() else { continue };
        let said = output(&mut case.run.stage.command(&["logs", id, "--json"]));
        if said.status != 0 {
            report.log_bytes_wrong += 1;
            report.violation(format!("the logs of {id} can't be had: {said:?}"));
            continue;
        }
        let mut written: BTreeMap<(String, u64), Vec<Option<u32>>> = BTreeMap::new();
        for line in said.stdout.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            let key = (line["platform"].as_str().unwrap_or_default().to_owned(), line["attempt"].as_u64());
            let text = line["text"].as_str().unwrap_or_default();
            // What the attempt itself says has no stream of the step's.
            if text.contains(" line ") {
                written.entry((key.0, key.1.unwrap_or(0))).or_default().push(user.line_number(text));
            }
        }
        for attempt in case.attempts.iter().filter(|attempt| attempt.build == *id) {
            let key = (attempt.platform.clone(), u64::from(attempt.number));
            let have = written.remove(&key).unwrap_or_default();
            report.log_lines += u64::try_from(have.len()).unwrap_or(u64::MAX);
            let complete = attempt.state == "succeeded" || is_users_failure(attempt, case);
            if let Some(wrong) = wrong(&have, lines, complete, was_here(attempt, case)) {
                report.log_bytes_wrong += 1;
                report.violation(format!("log of {id}, {attempt:?}: {wrong}"));
            }
        }
        if !written.is_empty() {
            report.log_bytes_wrong += 1;
            report.violation(format!("{id} has lines of attempts that never were: {:?}", written.keys()));
        }
    }
}

/// A step that ran on this engine before isn't run again, or goes on with whoever waits for it.
fn was_here(attempt: &Attempt, case: &Case<'_>) -> bool {
    case.attempts.iter().any(|other| {
        other.build == attempt.build
            && other.platform == attempt.platform
            && other.number < attempt.number
            && other.engine == attempt.engine
    })
}

fn is_users_failure(attempt: &Attempt, case: &Case<'_>) -> bool {
    let cause = case.builds.get(&attempt.build).and_then(|build: &Build| build.cause.as_deref());
    attempt.state == "failed" && cause == Some("user") && attempt.code.as_deref() == Some("run_failed")
}

/// What is wrong with the lines of an attempt, by their numbers (nothing: a line that was never written). `complete`: its
/// step has come to its end. `was_here`: then what is told may begin later, or be nothing at all.
fn wrong(have: &[Option<u32>], lines: u32, complete: bool, was_here: bool) -> Option<String> {
    let numbers: Option<Vec<u32>> = have.iter().copied().collect();
    let Some(numbers) = numbers else { return Some("a line is mangled".to_owned()) };
    if let Some(pair) = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        return Some(format!("line {} comes after line {}", pair[1], pair[0]));
    }
    if !was_here && numbers.first().is_some_and(|first| *first != 1) {
        return Some(format!("it begins with line {:?}", numbers.first()));
    }
    let ends_well = numbers.last() == Some(&lines) || (was_here && numbers.is_empty());
    (complete && !ends_well).then(|| format!("it ends with line {:?} of {lines}", numbers.last()))
}

#[cfg(test)]
mod tests {
    use super::wrong;

    #[test]
    fn a_line_that_is_lost_doubled_mangled_or_out_of_order_is_wrong() {
        let lines = |numbers: &[u32]| numbers.iter().copied().map(Some).collect::<Vec<_>>();
        assert_eq!(wrong(&lines(&[1, 2, 3]), 3, true, false), None);
        for bad in [&[1, 3][..], &[1, 2, 2, 3], &[2, 1, 3], &[2, 3], &[1, 2], &[1, 2, 3, 4], &[]] {
            assert!(wrong(&lines(bad), 3, true, false).is_some(), "{bad:?}");
        }
        assert!(wrong(&[Some(1), None, Some(3)], 3, true, false).is_some());
        // What was broken off ends anywhere, but begins at the begin.
        assert_eq!(wrong(&lines(&[1, 2]), 3, false, false), None);
        assert!(wrong(&lines(&[2]), 3, false, false).is_some());
        // What an engine has done before it needn't tell again.
        assert_eq!(wrong(&[], 3, true, true), None);
        assert_eq!(wrong(&lines(&[2, 3]), 3, true, true), None);
        assert!(wrong(&lines(&[1, 2]), 3, true, true).is_some());
    }
}
