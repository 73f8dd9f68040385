//! A repository's tags: which there are, to what they point, and what these reach.
//!
//! Protocol: distribution-spec v1.1, "Listing Tags". A registry may give a list in pages, and says by a `Link` header how the next one is
//! asked for (RFC 8288); of that only the query is taken, so that no answer leads anywhere else. All is bounded: in tags, in manifests
//! and in time.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use farm_core::publish::removal::Held;
use farm_core::publish::{IndexDocument, is_attestation, spelled};
use farm_types::{Digest, Repository};
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::Url;
use reqwest::header::{HeaderMap, LINK};

use super::image::{ImageConfig, ImageManifest, in_json};
use super::requests::{Asked, MAX_TAGS};
use super::{By, Manifest, RegistryError};

/// The pages of one list of tags may take so many times as long as one request, and so may what is asked of tags.
const LISTING: u32 = 4;
/// How many requests go to one registry at once.
const AT_ONCE: usize = 8;
/// Indexes list indexes so deep at most.
const DEEPEST: usize = 4;
/// So many entries of indexes on one level are kept.
const MOST_LISTED: usize = 100_000;
/// So many manifests are read at most to find out what tags reach.
const MOST_MANIFESTS: usize = 5_000;
/// The longest config that is read for its platform, bytes.
const MAX_CONFIG: u64 = 1024 * 1024;
/// So many pages a list has at most, and a tag so many characters (distribution-spec v1.1, "Pulling manifests").
const MOST_PAGES: usize = 200;
const LONGEST_TAG: usize = 128;
/// So many platforms of an index are told.
const MOST_PLATFORMS: usize = 64;
/// So many parts of a query are taken.
const MOST_PARTS: usize = 8;

/// A page of tags.
#[derive(serde::Deserialize)]
struct Tags {
    /// Some registries write null for none.
    tags: Option<Vec<String>>,
}

/// What is read of a manifest to see what it lists.
#[derive(serde::Deserialize)]
struct Listing {
    #[serde(default)]
    manifests: Option<Vec<Child>>,
}

#[derive(serde::Deserialize)]
struct Child {
    digest: String,
}

/// What a page's answer says of the next one: its query.
type Next = Vec<(String, String)>;

/// What a manifest is, as far as lists show it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Described {
    /// Of which type.
    pub media_type: String,
    /// For which platforms, as the index or the image's config says; none of what is no image.
    pub platforms: Vec<String>,
}

impl By<'_> {
    /// Some of the repository's tags, at most `limit`, as its registry orders them.
    ///
    /// # Errors
    /// The registry refuses or can't be reached.
    pub async fn tags(&self, repository: &Repository, limit: usize) -> Result<Vec<String>, RegistryError> {
        Ok(self.page(repository, &[("n".to_owned(), limit.to_string())]).await?.0)
    }

    /// A page of the repository's tags.
    async fn page(
        &self,
        repository: &Repository,
        query: &[(String, String)],
    ) -> Result<(Vec<String>, Option<Next>), RegistryError> {
        let query: Vec<(&str, &str)> =
            query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let asked = Asked { query: &query, ..Asked::get("tags/list", MAX_TAGS) };
        let Some(answer) = self.ask(repository, &asked).await? else { return Ok((Vec::new(), None)) };
        let page: Tags = serde_json::from_slice(&answer.body).map_err(|error| {
            RegistryError::rejected(repository, format!("its list of tags: {}", in_json(&error)))
        })?;
        // What no tag can be called is none, and isn't kept.
        let tags = page.tags.unwrap_or_default().into_iter().filter(|tag| tag.len() <= LONGEST_TAG);
        Ok((tags.collect(), next(&answer.headers)))
    }

    /// All of the repository's tags, unless there are more than `most`.
    ///
    /// # Errors
    /// The registry refuses or can't be reached.
    pub async fn all_tags(
        &self,
        repository: &Repository,
        most: usize,
    ) -> Result<Option<Vec<String>>, RegistryError> {
        let all = self.some_tags(repository, most.saturating_add(1)).await?;
        Ok((all.len() <= most).then_some(all))
    }

    /// As many tags as there are, or at least `enough`.
    ///
    /// # Errors
    /// The registry refuses or can't be reached.
    pub(super) async fn some_tags(
        &self,
        repository: &Repository,
        enough: usize,
    ) -> Result<Vec<String>, RegistryError> {
        self.in_time(repository, self.pages(repository, enough)).await
    }

    async fn pages(&self, repository: &Repository, enough: usize) -> Result<Vec<String>, RegistryError> {
        const PAGE: &str = "1000";
        let (mut all, mut known) = (Vec::<String>::new(), HashSet::<String>::new());
        let first = || vec![("n".to_owned(), PAGE.to_owned())];
        let mut query = first();
        for _ in 0..MOST_PAGES {
            let (page, next) = self.page(repository, &query).await?;
            // A registry that knows no pages gives all at once, and the same again.
            let before = all.len();
            all.extend(page.into_iter().filter(|tag| known.insert(tag.clone())));
            // A page may be empty, and say what comes next.
            let is_last = all.len() == before && next.as_ref().is_none_or(|next| *next == query);
            if is_last || all.len() >= enough {
                return Ok(all);
            }
            // One that says nothing of the next page may have one all the same.
            query = next.unwrap_or_else(|| {
                let last = all.last().map(|last| ("last".to_owned(), last.clone()));
                first().into_iter().chain(last).collect()
            });
        }
        Err(RegistryError::rejected(repository, "its list of tags has no end"))
    }

    /// To what these tags point, but for those that aren't there.
    ///
    /// # Errors
    /// The registry refuses or can't be reached.
    pub async fn heads(
        &self,
        repository: &Repository,
        tags: Vec<String>,
    ) -> Result<BTreeMap<String, Digest>, RegistryError> {
        let heads = futures::stream::iter(tags)
            .map(|tag| async move {
                let head = self.head(repository, &tag).await?;
                Ok::<_, RegistryError>(head.map(|head| (tag, head)))
            })
            .buffer_unordered(AT_ONCE)
            .try_filter_map(|head| std::future::ready(Ok(head)));
        self.in_time(repository, heads.try_collect()).await
    }

    /// What the tags of a repository reach, and what these manifests list. `None`: there are more than `most` tags, or too many
    /// manifests, or indexes of indexes too deep, to find out.
    ///
    /// # Errors
    /// The registry refuses or can't be reached.
    pub async fn held(
        &self,
        repository: &Repository,
        most: usize,
        beside: impl IntoIterator<Item = Digest>,
    ) -> Result<Option<Held>, RegistryError> {
        let Some(tags) = self.all_tags(repository, most).await? else { return Ok(None) };
        let heads = self.heads(repository, tags).await?;
        let from: BTreeSet<Digest> = heads.values().copied().chain(beside).collect();
        let lists = self.in_time(repository, self.lists(repository, from)).await?;
        Ok(lists.map(|lists| Held { heads, lists }))
    }

    async fn lists(
        &self,
        repository: &Repository,
        from: BTreeSet<Digest>,
    ) -> Result<Option<BTreeMap<Digest, Vec<Digest>>>, RegistryError> {
        let (mut lists, mut seen) = (BTreeMap::new(), from.clone());
        let mut level = from;
        for _ in 0..DEEPEST {
            if seen.len() > MOST_MANIFESTS {
                return Ok(None);
            }
            let mut reading = futures::stream::iter(level)
                .map(|digest| async move {
                    Ok::<_, RegistryError>((digest, self.listed_by(repository, digest).await?))
                })
                .buffer_unordered(AT_ONCE);
            let (mut read, mut told) = (Vec::<(Digest, Vec<Digest>)>::new(), 0);
            while let Some((digest, listed)) = reading.try_next().await? {
                told += listed.len();
                if told > MOST_LISTED {
                    return Ok(None);
                }
                read.push((digest, listed));
            }
            drop(reading);
            let below = read.iter().flat_map(|(_, listed)| listed).copied();
            level = below.filter(|digest| seen.insert(*digest)).collect();
            lists.extend(read.into_iter().filter(|(_, listed)| !listed.is_empty()));
            if level.is_empty() {
                return Ok(Some(lists));
            }
        }
        Ok(None)
    }

    /// What an index lists; nothing, if it is no index or isn't there.
    async fn listed_by(&self, at: &Repository, digest: Digest) -> Result<Vec<Digest>, RegistryError> {
        let Some(manifest) = self.manifest(at, &digest.to_string()).await? else { return Ok(Vec::new()) };
        // What it lists decides on what else stays: all of it has to be understood. A manifest that lists nothing is an image's.
        let unclear =
            |why: &str| RegistryError::rejected(at, format!("what {digest} lists can't be told ({why})"));
        let document: Listing =
            serde_json::from_slice(&manifest.bytes).map_err(|error| unclear(&in_json(&error)))?;
        let listed = document.manifests.unwrap_or_default();
        if listed.len() > MOST_MANIFESTS {
            return Err(unclear("it lists too much"));
        }
        let listed = listed.into_iter().map(|child| child.digest.parse::<Digest>());
        listed.collect::<Result<_, _>>().map_err(|error| unclear(&error.to_string()))
    }

    /// What a manifest is; `None` when it isn't there.
    ///
    /// # Errors
    /// The registry refuses or can't be reached.
    pub async fn describe(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<Option<Described>, RegistryError> {
        let Some(manifest) = self.manifest(repository, &digest.to_string()).await? else { return Ok(None) };
        let platforms = match serde_json::from_slice::<IndexDocument>(&manifest.bytes) {
            Ok(index) => of_index(&index),
            Err(_) => self.of_image(repository, &manifest).await?,
        };
        Ok(Some(Described { media_type: manifest.media_type, platforms }))
    }

    async fn of_image(
        &self,
        repository: &Repository,
        manifest: &Manifest,
    ) -> Result<Vec<String>, RegistryError> {
        let Ok(image) = serde_json::from_slice::<ImageManifest>(&manifest.bytes) else {
            return Ok(Vec::new());
        };
        if !image.config.is_image_config() || image.config.size > MAX_CONFIG {
            return Ok(Vec::new());
        }
        let config = match self.blob(repository, image.config.digest, MAX_CONFIG).await {
            Ok(config) => config,
            Err(error) if error.is_transient() => return Err(error),
            // An odd one keeps nobody from seeing the others.
            Err(_) => return Ok(Vec::new()),
        };
        let config = serde_json::from_slice::<ImageConfig>(&config).ok();
        Ok(config
            .map(|config| spelled(&config.os, &config.architecture, &config.variant))
            .into_iter()
            .collect())
    }

    /// What takes several requests ends in time.
    pub(super) async fn in_time<T>(
        &self,
        repository: &Repository,
        asked: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let limit = self.registries.timeout * LISTING;
        let answered = tokio::time::timeout(limit, asked).await;
        answered.unwrap_or_else(|_| Err(RegistryError::unended(repository, limit)))
    }
}

/// The platforms of an index, each once, in its order.
fn of_index(index: &IndexDocument) -> Vec<String> {
    let mut platforms = Vec::new();
    let images = index.manifests.iter().filter(|one| !is_attestation(one));
    for platform in images.filter_map(|one| one.platform.as_ref()) {
        let variant = platform.variant.as_deref().unwrap_or_default();
        let platform = spelled(&platform.os, &platform.architecture, variant);
        if platforms.len() < MOST_PLATFORMS && platform.len() <= LONGEST_TAG && !platforms.contains(&platform)
        {
            platforms.push(platform);
        }
    }
    platforms
}

/// The query of the page that an answer says is the next (`Link: </v2/NAME/tags/list?last=x&n=2>; rel="next"`).
fn next(headers: &HeaderMap) -> Option<Next> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    // Commas part links, and stand in no tag.
    let target = links.flat_map(|links| links.split(',')).find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = |parameter: &str| {
            let (name, value) = parameter.trim().split_once('=').unwrap_or_default();
            name.eq_ignore_ascii_case("rel") && value.trim_matches('"').eq_ignore_ascii_case("next")
        };
        parameters.split(';').any(is_next).then_some(target)
    })?;
    let base = Url::parse("http://registry.invalid/").ok()?;
    let url = base.join(target).ok()?;
    let query: Next =
        url.query_pairs().take(MOST_PARTS).map(|(name, value)| (name.into(), value.into())).collect();
    (!query.is_empty()).then_some(query)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// What a registry's pages are like.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Pages {
        /// Two at a time, with a link whose query is the registry's own.
        Linked,
        /// Two at a time, by `last`, without a link.
        Unlinked,
        /// All at once, whatever is asked.
        Whole,
        /// An empty page first, with a link to the rest.
        Filtered,
        /// More and more, for ever.
        Endless,
    }

    const ALL: [&str; 5] = ["1", "2", "3", "4", "latest"];

    /// A registry that gives a list of tags. A simulation: the real one in the tests knows one kind of pages.
    async fn registry(pages: Pages) -> Repository {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("127.0.0.1:{}/a", listener.local_addr().unwrap().port()).parse().unwrap();
        tokio::spawn(async move {
            let mut count = 0;
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let read = stream.read(&mut head).await.unwrap();
                let line = String::from_utf8_lossy(&head[..read]).lines().next().unwrap().to_owned();
                let after = |name: &str| {
                    let (_, value) = line.split_once(&format!("{name}="))?;
                    value.split(['&', ' ']).next().map(ToOwned::to_owned)
                };
                let (mut link, mut tags) = (String::new(), ALL.map(ToOwned::to_owned).to_vec());
                match pages {
                    Pages::Linked => {
                        let from: usize = after("cursor").map_or(0, |at| at.parse().unwrap());
                        tags = tags.into_iter().skip(from).take(2).collect();
                        if from + 2 < ALL.len() {
                            link = format!(
                                "Link: </elsewhere>; rel=\"first\", <http://other.example/x?cursor={}&n=2>; rel=\"next\"\r\n",
                                from + 2
                            );
                        }
                    }
                    Pages::Unlinked => {
                        let last = after("last").unwrap_or_default();
                        tags = tags.into_iter().filter(|tag| *tag > last).take(2).collect();
                    }
                    Pages::Filtered if after("cursor").is_none() => {
                        tags.clear();
                        link = "Link: </v2/a/tags/list?cursor=1>; rel=\"next\"\r\n".to_owned();
                    }
                    Pages::Whole | Pages::Filtered => {}
                    Pages::Endless => {
                        count += 1;
                        tags = vec![format!("t{count}")];
                        link = format!("Link: </v2/a/tags/list?last=t{count}>; rel=next\r\n");
                    }
                }
                let body = if line.starts_with("GET /v2/ ") {
                    String::new()
                } else {
                    json!({"tags": tags}).to_string()
                };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\n{link}Content-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        at
    }

    #[tokio::test]
    async fn all_pages_are_read_whatever_a_registry_says_of_the_next_one_and_no_more_than_are_wanted() {
        for pages in [Pages::Linked, Pages::Unlinked, Pages::Whole, Pages::Filtered] {
            let at = registry(pages).await;
            let registries = crate::registry::tests::reach(BTreeMap::new(), Duration::from_secs(10));
            let by = registries.farm();
            assert_eq!(by.all_tags(&at, 5).await.unwrap().unwrap(), ALL);
            assert_eq!(by.all_tags(&at, 3).await.unwrap(), None);
        }
        let at = registry(Pages::Endless).await;
        let registries = crate::registry::tests::reach(BTreeMap::new(), Duration::from_secs(10));
        assert_eq!(registries.farm().all_tags(&at, 40).await.unwrap(), None);
    }

    #[test]
    fn of_a_link_only_the_query_of_the_next_page_is_taken() {
        let of = |link: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, link.parse().unwrap());
            next(&headers)
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let query = of("</v2/a/tags/list?last=1.0%2Bx&n=2>; rel=\"next\"");
        assert_eq!(query, Some(vec![pair("last", "1.0+x"), pair("n", "2")]));
        assert_eq!(of("<https://evil.example/?n=1>; title=\"x\"; rel=Next"), Some(vec![pair("n", "1")]));
        for none in
            ["</v2/a/tags/list?n=1>; rel=\"prev\"", "</v2/a/tags/list>; rel=\"next\"", "rel=next", "<"]
        {
            assert_eq!(of(none), None, "{none}");
        }
        let many: String = (0..100).map(|n| format!("&p{n}=1")).collect();
        assert_eq!(of(&format!("</x?a=1{many}>; rel=next")).unwrap().len(), MOST_PARTS);
    }
}
