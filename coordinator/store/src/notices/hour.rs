//! What of an hour is told one by one, and what as one summary.
//!
//! After [`MOST_AN_HOUR`] ends only the first ones of a branch or a tag are told at once, and of those so many again at most: whoever has
//! no right to push can make pull requests fail as often as they like, and that hides nothing of what the project itself has broken.

use std::collections::BTreeMap;

use farm_types::NoticeOn;
use serde::{Deserialize, Serialize};

use super::rule::MOST_AN_HOUR;

/// So many are named in a summary.
const NAMED: usize = 20;
/// So many of one branch or tag are told at once, whatever else there is: that it has failed, and that it works again.
const OF_A_REF: u32 = 2;

/// Something that has ended, as an hour counts it.
#[derive(Debug, Clone, Copy)]
pub(super) struct End<'a> {
    /// As what it is told.
    pub event: NoticeOn,
    /// What people call it.
    pub name: &'a str,
    /// The hook that has begun it.
    pub hook: Option<&'a str>,
    /// Which ref it is of.
    pub git_ref: Option<&'a str>,
}

impl End<'_> {
    /// Which hook's ref it is of; `None`: of none.
    fn line(&self) -> Option<String> {
        self.git_ref.map(|git_ref| format!("{} {git_ref}", self.hook.unwrap_or_default()))
    }

    /// It is of a branch or a tag: others than who may push there can't make it.
    fn is_own(&self) -> bool {
        self.git_ref.is_some_and(|full| full.starts_with("refs/heads/") || full.starts_with("refs/tags/"))
    }

    fn text(&self) -> String {
        let at = self.git_ref.map(|full| {
            let short = full.strip_prefix("refs/heads/").or_else(|| full.strip_prefix("refs/tags/"));
            format!(" at {}", short.unwrap_or(full))
        });
        format!("{} {}{}", self.event, self.name, at.unwrap_or_default())
    }
}

/// What was told one by one in an hour.
#[derive(Debug, Clone, Default)]
pub(super) struct Hour {
    /// How much.
    pub count: i32,
    /// How much of which hook's ref.
    pub lines: BTreeMap<String, u32>,
}

impl Hour {
    /// Whether an end is told by itself; then it is counted.
    pub fn tells(&mut self, end: &End<'_>) -> bool {
        let line = end.line();
        let of_line = line.as_ref().and_then(|line| self.lines.get(line)).copied().unwrap_or(0);
        let is_first = end.is_own() && of_line < OF_A_REF && self.count < 2 * MOST_AN_HOUR;
        let is_told = self.count < MOST_AN_HOUR || is_first;
        if is_told {
            self.count += 1;
            line.into_iter().for_each(|line| *self.lines.entry(line).or_default() += 1);
        }
        is_told
    }
}

/// What of an hour wasn't told one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many have ended how.
    pub counts: BTreeMap<String, u64>,
    /// Some of them: of a hook's ref and image the last one.
    pub named: Vec<Named>,
    /// So many more there are.
    pub unnamed: u64,
}

/// An end that a summary names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// What it is one of; empty: of nothing.
    pub line: String,
    /// It is of a branch or a tag.
    pub is_own: bool,
    /// How what has ended, and where.
    pub text: String,
}

impl Summary {
    pub(super) fn add(&mut self, end: &End<'_>) {
        *self.counts.entry(end.event.to_string()).or_default() += 1;
        // An image has its build behind it, which is another one each time.
        let image = end.name.split_once(" (").map_or(end.name, |(image, _)| image);
        let line = end.line().map(|line| format!("{line} {image}")).unwrap_or_default();
        let new = Named { line, is_own: end.is_own(), text: end.text() };
        if let Some(before) = self.named.iter_mut().find(|one| !new.line.is_empty() && one.line == new.line) {
            *before = new;
            return;
        }
        if self.named.len() >= NAMED {
            self.unnamed += 1;
            let Some(other) = self.named.iter().rposition(|one| new.is_own && !one.is_own) else { return };
            self.named.remove(other);
        }
        self.named.push(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end<'a>(event: NoticeOn, name: &'a str, git_ref: &'a str) -> End<'a> {
        End { event, name, hook: Some("app"), git_ref: Some(git_ref) }
    }

    #[test]
    fn what_others_make_fail_hides_nothing_of_the_projects_own() {
        let mut hour = Hour::default();
        let pulls: Vec<String> = (0..100).map(|n| format!("refs/pull/{n}/head")).collect();
        let told = pulls.iter().filter(|one| hour.tells(&end(NoticeOn::Failure, "app", one))).count();
        assert_eq!(told, usize::try_from(MOST_AN_HOUR).unwrap());
        let main = |event| end(event, "app", "refs/heads/main");
        assert!(hour.tells(&main(NoticeOn::Failure)) && hour.tells(&main(NoticeOn::Recovered)));
        assert!(!hour.tells(&main(NoticeOn::Failure)), "that is a flood of its own");
        let none = End { git_ref: None, ..main(NoticeOn::Failure) };
        assert!(!hour.tells(&none));
        let branches: Vec<String> = (0..100).map(|n| format!("refs/heads/{n}")).collect();
        let told = branches.iter().filter(|one| hour.tells(&end(NoticeOn::Failure, "app", one))).count();
        assert_eq!(told, usize::try_from(MOST_AN_HOUR - 2).unwrap(), "nor is it told without an end");
    }

    #[test]
    fn a_summary_names_how_each_stands_and_the_projects_own_before_others() {
        let mut summary = Summary::default();
        let pulls: Vec<String> = (0..30).map(|n| format!("refs/pull/{n}/head")).collect();
        for pull in &pulls {
            summary.add(&end(NoticeOn::Failure, "app (7f3k2m)", pull));
        }
        summary.add(&end(NoticeOn::Failure, "app (1a2b3c)", "refs/heads/main"));
        summary.add(&end(NoticeOn::Recovered, "app (4d5e6f)", "refs/heads/main"));
        let texts: Vec<&str> = summary.named.iter().map(|one| one.text.as_str()).collect();
        assert_eq!(texts.len(), NAMED);
        assert_eq!(texts[0], "failure app (7f3k2m) at refs/pull/0/head");
        assert_eq!(texts[NAMED - 1], "recovered app (4d5e6f) at main");
        assert_eq!((summary.unnamed, summary.counts["failure"], summary.counts["recovered"]), (11, 31, 1));
    }
}
