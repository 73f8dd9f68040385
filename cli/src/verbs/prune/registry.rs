//! `farm prune --registry`: tags that no rule keeps leave a repository, with their images.
//!
//! What goes is chosen here by the rules, and once more looked at by the farm, image by image, as for `farm rm`. Each step is one call that
//! the farm brings to its end; when the command is ended between two, the same command once more goes on.

use std::collections::BTreeMap;

use farm_proto::v1::{
    GetAccessRequest, GetRepositoryUsageRequest, ListTagsRequest, RemoveImagesRequest, RemoveImagesResponse,
};
use farm_types::{Repository, TagPattern};

use super::rules::{Rules, chosen};
use super::{Args, agree};
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::output::tags::{Removed, RemovedJson, removed};
use crate::output::text::{bytes, count};
use crate::output::{Out, json};
use crate::verbs::now_ms;

/// As many tags are looked at as the farm describes.
const LISTED: u32 = 500;
/// So many are removed by one call.
const STEP: usize = 50;

/// Removes tags that no rule keeps.
///
/// # Errors
/// It isn't said what, nobody can be asked whether, or the farm refuses.
pub(super) async fn prune(repository: Repository, args: &Args, setup: &Setup) -> Result<Exit> {
    if args.older_than.is_none() && args.keep_last.is_none() {
        return Err(Error::Usage(
            "say which tags are to go: --keep-last 10, --older-than 30d, or --keep-last 0 for all that nothing else keeps".to_owned(),
        ));
    }
    let client = Client::connect(&setup.address).await?;
    let rules = rules(&client, args).await?;
    let all = Removed { repository: repository.to_string(), ..Removed::default() };
    let mut work = Work { client: &client, all, digests: BTreeMap::new() };
    let (groups, tags) = work.chosen(&rules).await?;
    let names: Vec<String> = groups.iter().flatten().cloned().collect();
    let freed = work.freed(&names).await;
    let takes = freed.map_or_else(String::new, |freed| format!(", about {}", bytes(freed)));
    let mut failed = None;
    if !names.is_empty() {
        let what = format!("{} of {} in {repository}{takes}", names.len(), count(tags, "tag"));
        agree(args, &format!("Remove {what}?"), &format!("this removes {what}: {}", names.join(", ")))?;
        failed = work.remove(&groups, args.dry_run).await.err();
    }
    let all = [work.all];
    let failed = match failed {
        Some(error) if all.iter().all(|one| one.images.is_empty()) => return Err(error),
        failed => failed,
    };
    let mut out = Out::stdout();
    if args.json {
        out.line(&json::text(&RemovedJson::new(&all, args.dry_run, freed)));
    } else if names.is_empty() {
        out.line(&format!("none of {} in {repository} is to go", count(tags, "tag")));
    } else {
        out.lines(removed(&all, args.dry_run));
        if let Some(freed) = freed {
            out.line(&format!(
                "that is about {} in the registry, once it collects its garbage",
                bytes(freed)
            ));
        }
    }
    let Some(error) = failed else { return Ok(Exit::Done) };
    Out::stderr().line(&error.shown());
    // As of a build that failed.
    Ok(Exit::BuildFailed)
}

/// What keeps tags: what was said, and what the project protects.
async fn rules(client: &Client, args: &Args) -> Result<Rules> {
    let access = through(async || client.projects().get_access(GetAccessRequest::default()).await);
    let access = access.await.map_err(|status| client.error(&status))?;
    let protected = access.protected.iter().map(|tags| tags.pattern.parse::<TagPattern>());
    let protected = protected.collect::<std::result::Result<Vec<_>, _>>()?;
    let millis = |age: std::time::Duration| i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    Ok(Rules {
        last: args.keep_last,
        patterns: args.keep.iter().cloned().chain(protected).collect(),
        younger_than: args.older_than.map(|age| now_ms().saturating_sub(millis(age))),
    })
}

struct Work<'a> {
    client: &'a Client,
    all: Removed,
    /// To what each tag pointed when it was chosen.
    digests: BTreeMap<String, String>,
}

impl Work<'_> {
    /// Which tags go, by their images; and how many there are.
    async fn chosen(&mut self, rules: &Rules) -> Result<(Vec<Vec<String>>, usize)> {
        let request =
            ListTagsRequest { repository: self.all.repository.clone(), most: LISTED, ..Default::default() };
        let listed = through(async || self.client.images().list_tags(request.clone()).await);
        let listed = listed.await.map_err(|status| self.client.error(&status))?;
        if usize::try_from(listed.count).is_ok_and(|count| count > listed.tags.len()) {
            // Which image the others point to isn't known, and so not what they keep.
            let cure = "remove some with farm rm, as farm ls --match lists them, until there are no more";
            return Err(Error::Usage(format!(
                "{} has {} tags, and no more than {LISTED} are gone through; {cure}",
                self.all.repository, listed.count
            )));
        }
        self.digests = listed.tags.iter().map(|tag| (tag.tag.clone(), tag.digest.clone())).collect();
        Ok((chosen(&listed.tags, rules), listed.tags.len()))
    }

    /// What these tags take that no other does, if that can be told.
    async fn freed(&self, names: &[String]) -> Option<u64> {
        if names.is_empty() {
            return Some(0);
        }
        let ask = async |without: &[String]| {
            let request = GetRepositoryUsageRequest {
                repository: self.all.repository.clone(),
                without: without.to_vec(),
            };
            let asked = through(async || self.client.images().get_repository_usage(request.clone()).await);
            asked.await.ok().filter(|usage| !usage.is_more).map(|usage| usage.bytes)
        };
        let (with, without) = (ask(&[]).await?, ask(names).await?);
        Some(with.saturating_sub(without))
    }

    async fn remove(&mut self, groups: &[Vec<String>], is_dry: bool) -> Result<()> {
        let mut left = groups;
        while let Some(first) = left.first() {
            // All tags of an image go by one call.
            let mut tags = first.clone();
            let more = left.iter().skip(1).take_while(|more| {
                let fits = tags.len() + more.len() <= STEP;
                if fits {
                    tags.extend_from_slice(more);
                }
                fits
            });
            let taken = 1 + more.count();
            left = left.get(taken..).unwrap_or_default();
            // An image that another tag's index lists stays, and its tag with it.
            let looked = self.call(tags.clone(), true).await?;
            let stay = |tag: &String| {
                looked.removed.iter().any(|image| !image.kept_for.is_empty() && image.tags.contains(tag))
            };
            tags.retain(|tag| !stay(tag));
            let done = match is_dry {
                true => looked,
                false if tags.is_empty() => continue,
                false => self.call(tags, false).await?,
            };
            self.all.images.extend(done.removed.into_iter().filter(|image| image.kept_for.is_empty()));
            self.all.below = self.all.below.saturating_add(done.below);
            self.all.left = self.all.left.saturating_add(done.left);
            if !done.trouble.is_empty() {
                return Err(Error::Farm(done.trouble));
            }
        }
        Ok(())
    }

    async fn call(&self, tags: Vec<String>, dry_run: bool) -> Result<RemoveImagesResponse> {
        // What a tag has come to point to since it was chosen, nobody has chosen.
        let expected =
            tags.iter().filter_map(|tag| Some((tag.clone(), self.digests.get(tag)?.clone()))).collect();
        let request = RemoveImagesRequest {
            repository: self.all.repository.clone(),
            expected,
            tags,
            digests: Vec::new(),
            dry_run,
            only_idle: true,
        };
        let answer = self.client.images().remove_images(request).await;
        Ok(answer.map_err(|status| self.client.error(&status))?.into_inner())
    }
}
