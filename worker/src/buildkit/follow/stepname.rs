//! BuildKit's names of steps: `[stage 2/5] RUN …`.

/// The parts of a step's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StepName {
    /// The stage as the Dockerfile or BuildKit (`stage-1`) calls it; empty when there is only one.
    pub(crate) stage: String,
    /// Which step of the stage it is, from 1.
    pub(crate) number: u32,
    /// How many steps the stage has.
    pub(super) total: u32,
    /// The instruction as the Dockerfile has it (`RUN make`).
    pub(crate) instruction: String,
}

/// Takes a name apart. `None` for what is no step of the Dockerfile: `[internal] …`, `exporting to image`, ….
///
/// With several platforms the bracket begins with one (`[linux/arm64 stage-1 2/5]`, or `[linux/amd64->arm64
/// …]` when it is built on one for another); it is left out.
pub(crate) fn parse(name: &str) -> Option<StepName> {
    let (bracket, instruction) = name.strip_prefix('[')?.split_once("] ")?;
    let mut words = bracket.split_whitespace().rev();
    let (number, total) = words.next()?.split_once('/')?;
    let (number, total) = (number.parse().ok()?, total.parse().ok()?);
    let stage = words.next().filter(|word| !word.contains('/')).unwrap_or_default();
    Some(StepName { stage: stage.to_owned(), number, total, instruction: instruction.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        for (name, stage, number, total, instruction) in [
            ("[amd64_builder 3/5] RUN a && b", "amd64_builder", 3, 5, "RUN a && b"),
            ("[1/2] FROM localhost:5002/x:1@sha256:00", "", 1, 2, "FROM localhost:5002/x:1@sha256:00"),
            ("[linux/arm64 stage-4 3/9] COPY [\"a\", \"b\"] /", "stage-4", 3, 9, "COPY [\"a\", \"b\"] /"),
            ("[linux/amd64->arm64 build 10/12] RUN x", "build", 10, 12, "RUN x"),
            ("[linux/arm64 2/3] RUN x", "", 2, 3, "RUN x"),
        ] {
            let expected = StepName { stage: stage.into(), number, total, instruction: instruction.into() };
            assert_eq!(parse(name), Some(expected), "{name}");
        }
    }

    #[test]
    fn what_is_no_step_of_the_dockerfile_has_no_parts() {
        for name in [
            "[internal] load build definition from Dockerfile",
            "[linux/arm64 internal] load metadata for x",
            "[context base] load metadata for x",
            "[auth] library/x:pull token for y",
            "exporting to image",
            "importing cache manifest from x",
            "[a/b] RUN x",
            "[",
            "",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
