//! The file as it was read: nothing in it is wrong any more.

use std::collections::BTreeMap;

use farm_types::pattern::PatternSet;
use farm_types::spec::Verify;
use farm_types::{Emulation, Gate, ImageTag, Lfs, MountId, Platform, Repository, SecretName, SigningKeyName};

use crate::cron::Cron;
use crate::names::NamePatterns;
use crate::problem::Position;
use crate::template::Template;
use crate::version::VersionRange;

/// A `.farm.yaml`.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The images, each behind those that it needs, else in the file's order.
    pub(crate) images: Vec<Image>,
}

impl Rules {
    /// The images, each behind those that it needs, else in the file's order.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// The times at which something is to be built: the schedule's name and its line, each pair once.
    pub fn schedules(&self) -> Vec<(&str, &Cron)> {
        let mut all: Vec<(&str, &Cron)> = Vec::new();
        for (name, cron) in self.images.iter().flat_map(|image| &image.on.schedule) {
            if !all.contains(&(name.as_str(), cron)) {
                all.push((name, cron));
            }
        }
        all
    }
}

/// One image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name in the file.
    pub name: String,
    /// Where its name stands.
    pub at: Position,
    /// Where its parts stand.
    pub places: Places,
    /// What it is built upon.
    pub on: On,
    /// Which changed files matter to it; `None`: all.
    pub paths: Option<Paths>,
    /// The Dockerfile, from the repository's root.
    pub dockerfile: String,
    /// The folder that it is built in, from the repository's root; `.` is that.
    pub context: String,
    /// `--target`.
    pub target: Option<String>,
    /// `--platform`; empty: what a build without it is built for.
    pub platforms: Vec<Platform>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// The tags that it gets.
    pub tags: Vec<TagRule>,
    /// Where it is published; empty: nowhere.
    pub destinations: Vec<Repository>,
    /// Secrets of the project, by the ids that the Dockerfile has.
    pub secrets: BTreeMap<MountId, SecretName>,
    /// `--optional`: those of its platforms without which the others are published.
    pub optional: Vec<Platform>,
    /// `--emulation`; `None`: what a build without it has.
    pub emulation: Option<Emulation>,
    /// `--lfs`.
    pub lfs: Lfs,
    /// `--verify`, `--verify-except`; `None`: what a build without them has.
    pub verify: Option<Verify>,
    /// `--gate`.
    pub gate: Option<Gate>,
    /// `--sign`.
    pub sign: Option<SigningKeyName>,
    /// Whether a newer build of a ref ends older ones; `None`: of branches and pull requests, and not of tags.
    pub supersede: Option<bool>,
    /// The images that are to be built before.
    pub needs: Vec<String>,
}

/// Where parts of an image stand in the file; where it doesn't say them, the place of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// `destinations`.
    pub destinations: Position,
    /// `tags`.
    pub tags: Position,
    /// `secrets`.
    pub secrets: Position,
    /// `sign`.
    pub sign: Position,
}

/// What an image is built upon. Within an event all that is said has to hold.
#[derive(Debug, Clone, Default)]
pub struct On {
    /// Pushes to these branches; within: `None`: all.
    pub push: Option<Option<NamePatterns>>,
    /// Tags that are made or moved.
    pub tag: Option<ReleaseFilter>,
    /// Pull requests to these branches; within: `None`: all.
    pub pull_request: Option<Option<NamePatterns>>,
    /// Releases that are published.
    pub release: Option<ReleaseFilter>,
    /// Times, by their names.
    pub schedule: BTreeMap<String, Cron>,
    /// Images that are built upon and have moved; empty: all that the farm is told of.
    pub base_image: Option<Vec<ImageTag>>,
}

impl On {
    /// The events that it says, in their words.
    pub fn events(&self) -> Vec<&'static str> {
        let all = [
            (self.push.is_some(), "push"),
            (self.tag.is_some(), "tag"),
            (self.pull_request.is_some(), "pull_request"),
            (self.release.is_some(), "release"),
            (!self.schedule.is_empty(), "schedule"),
            (self.base_image.is_some(), "base_image"),
        ];
        all.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect()
    }
}

/// Which tags or releases.
#[derive(Debug, Clone)]
pub struct ReleaseFilter {
    /// Tags that fit these patterns; `None`: all.
    pub tags: Option<NamePatterns>,
    /// Tags that name a version in this range; `None`: all.
    pub semver: Option<VersionRange>,
    /// Those that come before a release as well.
    pub prereleases: bool,
}

impl Default for ReleaseFilter {
    fn default() -> Self {
        Self { tags: None, semver: None, prereleases: true }
    }
}

/// Which files matter: patterns as in a .dockerignore.
#[derive(Debug, Clone)]
pub struct Paths {
    pub(crate) patterns: PatternSet,
    pub(crate) texts: Vec<String>,
}

impl Paths {
    /// Whether a file matters.
    pub fn cover(&self, path: &str) -> bool {
        self.patterns.is_excluded(path)
    }
}

/// A tag of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRule {
    /// What it is made of.
    pub template: Template,
    /// The events that give it; `None`: all of the image's.
    pub on: Option<Vec<&'static str>>,
}

impl TagRule {
    /// Whether this event gives it: it has what the template's words stand for, and the rule says it. A pull request gives only
    /// tags with its number in it, as whoever proposes something mustn't move what others use.
    pub fn is_of(&self, event: &str) -> bool {
        let said = self.on.as_ref().is_none_or(|events| events.contains(&event));
        let known = self.template.words().all(|word| word.events().contains(&event));
        said && known && (event != "pull_request" || self.template.has(crate::template::Word::Pr))
    }
}
