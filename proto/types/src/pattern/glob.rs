//! One pattern: its syntax, and whether it matches a path.
//!
//! A pattern is held twice: as one of a few shapes that a comparison of texts decides (nearly all patterns
//! that people write), and else as a list of parts, over which the sets of reachable places are moved
//! along the path, character by character. There is no backtracking.

use crate::error::Invalid;

/// One pattern of Go's `filepath.Match`, with Docker's `**`.
///
/// `*` stands for any characters but `/`, `?` for one of these, `[a-z]` and `[^a-z]` for one of a class,
/// `\` takes the next character as it is, and `**` stands for any number of folders, also none.
#[derive(Debug, Clone)]
pub struct Glob {
    text: String,
    parts: Vec<Part>,
    shape: Shape,
}

/// What a comparison of texts can tell.
#[derive(Debug, Clone)]
enum Shape {
    /// No wildcard: the path is the pattern's text.
    Exact,
    /// `dir/**`.
    Prefix(String),
    /// What the path must start and end with before it is worth to look at the parts.
    General(String, String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Char(char),
    /// `?`.
    One,
    /// `*`.
    Star,
    /// `**` at the end.
    Rest,
    /// `**` before something: nothing, or any characters up to a `/`. Always followed by `DeepWithin`.
    Deep,
    /// Within the characters that `Deep` stands for.
    DeepWithin,
    /// `[…]`.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// Reads a pattern. It is cleaned as a path is (`a//b/../c/` is `a/c`) and taken relative to the root.
    ///
    /// # Errors
    /// A class that doesn't end or is empty, a range that runs backwards, a `\` at the end.
    pub fn parse(pattern: &str) -> Result<Self, Invalid> {
        let text = clean(pattern.trim());
        let text = match text.strip_prefix('/') {
            Some(rest) if !rest.is_empty() => rest.to_owned(),
            _ => text,
        };
        let parts = parts(&text).map_err(|cure| Invalid::new("pattern", pattern, cure))?;
        let literal = |part: &Part| match part {
            Part::Char(c) => Some(*c),
            _ => None,
        };
        let start: String = parts.iter().map_while(literal).collect();
        let shape = match &parts[start.chars().count()..] {
            [] => Shape::Exact,
            [Part::Rest] => Shape::Prefix(start),
            _ => {
                let mut end: Vec<char> = parts.iter().rev().map_while(literal).collect();
                end.reverse();
                Shape::General(start, end.into_iter().collect())
            }
        };
        // With escapes the text isn't what it matches.
        let text_is_literal = !text.contains('\\');
        let shape = match shape {
            Shape::Exact if !text_is_literal => {
                let literal: String = parts.iter().filter_map(literal).collect();
                Shape::General(literal.clone(), literal)
            }
            shape => shape,
        };
        Ok(Self { text, parts, shape })
    }

    /// The pattern as it was cleaned.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True when the pattern matches the whole path (relative, with `/` between its parts).
    pub fn matches(&self, path: &str) -> bool {
        match &self.shape {
            Shape::Exact => path == self.text,
            Shape::Prefix(start) => path.starts_with(start.as_str()),
            Shape::General(start, end) => {
                path.starts_with(start.as_str())
                    && path.ends_with(end.as_str())
                    && self.walk(path.chars()).last() == Some(&true)
            }
        }
    }

    /// True when the pattern matches the path or a folder above it.
    pub fn matches_or_above(&self, path: &str) -> bool {
        self.matches(path) || path.match_indices('/').any(|(end, _)| self.matches(&path[..end]))
    }

    /// True when the pattern could match something below this folder; true of the root (the empty path or
    /// `.`).
    pub fn matches_prefix(&self, folder: &str) -> bool {
        if folder.is_empty() || folder == "." {
            return true;
        }
        self.walk(folder.chars().chain(['/'])).contains(&true)
    }

    /// The places between the parts that can be reached with all these characters; the last is the end.
    fn walk(&self, path: impl Iterator<Item = char>) -> Vec<bool> {
        let mut now = vec![false; self.parts.len() + 1];
        now[0] = true;
        self.skip(&mut now);
        for c in path {
            let mut next = vec![false; now.len()];
            for (i, part) in self.parts.iter().enumerate().filter(|&(i, _)| now[i]) {
                match part {
                    Part::Char(wanted) => next[i + 1] |= c == *wanted,
                    Part::One => next[i + 1] |= c != '/',
                    Part::Star => next[i] |= c != '/',
                    Part::Rest => next[i] = true,
                    Part::Deep => {}
                    Part::DeepWithin => {
                        next[i] = true;
                        next[i + 1] |= c == '/';
                    }
                    Part::Class { negated, ranges } => {
                        let within = ranges.iter().any(|&(from, to)| from <= c && c <= to);
                        next[i + 1] |= within != *negated;
                    }
                }
            }
            self.skip(&mut next);
            now = next;
        }
        now
    }

    /// Adds the places that need no character.
    fn skip(&self, places: &mut [bool]) {
        for (i, part) in self.parts.iter().enumerate() {
            match part {
                Part::Star | Part::Rest if places[i] => places[i + 1] = true,
                Part::Deep if places[i] => {
                    places[i + 1] = true;
                    places[i + 2] = true;
                }
                _ => {}
            }
        }
    }
}

fn parts(text: &str) -> Result<Vec<Part>, &'static str> {
    let mut parts = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                // What a leading ** stands for need not end at a / when only plain text follows it without
                // one: `**log` also matches `a/catalog`, though `**log*` doesn't.
                let rest: String = chars.clone().collect();
                let plain = !rest.contains(['*', '?', '[', ']', '\\']);
                let whole = parts.is_empty() && plain && !rest.starts_with('/');
                let _ = chars.next_if_eq(&'/');
                if whole || chars.peek().is_none() {
                    parts.push(Part::Rest);
                } else {
                    parts.extend([Part::Deep, Part::DeepWithin]);
                }
            }
            '*' => parts.push(Part::Star),
            '?' => parts.push(Part::One),
            '\\' => parts.push(Part::Char(chars.next().ok_or("there is nothing behind the last \\")?)),
            '[' => parts.push(class(&mut chars)?),
            c => parts.push(Part::Char(c)),
        }
    }
    Ok(parts)
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Part, &'static str> {
    const OPEN: &str = "a class needs its ]; write \\[ for the bracket itself";
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    let bound = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next() {
        None => Err(OPEN),
        Some('-') => Err("write \\- for the hyphen itself within a class"),
        Some(']') => Err("a class or a range has nothing in it; write \\] for the bracket itself"),
        Some('\\') => chars.next().ok_or(OPEN),
        Some(c) => Ok(c),
    };
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Ok(Part::Class { negated, ranges });
        }
        let from = bound(chars)?;
        let to = if chars.next_if_eq(&'-').is_some() { bound(chars)? } else { from };
        if from > to {
            return Err("a range runs from the smaller character to the larger");
        }
        ranges.push((from, to));
    }
}

/// The shortest text of the same path, by its letters alone: Go's `path.Clean`.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => drop(kept.pop()),
            ".." if rooted => {}
            part => kept.push(part),
        }
    }
    match (rooted, kept.is_empty()) {
        (true, _) => format!("/{}", kept.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => kept.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Glob::parse(pattern).unwrap().matches(path)
    }

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (written, cleaned) in [
            ("", "."),
            ("./a", "a"),
            ("a//b/./c/", "a/b/c"),
            ("a/../b", "b"),
            ("../a", "../a"),
            ("/../a", "/a"),
            ("/", "/"),
            ("a/..", "."),
            ("../../x/..", "../.."),
        ] {
            assert_eq!(clean(written), cleaned, "{written}");
        }
        assert_eq!(Glob::parse("/a/").unwrap().as_str(), "a");
    }

    #[test]
    fn wildcards_match_what_they_should() {
        for (pattern, path) in [
            ("a.b", "a.b"),
            ("*", "x"),
            ("*.rs", ".rs"),
            ("a?c", "aßc"),
            ("a/*/c", "a/b/c"),
            ("**", "a/b"),
            ("**/x", "x"),
            ("**/x", "a/b/x"),
            ("**log", "a/catalog"),
            ("a/**", "a/b/c"),
            ("a**", "abc/d"),
            ("a/**/z", "a/z"),
            ("a/**/z", "a/b/c/z"),
            ("**/a*/**/z?", "q/ab/c/d/z1"),
            ("***", "a/b"),
            ("[a-cx]1", "x1"),
            ("[^a-c]", "d"),
            ("[^a]", "/"),
            ("[\\]a]", "]"),
            ("[\\-z]", "-"),
            ("[*]", "*"),
            ("\\*", "*"),
            ("a\\d", "ad"),
            ("a]", "a]"),
            ("x(1)+{2}$", "x(1)+{2}$"),
            ("**/v[0-9]", "a\nb/v1"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("a.b", "axb"),
            ("*", "a/b"),
            ("?", "/"),
            ("a?c", "ac"),
            ("**/x", "ax"),
            ("**log*", "a/catalog"),
            ("a/**", "a"),
            ("a/**/z", "az"),
            ("a**b", "axb"),
            ("[a-c]", "d"),
            ("[!a]", "b"),
            ("\\*", "x"),
            ("A", "a"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for pattern in
            ["[", "[]", "[]a]", "[^]", "[a", "[a-", "[a-]", "[-a]", "[a-b-c]", "[z-a]", "a\\", "[\\"]
        {
            assert!(Glob::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_folder_leads_to_matches_or_it_does_not() {
        let glob = |text: &str| Glob::parse(text).unwrap();
        for (pattern, folder) in
            [("a/b/c", "a/b"), ("*/x", "q"), ("**/x", "q/r/s"), ("a/**", "a"), ("a/b", ""), ("a[b]/c", "ab")]
        {
            assert!(glob(pattern).matches_prefix(folder), "{pattern} {folder}");
        }
        for (pattern, folder) in [("a/b/c", "a/c"), ("a/b", "a/b"), ("*/x", "q/r"), ("*", "a"), ("ab/c", "a")]
        {
            assert!(!glob(pattern).matches_prefix(folder), "{pattern} {folder}");
        }
        assert!(glob("src/*").matches_or_above("src/a/b/c"));
        assert!(!glob("src/*/x").matches_or_above("src/a/y"));
    }

    proptest! {
        #[test]
        fn a_text_without_wildcards_matches_itself_only(a in "[ab.+(]{1,4}(/[ab]{1,3})?", b in "[ab.+(]{1,4}") {
            prop_assume!(!a.split('/').any(|p| p == "." || p == ".."));
            prop_assert!(matches(&a, &a));
            prop_assert_eq!(matches(&a, &b), a == b);
        }

        #[test]
        fn shortcuts_and_parts_agree(pattern in "[ab*?/]{1,6}", path in "[ab]{1,3}(/[ab]{1,2}){0,2}") {
            let glob = Glob::parse(&pattern).unwrap();
            prop_assert_eq!(glob.matches(&path), glob.walk(path.chars()).last() == Some(&true));
        }

        #[test]
        fn where_something_below_matches_the_folder_leads_there(
            pattern in "[ab*?/]{1,6}", folder in "[ab]{1,2}(/[ab]){0,2}", below in "[ab]{1,2}(/[ab])?"
        ) {
            let glob = Glob::parse(&pattern).unwrap();
            if glob.matches(&format!("{folder}/{below}")) {
                prop_assert!(glob.matches_prefix(&folder));
            }
        }
    }
}
