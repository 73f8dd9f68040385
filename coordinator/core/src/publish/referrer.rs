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
pub(super) const EMPTY: &str = "application/vnd.oci.empty.v1+json";
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

/// One referrer, as it stands in a list.
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
    /// What kind of artifact it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Those of its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Entry {
    /// That of an attestation, by its manifest.
    pub fn of_attestation(artifact: &[u8]) -> Self {
        Self {
            media_type: OCI_MANIFEST.to_owned(),
            digest: Digest::of(artifact).to_string(),
            size: length(artifact),
            artifact_type: Some(ATTESTATION.to_owned()),
            annotations: None,
        }
    }

    /// The bytes of its texts.
    pub fn text_bytes(&self) -> usize {
        let annotations = self.annotations.iter().flatten().map(|(key, value)| key.len() + value.len());
        self.digest.len() + self.artifact_type.as_ref().map_or(0, String::len) + annotations.sum::<usize>()
    }
}

/// The referrers in a list, whoever has made it.
///
/// # Errors
/// It is none, or too long.
pub fn entries(list: &[u8]) -> Result<Vec<Entry>, Invalid> {
    #[derive(Deserialize)]
    struct List {
        #[serde(default)]
        manifests: Option<Vec<Entry>>,
    }
    let unreadable = |why: &str| Invalid::new("list of referrers", "", why);
    let list: List = serde_json::from_slice(list).map_err(|_| unreadable("it is no index"))?;
    let all = list.manifests.unwrap_or_default();
    if all.len() > MOST_LISTED {
        return Err(unreadable("it has more entries than it may have"));
    }
    Ok(all)
}

/// The list with this referrer in it; `None`: it is in it. What others have written into it stays.
///
/// # Errors
/// What lies there is no such list, so that it isn't written over; or it is too long.
pub fn listed(before: Option<&[u8]>, entry: &Entry) -> Result<Option<Vec<u8>>, Invalid> {
    let unreadable = |why: &str| Invalid::new("list of referrers", "", why);
    let mut list = match before {
        None => serde_json::json!({"schemaVersion": 2, "manifests": []}),
        Some(bytes) => serde_json::from_slice(bytes).map_err(|_| unreadable("it is no index"))?,
    };
    let fields = list.as_object_mut().ok_or_else(|| unreadable("it is no index"))?;
    let all = fields.entry("manifests").or_insert_with(|| serde_json::json!([]));
    let all = all.as_array_mut().ok_or_else(|| unreadable("it is no index"))?;
    if all.iter().any(|other| other["digest"] == entry.digest.as_str()) {
        return Ok(None);
    }
    if all.len() >= MOST_LISTED {
        return Err(unreadable("it has as many entries as it may have"));
    }
    let unwritable = |_| unreadable("it can't be written");
    all.push(serde_json::to_value(entry).map_err(unwritable)?);
    fields.insert("mediaType".to_owned(), OCI_INDEX.into());
    serde_json::to_vec(&list).map(Some).map_err(unwritable)
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
        let read_back: serde_json::Value = serde_json::from_str(&kept).unwrap();
        assert_eq!(read_back["manifests"][0]["annotations"]["a"], "b", "{kept}");
        assert_eq!(
            (&read_back["annotations"]["x"], &read_back["mediaType"]),
            (&"y".into(), &OCI_INDEX.into())
        );
        let read: Vec<String> =
            entries(kept.as_bytes()).unwrap().into_iter().map(|entry| entry.digest).collect();
        assert_eq!(read, ["sha256:1".to_owned(), one.digest.clone()]);
        assert!(listed(Some(b"<html>"), &one).is_err() && entries(b"7").is_err());
        assert!(entries(br#"{"schemaVersion":2}"#).unwrap().is_empty());
        assert_eq!(fallback_tag(Digest::of(b"")).len(), 71);
    }
}
