//! Signatures as cosign from version 3 on makes them, and looks for first: Sigstore bundles that refer to the image.
//!
//! Formats: Sigstore's bundle v0.3 (protobuf-specs, `sigstore_bundle.proto`, in its JSON form) with a DSSE envelope (secure-systems-lab/dsse,
//! `protocol.md`, "DSSEv1") around an in-toto statement v1 of the predicate `https://sigstore.dev/cosign/sign/v1`; as an OCI artifact
//! (cosign's `specs/BUNDLE_SPEC.md`) whose subject is the image. It has no entry of a transparency log and no time: a key is all that it is
//! held against. Nothing here signs.

use farm_types::Digest;
use serde::{Deserialize, Serialize};

use super::OCI_MANIFEST;
use super::referrer::{EMPTY, EMPTY_CONFIG, Entry, Subject};

/// The type of a bundle, and of the artifact that it is.
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// The type of what its envelope holds.
const STATEMENT: &str = "application/vnd.in-toto+json";
/// What the statement says: that the image is signed.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// Bundles that are longer are of others, bytes.
pub const LONGEST: u64 = 64 * 1024;

/// What is said of an image; always the same bytes.
pub fn statement(subject: Digest) -> Vec<u8> {
    // As cosign has it, byte for byte.
    format!(
        concat!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"digest":{{"sha256":"{}"}},"annotations":{{}}}}],"#,
            r#""predicateType":"{}","predicate":{{}}}}"#
        ),
        subject.hex(),
        SIGNED
    )
    .into_bytes()
}

/// What is signed of a statement: DSSE's pre-authentication encoding.
pub fn to_sign(statement: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {STATEMENT} {} ", STATEMENT.len(), statement.len()).into_bytes();
    bytes.extend_from_slice(statement);
    bytes
}

/// A bundle: its statement and the signature of it, both in base64, and by which key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Envelope,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    public_key: Hint,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hint {
    #[serde(default)]
    hint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Signed {
    sig: String,
}

impl Bundle {
    /// Of a statement and its signature, both in base64; `hint`: base64 of the digest of the public key, as cosign names it.
    pub fn new(statement: String, signature: String, hint: String) -> Self {
        Self {
            media_type: BUNDLE.to_owned(),
            verification_material: Material { public_key: Hint { hint } },
            dsse_envelope: Envelope {
                payload: statement,
                payload_type: STATEMENT.to_owned(),
                signatures: vec![Signed { sig: signature }],
            },
        }
    }

    /// The bytes of it.
    ///
    /// # Errors
    /// None that is known of.
    pub fn bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Reads one that was signed by a key and not by a certificate; `None`: it is of another kind.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The signatures, in base64, of this statement, in base64; none if it is about another.
    pub fn of<'a>(&'a self, statement: &str) -> impl Iterator<Item = &'a str> {
        let envelope = &self.dsse_envelope;
        let is_it = envelope.payload_type == STATEMENT && envelope.payload == statement;
        envelope.signatures.iter().filter(move |_| is_it).map(|signed| signed.sig.as_str())
    }
}

/// An artifact's manifest. (Here without the time at which it was made, which cosign notes: the same bundle is the same artifact.)
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    artifact_type: &'a str,
    config: Subject,
    layers: [Subject; 1],
    annotations: Annotations<'a>,
    subject: &'a Subject,
}

/// By which cosign and others tell what a bundle holds without reading it.
#[derive(Serialize)]
struct Annotations<'a> {
    #[serde(rename = "dev.sigstore.bundle.content")]
    content: &'a str,
    #[serde(rename = "dev.sigstore.bundle.predicateType")]
    predicate: &'a str,
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Subject {
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    Subject { media_type: media_type.to_owned(), digest: Digest::of(bytes), size }
}

/// The artifact that a bundle about this subject is; always the same bytes.
///
/// # Errors
/// None that is known of.
pub fn artifact(bundle: &[u8], subject: &Subject) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST,
        artifact_type: BUNDLE,
        config: descriptor(EMPTY, EMPTY_CONFIG),
        layers: [descriptor(BUNDLE, bundle)],
        annotations: Annotations { content: "dsse-envelope", predicate: SIGNED },
        subject,
    })
}

/// How a list of referrers has it, by its manifest.
pub fn entry(artifact: &[u8]) -> Entry {
    let Subject { media_type, digest, size } = descriptor(OCI_MANIFEST, artifact);
    let annotations = [
        ("dev.sigstore.bundle.content".to_owned(), "dsse-envelope".to_owned()),
        ("dev.sigstore.bundle.predicateType".to_owned(), SIGNED.to_owned()),
    ];
    Entry {
        media_type,
        digest: digest.to_string(),
        size,
        artifact_type: Some(BUNDLE.to_owned()),
        annotations: Some(annotations.into_iter().collect()),
    }
}

/// Whether what a list names so may be a bundle. Where a registry lists no referrers cosign writes the type of the config there.
pub fn may_be(entry: &Entry) -> bool {
    entry.artifact_type.as_deref().is_none_or(|kind| [BUNDLE, EMPTY].contains(&kind))
}

/// The blob of the bundle that an artifact is; `None`: it is something else, or longer than farm's are.
pub fn blob(artifact: &[u8]) -> Option<Digest> {
    #[derive(Deserialize)]
    struct Read {
        layers: Vec<Subject>,
    }
    let read: Read = serde_json::from_slice(artifact).ok()?;
    let [layer] = &read.layers[..] else { return None };
    (layer.media_type == BUNDLE && layer.size <= LONGEST).then_some(layer.digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject { media_type: OCI_MANIFEST.to_owned(), digest: Digest::of(b"image"), size: 480 }
    }

    #[test]
    fn the_bytes_are_these() {
        let hex = Digest::of(b"image").hex();
        let said = String::from_utf8(statement(Digest::of(b"image"))).unwrap();
        let expected = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"digest":{{"sha256":"{hex}"}},"annotations":{{}}}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{{}}}}"#
        );
        assert_eq!(said, expected);
        // DSSE, protocol.md, "Test vectors", with this type.
        assert_eq!(to_sign(b"hello world"), b"DSSEv1 28 application/vnd.in-toto+json 11 hello world");
        let bundle = Bundle::new("c3RhdGVtZW50".to_owned(), "MEU=".to_owned(), "aGludA==".to_owned());
        let bytes = bundle.bytes().unwrap();
        let expected = concat!(
            r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"aGludA=="}},"#,
            r#""dsseEnvelope":{"payload":"c3RhdGVtZW50","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"MEU="}]}}"#
        );
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), expected);
        let artifact = artifact(&bytes, &subject()).unwrap();
        let expected = format!(
            concat!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
                r#""artifactType":"application/vnd.dev.sigstore.bundle.v0.3+json","#,
                r#""config":{{"mediaType":"application/vnd.oci.empty.v1+json","#,
                r#""digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}},"#,
                r#""layers":[{{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","digest":"{}","size":{}}}],"#,
                r#""annotations":{{"dev.sigstore.bundle.content":"dsse-envelope","#,
                r#""dev.sigstore.bundle.predicateType":"https://sigstore.dev/cosign/sign/v1"}},"#,
                r#""subject":{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":480}}}}"#
            ),
            Digest::of(&bytes),
            bytes.len(),
            Digest::of(b"image")
        );
        assert_eq!(std::str::from_utf8(&artifact).unwrap(), expected);
        assert_eq!(blob(&artifact), Some(Digest::of(&bytes)));
        assert_eq!(entry(&artifact).digest, Digest::of(&artifact).to_string());
    }

    #[test]
    fn a_bundle_is_known_again_and_what_is_none_is_passed_over() {
        let bundle = Bundle::new("said".to_owned(), "MEU=".to_owned(), String::new());
        let read = Bundle::read(&bundle.bytes().unwrap()).unwrap();
        assert_eq!(read.of("said").collect::<Vec<_>>(), ["MEU="]);
        assert_eq!(read.of("something else").count(), 0);
        // One by a certificate, one of another form, none.
        for other in [
            r#"{"mediaType":"m","verificationMaterial":{"certificate":{}},"dsseEnvelope":{}}"#,
            "{}",
            "<html>",
        ] {
            assert!(Bundle::read(other.as_bytes()).is_none(), "{other}");
        }
        let own = entry(&artifact(b"{}", &subject()).unwrap());
        assert!(may_be(&own) && may_be(&Entry { artifact_type: None, ..own.clone() }));
        assert!(may_be(&Entry { artifact_type: Some(EMPTY.to_owned()), ..own.clone() }));
        assert!(!may_be(&Entry { artifact_type: Some("application/spdx+json".to_owned()), ..own }));
        let long = format!(
            r#"{{"layers":[{{"mediaType":"{BUNDLE}","digest":"{}","size":65537}}]}}"#,
            Digest::of(b"long")
        );
        for other in [&*long, r#"{"layers":[]}"#, r#"{"manifests":[]}"#] {
            assert_eq!(blob(other.as_bytes()), None, "{other}");
        }
    }
}
