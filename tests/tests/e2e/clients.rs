//! What reads farm's indexes: clients that people have, each by platform and in each form. Which of them are installed differs; those that
//! tests/run.sh installs have to be there. `--success-output final` shows the table.

use std::path::Path;
use std::process::Command;

use farm_tests::bed::Bed;
use farm_tests::farm::{Farm, output};
use farm_tests::process::Child;
use serde_json::Value;

use crate::support::*;

const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
const ALWAYS: [&str; 5] = ["skopeo", "docker manifest", "imagetools", "docker pull", "containerd"];

/// A client: what it is called, and of which architecture the image is that it takes for one.
type Client<'a> = (&'static str, Box<dyn Fn(&str, &str) -> String + 'a>);

/// Runs it, and reads what it prints as JSON.
fn json(command: &mut Command) -> Value {
    let text = output(command).ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The architecture of an index's entry, or of the image itself where there is none, as its config says.
fn of_manifest(document: &Value, reference: &str, architecture: &str) -> String {
    let Some(all) = document["manifests"].as_array() else {
        return text(&config(reference, architecture)["architecture"]);
    };
    let entry = all.iter().find(|one| one["platform"]["architecture"] == architecture).unwrap();
    let (repository, _) = reference.rsplit_once(':').unwrap();
    let one = format!("{repository}@{}", text(&entry["digest"]));
    text(&config(&one, architecture)["architecture"])
}

fn docker(args: &[&str]) -> Command {
    let mut docker = Command::new("docker");
    docker.args(args);
    docker
}

/// A containerd of this test.
fn containerd(farm: &Farm) -> (Child, String) {
    let folder = farm.folder().join("containerd");
    std::fs::create_dir_all(&folder).unwrap();
    let at = |name: &str| folder.join(name).display().to_string();
    // The socket's path has to be short.
    let socket = Bed::from_env().run.join(format!("c{}.sock", nonce())).display().to_string();
    let config = format!(
        "version = 2\nroot = \"{}\"\nstate = \"{}\"\n[grpc]\naddress = \"{socket}\"\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n\
         [debug]\naddress = \"\"\n",
        at("root"),
        at("state")
    );
    std::fs::write(at("config.toml"), config).unwrap();
    let mut command = Command::new("containerd");
    command.args(["--config", &at("config.toml")]);
    let mut child = Child::spawn("containerd", &command, &folder);
    child.wait_until("its socket", LONG, |_| Path::new(&socket).exists().then_some(()));
    (child, socket)
}

fn is_installed(program: &str) -> bool {
    Path::new("/usr/bin").join(program).exists() || Path::new("/usr/local/bin").join(program).exists()
}

fn clients<'a>(farm: &'a Farm, socket: &'a str) -> Vec<Client<'a>> {
    let platform = |architecture: &str| format!("linux/{architecture}");
    let home = farm.folder();
    let mut clients: Vec<Client<'a>> = vec![
        (
            "skopeo",
            Box::new(|reference, architecture| text(&config(reference, architecture)["architecture"])),
        ),
        (
            "docker manifest",
            Box::new(|reference, architecture| {
                let document = json(&mut docker(&["manifest", "inspect", "--insecure", reference]));
                of_manifest(&document, reference, architecture)
            }),
        ),
        (
            "imagetools",
            Box::new(|reference, architecture| {
                let document = json(&mut docker(&["buildx", "imagetools", "inspect", "--raw", reference]));
                of_manifest(&document, reference, architecture)
            }),
        ),
        (
            "docker pull",
            Box::new(move |reference, architecture| {
                output(&mut docker(&["pull", "-q", "--platform", &platform(architecture), reference])).ok();
                let args = ["image", "inspect", "--platform", &platform(architecture), reference];
                let found = json(&mut docker(&args));
                text(&found[0]["Architecture"])
            }),
        ),
        (
            "containerd",
            Box::new(move |reference, architecture| {
                let ctr = |args: &[&str]| {
                    let mut ctr = Command::new("ctr");
                    output(ctr.args(["--address", socket]).args(args)).ok()
                };
                let (wanted, folder) = (platform(architecture), home.join(format!("mounted-{}", nonce())));
                ctr(&["images", "pull", "--plain-http", "--platform", &wanted, reference]);
                // Unpacked for that platform: its files say which it is.
                std::fs::create_dir_all(&folder).unwrap();
                let target = folder.display().to_string();
                ctr(&["images", "mount", "--platform", &wanted, reference, &target]);
                let found = std::fs::read_to_string(folder.join("architecture")).unwrap();
                ctr(&["images", "unmount", "--rm", &target]);
                found.trim().to_owned()
            }),
        ),
    ];
    if is_installed("podman") {
        clients.push((
            "podman",
            Box::new(move |reference, architecture| {
                let root = home.join("podman").display().to_string();
                let podman = |args: &[&str]| {
                    let mut podman = Command::new("podman");
                    podman.args([
                        "--root",
                        &root,
                        "--runroot",
                        &format!("{root}-run"),
                        "--storage-driver",
                        "vfs",
                    ]);
                    podman.args(args);
                    podman
                };
                output(&mut podman(&["pull", "-q", "--tls-verify=false", "--arch", architecture, reference]))
                    .ok();
                text(&json(&mut podman(&["image", "inspect", reference]))[0]["Architecture"])
            }),
        ));
    }
    if is_installed("crane") {
        clients.push((
            "crane",
            Box::new(move |reference, architecture| {
                let mut crane = Command::new("crane");
                crane.args(["config", "--insecure", "--platform", &platform(architecture), reference]);
                text(&json(&mut crane)["architecture"])
            }),
        ));
    }
    if is_installed("oras") {
        clients.push((
            "oras",
            Box::new(move |reference, architecture| {
                let mut oras = Command::new("oras");
                oras.args([
                    "manifest",
                    "fetch-config",
                    "--plain-http",
                    "--platform",
                    &platform(architecture),
                    reference,
                ]);
                text(&json(&mut oras)["architecture"])
            }),
        ));
    }
    clients
}

#[test]
fn each_client_takes_the_image_of_its_platform_in_each_form() {
    let farm = small_farm();
    let (_containerd, socket) = containerd(&farm);
    let repository = repository("clients");
    let context = Context::new(&format!(
        "FROM scratch\nARG TARGETARCH\nLABEL n={}\nCOPY $TARGETARCH /architecture\n",
        nonce()
    ))
    .file("amd64", "amd64\n")
    .file("arm64", "arm64\n");
    let forms: &[(&str, &[&str])] = &[
        ("index", &[]),
        ("attested", &["--provenance"]),
        ("referring", &["--provenance", "--attestations", "referrers"]),
        ("annotated", &["--annotation", "index,manifest,manifest-descriptor:a=b"]),
        ("docker-list", &["--media-type", "docker"]),
    ];
    for (form, flags) in forms {
        let tag = format!("{repository}:{form}");
        submit(&farm, &context, &[&["-t", &tag, "--platform", "linux/amd64,linux/arm64"], *flags].concat())
            .ok();
    }
    let clients = clients(&farm, &socket);
    let system = std::fs::read_to_string("/etc/os-release").unwrap();
    let of_debian: &[&str] =
        if system.lines().any(|line| line == "ID=debian") { &["crane", "oras"] } else { &[] };
    for name in ALWAYS.iter().chain(of_debian) {
        assert!(
            clients.iter().any(|(client, _)| client == name),
            "{name} is not installed; tests/run.sh does it"
        );
    }
    for (name, architecture_of) in &clients {
        for (form, _) in forms {
            for architecture in ARCHITECTURES {
                let found = architecture_of(&format!("{repository}:{form}"), architecture);
                println!("{name:16} {form:12} {architecture:6} {found}");
                assert_eq!(found, architecture, "{name} of {form}");
            }
        }
    }
}
