//! Patterns of names of branches and tags.

use std::fmt;

use farm_types::Invalid;
use farm_types::pattern::Glob;

/// Patterns of branches or tags, as GitHub's filters have them: `*` stands for any characters but `/`, `**` for these as well, `?`
/// for one, `[a-z]` for one of a class. The last pattern that a name fits decides; `!` in front leaves out. Of only such ones all
/// others are meant.
#[derive(Debug, Clone)]
pub struct NamePatterns(Vec<NamePattern>);

#[derive(Debug, Clone)]
struct NamePattern {
    text: String,
    glob: Glob,
    negated: bool,
}

impl NamePatterns {
    /// Puts patterns together that were read one by one.
    pub(crate) fn new(patterns: Vec<(String, Glob, bool)>) -> Self {
        Self(patterns.into_iter().map(|(text, glob, negated)| NamePattern { text, glob, negated }).collect())
    }

    /// Whether a name is meant.
    pub fn covers(&self, name: &str) -> bool {
        let begins = self.0.iter().all(|pattern| pattern.negated);
        self.0.iter().fold(
            begins,
            |meant, pattern| {
                if pattern.glob.matches(name) { !pattern.negated } else { meant }
            },
        )
    }
}

/// As they are written, with commas between them.
impl fmt::Display for NamePatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.0.iter().map(|pattern| pattern.text.as_str()).collect();
        f.write_str(&texts.join(", "))
    }
}

/// Reads one pattern: its text, what it matches, and whether it leaves out.
///
/// # Errors
/// No branch and no tag can be called like it (git-check-ref-format(1)), or it is no pattern; the thing is for the caller to name.
pub(crate) fn pattern(text: &str) -> Result<(String, Glob, bool), Invalid> {
    let wrong = |cure: String| Invalid::new("pattern", text, cure);
    let (negated, body) = text.strip_prefix('!').map_or((false, text), |body| (true, body));
    if body.is_empty() {
        return Err(wrong("it fits no name; write a name, or a pattern like release/*".to_owned()));
    }
    for (prefix, kind) in [("refs/heads/", "branches"), ("refs/tags/", "tags")] {
        if let Some(rest) = body.strip_prefix(prefix) {
            return Err(wrong(format!("names of {kind} stand here without {prefix}; write {rest}")));
        }
    }
    let never = |what: &str| Err(wrong(format!("no name of a branch or tag {what}, so it fits none")));
    if let Some(c) = body.chars().find(|c| c.is_control() || c.is_whitespace() || "~:\\".contains(*c)) {
        return never(&format!("has {c:?}"));
    }
    if body.contains("..") || body.contains("//") || body.contains("@{") {
        return never("has .., // or @{");
    }
    if body.starts_with(['/', '-', '.']) || body.ends_with(['/', '.']) || body.contains("/.") {
        return never("begins with /, - or ., or ends with / or .");
    }
    if body.ends_with(".lock") {
        return never("ends with .lock");
    }
    let glob = Glob::parse(body).map_err(|error| wrong(error.cure))?;
    Ok((text.to_owned(), glob, negated))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patterns(texts: &[&str]) -> NamePatterns {
        NamePatterns::new(texts.iter().map(|text| pattern(text).unwrap()).collect())
    }

    #[test]
    fn the_last_pattern_that_fits_decides() {
        for (texts, name, covered) in [
            (&["main", "release/*"][..], "main", true),
            (&["main", "release/*"], "release/1", true),
            (&["main", "release/*"], "release/1/fix", false),
            (&["release/**"], "release/1/fix", true),
            (&["main"], "mainly", false),
            (&["**", "!dependabot/**"], "dependabot/npm/x", false),
            (&["**", "!dependabot/**"], "feature/a", true),
            (&["!dependabot/**"], "feature/a", true),
            (&["!dependabot/**"], "dependabot/npm/x", false),
            (&["release/*", "!release/0*", "release/01"], "release/01", true),
            (&["v[0-9]*"], "v1.2", true),
            (&["v[0-9]*"], "vx", false),
        ] {
            assert_eq!(patterns(texts).covers(name), covered, "{texts:?} {name}");
        }
    }

    #[test]
    fn what_no_name_can_fit_is_refused() {
        for (text, cure) in [
            ("refs/heads/main", "write main"),
            ("!refs/tags/v*", "write v*"),
            ("", "fits no name"),
            ("!", "fits no name"),
            ("a b", "has ' '"),
            ("a..b", "has .."),
            ("a//b", "has .."),
            ("-x", "begins with"),
            ("a/", "ends with"),
            ("a.lock", ".lock"),
            ("a\\b", "has '\\\\'"),
            ("a[", "class"),
        ] {
            let error = pattern(text).unwrap_err().to_string();
            assert!(error.contains(cure), "{text}: {error}");
        }
    }

    /// What a pattern of these characters means, by the plainest of ways: all that each `*` may stand for is tried.
    fn plainly(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([b'*', rest @ ..], _) => (0..=name.len())
                .take_while(|&n| !name[..n].contains(&b'/'))
                .any(|n| plainly(rest, &name[n..])),
            ([b'?', rest @ ..], [c, name @ ..]) => *c != b'/' && plainly(rest, name),
            ([p, rest @ ..], [c, name @ ..]) => p == c && plainly(rest, name),
            ([], []) => true,
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn lists_of_patterns_are_what_a_plain_model_says(
            list in proptest::collection::vec("!?[ab]([ab*?]|/[ab]){0,5}", 1..5), name in "[ab](/?[ab]){0,4}"
        ) {
            prop_assume!(!list.iter().any(|text| text.contains("**")));
            let texts: Vec<&str> = list.iter().map(String::as_str).collect();
            let mut covered = texts.iter().all(|text| text.starts_with('!'));
            for text in &texts {
                let (negated, body) = text.strip_prefix('!').map_or((false, *text), |body| (true, body));
                if plainly(body.as_bytes(), name.as_bytes()) {
                    covered = !negated;
                }
            }
            prop_assert_eq!(patterns(&texts).covers(&name), covered);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,20}", name in ".{0,12}") {
            if let Ok(pattern) = pattern(&text) {
                NamePatterns::new(vec![pattern]).covers(&name);
            }
        }
    }
}
