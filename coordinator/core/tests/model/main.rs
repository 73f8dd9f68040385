//! The whole farm as a model, under operations in any order: what `docs/architecture.md` calls invariants holds after each,
//! and at the end, once nothing is killed any more, every build is final and every tag is what was wanted last.
//!
//! Nothing here runs: database, workers, coordinators and registry are values ([`world`]), the decisions are those of
//! `farm-core`. What is checked is that the decisions and their premises are enough, whatever is lost, late, doubled or
//! out of order. That the store's SQL does the same is for the tests on Postgres and for those with real processes.
//!
//! `FARM_MODEL_BUILDS=100000` goes on until so many builds were submitted; otherwise two thousand are. A sequence that fails
//! is made as short as it goes, printed, and kept in `regressions.txt`, from which it is tried first ever after.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a panic is the report")]

mod invariants;
mod ops;
mod publish;
mod settle;
mod work;
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestRunner};

use crate::ops::{Op, apply, start};
use crate::publish::RECHECK_FOR;

/// Builds of the short run.
const BUILDS: usize = 2_000;

#[test]
fn whatever_happens_in_whatever_order_no_build_is_lost_and_no_tag_goes_wrong() {
    let wanted = std::env::var("FARM_MODEL_BUILDS").ok().map_or(BUILDS, |text| text.parse().unwrap());
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model/regressions.txt");
    let (submitted, ops) = (AtomicUsize::new(0), AtomicUsize::new(0));
    while submitted.load(Ordering::Relaxed) < wanted {
        let config = Config {
            cases: 64,
            max_shrink_iters: 20_000,
            failure_persistence: Some(Box::new(FileFailurePersistence::Direct(file))),
            // The usual one has vector instructions, each of which is a call where nothing is optimized: 70 % of the time.
            rng_algorithm: RngAlgorithm::XorShift,
            ..Config::default()
        };
        let mut runner = TestRunner::new(config);
        let lives = (prop::collection::vec(any::<Op>(), 1..300), 0..RECHECK_FOR / 4);
        let ran = runner.run(&lives, |(life, stopped_for)| {
            let mut world = start();
            for op in &life {
                let before = world.clone();
                apply(&mut world, op);
                invariants::hold(&before, &world);
            }
            settle::settle(&mut world, stopped_for);
            submitted.fetch_add(world.builds.len(), Ordering::Relaxed);
            ops.fetch_add(life.len(), Ordering::Relaxed);
            Ok(())
        });
        if let Err(failed) = ran {
            panic!("{failed}");
        }
    }
    println!("{} operations, {} builds, all final", ops.into_inner(), submitted.into_inner());
}

/// A life that random ones came upon: the leader is stopped between its claim of a tag and the put, a newer build publishes
/// under another leader, and the former one goes on an hour later, dying before it can tell.
#[test]
fn a_put_that_was_stopped_for_an_hour_does_not_have_the_last_word() {
    use Op::{Land, Lead, Look, Pass, Step, Submit, Work};
    let mut world = start();
    for op in [Submit { platforms: 1, tag: Some(0) }, Lead(false), Work(0), Work(0), Look(false, 0)] {
        apply(&mut world, &op);
    }
    // Index, look, claim, check.
    (0..4).for_each(|_| apply(&mut world, &Step(0)));
    let stopped = world.tasks.remove(0);
    assert_eq!(stopped.step, world::Step::Send);
    // The rest of that process stands still, too.
    apply(&mut world, &Op::Crash(false));
    apply(&mut world, &Op::Stop(false));
    for op in [Pass(3), Submit { platforms: 1, tag: Some(0) }, Lead(true), Work(0), Work(0)] {
        apply(&mut world, &op);
    }
    for _ in 0..40 {
        [Lead(true), Look(true, 0), Step(0), Land(0)].iter().for_each(|op| apply(&mut world, op));
    }
    assert_eq!((world.registry[&0], world.tasks.len()), (1, 0));
    apply(&mut world, &Pass(3600));
    apply(&mut world, &Op::Stop(false));
    world.tasks.push(stopped);
    apply(&mut world, &Step(0));
    apply(&mut world, &Land(0));
    assert_eq!(world.registry[&0], 0, "it came late");
    world.tasks.clear();
    settle::settle(&mut world, 0);
    assert_eq!(world.registry[&0], 1, "and was put back");
}

/// A put that the registry finishes after the build was given up and retried: what the retry made has the last word, though both
/// have one place in the order of intent.
#[test]
fn a_late_put_of_what_was_retried_does_not_have_the_last_word() {
    use Op::{House, Land, Lead, Look, Pass, Retry, Step, Submit, Trouble, Work};
    let mut world = start();
    let go = |world: &mut world::World, ops: &[Op]| ops.iter().for_each(|op| apply(world, op));
    go(&mut world, &[Submit { platforms: 1, tag: Some(0) }, Lead(false), Work(0), Pass(3598), Lead(false)]);
    go(&mut world, &[Look(false, 0)]);
    // Index, look, claim, check, send; its answer doesn't come, and the build's time is over.
    (0..5).for_each(|_| go(&mut world, &[Step(0)]));
    assert_eq!(world.puts.len(), 1);
    go(&mut world, &[Trouble(0), Pass(5), House(false)]);
    assert_eq!(world.builds[0].state, farm_types::state::BuildState::Failed);
    go(&mut world, &[Retry(0), Work(0), Work(0), Look(false, 0), Look(false, 0)]);
    (0..5).for_each(|_| go(&mut world, &[Step(0)]));
    // The second put overtakes the first.
    go(&mut world, &[Land(1), Step(0), Step(0), Step(0), Land(0)]);
    assert_eq!((world.registry[&0], world.tasks.len()), (0, 0), "it came late");
    settle::settle(&mut world, 0);
    assert_eq!(world.registry[&0], 1, "and what the retry made was put back");
}

/// The leader is stopped when it is about to put a tag back, and goes on long after a newer build has published under another
/// leader, dying before it can tell.
#[test]
fn a_put_back_that_was_stopped_for_an_hour_does_not_have_the_last_word() {
    use Op::{Crash, Land, Lead, Look, Pass, Step, Stop, Submit, Trouble, Work};
    let mut world = start();
    let go = |world: &mut world::World, ops: &[Op]| ops.iter().for_each(|op| apply(world, op));
    go(&mut world, &[Submit { platforms: 1, tag: Some(0) }, Lead(false), Work(0), Work(0), Look(false, 0)]);
    // The first put of the first build is not answered; it is put once more.
    (0..5).for_each(|_| go(&mut world, &[Step(0)]));
    go(&mut world, &[Trouble(0), Look(false, 0)]);
    (0..5).for_each(|_| go(&mut world, &[Step(0)]));
    go(&mut world, &[Land(1), Step(0), Step(0), Step(0)]);
    // A newer one soon after it; then that first put comes after all.
    go(&mut world, &[Submit { platforms: 1, tag: Some(0) }, Work(0), Work(0), Look(false, 0)]);
    (0..5).for_each(|_| go(&mut world, &[Step(0)]));
    go(&mut world, &[Land(1), Step(0), Step(0), Step(0), Land(0)]);
    assert_eq!((world.registry[&0], world.tasks.len()), (0, 0), "it came late");
    // Which is seen: look again, claim, check.
    go(&mut world, &[Pass(61), Look(false, 0)]);
    (0..3).for_each(|_| go(&mut world, &[Step(0)]));
    let stopped = world.tasks.remove(0);
    assert_eq!(stopped.step, world::Step::SendBack);
    go(&mut world, &[Crash(false), Stop(false), Pass(100), Lead(true)]);
    // The next leader puts it back as well, and a newest build publishes.
    for _ in 0..3 {
        go(&mut world, &[Pass(61), Look(true, 0)]);
        (0..6).for_each(|_| go(&mut world, &[Land(0), Step(0)]));
    }
    assert_eq!(world.registry[&0], 1);
    go(&mut world, &[Pass(100), Submit { platforms: 1, tag: Some(0) }, Work(0), Work(0), Look(true, 0)]);
    for _ in 0..3 {
        (0..6).for_each(|_| go(&mut world, &[Land(0), Step(0)]));
        go(&mut world, &[Pass(61), Look(true, 0)]);
    }
    assert_eq!((world.registry[&0], world.tasks.len()), (2, 0));
    go(&mut world, &[Pass(3600), Stop(false)]);
    world.tasks.push(stopped);
    go(&mut world, &[Step(0), Land(0)]);
    assert_eq!(world.registry[&0], 1, "it came late");
    world.tasks.clear();
    settle::settle(&mut world, 0);
    assert_eq!(world.registry[&0], 2, "and was put back");
}
