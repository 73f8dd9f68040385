//! Builds whose source is an archive at a web address: a worker fetches it, from a server of HTTPS.

use std::io::Write as _;
use std::sync::{Arc, Mutex};

use farm_tests::bed::Bed;
use farm_tests::environment::command;
use farm_tests::farm::{Farm, Output, WorkerSpec};
use farm_tests::faults::answers::full;
use farm_tests::pki::Authority;
use farm_tests::process::run;
use farm_tests::web::Web;
use farm_types::Digest;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::Response;
use serde_json::Value;

use crate::support::*;

/// As git-lfs writes it, and forges put it into archives.
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

/// What tar makes of a folder, under a name; `.`: as it is.
fn tar(context: &Context, name: &str) -> Vec<u8> {
    let archive = context.path().with_extension("tar");
    let transform = format!("s,^\\.,{name},");
    run(command("tar")
        .arg("-C")
        .arg(context.path())
        .args(["--transform", &transform, "-cf"])
        .arg(&archive)
        .arg("."));
    let bytes = std::fs::read(&archive).unwrap();
    std::fs::remove_file(archive).unwrap();
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn submit_from(farm: &Farm, address: &str, args: &[&str]) -> Output {
    let mut all = vec!["submit", address, "--platform", "linux/amd64", "-f", "app-1.0/Dockerfile"];
    all.extend(args);
    farm.cli(&all)
}

#[test]
fn an_archive_at_an_address_is_built_as_one_on_standard_input_and_is_known_by_its_digest() {
    let word = nonce();
    let dockerfile = format!(
        "FROM {BASE}\nCOPY . /all\nCOPY --from=lib /lib.txt /\n\
         RUN test ! -e /all/app-1.0/secret && cat /all/app-1.0/file /lib.txt # {word}\n"
    );
    let context = Context::empty().file("app-1.0/Dockerfile", dockerfile);
    let context = context.file("app-1.0/file", "of the archive\n").file("app-1.0/secret", "x");
    let context = context.file(".dockerignore", "app-1.0/secret\n");
    let lib = tar(&Context::empty().file("lib.txt", "of the library\n"), ".");
    let first = gzip(&tar(&context, "."));
    let digest = Digest::of(&first);
    let plain = Context::new("FROM scratch\nCOPY app-1.0/file /\n").file("file", "as it is\n");
    let plain = gzip(&tar(&plain, "app-1.0"));
    let pointing = Context::new("FROM scratch\nCOPY app-1.0/large /\n").file("large", POINTER);
    let pointing = tar(&pointing, "app-1.0");
    let lib_digest = Digest::of(&lib).hex();
    let served = Arc::new(Mutex::new(first.clone()));
    let serves = Arc::clone(&served);
    let authority = Authority::new("archives");
    let web = Web::start_tls(&authority, move |request| {
        assert!(!request.headers().contains_key("authorization"), "{request:?}");
        let found = match request.uri().path() {
            "/app-1.0.tar.gz" => Some(serves.lock().unwrap().clone()),
            "/lib.tar" => Some(lib.clone()),
            "/plain" => Some(plain.clone()),
            "/pointing.tar" => Some(pointing.clone()),
            "/Dockerfile" => Some(b"FROM scratch\n".to_vec()),
            _ => None,
        };
        match (request.uri().path(), found) {
            (_, Some(bytes)) => Response::new(full(bytes.into())),
            ("/latest", None) => {
                let moved =
                    Response::builder().status(302).header("location", "/app-1.0.tar.gz?signature=hush");
                moved.body(full(Default::default())).unwrap()
            }
            _ => Response::builder().status(404).body(full(Default::default())).unwrap(),
        }
    });
    let folder = Bed::from_env().folder("archives");
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &authority.certificate).unwrap();
    let place = web.url().trim_start_matches("https://").to_owned();
    let worker = WorkerSpec::new("w1").platforms("linux/amd64").env("SSL_CERT_FILE", ca.to_str().unwrap());
    let farm = Farm::builder().worker(worker.arg("--fetch-from").arg(&place)).start();

    let address = format!("{}/latest?token=hush", web.url());
    let lib = format!("lib={}/lib.tar#sha256={lib_digest}", web.url());
    let done = submit_from(&farm, &address, &["--build-context", &lib]).ok();
    says(
        &done,
        &[
            "fetched ",
            "/latest  sha256:",
            "as lib",
            "all known to the farm",
            "of the archive",
            "of the library",
        ],
    );
    let id = build_id(&done);
    let shown = farm.cli(&["show", &id, "--json"]).ok();
    crate::schemas::fits("build", &shown);
    let record: Value = serde_json::from_str(&shown).unwrap();
    let origins = &record["origins"];
    assert_eq!(
        (&origins[0]["archive"], &origins[0]["digest"], &origins[1]["root"]),
        (&format!("{}/latest", web.url()).into(), &digest.to_string().into(), &"context:lib".into()),
        "{record:#}"
    );
    says(&farm.cli(&["show", &id]).ok(), &[&format!("from {}/latest  {digest}", web.url())]);
    says(&farm.cli(&["builds"]).ok(), &["SOURCE", &format!("latest {}", &digest.hex()[..12])]);
    let fetches = farm.cli(&["builds", "--fetches", "--json"]).ok();
    assert!(!format!("{done} {shown} {fetches}").contains("hush"));
    for log in ["coordinator.log", "w1.log"] {
        assert!(!std::fs::read_to_string(farm.folder().join(log)).unwrap().contains("hush"), "{log}");
    }

    // What is there changes; what was built is still made again from what it was.
    *served.lock().unwrap() = gzip(&tar(&context.file("app-1.0/file", "another\n"), "."));
    let again = show(&farm, &build_id(&farm.cli(&["retry", &id]).ok()));
    assert_eq!((&again["origins"], &again["snapshot"]), (origins, &record["snapshot"]), "{again:#}");
    for (address, code) in [
        (format!("{}/app-1.0.tar.gz#sha256={}", web.url(), digest.hex()), "archive_checksum"),
        (format!("{}/nothing.tar.gz", web.url()), "archive_missing"),
        (format!("{}/Dockerfile", web.url()), "archive_unusable"),
        (format!("{}/pointing.tar", web.url()), "git_lfs"),
        ("https://169.254.169.254/x.tar".to_owned(), "archive_host_closed"),
    ] {
        let failed = submit_from(&farm, &address, &["--json"]);
        let record: Value = serde_json::from_str(&failed.stdout).unwrap();
        let failure = &record["failure"];
        assert_eq!(
            (failed.status, &failure["code"], &failure["cause"]),
            (1, &code.into(), &"user".into()),
            "{record:#}"
        );
    }
    let pointing = format!("{}/pointing.tar", web.url());
    submit_from(&farm, &pointing, &["--lfs", "pointers"]).ok();
}
