//! From text to [`Rules`]: all that is wrong at once, each with its place.

mod image;
mod on;
mod part;
pub(crate) mod yaml;

use std::collections::BTreeMap;

use farm_types::Invalid;

use crate::file::{Image, Rules};
use crate::problem::{Position, Problem, Problems};
use part::{Part, is_name};

/// What the file is called, at the repository's root.
pub const FILE_NAME: &str = ".farm.yaml";
/// The largest file, bytes.
pub const MOST_BYTES: usize = 64 * 1024;
/// The most images.
pub const MOST_IMAGES: usize = 100;
/// The version of the format that is read.
const VERSION: &str = "1";

impl Rules {
    /// Reads a file.
    ///
    /// # Errors
    /// All that is wrong with it; after what is no YAML nothing more is found.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let rules = if text.len() > MOST_BYTES {
            let cure = format!(
                "it has {} bytes; at most {MOST_BYTES} are taken: say once in defaults what images share",
                text.len()
            );
            problems.push(Problem {
                at: Position { line: 1, column: 1 },
                what: Invalid::new("file", FILE_NAME, cure),
            });
            None
        } else {
            yaml::read(text, &mut problems).and_then(|root| rules(&Part::new(&root, ""), &mut problems))
        };
        match (rules, Problems::of(problems)) {
            (_, Some(problems)) => Err(problems),
            (Some(rules), None) => Ok(rules),
            // Whoever reads nothing says why.
            (None, None) => Ok(Self { images: Vec::new() }),
        }
    }
}

fn rules(root: &Part<'_>, problems: &mut Vec<Problem>) -> Option<Rules> {
    let fields = root.fields(&["version", "defaults", "images"], problems)?;
    let missing = |thing: &str, cure: &str, problems: &mut Vec<Problem>| {
        problems.push(Problem { at: root.at(), what: Invalid::new("key", thing, cure) });
    };
    match fields.get("version") {
        Some(part) => match part.text(problems) {
            Some(VERSION) | None => {}
            Some(_) => {
                part.wrong(problems, "this farm knows version 1; write version: 1");
                // What another version's keys mean nobody knows here.
                return None;
            }
        },
        None => missing("version", "it isn't there; write version: 1", problems),
    }
    let defaults = fields.get("defaults").and_then(|part| image::defaults(&part, problems));
    let Some(part) = fields.get("images") else {
        missing(
            "images",
            "it isn't there; write what is to be built, like images: {app: {on: [push]}}",
            problems,
        );
        return None;
    };
    let entries = part.named("{app: {on: [push]}}", problems);
    debug_assert!(entries.len() <= MOST_IMAGES);
    let mut images = Vec::new();
    for (key, part) in entries {
        if !is_name(&key.name) {
            let cure = "write 1 to 64 small letters, digits, -, _ and ., a letter or digit first";
            problems.push(Problem { at: key.at, what: Invalid::new("name of an image", &key.name, cure) });
        }
        images.extend(image::read(key, &part, defaults.as_ref(), problems));
    }
    Some(Rules { images: in_order(images, problems) })
}

/// An image and where each of its needs stands.
type Needing = (Image, Vec<Position>);

/// The images, each behind those that it needs, else as they stand. What isn't there, or needs itself, is told.
fn in_order(images: Vec<Needing>, problems: &mut Vec<Problem>) -> Vec<Image> {
    let names: Vec<String> = images.iter().map(|(image, _)| image.name.clone()).collect();
    let mut missing = false;
    for (image, places) in &images {
        for (need, at) in image.needs.iter().zip(places).filter(|(need, _)| !names.contains(need)) {
            missing = true;
            let guess = farm_types::suggest::nearest(need, names.iter().map(String::as_str));
            let cure = match guess {
                Some(guess) => format!("no image of this file is called so; did you mean {guess}?"),
                None => format!("no image of this file is called so; there are {}", names.join(", ")),
            };
            problems.push(Problem {
                at: *at,
                what: Invalid::new(format!("images.{}.needs", image.name), need, cure),
            });
        }
    }
    if missing {
        return Vec::new();
    }
    let mut left: BTreeMap<usize, Needing> = images.into_iter().enumerate().collect();
    let mut ordered: Vec<Image> = Vec::new();
    while !left.is_empty() {
        let is_ready =
            |image: &Image| image.needs.iter().all(|need| ordered.iter().any(|one| one.name == *need));
        let next = left.iter().find(|(_, (image, _))| is_ready(image)).map(|(at, _)| *at);
        match next.and_then(|at| left.remove(&at)) {
            Some((image, _)) => ordered.push(image),
            None => {
                problems.extend(circle(&left));
                break;
            }
        }
    }
    ordered
}

/// The circle to which the first of images leads of which none can be built before the others.
fn circle(left: &BTreeMap<usize, Needing>) -> Option<Problem> {
    let of = |name: &str| left.values().find(|(image, _)| image.name == name);
    let mut way: Vec<(&Needing, Position)> = Vec::new();
    let mut now = left.values().next()?;
    loop {
        // Each of them needs one that is left as well, or it would have been ready.
        let mut needs = now.0.needs.iter().zip(&now.1);
        let (next, at) = needs.find_map(|(need, at)| Some((of(need)?, *at)))?;
        way.push((now, at));
        now = next;
        if let Some(begin) = way.iter().position(|(one, _)| one.0.name == now.0.name) {
            let (first, at) = way[begin];
            let names: Vec<&str> = way[begin..].iter().map(|(one, _)| one.0.name.as_str()).collect();
            let cure = if names.len() == 1 {
                "it needs itself; leave that out".to_owned()
            } else {
                format!("a circle: {} needs {}; leave one of these out", names.join(" needs "), first.0.name)
            };
            let need = &way.get(begin + 1).map_or(first, |(one, _)| one).0.name;
            let thing = format!("images.{}.needs", first.0.name);
            return Some(Problem { at, what: Invalid::new(thing, need, cure) });
        }
    }
}
