//! The guide for webhooks, run as it is written: from an empty project to a green commit, and on. The forge is a fake of GitHub's API
//! ([`farm_tests::forge::api`]) beside a git repository that is real, which posts what is pushed as GitHub does.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use farm_tests::bed::Bed;
use farm_tests::environment;
use farm_tests::farm::{Farm, Output, WorkerSpec, binary, output};
use farm_tests::forge::Forge;
use farm_tests::forge::api::{ForgeApi, TOKEN};
use farm_tests::git::GitHost;
use farm_tests::ports::free_port;
use serde_json::json;
use tempfile::TempDir;

use crate::guide::{Block, Examples, Kind, blocks};
use crate::pushing::post_receive;
use crate::support::*;
use crate::terminal::Terminal;

const GUIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guide/webhooks.md");

/// Deliveries, builds and a commit that the guide has examples for.
const EXAMPLES: &[&str] = &[
    PING,
    "3f9b6c1e-0d7a-4c52-9a41-6be0d7c2f815",
    PROPOSED,
    "7f3k2m",
    "9d2h6v",
    "k4n1pd",
    "m4x9qd",
    "b6t8rj",
    "q5w8zt",
    HEAD,
    SHORT_HEAD,
];
const PING: &str = "8c02d9f4-5b1e-4e77-b0a6-2f4d9e6a1c30";
const PROPOSED: &str = "e41f07b2-93c8-4d15-8a6b-07d52c9be3f4";
const HEAD: &str = "4a1c0de51c0a77b8e2d94f06c3a5b1d8e7f60294";
const SHORT_HEAD: &str = "4a1c0de51c0a";

/// Where the guide is followed.
struct World {
    farm: Farm,
    host: GitHost,
    api: ForgeApi,
    port: u16,
    registry: String,
    homes: TempDir,
    ada: String,
    examples: Examples,
}

impl World {
    /// With the flags of the coordinator that the guide says.
    fn new(first: &Block) -> World {
        let (host, port, registry) = (GitHost::start(), free_port(), repository("team"));
        assert_eq!(first.kind, Kind::Commands("coordinator"), "{first:?}");
        let (_, flags) = first.text.split_once("farm-coordinator … ").unwrap();
        let flags = at_home(flags, port);
        let worker = WorkerSpec::new("w1").platforms("linux/amd64").arg("--fetch-from").arg(&host.place());
        let builder = flags.split(' ').fold(Farm::builder(), |builder, flag| builder.arg(flag));
        // Secrets go over no other connection than one with TLS; here all are on this machine.
        let farm = builder.arg("--insecure-secrets").worker(worker).start();
        host.commit(&[("Dockerfile", &format!("FROM scratch\nLABEL of={}\nCOPY Dockerfile /\n", nonce()))]);
        let homes = Bed::from_env().folder("homes");
        let examples = Examples::new(EXAMPLES);
        let world =
            World { farm, host, api: ForgeApi::start(), port, registry, homes, ada: String::new(), examples };
        let home = world.home("ada");
        std::fs::write(home.join("github.token"), TOKEN).unwrap();
        let clone = format!("git clone -q {} app", world.host.url());
        output(world.by("ada", &clone).current_dir(home)).ok();
        world
    }

    fn home(&self, who: &str) -> PathBuf {
        let home = self.homes.path().join(who);
        std::fs::create_dir_all(home.join("app")).unwrap();
        home
    }

    /// What a text of the guide is here.
    fn here(&self, text: &str) -> String {
        let (place, url) = (self.host.place(), self.host.url());
        let mut text = at_home(text, self.port);
        for name in ["app", "docs"] {
            let add = format!("hook add github acme/{name}");
            let flags = format!("{add} --host {place} --clone-url {url} --api-url {}", self.api.url());
            text = text.replace(&add, &flags);
        }
        for whole in ["https://git.example.com/acme/app.git", "https://github.com/acme/app.git"] {
            text = text.replace(whole, &url);
        }
        let text = text.replace("git.example.com", &place).replace("github.com", &place);
        self.examples.real(&text.replace("registry.example/team", &self.registry))
    }

    /// A shell of this person's, in their clone of the repository.
    fn by(&self, who: &str, script: &str) -> Command {
        let home = self.home(who);
        let programs = binary("farm").parent().unwrap().display().to_string();
        let mut shell = environment::command("sh");
        shell.args(["-euc", script]).current_dir(home.join("app")).env("HOME", &home);
        shell.env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap()));
        shell.env("FARM_URL", self.farm.url()).env("FARM_INSECURE_HTTP", "1");
        match who {
            "admin" => shell.env("FARM_TOKEN_FILE", self.farm.token_file()),
            "ada" => shell.env("FARM_TOKEN", &self.ada),
            who => panic!("nobody is called {who}"),
        };
        shell.envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")]);
        shell.envs([("GIT_AUTHOR_NAME", "ada"), ("GIT_COMMITTER_NAME", "ada")]);
        shell.envs([("GIT_AUTHOR_EMAIL", "ada@localhost"), ("GIT_COMMITTER_EMAIL", "ada@localhost")]);
        shell
    }

    /// Follows a block, and compares what it prints.
    fn follow(&mut self, block: &Block) {
        match block.kind {
            Kind::File(path) => {
                let home = self.home("ada");
                let path =
                    path.strip_prefix("~/").map_or_else(|| home.join("app").join(path), |at| home.join(at));
                std::fs::write(path, format!("{}\n", self.here(block.text))).unwrap();
            }
            Kind::Terminal(who) => self.type_in(who, block.text),
            Kind::Commands(who) => self.run(who, block),
        }
    }

    fn run(&mut self, who: &str, block: &Block) {
        let begin = Instant::now();
        // What only looks is asked until it shows what it has to.
        let looks = ["farm hook deliveries ", "farm hook show ", "farm show "];
        let only_looks =
            looks.iter().any(|look| block.text.starts_with(look)) && block.text.lines().count() == 1;
        loop {
            let said: Output = output(&mut self.by(who, &self.here(block.text)));
            assert_eq!(said.status, 0, "{block:#?}\n{said:?}");
            let Some(shown) = block.shown else { return };
            let shown = self.here(shown);
            if self.examples.fit(&shown, &said.stdout) {
                return;
            }
            let is_late = !only_looks || begin.elapsed() > LONG;
            assert!(
                !is_late,
                "{}: the guide shows\n{shown}\nand this is printed:\n{}",
                block.text, said.stdout
            );
        }
    }

    /// Gives a command on a terminal, and types what is asked for.
    fn type_in(&mut self, who: &str, text: &str) {
        let (command, shown) = text.split_once('\n').unwrap();
        let command = self.here(command.strip_prefix("$ ").unwrap());
        let mut terminal = Terminal::run_like(&self.by(who, &command), 400, 50, &[]);
        let shown = self.here(shown);
        for line in shown.lines() {
            if let Some((question, answer)) = line.split_once("? [y/N] ") {
                terminal.shows(question);
                terminal.press(format!("{answer}\n").as_bytes());
            } else if line.starts_with("Token for ") {
                terminal.shows(line);
                until("hidden answer", LONG, || (!terminal.echoes()).then_some(()));
                terminal.press(format!("{TOKEN}\n").as_bytes());
            }
        }
        let last = shown.lines().last().unwrap();
        let printed = terminal.shows(last).join("\n");
        assert_eq!(terminal.end(), 0, "{printed}");
        assert!(self.examples.fit(&shown, &printed), "the guide shows\n{shown}\nand this is:\n{printed}");
    }

    /// The forge delivers to the webhook that was made at it, by the secret that this has.
    fn forge(&self) -> Option<Forge> {
        let made = self.api.hooks().pop()?;
        let text = |name: &str| made["config"][name].as_str().unwrap().to_owned();
        Some(Forge::at(self.port, &text("url"), &text("secret")))
    }

    /// A fork proposes something.
    fn propose(&mut self) {
        let head = self.host.git(&["commit-tree", "main^{tree}", "-p", "main", "-m", "Mend it"]);
        self.host.git(&["update-ref", "refs/pull/7/head", &head]);
        self.examples.know(HEAD, &head);
        self.examples.know(SHORT_HEAD, &head[..12]);
        let body = json!({
            "action": "opened", "number": 7,
            "pull_request": {
                "title": "Mend it", "merged": false, "user": {"id": 9, "login": "eve"}, "updated_at": "2026-01-31T12:00:00Z",
                "head": {"label": "eve:mend", "ref": "mend", "sha": head, "repo": {"id": 43, "full_name": "eve/app"}},
                "base": {"label": "acme:main", "ref": "main", "sha": self.host.git(&["rev-parse", "main"]), "repo": {"id": 42}}
            },
            "repository": {"id": 42, "full_name": "acme/app", "clone_url": self.host.url(), "default_branch": "main"},
            "sender": {"id": 9, "login": "eve"}
        });
        assert_eq!(self.forge().unwrap().deliver(PROPOSED, "pull_request", &body).0, 202);
    }
}

/// Where the farm is delivered to.
fn at_home(text: &str, port: u16) -> String {
    let (listen, url) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{port}"));
    text.replace("0.0.0.0:7071", &listen).replace("https://hooks.farm.example", &url)
}

#[test]
fn the_guide_for_webhooks_does_what_it_says() {
    let blocks = blocks(std::fs::read_to_string(GUIDE).unwrap().leak());
    let (first, rest) = blocks.split_first().unwrap();
    let mut world = World::new(first);
    let (mut delivers_to, mut has_proposed) = (String::new(), false);
    for block in rest {
        if block.heading == "Forks" && !has_proposed {
            world.propose();
            has_proposed = true;
        }
        world.follow(block);
        if block.kind == Kind::Commands("admin") {
            world.ada = output(&mut world.by("admin", "farm token create --for ada")).ok().trim().to_owned();
        }
        // As a forge does, once it has another webhook, or that has another secret.
        let Some(forge) = world.forge().filter(|forge| forge.secret != delivers_to) else { continue };
        world.host.take_pushes(&post_receive(&forge, &world.host.url()));
        let ping = json!({
            "zen": "…", "hook_id": 1, "sender": {"id": 7, "login": "ada"},
            "repository": {"id": 42, "full_name": "acme/app", "clone_url": world.host.url()}
        });
        if delivers_to.is_empty() {
            assert_eq!(forge.deliver(PING, "ping", &ping).0, 200);
        }
        delivers_to = forge.secret;
    }
    // What it says in between.
    let (newest, first) = (world.host.git(&["rev-parse", "main"]), world.host.git(&["rev-parse", "main~"]));
    for commit in [&newest, &first] {
        world.api.wait("the green commit", |one| {
            (&one.commit, one.context.as_str(), one.state.as_str()) == (commit, "farm/app", "success")
        });
    }
    world.api.wait("the fork's head", |one| {
        (one.context.as_str(), one.state.as_str()) == ("farm/app (pull request 7)", "pending")
    });
    for tag in ["main", "latest", "own-main"] {
        until(tag, LONG, || raw(&format!("{}/app:{tag}", world.registry)));
    }
}
