//! `--check` and `--call`: the Dockerfile's frontend is asked, and nothing is built.

use farm_proto::v1::Build;
use farm_types::Invalid;
use farm_types::spec::Call;

use crate::error::Exit;
use crate::output::progress::SeenWarning;
use crate::output::rules::Weight;
use crate::output::summary::{platform_jobs, rules_are_errors, warning};
use crate::output::text::{count, harmless, span};

/// What is asked, and how the answer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) call: Call,
    /// As the frontend gives it for machines.
    is_json: bool,
}

impl Asked {
    /// What `--check` and `--call METHOD[,format=text|json]` ask for, if they do.
    ///
    /// # Errors
    /// There is no such method or format.
    pub(super) fn new(check: bool, call: Option<&str>) -> Result<Option<Self>, Invalid> {
        let Some(text) = call else {
            return Ok(check.then_some(Self { call: Call::Check, is_json: false }));
        };
        let invalid = |cure: &str| Invalid::new("--call", text, cure);
        let (method, format) = text.split_once(',').unwrap_or((text, "format=text"));
        let is_json = match format {
            "format=text" => false,
            "format=json" => true,
            _ => return Err(invalid("behind the comma there is format=text or format=json")),
        };
        match method {
            "build" if check => Ok(Some(Self { call: Call::Check, is_json })),
            "build" => Ok(None),
            method => match method.parse() {
                Ok(call) if check && call != Call::Check => {
                    Err(invalid("it can't go with --check; keep one"))
                }
                Ok(call) => Ok(Some(Self { call, is_json })),
                Err(_) => Err(invalid("write build, check, outline or targets")),
            },
        }
    }

    /// What is said at the end of one that was answered, for standard output.
    pub(super) fn lines(self, build: &Build, warnings: &[SeenWarning]) -> Vec<String> {
        let mut answers =
            platform_jobs(build).into_iter().filter_map(|job| job.result.as_ref()?.answer.as_ref());
        if let (true, Some(answer)) = (self.is_json, answers.next()) {
            // It comes in many lines; a reader of lines has it easier with one.
            let value: serde_json::Value = serde_json::from_str(&answer.json).unwrap_or_default();
            return vec![value.to_string()];
        }
        if self.call == Call::Check {
            return checked(build, warnings);
        }
        let first = platform_jobs(build).into_iter().find_map(|job| job.result.as_ref()?.answer.as_ref());
        let text = first.map(|answer| answer.text.as_str()).unwrap_or_default();
        if text.trim().is_empty() {
            return vec!["nothing: the target takes no arguments, secrets or mounts".to_owned()];
        }
        text.trim_end().lines().map(|line| harmless(line).trim_end().to_owned()).collect()
    }

    /// How the command ends when the frontend answered. What is found in a stage that no image is made of is no matter.
    /// Unless the file's rules are errors: then no image is made at all.
    pub(super) fn exit(self, build: &Build, warnings: &[SeenWarning]) -> Exit {
        let found = rules_are_errors(build) || warnings.iter().any(|seen| !seen.is_void());
        if self.call == Call::Check && found { Exit::BuildFailed } else { Exit::Done }
    }
}

fn checked(build: &Build, warnings: &[SeenWarning]) -> Vec<String> {
    let mut out: Vec<String> = warnings.iter().flat_map(|seen| warning(seen, build)).collect();
    let harmless_ones = warnings.iter().filter(|seen| seen.advice().0 == Some(Weight::Harmless)).count();
    let found = match (warnings.len(), harmless_ones) {
        (n, _) if rules_are_errors(build) => {
            let which = if n == 1 { "which fails" } else { "which fail" };
            format!("{}, {which} the build (check=error=true)", count(n, "error"))
        }
        (0, _) => "nothing found".to_owned(),
        (n, 0) => count(n, "warning"),
        (n, h) if n == h => format!("{}, harmless", count(n, "warning")),
        (n, h) => format!("{}, {h} of them harmless", count(n, "warning")),
    };
    let time = span(build.finished_ms - build.created_ms);
    out.push(format!("checked in {time}: {found}   farm show {}", harmless(&build.id)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_formats_are_those_of_buildx() {
        let asked = |check, call| Asked::new(check, call).map(|asked| asked.map(|a| (a.call, a.is_json)));
        assert_eq!(asked(false, None), Ok(None));
        assert_eq!(asked(true, None), Ok(Some((Call::Check, false))));
        assert_eq!(asked(false, Some("build")), Ok(None));
        assert_eq!(asked(true, Some("build,format=json")), Ok(Some((Call::Check, true))));
        assert_eq!(asked(false, Some("outline,format=json")), Ok(Some((Call::Outline, true))));
        assert_eq!(asked(false, Some("lint")), Ok(Some((Call::Check, false))));
        for (check, call) in [(false, "lnt"), (true, "targets"), (false, "outline,json"), (false, "")] {
            assert!(asked(check, Some(call)).is_err(), "{call}");
        }
    }
}
