//! Retries that were stopped between reading and writing, beside another retry, and beside whatever else moves the tag.

use farm_store::Result;
use farm_store::StoreError;
use farm_store::builds::submit::Submitted;
use farm_store::default_project;
use farm_store::publish::destinations::DueDestination;
use farm_tests::session::Session;
use farm_types::state::{BuildState, JobState, TagState};
use farm_types::{Cause, Failure, FailureCode};

use crate::fixture::{PUBLISH, World, tester, world};
use crate::interleavings::{publish, stopped};
use crate::publishing::{built, merged, put};
use crate::retrying::retry_of;

/// Builds that the farm has, by their idempotency keys.
fn known(world: &World, keys: &str) -> String {
    world.database.psql(&format!("SELECT count(*) FROM builds WHERE idempotency_key LIKE '{keys}'"))
}

/// A build that was built, and refused by its registry.
async fn refused(world: &World, key: &str, tag: &str) -> (Submitted, DueDestination) {
    let (build, mut destinations) = merged(world, key, &[tag]).await;
    let failure = Failure::new(Cause::User, FailureCode::RegistryAuth, "403");
    world.store.destination_failed(world.epoch, &destinations[0], &failure, None).await.unwrap();
    assert_eq!(world.state(build).await, BuildState::Failed);
    (build, destinations.remove(0))
}

#[tokio::test]
async fn two_retries_with_one_key_are_one_build_and_with_two_keys_are_two() {
    let world = world().await;
    let mut sessions = [Session::open(world.database.url()), Session::open(world.database.url())];
    let (old, _) = refused(&world, "old", "localhost:5002/app:1").await;
    let hold = "SELECT 1 FROM snapshots FOR UPDATE";
    for (first, second, same) in [(false, false, true), (true, true, true), (false, true, false)] {
        for keys in [("a", "a"), ("a", "b")] {
            world.pass("0 s");
            let pair = format!("{first}-{second}-{}-{}", keys.0, keys.1);
            let (one, other) = (format!("{pair}-{}", keys.0), format!("{pair}-{}", keys.1));
            let (one, other) = (retry_of(old, &one, first), retry_of(old, &other, second));
            let (one, other) = (world.store.retry(&one, PUBLISH), world.store.retry(&other, PUBLISH));
            let (one, other) = stopped(&mut sessions, hold, one, other).await;
            let one = one.unwrap();
            match (keys.0 == keys.1, same) {
                (true, true) => {
                    let other = other.unwrap();
                    assert_eq!((other.id, one.replayed, other.replayed), (one.id, false, true), "{pair}");
                    assert_eq!(known(&world, &format!("{pair}%")), "1");
                }
                (true, false) => {
                    assert!(matches!(other, Err(StoreError::Conflict(_))), "{pair}: one key, two requests");
                    assert_eq!(known(&world, &format!("{pair}%")), "1");
                }
                (false, _) => {
                    assert_ne!(other.unwrap().id, one.id, "{pair}");
                    assert_eq!(known(&world, &format!("{pair}%")), "2");
                }
            }
            // Nothing of the one that was not made is left.
            let orphans = world.database.psql(
                "SELECT count(*) FROM executions e WHERE NOT EXISTS (SELECT FROM builds b WHERE b.execution_id = e.id)",
            );
            assert_eq!(orphans, "0", "{pair}");
        }
    }
}

/// What can happen to the tag of a build that was retried twice, while a newer one wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Of the build that was retried: it has ended, but somebody may not know.
    PublishOld,
    PublishRetry,
    PublishOtherRetry,
    PublishNewer,
    CancelRetry,
    RetryOnceMore,
}

const STEPS: [Step; 6] = [
    Step::PublishOld,
    Step::PublishRetry,
    Step::PublishOtherRetry,
    Step::PublishNewer,
    Step::CancelRetry,
    Step::RetryOnceMore,
];

struct Case<'a> {
    world: &'a World,
    old: (Submitted, DueDestination),
    retry: (Submitted, DueDestination),
    other: (Submitted, DueDestination),
    newer: (Submitted, DueDestination),
    tag: &'a str,
}

impl Case<'_> {
    async fn happen(&self, step: Step, which: u32) -> Result<()> {
        match step {
            Step::PublishOld => publish(self.world, &self.old.1, self.tag).await,
            Step::PublishRetry => publish(self.world, &self.retry.1, self.tag).await,
            Step::PublishOtherRetry => publish(self.world, &self.other.1, self.tag).await,
            Step::PublishNewer => publish(self.world, &self.newer.1, self.tag).await,
            Step::CancelRetry => {
                self.world.store.cancel(&tester(), default_project(), self.retry.0.id, PUBLISH).await
            }
            Step::RetryOnceMore => {
                let retry = retry_of(self.old.0, &format!("{}-{which}", self.tag), false);
                self.world.store.retry(&retry, PUBLISH).await.map(drop)
            }
        }
    }
}

#[tokio::test]
async fn a_retry_and_what_it_retries_leave_a_tag_to_one_of_them_and_never_pass_a_newer_one() {
    pairs(&STEPS[..3]).await;
}

#[tokio::test]
async fn whatever_else_moves_the_tag_of_a_retry_leaves_it_to_one_of_them() {
    pairs(&STEPS[3..]).await;
}

async fn pairs(firsts: &[Step]) {
    let world = world().await;
    let mut sessions = [Session::open(world.database.url()), Session::open(world.database.url())];
    for &first in firsts {
        for second in STEPS {
            // Nothing of the retries: the pairs of `interleavings` are enough.
            let others = [Step::PublishOld, Step::PublishNewer, Step::CancelRetry];
            if others.contains(&first) && others.contains(&second) {
                continue;
            }
            // On a slow machine all this takes longer than a leader's time.
            world.pass("0 s");
            let pair = format!("{first:?}-{second:?}");
            let tag = format!("localhost:5002/app:{pair}");
            // Somebody had it before, so that there is a row to wait for.
            let (_, before) = merged(&world, &format!("before-{pair}"), &[&tag]).await;
            world.store.destination_pushed(world.epoch, &before[0]).await.unwrap();
            put(&world, &before[0], &pair).await;
            let old = refused(&world, &format!("old-{pair}"), &tag).await;
            let retried = async |what: &str| {
                let what = format!("{what}-{pair}");
                let build = world.store.retry(&retry_of(old.0, &what, false), PUBLISH).await.unwrap();
                let (build, mut destinations) = built(&world, build, &what).await;
                world.store.destination_pushed(world.epoch, &destinations[0]).await.unwrap();
                (build, destinations.remove(0))
            };
            let (retry, other) = (retried("retry").await, retried("other").await);
            let (build, mut newer) = merged(&world, &format!("newer-{pair}"), &[&tag]).await;
            world.store.destination_pushed(world.epoch, &newer[0]).await.unwrap();
            let newer = (build, newer.remove(0));
            let case = Case { world: &world, old, retry, other, newer, tag: &pair };
            let hold = format!("SELECT 1 FROM tag_heads WHERE tag = '{pair}' FOR UPDATE");
            let ended = stopped(&mut sessions, &hold, case.happen(first, 1), case.happen(second, 2)).await;
            check(&case, first, second, &format!("{pair}: {ended:?}")).await;
        }
    }
}

async fn check(case: &Case<'_>, first: Step, second: Step, pair: &str) {
    let world = case.world;
    let happened = |step: Step| first == step || second == step;
    let head = world
        .database
        .psql(&format!("SELECT encode(digest, 'hex') FROM tag_heads WHERE tag = '{}'", case.tag));
    let digests = [&case.retry.1, &case.other.1].map(|destination| destination.index_digest.hex());
    if happened(Step::PublishNewer) {
        assert_eq!(head, case.newer.1.index_digest.hex(), "{pair}");
    } else if happened(Step::PublishRetry) || happened(Step::PublishOtherRetry) {
        assert!(digests.contains(&head), "{pair}");
    } else {
        assert!(!digests.contains(&head), "{pair}");
    }
    assert_ne!(head, case.old.1.index_digest.hex(), "{pair}: what has failed has the tag");
    for ((build, _), step) in [(&case.retry, Step::PublishRetry), (&case.other, Step::PublishOtherRetry)] {
        let record = world.build(*build).await;
        let tag = record.publication.unwrap().destinations[0].tags[0].state;
        let fits = match tag {
            TagState::Verified => record.state == BuildState::Succeeded && happened(step),
            TagState::Superseded => record.state == BuildState::Succeeded && happened(Step::PublishNewer),
            TagState::Failed => false,
            // Who publishes can't be cancelled any more.
            TagState::Wanted | TagState::Put => record.state == BuildState::Publishing && !happened(step),
        };
        assert!(fits, "{pair}: {tag}, {}", record.state);
    }
    let more = [first, second].iter().filter(|step| **step == Step::RetryOnceMore).count();
    assert_eq!(known(world, &format!("{}-%", case.tag)), more.to_string(), "{pair}");
    let ready = world.database.psql(&format!(
        "SELECT count(*) FROM jobs j JOIN builds b ON b.execution_id = j.execution_id
         WHERE b.idempotency_key LIKE '{}-%' AND j.state = '{}'",
        case.tag,
        JobState::Ready
    ));
    assert_eq!(ready, more.to_string(), "{pair}: a retry has its own job");
}
