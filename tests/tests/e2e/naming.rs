//! What the Dockerfile doesn't name is neither read nor sent, unless the engine asks for it all the same.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use farm_tests::farm::output;

use crate::support::*;

/// A base image in the bed's registry whose builders do this.
fn base_with(farm: &farm_tests::farm::Farm, onbuild: &str) -> String {
    let tag = format!("{}:1", repository("onbuild"));
    let context = Context::new(&format!("FROM scratch\nLABEL nonce={}\n{onbuild}\n", nonce()));
    submit(farm, &context, &["--platform", "linux/amd64", "-t", &tag]).ok();
    tag
}

/// The bytes that were sent for a build.
fn sent(record: &serde_json::Value) -> u64 {
    record["upload"]["sent_bytes"].as_u64().unwrap()
}

#[test]
fn what_nothing_names_is_no_matter_and_is_not_sent() {
    let farm = small_farm();
    let big: Vec<u8> = nonce().into_bytes().repeat(60 << 17);
    let context = Context::new("FROM scratch\nCOPY wanted /\n")
        .file("wanted", nonce())
        .file("closed/secret", "no")
        .file("big", big);
    let path = context.path();
    // Names that no builder takes, and one that only its owner may read: none of them is named.
    std::fs::write(path.join(OsStr::from_bytes(b"latin-\xe9")), "").unwrap();
    std::os::unix::fs::symlink(OsStr::from_bytes(b"\xff"), path.join("odd link")).unwrap();
    let dry = submit(&farm, &context, &["--platform", "linux/amd64", "--dry-run"]).ok();
    says(&dry, &["2 files", "reads only wanted of the context: the Dockerfile names nothing else"]);
    let record = submit(&farm, &context, &["--platform", "linux/amd64", "--json"]).json();
    assert!(sent(&record) < 2000, "{record}");
    assert_eq!(record["platforms"][0]["attempts"], 1, "the rest was asked for: {record}");
    // Named, it is.
    let all =
        Context::new("FROM scratch\nCOPY big /\n").file("big", std::fs::read(path.join("big")).unwrap());
    let record = submit(&farm, &all, &["--platform", "linux/amd64", "--json"]).json();
    assert!(sent(&record) > 60 << 20, "{record}");
}

#[test]
fn a_base_that_copies_what_the_dockerfile_does_not_name_gets_it() {
    let farm = small_farm();
    let base = base_with(&farm, "ONBUILD COPY extra /x");
    let tag = format!("{}:1", repository("built"));
    let context =
        Context::new(&format!("FROM {base}\nCOPY wanted /\n")).file("wanted", nonce()).file("extra", nonce());
    let built = submit(&farm, &context, &["--platform", "linux/amd64", "-t", &tag]);
    let stdout = built.ok();
    says(&stdout, &["more of its source than the Dockerfile names"]);
    let record = show(&farm, &build_id(&stdout));
    assert_eq!(record["state"], "succeeded");
    // The first was given back, and is nobody's failure.
    let first = &record["platforms"][0]["history"][0];
    assert_eq!(
        (&first["state"], &first["failure"]),
        (&"released".into(), &serde_json::Value::Null),
        "{record}"
    );
    assert_eq!(record["platforms"][0]["attempts"], 2);
    let want = std::fs::read_to_string(context.path().join("extra")).unwrap();
    assert_eq!(file_of(&tag, "x"), want);
    // Where nobody waits, all is sent at first.
    let detached = submit(&farm, &context, &["--platform", "linux/amd64", "-t", &tag, "--detach", "-q"]).ok();
    let record = until("end", LONG, || {
        let record = show(&farm, detached.trim());
        (record["state"] == "succeeded" || record["state"] == "failed").then_some(record)
    });
    assert_eq!((&record["state"], &record["platforms"][0]["attempts"]), (&"succeeded".into(), &1.into()));
}

/// The content of a file of an image, which has no program to print it.
fn file_of(tag: &str, name: &str) -> String {
    let folder = farm_tests::bed::Bed::from_env().folder("image");
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--quiet", "--src-tls-verify=false", "--override-arch", "amd64"]);
    let answer = output(copy.arg(format!("docker://{tag}")).arg(format!("dir:{}", folder.path().display())));
    assert_eq!(answer.status, 0, "{answer:?}");
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let mut unpack = Command::new("tar");
        let answer = output(unpack.args(["-xzOf"]).arg(entry.unwrap().path()).arg(name));
        if answer.status == 0 {
            return answer.stdout;
        }
    }
    panic!("no {name} in {tag}");
}

#[test]
fn mounts_arguments_wildcards_and_named_contexts_find_what_they_name() {
    let farm = small_farm();
    let lib = Context::empty().file("deep/f", "of-lib").file("unused", "x".repeat(100_000));
    let dockerfile = format!(
        "ARG WHERE=src\nFROM {BASE} AS tools\nARG WHERE\nCOPY $WHERE/*.txt /in/\n\
         RUN --mount=source=scripts,target=/s sh /s/run.sh && cat /in/*\nFROM {BASE}\n\
         COPY --from=tools /in /in\nCOPY --from=lib deep /lib\nRUN cat /lib/f && ls /in && echo nonce-{}\n",
        nonce()
    );
    let context = Context::new(&dockerfile)
        .file("src/a.txt", "of-a\n")
        .file("src/b.bin", "y".repeat(100_000))
        .file("scripts/run.sh", "echo of-script")
        .file("other", "z".repeat(100_000));
    let named = format!("lib={}", lib.text());
    let args = ["--platform", "linux/amd64", "--build-context", &named, "--json"];
    let result = submit(&farm, &context, &args);
    let log = result.stderr.clone();
    says(&log, &["| of-script", "| of-a", "| of-lib"]);
    let record = result.json();
    assert!(sent(&record) < 20_000, "{record}");
    assert_eq!(record["platforms"][0]["attempts"], 1, "the rest was asked for: {record}");
}
