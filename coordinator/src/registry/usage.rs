//! What the tags of a repository take in its registry, as their manifests say.
//!
//! Bounded, as all that is read of registries: in tags, in manifests and in time. Whoever names a registry may name one that says anything:
//! sums don't run over.

use std::collections::{BTreeMap, BTreeSet};

use farm_types::{Digest, Repository};
use futures::{StreamExt as _, TryStreamExt as _};

use super::tree::Document;
use super::{By, RegistryError};

/// So many tags are looked at, and so many manifests read.
const MOST_TAGS: usize = 1_000;
const MOST_MANIFESTS: usize = 2_000;
/// So many blobs are counted.
const MOST_BLOBS: usize = 100_000;
/// So many requests go to the registry at once.
const AT_ONCE: usize = 8;

/// What a repository's tags take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Manifests and blobs, each once.
    pub bytes: u64,
    /// Tags that were looked at.
    pub tags: usize,
    /// Manifests that they reach.
    pub manifests: usize,
    /// There is more than that.
    pub is_more: bool,
}

impl By<'_> {
    /// Sums up what a repository's tags take, but for some of them; `None`: it has none.
    ///
    /// # Errors
    /// The registry refuses, can't be reached, or takes too long.
    pub async fn usage(
        &self,
        repository: &Repository,
        without: &BTreeSet<&str>,
    ) -> Result<Option<Usage>, RegistryError> {
        let mut tags = self.some_tags(repository, MOST_TAGS + 1).await?;
        if tags.is_empty() {
            return Ok(None);
        }
        let is_more = tags.len() > MOST_TAGS;
        tags.truncate(MOST_TAGS);
        tags.retain(|tag| !without.contains(tag.as_str()));
        let count = tags.len();
        let heads = self.heads(repository, tags).await?;
        let mut sum = Sum { is_more, ..Sum::default() };
        let roots: BTreeSet<Digest> = heads.into_values().collect();
        self.in_time(repository, self.sum(repository, roots, &mut sum)).await?;
        let blobs = sum.blobs.values().fold(sum.bytes, |all, size| all.saturating_add(*size));
        Ok(Some(Usage { bytes: blobs, tags: count, manifests: sum.seen.len(), is_more: sum.is_more }))
    }

    async fn sum(
        &self,
        repository: &Repository,
        roots: BTreeSet<Digest>,
        sum: &mut Sum,
    ) -> Result<(), RegistryError> {
        let mut level = roots;
        while !level.is_empty() {
            let left = MOST_MANIFESTS.saturating_sub(sum.seen.len());
            sum.is_more |= level.len() > left;
            let now: Vec<Digest> = level.iter().take(left).copied().collect();
            sum.seen.extend(&now);
            let mut reading = futures::stream::iter(now)
                .map(|digest| async move {
                    let read = self.manifest(repository, &digest.to_string()).await;
                    match read {
                        Err(error) if error.is_transient() => Err(error),
                        // An odd one, or one that is gone, keeps nobody from counting the others.
                        read => Ok(read.ok().flatten().map(|manifest| manifest.bytes)),
                    }
                })
                .buffer_unordered(AT_ONCE);
            let mut next = BTreeSet::new();
            // One after the other: what they say isn't kept, but for what is counted.
            while let Some(bytes) = reading.try_next().await? {
                next.extend(bytes.map(|bytes| sum.take(&bytes)).unwrap_or_default());
                if sum.blobs.len() > MOST_BLOBS || next.len() > MOST_BLOBS {
                    sum.is_more = true;
                    return Ok(());
                }
            }
            drop(reading);
            next.retain(|digest| !sum.seen.contains(digest));
            level = next;
        }
        Ok(())
    }
}

/// What was counted so far.
#[derive(Debug, Default)]
struct Sum {
    bytes: u64,
    blobs: BTreeMap<Digest, u64>,
    seen: BTreeSet<Digest>,
    is_more: bool,
}

impl Sum {
    /// Counts a manifest; gives what it lists.
    fn take(&mut self, bytes: &[u8]) -> Vec<Digest> {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let Ok(document) = serde_json::from_slice::<Document>(bytes) else { return Vec::new() };
        self.blobs.extend(document.blobs());
        document.listed()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_blob_counts_once_and_what_lies_elsewhere_doesnt() {
        let of = |what: &str| Digest::of(what.as_bytes());
        let blob = |what: &str, size: u64| json!({"digest": of(what), "size": size});
        let foreign = json!({"digest": of("windows"), "size": 1_000_000, "urls": ["https://x.example/"],
                             "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"});
        let one = json!({"config": blob("c1", 10), "layers": [blob("shared", 100), foreign]}).to_string();
        let two =
            json!({"config": blob("c2", 20), "layers": [blob("shared", 100), blob("own", 1000)]}).to_string();
        let index = json!({"manifests": [blob("m1", 1), blob("m2", 1)]}).to_string();
        let mut sum = Sum::default();
        assert_eq!(sum.take(index.as_bytes()), [of("m1"), of("m2")]);
        assert!(sum.take(one.as_bytes()).is_empty() && sum.take(two.as_bytes()).is_empty());
        assert!(sum.take(b"<html>").is_empty());
        assert_eq!(sum.blobs.values().sum::<u64>(), 10 + 20 + 100 + 1000);
        assert_eq!(sum.bytes, u64::try_from(index.len() + one.len() + two.len() + 6).unwrap());
    }
}
