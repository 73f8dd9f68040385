//! What a tag has pointed to, for people and for machines.

use farm_proto::v1::{GetTagHistoryResponse, TagMove, TagRemoval};
use serde::Serialize;

use super::text::{ago, columns, harmless, short_digest, time};

/// `3  2 h ago  sha256:9c1e77aa0b1c  linux/amd64,linux/arm64  build 7f3k2m by ada  main 1f2e3d4`, the newest first.
pub fn lines(history: &GetTagHistoryResponse, now: i64) -> Vec<String> {
    let head = ["N", "MOVED", "TO", "PLATFORMS", "BY", "WHO", "FROM"].map(ToOwned::to_owned).to_vec();
    let mut rows = vec![head];
    let current = Some(&history.current_digest).filter(|digest| !digest.is_empty());
    let mut is_marked = false;
    let mut newer: Option<&TagMove> = None;
    let mut removals = history.removals.iter().peekable();
    for one in &history.moves {
        let is_after = |removal: &&TagRemoval| removal.removed_ms >= one.moved_ms;
        let mut is_removed = false;
        while let Some(removal) = removals.next_if(is_after) {
            rows.push(removed(removal, now));
            is_removed = true;
        }
        // What the newer one has found there farm hasn't put there.
        let found = newer.map(|newer| &newer.previous_digest).filter(|found| **found != one.digest);
        if let Some(found) = found.filter(|found| !(is_removed && found.is_empty())) {
            rows.push(elsewhere(found));
        }
        let is_current = !is_marked && current == Some(&one.digest);
        is_marked |= is_current;
        let mark = if is_current { "*" } else { "" };
        rows.push(vec![
            format!("{}{mark}", one.number),
            ago(one.moved_ms, now),
            short_digest(&one.digest),
            harmless(&one.platforms.join(",")),
            harmless(&format!("{} {}", one.verb, one.build_id)),
            harmless(&one.created_by),
            from(one),
        ]);
        newer = Some(one);
    }
    rows.extend(removals.map(|removal| removed(removal, now)));
    let mut out = columns(&rows);
    let tag = harmless(&history.reference);
    out.push(match (current, is_marked) {
        (Some(_), true) => format!("* is what {tag} points to"),
        (Some(digest), false) => {
            format!("{tag} points to {}, where somebody else has moved it", harmless(digest))
        }
        (None, _) if !history.trouble.is_empty() => {
            format!("to what {tag} points now can't be told: {}", harmless(&history.trouble))
        }
        (None, _) => format!("{tag} isn't there any more"),
    });
    out
}

/// Between two moves of farm's somebody else has moved, or removed, the tag.
fn elsewhere(found: &str) -> Vec<String> {
    let what = if found.is_empty() { "(removed)".to_owned() } else { short_digest(found) };
    vec!["-".to_owned(), String::new(), what, String::new(), "by others".to_owned()]
}

/// Somebody has had the farm remove it.
fn removed(removal: &TagRemoval, now: i64) -> Vec<String> {
    let (who, was) = (harmless(&removal.removed_by), short_digest(&removal.digest));
    let row = ["-".to_owned(), ago(removal.removed_ms, now), "(removed)".to_owned(), String::new()];
    row.into_iter().chain(["rm".to_owned(), who, format!("was {was}")]).collect()
}

/// Where a move's image is from, in short.
pub(super) fn from(one: &TagMove) -> String {
    let text = match (&one.git, &one.archive) {
        (Some(git), _) => {
            let at = git.r#ref.trim_start_matches("refs/heads/").trim_start_matches("refs/tags/");
            let commit: String = git.commit.chars().take(7).collect();
            format!("{at} {commit}").trim_start().to_owned()
        }
        (None, Some(archive)) => archive.url.clone(),
        (None, None) => one.copied_from.clone(),
    };
    harmless(&text)
}

/// The history of a tag.
#[derive(Debug, Serialize)]
pub struct HistoryJson {
    /// The tag with its registry and repository.
    pub reference: String,
    /// To what it points now; null: it isn't there, or the registry doesn't say it.
    pub current_digest: Option<String>,
    /// Why the registry doesn't say it.
    pub trouble: Option<String>,
    /// The newest first.
    pub moves: Vec<MoveJson>,
    /// When it was removed, the newest first.
    pub removals: Vec<RemovalJson>,
}

/// One removal of a tag.
#[derive(Debug, Serialize)]
pub struct RemovalJson {
    /// To what it pointed.
    pub digest: String,
    /// Who has asked for it.
    pub removed_by: String,
    /// When.
    pub removed: Option<String>,
}

/// One move of a tag.
#[derive(Debug, Serialize)]
pub struct MoveJson {
    /// Of this tag, from 1.
    pub number: u64,
    /// To what.
    pub digest: String,
    /// Of which type that is.
    pub media_type: String,
    /// From what; null: it wasn't there.
    pub previous_digest: Option<String>,
    /// As the index says; none of a manifest alone.
    pub platforms: Vec<String>,
    /// The build, which may be removed by now.
    pub build: String,
    /// Who has asked for it.
    pub created_by: String,
    /// build, copy, promote, mirror, tag or rollback.
    pub verb: String,
    /// Of a copy: the image as it was named.
    pub copied_from: Option<String>,
    /// The commit of the build's context.
    pub commit: Option<String>,
    /// The archive of the build's context.
    pub archive: Option<String>,
    /// When.
    pub moved: Option<String>,
}

impl From<&GetTagHistoryResponse> for HistoryJson {
    fn from(history: &GetTagHistoryResponse) -> Self {
        let known = |text: &String| (!text.is_empty()).then(|| text.clone());
        let moves = history.moves.iter().map(|one| MoveJson {
            number: one.number,
            digest: one.digest.clone(),
            media_type: one.media_type.clone(),
            previous_digest: known(&one.previous_digest),
            platforms: one.platforms.clone(),
            build: one.build_id.clone(),
            created_by: one.created_by.clone(),
            verb: one.verb.clone(),
            copied_from: known(&one.copied_from),
            archive: one.archive.as_ref().and_then(|archive| known(&archive.url)),
            commit: one.git.as_ref().and_then(|git| known(&git.commit)),
            moved: time(one.moved_ms),
        });
        Self {
            reference: history.reference.clone(),
            current_digest: known(&history.current_digest),
            trouble: known(&history.trouble),
            moves: moves.collect(),
            removals: history.removals.iter().map(RemovalJson::from).collect(),
        }
    }
}

impl From<&TagRemoval> for RemovalJson {
    fn from(removal: &TagRemoval) -> Self {
        Self {
            digest: removal.digest.clone(),
            removed_by: removal.removed_by.clone(),
            removed: time(removal.removed_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(number: u64, to: &str, from: &str) -> TagMove {
        TagMove {
            number,
            digest: format!("sha256:{}", to.repeat(64)),
            previous_digest: if from.is_empty() {
                String::new()
            } else {
                format!("sha256:{}", from.repeat(64))
            },
            build_id: format!("7f3k2{number}"),
            verb: "build".into(),
            created_by: "ada".into(),
            ..Default::default()
        }
    }

    #[test]
    fn what_others_have_done_in_between_is_said_and_what_it_is_now_is_marked() {
        let mut history = GetTagHistoryResponse {
            reference: "r.example/app:1".into(),
            moves: vec![moved(3, "c", "e"), moved(2, "b", "a"), moved(1, "a", "")],
            current_digest: format!("sha256:{}", "c".repeat(64)),
            ..Default::default()
        };
        let text = lines(&history, 0).join("\n");
        let places =
            ["3*", "sha256:eeee", "by others", "build 7f3k22", "* is what r.example/app:1 points to"];
        let places: Vec<_> =
            places.iter().map(|part| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"))).collect();
        assert!(places.is_sorted(), "{text}");
        assert_eq!(text.matches("by others").count(), 1, "{text}");
        history.current_digest = format!("sha256:{}", "f".repeat(64));
        assert!(lines(&history, 0).last().unwrap().contains("somebody else has moved it"));
        history.current_digest.clear();
        assert!(lines(&history, 0).last().unwrap().contains("isn't there any more"));
        history.trouble = "it is down".into();
        assert!(lines(&history, 0).last().unwrap().contains("can't be told: it is down"));
    }

    #[test]
    fn who_has_removed_a_tag_is_said_in_its_place() {
        let removal = |ms, of: &str| TagRemoval {
            digest: format!("sha256:{}", of.repeat(64)),
            removed_by: "bob".into(),
            removed_ms: ms,
        };
        let at = |ms, one| TagMove { moved_ms: ms, ..one };
        let mut history = GetTagHistoryResponse {
            reference: "r.example/app:1".into(),
            moves: vec![at(30, moved(2, "a", "")), at(10, moved(1, "a", ""))],
            removals: vec![removal(40, "a"), removal(20, "a")],
            ..Default::default()
        };
        let text = lines(&history, 50);
        let starts: Vec<&str> = text.iter().skip(1).map(|line| &line[..1]).collect();
        assert_eq!(starts, ["-", "2", "-", "1", "r"], "{text:#?}");
        assert!(text[1].contains("(removed)") && text[1].contains("rm            bob"), "{text:#?}");
        assert!(!text.join("\n").contains("by others"), "{text:#?}");
        // Without it, others have.
        history.removals.truncate(1);
        assert!(lines(&history, 50)[3].contains("by others"));
        history.moves.clear();
        assert_eq!(lines(&history, 50).len(), 3);
    }
}
