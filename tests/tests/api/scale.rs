//! What a job may cost the database. Counts, not times; `tests/bench.sh scale` gives both, of a larger form.

use farm_tests::scale::{Form, run};

/// A later change may only lower these. Measured were 45 to 50 statements, 9 to 11 commits and 11.4 to 12.4 kB, with 5 to 17
/// jobs a second on a machine with much else to do; on one that is slower still, what farm does by the clock weighs more.
const STATEMENTS: f64 = 60.0;
const COMMITS: f64 = 15.0;
const WAL_BYTES: f64 = 15_000.0;

#[tokio::test]
async fn a_job_costs_the_database_no_more_than_before() {
    let figures = run(Form { workers: 100, jobs: 200, on_disk: false }).await;
    let job = figures.per_job;
    for (what, value, bound) in [
        ("statements", job.statements_once(), STATEMENTS),
        ("commits", job.commits, COMMITS),
        ("bytes of WAL", job.wal_bytes, WAL_BYTES),
    ] {
        // Less than nothing means that what farm does by the clock was counted wrongly.
        assert!(value > 0.0 && value <= bound, "{value:.1} {what} a job; {bound} are allowed\n{figures:#?}");
    }
}
