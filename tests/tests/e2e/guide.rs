//! A guide that is run as it is written: its blocks, and what it shows beside what is printed.
//!
//! | a block that begins with | is |
//! |---|---|
//! | `sh WHO` | commands of this person's |
//! | `console WHO` | `$ COMMAND` on a terminal and what that shows; what stands behind a question is typed |
//! | `LANGUAGE PATH` (with a dot) | what this file holds |
//! | nothing, behind commands | all that these print on standard output |
//!
//! What is printed differs each time. `…` in a guide stands for a part of a word, letters and digits beside it being an example; as the last
//! word of a line for the rest of that; as a line for any lines. Blanks count as one, and any span or size is like any other. Words that a
//! test names as examples stand for what is printed in their place the first time, from then on and in commands.

use std::collections::BTreeMap;

/// Whose block it is, or what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Commands(&'static str),
    Terminal(&'static str),
    File(&'static str),
}

/// One block of a guide.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Under which it stands.
    pub heading: &'static str,
    pub kind: Kind,
    pub text: &'static str,
    /// What it prints.
    pub shown: Option<&'static str>,
}

/// All blocks of a guide that are run, in order.
pub fn blocks(guide: &'static str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut heading = "";
    let mut parts = guide.split("\n```");
    let mut prose = parts.next().unwrap();
    while let Some(fenced) = parts.next() {
        let new = prose.lines().rfind(|line| line.starts_with('#'));
        heading = new.map_or(heading, |line| line.trim_start_matches('#').trim());
        let (info, text) = fenced.split_once('\n').unwrap();
        let kind = match info.split_once(' ') {
            Some((_, path)) if path.contains('.') => Some(Kind::File(path)),
            Some(("sh", who)) => Some(Kind::Commands(who)),
            Some(("console", who)) => Some(Kind::Terminal(who)),
            _ => None,
        };
        if let Some(kind) = kind {
            blocks.push(Block { heading, kind, text, shown: None });
        } else if let (true, "", Some(last)) = (prose.trim().is_empty(), info, blocks.last_mut()) {
            last.shown = Some(text);
        }
        prose = parts.next().unwrap_or("");
    }
    blocks
}

/// What a guide has examples for.
pub struct Examples {
    names: &'static [&'static str],
    known: BTreeMap<&'static str, String>,
}

impl Examples {
    pub fn new(names: &'static [&'static str]) -> Examples {
        Examples { names, known: BTreeMap::new() }
    }

    /// From now on this example stands for this.
    pub fn know(&mut self, name: &str, value: &str) {
        let name = self.names.iter().find(|known| **known == name).unwrap();
        self.known.insert(name, value.to_owned());
    }

    /// What a block means by now.
    pub fn real(&self, text: &str) -> String {
        // The longest first: one may be how another begins.
        let mut known: Vec<_> = self.known.iter().collect();
        known.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        known.into_iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    /// Whether this was printed; what is printed in the place of examples is known from then on.
    pub fn fit(&mut self, shown: &str, printed: &str) -> bool {
        let shown: Vec<Vec<String>> = self.real(shown).lines().map(words).collect();
        let printed: Vec<Vec<String>> = printed.lines().map(words).collect();
        let mut found = BTreeMap::new();
        if !lines_fit(self.names, &mut found, &shown, &printed) {
            return false;
        }
        self.known.extend(found);
        true
    }
}

type Found = BTreeMap<&'static str, String>;

fn lines_fit(
    names: &[&'static str],
    found: &mut Found,
    shown: &[Vec<String>],
    printed: &[Vec<String>],
) -> bool {
    match (shown, printed) {
        ([], []) => true,
        ([any, rest @ ..], _) if *any == ["…"] => {
            (0..=printed.len()).any(|skipped| lines_fit(names, found, rest, &printed[skipped..]))
        }
        ([line, shown @ ..], [other, printed @ ..]) => {
            let (line, is_long) = match line.as_slice() {
                [line @ .., last] if last == "…" => (line, line.len() < other.len()),
                line => (line, line.len() == other.len()),
            };
            is_long
                && line.iter().zip(other).all(|(word, other)| word_fits(names, found, word, other))
                && lines_fit(names, found, shown, printed)
        }
        _ => false,
    }
}

fn word_fits(names: &[&'static str], found: &mut Found, shown: &str, printed: &str) -> bool {
    if let Some(name) = names.iter().find(|name| **name == shown) {
        return found.entry(name).or_insert_with(|| printed.to_owned()) == printed;
    }
    let is_example = |c: char| c.is_ascii_alphanumeric();
    let pieces: Vec<&str> = shown.split('…').collect();
    let [first, middle @ .., last] = &pieces[..] else { return shown == printed };
    let (first, last) = (first.trim_end_matches(is_example), last.trim_start_matches(is_example));
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    for piece in middle {
        let piece = piece.trim_matches(is_example);
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

/// The words of a line; a number and its unit are one that is like any other.
fn words(line: &str) -> Vec<String> {
    const UNITS: [&str; 12] = ["ms", "s", "min", "h", "d", "B", "kB", "MB", "GB", "KiB", "MiB", "GiB"];
    let line = line.replace("just now", "1 s ago");
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        match words.last_mut() {
            Some(last) if last.parse::<f64>().is_ok() && UNITS.contains(&word) => "1 s".clone_into(last),
            _ => words.push(word.to_owned()),
        }
    }
    words
}

#[test]
fn what_a_guide_shows_is_held_against_what_is_printed() {
    let guide = "# A guide\n\n## One\n\n```sh ada\nfarm x\n```\n\n```\nbuild 7f3k2m of farm_h_5e0c…\n```\n\nOr:\n\n```\nno output\n```\n\n\
                 ```yaml a.yaml\na: 1\n```\n";
    let blocks = blocks(guide);
    let kinds: Vec<(Kind, &str)> = blocks.iter().map(|block| (block.kind, block.heading)).collect();
    assert_eq!(kinds, [(Kind::Commands("ada"), "One"), (Kind::File("a.yaml"), "One")]);
    assert_eq!((blocks[0].text, blocks[1].text, blocks[1].shown), ("farm x", "a: 1", None));
    let mut examples = Examples::new(&["7f3k2m"]);
    let shown = blocks[0].shown.unwrap();
    assert!(!examples.fit(shown, "build abcdef of farm_x_0\n"));
    assert!(examples.fit(shown, "build  abcdef of farm_h_0\n"));
    assert!(!examples.fit(shown, "build ghijkm of farm_h_0\n"), "it is known by now");
    assert_eq!(examples.real("farm show 7f3k2m"), "farm show abcdef");
    assert!(examples.fit("a 9 s ago\n…\nb 700 B (x…y)", "a   just now\nm\nn\nb 1.2 kB (12y)\n"));
    assert!(
        examples.fit("a b …", "a b c d")
            && !examples.fit("a b …", "a b")
            && examples.fit("x:1…2.", "x:a3.")
            && !examples.fit("x-…", "y")
    );
    assert!(!examples.fit("a\n…\nb", "a\nm\n") && !examples.fit("a", "a\nb") && !examples.fit("a b", "a"));
}
