//! The environment of tests and of what they start: nothing in it comes from the machine or from whoever calls.
//!
//! `tests/run.sh` makes it anew for the tests, the test bed adds where its parts are, nextest what it tells each test
//! ([`ALLOWED`], [`ALLOWED_BEGINNINGS`]); of all that, processes that a test starts get [`PASSED_ON`] and what the test
//! itself sets. One variable more: in `isolate` in tests/run.sh or in [`crate::bed::Bed::to_env`], and here.

use std::ffi::OsStr;
use std::process::Command;

/// What goes on to the processes that tests start.
pub const PASSED_ON: &[&str] = &["PATH", "HOME", "LANG", "TZ", "DOCKER_HOST", "DOCKER_CONFIG"];

/// Everything else that may be in a test's environment.
pub const ALLOWED: &[&str] = &[
    // tests/run.sh
    "CI",
    "TERM",
    "TRYCMD",
    "SQLX_OFFLINE",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    // The test bed, for #[sqlx::test].
    "DATABASE_URL",
    // A shell between run.sh and here.
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    // rustup, cargo and nextest.
    "CARGO",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "LD_LIBRARY_PATH",
    "RUST_RECURSION_COUNT",
    "RUSTUP_TOOLCHAIN_SOURCE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "OUT_DIR",
    "NEXTEST",
];

/// The same, by how names begin.
pub const ALLOWED_BEGINNINGS: &[&str] =
    &["FARM_TEST_", "NEXTEST_", "__NEXTEST", "CARGO_PKG_", "CARGO_BIN_EXE_", "CARGO_PRIMARY_PACKAGE"];

/// Whether a test may find this variable in its environment.
pub fn is_allowed(name: &str) -> bool {
    PASSED_ON.contains(&name)
        || ALLOWED.contains(&name)
        || ALLOWED_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// A command that gets [`PASSED_ON`] and nothing else of this process's environment.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    clean(&mut command);
    command
}

/// Makes a command one of [`command`]'s; what was set for it before is forgotten.
pub fn clean(command: &mut Command) {
    command.env_clear();
    command.envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::run;

    /// What tests/run.sh gives to tests, called by somebody with all of this in the environment.
    fn seen_from(outside: &[(&str, &str)], words: &[&str]) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/run.sh");
        let mut caller = command("sh");
        caller.args(["-c", "umask 077; exec \"$@\"", "sh", "bash", script, "env"]).args(words);
        caller.current_dir("/");
        run(caller.envs(outside.iter().copied()))
    }

    const NONSENSE: &[(&str, &str)] = &[
        ("HOME", "/nonexistent"),
        ("TMPDIR", "/nonexistent"),
        ("XDG_CONFIG_HOME", "/nonexistent"),
        ("XDG_STATE_HOME", "/nonexistent"),
        ("FARM_URL", "nonsense"),
        ("FARM_TOKEN", "nonsense"),
        ("FARM_TEST_ENGINE", "nonsense"),
        ("FARM_TEST_OWN_MACHINE", "1"),
        ("DATABASE_URL", "nonsense"),
        ("PGHOST", "nonsense"),
        ("REGISTRY_HTTP_ADDR", "nonsense"),
        ("DOCKER_HOST", "nonsense"),
        ("DOCKER_CONFIG", "/nonexistent"),
        ("BUILDX_BUILDER", "nonsense"),
        ("BUILDKIT_PROGRESS", "nonsense"),
        ("http_proxy", "http://127.0.0.1:1"),
        ("SOURCE_DATE_EPOCH", "nonsense"),
        ("LANG", "tlh_QO"),
        ("LC_ALL", "tlh_QO"),
        ("TZ", "Mars/Olympus"),
        ("SQLX_OFFLINE", "nonsense"),
        ("CARGO_HOME", "/nonexistent"),
        ("CARGO_TARGET_DIR", "/nonexistent"),
        ("CARGO_BUILD_TARGET", "nonsense"),
        ("RUSTUP_HOME", "/nonexistent"),
        ("RUSTUP_TOOLCHAIN", "nonsense"),
        ("RUSTFLAGS", "nonsense"),
        ("RUST_LOG", "nonsense"),
        ("RUST_BACKTRACE", "nonsense"),
        ("NEXTEST_PROFILE", "nonsense"),
        ("NO_COLOR", "1"),
        ("CLICOLOR_FORCE", "1"),
        ("GIT_DIR", "/nonexistent"),
        ("CDPATH", "/"),
        ("SUDO_UID", "12345"),
    ];

    #[test]
    fn whatever_the_caller_has_set_no_test_sees_it() {
        let seen = seen_from(NONSENSE, &[]);
        for line in seen.lines() {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            assert!(is_allowed(name) && !name.starts_with("FARM_") && !name.starts_with("NEXTEST"), "{line}");
            let given = NONSENSE.iter().find(|(given, _)| *given == name);
            assert!(given.is_none_or(|(_, given)| *given != value), "{line}");
        }
        for name in ["PATH", "HOME", "LANG", "TZ", "CI", "SQLX_OFFLINE", "CARGO_HOME", "RUSTUP_HOME"] {
            assert!(seen.lines().any(|line| line.starts_with(&format!("{name}="))), "no {name} in\n{seen}");
        }
    }

    #[test]
    fn programs_of_the_callers_own_are_not_taken_and_files_are_open_to_all() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["docker", "dockerd", "skopeo"] {
            std::fs::write(folder.path().join(name), "#!/bin/sh\necho older\n").unwrap();
            run(command("chmod").arg("755").arg(folder.path().join(name)));
        }
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        let script = "umask; for it in docker dockerd skopeo; do command -v $it; done; ls -A \"$HOME\"";
        let seen = seen_from(&[("PATH", &path)], &["sh", "-c", script]);
        assert!(seen.starts_with("0022\n"), "{seen}");
        assert!(!seen.contains(folder.path().to_str().unwrap()), "{seen}");
    }

    #[test]
    fn what_a_test_starts_gets_little_of_the_tests_own_environment() {
        // nextest and cargo set some of these in any case.
        let own: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
        assert!(own.iter().any(|name| name.starts_with("CARGO_")), "{own:?}");
        let seen = run(&mut command("env"));
        for line in seen.lines() {
            let name = line.split_once('=').map_or(line, |(name, _)| name);
            assert!(PASSED_ON.contains(&name), "{line}");
        }
    }
}
