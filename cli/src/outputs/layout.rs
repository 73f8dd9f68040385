//! Images as archives of an OCI layout (image-spec v1.1, `image-layout.md`): what is in one, and several made into one.
//!
//! Of several platforms the layout holds one index, the same bytes as the index that a publication of them has: platforms in
//! the order of their text, then their attestations, without the annotations that name an image in its own layout.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read, Write};

use farm_types::{Digest, Platform};
use serde::{Deserialize, Serialize};
use tar::EntryType;

use super::archive::{Tee, Writer, each, senseless};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The annotation of a layout's entry that holds the image's whole name (containerd's).
const IMAGE_NAME: &str = "io.containerd.image.name";
/// The annotation by which an attestation manifest names what it is.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// Manifests, configs and indexes are no longer than that, bytes.
pub const LONGEST_DOCUMENT: u64 = 4 << 20;
/// All that are kept of one output.
const MOST_DOCUMENTS: u64 = 64 << 20;
/// What names all images of a layout.
pub const INDEX_FILE: &str = "index.json";

/// A descriptor, in the order in which its fields are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it points to is of this type.
    pub media_type: String,
    /// What it points to has this digest.
    pub digest: Digest,
    /// And this length, bytes.
    pub size: u64,
    /// The platform, if it is an image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformFields>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A platform as an index spells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformFields {
    architecture: String,
    os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

impl From<&Platform> for PlatformFields {
    fn from(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture().to_owned(),
            os: platform.os().to_owned(),
            variant: (!platform.variant().is_empty()).then(|| platform.variant().to_owned()),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Option<Config>,
}

#[derive(Deserialize)]
struct Config {
    digest: Digest,
}

/// The image in a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// The config of a lone manifest.
    pub config: Option<Digest>,
    /// Its names.
    pub names: Vec<String>,
}

impl Image {
    /// What Docker calls the image's id, as buildx writes it: the config's digest, or that of an index.
    pub fn id(&self) -> Digest {
        self.config.unwrap_or(self.descriptor.digest)
    }
}

/// The documents of a layout, kept on their way.
#[derive(Default)]
struct Documents {
    index: Option<Index>,
    blobs: BTreeMap<Digest, Vec<u8>>,
    bytes: u64,
}

impl Documents {
    /// Sees an entry. What of its content was read is answered: nothing, if it is no document.
    fn see(&mut self, path: &[u8], size: u64, content: &mut dyn Read) -> io::Result<Option<Vec<u8>>> {
        let blob = blob_digest(path);
        if size > LONGEST_DOCUMENT || (blob.is_none() && path != INDEX_FILE.as_bytes()) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        match blob {
            None => {
                let index = serde_json::from_slice(&bytes);
                self.index = Some(index.map_err(|error| senseless(&format!("its index: {error}")))?);
            }
            Some(digest) if bytes.first() == Some(&b'{') => {
                self.bytes += size;
                if self.bytes > MOST_DOCUMENTS {
                    return Err(senseless("too many documents"));
                }
                if Digest::of(&bytes) != digest {
                    return Err(senseless(&format!("{digest} has another content")));
                }
                self.blobs.insert(digest, bytes.clone());
            }
            Some(_) => {}
        }
        Ok(Some(bytes))
    }

    fn document<T: serde::de::DeserializeOwned>(&self, digest: Digest) -> Option<T> {
        serde_json::from_slice(self.blobs.get(&digest)?).ok()
    }

    fn image(&self) -> io::Result<Image> {
        let index = self.index.as_ref().ok_or_else(|| senseless("there is no index.json"))?;
        let first = index.manifests.first().ok_or_else(|| senseless("there is no image"))?;
        if index.manifests.iter().any(|other| other.digest != first.digest) {
            return Err(senseless("there are several images"));
        }
        let name = |descriptor: &Descriptor| descriptor.annotations.get(IMAGE_NAME).cloned();
        let config = self.document::<Manifest>(first.digest).and_then(|manifest| manifest.config);
        Ok(Image {
            names: index.manifests.iter().filter_map(name).collect(),
            descriptor: first.clone(),
            config: config.map(|config| config.digest),
        })
    }

    /// What of this image goes into the index of several: the image, and what attests it.
    fn children(&self, platform: &Platform) -> io::Result<(Descriptor, Vec<Descriptor>)> {
        let own = self.image()?.descriptor;
        let as_child = |descriptor: Descriptor| Descriptor { platform: Some(platform.into()), ..descriptor };
        if ![OCI_INDEX, DOCKER_LIST].contains(&own.media_type.as_str()) {
            return Ok((as_child(Descriptor { annotations: BTreeMap::new(), ..own }), Vec::new()));
        }
        let index: Index = self.document(own.digest).ok_or_else(|| senseless("its index is missing"))?;
        let attests = |descriptor: &Descriptor| {
            descriptor.annotations.get(REFERENCE_TYPE).is_some_and(|kind| kind == "attestation-manifest")
        };
        let (attestations, mut images): (Vec<_>, Vec<_>) = index.manifests.into_iter().partition(attests);
        match (images.pop(), images.is_empty()) {
            (Some(image), true) => Ok((as_child(image), attestations)),
            _ => Err(senseless("it is not of one platform")),
        }
    }
}

/// The digest that an entry's name says, if it is a blob's.
fn blob_digest(path: &[u8]) -> Option<Digest> {
    let hex = std::str::from_utf8(path).ok()?.strip_prefix("blobs/sha256/")?;
    format!("sha256:{hex}").parse().ok()
}

/// Passes an image's archive on as it is, and tells what is in it.
///
/// # Errors
/// It is none, it breaks off, or it can't be written.
pub fn copy(input: impl Read, to: impl Write) -> io::Result<Image> {
    let mut documents = Documents::default();
    each(Tee::new(input, to), |entry, content| documents.see(&entry.path, entry.size, content).map(drop))?;
    documents.image()
}

/// Makes one archive of those of several platforms, each with its name. Contents that several have are in it once.
///
/// # Errors
/// One is none, it breaks off, or it can't be written.
pub fn merge<R: Read>(inputs: Vec<(Platform, impl FnOnce() -> R)>, to: impl Write) -> io::Result<Image> {
    let mut writer = Writer::new(to);
    writer.own(EntryType::Directory, "blobs/", 0o755, b"")?;
    writer.own(EntryType::Directory, "blobs/sha256/", 0o755, b"")?;
    let mut written: HashSet<Digest> = HashSet::new();
    let mut children: Vec<(String, Descriptor, Vec<Descriptor>)> = Vec::new();
    let mut entries: Vec<Descriptor> = Vec::new();
    for (platform, open) in inputs {
        let mut documents = Documents::default();
        each(open(), |entry, content| {
            let read = documents.see(&entry.path, entry.size, content)?;
            let Some(digest) = blob_digest(&entry.path) else { return Ok(()) };
            if !written.insert(digest) {
                return Ok(());
            }
            match read {
                Some(bytes) => writer.entry(&entry, &mut &bytes[..]),
                None => writer.entry(&entry, content),
            }
        })?;
        let (image, attestations) = documents.children(&platform)?;
        children.push((platform.to_string(), image, attestations));
        if entries.is_empty() {
            entries = documents.index.map(|index| index.manifests).unwrap_or_default();
        }
    }
    children.sort_by(|one, other| one.0.cmp(&other.0));
    let images = children.iter().map(|(_, image, _)| image.clone());
    let attestations = children.iter().flat_map(|(_, _, attestations)| attestations.clone());
    let index = document(images.chain(attestations).collect())?;
    let digest = Digest::of(&index);
    let size = u64::try_from(index.len()).unwrap_or(u64::MAX);
    if written.insert(digest) {
        writer.own(EntryType::Regular, &format!("blobs/sha256/{}", digest.hex()), 0o444, &index)?;
    }
    // By the names that each of them has in its own layout.
    let descriptor = |annotations| Descriptor {
        media_type: OCI_INDEX.to_owned(),
        digest,
        size,
        platform: None,
        annotations,
    };
    let entries: Vec<Descriptor> = entries.into_iter().map(|entry| descriptor(entry.annotations)).collect();
    let names = entries.iter().filter_map(|entry| entry.annotations.get(IMAGE_NAME).cloned()).collect();
    writer.own(EntryType::Regular, INDEX_FILE, 0o644, &document(entries)?)?;
    writer.own(EntryType::Regular, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    writer.end()?;
    Ok(Image { descriptor: descriptor(BTreeMap::new()), config: None, names })
}

fn document(manifests: Vec<Descriptor>) -> io::Result<Vec<u8>> {
    let index = Index { schema_version: 2, media_type: OCI_INDEX.to_owned(), manifests };
    serde_json::to_vec(&index).map_err(io::Error::other)
}

/// The `index.json` of a folder that holds images already, with those of another one in the place of what has their names. One
/// without a name is in the place of the same one without a name.
///
/// # Errors
/// One of them is none.
pub fn joined_index(old: &[u8], new: &[u8]) -> io::Result<Vec<u8>> {
    let new: Index = serde_json::from_slice(new).map_err(io::Error::other)?;
    let old: Index = serde_json::from_slice(old).map_err(io::Error::other)?;
    let name = |descriptor: &Descriptor| descriptor.annotations.get(IMAGE_NAME).cloned();
    let replaced = |descriptor: &Descriptor| {
        new.manifests.iter().any(|other| match (name(other), name(descriptor)) {
            (None, None) => other.digest == descriptor.digest,
            (one, other) => one == other,
        })
    };
    let kept = old.manifests.into_iter().filter(|descriptor| !replaced(descriptor));
    document(kept.chain(new.manifests.clone()).collect())
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
