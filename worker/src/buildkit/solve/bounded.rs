//! A solve that may not take every image: which it may, and which in addition once somebody has looked.
//!
//! What everybody may read, or the login of the solve's project where there is one, isn't known before it is asked for: images are named by arguments, by base images (`ONBUILD`), by
//! contexts. So an engine is told to take nothing else ([`policy`]); when that ends a solve, the coordinator looks whether everybody
//! may read that image, and the solve is made again with its repository, or with that image only where the engine can't tell the
//! repository from another registry's ([`policy::readable`]). That is early: images are looked up before any step begins.
//!
//! Invariants: what is allowed in addition is what everybody, or that login, could read when it was looked up; each is asked for once in a solve, as
//! many as [`MOST_ASKED`], and none after one that not everybody may read; of what isn't allowed no more is told than its registry
//! tells everybody.

use std::collections::HashSet;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::sourcepolicy::Policy;
use farm_proto::v1::AttemptEvent;
use farm_proto::v1::attempt_event::Event;
use farm_types::{Cause, Failure, FailureCode, ImageRef, Repository};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::policy;
use crate::buildkit::public::Readable;
use crate::buildkit::session::auth::{bounded, unread, untaken};
use crate::buildkit::types::{Bounds, Looked, Seen};

/// As many are asked for in one solve, each of which costs the engine a look at the Dockerfile.
const MOST_ASKED: usize = 256;
/// How long the first events of a solve are held back: if it is made again they come again. A registry may take its time to tell
/// of a base image.
pub(super) const HELD_FOR: Duration = Duration::from_secs(15);
/// How often something is told meanwhile, for those who would take silence for an engine that hangs.
pub(super) const TOLD_EACH: Duration = Duration::from_secs(1);

/// What a solve may take.
pub(super) struct Allowed<'a> {
    bounds: Option<&'a Bounds>,
    public: Vec<Readable>,
    asked: HashSet<Readable>,
}

impl<'a> Allowed<'a> {
    /// What is known before the first look.
    pub(super) fn within(bounds: Option<&'a Bounds>) -> Self {
        let public = bounds.map(|bounds| bounds.public.known(&bounds.readers)).unwrap_or_default();
        Self { bounds, public, asked: HashSet::new() }
    }

    /// What an engine is told of it; `None`: it may take everything.
    pub(super) fn policy(&self) -> Option<Policy> {
        policy::of(self.bounds?, &self.public)
    }

    /// Has an image looked up that a solve was kept from. Cancel safe.
    ///
    /// # Errors
    /// It stays so. `None`: an engine's own words have to do.
    pub(super) async fn look_up(&mut self, image: &ImageRef) -> Result<(), Option<Failure>> {
        let repository = &image.repository;
        let bounds = self.bounds.ok_or(None)?;
        let bound = bounds.within.iter().find(|(host, _)| host.name() == repository.host().name());
        let (_, bound) = bound.ok_or(None)?;
        if !bound.or_public {
            return Err(Some(bounded(&bounds.project, &repository.to_string())));
        }
        let readable = policy::readable(bounds, image);
        if self.asked.contains(&readable) {
            return Err(None);
        }
        if self.asked.len() >= MOST_ASKED {
            return Err(Some(too_many(&bounds.project, repository)));
        }
        self.asked.insert(readable.clone());
        tracing::debug!(%image, "the coordinator is asked whether everybody may read an image");
        let Looked { seen, reader } = bounds.images.look_up(image).await.map_err(Some)?;
        match seen {
            Seen::Readable => {
                bounds.public.note(readable.clone(), &reader);
                self.public.push(readable);
                Ok(())
            }
            Seen::Absent if reader.is_empty() => Err(Some(absent(&bounds.project, image))),
            Seen::Absent => Err(Some(unfound(&bounds.project, image))),
            Seen::Refused if reader.is_empty() => {
                Err(Some(untaken(&bounds.project, &repository.to_string())))
            }
            Seen::Refused => Err(Some(unread(&bounds.project, repository))),
        }
    }
}

/// As if the engine had asked for it. Many registries say so, too, of what they don't show to everybody.
fn absent(project: &str, image: &ImageRef) -> Failure {
    let repository = &image.repository;
    let message = format!(
        "image {image}: not found; check the image's name and tag, or project {project} may not pull from it with the farm's \
         credentials; an admin of the farm can allow it: farm project allow {project} --pull {repository}"
    );
    Failure::new(Cause::User, FailureCode::BaseImageMissing, message)
}

/// The same, of a registry at which the project has a login.
fn unfound(project: &str, image: &ImageRef) -> Failure {
    let host = image.repository.host();
    let message = format!(
        "image {image}: not found; check the image's name and tag, and whether the login that project {project} has at {host} may read it"
    );
    Failure::new(Cause::User, FailureCode::BaseImageMissing, message)
}

fn too_many(project: &str, repository: &Repository) -> Failure {
    let message = format!(
        "one build can find out of at most {MOST_ASKED} images that everybody may pull them, and one of {repository} is one more; an \
         admin of the farm can allow some: farm project allow {project} --pull {repository}"
    );
    Failure::new(Cause::User, FailureCode::RegistryAuth, message)
}

/// Passes on what a solve tells, once it has told of more than what it reads before its steps, or has gone on for `held_for`.
/// Answers, when all senders are gone, with what was not passed on. In the place of what is held back comes an event that says
/// nothing, at most one each `told_each`.
pub(super) async fn hold(
    mut told: mpsc::Receiver<AttemptEvent>,
    (held_for, told_each): (Duration, Duration),
    onward: &mpsc::Sender<AttemptEvent>,
) -> Vec<AttemptEvent> {
    let mut held = Vec::new();
    let mut told_at = Instant::now();
    let until = told_at + held_for;
    loop {
        let event = tokio::select! {
            biased;
            event = told.recv() => event,
            () = sleep_until(until) => break,
        };
        let Some(event) = event else { return held };
        let is_before = is_before_steps(&event);
        let nothing = AttemptEvent { at_ms: event.at_ms, event: None };
        held.push(event);
        if !is_before {
            break;
        }
        if told_at.elapsed() >= told_each {
            told_at = Instant::now();
            // Full: then those who listen have something to hear.
            let _ = onward.try_send(nothing);
        }
    }
    pass_on(held, onward).await;
    while let Some(event) = told.recv().await {
        // An error: nobody listens.
        let _ = onward.send(event).await;
    }
    Vec::new()
}

/// Sends all of these.
pub(super) async fn pass_on(events: Vec<AttemptEvent>, onward: &mpsc::Sender<AttemptEvent>) {
    for event in events {
        // An error: nobody listens.
        let _ = onward.send(event).await;
    }
}

/// Whether it is about what an engine reads before it begins.
fn is_before_steps(event: &AttemptEvent) -> bool {
    match &event.event {
        Some(Event::Step(step)) => {
            let reads = ["load build definition", "load .dockerignore", "load metadata for"];
            step.number == 0
                && (reads.iter().any(|words| step.name.contains(words)) || step.name.starts_with("[auth]"))
        }
        Some(Event::Transfer(_) | Event::Warning(_)) => true,
        _ => false,
    }
}

#[cfg(test)]
#[path = "bounded_tests.rs"]
mod tests;
