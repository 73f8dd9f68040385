//! farm's own reading of a Dockerfile beside the engine's: the stages that its frontend lists (`--call targets`), the arguments
//! that the needed ones take (`--call outline`), and what of the context it asked for beyond what was read.

use std::collections::BTreeMap;
use std::path::Path;

use farm_dockerfile::{Build, Dockerfile, Instruction, Kind, Stages};
use farm_types::Platform;
use serde_json::Value;

use super::case::Case;
use super::outcome;
use crate::environment;

/// A stage: its name in small letters, or nothing, and the line of its FROM.
type Stage = (String, u64);

/// What farm reads otherwise than the engine, a line each.
pub fn differences(case: &Case, folder: &Path, platform: &Platform) -> Vec<String> {
    let own = stages(&case.dockerfile);
    let mut found = Vec::new();
    match asked(case, folder, "targets").map(|answer| items(&answer["targets"], stage)) {
        Ok(theirs) if theirs == own => {}
        Ok(theirs) => found.push(format!("farm reads the stages {own:?}, the engine {theirs:?}")),
        Err(said) => found.push(format!("the engine lists no stages: {said}")),
    }
    match asked(case, folder, "outline").map(|answer| items(&answer["args"], argument)) {
        Ok(theirs) => found.extend(unknown(case, platform, &theirs)),
        Err(said) => found.push(format!("the engine gives no outline: {said}")),
    }
    found
}

/// The arguments of an outline, which are those of the stages that the target is made of: farm has read each, and takes its
/// stage for used.
fn unknown(case: &Case, platform: &Platform, arguments: &[(String, u64)]) -> Vec<String> {
    let file = Dockerfile::parse(&case.dockerfile);
    let (args, target) = flags(&case.args);
    let build = Build { target: target.as_deref(), args: &args, contexts: &BTreeMap::new(), platform };
    let used = Stages::of(&file, &build);
    let is_read = |(name, line): &&(String, u64)| {
        let declares = |kind: &Kind| matches!(kind, Kind::Arg(all) if all.iter().any(|(own, _)| own == name));
        let here = |first: u32, last: u32| (u64::from(first)..=u64::from(last)).contains(line);
        // One that ONBUILD brings along stands where its stage begins, for the engine.
        let is_brought =
            |own: &Instruction| matches!(&own.kind, Kind::Onbuild(inner) if declares(&inner.kind));
        let is_unused = |stages: &Stages| u32::try_from(*line).is_ok_and(|line| stages.is_unused(line));
        (file.instructions.iter().any(|own| declares(&own.kind) && here(own.first, own.last))
            || file.instructions.iter().any(is_brought))
            && !used.as_ref().is_some_and(is_unused)
    };
    let missing = arguments.iter().filter(|argument| !is_read(argument));
    missing.map(|(name, line)| format!("the engine takes ARG {name} in line {line}, farm doesn't")).collect()
}

/// The build arguments and the target of a case's flags.
fn flags(args: &[String]) -> (BTreeMap<String, String>, Option<String>) {
    let (mut values, mut target) = (BTreeMap::new(), None);
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (flag.as_str(), None),
        };
        let mut value = || value.clone().or_else(|| rest.next().cloned()).unwrap_or_default();
        match name {
            "--build-arg" => {
                let text = value();
                if let Some((name, value)) = text.split_once('=') {
                    values.insert(name.to_owned(), value.to_owned());
                }
            }
            "--target" => target = Some(value()),
            _ => {}
        }
    }
    (values, target)
}

fn stages(dockerfile: &[u8]) -> Vec<Stage> {
    let read = Dockerfile::parse(dockerfile).instructions.into_iter();
    read.filter_map(|instruction| match instruction.kind {
        Kind::From(from) => Some((from.name.unwrap_or_default(), u64::from(instruction.first))),
        _ => None,
    })
    .collect()
}

/// What the engine's frontend answers to a question.
fn asked(case: &Case, folder: &Path, question: &str) -> Result<Value, String> {
    let mut command = environment::command("docker");
    command.args(["buildx", "build", "--progress=quiet"]).arg(format!("--call={question},format=json"));
    let (status, stdout, stderr) = outcome::run(command, case, folder, &[]);
    match serde_json::from_str(&stdout) {
        Ok(answer) if status == 0 => Ok(answer),
        _ => Err(outcome::last(&stderr)),
    }
}

fn items<T>(list: &Value, read: impl Fn(&Value) -> T) -> Vec<T> {
    list.as_array().into_iter().flatten().map(read).collect()
}

fn line(of: &Value) -> u64 {
    of["location"]["ranges"][0]["start"]["line"].as_u64().unwrap_or_default()
}

fn stage(target: &Value) -> Stage {
    (target["name"].as_str().unwrap_or_default().to_lowercase(), line(target))
}

fn argument(argument: &Value) -> (String, u64) {
    (argument["name"].as_str().unwrap_or_default().to_owned(), line(argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_have_names_and_lines() {
        let text = b"# escape=`\nARG A\nFROM a `\n  AS One\nRUN <<E\nFROM no\nE\nFROM b\n";
        assert_eq!(stages(text), [("one".to_owned(), 3), (String::new(), 8)]);
        let target = serde_json::json!({"name": "x", "location": {"ranges": [{"start": {"line": 4}}]}});
        assert_eq!(stage(&target), ("x".to_owned(), 4));
    }

    #[test]
    fn arguments_that_farm_has_not_read_or_takes_for_unused_are_told() {
        let mut case = crate::differential::generate_one(1, 1);
        case.dockerfile = b"ARG A\nFROM x AS a\nARG B\nFROM y AS b\nARG C\n".to_vec();
        case.args = ["--target", "a", "--build-arg=A=1"].map(str::to_owned).to_vec();
        let platform = "linux/amd64".parse().unwrap();
        let of = |name: &str, line| vec![(name.to_owned(), line)];
        for (name, line, is_known) in [("A", 1, true), ("B", 3, true), ("C", 5, false), ("D", 1, false)] {
            assert_eq!(unknown(&case, &platform, &of(name, line)).is_empty(), is_known, "{name}");
        }
        assert_eq!(flags(&case.args).1.as_deref(), Some("a"));
        assert_eq!(flags(&case.args).0["A"], "1");
    }
}
