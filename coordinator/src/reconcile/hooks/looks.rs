//! The sweep: once an hour it is looked where each hook's branches and tags are, so that a push is built whose delivery was lost. What was
//! missed is told by [`farm_core::hooks::missed`], and made up for by deliveries of the farm's own. Where nobody wants that, but rules
//! have schedules or base images, it is looked all the same: whether what is fetched by the repository's name is still the hook's.
//!
//! A look is a build that fetches nothing, by a worker with git: one at a time of each hook and each host, two of them at once, so that
//! there are places left for fetches; a project has both only while nobody else waits for one. A host is known by where it is fetched, as what
//! the forge calls itself is whatever a project's admin has written. One that can't be reached is left alone for longer and longer. Each look that came to nothing is
//! tried again later than the one before.
//!
//! A list of which the farm knows nothing is doubted: the next look has the history looked through, too. If there is nothing either, or the
//! forge says by the hook's token that the name is another repository's ([`super::names`]), the hook has strayed: nothing is done for it of
//! the farm's own accord until a signed delivery says otherwise.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use farm_core::hooks::{Found, Missed, missed};
use farm_proto::v1;
use farm_rules::{Event, EventKind};
use farm_store::StoreError;
use farm_store::builds::record::BuildRecord;
use farm_store::hooks::looks::{Look, LookEnd, Turn};
use farm_store::hooks::own::NewOwn;
use farm_store::hooks::registered::by_hook;
use farm_store::machines::leader::Epoch;
use farm_store::work::decide::PublishLimit;
use farm_types::state::BuildState;
use farm_types::{
    Commit, Failure, FailureCode, FetchSpec, GitPoint, GitSource, HookId, Lfs, ProjectId, RefName, Refs,
    Role, Take,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::names::{Named, Names};
use super::own::{Own, come};
use super::under_way::{Hook, member};
use crate::grpc::builds::accept::{Asked, accept};
use crate::reconcile::{Lead, turn};
use crate::shared::Shared;

/// How often a pass begins; and how long after the one before while a look goes on.
const TICK: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));
/// So many looks go on at once.
const AT_ONCE: usize = 2;
/// A look has so long, the time that it waits included; and with its history.
const LIMIT: (Duration, Duration) = (Duration::from_secs(90), Duration::from_secs(180));
/// And whatever becomes of its build, it is over after so long.
const LONGEST: Duration = Duration::from_secs(400);
/// After one that came to nothing the next one comes after so long, and then twice as long each time.
const AGAIN: Duration = Duration::from_secs(60);
/// A host that can't be reached is left alone for so long at most.
const LONGEST_AWAY: Duration = Duration::from_secs(1800);
/// So many hooks are planned at once.
const BATCH: i64 = 100;
/// So many moves are made up for by one look; the next one, after so long, finds the others.
const MOST_MOVED: (usize, Duration) = (20, Duration::from_secs(600));
/// What is made up waits for so long, as its delivery may be seconds late; and each for so much longer than the one before.
const MADE_UP: (Duration, Duration) = (Duration::from_secs(90), Duration::from_secs(20));
/// What came of a look is no longer than this, characters.
const LONGEST_RESULT: usize = 1000;
/// So many refs are named where people see them.
const NAMED: usize = 3;

/// What is known from one pass to the next one only.
#[derive(Debug, Default)]
struct Known {
    names: Names,
    /// Hosts that can't be reached: how often in a row, and until when they are left alone.
    away: HashMap<String, (u32, Instant)>,
}

impl Known {
    fn note_away(&mut self, host: &str, now: Instant) {
        let (times, until) = self.away.entry(host.to_owned()).or_insert((0, now));
        let wait = AGAIN.saturating_mul(1_u32.checked_shl(*times).unwrap_or(u32::MAX)).min(LONGEST_AWAY);
        (*times, *until) = (times.saturating_add(1), now + wait);
    }

    fn left_alone(&self, now: Instant) -> impl Iterator<Item = String> {
        self.away.iter().filter(move |(_, (_, until))| *until > now).map(|(host, _)| host.clone())
    }
}

/// Looks while leading, and has schedules come, until `shutdown`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let mut tick = tokio::time::interval(TICK.0);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut known = Known::default();
    while let Some(lead) = turn(&mut tick, &mut lead, &shutdown).await {
        let pass = async {
            if let Err(error) = come(&shared, lead.epoch).await {
                tracing::warn!(%error, "schedules could not be looked at; trying again");
            }
            match Box::pin(pass(&shared, lead.epoch, &mut known)).await {
                Ok(is_busy) => is_busy,
                Err(error) => {
                    tracing::warn!(%error, "it could not be looked for lost deliveries; trying again");
                    false
                }
            }
        };
        tokio::select! {
            is_busy = pass => if is_busy {
                tick.reset_after(TICK.1);
            },
            () = shutdown.cancelled() => return,
        }
    }
}

/// Takes the next step of each look that goes on, and begins others in the place of those that are over. True: some go on.
async fn pass(shared: &Shared, epoch: Epoch, known: &mut Known) -> Result<bool, StoreError> {
    let store = &shared.loops;
    let (period, sweeps) = (shared.config.hooks.looks(), shared.config.hooks.sweep().is_some());
    let now = store.now().await?.timestamp();
    for (project, hook) in store.unlooked_hooks(BATCH, sweeps).await? {
        store.plan_look(epoch, (project, hook), until_next(hook, now, period)).await?;
    }
    let under_way = store.looks_under_way().await?;
    known.names.keep(&under_way);
    for look in &under_way {
        step(shared, epoch, look, known).await?;
    }
    let under_way = store.looks_under_way().await?;
    let mut looking: Vec<ProjectId> = under_way.iter().map(|look| look.project).collect();
    let mut but: Vec<String> = under_way.iter().map(|look| look.asks.clone()).collect();
    but.extend(known.left_alone(Instant::now()));
    for _ in under_way.len()..AT_ONCE {
        let due = store.due_look(Turn { sweeps, period, but: &but, looking: &looking }).await?;
        let Some((project, hook)) = due else { break };
        match store.begin_look(epoch, (project, hook)).await {
            Ok(asks) => but.push(asks),
            Err(StoreError::Stale(_)) => break,
            Err(error) => return Err(error),
        }
        looking.push(project);
    }
    for look in store.looks_under_way().await?.iter().filter(|look| look.build.is_none()) {
        step(shared, epoch, look, known).await?;
    }
    Ok(!looking.is_empty())
}

/// Takes a look's next step, and ends it if what it has found can't be taken.
async fn step(shared: &Shared, epoch: Epoch, look: &Look, known: &mut Known) -> Result<(), StoreError> {
    match Box::pin(go_on(shared, epoch, look, known)).await {
        Ok(()) => Ok(()),
        Err(StoreError::Stale(why)) => {
            tracing::debug!(hook = look.hook_name, why, "not done");
            Ok(())
        }
        Err(error @ (StoreError::NotLeading | StoreError::Unavailable(_) | StoreError::Older(_))) => {
            Err(error)
        }
        Err(error) => {
            tracing::error!(hook = look.hook_name, %error, "what a look has found can't be taken");
            let why = "the farm couldn't take what it has found; its log says why";
            shared.loops.end_look(epoch, look, &trouble(shared, look, why)).await
        }
    }
}

/// Takes a look's next step.
async fn go_on(shared: &Shared, epoch: Epoch, look: &Look, known: &mut Known) -> Result<(), StoreError> {
    let store = &shared.loops;
    if !look.is_on {
        call_off(shared, look).await?;
        let wait = next(shared, look).await?;
        let end = LookEnd { result: "called off".to_owned(), is_trouble: false, wait };
        return store.end_look(epoch, look, &end).await;
    }
    let Some(build) = look.build else {
        return match Box::pin(submit(shared, look)).await? {
            Ok(record) => store.look_submitted(epoch, look, record.id).await,
            Err(why) => store.end_look(epoch, look, &trouble(shared, look, &why)).await,
        };
    };
    let record = match store.build_by_id(look.project, build).await {
        Ok(record) => record,
        Err(StoreError::NotFound(_)) => {
            return store.end_look(epoch, look, &trouble(shared, look, "its build is gone")).await;
        }
        Err(error) => return Err(error),
    };
    let id = &record.short_id;
    let why = match record.state {
        BuildState::Succeeded => {
            known.away.remove(&look.asks);
            let result =
                record.jobs.first().and_then(|job| job.result.as_ref()?.fetched.as_ref()?.refs.clone());
            match result {
                Some(refs) => return found(shared, epoch, look, known, &refs).await,
                None => format!(
                    "fetch {id} has told of no branches and tags; its worker is of another version: update it"
                ),
            }
        }
        BuildState::Failed => {
            if record.failure.as_ref().is_some_and(|failure| is_of_host(failure, look.is_doubted)) {
                known.note_away(&look.asks, Instant::now());
            }
            let why = record.failure.as_ref().map_or("", |failure| failure.message.as_str());
            format!("fetch {id}: {why}")
        }
        BuildState::Cancelled => format!("fetch {id} was cancelled"),
        _ if look.age < LONGEST => return Ok(()),
        _ => {
            call_off(shared, look).await?;
            format!("fetch {id} has come to no end")
        }
    };
    store.end_look(epoch, look, &trouble(shared, look, &why)).await
}

/// Whether others of the same host fare no better. A look through a long history takes its time anywhere.
fn is_of_host(failure: &Failure, is_doubted: bool) -> bool {
    failure.code == FailureCode::GitUnreachable || failure.code == FailureCode::GitTooSlow && !is_doubted
}

/// Submits a look's build; the inner error is why it isn't taken.
async fn submit(shared: &Shared, look: &Look) -> Result<Result<BuildRecord, String>, StoreError> {
    let (_, known) = shared.loops.seen(look).await?;
    let asked = match asked(look, known.filter(|_| look.is_doubted)) {
        Ok(asked) => asked,
        Err(why) => return Ok(Err(why)),
    };
    let hook = Hook {
        project: look.project,
        project_name: &look.project_name,
        name: &look.hook_name,
        principal: look.principal,
    };
    let member = match member(hook, Role::Builder, None) {
        Ok(member) => member,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let submitted = Box::pin(accept(shared, &member, asked)).await;
    Ok(submitted.map(|(record, _)| record).map_err(|status: Status| status.message().to_owned()))
}

fn asked(look: &Look, known: Option<Commit>) -> Result<Asked, String> {
    let url = look.clone_url.as_deref().ok_or("the hook names no repository to fetch")?;
    let limit = if known.is_some() { LIMIT.1 } else { LIMIT.0 };
    // The same for each try of this look, as long as it asks for the same.
    let by = known.as_ref().map_or("", Commit::as_str);
    let idempotency_key = format!("look {} {} {by}", look.hook, look.number);
    let source = GitSource {
        repository: url
            .parse()
            .map_err(|error| format!("where the hook's repository is fetched: {error}"))?,
        point: GitPoint::Head,
        expected: known,
        subdir: String::new(),
        keep_git: false,
        submodules: false,
        lfs: Lfs::default(),
    };
    let fetch = FetchSpec { source: source.into(), take: Take::Refs };
    let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let spec = v1::BuildSpec { fetch: Some((&fetch).into()), timeout_ms, ..Default::default() };
    Ok(Asked { idempotency_key, spec, values: Vec::new(), of: None, fork: None })
}

async fn call_off(shared: &Shared, look: &Look) -> Result<(), StoreError> {
    let Some(build) = look.build else { return Ok(()) };
    let limit = PublishLimit(Duration::from_secs(shared.config.limits.publish_deadline_seconds));
    let by = by_hook(&look.project_name, &look.hook_name);
    match shared.loops.cancel(&by, look.project, build, limit).await {
        Ok(()) => shared.hints.changed(),
        Err(StoreError::NotFound(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Takes what a look has found, once the forge has said whose the name is.
async fn found(
    shared: &Shared,
    epoch: Epoch,
    look: &Look,
    known: &mut Known,
    refs: &Refs,
) -> Result<(), StoreError> {
    match known.names.of(shared, look).await? {
        // The forge is asked.
        None if look.age < LONGEST => Ok(()),
        None => {
            let why = "its forge doesn't say which repository has its name";
            shared.loops.end_look(epoch, look, &trouble(shared, look, why)).await
        }
        Some(Named::Own) => take(shared, epoch, look, refs).await,
        Some(Named::Another(id)) => {
            let own = look.repository_id.as_deref().unwrap_or_default();
            let name = &look.full_name;
            stray(
                shared,
                epoch,
                look,
                &format!("{name} is repository {id} by now, and the hook is for {own}"),
            )
            .await
        }
        Some(Named::Unsaid(why)) => {
            let why = format!("which repository has its name isn't known: {why}");
            shared.loops.end_look(epoch, look, &trouble(shared, look, &why)).await
        }
    }
}

/// Ends a look that has found another repository.
async fn stray(shared: &Shared, epoch: Epoch, look: &Look, what: &str) -> Result<(), StoreError> {
    let why = format!(
        "{what}. Nothing is done of the farm's own accord until its next delivery says that it is the same; or make the hook anew: farm \
         hook rm, farm hook add"
    );
    tracing::warn!(hook = format!("{}/{}", look.project_name, look.hook_name), why, "a hook has strayed");
    shared.loops.stray(epoch, look, &why, &trouble(shared, look, &why)).await
}

/// Holds what a look has found against what was seen.
async fn take(shared: &Shared, epoch: Epoch, look: &Look, refs: &Refs) -> Result<(), StoreError> {
    let store = &shared.loops;
    let (seen, _) = store.seen(look).await?;
    let mut found = match missed(&seen, refs) {
        Found::Refs(found) => found,
        Found::Later => {
            let result = "deliveries came meanwhile, which are read first".to_owned();
            let end = LookEnd { result, is_trouble: false, wait: AGAIN };
            return store.end_look(epoch, look, &end).await;
        }
        Found::Strange if look.is_doubted => {
            let what =
                "of what the farm has seen there, the repository has nothing: another one may have its name";
            return stray(shared, epoch, look, what).await;
        }
        Found::Strange => {
            let why = "of what the farm has seen there, no branch and no tag is left; its history is looked through next";
            return store.doubt_look(epoch, look, &trouble(shared, look, why)).await;
        }
    };
    let makes_up = look.makes_up && shared.config.hooks.sweep().is_some();
    if !makes_up {
        found.moved.clear();
    }
    let is_more = bound(&mut found);
    let branch = refs.default_branch.as_deref().or(look.default_branch.as_deref());
    let made: Vec<NewOwn> = found
        .moved
        .iter()
        .zip(0_u32..)
        .filter_map(|((name, commit), n)| made_up(name, commit, branch, MADE_UP.0 + MADE_UP.1 * n))
        .collect();
    let result = if makes_up || look.is_first {
        said(look, refs, &found)
    } else {
        "it is still the hook's repository; lost deliveries aren't looked for".to_owned()
    };
    let next = next(shared, look).await?;
    let wait = match (is_more, found.left) {
        (true, _) => MOST_MOVED.1.min(next),
        (false, 0) => next,
        (false, _) => AGAIN.max(next / 4),
    };
    let end = LookEnd { result, is_trouble: false, wait };
    store.take_look(epoch, look, (&found, &made), refs.default_branch.as_deref(), &end).await?;
    if !made.is_empty() {
        let hook = format!("{}/{}", look.project_name, look.hook_name);
        tracing::info!(hook, pushes = made.len(), "pushes were found whose deliveries were lost");
        shared.hints.delivered.notify_one();
    }
    Ok(())
}

/// Leaves what is too much for one look to the next one. True: there is.
fn bound(found: &mut Missed) -> bool {
    let is_more = found.moved.len() > MOST_MOVED.0;
    while found.moved.len() > MOST_MOVED.0 {
        if let Some((name, _)) = found.moved.pop_last() {
            found.noted.remove(&name);
        }
    }
    is_more
}

/// A push that nobody has told of. Which files it has changed, and its commit's message, nobody has told either.
fn made_up(name: &RefName, commit: &Commit, default_branch: Option<&str>, wait: Duration) -> Option<NewOwn> {
    let kind = match (name.branch(), name.tag()) {
        (Some(branch), _) => EventKind::Push { branch: branch.to_owned() },
        (None, Some(tag)) => EventKind::Tag { tag: tag.to_owned() },
        (None, None) => return None,
    };
    let event = Event {
        kind,
        git_ref: name.clone(),
        commit: commit.clone(),
        default_branch: default_branch.map(ToOwned::to_owned),
        changed: None,
        message: String::new(),
    };
    let (body, found) = (Own { event, line: None }.body(), Some(commit.clone()));
    Some(NewOwn { event: "sweep", of: name.to_string(), body, lineage: Vec::new(), root: None, found, wait })
}

/// What came of a look, for people.
fn said(look: &Look, refs: &Refs, found: &Missed) -> String {
    let counted = match refs.at.len() {
        1 => "1 branch or tag".to_owned(),
        count => format!("{count} branches and tags"),
    };
    let counted = if refs.is_cut { format!("the first {counted}") } else { counted };
    if look.is_first {
        return format!("{counted} noted: from now on it is seen what is pushed without a delivery");
    }
    let mut said = match found.moved.len() {
        0 => format!("{counted}, nothing was missed"),
        count => {
            let named: Vec<&str> = found.moved.keys().take(NAMED).map(RefName::as_str).collect();
            let more = if count > NAMED { format!(" and {} more", count - NAMED) } else { String::new() };
            format!("{counted}, made up for {}{more}", named.join(", "))
        }
    };
    if found.left > 0 {
        said.push_str(&format!("; {} on their way", found.left));
    }
    said
}

/// How a look ends that came to nothing.
fn trouble(shared: &Shared, look: &Look, why: &str) -> LookEnd {
    let most = shared.config.hooks.looks().max(AGAIN);
    let times = 1_u32.checked_shl(u32::try_from(look.tries).unwrap_or(0)).unwrap_or(u32::MAX);
    let wait = AGAIN.checked_mul(times).unwrap_or(most).min(most);
    // In one line.
    let result: String =
        why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_RESULT).collect();
    LookEnd { result, is_trouble: true, wait }
}

/// How long it is until a hook's next look.
async fn next(shared: &Shared, look: &Look) -> Result<Duration, StoreError> {
    let period = shared.config.hooks.looks();
    Ok(until_next(look.hook, shared.loops.now().await?.timestamp(), period))
}

/// How long it is until a hook's next look: each has its own second of the period, so that they are spread over it.
fn until_next(hook: HookId, now: i64, period: Duration) -> Duration {
    let period = i64::try_from(period.as_secs()).unwrap_or(i64::MAX).max(1);
    let own = i64::try_from(hook.as_uuid().as_u128() % (1 << 62)).unwrap_or(0) % period;
    let wait = (own - now).rem_euclid(period);
    // It was just now.
    let wait = if wait < period / 8 { wait + period } else { wait };
    Duration::from_secs(u64::try_from(wait).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_away_is_left_alone_for_longer_each_time() {
        let (mut known, now) = (Known::default(), Instant::now());
        known.note_away("a.example", now);
        assert_eq!(known.left_alone(now).collect::<Vec<_>>(), ["a.example"]);
        assert_eq!(known.left_alone(now + AGAIN).count(), 0);
        known.note_away("a.example", now);
        assert_eq!(known.left_alone(now + AGAIN).count(), 1);
        for _ in 0..100 {
            known.note_away("a.example", now);
        }
        assert_eq!(known.left_alone(now + LONGEST_AWAY).count(), 0);
    }

    #[test]
    fn one_look_makes_up_for_a_few_and_leaves_the_others_to_the_next_one() {
        let at = |n: usize| (format!("refs/tags/{n:03}").parse().unwrap(), "1".repeat(40).parse().unwrap());
        let moved: std::collections::BTreeMap<RefName, Commit> = (0..MOST_MOVED.0 + 5).map(at).collect();
        let mut found = Missed { noted: moved.clone(), moved, ..Missed::default() };
        assert!(bound(&mut found));
        assert_eq!((found.moved.len(), found.noted.len()), (MOST_MOVED.0, MOST_MOVED.0));
        assert!(!bound(&mut found));
    }

    #[test]
    fn looks_are_spread_over_the_period_and_each_comes_once_in_it() {
        let period = Duration::from_secs(3600);
        let mut waits: Vec<u64> = Vec::new();
        for _ in 0..200 {
            let hook = HookId::generate();
            let wait = until_next(hook, 1_000_000, period);
            let then = 1_000_000 + i64::try_from(wait.as_secs()).unwrap();
            assert_eq!(until_next(hook, then, period), period);
            // One that took a while doesn't put off the next one.
            assert_eq!(until_next(hook, then + 60, period).as_secs(), 3540);
            waits.push(wait.as_secs());
        }
        for quarter in [0, 900, 1800, 2700] {
            let count =
                waits.iter().filter(|wait| (quarter..quarter + 900).contains(&(**wait % 3600))).count();
            assert!((20..=80).contains(&count), "{count} from {quarter} on");
        }
    }
}
