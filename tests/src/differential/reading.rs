//! farm's own reading of a Dockerfile beside the engine's: the stages that its frontend lists (`--call targets`), and what of
//! the context it asked for beyond what was read.

use std::path::Path;

use farm_dockerfile::{Dockerfile, Kind};
use serde_json::Value;

use super::case::Case;
use super::outcome;
use crate::environment;

/// A stage: its name in small letters, or nothing, and the line of its FROM.
type Stage = (String, u64);

/// What farm reads otherwise than the engine, a line each.
pub fn differences(case: &Case, folder: &Path) -> Vec<String> {
    let own = stages(&case.dockerfile);
    match engine(case, folder) {
        Ok(theirs) if theirs == own => Vec::new(),
        Ok(theirs) => vec![format!("farm reads the stages {own:?}, the engine {theirs:?}")],
        Err(said) => vec![format!("the engine lists no stages: {said}")],
    }
}

fn stages(dockerfile: &[u8]) -> Vec<Stage> {
    let read = Dockerfile::parse(dockerfile).instructions.into_iter();
    read.filter_map(|instruction| match instruction.kind {
        Kind::From(from) => Some((from.name.unwrap_or_default(), u64::from(instruction.first))),
        _ => None,
    })
    .collect()
}

fn engine(case: &Case, folder: &Path) -> Result<Vec<Stage>, String> {
    let mut command = environment::command("docker");
    command.args(["buildx", "build", "--call=targets,format=json", "--progress=quiet"]);
    let (status, stdout, stderr) = outcome::run(command, case, folder, &[]);
    let answer: Value = serde_json::from_str(&stdout).unwrap_or_default();
    match answer["targets"].as_array() {
        Some(targets) if status == 0 => Ok(targets.iter().map(stage).collect()),
        _ => Err(outcome::last(&stderr)),
    }
}

fn stage(target: &Value) -> Stage {
    let line = target["location"]["ranges"][0]["start"]["line"].as_u64();
    (target["name"].as_str().unwrap_or_default().to_lowercase(), line.unwrap_or_default())
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
}
