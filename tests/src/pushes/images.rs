//! Images of nothing, one for each commit, in a real registry: what the simulated worker says that it has pushed. They are put by digest, as
//! engines do; tags are the farm's. It comes in by a [`Door`], which writes down each tag in the order in which the registry took it.

use std::collections::BTreeMap;

use farm_proto::v1;
use serde_json::{Value, json};

use crate::faults::door::{Door, digest_of};
use crate::forge::{Answer, try_ask_raw};
use crate::registry::PrivateRegistry;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A registry and what was put there.
#[derive(Debug)]
pub struct Images {
    door: Door,
    registry: PrivateRegistry,
}

/// What all of them run as: a platform with no files.
fn config() -> String {
    json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}}).to_string()
}

/// A commit's image.
fn manifest(commit: &str) -> String {
    let config = config();
    let config = json!({"mediaType": CONFIG, "digest": digest_of(config.as_bytes()), "size": config.len()});
    let of = json!({"org.opencontainers.image.revision": commit});
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [], "annotations": of})
        .to_string()
}

impl Images {
    /// An empty registry.
    pub fn start() -> Images {
        let registry = PrivateRegistry::start();
        let door = Door::to(registry.port(), 1);
        let images = Images { door, registry };
        let (head, (status, said)) = images.ask(("POST", "/v2/app/blobs/uploads/"), "", b"");
        assert_eq!(status, 202, "{said}");
        let (_, place) = head.split_once("ocation: ").unwrap();
        let place = place.lines().next().unwrap().splitn(4, '/').nth(3).unwrap().to_owned();
        let text = config();
        let path = format!("/{place}&digest={}", digest_of(text.as_bytes()));
        let (_, (status, said)) = images.ask(("PUT", &path), "application/octet-stream", text.as_bytes());
        assert_eq!(status, 201, "{said}");
        images
    }

    /// Asks the registry itself.
    fn ask(&self, of: (&str, &str), kind: &str, body: &[u8]) -> (String, Answer) {
        let headers = [("content-type", kind), ("accept", INDEX)];
        let headers = if body.is_empty() { &headers[1..] } else { &headers[..] };
        try_ask_raw(self.registry.port(), of, headers, body).expect("the registry doesn't answer")
    }

    /// Where builds are published.
    pub fn destination(&self) -> String {
        format!("{}/app", self.door.address())
    }

    /// Puts a commit's image there; it may be there already.
    pub fn push(&self, commit: &str) -> v1::JobResult {
        let text = manifest(commit);
        let digest = digest_of(text.as_bytes());
        let (_, (status, said)) =
            self.ask(("PUT", &format!("/v2/app/manifests/{digest}")), MANIFEST, text.as_bytes());
        assert_eq!(status, 201, "{said}");
        let size = text.len().try_into().unwrap();
        v1::JobResult { digest, media_type: MANIFEST.to_owned(), size, ..Default::default() }
    }

    /// The digests of the images that an index has, by a tag or by its own digest.
    fn images(&self, reference: &str) -> Vec<String> {
        let (_, (status, said)) = self.ask(("GET", &format!("/v2/app/manifests/{reference}")), "", b"");
        assert_eq!(status, 200, "{reference}: {said}");
        let index: Value = serde_json::from_str(&said).unwrap();
        let digest = |child: &Value| child["digest"].as_str().unwrap().to_owned();
        index["manifests"].as_array().unwrap().iter().map(digest).collect()
    }

    /// Judges a branch's tag by all the commits where the branch has been: it is at the last one's image, and was never moved to one of before.
    /// How often it was moved.
    pub fn judge(&self, branch: &str, history: &[String]) -> usize {
        let places: BTreeMap<String, usize> = history
            .iter()
            .enumerate()
            .map(|(place, commit)| (digest_of(manifest(commit).as_bytes()), place))
            .collect();
        let place = |reference: &str| match &self.images(reference)[..] {
            [image] => {
                places.get(image).copied().unwrap_or_else(|| panic!("{branch}: {image} is no commit's"))
            }
            images => panic!("{branch}: {images:?}"),
        };
        let puts = self.door.puts();
        let puts = puts.iter().filter(|put| put.reference == branch);
        let moves: Vec<usize> = puts.map(|put| place(&put.digest)).collect();
        assert!(moves.is_sorted(), "{branch}: its tag was moved back: {moves:?}");
        assert_eq!(
            place(branch),
            history.len() - 1,
            "{branch}: its tag isn't at its newest commit: {moves:?}"
        );
        moves.len()
    }
}
