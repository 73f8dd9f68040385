//! Parts of the file with the path of keys that leads to them, and how each kind of value is read from one.

use std::str::FromStr;

use farm_types::Invalid;
use farm_types::suggest::nearest;

use super::yaml::{Is, Key, Node};
use crate::problem::{Position, Problem};

/// The most entries of a list or a map.
const MOST_ENTRIES: usize = 100;
/// The longest text, characters.
const MOST_TEXT: usize = 4096;

/// What other tools call things, and what they are called here.
const HABITS: [(&str, &str); 19] = [
    ("file", "dockerfile"),
    ("args", "build_args"),
    ("build-args", "build_args"),
    ("buildargs", "build_args"),
    ("platform", "platforms"),
    ("repository", "destinations"),
    ("repo", "destinations"),
    ("registry", "destinations"),
    ("image", "destinations"),
    ("depends_on", "needs"),
    ("when", "on"),
    ("services", "images"),
    ("targets", "images"),
    ("merge_request", "pull_request"),
    ("cron", "schedule"),
    ("branch", "branches"),
    ("branches-ignore", "branches, with ! in front of what is left out"),
    ("paths-ignore", "paths of the image, beside on, with ! in front of what is left out"),
    ("paths", "paths of the image, beside on"),
];

/// A value in the file.
#[derive(Debug, Clone)]
pub(crate) struct Part<'a> {
    pub(crate) node: &'a Node,
    pub(crate) path: String,
}

/// A map whose keys are known.
pub(crate) struct Fields<'a> {
    entries: &'a [(Key, Node)],
    path: String,
}

impl<'a> Part<'a> {
    pub(crate) fn new(node: &'a Node, path: impl Into<String>) -> Self {
        Self { node, path: path.into() }
    }

    pub(crate) fn at(&self) -> Position {
        self.node.at
    }

    /// Notes that this is wrong.
    pub(crate) fn wrong(&self, problems: &mut Vec<Problem>, cure: impl Into<String>) {
        let thing = if self.path.is_empty() { "file" } else { &self.path };
        let what = Invalid::new(thing, self.node.shown(), cure);
        problems.push(Problem { at: self.at(), what });
    }

    /// A map with only these keys.
    pub(crate) fn fields(&self, known: &[&str], problems: &mut Vec<Problem>) -> Option<Fields<'a>> {
        let Some(entries) = self.entries() else {
            self.wrong(problems, format!("write keys and values here; {}", there_are(known)));
            return None;
        };
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
            let is_here = |here: &str| {
                here.contains(" of the image")
                    || known.contains(&here.split([',', ' ']).next().unwrap_or_default())
            };
            let habit = HABITS.iter().find(|(name, here)| *name == key.name && is_here(here));
            let cure = match (habit, nearest(&key.name, known.iter().copied())) {
                (Some((_, here)), _) => format!("unknown key; write {here}"),
                (None, Some(guess)) => format!("unknown key; did you mean {guess}?"),
                (None, None) => format!("unknown key; {}", there_are(known)),
            };
            let thing = if self.path.is_empty() { "key" } else { &self.path };
            problems.push(Problem { at: key.at, what: Invalid::new(thing, &key.name, cure) });
        }
        Some(Fields { entries, path: self.path.clone() })
    }

    /// A map's entries.
    pub(crate) fn entries(&self) -> Option<&'a [(Key, Node)]> {
        match &self.node.is {
            Is::Map(entries) => Some(entries),
            Is::Text { .. } | Is::List(_) => None,
        }
    }

    /// The part of a map under a key of it.
    pub(crate) fn below(&self, key: &Key, node: &'a Node) -> Self {
        Part::new(node, join(&self.path, &key.name))
    }

    /// A list that isn't empty. `like` is one of its entries, for the cure.
    pub(crate) fn list(&self, like: &str, problems: &mut Vec<Problem>) -> Option<Vec<Part<'a>>> {
        let Is::List(items) = &self.node.is else {
            let like = match &self.node.is {
                Is::Text { text, .. } if !self.node.is_nothing() => text,
                _ => like,
            };
            self.wrong(problems, format!("write a list, like [{like}]"));
            return None;
        };
        if items.is_empty() {
            self.wrong(problems, "it is empty; leave it out, or write what is meant");
            return None;
        }
        if items.len() > MOST_ENTRIES {
            self.wrong(problems, format!("it has {} entries; at most {MOST_ENTRIES} are taken", items.len()));
            return None;
        }
        Some(items.iter().map(|node| Part::new(node, &self.path)).collect())
    }

    /// A text that says something, as it is written.
    pub(crate) fn text(&self, problems: &mut Vec<Problem>) -> Option<&'a str> {
        match &self.node.is {
            Is::Text { text, .. } if !self.node.is_nothing() && text.chars().count() <= MOST_TEXT => {
                Some(text)
            }
            Is::Text { .. } if self.node.is_nothing() => {
                self.wrong(problems, "it says nothing; write a value, or leave the key out");
                None
            }
            Is::Text { .. } => {
                let what = Invalid::new(&self.path, "…", format!("it is longer than {MOST_TEXT} characters"));
                problems.push(Problem { at: self.at(), what });
                None
            }
            Is::List(_) | Is::Map(_) => {
                self.wrong(problems, "write one value here");
                None
            }
        }
    }

    /// A text as what it is to be.
    pub(crate) fn parse<T: FromStr<Err = Invalid>>(&self, problems: &mut Vec<Problem>) -> Option<T> {
        let text = self.text(problems)?;
        self.take(text.parse(), problems)
    }

    /// What was made of it, or its error by this part's name.
    pub(crate) fn take<T>(&self, made: Result<T, Invalid>, problems: &mut Vec<Problem>) -> Option<T> {
        made.map_err(|error| self.wrong(problems, error.cure)).ok()
    }

    /// `true` or `false`.
    pub(crate) fn truth(&self, problems: &mut Vec<Problem>) -> Option<bool> {
        match &self.node.is {
            Is::Text { text, plain: true } if text == "true" => Some(true),
            Is::Text { text, plain: true } if text == "false" => Some(false),
            _ => {
                self.wrong(problems, "write true or false");
                None
            }
        }
    }

    /// A list, each entry of it once, as what these are to be.
    pub(crate) fn each<T: PartialEq>(
        &self,
        like: &str,
        problems: &mut Vec<Problem>,
        read: impl Fn(&Part<'a>, &mut Vec<Problem>) -> Option<T>,
    ) -> Vec<T> {
        let mut all = Vec::new();
        for part in self.list(like, problems).unwrap_or_default() {
            let Some(one) = read(&part, problems) else { continue };
            if all.contains(&one) {
                part.wrong(problems, "it stands here twice; leave one of them");
            }
            all.push(one);
        }
        all
    }

    /// A map of names and values, of which there are not too many.
    pub(crate) fn named(&self, like: &str, problems: &mut Vec<Problem>) -> Vec<(&'a Key, Part<'a>)> {
        match self.entries() {
            Some(entries) if (1..=MOST_ENTRIES).contains(&entries.len()) => {
                entries.iter().map(|(key, node)| (key, self.below(key, node))).collect()
            }
            Some(entries) if entries.len() > MOST_ENTRIES => {
                self.wrong(
                    problems,
                    format!("it has {} entries; at most {MOST_ENTRIES} are taken", entries.len()),
                );
                Vec::new()
            }
            _ => {
                self.wrong(problems, format!("write names and values here, like {like}"));
                Vec::new()
            }
        }
    }
}

impl<'a> Fields<'a> {
    /// What stands under a key.
    pub(crate) fn get(&self, name: &str) -> Option<Part<'a>> {
        let (key, node) = self.entries.iter().find(|(key, _)| key.name == name)?;
        Some(Part::new(node, join(&self.path, &key.name)))
    }

    /// Where a key stands.
    pub(crate) fn place(&self, name: &str) -> Option<Position> {
        self.entries.iter().find(|(key, _)| key.name == name).map(|(key, _)| key.at)
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Whether an image or a schedule may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.starts_with(is_word) && name.len() <= 64 && name.chars().all(|c| is_word(c) || "-_.".contains(c))
}

/// Which keys there are, in words.
fn there_are(known: &[&str]) -> String {
    match known {
        [only] => format!("there is only {only}"),
        _ => format!("there are {}", known.join(", ")),
    }
}
