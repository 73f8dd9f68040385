//! Mistakes in a Dockerfile: each shows the place and what to do, and leaves every tag as it was.

use crate::support::*;

/// Submits a Dockerfile over a tag that is there, and checks that the failed build left it alone.
struct Case<'a> {
    farm: &'a farm_tests::farm::Farm,
    tag: &'a str,
    before: &'a str,
}

impl Case<'_> {
    fn fails(&self, dockerfile: &str, args: &[&str], code: &str, parts: &[&str]) -> String {
        let context = Context::new(dockerfile);
        let args = [&["-t", self.tag, "--platform", "linux/amd64,linux/arm64"], args].concat();
        let result = submit(self.farm, &context, &args);
        assert_eq!(result.status, 1, "{result:?}");
        says(&result.stdout, &["nothing was published, tags are as before."]);
        says(&result.stdout, parts);
        let id = build_id(&result.stdout);
        let last = result.stdout.lines().last().unwrap();
        assert!(last.starts_with("failed after ") && last.ends_with(&format!("farm show {id}")), "{last}");
        let record = show(self.farm, &id);
        assert_eq!(record["state"], "failed");
        assert_eq!(
            (&record["failure"]["cause"], &record["failure"]["code"]),
            (&"user".into(), &code.into()),
            "{record:#}"
        );
        for platform in record["platforms"].as_array().unwrap() {
            assert!(platform["attempts"].as_u64().unwrap() <= 1, "a mistake is not tried again: {record:#}");
        }
        assert_eq!(raw(self.tag).as_deref(), Some(self.before), "the tag has moved");
        result.stdout
    }
}

#[test]
fn a_mistake_in_the_dockerfile_shows_its_place_and_leaves_the_tag_alone() {
    let farm = small_farm();
    let tag = format!("{}:1", repository("mistakes"));
    let good = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    submit(&farm, &good, &["-t", &tag, "--platform", "linux/amd64,linux/arm64"]).ok();
    let before = raw(&tag).unwrap();
    let case = Case { farm: &farm, tag: &tag, before: &before };

    let broken = format!("FROM {BASE}\nWORKDIR /app\nRUNN make\nCMD [\"x\"]\n");
    case.fails(
        &broken,
        &[],
        "dockerfile_syntax",
        &["Dockerfile:3", "   2 | WORKDIR /app", " >  3 | RUNN make", "   4 | CMD", "did you mean RUN?"],
    );
    case.fails("# nothing but words\n", &[], "dockerfile_empty", &["has no instruction", "begin with FROM"]);
    let named = "FROM scratch AS one\nCOPY Dockerfile /\n";
    case.fails(
        named,
        &["--target", "two"],
        "target_missing",
        &["\"two\"", "no such stage", "FROM … AS NAME"],
    );
    let copy = "FROM scratch\nCOPY missing.txt /\n";
    case.fails(copy, &[], "copy_source_missing", &["\"/missing.txt\"", "Dockerfile:2", ".dockerignore"]);
    let base = format!("FROM {}:9\nRUN true\n", repository("no-such-base"));
    case.fails(&base, &[], "base_image_missing", &["no-such-base", ":9", "Dockerfile:1"]);
    // Where a program of riscv64 ran it would wait for a worker that runs it.
    let elsewhere = format!("FROM {BASE}\nFROM --platform=linux/riscv64 {BASE}\nCOPY Dockerfile /\n");
    case.fails(&elsewhere, &[], "base_image_platform", &["3.11-slim", "linux/riscv64"]);
    assert_eq!(builds(&farm), 7);
}

#[test]
fn a_failing_command_shows_its_exit_code_its_place_its_last_words_and_what_the_others_did() {
    let farm = small_farm();
    let tag = format!("{}:1", repository("failing"));
    let good = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    submit(&farm, &good, &["-t", &tag, "--platform", "linux/amd64,linux/arm64"]).ok();
    let before = raw(&tag).unwrap();

    // The other platform is done before this one fails.
    let gate = crate::gate::Gate::new();
    let dockerfile = format!(
        "FROM --platform=linux/amd64 {BASE} AS fails\n{}RUN echo one; sleep 0.2; echo E: no libfoo >&2; exit 7\n\
         FROM scratch AS final_amd64\nCOPY Dockerfile /\n\
         FROM fails AS final_arm64\n\
         FROM final_$TARGETARCH\n",
        gate.step()
    );
    let context = Context::new(&dockerfile).with_gate();
    let args = ["submit", context.text(), "-t", &tag, "--platform", "linux/amd64,linux/arm64"];
    let mut cli = farm.cli_spawn("submit", &args);
    let step = gate.arrival();
    cli.wait_for_line("linux/amd64  built", LONG);
    step.open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(1));
    let text = cli.output();
    let id = build_id(&text);
    says(
        &text,
        &[
            "linux/arm64 failed at step ",
            " on w1: exit code 7",
            "Dockerfile:4",
            " >  4 | RUN echo one; sleep 0.2; echo E: no libfoo >&2; exit 7",
            "  E: no libfoo    (last lines; all: farm logs ",
            "linux/amd64 was built; nothing was published, tags are as before.",
        ],
    );
    let logs = farm.cli(&["logs", &id, "--platform", "linux/arm64"]).ok();
    says(&logs, &["linux/arm64 | one", "linux/arm64 | E: no libfoo"]);
    assert!(!logs.contains("linux/amd64"), "{logs}");
    let record = show(&farm, &id);
    assert_eq!(record["failure"]["exit_code"], 7);
    assert_eq!(record["platforms"][0]["state"], "succeeded");
    assert_eq!(raw(&tag).unwrap(), before);
}

#[test]
fn what_a_users_command_prints_is_not_taken_for_the_machines_trouble() {
    let farm = small_farm();
    for words in ["no space left on device", "first\\nexec /bin/x: exec format error"] {
        let context =
            Context::new(&format!("FROM {BASE}\nARG N={}\nRUN printf '{words}\\n'; exit 1\n", nonce()));
        let output = submit(&farm, &context, &["--platform", "linux/amd64"]);
        assert_eq!(output.status, 1, "{output:?}");
        says(&output.stdout, &["exit code 1"]);
        let record = show(&farm, &build_id(&output.stdout));
        assert_eq!(
            (&record["failure"]["code"], &record["platforms"][0]["attempts"]),
            (&"run_failed".into(), &1.into())
        );
    }
    let utf16: Vec<u8> = "FROM x\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let context = Context::empty().file("Dockerfile", utf16);
    let output = submit(&farm, &context, &["--platform", "linux/amd64"]);
    assert_eq!(output.status, 1, "{output:?}");
    says(&output.stdout, &["UTF-8", "line 1"]);
}

#[test]
fn warnings_say_where_whether_it_matters_and_what_to_do_each_once_over_all_platforms() {
    let farm = small_farm();
    // A base for one architecture only, and a flag that says what is so anyway.
    let dockerfile = format!("FROM --platform=$TARGETPLATFORM {BASE}-amd64\nCOPY Dockerfile /{}\n", nonce());
    let context = Context::new(&dockerfile);
    let stdout = submit(&farm, &context, &["--platform", "linux/amd64,linux/arm64"]).ok();
    let place = |rule: &str| {
        let lines: Vec<&str> = stdout.lines().collect();
        let at: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains(rule)).collect();
        assert_eq!(at.len(), 1, "{rule}: {stdout}");
        lines[at[0]..at[0] + 3].to_vec()
    };
    let redundant = place("RedundantTargetPlatform");
    assert!(redundant[0].starts_with("warning  Dockerfile:1  "), "{redundant:?}");
    assert!(redundant[1].starts_with(" >  1 | FROM --platform=$TARGETPLATFORM "), "{redundant:?}");
    assert!(redundant[2].starts_with("  harmless: "), "{redundant:?}");
    let wrong = place("InvalidBaseImagePlatform");
    assert!(wrong[0].ends_with("(linux/arm64)") && wrong[2].starts_with("  look: "), "{wrong:?}");
}
