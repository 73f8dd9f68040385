//! What refers to an image: attestations that farm attaches, and signatures, SBOMs and the like that go where an image is copied to.
//!
//! Formats: distribution-spec v1.1 ("Listing Referrers", and its "Referrers Tag Schema" for registries that list none); and cosign's tags
//! beside an image (`sha256-DIGEST.sig`, `.att`, `.sbom`; cosign, "Signature Specification").
//!
//! Whoever names an image names whatever registry they like: what is read of all that refers to one is bounded as a whole, and what can't be
//! read is left out and told.

use farm_core::publish::referrer::{EMPTY_CONFIG, Entry, artifact, entries, fallback_tag, listed};
use farm_core::publish::{Attached, OCI_INDEX};
use farm_types::{Digest, Repository};
use serde::Deserialize;

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

    /// What refers to these images of a repository, and what is to be said of what is left out.
    ///
    /// # Errors
    /// The registry can't be reached, or has trouble.
    pub async fn companions(
        &self,
        repository: &Repository,
        subjects: &[Digest],
    ) -> Result<(Vec<Companion>, Vec<String>), RegistryError> {
        let mut finding = Finding::default();
        let tags = match self.all_tags(repository, MOST_TAGS).await {
            Ok(tags) => tags,
            Err(error) if error.is_transient() => return Err(error),
            // It tells nobody which tags there are; each by itself it does.
            Err(_) => None,
        };
        let has_tag = |tag: &String| tags.as_ref().is_none_or(|tags| tags.contains(tag));
        let mut lists = true;
        for subject in subjects.iter().take(MOST_SUBJECTS) {
            let list = match lists {
                true => self.list(repository, *subject).await?,
                false => None,
            };
            lists = list.is_some();
            let fallback = fallback_tag(*subject);
            let list = match list {
                Some(list) => Some(list),
                None if has_tag(&fallback) => {
                    self.manifest(repository, &fallback).await?.map(|list| list.bytes)
                }
                None => None,
            };
            match list.as_deref().map(entries) {
                None => {}
                Some(Ok(all)) => {
                    for entry in all {
                        self.listed_one(repository, *subject, entry, &mut finding).await?;
                    }
                }
                Some(Err(error)) => finding.left_out.push(format!("what refers to {subject}: {error}")),
            }
            for end in COSIGN {
                let tag = format!("{fallback}.{end}");
                if has_tag(&tag) && !finding.is_full() {
                    self.tagged_one(repository, tag, &mut finding).await?;
                }
            }
        }
        Ok((finding.companions, finding.left_out))
    }

    /// What the registry itself lists; `None`: it lists nothing of any image.
    async fn list(&self, repository: &Repository, subject: Digest) -> Result<Option<Vec<u8>>, RegistryError> {
        let path = format!("referrers/{subject}");
        let asked = Asked { accept: &[OCI_INDEX], ..Asked::get(&path, MAX_MANIFEST) };
        match self.tell(repository, &asked).await? {
            Told::Answer(answer) => Ok(Some(answer.body)),
            Told::No(refusal) if refusal.may_pass() => {
                Err(RegistryError::of(repository, &refusal, &self.whose))
            }
            Told::No(_) => Ok(None),
        }
    }

    async fn listed_one(
        &self,
        repository: &Repository,
        subject: Digest,
        entry: Entry,
        finding: &mut Finding,
    ) -> Result<(), RegistryError> {
        if finding.is_full() {
            return Ok(());
        }
        let what = entry.digest.clone();
        let Ok(digest) = what.parse::<Digest>() else {
            finding.left_out.push(format!("{what}: farm copies by sha256 only"));
            return Ok(());
        };
        let is_known = |one: &Companion| one.tree.digest == digest;
        if finding.companions.iter().any(is_known) {
            return Ok(());
        }
        let manifest = self.manifest(repository, &what).await?;
        let is_about = |manifest: &Manifest| {
            let about = serde_json::from_slice::<About>(&manifest.bytes).ok().and_then(|about| about.subject);
            about.is_some_and(|about| about.digest == subject)
        };
        match manifest.filter(is_about) {
            Some(manifest) => {
                self.take(repository, (digest, manifest), Found::Listed(subject, entry), finding).await
            }
            None => {
                finding.left_out.push(format!("{what}: it isn't there, or isn't about {subject}"));
                Ok(())
            }
        }
    }

    async fn tagged_one(
        &self,
        repository: &Repository,
        tag: String,
        finding: &mut Finding,
    ) -> Result<(), RegistryError> {
        let Some(manifest) = self.manifest(repository, &tag).await? else { return Ok(()) };
        let digest = Digest::of(&manifest.bytes);
        self.take(repository, (digest, manifest), Found::Tagged(tag), finding).await
    }

    async fn take(
        &self,
        repository: &Repository,
        (digest, manifest): (Digest, Manifest),
        found: Found,
        finding: &mut Finding,
    ) -> Result<(), RegistryError> {
        match self.tree(repository, digest, manifest).await {
            Ok(tree) => {
                let others: usize = tree.manifests.iter().map(|(_, manifest)| manifest.bytes.len()).sum();
                finding.bytes += tree.root.bytes.len() + others;
                finding.companions.push(Companion { found, tree });
            }
            Err(ChildError::Registry(error)) if error.is_transient() => return Err(error),
            Err(ChildError::Registry(error)) => finding.left_out.push(format!("{digest}: {error}")),
            Err(ChildError::Missing(why) | ChildError::Wrong(why)) => finding.left_out.push(why.message),
        }
        Ok(())
    }
}
