//! The Dockerfile before the engine sees it: is it there, and which frontend does it ask for.
//!
//! A `# syntax=docker/dockerfile:1` line would make the engine pull that image and run it as the frontend,
//! first of all and for every build. farm always uses the frontend that is built into the engine: it covers
//! the official ones, and a foreign one is code that nobody of the team has looked at, so it is refused.

use std::io::{self, Read};

use farm_types::{Cause, Failure};

use super::tree::{SourceTree, TreeKind, find};

/// The longest Dockerfile that is read, bytes.
const LONGEST: u64 = 1 << 20;
/// As many links as are followed to find it.
const MAX_LINKS: usize = 10;

/// A Dockerfile that may be built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Dockerfile {
    /// Its path, as the build named it.
    pub(super) path: String,
    /// Its text; what is not UTF-8 is replaced.
    pub(super) text: String,
    /// The official frontend that its `# syntax=` line names.
    pub(super) syntax: Option<String>,
}

/// Reads and checks the Dockerfile. Blocks.
pub(super) fn read(tree: Option<&dyn SourceTree>, path: &str) -> Result<Dockerfile, Failure> {
    let user = |code: &str, message: String| Failure::new(Cause::User, code, message);
    let missing = || {
        user(
            "dockerfile_missing",
            format!("Dockerfile {path:?}: there is no such file in the source; name it with -f"),
        )
    };
    let tree = tree.ok_or_else(missing)?;
    let place = locate(tree, path)
        // BuildKit takes the lower-case name too when the usual one isn't there.
        .or_else(|| if path == "Dockerfile" { locate(tree, "dockerfile") } else { None })
        .ok_or_else(missing)?;
    let text = content(tree, &place).map_err(|error| {
        Failure::new(
            Cause::Infrastructure,
            "source_unreadable",
            format!("Dockerfile {path:?} cannot be read: {error}"),
        )
    })?;
    if text.contains(['\0', '\u{fffd}']) {
        let line = text.lines().position(|line| line.contains(['\0', '\u{fffd}'])).map_or(1, |line| line + 1);
        return Err(user(
            "dockerfile_syntax",
            format!("Dockerfile {path:?} is not UTF-8 text (line {line}); save it as UTF-8"),
        ));
    }
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Err(user(
            "dockerfile_empty",
            format!("Dockerfile {path:?} has no instruction; begin with FROM IMAGE"),
        ));
    }
    let syntax = detect(&text);
    if let Some(frontend) = &syntax
        && !is_official(frontend)
    {
        return Err(user(
            "frontend_refused",
            format!(
                "Dockerfile {path:?} asks for the frontend {frontend:?}; farm runs none but docker/dockerfile: \
                 change or remove its syntax line"
            ),
        ));
    }
    Ok(Dockerfile { path: path.to_owned(), text, syntax })
}

/// The path of the regular file that this path leads to.
fn locate(tree: &dyn SourceTree, path: &str) -> Option<String> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let entry = &tree.entries()[find(tree.entries(), &path)?];
        match &entry.kind {
            TreeKind::File { .. } => return Some(path),
            TreeKind::Symlink { target } if !target.starts_with('/') => {
                let mut names: Vec<&str> = path.split('/').collect();
                names.pop();
                for name in target.split('/') {
                    match name {
                        "" | "." => {}
                        ".." => drop(names.pop()),
                        _ => names.push(name),
                    }
                }
                path = names.join("/");
            }
            _ => return None,
        }
    }
    None
}

fn content(tree: &dyn SourceTree, path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    tree.open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The frontend that a Dockerfile asks for, found as BuildKit does (frontend/dockerfile/parser, `DetectSyntax`):
/// a directive `# syntax=REF` among the first lines, all of which must be directives; the same with `//`;
/// or a whole file that is a JSON object with the key `syntax`.
fn detect(text: &str) -> Option<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // A first line like `#!/usr/bin/env …` is passed over.
    let body = if text.starts_with("#!") { text.split_once('\n').map_or("", |(_, rest)| rest) } else { text };
    directive(body, "#").or_else(|| directive(body, "//")).or_else(|| {
        let object: serde_json::Value = serde_json::from_str(body).ok()?;
        Some(object.get("syntax")?.as_str()?.to_owned())
    })
}

fn directive(text: &str, comment: &str) -> Option<String> {
    for line in text.lines() {
        let (key, value) = line.trim_start_matches('\u{feff}').strip_prefix(comment)?.split_once('=')?;
        let (key, value) = (key.trim(), value.trim());
        if !key.starts_with(|c: char| c.is_ascii_alphabetic())
            || !key.bytes().all(|byte| byte.is_ascii_alphanumeric())
            || value.is_empty()
        {
            return None;
        }
        if key.eq_ignore_ascii_case("syntax") {
            // What follows a blank are arguments.
            return value.split_whitespace().next().map(str::to_owned);
        }
    }
    None
}

/// Whether the engine's own frontend may stand in for this one.
fn is_official(reference: &str) -> bool {
    let reference = reference
        .strip_prefix("docker.io/")
        .or(reference.strip_prefix("index.docker.io/"))
        .unwrap_or(reference);
    let name = reference.split(['@', ':']).next().unwrap_or_default();
    ["docker/dockerfile", "docker/dockerfile-upstream"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::super::tree::{MemoryTree, TreeEntry};
    use super::*;

    #[test]
    fn the_syntax_line_is_found_where_buildkit_finds_it() {
        for (text, found) in [
            ("# syntax=docker/dockerfile:1\nFROM x", Some("docker/dockerfile:1")),
            ("#syntax = docker/dockerfile:1.7-labs  \r\nFROM x", Some("docker/dockerfile:1.7-labs")),
            ("# escape=`\n# SYNTAX=a/b\n", Some("a/b")),
            ("#!/usr/bin/env x\n# syntax=a/b opt=1\n", Some("a/b")),
            ("\u{feff}# syntax=a/b\n", Some("a/b")),
            ("//syntax=a/b\n", Some("a/b")),
            ("{\"syntax\": \"a/b\"}", Some("a/b")),
            ("# a comment\n# syntax=a/b\n", None),
            ("\n# syntax=a/b\n", None),
            ("FROM x\n# syntax=a/b\n", None),
            ("# syntax=\nFROM x", None),
        ] {
            assert_eq!(detect(text).as_deref(), found, "{text}");
        }
    }

    #[test]
    fn only_the_official_frontends_are_replaced() {
        for name in [
            "docker/dockerfile",
            "docker.io/docker/dockerfile:1@sha256:0",
            "docker/dockerfile-upstream:master",
        ] {
            assert!(is_official(name), "{name}");
        }
        for name in
            ["docker/dockerfile2:1", "ghcr.io/docker/dockerfile:1", "dockerfile", "mine/docker/dockerfile"]
        {
            assert!(!is_official(name), "{name}");
        }
    }

    fn outcome(path: &str, text: &str) -> Result<Option<String>, String> {
        let tree = MemoryTree::new([("sub/Dockerfile", 0o644, text.as_bytes().to_vec())]);
        read(Some(&tree), path).map(|dockerfile| dockerfile.syntax).map_err(|failure| failure.code)
    }

    #[test]
    fn a_dockerfile_that_is_not_there_or_says_nothing_is_refused_before_the_engine_is_asked() {
        assert_eq!(outcome("sub/Dockerfile", "FROM x"), Ok(None));
        assert_eq!(
            outcome("sub/Dockerfile", "# syntax=docker/dockerfile:1\nFROM x"),
            Ok(Some("docker/dockerfile:1".into()))
        );
        assert_eq!(outcome("Dockerfile", "FROM x"), Err("dockerfile_missing".into()));
        assert_eq!(outcome("sub", "FROM x"), Err("dockerfile_missing".into()));
        assert_eq!(outcome("sub/Dockerfile", " \n# only a comment\n"), Err("dockerfile_empty".into()));
        assert_eq!(outcome("sub/Dockerfile", "#syntax=tonistiigi/llb\n{}"), Err("frontend_refused".into()));
        assert_eq!(read(None, "x").unwrap_err().code, "dockerfile_missing");
    }

    #[test]
    fn the_lower_case_name_and_links_are_followed() {
        let mut tree = MemoryTree::new([("docker/dockerfile", 0o644, b"FROM x".to_vec())]);
        let kind = TreeKind::Symlink { target: "./docker/../docker/dockerfile".into() };
        tree.add(TreeEntry { path: "dockerfile".into(), mode: 0o777, mtime: 0, kind });
        assert_eq!(read(Some(&tree), "Dockerfile").unwrap().text, "FROM x");
    }
}
