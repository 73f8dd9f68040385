//! Disks that are full: what can't be kept is refused, what needs no disk goes on, and nothing is lost.

use std::path::Path;

use farm_tests::disk::SmallDisk;

use crate::gate::Gate;
use crate::support::*;

/// A context of so many bytes that nobody can pack.
fn heavy(bytes: usize) -> Context {
    let mut state = u64::from_str_radix(&nonce(), 16).unwrap() | 1;
    let content: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()[7]
    })
    .take(bytes)
    .collect();
    Context::new("FROM scratch\nCOPY . /\n").file("heavy", content)
}

/// Bytes in files below a folder.
fn used(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => used(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn a_coordinator_whose_disk_is_full_refuses_sources_and_does_all_else() {
    let mut farm = small_farm();
    farm.stop_coordinator();
    let folder = farm.folder().join("coordinator");
    let disk = SmallDisk::mount(&folder, "2m");
    farm.start_coordinator();
    let gate = Gate::new();
    let context = gate.context();
    let tag = format!("{}:1", repository("full-disk"));
    let mut before =
        farm.cli_spawn("before", &["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"]);
    let step = gate.arrival();

    // A large file goes piece by piece, small ones go in packs.
    let kept = used(&folder);
    let (large, small) = (heavy(12_000_000), heavy(0));
    for n in 0..12 {
        std::fs::write(small.path().join(format!("part-{n}")), heavy_bytes(&large, n)).unwrap();
    }
    for context in [&large, &small] {
        let refused = submit(&farm, context, &["--platform", "linux/amd64"]);
        assert_eq!(refused.status, 3, "{refused:?}");
        says(
            &refused.stderr,
            &[
                &farm.url(),
                "no space left where it keeps sources",
                "coordinator's state folder",
                "submit again",
            ],
        );
        // Whole packs stay, for the next try. A half of a file does not, or the disk would be full for good.
        if std::ptr::eq(context, &large) {
            until("the space that a half took", LONG, || (used(&folder) == kept).then_some(()));
        }
    }
    // What runs goes on and is published; what was built is told.
    step.open();
    assert_eq!(before.wait_exit(LONG).code(), Some(0), "{}", before.tail());
    assert!(raw(&tag).is_some());
    assert_eq!(builds(&farm), 1);
    says(&farm.cli(&["logs", &build_id(&before.output())]).ok(), &["gate.py"]);

    disk.resize("64m");
    for context in [&large, &small] {
        submit(&farm, context, &["--platform", "linux/amd64"]).ok();
    }
    farm.stop_coordinator();
}

fn heavy_bytes(of: &Context, part: usize) -> Vec<u8> {
    let bytes = std::fs::read(of.path().join("heavy")).unwrap();
    bytes[part * 200_000..][..200_000].to_vec()
}

#[test]
fn a_worker_whose_disk_is_full_loses_no_result_and_works_on_when_there_is_space() {
    // A worker that has too little room takes no jobs; this one is to be surprised.
    let worker = farm_tests::farm::WorkerSpec::new("w1").platforms(BOTH).slots(2);
    let worker = worker.arg("--min-free=0").arg("--prune-below=0");
    let mut farm = farm_tests::farm::Farm::builder().worker(worker).start();
    farm.stop_worker("w1");
    let disk = SmallDisk::mount(&farm.folder().join("w1"), "16m");
    farm.start_worker("w1");
    let gate = Gate::new();
    let context = gate.context();
    let tag = format!("{}:1", repository("full-spool"));
    let mut cli =
        farm.cli_spawn("full", &["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"]);
    let step = gate.arrival();
    // Nobody is there to take the result when there is one, and there is no place to keep it.
    disk.fill();
    farm.kill_coordinator();
    step.open_and_see_it_end();
    farm.start_coordinator();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    let record = show(&farm, &build_id(&cli.output()));
    assert_eq!(record["platforms"][0]["attempts"], 1, "{record:#}");
    let log = farm.worker("w1").output();
    says(&log, &["the result could not be kept on disk", "No space left on device"]);

    // A source can't be fetched: that is the machine's fault, and said.
    let heavy = heavy(1_000_000);
    let failed = submit(&farm, &heavy, &["--platform", "linux/amd64"]);
    assert_eq!(failed.status, 1, "{failed:?}");
    says(&failed.stdout, &["the source could not be kept on the worker's disk", "No space left on device"]);
    let record = show(&farm, &build_id(&failed.stdout));
    assert_eq!(
        (&record["failure"]["cause"], &record["failure"]["code"]),
        (&"infrastructure".into(), &"worker_disk".into()),
        "{record:#}"
    );
    disk.free();
    submit(&farm, &heavy, &["--platform", "linux/amd64"]).ok();
    // Nothing of all that is left to be told.
    let results = farm.folder().join("w1").join("results");
    until("an empty spool", LONG, || (used(&results) == 0).then_some(()));
    farm.stop_worker("w1");
}
