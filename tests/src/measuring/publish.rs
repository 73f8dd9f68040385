//! `bench publish`: the last mile, beside the tools that people use for it: merge and tag, promote, mirror, and what `--verify elf` adds.

use std::process::{Command, Stdio};

use rand::Rng as _;
use serde_json::Value;

use super::{Folder, counted, cpu_seconds, in_turns, ratio, requests, timed};
use crate::bed::Bed;
use crate::farm::{Farm, WorkerSpec};
use crate::registry::PrivateRegistry;

const TWO: &str = "linux/amd64,linux/arm64";
const EIGHT: &str =
    "linux/amd64,linux/arm64,linux/arm/v7,linux/arm/v6,linux/386,linux/ppc64le,linux/s390x,linux/riscv64";
/// Layers of the image that is promoted, and their length, bytes.
const LAYERS: usize = 10;
const LAYER: usize = 20 << 20;
/// The layers of a build that is verified: a gigabyte.
const NEW_LAYERS: usize = 4;
const NEW_LAYER: usize = 256 << 20;

/// All of it.
pub fn measure(pairs: usize) {
    let farm = Farm::builder().worker(WorkerSpec::new("w").platforms("linux/amd64").slots(2)).start();
    merges(&farm, "merge-2", TWO, pairs);
    merges(&farm, "merge-8", EIGHT, pairs);
    let image = large(&farm);
    promotes(&farm, &image, pairs);
    mirrors(&farm, &image, pairs);
    verifies(&farm, pairs.min(5));
}

fn say<const N: usize>(measure: &str, took: &[Vec<[f64; N]>; 2], more: &str) {
    let (ratio, farm, peer) = ratio(took, 0);
    println!("bench publish measure={measure} ratio={ratio:.2} farm={farm:.3} peer={peer:.3}{more}");
}

/// What the last turn of both asked the bed's registry for.
fn say_requests(measure: &str, asked: &[Vec<String>; 2]) {
    for (who, asked) in ["farm", "peer"].iter().zip(asked) {
        println!("publish {measure}, requests to the registry, {who}: {} ({})", asked.len(), counted(asked));
    }
}

fn skopeo(home: &Folder) -> Command {
    let mut skopeo = Command::new("skopeo");
    // What it remembers of where blobs are isn't that of another measure.
    skopeo.env("HOME", home.path()).stdin(Stdio::null());
    skopeo
}

fn repository(name: &str) -> String {
    format!("{}/measure/publish-{name}-{}", Bed::from_env().registry, std::process::id())
}

/// From the moment at which the last platform is built to the tag that was seen at its index, against `imagetools create` of the
/// same manifests.
fn merges(farm: &Farm, measure: &str, platforms: &str, pairs: usize) {
    let (context, mut asked) = (Folder::default(), [Vec::new(), Vec::new()]);
    context.write(
        "Dockerfile",
        "FROM scratch\nARG TARGETPLATFORM\nLABEL of=$TARGETPLATFORM\nCOPY Dockerfile /\n",
    );
    let to = repository(measure);
    let mut children: Vec<String> = Vec::new();
    let took = in_turns(pairs, |round, turn| {
        if children.is_empty() || turn == 0 {
            let tag = format!("{to}:farm-{round}");
            let args = [
                "submit",
                &context.path().display().to_string(),
                "-t",
                &tag,
                "--platform",
                platforms,
                "--json",
            ];
            let build = farm.cli(&args).json();
            let index = farm.cli(&["inspect", &tag, "--json"]).json();
            children = index["platforms"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| format!("{to}@{}", one["digest"].as_str().unwrap()))
                .collect();
            if turn == 0 {
                return [published(&build)];
            }
        }
        let before = requests().len();
        let mut create = Command::new("docker");
        create.args(["buildx", "imagetools", "create", "-t", &format!("{to}:peer-{round}")]).args(&children);
        let seconds = timed(create.stdin(Stdio::null()));
        asked[1] = requests().split_off(before);
        [seconds]
    });
    say(measure, &took, "");
    println!(
        "publish {measure}, requests to the registry, peer: {} ({})",
        asked[1].len(),
        counted(&asked[1])
    );
}

/// How long a build was being published, seconds.
fn published(build: &Value) -> f64 {
    let at = |value: &Value| chrono::DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap();
    let platforms = build["platforms"].as_array().unwrap().iter();
    let last = platforms.map(|platform| at(&platform["history"][0]["finished"])).max().unwrap();
    (at(&build["finished"]) - last).as_seconds_f64()
}

/// An image of two platforms with ten layers of 20 MB each that nothing can make shorter: its tag.
fn large(farm: &Farm) -> String {
    let context = Folder::default();
    let mut dockerfile = "FROM scratch\nARG TARGETARCH\n".to_owned();
    let mut bytes = vec![0; LAYER];
    for layer in 0..LAYERS {
        dockerfile.push_str(&format!("COPY $TARGETARCH/{layer} /\n"));
        for architecture in ["amd64", "arm64"] {
            rand::rng().fill_bytes(&mut bytes);
            context.write_bytes(&format!("{architecture}/{layer}"), &bytes);
        }
    }
    context.write("Dockerfile", &dockerfile);
    let tag = format!("{}:1", repository("large"));
    let path = context.path().display().to_string();
    farm.cli(&["submit", &path, "-t", &tag, "--platform", TWO]).ok();
    tag
}

/// To a registry that has nothing of it, and to another repository of the same one.
fn promotes(farm: &Farm, image: &str, pairs: usize) {
    for (measure, is_within) in [("promote-between", false), ("promote-within", true)] {
        let mut asked = [Vec::new(), Vec::new()];
        let took = in_turns(pairs, |round, turn| {
            // Each has its own, empty.
            let other = (!is_within).then(PrivateRegistry::start);
            let to = match &other {
                Some(other) => format!("{}/promoted:1", other.address()),
                None => format!("{}:{round}", repository(&format!("within-{turn}-{round}"))),
            };
            let (before, worked, home) = (requests().len(), cpu_seconds(), Folder::default());
            let seconds = match turn {
                0 => timed(&mut farm.command(&["promote", image, &to])),
                _ => timed(
                    skopeo(&home)
                        .args(["copy", "--all", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"])
                        .args([format!("docker://{image}"), format!("docker://{to}")]),
                ),
            };
            asked[turn] = requests().split_off(before);
            [seconds, cpu_seconds() - worked]
        });
        let (ratio, ours, theirs) = ratio(&took, 1);
        say(measure, &took, &format!(" cpu_ratio={ratio:.2} cpu_farm={ours:.2} cpu_peer={theirs:.2}"));
        say_requests(measure, &asked);
    }
}

/// A mirror of what is there already.
fn mirrors(farm: &Farm, image: &str, pairs: usize) {
    let other = PrivateRegistry::start();
    let mut asked = [Vec::new(), Vec::new()];
    let home = Folder::default();
    let took = in_turns(pairs, |_, turn| {
        let before = requests().len();
        let seconds = match turn {
            0 => timed(&mut farm.command(&["mirror", image, &format!("{}/farm/large:1", other.address())])),
            _ => timed(
                skopeo(&home)
                    .args(["sync", "--all", "--src", "docker", "--dest", "docker"])
                    .args(["--src-tls-verify=false", "--dest-tls-verify=false"])
                    .args([image.to_owned(), format!("{}/peer", other.address())]),
            ),
        };
        asked[turn] = requests().split_off(before);
        [seconds]
    });
    say("mirror", &took, "");
    say_requests("mirror", &asked);
}

/// What `--verify elf` adds to a build with a gigabyte of new layers, and to one whose layers were looked at before. The peer is the same
/// without it.
fn verifies(farm: &Farm, pairs: usize) {
    let build = |context: &Folder, tag: &str, turn: usize| {
        let verify = ["elf", "off"][turn];
        let path = context.path().display().to_string();
        [timed(&mut farm.command(&[
            "submit",
            &path,
            "-t",
            tag,
            "--platform",
            "linux/amd64",
            "--verify",
            verify,
        ]))]
    };
    let took = in_turns(pairs, |round, turn| {
        let context = Folder::default();
        let mut dockerfile = "FROM localhost:5002/python:3.11-slim\n".to_owned();
        for layer in 0..NEW_LAYERS {
            let code = format!("open(\"/{layer}\", \"wb\").write(os.urandom({NEW_LAYER}))");
            dockerfile.push_str(&format!(
                "RUN : {turn} {round} {}; python3 -c 'import os; {code}'\n",
                std::process::id()
            ));
        }
        context.write("Dockerfile", &dockerfile);
        build(&context, &format!("{}:1", repository(&format!("new-{turn}-{round}"))), turn)
    });
    say("verify-new", &took, "");
    let context = Folder::default();
    let text = format!(
        "FROM localhost:5002/python:3.11-slim\nRUN : {}; head -c 1000000 /dev/zero >/a\n",
        std::process::id()
    );
    context.write("Dockerfile", &text);
    let took = in_turns(pairs * 2, |_, turn| build(&context, &format!("{}:1", repository("judged")), turn));
    say("verify-judged", &took, "");
}
