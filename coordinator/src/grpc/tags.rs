//! The tags of a repository: what its registry says, with what the farm knows.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use farm_proto::v1;
use farm_store::publish::history::TagMove;
use farm_types::{Digest, Origin, Repository, TagPattern};
use futures::{StreamExt as _, TryStreamExt as _};
use tonic::Status;

use super::status;
use crate::people::Member;
use crate::people::accesses::check_pull;
use crate::registry::tags::Described;
use crate::registry::{By, RegistryError};
use crate::shared::Shared;
use crate::shown::present;

/// A repository with more tags isn't gone through: to ask for all of them would be a burden.
pub(super) const MOST_TAGS: usize = 5_000;
/// So many are described unless more are asked for, and so many at most.
const TAGS: u32 = 100;
const MOST_DESCRIBED: u32 = 500;
/// So many manifests are read at once to describe them.
const AT_ONCE: usize = 8;

/// The registry, asked for a project that looks at what a repository holds.
///
/// # Errors
/// The project may not look there, or there is no registry to ask.
pub(super) async fn to_read<'a>(
    shared: &'a Shared,
    member: &Member,
    repository: &Repository,
) -> Result<By<'a>, Status> {
    shared.registries.check(repository).map_err(status::invalid)?;
    let allowed = shared.accesses.of(member.project).await.map_err(status::store)?;
    let is_own = allowed.own(repository.host()).is_some();
    if !is_own && shared.registries.is_known(repository.registry()) {
        check_pull(&allowed, member, repository)?;
    }
    let by = shared.registries.to_read(&allowed, repository).map_err(status::registry)?;
    if let Some(login) = by.own() {
        shared.accesses.used(login).await;
    }
    Ok(by)
}

/// That there are too many tags to look at each.
pub(super) fn too_many(repository: &Repository) -> Status {
    Status::failed_precondition(format!(
        "{repository} has more than {MOST_TAGS} tags, or they reach more than can be gone through in good time; remove some by the \
         registry's own means"
    ))
}

/// Lists them.
pub(super) async fn list(
    shared: &Shared,
    member: &Member,
    request: &v1::ListTagsRequest,
) -> Result<v1::ListTagsResponse, Status> {
    let repository: Repository = request.repository.parse().map_err(status::invalid)?;
    let pattern = match request.pattern.as_str() {
        "" => None,
        pattern => Some(pattern.parse::<TagPattern>().map_err(status::invalid)?),
    };
    let most = if request.most == 0 { TAGS } else { request.most.min(MOST_DESCRIBED) };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let by = to_read(shared, member, &repository).await?;
    let listed = by.all_tags(&repository, MOST_TAGS).await.map_err(status::registry)?;
    let mut names = listed.ok_or_else(|| too_many(&repository))?;
    if names.is_empty() {
        return Err(none(&repository));
    }
    names.retain(|tag| pattern.as_ref().is_none_or(|pattern| pattern.covers(tag)));
    let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let mut moves =
        shared.store.last_moves(member.project, &repository, &names).await.map_err(status::store)?;
    names.sort_by_cached_key(|tag| (Reverse(moves.get(tag).map(|moved| moved.moved_at)), tag.clone()));
    names.truncate(most);
    let heads = by.heads(&repository, names.clone()).await.map_err(status::registry)?;
    // What others have put there in the place of farm's the farm doesn't know.
    moves.retain(|tag, moved| heads.get(tag) == Some(&moved.digest));
    let described = describe(&by, &repository, &heads, &moves).await.map_err(status::registry)?;
    let tags = names.into_iter().filter_map(|tag| {
        let digest = *heads.get(&tag)?;
        let moved_to = moves.remove(&tag);
        let (of, trouble) = match described.get(&digest) {
            Some(Ok(of)) => (of.clone(), String::new()),
            Some(Err(why)) => (Described::default(), why.clone()),
            None => (Described::default(), String::new()),
        };
        Some(v1::ListedTag {
            tag,
            digest: digest.to_string(),
            media_type: of.media_type,
            platforms: of.platforms,
            moved: moved_to.map(moved),
            trouble,
        })
    });
    Ok(v1::ListTagsResponse { repository: repository.to_string(), tags: tags.collect(), count })
}

/// What a repository's tags take.
pub(super) async fn usage(
    shared: &Shared,
    member: &Member,
    request: &v1::GetRepositoryUsageRequest,
) -> Result<v1::GetRepositoryUsageResponse, Status> {
    let repository: Repository = request.repository.parse().map_err(status::invalid)?;
    if u32::try_from(request.without.len()).is_ok_and(|count| count > MOST_DESCRIBED) {
        return Err(Status::invalid_argument(format!(
            "name at most {MOST_DESCRIBED} tags that aren't to count"
        )));
    }
    let without = request.without.iter().map(String::as_str).collect();
    let by = to_read(shared, member, &repository).await?;
    let usage = by.usage(&repository, &without).await.map_err(status::registry)?;
    let usage = usage.ok_or_else(|| none(&repository))?;
    let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(v1::GetRepositoryUsageResponse {
        repository: repository.to_string(),
        bytes: usage.bytes,
        tags: number(usage.tags),
        manifests: number(usage.manifests),
        is_more: usage.is_more,
    })
}

/// That there is nothing.
fn none(repository: &Repository) -> Status {
    Status::not_found(format!("there is no {repository}, or it has no tags"))
}

/// What these tags point to: as the farm knows it, or else as the registry says; or why it can't be told.
async fn describe(
    by: &By<'_>,
    repository: &Repository,
    heads: &BTreeMap<String, Digest>,
    moves: &BTreeMap<String, TagMove>,
) -> Result<BTreeMap<Digest, Result<Described, String>>, RegistryError> {
    let known = moves.values().filter(|moved| !moved.platforms.is_empty()).map(|moved| {
        let of = Described { media_type: moved.media_type.clone(), platforms: moved.platforms.clone() };
        (moved.digest, Ok(of))
    });
    let mut described: BTreeMap<Digest, Result<Described, String>> = known.collect();
    let unknown: BTreeSet<Digest> =
        heads.values().filter(|digest| !described.contains_key(*digest)).copied().collect();
    let read: Vec<_> = futures::stream::iter(unknown)
        .map(|digest| async move {
            match by.describe(repository, digest).await {
                Ok(Some(of)) => Ok((digest, Ok(of))),
                Ok(None) => Ok((digest, Err("it isn't there any more".to_owned()))),
                Err(error) if error.is_transient() => Err(error),
                // An odd one keeps nobody from seeing the others.
                Err(error) => Ok((digest, Err(error.message))),
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    described.extend(read);
    Ok(described)
}

/// A move of a tag.
pub(super) fn moved(one: TagMove) -> v1::TagMove {
    let (git, archive) = match &one.origin {
        Some(Origin::Git(origin)) => (Some(origin.into()), None),
        Some(Origin::Archive(origin)) => (None, Some(origin.into())),
        None => (None, None),
    };
    v1::TagMove {
        number: one.number,
        digest: one.digest.to_string(),
        media_type: one.media_type,
        previous_digest: one.previous.map(|digest| digest.to_string()).unwrap_or_default(),
        platforms: one.platforms,
        build_id: one.build,
        created_by: one.created_by,
        verb: one.verb,
        copied_from: one.copied_from.unwrap_or_default(),
        moved_ms: present::ms(one.moved_at),
        git,
        archive,
    }
}
