//! What differs between two outcomes, and which of it is meant to.
//!
//! A difference has a class: `exit`, `line`, `code`, `config.FIELD`, `layers`, `file.FIELD`, `image`, `reading`. What farm does
//! differently on purpose stands in [`DECIDED`], with the reason, and in docs/development.md; everything else fails the
//! run. One more decision: a line there, as narrow as can be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use farm_types::pattern::PatternSet;
use serde_json::Value;

use super::case::{Case, Form, Kind};
use super::image::{Entry, Image, Layer};
use super::outcome::{Ended, Outcome};

/// What a build makes is younger than this, what a context has is older.
const FRESH_SECONDS: u64 = 86_400;
/// So many paths or values of a class are listed.
const LISTED: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub class: String,
    /// What differs, and what it is on either side; one for each path or field.
    pub all: Vec<String>,
}

impl Difference {
    fn every(&self, holds: impl Fn(&str) -> bool) -> bool {
        self.all.iter().all(|text| holds(text))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = self.all.len().min(LISTED);
        write!(f, "{}: {}", self.class, self.all[..listed].join("; "))?;
        if listed < self.all.len() { write!(f, "; and {} more", self.all.len() - listed) } else { Ok(()) }
    }
}

/// A difference that is meant.
#[derive(Debug)]
pub struct Decided {
    /// What it is called in reports.
    pub name: &'static str,
    pub reason: &'static str,
    applies: fn(&Case, &Difference, &Outcome, &Outcome) -> bool,
}

pub const DECIDED: &[Decided] = &[
    Decided {
        name: "names a line where buildx names none",
        reason: "a place in the Dockerfile is of more use than none",
        applies: |_, difference, farm, buildx| {
            difference.class == "line" && buildx.lines.is_empty() && !farm.lines.is_empty()
        },
    },
    Decided {
        name: "takes a plain pax archive for an archive",
        reason: "buildx looks at the first 512 bytes only, finds no file in them, and takes it for a Dockerfile",
        applies: |case, difference, _, buildx| {
            let is_pax = case.form == Form::Archive { format: "posix", compress: false };
            let of_the_end = ["exit", "line", "code"].contains(&difference.class.as_str());
            is_pax && of_the_end && buildx.ended == Ended::Failed && buildx.said.contains("PaxHeaders")
        },
    },
    Decided {
        name: "the files of an archive belong to root",
        reason: "an archive and the folder that it was made of give the same image; of a folder's files Docker says so",
        applies: |case, difference, _, _| {
            matches!(case.form, Form::Archive { .. })
                && difference.class == "file.owner"
                && difference.every(|text| text.contains(": farm (0, 0), buildx "))
        },
    },
    Decided {
        name: "the .dockerignore of an archive counts",
        reason: "an archive and the folder that it was made of give the same image; buildx reads it in a folder only",
        applies: |case, difference, _, _| {
            matches!(case.form, Form::Archive { .. })
                && difference.class == "file.missing"
                && difference.every(|path| is_ignored(case, path))
        },
    },
    Decided {
        name: "two names of one file are two files",
        reason: "sources are kept by content: the same bytes are sent and kept once, under any number of names",
        applies: |_, difference, _, _| {
            difference.class == "file.hardlink"
                && difference.every(|text| text.contains(": farm false, buildx true"))
        },
    },
];

/// The decision by which a difference is none.
pub fn decided(
    case: &Case,
    difference: &Difference,
    farm: &Outcome,
    buildx: &Outcome,
) -> Option<&'static Decided> {
    DECIDED.iter().find(|decided| (decided.applies)(case, difference, farm, buildx))
}

/// `now` in seconds since 1970.
pub fn compare(farm: &Outcome, buildx: &Outcome, now: u64) -> Vec<Difference> {
    let mut found = Found::default();
    if farm.ended != buildx.ended || matches!(farm.ended, Ended::Otherwise(_)) {
        found.add(
            "exit",
            format!("farm {:?} ({}), buildx {:?} ({})", farm.ended, farm.said, buildx.ended, buildx.said),
        );
        return found.list();
    }
    if farm.ended == Ended::Failed {
        let both = || format!("({}; {})", farm.said, buildx.said);
        let agrees = if farm.lines.is_empty() {
            buildx.lines.is_empty()
        } else {
            farm.lines.iter().all(|line| buildx.lines.contains(line))
        };
        if !agrees {
            found.add("line", format!("farm {:?}, buildx {:?} {}", farm.lines, buildx.lines, both()));
        }
        if farm.exit_code != buildx.exit_code {
            found.add("code", format!("farm {:?}, buildx {:?} {}", farm.exit_code, buildx.exit_code, both()));
        }
    }
    match (&farm.image, &buildx.image) {
        (Some(farm), Some(buildx)) => images(&mut found, farm, buildx, now),
        (None, None) => {}
        (farm, _) => {
            found.add("image", format!("only {} has one", if farm.is_some() { "farm" } else { "buildx" }))
        }
    }
    found.list()
}

#[derive(Default)]
struct Found(BTreeMap<String, Vec<String>>);

impl Found {
    fn add(&mut self, class: &str, text: String) {
        self.0.entry(class.to_owned()).or_default().push(text);
    }

    fn list(self) -> Vec<Difference> {
        self.0.into_iter().map(|(class, all)| Difference { class, all }).collect()
    }
}

fn images(found: &mut Found, farm: &Image, buildx: &Image, now: u64) {
    let (ours, theirs) = (settings(&farm.config), settings(&buildx.config));
    for field in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
        let (one, other) = (ours.get(field), theirs.get(field));
        if one != other {
            let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            found.add(&format!("config.{field}"), format!("farm {}, buildx {}", shown(one), shown(other)));
        }
    }
    if farm.layers.len() != buildx.layers.len() {
        found.add("layers", format!("farm has {}, buildx {}", farm.layers.len(), buildx.layers.len()));
    }
    let (ours, theirs) = (merged(&farm.layers), merged(&buildx.layers));
    for path in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
        let shown = path.escape_ascii().to_string();
        match (ours.get(path), theirs.get(path)) {
            (Some(one), Some(other)) => entries(found, &shown, one, other, now),
            (Some(_), None) => found.add("file.more", shown),
            _ => found.add("file.missing", shown),
        }
    }
}

fn entries(found: &mut Found, path: &str, farm: &Entry, buildx: &Entry, now: u64) {
    let mut field = |name: &str, one: String, other: String| {
        if one != other {
            found.add(&format!("file.{name}"), format!("{path}: farm {one}, buildx {other}"));
        }
    };
    field("type", char::from(farm.kind).to_string(), char::from(buildx.kind).to_string());
    field("mode", format!("{:04o}", farm.mode), format!("{:04o}", buildx.mode));
    field("owner", format!("{:?}", farm.owner), format!("{:?}", buildx.owner));
    field("content", farm.digest.clone(), buildx.digest.clone());
    field("link", farm.link.escape_ascii().to_string(), buildx.link.escape_ascii().to_string());
    field("hardlink", farm.is_hardlink.to_string(), buildx.is_hardlink.to_string());
    field("device", format!("{:?}", farm.device), format!("{:?}", buildx.device));
    field("attributes", format!("{:?}", farm.attributes), format!("{:?}", buildx.attributes));
    // What the build itself has made is as old as the build.
    let time = |mtime: u64| {
        if mtime.abs_diff(now) < FRESH_SECONDS { "of the build".to_owned() } else { mtime.to_string() }
    };
    field("mtime", time(farm.mtime), time(buildx.mtime));
}

/// All that is set, by field, without what is a time or a digest.
fn settings(config: &Value) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for (name, value) in config.as_object().into_iter().flatten() {
        match name.as_str() {
            "config" => {
                let fields = value.as_object().into_iter().flatten();
                all.extend(fields.map(|(name, value)| (name.clone(), value.clone())));
            }
            // Times; digests of layers, which hold times.
            "created" | "rootfs" => {}
            "history" => {
                let mut steps = value.clone();
                for step in steps.as_array_mut().into_iter().flatten() {
                    if let Some(step) = step.as_object_mut() {
                        step.remove("created");
                    }
                }
                all.insert("history".to_owned(), steps);
            }
            _ => {
                all.insert(name.clone(), value.clone());
            }
        }
    }
    all
}

fn merged(layers: &[Layer]) -> BTreeMap<&[u8], &Entry> {
    layers.iter().flat_map(|layer| &layer.files).map(|(path, entry)| (path.as_slice(), entry)).collect()
}

/// Whether the case's `.dockerignore` leaves out what may have been copied to this path.
fn is_ignored(case: &Case, path: &str) -> bool {
    let file = case.context.iter().find(|node| node.path == b".dockerignore");
    let Some(Kind::File(text)) = file.map(|node| &node.kind) else { return false };
    let Ok(patterns) = PatternSet::parse(&String::from_utf8_lossy(text)) else { return false };
    // Copied with the folders above it or without.
    let rests = path.match_indices('/').map(|(at, _)| &path[at + 1..]);
    std::iter::once(path).chain(rests).any(|rest| patterns.is_excluded(rest))
}

#[cfg(test)]
mod tests {
    use super::super::case::Node;
    use super::*;
    use serde_json::json;

    const NOW: u64 = 2_000_000_000;

    fn built() -> Outcome {
        let entry =
            Entry { kind: b'0', mode: 0o644, mtime: 1_000_000_000, digest: "d".into(), ..Entry::default() };
        let made = Entry { mtime: NOW - 100, ..entry.clone() };
        let files = BTreeMap::from([(b"a".to_vec(), entry), (b"made".to_vec(), made)]);
        let config = json!({
            "created": "2026-01-01T00:00:00Z", "architecture": "amd64", "os": "linux",
            "config": {"Env": ["PATH=/bin", "A=1"], "Cmd": ["x"], "Labels": {"a": "b"}},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:1"]},
            "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "COPY a / # buildkit"}],
        });
        let image = Image { config, layers: vec![Layer { digest: "sha256:1".into(), files }] };
        Outcome { image: Some(image), ..Outcome::default() }
    }

    fn failed(lines: &[u32], exit_code: Option<i64>) -> Outcome {
        Outcome { ended: Ended::Failed, lines: lines.to_vec(), exit_code, ..Outcome::default() }
    }

    fn classes(farm: &Outcome, buildx: &Outcome) -> Vec<String> {
        compare(farm, buildx, NOW).into_iter().map(|difference| difference.class).collect()
    }

    fn with(change: impl FnOnce(&mut Image)) -> Vec<String> {
        let mut changed = built();
        change(changed.image.as_mut().unwrap());
        let (one, other) = (classes(&changed, &built()), classes(&built(), &changed));
        assert_eq!(one.len(), other.len(), "it is seen from either side");
        one
    }

    fn with_file(change: impl FnOnce(&mut Entry)) -> Vec<String> {
        with(|image| change(image.layers[0].files.get_mut(b"a".as_slice()).unwrap()))
    }

    #[test]
    fn what_only_time_has_made_different_is_the_same() {
        assert_eq!(classes(&built(), &built()), [""; 0]);
        let later = with(|image| {
            image.config["created"] = json!("2027-01-01T00:00:00Z");
            image.config["history"][0]["created"] = json!("2027-01-01T00:00:00Z");
            image.config["rootfs"]["diff_ids"][0] = json!("sha256:2");
            image.layers[0].digest = "sha256:2".into();
            image.layers[0].files.get_mut(b"made".as_slice()).unwrap().mtime = NOW;
        });
        assert_eq!(later, [""; 0]);
    }

    #[test]
    fn every_field_of_a_file_counts() {
        assert_eq!(with_file(|file| file.kind = b'5'), ["file.type"]);
        assert_eq!(with_file(|file| file.mode = 0o4644), ["file.mode"]);
        assert_eq!(with_file(|file| file.owner = (0, 7)), ["file.owner"]);
        assert_eq!(with_file(|file| file.digest = "e".into()), ["file.content"]);
        assert_eq!(with_file(|file| file.link = b"b".to_vec()), ["file.link"]);
        assert_eq!(with_file(|file| file.is_hardlink = true), ["file.hardlink"]);
        assert_eq!(with_file(|file| file.device = Some((1, 3))), ["file.device"]);
        assert_eq!(with_file(|file| file.mtime += 1), ["file.mtime"]);
        assert_eq!(with_file(|file| file.mtime = NOW), ["file.mtime"]);
        let attributes = BTreeMap::from([("user.a".to_owned(), b"1".to_vec())]);
        assert_eq!(with_file(|file| file.attributes = attributes), ["file.attributes"]);
        let gone = with(|image| drop(image.layers[0].files.remove(b"a".as_slice())));
        assert_eq!(gone, ["file.missing"]);
    }

    #[test]
    fn every_setting_of_an_image_counts() {
        for (field, value) in [
            ("Env", json!(["A=1", "PATH=/bin"])),
            ("Cmd", json!(["y"])),
            ("Labels", json!({"a": "b", "c": ""})),
            ("User", json!("nobody")),
            ("Healthcheck", json!({"Test": ["NONE"]})),
        ] {
            let seen = with(|image| image.config["config"][field] = value);
            assert_eq!(seen, [format!("config.{field}")]);
        }
        assert_eq!(with(|image| image.config["variant"] = json!("v2")), ["config.variant"]);
        let step = with(|image| image.config["history"][0]["created_by"] = json!("COPY b / # buildkit"));
        assert_eq!(step, ["config.history"]);
        assert_eq!(with(|image| image.layers.push(Layer::default())), ["layers"]);
    }

    #[test]
    fn another_end_another_line_and_another_exit_code_are_seen() {
        let run = failed(&[2, 3], Some(7));
        assert_eq!(classes(&built(), &run), ["exit"]);
        assert_eq!(classes(&run, &built()), ["exit"]);
        let hung = Outcome { ended: Ended::Otherwise(124), ..Outcome::default() };
        assert_eq!(classes(&hung, &hung), ["exit"], "no verdict on either side is none");
        assert_eq!(classes(&failed(&[2], Some(7)), &run), [""; 0], "farm names the first of several");
        assert_eq!(classes(&failed(&[4], Some(7)), &run), ["line"]);
        assert_eq!(classes(&failed(&[], Some(7)), &run), ["line"]);
        assert_eq!(classes(&failed(&[2], Some(8)), &run), ["code"]);
        assert_eq!(classes(&failed(&[2], None), &run), ["code"]);
        assert_eq!(classes(&built(), &Outcome::default()), ["image"]);
    }

    #[test]
    fn a_decision_covers_what_it_names_and_nothing_else() {
        let folder = Case { form: Form::Folder, ..crate::differential::generate(1, 1).remove(0) };
        let archive = |format: &'static str, compress: bool| Case {
            form: Form::Archive { format, compress },
            ..folder.clone()
        };
        let covered = |case: &Case, farm: &Outcome, buildx: &Outcome| {
            let differences = compare(farm, buildx, NOW);
            assert_eq!(differences.len(), 1, "{differences:?}");
            decided(case, &differences[0], farm, buildx).is_some()
        };
        assert!(covered(&folder, &failed(&[4], None), &failed(&[], None)));
        assert!(!covered(&folder, &failed(&[], None), &failed(&[4], None)));
        assert!(!covered(&folder, &failed(&[4], None), &failed(&[5], None)));
        assert!(!covered(&folder, &failed(&[4], Some(1)), &failed(&[4], None)));
        assert!(!covered(&folder, &built(), &failed(&[], None)));

        let confused = Outcome { said: "unknown instruction: ./PaxHeaders/.".into(), ..failed(&[], None) };
        assert!(covered(&archive("posix", false), &built(), &confused));
        assert!(covered(
            &archive("posix", false),
            &failed(&[4], None),
            &Outcome { lines: vec![1], ..confused.clone() }
        ));
        assert!(!covered(&archive("posix", false), &confused, &built()));
        assert!(!covered(&archive("posix", false), &built(), &failed(&[], None)));
        assert!(!covered(&archive("posix", true), &built(), &confused));
        assert!(!covered(&archive("gnu", false), &built(), &confused));

        let with = |change: fn(&mut Entry)| {
            let mut outcome = built();
            outcome.image.as_mut().unwrap().layers[0].files.values_mut().for_each(change);
            outcome
        };
        let owned = with(|file| file.owner = (5, 5));
        assert!(covered(&archive("gnu", true), &built(), &owned));
        assert!(!covered(&archive("gnu", true), &owned, &built()));
        assert!(!covered(&folder, &built(), &owned));
        let linked = with(|file| file.is_hardlink = true);
        assert!(covered(&folder, &built(), &linked));
        assert!(!covered(&folder, &linked, &built()));
    }

    #[test]
    fn only_what_an_archives_ignore_file_names_may_be_missing() {
        let mut case = crate::differential::generate_one(1, 1);
        case.form = Form::Archive { format: "gnu", compress: false };
        case.context = vec![Node::file(".dockerignore", b"*.log\n!keep.log\n")];
        let missing = |path: &str| Difference { class: "file.missing".into(), all: vec![path.into()] };
        let is_meant = |case: &Case, path: &str| {
            decided(case, &missing(path), &Outcome::default(), &Outcome::default()).is_some()
        };
        assert!(
            is_meant(&case, "all/c.log") && !is_meant(&case, "all/keep.log") && !is_meant(&case, "all/c.txt")
        );
        case.form = Form::Folder;
        assert!(!is_meant(&case, "all/c.log"));
    }
}
