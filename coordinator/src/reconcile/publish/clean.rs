//! The cleaning pass: takes out of registries what was pushed for builds that came to nothing.
//!
//! The database says what is garbage and keeps attempts from beginning meanwhile (`farm_store::publish::garbage`); the registry is
//! asked what its tags need, as tags may be somebody else's; only then is anything deleted. A pass that is cut off leaves
//! garbage that the next one finds again.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farm_core::publish::referrer::fallback_tag;
use farm_core::publish::{IndexDocument, signature};
use farm_store::StoreError;
use farm_store::publish::garbage::{Cleaned, Cleaning};
use farm_types::{Digest, Repository};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::reconcile::{Lead, turn};
use crate::registry::{By, Deleted, RegistryError};
use crate::shared::Shared;

/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_secs(60);
/// Repositories that are cleaned in one look.
const BATCH: i64 = 16;
/// When a repository is looked at again: after it was cleaned or had a build under way, and when deleting is not allowed.
const AGAIN: (Duration, Duration) = (Duration::from_secs(15 * 60), Duration::from_secs(24 * 3600));
/// A repository with more tags is not cleaned: to ask for all of them would be a burden.
const MOST_TAGS: usize = 5_000;
/// What is removed at most in one cleaning: the rest waits for the next, so that no build waits long for this one.
const MOST_GARBAGE: usize = 200;
/// How many registries are cleaned at once.
const REGISTRIES: usize = 4;
/// So much of a cleaning's time is left for writing down how it ended.
const NOTED_WITHIN: Duration = Duration::from_secs(15);
/// How many requests go to one registry at once.
const AT_ONCE: usize = 8;

/// Cleans while leading, until `shutdown`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let Some(after) = shared.config.retention.unpublished() else { return shutdown.cancelled().await };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while let Some(lead) = turn(&mut tick, &mut lead, &shutdown).await {
        tokio::select! {
            done = clean_due(&shared, lead, after) => match done {
                Ok(()) | Err(StoreError::NotLeading) => {}
                Err(error) => tracing::warn!(%error, "registries could not be cleaned; trying again"),
            },
            // What was begun is over by itself.
            () = shutdown.cancelled() => break,
        }
    }
}

/// Cleans what is due: the repositories of one registry one after another, and several registries at once, so that one that
/// is slow holds up no other.
async fn clean_due(shared: &Shared, lead: Lead, after: Duration) -> farm_store::Result<()> {
    let mut registries: BTreeMap<String, Vec<Repository>> = BTreeMap::new();
    for repository in shared.loops.due_cleanings(after, BATCH).await? {
        registries.entry(repository.registry().to_owned()).or_default().push(repository);
    }
    futures::stream::iter(registries.into_values().map(Ok))
        .try_for_each_concurrent(REGISTRIES, |repositories| async move {
            for repository in &repositories {
                clean_repository(shared, lead, after, repository).await?;
            }
            Ok(())
        })
        .await
}

/// # Errors
/// [`StoreError::NotLeading`] only.
async fn clean_repository(
    shared: &Shared,
    lead: Lead,
    after: Duration,
    repository: &Repository,
) -> farm_store::Result<()> {
    let asked = Instant::now();
    let lasts = lasts(shared);
    let begun = shared.loops.begin_cleaning(lead.epoch, repository, after, lasts, AGAIN.0).await;
    let cleaning = match begun {
        Ok(Some(cleaning)) => cleaning,
        Ok(None) => return Ok(()),
        Err(StoreError::NotLeading) => return Err(StoreError::NotLeading),
        // One that can't be looked at must not keep the others from it.
        Err(error) => {
            tracing::warn!(%repository, %error, "a repository can't be cleaned; trying again");
            return Ok(());
        }
    };
    let (ended, is_over) = clean_one(shared, &cleaning, asked).await;
    if !is_over {
        // A deletion may still have its effect: the cleaning ends by its time, and what is left is found again.
        tracing::warn!(%repository, trouble = ended.trouble, "not cleaned to the end; trying again");
        return Ok(());
    }
    let again = if ended.trouble.is_empty() { AGAIN.0 } else { AGAIN.1 };
    tracing::info!(
        %repository, removed = ended.removed.len(), needed = ended.needed.len(), trouble = ended.trouble,
        "cleaned of what builds that came to nothing had pushed"
    );
    match shared.loops.end_cleaning(lead.epoch, repository, &ended, again).await {
        Ok(()) => shared.hints.changed(),
        Err(error) => tracing::warn!(%repository, %error, "the end of a cleaning could not be written"),
    }
    Ok(())
}

/// How long nothing that pushes to a repository begins while it is cleaned.
fn lasts(shared: &Shared) -> Duration {
    longest_request(shared) + Duration::from_secs(60)
}

/// How long a request may still have its effect: as long as farm waits for the answer, and as long again for the
/// registry to finish what farm gave up.
fn longest_request(shared: &Shared) -> Duration {
    Duration::from_secs(shared.config.limits.registry_timeout_seconds) * 2
}

/// Removes what nothing needs; false when a deletion was sent of which it isn't known that it is over.
async fn clean_one(shared: &Shared, cleaning: &Cleaning, begun: Instant) -> (Cleaned, bool) {
    let mut ended = Cleaned::default();
    let mut is_over = true;
    // What is read before anything is deleted takes as long as the registry likes, up to here: the end must be written down
    // while the cleaning lasts.
    let limit = lasts(shared).saturating_sub(begun.elapsed() + NOTED_WITHIN);
    let removed = tokio::time::timeout(limit, remove_all(shared, cleaning, begun, &mut ended, &mut is_over));
    match removed.await {
        Ok(Ok(())) => {}
        Ok(Err(trouble)) => ended.trouble = trouble,
        Err(_) => {
            let registry = cleaning.repository.registry();
            ended.trouble =
                format!("{registry} did not answer all that has to be asked within {} s", limit.as_secs());
        }
    }
    (ended, is_over)
}

/// Removes by the login of each project what was pushed for it: its own, or the farm's. What was pushed by one that is removed stays: the
/// farm's, which may do more, isn't taken in its place.
async fn remove_all(
    shared: &Shared,
    cleaning: &Cleaning,
    begun: Instant,
    ended: &mut Cleaned,
    is_over: &mut bool,
) -> Result<(), String> {
    let at = &cleaning.repository;
    let mut by_login: BTreeMap<Option<Uuid>, (By<'_>, Vec<Digest>)> = BTreeMap::new();
    for digest in cleaning.garbage.iter().take(MOST_GARBAGE) {
        let mut is_left = true;
        for project in cleaning.pushed_for.get(digest).into_iter().flatten() {
            let allowed = shared.accesses.of(*project).await.map_err(|error| error.to_string())?;
            match shared.registries.to_publish(&allowed, at) {
                Ok(by) => {
                    let login = by.own().map(|login| login.version);
                    by_login.entry(login).or_insert_with(|| (by, Vec::new())).1.push(*digest);
                    is_left = false;
                    break;
                }
                Err(error) if error.is_transient() => return Err(error.message),
                Err(_) => {}
            }
        }
        if is_left {
            ended.left.push(*digest);
        }
    }
    if !ended.left.is_empty() {
        tracing::warn!(
            repository = %at, count = ended.left.len(),
            "what builds that came to nothing had pushed is left there: the login by which they did is removed from their project"
        );
    }
    for (registries, garbage) in by_login.into_values() {
        remove(shared, &registries, cleaning, &garbage, begun, ended, is_over).await?;
    }
    Ok(())
}

async fn remove(
    shared: &Shared,
    registries: &By<'_>,
    cleaning: &Cleaning,
    garbage: &[Digest],
    begun: Instant,
    ended: &mut Cleaned,
    is_over: &mut bool,
) -> Result<(), String> {
    let (at, listed) = (&cleaning.repository, garbage);
    let words = |error: RegistryError| error.message;
    let mut in_use: HashSet<Digest> = HashSet::new();
    for digest in &cleaning.in_use {
        in_use.insert(*digest);
        in_use.extend(children(registries, at, *digest).await.map_err(words)?);
    }
    // What a garbage index lists is garbage too, unless it is needed.
    let mut garbage: Vec<Digest> = Vec::new();
    for digest in listed {
        let below = children(registries, at, *digest).await.map_err(words)?;
        // A build under way may make the same index once more: that one is decided on when it has ended.
        if !below.iter().any(|child| in_use.contains(child)) && !in_use.contains(digest) {
            garbage.push(*digest);
            garbage.extend(below);
        }
    }
    let mut needed: HashSet<Digest> =
        shared.loops.needed(at, &garbage).await.map_err(|error| error.to_string())?.into_iter().collect();
    let Some(tags) = registries.all_tags(at, MOST_TAGS).await.map_err(words)? else {
        return Err(format!(
            "{at} has more than {MOST_TAGS} tags; what they need can't be told in good time"
        ));
    };
    // Tags that are about garbage keep nothing: they go with it.
    let about: HashSet<String> = garbage.iter().flat_map(|digest| tags_about(*digest)).collect();
    let (beside, tags): (Vec<String>, Vec<String>) = tags.into_iter().partition(|tag| about.contains(tag));
    let heads: HashSet<Option<Digest>> = futures::stream::iter(tags)
        .map(|tag| async move { registries.head(at, &tag).await })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
        .map_err(words)?;
    // An index may list indexes; deeper than that nobody goes.
    let mut level: Vec<Digest> = heads.into_iter().flatten().collect();
    for _ in 0..3 {
        let below: Vec<Vec<Digest>> =
            futures::stream::iter(level.iter().copied().filter(|d| !needed.contains(d)))
                .map(|digest| children(registries, at, digest))
                .buffer_unordered(AT_ONCE)
                .try_collect()
                .await
                .map_err(words)?;
        needed.extend(level);
        level = below.into_iter().flatten().collect();
    }
    needed.extend(level);
    for digest in garbage {
        if needed.contains(&digest) {
            ended.needed.push(digest);
            continue;
        }
        let of_it = about_image(registries, at, digest, &beside).await.map_err(words)?;
        // Such lists are written by whoever may push there.
        needed.extend(shared.loops.needed(at, &of_it).await.map_err(|error| error.to_string())?);
        let of_it = of_it.into_iter().filter(|one| !needed.contains(one) && !in_use.contains(one));
        // The image last: without it nobody finds them.
        for one in of_it.chain([digest]) {
            // Counts on while the process is stopped. A request that is sent now must be over before anybody pushes there.
            if begun.elapsed() + longest_request(shared) > lasts(shared) {
                // The rest is for the next time.
                return Ok(());
            }
            *is_over = false;
            let deleted = registries.delete(at, one).await;
            *is_over = !deleted.as_ref().is_err_and(RegistryError::is_transient);
            if deleted.map_err(words)? == Deleted::NotAllowed {
                return Err(format!(
                    "{} deletes nothing; where it is the distribution registry, storage.delete.enabled allows it",
                    at.registry()
                ));
            }
        }
        ended.removed.push(digest);
    }
    Ok(())
}

/// So much of what is about one image is looked at and goes with it; the rest stays.
const MOST_ABOUT: usize = 100;

/// The tags under which lies what is about an image: the list of what refers to it, and signatures.
fn tags_about(image: Digest) -> [String; 2] {
    [fallback_tag(image), signature::tag(image)]
}

/// What refers to an image that goes, or lies under a tag that is about it: nobody finds it without that, and without an end signatures would
/// fill the repository. `beside`: the tags of that kind that are there; an image that has none is asked nothing about.
async fn about_image(
    registries: &By<'_>,
    at: &Repository,
    image: Digest,
    beside: &[String],
) -> Result<Vec<Digest>, RegistryError> {
    let tags: Vec<String> = tags_about(image).into_iter().filter(|tag| beside.contains(tag)).collect();
    if tags.is_empty() {
        return Ok(Vec::new());
    }
    let listed = match registries.referrers(at, image).await {
        Ok(listed) => listed,
        Err(error) if error.is_transient() => return Err(error),
        // What is there is no list, and goes with its tag.
        Err(_) => Vec::new(),
    };
    let mut all: Vec<Digest> = Vec::new();
    for tag in tags {
        all.extend(registries.head(at, &tag).await?);
    }
    all.extend(listed.iter().filter_map(|entry| entry.digest.parse::<Digest>().ok()));
    let mut about = Vec::new();
    // Whoever may push there can make the list as long as they like.
    for one in all.into_iter().take(MOST_ABOUT) {
        let manifest = registries.manifest(at, &one.to_string()).await?;
        if manifest.is_some_and(|manifest| is_about(&manifest.bytes, image)) {
            about.push(one);
        }
    }
    Ok(about)
}

/// Whether a manifest says of itself that it is about an image, or is of a form that only such have: what a list says of it somebody else
/// may have written.
fn is_about(manifest: &[u8], image: Digest) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Part {
        #[serde(default)]
        media_type: String,
        digest: Option<String>,
        platform: Option<serde::de::IgnoredAny>,
    }
    #[derive(serde::Deserialize)]
    struct Document {
        subject: Option<Part>,
        layers: Option<Vec<Part>>,
        manifests: Option<Vec<Part>>,
    }
    let Ok(document) = serde_json::from_slice::<Document>(manifest) else { return false };
    let has_subject =
        document.subject.is_some_and(|subject| subject.digest.as_deref() == Some(&*image.to_string()));
    let is_signature = document
        .layers
        .is_some_and(|layers| layers.iter().any(|layer| layer.media_type == signature::PAYLOAD));
    let is_list = document.manifests.is_some_and(|all| all.iter().all(|entry| entry.platform.is_none()));
    has_subject || is_signature || is_list
}

/// What an index lists; nothing, if it is no index or isn't there.
async fn children(
    registries: &By<'_>,
    at: &Repository,
    digest: Digest,
) -> Result<Vec<Digest>, RegistryError> {
    let Some(manifest) = registries.manifest(at, &digest.to_string()).await? else {
        return Ok(Vec::new());
    };
    // A manifest that lists nothing is an image's.
    let document: Option<IndexDocument> = serde_json::from_slice(&manifest.bytes).ok();
    Ok(document.map(|d| d.manifests.into_iter().map(|child| child.digest).collect()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_list_names_is_about_an_image_only_if_it_says_so_itself() {
        let image = Digest::of(b"image");
        let about = |text: String| is_about(text.as_bytes(), image);
        assert!(about(format!(
            r#"{{"subject":{{"mediaType":"a/b","digest":"{image}","size":1}},"layers":[]}}"#
        )));
        assert!(about(format!(r#"{{"layers":[{{"mediaType":"{}","digest":"x"}}]}}"#, signature::PAYLOAD)));
        assert!(about(r#"{"manifests":[{"mediaType":"a/b","digest":"x","artifactType":"c/d"}]}"#.to_owned()));
        for other in [
            format!(r#"{{"subject":{{"digest":"{}"}}}}"#, Digest::of(b"other")),
            r#"{"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"x"}]}"#.to_owned(),
            r#"{"manifests":[{"digest":"x","platform":{"os":"linux","architecture":"amd64"}}]}"#.to_owned(),
            "{".to_owned(),
        ] {
            assert!(!about(other.clone()), "{other}");
        }
    }
}
