//! Which tags of a repository go by the rules that keep some. Pure.
//!
//! Invariant: a tag goes only if it is known when the farm put it there, nobody has put something else there since, no rule keeps it, and
//! no tag that stays points to the same image: that one would keep the image, so that nothing would come of it.

use std::collections::{BTreeMap, BTreeSet};

use farm_proto::v1::ListedTag;
use farm_types::TagPattern;

/// What keeps tags.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// So many of the newest, of those that no pattern keeps.
    pub last: Option<usize>,
    /// Those that one of these stands for.
    pub patterns: Vec<TagPattern>,
    /// Those that were put after this, milliseconds since 1970.
    pub younger_than: Option<i64>,
}

/// Tags that go, by the image that they point to: the one that was put first goes first.
pub fn chosen(tags: &[ListedTag], rules: &Rules) -> Vec<Vec<String>> {
    let mut known: Vec<(i64, &ListedTag)> = Vec::new();
    let mut stay: BTreeSet<&str> = BTreeSet::new();
    for tag in tags {
        let is_kept = rules.patterns.iter().any(|pattern| pattern.covers(&tag.tag));
        match &tag.moved {
            Some(moved) if !is_kept => known.push((moved.moved_ms, tag)),
            _ => drop(stay.insert(&tag.digest)),
        }
    }
    known.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.tag.cmp(&other.tag)));
    let mut go: BTreeMap<&str, (i64, Vec<String>)> = BTreeMap::new();
    for (place, (moved, tag)) in known.into_iter().enumerate() {
        let is_last = rules.last.is_some_and(|last| place < last);
        let is_young = rules.younger_than.is_some_and(|after| moved > after);
        if is_last || is_young {
            stay.insert(&tag.digest);
        } else {
            let (first, names) = go.entry(&tag.digest).or_insert((moved, Vec::new()));
            *first = moved.min(*first);
            names.push(tag.tag.clone());
        }
    }
    let mut chosen: Vec<(i64, Vec<String>)> =
        go.into_iter().filter(|(digest, _)| !stay.contains(digest)).map(|(_, names)| names).collect();
    chosen.sort();
    chosen.into_iter().map(|(_, names)| names).collect()
}

#[cfg(test)]
mod tests {
    use farm_proto::v1::TagMove;

    use super::*;

    fn tag(name: &str, digest: &str, moved_ms: i64) -> ListedTag {
        let moved = (moved_ms > 0).then(|| TagMove { moved_ms, ..TagMove::default() });
        ListedTag { tag: name.into(), digest: digest.into(), moved, ..ListedTag::default() }
    }

    /// `pr-1` to `pr-5` by age, `v1` is pr-2's image, `latest` is pr-5's, `theirs` is somebody else's.
    fn tags() -> Vec<ListedTag> {
        vec![
            tag("latest", "e", 50),
            tag("pr-5", "e", 50),
            tag("pr-4", "d", 40),
            tag("pr-3", "c", 30),
            tag("pr-2", "b", 20),
            tag("v1", "b", 25),
            tag("pr-1", "a", 10),
            tag("theirs", "f", 0),
        ]
    }

    fn of(last: Option<usize>, patterns: &[&str], younger_than: Option<i64>) -> Vec<Vec<String>> {
        let patterns = patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
        chosen(&tags(), &Rules { last, patterns, younger_than })
    }

    #[test]
    fn the_newest_and_those_that_a_pattern_keeps_stay_with_their_images() {
        assert_eq!(of(Some(1), &["latest", "v*"], None), [["pr-1"], ["pr-3"], ["pr-4"]]);
        assert_eq!(of(Some(0), &["latest", "v*"], None), [["pr-1"], ["pr-3"], ["pr-4"]], "pr-5 is latest");
        assert_eq!(of(Some(3), &["v*"], None), [["pr-1"], ["pr-3"]]);
        assert_eq!(
            of(Some(0), &["latest"], Some(22)),
            [["pr-1"]],
            "v1 is younger than its image's first tag"
        );
        assert_eq!(of(None, &[], Some(28)), [vec!["pr-1".to_owned()], vec!["v1".into(), "pr-2".into()]]);
        assert!(of(Some(100), &[], None).is_empty());
        assert!(of(Some(0), &["*"], None).is_empty());
    }

    #[test]
    fn what_others_have_put_stays() {
        let all: Vec<String> = of(Some(0), &[], None).into_iter().flatten().collect();
        assert_eq!(all.len(), 7);
        assert!(!all.contains(&"theirs".to_owned()));
    }
}
