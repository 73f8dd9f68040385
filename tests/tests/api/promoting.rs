//! An image promoted between registries that make one misstep each: at every request, of every kind. It ends right, or the tag stays
//! where it was.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use farm_tests::farm::{Farm, output};
use farm_tests::faults::door::digest_of;
use farm_tests::misstep::{Asked, Misstep, Missteps};
use farm_tests::registry::PrivateRegistry;
use farm_tests::token_service::TokenService;
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// So long all copies may take together.
const ALL_OF_THEM: Duration = Duration::from_secs(240);

/// The registry behind the ports, asked directly.
struct Behind {
    registry: PrivateRegistry,
}

impl Behind {
    fn curl(&self, args: &[&str], path: &str) -> (u16, Vec<u8>) {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-w", "%{http_code}", "-H", &format!("Accept: {INDEX}, {MANIFEST}")]).args(args);
        let asked =
            curl.arg(format!("http://127.0.0.1:{}/v2/{path}", self.registry.port())).output().unwrap();
        assert!(asked.status.success(), "{path}: {asked:?}");
        let mut said = asked.stdout;
        let status = String::from_utf8(said.split_off(said.len() - 3)).unwrap();
        (status.parse().unwrap(), said)
    }

    fn blob(&self, repository: &str, text: &str, media_type: &str) -> Value {
        let digest = digest_of(text.as_bytes());
        let begin =
            self.curl(&["-X", "POST", "-D", "-", "-o", "/dev/null"], &format!("{repository}/blobs/uploads/"));
        let head = String::from_utf8(begin.1).unwrap();
        let place = head.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap().trim();
        let (_, place) = place.split_once("/v2/").unwrap();
        let args = ["-X", "PUT", "-H", "Content-Type: application/octet-stream", "--data-binary", text];
        assert_eq!(self.curl(&args, &format!("{place}&digest={digest}")).0, 201);
        json!({"mediaType": media_type, "digest": digest, "size": text.len()})
    }

    fn manifest(&self, repository: &str, reference: Option<&str>, document: &Value) -> Value {
        let text = document.to_string();
        let media_type = document["mediaType"].as_str().unwrap();
        let digest = digest_of(text.as_bytes());
        let kind = format!("Content-Type: {media_type}");
        let args = ["-X", "PUT", "-H", &kind, "--data-binary", &text];
        let path = format!("{repository}/manifests/{}", reference.unwrap_or(&digest));
        assert_eq!(self.curl(&args, &path).0, 201);
        json!({"mediaType": media_type, "digest": digest, "size": text.len()})
    }

    /// An image of two platforms with a layer each, of one layer for both, and of a config each: its digest.
    fn image(&self, repository: &str, tag: &str, name: &str) -> String {
        let layer = "application/vnd.oci.image.layer.v1.tar";
        let shared = self.blob(repository, &format!("{name}: of both"), layer);
        let children = ["amd64", "arm64"].map(|architecture| {
            let own = self.blob(repository, &format!("{name}: {}", architecture.repeat(300)), layer);
            let ids = [&shared, &own].map(|layer| layer["digest"].clone());
            let config = json!({
                "architecture": architecture, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids},
            });
            let config = self.blob(repository, &config.to_string(), "application/vnd.oci.image.config.v1+json");
            let document = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [shared, own]});
            let mut child = self.manifest(repository, None, &document);
            child["platform"] = json!({"os": "linux", "architecture": architecture});
            child
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children});
        self.manifest(repository, Some(tag), &index)["digest"].as_str().unwrap().to_owned()
    }

    /// What an index is that a tag points to; all that it lists is there.
    fn whole(&self, repository: &str, tag: &str) -> String {
        let (status, bytes) = self.curl(&[], &format!("{repository}/manifests/{tag}"));
        assert_eq!(status, 200, "{repository}:{tag}");
        let index: Value = serde_json::from_slice(&bytes).unwrap();
        for child in index["manifests"].as_array().unwrap() {
            let of = child["digest"].as_str().unwrap();
            let (status, bytes) = self.curl(&[], &format!("{repository}/manifests/{of}"));
            assert_eq!((status, &*digest_of(&bytes)), (200, of), "{repository}");
            let manifest: Value = serde_json::from_slice(&bytes).unwrap();
            for blob in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
                let of = blob["digest"].as_str().unwrap();
                let (status, bytes) = self.curl(&[], &format!("{repository}/blobs/{of}"));
                assert_eq!((status, &*digest_of(&bytes)), (200, of), "{repository}");
            }
        }
        digest_of(&bytes)
    }
}

/// One copy of all.
struct Copy {
    name: String,
    misstep: Option<Misstep>,
    id: String,
    /// What was asked for at the request that was answered wrong, when there was none.
    at: String,
}

/// What became of the copies of each kind of misstep: those that were published, and those that failed.
pub type Counts = BTreeMap<String, (usize, usize)>;

/// Promotes an image once without a misstep, and then once for each of its requests and kind of misstep, of which `every`-th ones are
/// taken: into a registry that has nothing of it, or (`near`) into another repository of its own.
pub fn promote_with_missteps(near: bool, every: usize) -> Counts {
    let service = TokenService::start();
    let behind = Behind { registry: PrivateRegistry::start() };
    let realm = service.realm();
    let (from, to) = (
        Missteps::to("from", behind.registry.port(), &realm),
        Missteps::to("to", behind.registry.port(), &realm),
    );
    let source = if near { &to } else { &from };
    let settings = format!("{}{}", service.settings(&from.address()), service.settings(&to.address()));
    let farm = Farm::builder().config(&settings).start();
    let new = behind.image("source", "1", "new");
    let promote = |name: &str| {
        let old = behind.image(&format!("{name}/app"), "latest", "old");
        let (image, tag) =
            (format!("{}/{name}/source:1", source.address()), format!("{}/{name}/app:latest", to.address()));
        (old, farm.cli(&["promote", &image, &tag, "--detach", "--quiet"]).ok().trim().to_owned())
    };
    let (old, first) = promote("to-no-0");
    farm.cli(&["attach", &first]).ok();
    assert_eq!(behind.whole("to-no-0/app", "latest"), new);

    let mut copies = Vec::new();
    let mut place = 0;
    for (port, door) in [("from", &from), ("to", &to)] {
        let asked: Vec<Asked> = door.asked("to-no-0");
        assert!(near || asked.len() > 5, "{port}: {asked:?}");
        for (number, (method, path)) in asked.iter().enumerate() {
            for misstep in Misstep::ALL {
                place += 1;
                if place % every != 0 {
                    continue;
                }
                let name = format!("{port}-{misstep}-{}", number + 1);
                let (_, id) = promote(&name);
                copies.push(Copy { name, misstep: Some(misstep), id, at: format!("{method} {path}") });
            }
        }
    }
    copies.push(Copy { name: "to-no-0".to_owned(), misstep: None, id: first, at: String::new() });

    let begin = Instant::now();
    let mut counts = Counts::new();
    for copy in &copies {
        let build = loop {
            let build = farm.cli(&["show", &copy.id, "--json"]).json();
            if !build["finished"].is_null() {
                break build;
            }
            assert!(begin.elapsed() < ALL_OF_THEM, "{} ({}) doesn't end: {build:#}", copy.name, copy.at);
            std::thread::sleep(Duration::from_millis(100));
        };
        let was_made = from.was_made(&copy.name) || to.was_made(&copy.name);
        assert_eq!(was_made, copy.misstep.is_some(), "{} ({})", copy.name, copy.at);
        let is_published = build["state"] == "succeeded";
        let there = behind.whole(&format!("{}/app", copy.name), "latest");
        let wanted = if is_published { &new } else { &old };
        assert_eq!(&there, wanted, "{} ({}): {build:#}", copy.name, copy.at);
        if !is_published {
            let said = output(&mut farm.command(&["show", &copy.id])).stdout;
            println!("{} ({}): {}", copy.name, copy.at, build["failure"]["message"]);
            assert!(
                copy.misstep.is_some_and(|misstep| !misstep.passes()),
                "{} ({}): {said}",
                copy.name,
                copy.at
            );
        }
        let count =
            counts.entry(copy.misstep.map_or("none".to_owned(), |misstep| misstep.to_string())).or_default();
        if is_published { count.0 += 1 } else { count.1 += 1 }
    }
    counts
}

#[test]
fn a_misstep_at_any_request_of_a_promote_leaves_the_image_or_the_old_tag() {
    // Kinds are eight, so that each meets other requests.
    println!("{:?}", promote_with_missteps(false, 13));
}

#[test]
fn a_misstep_at_any_request_of_a_promote_within_a_registry_leaves_the_image_or_the_old_tag() {
    println!("{:?}", promote_with_missteps(true, 19));
}
