//! What of a folder is meant: all of it, or what some patterns name.
//!
//! A pattern is a path from the folder on whose names may have wildcards: `*`, `?`, `[a-z]`, `[^a-z]` and `\` before a
//! character, as in Go's `path/filepath.Match`, which BuildKit uses. A folder that is named is meant with all below it.
//! Invariant: what isn't understood means more, never less.

use std::collections::BTreeSet;
use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

/// What of a folder is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of it.
    All,
    /// What one of these names.
    Only(BTreeSet<Pattern>),
}

/// A path whose names may have wildcards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern(Vec<String>);

impl Selection {
    /// Nothing of it.
    pub fn none() -> Self {
        Self::Only(BTreeSet::new())
    }

    /// What such texts mean, as [`Selection::texts`] gives them.
    pub fn of<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Self {
        let mut all = Self::none();
        texts.into_iter().for_each(|text| all.add(Pattern::parse(text.as_ref())));
        all
    }

    /// Means this, too.
    pub fn add(&mut self, pattern: Pattern) {
        match self {
            Self::Only(patterns) if !pattern.0.is_empty() => drop(patterns.insert(pattern)),
            _ => *self = Self::All,
        }
    }

    /// Means that, too.
    pub fn extend(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Only(patterns), Self::Only(more)) => patterns.extend(more),
            _ => *self = Self::All,
        }
    }

    /// The patterns as texts; `None`: all.
    pub fn texts(&self) -> Option<Vec<String>> {
        match self {
            Self::All => None,
            Self::Only(patterns) => Some(patterns.iter().map(ToString::to_string).collect()),
        }
    }

    /// Whether all that a pattern of an engine (`followpaths`) could name is meant.
    pub fn covers(&self, asked: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(patterns) => {
                let asked = Pattern::parse(asked);
                patterns.iter().any(|pattern| pattern.covers(&asked))
            }
        }
    }
}

impl Pattern {
    /// Reads a path, as it stands in COPY: from the folder on, whether it begins with `/` or not.
    pub fn parse(path: &str) -> Self {
        let mut names = clean(path);
        // Such a star goes over any number of folders.
        if let Some(at) = names.iter().position(|name| name.contains("**")) {
            names.truncate(at);
        }
        Self(names)
    }

    /// A path without wildcards, whatever is in it.
    pub fn literal(path: &str) -> Self {
        let escape = |name: String| {
            let mut out = String::with_capacity(name.len());
            for c in name.chars() {
                if is_special(c) {
                    out.push('\\');
                }
                out.push(c);
            }
            out
        };
        Self(clean(path).into_iter().map(escape).collect())
    }

    /// The names that it is made of; none: the folder itself.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    fn covers(&self, asked: &Self) -> bool {
        let fits = |(own, asked): (&String, &String)| {
            own == asked || exact(asked).is_some_and(|name| matches(own, &name))
        };
        self.0.len() <= asked.0.len() && self.0.iter().zip(&asked.0).all(fits)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str(".") } else { f.write_str(&self.0.join("/")) }
    }
}

fn is_special(c: char) -> bool {
    matches!(c, '*' | '?' | '[' | '\\')
}

/// The names of a path without `.` and `..`; nothing leads out.
fn clean(path: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            _ => names.push(name.to_owned()),
        }
    }
    names
}

/// The one name that a pattern's name matches; `None` when there may be several.
pub fn exact(name: &str) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next()?),
            c if is_special(c) => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

/// Whether a name matches a pattern's name. A pattern that is none, such as `[`, matches everything.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some(parts) = parts(pattern) else { return true };
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where to go on after a mismatch: the last star takes one character more.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match parts.get(p) {
            Some(Part::Any) => {
                retry = Some((p, n));
                p += 1;
            }
            Some(Part::One(set)) if set.has(name[n]) => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    p = star + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    parts.get(p..).is_none_or(|rest| rest.iter().all(|part| matches!(part, Part::Any)))
}

enum Part {
    /// `*`
    Any,
    One(Set),
}

enum Set {
    All,
    Only(char),
    Ranges { is_negated: bool, ranges: Vec<(char, char)> },
}

impl Set {
    fn has(&self, c: char) -> bool {
        match self {
            Self::All => true,
            Self::Only(own) => *own == c,
            Self::Ranges { is_negated, ranges } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *is_negated
            }
        }
    }
}

/// `None`: it is no pattern.
fn parts(pattern: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' => Part::Any,
            '?' => Part::One(Set::All),
            '\\' => Part::One(Set::Only(chars.next()?)),
            '[' => Part::One(class(&mut chars)?),
            c => Part::One(Set::Only(c)),
        });
    }
    Some(parts)
}

/// What follows a `[`.
fn class(chars: &mut Peekable<Chars<'_>>) -> Option<Set> {
    let is_negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(Set::Ranges { is_negated, ranges });
        }
        let from = member(chars)?;
        let to = if chars.next_if_eq(&'-').is_some() { member(chars)? } else { from };
        ranges.push((from, to));
    }
}

fn member(chars: &mut Peekable<Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '\\' => chars.next(),
        '-' | ']' => None,
        c => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_match_as_in_go() {
        for (pattern, name, fits) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a?c", "abc", true),
            ("a[b-d]e", "ace", true),
            ("a[^b-d]e", "aze", true),
            ("a[^b-d]e", "ace", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("[\\]a]", "]", true),
            ("[x-]", "x", true),
            ("[", "anything", true),
            ("*x*y", "axbxy", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_folder_covers_what_is_below_and_a_wildcard_its_names() {
        let some = Selection::of(["src", "lib/*.py", "a\\*b", "deep/**/x"]);
        for covered in [
            "src",
            "/src/",
            "src/a/b",
            "./src/*.c",
            "lib/*.py",
            "lib/a.py",
            "lib/a.py/x",
            "a\\*b",
            "deep",
            "deep/y",
        ] {
            assert!(some.covers(covered), "{covered}");
        }
        for other in ["", ".", "/", "sr", "src2", "lib", "lib/*.pyc", "lib/*", "l*/a.py", "*", "acb"] {
            assert!(!some.covers(other), "{other}");
        }
        assert!(Selection::All.covers("") && !Selection::none().covers("x"));
        assert_eq!(Selection::of(["a", "x/.."]), Selection::All);
        assert_eq!(Selection::of(["b/./c", "/a/"]).texts().unwrap(), ["a", "b/c"]);
        assert_eq!(Pattern::literal("a*[b]/c").to_string(), "a\\*\\[b]/c");
    }

    proptest! {
        #[test]
        fn a_name_matches_itself_literally_and_nothing_panics(name in "[^/]{1,12}", pattern in "[a-c*?\\[\\]^\\\\-]{0,12}") {
            let literal = Pattern::literal(&name);
            if let [own] = literal.names() {
                prop_assert!(matches(own, &name));
                prop_assert_eq!(exact(own), Some(name.clone()));
            }
            let _ = matches(&pattern, &name);
            let selection = Selection::of([pattern.as_str()]);
            // What stands in the list is covered by it.
            prop_assert!(selection.covers(&pattern));
        }
    }
}
