//! What events make of files, by example.

use std::collections::BTreeSet;

use super::{event, facts, pull_request, push, rules, tag, told};
use crate::{Allowed, Event, EventKind, Facts, Outcome};

const FILE: &str = r##"
version: 1
defaults:
  destinations: [r.example/t/app]
images:
  all:
    on:
      push: {branches: [main, "release/*"]}
      tag: {semver: ">=1"}
      pull_request: {branches: [main]}
      release: {prereleases: false}
      schedule: {nightly: "0 3 * * *"}
      base_image: [python:3.13]
    tags: [latest, "{branch}", "{semver}", "{semver.major}.{semver.minor}", "{semver.major}", "pr-{pr}", {tag: "n-{date}", on: [schedule]}]
"##;

#[track_caller]
fn says(event: &Event, facts: &Facts, lines: &[&str]) {
    assert_eq!(told(&rules(FILE).plan(event, facts)), lines, "{:?}", event.kind);
}

#[test]
fn what_fits_is_built_and_what_does_not_has_a_reason() {
    let none = facts(&[]);
    says(&push("main"), &none, &["all: r.example/t/app:latest r.example/t/app:main"]);
    says(&push("release/1.x"), &none, &["all: r.example/t/app:release-1.x"]);
    says(&push("dev"), &none, &["all: no, branch dev isn't one of main, release/*"]);
    says(&pull_request("main"), &none, &["all: r.example/t/app:pr-7"]);
    says(&pull_request("dev"), &none, &["all: no, pull request 7 goes to dev, which isn't one of main"]);
    says(&tag("nightly"), &none, &["all: no, tag nightly names no version like v1.2.3, so it isn't in >=1"]);
    says(&tag("v0.9.0"), &none, &["all: no, the version of tag v0.9.0 isn't in >=1"]);
    let early = EventKind::Release { tag: "v2.0.0".to_owned(), prerelease: true };
    says(&event(early), &none, &["all: no, v2.0.0 is a pre-release, and it says prereleases: false"]);
    let nightly = |name: &str| event(EventKind::Schedule { name: name.to_owned() });
    says(
        &nightly("nightly"),
        &none,
        &["all: r.example/t/app:latest r.example/t/app:main r.example/t/app:n-20261130"],
    );
    says(&nightly("weekly"), &none, &["all: no, schedule weekly isn't one of nightly"]);
    let moved = |image: &str| event(EventKind::BaseImage { image: image.to_owned() });
    says(
        &moved("docker.io/library/python:3.13"),
        &none,
        &["all: r.example/t/app:latest r.example/t/app:main"],
    );
    says(
        &moved("docker.io/library/node:22"),
        &none,
        &["all: no, docker.io/library/node:22 isn't one of docker.io/library/python:3.13"],
    );
    let other = rules("version: 1\nimages: {a: {on: [push, release]}}").plan(&tag("v1"), &none);
    assert_eq!(told(&other), ["a: no, it is built on push, release, not on tag"]);
}

#[test]
fn tags_that_go_from_version_to_version_never_go_back() {
    let all = "r.example/t/app:latest r.example/t/app:1.2.3 r.example/t/app:1.2 r.example/t/app:1";
    says(&tag("v1.2.3"), &facts(&["v1.2.3", "v1.2.2", "x", "v0.1.0"]), &[&format!("all: {all}")]);
    for (there, moved) in [
        ("v2.0.0", "r.example/t/app:1.2.3 r.example/t/app:1.2 r.example/t/app:1"),
        ("v1.3.0", "r.example/t/app:1.2.3 r.example/t/app:1.2"),
        ("1.2.10", "r.example/t/app:1.2.3"),
        // What comes before a release holds nothing up, and 1.10 comes after 1.9.
        ("v2.0.0-rc.1", all),
        ("v1.2.3+b1", all),
    ] {
        says(&tag("v1.2.3"), &facts(&[there]), &[&format!("all: {moved}")]);
    }
    says(&tag("v1.10.0-rc.1"), &facts(&[]), &["all: r.example/t/app:1.10.0-rc.1"]);

    let plan = rules(FILE).plan(&tag("v1.2.3"), &facts(&["v1.3.0"]));
    let (_, wanted) = plan.builds().next().unwrap();
    let left: Vec<String> = wanted.left_out.iter().map(|out| format!("{}: {}", out.tag, out.why)).collect();
    assert_eq!(
        left,
        [
            "latest: v1.3.0 is newer than v1.2.3",
            "{branch}: tag has no {branch}",
            "{semver.major}: v1.3.0 is newer than v1.2.3",
            "pr-{pr}: tag has no {pr}",
            "n-{date}: it is given on schedule, not on tag",
        ]
    );
}

#[test]
fn latest_is_the_default_branchs_however_it_is_written() {
    let file = rules(
        "version: 1\nimages: {a: {on: [push], destinations: [r.example/a], tags: [latest, \"{branch}\"]}}",
    );
    let why = |event: &Event| {
        let plan = file.plan(event, &facts(&[]));
        let Outcome::Build(wanted) = &plan.images[0].outcome else { panic!("{plan:?}") };
        let left: Vec<String> = wanted.left_out.iter().map(|out| out.why.to_string()).collect();
        (told(&plan), left)
    };
    let (told, left) = why(&push("latest"));
    assert_eq!(told, ["a: "]);
    assert_eq!(left, vec!["branch latest isn't the default branch, main"; 2]);
    let (told, left) = why(&Event { default_branch: None, ..push("main") });
    assert_eq!(
        (told, left),
        (
            vec!["a: r.example/a:main".to_owned()],
            vec!["it isn't known which branch is the default one".to_owned()]
        )
    );
}

#[test]
fn files_that_changed_markers_and_needs_decide_with_the_rest() {
    let file = rules(
        "version: 1\ndefaults: {on: [push, tag]}\nimages:\n  web: {needs: [base], paths: [web, \"!**/*.md\"]}\n  \
         base: {paths: [\"base/**\"]}\n  docs: {paths: [\"!web\"], needs: [web]}\n  rest: {}\n",
    );
    let plan = |changed: &[&str], message: &str| {
        let changed = Some(changed.iter().map(|path| (*path).to_owned()).collect());
        told(&file.plan(&Event { changed, message: message.to_owned(), ..push("main") }, &facts(&[])))
    };
    // Behind what it needs, whatever the file's order.
    assert_eq!(
        plan(&["web/a.js"], ""),
        ["base: no, the changed file isn't one of base/**", "web: ", "docs: ", "rest: "]
    );
    assert_eq!(
        plan(&["web/a.md", "web/b/README.md"], ""),
        [
            "base: no, none of 2 changed files is one of base/**",
            "web: no, none of 2 changed files is one of web, !**/*.md",
            "docs: no, none of 2 changed files is one of !web",
            "rest: ",
        ]
    );
    assert_eq!(plan(&["base/Dockerfile"], ""), ["base: ", "web: ", "docs: ", "rest: "]);
    assert_eq!(plan(&[], "")[0], "base: no, no file was changed");
    assert!(
        plan(&["base/x", "web/x"], "Typo [skip ci]")
            .iter()
            .all(|line| line.ends_with("the commit's message says [skip ci]"))
    );
    let tagged = Event { message: "Release [skip ci]".to_owned(), changed: Some(Vec::new()), ..tag("v1") };
    assert_eq!(told(&file.plan(&tagged, &facts(&[]))), ["base: ", "web: ", "docs: ", "rest: "]);

    // More than anybody would look through: then it isn't known.
    let most = format!("version: 1\nimages: {{a: {{on: [push], paths: [\"{}\"]}}}}", "*a".repeat(2000));
    let changed = Some(vec!["b".repeat(1000); 1000]);
    assert_eq!(told(&rules(&most).plan(&Event { changed, ..push("main") }, &facts(&[]))), ["a: "]);

    let changed = Some(vec!["base/Dockerfile".to_owned()]);
    let plan = file.plan(&Event { changed, ..push("main") }, &facts(&[]));
    let built: Vec<_> = plan
        .builds()
        .map(|(image, wanted)| (image.name.as_str(), wanted.needs.clone(), wanted.because_of.clone()))
        .collect();
    let base = || vec!["base".to_owned()];
    assert_eq!(built[0], ("base", vec![], None));
    assert_eq!(built[1], ("web", base(), Some("base".to_owned())));
    assert!(built.iter().all(|(name, needs, _)| *name != "docs" || *needs == ["web"]));
}

#[test]
fn newer_builds_end_older_ones_of_branches_and_proposals_unless_the_file_says_so() {
    let file =
        |more: &str| rules(&format!("version: 1\nimages: {{a: {{on: [push, tag, pull_request]{more}}}}}"));
    let ends = |more: &str, event: &Event| {
        file(more).plan(event, &facts(&[])).builds().all(|(_, wanted)| wanted.supersedes)
    };
    let events = [push("main"), pull_request("main"), tag("v1")];
    for (more, expected) in [
        ("", [true, true, false]),
        (", concurrency: {supersede: true}", [true; 3]),
        (", concurrency: {supersede: false}", [false; 3]),
    ] {
        assert_eq!(events.clone().map(|event| ends(more, &event)), expected, "{more}");
    }
}

#[test]
fn what_the_project_does_not_allow_is_told_with_its_place_and_is_not_dropped() {
    let file = rules(
        "version: 1\nimages:\n  a:\n    on: [push]\n    destinations: [r.example/web/app, other.example/x, own.example/y]\n    \
         tags: [latest, \"{branch}\"]\n    secrets: {id: npm, two: pypi}\n",
    );
    let plan = file.plan(&push("main"), &facts(&[]));
    let allowed = Allowed {
        signing_keys: BTreeSet::new(),
        is_fork: false,
        push: vec!["r.example/web".parse().unwrap()],
        registries: ["own.example".parse().unwrap()].into(),
        protected: vec!["lat*".parse().unwrap()],
        secrets: ["npm".parse().unwrap()].into(),
    };
    let told: Vec<String> = plan.refused(&allowed).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(
        told[0].starts_with(
            "5:5: images.a.destinations \"other.example/x\": the project may push to r.example/web; "
        ),
        "{told:#?}"
    );
    assert!(told[1].starts_with("6:5: images.a.tags \"latest\": tags like lat* are protected"), "{told:#?}");
    assert!(told[2].starts_with("7:5: images.a.secrets \"pypi\": "), "{told:#?}");

    let all = Allowed { push: vec!["*".parse().unwrap()], protected: Vec::new(), ..allowed };
    let all = Allowed { secrets: BTreeSet::from(["npm".parse().unwrap(), "pypi".parse().unwrap()]), ..all };
    assert_eq!(plan.refused(&all), None);
    // What a fork proposes is published nowhere, and has no secrets, whatever is allowed.
    let mut proposed = plan.clone();
    proposed.publish_nothing();
    let told = proposed.refused(&Allowed { is_fork: true, ..Allowed::default() }).unwrap();
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    assert!(told.len() == 2 && told.iter().all(|one| one.contains("are given no secrets")), "{told:#?}");
    // What isn't built asks for nothing.
    assert_eq!(file.plan(&tag("v1"), &facts(&[])).refused(&Allowed::default()), None);
}

#[test]
fn a_gate_is_a_command_or_a_list_and_an_image_has_its_own_in_the_place_of_the_defaults() {
    let file = rules(
        r#"
version: 1
defaults: {on: [push], gate: "python -c 'import app'"}
images:
  shared: {}
  own: {gate: [/app, --self-test, 7, "a \"b\""]}
  shell: {gate: true}
  array: {gate: '["/app"]'}
"#,
    );
    let plan = file.plan(&push("main"), &facts(&[]));
    let gates: Vec<String> =
        plan.builds().map(|(_, wanted)| wanted.gate.as_ref().unwrap().to_string()).collect();
    assert_eq!(
        gates,
        ["python -c 'import app'", r#"["/app","--self-test","7","a \"b\""]"#, "true", r#"["/app"]"#]
    );
    let without = rules("version: 1\nimages: {a: {on: [push]}}").plan(&push("main"), &facts(&[]));
    assert!(without.builds().all(|(_, wanted)| wanted.gate.is_none()));
}

#[test]
fn what_is_published_is_signed_by_a_key_that_the_event_may_have() {
    let file = rules(
        r#"
version: 1
defaults: {on: [push, pull_request], destinations: [r.example/t/app], sign: release}
images:
  shared: {tags: ["{branch}"]}
  own: {sign: nightly, tags: ["own-{branch}"]}
  untagged: {sign: other, tags: ["pr-{pr}"]}
"#,
    );
    let plan = file.plan(&push("main"), &facts(&[]));
    let keys: Vec<&str> = plan.builds().map(|(_, wanted)| wanted.sign.as_ref().unwrap().as_str()).collect();
    assert_eq!(keys, ["release", "nightly", "other"]);
    let allowed = Allowed {
        push: vec!["*".parse().unwrap()],
        signing_keys: BTreeSet::from(["release".parse().unwrap()]),
        ..Allowed::default()
    };
    let told = plan.refused(&allowed).unwrap();
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(
        told[0].starts_with("6:9: images.own.sign \"nightly\": the project has no such signing key"),
        "{told:#?}"
    );
    // What gets no tag isn't signed, and a fork's gets none.
    let mut proposed = file.plan(&pull_request("main"), &facts(&[]));
    proposed.publish_nothing();
    assert_eq!(proposed.refused(&Allowed { is_fork: true, ..Allowed::default() }), None);
}
