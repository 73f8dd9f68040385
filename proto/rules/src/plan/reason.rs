//! Why something isn't built, or isn't tagged, in words.

use std::fmt;

use crate::template::Word;

/// Why an image isn't built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It isn't built upon such events.
    Event { event: &'static str, on: Vec<&'static str> },
    /// The branch isn't one of those.
    Branch { branch: String, patterns: String },
    /// The pull request goes to another branch.
    Base { number: u64, base: String, patterns: String },
    /// The tag isn't one of those.
    Tag { tag: String, patterns: String },
    /// The tag names no version, and a range was asked for.
    NoVersion { tag: String, range: String },
    /// The version isn't in the range.
    Range { tag: String, range: String },
    /// It comes before a release.
    Prerelease { tag: String },
    /// It is another schedule's time.
    Schedule { name: String, names: Vec<String> },
    /// Another image has moved.
    BaseImage { image: String, images: Vec<String> },
    /// No changed file matters to it.
    Paths { changed: usize, patterns: Vec<String> },
    /// The commit's message asks for it.
    Marker { marker: &'static str },
}

impl Reason {
    /// A word that stands for it, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Event { .. } => "event",
            Self::Branch { .. } => "branch",
            Self::Base { .. } => "base",
            Self::Tag { .. } => "tag",
            Self::NoVersion { .. } => "no_version",
            Self::Range { .. } => "range",
            Self::Prerelease { .. } => "prerelease",
            Self::Schedule { .. } => "schedule",
            Self::BaseImage { .. } => "base_image",
            Self::Paths { .. } => "paths",
            Self::Marker { .. } => "marker",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event { event, on } => write!(f, "it is built on {}, not on {event}", on.join(", ")),
            Self::Branch { branch, patterns } => write!(f, "branch {branch} isn't one of {patterns}"),
            Self::Base { number, base, patterns } => {
                write!(f, "pull request {number} goes to {base}, which isn't one of {patterns}")
            }
            Self::Tag { tag, patterns } => write!(f, "tag {tag} isn't one of {patterns}"),
            Self::NoVersion { tag, range } => {
                write!(f, "tag {tag} names no version like v1.2.3, so it isn't in {range}")
            }
            Self::Range { tag, range } => write!(f, "the version of tag {tag} isn't in {range}"),
            Self::Prerelease { tag } => write!(f, "{tag} is a pre-release, and it says prereleases: false"),
            Self::Schedule { name, names } => write!(f, "schedule {name} isn't one of {}", names.join(", ")),
            Self::BaseImage { image, images } => write!(f, "{image} isn't one of {}", images.join(", ")),
            Self::Paths { changed: 0, .. } => f.write_str("no file was changed"),
            Self::Paths { changed: 1, patterns } => {
                write!(f, "the changed file isn't one of {}", patterns.join(", "))
            }
            Self::Paths { changed, patterns } => {
                write!(f, "none of {changed} changed files is one of {}", patterns.join(", "))
            }
            Self::Marker { marker } => write!(f, "the commit's message says {marker}"),
        }
    }
}

/// Why a tag of the file isn't moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftOutWhy {
    /// The file says other events.
    Event { event: &'static str, on: Vec<&'static str> },
    /// The event has no such word.
    Missing { word: Word, event: &'static str },
    /// A pull request moves tags of its own only.
    Proposal,
    /// The git tag names no version.
    NoVersion { tag: String },
    /// No tag can be made of what a word stands for.
    Unusable { word: Word, value: String },
    /// `latest`, and the branch isn't the default one.
    OtherBranch { branch: String, default: String },
    /// `latest`, and nobody says which branch is the default one.
    NoDefault,
    /// It comes before a release.
    Prerelease { tag: String },
    /// There is a higher version already.
    Older { tag: String, than: String },
}

impl fmt::Display for LeftOutWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event { event, on } => write!(f, "it is given on {}, not on {event}", on.join(", ")),
            Self::Missing { word, event } => write!(f, "{event} has no {{{}}}", word.as_str()),
            Self::Proposal => f.write_str("a pull request gives only tags with {pr}"),
            Self::NoVersion { tag } => write!(f, "tag {tag} names no version like v1.2.3"),
            Self::Unusable { word, value } => {
                write!(f, "no tag can be made of {{{}}}, which is {value}", word.as_str())
            }
            Self::OtherBranch { branch, default } => {
                write!(f, "branch {branch} isn't the default branch, {default}")
            }
            Self::NoDefault => f.write_str("it isn't known which branch is the default one"),
            Self::Prerelease { tag } => write!(f, "{tag} is a pre-release"),
            Self::Older { tag, than } => write!(f, "{than} is newer than {tag}"),
        }
    }
}
