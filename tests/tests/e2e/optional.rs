//! Platforms that may fail: the others are published without them.

use farm_tests::farm::Farm;

use crate::support::*;

#[test]
fn a_platform_that_is_optional_and_fails_is_missing_and_is_brought_by_a_retry() {
    let farm = with_worker(Farm::builder());
    let tag = format!("{}:1", repository("optional"));
    // It fails on one platform, as long as nobody says otherwise.
    let flag = tempfile::tempdir().unwrap();
    let dockerfile = format!(
        "FROM {BASE}\nARG TARGETARCH\nRUN --mount=type=secret,id=go test $TARGETARCH = amd64 || test \"$(cat /run/secrets/go)\" = yes; echo {}\n",
        nonce()
    );
    // A step that is written in one line fails as its first part does.
    let dockerfile = dockerfile.replace("; echo", " && echo");
    let context = Context::new(&dockerfile);
    let secret = flag.path().join("go");
    std::fs::write(&secret, "no").unwrap();
    let given = format!("id=go,src={}", secret.display());
    let args = ["-t", &tag, "--platform", "linux/amd64,linux/arm64", "--optional", "linux/arm64", "--secret", &given];
    let said = submit(&farm, &context, &args).ok();
    says(&said, &["linux/arm64 failed", "published", "without linux/arm64, which is optional", "built in"]);
    let record = show(&farm, &build_id(&said));
    assert_eq!(record["state"], "succeeded", "{record:#}");
    let states: Vec<_> = record["platforms"].as_array().unwrap().iter().map(|one| (&one["optional"], &one["state"])).collect();
    assert_eq!(states, [(&false.into(), &"succeeded".into()), (&true.into(), &"failed".into())]);
    let published = index(&tag);
    assert_eq!(published["manifests"].as_array().unwrap().len(), 1, "{published:#}");
    assert_eq!(published["annotations"]["farm.platforms.missing"], "linux/arm64");

    // Only that is built once more, and all of them are published.
    std::fs::write(&secret, "yes").unwrap();
    let again = farm.cli(&["retry", &build_id(&said), "--failed-only", "--secret", &given]).ok();
    says(&again, &["linux/amd64 is taken over", "built in"]);
    let published = index(&tag);
    assert_eq!(published["manifests"].as_array().unwrap().len(), 2, "{published:#}");
    assert!(published["annotations"].is_null(), "{published:#}");
    refused(&farm.cli(&["retry", &build_id(&again), "--failed-only", "--secret", &given]), 2, &["no platform of it has failed"]);

    // What is required fails the build, whatever is optional.
    std::fs::write(&secret, "no").unwrap();
    let args = ["-t", &tag, "--platform", "linux/amd64,linux/arm64", "--optional", "linux/amd64", "--secret", &given, "--no-cache"];
    let failed = submit(&farm, &context, &args);
    assert_eq!(failed.status, 1, "{failed:?}");
    let args = ["--platform", "linux/amd64", "--optional", "linux/amd64"];
    refused(&submit(&farm, &context, &args), 2, &["--optional", "one platform at least has to be required"]);
    let args = ["--platform", "linux/amd64", "--optional", "linux/riscv64"];
    refused(&submit(&farm, &context, &args), 2, &["--optional", "the build isn't for it"]);
}
