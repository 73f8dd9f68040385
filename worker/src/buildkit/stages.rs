//! Which stages of a Dockerfile the image for one platform is made of.
//!
//! BuildKit builds only what the target needs, but some versions and `--check` also warn about stages that it doesn't:
//! `FROM final_$TARGETARCH` leaves one of two out for each platform. Whether a warning matters depends on that.
//!
//! Formats: Dockerfile reference (parser directives, line continuation, here-documents, `ARG` before `FROM`, `COPY --from`,
//! `RUN --mount=from`). Invariant: what can't be told for sure is taken for used.

use std::collections::{BTreeMap, BTreeSet};

use farm_types::Platform;

/// The stages of a Dockerfile.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stages(Vec<Stage>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Stage {
    name: String,
    /// The lines from its FROM to the next one, from 1.
    first: u32,
    /// Inclusive.
    last: u32,
    /// The stages that it is made of, by their places.
    needs: BTreeSet<usize>,
    is_used: bool,
}

/// What is built of the Dockerfile.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// The stage; `None`: the last.
    pub(super) target: Option<&'a str>,
    /// The build arguments.
    pub(super) args: &'a BTreeMap<String, String>,
    /// Stages that something else stands in for.
    pub(super) replaced: BTreeSet<&'a str>,
    /// For which platform.
    pub(super) platform: &'a Platform,
}

impl Stages {
    /// Reads a Dockerfile; `None` when it can't be told what is used.
    pub(super) fn read(text: &str, wanted: &Wanted<'_>) -> Option<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut stages: Vec<Stage> = Vec::new();
        let mut globals = automatic(wanted.platform);
        // What is set by a build argument is so whether it is declared or not.
        globals.extend(wanted.args.iter().map(|(name, value)| (name.clone(), value.clone())));
        for instruction in instructions(text)? {
            let (word, rest) = split(&instruction.text);
            match (word.to_ascii_uppercase().as_str(), stages.last_mut()) {
                ("ARG", None) => declare(rest, wanted.args, &mut globals),
                ("FROM", _) => {
                    let (base, name) = from(rest, &globals)?;
                    let needs = place(&stages, &base, wanted).into_iter().collect();
                    let (first, last) = (instruction.first, instruction.last);
                    stages.push(Stage { name, first, last, needs, is_used: false });
                }
                // What a stage that stands on this one will do.
                ("ONBUILD", Some(_)) if rest.to_ascii_lowercase().contains("from=") => return None,
                ("COPY" | "RUN" | "ADD", Some(_)) => {
                    for source in sources(rest)? {
                        if source.contains('$') {
                            return None;
                        }
                        let found = place(&stages, &source, wanted);
                        let stage = stages.last_mut()?;
                        stage.needs.extend(found);
                        stage.last = instruction.last;
                    }
                }
                _ => {}
            }
            if let Some(stage) = stages.last_mut() {
                stage.last = stage.last.max(instruction.last);
            }
        }
        let target = match wanted.target {
            None => stages.len().checked_sub(1)?,
            Some(name) => stages
                .iter()
                .rposition(|stage| stage.name.eq_ignore_ascii_case(name))
                .or_else(|| name.parse().ok().filter(|place| *place < stages.len()))?,
        };
        let mut open = vec![target];
        while let Some(place) = open.pop() {
            let stage = stages.get_mut(place)?;
            if !std::mem::replace(&mut stage.is_used, true) {
                open.extend(&stage.needs);
            }
        }
        Some(Self(stages))
    }

    /// Whether a line (from 1) belongs to a stage that the image doesn't need.
    pub(super) fn is_unused(&self, line: u32) -> bool {
        self.0.iter().any(|stage| !stage.is_used && (stage.first..=stage.last).contains(&line))
    }
}

/// The stage that a name or a number means, among those that stand above.
fn place(stages: &[Stage], name: &str, wanted: &Wanted<'_>) -> Option<usize> {
    if wanted.replaced.iter().any(|replaced| replaced.eq_ignore_ascii_case(name)) {
        return None;
    }
    // Of two with one name the later one, as in BuildKit.
    let named =
        stages.iter().rposition(|stage| !stage.name.is_empty() && stage.name.eq_ignore_ascii_case(name));
    named.or_else(|| name.parse().ok().filter(|place| *place < stages.len()))
}

/// An instruction without its continuations.
#[derive(Debug, PartialEq, Eq)]
struct Instruction {
    text: String,
    first: u32,
    last: u32,
}

/// `None` when a here-document has no end: then it was none.
fn instructions(text: &str) -> Option<Vec<Instruction>> {
    let escape = escape(text);
    let mut out: Vec<Instruction> = Vec::new();
    let mut open: Option<Instruction> = None;
    let mut documents: Vec<(String, bool)> = Vec::new();
    for (number, line) in (1u32..).zip(text.lines()) {
        if let Some((end, strips)) = documents.first() {
            let line = if *strips { line.trim_start_matches('\t') } else { line };
            if line == end {
                documents.remove(0);
            }
            if let Some(last) = out.last_mut() {
                last.last = number;
            }
            continue;
        }
        let line = line.trim_end();
        let trimmed = line.trim_start();
        if trimmed.starts_with('#') || (trimmed.is_empty() && open.is_none()) {
            continue;
        }
        let mut instruction =
            open.take().unwrap_or(Instruction { text: String::new(), first: number, last: number });
        instruction.last = number;
        // What was begun goes on with all of the line, blanks too.
        let line = if instruction.text.is_empty() { trimmed } else { line };
        // An escaped escape is a character like others.
        match line.strip_suffix(escape).filter(|part| !part.ends_with(escape)) {
            Some(part) => {
                instruction.text.push_str(part);
                open = Some(instruction);
            }
            // An empty line in a continuation is passed over.
            None if trimmed.is_empty() => open = Some(instruction),
            None => {
                instruction.text.push_str(line);
                documents = here_documents(&instruction.text);
                out.push(instruction);
            }
        }
    }
    out.extend(open);
    documents.is_empty().then_some(out)
}

/// The character of the directive `# escape=`.
fn escape(text: &str) -> char {
    for line in text.lines() {
        let Some((key, value)) = line.trim().strip_prefix('#').and_then(|line| line.split_once('=')) else {
            break;
        };
        if key.trim().eq_ignore_ascii_case("escape") && value.trim() == "`" {
            return '`';
        }
    }
    '\\'
}

/// The ends of the here-documents that an instruction begins, and whether tabs before them are dropped.
fn here_documents(text: &str) -> Vec<(String, bool)> {
    let (word, rest) = split(text);
    if !["RUN", "COPY", "ADD"].iter().any(|known| known.eq_ignore_ascii_case(word)) {
        return Vec::new();
    }
    // A list of strings has none.
    if rest.starts_with('[') {
        return Vec::new();
    }
    let documents = words(rest).into_iter().filter_map(|word| {
        let name = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
        let (strips, name) = name.strip_prefix('-').map_or((false, name), |name| (true, name));
        let name = unquoted(name);
        (!name.is_empty() && !name.contains('<')).then(|| (name.to_owned(), strips))
    });
    documents.collect()
}

/// Splits at blanks that stand in no quotes; quotes stay.
fn words(text: &str) -> Vec<&str> {
    let (mut quote, mut skip) = (None, false);
    let is_blank = move |c: char| {
        if std::mem::take(&mut skip) {
            return false;
        }
        match (quote, c) {
            (Some('\''), '\'') => quote = None,
            (Some('\''), _) => {}
            (_, '\\') => skip = true,
            (Some(open), _) if open == c => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, _) => return c.is_whitespace(),
            (Some(_), _) => {}
        }
        false
    };
    text.split(is_blank).filter(|word| !word.is_empty()).collect()
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    text.split_once(char::is_whitespace).map_or((text, ""), |(word, rest)| (word, rest.trim()))
}

/// The arguments that BuildKit sets for every Dockerfile, as far as they don't depend on the engine.
fn automatic(platform: &Platform) -> BTreeMap<String, String> {
    let whole = platform.to_string();
    [
        ("TARGETPLATFORM", whole.as_str()),
        ("TARGETOS", platform.os()),
        ("TARGETARCH", platform.architecture()),
        ("TARGETVARIANT", platform.variant()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// `ARG NAME[=VALUE] …` above all stages.
fn declare(rest: &str, args: &BTreeMap<String, String>, globals: &mut BTreeMap<String, String>) {
    for word in rest.split_whitespace() {
        let (name, default) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let given = args.get(name).cloned();
        let value = given.or_else(|| default.and_then(|text| expand(unquoted(text), globals)));
        match value {
            Some(value) => drop(globals.insert(name.to_owned(), value)),
            // An automatic one that is only declared keeps its value.
            None if default.is_some() => drop(globals.remove(name)),
            None => {}
        }
    }
}

/// The base and the name of a stage: `FROM [--platform=P] BASE [AS NAME]`.
fn from(rest: &str, globals: &BTreeMap<String, String>) -> Option<(String, String)> {
    let mut words = rest.split_whitespace().filter(|word| !word.starts_with("--"));
    let base = expand(unquoted(words.next()?), globals)?;
    let name = match (words.next(), words.next()) {
        (Some(word), Some(name)) if word.eq_ignore_ascii_case("as") => name.to_owned(),
        _ => String::new(),
    };
    Some((base, name))
}

/// What `--from=` and `--mount=…from=…` name; `None` when that can't be told.
fn sources(rest: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    for flag in rest.split_whitespace().take_while(|word| word.starts_with("--")) {
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        match name {
            "--from" => out.push(unquoted(value).to_owned()),
            // Its parts are fields of a CSV line, whose keys may be written in any case.
            "--mount" if value.contains(['"', '\'']) => return None,
            "--mount" => {
                let pairs = value.split(',').filter_map(|part| part.split_once('='));
                out.extend(
                    pairs
                        .filter(|(key, _)| key.eq_ignore_ascii_case("from"))
                        .map(|(_, from)| from.to_owned()),
                );
            }
            _ => {}
        }
    }
    Some(out)
}

fn unquoted(text: &str) -> &str {
    let stripped = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    stripped('"').or_else(|| stripped('\'')).unwrap_or(text)
}

/// The text with its variables replaced; `None` when one has no value that is known here, or a form that isn't.
fn expand(text: &str, known: &BTreeMap<String, String>) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if let Some(inner) = after.strip_prefix('{') {
            let (inner, after) = inner.split_once('}')?;
            let end = inner.find(|c| !is_part(c)).unwrap_or(inner.len());
            let (name, form) = inner.split_at(end);
            let value = known.get(name).map(String::as_str);
            let filled = value.filter(|value| !value.is_empty());
            out.push_str(match (form.split_at_checked(2), form) {
                (_, "") => value?,
                (Some((":-", word)), _) => filled.unwrap_or(word),
                (Some((":+", word)), _) => filled.map_or("", |_| word),
                _ => return None,
            });
            rest = after;
        } else {
            let end = after.find(|c| !is_part(c)).unwrap_or(after.len());
            let (name, after) = after.split_at(end);
            out.push_str(known.get(name)?);
            rest = after;
        }
    }
    out.push_str(rest);
    // What came out of a nested form.
    (!out.contains(['$', '{', '}'])).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &BTreeMap<String, String> = &BTreeMap::new();

    fn unused(text: &str, platform: &str, target: Option<&str>) -> Vec<u32> {
        let platform = platform.parse().unwrap();
        let wanted = Wanted { target, args: NONE, replaced: BTreeSet::new(), platform: &platform };
        let lines = u32::try_from(text.lines().count()).unwrap();
        match Stages::read(text, &wanted) {
            Some(stages) => (1..=lines).filter(|line| stages.is_unused(*line)).collect(),
            None => vec![0],
        }
    }

    #[test]
    fn a_stage_chosen_by_the_architecture_leaves_the_others_out() {
        let text = "FROM a AS one\nFROM b AS two\nFROM x AS final_amd64\nRUN y\nFROM x AS final_arm64\n\
                    FROM final_$TARGETARCH\nCOPY --from=one /a /a\nCOPY --chown=0 --from=1 /b /b\n";
        assert_eq!(unused(text, "linux/amd64", None), [5]);
        assert_eq!(unused(text, "linux/arm64", None), [3, 4]);
        assert_eq!(unused(text, "linux/s390x", None), [3, 4, 5]);
        assert_eq!(unused(text, "linux/amd64", Some("TWO")), [1, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn continuations_here_documents_and_mounts_are_understood() {
        let text = "# escape=`\nARG V=1\nARG BASE=\"final-${V}\"\nFROM a AS tools\nFROM a AS final-1\nRUN --mount=type=bind,from=tools,target=/t `\n  # from=no\n\n  x <<EOF\nFROM nowhere AS fake\nEOF\nFROM b AS other\nFROM ${BASE} AS last\n";
        assert_eq!(unused(text, "linux/amd64", None), [12]);
        let tabs = "FROM a\nRUN echo $((1<<2)) <<-\"E\" cat\n\tFROM b\n\tE\nFROM c AS d\n";
        assert_eq!(unused(tabs, "linux/amd64", None), [1, 2, 3, 4]);
    }

    #[test]
    fn what_cannot_be_told_is_taken_for_used() {
        for text in [
            "FROM a AS x\nFROM y_$BUILDARCH\n",
            "FROM a AS x\nFROM b\nCOPY --from=$WHERE / /\n",
            "FROM a AS x\nFROM ${X#y}\n",
            "FROM a AS x\nFROM ${X:-${Y}}\n",
            "RUN x\n",
        ] {
            assert_eq!(unused(text, "linux/amd64", None), [0], "{text}");
        }
        assert_eq!(unused("FROM a AS x\n", "linux/amd64", Some("nope")), [0]);
    }

    #[test]
    fn what_looks_like_something_else_hides_no_use() {
        let tools =
            |use_of_it: &str| unused(&format!("FROM a AS tools\nFROM b\n{use_of_it}\n"), "linux/amd64", None);
        for text in [
            "RUN [\"sh\", \"-c\", \"cat <<EOF >/x\"]\nCOPY --from=tools /t /t",
            "RUN python3 -c \"print(1 <<3)\"\nCOPY --from=tools /t /t",
            "RUN echo \\\\\nCOPY --from=tools /t /t",
            "RUN --mount=type=bind,\\\nfrom=tools,target=/t x",
            "RUN --mount=type=bind,From=tools,target=/t x",
            "COPY --from=TOOLS /t /t",
        ] {
            assert_eq!(tools(text), [0; 0], "{text}");
        }
        for text in [
            "RUN cat <<EOF\nnever ended\nCOPY --from=tools /t /t",
            "RUN --mount=type=bind,\"from=tools\",target=/t x",
            "ONBUILD COPY --from=tools /t /t\nFROM c",
        ] {
            assert_eq!(tools(text), [0], "{text}");
        }
        // A mark at the beginning of the file, two stages of one name.
        assert_eq!(unused("\u{feff}FROM a\nFROM b\nCOPY --from=0 / /\n", "linux/amd64", None), [0; 0]);
        assert_eq!(unused("FROM a AS x\nFROM b AS x\n", "linux/amd64", Some("x")), [1]);
        let args = BTreeMap::from([("TARGETARCH".to_owned(), "arm64".to_owned())]);
        let platform = "linux/amd64".parse().unwrap();
        let wanted = Wanted { target: None, args: &args, replaced: BTreeSet::new(), platform: &platform };
        let stages =
            Stages::read("FROM a AS x_amd64\nFROM b AS x_arm64\nFROM x_$TARGETARCH\n", &wanted).unwrap();
        assert!(stages.is_unused(1) && !stages.is_unused(2));
    }

    #[test]
    fn build_arguments_and_replaced_stages_count() {
        let text =
            "ARG KIND=dev\nFROM a AS dev\nFROM b AS prod\nFROM c AS lib\nFROM $KIND\nCOPY --from=lib / /\n";
        let platform = "linux/amd64".parse().unwrap();
        let args = BTreeMap::from([("KIND".to_owned(), "prod".to_owned())]);
        let wanted = Wanted { target: None, args: &args, replaced: ["LIB"].into(), platform: &platform };
        let stages = Stages::read(text, &wanted).unwrap();
        assert_eq!((1..=6).filter(|line| stages.is_unused(*line)).collect::<Vec<_>>(), [2, 4]);
    }
}
