//! YAML as a tree with places. All scalars are texts, as they are written: `1.10` stays that, and `on` is no truth.
//!
//! The only user of saphyr-parser. Anchors, aliases, tags, several documents and keys that are no text aren't taken, so a file is as
//! large as it looks.

use farm_types::Invalid;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};

use crate::problem::{Position, Problem};

/// The deepest nesting; the deepest key of the format is at 7.
const MOST_DEPTH: usize = 8;

/// The most characters of a value that a message shows.
const MOST_SHOWN: usize = 200;

/// A value.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) is: Is,
}

#[derive(Debug, Clone)]
pub(crate) enum Is {
    /// Plain: without quotes, so that it may stand for a number, a truth or nothing.
    Text {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key and its place.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) at: Position,
    pub(crate) name: String,
}

impl Node {
    /// Whether nothing is written here: `key:`, `key: ~`, `key: null`.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(&self.is, Is::Text { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// As it is shown in a message.
    pub(crate) fn shown(&self) -> String {
        match &self.is {
            Is::Text { text, .. } => text.chars().take(MOST_SHOWN).collect(),
            Is::List(_) => "[…]".to_owned(),
            Is::Map(_) => "{…}".to_owned(),
        }
    }
}

/// What is open while events come in.
enum Open {
    List(Position, Vec<Node>),
    Map(Position, Vec<(Key, Node)>, Option<Key>),
}

/// Reads a text; `None` if it can't be read on. What is wrong is added to `problems`.
pub(crate) fn read(text: &str, problems: &mut Vec<Problem>) -> Option<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut open: Vec<Open> = Vec::new();
    let mut root: Option<Node> = None;
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, Span { start, .. }) = match event {
            Ok(event) => event,
            Err(error) => {
                let cure = format!("this is no YAML: {}", error.info());
                problems.push(problem(*error.marker(), &line_of(text, error.marker()), &cure));
                return None;
            }
        };
        let at = position(start);
        let (anchor, tag, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is = Is::Text { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                (anchor, tag, Some(Node { at, is }))
            }
            Event::SequenceStart(anchor, tag) => {
                open.push(Open::List(at, Vec::new()));
                (anchor, tag, None)
            }
            Event::MappingStart(anchor, tag) => {
                open.push(Open::Map(at, Vec::new(), None));
                (anchor, tag, None)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let node = open.pop().map(|open| match open {
                    Open::List(at, items) => Node { at, is: Is::List(items) },
                    Open::Map(at, entries, _) => Node { at, is: Is::Map(entries) },
                });
                (0, None, node)
            }
            Event::Alias(_) => {
                problems.push(problem(
                    start,
                    &line_of(text, &start),
                    "anchors and aliases aren't taken; write it out, or once in defaults",
                ));
                return None;
            }
            Event::DocumentStart(_) if root.is_some() => {
                problems.push(problem(start, "---", "a file has one document; remove what follows"));
                return None;
            }
            Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::StreamStart
            | Event::StreamEnd
            | Event::Nothing => (0, None, None),
        };
        let refused = if anchor != 0 {
            Some("anchors and aliases aren't taken; write it out, or once in defaults")
        } else if tag.is_some() {
            Some("types like !!str aren't taken; write the value alone, in quotes if it is to be a text")
        } else if open.len() > MOST_DEPTH {
            Some("it is nested too deeply; nothing in this file is")
        } else {
            None
        };
        if let Some(cure) = refused {
            problems.push(problem(start, &line_of(text, &start), cure));
            return None;
        }
        let Some(node) = node else { continue };
        match open.last_mut() {
            None => root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries, key @ None)) => {
                let Is::Text { text: name, .. } = node.is else {
                    problems.push(Problem {
                        at: node.at,
                        what: Invalid::new("key", node.shown(), "write a word as the key"),
                    });
                    return None;
                };
                if entries.iter().any(|(one, _)| one.name == name) {
                    let cure = "it stands here twice; leave one of them";
                    problems.push(Problem { at: node.at, what: Invalid::new("key", &name, cure) });
                }
                *key = Some(Key { at: node.at, name });
            }
            Some(Open::Map(_, entries, key)) => entries.extend(key.take().map(|key| (key, node))),
        }
    }
    if root.is_none() {
        let at = Position { line: 1, column: 1 };
        let cure = "it says nothing; write version: 1, and what is to be built in images";
        problems.push(Problem { at, what: Invalid::new("file", "", cure) });
    }
    root
}

fn position(marker: Marker) -> Position {
    Position { line: marker.line(), column: marker.col() + 1 }
}

fn problem(marker: Marker, value: &str, cure: &str) -> Problem {
    Problem { at: position(marker), what: Invalid::new("line", value, cure) }
}

/// The line that a marker is in, without blanks around it, and not more of it than a message should have.
fn line_of(text: &str, marker: &Marker) -> String {
    text.lines().nth(marker.line().saturating_sub(1)).unwrap_or_default().trim().chars().take(60).collect()
}
