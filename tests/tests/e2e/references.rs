//! Names of images are read as Docker reads them, whoever sends them, and a registry has one name.

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

/// The name that Docker gives an image that is built with `-t NAME`.
fn dockers(context: &Context, name: &str) -> Result<String, String> {
    let docker = |args: &[&str]| -> Output { output(Command::new("docker").args(args)) };
    let built = docker(&["buildx", "build", "-q", "--load", "-t", name, context.text()]);
    if built.status != 0 {
        return Err(built.stderr);
    }
    let id = built.stdout.trim();
    let tags = docker(&["image", "inspect", "--format", "{{index .RepoTags 0}}", id]).ok();
    docker(&["image", "rm", "-f", id]).ok();
    Ok(tags.trim().to_owned())
}

#[test]
fn names_are_those_that_docker_gives() {
    let context = tiny();
    let id = "a1".repeat(32);
    let (most, more) = ("a".repeat(247), "a".repeat(248));
    for name in [
        "app",
        "app:V1",
        "team/app",
        "LOCALHOST/x",
        "LOCALHOST:5002/x:1",
        "Registry.Example/x",
        "[::1]:5002/x",
        "[FD00::7]:1/x",
        "10.0.0.7:5000/a/b",
        "index.docker.io/app",
        "index.docker.io/a/b",
        "docker.io/app",
        "a_b.example/c",
        &format!("r.example/{id}"),
        &most,
        // Refused by both.
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
        let (ours, theirs) = (name.parse::<ImageTag>(), dockers(&context, name));
        let Ok(theirs) = theirs else {
            assert!(ours.is_err(), "{name}: {ours:?}, {theirs:?}");
            continue;
        };
        // Docker shows names of its own registry short, and keeps the capitals of hosts.
        let ours = ours.unwrap_or_else(|e| panic!("{e}; Docker calls it {theirs}")).to_string();
        let short = ours.trim_start_matches("docker.io/").trim_start_matches("library/");
        let (host, rest) = theirs.split_once('/').unwrap_or(("", &theirs));
        let known = if host.is_empty() { rest.to_owned() } else { format!("{}/{rest}", host.to_lowercase()) };
        assert_eq!(short, known, "{name}");
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
