//! What a registry holds, seen and taken out again by farm's own verbs.

use std::process::Command;

use farm_tests::farm::{Farm, output};
use farm_tests::registry::{Login, PrivateRegistry};
use farm_tests::token_service::{PASSWORD, TokenService, USER, password_of};

use crate::gate::Gate;
use crate::support::*;

const PLATFORMS: &str = "linux/amd64,linux/arm64";

/// Builds a small image of two platforms under this tag; its digest.
fn built(farm: &Farm, tag: &str) -> String {
    let context = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()));
    submit(farm, &context, &["-t", tag, "--platform", PLATFORMS]).ok();
    digest_of(&raw(tag).unwrap())
}

/// The digests that the index under a tag lists.
fn children(tag: &str) -> Vec<String> {
    let listed = index(tag)["manifests"].as_array().unwrap().clone();
    listed.iter().map(|one| one["digest"].as_str().unwrap().to_owned()).collect()
}

fn tags(farm: &Farm, repository: &str) -> Vec<String> {
    farm.cli(&["ls", repository, "--quiet"]).ok().lines().map(ToOwned::to_owned).collect()
}

#[test]
fn a_repositorys_tags_are_listed_with_what_the_farm_knows_of_them() {
    let farm = small_farm();
    let repository = repository("listed");
    let first = built(&farm, &format!("{repository}:1"));
    let second = built(&farm, &format!("{repository}:2"));
    // Somebody else puts an image of one platform there, and moves one of farm's tags.
    let single = children(&format!("{repository}:1"))[0].clone();
    for tag in ["theirs", "1"] {
        let copy = [format!("docker://{repository}@{single}"), format!("docker://{repository}:{tag}")];
        run(&copy);
    }
    let listed = farm.cli(&["ls", &repository, "--json"]).json();
    assert_eq!((&listed["repository"], &listed["count"]), (&repository.clone().into(), &3.into()));
    let names: Vec<&str> =
        listed["tags"].as_array().unwrap().iter().map(|tag| tag["tag"].as_str().unwrap()).collect();
    assert_eq!(names, ["2", "1", "theirs"], "the newest of farm's is the first");
    let of = |at: usize| &listed["tags"][at];
    assert_eq!((&of(0)["digest"], &of(0)["verb"]), (&second.into(), &"build".into()));
    assert_eq!(of(0)["platforms"], serde_json::json!(["linux/amd64", "linux/arm64"]));
    let build = of(0)["build"].as_str().unwrap();
    assert_eq!(show(&farm, build)["index_digest"], of(0)["digest"]);
    for moved in [of(1), of(2)] {
        assert_eq!((&moved["digest"], &moved["build"]), (&single.clone().into(), &serde_json::Value::Null));
        assert_eq!(moved["platforms"].as_array().unwrap().len(), 1, "{moved:#}");
    }
    let text = farm.cli(&["ls", &repository]).ok();
    says(
        &text,
        &["TAG", "DIGEST", "PLATFORMS", "linux/amd64,linux/arm64", &format!("build {build}"), "theirs"],
    );
    says(&farm.cli(&["ls", &repository, "-n", "1"]).ok(), &["1 of 3 tags"]);
    assert_eq!(farm.cli(&["ls", &repository, "--match", "th*", "-q"]).ok(), "theirs\n");
    assert_eq!(farm.cli(&["ls", &repository, "--match", "x*"]).ok(), "no tag fits that pattern\n");
    refused(&farm.cli(&["ls", &format!("{repository}-none")]), 2, &["there is no", "or it has no tags"]);
    refused(&farm.cli(&["ls", &format!("{repository}:1")]), 2, &["leave the tag out"]);
    assert_ne!(first, single);
}

fn run(copy: &[String]) {
    farm_tests::process::run(
        Command::new("skopeo").args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false"]).args(copy),
    );
}

#[test]
fn a_tag_goes_with_its_image_and_what_another_tag_reaches_stays() {
    let farm = small_farm();
    let repository = repository("removed");
    let tag = |name: &str| format!("{repository}:{name}");
    let digest = built(&farm, &tag("1"));
    let images = children(&tag("1"));
    farm.cli(&["tag", &tag("1"), "old"]).ok();
    farm.cli(&["tag", &format!("{repository}@{}", images[0]), "amd64"]).ok();
    let kept = built(&farm, &tag("kept"));

    // Nothing that a tag reaches goes by its digest.
    for (image, by) in
        [(&images[1], "1 lists it"), (&images[0], "amd64 points to it"), (&digest, "1 points to it")]
    {
        let refusal = farm.cli(&["rm", &format!("{repository}@{image}")]);
        refused(&refusal, 2, &["stays, as", by, "Nothing was removed"]);
    }
    // One tag of two; the tag of an image that an index lists.
    for (name, why) in [("old", "1 points to it"), ("amd64", "1 lists it")] {
        let alone = farm.cli(&["rm", &tag(name)]);
        if alone.status == 0 {
            says(&alone.stdout, &[&format!("removed {} alone", tag(name)), why]);
            assert_eq!(raw(&tag(name)), None);
        } else {
            // As this registry has it.
            refused(&alone, 2, &["can't take", "away alone", why]);
            assert!(raw(&tag(name)).is_some());
        }
        assert_eq!(digest_of(&raw(&tag("1")).unwrap()), digest);
    }
    for image in &images {
        assert!(raw(&format!("{repository}@{image}")).is_some());
    }
    // What isn't there, and what isn't written out.
    refused(&farm.cli(&["rm", &tag("1"), &tag("od")]), 2, &["there is no", "nothing was removed"]);
    refused(&farm.cli(&["rm", &repository]), 2, &["write which tag"]);
    refused(
        &farm.cli(&["rm", &format!("{repository}@{}", "sha256:".to_owned() + &"0".repeat(64))]),
        2,
        &["there is no"],
    );

    // All that is left of it at once.
    let left = tags(&farm, &repository);
    let all: Vec<String> = left.iter().filter(|name| *name != "kept").map(|name| tag(name)).collect();
    let mut args = vec!["rm"];
    args.extend(all.iter().map(String::as_str));
    let dry = farm.cli(&[&args[..], &["--dry-run"]].concat()).ok();
    says(&dry, &["would remove", &tag("1")]);
    assert_eq!(tags(&farm, &repository), left);
    let said = farm.cli(&args).ok();
    says(&said, &["removed", &tag("1")]);
    assert_eq!(tags(&farm, &repository), ["kept"]);
    for gone in images.iter().chain([&digest]) {
        assert_eq!(raw(&format!("{repository}@{gone}")), None, "{gone}");
    }
    assert_eq!(digest_of(&raw(&tag("kept")).unwrap()), kept);
    for child in children(&tag("kept")) {
        assert!(raw(&format!("{repository}@{child}")).is_some());
    }
    // Who did it is noted.
    let history = farm.cli(&["history", &tag("1")]).ok();
    says(&history, &["(removed)", "rm", "isn't there any more"]);
    assert!(!history.contains("by others"), "{history}");
    let audit = farm.cli(&["audit", "--all"]).ok();
    says(&audit, &["image.remove", &format!("{repository}@{digest}")]);

    // Whoever puts it again has it again, and builds go on being published there.
    let again = built(&farm, &tag("1"));
    assert_eq!(tags(&farm, &repository).len(), 2);
    assert_ne!(again, digest);
    let by_digest = format!("{repository}@{}", children(&tag("kept"))[0]);
    refused(&farm.cli(&["rm", &by_digest]), 2, &["kept lists it"]);
}

#[test]
fn a_build_under_way_keeps_what_it_may_find_or_make_once_more() {
    let farm = small_farm();
    let repository = repository("in-flight");
    let tag = format!("{repository}:1");
    built(&farm, &tag);
    let images = children(&tag);
    let gate = Gate::new();
    let context = gate.context();
    let mut cli =
        farm.cli_spawn("under-way", &["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"]);
    let arrival = gate.arrival();
    // Of its images the build may make the same index, and this registry takes no tag away alone.
    let index = raw(&tag);
    refused(&farm.cli(&["rm", &tag]), 2, &["a build that is under way may need it", "farm builds"]);
    assert_eq!(raw(&tag), index);
    for image in &images {
        assert!(raw(&format!("{repository}@{image}")).is_some(), "{image}");
    }
    let refusal = farm.cli(&["rm", &format!("{repository}@{}", images[0])]);
    refused(&refusal, 2, &["lists it", "Nothing was removed"]);
    arrival.open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    assert_ne!(raw(&tag), index);
    // Now they may go.
    says(&farm.cli(&["rm", &format!("{repository}@{}", images[0])]).ok(), &["removed"]);
    assert_eq!(raw(&format!("{repository}@{}", images[0])), None);
}

#[test]
fn tags_that_no_rule_keeps_go_with_their_images() {
    let farm = small_farm();
    let repository = repository("pruned");
    let tag = |name: &str| format!("{repository}:{name}");
    let digests: Vec<String> =
        ["pr-1", "pr-2", "pr-3", "v1"].iter().map(|name| built(&farm, &tag(name))).collect();
    // An image that stays by another name, and one that somebody else has put.
    farm.cli(&["tag", &tag("pr-2"), "v0"]).ok();
    let copy = [format!("docker://{}", tag("pr-3")), format!("docker://{}", tag("theirs"))];
    run(&[&["--all".to_owned()][..], &copy].concat());
    let rules = ["prune", "--registry", &repository, "--keep-last", "1", "--keep", "v*"];
    let with = |more: &[&'static str]| farm.cli(&[&rules[..], more].concat());
    let all = tags(&farm, &repository);
    let dry = with(&["--dry-run"]).ok();
    says(&dry, &["would remove", &tag("pr-1"), "2 manifests that nothing else", "that is about"]);
    assert!(!dry.contains("pr-2") && !dry.contains("theirs"), "{dry}");
    let json = with(&["--dry-run", "--json"]).json();
    assert!(json["freed_bytes"].as_u64().unwrap() > 0, "{json:#}");
    crate::schemas::fits("removed", &json.to_string());
    refused(&with(&[]), 2, &["this removes 1 of 6 tags", "--yes"]);
    refused(&farm.cli(&["prune", "--registry", &repository]), 2, &["say which tags"]);
    assert_eq!(tags(&farm, &repository), all);

    // A build that is about to publish there has it left alone.
    let gate = Gate::new();
    let context = gate.context();
    let args = ["submit", context.text(), "-t", &tag("pr-4"), "--platform", "linux/amd64"];
    let mut cli = farm.cli_spawn("under-way", &args);
    let arrival = gate.arrival();
    refused(&with(&["--yes"]), 2, &["a build is under way", "left alone"]);
    assert_eq!(tags(&farm, &repository), all);
    arrival.open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());

    let wet = with(&["--yes"]).ok();
    says(&wet, &["removed", &tag("pr-1")]);
    let left = tags(&farm, &repository);
    for (name, is_there) in [
        ("pr-1", false),
        ("pr-2", true),
        ("pr-3", true),
        ("pr-4", true),
        ("v0", true),
        ("v1", true),
        ("theirs", true),
    ] {
        assert_eq!(left.contains(&name.to_owned()), is_there, "{name}: {left:?}");
    }
    assert_eq!(raw(&format!("{repository}@{}", digests[0])), None);
    says(&with(&["--yes"]).ok(), &["none of 6 tags"]);
    says(&farm.cli(&["prune", "--registry", &repository, "--older-than", "1h", "--yes"]).ok(), &["is to go"]);
}

#[test]
fn a_registry_that_deletes_nothing_says_so_and_protected_tags_stay() {
    let keeping = PrivateRegistry::start_keeping();
    let farm = with_worker(Farm::builder());
    let tag = format!("{}/app:1", keeping.address());
    let digest = built(&farm, &tag);
    let refusal = farm.cli(&["rm", &tag]);
    refused(&refusal, 2, &["deletes nothing", "storage.delete.enabled"]);
    assert_eq!(digest_of(&raw(&tag).unwrap()), digest);
    // What wasn't done is noted nowhere.
    let history = farm.cli(&["history", &tag]).ok();
    assert!(!history.contains("removed"), "{history}");
    assert!(!farm.cli(&["audit", "--all"]).ok().contains("image.remove"));

    let repository = repository("protected");
    let tag = format!("{repository}:v1");
    built(&farm, &tag);
    farm.cli(&["project", "protect", "v*", "--role", "admin"]).ok();
    refused(&farm.cli(&["rm", &tag]), 2, &["nobody removes", "v*", "farm project unprotect 'v*'"]);
    assert!(raw(&tag).is_some());
    farm.cli(&["project", "unprotect", "v*"]).ok();
    farm.cli(&["rm", &tag]).ok();
    assert_eq!(raw(&tag), None);
    refused(&farm.cli(&["ls", &repository]), 2, &["it has no tags"]);
}

#[test]
fn registries_with_logins_are_asked_by_the_farms_and_the_projects_and_only_admins_remove() {
    let service = TokenService::start();
    let (tokens, basic) = (
        PrivateRegistry::start_with_tokens(&service),
        PrivateRegistry::start_with(Some(Login { user: "ci", password: "Pa55-of-basic" })),
    );
    let (by_tokens, by_basic) = (tokens.address(), basic.address());
    let settings = format!(
        "{}\n[registries.'{by_basic}']\nusername = 'ci'\npassword = 'Pa55-of-basic'\n",
        service.settings(&by_tokens)
    );
    let farm = with_worker(Farm::builder().tls().config(&settings));
    for (at, credentials) in
        [(&by_tokens, format!("{USER}:{PASSWORD}")), (&by_basic, "ci:Pa55-of-basic".to_owned())]
    {
        let tag = format!("{at}/web/app:1");
        let context = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()));
        submit(&farm, &context, &["-t", &tag, "--platform", PLATFORMS]).ok();
        assert_eq!(tags(&farm, &format!("{at}/web/app")), ["1"]);
        says(&farm.cli(&["rm", &tag]).ok(), &["removed", "2 manifests that nothing else"]);
        assert_eq!(raw_as(&tag, &["--creds", &credentials]), None);
    }
    // A project that may not push there with the farm's login does nothing there, until it has one of its own.
    farm.cli(&["project", "create", "web", "--admin", "ada"]).ok();
    farm.cli(&["member", "set", "pia", "--role", "publisher", "--project", "web"]).ok();
    let token = |who: &str| {
        let made = farm.cli(&["token", "create", "--for", who, "--json"]).json();
        made["secret"].as_str().unwrap().to_owned()
    };
    let (ada, pia) = (token("ada"), token("pia"));
    let by = |token: &str, args: &[&str]| {
        output(farm.command(&[args, &["--project", "web"]].concat()).env("FARM_TOKEN", token))
    };
    let tag = format!("{by_tokens}/web/app:2");
    let context = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()));
    submit(&farm, &context, &["-t", &tag, "--platform", "linux/amd64"]).ok();
    let refusal = by(&ada, &["rm", &tag]);
    assert_eq!(refusal.status, 3, "{refusal:?}");
    says(&refusal.stderr, &["may not push to"]);
    let listed = by(&ada, &["ls", &format!("{by_tokens}/web/app")]);
    assert_eq!(listed.status, 3, "{listed:?}");
    says(&listed.stderr, &["may not pull from"]);
    crate::logins::login(&farm, "web", &by_tokens, "web", &password_of("web")).ok();
    assert_eq!(by(&pia, &["ls", &format!("{by_tokens}/web/app"), "-q"]).ok(), "2\n");
    let refusal = by(&pia, &["rm", &tag]);
    assert_eq!(refusal.status, 3, "{refusal:?}");
    says(&refusal.stderr, &["pia is publisher", "remove images", "admin"]);
    says(&by(&ada, &["rm", &tag]).ok(), &["removed"]);
    assert!(by(&ada, &["ls", &format!("{by_tokens}/web/app")]).stderr.contains("it has no tags"));
}
