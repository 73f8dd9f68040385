//! Whose programs a build runs.
//!
//! A stage without RUN only moves files: an image for a machine that nobody has can be built anywhere, when it is made of such
//! stages, and of those that run on the engine's own platform (`FROM --platform=$BUILDPLATFORM`), which cross-compile.

use std::collections::BTreeSet;

use farm_types::{Platform, Runs};

use crate::Dockerfile;
use crate::build::{self, Build, StagePlatform};

/// Whose programs run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Programs {
    /// Those of the platform that is built for.
    pub of_target: bool,
    /// Those of the engine's own platform, whichever that is (`FROM --platform=$BUILDPLATFORM`).
    pub of_engine: bool,
    /// Those of others that the file names (`FROM --platform=linux/amd64`).
    pub of_others: BTreeSet<Platform>,
}

impl Programs {
    /// Finds out; `None` when it can't be told. What a base image brings along by `ONBUILD RUN` isn't known here.
    pub fn of(file: &Dockerfile, build: &Build<'_>) -> Option<Self> {
        if file.directives.is_foreign() {
            return None;
        }
        let mut found = Self::default();
        for stage in build::stages(file, build)?.into_iter().filter(|stage| stage.is_used && stage.has_run) {
            match stage.platform {
                StagePlatform::Target => found.of_target = true,
                StagePlatform::Engine => found.of_engine = true,
                StagePlatform::Fixed(platform) => drop(found.of_others.insert(platform)),
                StagePlatform::Unknown => return None,
            }
        }
        Some(found)
    }
}

impl From<Programs> for Runs {
    fn from(found: Programs) -> Self {
        if found.of_target {
            return Self::Target;
        }
        Self::Others { engine: found.of_engine, platforms: found.of_others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use farm_types::spec::NamedContext;

    fn programs(text: &str) -> Option<String> {
        programs_with(text, &[])
    }

    fn programs_with(text: &str, contexts: &[&str]) -> Option<String> {
        let platform = "linux/s390x".parse().unwrap();
        let args = BTreeMap::new();
        let contexts = contexts.iter().map(|name| ((*name).to_owned(), NamedContext::Local)).collect();
        let build = Build { target: None, args: &args, contexts: &contexts, platform: &platform };
        let found = Programs::of(&Dockerfile::parse(text.as_bytes()), &build)?;
        Some(Runs::from(found).to_string())
    }

    #[test]
    fn only_what_runs_in_a_needed_stage_counts() {
        for (text, runs) in [
            ("FROM scratch\nCOPY a /", "none"),
            ("FROM x\nCOPY a /\nWORKDIR /w\nUSER 1", "none"),
            ("FROM x\nRUN y", "target"),
            ("FROM --platform=$BUILDPLATFORM x AS b\nRUN y\nFROM x\nCOPY --from=b / /", "engine"),
            ("FROM --platform=${BUILDPLATFORM} x AS b\nRUN y\nFROM b\nRUN z", "engine"),
            ("FROM --platform=linux/$BUILDARCH x AS b\nRUN y\nFROM scratch\nCOPY --from=b / /", "engine"),
            ("FROM --platform=$BUILDPLATFORM x AS b\nRUN y\nFROM x\nRUN z\nCOPY --from=b / /", "target"),
            ("FROM --platform=$TARGETPLATFORM x\nRUN y", "target"),
            ("FROM --platform=linux/s390x x\nRUN y", "target"),
            ("FROM x AS b\nRUN y\nFROM x\nCOPY a /", "none"),
            ("FROM x AS b\nONBUILD RUN y\nFROM b\nCOPY a /", "target"),
            ("FROM --platform=linux/amd64 x AS b\nRUN y\nFROM x\nCOPY --from=b / /", "linux/amd64"),
        ] {
            assert_eq!(programs(text).as_deref(), Some(runs), "{text}");
        }
    }

    #[test]
    fn a_stage_that_something_stands_in_for_runs_nothing() {
        let text = "FROM x AS build\nCOPY . .\nRUN make\nFROM scratch\nCOPY --from=build / /";
        assert_eq!(programs(text).as_deref(), Some("target"));
        assert_eq!(programs_with(text, &["build"]).as_deref(), Some("none"));
        assert_eq!(
            programs_with(&format!("{text}\nFROM build\nRUN y"), &["build"]).as_deref(),
            Some("target")
        );
    }

    #[test]
    fn mounts_bring_along_what_they_come_from() {
        for kind in ["bind", "BIND", "$T", "cache"] {
            let text = format!(
                "FROM x AS a\nRUN y\nFROM --platform=$BUILDPLATFORM x\nARG T=bind\nRUN --mount=type={kind},from=a,target=/a z"
            );
            assert_eq!(programs(&text).as_deref(), Some("target"), "{kind}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_not_told() {
        for text in ["FROM --platform=$X-y x\nRUN y", "# syntax=some/frontend\nFROM x", "RUN y"] {
            assert_eq!(programs(text), None, "{text}");
        }
    }
}
