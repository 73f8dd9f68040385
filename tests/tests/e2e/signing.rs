//! Signatures of what is published: real images in real registries, as cosign itself judges them (3.1 of Debian forky, which tests/run.sh
//! installs), in both forms that it knows.

use std::path::{Path, PathBuf};
use std::process::Command;

use farm_tests::farm::{Farm, Output, output};
use farm_tests::faults::door::{Door, Shut};
use farm_tests::faults::trap::{Action, Asked, How, Trap, When};
use farm_tests::registry::PrivateRegistry;

use crate::support::*;

const TWO: &str = "linux/amd64,linux/arm64";
const PASSWORD: &str = "hush-of-cosign";

fn small() -> Context {
    Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()))
}

/// Runs cosign, which is asked for nothing outside.
pub fn cosign(farm: &Farm, args: &[&str]) -> Output {
    let mut command = Command::new("cosign");
    command.args(args).current_dir(farm.folder()).env("HOME", farm.folder()).env("COSIGN_PASSWORD", PASSWORD);
    let there = Command::new("cosign").arg("version").output();
    assert!(
        there.is_ok_and(|there| there.status.success()),
        "cosign can't be run: install package cosign of Debian forky"
    );
    output(&mut command)
}

/// Whether this public key has signed an image, by the bundles that refer to it, and by the tag beside it.
fn verified(farm: &Farm, key: &Path, image: &str) -> [bool; 2] {
    ["--new-bundle-format=true", "--new-bundle-format=false"].map(|form| {
        let verify = [
            "verify",
            "--key",
            key.to_str().unwrap(),
            "--private-infrastructure",
            "--allow-http-registry",
            form,
            image,
        ];
        let said = cosign(farm, &verify);
        // That it isn't signed must not be confused with what can't be looked at.
        if said.status != 0 {
            assert!(
                ["no signatures found", "no matching", "invalid signature"]
                    .iter()
                    .any(|why| said.stderr.contains(why)),
                "{said:?}"
            );
        }
        said.status == 0
    })
}

const SIGNED: [bool; 2] = [true, true];

/// Makes a key of the farm's; gives the file of its public half.
fn generated(farm: &Farm, name: &str, more: &[&str]) -> PathBuf {
    let pem = farm.cli(&[&["signing-key", "generate", name][..], more].concat()).ok();
    let file = farm.folder().join(format!("{name}-{}.pub", nonce()));
    std::fs::write(&file, pem).unwrap();
    file
}

/// The digests of an index's images.
fn images(tag: &str) -> Vec<String> {
    let of = |one: &serde_json::Value| {
        (one["platform"]["os"] == "linux").then(|| one["digest"].as_str().unwrap().to_owned())
    };
    index(tag)["manifests"].as_array().unwrap().iter().filter_map(of).collect()
}

/// How many signatures of an image there are: in the manifest under its tag, and of bundles in the list of what refers to it.
pub fn signatures(tag: &str, digest: &str) -> [usize; 2] {
    let (repository, _) = tag.rsplit_once(':').unwrap();
    let beside = format!("{repository}:{}", digest.replace(':', "-"));
    let Some(signed) = raw(&format!("{beside}.sig")) else { return [0, 0] };
    let signed: serde_json::Value = serde_json::from_str(&signed).unwrap();
    let listed = index(&beside);
    [&signed["layers"], &listed["manifests"]].map(|all| all.as_array().unwrap().len())
}

/// Signs an image as cosign does, in both forms.
pub fn signed_by_hand(farm: &Farm, key: &str, image: &str) {
    for form in ["--new-bundle-format=true", "--new-bundle-format=false"] {
        let sign = [
            "sign",
            "--key",
            key,
            "--tlog-upload=false",
            "--use-signing-config=false",
            "--allow-http-registry",
        ];
        cosign(farm, &[&sign[..], &[form, image]].concat()).ok();
    }
}

#[test]
fn what_is_published_is_signed_before_a_tag_points_at_it_and_cosign_says_so() {
    let farm = with_worker(Farm::builder().arg("--insecure-secrets"));
    let release = generated(&farm, "release", &[]);
    let by_hand = |args: &[&str]| output(farm.command(args).env("FARM_INSECURE_HTTP", "1"));

    // A key that cosign has made comes in by its password, and nothing else does.
    cosign(&farm, &["generate-key-pair", "--output-key-prefix", "theirs"]).ok();
    let (file, theirs) = (farm.folder().join("theirs.key"), farm.folder().join("theirs.pub"));
    let file = file.to_str().unwrap();
    let add = |password: &str| {
        let mut add = farm.command(&["signing-key", "add", "theirs", "--file", file]);
        output(add.env("FARM_INSECURE_HTTP", "1").env("COSIGN_PASSWORD", password))
    };
    refused(&add("another"), 2, &["can't be opened: the password is another one"]);
    refused(&by_hand(&["signing-key", "add", "theirs", "--file", file]), 2, &["give it in COSIGN_PASSWORD"]);
    let public = std::fs::read_to_string(&theirs).unwrap();
    assert_eq!(add(PASSWORD).ok(), public);
    assert_eq!(farm.cli(&["signing-key", "public", "theirs"]).ok(), public);
    says(&farm.cli(&["signing-key", "ls"]).ok(), &["release", "theirs", "builder", "never"]);
    let other = farm.folder().join("ed25519.pem");
    output(Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&other)).ok();
    let odd = by_hand(&["signing-key", "add", "odd", "--file", other.to_str().unwrap()]);
    refused(&odd, 2, &["ECDSA on the curve P-256"]);

    // What can't be signed is told before anything is built.
    let (context, first, second) =
        (small(), format!("{}:1", repository("signed")), format!("{}:1", repository("signed")));
    refused(
        &submit(&farm, &context, &["--sign", "release", "--output", "type=cacheonly"]),
        2,
        &["--sign", "publishes nothing"],
    );
    let unknown = submit(&farm, &context, &["-t", &first, "--sign", "relaese"]);
    says(&unknown.stderr, &["has no signing key relaese", "farm signing-key generate"]);

    // Two destinations; the index and each platform's image are signed, and what attests them isn't.
    let args = ["-t", &first, "-t", &second, "--platform", TWO, "--provenance", "--sign", "release"];
    let said = submit(&farm, &context, &args).ok();
    let id = build_id(&said);
    for tag in [&first, &second] {
        assert_eq!(verified(&farm, &release, tag), SIGNED, "{tag}");
        let (repository, _) = tag.rsplit_once(':').unwrap();
        let digest = digest_of(&raw(tag).unwrap());
        let all = images(tag);
        assert_eq!(all.len(), 2);
        for digest in all.iter().chain([&digest]) {
            assert_eq!(verified(&farm, &release, &format!("{repository}@{digest}")), SIGNED, "{digest}");
            assert_eq!(signatures(tag, digest), [1, 1], "{digest}");
        }
        let attests = index(tag)["manifests"].as_array().unwrap().last().unwrap()["digest"].clone();
        assert_eq!(signatures(tag, attests.as_str().unwrap()), [0, 0]);
    }
    assert_eq!(verified(&farm, &theirs, &first), [false, false]);
    assert_eq!(show(&farm, &id)["sign"], "release");
    says(&farm.cli(&["show", &id]).ok(), &["signed by release"]);
    says(&farm.cli(&["signing-key", "ls"]).ok(), &[&id]);

    // What is signed already isn't once more; and what others have signed stays, cosign itself among them.
    let digest = digest_of(&raw(&first).unwrap());
    let (name, _) = first.rsplit_once(':').unwrap();
    farm.cli(&["tag", &first, "again", "--sign", "release"]).ok();
    assert_eq!(signatures(&first, &digest), [1, 1]);
    signed_by_hand(&farm, "theirs.key", &format!("{name}@{digest}"));
    assert_eq!(signatures(&first, &digest), [2, 2]);
    let third = generated(&farm, "third", &[]);
    farm.cli(&["tag", &first, "once-more", "--sign", "third"]).ok();
    // What the same key has signed by cosign's own command counts as well: the texts are the same.
    farm.cli(&["tag", &first, "and-more", "--sign", "theirs"]).ok();
    assert_eq!(signatures(&first, &digest), [3, 3]);
    for key in [&release, &theirs, &third] {
        assert_eq!(verified(&farm, key, &first), SIGNED, "{}", key.display());
    }

    // Where it is copied to it is signed as it was, and by whom it is asked for besides.
    let far = PrivateRegistry::start();
    let to = format!("{}/app:1", far.address());
    let said = farm.cli(&["promote", &second, &to, "--sign", "theirs"]).ok();
    says(&said, &["came along", "published"]);
    let at = format!("{}/app@{}", far.address(), images(&to)[1]);
    for image in [&to, &at] {
        for key in [&release, &theirs] {
            assert_eq!(verified(&farm, key, image), SIGNED, "{image} {}", key.display());
        }
        assert_eq!(verified(&farm, &third, image), [false, false]);
    }

    // The manifest of one platform in the place of an index; and in Docker's formats.
    let alone = format!("{}:1", repository("alone"));
    let flags = [
        "-t",
        &alone,
        "--platform",
        "linux/amd64",
        "--single-platform",
        "manifest",
        "--media-type",
        "docker",
        "--sign",
        "release",
    ];
    submit(&farm, &small(), &flags).ok();
    assert_eq!(verified(&farm, &release, &alone), SIGNED);

    farm.cli(&["signing-key", "rm", "third"]).ok();
    assert_eq!(verified(&farm, &third, &first), SIGNED);
    says(&farm.cli(&["tag", &first, "late", "--sign", "third"]).stderr, &["has no signing key third"]);
    assert_eq!(raw(&format!("{name}:late")), None);
}

#[test]
fn a_coordinator_that_dies_while_it_signs_or_before_the_tag_leaves_one_signature_and_no_unsigned_tag() {
    let registry = PrivateRegistry::start();
    let door = Door::to(registry.port(), 1);
    let mut farm = with_worker(Farm::builder().config(QUICK_LEASES));
    let release = generated(&farm, "release", &[]);
    let tag = format!("{}/app:t1", door.address());
    door.know_coordinators(vec![farm.coordinator().pid()]);
    let after = |asked, when, tag: Option<&str>| Trap {
        asked,
        when,
        tag: tag.map(ToOwned::to_owned),
        action: Action::Does(How::Kill),
    };
    // The first tag that it puts is that of a signature.
    door.arm(after(Asked::PutsTag, When::After, None));
    let args = ["-t", &tag, "--platform", "linux/amd64", "--sign", "release", "--detach", "--quiet"];
    let id = submit(&farm, &small(), &args).ok().trim().to_owned();
    for next in [Some(after(Asked::LooksAtTag, When::Before, Some("t1"))), None] {
        until("the coordinator dies", LONG, || door.sprung());
        assert_eq!(raw(&tag), None);
        farm.kill_coordinator();
        match next {
            Some(trap) => door.arm(trap),
            None => door.let_go(),
        }
        farm.start_coordinator();
        door.know_coordinators(vec![farm.coordinator().pid()]);
    }
    farm.cli(&["attach", &id]).ok();
    let (own, digest) = (tag.replace(&door.address(), &registry.address()), digest_of(&raw(&tag).unwrap()));
    assert_eq!(verified(&farm, &release, &own), SIGNED);
    assert_eq!(signatures(&own, &digest), [1, 1]);
    let signed: Vec<_> = door.puts().into_iter().filter(|put| put.reference.ends_with(".sig")).collect();
    assert_eq!(signed.len(), 2, "one of the index, and one of its image: {signed:#?}");
}

#[test]
fn what_was_to_be_signed_by_a_key_that_is_another_by_then_moves_no_tag_until_it_is_retried() {
    let registry = PrivateRegistry::start();
    let door = Door::to(registry.port(), 1);
    let mut farm = with_worker(Farm::builder());
    let first = generated(&farm, "release", &[]);
    let tag = format!("{}/app:1", door.address());
    door.know_coordinators(vec![farm.coordinator().pid()]);
    door.shut(Some(Shut::Refuses));
    let args = ["-t", &tag, "--platform", "linux/amd64", "--sign", "release", "--detach", "--quiet"];
    let id = submit(&farm, &small(), &args).ok().trim().to_owned();
    let twice = farm.cli(&["signing-key", "generate", "release"]);
    says(&twice.stderr, &["has a signing key release", "--replace"]);
    let second = generated(&farm, "release", &["--replace"]);
    door.shut(None);
    let failed = farm.cli(&["attach", &id]);
    assert_eq!(failed.status, 1, "{failed:?}");
    says(&failed.stdout, &["was replaced since the build was accepted", "farm retry"]);
    assert_eq!(show(&farm, &id)["failure"]["code"], "signing_key_gone");
    assert_eq!(raw(&tag), None);
    farm.cli(&["retry", &id]).ok();
    let own = tag.replace(&door.address(), &registry.address());
    assert_eq!(verified(&farm, &second, &own), SIGNED);
    assert_eq!(verified(&farm, &first, &own), [false, false]);
}
