//! Removing tags and manifests from a repository.
//!
//! What goes, and how, is decided by [`farm_core::publish::removal`] on what the registry says while nothing that pushes there begins
//! ([`farm_store::publish::removals`]). It goes on to its end when whoever has asked is gone. A coordinator that dies leaves
//! what wasn't removed yet; asked once more, the rest goes.
//!
//! Invariant: what is needed stays, whatever a registry makes of a deletion: one that takes a manifest away with the name of a tag is
//! given it back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farm_core::publish::removal::{Held, InUse, Need, Removal, Wanted};
use farm_proto::v1;
use farm_store::publish::removals::{Removed, TagRemoval};
use farm_types::{Digest, ImageTag, Repository};
use tonic::Status;
use tracing::Instrument as _;

use super::status;
use super::tags::{MOST_TAGS, too_many};
use crate::people::Member;
use crate::registry::{By, Deleted, RegistryError, Untagged};
use crate::shared::Shared;
use crate::shown::present;

/// So much is removed by one call at most.
const MOST_AT_ONCE: usize = 100;
/// So long what the tags need may be looked for.
const LOOKING: Duration = Duration::from_secs(60);

/// When a tag was removed.
pub(super) fn shown(removal: TagRemoval) -> v1::TagRemoval {
    v1::TagRemoval {
        digest: removal.digest.to_string(),
        removed_by: removal.removed_by,
        removed_ms: present::ms(removal.removed_at),
    }
}

/// Removes them.
pub(super) async fn remove(
    shared: &Arc<Shared>,
    member: Member,
    request: v1::RemoveImagesRequest,
) -> Result<v1::RemoveImagesResponse, Status> {
    let at: Repository = request.repository.parse().map_err(status::invalid)?;
    let named = request.tags.len() + request.digests.len();
    if !(1..=MOST_AT_ONCE).contains(&named) {
        return Err(Status::invalid_argument(format!(
            "{named} tags and digests: name 1 to {MOST_AT_ONCE} at a time"
        )));
    }
    let tags = request.tags.iter().map(|tag| format!("{at}:{tag}").parse::<ImageTag>());
    let tags = tags.collect::<Result<Vec<_>, _>>().map_err(status::invalid)?;
    let digests = request.digests.iter().map(|digest| digest.parse::<Digest>());
    let digests = digests.collect::<Result<_, _>>().map_err(status::invalid)?;
    shared.registries.check(&at).map_err(status::invalid)?;
    shared.accesses.check_removal(&member, &at, &tags).await?;
    let expected = request.expected.iter().map(|(tag, digest)| Ok((tag.clone(), digest.parse()?)));
    let expected: BTreeMap<String, Digest> =
        expected.collect::<Result<_, farm_types::Invalid>>().map_err(status::invalid)?;
    let wanted = Wanted { tags: tags.into_iter().map(|tag| tag.tag).collect(), digests };
    let shared = Arc::clone(shared);
    // What is begun is brought to its end, and noted, also when nobody waits for it any more.
    let done = tokio::spawn(
        async move {
            let (is_dry, only_idle) = (request.dry_run, request.only_idle);
            removed(&shared, &member, &at, (&wanted, &expected), (is_dry, only_idle)).await
        }
        .in_current_span(),
    );
    done.await.map_err(|error| {
        tracing::error!(%error, "a removal has panicked");
        Status::internal("a bug: the removal came to no end; `farm ls` shows what is there")
    })?
}

async fn removed(
    shared: &Shared,
    member: &Member,
    at: &Repository,
    (wanted, expected): (&Wanted, &BTreeMap<String, Digest>),
    (is_dry, only_idle): (bool, bool),
) -> Result<v1::RemoveImagesResponse, Status> {
    let allowed = shared.accesses.of(member.project).await.map_err(status::store)?;
    let by = shared.registries.to_publish(&allowed, at).map_err(status::registry)?;
    if let Some(login) = by.own() {
        shared.accesses.used(login).await;
    }
    let longest = Duration::from_secs(shared.config.limits.registry_timeout_seconds) * 2;
    let lasts = longest + LOOKING;
    let begun = Instant::now();
    let Some(removing) = shared.store.begin_removal(at, lasts).await.map_err(status::store)? else {
        return Err(Status::failed_precondition(format!(
            "{at} is being cleaned, or something else is removed there at the moment; try again in a minute"
        )));
    };
    if only_idle && removing.in_use != InUse::default() {
        shared.store.end_removal(at, &removing).await.map_err(status::store)?;
        return Err(Status::failed_precondition(format!(
            "a build is under way that publishes to {at}, which is left alone; try again when that has ended (farm builds)"
        )));
    }
    let mut work = Work {
        shared,
        member,
        at,
        by,
        until: begun + lasts - longest,
        done: Default::default(),
        is_over: true,
    };
    let ended = match tokio::time::timeout(LOOKING, work.plan(wanted, expected, &removing.in_use)).await {
        Ok(Ok((held, removal))) if is_dry => Ok(work.told(&held, removal)),
        Ok(Ok((held, removal))) => work.run(&held, removal).await,
        Ok(Err(refused)) => Err(refused),
        Err(_) => Err(too_many(at)),
    };
    // A request that may still have its effect keeps others out until its time is over.
    if work.is_over {
        if let Err(error) = shared.store.end_removal(at, &removing).await {
            tracing::warn!(repository = %at, %error, "the end of a removal could not be written; it ends by its time");
        }
        shared.hints.changed();
    }
    ended
}

/// A removal under way.
struct Work<'a> {
    shared: &'a Shared,
    member: &'a Member,
    at: &'a Repository,
    by: By<'a>,
    /// Nothing is sent after that.
    until: Instant,
    done: v1::RemoveImagesResponse,
    /// Nothing was sent of which it isn't known that it is over.
    is_over: bool,
}

impl Work<'_> {
    /// What there is, and what goes of it.
    async fn plan(
        &self,
        wanted: &Wanted,
        expected: &BTreeMap<String, Digest>,
        in_use: &InUse,
    ) -> Result<(Held, Removal), Status> {
        let at = self.at;
        let beside = wanted.digests.iter().chain(&in_use.digests).copied();
        let held = self.by.held(at, MOST_TAGS, beside).await.map_err(status::registry)?;
        let held = held.ok_or_else(|| too_many(at))?;
        if let Some(tag) = wanted.tags.iter().find(|tag| !held.heads.contains_key(*tag)) {
            let instead = self.by.instead_of(at, tag).await;
            return Err(Status::not_found(format!("there is no {at}:{tag}{instead}; nothing was removed")));
        }
        for (tag, digest) in expected {
            if held.heads.get(tag) != Some(digest) {
                return Err(Status::failed_precondition(format!(
                    "{at}:{tag} was moved since it was looked at; nothing was removed, look once more"
                )));
            }
        }
        for digest in &wanted.digests {
            if self.by.head(at, &digest.to_string()).await.map_err(status::registry)?.is_none() {
                return Err(Status::not_found(format!("there is no {at}@{digest}; nothing was removed")));
            }
        }
        let mut removal = held.removal(wanted, in_use).map_err(|(digest, need)| {
            Status::failed_precondition(format!(
                "{at}@{digest} stays, as {}; {}. Nothing was removed",
                words(at, &need),
                cure(at, &need)
            ))
        })?;
        // What other publications list stays, whether a tag points to them or not.
        let gone: Vec<Digest> = removal.manifests.iter().map(|(digest, _)| *digest).collect();
        let kept = self.shared.store.published_beside(at, &removal.below, &gone).await;
        let kept = kept.map_err(status::store)?;
        removal.below.retain(|digest| !kept.contains(digest));
        Ok((held, removal))
    }

    /// What would be done.
    fn told(&self, held: &Held, removal: Removal) -> v1::RemoveImagesResponse {
        let named = removal.names.into_iter().map(|(tag, digest, need)| v1::RemovedImage {
            digest: digest.to_string(),
            tags: vec![tag],
            kept_for: words(self.at, &need),
        });
        let gone = removal.manifests.into_iter().map(|(digest, tags)| v1::RemovedImage {
            digest: digest.to_string(),
            tags,
            kept_for: String::new(),
        });
        tracing::debug!(tags = held.heads.len(), "a removal was tried");
        v1::RemoveImagesResponse {
            removed: named.chain(gone).collect(),
            below: count(removal.below.len()),
            left: count(removal.left),
            trouble: String::new(),
        }
    }

    /// Removes all of it, or up to where something goes wrong: that is an error as long as nothing is gone.
    async fn run(&mut self, held: &Held, removal: Removal) -> Result<v1::RemoveImagesResponse, Status> {
        let ended = self.remove_all(held, removal).await;
        let mut done = std::mem::take(&mut self.done);
        match ended {
            Err(refused) if done.removed.is_empty() => return Err(refused),
            Err(refused) => refused.message().clone_into(&mut done.trouble),
            Ok(()) => {}
        }
        tracing::info!(
            repository = %self.at, by = %self.member.name, removed = done.removed.len(), below = done.below,
            trouble = done.trouble, "removed at somebody's wish"
        );
        Ok(done)
    }

    async fn remove_all(&mut self, held: &Held, removal: Removal) -> Result<(), Status> {
        for (tag, digest, need) in removal.names {
            self.still_there(std::slice::from_ref(&tag), digest).await?;
            self.untag(held, &tag, digest, &need).await?;
            self.note(digest, vec![tag], words(self.at, &need)).await?;
        }
        for (digest, tags) in removal.manifests {
            self.still_there(&tags, digest).await?;
            self.delete(digest).await?;
            self.note(digest, tags, String::new()).await?;
        }
        self.done.left = count(removal.left);
        for digest in removal.below {
            self.delete(digest).await?;
            self.done.below += 1;
        }
        Ok(())
    }

    async fn note(&mut self, digest: Digest, tags: Vec<String>, kept_for: String) -> Result<(), Status> {
        let removed = Removed { at: self.at, digest, tags: &tags, is_kept: !kept_for.is_empty() };
        let (by, project) = (self.member.caller.by(), self.member.project);
        let noted = self.shared.store.note_removal(&by, project, removed).await;
        self.done.removed.push(v1::RemovedImage { digest: digest.to_string(), tags, kept_for });
        noted.map_err(status::store)
    }

    /// Sees whether tags point where they did: others than the farm may have moved them meanwhile.
    async fn still_there(&mut self, tags: &[String], digest: Digest) -> Result<(), Status> {
        for tag in tags {
            let head = self.by.head(self.at, tag).await.map_err(status::registry)?;
            if head.is_some_and(|head| head != digest) {
                let (at, why) = (self.at, "was moved since it was looked at, and stays; look once more");
                return Err(Status::failed_precondition(format!("{at}:{tag} {why}")));
            }
        }
        Ok(())
    }

    /// Takes a manifest away with all its tags.
    async fn delete(&mut self, digest: Digest) -> Result<(), Status> {
        self.in_time()?;
        let deleted = self.by.delete(self.at, digest).await;
        match self.sent(deleted)? {
            Deleted::Gone => Ok(()),
            Deleted::NotAllowed => Err(Status::failed_precondition(format!(
                "{} deletes nothing (it answers that this is not supported); where it is the distribution registry, \
                 storage.delete.enabled allows it, and others have a page or program of their own for it",
                self.at.registry()
            ))),
        }
    }

    /// Takes a tag away, and leaves what it points to.
    async fn untag(&mut self, held: &Held, tag: &str, digest: Digest, need: &Need) -> Result<(), Status> {
        self.in_time()?;
        let at = self.at;
        let others = held.heads.iter().filter(|(other, head)| **head == digest && *other != tag);
        let others: Vec<&str> = others.map(|(other, _)| other.as_str()).collect();
        let untagged = self.by.untag(at, tag, digest, &others).await;
        let what = match self.sent(untagged)? {
            Untagged::Gone => return Ok(()),
            Untagged::NotAllowed => String::new(),
            Untagged::Stays => "the registry says that it is gone, and it is there still: ".to_owned(),
            Untagged::PutBack(names) => {
                let names = names.join(", ");
                tracing::warn!(repository = %at, tag, names, "a registry took more away than a tag; it was put back");
                format!("what was taken away with it was put back ({names}): ")
            }
        };
        Err(Status::failed_precondition(format!(
            "{what}{} can't take {at}:{tag} away alone, and {digest} stays, as {}; {}",
            at.registry(),
            words(at, need),
            cure(at, need)
        )))
    }

    fn in_time(&self) -> Result<(), Status> {
        if Instant::now() < self.until {
            return Ok(());
        }
        let why =
            "it takes too long, and builds wait for it; what is left goes with the same command once more";
        Err(Status::failed_precondition(why))
    }

    /// What was sent is over, unless nobody knows that.
    fn sent<T>(&mut self, answered: Result<T, RegistryError>) -> Result<T, Status> {
        self.is_over &= !answered.as_ref().is_err_and(RegistryError::is_transient);
        answered.map_err(status::registry)
    }
}

fn count(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

/// For what a manifest stays, after "as".
fn words(at: &Repository, need: &Need) -> String {
    match need {
        Need::Tag(tag) => format!("{at}:{tag} points to it"),
        Need::Listed(tag) => format!("{at}:{tag} lists it"),
        Need::Build => "a build that is under way may need it".to_owned(),
    }
}

/// How it can go all the same.
fn cure(at: &Repository, need: &Need) -> String {
    match need {
        Need::Tag(_) => "name all tags of it in one command, and it goes with them".to_owned(),
        Need::Listed(tag) => format!("it goes with {at}:{tag}"),
        Need::Build => "try again when that has ended (farm builds)".to_owned(),
    }
}
