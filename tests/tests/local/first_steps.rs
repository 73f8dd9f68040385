//! The guide of the first steps, walked with farm's own verbs: each command is run as the guide has it, and has to be there.
//!
//! What stands for what can't be had here: the farm's registry is at another port than 5002; `registry.example` is a second registry on this
//! machine, with a login; and Docker Hub's `python:3.11-slim` is the bed's stand-in for it, so that the source of the mirror is named in full.

use std::io::Write as _;
use std::process::Stdio;

use farm_tests::bed::Bed;
use farm_tests::registry::{Login, PrivateRegistry};

use crate::support::Local;

const GUIDE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guide/first-steps.md"));
const USER: &str = "team";
const PASSWORD: &str = "Pa55-of-the-team";

/// Whoever walks.
struct Walk {
    local: Local,
    other: PrivateRegistry,
}

impl Walk {
    /// Runs a command of the guide's; what it prints.
    fn run(&self, command: &str) -> String {
        self.typing(command, command, "")
    }

    /// The same of one that asks first.
    fn agreeing(&self, command: &str) -> String {
        self.typing(command, &format!("{command} --yes"), "")
    }

    /// The same, in other words, and with this for what it asks.
    fn typing(&self, command: &str, words: &str, typed: &str) -> String {
        assert!(GUIDE.contains(command), "the guide has no {command:?}");
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../");
        let (hub, registry) = (&Bed::from_env().registry, self.local.registry());
        let real = words
            .replace("localhost:5002", &registry)
            .replace("python:3.11-slim", &format!("{hub}/python:3.11-slim {registry}/python:3.11-slim"))
            .replace("registry.example", &self.other.address())
            .replace("examples/multiarch", &format!("{root}examples/multiarch"));
        let words: Vec<&str> = real.split(' ').skip(1).collect();
        let mut farm = self.local.command(&words);
        farm.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = farm.spawn().unwrap();
        child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8(done.stdout).unwrap();
        println!("$ {command}\n{said}");
        assert!(done.status.success(), "{real}: {said}\n{}", String::from_utf8_lossy(&done.stderr));
        said
    }
}

/// The digest on a line of `farm inspect`.
fn digest(inspected: &str) -> &str {
    inspected.lines().nth(1).unwrap().split(' ').next().unwrap()
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

pub fn walk() {
    let other = PrivateRegistry::start_with(Some(Login { user: USER, password: PASSWORD }));
    let local = Local::new();
    // The coordinator of the guide asks what is named to it, and public addresses.
    let folder = Bed::from_env().folder("walk");
    let settings = folder.path().join("farm.toml");
    std::fs::write(&settings, format!("[registries.\"{}\"]\n", other.address())).unwrap();
    let up = local.up_with(&["--config", settings.to_str().unwrap()]);
    assert_eq!(up.status, 0, "{up:?}");
    says(&up.stdout, &["the farm is up"]);
    let walk = Walk { local, other };

    let mirrored =
        walk.run("farm mirror python:3.11-slim --platform linux/amd64,linux/arm64 --per-arch-tags");
    says(&mirrored, &["python:3.11-slim-amd64", "python:3.11-slim-arm64"]);
    let built = walk.run(
        "farm submit examples/multiarch -t localhost:5002/multiarch-example:latest --platform linux/amd64,linux/arm64",
    );
    says(&built, &["native on w-amd64", "emulated on w-qemu", "published", "(2 platforms)"]);
    let inspected = walk.run("farm inspect localhost:5002/multiarch-example:latest");
    says(&inspected, &["OCI index, 2 platforms", "linux/amd64", "linux/arm64"]);
    let ran = walk.run("farm run localhost:5002/multiarch-example:latest --platform linux/arm64");
    says(&ran, &["Architecture: aarch64"]);
    let tested = walk.run("farm test localhost:5002/multiarch-example:latest");
    says(&tested, &["Architecture: x86_64", "both platforms ended with exit code 0"]);

    // A person is asked for both; what is no terminal says them.
    walk.typing(
        "farm registry login registry.example",
        &format!("farm registry login registry.example -u {USER} --password-stdin"),
        PASSWORD,
    );
    let promoted = walk.run(
        "farm promote localhost:5002/multiarch-example:latest registry.example/team/multiarch-example:1.0",
    );
    says(&promoted, &["promoted in"]);
    let there =
        walk.local.farm(&["inspect", &format!("{}/team/multiarch-example:1.0", walk.other.address())]);
    assert_eq!(digest(&there.stdout), digest(&inspected), "{there:?}");
    walk.run("farm tag localhost:5002/multiarch-example:latest 1.0");

    says(&walk.run("farm du"), &["w-amd64"]);
    let listed = walk.local.farm(&["ls", &format!("{}/multiarch-example", walk.local.registry())]).stdout;
    says(&listed, &["latest", "1.0"]);
    walk.agreeing("farm prune --registry localhost:5002/multiarch-example --keep-last 5");
    let removed = format!("{}/multiarch-example:1.0", walk.local.registry());
    assert_eq!(walk.local.farm(&["rm", &removed]).status, 0);
    walk.agreeing("farm prune --workers --keep-size 0");
    let listed = walk.local.farm(&["ls", &format!("{}/multiarch-example", walk.local.registry())]).stdout;
    assert!(listed.contains("latest") && !listed.contains("1.0"), "{listed}");
    let down = walk.local.farm(&["down", "--purge", "--yes"]);
    assert_eq!(down.status, 0, "{down:?}");
}
