//! Copies again what is to be copied again and again: a run of each mirror that is due, by builds as others are.
//!
//! The row is the queue: a pass that is cut off anywhere finds the run again, and its builds by their keys, so what is begun has to stand
//! being begun twice. Each run asks anew whether whoever has asked for it may still do that.

use std::sync::Arc;
use std::time::Duration;

use farm_core::work::again::backoff;
use farm_proto::v1;
use farm_store::StoreError;
use farm_store::machines::leader::Epoch;
use farm_store::publish::mirror_runs::{Run, RunBuild, RunEnd};
use farm_types::state::BuildState;
use farm_types::{
    BuildId, CopySpec, CopyVerb, Digest, ImageRef, ImageTag, PerArch, Platform, ProjectName, per_arch_tags,
};
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::Instrument as _;

use crate::grpc::builds::accept::{Asked, accept};
use crate::people::Member;
use crate::people::owner::{Owner, acting};
use crate::reconcile::{Lead, turn};
use crate::shared::Shared;

/// How often a pass begins.
const TICK: Duration = Duration::from_secs(2);
/// So many runs are begun, and looked at, in one pass; and so many of these at once.
const BATCH: i64 = 50;
const AT_ONCE: usize = 4;
/// A run that goes on is looked at so often, at first and at last.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// One look may take so long.
const LONGEST: Duration = Duration::from_secs(90);
/// A run whose builds could not be made so often has failed.
const MOST_TRIES: u32 = 12;

/// Copies while leading, until `shutdown`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while let Some(lead) = turn(&mut tick, &mut lead, &shutdown).await {
        tokio::select! {
            () = shutdown.cancelled() => return,
            done = pass(&shared, lead.epoch) => if let Err(error) = done {
                tracing::warn!(%error, "mirrors could not be looked at; trying again");
            },
        }
    }
}

async fn pass(shared: &Shared, epoch: Epoch) -> Result<(), StoreError> {
    shared.loops.begin_mirrors(epoch, BATCH).await?;
    let runs = shared.loops.mirror_runs(BATCH).await?;
    let looks = futures::stream::iter(runs).map(|run| {
        let (project, to) = (run.project_name.clone(), run.destination.to_string());
        let span = tracing::error_span!("mirror", project, to, run = run.number);
        async move { one(shared, epoch, &run).await }.instrument(span)
    });
    let mut looks = looks.buffer_unordered(AT_ONCE);
    while let Some(done) = looks.next().await {
        done?;
    }
    Ok(())
}

async fn one(shared: &Shared, epoch: Epoch, run: &Run) -> Result<(), StoreError> {
    let looked = timeout(LONGEST, look(shared, epoch, run)).await;
    let step = match looked {
        Ok(Ok(step)) => step,
        Ok(Err(error)) if error.is_superseded() || error.is_transient() => return settled(Err(error)),
        Ok(Err(error)) => {
            tracing::error!(%error, "a mirror can't be copied");
            Step::Later("the farm couldn't begin it; its log says why".to_owned())
        }
        Err(_) => Step::Later("its registry, or the database, took too long to answer".to_owned()),
    };
    settled(note(shared, epoch, run, step).await)
}

/// What somebody else has ended meanwhile is no trouble.
fn settled(done: Result<(), StoreError>) -> Result<(), StoreError> {
    match done {
        Err(StoreError::Stale(why)) => {
            tracing::debug!(why, "not done");
            Ok(())
        }
        done => done,
    }
}

/// What a look has come to.
enum Step {
    /// Its builds go on.
    Goes,
    /// Something can't be done now.
    Later(String),
    Ended(RunEnd),
}

async fn note(shared: &Shared, epoch: Epoch, run: &Run, step: Step) -> Result<(), StoreError> {
    let end = match step {
        Step::Goes => {
            let age = (run.now - run.began_at).to_std().unwrap_or_default();
            return shared
                .loops
                .look_at_mirror_later(epoch, run, (age / 20).clamp(LOOK.0, LOOK.1), false)
                .await;
        }
        Step::Later(why) if run.tries + 1 < MOST_TRIES => {
            tracing::warn!(why, "not copied yet; trying again");
            let wait = backoff(run.tries + 1, rand::random::<f64>());
            return shared.loops.look_at_mirror_later(epoch, run, wait, true).await;
        }
        Step::Later(why) => RunEnd::Failed(format!("tried {MOST_TRIES} times: {why}")),
        Step::Ended(end) => end,
    };
    let next = shared.loops.end_mirror_run(epoch, run, &end).await?;
    match &end {
        RunEnd::Copied(digest) => tracing::info!(%digest, %next, "mirrored"),
        RunEnd::Failed(why) | RunEnd::Refused(why) => tracing::warn!(why, %next, "a mirror has failed"),
    }
    Ok(())
}

/// How a build of it stands.
enum Stands {
    Goes,
    Done(Digest),
    Failed(String),
}

fn stands(build: &RunBuild) -> Stands {
    match (build.state, build.digest) {
        (BuildState::Succeeded, Some(digest)) => Stands::Done(digest),
        (state, _) if !state.is_final() => Stands::Goes,
        (BuildState::Cancelled, _) => Stands::Failed(format!("build {} was cancelled", build.short_id)),
        _ => {
            let why = build.failure.as_ref().map_or("it failed", |failure| failure.message.as_str());
            Stands::Failed(format!("build {}: {why}", build.short_id))
        }
    }
}

/// Takes the next step of a run.
async fn look(shared: &Shared, epoch: Epoch, run: &Run) -> Result<Step, StoreError> {
    let Some(build) = run.build("") else {
        let to = Part {
            suffix: "",
            from: run.source.clone(),
            to: run.destination.clone(),
            platforms: run.platforms.clone(),
        };
        return Ok(match begin(shared, epoch, run, to).await? {
            Begun::There => Step::Goes,
            Begun::Later(why) => Step::Later(why),
            Begun::Refused(why) => Step::Ended(RunEnd::Refused(why)),
        });
    };
    match stands(build) {
        Stands::Goes => Ok(Step::Goes),
        Stands::Failed(why) => Ok(Step::Ended(RunEnd::Failed(why))),
        Stands::Done(digest) if run.per_arch => per_arch(shared, epoch, run, digest).await,
        Stands::Done(digest) => Ok(Step::Ended(RunEnd::Copied(digest))),
    }
}

/// Gives what was copied a tag more per platform.
async fn per_arch(shared: &Shared, epoch: Epoch, run: &Run, digest: Digest) -> Result<Step, StoreError> {
    if run.builds.iter().any(|build| matches!(stands(build), Stands::Goes)) {
        return Ok(Step::Goes);
    }
    let wanted = match wanted(shared, run, digest).await? {
        Ok(wanted) => wanted,
        Err(why) => return Ok(Step::Later(why)),
    };
    let (mut missing, mut goes) = (Vec::new(), false);
    for PerArch { suffix, from, to } in &wanted {
        let why = match run.build(suffix).map(stands) {
            Some(Stands::Done(_)) => continue,
            Some(Stands::Failed(why)) => why,
            // It was looked for above.
            Some(Stands::Goes) => return Ok(Step::Goes),
            None => {
                let part = Part { suffix, from: from.clone(), to: to.clone(), platforms: Vec::new() };
                match begin(shared, epoch, run, part).await? {
                    Begun::There => {
                        goes = true;
                        continue;
                    }
                    Begun::Later(why) => return Ok(Step::Later(why)),
                    Begun::Refused(why) => why,
                }
            }
        };
        missing.push(format!("{to} ({why})"));
    }
    Ok(match missing.as_slice() {
        _ if goes => Step::Goes,
        [] => Step::Ended(RunEnd::Copied(digest)),
        missing => Step::Ended(RunEnd::Failed(format!(
            "{} is there, and {} of {} tags per architecture; not {}",
            run.destination,
            wanted.len() - missing.len(),
            wanted.len(),
            missing.join(", ")
        ))),
    })
}

/// Which tags per architecture there are to be, or why that can't be told now.
async fn wanted(
    shared: &Shared,
    run: &Run,
    digest: Digest,
) -> Result<Result<Vec<PerArch>, String>, StoreError> {
    let repository = &run.destination.repository;
    let index = ImageRef { repository: repository.clone(), tag: None, digest: Some(digest) };
    let allowed = shared.accesses.of(run.project).await?;
    let by = match shared.registries.to_publish(&allowed, repository) {
        Ok(by) => by,
        Err(error) => return Ok(Err(error.message)),
    };
    let image = match by.inspect(&index).await {
        Ok(Some(image)) => image,
        Ok(None) => return Ok(Err(format!("{index} was copied, and isn't there any more"))),
        Err(error) => return Ok(Err(error.message)),
    };
    let variants = image.variants.iter().map(|one| (one.platform.as_str(), one.digest.as_str()));
    Ok(per_arch_tags(variants, &run.destination).map_err(|invalid| invalid.to_string()))
}

/// One build of a run.
struct Part<'a> {
    suffix: &'a str,
    from: ImageRef,
    to: ImageTag,
    platforms: Vec<Platform>,
}

/// What became of a build that was to be made.
enum Begun {
    /// It is there, or was there already.
    There,
    Later(String),
    Refused(String),
}

async fn begin(shared: &Shared, epoch: Epoch, run: &Run, part: Part<'_>) -> Result<Begun, StoreError> {
    let member = match member(run) {
        Ok(member) => member,
        Err(why) => {
            let cure = format!(
                "{why}, and it is copied in their name; whoever may takes it over: farm mirror {} {} --every … --project {}",
                run.source, run.destination, run.project_name
            );
            return Ok(Begun::Refused(cure));
        }
    };
    match submit(shared, &member, run, &part).await {
        Ok(build) => {
            shared.loops.note_mirror_build(epoch, run, part.suffix, build).await?;
            Ok(Begun::There)
        }
        Err(status) => {
            let why = status.message().to_owned();
            Ok(match status.code() {
                Code::Unavailable
                | Code::ResourceExhausted
                | Code::Internal
                | Code::Aborted
                | Code::DeadlineExceeded
                | Code::Unknown => Begun::Later(why),
                _ => Begun::Refused(why),
            })
        }
    }
}

/// As whom a run copies, or why as nobody.
fn member(run: &Run) -> Result<Member, String> {
    let name: ProjectName = run.project_name.parse().map_err(|_| "its project has no name".to_owned())?;
    let owner = run.owner.as_ref();
    let owner =
        owner.map(|owner| Owner { id: owner.id, name: &owner.name, kind: owner.kind, role: owner.role });
    acting((run.project, &name), owner, run.most)
}

async fn submit(shared: &Shared, member: &Member, run: &Run, part: &Part<'_>) -> Result<BuildId, Status> {
    let copy =
        CopySpec { from: part.from.clone(), verb: CopyVerb::Mirror, platforms: part.platforms.clone() };
    // Nothing else is said of it: whoever follows the first run by its key submits the same.
    let spec =
        v1::BuildSpec { tags: vec![part.to.to_string()], copy: Some((&copy).into()), ..Default::default() };
    let asked =
        Asked { idempotency_key: run.key(part.suffix), spec, values: Vec::new(), of: None, fork: None };
    Box::pin(accept(shared, member, asked)).await.map(|(record, _)| record.id)
}
