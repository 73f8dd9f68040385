//! One image, with what `defaults` says where it says nothing.

use std::collections::BTreeMap;

use farm_types::pattern::PatternSet;
use farm_types::spec::Verify;
use farm_types::{Gate, Invalid, MountId, Platform, SecretName};

use super::on;
use super::part::{Fields, Part};
use super::yaml::{Is, Key};
use crate::file::{Image, On, Paths, Places, TagRule};
use crate::problem::{Position, Problem};
use crate::template::Template;

/// What an image may say.
const KEYS: [&str; 20] = [
    "on",
    "paths",
    "dockerfile",
    "context",
    "target",
    "platforms",
    "build_args",
    "labels",
    "tags",
    "destinations",
    "secrets",
    "emulation",
    "lfs",
    "verify",
    "verify_except",
    "concurrency",
    "needs",
    "optional",
    "gate",
    "sign",
];

/// What all images share, looked through once.
pub(super) fn defaults<'a>(part: &Part<'a>, problems: &mut Vec<Problem>) -> Option<Fields<'a>> {
    let known: Vec<&str> = KEYS.into_iter().filter(|key| *key != "needs").collect();
    let fields = part.fields(&known, problems)?;
    let source = Source { own: &fields, defaults: None, at: part.at() };
    if let Some(part) = source.get("on") {
        on::read(&part, problems);
    }
    parts(&source, String::new(), None, problems);
    Some(fields)
}

/// Reads an image; beside it stands where each of its needs is written.
pub(super) fn read(
    key: &Key,
    part: &Part<'_>,
    defaults: Option<&Fields<'_>>,
    problems: &mut Vec<Problem>,
) -> Option<(Image, Vec<Position>)> {
    let fields = part.fields(&KEYS, problems)?;
    let source = Source { own: &fields, defaults, at: key.at };
    let on = match source.get("on") {
        Some(part) => on::read(&part, problems),
        None => {
            source.missing(
                part,
                &key.name,
                "it doesn't say when it is built; write on, like on: [push]",
                problems,
            );
            None
        }
    };
    let image = parts(&source, key.name.clone(), on.as_ref(), problems);
    let lacks = match (source.has("destinations"), source.has("tags")) {
        (true, false) => Some("it has destinations and no tags; write tags, like tags: [\"{branch}\"]"),
        (false, true) => Some(
            "it has tags and no destinations; write destinations, like destinations: [registry.example/team/app]",
        ),
        (true, true) | (false, false) => None,
    };
    if let Some(cure) = lacks {
        source.missing(part, &key.name, cure, problems);
    }
    let needs = fields.get("needs");
    let needs = needs.map(|part| {
        part.each("base", problems, |part, problems| {
            Some((part.text(problems)?.to_owned(), Place(part.at())))
        })
    });
    let (needs, places): (Vec<_>, Vec<_>) =
        needs.unwrap_or_default().into_iter().map(|(need, place)| (need, place.0)).unzip();
    Some((Image { needs, on: on.unwrap_or_default(), ..image }, places))
}

/// A place that makes no difference between two needs.
struct Place(Position);

impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Where an image's parts are looked for.
struct Source<'a, 'b> {
    own: &'b Fields<'a>,
    defaults: Option<&'b Fields<'a>>,
    /// Where the image's name stands.
    at: Position,
}

impl<'a> Source<'a, '_> {
    fn get(&self, name: &str) -> Option<Part<'a>> {
        self.own.get(name).or_else(|| self.defaults.and_then(|fields| fields.get(name)))
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn place(&self, name: &str) -> Position {
        let of_defaults = || self.defaults.and_then(|fields| fields.place(name));
        self.own.place(name).or_else(of_defaults).unwrap_or(self.at)
    }

    fn missing(&self, part: &Part<'_>, name: &str, cure: &str, problems: &mut Vec<Problem>) {
        let thing = part.path.rsplit_once('.').map_or(part.path.as_str(), |_| "image");
        problems.push(Problem { at: self.at, what: Invalid::new(thing, name, cure) });
    }

    /// Names and values, those of the defaults first.
    fn joined(&self, key: &str, like: &str, problems: &mut Vec<Problem>) -> BTreeMap<String, String> {
        let of_defaults = self.defaults.and_then(|fields| fields.get(key));
        let mut all = BTreeMap::new();
        for values in [of_defaults, self.own.get(key)].into_iter().flatten() {
            for (name, part) in values.named(like, problems) {
                let is_fit = |c: char| !c.is_control() && !c.is_whitespace() && c != '=';
                if name.name.is_empty() || name.name.len() > 255 || !name.name.chars().all(is_fit) {
                    let cure = "write 1 to 255 bytes without blanks and =";
                    problems
                        .push(Problem { at: name.at, what: Invalid::new(&values.path, &name.name, cure) });
                }
                // An empty text in quotes is a value, nothing at all is not.
                all.extend(part.text(problems).map(|value| (name.name.clone(), value.to_owned())));
            }
        }
        all
    }
}

/// All parts but `on` and `needs`.
fn parts(source: &Source<'_, '_>, name: String, on: Option<&On>, problems: &mut Vec<Problem>) -> Image {
    let context =
        source.get("context").and_then(|part| path(&part, problems)).unwrap_or_else(|| ".".to_owned());
    let dockerfile = source.get("dockerfile").and_then(|part| {
        let file = path(&part, problems)?;
        if file == "." {
            part.wrong(problems, "write a file of this repository, like docker/app.Dockerfile");
        }
        Some(file)
    });
    let beside = if context == "." { "Dockerfile".to_owned() } else { format!("{context}/Dockerfile") };
    let target = source.get("target").and_then(|part| {
        let stage = part.text(problems)?;
        if stage.is_empty() || stage.chars().any(|c| c.is_control() || c.is_whitespace()) {
            part.wrong(problems, "no stage is called so; write its name as it stands behind AS");
        }
        Some(stage.to_owned())
    });
    let platforms = source.get("platforms");
    let platforms =
        platforms.map(|part| part.each("linux/amd64", problems, |part, problems| part.parse(problems)));
    let platforms: Vec<Platform> = platforms.unwrap_or_default();
    let optional = source.get("optional").map(|part| {
        part.each("linux/riscv64", problems, |part, problems| {
            let platform: Platform = part.parse(problems)?;
            if platforms.contains(&platform) {
                return Some(platform);
            }
            part.wrong(
                problems,
                "it isn't one of the image's platforms; name it in platforms as well, or leave it out here",
            );
            None
        })
    });
    let optional = optional.unwrap_or_default();
    if let Some(part) = source.get("optional").filter(|_| !optional.is_empty())
        && platforms.iter().all(|platform| optional.contains(platform))
    {
        part.wrong(problems, "one platform at least has to be required; leave one out here");
    }
    let destinations = source
        .get("destinations")
        .map(|part| part.each("registry.example/team/app", problems, |part, problems| part.parse(problems)));
    let supersede = source.get("concurrency").and_then(|part| {
        let fields = part.fields(&["supersede"], problems)?;
        fields.get("supersede")?.truth(problems)
    });
    Image {
        name,
        at: source.at,
        places: Places {
            destinations: source.place("destinations"),
            tags: source.place("tags"),
            secrets: source.place("secrets"),
            sign: source.place("sign"),
        },
        on: On::default(),
        paths: source.get("paths").and_then(|part| paths(&part, problems)),
        dockerfile: dockerfile.unwrap_or(beside),
        context,
        target,
        platforms,
        optional,
        build_args: source.joined("build_args", "{VERSION: \"1.2\"}", problems),
        labels: source.joined("labels", "{org.opencontainers.image.title: app}", problems),
        tags: tags(source, on, problems),
        destinations: destinations.unwrap_or_default(),
        secrets: source.get("secrets").map(|part| secrets(&part, problems)).unwrap_or_default(),
        emulation: source.get("emulation").and_then(|part| part.parse(problems)),
        lfs: source.get("lfs").and_then(|part| part.parse(problems)).unwrap_or_default(),
        verify: verify(source, problems),
        gate: source.get("gate").and_then(|part| gate(&part, problems)),
        sign: source.get("sign").and_then(|part| part.parse(problems)),
        supersede,
        needs: Vec::new(),
    }
}

/// Whether the image's programs have to be of its platforms, and which needn't.
fn verify(source: &Source<'_, '_>, problems: &mut Vec<Problem>) -> Option<Verify> {
    let except = source.get("verify_except").map(|part| {
        part.each("/opt/x86/**", problems, |part, problems| {
            let text = part.text(problems)?;
            part.take(Verify::new("elf", vec![text.to_owned()]), problems)?;
            Some(text.to_owned())
        })
    });
    let except = except.unwrap_or_default();
    let said = source.get("verify").and_then(|part| {
        let word = part.text(problems)?;
        part.take(Verify::new(word, except.clone()), problems)
    });
    said.or_else(|| if except.is_empty() { None } else { Verify::new("", except).ok() })
}

/// What the image has to pass: a command, or a list of a program and its arguments.
fn gate(part: &Part<'_>, problems: &mut Vec<Problem>) -> Option<Gate> {
    match part.node.is {
        Is::Text { .. } => part.parse(problems),
        Is::List(_) => {
            let mut words = Vec::new();
            for word in part.list("/app", problems)? {
                words.push(word.text(problems)?.to_owned());
            }
            part.take(Gate::Exec(words).to_string().parse(), problems)
        }
        Is::Map(_) => {
            part.wrong(problems, "write a command here, or a list of a program and its arguments");
            None
        }
    }
}

/// A path of the repository, without `.` in it.
fn path(part: &Part<'_>, problems: &mut Vec<Problem>) -> Option<String> {
    let text = part.text(problems)?;
    let wrong = if text.contains("://") {
        "only this repository's own files are taken; write a path in it"
    } else if text.starts_with('/') {
        "write the path from the repository's root on, without / in front"
    } else if text.split('/').any(|name| name == "..") {
        "it leads out of the repository; write a path in it, without .."
    } else if text.is_empty() || text.contains('\\') || text.chars().any(char::is_control) {
        "write a path with / between its names"
    } else {
        let names: Vec<&str> = text.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
        return Some(if names.is_empty() { ".".to_owned() } else { names.join("/") });
    };
    part.wrong(problems, wrong);
    None
}

/// Which changed files matter.
fn paths(part: &Part<'_>, problems: &mut Vec<Problem>) -> Option<Paths> {
    let texts = part.each("src/**", problems, |part, problems| {
        let text = part.text(problems)?;
        let body = text.strip_prefix('!').unwrap_or(text);
        if body.starts_with("../") || body == ".." || body.starts_with("!") || body.trim() != body {
            part.wrong(
                problems,
                "no file of the repository fits it; write a pattern like src/** or !**/*.md",
            );
            return None;
        }
        let made = PatternSet::from_lines([text]).map(|_| text.to_owned());
        part.take(made, problems)
    });
    let all = texts.iter().all(|text| text.starts_with('!')).then_some("**");
    let lines = all.into_iter().chain(texts.iter().map(String::as_str));
    let patterns = PatternSet::from_lines(lines).ok()?;
    (!texts.is_empty()).then_some(Paths { patterns, texts })
}

/// The tags, each a template, or one with the events that give it.
fn tags(source: &Source<'_, '_>, on: Option<&On>, problems: &mut Vec<Problem>) -> Vec<TagRule> {
    let Some(part) = source.get("tags") else { return Vec::new() };
    // Those of the defaults are for several images, of which each gets what its events give.
    let is_own = source.own.get("tags").is_some();
    part.each("\"{branch}\"", problems, |part, problems| {
        let rule = match part.entries() {
            None => TagRule { template: part.parse::<Template>(problems)?, on: None },
            Some(_) => {
                let fields = part.fields(&["tag", "on"], problems)?;
                let Some(tag) = fields.get("tag") else {
                    part.wrong(problems, "it has no tag; write tag, like {tag: nightly, on: [schedule]}");
                    return None;
                };
                let events = fields
                    .get("on")
                    .map(|part| part.each("push", problems, |part, problems| on::event(part, problems)));
                if events.as_ref().is_some_and(Vec::is_empty) {
                    return None;
                }
                TagRule { template: tag.parse(problems)?, on: events }
            }
        };
        let events = on.map(On::events).unwrap_or_default();
        if is_own && !events.is_empty() && !events.iter().any(|event| rule.is_of(event)) {
            part.wrong(problems, never(&rule, &events));
        }
        Some(rule)
    })
}

/// Why a tag is given by none of an image's events.
fn never(rule: &TagRule, events: &[&str]) -> String {
    let said = events.join(", ");
    let word = rule.template.words().find(|word| !events.iter().any(|event| word.events().contains(event)));
    match word {
        Some(word) => {
            format!(
                "no event gives it: {{{}}} is of {}, and the image is built on {said}",
                word.as_str(),
                word.events().join(", ")
            )
        }
        None if events == ["pull_request"] => {
            "no event gives it: pull requests only give tags with {pr}; write one, like pr-{pr}".to_owned()
        }
        None => match &rule.on {
            Some(on) => {
                format!("no event gives it: it is for {}, and the image is built on {said}", on.join(", "))
            }
            None => "no event gives it: none has all of its words".to_owned(),
        },
    }
}

/// Names of secrets, by which the Dockerfile knows them as well; or ids with names.
fn secrets(all_of: &Part<'_>, problems: &mut Vec<Problem>) -> BTreeMap<MountId, SecretName> {
    if all_of.entries().is_none() {
        let names = all_of.each("npm_token", problems, |part, problems| part.parse::<SecretName>(problems));
        return names.into_iter().filter_map(|name| Some((name.as_str().parse().ok()?, name))).collect();
    }
    let mut all = BTreeMap::new();
    for (key, part) in all_of.named("{npm: npm_token}", problems) {
        let id = key.name.parse::<MountId>();
        if let Err(error) = &id {
            problems.push(Problem { at: key.at, what: Invalid::new(&all_of.path, &key.name, &error.cure) });
        }
        all.extend(id.ok().zip(part.parse(problems)));
    }
    all
}
