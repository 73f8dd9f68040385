use std::collections::BTreeMap;

use farm_types::Platform;
use farm_types::spec::NamedContext;

use super::*;

fn read(
    text: &str,
    platform: &str,
    target: Option<&str>,
    args: &[(&str, &str)],
    contexts: &[&str],
) -> Option<Stages> {
    let platform: Platform = platform.parse().unwrap();
    let args = args
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect::<BTreeMap<_, _>>();
    let contexts =
        contexts.iter().map(|name| ((*name).to_owned(), NamedContext::Local)).collect::<BTreeMap<_, _>>();
    let build = Build { target, args: &args, contexts: &contexts, platform: &platform };
    Stages::of(&Dockerfile::parse(text.as_bytes()), &build)
}

fn unused(text: &str, platform: &str, target: Option<&str>) -> Vec<u32> {
    let lines = u32::try_from(text.lines().count()).unwrap();
    match read(text, platform, target, &[], &[]) {
        Some(stages) => (1..=lines).filter(|line| stages.is_unused(*line)).collect(),
        None => vec![0],
    }
}

#[test]
fn a_stage_chosen_by_the_architecture_leaves_the_others_out() {
    let text = "FROM a AS one\nFROM b AS two\nFROM x AS final_amd64\nRUN y\nFROM x AS final_arm64\n\
                FROM final_$TARGETARCH\nCOPY --from=one /a /a\nCOPY --chown=0 --from=1 /b /b\n";
    assert_eq!(unused(text, "linux/amd64", None), [5]);
    assert_eq!(unused(text, "linux/arm64", None), [3, 4]);
    assert_eq!(unused(text, "linux/s390x", None), [3, 4, 5]);
    assert_eq!(unused(text, "linux/amd64", Some("TWO")), [1, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn continuations_here_documents_and_mounts_are_understood() {
    let text = "# escape=`\nARG V=1\nARG BASE=\"final-${V}\"\nFROM a AS tools\nFROM a AS final-1\nRUN --mount=type=bind,from=tools,target=/t `\n  # from=no\n\n  x <<EOF\nFROM nowhere AS fake\nEOF\nFROM b AS other\nFROM ${BASE} AS last\n";
    assert_eq!(unused(text, "linux/amd64", None), [12]);
    let tabs = "FROM a\nRUN echo $((1<<2)) <<-\"E\" cat\n\tFROM b\n\tE\nFROM c AS d\n";
    assert_eq!(unused(tabs, "linux/amd64", None), [1, 2, 3, 4]);
}

#[test]
fn what_cannot_be_told_is_taken_for_used() {
    for text in [
        "FROM a AS x\nFROM y_$BUILDARCH\n",
        "FROM a AS x\nFROM b\nCOPY --from=$WHERE / /\n",
        "FROM a AS x\nFROM ${BUILDOS#y}\n",
        "RUN x\n",
    ] {
        assert_eq!(unused(text, "linux/amd64", None), [0], "{text}");
    }
    assert_eq!(unused("FROM a AS x\n", "linux/amd64", Some("nope")), [0]);
}

#[test]
fn what_looks_like_something_else_hides_no_use() {
    let tools =
        |use_of_it: &str| unused(&format!("FROM a AS tools\nFROM b\n{use_of_it}\n"), "linux/amd64", None);
    for text in [
        "RUN [\"sh\", \"-c\", \"cat <<EOF >/x\"]\nCOPY --from=tools /t /t",
        "RUN python3 -c \"print(1 <<3)\"\nCOPY --from=tools /t /t",
        "RUN echo \\\\\nCOPY --from=tools /t /t",
        "RUN --mount=type=bind,\\\nfrom=tools,target=/t x",
        "RUN --mount=type=bind,From=tools,target=/t x",
        "COPY --from=TOOLS /t /t",
    ] {
        assert_eq!(tools(text), [0; 0], "{text}");
    }
    assert_eq!(tools("RUN cat <<EOF\nnever ended\nCOPY --from=tools /t /t"), [0]);
    assert_eq!(tools("RUN --mount=type=bind,\"from=tools\",target=/t x"), [0; 0]);
    // What a stage does that nobody stands on, and one that somebody does.
    assert_eq!(tools("ONBUILD COPY --from=tools /t /t\nFROM c"), [1, 2, 3]);
    let standing = "FROM a AS tools\nFROM b AS base\nONBUILD COPY --from=tools /t /t\nFROM base\n";
    assert_eq!(unused(standing, "linux/amd64", None), [0; 0]);
    // A mark at the beginning of the file, two stages of one name.
    assert_eq!(unused("\u{feff}FROM a\nFROM b\nCOPY --from=0 / /\n", "linux/amd64", None), [0; 0]);
    assert_eq!(unused("FROM a AS x\nFROM b AS x\n", "linux/amd64", Some("x")), [1]);
    let text = "FROM a AS x_amd64\nFROM b AS x_arm64\nFROM x_$TARGETARCH\n";
    let stages = read(text, "linux/amd64", None, &[("TARGETARCH", "arm64")], &[]).unwrap();
    assert!(stages.is_unused(1) && !stages.is_unused(2));
}

#[test]
fn build_arguments_and_replaced_stages_count() {
    let text =
        "ARG KIND=dev\nFROM a AS dev\nFROM b AS prod\nFROM c AS lib\nFROM $KIND\nCOPY --from=lib / /\n";
    let stages = read(text, "linux/amd64", None, &[("KIND", "prod")], &["LIB"]).unwrap();
    assert_eq!((1..=6).filter(|line| stages.is_unused(*line)).collect::<Vec<_>>(), [2, 4]);
}
