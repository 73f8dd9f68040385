//! Floods and old logs, with a real engine.

use farm_tests::database::psql;
use farm_tests::farm::Farm;

use crate::support::*;

fn number(farm: &Farm, sql: &str) -> i64 {
    psql(farm.database_url(), sql).parse().unwrap()
}

#[test]
fn a_step_that_writes_without_end_is_cut_off_in_the_log_and_goes_on() {
    let farm = with_worker(Farm::builder().config("[limits]\nlog_bytes = 65536\n"));
    let n = nonce();
    let context = Context::new(&format!(
        "FROM {BASE}\nRUN seq -f 'line %g {n}' 1 50000\nRUN echo after the flood {n} > /after\n"
    ));
    let tag = format!("{}:1", repository("flood"));
    let stdout = submit(&farm, &context, &["-t", &tag, "--platform", "linux/amd64"]).ok();
    says(
        &stdout,
        &[
            "| line 1 ",
            "[farm: cut off here. The steps have written as much as is kept of one attempt: 64 KiB",
            "published",
        ],
    );
    assert!(!stdout.contains("line 49999"), "nothing was cut off");
    let id = build_id(&stdout);
    let logs = farm.cli(&["logs", &id]).ok();
    // The step behind it is there, and its end, as the engine and the worker saw it.
    says(&logs, &["[farm: cut off here.", "after the flood"]);
    says(&farm.cli(&["logs", &id, "--json"]).ok(), &["[farm: cut off here."]);
    let shown = show(&farm, &id);
    assert_eq!(shown["state"], "succeeded", "{shown:#}");
    let stored = number(&farm, "SELECT max(log_bytes) FROM attempts");
    assert!((40_000..100_000).contains(&stored), "{stored}");
    assert!(raw(&tag).is_some());
}

#[test]
fn a_log_is_printed_alike_before_and_after_it_is_sealed() {
    let farm = with_worker(Farm::builder().config("[retention]\nseal_after_seconds = 8\n"));
    let n = nonce();
    let context = Context::new(&format!("FROM {BASE}\nRUN seq -f 'line %g {n}' 1 3000; echo warm >&2\n"));
    let stdout = submit(&farm, &context, &["--platform", "linux/amd64"]).ok();
    let id = build_id(&stdout);
    let print = || {
        ["", "--json"].map(|flag| farm.cli(&["logs", &id, flag][..if flag.is_empty() { 2 } else { 3 }]).ok())
    };
    let before = print();
    assert!(number(&farm, "SELECT count(*) FROM attempt_chunks") > 0, "sealed already");
    says(&before[0], &[&format!("line 1 {n}"), &format!("line 3000 {n}"), "warm"]);
    until("sealed log", LONG, || (number(&farm, "SELECT count(*) FROM attempt_chunks") == 0).then_some(()));
    assert!(number(&farm, "SELECT count(*) FROM sealed_logs") > 0);
    let after = print();
    assert!(before == after, "before:\n{}\nafter:\n{}", before[0], after[0]);
}
