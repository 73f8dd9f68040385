//! A Dockerfile whose rules are errors (`# check=error=true`, or `--build-arg BUILDKIT_DOCKERFILE_CHECK=error=true`).
//!
//! The engine's frontend gives the findings as warnings, and then refuses the file with one sentence (BuildKit,
//! `frontend/dockerfile/linter`). Nothing that a user writes can make this sentence: it is taken only as a whole, and the
//! rules' names are the engine's own.

use farm_types::{Cause, Failure, FailureCode};

/// How BuildKit begins the sentence.
const BEGIN: &str = "lint violation found for rules: ";

/// The sentence, with the rules in the order of the alphabet: the engine's own order changes from one time to the next.
pub(crate) fn sentence(text: &str) -> Option<String> {
    let names = text.trim_end().strip_prefix(BEGIN)?;
    let mut rules: Vec<&str> = names.split(", ").collect();
    let is_rule = |rule: &&str| !rule.is_empty() && rule.chars().all(|c| c.is_ascii_alphanumeric());
    if !rules.iter().all(is_rule) {
        return None;
    }
    rules.sort_unstable();
    rules.dedup();
    Some(format!("{BEGIN}{}", rules.join(", ")))
}

/// What the sentence makes of a build.
pub(crate) fn failure(text: &str) -> Option<Failure> {
    let message = format!(
        "{}; mend what they found, or take error=true out of the Dockerfile's check line (or out of BUILDKIT_DOCKERFILE_CHECK)",
        sentence(text)?
    );
    Some(Failure::new(Cause::User, FailureCode::DockerfileCheck, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_sentence_counts_and_it_is_always_the_same() {
        let one = sentence("lint violation found for rules: MaintainerDeprecated, FromAsCasing\n");
        assert_eq!(
            one.as_deref(),
            Some("lint violation found for rules: FromAsCasing, MaintainerDeprecated")
        );
        for text in [
            "lint violation found for rules: ",
            "lint violation found for rules: A, b c",
            "process \"/bin/sh -c : lint violation found for rules: FromAsCasing\" did not complete successfully",
            "dockerfile parse error on line 1: unknown instruction: lint violation found for rules: A",
        ] {
            assert_eq!(sentence(text), None, "{text}");
        }
        let failure = failure("lint violation found for rules: FromAsCasing").unwrap();
        assert_eq!((failure.cause, failure.code.as_str()), (Cause::User, "dockerfile_check"));
    }
}
