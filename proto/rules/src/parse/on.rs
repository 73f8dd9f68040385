//! `on`: which events an image is built upon.

use std::collections::BTreeMap;

use farm_types::ImageTag;
use farm_types::suggest::nearest;

use super::part::{Part, is_name};
use super::yaml::Is;
use crate::event::EVENTS;
use crate::file::{On, ReleaseFilter};
use crate::names::{self, NamePatterns};
use crate::problem::Problem;

const TIMES: &str = "write when it comes, like schedule: {nightly: \"0 3 * * *\"}";

/// Reads a list of events, or a map of these with what is asked of each.
pub(super) fn read(part: &Part<'_>, problems: &mut Vec<Problem>) -> Option<On> {
    let before = problems.len();
    let mut on = On::default();
    if let Is::List(_) = part.node.is {
        for word in part.each("push", problems, |part, problems| {
            let word = event(part, problems)?;
            if word == "schedule" {
                part.wrong(problems, format!("in a list it has no times; {TIMES}"));
            }
            Some(word)
        }) {
            plain(&mut on, word);
        }
        return (problems.len() == before).then_some(on);
    }
    if let Is::Text { .. } = part.node.is {
        part.list("push", problems);
        return None;
    }
    let fields = part.fields(&EVENTS, problems)?;
    for word in EVENTS {
        let Some(part) = fields.get(word) else { continue };
        if part.node.is_nothing() {
            if word == "schedule" {
                part.wrong(problems, TIMES);
            }
            plain(&mut on, word);
            continue;
        }
        match word {
            "push" => on.push = Some(branches(&part, problems)),
            "pull_request" => on.pull_request = Some(branches(&part, problems)),
            "tag" => on.tag = Some(releases(&part, problems)),
            "release" => on.release = Some(releases(&part, problems)),
            "schedule" => on.schedule = schedule(&part, problems),
            _ => {
                on.base_image =
                    Some(part.each("docker.io/library/python:3.13", problems, |part, problems| {
                        part.parse::<ImageTag>(problems)
                    }));
            }
        }
    }
    if part.entries().is_some_and(<[_]>::is_empty) {
        part.wrong(problems, "it is empty; write events, like on: [push]");
    }
    (problems.len() == before).then_some(on)
}

/// An event's word.
pub(super) fn event(part: &Part<'_>, problems: &mut Vec<Problem>) -> Option<&'static str> {
    let text = part.text(problems)?;
    let word = EVENTS.into_iter().find(|word| *word == text);
    if word.is_none() {
        let cure = match (text, nearest(text, EVENTS)) {
            ("merge_request" | "mr" | "pr" | "pull-request", _) => {
                "unknown event; write pull_request".to_owned()
            }
            ("cron", _) => "unknown event; write schedule".to_owned(),
            (_, Some(guess)) => format!("unknown event; did you mean {guess}?"),
            (_, None) => format!("unknown event; there are {}", EVENTS.join(", ")),
        };
        part.wrong(problems, cure);
    }
    word
}

/// An event of which nothing more is asked.
fn plain(on: &mut On, word: &str) {
    match word {
        "push" => on.push = Some(None),
        "tag" => on.tag = Some(ReleaseFilter::default()),
        "pull_request" => on.pull_request = Some(None),
        "release" => on.release = Some(ReleaseFilter::default()),
        "base_image" => on.base_image = Some(Vec::new()),
        _ => {}
    }
}

fn branches(part: &Part<'_>, problems: &mut Vec<Problem>) -> Option<NamePatterns> {
    if let Is::List(_) = part.node.is {
        part.wrong(problems, "write the branches under branches, like {branches: [main]}");
        return None;
    }
    let fields = part.fields(&["branches"], problems)?;
    patterns(&fields.get("branches")?, "main", problems)
}

fn releases(part: &Part<'_>, problems: &mut Vec<Problem>) -> ReleaseFilter {
    if let Is::List(_) = part.node.is {
        part.wrong(problems, "write the tags under tags, like {tags: [\"v*\"]}");
        return ReleaseFilter::default();
    }
    let Some(fields) = part.fields(&["tags", "semver", "prereleases"], problems) else {
        return ReleaseFilter::default();
    };
    ReleaseFilter {
        tags: fields.get("tags").and_then(|part| patterns(&part, "\"v*\"", problems)),
        semver: fields.get("semver").and_then(|part| part.parse(problems)),
        prereleases: fields.get("prereleases").and_then(|part| part.truth(problems)).unwrap_or(true),
    }
}

fn patterns(part: &Part<'_>, like: &str, problems: &mut Vec<Problem>) -> Option<NamePatterns> {
    let all = part.each(like, problems, |part, problems| {
        let made = names::pattern(part.text(problems)?);
        part.take(made, problems).map(Pattern)
    });
    (!all.is_empty()).then(|| NamePatterns::new(all.into_iter().map(|pattern| pattern.0).collect()))
}

/// Equal if it is written so.
struct Pattern((String, farm_types::pattern::Glob, bool));

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.0 == other.0.0
    }
}

fn schedule(part: &Part<'_>, problems: &mut Vec<Problem>) -> BTreeMap<String, crate::cron::Cron> {
    let mut all = BTreeMap::new();
    for (key, part) in part.named("{nightly: \"0 3 * * *\"}", problems) {
        if !is_name(&key.name) {
            let cure = "write 1 to 64 small letters, digits, -, _ and ., a letter or digit first";
            let what = farm_types::Invalid::new("name of a schedule", &key.name, cure);
            problems.push(Problem { at: key.at, what });
        }
        all.extend(part.parse(problems).map(|cron| (key.name.clone(), cron)));
    }
    all
}
