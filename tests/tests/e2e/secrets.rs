//! Secrets of builds: what steps see of them, and what is left of them afterwards.

use farm_tests::farm::{Farm, WorkerSpec};
use farm_types::Digest;

use crate::gate::Gate;
use crate::support::*;

const AMD64: [&str; 2] = ["--platform", "linux/amd64"];

/// A farm whose connections have TLS, as secrets go over no others.
fn covered() -> Farm {
    with_worker(Farm::builder().tls())
}

fn given(file: &str) -> String {
    format!("id=npm,src={file}")
}

#[test]
fn steps_read_what_was_given_in_each_way_and_the_image_has_nothing_of_it() {
    let farm = covered();
    let value = format!("hunter2-{}", nonce());
    let context = Context::new(&format!(
        "FROM {BASE}\nARG SUM\n\
         RUN --mount=type=secret,id=npm test \"$(sha256sum < /run/secrets/npm)\" = \"$SUM  -\" # {}\n\
         RUN --mount=type=secret,id=npm,required=true,target=/root/.npmrc,mode=0440,uid=7,gid=8 \
             test \"$(stat -c '%a %u %g' /root/.npmrc)\" = '440 7 8'\n\
         RUN --mount=type=secret,id=word,env=WORD test \"$(printf %s \"$WORD\" | sha256sum)\" = \"$SUM  -\"\n\
         RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent\n\
         RUN test ! -s /root/.npmrc && test ! -s /run/secrets/npm && test -z \"$WORD\"\n",
        nonce()
    ))
    .file(".dockerignore", "npmrc\n")
    .file("npmrc", &value);
    let file = context.path().join("npmrc");
    let (npm, sum) = (given(file.to_str().unwrap()), format!("SUM={}", Digest::of(value.as_bytes()).hex()));
    let tag = format!("{}:1", repository("secrets"));
    let args = ["submit", context.text(), "-t", &tag, "--platform", "linux/amd64", "--build-arg", &sum];
    let more = ["--provenance=mode=max", "--secret", &npm, "--secret", "id=word,env=FARM_TEST_WORD"];
    let mut command = farm.command(&[&args[..], &more].concat());
    let built = farm_tests::farm::output(command.env("FARM_TEST_WORD", &value));
    let id = build_id(&built.ok());
    let record = show(&farm, &id);
    assert_eq!(record["state"], "succeeded");
    assert!(!record.to_string().contains(&value), "{record:#}");

    // What was given is erased, and a retry says what it needs.
    let again = farm.cli(&["retry", &id]);
    refused(
        &again,
        2,
        &["secret npm", "secret word", "erased", &format!("farm retry {id} --secret id=npm,src=FILE")],
    );
    let word = given(file.to_str().unwrap()).replace("npm,", "word,");
    farm.cli(&["retry", &id, "--secret", &npm, "--secret", &word]).ok();
}

#[test]
fn what_is_required_and_was_not_given_is_told_with_its_cure() {
    let farm = covered();
    let context = Context::new(&format!(
        "FROM {BASE}\nRUN --mount=type=secret,id=npm,required=true cat /run/secrets/npm # {}\n",
        nonce()
    ));
    let failed = submit(&farm, &context, &AMD64);
    assert_eq!(failed.status, 1, "{failed:?}");
    says(&failed.stdout, &["requires the secret npm", "--secret id=npm,src=FILE"]);
    let failure = &show(&farm, &build_id(&failed.stdout))["failure"];
    assert_eq!((&failure["cause"], &failure["code"]), (&"user".into(), &"secret_missing".into()));
}

#[test]
fn a_replacement_gets_them_again_after_its_worker_is_lost() {
    let spec = |name: &str| WorkerSpec::new(name).platforms("linux/amd64");
    let mut farm = Farm::builder().tls().config(QUICK_LEASES).worker(spec("w1")).worker(spec("w2")).start();
    let gate = Gate::new();
    let step = gate.step().replace("RUN ", "RUN --mount=type=secret,id=npm,required=true ");
    let context = Context::new(&format!("FROM {BASE}\n{step}")).with_gate().file("npmrc", "hunter22");
    let npm = given(context.path().join("npmrc").to_str().unwrap());
    let mut cli =
        farm.cli_spawn("submit", &["submit", context.text(), "--platform", "linux/amd64", "--secret", &npm]);
    let first = gate.arrival();
    let id = build_id(&cli.output());
    let lost = show(&farm, &id)["platforms"][0]["worker"].as_str().unwrap().to_owned();
    farm.kill_worker(&lost);
    first.wait_killed(LONG);
    gate.arrival().open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    let record = show(&farm, &id);
    assert_eq!(record["platforms"][0]["attempts"], 2, "{record:#}");
    assert_ne!(record["platforms"][0]["worker"], lost.as_str());
}

#[test]
fn without_tls_none_are_sent_and_what_is_mistyped_is_told_before() {
    let farm = small_farm();
    let context = Context::new("FROM scratch\n").file("npmrc", "hunter22");
    let npm = given(context.path().join("npmrc").to_str().unwrap());
    let open = submit(&farm, &context, &["--secret", &npm]);
    refused(&open, 2, &["secrets aren't sent to http://127.0.0.1:", "farm login https://"]);
    let lacking = submit(&farm, &context, &["--secret", "id=npm,src=/nowhere"]);
    refused(&lacking, 2, &["--secret", "there is no file /nowhere", "env=NAME"]);
    assert_eq!(builds(&farm), 0);
    // Which the farm sees to as well.
    let mut insecure = farm.command(&["submit", context.text(), "--secret", &npm]);
    let told = farm_tests::farm::output(insecure.env("FARM_INSECURE_HTTP", "1"));
    assert_ne!(told.status, 0, "{told:?}");
    says(&told.stderr, &["without TLS", "--insecure-secrets"]);
    assert_eq!(builds(&farm), 0);
}
