//! Whether an event is one that an image is built upon.

use crate::event::{Event, EventKind};
use crate::file::{Image, ReleaseFilter};
use crate::names::NamePatterns;
use crate::plan::Reason;
use crate::version::version_of;

/// Why it isn't, if it isn't. That of changed files comes last.
pub(super) fn skipped(image: &Image, event: &Event, changed: Option<&[String]>) -> Option<Reason> {
    let on = &image.on;
    let other = || Reason::Event { event: event.kind.as_str(), on: on.events() };
    let filtered = match &event.kind {
        EventKind::Push { branch } => match &on.push {
            None => Some(other()),
            Some(patterns) => outside(patterns.as_ref(), branch, |patterns| Reason::Branch {
                branch: branch.clone(),
                patterns,
            }),
        },
        EventKind::PullRequest { number, base, .. } => match &on.pull_request {
            None => Some(other()),
            Some(patterns) => outside(patterns.as_ref(), base, |patterns| Reason::Base {
                number: *number,
                base: base.clone(),
                patterns,
            }),
        },
        EventKind::Tag { tag } => match &on.tag {
            None => Some(other()),
            Some(filter) => unreleased(filter, tag, false),
        },
        EventKind::Release { tag, prerelease } => match &on.release {
            None => Some(other()),
            Some(filter) => unreleased(filter, tag, *prerelease),
        },
        EventKind::Schedule { name } if on.schedule.is_empty() || on.schedule.contains_key(name) => {
            on.schedule.is_empty().then(other)
        }
        EventKind::Schedule { name } => {
            Some(Reason::Schedule { name: name.clone(), names: on.schedule.keys().cloned().collect() })
        }
        EventKind::BaseImage { image: moved } => match &on.base_image {
            None => Some(other()),
            Some(images) => {
                let is_one = images.is_empty() || moved.parse().is_ok_and(|moved| images.contains(&moved));
                let images = || images.iter().map(ToString::to_string).collect();
                (!is_one).then(|| Reason::BaseImage { image: moved.clone(), images: images() })
            }
        },
    };
    filtered.or_else(|| untouched(image, event, changed))
}

fn outside(patterns: Option<&NamePatterns>, name: &str, reason: impl Fn(String) -> Reason) -> Option<Reason> {
    patterns.filter(|patterns| !patterns.covers(name)).map(|patterns| reason(patterns.to_string()))
}

fn unreleased(filter: &ReleaseFilter, tag: &str, is_marked: bool) -> Option<Reason> {
    let version = version_of(tag);
    let by_name =
        || outside(filter.tags.as_ref(), tag, |patterns| Reason::Tag { tag: tag.to_owned(), patterns });
    let by_range = || {
        let range = filter.semver.as_ref()?;
        let (tag, said) = (tag.to_owned(), range.to_string());
        match &version {
            None => Some(Reason::NoVersion { tag, range: said }),
            Some(version) => (!range.covers(version)).then_some(Reason::Range { tag, range: said }),
        }
    };
    let is_early = is_marked || version.as_ref().is_some_and(|version| !version.pre.is_empty());
    let by_kind = || (is_early && !filter.prereleases).then(|| Reason::Prerelease { tag: tag.to_owned() });
    by_name().or_else(by_range).or_else(by_kind)
}

/// That no changed file matters. Asked of pushes and pull requests only, and if it is known what was changed.
fn untouched(image: &Image, event: &Event, changed: Option<&[String]>) -> Option<Reason> {
    if !matches!(event.kind, EventKind::Push { .. } | EventKind::PullRequest { .. }) {
        return None;
    }
    let (paths, changed) = (image.paths.as_ref()?, changed?);
    let is_touched = changed.iter().any(|path| paths.cover(path));
    (!is_touched).then(|| Reason::Paths { changed: changed.len(), patterns: paths.texts.clone() })
}
