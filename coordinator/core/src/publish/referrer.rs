//! Artifacts that refer to an image, for registries that list them by it.
//!
//! Formats: OCI image-spec v1.1 (`manifest.md`, "Guidelines for Artifact Usage") and distribution-spec v1.1 ("Listing Referrers",
//! "Referrers Tag Schema"). The attestation that BuildKit pushed beside an image becomes an artifact of the same layers, whose subject is
//! the image; its type is the one that BuildKit itself gives such artifacts.

use std::collections::BTreeMap;

use farm_types::{Digest, Invalid};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Descriptor, OCI_INDEX, OCI_MANIFEST};

/// The type of an artifact that is an attestation.
pub const ATTESTATION: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// The type of a config that says nothing.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// That config (image-spec, "Guidance for an Empty Descriptor").
pub const EMPTY_CONFIG: &[u8] = b"{}";
/// A list of referrers of so many entries is long enough to be somebody's mistake.
const MOST_LISTED: usize = 1000;

/// What an artifact is about: a descriptor without a platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// The type of the manifest.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length, bytes.
    pub size: u64,
}

impl From<&Descriptor> for Subject {
    fn from(descriptor: &Descriptor) -> Self {
        let Descriptor { media_type, digest, size, .. } = descriptor.clone();
        Self { media_type, digest, size }
    }
}

/// An artifact's manifest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u32,
    media_type: &'static str,
    artifact_type: &'static str,
    config: Subject,
    layers: Vec<&'a RawValue>,
    subject: &'a Subject,
}

/// What is read of the attestation as BuildKit pushed it.
#[derive(Deserialize)]
struct Pushed<'a> {
    #[serde(borrow, default)]
    layers: Option<Vec<&'a RawValue>>,
}

/// The artifact that says of an image what the manifest `attestation` says; always the same bytes.
///
/// # Errors
/// That is no manifest.
pub fn artifact(attestation: &[u8], subject: &Subject) -> Result<Vec<u8>, Invalid> {
    let unusable = |error: serde_json::Error| {
        let why = format!("it can't be read (line {}, column {})", error.line(), error.column());
        Invalid::new("attestation", subject.digest.to_string(), why)
    };
    let pushed: Pushed<'_> = serde_json::from_slice(attestation).map_err(unusable)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST,
        artifact_type: ATTESTATION,
        config: Subject {
            media_type: EMPTY.to_owned(),
            digest: Digest::of(EMPTY_CONFIG),
            size: length(EMPTY_CONFIG),
        },
        layers: pushed.layers.unwrap_or_default(),
        subject,
    };
    serde_json::to_vec(&manifest).map_err(unusable)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The tag under which a registry that lists no referrers has the list of those of an image.
pub fn fallback_tag(subject: Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// A list of referrers, as it lies under its tag, and as a registry gives it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    manifests: Option<Vec<Entry>>,
    /// What others have said of it stays.
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

/// One referrer in a list: its descriptor, with all that is said of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The type of its manifest.
    #[serde(default)]
    pub media_type: String,
    /// Its digest; of whatever algorithm.
    pub digest: String,
    /// Its length, bytes.
    pub size: u64,
    /// Its artifact type, annotations, and whatever else.
    #[serde(flatten)]
    pub rest: BTreeMap<String, serde_json::Value>,
}

impl Entry {
    /// That of an attestation, by its manifest.
    pub fn of_attestation(artifact: &[u8]) -> Self {
        Self {
            media_type: OCI_MANIFEST.to_owned(),
            digest: Digest::of(artifact).to_string(),
            size: length(artifact),
            rest: [("artifactType".to_owned(), ATTESTATION.into())].into(),
        }
    }
}

/// The referrers in a list.
///
/// # Errors
/// It is none, or too long.
pub fn entries(list: &[u8]) -> Result<Vec<Entry>, Invalid> {
    Ok(read(list)?.manifests.unwrap_or_default())
}

fn read(list: &[u8]) -> Result<List, Invalid> {
    let unreadable = |why: &str| Invalid::new("list of referrers", "", why);
    let list: List = serde_json::from_slice(list).map_err(|_| unreadable("it is no index"))?;
    match &list.manifests {
        Some(all) if all.len() > MOST_LISTED => Err(unreadable("it has more entries than it may have")),
        _ => Ok(list),
    }
}

/// The list with this referrer in it; `None`: it is in it.
///
/// # Errors
/// What lies there is no such list, so that it isn't written over; or it is too long.
pub fn listed(before: Option<&[u8]>, entry: &Entry) -> Result<Option<Vec<u8>>, Invalid> {
    let unreadable = |why: &str| Invalid::new("list of referrers", "", why);
    let mut list = match before {
        None => List { schema_version: 2, media_type: String::new(), manifests: None, rest: BTreeMap::new() },
        Some(bytes) => read(bytes)?,
    };
    let all = list.manifests.get_or_insert_default();
    if all.iter().any(|other| other.digest == entry.digest) {
        return Ok(None);
    }
    if all.len() >= MOST_LISTED {
        return Err(unreadable("it has as many entries as it may have"));
    }
    all.push(entry.clone());
    OCI_INDEX.clone_into(&mut list.media_type);
    serde_json::to_vec(&list).map(Some).map_err(|_| unreadable("it can't be written"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject { media_type: OCI_MANIFEST.to_owned(), digest: Digest::of(b"image"), size: 480 }
    }

    #[test]
    fn the_bytes_are_these() {
        let pushed = br#"{"schemaVersion":2, "config":{"digest":"x"}, "layers":[{"mediaType":"application/vnd.in-toto+json", "size":7}]}"#;
        let expected = format!(
            concat!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
                r#""artifactType":"application/vnd.docker.attestation.manifest.v1+json","#,
                r#""config":{{"mediaType":"application/vnd.oci.empty.v1+json","#,
                r#""digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}},"#,
                r#""layers":[{{"mediaType":"application/vnd.in-toto+json", "size":7}}],"#,
                r#""subject":{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":480}}}}"#
            ),
            Digest::of(b"image")
        );
        assert_eq!(String::from_utf8(artifact(pushed, &subject()).unwrap()).unwrap(), expected);
        assert!(artifact(b"<html>", &subject()).is_err());
    }

    #[test]
    fn a_list_gets_each_artifact_once_and_keeps_what_others_wrote() {
        let [one, two] = [b"one", b"two"].map(|text| Entry::of_attestation(text));
        let first = listed(None, &one).unwrap().unwrap();
        assert_eq!(listed(Some(&first), &one).unwrap(), None);
        let both = String::from_utf8(listed(Some(&first), &two).unwrap().unwrap()).unwrap();
        let place = |entry: &Entry| both.find(&entry.digest).unwrap();
        assert!(place(&one) < place(&two) && both.contains(ATTESTATION), "{both}");

        let foreign = br#"{"schemaVersion":2,"manifests":[{"mediaType":"m","digest":"sha256:1","size":3,"annotations":{"a":"b"}}],"annotations":{"x":"y"}}"#;
        let kept = String::from_utf8(listed(Some(foreign), &one).unwrap().unwrap()).unwrap();
        for part in [
            r#""digest":"sha256:1","size":3,"annotations":{"a":"b"}"#,
            r#""annotations":{"x":"y"}"#,
            OCI_INDEX,
        ] {
            assert!(kept.contains(part), "{part} in {kept}");
        }
        let read: Vec<String> =
            entries(kept.as_bytes()).unwrap().into_iter().map(|entry| entry.digest).collect();
        assert_eq!(read, ["sha256:1".to_owned(), one.digest.clone()]);
        assert!(listed(Some(b"<html>"), &one).is_err() && entries(b"[]").is_err());
        assert!(entries(br#"{"schemaVersion":2}"#).unwrap().is_empty());
        assert_eq!(fallback_tag(Digest::of(b"")).len(), 71);
    }
}
