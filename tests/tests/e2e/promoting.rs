//! Images that are copied: to other repositories and registries, with all that belongs to them, by farm's own verbs.

use std::path::Path;
use std::process::Command;

use farm_tests::farm::Farm;
use farm_tests::faults::door::{Door, Shut};
use farm_tests::ports::free_port;
use farm_tests::process::Child;
use farm_tests::registry::PrivateRegistry;
use farm_tests::token_service::{PASSWORD, TokenService, USER};

use crate::support::*;

const BOTH: &str = "linux/amd64,linux/arm64";

/// A small image of two platforms with provenance: its tag.
fn built(farm: &Farm, name: &str) -> String {
    let tag = format!("{}:1.4", repository(name));
    let context = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile a /\n", nonce()))
        .file("a", nonce().repeat(5000));
    submit(farm, &context, &["-t", &tag, "--platform", BOTH, "--provenance=mode=max"]).ok();
    tag
}

/// All of it comes from there, layers and attestations, as skopeo checks.
fn is_whole(farm: &Farm, tag: &str, flags: &[&str]) {
    let copied = Command::new("skopeo")
        .args(["copy", "--all", "--src-tls-verify=false"])
        .args(flags)
        .args([format!("docker://{tag}"), format!("oci:{}/all-{}", farm.folder().display(), nonce())])
        .output()
        .unwrap();
    assert!(copied.status.success(), "{copied:?}");
}

fn log(farm: &Farm) -> String {
    std::fs::read_to_string(farm.folder().join("coordinator.log")).unwrap()
}

#[test]
fn an_image_is_promoted_with_all_its_platforms_and_attestations_and_the_same_digest() {
    let service = TokenService::start();
    let other = PrivateRegistry::start_with_tokens(&service);
    let at = other.address();
    let farm = with_worker(Farm::builder().config(&service.settings(&at)));
    let tag = built(&farm, "app");
    let digest = digest_of(&raw(&tag).unwrap());
    let near = repository("prod");
    let (far, farther) = (format!("{at}/web/app:1.4"), format!("{at}/web/mirror:latest"));
    let said = farm.cli(&["promote", &tag, &near, &far, &farther]).ok();
    says(&said, &["promote of", "published", &format!("{near}:1.4"), &far, &farther, "promoted in"]);
    let credentials = format!("{USER}:{PASSWORD}");
    assert_eq!(digest_of(&raw(&format!("{near}:1.4")).unwrap()), digest);
    is_whole(&farm, &format!("{near}:1.4"), &[]);
    for one in [&far, &farther] {
        assert_eq!(digest_of(&raw_as(one, &["--creds", &credentials]).unwrap()), digest, "{one}");
        is_whole(&farm, one, &["--src-creds", &credentials]);
    }
    // Within a registry blobs are mounted; only what is new elsewhere is sent.
    let written = log(&farm);
    let lines: Vec<&str> = written.lines().filter(|line| line.contains("copied to a repository")).collect();
    let of = |repository: &str| lines.iter().find(|line| line.contains(repository)).unwrap();
    assert!(of(&near).contains("sent=0 bytes=0"), "{lines:#?}");
    assert!(of("web/app").contains("mounted=0"), "{lines:#?}");
    assert!(of("web/mirror").contains("sent=0 bytes=0"), "{lines:#?}");

    // It is a build among the others, and once more it is there already.
    let record = show(&farm, &build_id(&said));
    assert_eq!(record["copy"]["from"], tag);
    assert_eq!(
        (&record["copy"]["verb"], &record["copy"]["digest"]),
        (&"promote".into(), &digest.clone().into())
    );
    assert_eq!(record["index_digest"], digest);
    says(&farm.cli(&["builds"]).ok(), &["(promote)", &format!("{near}:1.4 (+2)")]);
    says(&farm.cli(&["show", &build_id(&said)]).ok(), &[&format!("promote of {tag}  {digest}")]);
    farm.cli(&["copy", &tag, &near, &far]).ok();
    assert_eq!(log(&farm).matches("all of it is there").count(), 2);

    // Tags of the same repository, by name alone; and what the image is, in quiet.
    let quiet = farm.cli(&["tag", &format!("{near}@{digest}"), "stable", "1", "--quiet"]).ok();
    assert_eq!(quiet.trim(), digest);
    for name in ["stable", "1"] {
        assert_eq!(digest_of(&raw(&format!("{near}:{name}")).unwrap()), digest);
    }
    // One platform's image is an image, too.
    let arm = index(&tag)["manifests"].as_array().unwrap().iter().find_map(|one| {
        (one["platform"]["architecture"] == "arm64").then(|| one["digest"].as_str().unwrap().to_owned())
    });
    let (name, _) = tag.rsplit_once(':').unwrap();
    farm.cli(&["tag", &format!("{name}@{}", arm.as_ref().unwrap()), "1.4-arm64"]).ok();
    assert_eq!(Some(digest_of(&raw(&format!("{name}:1.4-arm64")).unwrap())), arm);
    // Elsewhere, too; and what the image is of says the build, not a copy.
    let alone = format!("{}:arm", repository("alone"));
    farm.cli(&["copy", &format!("{name}:1.4-arm64"), &alone]).ok();
    assert_eq!(Some(digest_of(&raw(&alone).unwrap())), arm);
    is_whole(&farm, &alone, &[]);
    let inspected = farm.cli(&["inspect", &format!("{near}:1.4"), "--json"]).json();
    assert_ne!(inspected["build"], build_id(&said), "{inspected:#}");

    // What was done is in its log, each line once.
    let logged = farm.cli(&["logs", &build_id(&said)]).ok();
    assert_eq!(logged.matches(&format!("copy  {near}: 0 sent (0 B), ")).count(), 1, "{logged}");

    // Back to what a tag was, and what it was.
    let newer = Context::new(&format!("FROM scratch\nLABEL n={}\n", nonce()));
    submit(&farm, &newer, &["-t", &format!("{near}:stable"), "--platform", "linux/amd64"]).ok();
    assert_ne!(digest_of(&raw(&format!("{near}:stable")).unwrap()), digest);
    let back = farm.cli(&["rollback", &format!("{near}:stable")]).ok();
    says(&back, &["rollback of", "rolled back in"]);
    assert_eq!(digest_of(&raw(&format!("{near}:stable")).unwrap()), digest);
    let history = farm.cli(&["history", &format!("{near}:stable")]).ok();
    says(&history, &["3*", "rollback", "2 ", "build", "1 ", "tag", "* is what"]);
    let first =
        farm.cli(&["rollback", &format!("{near}:stable"), "--to", "2", "--idempotency-key", "k"]).ok();
    assert_eq!(
        farm.cli(&["rollback", &format!("{near}:stable"), "--to", "2", "--idempotency-key", "k", "-q"])
            .status,
        0
    );
    says(&first, &["rolled back in"]);
    refused(&farm.cli(&["rollback", &format!("{near}:stable"), "--idempotency-key", "k"]), 2, &["--to"]);
    refused(&farm.cli(&["history", &format!("{near}:never")]), 2, &["farm has never moved"]);
}

/// Crane's own registry, another implementation than the bed's: no referrers, no mounts from elsewhere, everything in memory. Where tests/run.sh
/// finds no package of it, nothing is tried.
#[test]
fn an_image_goes_to_a_registry_of_another_kind_and_back() {
    let system = std::fs::read_to_string("/etc/os-release").unwrap();
    if !Path::new("/usr/bin/crane").exists() && !system.lines().any(|line| line == "ID=debian") {
        println!("crane isn't here");
        return;
    }
    let farm = with_worker(Farm::builder());
    let (port, tag) = (free_port(), built(&farm, "kinds"));
    let mut crane = Command::new("crane");
    crane.args(["registry", "serve", "--address", &format!("127.0.0.1:{port}")]);
    let mut crane = Child::spawn("crane", &crane, farm.folder());
    let at = ("127.0.0.1", port);
    crane.wait_until("its port", LONG, |_| std::net::TcpStream::connect(at).is_ok().then_some(()));
    let digest = digest_of(&raw(&tag).unwrap());
    let (there, back) = (format!("localhost:{port}/team/app:1.4"), format!("{}:back", repository("kinds")));
    for (from, to) in [(&tag, &there), (&there, &back), (&tag, &there)] {
        says(&farm.cli(&["promote", from, to]).ok(), &["promoted in"]);
        assert_eq!(digest_of(&raw(to).unwrap()), digest, "{to}");
        is_whole(&farm, to, &[]);
    }
    // And within it.
    let other = format!("localhost:{port}/team/other:1");
    farm.cli(&["promote", &there, &other]).ok();
    assert_eq!(digest_of(&raw(&other).unwrap()), digest);
}

#[test]
fn a_copy_goes_on_where_it_was_when_its_registry_comes_back_and_its_coordinator_died() {
    let registry = PrivateRegistry::start();
    let door = Door::to(registry.port(), 1);
    let mut farm = with_worker(Farm::builder());
    let tag = built(&farm, "cut");
    door.know_coordinators(vec![farm.coordinator().pid()]);
    door.shut(Some(Shut::Hangs));
    let to = format!("{}/app:1", door.address());
    let id = farm.cli(&["promote", &tag, &to, "--detach", "--quiet"]).ok().trim().to_owned();
    farm.kill_coordinator();
    farm.start_coordinator();
    door.know_coordinators(vec![farm.coordinator().pid()]);
    door.shut(Some(Shut::Refuses));
    until("it says what it waits for", LONG, || {
        let trouble = show(&farm, &id)["publish_trouble"].to_string();
        trouble.contains("can't be reached").then_some(())
    });
    // What the tag is by now is none of its business.
    let first = digest_of(&raw(&tag).unwrap());
    let newer = Context::new(&format!("FROM scratch\nLABEL n={}\n", nonce()));
    submit(&farm, &newer, &["-t", &tag, "--platform", "linux/amd64"]).ok();
    assert_ne!(digest_of(&raw(&tag).unwrap()), first);
    door.shut(None);
    let ended = farm.cli(&["attach", &id]).ok();
    says(&ended, &["promoted in"]);
    assert_eq!(digest_of(&raw(&to).unwrap()), first);
    is_whole(&farm, &to, &[]);
}

#[test]
fn what_cant_be_copied_says_why_and_moves_no_tag() {
    let farm = with_worker(Farm::builder());
    let tag = built(&farm, "wrong");
    let (name, _) = tag.rsplit_once(':').unwrap();
    let to = format!("{}:1", repository("never"));
    let missing = farm.cli(&["copy", &format!("{name}:1.5"), &to]);
    assert_eq!(missing.status, 1, "{missing:?}");
    says(&missing.stdout, &[&format!("there is no {name}:1.5"), "did you mean", "nothing was published"]);
    let record = show(&farm, &build_id(&missing.stdout));
    assert_eq!(record["failure"]["code"], "copied_image_missing");
    assert_eq!(raw(&to), None);
    // It lacks a part: what is there of it stays untouched.
    let arm = index(&tag)["manifests"][1]["digest"].as_str().unwrap().to_owned();
    let (registry, path) = name.split_once('/').unwrap();
    let url = format!("http://{registry}/v2/{path}/manifests/{arm}");
    let deleted = Command::new("curl").args(["-sf", "-X", "DELETE", &url]).status().unwrap();
    assert!(deleted.success());
    let partial = farm.cli(&["copy", &tag, &to]);
    says(&partial.stdout, &["can't be copied: it lists", &arm, "isn't there"]);
    assert_eq!((partial.status, raw(&to)), (1, None));

    refused(&farm.cli(&["copy", "https://x.example/app", &to]), 2, &["leave the scheme out"]);
    refused(&farm.cli(&["promote", &format!("{name}@{arm}"), name]), 2, &["has no tag that it could get"]);
    refused(&farm.cli(&["tag", &tag, "a b"]), 2, &["a b"]);
    // A project pushes only where it may.
    farm.cli(&["project", "create", "web"]).ok();
    let not_allowed = farm.cli(&["copy", &tag, &to, "--project", "web"]);
    assert_eq!(not_allowed.status, 3, "{not_allowed:?}");
    says(&not_allowed.stderr, &["may not"]);
}

/// Signed as cosign signs, by what a signature consists of: a manifest under a tag beside the image, with a payload that names it. (The
/// signature itself is none: nobody here verifies it.)
fn signed(repository: &str, digest: &str, by: &str) -> String {
    let (registry, name) = repository.split_once('/').unwrap();
    let put = |path: &str, media_type: &str, bytes: &str| {
        let mut curl = Command::new("curl");
        curl.args([
            "-fsS",
            "-X",
            "PUT",
            "-H",
            &format!("Content-Type: {media_type}"),
            "--data-binary",
            bytes,
        ]);
        farm_tests::farm::output(curl.arg(format!("http://{registry}/v2/{name}/{path}"))).ok();
    };
    let blob = |text: &str| {
        let mut begin = Command::new("curl");
        begin.args(["-fsS", "-o", "/dev/null", "-D", "-", "-X", "POST"]);
        let head =
            farm_tests::farm::output(begin.arg(format!("http://{registry}/v2/{name}/blobs/uploads/"))).ok();
        let place = head.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap().trim().to_owned();
        let at = digest_of(text);
        let mut end = Command::new("curl");
        end.args([
            "-fsS",
            "-X",
            "PUT",
            "-H",
            "Content-Type: application/octet-stream",
            "--data-binary",
            text,
        ]);
        farm_tests::farm::output(end.arg(format!("{place}&digest={at}"))).ok();
        serde_json::json!({"digest": at, "size": text.len(), "mediaType": "application/octet-stream"})
    };
    let payload =
        format!(r#"{{"critical":{{"image":{{"docker-manifest-digest":"{digest}"}}}},"by":"{by}"}}"#);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("{\"os\":\"\"}"),
        "layers": [blob(&payload)],
    });
    let manifest = manifest.to_string();
    let tag = format!("{}.sig", digest.replace(':', "-"));
    put(&format!("manifests/{tag}"), "application/vnd.oci.image.manifest.v1+json", &manifest);
    format!("{repository}:{tag}")
}

#[test]
fn what_refers_to_an_image_comes_along_and_what_is_odd_is_told() {
    let farm = small_farm();
    let source = repository("referred");
    let tag = format!("{source}:1");
    let context = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()));
    let args = ["-t", &tag, "--platform", BOTH, "--provenance", "--attestations", "referrers"];
    submit(&farm, &context, &args).ok();
    let digest = digest_of(&raw(&tag).unwrap());
    let signature = signed(&source, &digest, "us");
    let far = PrivateRegistry::start();
    let to = format!("{}/app", far.address());
    let said = farm.cli(&["promote", &tag, &to]).ok();
    says(&said, &["3 of what refers to the image (signatures, SBOMs) came along", "published"]);
    let copied = signature.replace(&source, &to);
    assert_eq!(raw(&copied), raw(&signature));
    is_whole(&farm, &copied, &[]);
    for image in index(&tag)["manifests"].as_array().unwrap() {
        let list = image["digest"].as_str().unwrap().replace(':', "-");
        let (here, there) = (index(&format!("{source}:{list}")), index(&format!("{to}:{list}")));
        assert_eq!(here["manifests"], there["manifests"], "{here:#} {there:#}");
        let artifact = here["manifests"][0]["digest"].as_str().unwrap();
        is_whole(&farm, &format!("{to}@{artifact}"), &[]);
    }
    // Once more there is nothing to bring, and what others have put there stays.
    assert!(!farm.cli(&["promote", &tag, &to]).ok().contains("came along"));
    let second = format!("{source}:2");
    submit(&farm, &context, &["-t", &second, "--platform", BOTH, "--no-cache", "--label", "second="]).ok();
    let digest = digest_of(&raw(&second).unwrap());
    signed(&source, &digest, "us");
    let theirs = signed(&to, &digest, "them");
    let before = raw(&theirs);
    says(
        &farm.cli(&["promote", &second, &to]).ok(),
        &["is there with something else, and stays", "published"],
    );
    assert_eq!(raw(&theirs), before);

    // What of it isn't there any more keeps no image from being copied.
    let third = format!("{source}:3");
    submit(&farm, &context, &["-t", &third, "--platform", BOTH, "--no-cache", "--label", "third="]).ok();
    let signature = signed(&source, &digest_of(&raw(&third).unwrap()), "us");
    let payload = index(&signature)["layers"][0]["digest"].as_str().unwrap().to_owned();
    let (registry, name) = source.split_once('/').unwrap();
    let mut delete = Command::new("curl");
    delete.args(["-fsS", "-X", "DELETE", &format!("http://{registry}/v2/{name}/blobs/{payload}")]);
    farm_tests::farm::output(&mut delete).ok();
    says(&farm.cli(&["promote", &third, &to]).ok(), &["left out of what refers to the image", "published"]);
}
