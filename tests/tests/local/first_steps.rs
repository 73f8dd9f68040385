//! The guide of the first steps, walked with farm's own verbs: each command is run as the guide has it, and has to be there.
//!
//! What stands for what can't be had here: the farm's registry is at another port than 5002; `registry.example` is a second registry on this
//! machine, with a login; and Docker Hub's `python:3.11-slim` is the bed's stand-in for it, so that the source of the mirror is named in full.

use std::io::Write as _;
use std::process::Stdio;

use farm_tests::bed::Bed;
use farm_tests::registry::{Login, PrivateRegistry};
use tempfile::TempDir;

use crate::support::Local;

const GUIDE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guide/first-steps.md"));
const USER: &str = "team";
const PASSWORD: &str = "Pa55-of-the-team";

/// Whoever walks.
struct Walk {
    local: Local,
    other: PrivateRegistry,
    /// The example, whose Dockerfile names its bases at this farm's registry.
    example: TempDir,
}

/// The example of the guide, with this registry in the place of `localhost:5002`.
fn example(registry: &str) -> TempDir {
    let copy = Bed::from_env().folder("example");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/multiarch");
    for file in std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()) {
        let text = std::fs::read_to_string(&file).unwrap().replace("localhost:5002", registry);
        std::fs::write(copy.path().join(file.file_name().unwrap()), text).unwrap();
    }
    copy
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
        let (hub, registry) = (&Bed::from_env().registry, self.local.registry());
        let real = words
            .replace("localhost:5002", &registry)
            .replace("python:3.11-slim", &format!("{hub}/python:3.11-slim {registry}/python:3.11-slim"))
            .replace("registry.example", &self.other.address())
            .replace("examples/multiarch", self.example.path().to_str().unwrap());
        let words: Vec<&str> = real.split(' ').skip(1).collect();
        let mut farm = self.local.command(&words);
        // By it the farm of this machine is called where a password is sent; it looks for it in the usual folder itself.
        farm.env("FARM_CA", self.local.state().join("ca.pem"));
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
    let tables = [&other.address(), &Bed::from_env().registry].map(|at| format!("[registries.\"{at}\"]\n"));
    std::fs::write(&settings, tables.concat()).unwrap();
    let up = local.up_with(&["--config", settings.to_str().unwrap()]);
    assert_eq!(up.status, 0, "{up:?}");
    says(&up.stdout, &["the farm is up"]);
    let example = example(&local.registry());
    let walk = Walk { local, other, example };

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
    // Both tags are one image's, and this registry takes no tag away without that.
    let tags = ["latest", "1.0"].map(|tag| format!("{}/multiarch-example:{tag}", walk.local.registry()));
    let alone = walk.local.farm(&["rm", &tags[1]]);
    assert!(alone.status != 0 && format!("{alone:?}").contains("latest"), "{alone:?}");
    let gone = walk.local.farm(&["rm", &tags[0], &tags[1]]);
    assert_eq!(gone.status, 0, "{gone:?}");
    walk.agreeing("farm prune --workers --keep-size 0");
    let left = walk.local.farm(&["ls", &format!("{}/multiarch-example", walk.local.registry())]);
    assert!(!left.stdout.contains("latest") && !left.stdout.contains("1.0"), "{left:?}");
    let down = walk.local.farm(&["down", "--purge", "--yes"]);
    assert_eq!(down.status, 0, "{down:?}");
}
