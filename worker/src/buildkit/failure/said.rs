//! What an engine itself says in a message, apart from what it repeats of the user's.
//!
//! BuildKit, containerd, runc and registries chain their errors: `what failed: of what: why`. Most of the links repeat a
//! command, an image, a path, a target, and those may hold any words. So words are looked for only where the engine
//! speaks: at the **beginning** of a link, or as **all of the last link** (where an operating system's errors stand);
//! and before that is taken out
//!
//! * what stands between quotes (Go's `%q`), but for errors of another process (`desc = "…"`);
//! * the image's name before and after `failed to resolve source metadata for NAME`;
//! * what the user is known to have named so that it looks like links of its own: names and paths with `: ` in them.
//!
//! Invariant: a name, path, command or output that a message repeats in one of these shapes changes nothing of what
//! [`Said::holds`] finds. To add a shape: in [`Said::read`], and a line in the property test of [`super`].

use crate::buildkit::dockerfile::Dockerfile;
use crate::buildkit::types::Solve;

/// What separates the links of a chain of errors.
const LINK: &str = ": ";
/// Behind these, an error of another process follows.
const FOREIGN: &str = "desc = ";
/// Stands for what was taken out.
const TAKEN: &str = "\u{fffc}";

/// Words of an engine, in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    /// A link of the chain begins with them.
    Begin(&'static str),
    /// They are all of the last link.
    Last(&'static str),
}

/// An engine's message, taken apart into lines and the links of their chains.
#[derive(Debug)]
pub(super) struct Said {
    /// Its lines, and their links in lower case.
    lines: Vec<Vec<String>>,
    /// The image that it could not find out about.
    image: Option<String>,
}

impl Said {
    /// Takes a message apart.
    pub(crate) fn read(text: &str, named: &Named) -> Self {
        let text = unquoted(&named.without(text));
        let mut said = Self { lines: Vec::new(), image: None };
        for line in text.lines() {
            let links = line.split(FOREIGN).flat_map(|part| part.split(LINK));
            let mut links: Vec<String> = links.map(|link| link.trim().to_lowercase()).collect();
            said.image = said.image.or(take_images(&mut links));
            said.lines.push(links);
        }
        said
    }

    /// The image that could not be resolved, as the engine has its name, in lower case.
    pub(crate) fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// Whether the engine says this.
    pub(crate) fn holds(&self, words: Words) -> bool {
        match words {
            Words::Begin(words) => self.lines.iter().flatten().any(|link| begins(link, words)),
            Words::Last(words) => self.lines.iter().any(|links| last(links) == Some(words)),
        }
    }

    /// Whether all of it is about this.
    pub(super) fn is_about(&self, words: &str) -> bool {
        self.lines.first().and_then(|links| links.first()).is_some_and(|link| begins(link, words))
    }

    /// Whether all of it, but for what was to be looked for, is about this: `NAME: WORDS …`.
    pub(super) fn is_of_something(&self, words: &[Words]) -> bool {
        let links = self.lines.iter().take(1).flatten().take(2);
        links
            .into_iter()
            .any(|link| words.iter().any(|words| matches!(words, Words::Begin(words) if begins(link, words))))
    }
}

/// The last link that says something: containerd's errors end with `: unknown` when they have no class.
fn last(links: &[String]) -> Option<&str> {
    let mut links = links.iter().rev().map(String::as_str).filter(|link| !link.is_empty());
    match links.next() {
        Some("unknown") => links.next(),
        last => last,
    }
}

/// Whether the link begins with these words as words: `denied`, but not `denied/app`.
fn begins(link: &str, words: &str) -> bool {
    let ends = |c: char| c.is_whitespace() || matches!(c, ',' | ';' | '(' | '[' | ':');
    link.strip_prefix(words).is_some_and(|rest| rest.chars().next().is_none_or(ends))
}

/// Takes out the links around a look for an image that are its name, as its user has it before and as the engine has it
/// behind. Gives the latter.
fn take_images(links: &mut [String]) -> Option<String> {
    const ABOUT: &str = "failed to resolve source metadata for ";
    let at = links.iter().position(|link| link.starts_with(ABOUT))?;
    let image = links[at].strip_prefix(ABOUT)?.to_owned();
    if let Some(link) = at.checked_sub(1).and_then(|at| links.get_mut(at)).filter(|link| !link.contains(' '))
    {
        TAKEN.clone_into(link);
    }
    if let Some(link) = links.get_mut(at + 1).filter(|link| **link == image) {
        TAKEN.clone_into(link);
    }
    Some(image)
}

/// Without what stands between quotes. What another process said stays.
fn unquoted(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('"') {
        kept.push_str(before);
        match quoted(after) {
            Some((inside, behind)) => {
                if kept.ends_with(FOREIGN) {
                    kept.push_str(&unquoted(&inside.replace("\\\"", "\"")));
                } else {
                    kept.push_str(TAKEN);
                }
                rest = behind;
            }
            // No quote, but a character of some name.
            None => {
                kept.push_str(TAKEN);
                rest = after;
            }
        }
    }
    kept.push_str(rest);
    kept
}

/// What stands before the quote that ends it, and what behind (Go, `strconv.Quote`). `text` is what follows the first
/// quote.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    Some((&text[..end], &text[end + 1..]))
}

/// What the engine says of a command that ended badly: `process "…" did not complete successfully: WHAT IT SAYS`. Only
/// a whole message of that form is one; the command in it may say anything.
pub(super) fn of_command(text: &str) -> Option<&str> {
    let (_, behind) = quoted(text.strip_prefix("process \"")?)?;
    behind.strip_prefix(" did not complete successfully: ")
}

/// The code in what an engine says of a command.
pub(super) fn exit_code(own: &str) -> Option<i32> {
    own.strip_prefix("exit code: ")?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// What the user named, as far as it could be taken for what an engine says: with something in it that looks like a
/// chain of errors.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// Taken out where they stand behind a space.
    names: Vec<String>,
    /// Taken out where they stand behind a slash.
    paths: Vec<String>,
    /// Taken out where they stand behind a word of the engine's, together with it.
    things: Vec<String>,
}

impl Named {
    /// Collects what a build names.
    pub(crate) fn of(solve: &Solve, dockerfile: &Dockerfile) -> Self {
        let chained = |text: &&str| text.contains(LINK) || text.contains('\n');
        let owned = |text: &str| text.trim_start_matches(['/', '.']).to_owned();
        // A target is always told between quotes.
        let names =
            [solve.dockerfile.as_str()].into_iter().chain(solve.named_contexts.keys().map(String::as_str));
        let mut names: Vec<String> = names.filter(chained).map(str::to_owned).collect();
        let files = solve.roots.values().flat_map(|tree| tree.entries()).map(|entry| entry.path.as_str());
        let mut paths: Vec<String> = files
            .chain(solve.build_args.values().map(String::as_str))
            .chain(in_quotes(&dockerfile.text))
            .chain(folders(&dockerfile.text))
            .filter(chained)
            .map(owned)
            .filter(|path| !path.is_empty())
            .collect();
        // A longer one may hold a shorter.
        for list in [&mut names, &mut paths] {
            list.sort_by_key(|text| std::cmp::Reverse(text.len()));
            list.dedup();
        }
        // Flags with blanks stand in quotes.
        let told = ["secret", "ssh", "platform"];
        let things = in_quotes(&dockerfile.text).filter(chained);
        let things = things.flat_map(|text| told.map(|word| format!("{word} {text}"))).collect();
        Self { names, paths, things }
    }

    fn without(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for thing in &self.things {
            text = text.replace(thing, TAKEN);
        }
        for name in &self.names {
            text = text.replace(&format!(" {name}"), &format!(" {TAKEN}"));
        }
        for path in &self.paths {
            text = text.replace(&format!("/{path}"), &format!("/{TAKEN}"));
        }
        text
    }
}

/// What stands between quotes on the lines of a Dockerfile: the words that may hold spaces.
/// What stands in instructions that take the rest of their line.
fn folders(text: &str) -> impl Iterator<Item = &str> {
    let begins = |line: &&str| {
        let word = line.split_whitespace().next().unwrap_or_default();
        ["WORKDIR", "USER"].iter().any(|known| known.eq_ignore_ascii_case(word))
    };
    text.lines()
        .map(str::trim)
        .filter(begins)
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(_, rest)| rest.trim())
}

fn in_quotes(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| ['"', '\''].into_iter().flat_map(move |quote| line.split(quote).skip(1).step_by(2)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Words::{Begin, Last};

    fn said(text: &str) -> Said {
        Said::read(text, &Named::default())
    }

    #[test]
    fn words_are_found_where_the_engine_speaks() {
        let text = "failed to push r/x: failed to do request: Head \"https://r/v2\": dial tcp 1.2.3.4:443: connect: connection refused";
        assert!(said(text).is_about("failed to push"));
        assert!(
            said(text).holds(Begin("connection refused")) && said(text).holds(Last("connection refused"))
        );
        let text = "a: rpc error: code = Unavailable desc = connection error: desc = \"transport: Error: dial unix /x/containerd.sock: \\\"y\\\": no\"";
        assert!(said(text).holds(Begin("transport")) && said(text).holds(Last("no")));
        assert!(said("write /x: no space left on device: unknown").holds(Last("no space left on device")));
        assert!(said("errors:\ndenied: no\nunknown: x").holds(Begin("denied")));
    }

    #[test]
    fn words_of_names_are_not() {
        for text in [
            "failed to push r/denied: x",
            "denied/app:1: y",
            "denied: failed to resolve source metadata for docker.io/library/denied:latest: docker.io/library/denied:latest: not found",
            "\"a: denied\": not found",
            "\"a\\\": denied: \\\"\": not found",
            "open /x: denied/y: no such file",
        ] {
            let said = said(text);
            assert!(!said.holds(Begin("denied")) && !said.holds(Last("denied")), "{text}: {said:?}");
        }
    }

    #[test]
    fn a_command_ends_where_its_quote_does() {
        let own = |text| of_command(text);
        assert_eq!(
            own(r#"process "/bin/sh -c x" did not complete successfully: exit code: 3"#),
            Some("exit code: 3")
        );
        let text = r#"process "sh -c \"y\\\" did not complete successfully: exit code: 9" did not complete successfully: exit code: 137: context canceled"#;
        assert_eq!(own(text), Some("exit code: 137: context canceled"));
        assert_eq!(own(text).and_then(exit_code), Some(137));
        assert_eq!(own("failed: process \"x\" did not complete successfully: exit code: 3"), None);
    }
}
