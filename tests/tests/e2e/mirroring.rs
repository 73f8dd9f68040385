//! Base images that come into the farm's own registry: some platforms of an index, and tags per architecture.

use farm_tests::bed::Bed;
use farm_tests::database::psql;
use farm_tests::farm::{Farm, Output, WorkerSpec, output};
use farm_tests::registry::PrivateRegistry;
use serde_json::Value;

use crate::support::*;

const THREE: &str = "linux/amd64,linux/arm64,linux/arm/v7";

/// A farm whose projects share the bed's registry, as they do that of `farm up`.
fn sharing() -> Farm {
    let worker = WorkerSpec::new("w1").platforms("linux/amd64,linux/arm64=emulated,linux/arm/v7=emulated");
    Farm::builder().arg("--shared-registry").arg(&Bed::from_env().registry).worker(worker.slots(3)).start()
}

/// A small image of three platforms with provenance under this tag, in which no program is.
fn built(farm: &Farm, tag: &str) {
    let context = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY a /\n", nonce())).file("a", nonce());
    submit(farm, &context, &["-t", tag, "--platform", THREE, "--provenance=mode=max"]).ok();
}

fn entries(index: &Value) -> &Vec<Value> {
    index["manifests"].as_array().unwrap()
}

/// The entry of a platform's image, by its architecture.
fn of<'a>(index: &'a Value, architecture: &str) -> &'a Value {
    let is_it = |entry: &&Value| entry["platform"]["architecture"] == architecture;
    entries(index).iter().find(is_it).unwrap_or_else(|| panic!("no {architecture} in {index:#}"))
}

/// The entries that attest others.
fn attesting(index: &Value) -> Vec<&Value> {
    entries(index).iter().filter(|entry| entry["platform"]["os"] == "unknown").collect()
}

/// All of it comes from there, layers and attestations, as skopeo checks.
fn is_whole(farm: &Farm, tag: &str) {
    let to = format!("oci:{}/all-{}", farm.folder().display(), nonce());
    let mut skopeo = std::process::Command::new("skopeo");
    skopeo.args(["copy", "--all", "--preserve-digests", "--src-tls-verify=false"]);
    let copied = output(skopeo.args([format!("docker://{tag}"), to]));
    assert_eq!(copied.status, 0, "{copied:?}");
}

/// How often the farm has said this of what it copied.
fn said(farm: &Farm, what: &str) -> usize {
    std::fs::read_to_string(farm.folder().join("coordinator.log")).unwrap().matches(what).count()
}

#[test]
fn some_platforms_of_an_index_are_an_index_of_their_own_that_is_always_the_same() {
    let (farm, registry) = (sharing(), PrivateRegistry::start());
    let source = format!("{}:1", repository("base"));
    built(&farm, &source);
    let to = format!("{}/base:some", registry.address());
    let some = ["--platform", "linux/arm/v7", "--platform", "amd64"];
    let copied = farm.cli(&[&["copy", &source, &to][..], &some].concat()).ok();
    is_whole(&farm, &to);

    // What is kept is kept as it was, in its order; what attests it comes along, and nothing else is there.
    let (whole, part) = (index(&source), index(&to));
    assert_eq!(part["mediaType"], whole["mediaType"]);
    assert_eq!(entries(&part).len(), 4, "{part:#}");
    for architecture in ["amd64", "arm"] {
        let entry = of(&part, architecture);
        assert_eq!(entry, of(&whole, architecture));
        let about: Vec<_> = attesting(&part)
            .into_iter()
            .filter(|one| one["annotations"]["vnd.docker.reference.digest"] == entry["digest"])
            .collect();
        assert_eq!(about.len(), 1, "{part:#}");
    }
    let (name, _) = to.rsplit_once(':').unwrap();
    assert_eq!(raw(&format!("{name}@{}", of(&whole, "arm64")["digest"].as_str().unwrap())), None);

    // The record says what was asked for, what the source was and what came of it.
    let digest = digest_of(&raw(&to).unwrap());
    let record = show(&farm, &build_id(&copied));
    assert_eq!(record["copy"]["platforms"], serde_json::json!(["linux/arm/v7", "linux/amd64"]));
    assert_eq!(record["copy"]["digest"], digest_of(&raw(&source).unwrap()));
    assert_eq!(record["index_digest"], digest);
    says(
        &farm.cli(&["show", &build_id(&copied)]).ok(),
        &[&format!("copy of {source}  linux/arm/v7,linux/amd64  sha256:")],
    );

    // Once more, in whatever order, and of what it made: the same, which is there.
    let again = ["--platform", "linux/amd64,linux/arm/v7", "--quiet"];
    assert_eq!(farm.cli(&[&["promote", &source, &to][..], &again].concat()).ok().trim(), digest);
    assert_eq!(farm.cli(&[&["copy", &to, &format!("{name}:b")][..], &again].concat()).ok().trim(), digest);
    assert_eq!(said(&farm, "all of it is there"), 1);
    // One platform is an index, too; all of them are the source itself, byte for byte.
    farm.cli(&["copy", &source, &format!("{name}:one"), "--platform", "linux/arm64/v8"]).ok();
    let one = index(&format!("{name}:one"));
    assert_eq!((entries(&one).len(), of(&one, "arm64")), (2, of(&whole, "arm64")));
    let all = farm.cli(&["copy", &source, &format!("{name}:all"), "--platform", THREE, "--quiet"]).ok();
    assert_eq!(all.trim(), digest_of(&raw(&source).unwrap()));

    // What it hasn't, it says beside what it has.
    let never = format!("{name}:never");
    let wrong = farm.cli(&["copy", &source, &never, "--platform", "linux/riscv64,linux/amd64"]);
    says(&wrong.stdout, &["has no linux/riscv64; it has linux/amd64, linux/arm/v7, linux/arm64"]);
    assert_eq!(
        show(&farm, &build_id(&wrong.stdout))["failure"]["code"],
        "copied_platform_missing",
        "{wrong:?}"
    );
    let image = format!("{name}@{}", of(&whole, "amd64")["digest"].as_str().unwrap());
    let lone = farm.cli(&["copy", &image, &never, "--platform", "linux/amd64"]);
    says(&lone.stdout, &["one image and no index: leave --platform out"]);
    assert_eq!((wrong.status, lone.status, raw(&never)), (1, 1, None));
    refused(&farm.cli(&["copy", &source, &never, "--platform", "linux/vax"]), 2, &["linux/vax"]);
}

#[test]
fn an_image_is_mirrored_with_a_tag_per_architecture_each_of_which_runs() {
    let farm = sharing();
    let to = format!("{}:3.11-slim", repository("python"));
    let mirror = ["mirror", BASE, &to, "--platform", "linux/amd64,linux/arm64", "--per-arch-tags"];
    let told = farm.cli(&mirror).ok();
    says(
        &told,
        &[&format!("mirror of {BASE}"), "mirrored in", &format!("{to}-amd64"), &format!("{to}-arm64")],
    );
    let whole = index(&to);
    for (architecture, machine) in [("amd64", "x86_64"), ("arm64", "aarch64")] {
        let tag = format!("{to}-{architecture}");
        assert_eq!(digest_of(&raw(&tag).unwrap()), of(&whole, architecture)["digest"].as_str().unwrap());
        let program = ["python3", "-c", "import platform; print(platform.machine())"];
        assert_eq!(run_image(&format!("linux/{architecture}"), &tag, &program).trim(), machine);
    }
    // It is built upon by the name that a Dockerfile has per architecture.
    let context = Context::new(&format!(
        "ARG TARGETARCH\nFROM {to}-amd64 AS on_amd64\nFROM {to}-arm64 AS on_arm64\n\
                                         FROM on_$TARGETARCH\nLABEL n={}\n",
        nonce()
    ));
    let upon = format!("{}:1", repository("upon"));
    submit(&farm, &context, &["-t", &upon, "--platform", "linux/amd64,linux/arm64"]).ok();

    // Once more it is all there; each copy says so in its place.
    let again = farm.cli(&[&mirror[..], &["--quiet"]].concat()).ok();
    let digests: Vec<String> =
        ["", "-amd64", "-arm64"].iter().map(|of| digest_of(&raw(&format!("{to}{of}")).unwrap())).collect();
    assert_eq!(again.lines().collect::<Vec<_>>(), digests);
    let records = farm.cli(&["builds", "--json"]).json();
    let mirrors = records["builds"].as_array().unwrap().iter().filter(|one| one["copy"]["verb"] == "mirror");
    assert_eq!(mirrors.count(), 6);
}

#[test]
fn without_a_destination_it_goes_to_the_registry_that_all_projects_share_if_there_is_one() {
    let (farm, elsewhere) = (sharing(), PrivateRegistry::start());
    let name = format!("base/app-{}", nonce());
    let source = format!("{}/{name}:1", elsewhere.address());
    let made = format!("{}:1", repository("made"));
    built(&farm, &made);
    farm.cli(&["copy", &made, &source]).ok();
    let digest = digest_of(&raw(&source).unwrap());
    let own = format!("{}/{name}:1", Bed::from_env().registry);
    let told = farm.cli(&["mirror", &source, "--per-arch-tags", "--json"]).ok();
    assert_eq!(digest_of(&raw(&own).unwrap()), digest);
    is_whole(&farm, &own);
    let records: Vec<Value> =
        serde_json::Deserializer::from_str(&told).into_iter().map(Result::unwrap).collect();
    let tags: Vec<&Value> = records.iter().map(|one| &one["tags"][0]["reference"]).collect();
    let suffixes = ["", "-amd64", "-arm-v7", "-arm64"];
    assert_eq!(tags, suffixes.map(|suffix| format!("{own}{suffix}")).iter().collect::<Vec<_>>());

    refused(
        &farm.cli(&["mirror", &format!("{}/{name}@{digest}", elsewhere.address())]),
        2,
        &["REGISTRY/", ":TAG"],
    );
    let lonely = small_farm();
    let needs_one = lonely.cli(&["mirror", &source]);
    refused(&needs_one, 2, &["no registry that all projects share", &format!("REGISTRY/{name}:1")]);
    assert_eq!(builds(&lonely), 0);
}

#[test]
fn a_tag_that_cant_be_made_keeps_no_other_from_being_made_and_is_named() {
    let farm = sharing();
    let source = format!("{}:1", repository("base"));
    built(&farm, &source);
    farm.cli(&["project", "protect", "*-arm64", "--role", "admin"]).ok();
    farm.cli(&["member", "set", "bob", "--role", "builder", "--project", "default"]).ok();
    let bob = farm.cli(&["token", "create", "--for", "bob"]).ok();
    let to = format!("{}:1", repository("mirrored"));
    let mut command = farm.command(&["mirror", &source, &to, "--per-arch-tags"]);
    let told = output(command.env_remove("FARM_TOKEN_FILE").env("FARM_TOKEN", bob.trim()));
    assert_eq!(told.status, 3, "{told:?}");
    says(&told.stderr, &["bob may not move", &format!("2 of 3 tags per architecture; not {to}-arm64.")]);
    assert_eq!(raw(&format!("{to}-arm64")), None);
    for there in ["", "-amd64", "-arm-v7"] {
        assert!(raw(&format!("{to}{there}")).is_some(), "{there}");
    }
    // Who may makes what is missing.
    farm.cli(&["mirror", &source, &to, "--per-arch-tags"]).ok();
    assert!(raw(&format!("{to}-arm64")).is_some());
    refused(&farm.cli(&["mirror", &source, &to, "--per-arch-tags", "--detach"]), 2, &["cannot be used with"]);
}

/// The only mirror, once it is so.
fn mirror_when(farm: &Farm, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    until(what, LONG, || {
        let listed = farm.cli(&["mirror", "ls", "--json"]).ok();
        crate::schemas::fits("mirrors", &listed);
        let listed: Value = serde_json::from_str(&listed).unwrap();
        Some(listed["mirrors"][0].clone()).filter(|one| one["running"] == false && is_so(one))
    })
}

/// Has the next run be due now.
fn due(farm: &Farm) {
    psql(farm.database_url(), "UPDATE mirrors SET next_at = farm_now()");
}

#[test]
fn the_farm_goes_on_with_a_mirror_by_itself_in_the_name_of_whoever_asked_and_as_long_as_they_may() {
    let farm = sharing();
    farm.cli(&["member", "set", "ada", "--role", "builder", "--project", "default"]).ok();
    let ada = farm.cli(&["token", "create", "--for", "ada"]).ok();
    let by_ada = |args: &[&str]| -> Output {
        output(farm.command(args).env_remove("FARM_TOKEN_FILE").env("FARM_TOKEN", ada.trim()))
    };
    let source = format!("{}:1", repository("base"));
    built(&farm, &source);
    let to = format!("{}:1", repository("mirrored"));
    let parts = ["", "-amd64", "-arm-v7", "-arm64"].map(|suffix| format!("{to}{suffix}"));
    let digests = || parts.each_ref().map(|tag| raw(tag).map(|text| digest_of(&text)));
    let mirrors = || {
        let all = farm.cli(&["builds", "--json"]).json();
        let of_mirror = |one: &&Value| one["copy"]["verb"] == "mirror" && one["created_by"] == "ada";
        all["builds"].as_array().unwrap().iter().filter(of_mirror).count()
    };

    // The command follows what the farm begins, and nothing is copied twice.
    let told = by_ada(&["mirror", &source, &to, "--per-arch-tags", "--every", "24h"]);
    says(&told.stderr, &[&format!("the farm copies {source} to {to} every 1 d from now on")]);
    says(&told.ok(), &["mirrored in", &parts[1], &parts[3]]);
    let first = mirror_when(&farm, "first run", |one| !one["last_ended"].is_null());
    let digest = digest_of(&raw(&source).unwrap());
    assert_eq!(
        (first["digest"].as_str(), &first["trouble"]),
        (Some(digest.as_str()), &Value::Null),
        "{first:#}"
    );
    assert_eq!((first["created_by"].as_str(), mirrors()), (Some("ada"), 4));
    assert!(!first["next"].is_null() && digests().iter().all(Option::is_some));

    // The image moves, and the farm goes after it when its time has come.
    built(&farm, &source);
    let moved = digest_of(&raw(&source).unwrap());
    assert_ne!(moved, digest);
    let before = digests();
    due(&farm);
    let second = mirror_when(&farm, "second run", |one| one["digest"] == moved.as_str());
    assert_ne!(second["last_build"], first["last_build"]);
    assert_eq!((digests()[0].clone(), mirrors()), (Some(moved.clone()), 8));
    assert!(before.iter().zip(digests()).all(|(before, now)| *before != now), "each tag has moved");
    let record = show(&farm, second["last_build"].as_str().unwrap());
    assert_eq!((&record["copy"]["verb"], &record["created_by"]), (&"mirror".into(), &"ada".into()));

    // Who may no more, copies no more; that is said, and nothing is done.
    farm.cli(&["member", "rm", "ada", "--project", "default"]).ok();
    due(&farm);
    let refused = mirror_when(&farm, "refusal", |one| !one["trouble"].is_null());
    says(refused["trouble"].as_str().unwrap(), &["ada is in project default no more", "farm mirror"]);
    assert_eq!((refused["failures"].as_u64(), mirrors()), (Some(1), 8));
    says(&farm.cli(&["mirror", "ls"]).ok(), &["failed", "ada is in project default no more"]);
    says(&farm.cli(&["audit"]).ok(), &["mirror.refused"]);

    // Somebody else takes it over; what can't be copied is told as of other builds, with the build.
    let over = ["mirror", &source, &to, "--per-arch-tags", "--every", "12h", "--detach"];
    farm.cli(&over).ok();
    mirror_when(&farm, "takeover", |one| one["trouble"].is_null() && one["digest"] == moved.as_str());
    farm.cli(&["rm", &source]).ok();
    due(&farm);
    let failed = mirror_when(&farm, "failure", |one| !one["trouble"].is_null());
    let id = failed["last_build"].as_str().unwrap();
    says(failed["trouble"].as_str().unwrap(), &[&format!("build {id}: "), "there is no"]);
    assert_eq!(show(&farm, id)["failure"]["code"], "copied_image_missing");
    assert_eq!(digests()[0], Some(moved), "what is there stays");
    farm.cli(&["mirror", "rm", &to]).ok();
    says(&farm.cli(&["mirror", "ls"]).ok(), &["nothing mirrored again and again"]);
}
