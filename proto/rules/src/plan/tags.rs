//! The tags that an event moves, and why it doesn't move others.

use farm_types::ImageTag;
use semver::Version;

use crate::event::{Event, EventKind};
use crate::file::{Image, TagRule};
use crate::plan::{Facts, LeftOut, LeftOutWhy};
use crate::template::{Unrendered, Word, Words};
use crate::version::version_of;

/// The tag that only the default branch and the highest release have.
const LATEST: &str = "latest";

/// What moves, each tag at each destination; and what doesn't.
pub(super) fn of(image: &Image, event: &Event, facts: &Facts) -> (Vec<ImageTag>, Vec<LeftOut>) {
    let words = words(event, facts);
    let (mut tags, mut left_out) = (Vec::new(), Vec::new());
    for rule in &image.tags {
        match tag(rule, event, facts, &words) {
            Err(why) => left_out.push(LeftOut { tag: rule.template.as_str().to_owned(), why }),
            Ok(tag) => {
                for repository in &image.destinations {
                    let tag = ImageTag { repository: repository.clone(), tag: tag.clone() };
                    if !tags.contains(&tag) {
                        tags.push(tag);
                    }
                }
            }
        }
    }
    (tags, left_out)
}

fn words(event: &Event, facts: &Facts) -> Words {
    let mut words = Words {
        commit: Some(event.commit.clone()),
        date: Some(facts.now.format("%Y%m%d").to_string()),
        ..Words::default()
    };
    match &event.kind {
        EventKind::Push { branch } => words.branch = Some(branch.clone()),
        EventKind::Schedule { .. } | EventKind::BaseImage { .. } => {
            words.branch = event.git_ref.branch().map(str::to_owned);
        }
        EventKind::Tag { tag } | EventKind::Release { tag, .. } => {
            words.tag = Some(tag.clone());
            words.version = version_of(tag);
        }
        EventKind::PullRequest { number, .. } => words.pr = Some(*number),
    }
    words
}

fn tag(rule: &TagRule, event: &Event, facts: &Facts, words: &Words) -> Result<String, LeftOutWhy> {
    let kind = event.kind.as_str();
    if let Some(on) = rule.on.as_ref().filter(|on| !on.contains(&kind)) {
        return Err(LeftOutWhy::Event { event: kind, on: on.clone() });
    }
    let template = &rule.template;
    if matches!(event.kind, EventKind::PullRequest { .. }) && !template.has(Word::Pr) {
        return Err(LeftOutWhy::Proposal);
    }
    let tag = template.render(words).map_err(|why| match (why, &words.tag) {
        (Unrendered::Missing(Word::Semver | Word::Major | Word::Minor), Some(tag)) => {
            LeftOutWhy::NoVersion { tag: tag.clone() }
        }
        (Unrendered::Missing(word), _) => LeftOutWhy::Missing { word, event: kind },
        (Unrendered::Unusable(word, value), _) => LeftOutWhy::Unusable { word, value },
    })?;
    // Whatever was written to come to it.
    let is_latest = tag == LATEST;
    if let Some(own) = &words.tag {
        let (major, minor) = (template.has(Word::Major), template.has(Word::Minor));
        let is_moving = (major || minor) && !template.has(Word::Semver) && !template.has(Word::Tag);
        if is_latest || is_moving {
            let early = matches!(event.kind, EventKind::Release { prerelease: true, .. });
            highest(own, early, (major && !is_latest, minor && !is_latest), facts)?;
        }
    } else if is_latest {
        let branch = words.branch.as_deref().unwrap_or_default();
        match &event.default_branch {
            None => return Err(LeftOutWhy::NoDefault),
            Some(default) if default != branch => {
                let (branch, default) = (branch.to_owned(), default.clone());
                return Err(LeftOutWhy::OtherBranch { branch, default });
            }
            Some(_) => {}
        }
    }
    Ok(tag)
}

/// Refuses a tag that isn't the highest release of all, or of those with the same first or second number.
fn highest(tag: &str, is_early: bool, (major, minor): (bool, bool), facts: &Facts) -> Result<(), LeftOutWhy> {
    let own = version_of(tag).ok_or_else(|| LeftOutWhy::NoVersion { tag: tag.to_owned() })?;
    if is_early || !own.pre.is_empty() {
        return Err(LeftOutWhy::Prerelease { tag: tag.to_owned() });
    }
    let is_rival = |other: &Version| {
        other.pre.is_empty()
            && (!major || other.major == own.major)
            && (!minor || other.minor == own.minor)
            && other.cmp_precedence(&own).is_gt()
    };
    let versions = facts.tags.iter().filter_map(|tag| Some((version_of(tag)?, tag)));
    let rivals = versions.filter(|(version, _)| is_rival(version));
    match rivals.max_by(|(a, _), (b, _)| a.cmp_precedence(b)) {
        Some((_, than)) => Err(LeftOutWhy::Older { tag: tag.to_owned(), than: than.clone() }),
        None => Ok(()),
    }
}
