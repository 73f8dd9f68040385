//! Patterns of `.dockerignore` files, and single patterns of the same language.
//!
//! What Docker leaves out of a context must be left out here, and nothing else, so this follows what the
//! docker client does (github.com/moby/patternmatcher for the patterns, github.com/tonistiigi/fsutil for
//! the walk), not what a reader of the documentation might guess. In short: the last pattern that matches a
//! path or a folder above it decides; `!` takes back; and a folder that is left out is not entered unless a
//! `!` pattern might bring back something below it.
//!
//! Three oddities of Go's regular expressions are not repeated, since Docker's documentation says otherwise:
//! `\d` is the letter d and not a digit, `[*]` and `[?]` are classes of one character, and `**` also
//! passes over line breaks in names.
//!
//! Invariant: no text makes the parser or the matcher panic, and matching takes time in proportion to the
//! pattern's length times the path's; a set has [`PatternSet::MOST`] patterns at most, of [`PatternSet::LONGEST`] bytes each.

mod glob;

pub use glob::Glob;

use crate::error::Invalid;

/// All patterns of one `.dockerignore` file, in their order.
#[derive(Debug, Clone, Default)]
pub struct PatternSet {
    rules: Vec<Rule>,
    /// No `!` pattern has a wildcard but a trailing `/*` or `/**`: then their texts tell which folders
    /// they can reach.
    plain_negations: bool,
}

#[derive(Debug, Clone)]
struct Rule {
    glob: Glob,
    negated: bool,
    /// The pattern without a trailing `/**` and `/*`, and with a `/` behind it.
    stem: String,
}

/// What the patterns said of a folder: needed to judge what lies in it.
///
/// The default is that of the context's root.
#[derive(Debug, Clone, Default)]
pub struct Verdicts(Vec<u64>);

impl Verdicts {
    fn has(&self, rule: usize) -> bool {
        self.0.get(rule / 64).is_some_and(|word| word >> (rule % 64) & 1 == 1)
    }

    /// How much memory it takes, bytes.
    pub fn bytes(&self) -> usize {
        self.0.len() * 8
    }
}

impl PatternSet {
    /// So many patterns are in a set at most.
    pub const MOST: usize = 10_000;
    /// A pattern is no longer, bytes: neither is a path.
    pub const LONGEST: usize = 4096;

    /// Reads a whole `.dockerignore` file.
    ///
    /// # Errors
    /// The first line that is no pattern, with its number.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // A comment starts at the very beginning of its line: " #x" is a pattern.
        Self::build(text.lines().map(|line| if line.starts_with('#') { "" } else { line }))
    }

    /// Takes patterns one by one, as an engine sends them: no comments, otherwise like [`Self::parse`].
    ///
    /// # Errors
    /// The first entry that is no pattern, with its place, from 1.
    pub fn from_lines<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Result<Self, Invalid> {
        Self::build(lines)
    }

    fn build<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Result<Self, Invalid> {
        let mut rules = Vec::new();
        for (i, line) in lines.into_iter().enumerate() {
            let line = line.as_ref().trim();
            if line.is_empty() {
                continue;
            }
            if line.len() > Self::LONGEST {
                let (thing, start) = (format!("ignore pattern in line {}", i + 1), first(line, 40));
                let cure = format!("a pattern has {} bytes at most", Self::LONGEST);
                return Err(Invalid::new(&thing, format!("{start}…"), cure));
            }
            if rules.len() == Self::MOST {
                let (thing, cure) = ("ignore patterns", format!("there are {} at most", Self::MOST));
                return Err(Invalid::new(thing, format!("more than {}", Self::MOST), cure));
            }
            let at_line = |mut error: Invalid| {
                error.thing = format!("ignore pattern in line {}", i + 1);
                error.value = line.to_owned();
                error
            };
            let (negated, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            if pattern.is_empty() {
                return Err(at_line(Invalid::new("", "", "write what it takes back behind the !")));
            }
            let glob = Glob::parse(pattern).map_err(at_line)?;
            let stem = glob.as_str();
            let stem = stem.strip_suffix("/**").unwrap_or(stem);
            let stem = format!("{}/", stem.strip_suffix("/*").unwrap_or(stem));
            rules.push(Rule { glob, negated, stem });
        }
        let wild = ['*', '[', ']', '?', '^', '\\'];
        let plain_negations = !rules.iter().any(|rule| rule.negated && rule.stem.contains(wild));
        Ok(Self { rules, plain_negations })
    }

    /// True when there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// True when Docker leaves `path` out, because of itself or because of a folder above it.
    ///
    /// `path` is relative to the context, with `/` between its parts and none at its ends. The context
    /// itself (an empty path or `.`) is never left out.
    pub fn is_excluded(&self, path: &str) -> bool {
        if self.rules.is_empty() || path.is_empty() || path == "." {
            return false;
        }
        let mut above = Verdicts::default();
        for (end, _) in path.match_indices('/') {
            let folder = &path[..end];
            let (excluded, verdicts) = self.judge(folder, &above);
            if excluded && !self.may_reinclude_below(folder) {
                return true;
            }
            above = verdicts;
        }
        self.judge(path, &above).0
    }

    /// One step of [`Self::is_excluded`], for who walks a tree from above: judges `path` given what was
    /// said of its folder, and answers also what to pass on for the entries of `path`.
    ///
    /// Whoever walks doesn't enter a folder that is excluded unless [`Self::may_reinclude_below`] it.
    pub fn judge(&self, path: &str, above: &Verdicts) -> (bool, Verdicts) {
        let mut excluded = false;
        let mut verdicts = vec![0; self.rules.len().div_ceil(64)];
        for (i, rule) in self.rules.iter().enumerate() {
            // A rule that could change nothing isn't asked; and what it would have said of this folder is
            // then not passed on to its entries. Odd, but so it is done.
            if above.has(i) || (rule.negated == excluded && rule.glob.matches(path)) {
                excluded = !rule.negated;
                verdicts[i / 64] |= 1 << (i % 64);
            }
        }
        (excluded, Verdicts(verdicts))
    }

    /// True when an excluded folder must be walked all the same, since a `!` pattern might bring back
    /// something below it.
    pub fn may_reinclude_below(&self, folder: &str) -> bool {
        if !self.plain_negations {
            return true;
        }
        self.rules.iter().any(|rule| {
            rule.negated && rule.stem.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
        })
    }
}

/// The first so many characters.
fn first(text: &str, most: usize) -> &str {
    text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(text: &str) -> PatternSet {
        PatternSet::parse(text).unwrap()
    }

    /// The paths that stay.
    fn kept<'a>(text: &str, paths: &[&'a str]) -> Vec<&'a str> {
        let set = set(text);
        paths.iter().copied().filter(|path| !set.is_excluded(path)).collect()
    }

    #[test]
    fn comments_blank_lines_and_spaces_are_not_patterns() {
        let text = "\u{feff}# first\n\n   \n  spaced.txt \r\n#x\n ! keep.log\n/rooted/\n";
        let set = set(text);
        assert_eq!(
            set.rules.iter().map(|r| r.glob.as_str()).collect::<Vec<_>>(),
            ["spaced.txt", "keep.log", "rooted"]
        );
        assert_eq!(set.rules.iter().map(|r| r.negated).collect::<Vec<_>>(), [false, true, false]);
        // Only at the line's start is # a comment.
        assert!(PatternSet::parse(" #x").unwrap().is_excluded("#x"));
        // What an engine sends has no comments.
        assert!(PatternSet::from_lines(["#x"]).unwrap().is_excluded("#x"));
        assert!(PatternSet::parse("# only\n\n").unwrap().is_empty());
    }

    #[test]
    fn what_a_file_can_ask_of_whoever_reads_it_is_bounded() {
        let many = "a\n".repeat(PatternSet::MOST);
        assert!(PatternSet::parse(&many).is_ok());
        let told = PatternSet::parse(&(many + "b\n")).unwrap_err().to_string();
        assert!(told.contains("10000 at most"), "{told}");
        let long = "é".repeat(PatternSet::LONGEST / 2);
        assert!(PatternSet::parse(&long).unwrap().is_excluded(&long));
        let told = PatternSet::parse(&format!("x\n{long}y\n")).unwrap_err().to_string();
        assert!(told.contains("line 2") && told.contains("4096 bytes") && told.len() < 300, "{told}");
        // One bit for each of them, in each folder.
        let verdicts = PatternSet::parse(&"a\n".repeat(1000)).unwrap().judge("a", &Verdicts::default()).1;
        assert_eq!(verdicts.bytes(), 128);
    }

    #[test]
    fn a_star_stays_within_its_folder() {
        // The documented examples: one level below, two levels below, one more character.
        assert_eq!(kept("*/temp*", &["a/temporary.txt", "a/temp", "temp", "a/b/temp"]), ["temp", "a/b/temp"]);
        assert_eq!(kept("*/*/temp*", &["a/b/temporary", "a/temp"]), ["a/temp"]);
        assert_eq!(kept("temp?", &["tempa", "tempb/x", "temp", "tempab"]), ["temp", "tempab"]);
        assert_eq!(kept("**/*.go", &["a.go", "d/e/a.go", "a.god"]), ["a.god"]);
    }

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let docs = ["README.md", "README-secret.md", "notes.md"];
        assert_eq!(kept("*.md\n!README.md", &docs), ["README.md"]);
        assert_eq!(kept("*.md\n!README*.md\nREADME-secret.md", &docs), ["README.md"]);
        assert_eq!(kept("*.md\nREADME-secret.md\n!README*.md", &docs), ["README.md", "README-secret.md"]);
        assert_eq!(kept("!README.md\n*.md", &docs), Vec::<&str>::new());
    }

    #[test]
    fn a_folder_takes_all_below_it_along() {
        assert_eq!(
            kept("node_modules", &["node_modules/a/b/c.js", "src/node_modules/a"]),
            ["src/node_modules/a"]
        );
        assert_eq!(
            kept("**/node_modules", &["src/node_modules/a/b", "src/node_modules2"]),
            ["src/node_modules2"]
        );
        assert_eq!(kept("docs\n!docs/a/b.md", &["docs/x", "docs/a/b.md", "docs/a/c"]), ["docs/a/b.md"]);
        assert_eq!(kept("*\n!src", &["src/a/b", "lib/x", "Dockerfile"]), ["src/a/b"]);
        assert_eq!(kept("**\n!src/*.c\nsrc/x.c", &["src/a.c", "src/x.c", "src/d/a.c"]), ["src/a.c"]);
        assert_eq!(kept("dir/**", &["dir", "dir/a", "dir/a/b"]), ["dir"]);
        // A `!` for the folder above doesn't reach what a pattern named itself.
        assert_eq!(kept("a/x\n!a", &["a/x", "a/y"]), ["a/y"]);
    }

    #[test]
    fn the_context_itself_stays() {
        for text in ["*", "**", ".", "/", "./", ".."] {
            assert!(!set(text).is_excluded("."), "{text}");
            assert!(!set(text).is_excluded(""), "{text}");
        }
        assert!(!set(".").is_excluded("a"));
        assert!(!set("/").is_excluded("a"));
    }

    #[test]
    fn only_folders_that_a_negation_can_reach_are_walked() {
        let plain = set("a\nb\n!a/b/c\n!d/*\n!e/**");
        for folder in ["a", "a/b", "a/b/c", "d", "e"] {
            assert!(plain.may_reinclude_below(folder), "{folder}");
        }
        for folder in ["b", "a/bb", "a/b/c/d", "d/x", "e/x", "ee"] {
            assert!(!plain.may_reinclude_below(folder), "{folder}");
        }
        assert!(set("a\n!**/README").may_reinclude_below("a/deep/down"));
        assert!(!set("a").may_reinclude_below("a"));
    }

    #[test]
    fn a_wrong_line_is_named() {
        let error = PatternSet::parse("# x\nok\n a[ \n").unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("\"a[\""), "{error}");
        let error = PatternSet::parse("!").unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
        assert!(PatternSet::parse("! ").is_err());
    }

    const TEXT: &str = "((!)?[ab*?/.\\[\\]\\\\^#-]{0,6}\n){0,4}";

    proptest! {
        #[test]
        fn no_text_and_no_path_make_it_panic(text in ".{0,30}", path in ".{0,20}") {
            if let Ok(set) = PatternSet::parse(&text) {
                set.is_excluded(&path);
                set.may_reinclude_below(&path);
            }
        }

        #[test]
        fn without_negations_all_below_an_excluded_folder_is_excluded(
            text in TEXT, folder in "[ab]{1,2}(/[ab]{1,2}){0,2}", below in "[ab.]{1,3}(/[ab]){0,2}"
        ) {
            if let Ok(set) = PatternSet::parse(&text.replace('!', "")) && set.is_excluded(&folder) {
                let below = format!("{folder}/{below}");
                prop_assert!(set.is_excluded(&below), "{below}");
                prop_assert!(!set.may_reinclude_below(&folder));
            }
        }

        #[test]
        fn what_is_kept_lies_in_folders_that_are_walked(
            text in TEXT, folder in "[ab]{1,2}(/[ab]{1,2}){0,2}", below in "[ab.]{1,3}(/[ab]){0,2}"
        ) {
            if let Ok(set) = PatternSet::parse(&text)
                && set.is_excluded(&folder)
                && !set.is_excluded(&format!("{folder}/{below}"))
            {
                prop_assert!(set.may_reinclude_below(&folder));
            }
        }
    }
}
