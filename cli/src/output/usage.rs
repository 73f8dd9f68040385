//! What takes room in a farm and in its registries, and what was freed, for people and for machines.

use farm_proto::v1::{GetRepositoryUsageResponse, GetUsageResponse, WorkerCache};
use serde::Serialize;

use super::text::{ago, bytes, columns, count, harmless, time};

/// What takes room, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Of engines.
    pub caches: Vec<WorkerCache>,
    /// In the farm's store.
    pub stored: GetUsageResponse,
    /// In registries; or why that can't be told.
    pub repositories: Vec<(String, Result<GetRepositoryUsageResponse, String>)>,
    /// Repositories that weren't asked about.
    pub unasked: usize,
}

/// A table: what it is, how much, and what else is known.
pub fn lines(usage: &Usage, now: i64) -> Vec<String> {
    let mut rows = vec![["WHAT", "SIZE", ""].map(ToOwned::to_owned).to_vec()];
    for cache in &usage.caches {
        let what = format!("build cache of {} ({})", harmless(&cache.worker), harmless(&cache.engine));
        rows.push(match cache.state.as_str() {
            "done" => {
                let since = ago(cache.told_ms, now);
                let idle = format!("{} of it not in use; told {since}", bytes(cache.freed_bytes));
                vec![what, bytes(cache.bytes), idle]
            }
            "failed" => vec![what, "?".to_owned(), harmless(&cache.failure)],
            _ => vec![what, "?".to_owned(), "its worker hasn't answered yet; try again".to_owned()],
        });
    }
    let GetUsageResponse { source_bytes, output_bytes, log_bytes, .. } = usage.stored;
    for (what, size) in [("sources", source_bytes), ("outputs", output_bytes), ("logs", log_bytes)] {
        rows.push(vec![format!("the project's {what} at the farm"), bytes(size)]);
    }
    for (repository, of) in &usage.repositories {
        let name = harmless(repository);
        rows.push(match of {
            Ok(of) => {
                let number = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
                let more = if of.is_more { ", and more that wasn't counted" } else { "" };
                let tags = count(number(of.tags), "tag");
                let manifests = count(number(of.manifests), "manifest");
                vec![name, bytes(of.bytes), format!("{tags}, {manifests}{more}")]
            }
            Err(why) => vec![name, "?".to_owned(), harmless(why)],
        });
    }
    let mut out = columns(&rows);
    if usage.unasked > 0 {
        let rest = if usage.unasked == 1 {
            "1 repository".to_owned()
        } else {
            format!("{} repositories", usage.unasked)
        };
        out.push(format!("{rest} more of the project weren't asked about; name them: farm du REPO"));
    }
    out
}

/// What was dropped of each engine's cache, or would be.
pub fn pruned(caches: &[WorkerCache], is_dry: bool) -> Vec<String> {
    let verb = if is_dry { "would drop" } else { "dropped" };
    let line = |cache: &WorkerCache| {
        let worker = harmless(&cache.worker);
        match cache.state.as_str() {
            "done" => {
                let left = if is_dry { cache.bytes.saturating_sub(cache.freed_bytes) } else { cache.bytes };
                let about = if is_dry { "about " } else { "" };
                let freed = bytes(cache.freed_bytes);
                format!("{worker}  {verb} {about}{freed} of its build cache; {} are left", bytes(left))
            }
            "failed" => format!("{worker}  its build cache is as it was: {}", harmless(&cache.failure)),
            _ => format!("{worker}  hasn't answered yet"),
        }
    };
    caches.iter().map(line).collect()
}

/// What `farm du --json` prints.
#[derive(Debug, Serialize)]
pub struct UsageJson<'a> {
    workers: Vec<CacheJson<'a>>,
    source_bytes: u64,
    output_bytes: u64,
    log_bytes: u64,
    repositories: Vec<RepositoryJson<'a>>,
    repositories_unasked: usize,
}

/// One engine's cache.
#[derive(Debug, Serialize)]
pub struct CacheJson<'a> {
    worker: &'a str,
    engine: &'a str,
    state: &'a str,
    bytes: Option<u64>,
    freed_bytes: Option<u64>,
    failure: Option<&'a str>,
    told: Option<String>,
}

#[derive(Debug, Serialize)]
struct RepositoryJson<'a> {
    repository: &'a str,
    bytes: Option<u64>,
    tags: Option<u32>,
    manifests: Option<u32>,
    is_more: bool,
    trouble: Option<&'a str>,
}

impl<'a> From<&'a WorkerCache> for CacheJson<'a> {
    fn from(cache: &'a WorkerCache) -> Self {
        let is_done = cache.state == "done";
        Self {
            worker: &cache.worker,
            engine: &cache.engine,
            state: &cache.state,
            bytes: is_done.then_some(cache.bytes),
            freed_bytes: is_done.then_some(cache.freed_bytes),
            failure: (!cache.failure.is_empty()).then_some(cache.failure.as_str()),
            told: time(cache.told_ms),
        }
    }
}

impl<'a> From<&'a Usage> for UsageJson<'a> {
    fn from(usage: &'a Usage) -> Self {
        let repositories = usage.repositories.iter().map(|(repository, of)| {
            let known = of.as_ref().ok();
            RepositoryJson {
                repository,
                bytes: known.map(|of| of.bytes),
                tags: known.map(|of| of.tags),
                manifests: known.map(|of| of.manifests),
                is_more: known.is_some_and(|of| of.is_more),
                trouble: of.as_ref().err().map(String::as_str),
            }
        });
        Self {
            workers: usage.caches.iter().map(CacheJson::from).collect(),
            source_bytes: usage.stored.source_bytes,
            output_bytes: usage.stored.output_bytes,
            log_bytes: usage.stored.log_bytes,
            repositories: repositories.collect(),
            repositories_unasked: usage.unasked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(state: &str, bytes: u64, freed_bytes: u64, failure: &str) -> WorkerCache {
        WorkerCache {
            worker: "w1".into(),
            engine: "docker 28".into(),
            state: state.into(),
            bytes,
            freed_bytes,
            failure: failure.into(),
            told_ms: 0,
        }
    }

    #[test]
    fn what_takes_room_is_told_and_what_isnt_known_is_said_to_be_so() {
        let usage = Usage {
            caches: vec![
                cache("done", 3_000_000, 1_000_000, ""),
                cache("asked", 0, 0, ""),
                cache("failed", 0, 0, "it is away\u{1b}"),
            ],
            stored: GetUsageResponse { source_bytes: 5_000, ..Default::default() },
            repositories: vec![
                (
                    "r.example/a".into(),
                    Ok(GetRepositoryUsageResponse {
                        bytes: 7_000_000,
                        tags: 1,
                        manifests: 3,
                        is_more: true,
                        ..Default::default()
                    }),
                ),
                ("r.example/b".into(), Err("it is down".into())),
            ],
            unasked: 2,
        };
        let text = lines(&usage, 0).join("\n");
        for part in [
            "build cache of w1 (docker 28)      3.0 MB  1.0 MB of it not in use",
            "?       its worker hasn't answered yet",
            "it is away",
            "5.0 kB",
            "1 tag, 3 manifests, and more that wasn't counted",
            "r.example/b",
            "it is down",
            "2 repositories more",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn what_was_dropped_is_told_with_what_is_left() {
        let all = [
            cache("done", 9_000, 1_000, ""),
            cache("failed", 0, 0, "it isn't connected"),
            cache("asked", 0, 0, ""),
        ];
        let wet = pruned(&all, false);
        assert_eq!(wet[0], "w1  dropped 1.0 kB of its build cache; 9.0 kB are left");
        assert_eq!(wet[1], "w1  its build cache is as it was: it isn't connected");
        assert!(wet[2].ends_with("hasn't answered yet"));
        assert_eq!(pruned(&all, true)[0], "w1  would drop about 1.0 kB of its build cache; 8.0 kB are left");
    }
}
