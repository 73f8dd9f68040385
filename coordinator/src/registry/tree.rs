//! All that an image consists of, as its registry has it: the index, the manifests that it lists, attestations among them, and their blobs.
//!
//! Formats: OCI image-spec v1.1 (`image-index.md`, `manifest.md`) and Docker's "Image Manifest V 2, Schema 2". Bytes are kept as they came.
//!
//! Whoever names an image names whatever registry they like: what is read of one is bounded as a whole ([`MOST_BYTES`], [`MOST_BLOBS`]).

use std::collections::{BTreeMap, BTreeSet};

use farm_core::publish::{DOCKER_MANIFEST, OCI_MANIFEST, is_index};
use farm_types::{Cause, Digest, Failure, FailureCode, Repository};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;

use super::image::{ChildError, in_json};
use super::{By, Manifest};

/// So many manifests one image has at most, so many bytes together, so many blobs, and so deep indexes list indexes.
pub const MOST_MANIFESTS: usize = 1000;
const MOST_BYTES: usize = 32 << 20;
const MOST_BLOBS: usize = 20_000;
const DEEPEST: usize = 3;
/// So many are asked for at once.
const AT_ONCE: usize = 4;

/// An image with all that belongs to it.
#[derive(Debug)]
pub struct Tree {
    /// What was named: an index, or the manifest of one image.
    pub root: Manifest,
    /// Its digest.
    pub digest: Digest,
    /// All other manifests, in an order in which they can be put: what one lists comes before it.
    pub manifests: Vec<(Digest, Manifest)>,
    /// Configs and layers, with their length.
    pub blobs: BTreeMap<Digest, u64>,
}

impl Tree {
    /// The digests of the other manifests.
    pub fn others(&self) -> Vec<Digest> {
        self.manifests.iter().map(|(digest, _)| *digest).collect()
    }

    /// The length of all blobs.
    pub fn bytes(&self) -> u64 {
        self.blobs.values().fold(0, |sum, size| sum.saturating_add(*size))
    }
}

/// What a manifest or an index refers to.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    config: Option<Entry>,
    layers: Option<Vec<Entry>>,
    manifests: Option<Vec<Entry>>,
}

impl Document {
    /// The blobs that lie in the registry, with their length.
    pub(super) fn blobs(&self) -> impl Iterator<Item = (Digest, u64)> {
        let blobs = self.config.iter().chain(self.layers.iter().flatten());
        blobs.filter(|blob| !blob.is_foreign()).map(|blob| (blob.digest, blob.size))
    }

    /// The manifests that it lists.
    pub(super) fn listed(&self) -> Vec<Digest> {
        self.manifests.iter().flatten().map(|entry| entry.digest).collect()
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

impl Entry {
    /// Whether it lies elsewhere by its maker's will, and is fetched from there by whoever runs the image.
    fn is_foreign(&self) -> bool {
        self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
            && (self.media_type.contains(".foreign.") || self.media_type.contains(".nondistributable."))
    }
}

/// What was read so far.
struct Reading<'a> {
    repository: &'a Repository,
    /// What was named.
    of: Digest,
    /// Each manifest, and what it lists.
    known: BTreeMap<Digest, (Manifest, Vec<Digest>)>,
    /// Those that are known, or asked for.
    asked: BTreeSet<Digest>,
    blobs: BTreeMap<Digest, u64>,
    bytes: usize,
}

impl By<'_> {
    /// Reads an image to its last manifest. Its root is known, and need not be in the repository: what it lists is.
    ///
    /// # Errors
    /// The registry; or what is there is no image, misses a part, or is more than is copied.
    pub async fn tree(
        &self,
        repository: &Repository,
        digest: Digest,
        root: Manifest,
    ) -> Result<Tree, ChildError> {
        let mut reading = Reading {
            repository,
            of: digest,
            known: BTreeMap::new(),
            asked: BTreeSet::new(),
            blobs: BTreeMap::new(),
            bytes: 0,
        };
        let mut next = reading.take(digest, root)?;
        for _ in 0..DEEPEST {
            if next.is_empty() {
                break;
            }
            let mut wanted = futures::stream::iter(std::mem::take(&mut next))
                .map(async |entry| {
                    Ok::<_, ChildError>((entry.digest, self.listed(repository, digest, &entry).await?))
                })
                .buffered(AT_ONCE);
            while let Some((digest, manifest)) = wanted.try_next().await? {
                next.extend(reading.take(digest, manifest)?);
            }
        }
        if next.is_empty() {
            return reading.end();
        }
        Err(unfit(repository, digest, "its indexes list indexes that list indexes"))
    }

    /// A manifest as an index lists it.
    async fn listed(
        &self,
        repository: &Repository,
        of: Digest,
        entry: &Entry,
    ) -> Result<Manifest, ChildError> {
        let manifest = self.manifest(repository, &entry.digest.to_string()).await?;
        let Some(manifest) = manifest else {
            let why = format!("it lists {}, which isn't there", entry.digest);
            return Err(unfit(repository, of, &why));
        };
        if u64::try_from(manifest.bytes.len()) == Ok(entry.size) {
            Ok(manifest)
        } else {
            Err(unfit(repository, of, &format!("it says another length of {}", entry.digest)))
        }
    }
}

impl Reading<'_> {
    /// Keeps a manifest and its blobs; gives what it lists and nobody has listed before.
    fn take(&mut self, digest: Digest, manifest: Manifest) -> Result<Vec<Entry>, ChildError> {
        let (repository, of) = (self.repository, self.of);
        let is_unfit = |why: &str| unfit(repository, of, why);
        self.bytes += manifest.bytes.len();
        if self.bytes > MOST_BYTES {
            return Err(is_unfit(&format!("its manifests are longer than {MOST_BYTES} bytes")));
        }
        let known = [OCI_MANIFEST, DOCKER_MANIFEST].contains(&manifest.media_type.as_str());
        if !known && !is_index(&manifest.media_type) {
            return Err(is_unfit(&of_other_type(&digest.to_string(), &manifest.media_type)));
        }
        let document: Document =
            serde_json::from_slice(&manifest.bytes).map_err(|error| is_unfit(&in_json(&error)))?;
        let blobs = document.config.into_iter().chain(document.layers.into_iter().flatten());
        for blob in blobs.filter(|blob| !blob.is_foreign()) {
            if self.blobs.insert(blob.digest, blob.size).is_some_and(|other| other != blob.size) {
                return Err(is_unfit("it says two lengths of one blob"));
            }
        }
        if self.blobs.len() > MOST_BLOBS {
            return Err(is_unfit(&format!("it has more than {MOST_BLOBS} blobs")));
        }
        let listed = document.manifests.unwrap_or_default();
        let digests = listed.iter().map(|entry| entry.digest).collect();
        self.known.insert(digest, (manifest, digests));
        self.asked.insert(digest);
        let new: Vec<Entry> = listed.into_iter().filter(|entry| self.asked.insert(entry.digest)).collect();
        if self.asked.len() > MOST_MANIFESTS {
            return Err(is_unfit(&format!("it has more than {MOST_MANIFESTS} manifests")));
        }
        Ok(new)
    }

    /// Puts all in an order in which what is listed comes first.
    fn end(mut self) -> Result<Tree, ChildError> {
        let missing = || unfit(self.repository, self.of, "it lists itself");
        let (mut order, mut seen, mut ways) = (Vec::new(), BTreeSet::new(), vec![(self.of, 0)]);
        while let Some((digest, place)) = ways.pop() {
            let (_, listed) = self.known.get(&digest).ok_or_else(missing)?;
            match listed.get(place) {
                Some(child) => {
                    ways.push((digest, place + 1));
                    if seen.insert(*child) {
                        ways.push((*child, 0));
                    }
                }
                None => order.push(digest),
            }
        }
        let (root, _) = self.known.remove(&self.of).ok_or_else(missing)?;
        let rest = order.into_iter().filter_map(|digest| Some((digest, self.known.remove(&digest)?.0)));
        let manifests = rest.collect();
        Ok(Tree { root, digest: self.of, manifests, blobs: self.blobs })
    }
}

/// Why an image can't be copied that is, or has, something else.
pub fn of_other_type(what: &str, media_type: &str) -> String {
    format!(
        "{what} is of the type {media_type:?}, which farm doesn't copy: it copies OCI images and indexes, and Docker's of schema 2"
    )
}

/// What can't be copied, whoever tries.
fn unfit(repository: &Repository, digest: Digest, why: &str) -> ChildError {
    ChildError::Wrong(Box::new(Failure::new(
        Cause::User,
        FailureCode::CopiedImageUnfit,
        format!("{repository}@{digest} can't be copied: {why}"),
    )))
}

#[cfg(test)]
mod tests {
    use farm_core::publish::OCI_INDEX;
    use serde_json::{Value, json};

    use super::*;

    fn manifest(media_type: &str, document: &Value) -> (Digest, Manifest) {
        let bytes = document.to_string().into_bytes();
        (Digest::of(&bytes), Manifest { bytes, media_type: media_type.to_owned() })
    }

    fn image(what: &str) -> (Digest, Manifest) {
        let blob = |name: &str| json!({"digest": Digest::of(name.as_bytes()), "size": 1});
        manifest(
            OCI_MANIFEST,
            &json!({"config": blob(&format!("{what} config")), "layers": [blob("shared"), blob(what)]}),
        )
    }

    fn index(of: &[&(Digest, Manifest)]) -> (Digest, Manifest) {
        let entries: Vec<Value> = of
            .iter()
            .map(|(digest, manifest)| json!({"digest": digest, "size": manifest.bytes.len(), "mediaType": manifest.media_type}))
            .collect();
        manifest(OCI_INDEX, &json!({ "manifests": entries }))
    }

    fn reading(of: Digest) -> Reading<'static> {
        let repository: &'static Repository = Box::leak(Box::new("r.example/app".parse().unwrap()));
        Reading {
            repository,
            of,
            known: BTreeMap::new(),
            asked: BTreeSet::new(),
            blobs: BTreeMap::new(),
            bytes: 0,
        }
    }

    #[test]
    fn what_is_listed_comes_before_what_lists_it_however_it_is_listed() {
        let (a, b) = (image("a"), image("b"));
        let inner = index(&[&b]);
        // The inner one is listed behind one that lists it as well.
        let outer = index(&[&inner, &a]);
        let root = index(&[&outer, &inner, &a]);
        let mut all = reading(root.0);
        for (digest, manifest) in [&root, &outer, &inner, &a, &b] {
            all.take(*digest, manifest.clone()).unwrap();
        }
        let tree = all.end().unwrap();
        let place =
            |of: &(Digest, Manifest)| tree.manifests.iter().position(|(digest, _)| *digest == of.0).unwrap();
        assert_eq!(tree.manifests.len(), 4);
        assert!(place(&b) < place(&inner) && place(&inner) < place(&outer) && place(&a) < place(&outer));
        assert_eq!(tree.blobs.len(), 5, "one is shared");
    }

    #[test]
    fn what_a_registry_says_is_bounded_as_a_whole() {
        let (digest, one) = image("a");
        let mut all = reading(digest);
        all.bytes = MOST_BYTES;
        let refused = all.take(digest, one).unwrap_err();
        assert!(matches!(refused, ChildError::Wrong(why) if why.message.contains("longer than")));
        let blobs: Vec<Value> =
            (0..=MOST_BLOBS).map(|n| json!({"digest": Digest::of(&n.to_be_bytes()), "size": 1})).collect();
        let (digest, many) = manifest(OCI_MANIFEST, &json!({ "layers": blobs }));
        let refused = reading(digest).take(digest, many).unwrap_err();
        assert!(matches!(refused, ChildError::Wrong(why) if why.message.contains("more than 20000 blobs")));
        let listed: Vec<Value> =
            (0..MOST_MANIFESTS).map(|n| json!({"digest": Digest::of(&n.to_be_bytes()), "size": 1})).collect();
        let (digest, many) = manifest(OCI_INDEX, &json!({ "manifests": listed }));
        let refused = reading(digest).take(digest, many).unwrap_err();
        assert!(
            matches!(refused, ChildError::Wrong(why) if why.message.contains("more than 1000 manifests"))
        );
        let (digest, odd) = manifest("application/vnd.docker.distribution.manifest.v1+prettyjws", &json!({}));
        let refused = reading(digest).take(digest, odd).unwrap_err();
        assert!(matches!(refused, ChildError::Wrong(why) if why.message.contains("farm doesn't copy")));
    }
}
