//! What a worker measures after a failure, where the failure's words prove nothing.

use farm_types::{Offer, Platform, Support};
use farm_worker::aftermath::{check, measured};
use farm_worker::attempts::Identity;
use farm_worker::buildkit::probe_executable;
use farm_worker::engine_watch::Ready;
use farm_worker::gauge::{Disks, Lately};

use super::failures::detour;
use super::*;

async fn ready(address: &str) -> Ready {
    let engine = connect(address).await;
    let native = Offer { platform: "linux/amd64".parse().unwrap(), support: Support::Native, told: false };
    Ready { engine, identity: Identity { offers: vec![native], ..Identity::default() } }
}

/// A program of this platform, run in an image that is said to be of that one.
fn foreign(of: &Platform, image: &Platform) -> Solve {
    let program = probe_executable(of).unwrap();
    let tree = MemoryTree::new([("program", 0o755, program), ("salt", 0o644, fresh().into_bytes())]);
    let mut solve = solve("FROM scratch\nCOPY . /\nRUN [\"/program\"]\n", tree);
    solve.platform = image.clone();
    solve
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_the_machines_fault_only_where_its_platform_cannot_be() {
    let Some(address) = address() else { return };
    let ready = ready(&address).await;
    let (here, foreign_one): (Platform, Platform) =
        ("linux/amd64".parse().unwrap(), "linux/s390x".parse().unwrap());
    if ready.engine.probe(&foreign_one).await.is_ok() {
        eprintln!("skipped: this machine runs s390x");
        return;
    }
    for (image, cause, code) in [
        (&foreign_one, Cause::Infrastructure, "emulator_missing"),
        // What a user copied into an image that runs here.
        (&here, Cause::User, "run_failed"),
    ] {
        let failure = failure(&ready.engine, foreign(&foreign_one, image)).await;
        assert_eq!((failure.cause, failure.code.as_str()), (Cause::User, "run_failed"));
        let failure = measured(failure, &ready, (image, &Default::default()), Lately::Room, false).await;
        assert_eq!((failure.cause, failure.code.as_str()), (cause, code), "{image}");
        assert!(failure.step.is_some() && failure.source.is_some());
    }
    // Who only says so.
    let text = format!("{}\nRUN echo 'exec /bin/sh: exec format error'; : {}; exit 1\n", from(), fresh());
    let said = failure(&ready.engine, solve(&text, MemoryTree::default())).await;
    let said = measured(said, &ready, (&here, &Default::default()), Lately::Room, false).await;
    assert_eq!(said.code.as_str(), "run_failed");
}

#[tokio::test]
async fn a_full_disk_is_what_was_seen_and_not_what_was_said() {
    let Some(address) = address() else { return };
    let ready = ready(&address).await;
    let here: Platform = "linux/amd64".parse().unwrap();
    let failing = async |print: &str| {
        let text = format!("{}\nRUN echo '{print}'; : {}; exit 3\n", from(), fresh());
        failure(&ready.engine, solve(&text, MemoryTree::default())).await
    };
    for print in ["write: No space left on device", "hello"] {
        for (lately, is_program, code) in [
            (Lately::Full, false, "no_space"),
            // Which is never run twice for its failure.
            (Lately::Full, true, "run_failed"),
            (Lately::Room, false, "run_failed"),
            // The engine is asked: it builds.
            (Lately::Unseen, false, "run_failed"),
        ] {
            let failure =
                measured(failing(print).await, &ready, (&here, &Default::default()), lately, is_program)
                    .await;
            assert_eq!((failure.code.as_str(), failure.exit_code), (code, Some(3)), "{print}, {lately:?}");
        }
    }
}

#[tokio::test]
async fn a_worker_that_looks_at_itself_finds_an_engine_that_is_away() {
    let Some(address) = address() else { return };
    let folder = tempfile::tempdir().unwrap();
    let disks = Disks { engine_root: None, state_dir: folder.path().to_owned() };
    let detour = detour(&address);
    let ready = ready(&detour.address).await;
    assert_eq!(check(&ready, &disks).await, Ok(()));
    detour.cut.cancel();
    let found = check(&ready, &disks).await.unwrap_err();
    assert!(found.contains("engine"), "{found}");
}
