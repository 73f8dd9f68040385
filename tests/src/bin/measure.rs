//! What farm takes beside its peers, in one run and on the same engine: see `tests/bench.sh`.
//!
//! Runs in the test bed. Farm and peer take turns, so that what slows the machine slows both; what counts is the ratio
//! within each pair, and of all pairs the median. Each measure ends in a line `bench NAME measure=… ratio=… farm=… peer=…`
//! (seconds). How many requests the registry got for a build is counted from its log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use farm_tests::bed::Bed;
use farm_tests::bridge::Bridge;
use farm_tests::engine::PrivateEngine;
use farm_tests::farm::{Farm, FarmBuilder, WorkerSpec, output};
use farm_tests::git::GitHost;
use farm_tests::measuring::{Folder, counted, median, publish, requests};
use farm_tests::pushes;
use farm_tests::pushes::rate::{Rate, Times, percentile};
use farm_tests::scale::connections::{Needs, hold};
use farm_tests::scale::{self, Form};
use serde_json::Value;
use tempfile::TempDir;

/// How long is looked at what connections cost that nobody uses.
const IDLE: Duration = Duration::from_secs(20);
const PLATFORMS: &str = "linux/amd64,linux/arm64";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |option: &str, unless_said: usize| match args.iter().position(|arg| arg == option) {
        None => unless_said,
        Some(at) => {
            let number = args.get(at + 1).and_then(|number| number.parse().ok());
            number.filter(|number| *number > 0).unwrap_or_else(|| panic!("{option} takes a number above 0"))
        }
    };
    match args.first().map(String::as_str) {
        Some("submit") => submit(number("--pairs", 9)),
        Some("output") => outputs(number("--pairs", 9)),
        Some("scale") => {
            scale(Form { workers: number("--workers", 100), jobs: number("--jobs", 1000), on_disk: true })
        }
        Some("connections") => connections(number("--workers", 500)),
        Some("hooks") => {
            hooks();
            refetches(number("--pairs", 9));
        }
        Some("refetch") => refetches(number("--pairs", 9)),
        Some("publish") => publish::measure(number("--pairs", 5)),
        _ => {
            eprintln!(
                "measure submit|output|hooks|refetch|publish [--pairs N] | scale [--workers N] [--jobs N] | connections [--workers N]"
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// What a job costs the database, and how fast jobs go through.
fn scale(form: Form) {
    // One thread for all: what is started here dies with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let figures = runtime.block_on(scale::run(form));
    println!(
        "scale {} workers, {} jobs in {:.1} s; by the clock, in a second: {:.1} statements, {:.1} commits, {:.1} kB of WAL",
        form.workers,
        form.jobs,
        figures.seconds,
        figures.idle.statements,
        figures.idle.commits,
        figures.idle.wal_bytes / 1000.0
    );
    for (measure, value) in [
        ("cycles_per_second", figures.cycles_per_second),
        ("offer_p50_milliseconds", figures.offer_p50),
        ("offer_p99_milliseconds", figures.offer_p99),
        ("statements", figures.per_job.statements),
        ("commits", figures.per_job.commits),
        ("wal_bytes", figures.per_job.wal_bytes),
    ] {
        println!(
            "bench scale measure={measure} value={value:.1} workers={} jobs={}",
            form.workers, form.jobs
        );
    }
}

/// What workers' connections cost a coordinator with TLS (farm's side), and without (the peer's).
fn connections(workers: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let [tls, plain] = [true, false].map(|tls| runtime.block_on(hold(workers, tls, IDLE)));
    let needs_of = |of: fn(&Needs) -> f64| (of(&tls), of(&plain));
    let measures = [
        ("kib_each", needs_of(|needs| needs.kib_each.into())),
        ("resident_kib", needs_of(|needs| needs.resident_kib.into())),
        ("idle_cpu_percent", needs_of(|needs| needs.cpu_percent)),
        ("connect_seconds", needs_of(|needs| needs.connected_in.as_secs_f64())),
    ];
    for (measure, (farm, peer)) in measures {
        println!(
            "bench connections measure={measure} ratio={:.2} farm={farm:.2} peer={peer:.2} connections={}",
            farm / peer,
            tls.connections
        );
    }
}

/// What a hook's deliveries take.
fn hooks() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let rate = Rate { per_second: 200, seconds: 20, hooks: 8, followed: 50 };
    let of_all = |measure: &str, times: &[f64]| {
        for of_hundred in [50, 99] {
            let (value, count) = (percentile(times, of_hundred), times.len());
            println!(
                "bench hooks measure={measure}_p{of_hundred}_milliseconds value={value:.1} deliveries={count}"
            );
        }
    };
    runtime.block_on(pushes::rate::measure(rate, |times| match times {
        Times::Answered(times) => of_all("answered", &times),
        Times::Processed(time) => println!(
            "bench hooks measure=processed_milliseconds value={time:.0} deliveries={}",
            rate.per_second * rate.seconds
        ),
        Times::Assigned(times) => of_all("assigned", &times),
    }));
}

/// What it takes to fetch a repository again of which one file was changed, against a new clone.
fn refetches(pairs: usize) {
    let host = GitHost::start();
    let files: Vec<(String, String)> =
        (0..20_000).map(|n| (format!("src/d{}/f{n}.txt", n % 200), format!("{n}\n").repeat(60))).collect();
    let mut all: Vec<(&str, &str)> =
        files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    all.push(("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n"));
    host.commit(&all);
    let worker = WorkerSpec::new("w").platforms("linux/amd64").arg("--fetch-from").arg(&host.place());
    let farm = Farm::builder().worker(worker).start();
    let folder = Folder::default();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=pairs {
        host.commit(&[("src/d1/f1.txt", &format!("changed {round}"))]);
        let mut turns = [0, 1];
        turns.rotate_left(round % 2);
        for turn in turns {
            let seconds = if turn == 0 {
                fetched_in(&farm, &host.url())
            } else {
                let to = folder.path().join(round.to_string());
                let mut clone = Command::new("git");
                clone.args(["clone", "-q", "--depth", "1", &host.url()]).arg(&to).stdin(Stdio::null());
                let begin = Instant::now();
                let out = output(&mut clone);
                let seconds = begin.elapsed().as_secs_f64();
                assert_eq!(out.status, 0, "{out:?}");
                fs::remove_dir_all(to).unwrap();
                seconds
            };
            // The first round makes farm's mirror.
            if round > 0 {
                if turn == 0 { &mut ours } else { &mut theirs }.push(seconds);
            }
        }
    }
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(farm, peer)| farm / peer).collect();
    println!(
        "bench hooks measure=refetch ratio={:.2} farm={:.3} peer={:.3} files=20000",
        median(&ratios),
        median(&ours),
        median(&theirs)
    );
}

/// How long a worker took to fetch a repository, seconds: from the start of the fetch to the source that is in the farm's store.
fn fetched_in(farm: &Farm, url: &str) -> f64 {
    farm.cli(&["submit", url, "--platform", "linux/amd64", "--call", "targets"]).ok();
    let fetches = farm.cli(&["builds", "--fetches", "--json"]).json();
    let fetch = fetches["builds"].as_array().unwrap().iter().find(|one| !one["fetch"].is_null()).unwrap();
    let shown = farm.cli(&["show", fetch["id"].as_str().unwrap(), "--json"]).json();
    let at = |name: &str| {
        let text = shown[name].as_str().unwrap_or_else(|| panic!("{shown:#}"));
        chrono::DateTime::parse_from_rfc3339(text).unwrap()
    };
    (at("finished") - at("started")).as_seconds_f64()
}

/// `farm submit` against `docker buildx build --push`: two platforms and one registry; on one engine, and on two, each for
/// one platform. `tls-`: a farm all of whose connections have TLS against one without, on one engine.
fn submit(pairs: usize) {
    let bed = Bed::from_env();
    let second = PrivateEngine::start();
    let workers_of = |farm: FarmBuilder, second: &str| {
        farm.worker(WorkerSpec::new("w-native").platforms("linux/amd64").slots(2))
            .worker(WorkerSpec::new("w-qemu").engine(second).platforms("linux/arm64=emulated").slots(2))
            .start()
    };
    let workers = |second: &str| workers_of(Farm::builder(), second);
    {
        let one = Sides { farm: workers(&bed.engine), peer: Peer::Engine, name: "" };
        compare_all(&one, pairs);
    }
    {
        let farm = workers_of(Farm::builder().tls(), &bed.engine);
        let one = Sides { farm, peer: Peer::Farm(Box::new(workers(&bed.engine))), name: "tls-" };
        compare_all(&one, pairs);
    }
    let doors = [Bridge::socket(bed.engine_socket()), Bridge::socket(&second.socket())];
    let two = Sides { farm: workers(&second.url()), peer: Peer::nodes(&doors), name: "two-" };
    compare_all(&two, pairs);
}

/// `farm submit --output` and `--load` against buildx's on the same engine: an image of some 70 MB that is built already, so that
/// what is measured is the result's way. `load` is also held against a builder that isn't the engine it loads into (`load-remote`:
/// buildx's remote driver, behind whose door is that engine's BuildKit), since only such a builder has a way to go at all.
fn outputs(pairs: usize) {
    let bed = Bed::from_env();
    let farm = Farm::builder().worker(WorkerSpec::new("w").platforms("linux/amd64").slots(2)).start();
    let context = Folder::default();
    context.write("Dockerfile", "FROM localhost:5002/python:3.11-slim\nWORKDIR /app\nCOPY . .\n");
    for n in 0..500 {
        context.write(&format!("src/d{}/f{n}.py", n % 20), &format!("# {n}\n{}", "x = 1\n".repeat(200)));
    }
    let door = Bridge::socket(bed.engine_socket());
    let config = bed.folder("buildx");
    let mut create = Command::new("docker");
    create
        .env("BUILDX_CONFIG", config.path())
        .args(["buildx", "create", "--name", "far", "--driver", "remote"]);
    let out = output(create.arg(door.address()));
    assert_eq!(out.status, 0, "{out:?}");
    let results = Folder::default();
    let load = ["--load", "-t", "measure-load:1"].map(str::to_owned).to_vec();
    let into = |form: &str, name: &str| {
        vec!["-o".to_owned(), format!("type={form},dest={}/{name}", results.path().display())]
    };
    for (measure, args, is_far) in [
        ("local", into("local", "local"), false),
        ("tar", into("tar", "t.tar"), false),
        ("oci", into("oci", "o.tar"), false),
        ("load", load.clone(), false),
        ("load-remote", load, true),
    ] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..=pairs {
            let mut turns = [0, 1];
            turns.rotate_left(round % 2);
            for turn in turns {
                let mut command = match turn {
                    0 => farm.command(&[
                        "submit",
                        context.path().to_str().unwrap(),
                        "--platform",
                        "linux/amd64",
                    ]),
                    _ => {
                        let mut buildx = Command::new("docker");
                        buildx.args([
                            "buildx",
                            "build",
                            "--provenance=false",
                            "--sbom=false",
                            "--progress=plain",
                        ]);
                        if is_far {
                            buildx.env("BUILDX_CONFIG", config.path()).args(["--builder", "far"]);
                        }
                        buildx.args(["--platform", "linux/amd64"]).arg(context.path());
                        buildx
                    }
                };
                command.env("DOCKER_HOST", &bed.engine).args(&args);
                let begin = Instant::now();
                let out = output(&mut command);
                let seconds = begin.elapsed().as_secs_f64();
                assert_eq!(out.status, 0, "{out:?}");
                if round > 0 {
                    if turn == 0 { &mut ours } else { &mut theirs }.push(seconds);
                }
            }
        }
        let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(farm, peer)| farm / peer).collect();
        println!(
            "bench output measure={measure} ratio={:.2} farm={:.3} peer={:.3}",
            median(&ratios),
            median(&ours),
            median(&theirs)
        );
    }
}

/// What is compared.
struct Sides {
    farm: Farm,
    peer: Peer,
    /// In front of the measures' names.
    name: &'static str,
}

enum Peer {
    /// buildx on the bed's engine.
    Engine,
    /// buildx with two nodes; the folder is its configuration.
    Nodes(TempDir),
    /// Another farm.
    Farm(Box<Farm>),
}

impl Peer {
    fn nodes(doors: &[Bridge; 2]) -> Peer {
        let folder = Bed::from_env().folder("buildx");
        for (door, platform) in doors.iter().zip(PLATFORMS.split(',')) {
            let mut command = Command::new("docker");
            command
                .env("BUILDX_CONFIG", folder.path())
                .args(["buildx", "create", "--name", "nodes", "--driver", "remote"]);
            command.args(["--node", &platform.replace('/', "-"), "--platform", platform]);
            if platform != "linux/amd64" {
                command.arg("--append");
            }
            let out = output(command.arg(door.address()));
            assert_eq!(out.status, 0, "{out:?}");
        }
        Peer::Nodes(folder)
    }

    fn build(&self, context: &Path, tag: &str) -> f64 {
        if let Peer::Farm(farm) = self {
            return by_farm(farm, context, tag).whole;
        }
        let mut command = Command::new("docker");
        command.args(["buildx", "build", "--push", "--provenance=false", "--sbom=false", "--progress=plain"]);
        if let Peer::Nodes(folder) = self {
            command.env("BUILDX_CONFIG", folder.path()).args(["--builder", "nodes"]);
        }
        command.args(["--platform", PLATFORMS, "-t", tag]).arg(context).stdin(Stdio::null());
        let begin = Instant::now();
        let out = output(&mut command);
        let whole = begin.elapsed().as_secs_f64();
        assert_eq!(out.status, 0, "{out:?}");
        whole
    }
}

fn compare_all(sides: &Sides, pairs: usize) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("examples").join("multiarch");
    let unchanged = [example.clone(), example];
    compare("warm", sides, pairs, |_, turn| unchanged[turn].clone());

    // Of what is built both keep nothing for each other: every context has a text of its own in it.
    let steps = [Folder::default(), Folder::default()];
    compare("steps", sides, pairs, |round, turn| {
        let dockerfile = format!(
            "FROM localhost:5002/python:3.11-slim\nCOPY . /src\nRUN : {turn} {round} {}{}; python3 -c 'print(sum(range(2000000)))'\n\
             RUN cp -r /src /dst\n",
            sides.name,
            std::process::id()
        );
        steps[turn].write("Dockerfile", &dockerfile);
        steps[turn].path()
    });
    let edited = [Folder::default(), Folder::default()];
    for folder in &edited {
        folder.write("Dockerfile", "FROM localhost:5002/python:3.11-slim\nWORKDIR /app\nCOPY . .\n");
        for n in 0..500 {
            folder.write(&format!("src/d{}/f{n}.py", n % 20), &format!("# {n}\n{}", "x = 1\n".repeat(200)));
        }
    }
    compare("edit", sides, pairs, |round, turn| {
        edited[turn]
            .write("src/d1/f1.py", &format!("# {turn} {round} {}{}\n", sides.name, std::process::id()));
        edited[turn].path()
    });
}

/// Where the time of a build by farm went, seconds.
#[derive(Debug, Clone, Copy)]
struct Parts {
    /// The command begins, finds the farm, reads the source, and submits.
    client: f64,
    /// The farm is asked what it lacks, and gets it.
    upload: f64,
    queue: f64,
    dispatch: f64,
    /// The worker fetches the source, and the engine builds.
    solve: f64,
    /// The engine exports the image and pushes it.
    push: f64,
    publish: f64,
    /// From the build's end to that of the command.
    tell: f64,
    whole: f64,
}

fn compare(measure: &str, sides: &Sides, pairs: usize, context: impl Fn(usize, usize) -> PathBuf) {
    let registry = Bed::from_env().registry;
    let measure = format!("{}{measure}", sides.name);
    let (mut ours, mut theirs, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    let mut asked = [Vec::new(), Vec::new()];
    // The first round only warms up.
    for round in 0..=pairs {
        // Who is first changes from pair to pair.
        let mut turns = [0, 1];
        turns.rotate_left(round % 2);
        for turn in turns {
            let context = context(round, turn);
            let tag = format!("{registry}/measure/{measure}-{turn}:1");
            let before = requests().len();
            let seconds = if turn == 0 {
                let one = by_farm(&sides.farm, &context, &tag);
                if round > 0 {
                    parts.push(one);
                }
                one.whole
            } else {
                sides.peer.build(&context, &tag)
            };
            asked[turn] = requests().split_off(before);
            if round > 0 {
                if turn == 0 { &mut ours } else { &mut theirs }.push(seconds);
            }
        }
    }
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(farm, peer)| farm / peer).collect();
    let of = |part: fn(&Parts) -> f64| median(&parts.iter().map(part).collect::<Vec<_>>());
    println!(
        "submit {measure}, {pairs} pairs, medians in seconds: client {:.3}, upload {:.3}, queue {:.3}, \
         dispatch {:.3}, solve {:.3}, push {:.3}, publish {:.3}, tell {:.3}; ratios {:.2} to {:.2}",
        of(|p| p.client),
        of(|p| p.upload),
        of(|p| p.queue),
        of(|p| p.dispatch),
        of(|p| p.solve),
        of(|p| p.push),
        of(|p| p.publish),
        of(|p| p.tell),
        ratios.iter().copied().fold(f64::INFINITY, f64::min),
        ratios.iter().copied().fold(0.0, f64::max),
    );
    for (who, asked) in ["farm", "buildx"].iter().zip(&asked) {
        println!(
            "submit {measure}, requests to the registry of the last build, {who}: {} ({})",
            asked.len(),
            counted(asked)
        );
    }
    println!(
        "bench submit measure={measure} ratio={:.2} farm={:.3} peer={:.3}",
        median(&ratios),
        median(&ours),
        median(&theirs)
    );
}

fn by_farm(farm: &Farm, context: &Path, tag: &str) -> Parts {
    let mut command = farm.command(&[
        "submit",
        context.to_str().unwrap(),
        "-t",
        tag,
        "--platform",
        PLATFORMS,
        "--json",
        "--progress",
        "json",
    ]);
    let (began, begin) = (chrono::Utc::now().fixed_offset(), Instant::now());
    let out = output(&mut command);
    let whole = begin.elapsed().as_secs_f64();
    let ended = chrono::Utc::now().fixed_offset();
    assert_eq!(out.status, 0, "{out:?}");
    let build: Value = serde_json::from_str(&out.stdout).unwrap();
    let between = |from, to: chrono::DateTime<chrono::FixedOffset>| {
        let span: chrono::TimeDelta = to - from;
        f64::from(i32::try_from(span.num_milliseconds()).unwrap()) / 1000.0
    };
    let at = |value: &Value| chrono::DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap();
    // Of the platforms the one that is done last: the build waits for it.
    let platforms = build["platforms"].as_array().unwrap().iter();
    let slowest = platforms.max_by_key(|platform| at(&platform["history"][0]["finished"])).unwrap();
    let part = |field: &str| at(&slowest["history"][0][field]);
    let (created, finished) = (at(&build["created"]), at(&build["finished"]));
    let upload = build["upload"]["seconds"].as_f64().unwrap();
    let push = export_seconds(&out.stderr, &slowest["platform"]);
    Parts {
        client: between(began, created) - upload,
        upload,
        queue: between(created, part("offered")),
        dispatch: between(part("offered"), part("started")),
        solve: between(part("started"), part("finished")) - push,
        push,
        publish: between(part("finished"), finished),
        tell: between(finished, ended),
        whole,
    }
}

/// How long the engine exported and pushed this platform's image, seconds.
fn export_seconds(progress: &str, platform: &Value) -> f64 {
    let events: Vec<Value> = progress.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let exports = events.iter().filter(|event| {
        let name = event["name"].as_str().unwrap_or_default();
        event["type"] == "step" && event["platform"] == *platform && name.starts_with("exporting to image")
    });
    let spans =
        exports.filter_map(|event| Some((event["started_ms"].as_f64()?, event["finished_ms"].as_f64()?)));
    spans.map(|(from, to)| (to - from) / 1000.0).fold(0.0, f64::max)
}
