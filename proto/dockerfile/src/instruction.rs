//! What an instruction says, as far as anybody here asks.
//!
//! To know one more: a variant of [`Kind`], and its line in [`Kind::read`].

use crate::lines::{self, Line};
use crate::words;

/// An instruction of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Its first line, from 1.
    pub first: u32,
    /// Its last line, inclusive; that of its here-documents, if it has some.
    pub last: u32,
    /// The whole of it, continuations joined.
    pub text: String,
    /// What it is.
    pub kind: Kind,
}

/// What an instruction is. Words have their quotes and variables still, unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `FROM`.
    From(FromArgs),
    /// `ARG`: names, and defaults where there are some.
    Arg(Vec<(String, Option<String>)>),
    /// `ENV`.
    Env(Vec<(String, String)>),
    /// `COPY` and `ADD`.
    Copy(CopyArgs),
    /// `RUN`.
    Run(Vec<Mount>),
    /// `ONBUILD`: what builds on it will do.
    Onbuild(Box<Instruction>),
    /// Any other word, known to the engine or not.
    Other,
    /// A known word, but not what it should be: the engine will say so.
    Unreadable,
}

/// `FROM [--platform=PLATFORM] BASE [AS NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromArgs {
    /// The platform, if one is named.
    pub platform: Option<String>,
    /// An image or a stage.
    pub base: String,
    /// The stage's name, in small letters.
    pub name: Option<String>,
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyArgs {
    /// It is `ADD`, which takes addresses too.
    pub is_add: bool,
    /// Where its sources lie, if not in the context.
    pub from: Option<String>,
    /// Its sources, without those that are here-documents.
    pub sources: Vec<String>,
    /// `--parents`: a source may have a `/./` in it.
    pub has_parents: bool,
}

/// `RUN --mount=…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its type.
    pub kind: MountType,
    /// Where it comes from, if not from the context.
    pub from: Option<String>,
    /// What is mounted of it; `None`: all.
    pub source: Option<String>,
}

/// The type of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountType {
    /// Files of the context, a stage or an image.
    Bind,
    /// A folder that stays on the worker; where it comes from a stage, it begins with that.
    Cache,
    /// What needs no source: `tmpfs`, `secret`, `ssh`.
    Sourceless,
}

impl Instruction {
    pub(crate) fn read(line: Line, escape: char) -> Self {
        let kind = Kind::read(&line.text, escape);
        Self { first: line.first, last: line.last, text: line.text, kind }
    }
}

impl Kind {
    fn read(text: &str, escape: char) -> Self {
        let (word, rest) = words::split(text);
        let read = match word.to_ascii_uppercase().as_str() {
            "FROM" => from(rest).map(Self::From),
            "ARG" => Some(Self::Arg(words::quoted(rest, escape).into_iter().map(argument).collect())),
            "ENV" => environment(rest, escape).map(Self::Env),
            "COPY" => copy(rest, false).map(Self::Copy),
            "ADD" => copy(rest, true).map(Self::Copy),
            "RUN" => mounts(rest).map(Self::Run),
            "ONBUILD" => match words::split(rest).0.to_ascii_uppercase().as_str() {
                "ONBUILD" | "FROM" | "" => None,
                _ => {
                    let kind = Self::read(rest, escape);
                    let text = rest.to_owned();
                    Some(Self::Onbuild(Box::new(Instruction { first: 0, last: 0, text, kind })))
                }
            },
            _ => Some(Self::Other),
        };
        read.unwrap_or(Self::Unreadable)
    }
}

fn from(rest: &str) -> Option<FromArgs> {
    let (flags, rest) = words::flags(rest);
    let platform = flags.iter().find_map(|flag| flag.strip_prefix("--platform=")).map(str::to_owned);
    let mut words = rest.split_whitespace();
    let base = words.next()?.to_owned();
    let name = match (words.next(), words.next()) {
        (None, None) => None,
        (Some(word), Some(name)) if word.eq_ignore_ascii_case("as") => Some(name.to_ascii_lowercase()),
        _ => return None,
    };
    Some(FromArgs { platform, base, name })
}

fn argument(word: &str) -> (String, Option<String>) {
    let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
    (name.to_owned(), value.map(str::to_owned))
}

/// `NAME=VALUE …`, or the old form `NAME VALUE`.
fn environment(rest: &str, escape: char) -> Option<Vec<(String, String)>> {
    let words = words::quoted(rest, escape);
    if !words.first()?.contains('=') {
        let (name, value) = words::split(rest);
        return Some(vec![(name.to_owned(), value.to_owned())]);
    }
    words.into_iter().map(|word| word.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()))).collect()
}

fn copy(rest: &str, is_add: bool) -> Option<CopyArgs> {
    let (flags, rest) = words::flags(rest);
    let from = flags.iter().find_map(|flag| flag.strip_prefix("--from=")).map(str::to_owned);
    let is_set = |flag: &String| {
        flag.strip_prefix("--parents")
            .is_some_and(|value| value.is_empty() || !value.starts_with("=f") && value != "=0")
    };
    let has_parents = flags.iter().any(is_set);
    let is_list = words::list(rest);
    let has_documents = is_list.is_none();
    let mut sources =
        is_list.unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    // The last is where it goes.
    sources.pop()?;
    if sources.is_empty() {
        return None;
    }
    sources.retain(|source| !(has_documents && lines::is_document(source)));
    Some(CopyArgs { is_add, from, sources, has_parents })
}

fn mounts(rest: &str) -> Option<Vec<Mount>> {
    let (flags, _) = words::flags(rest);
    flags.iter().filter_map(|flag| flag.strip_prefix("--mount=")).map(mount).collect()
}

fn mount(value: &str) -> Option<Mount> {
    let mut mount = Mount { kind: MountType::Bind, from: None, source: None };
    for field in words::comma_separated(value) {
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        match (key.to_ascii_lowercase().as_str(), value) {
            ("type", value) => {
                mount.kind = match value.to_ascii_lowercase().as_str() {
                    "cache" => MountType::Cache,
                    "tmpfs" | "secret" | "ssh" => MountType::Sourceless,
                    // Also one that is a variable's: it may take something.
                    _ => MountType::Bind,
                }
            }
            ("from", value) => mount.from = Some(value.to_owned()),
            ("source" | "src", value) => mount.source = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Kind {
        Kind::read(text, '\\')
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn stages_begin_with_a_base() {
        let expected = FromArgs {
            platform: Some("$BUILDPLATFORM".into()),
            base: "a:1".into(),
            name: Some("one".into()),
        };
        assert_eq!(read("from --platform=$BUILDPLATFORM a:1 As ONE"), Kind::From(expected));
        for wrong in ["FROM", "FROM a b", "FROM a AS", "FROM a AS b c d"] {
            assert!(matches!(read(wrong), Kind::Unreadable | Kind::From(_)), "{wrong}");
        }
    }

    #[test]
    fn copies_know_their_sources() {
        let sources = |text: &str| match read(text) {
            Kind::Copy(copy) => (copy.sources, copy.from),
            other => panic!("{other:?}"),
        };
        assert_eq!(sources("COPY a b /c"), (strings(&["a", "b"]), None));
        assert_eq!(
            sources("COPY --from=x --chown=1 [\"a b\", \"/c\"]"),
            (strings(&["a b"]), Some("x".into()))
        );
        assert_eq!(sources("ADD <<E <<-F a /c"), (strings(&["a"]), None));
        assert_eq!(sources("COPY [\"<<E\", \"/c\"]"), (strings(&["<<E"]), None));
        assert_eq!(read("COPY a"), Kind::Unreadable);
        assert!(matches!(read("COPY --parents a/./b /c"), Kind::Copy(CopyArgs { has_parents: true, .. })));
        assert!(matches!(read("COPY --parents=false a /c"), Kind::Copy(CopyArgs { has_parents: false, .. })));
    }

    #[test]
    fn mounts_arguments_and_environments_are_read() {
        let bind = |from: Option<&str>, source: Option<&str>| Mount {
            kind: MountType::Bind,
            from: from.map(str::to_owned),
            source: source.map(str::to_owned),
        };
        assert_eq!(
            read(
                "RUN --mount=target=/x --mount=type=bind,\"From=a\",src=b,target=/y --mount=type=tmpfs,target=/t x"
            ),
            Kind::Run(vec![
                bind(None, None),
                bind(Some("a"), Some("b")),
                Mount { kind: MountType::Sourceless, from: None, source: None }
            ])
        );
        assert_eq!(
            read("ARG A B=c D=\"e f\""),
            Kind::Arg(vec![
                ("A".into(), None),
                ("B".into(), Some("c".into())),
                ("D".into(), Some("\"e f\"".into()))
            ])
        );
        assert_eq!(read("ENV A b  c"), Kind::Env(vec![("A".into(), "b  c".into())]));
        assert_eq!(
            read("ENV A=b C='d e'"),
            Kind::Env(vec![("A".into(), "b".into()), ("C".into(), "'d e'".into())])
        );
        assert!(
            matches!(read("ONBUILD COPY x /y"), Kind::Onbuild(inner) if matches!(inner.kind, Kind::Copy(_)))
        );
        assert_eq!(read("ONBUILD FROM x"), Kind::Unreadable);
        assert_eq!((read("USER x"), read("NOPE")), (Kind::Other, Kind::Other));
    }
}
