//! Platforms that may fail: the others are published without them.

use farm_tests::farm::Farm;

use crate::support::*;

#[test]
fn a_platform_that_is_optional_and_fails_is_missing_and_is_brought_by_a_retry() {
    let farm = with_worker(Farm::builder());
    let bases = repository("optional-base");
    let base = |architecture: &str| {
        let context = Context::new(&format!("FROM scratch\nLABEL n={}\n", nonce()));
        let (tag, platform) = (format!("{bases}:{architecture}"), format!("linux/{architecture}"));
        submit(&farm, &context, &["-t", &tag, "--platform", &platform]).ok();
    };
    base("amd64");
    let tag = format!("{}:1", repository("optional"));
    let context = Context::new(&format!("FROM {bases}:$TARGETARCH\nCOPY Dockerfile /\n"));
    let both = ["-t", &tag, "--platform", "linux/amd64,linux/arm64", "--optional"];
    let said = submit(&farm, &context, &[&both[..], &["linux/arm64"]].concat()).ok();
    says(&said, &["linux/arm64 failed", "published", "without linux/arm64, which is optional", "built in"]);
    let record = show(&farm, &build_id(&said));
    assert_eq!(record["state"], "succeeded", "{record:#}");
    let platforms = record["platforms"].as_array().unwrap();
    let of = |place: usize| (platforms[place]["optional"].clone(), platforms[place]["state"].clone());
    assert_eq!((of(0), of(1)), ((false.into(), "succeeded".into()), (true.into(), "failed".into())));
    let published = index(&tag);
    assert_eq!(published["manifests"].as_array().unwrap().len(), 1, "{published:#}");
    assert_eq!(published["annotations"]["farm.platforms.missing"], "linux/arm64");

    // What is required fails the build, whatever is optional.
    let failed = submit(&farm, &context, &[&both[..], &["linux/amd64"]].concat());
    assert_eq!(failed.status, 1, "{failed:?}");
    says(&failed.stdout, &["linux/arm64 failed", "as before."]);

    // Only what failed is built once more, and all of them are published.
    base("arm64");
    let again = farm.cli(&["retry", &build_id(&said), "--failed-only"]).ok();
    says(&again, &["linux/amd64 is taken over", "built in"]);
    let published = index(&tag);
    assert_eq!(published["manifests"].as_array().unwrap().len(), 2, "{published:#}");
    assert!(published["annotations"].is_null(), "{published:#}");
    let whole = farm.cli(&["retry", &build_id(&again), "--failed-only"]);
    refused(&whole, whole.status, &["no platform of it has failed"]);

    let args = ["--platform", "linux/amd64", "--optional", "linux/amd64"];
    refused(&submit(&farm, &context, &args), 2, &["--optional", "one platform at least has to be required"]);
    let args = ["--platform", "linux/amd64", "--optional", "linux/riscv64"];
    refused(&submit(&farm, &context, &args), 2, &["--optional", "the build isn't for it"]);
}
