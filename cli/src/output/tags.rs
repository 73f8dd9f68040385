//! The tags of a repository, and what was removed of them, for people and for machines.

use farm_proto::v1::{ListTagsResponse, ListedTag, RemovedImage, TagMove};
use serde::Serialize;

use super::history::from;
use super::text::{ago, columns, count, harmless, short_digest, time};

/// `1.4  sha256:9c1e…0b1c  linux/amd64,linux/arm64  2 h ago  build 7f3k2m  ada  main 1f2e3d4`.
pub fn lines(listed: &ListTagsResponse, now: i64) -> Vec<String> {
    let head = ["TAG", "DIGEST", "PLATFORMS", "MOVED", "BY", "WHO", "FROM"].map(ToOwned::to_owned).to_vec();
    let mut rows = vec![head];
    for one in &listed.tags {
        let moved = one.moved.as_ref();
        let of = |part: fn(&TagMove) -> String| moved.map(part).unwrap_or_default();
        rows.push(vec![
            harmless(&one.tag),
            short_digest(&one.digest),
            what(one),
            moved.map(|moved| ago(moved.moved_ms, now)).unwrap_or_default(),
            of(|moved| harmless(&format!("{} {}", moved.verb, moved.build_id))),
            of(|moved| harmless(&moved.created_by)),
            of(from),
        ]);
    }
    let mut out = columns(&rows);
    let shown = listed.tags.len();
    let all = number(listed.count);
    if all > shown {
        out.push(format!("{shown} of {}; -n N shows more", count(all, "tag")));
    }
    out
}

/// The platforms, or what stands in their place.
fn what(one: &ListedTag) -> String {
    if !one.trouble.is_empty() {
        return format!("? {}", harmless(&one.trouble));
    }
    if one.platforms.is_empty() { "-".to_owned() } else { harmless(&one.platforms.join(",")) }
}

/// What `farm ls --json` prints.
#[derive(Debug, Serialize)]
pub struct TagsJson<'a> {
    repository: &'a str,
    count: u32,
    tags: Vec<TagJson<'a>>,
}

/// One tag.
#[derive(Debug, Serialize)]
struct TagJson<'a> {
    tag: &'a str,
    digest: &'a str,
    media_type: Option<&'a str>,
    platforms: &'a [String],
    trouble: Option<&'a str>,
    build: Option<&'a str>,
    created_by: Option<&'a str>,
    verb: Option<&'a str>,
    copied_from: Option<&'a str>,
    commit: Option<&'a str>,
    archive: Option<&'a str>,
    moved: Option<String>,
}

fn number(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn known(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

impl<'a> From<&'a ListTagsResponse> for TagsJson<'a> {
    fn from(listed: &'a ListTagsResponse) -> Self {
        let tags = listed.tags.iter().map(TagJson::from).collect();
        Self { repository: &listed.repository, count: listed.count, tags }
    }
}

impl<'a> From<&'a ListedTag> for TagJson<'a> {
    fn from(one: &'a ListedTag) -> Self {
        let moved = one.moved.as_ref();
        Self {
            tag: &one.tag,
            digest: &one.digest,
            media_type: known(&one.media_type),
            platforms: &one.platforms,
            trouble: known(&one.trouble),
            build: moved.map(|moved| moved.build_id.as_str()),
            created_by: moved.map(|moved| moved.created_by.as_str()),
            verb: moved.map(|moved| moved.verb.as_str()),
            copied_from: moved.and_then(|moved| known(&moved.copied_from)),
            commit: moved.and_then(|moved| known(&moved.git.as_ref()?.commit)),
            archive: moved.and_then(|moved| known(&moved.archive.as_ref()?.url)),
            moved: moved.and_then(|moved| time(moved.moved_ms)),
        }
    }
}

/// What became of what was named in one repository.
#[derive(Debug, Clone, Default)]
pub struct Removed {
    /// Where.
    pub repository: String,
    /// Manifests and tags that are gone, or would be.
    pub images: Vec<RemovedImage>,
    /// So many manifests that these listed as well.
    pub below: u32,
    /// So many of them are left.
    pub left: u32,
    /// Why not all is gone; empty: it is.
    pub trouble: String,
}

/// `removed r.example/app:1, r.example/app:old (sha256:9c1e…0b1c)`.
pub fn removed(all: &[Removed], is_dry: bool) -> Vec<String> {
    let verb = if is_dry { "would remove" } else { "removed" };
    let mut out = Vec::new();
    for one in all {
        let at = harmless(&one.repository);
        for image in &one.images {
            let digest = short_digest(&image.digest);
            let tags: Vec<String> = image.tags.iter().map(|tag| format!("{at}:{}", harmless(tag))).collect();
            let kept = harmless(&image.kept_for);
            out.push(match (tags.as_slice(), kept.as_str()) {
                ([], _) => format!("{verb} {at}@{}", harmless(&image.digest)),
                (tags, "") => format!("{verb} {} ({digest})", tags.join(", ")),
                (tags, kept) => format!("{verb} {} alone: {digest} stays, as {kept}", tags.join(", ")),
            });
        }
        if one.below > 0 {
            let images = count(number(one.below), "manifest");
            out.push(format!("{verb} {images} that nothing else in {at} lists"));
        }
        if one.left > 0 {
            let left = count(number(one.left), "manifest");
            out.push(format!("{left} of it stay in {at}, as builds are under way that may need them"));
        }
        if !one.trouble.is_empty() {
            out.push(format!("the rest is still there: {}", harmless(&one.trouble)));
        }
    }
    out
}

/// What `farm rm --json` prints.
#[derive(Debug, Serialize)]
pub struct RemovedJson<'a> {
    dry_run: bool,
    freed_bytes: Option<u64>,
    repositories: Vec<OfRepositoryJson<'a>>,
}

#[derive(Debug, Serialize)]
struct OfRepositoryJson<'a> {
    repository: &'a str,
    removed: Vec<ImageJson<'a>>,
    below: u32,
    left: u32,
    trouble: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct ImageJson<'a> {
    digest: &'a str,
    tags: &'a [String],
    kept_for: Option<&'a str>,
}

impl<'a> RemovedJson<'a> {
    /// Of all repositories; with what is freed by that, if it is known.
    pub fn new(all: &'a [Removed], dry_run: bool, freed_bytes: Option<u64>) -> Self {
        let image = |image: &'a RemovedImage| ImageJson {
            digest: &image.digest,
            tags: &image.tags,
            kept_for: known(&image.kept_for),
        };
        let repositories = all.iter().map(|one| OfRepositoryJson {
            repository: &one.repository,
            removed: one.images.iter().map(image).collect(),
            below: one.below,
            left: one.left,
            trouble: known(&one.trouble),
        });
        Self { dry_run, freed_bytes, repositories: repositories.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_shown_with_what_is_known_of_it() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let tag = |name: &str| ListedTag { tag: name.into(), digest: digest.clone(), ..Default::default() };
        let moved = TagMove {
            verb: "build".into(),
            build_id: "7f3k2m".into(),
            created_by: "ada".into(),
            ..Default::default()
        };
        let listed = ListTagsResponse {
            repository: "r.example/app".into(),
            tags: vec![
                ListedTag { platforms: vec!["linux/amd64".into()], moved: Some(moved), ..tag("1") },
                ListedTag { trouble: "it is odd\u{1b}".into(), ..tag("2") },
                tag("chart"),
            ],
            count: 12,
        };
        let lines = lines(&listed, 0);
        assert!(lines[1].contains("linux/amd64") && lines[1].contains("build 7f3k2m  ada"), "{lines:#?}");
        assert!(lines[2].contains("? it is odd") && !lines[2].contains('\u{1b}'), "{lines:#?}");
        assert!(lines[3].ends_with('-'), "{lines:#?}");
        assert_eq!(lines[4], "3 of 12 tags; -n N shows more");
    }

    #[test]
    fn what_was_removed_is_told_with_what_stays_and_why() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let image = |tags: &[&str], kept: &str| RemovedImage {
            digest: digest.clone(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            kept_for: kept.to_owned(),
        };
        let all = [Removed {
            repository: "r.example/app".into(),
            images: vec![image(&["1", "old"], ""), image(&["b"], "r.example/app:2 lists it"), image(&[], "")],
            below: 1,
            left: 2,
            trouble: "it is down".into(),
        }];
        let lines = removed(&all, false);
        assert_eq!(lines[0], "removed r.example/app:1, r.example/app:old (sha256:aaaa…aaaa)");
        assert!(
            lines[1].contains("r.example/app:b alone") && lines[1].ends_with("as r.example/app:2 lists it")
        );
        assert_eq!(lines[2], format!("removed r.example/app@{digest}"));
        assert_eq!(lines[3], "removed 1 manifest that nothing else in r.example/app lists");
        assert!(lines[4].starts_with("2 manifests of it stay"));
        assert_eq!(lines[5], "the rest is still there: it is down");
        assert!(removed(&all, true)[0].starts_with("would remove r.example/app:1"));
    }
}
