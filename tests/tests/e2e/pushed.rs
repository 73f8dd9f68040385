//! From `git push` to the green commit, with nobody in between: a real push, after which the host signs and posts by itself. What was
//! said on the way is printed (`tests/run.sh e2e pushed:: --success-output final`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use farm_tests::bed::Bed;
use farm_tests::browser::Browser;
use farm_tests::farm::{Farm, WorkerSpec, output};
use farm_tests::forge::Forge;
use farm_tests::forge::api::{ForgeApi, TOKEN, Taken};
use farm_tests::git::GitHost;
use farm_tests::ports::free_port;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::*;

/// Somebody's clone.
struct Clone {
    folder: TempDir,
}

impl Clone {
    fn of(host: &GitHost) -> Clone {
        let clone = Clone { folder: Bed::from_env().folder("clone") };
        clone.git(&["clone", "-q", &host.url(), "app"], clone.folder.path());
        clone
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("app")
    }

    fn commit(&self, files: &[(&str, &str)], message: &str) -> String {
        for (name, text) in files {
            fs::write(self.path().join(name), text).unwrap();
        }
        self.git(&["add", "-A"], &self.path());
        self.git(&["commit", "-q", "-m", message], &self.path());
        self.git(&["rev-parse", "HEAD"], &self.path())
    }

    /// Pushes, and prints what is said.
    fn push(&self, refs: &[&str]) {
        let said = self.git(&[&["push", "origin"], refs].concat(), &self.path());
        assert!(said.contains("the farm answers 202"), "{said}");
    }

    /// Runs git, and prints it, but for what only asks.
    fn git(&self, args: &[&str], place: &Path) -> String {
        let mut git = Command::new("git");
        git.args(args).current_dir(place).env("HOME", self.folder.path());
        git.envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")]);
        git.envs([("GIT_AUTHOR_NAME", "ada"), ("GIT_COMMITTER_NAME", "ada")]);
        git.envs([("GIT_AUTHOR_EMAIL", "ada@localhost"), ("GIT_COMMITTER_EMAIL", "ada@localhost")]);
        let done = git.output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "git {args:?}: {said}");
        if args[0] != "rev-parse" {
            println!("$ git {}\n{said}", args.join(" "));
        }
        said.trim().to_owned()
    }
}

fn told(farm: &Farm, args: &[&str]) -> String {
    let said = farm.cli(args).ok();
    println!("$ farm {}\n{said}", args.join(" "));
    said
}

/// The delivery about this ref and commit, once it is over.
fn delivered(farm: &Farm, state: &str, of: &dyn Fn(&Value) -> bool) -> Value {
    until("the delivery is over", LONG, || {
        let listed = farm.cli(&["hook", "deliveries", "app", "--json"]).json();
        let found = listed["deliveries"].as_array().unwrap().iter().find(|one| of(one)).cloned();
        let found = found.filter(|one| one["state"] != "received");
        found.inspect(|one| assert_eq!(one["state"], state, "{one:#}"))
    })
}

fn shown(api: &ForgeApi, commit: &str, context: &str, state: &str) -> Taken {
    let found = api.wait(state, |one| {
        (one.commit.as_str(), one.context.as_str(), one.state.as_str()) == (commit, context, state)
    });
    println!(
        "at {}: {} is {}: {}\n  {}\n",
        &commit[..7],
        found.context,
        found.state,
        found.description,
        found.target
    );
    found
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
    let file = farm.folder().join("hook-token");
    fs::write(&file, TOKEN).unwrap();
    let mut give = farm.command(&["hook", "token", "app", "--file", file.to_str().unwrap()]);
    output(give.env("FARM_INSECURE_HTTP", "1")).ok();
    host.take_pushes(&forge.post_receive(&url));

    let clone = Clone::of(&host);
    clone.git(&["checkout", "-q", "-b", "main"], &clone.path());
    let rules = format!(
        "version: 1\nimages:\n  app:\n    on:\n      push: {{branches: [main]}}\n      tag: {{semver: \"*\"}}\n    platforms: [linux/amd64, \
         linux/arm64]\n    destinations: [{at}/app]\n    tags: [\"{{branch}}\", \"{{semver}}\"]\n"
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
