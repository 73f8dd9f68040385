//! What a job may cost the database. Counts, not times; `tests/bench.sh scale` gives both, of a larger form.

use farm_tests::scale::{Form, run};

/// A later change may only lower these. Measured were 42 to 49 statements, 8 to 14 commits and 10.8 to 12.2 kB, at 35 to 75 jobs
/// a second, with and without three busy loops beside it on two cores. The spread is that of looks at the queue and at what has
/// to be published, which jobs that come or end together share: 0.6 to 1.7 a job, of three statements each.
const STATEMENTS: f64 = 54.0;
const COMMITS: f64 = 15.0;
const WAL_BYTES: f64 = 13_500.0;

#[tokio::test]
async fn a_job_costs_the_database_no_more_than_before() {
    let figures = run(Form { workers: 100, jobs: 200, on_disk: false }).await;
    let job = figures.per_job;
    // With each statement: `--success-output final` shows them.
    println!("{figures:#?}");
    for (what, value, bound) in [
        ("statements", job.statements, STATEMENTS),
        ("commits", job.commits, COMMITS),
        ("bytes of WAL", job.wal_bytes, WAL_BYTES),
    ] {
        // Less than nothing means that what farm does by the clock was counted wrongly.
        assert!(value > 0.0 && value <= bound, "{value:.1} {what} a job; {bound} are allowed\n{figures:#?}");
    }
}
