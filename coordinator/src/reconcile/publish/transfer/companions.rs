//! What refers to an image goes where it is copied to: signatures, SBOMs, attestations. The image needs none of them: what can't be copied
//! is told, and fails nothing but for what may pass by itself.

use farm_core::publish::Index;
use farm_core::publish::referrer::fallback_tag;
use farm_types::Digest;

use super::{Transfer, Untransferred};
use crate::registry::image::ChildError;
use crate::registry::referrers::{Companion, Found};

/// Of so many things that are left out of what refers to an image it is said why.
const MOST_LEFT_OUT: usize = 5;

impl Transfer<'_> {
    /// What refers to the image, or to what it lists, at the source.
    pub(super) async fn look_for_companions(
        &self,
        index: &Index,
    ) -> std::result::Result<Vec<Companion>, Untransferred> {
        let subjects: Vec<Digest> =
            std::iter::once(index.digest).chain(index.manifests.iter().copied()).collect();
        let (companions, left_out) = tokio::select! {
            found = self.reader.companions(self.from, &subjects) => found,
            over = self.over() => return Err(over.into()),
        };
        for why in left_out.iter().take(MOST_LEFT_OUT) {
            self.note(&format!("left out of what refers to the image: {why}")).await?;
        }
        if let more @ 1.. = left_out.len().saturating_sub(MOST_LEFT_OUT) {
            self.note(&format!("left out of what refers to the image: {more} more")).await?;
        }
        Ok(companions)
    }

    /// Brings signatures, attestations and the like, before any tag points to what they are about.
    pub(super) async fn bring_companions(
        &self,
        companions: &[Companion],
    ) -> std::result::Result<(), Untransferred> {
        let (mut came, mut untold) = (0, MOST_LEFT_OUT);
        for companion in companions {
            self.goes_on().await?;
            let why = match self.bring(companion).await {
                Ok(Brought::Came) => {
                    came += 1;
                    continue;
                }
                Ok(Brought::WasThere) => continue,
                Ok(Brought::OfOthers(tag)) => {
                    format!("{}:{tag} is there with something else, and stays", self.to)
                }
                Err(Untransferred::Child(ChildError::Registry(error))) if !error.is_transient() => {
                    error.message
                }
                Err(Untransferred::Child(ChildError::Missing(why) | ChildError::Wrong(why))) => why.message,
                Err(error) => return Err(error),
            };
            if untold > 0 {
                untold -= 1;
                self.note(&format!("left out of what refers to the image: {why}")).await?;
            }
        }
        if came > 0 {
            let text =
                format!("{}: {came} of what refers to the image (signatures, SBOMs) came along", self.to);
            self.note(&text).await?;
        }
        Ok(())
    }

    async fn bring(
        &self,
        Companion { found, tree }: &Companion,
    ) -> std::result::Result<Brought, Untransferred> {
        let at = match found {
            Found::Tagged(tag) => tag.clone(),
            Found::Listed(..) => tree.digest.to_string(),
        };
        // Such a tag is a list, of signatures say, to which what is published adds as well.
        let lock = match found {
            Found::Tagged(tag) => self.locks.of(format!("{}:{tag}", self.to)),
            Found::Listed(subject, _) => self.locks.of(format!("{}:{}", self.to, fallback_tag(*subject))),
        };
        let _turn = lock.lock().await;
        let there = self.by.head(self.to, &at).await?;
        match found {
            Found::Tagged(_) if there == Some(tree.digest) => return Ok(Brought::WasThere),
            // What others have put there is theirs.
            Found::Tagged(tag) if there.is_some() => return Ok(Brought::OfOthers(tag.clone())),
            _ => {}
        }
        for (digest, size) in &tree.blobs {
            self.blob(*digest, *size).await?;
        }
        for (digest, manifest) in &tree.manifests {
            let at = digest.to_string();
            if self.by.head(self.to, &at).await? != Some(*digest) {
                self.by.put(self.to, &at, &manifest.bytes, &manifest.media_type).await?;
            }
        }
        match found {
            Found::Tagged(tag) => {
                self.by.put(self.to, tag, &tree.root.bytes, &tree.root.media_type).await?;
            }
            Found::Listed(subject, entry) => {
                self.by.refer(self.to, *subject, &tree.root.bytes, entry).await?;
            }
        }
        Ok(if there.is_none() { Brought::Came } else { Brought::WasThere })
    }
}

/// What became of something that refers to an image.
enum Brought {
    Came,
    WasThere,
    /// Its tag is another thing's.
    OfOthers(String),
}
