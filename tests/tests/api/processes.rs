//! The processes: they start, stop and come back.
use farm_tests::farm::{Farm, WorkerSpec};

#[test]
fn a_farm_starts_and_each_part_comes_back_after_a_crash() {
    let mut farm = Farm::builder().worker(WorkerSpec::new("w1").slots(2)).start();
    assert!(!farm.token().is_empty());
    farm.kill_worker("w1");
    farm.start_worker("w1");
    farm.kill_coordinator();
    farm.start_coordinator();
    farm.add_worker(WorkerSpec::new("w2").platforms("linux/amd64"));
    let workers = farm.cli(&["workers"]).ok();
    assert!(workers.contains("w1") && workers.contains("w2"), "{workers}");
    farm.stop_worker("w1");
    farm.stop_coordinator();
}
