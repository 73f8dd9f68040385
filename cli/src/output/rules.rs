//! What BuildKit's lint rules mean for a build on a farm, and what to do about them.
//!
//! The rules are those of BuildKit's `frontend/dockerfile/linter/ruleset.go`; one that stands here with no sentence says
//! all of it in its message.

/// Whether a rule's warning matters to the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// The image is what it should be.
    Harmless,
    /// It may not be: somebody should look.
    Look,
}

impl Weight {
    /// The word that begins the advice.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Harmless => "harmless",
            Self::Look => "look",
        }
    }
}

/// What is known of a rule: its weight, and the cure.
pub fn advice(rule: &str) -> Option<(Weight, &'static str)> {
    use Weight::{Harmless, Look};
    Some(match rule {
        "InvalidBaseImagePlatform" => (
            Look,
            "if files are only copied from this stage it is harmless; in the last stage the image holds another architecture's programs. Take a base tag that has all platforms, or say \
             FROM --platform=… where it is on purpose",
        ),
        "RedundantTargetPlatform" => {
            (Harmless, "a FROM means the target platform already; leave the flag out")
        }
        "FromPlatformFlagConstDisallowed" => (
            Look,
            "on purpose in a stage that only builds (name it after the architecture); in the last stage every platform gets \
             this one's programs: leave the flag out",
        ),
        "StageNameCasing" | "FromAsCasing" | "ConsistentInstructionCasing" | "ExposeProtoCasing" => {
            (Harmless, "a matter of taste; write it as the rest of the file")
        }
        "DuplicateStageName" => {
            (Look, "only the first of them is meant by COPY --from and FROM; rename the other")
        }
        "ReservedStageName" => (Look, "choose a name other than scratch and context"),
        "NoEmptyContinuation" => {
            (Harmless, "remove the empty line behind the backslash; a later engine may refuse it")
        }
        "JSONArgsRecommended" => (
            Look,
            "as text it runs under a shell, which doesn't pass signals on: write [\"program\", \"argument\"]",
        ),
        "MaintainerDeprecated" => (Harmless, "write LABEL org.opencontainers.image.authors=…"),
        "UndefinedArgInFrom" => (Look, "the name is empty there: declare it with ARG before the first FROM"),
        "UndefinedVar" => {
            (Look, "it is empty there: declare it with ARG or ENV in this stage, or mend the name")
        }
        "WorkdirRelativePath" => (Look, "it depends on the base image's folder: write it from / on"),
        "MultipleInstructionsDisallowed" => (Look, "only the last one counts; remove the others"),
        "LegacyKeyValueFormat" => (Harmless, "write NAME=VALUE"),
        "SecretsUsedInArgOrEnv" => (
            Look,
            "whoever can pull the image can read it; bring it in at run time, or as a file that isn't kept",
        ),
        "InvalidDefaultArgInFrom" => {
            (Look, "without --build-arg the image's name isn't valid; give the ARG a default")
        }
        "CopyIgnoredFile" => {
            (Look, "the file isn't sent: remove it from .dockerignore, or from the Dockerfile")
        }
        "ExposeInvalidFormat" => (Look, "write a port, or PORT/tcp, PORT/udp"),
        "InvalidDefinitionDescription" => {
            (Harmless, "an empty line between a comment and the instruction mends it")
        }
        _ => return None,
    })
}
