//! The form of what is published: annotations, media types, attestations, times; and tags that stay where somebody else moved them.

use std::process::Command;

use farm_tests::farm::{Farm, output};
use serde_json::{Value, json};

use crate::support::*;

const BOTH: &str = "linux/amd64,linux/arm64";
const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn small() -> Context {
    Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()))
}

/// Its manifests that are images, as its index lists them.
fn images(index: &Value) -> Vec<Value> {
    let all = index["manifests"].as_array().unwrap().iter();
    all.filter(|one| one["platform"]["os"] == "linux").cloned().collect()
}

/// What lies under a digest beside a tag.
fn beside(tag: &str, digest: &Value) -> Value {
    let (repository, _) = tag.rsplit_once(':').unwrap();
    serde_json::from_str(&raw(&format!("{repository}@{}", digest.as_str().unwrap())).unwrap()).unwrap()
}

#[test]
fn annotations_stand_where_buildx_puts_them() {
    let farm = small_farm();
    let (tag, theirs) = (format!("{}:1", repository("annotated")), format!("{}:1", repository("annotated")));
    let context = small();
    let flags = [
        "--annotation",
        "index,manifest:org.opencontainers.image.title=both",
        "--annotation",
        "licence=Apache-2.0",
        "--annotation",
        "manifest[linux/arm64]:only=arm",
        "--annotation",
        "manifest-descriptor:seen=in the index",
    ];
    submit(&farm, &context, &[&flags[..], &["-t", &tag, "--platform", BOTH]].concat()).ok();
    let mut buildx = Command::new("docker");
    buildx.args(["buildx", "build", "--push", "--provenance=false", "--platform", BOTH, "-t", &theirs]);
    output(buildx.args(flags).arg(context.text())).ok();

    let (ours, theirs_index) = (index(&tag), index(&theirs));
    assert_eq!(ours["annotations"], json!({"org.opencontainers.image.title": "both"}));
    assert_eq!(ours["annotations"], theirs_index["annotations"]);
    let (ours, others) = (images(&ours), images(&theirs_index));
    for (one, other) in ours.iter().zip(&others) {
        assert_eq!(one["annotations"], json!({"seen": "in the index"}), "{one:#}");
        assert_eq!(one["annotations"], other["annotations"]);
        let (own, other) = (beside(&tag, &one["digest"]), beside(&theirs, &other["digest"]));
        assert_eq!(own["annotations"]["licence"], "Apache-2.0", "{own:#}");
        assert_eq!(own["annotations"], other["annotations"]);
    }
    assert_eq!(beside(&tag, &ours[1]["digest"])["annotations"]["only"], "arm");
    assert!(beside(&tag, &ours[0]["digest"])["annotations"]["only"].is_null());
}

#[test]
fn an_index_has_the_formats_that_were_asked_for() {
    let farm = small_farm();
    let tag = format!("{}:1", repository("formats"));
    let context = small();
    let args = ["-t", &tag, "--platform", BOTH];
    submit(&farm, &context, &[&args[..], &["--media-type", "docker"]].concat()).ok();
    let list = index(&tag);
    assert_eq!(list["mediaType"], LIST, "{list:#}");
    for image in images(&list) {
        assert_eq!(image["mediaType"], MANIFEST);
        let manifest = beside(&tag, &image["digest"]);
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
    }
    let mut inspect = Command::new("docker");
    says(&output(inspect.args(["manifest", "inspect", "--insecure", &tag])).ok(), &[LIST, "arm64"]);
    // Of one platform and no index.
    let alone = ["-t", &tag, "--platform", "linux/amd64", "--single-platform", "manifest"];
    let output = ["--output", "type=registry,oci-mediatypes=false"];
    submit(&farm, &context, &[&alone[..], &output].concat()).ok();
    assert_eq!(index(&tag)["mediaType"], MANIFEST);
    submit(&farm, &context, &[&args[..], &["--media-type", "oci"]].concat()).ok();
    assert_eq!(index(&tag)["mediaType"], "application/vnd.oci.image.index.v1+json");
    let refuse = |more: &[&str], cure: &str| {
        refused(
            &submit(&farm, &context, &[&args[..], &["--media-type", "docker"], more].concat()),
            2,
            &[cure],
        );
    };
    refuse(&["--annotation", "a=b"], "carry none");
    refuse(&["--provenance"], "carry no attestations");
}

/// What a registry that lists no referrers has under an image's tag for them.
fn referrers(tag: &str, subject: &Value) -> Vec<Value> {
    let (repository, _) = tag.rsplit_once(':').unwrap();
    let list = index(&format!("{repository}:{}", subject.as_str().unwrap().replace(':', "-")));
    list["manifests"].as_array().unwrap().clone()
}

#[test]
fn attestations_refer_to_their_image_where_that_is_asked_for() {
    let farm = small_farm();
    let tag = format!("{}:1", repository("referring"));
    let context = small();
    let args = ["-t", &tag, "--provenance=mode=max", "--attestations", "referrers"];
    submit(&farm, &context, &[&args[..], &["--platform", BOTH]].concat()).ok();
    let published = index(&tag);
    assert_eq!(published["manifests"].as_array().unwrap().len(), 2, "{published:#}");
    for image in images(&published) {
        let listed = referrers(&tag, &image["digest"]);
        assert_eq!(listed.len(), 1, "{listed:#?}");
        assert_eq!(listed[0]["artifactType"], "application/vnd.docker.attestation.manifest.v1+json");
        let artifact = beside(&tag, &listed[0]["digest"]);
        let subject = json!({
            "mediaType": image["mediaType"], "digest": image["digest"], "size": image["size"],
        });
        assert_eq!(artifact["subject"], subject, "{artifact:#}");
        let kind = &artifact["layers"][0]["annotations"]["in-toto.io/predicate-type"];
        assert!(kind.as_str().unwrap().starts_with("https://slsa.dev/provenance/"), "{artifact:#}");
    }
    // Once more: provenance says when it was built, so it may be another one, and each is there once. And beside an image that is alone.
    submit(&farm, &context, &[&args[..], &["--platform", BOTH]].concat()).ok();
    for image in images(&published) {
        let listed = referrers(&tag, &image["digest"]);
        let digests: std::collections::BTreeSet<&str> =
            listed.iter().map(|one| one["digest"].as_str().unwrap()).collect();
        assert_eq!(digests.len(), listed.len(), "{listed:#?}");
        assert!(
            digests
                .iter()
                .all(|digest| raw(&format!("{}@{digest}", tag.rsplit_once(':').unwrap().0)).is_some())
        );
    }
    let alone = ["--platform", "linux/amd64", "--single-platform", "manifest"];
    submit(&farm, &context, &[&args[..], &alone].concat()).ok();
    let digest = Value::from(digest_of(&raw(&tag).unwrap()));
    assert!(!referrers(&tag, &digest).is_empty());

    let none = ["-t", &tag, "--provenance", "--attestations", "none", "--platform", BOTH];
    submit(&farm, &context, &none).ok();
    assert_eq!(index(&tag)["manifests"].as_array().unwrap().len(), 2);
}

/// An image that makes an SBOM as BuildKit's scanners do (`docs/attestations/sbom-protocol.md` of BuildKit). A fake for a real scanner,
/// which isn't to be had here: it lists the names of the files in the image.
fn scanner(farm: &Farm) -> String {
    let tag = format!("{}:1", repository("scanner"));
    let script = r#"#!/bin/sh
set -e
files=$(cd "$BUILDKIT_SCAN_SOURCE" && ls | tr '\n' ' ')
cat >"$BUILDKIT_SCAN_DESTINATION/$BUILDKIT_SCAN_SOURCE_NAME.spdx.json" <<END
{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document",
 "predicate": {"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "files: $files"}}
END
"#
    .replace("$BUILDKIT_SCAN_SOURCE_NAME", "${BUILDKIT_SCAN_SOURCE##*/}");
    let dockerfile = format!("FROM {BASE}\nCOPY --chmod=755 scan /scan\nENTRYPOINT [\"/scan\"]\n");
    let context = Context::new(&dockerfile).file("scan", script);
    submit(farm, &context, &["-t", &tag, "--platform", "linux/amd64"]).ok();
    tag
}

#[test]
fn an_sbom_is_made_by_the_image_that_was_named_and_stands_beside_each_platform() {
    let farm = small_farm();
    let scanner = scanner(&farm);
    let tag = format!("{}:1", repository("sbom"));
    let context = small();
    let generator = format!("--sbom=generator={scanner}");
    submit(&farm, &context, &["-t", &tag, "--platform", BOTH, &generator]).ok();
    let published = index(&tag);
    let attestations: Vec<&Value> = published["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["annotations"]["vnd.docker.reference.type"] == "attestation-manifest")
        .collect();
    assert_eq!((images(&published).len(), attestations.len()), (2, 2), "{published:#}");
    let (repository, _) = tag.rsplit_once(':').unwrap();
    for attestation in attestations {
        let manifest = beside(&tag, &attestation["digest"]);
        let layer = &manifest["layers"][0];
        assert_eq!(layer["annotations"]["in-toto.io/predicate-type"], "https://spdx.dev/Document");
        let (registry, name) = repository.split_once('/').unwrap();
        let url = format!("http://{registry}/v2/{name}/blobs/{}", layer["digest"].as_str().unwrap());
        let statement = output(Command::new("curl").args(["-fsS", &url])).ok();
        says(&statement, &["files: Dockerfile", "SPDX-2.3"]);
    }
    // One that can't be pulled is told by its name.
    let gone = format!("--sbom=generator={scanner}-gone");
    let failed = submit(&farm, &context, &["-t", &tag, "--platform", "linux/amd64", &gone]);
    assert_eq!(failed.status, 1, "{failed:?}");
    says(&failed.stdout, &["-gone: not found; check the image's name and tag"]);
}

#[test]
fn the_same_source_gives_the_same_index_where_times_are_rewritten() {
    let farm = small_farm();
    let dockerfile =
        format!("FROM {BASE}\nARG SOURCE_DATE_EPOCH\nRUN mkdir /made && echo {} >/made/file\n", nonce());
    let context = Context::new(&dockerfile);
    let digest = |flags: &[&str]| {
        let tag = format!("{}:1", repository("again"));
        let args = ["-t", &tag, "--platform", BOTH, "--no-cache", "--source-date-epoch", "1700000000"];
        submit(&farm, &context, &[&args[..], flags].concat()).ok();
        (digest_of(&raw(&tag).unwrap()), tag)
    };
    let (first, tag) = digest(&["--rewrite-timestamp"]);
    assert_eq!(digest(&["--rewrite-timestamp"]).0, first);
    // Times of files are what else would differ.
    let plain = [digest(&[]).0, digest(&[]).0];
    assert!(plain[0] != first && plain[1] != first, "{plain:?} {first}");
    let ran =
        farm.cli(&["run", "--platform", "linux/amd64", &tag, "--", "stat", "-c", "%Y", "/made/file"]).ok();
    says(&ran, &["1700000000"]);
}

#[test]
fn a_tag_that_somebody_else_moved_stays_where_that_is_asked_for() {
    let farm = small_farm();
    let tag = format!("{}:1", repository("unchanged"));
    let args = ["-t", &tag, "--platform", "linux/amd64", "--if-unchanged"];
    // It isn't there, and then as it was left.
    submit(&farm, &small(), &args).ok();
    submit(&farm, &small(), &args).ok();
    let gate = crate::gate::Gate::new();
    let context = gate.context();
    let mut child = farm.cli_spawn("unchanged", &[&["submit", context.text()], &args[..]].concat());
    let arrival = gate.arrival();
    // By others than the farm.
    let (other, context) = (format!("{}:1", repository("other")), small());
    submit(&farm, &context, &["-t", &other, "--platform", "linux/amd64"]).ok();
    let moved = digest_of(&raw(&other).unwrap());
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false"]);
    output(skopeo.args([format!("docker://{other}"), format!("docker://{tag}")])).ok();
    arrival.open();
    let status = child.wait_exit(LONG);
    assert_eq!(status.code(), Some(1), "{}", child.output());
    says(&child.output(), &["was moved by somebody else", &moved]);
    assert_eq!(digest_of(&raw(&tag).unwrap()), moved);
    // A copy's stays as well, and a retry expects what it was asked with.
    let retried = farm.cli(&["retry", &build_id(&child.output())]);
    assert_eq!(retried.status, 1, "{retried:?}");
    says(&retried.stdout, &["was moved by somebody else", "a retry expects what this has"]);
    assert_eq!(digest_of(&raw(&tag).unwrap()), moved);
    says(&farm.cli(&["tag", &other, &tag, "--if-unchanged"]).ok(), &["published"]);
    // The same key is the same build, wherever its tag points by then.
    let keyed = [&args[..], &["--idempotency-key", "once"]].concat();
    let context = small();
    let first = submit(&farm, &context, &keyed).ok();
    let second = submit(&farm, &context, &keyed).ok();
    assert_eq!(build_id(&first), build_id(&second));
}
