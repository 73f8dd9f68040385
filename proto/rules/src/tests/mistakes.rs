//! Files with mistakes, and what is told of them.

use proptest::prelude::*;

use crate::Rules;

/// Files that are right, in forms that the documentation's examples don't have.
pub(super) const RIGHT: [&str; 4] = [
    "{version: 1, images: {a: {on: [push]}}}",
    "\u{feff}version: 1\nimages:\n  a:\n    on: {push: , tag: ~, base_image: null}\n",
    "version: 1\nimages:\n  a:\n    on: [tag]\n    destinations: [r.example/a]\n    tags: [1.0, {tag: x, on: [tag]}]\n",
    "version: 1\nimages:\n  a:\n    on:\n      tag: {semver: 1, prereleases: false}\n    secrets: {id: name}\n    paths: [\"!docs\"]\n",
];

/// A file, and all that is told of it.
pub(super) const MISTAKES: [(&str, &str); 20] = [
    (r"", r#"1:1: file "": it says nothing; write version: 1, and what is to be built in images"#),
    (
        r"images: {a: {on: [push]}",
        r#"2:1: line "": this is no YAML: while parsing a flow mapping, did not find expected ',' or '}'"#,
    ),
    (
        r"version: 2
imagse: 1",
        r#"1:10: version "2": this farm knows version 1; write version: 1
2:1: key "imagse": unknown key; did you mean images?"#,
    ),
    (
        r"version: 1
imagse: {}",
        r#"1:1: key "images": it isn't there; write what is to be built, like images: {app: {on: [push]}}
2:1: key "imagse": unknown key; did you mean images?"#,
    ),
    (r"- version: 1", r#"1:1: file "[…]": write keys and values here; there are version, defaults, images"#),
    (
        r"version: 1
images: {}",
        r#"2:9: images "{…}": write names and values here, like {app: {on: [push]}}"#,
    ),
    (
        r"version: 1
images:
  App: {on: [push]}
  a: {}
  b:
  c: {on: [pushes, merge_request, schedule, push, push], file: x, colour: red}",
        r#"3:3: name of an image "App": write 1 to 64 small letters, digits, -, _ and ., a letter or digit first
4:3: image "a": it doesn't say when it is built; write on, like on: [push]
5:4: images.b "": write keys and values here; there are on, paths, dockerfile, context, target, platforms, build_args, labels, tags, destinations, secrets, emulation, lfs, verify, verify_except, concurrency, needs, optional, gate, sign
6:12: images.c.on "pushes": unknown event; there are push, tag, pull_request, release, schedule, base_image
6:20: images.c.on "merge_request": unknown event; write pull_request
6:35: images.c.on "schedule": in a list it has no times; write when it comes, like schedule: {nightly: "0 3 * * *"}
6:51: images.c.on "push": it stands here twice; leave one of them
6:58: images.c "file": unknown key; write dockerfile
6:67: images.c "colour": unknown key; there are on, paths, dockerfile, context, target, platforms, build_args, labels, tags, destinations, secrets, emulation, lfs, verify, verify_except, concurrency, needs, optional, gate, sign"#,
    ),
    (
        r"version: 1
defaults: {needs: [a], platforms: [linux/arm46], gate: {}}
images:
  a: {on: push}
  b: {on: {push: [main], tag: {tag: v1}, schedule: , pull_request: {branches: []}}}",
        r#"2:12: defaults "needs": unknown key; there are on, paths, dockerfile, context, target, platforms, build_args, labels, tags, destinations, secrets, emulation, lfs, verify, verify_except, concurrency, optional, gate, sign
2:36: defaults.platforms "linux/arm46": unknown architecture "arm46"; did you mean arm64?
2:56: defaults.gate "{…}": write a command here, or a list of a program and its arguments
4:11: images.a.on "push": write a list, like [push]
5:18: images.b.on.push "[…]": write the branches under branches, like {branches: [main]}
5:32: images.b.on.tag "tag": unknown key; did you mean tags?
5:50: images.b.on.schedule "": write when it comes, like schedule: {nightly: "0 3 * * *"}
5:79: images.b.on.pull_request.branches "[…]": it is empty; leave it out, or write what is meant"#,
    ),
    (
        r#"version: 1
images:
  a:
    on:
      push: {branches: [refs/heads/main, "a b", "x[", main, main], paths-ignore: [x]}
      tag: {semver: ">>1", prereleases: yes}
      schedule: {nightly: "0 25 * * *", Never: "0 0 30 2 *"}
      base_image: [https://x]"#,
        r#"5:25: images.a.on.push.branches "refs/heads/main": names of branches stand here without refs/heads/; write main
5:42: images.a.on.push.branches "a b": no name of a branch or tag has ' ', so it fits none
5:49: images.a.on.push.branches "x[": a class needs its ]; write \[ for the bracket itself
5:61: images.a.on.push.branches "main": it stands here twice; leave one of them
5:68: images.a.on.push "paths-ignore": unknown key; write paths of the image, beside on, with ! in front of what is left out
6:21: images.a.on.tag.semver ">>1": it is no range of versions; write one like ">=1.2, <3", "1.2" (what is compatible with it) or "*"
6:41: images.a.on.tag.prereleases "yes": write true or false
7:27: images.a.on.schedule.nightly "0 25 * * *": "25" is no hour; write numbers from 0 to 23, or *, a-b, a,b, */n of them
7:41: name of a schedule "Never": write 1 to 64 small letters, digits, -, _ and ., a letter or digit first
7:48: images.a.on.schedule.Never "0 0 30 2 *": that day never comes; write one that is in the calendar
8:20: images.a.on.base_image "https://x": leave the scheme out; write REGISTRY/REPO:TAG, for example localhost:5002/app:latest"#,
    ),
    (
        r#"version: 1
images:
  a:
    on: [push, pull_request]
    dockerfile: ../Dockerfile
    context: https://example.com/x.git
    target: two words
    platforms: [linux/amd64, linux/amd64]
    build_args: {A: , "B C": 1, D: [x]}
    labels: x
    emulation: sometimes
    concurrency: {supersede: "true", group: x}
    destinations: [registry.example/App, registry.example/app:1]
    tags: ["{branc}", "a/b", "{semver}", {on: [tag]}, {tag: x, on: [tag]}, {tag: x, on: [psh]}]
    secrets: [a b]
    paths: ["../x", "a["]
    needs: [web, a]
    gate: ["", x]
    optional: [linux/arm64]"#,
        r#"5:17: images.a.dockerfile "../Dockerfile": it leads out of the repository; write a path in it, without ..
6:14: images.a.context "https://example.com/x.git": only this repository's own files are taken; write a path in it
7:13: images.a.target "two words": no stage is called so; write its name as it stands behind AS
8:30: images.a.platforms "linux/amd64": it stands here twice; leave one of them
9:19: images.a.build_args.A "": it says nothing; write a value, or leave the key out
9:23: images.a.build_args "B C": write 1 to 255 bytes without blanks and =
9:36: images.a.build_args.D "[…]": write one value here
10:13: images.a.labels "x": write names and values here, like {org.opencontainers.image.title: app}
11:16: images.a.emulation "sometimes": write never, fallback, fallback=DURATION (like fallback=90s or fallback=10m) or allow
12:30: images.a.concurrency.supersede "true": write true or false
12:38: images.a.concurrency "group": unknown key; there is only supersede
13:20: images.a.destinations "registry.example/App": a repository has no capital letters; write "registry.example/app"
13:42: images.a.destinations "registry.example/app:1": leave the tag out; write REGISTRY/REPO
14:12: images.a.tags "{branc}": {branc} is no word of tags; did you mean {branch}?
14:23: images.a.tags "a/b": a tag can't have '/', only letters, digits, _, . and -; registries and repositories stand in destinations
14:30: images.a.tags "{semver}": no event gives it: {semver} is of tag, release, and the image is built on push, pull_request
14:42: images.a.tags "{…}": it has no tag; write tag, like {tag: nightly, on: [schedule]}
14:55: images.a.tags "{…}": no event gives it: it is for tag, and the image is built on push, pull_request
14:90: images.a.tags.on "psh": unknown event; did you mean push?
15:15: images.a.secrets "a b": write 1 to 64 letters, digits, -, _ and ., a letter or digit first
16:13: images.a.paths "../x": no file of the repository fits it; write a pattern like src/** or !**/*.md
16:21: images.a.paths "a[": a class needs its ]; write \[ for the bracket itself
17:13: images.a.needs "web": no image of this file is called so; there are a
18:11: images.a.gate "[…]": the program has no name; write it like ["/app", "--self-test"]
19:16: images.a.optional "linux/arm64": it isn't one of the image's platforms; name it in platforms as well, or leave it out here"#,
    ),
    (
        r#"version: 1
images:
  a: {on: [pull_request], destinations: [r.example/a], tags: [latest]}
  b: {on: [push], destinations: [r.example/b]}
  c: {on: [push], tags: ["{branch}"]}"#,
        r#"3:63: images.a.tags "latest": no event gives it: pull requests only give tags with {pr}; write one, like pr-{pr}
4:3: image "b": it has destinations and no tags; write tags, like tags: ["{branch}"]
5:3: image "c": it has tags and no destinations; write destinations, like destinations: [registry.example/team/app]"#,
    ),
    (
        r"version: 1
images:
  base: {on: [push], needs: [web]}
  web: {on: [push], needs: [bas, api]}",
        r#"4:29: images.web.needs "bas": no image of this file is called so; did you mean base?
4:34: images.web.needs "api": no image of this file is called so; there are base, web"#,
    ),
    (
        r"version: 1
images:
  top: {on: [push], needs: [web]}
  base: {on: [push], needs: [web]}
  web: {on: [push], needs: [api]}
  api: {on: [push], needs: [base]}",
        r#"5:29: images.web.needs "api": a circle: web needs api needs base needs web; leave one of these out"#,
    ),
    (
        r"version: 1
images:
  a: {on: [push], needs: [a]}",
        r#"3:27: images.a.needs "a": it needs itself; leave that out"#,
    ),
    (
        r"version: 1
version: 1
images: {a: &x {on: [push]}, b: *x}",
        r#"2:1: key "version": it stands here twice; leave one of them
3:13: line "images: {a: &x {on: [push]}, b: *x}": anchors and aliases aren't taken; write it out, or once in defaults"#,
    ),
    (
        r"version: 1
images: {a: {on: [push], target: !!str x}}",
        r#"2:34: line "images: {a: {on: [push], target: !!str x}}": types like !!str aren't taken; write the value alone, in quotes if it is to be a text"#,
    ),
    (
        r"version: 1
images: {a: {on: [push], b: [[[[[[[x]]]]]]]}}",
        r#"2:34: line "images: {a: {on: [push], b: [[[[[[[x]]]]]]]}}": it is nested too deeply; nothing in this file is"#,
    ),
    (
        r"version: 1
images: {a: {on: [push]}}
---
version: 1",
        r#"3:1: line "---": a file has one document; remove what follows"#,
    ),
    (
        r"version: 1
images: {[a]: {on: [push]}}",
        r#"2:10: key "[…]": write a word as the key"#,
    ),
    (
        r"version: 1
images:
	a: {on: [push]}",
        r#"3:2: line "a: {on: [push]}": this is no YAML: tabs disallowed within this context (block indentation)"#,
    ),
];

#[test]
fn all_mistakes_are_told_at_once_with_their_places_and_cures() {
    let mut differing = Vec::new();
    for (text, told) in MISTAKES {
        let problems = Rules::parse(text).map(|_| ()).expect_err(text).to_string();
        if problems != told {
            differing.push(format!("--- {text}\n--- is told\n{problems}"));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

/// The format's limits, and texts made to be slow.
#[test]
fn large_and_deep_files_are_refused() {
    let images =
        |count: usize| -> String { (0..count).map(|i| format!("  i{i}: {{on: [push]}}\n")).collect() };
    assert_eq!(Rules::parse(&format!("version: 1\nimages:\n{}", images(100))).unwrap().images().len(), 100);
    let told = |text: &str| Rules::parse(text).unwrap_err().to_string();
    assert!(told(&format!("version: 1\nimages:\n{}", images(101))).contains("at most 100"));
    assert!(told(&"x".repeat(64 * 1024 + 1)).contains("at most 65536"));
    for begin in ["[", "{", "- ", "? ", "a: ", "{a: ", "!x ", "&x ", "'", "\"", "|\n", "\t", "%", "--- "] {
        let text: String = begin.repeat(64 * 1024 / begin.len());
        assert!(Rules::parse(&text).is_err(), "{begin:?}");
    }
    let names: Vec<String> = (0..101).map(|i| format!("b{i}")).collect();
    let many = format!("version: 1\nimages: {{a: {{on: {{push: {{branches: [{}]}}}}}}}}", names.join(", "));
    assert!(told(&many).contains("it has 101 entries"));
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "([a-z]{1,3}: |- |\\[|\\]|\\{|\\}|[\"'&*!|>#,?:%~]|\n *|on|push|\\PC){0,40}") {
        let _ = Rules::parse(&format!("version: 1\nimages:\n  a: {text}"));
        let _ = Rules::parse(&text);
    }
}
