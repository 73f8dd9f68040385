//! What the first comments of a Dockerfile tell its parser: `# syntax=`, `# escape=`, `# check=`.
//!
//! The first line that is none of these ends them, a blank one too. The frontend is looked for in two more ways, since
//! other frontends have other comments (BuildKit, `parser.DetectSyntax`).

/// The directives of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// The frontend that it asks for, without arguments.
    pub syntax: Option<String>,
    /// What escapes the end of a line, and a character: `\` or a backtick.
    pub escape: char,
    /// The value of `# check=`: `skip=RULE,…;error=true`.
    pub check: Option<String>,
}

impl Default for Directives {
    fn default() -> Self {
        Self { syntax: None, escape: '\\', check: None }
    }
}

impl Directives {
    /// Reads them from a file's text, which has no byte order mark any more.
    pub(crate) fn read(text: &str) -> Self {
        let mut found = Self { syntax: syntax(text), ..Self::default() };
        for line in text.lines() {
            let Some((key, value)) = directive(line.trim_start(), "#") else { break };
            match key.to_ascii_lowercase().as_str() {
                "escape" if value == "`" => found.escape = '`',
                "check" => found.check = Some(value.to_owned()),
                "escape" | "syntax" => {}
                _ => break,
            }
        }
        found
    }

    /// Whether the file asks for a frontend that isn't Docker's own: then nobody here knows what it means.
    pub fn is_foreign(&self) -> bool {
        self.syntax.as_deref().is_some_and(|syntax| !is_official(syntax))
    }

    /// Whether findings of checks fail the build.
    pub fn checks_are_errors(&self) -> bool {
        let parts = self.check.as_deref().unwrap_or_default().split(';');
        parts.filter_map(|part| part.split_once('=')).any(|(key, value)| {
            key.trim().eq_ignore_ascii_case("error")
                && matches!(value.trim(), "true" | "1" | "t" | "TRUE" | "True")
        })
    }
}

/// Whether this frontend is Docker's own for Dockerfiles, in whose place an engine's built-in one may stand.
fn is_official(reference: &str) -> bool {
    let hosts = ["docker.io/", "index.docker.io/"];
    let reference = hosts.iter().find_map(|host| reference.strip_prefix(host)).unwrap_or(reference);
    let name = reference.split(['@', ':']).next().unwrap_or_default();
    ["docker/dockerfile", "docker/dockerfile-upstream"].contains(&name)
}

/// As BuildKit finds it: among the first lines, all of which must be directives; the same with `//`; or a whole file that is
/// a JSON object with the key `syntax`.
fn syntax(text: &str) -> Option<String> {
    // A first line like `#!/usr/bin/env …` is passed over.
    let body = if text.starts_with("#!") { text.split_once('\n').map_or("", |(_, rest)| rest) } else { text };
    named(body, "#").or_else(|| named(body, "//")).or_else(|| {
        let object: serde_json::Value = serde_json::from_str(body).ok()?;
        Some(object.get("syntax")?.as_str()?.to_owned())
    })
}

fn named(text: &str, comment: &str) -> Option<String> {
    for line in text.lines() {
        let (key, value) = directive(line, comment)?;
        match key.to_ascii_lowercase().as_str() {
            // What follows a blank are arguments.
            "syntax" => return value.split_whitespace().next().map(str::to_owned),
            "escape" | "check" => {}
            // It is a comment, and ends them.
            _ => return None,
        }
    }
    None
}

/// `# KEY=VALUE`.
fn directive<'a>(line: &'a str, comment: &str) -> Option<(&'a str, &'a str)> {
    let (key, value) = line.strip_prefix(comment)?.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let is_key = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && !value.is_empty();
    is_key.then_some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Option<String> {
        Directives::read(text).syntax
    }

    #[test]
    fn the_frontend_is_found_as_the_engine_finds_it() {
        for (text, found) in [
            ("# syntax=docker/dockerfile:1\nFROM x", Some("docker/dockerfile:1")),
            ("#SYNTAX = a/b:1 --flag\r\n", Some("a/b:1")),
            ("# escape=`\n# syntax=a\n", Some("a")),
            ("#!/usr/bin/env x\n# syntax=a\n", Some("a")),
            ("// syntax=a\n", Some("a")),
            ("{\"syntax\": \"a\"}", Some("a")),
            ("# a comment\n# syntax=a\n", None),
            ("# author=me\n# syntax=a\n", None),
            ("\n# syntax=a\n", None),
            ("FROM x\n# syntax=a\n", None),
            ("# syntax=\n", None),
            ("", None),
        ] {
            assert_eq!(asked(text).as_deref(), found, "{text:?}");
        }
    }

    #[test]
    fn only_dockers_own_frontend_is_known() {
        for name in [
            "docker/dockerfile:1",
            "docker.io/docker/dockerfile:1.7-labs",
            "index.docker.io/docker/dockerfile",
            "docker/dockerfile-upstream:master",
            "docker/dockerfile@sha256:0",
        ] {
            assert!(is_official(name), "{name}");
        }
        for name in
            ["dockerfile:1", "docker/dockerfile-x:1", "evil/docker/dockerfile", "r.io/docker/dockerfile"]
        {
            assert!(!is_official(name), "{name}");
        }
        assert!(Directives::read("# syntax=a/b\n").is_foreign() && !Directives::read("FROM x").is_foreign());
    }

    #[test]
    fn escape_and_check_are_read_until_something_else_comes() {
        let read = Directives::read("# syntax=x\n# escape=`\n# check=skip=all;error=true\nFROM x\n");
        assert_eq!((read.escape, read.checks_are_errors()), ('`', true));
        assert_eq!(Directives::read("# hello\n# escape=`\n").escape, '\\');
        assert_eq!(Directives::read("\n# escape=`\n").escape, '\\');
        assert!(!Directives::read("# check=error=false\n").checks_are_errors());
        assert!(!Directives::read("FROM x").checks_are_errors());
    }
}
