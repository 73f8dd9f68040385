//! What an event makes of a file.

mod filter;
mod reason;
mod tags;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use farm_types::spec::Verify;
use farm_types::{Emulation, Gate, ImageTag, Lfs, MountId, Platform, SecretName, SigningKeyName};

use crate::event::{Event, EventKind};
use crate::file::{Image, Places, Rules};
use crate::problem::Position;
use crate::skip::skip_marker;
pub use reason::{LeftOutWhy, Reason};

/// The most characters of patterns times characters of changed paths that are compared: some seconds at worst, as a rule next to
/// nothing, since most pairs differ at their beginning.
const MOST_LOOKS: usize = 500_000_000;

/// What is known besides the event.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The time of the event, for `{date}`.
    pub now: DateTime<Utc>,
    /// All tags of the repository, by their names, as its remote lists them. By these it is told which version is the highest; the
    /// event's own needn't be among them.
    pub tags: Vec<String>,
}

/// What is to be built and what isn't.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Every image of the file, each behind those that it needs.
    pub images: Vec<ImagePlan>,
}

impl Plan {
    /// Publishes nothing of it.
    pub fn publish_nothing(&mut self) {
        for image in &mut self.images {
            if let Outcome::Build(wanted) = &mut image.outcome {
                wanted.tags.clear();
            }
        }
    }

    /// What is to be built, in an order in which that can be done.
    pub fn builds(&self) -> impl Iterator<Item = (&ImagePlan, &Wanted)> {
        self.images.iter().filter_map(|image| match &image.outcome {
            Outcome::Build(wanted) => Some((image, &**wanted)),
            Outcome::Skipped(_) => None,
        })
    }
}

/// One image's part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePlan {
    /// Its name in the file.
    pub name: String,
    /// Where its name stands.
    pub at: Position,
    /// Where its parts stand.
    pub places: Places,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// What becomes of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is built.
    Build(Box<Wanted>),
    /// It isn't, and why.
    Skipped(Reason),
}

/// A build, as the file asks for it. What it may not have is for [`Plan::refused`] to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The Dockerfile, from the repository's root.
    pub dockerfile: String,
    /// The folder that it is built in, from the repository's root; `.` is that.
    pub context: String,
    /// `--target`.
    pub target: Option<String>,
    /// `--platform`; empty: what a build without it is built for.
    pub platforms: Vec<Platform>,
    /// `--optional`: those of them without which the others are published.
    pub optional: Vec<Platform>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// The tags to move, each tag at each destination, none twice; may be empty: then nothing is published.
    pub tags: Vec<ImageTag>,
    /// Tags of the file that this event doesn't move.
    pub left_out: Vec<LeftOut>,
    /// Secrets of the project, by the ids that the Dockerfile has.
    pub secrets: BTreeMap<MountId, SecretName>,
    /// `--emulation`; `None`: what a build without it has.
    pub emulation: Option<Emulation>,
    /// `--lfs`.
    pub lfs: Lfs,
    /// `--verify`, `--verify-except`; `None`: what a build without them has.
    pub verify: Option<Verify>,
    /// `--gate`: of no effect where there are no tags.
    pub gate: Option<Gate>,
    /// `--sign`: of no effect where there are no tags.
    pub sign: Option<SigningKeyName>,
    /// It ends older builds of this image and ref that haven't ended.
    pub supersedes: bool,
    /// The images of this plan that are to be built before; if one of them fails it isn't built.
    pub needs: Vec<String>,
    /// None of its own files has changed: it is built as one that it needs is (the first such).
    pub because_of: Option<String>,
}

/// A tag of the file that an event doesn't move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// As the file has it.
    pub tag: String,
    /// Why.
    pub why: LeftOutWhy,
}

impl Rules {
    /// What this event makes of the file. Of the same it makes the same; the order of the file's images changes nothing but their order.
    pub fn plan(&self, event: &Event, facts: &Facts) -> Plan {
        let marker = match event.kind {
            // A tag or a release is made on purpose, also of a commit that said this.
            EventKind::Push { .. } | EventKind::PullRequest { .. } => skip_marker(&event.message),
            _ => None,
        };
        let changed = event.changed.as_deref().filter(|changed| self.can_look_at(changed));
        let mut images: Vec<ImagePlan> = Vec::new();
        for image in &self.images {
            let built: Vec<String> =
                image.needs.iter().filter(|need| is_built(&images, need)).cloned().collect();
            let reason = filter::skipped(image, event, changed);
            let reason = reason.or_else(|| marker.map(|marker| Reason::Marker { marker }));
            let outcome = match reason {
                // What it is built upon is new.
                Some(Reason::Paths { .. }) if marker.is_none() && !built.is_empty() => {
                    let because_of = built.first().cloned();
                    Outcome::Build(Box::new(Wanted { because_of, ..wanted(image, built, event, facts) }))
                }
                Some(reason) => Outcome::Skipped(reason),
                None => Outcome::Build(Box::new(wanted(image, built, event, facts))),
            };
            images.push(ImagePlan { name: image.name.clone(), at: image.at, places: image.places, outcome });
        }
        Plan { images }
    }

    /// Whether these paths can be held against all patterns in a moment. Whoever writes a file could make that hours otherwise.
    fn can_look_at(&self, changed: &[String]) -> bool {
        let patterns = self.images.iter().filter_map(|image| image.paths.as_ref());
        let patterns: usize = patterns.flat_map(|paths| &paths.texts).map(String::len).sum();
        let paths: usize = changed.iter().map(String::len).sum();
        patterns.saturating_mul(paths) <= MOST_LOOKS
    }
}

fn is_built(images: &[ImagePlan], name: &str) -> bool {
    images.iter().any(|image| image.name == name && matches!(image.outcome, Outcome::Build(_)))
}

fn wanted(image: &Image, needs: Vec<String>, event: &Event, facts: &Facts) -> Wanted {
    let by_default = matches!(event.kind, EventKind::Push { .. } | EventKind::PullRequest { .. });
    let (tags, left_out) = tags::of(image, event, facts);
    Wanted {
        dockerfile: image.dockerfile.clone(),
        context: image.context.clone(),
        target: image.target.clone(),
        platforms: image.platforms.clone(),
        build_args: image.build_args.clone(),
        labels: image.labels.clone(),
        tags,
        left_out,
        secrets: image.secrets.clone(),
        optional: image.optional.clone(),
        emulation: image.emulation,
        lfs: image.lfs,
        verify: image.verify.clone(),
        gate: image.gate.clone(),
        sign: image.sign.clone(),
        supersedes: image.supersede.unwrap_or(by_default),
        needs,
        because_of: None,
    }
}
