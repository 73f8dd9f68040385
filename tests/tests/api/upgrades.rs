//! Schemas and coordinators of different age: the command, a start, and one that runs meanwhile.

use std::path::Path;
use std::time::Duration;

use farm_tests::bed::Bed;
use farm_tests::database::Database;
use farm_tests::farm::{Farm, Output, output, program};

/// `farm-coordinator ARGS` on a database, with a state folder of its own, to its end.
fn coordinator(database: &Database, folder: &Path, args: &[&str]) -> Output {
    let mut command = program("farm-coordinator");
    command.args(["--listen", "127.0.0.1:0", "--database-url", database.url()]);
    command.arg("--state-dir").arg(folder).args(args);
    output(&mut command)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(Bed::from_env().test_folder()).unwrap()
}

/// As a newer farm leaves it, which lets coordinators from this schema on run into it.
fn make_newer(database: &str, oldest: &str) {
    farm_tests::database::psql(
        database,
        &format!(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9000, 'newer', true, '', 0) ON CONFLICT DO NOTHING;
             UPDATE schema_compat SET oldest = {oldest}, migrated_by = 'farm-coordinator 9.0.0'"
        ),
    );
}

#[test]
fn the_command_says_what_has_to_run_and_runs_it_and_a_start_can_leave_it_to_that() {
    let (database, folder) = (Database::empty(), folder());
    let config = folder.path().join("manual.toml");
    std::fs::write(&config, "database_migrate = 'manual'").unwrap();
    let manual = ["--config", config.to_str().unwrap()];

    let check = coordinator(&database, folder.path(), &["migrate", "--check"]);
    assert_eq!(check.status, 3, "{check:?}");
    for part in ["the database has schema 0, ", "0001 (schema): to run\n", "0023 (schema compat): to run\n"] {
        assert!(check.stdout.contains(part), "{part:?} is missing: {}", check.stdout);
    }
    assert_eq!(database.psql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "0");
    let refused = coordinator(&database, folder.path(), &manual);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.stderr.contains("run `farm-coordinator migrate`"), "{}", refused.stderr);

    let migrated = coordinator(&database, folder.path(), &["migrate"]).ok();
    assert!(migrated.contains("0023 (schema compat): done in "), "{migrated}");
    assert!(migrated.lines().last().unwrap().ends_with("needs it"), "{migrated}");
    let check = coordinator(&database, folder.path(), &["migrate", "--check"]);
    assert_eq!((check.status, check.stdout.lines().count()), (0, 1), "{check:?}");
    let args = ["migrate", "--limit", "a day"];
    let wrong = coordinator(&database, folder.path(), &args);
    assert!(wrong.status == 2 && wrong.stderr.contains("write it as 90s"), "{wrong:?}");
    Farm::builder().database_url(database.url()).config("database_migrate = 'manual'").start();
}

#[test]
fn a_coordinator_runs_into_a_newer_schema_that_lets_it_and_says_why_into_no_other() {
    let mut farm = Farm::builder().coordinators(2).start();
    let own = farm_tests::database::psql(farm.database_url(), "SELECT max(version) FROM _sqlx_migrations");
    farm.kill_coordinator();
    make_newer(farm.database_url(), &own);
    farm.start_coordinator();
    farm.cli(&["builds"]).ok();

    make_newer(farm.database_url(), "9000");
    let ended = farm.coordinator().wait_exit(Duration::from_secs(30));
    assert_eq!(ended.code(), Some(1));
    let log = farm.coordinator().output();
    assert!(log.contains("takes coordinators of schema 9000 or newer only"), "{log}");
    let folder = folder();
    let mut command = program("farm-coordinator");
    command.args(["--listen", "127.0.0.1:0", "--database-url", farm.database_url()]);
    let refused = output(command.arg("--state-dir").arg(folder.path()));
    assert_eq!(refused.status, 1, "{refused:?}");
    for part in [
        &format!("this is farm-coordinator {} with schema {own}", env!("CARGO_PKG_VERSION")),
        "the database has schema 9000, migrated by farm-coordinator 9.0.0",
        "coordinators of schema 9000 or newer only",
        "start a newer farm-coordinator",
        "restore the database from a copy of before its upgrade",
    ] {
        assert!(refused.stderr.contains(part), "{part:?} is missing: {}", refused.stderr);
    }
}
