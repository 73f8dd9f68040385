//! Names of images are read as Docker reads them, whoever sends them, and a registry has one name.

use std::collections::BTreeSet;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;

use farm_tests::bed::Bed;
use farm_tests::farm::{Farm, Output, output};
use farm_types::ImageTag;

use crate::support::*;

const AMD64: [&str; 2] = ["--platform", "linux/amd64"];

fn tiny() -> Context {
    Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()))
}

/// `docker buildx build` with all of these names, and what Docker then calls the image.
fn dockers(context: &Context, names: &[&str]) -> Result<BTreeSet<String>, String> {
    let docker = |args: &[&str]| -> Output { output(Command::new("docker").args(args)) };
    let named = names.iter().flat_map(|name| ["-t", *name]);
    let args: Vec<&str> =
        ["buildx", "build", "-q", "--load"].into_iter().chain(named).chain([context.text()]).collect();
    let built = docker(&args);
    if built.status != 0 {
        return Err(built.stderr);
    }
    let id = built.stdout.trim();
    let tags = docker(&["image", "inspect", "--format", "{{range .RepoTags}}{{println .}}{{end}}", id]).ok();
    docker(&["image", "rm", "-f", id]).ok();
    Ok(tags.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn names_are_those_that_docker_gives() {
    let context = tiny();
    let id = "a1".repeat(32);
    let (most, more) = ("a".repeat(247), "a".repeat(248));
    // All of one image: no two of them may be one name, as Docker tells each name once.
    let taken = [
        "app",
        "app:V1",
        "team/app",
        "LOCALHOST/x",
        "LOCALHOST:5002/x:1",
        "Registry.Example/x",
        "[::1]:5002/x",
        "[FD00::7]:1/x",
        "10.0.0.7:5000/a/b",
        "index.docker.io/app2",
        "index.docker.io/a/b",
        "docker.io/app3",
        "a_b.example/c",
        &format!("r.example/{id}"),
        &most,
    ];
    let ours: BTreeSet<String> = taken
        .iter()
        .map(|name| {
            // Docker shows names of its own registry short.
            let ours = name.parse::<ImageTag>().unwrap_or_else(|e| panic!("{e}")).to_string();
            ours.trim_start_matches("docker.io/").trim_start_matches("library/").to_owned()
        })
        .collect();
    // And it keeps the capitals of hosts.
    let known = |name: &String| match name.split_once('/') {
        Some((host, rest)) => format!("{}/{rest}", host.to_lowercase()),
        None => name.clone(),
    };
    let theirs = dockers(&context, &taken).unwrap();
    assert_eq!(ours, theirs.iter().map(known).collect::<BTreeSet<_>>());
    assert_eq!((ours.len(), theirs.len()), (taken.len(), taken.len()));
    for name in [
        "App",
        "A.b/C",
        "localhost:5002/App",
        "::1/x",
        "a_b:50/c",
        "a..b/c",
        ":v1",
        "localhost:5002/",
        "a/b:",
        "a//b",
        "é",
        "",
        "http://x/y",
        &id,
        &more,
        &format!("app@sha256:{id}"),
    ] {
        let (ours, theirs) = (name.parse::<ImageTag>(), dockers(&context, &[name]));
        assert!(ours.is_err() && theirs.is_err(), "{name}: {ours:?}, {theirs:?}");
    }
}

#[test]
fn capitals_of_a_host_are_the_same_host() {
    let farm = small_farm();
    let tag = format!("{}:1", repository("capitals"));
    let loud = tag.replacen("localhost", "LOCALHOST", 1);
    // Two tags that are one.
    let args = ["-t", &loud, "-t", &tag];
    let stdout = submit(&farm, &tiny(), &[&args[..], &AMD64].concat()).ok();
    says(&stdout, &[&format!("published  {tag}")]);
    assert!(!stdout.contains("LOCALHOST"), "{stdout}");
    let record = show(&farm, &build_id(&stdout));
    assert_eq!(record["index_digest"], digest_of(&raw(&tag).unwrap()));
    assert_eq!(record["tags"].as_array().unwrap().len(), 1, "{record:#}");
    says(&farm.cli(&["inspect", &loud]).ok(), &["linux/amd64", "built here"]);
}

#[test]
fn a_login_counts_for_its_registry_however_that_is_written() {
    let bed = Bed::from_env();
    let host = bed.auth_registry.to_uppercase();
    let settings = format!(
        "[registries.\"{host}\"]\nusername = \"{}\"\npassword = \"{}\"\n",
        bed.auth_user, bed.auth_password
    );
    let farm = with_worker(Farm::builder().config(&settings));
    let tag = format!("{host}/closed-{}:1", nonce());
    let stdout = submit(&farm, &tiny(), &[&["-t", &tag][..], &AMD64].concat()).ok();
    says(&stdout, &[&format!("published  {}", tag.to_lowercase())]);
}

/// Passes on what comes to a port of the IPv6 loopback, to the bed's registry.
fn registry_on_ipv6() -> String {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let registry = Bed::from_env().registry.replacen("localhost", "127.0.0.1", 1);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(&registry).unwrap();
            for (mut from, mut to) in
                [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
            {
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    format!("[::1]:{port}")
}

#[test]
fn a_registry_may_have_an_ipv6_address() {
    let farm = small_farm();
    let host = registry_on_ipv6();
    let name = format!("sixth-{}:1", nonce());
    let tag = format!("{host}/{name}");
    let stdout = submit(&farm, &tiny(), &[&["-t", &tag][..], &AMD64].concat()).ok();
    says(&stdout, &[&format!("published  {tag}")]);
    assert_eq!(
        show(&farm, &build_id(&stdout))["index_digest"],
        digest_of(&raw(&format!("localhost:5002/{name}")).unwrap())
    );
    says(&farm.cli(&["inspect", &tag]).ok(), &["linux/amd64", "built here"]);
}

#[test]
fn what_nothing_can_be_asked_of_is_refused_before_anything_is_built() {
    let farm = small_farm();
    for (tag, cure) in [
        ("[:::]:5002/x", "no IPv6 address"),
        ("256.1.1.1:5000/x", "no IPv4 address"),
        ("localhost:99999/x", "no port"),
        ("localhost:0/x", "no port"),
        ("Team/app", "write \"team/app\""),
        // Known to the coordinator only.
        ("xn--a.example/x", "no request can be sent"),
    ] {
        let out = submit(&farm, &tiny(), &[&["-t", tag][..], &AMD64].concat());
        assert_eq!(out.status, 2, "{tag}: {out:?}");
        says(&out.stderr, &["error: ", tag, cure]);
    }
    assert_eq!(builds(&farm), 0);
    let out = farm.cli(&["inspect", "256.1.1.1:5000/x"]);
    assert!(out.status != 0 && out.stderr.contains("256.1.1.1:5000"), "{out:?}");
}
