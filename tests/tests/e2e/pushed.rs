//! From `git push` to the green commit, with nobody in between: a real push, after which the host signs and posts by itself. What was
//! said on the way is printed (`tests/run.sh e2e pushed:: --success-output final`).

use farm_tests::browser::Browser;
use farm_tests::farm::{Farm, WorkerSpec};
use farm_tests::forge::Forge;
use farm_tests::forge::api::ForgeApi;
use farm_tests::git::GitHost;
use farm_tests::ports::free_port;

use crate::pushing::{Clone, delivered, give_token, post_receive, shown};
use crate::support::*;

fn told(farm: &Farm, args: &[&str]) -> String {
    let said = farm.cli(args).ok();
    println!("$ farm {}\n{said}", args.join(" "));
    said
}

#[test]
fn a_push_is_a_green_commit_with_a_page_and_a_wrong_file_is_a_red_one() {
    let (host, port, at, api) = (GitHost::start(), free_port(), repository("pushed"), ForgeApi::start());
    let (listen, page) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{port}"));
    let worker = WorkerSpec::new("w1").platforms(BOTH).slots(2).arg("--fetch-from").arg(&host.place());
    let builder = Farm::builder().arg("--hooks-listen").arg(&listen).arg("--web-listen").arg(&listen);
    let farm = builder.arg("--public-url").arg(&page).arg("--insecure-secrets").worker(worker).start();
    let (place, url) = (host.place(), host.url());
    let add = [
        "hook",
        "add",
        "github",
        "acme/app",
        "--host",
        &place,
        "--clone-url",
        &url,
        "--api-url",
        &api.url(),
        "--json",
    ];
    let forge = Forge::of(port, &farm.cli(&add).json());
    give_token(&farm, &[]);
    host.take_pushes(&post_receive(&forge, &url));

    let clone = Clone::of(&host.url(), &[]);
    clone.git(&["checkout", "-q", "-b", "main"], &clone.path());
    let rules = format!(
        "version: 1\nimages:\n  app:\n    on:\n      push: {{branches: [main]}}\n      tag: {{semver: \"*\"}}\n    platforms: [linux/amd64, \
         linux/arm64]\n    gate: grep 64 /which\n    destinations: [{at}/app]\n    tags: [\"{{branch}}\", \"{{semver}}\"]\n"
    );
    let dockerfile = format!(
        "FROM {BASE}\nRUN echo {} > /which && uname -m >> /which\nCMD [\"cat\", \"/which\"]\n",
        nonce()
    );
    let first = clone.commit(&[(".farm.yaml", &rules), ("Dockerfile", &dockerfile)], "first");
    clone.push(&["main"]);
    let done = delivered(&farm, "done", &|one| one["event"] == "push");
    let build = done["builds"][0].as_str().unwrap();
    let green = shown(&api, &first, "farm/app", "success");
    told(&farm, &["hook", "deliveries", "app"]);
    told(&farm, &["show", build]);
    let record = show(&farm, build);
    assert_eq!(
        (&record["gate"], &record["platforms"][1]["gate"]),
        (&"grep 64 /which".into(), &"passed".into()),
        "{record:#}"
    );
    let image = format!("{at}/app:main");
    for platform in ["linux/amd64", "linux/arm64"] {
        let said = run_image(platform, &image, &[]);
        println!("$ docker run --platform {platform} {image}\n{said}");
        assert!(said.contains(if platform == "linux/amd64" { "x86_64" } else { "aarch64" }), "{said}");
    }
    // The status leads to the build's page, for whoever is known.
    let path = green.target.as_str().unwrap().strip_prefix(&page).unwrap().to_owned();
    let bearer = format!("Bearer {}", farm.token());
    let opened = Browser::new(port).ask("GET", &path, &[("authorization", &bearer)], "");
    assert!(
        opened.status == 200 && opened.body.contains(&first[..7]) && opened.body.contains("app"),
        "{opened:?}"
    );

    // A branch and a tag by one push are two deliveries.
    let second = clone.commit(&[("more", "2\n")], "second");
    clone.git(&["tag", "v1.2.0"], &clone.path());
    clone.push(&["main", "v1.2.0"]);
    shown(&api, &second, "farm/app", "success");
    delivered(&farm, "done", &|one| one["git_ref"] == "refs/tags/v1.2.0");
    until("the tag is there", LONG, || raw(&format!("{at}/app:1.2.0")));
    let newest = raw(&image);

    let third = clone.commit(&[(".farm.yaml", &rules.replace("platforms", "platfroms"))], "a typing error");
    clone.push(&["main"]);
    let red = shown(&api, &third, "farm", "failure");
    says(&red.description, &[".farm.yaml: 7:5", "platforms"]);
    told(&farm, &["hook", "deliveries", "app"]);
    assert_eq!(raw(&image), newest);
}
