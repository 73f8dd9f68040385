//! What follows from one delivery: its rules are fetched and read, and of each image that they want built the source is fetched and a
//! build submitted.
//!
//! Nothing of it is kept but what was submitted ([`farm_store::hooks::builds`]): a pass begins anew with what is there, takes the next
//! steps that can be taken, and says whether there are more. Cut off anywhere, the next pass goes on.
//!
//! Order: deliveries about one ref fetch their rules one after the other, and a commit is built only if the ref is at it then
//! (`expected` of the fetch; of a pull request, whose rules are its base's, that of the first source); the place that a delivery gets after that is the `order_key` of its builds. So builds of a ref have the
//! order in which the ref was at their commits, whatever the order of deliveries; one that comes late finds the ref elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use farm_hooks::{Happened, Outcome, PullRequestState};
use farm_rules::{
    Event, EventKind, FILE_NAME, Facts, MOST_BYTES, Outcome as Planned, Plan, Problems, Rules, Wanted,
};
use farm_store::StoreError;
use farm_store::builds::record::BuildRecord;
use farm_store::hooks::builds::{Moves, Part, Placed};
use farm_store::hooks::deliveries::Waiting;
use farm_store::machines::leader::Epoch;
use farm_types::snapshot::ROOT_CONTEXT;
use farm_types::state::BuildState;
use farm_types::{Commit, GitPoint, GitSource, Lfs, RefName, SnapshotRef, Take};

use super::asking::Asking;
use super::forks;
use super::own::{moved, planned, unready};
use super::step::{Begun, Delivered, Step, Stop};
use super::told::Told;
use super::under_way::UnderWay;
use crate::shared::Shared;
use crate::tree::{Read, read_file};

/// Takes the next steps of a delivery, and notes in `told` what its forge is to be told.
///
/// # Errors
/// Another coordinator leads, the delivery doesn't wait any more, or the database can't be reached.
pub(super) async fn begin(
    shared: &Shared,
    epoch: Epoch,
    asking: &Arc<Asking>,
    delivered: Delivered<'_>,
    told: &mut Told,
) -> Result<Begun, StoreError> {
    let of = delivered.of;
    if let Some(begun) = unready(shared, epoch, of).await? {
        return Ok(begun);
    }
    let happened = match &delivered.delivery.outcome {
        Outcome::Event(happened) => happened,
        Outcome::Deleted { git_ref, .. } => {
            return Ok(Begun::Ignored(format!("{git_ref} was deleted, so there is nothing to build")));
        }
        Outcome::Comment(comment) => {
            return stood(Box::pin(forks::commented(shared, asking, delivered, comment)).await);
        }
        Outcome::Again(again) => {
            return stood(Box::pin(super::again::again(shared, delivered, again)).await);
        }
        Outcome::Images(images) => return Box::pin(moved(shared, epoch, of, images)).await,
        Outcome::Ping => return Ok(Begun::Ignored("a ping".to_owned())),
        Outcome::Ignored(why) => return Ok(Begun::Ignored(why.clone())),
    };
    stood(Box::pin(follow(shared, epoch, delivered, happened, told)).await)
}

fn stood(step: Step<Begun>) -> Result<Begun, StoreError> {
    match step {
        Ok(begun) | Err(Stop::So(begun)) => Ok(begun),
        Err(Stop::Store(error)) => Err(error),
    }
}

/// What is refused of an event before anything is fetched.
fn refused(happened: &Happened) -> Option<Begun> {
    match happened.pull_request {
        Some(PullRequestState::Closed | PullRequestState::Merged) => {
            Some(Begun::Ignored("the pull request is closed".to_owned()))
        }
        Some(PullRequestState::Open) | None => None,
    }
}

async fn follow(
    shared: &Shared,
    epoch: Epoch,
    delivered: Delivered<'_>,
    happened: &Happened,
    told: &mut Told,
) -> Step<Begun> {
    let of = delivered.of;
    if let Some(begun) = refused(happened) {
        return Ok(begun);
    }
    if let Some(commit) = expected(&happened.event).filter(|_| is_shown(&happened.event)) {
        told.at(&happened.event, commit);
    }
    let fork = forks::proposal(delivered.delivery, happened).filter(|proposal| proposal.is_fork);
    let under_way = UnderWay::of(shared, of, (happened, fork.as_ref())).await?;
    if let Some(fork) = &fork {
        Box::pin(forks::enter(shared, epoch, &under_way, fork)).await?;
    }
    let git_ref = &happened.event.git_ref;
    if moves(of, &happened.event) == Moves::Found && shared.loops.is_told(of, git_ref).await? {
        return Ok(Begun::Goes(format!("waits for what its forge has told of {git_ref} meanwhile")));
    }
    if let Some(begun) = passed(shared, of, happened).await? {
        return Ok(begun);
    }
    if !shared.loops.line_up(epoch, of, git_ref).await? {
        return Ok(Begun::Goes(format!("waits for an earlier delivery about {git_ref}")));
    }
    let source = rules_source(of, &happened.event)?;
    let (fetched, fetch) = under_way.fetch((Part::Rules, ""), source).await?;
    let mut event = happened.event.clone();
    // Of a release, forges don't say which commit it is.
    if let (true, Some(origin)) = (event.commit.is_none(), fetched.origin.git()) {
        event.commit = origin.commit.clone();
    }
    let commit = event.commit.clone();
    if is_shown(&event) {
        told.at(&event, commit.clone());
    }
    let line = Line { shared, epoch, of, git_ref, commit: &commit, moves: moves(of, &event) };
    // Of what is proposed the base's rules were fetched, so its own ref wasn't seen yet.
    let mut place = None;
    if !is_proposal(&event) {
        let placed = line.place().await?;
        place = Some(placed.order_key);
        // Between what the farm has seen last and this there was more, whose files nobody tells.
        if placed.follows.is_some() && placed.follows != happened.before {
            event.changed = None;
        }
    }
    // Those that counted when this was begun: each pass makes the same of it.
    let kept = shared.loops.hook_rules(of.project, of.hook, Some(fetch.created_at)).await?;
    let text = match kept {
        // The project's own count; where its repository is at, its fetch has seen.
        Some(kept) => Ok(Text { name: format!("the rules of hook {}", of.hook_name), text: kept.text }),
        None => {
            let text = rules(shared, of, &fetched.snapshot, &fetch, &event).await;
            text.map(|text| Text { name: FILE_NAME.to_owned(), text })
        }
    };
    // The default branch says when else something is to be built; without the file, never.
    let of_default = place.filter(|_| is_default(of, &event));
    if let (Some(place), Err(Stop::So(Begun::Ignored(_)))) = (of_default, &text) {
        shared.loops.plan_hook(epoch, of, place, &Default::default()).await?;
    }
    let text = text?;
    let name = text.name.clone();
    let facts = Facts { now: of.received_at, tags: fetched.tags };
    let (rules, mut plan) = match plan(text, event.clone(), facts).await? {
        Ok(planned) => planned,
        Err(problems) => return Err(wrong(told, &name, &problems).into()),
    };
    if let Some(place) = of_default {
        shared.loops.plan_hook(epoch, of, place, &planned(&rules, of.asked_at)).await?;
    }
    if fork.is_some() {
        plan.publish_nothing();
    }
    if let Some(problems) = plan.refused(&under_way.allowed().await?) {
        return Err(wrong(told, &name, &problems).into());
    }
    told.is_planned = true;
    let untimely = strike(&mut plan, &rules, &event, delivered.line);
    let approved_by = match fork.as_ref().filter(|_| plan.builds().next().is_some()) {
        Some(fork) => Some(forks::approval(shared, epoch, (of, fork), (&plan, &fetch), told).await?),
        None => None,
    };
    let mut images = Images {
        built: BTreeMap::new(),
        builds: Vec::new(),
        said: Vec::new(),
        goes: Vec::new(),
        has_failed: false,
    };
    for image in &plan.images {
        match &image.outcome {
            Planned::Skipped(reason) => images.said.push(format!("{}: {reason}", image.name)),
            Planned::Build(wanted) => {
                if let Some(why) = untimely.get(&image.name) {
                    images.said.push(format!("{}: {why}", image.name));
                    continue;
                }
                let one = One { name: &image.name, wanted, event: &event };
                let step = Box::pin(build(&under_way, line, one, &images)).await;
                match &step {
                    Ok(record) => told.built(&image.name, (record.id, record.short_id.clone())),
                    Err(Stop::So(begun)) => told.unbuilt(&image.name, begun),
                    Err(Stop::Store(_)) => {}
                }
                images.take(&image.name, step)?;
            }
        }
    }
    if let Some(by) = approved_by.filter(|_| !images.builds.is_empty()) {
        images.said.push(format!("a fork's, approved by {by}: built, and published nowhere"));
    }
    Ok(images.end(&plan, &name))
}

/// Whether a later delivery's look has shown already that the ref has moved on: of a burst most need no look of their own. What may be newer than that look
/// has seen, as the forge's servers for git don't all know of a push at once, looks itself.
async fn passed(shared: &Shared, of: &Waiting, happened: &Happened) -> Step<Option<Begun>> {
    let event = &happened.event;
    let Some(commit) = expected(event) else { return Ok(None) };
    if of.own.is_some() || of.is_placed || moves(of, event) != Moves::Told {
        return Ok(None);
    }
    let seen = shared.loops.passed_by(of, &event.git_ref, &commit).await?;
    let passed = seen.filter(|seen| *seen != commit && happened.before.as_ref() != Some(seen));
    Ok(passed.map(|seen| {
        let git_ref = &event.git_ref;
        Begun::Ignored(format!(
            "it has moved on since: {git_ref} is at {}, not at {}",
            seen.short(),
            commit.short()
        ))
    }))
}

/// Rules, and what they are called.
struct Text {
    name: String,
    text: String,
}

/// What has become of a plan's images.
struct Images {
    /// How the builds stand of those that have one.
    built: BTreeMap<String, BuildState>,
    /// These, by their short ids.
    builds: Vec<String>,
    /// What isn't built, and why.
    said: Vec<String>,
    /// What the others wait for.
    goes: Vec<String>,
    /// One that is wanted can't be built.
    has_failed: bool,
}

impl Images {
    fn take(&mut self, name: &str, step: Step<BuildRecord>) -> Step<()> {
        match step {
            Ok(record) => {
                self.builds.push(record.short_id.to_string());
                self.built.insert(name.to_owned(), record.state);
            }
            Err(Stop::So(Begun::Goes(what))) => self.goes.push(format!("{name}: {what}")),
            Err(Stop::So(Begun::Ignored(why))) => {
                self.built.insert(name.to_owned(), BuildState::Cancelled);
                self.said.push(format!("{name}: {why}"));
            }
            Err(Stop::So(Begun::Failed(why))) => {
                // The others can be built all the same.
                self.built.insert(name.to_owned(), BuildState::Failed);
                self.has_failed = true;
                self.said.push(format!("{name}: {why}"));
            }
            Err(stop) => return Err(stop),
        }
        Ok(())
    }

    fn end(self, plan: &Plan, rules: &str) -> Begun {
        let Self { builds, said, goes, has_failed, .. } = self;
        if !goes.is_empty() {
            return Begun::Goes(goes.join("; "));
        }
        let is_any_wanted = plan.builds().next().is_some();
        match (builds.is_empty(), has_failed) {
            (true, true) => Begun::Failed(said.join("; ")),
            (true, false) if !is_any_wanted && said.is_empty() => {
                Begun::Ignored(format!("{rules} has no image for it"))
            }
            (true, false) => Begun::Ignored(said.join("; ")),
            (false, _) => Begun::Done { builds, reason: said.join("; ") },
        }
    }
}

/// The line of deliveries about one ref.
#[derive(Clone, Copy)]
struct Line<'a> {
    shared: &'a Shared,
    epoch: Epoch,
    of: &'a Waiting,
    git_ref: &'a RefName,
    commit: &'a Commit,
    moves: Moves,
}

impl Line<'_> {
    /// The delivery's place in it, now that its ref was seen at its commit.
    async fn place(&self) -> Step<Placed> {
        let Self { of, git_ref, commit, moves, .. } = *self;
        match self.shared.loops.place_delivery(self.epoch, of, git_ref, commit, moves).await? {
            Some(placed) => Ok(placed),
            None => {
                let why = format!("a delivery about {git_ref} at {} has come meanwhile", commit.short());
                Err(Begun::Ignored(why).into())
            }
        }
    }
}

/// What a delivery says of where its ref is. What somebody wants processed once more isn't made superfluous by what came before.
fn moves(of: &Waiting, event: &Event) -> Moves {
    match event.kind {
        EventKind::Push { .. } | EventKind::Tag { .. } if of.own.is_none() || of.is_asked_again() => {
            Moves::Told
        }
        EventKind::Push { .. } | EventKind::Tag { .. } => Moves::Found,
        _ => Moves::No,
    }
}

/// Whether the forge is shown at the commit what becomes of it. A schedule's build, or that upon an image that has moved, says nothing of
/// the commit, which was pushed long ago: what the push has made green it must not make red.
fn is_shown(event: &Event) -> bool {
    !matches!(event.kind, EventKind::Schedule { .. } | EventKind::BaseImage { .. })
}

/// Whether an event's rules are those of the default branch.
fn is_default(of: &Waiting, event: &Event) -> bool {
    let default = event.default_branch.as_ref().or(of.default_branch.as_ref());
    match &event.kind {
        EventKind::Push { branch } => Some(branch) == default,
        EventKind::Schedule { .. } | EventKind::BaseImage { .. } => {
            event.git_ref.branch() == default.map(String::as_str)
        }
        _ => false,
    }
}

/// The images that aren't built at a schedule's time, and why. Those that need one are built upon what it has published at its own time, as
/// upon one that the event doesn't concern.
fn strike(plan: &mut Plan, rules: &Rules, event: &Event, line: Option<&str>) -> BTreeMap<String, String> {
    let names = plan.builds().map(|(image, _)| image.name.clone());
    let why: BTreeMap<String, String> =
        names.filter_map(|name| Some((name.clone(), untimely(rules, &name, event, line)?))).collect();
    for image in &mut plan.images {
        if let Planned::Build(wanted) = &mut image.outcome {
            wanted.needs.retain(|need| !why.contains_key(need));
        }
    }
    why
}

/// Why an image isn't built at a schedule's time; of all that isn't one there is no reason.
fn untimely(rules: &Rules, image: &str, event: &Event, line: Option<&str>) -> Option<String> {
    let (EventKind::Schedule { name }, Some(line)) = (&event.kind, line) else { return None };
    let image = rules.images().iter().find(|one| one.name == image)?;
    let own = image.on.schedule.get(name).filter(|cron| cron.as_str() != line)?;
    Some(format!("its schedule {name} comes at {own}, and not at {line}"))
}

fn is_proposal(event: &Event) -> bool {
    matches!(event.kind, EventKind::PullRequest { .. })
}

/// An image that is wanted.
#[derive(Clone, Copy)]
struct One<'a> {
    name: &'a str,
    wanted: &'a Wanted,
    event: &'a Event,
}

/// An image's build, submitted as soon as those that it needs have succeeded and its source is there.
async fn build(under_way: &UnderWay<'_>, line: Line<'_>, one: One<'_>, images: &Images) -> Step<BuildRecord> {
    let One { name, wanted, event } = one;
    if let Some(record) = under_way.known(Part::Image, name).await? {
        // The process may have ended before.
        if wanted.supersedes && !record.state.is_final() {
            under_way.cancel_superseded(name, line.place().await?.order_key, &record).await?;
        }
        return Ok(record);
    }
    for need in &wanted.needs {
        match images.built.get(need) {
            Some(BuildState::Succeeded) => {}
            Some(state) if state.is_final() => {
                return Err(Begun::Failed(format!("{need}, which it needs, wasn't built")).into());
            }
            _ => return Err(Begun::Goes(format!("waits for {need}")).into()),
        }
    }
    let is_fetched = under_way.known(Part::Source, name).await?.is_some();
    if under_way.fork.is_some() && !is_fetched {
        forks::room(line.shared, line.epoch, line.of, true).await?;
    }
    let source = image_source(under_way.of, wanted, event)?;
    let (fetched, _) = under_way.fetch((Part::Source, name), source).await?;
    // The fetch took a while.
    if under_way.fork.is_some() && is_fetched {
        forks::room(line.shared, line.epoch, line.of, true).await?;
    }
    let place = line.place().await?.order_key;
    if wanted.supersedes && line.shared.loops.is_overtaken(line.of, line.git_ref, name, place).await? {
        return Err(Begun::Ignored(format!("{} has moved on, which is built", line.git_ref)).into());
    }
    let record = under_way.submit(name, wanted, &fetched, place).await?;
    if wanted.supersedes {
        under_way.cancel_superseded(name, place, &record).await?;
    }
    Ok(record)
}

fn repository(of: &Waiting) -> Step<GitSource> {
    let failed = |why: String| Stop::So(Begun::Failed(why));
    let url =
        of.clone_url.as_deref().ok_or_else(|| failed("the hook names no repository to fetch".to_owned()))?;
    let repository =
        url.parse().map_err(|error| failed(format!("where the hook's repository is fetched: {error}")))?;
    Ok(GitSource {
        repository,
        point: GitPoint::Head,
        expected: None,
        subdir: String::new(),
        keep_git: false,
        submodules: false,
        lfs: Lfs::default(),
    })
}

/// Where the rules are: in the commit itself; of a pull request in the branch that it is to go to, as what somebody proposes is no
/// configuration yet.
fn rules_source(of: &Waiting, event: &Event) -> Step<(GitSource, Take)> {
    let repository = repository(of)?;
    let (point, expected) = match &event.kind {
        EventKind::PullRequest { base, .. } => {
            let name: RefName = format!("refs/heads/{base}")
                .parse()
                .map_err(|error| Stop::So(Begun::Failed(format!("the pull request's base: {error}"))))?;
            (name, None)
        }
        _ => (event.git_ref.clone(), expected(event)),
    };
    let source = GitSource { point: GitPoint::Ref(point), expected, ..repository };
    Ok((source, Take::File(FILE_NAME.to_owned())))
}

fn expected(event: &Event) -> Option<Commit> {
    (!event.commit.is_none()).then(|| event.commit.clone())
}

/// The source of an image: its context's folder, with the Dockerfile in it.
fn image_source(of: &Waiting, wanted: &Wanted, event: &Event) -> Step<(GitSource, Take)> {
    let context = if wanted.context == "." { "" } else { wanted.context.as_str() };
    let within = match context {
        "" => Some(wanted.dockerfile.as_str()),
        folder => wanted.dockerfile.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')),
    };
    let within = within.ok_or_else(|| {
        Begun::Failed(format!(
            "its Dockerfile {} isn't in its context {}; put it there, or make the context a folder above both",
            wanted.dockerfile, wanted.context
        ))
    })?;
    let take = Take::build(within).map_err(|error| Begun::Failed(error.to_string()))?;
    // What a push has brought is built by its name: that its ref was at it, the rules' fetch has seen, and it may have moved since.
    // Of what is proposed it was the base's rules, so it is seen now.
    let (point, expected) = match event.kind {
        EventKind::PullRequest { .. } => (GitPoint::Ref(event.git_ref.clone()), expected(event)),
        _ => (GitPoint::Commit(event.commit.clone()), None),
    };
    let source =
        GitSource { point, expected, subdir: context.to_owned(), lfs: wanted.lfs, ..repository(of)? };
    Ok((source, take))
}

/// What is wrong with rules is told where they are.
fn wrong(told: &mut Told, name: &str, problems: &Problems) -> Begun {
    if name == FILE_NAME {
        told.wrong(problems);
    }
    Begun::Failed(format!("{name}: {problems}"))
}

/// What rules make of an event. Of long ones that takes a while.
async fn plan(
    Text { name, text }: Text,
    event: Event,
    facts: Facts,
) -> Step<Result<(Rules, Plan), Problems>> {
    let planning = tokio::task::spawn_blocking(move || {
        let rules = Rules::parse(&text)?;
        let plan = rules.plan(&event, &facts);
        Ok((rules, plan))
    });
    match planning.await {
        Ok(planned) => Ok(planned),
        Err(error) => Err(Begun::Later(format!("{name} could not be read: {error}")).into()),
    }
}

/// The text of the rules of what was fetched.
async fn rules(
    shared: &Shared,
    of: &Waiting,
    snapshot: &SnapshotRef,
    fetch: &BuildRecord,
    event: &Event,
) -> Step<String> {
    let longest = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX);
    let read = read_file(shared, of.project, snapshot.tree_id, (ROOT_CONTEXT, FILE_NAME), longest).await;
    let read = read.map_err(|error| {
        let why = format!("{FILE_NAME}, which build {} has fetched, can't be read: {error}", fetch.short_id);
        if error.may_pass() { Begun::Later(why) } else { Begun::Failed(why) }
    })?;
    let bytes = match read {
        Read::File(bytes) => bytes,
        Read::Missing => {
            let place = match &event.kind {
                EventKind::PullRequest { base, .. } => format!("branch {base}"),
                _ => event.git_ref.to_string(),
            };
            return Err(Begun::Ignored(format!("{} has no {FILE_NAME} in {place}", of.full_name)).into());
        }
        Read::TooLong => {
            return Err(Begun::Failed(format!("{FILE_NAME} is longer than {MOST_BYTES} bytes")).into());
        }
    };
    String::from_utf8(bytes)
        .map_err(|_| Begun::Failed(format!("{FILE_NAME} isn't valid UTF-8; write it as text")).into())
}

#[cfg(test)]
#[path = "begin_tests.rs"]
mod tests;
