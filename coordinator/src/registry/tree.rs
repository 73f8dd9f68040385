//! All that an image consists of, as its registry has it: the index, the manifests that it lists, attestations among them, and their blobs.
//!
//! Formats: OCI image-spec v1.1 (`image-index.md`, `manifest.md`) and Docker's "Image Manifest V 2, Schema 2". Bytes are kept as they came.

use std::collections::{BTreeMap, BTreeSet};

use farm_core::publish::{DOCKER_MANIFEST, OCI_MANIFEST, is_index};
use farm_types::{Cause, Digest, Failure, FailureCode, Repository};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;

use super::image::{ChildError, in_json};
use super::{By, Manifest};

/// So many manifests one image has at most, and so deep indexes list indexes.
const MOST_MANIFESTS: usize = 1000;
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
    /// What the root lists itself, in its order.
    pub listed: Vec<Digest>,
    /// All other manifests, in an order in which they can be put: what one lists comes before it.
    pub manifests: Vec<(Digest, Manifest)>,
    /// Configs and layers, with their length.
    pub blobs: BTreeMap<Digest, u64>,
}

impl Tree {
    /// The length of all blobs.
    pub fn bytes(&self) -> u64 {
        self.blobs.values().fold(0, |sum, size| sum.saturating_add(*size))
    }
}

/// What a manifest or an index refers to.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    config: Option<Entry>,
    layers: Option<Vec<Entry>>,
    manifests: Option<Vec<Entry>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    urls: Vec<String>,
}

impl Entry {
    /// Whether it lies elsewhere by its maker's will, and is fetched from there by whoever runs the image.
    fn is_foreign(&self) -> bool {
        !self.urls.is_empty()
            && (self.media_type.contains(".foreign.") || self.media_type.contains(".nondistributable."))
    }
}

impl By<'_> {
    /// Reads an image to its last manifest.
    ///
    /// # Errors
    /// The registry; or what is there is no image, misses a part, or is more than is copied.
    pub async fn tree(&self, repository: &Repository, digest: Digest) -> Result<Tree, ChildError> {
        let Some(root) = self.manifest(repository, &digest.to_string()).await? else {
            let why = format!("{repository}@{digest} is to be copied, and isn't there any more");
            let failure = Failure::new(Cause::User, FailureCode::CopiedImageMissing, why);
            return Err(ChildError::Wrong(Box::new(failure)));
        };
        let mut tree = Tree {
            root: root.clone(),
            digest,
            listed: Vec::new(),
            manifests: Vec::new(),
            blobs: BTreeMap::new(),
        };
        let (mut level, mut known) = (vec![(digest, root)], BTreeSet::from([digest]));
        for depth in 0..=DEEPEST {
            let mut next = Vec::new();
            for (digest, manifest) in &level {
                let entries = tree.take(repository, *digest, manifest)?;
                if depth == 0 {
                    tree.listed = entries.iter().map(|entry| entry.digest).collect();
                }
                next.extend(entries.into_iter().filter(|entry| known.insert(entry.digest)));
            }
            if known.len() > MOST_MANIFESTS {
                let why = format!("it has more than {MOST_MANIFESTS} manifests");
                return Err(unfit(repository, digest, &why));
            }
            if next.is_empty() {
                // The deepest first, and what lists others after all that lists none.
                tree.manifests.reverse();
                tree.manifests.sort_by_key(|(_, manifest)| is_index(&manifest.media_type));
                return Ok(tree);
            }
            let wanted = futures::stream::iter(next).map(async |entry| {
                let manifest = self.listed(repository, digest, &entry).await?;
                Ok::<_, ChildError>((entry.digest, manifest))
            });
            level = wanted.buffered(AT_ONCE).try_collect().await?;
            tree.manifests.extend(level.iter().rev().cloned());
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

impl Tree {
    /// Notes a manifest's blobs; gives what an index lists.
    fn take(
        &mut self,
        repository: &Repository,
        digest: Digest,
        manifest: &Manifest,
    ) -> Result<Vec<Entry>, ChildError> {
        let is_unfit = |why: &str| unfit(repository, digest, why);
        let known = [OCI_MANIFEST, DOCKER_MANIFEST].contains(&manifest.media_type.as_str());
        if !known && !is_index(&manifest.media_type) {
            return Err(is_unfit(&format!(
                "it is of the type {:?}, which farm doesn't copy: it copies OCI images and indexes, and Docker's of schema 2",
                manifest.media_type
            )));
        }
        let document: Document =
            serde_json::from_slice(&manifest.bytes).map_err(|error| is_unfit(&in_json(&error)))?;
        let blobs = document.config.into_iter().chain(document.layers.into_iter().flatten());
        for blob in blobs.filter(|blob| !blob.is_foreign()) {
            if self.blobs.insert(blob.digest, blob.size).is_some_and(|other| other != blob.size) {
                return Err(is_unfit("it says two lengths of one blob"));
            }
        }
        Ok(document.manifests.unwrap_or_default())
    }
}

/// What can't be copied, whoever tries.
fn unfit(repository: &Repository, digest: Digest, why: &str) -> ChildError {
    ChildError::Wrong(Box::new(Failure::new(
        Cause::User,
        FailureCode::CopiedImageUnfit,
        format!("{repository}@{digest} can't be copied: {why}"),
    )))
}
