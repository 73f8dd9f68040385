//! Signatures as cosign up to version 2 makes and finds them, and version 3 where it finds no bundle ([`super::bundle`]).
//!
//! Format: cosign's `specs/SIGNATURE_SPEC.md` ("simple signing"). What is signed is a short JSON text that names the image by its digest; it
//! is a layer of an image manifest of its own, whose annotation has the signature, and which lies under the tag `sha256-HEX.sig` beside the
//! image. Signatures of several keys are layers of one such manifest: what others have put there stays. Nothing here signs.

use farm_types::{Digest, Invalid, Repository};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::referrer::{Subject, fallback_tag};
use super::{IndexDocument, OCI_MANIFEST, is_attestation, is_index};

/// The type of the layer that is signed.
pub const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation of that layer which has the signature: base64 of the DER that ECDSA gives.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The type of the config of a manifest that farm makes.
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A manifest of so many signatures is long enough to be somebody's mistake.
const MOST: usize = 500;

/// What is signed of what is published: it, and each image that it lists, as engines and admission controllers may see one alone. What only
/// attests an image isn't: nobody runs it.
///
/// # Errors
/// It is said to be an index, and isn't.
pub fn subjects(published: &[u8], media_type: &str) -> Result<Vec<Subject>, serde_json::Error> {
    let digest = Digest::of(published);
    let size = u64::try_from(published.len()).unwrap_or(u64::MAX);
    let mut subjects = vec![Subject { media_type: media_type.to_owned(), digest, size }];
    if is_index(media_type) {
        let document: IndexDocument = serde_json::from_slice(published)?;
        let images = document.manifests.iter().filter(|entry| !is_attestation(entry)).map(Subject::from);
        for image in images {
            if subjects.iter().all(|known| known.digest != image.digest) {
                subjects.push(image);
            }
        }
    }
    Ok(subjects)
}

/// The tag under which an image's signatures are.
pub fn tag(subject: Digest) -> String {
    format!("{}.sig", fallback_tag(subject))
}

/// What is signed for an image in this repository; always the same bytes.
pub fn payload(repository: &Repository, subject: Digest) -> Vec<u8> {
    // As cosign has it, byte for byte.
    let name = Value::from(repository.to_string());
    format!(
        concat!(
            r#"{{"critical":{{"identity":{{"docker-reference":{}}},"image":{{"docker-manifest-digest":"{}"}},"#,
            r#""type":"cosign container image signature"}},"optional":null}}"#
        ),
        name, subject
    )
    .into_bytes()
}

/// The manifest of an image's signatures.
#[derive(Debug, Clone, PartialEq)]
pub struct Signatures {
    fields: Map<String, Value>,
    layers: Vec<Value>,
}

/// What is put of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Of the manifest.
    pub media_type: String,
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
}

/// The config that goes with the layers: these are not compressed, so what they are and what they hold have one digest.
#[derive(Serialize)]
struct Config<'a> {
    architecture: &'a str,
    created: &'a str,
    history: Vec<Value>,
    os: &'a str,
    rootfs: Value,
    config: Value,
}

impl Default for Signatures {
    /// None yet.
    fn default() -> Self {
        let fields = [
            ("schemaVersion".to_owned(), json!(2)),
            ("mediaType".to_owned(), json!(OCI_MANIFEST)),
            ("config".to_owned(), json!({ "mediaType": CONFIG })),
        ];
        Self { fields: fields.into_iter().collect(), layers: Vec::new() }
    }
}

impl Signatures {
    /// Reads what lies under the tag for them, whoever has put it there.
    ///
    /// # Errors
    /// It is something else, so that it isn't written over; or too long.
    pub fn read(manifest: &[u8]) -> Result<Self, Invalid> {
        let other = |why: &str| Invalid::new("signatures", "", why);
        let mut fields: Map<String, Value> =
            serde_json::from_slice(manifest).map_err(|_| other("what is there is no manifest"))?;
        let (Some(Value::Array(layers)), Some(Value::Object(_))) =
            (fields.remove("layers"), fields.get("config"))
        else {
            return Err(other("what is there is no image, as signatures are"));
        };
        if layers.len() > MOST {
            return Err(other("there are more than there may be"));
        }
        Ok(Self { fields, layers })
    }

    /// The signatures of what has this digest, in base64.
    pub fn of(&self, payload: Digest) -> impl Iterator<Item = &str> {
        let payload = Value::from(payload.to_string());
        let layers = self.layers.iter().filter(move |layer| layer["digest"] == payload);
        layers.filter_map(|layer| layer["annotations"][SIGNATURE].as_str())
    }

    /// With one signature more, in base64.
    ///
    /// # Errors
    /// There are as many as there may be, or a layer isn't any.
    pub fn with(mut self, payload: &[u8], signature: &str) -> Result<Document, Invalid> {
        let other = |why: &str| Invalid::new("signatures", "", why);
        if self.layers.len() >= MOST {
            return Err(other("there are as many as there may be"));
        }
        self.layers.push(json!({
            "mediaType": PAYLOAD,
            "size": payload.len(),
            "digest": Digest::of(payload),
            "annotations": { SIGNATURE: signature },
        }));
        let layers = self.layers.iter().map(|layer| layer["digest"].as_str().map(ToOwned::to_owned));
        let layers: Vec<String> =
            layers.collect::<Option<_>>().ok_or_else(|| other("a layer of them has no digest"))?;
        let created = "0001-01-01T00:00:00Z";
        let config = Config {
            architecture: "",
            created,
            history: layers.iter().map(|_| json!({ "created": created })).collect(),
            os: "",
            rootfs: json!({ "type": "layers", "diff_ids": layers }),
            config: json!({}),
        };
        let unwritable = |_| other("they can't be written");
        let config = serde_json::to_vec(&config).map_err(unwritable)?;
        if let Some(Value::Object(descriptor)) = self.fields.get_mut("config") {
            descriptor.insert("digest".to_owned(), json!(Digest::of(&config)));
            descriptor.insert("size".to_owned(), json!(config.len()));
        }
        self.fields.insert("layers".to_owned(), self.layers.into());
        let media_type =
            self.fields.get("mediaType").and_then(Value::as_str).unwrap_or(OCI_MANIFEST).to_owned();
        let manifest = serde_json::to_vec(&self.fields).map_err(unwritable)?;
        Ok(Document { media_type, manifest, config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::{DOCKER_MANIFEST, OCI_INDEX};

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_bytes_are_these() {
        let repository: Repository = "r.example:5000/team/app".parse().unwrap();
        let subject = Digest::of(b"image");
        let signed = payload(&repository, subject);
        let expected = format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"r.example:5000/team/app"}},"image":{{"docker-manifest-digest":"{subject}"}},"type":"cosign container image signature"}},"optional":null}}"#
        );
        assert_eq!(text(&signed), expected);
        assert_eq!(tag(subject), format!("sha256-{}.sig", subject.hex()));
        let Document { media_type, manifest, config } = Signatures::default().with(&signed, "MEU=").unwrap();
        let layer = Digest::of(&signed);
        let of_config = format!(
            r#"{{"architecture":"","created":"0001-01-01T00:00:00Z","history":[{{"created":"0001-01-01T00:00:00Z"}}],"os":"","rootfs":{{"diff_ids":["{layer}"],"type":"layers"}},"config":{{}}}}"#
        );
        assert_eq!(text(&config), of_config);
        let (size, of_config) = (config.len(), Digest::of(&config));
        let expected = format!(
            concat!(
                r#"{{"config":{{"digest":"{}","mediaType":"application/vnd.oci.image.config.v1+json","size":{}}},"#,
                r#""layers":[{{"annotations":{{"dev.cosignproject.cosign/signature":"MEU="}},"digest":"{}","#,
                r#""mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":{}}}],"#,
                r#""mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}}"#
            ),
            of_config,
            size,
            layer,
            signed.len()
        );
        assert_eq!((text(&manifest), media_type.as_str()), (&*expected, OCI_MANIFEST));
    }

    #[test]
    fn what_others_have_signed_stays_and_is_not_taken_for_farms() {
        let theirs = json!({
            "schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 3, "digest": Digest::of(b"c")},
            "layers": [
                {"mediaType": PAYLOAD, "size": 1, "digest": Digest::of(b"other"),
                 "annotations": {SIGNATURE: "their", "dev.sigstore.cosign/bundle": "{}"}},
                {"mediaType": PAYLOAD, "size": 1, "digest": "sha512:0123", "annotations": {SIGNATURE: "odd"}},
                {"mediaType": PAYLOAD, "size": 1, "digest": Digest::of(b"same"), "annotations": {SIGNATURE: 7}},
            ],
            "annotations": {"a": "b"},
        });
        let read = Signatures::read(theirs.to_string().as_bytes()).unwrap();
        assert_eq!(read.of(Digest::of(b"same")).count(), 0);
        assert_eq!(read.of(Digest::of(b"other")).collect::<Vec<_>>(), ["their"]);
        let put = read.with(b"same", "own").unwrap();
        assert_eq!(put.media_type, DOCKER_MANIFEST);
        let manifest: Value = serde_json::from_slice(&put.manifest).unwrap();
        assert_eq!(manifest["layers"].as_array().unwrap()[..3], theirs["layers"].as_array().unwrap()[..]);
        assert_eq!(manifest["annotations"], theirs["annotations"]);
        assert_eq!(manifest["config"]["mediaType"], theirs["config"]["mediaType"]);
        assert_eq!(manifest["config"]["digest"], json!(Digest::of(&put.config)));
        let config: Value = serde_json::from_slice(&put.config).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 4);
        let again = Signatures::read(&put.manifest).unwrap();
        assert_eq!(again.of(Digest::of(b"same")).collect::<Vec<_>>(), ["own"]);
    }

    #[test]
    fn what_is_no_list_of_signatures_is_not_written_over() {
        for other in ["<html>", "7", "{}", r#"{"manifests":[]}"#, r#"{"layers":[],"config":1}"#] {
            assert!(Signatures::read(other.as_bytes()).is_err(), "{other}");
        }
        let many = vec![json!({}); MOST];
        let full = Signatures::read(json!({"config": {}, "layers": many}).to_string().as_bytes()).unwrap();
        assert!(full.with(b"x", "y").unwrap_err().to_string().contains("as many as there may be"));
        let more = vec![json!({}); MOST + 1];
        assert!(Signatures::read(json!({"config": {}, "layers": more}).to_string().as_bytes()).is_err());
    }

    #[test]
    fn an_index_and_its_images_are_signed_and_attestations_are_not() {
        let entry = |name: &str, annotations: Value| json!({"mediaType": OCI_MANIFEST, "digest": Digest::of(name.as_bytes()), "size": 7, "annotations": annotations});
        let attests = json!({"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": "sha256:0"});
        let none = json!({});
        let all = [
            entry("amd64", none.clone()),
            entry("arm64", none.clone()),
            entry("amd64", none),
            entry("p", attests),
        ];
        let index = json!({"schemaVersion": 2, "manifests": all}).to_string();
        let signed: Vec<Digest> =
            subjects(index.as_bytes(), OCI_INDEX).unwrap().into_iter().map(|one| one.digest).collect();
        let expected = [index.as_bytes(), b"amd64", b"arm64"].map(Digest::of);
        assert_eq!(signed, expected);
        let alone = subjects(b"{}", OCI_MANIFEST).unwrap();
        assert_eq!((alone.len(), alone[0].size), (1, 2));
        assert!(subjects(b"<html>", OCI_INDEX).is_err());
    }
}
