//! Two transactions that were stopped between reading and writing: in every order one of them decides, and the other one's
//! premise is seen to be gone.
//!
//! A third session holds the row that both come to after they have read. Both are seen to wait for it, in the order in which
//! they came; then it is let go.

use std::time::{Duration, Instant};

use farm_store::builds::submit::Submitted;
use farm_store::machines::workers::Sign;
use farm_store::publish::destinations::Claim;
use farm_store::work::attempts::Lease;
use farm_store::work::finish::Outcome;
use farm_store::{Result, StoreError, default_project};
use farm_tests::session::Session;
use farm_types::state::{BuildState, JobState, TagState};
use farm_types::{Cause, Failure, FailureCode, WorkerId};

use crate::fixture::{LEASE, PUBLISH, World, success, tester, world};
use crate::publishing::{merged, put};
use crate::races::fits;
use crate::retrying::retry_of;

/// Runs both while `hold` (a `SELECT … FOR UPDATE` of one row) is held, the first one before the second.
pub async fn stopped<A, B>(
    sessions: &mut [Session; 2],
    hold: &str,
    first: impl Future<Output = A>,
    second: impl Future<Output = B>,
) -> (A, B) {
    let [holder, looker] = sessions;
    holder.ask(&format!("BEGIN; {hold}"));
    let waiting = std::cell::RefCell::new(looker);
    // Whoever doesn't come to that row ends before; then nobody waits for it.
    let seen = async |wanted: usize, ended: &std::cell::Cell<usize>| {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            let waits: usize = waiting.borrow_mut().ask(sql).parse().unwrap();
            if waits + ended.get() >= wanted {
                return;
            }
            assert!(Instant::now() < limit, "{waits} wait and {} have ended of {wanted}", ended.get());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let ended = std::cell::Cell::new(0);
    let (first, second) = (count(&ended, first), count(&ended, second));
    tokio::pin!(first, second);
    // The first one alone, until it waits.
    let early = tokio::select! {
        biased;
        a = &mut first => Some(a),
        () = seen(1, &ended) => None,
    };
    let both = async {
        match early {
            Some(a) => (a, second.await),
            None => tokio::join!(first, second),
        }
    };
    let release = async {
        seen(2, &ended).await;
        holder.ask("COMMIT; SELECT 'done'")
    };
    let (results, _) = tokio::join!(both, release);
    results
}

async fn count<T>(ended: &std::cell::Cell<usize>, run: impl Future<Output = T>) -> T {
    let result = run.await;
    ended.set(ended.get() + 1);
    result
}

/// What can happen to a running attempt whose lease has just ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Complete,
    Fail,
    Stop,
    GiveBack,
    Start,
    Renew,
    Reap,
    Cancel,
    Reassign,
    QueueDeadline,
    /// Of the build, which may just have ended.
    Retry,
}

const EVENTS: [Event; 11] = [
    Event::Complete,
    Event::Fail,
    Event::Stop,
    Event::GiveBack,
    Event::Start,
    Event::Renew,
    Event::Reap,
    Event::Cancel,
    Event::Reassign,
    Event::QueueDeadline,
    Event::Retry,
];

struct Case<'a> {
    world: &'a World,
    build: Submitted,
    lease: Lease,
    worker: WorkerId,
    other: WorkerId,
}

impl Case<'_> {
    async fn happen(&self, event: Event) -> Result<()> {
        let store = &self.world.store;
        let trouble = || Outcome::Failed(Failure::new(Cause::Infrastructure, FailureCode::RunFailed, "x"));
        match event {
            Event::Complete => self.world.finish(self.lease, success("x")).await,
            Event::Fail => self.world.finish(self.lease, trouble()).await,
            Event::Stop => self.world.finish(self.lease, Outcome::Stopped).await,
            Event::GiveBack => self.world.finish(self.lease, Outcome::Released { declined: true }).await,
            Event::Start => store.attempt_started(self.lease).await,
            Event::Renew => {
                let connection = self.world.connection(self.worker);
                let sign = Sign { worker: self.worker, connection, tokens: vec![self.lease.token.as_uuid()] };
                store.heartbeats(self.world.coordinator, &[sign], LEASE).await.map(drop)
            }
            Event::Reap => store.reap(self.world.epoch, PUBLISH, 0.0).await.map(drop),
            Event::Cancel => store.cancel(&tester(), default_project(), self.build.id, PUBLISH).await,
            Event::Reassign => {
                let assignment = self.world.assignment(self.build, 0, self.other).await;
                store.lease(self.world.epoch, assignment, LEASE).await.map(drop)
            }
            Event::QueueDeadline => store.end_overdue_queues(self.world.epoch, PUBLISH).await.map(drop),
            Event::Retry => {
                // Two of them are two wishes.
                let key = format!("retry of {} {}", self.build.id, uuid::Uuid::new_v4());
                store.retry(&retry_of(self.build, &key, true), PUBLISH).await.map(drop)
            }
        }
    }
}

#[tokio::test]
async fn pairs_that_were_stopped_between_reading_and_writing_leave_one_state() {
    all_pairs(&EVENTS[..4]).await;
}

#[tokio::test]
async fn further_pairs_that_were_stopped_between_reading_and_writing_leave_one_state() {
    all_pairs(&EVENTS[4..8]).await;
}

#[tokio::test]
async fn the_last_pairs_that_were_stopped_between_reading_and_writing_leave_one_state() {
    all_pairs(&EVENTS[8..]).await;
}

/// Each of these first, with every one after it.
async fn all_pairs(firsts: &[Event]) {
    let world = world().await;
    let mut sessions = [Session::open(world.database.url()), Session::open(world.database.url())];
    let (other, _) = world.worker("other", 100).await;
    for &first in firsts {
        for second in EVENTS {
            let pair = format!("{first:?} then {second:?}");
            let (worker, _) = world.worker(&format!("w-{first:?}-{second:?}"), 1).await;
            let build = world.submit(&pair, "linux/amd64", &["localhost:5002/a:1"]).await;
            let lease = world.lease_for(build, 0, worker, Duration::from_secs(1)).await;
            world.store.attempt_started(lease).await.unwrap();
            world.pass("2 s");
            let case = Case { world: &world, build, lease, worker, other };
            let hold = format!(
                "SELECT 1 FROM executions WHERE id = (SELECT execution_id FROM builds WHERE id = '{}') FOR UPDATE",
                build.id
            );
            let ended = stopped(&mut sessions, &hold, case.happen(first), case.happen(second)).await;
            for result in [&ended.0, &ended.1] {
                let bearable =
                    matches!(result, Ok(()) | Err(StoreError::Stale(_) | StoreError::Unavailable(_)));
                assert!(bearable, "{pair}: {result:?}");
            }
            check(&case, first, second, &ended, &pair).await;
            retries(&case, first, second, &ended, &pair).await;
            world.store.cancel(&tester(), default_project(), build.id, PUBLISH).await.unwrap();
            world.pass("2 minutes");
            world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap();
            assert_eq!(world.slots_used(), 0, "{pair}");
        }
    }
}

async fn check(case: &Case<'_>, first: Event, second: Event, ended: &(Result<()>, Result<()>), pair: &str) {
    let record = case.world.build(case.build).await;
    let job = &record.jobs[0];
    let states = format!("{pair}: {ended:?}: build {}, job {}", record.state, job.state);
    let live = fits(&record, &states);
    // Who came first has decided: what was completed stays so, and what was taken away is not completed any more.
    if first == Event::Complete {
        assert_eq!(job.state, JobState::Succeeded, "{states}");
    }
    if matches!(first, Event::Fail | Event::GiveBack | Event::Reap) && second == Event::Complete {
        assert!(matches!(ended.1, Err(StoreError::Stale(_))), "{states}");
        assert_eq!(job.state, JobState::Ready, "{states}");
    }
    if (first, second) == (Event::Renew, Event::Reap) {
        assert_eq!(live, 1, "a lease that was renewed was reaped: {states}");
    }
}

/// A build that has ended can be retried, and what was retried before it had ended was not.
async fn retries(case: &Case<'_>, first: Event, second: Event, ended: &(Result<()>, Result<()>), pair: &str) {
    let record = case.world.build(case.build).await;
    for (event, result) in [(first, &ended.0), (second, &ended.1)] {
        if event == Event::Retry && result.is_ok() {
            assert!(record.state.is_final(), "{pair}: {}", record.state);
        }
    }
    let good = [(first, &ended.0), (second, &ended.1)];
    let good = good.iter().filter(|(event, result)| *event == Event::Retry && result.is_ok()).count();
    assert_eq!(record.retried_by.len(), good, "{pair}: {ended:?}");
    for id in &record.retried_by {
        let state = case.world.database.psql(&format!(
            "SELECT b.state || ' ' || j.state FROM builds b JOIN jobs j ON j.execution_id = b.execution_id
             WHERE b.short_id = '{id}'"
        ));
        assert!(["queued ready", "publishing succeeded"].contains(&state.as_str()), "{pair}: {state}");
    }
}

/// What can happen to a publication that was put by its digest, while another one wants the same tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    PublishOlder,
    PublishNewer,
    Deadline,
    Cancel,
    Refuse,
}

#[tokio::test]
async fn of_two_that_want_a_tag_the_newer_one_has_it_in_every_order() {
    use Step::{Cancel, Deadline, PublishNewer, PublishOlder, Refuse};
    let world = world().await;
    let mut sessions = [Session::open(world.database.url()), Session::open(world.database.url())];
    for first in [PublishOlder, PublishNewer, Deadline, Cancel, Refuse] {
        for second in [PublishOlder, PublishNewer, Deadline, Cancel, Refuse] {
            let pair = format!("{first:?}-then-{second:?}");
            let tag = format!("localhost:5002/app:{first:?}-{second:?}");
            let name = tag.rsplit_once(':').unwrap().1;
            // On a slow machine all this takes longer than a leader's time.
            world.pass("0 s");
            // Somebody had it before, so that there is a row to wait for.
            let (_, before) = merged(&world, &format!("before-{pair}"), &[&tag]).await;
            world.store.destination_pushed(world.epoch, &before[0]).await.unwrap();
            put(&world, &before[0], name).await;
            let (older_build, older) = merged(&world, &format!("older-{pair}"), &[&tag]).await;
            let (newer_build, newer) = merged(&world, &format!("newer-{pair}"), &[&tag]).await;
            for destination in [&older[0], &newer[0]] {
                world.store.destination_pushed(world.epoch, destination).await.unwrap();
            }
            if first == Deadline || second == Deadline {
                world.database.psql(&format!(
                    "UPDATE builds SET publish_deadline = farm_now() - interval '1 s' WHERE id = '{}'",
                    older_build.id
                ));
            }
            let happen = async |step: Step| match step {
                PublishOlder => publish(&world, &older[0], name).await,
                PublishNewer => publish(&world, &newer[0], name).await,
                Deadline => world.store.end_overdue_publications(world.epoch).await.map(drop),
                Cancel => world.store.cancel(&tester(), default_project(), older_build.id, PUBLISH).await,
                Refuse => {
                    let failure = Failure::new(Cause::User, FailureCode::RegistryAuth, "403");
                    world.store.destination_failed(world.epoch, &older[0], &failure, None).await
                }
            };
            let hold = format!("SELECT 1 FROM tag_heads WHERE tag = '{name}' FOR UPDATE");
            let ended = stopped(&mut sessions, &hold, happen(first), happen(second)).await;
            let states = format!("{pair}: {ended:?}");
            for result in [&ended.0, &ended.1] {
                assert!(
                    matches!(result, Ok(()) | Err(StoreError::Stale(_) | StoreError::Unavailable(_))),
                    "{states}"
                );
            }
            let head = world
                .database
                .psql(&format!("SELECT encode(digest, 'hex') FROM tag_heads WHERE tag = '{name}'"));
            let published = [first, second].contains(&PublishNewer);
            if published {
                assert_eq!(head, newer[0].index_digest.hex(), "{states}");
                assert_eq!(world.state(newer_build).await, BuildState::Succeeded, "{states}");
            }
            let record = world.build(older_build).await;
            let tag = record.publication.unwrap().destinations[0].tags[0].state;
            let fits = match tag {
                TagState::Verified => {
                    record.state == BuildState::Succeeded && [first, second].contains(&PublishOlder)
                }
                TagState::Superseded => record.state == BuildState::Succeeded && published,
                TagState::Failed => record.state == BuildState::Failed,
                TagState::Wanted | TagState::Put => record.state == BuildState::Publishing,
            };
            assert!(fits, "{states}: {tag}, {}", record.state);
        }
    }
}

/// Both come to the publication and to the build. If one took them the other way round, each would hold what the other one
/// waits for, and the database would end one of them.
#[tokio::test]
async fn a_deadline_and_the_last_tag_take_their_locks_in_one_order() {
    let world = world().await;
    let mut sessions = [Session::open(world.database.url()), Session::open(world.database.url())];
    for deadline_first in [false, true] {
        let key = format!("{deadline_first}");
        let (build, due) = merged(&world, &key, &["localhost:5002/app:1"]).await;
        world.store.destination_pushed(world.epoch, &due[0]).await.unwrap();
        let claim = world.store.claim_tag(world.epoch, &due[0], "1", None, Duration::from_secs(60)).await;
        assert_eq!(claim.unwrap(), Claim::Granted);
        world.store.tag_put(world.epoch, &due[0], "1").await.unwrap();
        world.database.psql(&format!(
            "UPDATE builds SET publish_deadline = farm_now() - interval '1 s' WHERE id = '{}'",
            build.id
        ));
        let hold = format!(
            "SELECT 1 FROM tags WHERE publication_id = (SELECT id FROM publications WHERE build_id = '{}') FOR UPDATE",
            build.id
        );
        let verify = async { world.store.tag_verified(world.epoch, &due[0], "1").await.map(|()| 0) };
        let expire = async { world.store.end_overdue_publications(world.epoch).await };
        let (first, second) = if deadline_first {
            stopped(&mut sessions, &hold, expire, verify).await
        } else {
            stopped(&mut sessions, &hold, verify, expire).await
        };
        assert!(first.is_ok() && second.is_ok(), "{deadline_first}: {first:?}, {second:?}");
        let wanted = if deadline_first { BuildState::Failed } else { BuildState::Succeeded };
        assert_eq!(world.state(build).await, wanted, "{deadline_first}");
        // The one that came first ended it.
        assert_eq!((first.unwrap(), second.unwrap()), (usize::from(deadline_first), 0));
        assert_eq!(world.database.psql("SELECT count(*) FROM publications WHERE state = 'pending'"), "0");
    }
}

/// Claims, puts and verifies, as the publish pass does.
pub async fn publish(
    world: &World,
    destination: &farm_store::publish::destinations::DueDestination,
    tag: &str,
) -> Result<()> {
    let claim = world.store.claim_tag(world.epoch, destination, tag, None, Duration::from_secs(60)).await?;
    if claim == Claim::Granted {
        world.store.tag_put(world.epoch, destination, tag).await?;
        world.store.tag_verified(world.epoch, destination, tag).await?;
    }
    Ok(())
}
