//! The end of a life: nothing is killed any more, and a day passes.

use farm_types::state::{BuildState, TagState};

use crate::ops::How;
use crate::publish::RECHECK_FOR;
use crate::world::*;

/// Rounds of one second until all must be final: leases end, attempts are made anew, publications are done.
const ROUNDS: i64 = 2_000;

/// Coordinators that were stopped in a former epoch go on after `stopped_for` seconds, when all else is done already: that
/// is the worst moment.
///
/// # Panics
/// Something isn't as it ought to be.
pub fn settle(world: &mut World, stopped_for: i64) {
    let epoch = world.leader.epoch;
    world.stopped = [false; 2];
    world.workers.iter_mut().for_each(|worker| worker.deaf = false);
    let (mut stopped, tasks) =
        std::mem::take(&mut world.tasks).into_iter().partition(|task| task.epoch != epoch);
    world.tasks = tasks;
    let mut rounds = 0;
    while world.builds.iter().any(|build| !build.state.is_final()) || !world.live().is_empty() {
        round(world);
        rounds += 1;
        assert!(rounds < ROUNDS, "still not final: {:#?}", world.builds);
    }
    pass(world, stopped_for);
    world.tasks.append(&mut stopped);
    finish_tasks(world);
    // Looks at tags that were overtaken come within a day, further and further apart.
    pass(world, 2 * RECHECK_FOR);
    assert!(
        world.heads.values().all(|head| head.recheck_at.is_none()),
        "looked at without end: {:?}",
        world.heads
    );
    check(world);
}

/// So much time passes, in which whoever has to look at a tag does.
fn pass(world: &mut World, seconds: i64) {
    let end = world.now + seconds;
    while world.now < end {
        let due = world.heads.values().filter_map(|head| head.recheck_at).min();
        world.now = due.unwrap_or(end).max(world.now).min(end);
        round(world);
    }
}

/// A second in which everybody does what there is to do.
fn round(world: &mut World) {
    world.now += 1;
    for n in 0..4 {
        crate::ops::apply(world, &crate::ops::Op::Restart(n));
        world.beat(n);
    }
    world.lead(0);
    world.lead(1);
    for which in 0..2 {
        if let Some(epoch) = world.coordinators[which] {
            world.keep_house(epoch);
        }
        world.propose(which);
        world.look(which, 0);
    }
    while !world.writes.is_empty() {
        world.write(0);
    }
    for n in 0..4 {
        world.poll(n, true);
        world.end(n, 0, How::Success);
        while !world.workers[usize::from(n)].spool.is_empty() {
            world.deliver(n, 0, true);
        }
    }
    finish_tasks(world);
}

/// Every task goes on to its end, and all that was sent lands.
fn finish_tasks(world: &mut World) {
    while let Some(index) = world.tasks.len().checked_sub(1) {
        while !world.puts.is_empty() {
            world.land(0);
        }
        world.step(index);
    }
}

fn check(world: &World) {
    assert!(
        world.workers.iter().all(|worker| worker.used == 0 && worker.running.is_empty()),
        "slots are held"
    );
    for (tag, head) in &world.heads {
        let newest = world
            .builds
            .iter()
            .filter(|build| build.tag == Some(*tag) && build.state == BuildState::Succeeded)
            .filter(|build| build.publication.as_ref().is_some_and(|of| of.tag == TagState::Verified))
            .map(|build| build.order)
            .max();
        let has_it = &world.builds[head.build];
        if has_it.publication.as_ref().is_some_and(|of| of.tag == TagState::Verified) {
            // Not another one's of the same intent either: what was retried is not what the retry made.
            assert!(world.shows(*tag, head.build), "tag {tag}: {head:?}, {:?}", world.registry.get(tag));
        }
        let put = world.registry.get(tag).copied();
        // One whose index was there already has put nothing.
        let noted = |build: &Build| {
            let state = build.publication.as_ref().map(|of| of.tag);
            build.tag == Some(*tag) && matches!(state, Some(TagState::Put | TagState::Verified))
        };
        let shown = put.map(|put| {
            let of =
                world.builds.iter().filter(|build| build.image == world.builds[put].image && noted(build));
            of.map(|build| build.order).chain([world.builds[put].order]).max()
        });
        let shown = shown.flatten();
        // Who claimed last may have failed at its deadline; then it is there, or the newest before it.
        assert!(shown >= newest, "tag {tag} shows {shown:?} of {newest:?}: {head:?}");
    }
    for build in &world.builds {
        let superseded = build.publication.as_ref().is_some_and(|of| of.tag == TagState::Superseded);
        if superseded {
            let newer = |other: &Build| other.tag == build.tag && other.order > build.order;
            assert!(world.builds.iter().any(newer), "superseded by nobody: {build:?}");
        }
    }
}
