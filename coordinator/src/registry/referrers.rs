//! What refers to an image: attestations that farm attaches, and signatures, SBOMs and the like that go where an image is copied to.
//!
//! Formats: distribution-spec v1.1 ("Listing Referrers", and its "Referrers Tag Schema" for registries that list none); and cosign's tags
//! beside an image (`sha256-DIGEST.sig`, `.att`, `.sbom`; cosign, "Signature Specification").
//!
//! Whoever names an image names whatever registry they like: what is read of all that refers to one is bounded as a whole, and what can't be
//! read is left out and told.

use std::time::Duration;

use farm_core::publish::referrer::{EMPTY_CONFIG, Entry, artifact, entries, fallback_tag, listed};
use farm_core::publish::{Attached, OCI_INDEX};
use farm_types::{Digest, Repository};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, LINK};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::error::said;
use super::image::ChildError;
use super::requests::{Asked, MAX_MANIFEST, Told};
use super::tree::Tree;
use super::{By, Manifest, RegistryError};

/// So many things that refer to one image, or its platforms' images, are copied, with so many bytes of manifests together.
const MOST: usize = 200;
const MOST_BYTES: usize = 16 << 20;
/// Of so many images of an index it is asked what refers to them.
const MOST_SUBJECTS: usize = 100;
/// A repository of more tags isn't listed to find cosign's.
const MOST_TAGS: usize = 1000;
/// To look for all of it may take so long.
const LONGEST: Duration = Duration::from_secs(5 * 60);
/// How cosign's tags end.
const COSIGN: [&str; 3] = ["sig", "att", "sbom"];

/// Something that refers to an image.
#[derive(Debug)]
pub struct Companion {
    /// How the image's registry finds it.
    pub found: Found,
    /// It, with what it lists and its blobs.
    pub tree: Tree,
}

/// How something that refers to an image is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It names the image as its subject: what lists say of it.
    Listed(Digest, Entry),
    /// By a tag.
    Tagged(String),
}

/// What is read of an artifact to see what it is about.
#[derive(Deserialize)]
struct About {
    subject: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    digest: Digest,
}

/// What was found so far.
#[derive(Default)]
struct Finding {
    companions: Vec<Companion>,
    left_out: Vec<String>,
    bytes: usize,
}

impl Finding {
    fn is_full(&self) -> bool {
        self.companions.len() + self.left_out.len() >= MOST || self.bytes > MOST_BYTES
    }

    /// Notes what isn't copied, and why, in few words: both come from whoever runs the registry.
    fn leave_out(&mut self, what: &str, why: &str) {
        self.left_out.push(said(&format!("{what}: {why}")));
    }
}

impl By<'_> {
    /// Puts an attestation as a referrer of its image, of which the repository has both. Where the registry lists no referrers the list
    /// under the image's tag for that gets it: whoever calls sees to it that nobody of farm's writes that at the same time. Done twice, it
    /// is there once.
    ///
    /// # Errors
    /// The registry refuses or can't be reached; or what lies under that tag is no list.
    pub async fn attach(&self, repository: &Repository, attached: &Attached) -> Result<(), RegistryError> {
        let unusable = |why: String| RegistryError::rejected(repository, why);
        let at = attached.attestation.to_string();
        let Some(pushed) = self.manifest(repository, &at).await? else {
            return Err(unusable(format!(
                "the attestation {at} is not there any more; submit the build again"
            )));
        };
        let artifact =
            artifact(&pushed.bytes, &attached.subject).map_err(|error| unusable(error.to_string()))?;
        if !self.has_blob(repository, Digest::of(EMPTY_CONFIG)).await? {
            self.put_blob(repository, EMPTY_CONFIG).await?;
        }
        let entry = Entry::of_attestation(&artifact);
        self.refer(repository, attached.subject.digest, &artifact, &entry).await
    }

    /// Puts a manifest that refers to an image, whose blobs are there, and sees to it that it is found. As [`Self::attach`].
    ///
    /// # Errors
    /// As of [`Self::attach`].
    pub async fn refer(
        &self,
        repository: &Repository,
        subject: Digest,
        manifest: &[u8],
        entry: &Entry,
    ) -> Result<(), RegistryError> {
        if self.put_referrer(repository, manifest, &entry.media_type).await? {
            return Ok(());
        }
        let tag = fallback_tag(subject);
        let before = self.manifest(repository, &tag).await?;
        let list = listed(before.as_ref().map(|list| list.bytes.as_slice()), entry)
            .map_err(|error| RegistryError::rejected(repository, format!("{repository}:{tag}: {error}")))?;
        match list {
            Some(list) => self.put(repository, &tag, &list, OCI_INDEX).await,
            None => Ok(()),
        }
    }

    /// What refers to these images of a repository, and what is to be said of what is left out. Whatever the registry does to these
    /// requests, the image itself needs none of them: nothing of it is an error.
    pub async fn companions(
        &self,
        repository: &Repository,
        subjects: &[Digest],
    ) -> (Vec<Companion>, Vec<String>) {
        let mut finding = Finding::default();
        let deadline = Instant::now() + LONGEST;
        if timeout_at(deadline, self.find(repository, subjects, &mut finding)).await.is_err() {
            finding.leave_out(
                "all that wasn't found yet",
                &format!("looking for it took over {} s", LONGEST.as_secs()),
            );
        }
        if finding.is_full() {
            finding.leave_out("what there may be more", "more than is copied refers to the image");
        }
        if subjects.len() > MOST_SUBJECTS {
            let why = format!("it is looked for of {MOST_SUBJECTS} images at most");
            finding.leave_out("what refers to further images of the index", &why);
        }
        (finding.companions, finding.left_out)
    }

    async fn find(&self, repository: &Repository, subjects: &[Digest], finding: &mut Finding) {
        // Some tell nobody which tags there are, or say that there are none; of each by itself they tell.
        let tags = self.all_tags(repository, MOST_TAGS).await.ok().flatten().filter(|tags| !tags.is_empty());
        let has_tag = |tag: &String| tags.as_ref().is_none_or(|tags| tags.contains(tag));
        let mut lists = !self.registries.memory.lists_none(repository);
        for subject in subjects.iter().take(MOST_SUBJECTS) {
            if finding.is_full() {
                return;
            }
            let list = match lists {
                // What it may be for is looked for at its tag.
                true => self.list(repository, *subject, finding).await.ok().flatten(),
                false => None,
            };
            lists = list.is_some();
            let fallback = fallback_tag(*subject);
            let list = match list {
                Some(list) => Some(list),
                None if has_tag(&fallback) => match self.manifest(repository, &fallback).await {
                    Ok(list) => list.map(|list| list.bytes),
                    Err(error) => {
                        finding.leave_out(&format!("what refers to {subject}"), &error.message);
                        None
                    }
                },
                None => None,
            };
            match list.as_deref().map(entries) {
                None => {}
                Some(Ok(all)) => {
                    for entry in all {
                        self.listed_one(repository, *subject, entry, finding).await;
                    }
                }
                Some(Err(error)) => {
                    finding.leave_out(&format!("what refers to {subject}"), &error.to_string())
                }
            }
            for end in COSIGN {
                let tag = format!("{fallback}.{end}");
                if has_tag(&tag) && !finding.is_full() {
                    self.tagged_one(repository, tag, tags.is_some(), finding).await;
                }
            }
        }
    }

    /// What refers to an image of a repository, as its registry lists it, or else the list under its tag for that.
    ///
    /// # Errors
    /// The registry refuses or can't be reached; or what lies under that tag is no list.
    pub async fn referrers(
        &self,
        repository: &Repository,
        subject: Digest,
    ) -> Result<Vec<Entry>, RegistryError> {
        let list = match self.list(repository, subject, &mut Finding::default()).await? {
            Some(list) => Some(list),
            None => self.manifest(repository, &fallback_tag(subject)).await?.map(|list| list.bytes),
        };
        let all = list.as_deref().map(entries).transpose();
        Ok(all.map_err(|error| RegistryError::rejected(repository, error.to_string()))?.unwrap_or_default())
    }

    /// What the registry itself lists; `None`: it lists nothing of any image.
    ///
    /// # Errors
    /// It can't be reached, or something is wrong with it that may pass.
    async fn list(
        &self,
        repository: &Repository,
        subject: Digest,
        finding: &mut Finding,
    ) -> Result<Option<Vec<u8>>, RegistryError> {
        let path = format!("referrers/{subject}");
        let asked = Asked { accept: &[OCI_INDEX], ..Asked::get(&path, MAX_MANIFEST) };
        let note = |lists| self.registries.memory.note_lists(repository, lists);
        let answer = match self.tell(repository, &asked).await? {
            Told::Answer(answer) => answer,
            Told::No(refusal) if refusal.may_pass() => {
                return Err(RegistryError::of(repository, &refusal, &self.whose));
            }
            // Whoever lists them has an empty list of what nothing refers to.
            Told::No(refusal) if refusal.status == StatusCode::NOT_FOUND => {
                note(false);
                return Ok(None);
            }
            Told::No(_) => return Ok(None),
        };
        // A page for people, say, is what some have in the place of it.
        let kind = answer.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let lists = kind.split(';').next().map(str::trim) == Some(OCI_INDEX);
        note(lists);
        if !lists {
            return Ok(None);
        }
        if answer.headers.contains_key(LINK) {
            finding.leave_out(
                &format!("more of what refers to {subject}"),
                "the registry lists it on further pages",
            );
        }
        Ok(Some(answer.body))
    }

    async fn listed_one(
        &self,
        repository: &Repository,
        subject: Digest,
        entry: Entry,
        finding: &mut Finding,
    ) {
        if finding.is_full() {
            return;
        }
        let Ok(digest) = entry.digest.parse::<Digest>() else {
            return finding.leave_out(&entry.digest, "farm copies by sha256 only");
        };
        let is_known = |one: &Companion| one.tree.digest == digest;
        if finding.companions.iter().any(is_known) {
            return;
        }
        let is_about = |manifest: &Manifest| {
            let about = serde_json::from_slice::<About>(&manifest.bytes).ok().and_then(|about| about.subject);
            about.is_some_and(|about| about.digest == subject)
        };
        match self.manifest(repository, &digest.to_string()).await {
            Ok(Some(manifest)) if is_about(&manifest) => {
                finding.bytes += entry.text_bytes();
                // What a list says of type and length needn't be so.
                let size = u64::try_from(manifest.bytes.len()).unwrap_or(u64::MAX);
                let entry = Entry { media_type: manifest.media_type.clone(), size, ..entry };
                self.take(repository, (digest, manifest), Found::Listed(subject, entry), finding).await;
            }
            Ok(_) => finding.leave_out(&entry.digest, &format!("it isn't there, or isn't about {subject}")),
            Err(error) => finding.leave_out(&entry.digest, &error.message),
        }
    }

    async fn tagged_one(&self, repository: &Repository, tag: String, is_there: bool, finding: &mut Finding) {
        if !is_there {
            match self.head(repository, &tag).await {
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(error) => return finding.leave_out(&tag, &error.message),
            }
        }
        match self.manifest(repository, &tag).await {
            Ok(Some(manifest)) => {
                let digest = Digest::of(&manifest.bytes);
                self.take(repository, (digest, manifest), Found::Tagged(tag), finding).await;
            }
            Ok(None) => {}
            Err(error) => finding.leave_out(&tag, &error.message),
        }
    }

    async fn take(
        &self,
        repository: &Repository,
        (digest, manifest): (Digest, Manifest),
        found: Found,
        finding: &mut Finding,
    ) {
        match self.tree(repository, digest, manifest).await {
            Ok(tree) => {
                let others: usize = tree.manifests.iter().map(|(_, manifest)| manifest.bytes.len()).sum();
                finding.bytes += tree.root.bytes.len() + others;
                finding.companions.push(Companion { found, tree });
            }
            Err(ChildError::Registry(error)) => finding.leave_out(&digest.to_string(), &error.message),
            Err(ChildError::Missing(why) | ChildError::Wrong(why)) => {
                finding.leave_out(&digest.to_string(), &why.message);
            }
        }
    }
}

#[cfg(test)]
#[path = "referrers_tests.rs"]
mod tests;
