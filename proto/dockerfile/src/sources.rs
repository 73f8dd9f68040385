//! What of its contexts a build can name: the sources of COPY, ADD and bind mounts in the stages that it needs.
//!
//! An economy and a fence: what can't be named need not be read, sent, or known to anybody. The engine asks for the same by
//! `followpaths`; whoever serves it compares (a base image's ONBUILD isn't known here) and sends the rest when something is
//! missing.

use std::collections::BTreeMap;

use farm_types::Platform;
use farm_types::spec::NamedContext;

use crate::Dockerfile;
use crate::build::{self, Build};
use crate::selection::Selection;

/// The file that every engine looks for in a context.
const IGNORE_FILE: &str = ".dockerignore";

/// The name of the build's own context among the roots of a source.
pub const CONTEXT: &str = "context";

/// What of each context is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// Of the build's own context.
    pub context: Selection,
    /// Of the named ones that are folders; one that isn't in here isn't needed at all.
    pub named: BTreeMap<String, Selection>,
}

impl Sources {
    /// All of everything.
    pub fn all(contexts: &BTreeMap<String, NamedContext>) -> Self {
        Self {
            context: Selection::All,
            named: folders(contexts).map(|name| (name.clone(), Selection::All)).collect(),
        }
    }

    /// What a frontend needs that is only asked about the file.
    pub fn of_a_question(contexts: &BTreeMap<String, NamedContext>) -> Self {
        let only = Selection::of([IGNORE_FILE]);
        Self {
            context: only.clone(),
            named: folders(contexts).map(|name| (name.clone(), only.clone())).collect(),
        }
    }

    /// Finds out for some platforms, whatever platform `build` has; `None` when it can't be told.
    pub fn of(file: &Dockerfile, build: &Build<'_>, platforms: &[Platform]) -> Option<Self> {
        if file.directives.is_foreign() || platforms.is_empty() {
            return None;
        }
        let mut all = Self::of_a_question(build.contexts);
        for platform in platforms {
            let stages = build::stages(file, &Build { platform, ..*build })?;
            for stage in stages.into_iter().filter(|stage| stage.is_used) {
                all.context.extend(stage.context);
                for (name, selection) in stage.named {
                    if let Some(own) = all.named.get_mut(&name) {
                        own.extend(selection);
                    }
                }
            }
        }
        Some(all)
    }

    /// Whether something may be left out.
    pub fn are_all(&self) -> bool {
        self.context == Selection::All && self.named.values().all(|selection| *selection == Selection::All)
    }
}

fn folders(contexts: &BTreeMap<String, NamedContext>) -> impl Iterator<Item = &String> {
    contexts.iter().filter(|(_, context)| matches!(context, NamedContext::Local)).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sources(text: &str, args: &[(&str, &str)], contexts: &[&str]) -> Option<Sources> {
        let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let contexts = contexts.iter().map(|name| ((*name).to_owned(), NamedContext::Local)).collect();
        let platforms: Vec<Platform> = vec!["linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap()];
        let build = Build { target: None, args: &args, contexts: &contexts, platform: &platforms[0] };
        Sources::of(&Dockerfile::parse(text.as_bytes()), &build, &platforms)
    }

    fn context(text: &str) -> Option<Vec<String>> {
        let mut texts = sources(text, &[("SET", "given")], &[]).unwrap().context.texts()?;
        texts.retain(|text| text != IGNORE_FILE);
        Some(texts)
    }

    #[test]
    fn sources_are_those_that_instructions_name() {
        let named = |texts: &[&str]| Some(texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        for (text, found) in [
            ("FROM x\nRUN y", named(&[])),
            ("FROM x\nCOPY a ./b/ /c/", named(&["a", "b"])),
            ("FROM x\nCOPY \"a\" [b-c]*.txt /c/", named(&["[b-c]*.txt", "a"])),
            ("FROM x\nCOPY [\"a b\", \"/c\"]", named(&["a b"])),
            ("FROM x\nCOPY . /c", None),
            ("FROM x\nCOPY ../.. /c", None),
            ("FROM x\nADD https://h/f git@h:r git://h/r a /c/", named(&["a", "git:/h/r", "git@h:r"])),
            ("FROM x\nCOPY <<E b /c/\nCOPY z /\nE", named(&["b"])),
            ("FROM x\nARG A=1 SET\nENV B=$A-$SET\nCOPY $B /c", named(&["1-given"])),
            ("ARG G=g\nFROM x\nARG G\nCOPY $G /c", named(&["g"])),
            ("FROM x\nARG TARGETARCH\nCOPY bin-$TARGETARCH /c", named(&["bin-amd64", "bin-arm64"])),
            ("FROM x\nCOPY $FROM_THE_BASE /c", None),
            ("FROM scratch\nCOPY a$NOTHING /c", named(&["a"])),
            ("FROM x\nRUN --mount=source=a,target=/t y", named(&["a"])),
            ("FROM x\nRUN --mount=target=/t y", None),
            ("FROM x\nRUN --mount=type=cache,target=/t --mount=type=tmpfs,target=/u y", named(&[])),
            ("FROM x AS a\nCOPY a /\nFROM y\nCOPY b /", named(&["b"])),
            ("FROM x AS a\nCOPY a /\nFROM y\nCOPY --from=a /a /\nCOPY b /", named(&["a", "b"])),
            ("FROM x AS a\nONBUILD COPY t /\nCOPY a /\nFROM a\nCOPY b /", named(&["a", "b", "t"])),
            ("FROM x AS a\nENV E=e\nFROM a\nCOPY $E /", named(&["e"])),
            ("FROM x\nCOPY --parents a/./b/*.c d/**/e /", named(&["a/b/*.c", "d"])),
        ] {
            assert_eq!(context(text), found, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_told_means_all_of_it() {
        for text in [
            "# syntax=some/frontend\nFROM x\nCOPY a /",
            "FROM x\nCOPY --from=$X a /",
            "FROM x\nCOPY a",
            "FROM $BUILDARCH\nCOPY a /",
            "RUN x",
            "",
            "FROM x\nRUN <<E\ny",
        ] {
            assert_eq!(sources(text, &[], &[]), None, "{text}");
        }
        assert!(sources("# syntax=docker/dockerfile:1\nFROM x", &[], &[]).is_some());
        let latin = Dockerfile::parse(b"FROM scratch\n# caf\xe9\nCOPY caf\xe9 /\n");
        let build = Build {
            target: None,
            args: &BTreeMap::new(),
            contexts: &BTreeMap::new(),
            platform: &"linux/amd64".parse().unwrap(),
        };
        let found = Sources::of(&latin, &build, &["linux/amd64".parse().unwrap()]).unwrap();
        assert_eq!(found.context, Selection::All);
    }

    #[test]
    fn named_contexts_have_their_own() {
        let text = "FROM docker.io/library/golden:latest AS g\nFROM x\nCOPY --from=lib a/b /\nRUN --mount=from=LIB,source=c,target=/c y\nCOPY d /";
        let found = sources(text, &[], &["golden", "lib", "other"]).unwrap();
        assert_eq!(found.named["lib"].texts().unwrap(), [".dockerignore", "a/b", "c"]);
        assert_eq!(found.named["golden"].texts().unwrap(), [".dockerignore"], "its stage is not used");
        assert_eq!(found.named["other"].texts().unwrap(), [".dockerignore"]);
        assert_eq!(found.context.texts().unwrap(), [".dockerignore", "d"]);
        let found = sources("FROM golden:latest\nCOPY d /", &[], &["golden"]).unwrap();
        assert_eq!(found.named["golden"], Selection::All);
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_asks_for_more_rather_than_less(
            lines in proptest::collection::vec(
                prop_oneof![
                    "(FROM|ARG|ENV|COPY|ADD|RUN|ONBUILD|from|#|USER)? ?[-a-c $={}:/.*<\\[\\]\"'\\\\,]{0,24}",
                    "(FROM a( AS [a-c])?|COPY (--from=[a-c0-2] )?[a-c] /x|ARG A=[a-c]|RUN --mount=from=[a-c],target=/x y)",
                ],
                0..12,
            )
        ) {
            let text = lines.join("\n");
            let file = Dockerfile::parse(text.as_bytes());
            let count = u32::try_from(lines.len()).unwrap();
            prop_assert!(file.instructions.iter().all(|line| line.first <= line.last && line.last <= count));
            let platform: Platform = "linux/amd64".parse().unwrap();
            let (args, contexts) = (BTreeMap::new(), BTreeMap::new());
            let build = Build { target: None, args: &args, contexts: &contexts, platform: &platform };
            let _ = crate::Programs::of(&file, &build);
            let _ = crate::Stages::of(&file, &build);
            // An instruction more in the last stage means as much or more.
            if let Some(before) = Sources::of(&file, &build, std::slice::from_ref(&platform)) {
                let more = Dockerfile::parse(format!("{text}\nCOPY added /x\n").as_bytes());
                if let Some(after) = Sources::of(&more, &build, std::slice::from_ref(&platform)) {
                    let texts = before.context.texts().unwrap_or_default();
                    prop_assert!(texts.iter().all(|text| after.context.covers(text)), "{text}");
                }
            }
        }
    }
}
