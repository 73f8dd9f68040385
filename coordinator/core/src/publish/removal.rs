//! What goes when tags are removed from a repository, and what has to stay.
//!
//! A registry removes a manifest by its digest, with every tag that points to it; some remove a tag alone, by its name. So a manifest
//! goes by its digest only if nothing needs it: no other tag, no index that another tag still reaches, no build under way.
//!
//! Invariant: nothing that a remaining tag reaches is ever removed, whatever was asked for.

use std::collections::{BTreeMap, BTreeSet};

use farm_types::Digest;

/// What a repository holds, as far as its tags reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// To what each tag points.
    pub heads: BTreeMap<String, Digest>,
    /// What each index lists; a manifest that isn't here lists nothing.
    pub lists: BTreeMap<Digest, Vec<Digest>>,
}

/// What is to be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// These tags; each is there.
    pub tags: BTreeSet<String>,
    /// These manifests.
    pub digests: BTreeSet<Digest>,
}

/// What builds that are under way need in the repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InUse {
    /// Something is being pushed there: any image may be what it is about to find.
    pub is_busy: bool,
    /// These, with what they list.
    pub digests: BTreeSet<Digest>,
}

/// What a manifest stays for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// This tag points to it.
    Tag(String),
    /// What this tag points to lists it.
    Listed(String),
    /// A build that is under way.
    Build,
}

/// What is done to remove what was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// These tags go by their names, as what they point to stays; and why that is.
    pub names: Vec<(String, Digest, Need)>,
    /// These manifests go, each with its tags.
    pub manifests: Vec<(Digest, Vec<String>)>,
    /// What these list goes after them, as nothing else needs it.
    pub below: Vec<Digest>,
    /// Of what they list so much stays only since builds are under way.
    pub left: usize,
}

impl Held {
    /// All that these reach, themselves included.
    pub fn reached(&self, from: impl IntoIterator<Item = Digest>) -> BTreeSet<Digest> {
        let mut reached = BTreeSet::new();
        let mut ways: Vec<Digest> = from.into_iter().collect();
        while let Some(digest) = ways.pop() {
            if reached.insert(digest) {
                ways.extend(self.lists.get(&digest).into_iter().flatten());
            }
        }
        reached
    }

    /// The tag, of those that are not in `but`, for which a manifest has to stay.
    fn needed(&self, digest: Digest, but: &BTreeSet<String>) -> Option<Need> {
        let mut others = self.heads.iter().filter(|(tag, _)| !but.contains(*tag));
        if let Some((tag, _)) = others.clone().find(|(_, head)| **head == digest) {
            return Some(Need::Tag(tag.clone()));
        }
        let (tag, _) = others.find(|(_, head)| self.reached([**head]).contains(&digest))?;
        Some(Need::Listed(tag.clone()))
    }

    /// How what is wanted is removed.
    ///
    /// # Errors
    /// A manifest was named that has to stay, and for what.
    pub fn removal(&self, wanted: &Wanted, in_use: &InUse) -> Result<Removal, (Digest, Need)> {
        let but = &wanted.tags;
        let live =
            self.reached(self.heads.iter().filter(|(tag, _)| !but.contains(*tag)).map(|(_, head)| *head));
        let used = self.reached(in_use.digests.iter().copied());
        // Who is about to publish may find any of it there, and of the same images makes the same index.
        let lists_used =
            |digest: &Digest| self.lists.get(digest).into_iter().flatten().any(|child| used.contains(child));
        let is_used = |digest: &Digest| in_use.is_busy || used.contains(digest) || lists_used(digest);
        let need = |digest: Digest| {
            let by_tag = live.contains(&digest).then(|| self.needed(digest, but)).flatten();
            by_tag.or_else(|| is_used(&digest).then_some(Need::Build))
        };
        let mut removal = Removal::default();
        let mut gone: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for digest in &wanted.digests {
            match need(*digest) {
                Some(need) => return Err((*digest, need)),
                None => drop(gone.entry(*digest).or_default()),
            }
        }
        for (tag, head) in self.heads.iter().filter(|(tag, _)| but.contains(*tag)) {
            match need(*head) {
                Some(need) => removal.names.push((tag.clone(), *head, need)),
                None => gone.entry(*head).or_default().push(tag.clone()),
            }
        }
        let below = self.reached(gone.keys().copied()).into_iter();
        let below = below.filter(|digest| !gone.contains_key(digest) && !live.contains(digest));
        let (left, below): (Vec<Digest>, Vec<Digest>) = below.partition(|digest| is_used(digest));
        removal.left = left.len();
        removal.below = below;
        removal.manifests = gone.into_iter().collect();
        Ok(removal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(what: &str) -> Digest {
        Digest::of(what.as_bytes())
    }

    /// `1` is of a and b, `2` of b and c, `b` is b itself, `old` is what 1 is.
    fn held() -> Held {
        let head = |tag: &str, what: &str| (tag.to_owned(), of(what));
        let lists = |what: &str, of_these: &[&str]| (of(what), of_these.iter().map(|one| of(one)).collect());
        Held {
            heads: [head("1", "one"), head("old", "one"), head("2", "two"), head("b", "b"), head("x", "x")]
                .into(),
            lists: [lists("one", &["a", "b"]), lists("two", &["b", "c"])].into(),
        }
    }

    fn wanted(tags: &[&str], digests: &[&str]) -> Wanted {
        Wanted {
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            digests: digests.iter().map(|what| of(what)).collect(),
        }
    }

    fn planned(tags: &[&str], digests: &[&str]) -> Result<Removal, (Digest, Need)> {
        held().removal(&wanted(tags, digests), &InUse::default())
    }

    fn sorted(what: &[&str]) -> Vec<Digest> {
        let all: BTreeSet<Digest> = what.iter().map(|one| of(one)).collect();
        all.into_iter().collect()
    }

    #[test]
    fn a_manifest_goes_with_what_it_lists_unless_another_tag_reaches_it() {
        let both = planned(&["1", "old"], &[]).unwrap();
        assert_eq!(both.manifests, [(of("one"), vec!["1".to_owned(), "old".to_owned()])]);
        assert_eq!(both.below, sorted(&["a"]), "b is listed by 2, and has a tag");
        assert!(both.names.is_empty());
        let all = planned(&["1", "old", "2", "b"], &[]).unwrap();
        assert_eq!(all.below, sorted(&["a", "c"]), "b goes as itself");
        assert_eq!(
            all.manifests.iter().map(|(digest, _)| *digest).collect::<Vec<_>>(),
            sorted(&["one", "two", "b"])
        );
    }

    #[test]
    fn a_tag_of_what_something_else_needs_goes_by_its_name_alone() {
        let one = planned(&["1"], &[]).unwrap();
        assert_eq!(one.names, [("1".to_owned(), of("one"), Need::Tag("old".into()))]);
        assert!(one.manifests.is_empty() && one.below.is_empty());
        let listed = planned(&["b"], &[]).unwrap();
        assert_eq!(listed.names, [("b".to_owned(), of("b"), Need::Listed("1".into()))]);
    }

    #[test]
    fn what_a_live_index_reaches_is_refused_by_its_digest() {
        assert_eq!(planned(&[], &["a"]), Err((of("a"), Need::Listed("1".into()))));
        assert_eq!(planned(&["b"], &["b"]), Err((of("b"), Need::Listed("1".into()))));
        assert_eq!(planned(&["1"], &["one"]), Err((of("one"), Need::Tag("old".into()))));
        // With all that reaches it, it may.
        let with_all = planned(&["1", "old"], &["one", "a"]).unwrap();
        assert_eq!(with_all.manifests.len(), 2);
        assert_eq!(planned(&[], &["nowhere"]).unwrap().manifests, [(of("nowhere"), vec![])]);
    }

    #[test]
    fn an_index_of_indexes_and_one_that_lists_itself_are_gone_through_once() {
        let mut held = held();
        held.heads.insert("deep".into(), of("deep"));
        held.lists.insert(of("deep"), vec![of("inner"), of("deep")]);
        held.lists.insert(of("inner"), vec![of("x")]);
        assert_eq!(
            held.reached([of("deep")]).into_iter().collect::<Vec<_>>(),
            sorted(&["deep", "inner", "x"])
        );
        let removal = held.removal(&wanted(&["x"], &[]), &InUse::default()).unwrap();
        assert_eq!(removal.names, [("x".to_owned(), of("x"), Need::Listed("deep".into()))]);
    }

    #[test]
    fn what_builds_under_way_may_need_stays() {
        let busy = InUse { is_busy: true, digests: BTreeSet::new() };
        let removal = held().removal(&wanted(&["1", "old", "x"], &[]), &busy).unwrap();
        assert_eq!(removal.names.len(), 3, "all of it may be looked for, or made once more");
        assert!(removal.names.iter().all(|(_, _, need)| *need == Need::Build));
        assert_eq!((removal.manifests.len(), removal.below.len(), removal.left), (0, 0, 0));
        let used = InUse { is_busy: false, digests: [of("one")].into() };
        let removal = held().removal(&wanted(&["1", "old"], &[]), &used).unwrap();
        assert_eq!(removal.names.len(), 2);
        assert!(removal.manifests.is_empty() && removal.below.is_empty());
        assert_eq!(held().removal(&wanted(&[], &["one"]), &used).unwrap_err().0, of("one"));
        let child = InUse { is_busy: false, digests: [of("a")].into() };
        let removal = held().removal(&wanted(&["1", "old"], &[]), &child).unwrap();
        assert_eq!(removal.names.len(), 2, "an index that a build is about to make once more stays");
        assert_eq!((removal.manifests.len(), removal.below), (0, vec![]));
    }
}
