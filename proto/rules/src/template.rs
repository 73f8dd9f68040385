//! Tags of images, made of what has happened: `{branch}`, `v{semver}`, `{semver.major}.{semver.minor}`.
//!
//! Invariant: what a template is rendered to is a tag by the grammar of the OCI distribution specification
//! (`[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`), whatever branches and tags are called.

use std::fmt;
use std::str::FromStr;

use farm_types::suggest::nearest;
use farm_types::{Commit, Invalid};
use semver::Version;

use crate::event::EVENTS;

/// The longest tag, characters.
const MOST: usize = 128;

/// What stands in braces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The branch that was pushed to, or that a schedule or a base image builds.
    Branch,
    /// The git tag, of a tag or a release.
    Tag,
    /// The commit, all of it.
    Sha,
    /// Its first seven digits.
    Sha7,
    /// The version that the git tag names, without `v`.
    Semver,
    /// Its first number.
    Major,
    /// Its second number.
    Minor,
    /// The day in UTC: `20261130`.
    Date,
    /// The pull request's number.
    Pr,
}

const WORDS: [(&str, Word); 9] = [
    ("branch", Word::Branch),
    ("tag", Word::Tag),
    ("sha", Word::Sha),
    ("sha7", Word::Sha7),
    ("semver", Word::Semver),
    ("semver.major", Word::Major),
    ("semver.minor", Word::Minor),
    ("date", Word::Date),
    ("pr", Word::Pr),
];

impl Word {
    /// The word.
    pub fn as_str(self) -> &'static str {
        WORDS.iter().find(|(_, word)| *word == self).map_or("", |(text, _)| text)
    }

    /// The events that have it.
    pub fn events(self) -> &'static [&'static str] {
        match self {
            Self::Branch => &["push", "schedule", "base_image"],
            Self::Tag | Self::Semver | Self::Major | Self::Minor => &["tag", "release"],
            Self::Pr => &["pull_request"],
            Self::Sha | Self::Sha7 | Self::Date => &EVENTS,
        }
    }
}

/// A tag with words in braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Word(Word),
}

/// What the words stand for, for one event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// `{branch}`.
    pub branch: Option<String>,
    /// `{tag}`.
    pub tag: Option<String>,
    /// `{sha}` and `{sha7}`.
    pub commit: Option<Commit>,
    /// `{semver}` and its numbers.
    pub version: Option<Version>,
    /// `{date}`.
    pub date: Option<String>,
    /// `{pr}`.
    pub pr: Option<u64>,
}

impl Words {
    fn value(&self, word: Word) -> Option<String> {
        match word {
            Word::Branch => self.branch.clone(),
            Word::Tag => self.tag.clone(),
            Word::Sha => self.commit.as_ref().map(|commit| commit.as_str().to_owned()),
            Word::Sha7 => self.commit.as_ref().map(|commit| commit.short().to_owned()),
            Word::Semver => self.version.as_ref().map(Version::to_string),
            Word::Major => self.version.as_ref().map(|version| version.major.to_string()),
            Word::Minor => self.version.as_ref().map(|version| version.minor.to_string()),
            Word::Date => self.date.clone(),
            Word::Pr => self.pr.map(|pr| pr.to_string()),
        }
    }
}

/// Why a template gives no tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unrendered {
    /// The event has no such word.
    Missing(Word),
    /// What it stands for has no letter and no digit that a tag may have.
    Unusable(Word, String),
}

impl Template {
    /// The words in it.
    pub fn words(&self) -> impl Iterator<Item = Word> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Word(word) => Some(*word),
            Piece::Text(_) => None,
        })
    }

    /// Whether it has this word.
    pub fn has(&self, word: Word) -> bool {
        self.words().any(|one| one == word)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The tag. What a tag may not have becomes `-`; `.` and `-` at its beginning and what is beyond 128 characters fall away.
    ///
    /// # Errors
    /// A word has no value, or none that a tag could be made of.
    pub fn render(&self, words: &Words) -> Result<String, Unrendered> {
        let mut tag = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => tag.push_str(text),
                Piece::Word(word) => {
                    let value = words.value(*word).ok_or(Unrendered::Missing(*word))?;
                    let clean: String = value.chars().map(|c| if is_fit(c) { c } else { '-' }).collect();
                    if !clean.contains(|c: char| c.is_ascii_alphanumeric()) {
                        return Err(Unrendered::Unusable(*word, value));
                    }
                    tag.push_str(&clean);
                }
            }
        }
        let mut tag = tag.trim_start_matches(['.', '-']).to_owned();
        tag.truncate(MOST);
        Ok(tag)
    }
}

fn is_fit(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.-".contains(c)
}

impl FromStr for Template {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |cure: String| Invalid::new("tag", text, cure);
        let mut pieces = Vec::new();
        let mut rest = text;
        let mut letters = 0;
        while !rest.is_empty() {
            let Some(inner) = rest.strip_prefix('{') else {
                let end = rest.find('{').unwrap_or(rest.len());
                let (plain, behind) = rest.split_at(end);
                if let Some(c) = plain.chars().find(|c| !is_fit(*c)) {
                    let hint = match c {
                        ':' | '/' => "; registries and repositories stand in destinations",
                        _ => "",
                    };
                    return Err(wrong(format!(
                        "a tag can't have {c:?}, only letters, digits, _, . and -{hint}"
                    )));
                }
                letters += plain.len();
                pieces.push(Piece::Text(plain.to_owned()));
                rest = behind;
                continue;
            };
            let Some((name, behind)) = inner.split_once('}') else {
                return Err(wrong("a { isn't closed; write {WORD}, like {branch}".to_owned()));
            };
            let Some((_, word)) = WORDS.iter().find(|(word, _)| *word == name) else {
                let known: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
                let guess =
                    nearest(name, known.iter().copied()).map(|word| format!("; did you mean {{{word}}}?"));
                let guess = guess.unwrap_or_else(|| format!("; there are {{{}}}", known.join("}, {")));
                return Err(wrong(format!("{{{name}}} is no word of tags{guess}")));
            };
            pieces.push(Piece::Word(*word));
            rest = behind;
        }
        match pieces.first() {
            None => return Err(wrong("it is empty; write a tag, like latest or {branch}".to_owned())),
            Some(Piece::Text(first)) if first.starts_with(['.', '-']) => {
                return Err(wrong(
                    "a tag can't begin with . or -; put a letter, a digit or _ in front".to_owned(),
                ));
            }
            _ => {}
        }
        if letters > MOST {
            return Err(wrong(format!("a tag has at most {MOST} characters; write a shorter one")));
        }
        Ok(Self { text: text.to_owned(), pieces })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::version_of;
    use farm_types::ImageTag;
    use proptest::prelude::*;

    fn render(template: &str, words: &Words) -> Result<String, Unrendered> {
        template.parse::<Template>().unwrap_or_else(|e| panic!("{e}")).render(words)
    }

    #[test]
    fn words_are_filled_in_and_cleaned() {
        let words = Words {
            branch: Some("feature/Ärger#7".to_owned()),
            tag: Some("v1.20.3-rc.1+b5".to_owned()),
            commit: Some("0123456789abcdef0123456789abcdef01234567".parse().unwrap()),
            version: version_of("v1.20.3-rc.1+b5"),
            date: Some("20261130".to_owned()),
            pr: Some(7),
        };
        for (template, tag) in [
            ("latest", "latest"),
            ("{branch}", "feature--rger-7"),
            ("{tag}", "v1.20.3-rc.1-b5"),
            ("{semver}", "1.20.3-rc.1-b5"),
            ("v{semver.major}.{semver.minor}", "v1.20"),
            ("{date}-{sha7}", "20261130-0123456"),
            ("{sha}", "0123456789abcdef0123456789abcdef01234567"),
            ("pr-{pr}", "pr-7"),
            ("_{branch}", "_feature--rger-7"),
        ] {
            assert_eq!(render(template, &words).unwrap(), tag, "{template}");
        }
        let branch = |name: &str| Words { branch: Some(name.to_owned()), ..Words::default() };
        assert_eq!(render("{branch}", &branch("日本/x")).unwrap(), "x");
        assert_eq!(
            render("{branch}-x", &branch("日本")),
            Err(Unrendered::Unusable(Word::Branch, "日本".to_owned()))
        );
        assert_eq!(render("{tag}", &branch("x")), Err(Unrendered::Missing(Word::Tag)));
        assert_eq!(render("{branch}", &branch(&"x".repeat(300))).unwrap().len(), 128);
    }

    #[test]
    fn what_is_no_tag_is_refused_with_the_cure() {
        for (template, cure) in [
            ("", "it is empty"),
            ("{branc}", "did you mean {branch}?"),
            ("{commit}", "there are {branch}, {tag}"),
            ("{branch", "isn't closed"),
            ("a b", "can't have ' '"),
            ("r.example/app:1", "stand in destinations"),
            ("}", "can't have '}'"),
            ("-{sha}", "can't begin with"),
            ("{{branch}}", "is no word"),
            (&"x".repeat(129), "at most 128"),
        ] {
            let error = template.parse::<Template>().unwrap_err().to_string();
            assert!(error.contains(cure), "{template}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_a_tag_whatever_things_are_called(
            template in "[a-z_]{0,3}(\\{(branch|tag|sha7|semver|semver\\.major|pr|date)\\}[a-z.-]{0,3}){1,4}",
            branch in ".{1,200}", tag in "(v?[0-9]{1,3}\\.[0-9]\\.[0-9](-[a-z0-9.]{1,9})?(\\+[a-z]{1,3})?|.{1,40})", pr: u64
        ) {
            let words = Words {
                version: version_of(&tag),
                branch: Some(branch),
                tag: Some(tag),
                commit: Some("0".repeat(40).parse().unwrap()),
                date: Some("20261130".to_owned()),
                pr: Some(pr),
            };
            let template: Template = template.parse().unwrap();
            prop_assert_eq!(&template.as_str().parse::<Template>().unwrap(), &template);
            if let Ok(tag) = template.render(&words) {
                let full: ImageTag = format!("r.example/app:{tag}").parse().unwrap();
                prop_assert_eq!(full.tag, tag);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "[{}a-z.\\PC]{0,20}") {
            if let Ok(template) = text.parse::<Template>() {
                let _ = template.render(&Words::default());
            }
        }
    }
}
