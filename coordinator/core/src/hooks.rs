//! What a look at a repository's branches and tags says of deliveries that didn't come: [`missed`].
//!
//! A push counts as seen when a delivery about it got its place among those about its ref (`placed`), or when an earlier look has found
//! the ref there (`listed`). Everything else that moves a ref, or speaks of one (a release, a schedule), says nothing of pushes. What is on
//! its way is left to itself: refs about which a delivery waits, or was read since the look began. What is made up for is judged once
//! more when its turn comes, by where the ref is then; so this errs on the side of once too often.

use std::collections::{BTreeMap, BTreeSet};

use farm_types::{Commit, RefName, Refs};

/// What the farm knows of a ref.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// The newest delivery about it.
    pub sequence: i64,
    /// The commit of the last push that got its place; `None`: none has, or a delivery said since that the ref was deleted.
    pub placed: Option<Commit>,
    /// Where the last look has found it; `None`: a push got its place since.
    pub listed: Option<Commit>,
    /// Looks don't find it any more.
    pub is_gone: bool,
}

impl Head {
    fn has_seen(&self, commit: &Commit) -> bool {
        [&self.placed, &self.listed].into_iter().flatten().any(|seen| seen == commit)
    }
}

/// What a look is held against: as it is when the look comes back, but for `after`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Every ref of which something is known.
    pub heads: BTreeMap<RefName, Head>,
    /// The newest delivery when the look began.
    pub after: i64,
    /// Refs about which deliveries wait for their place.
    pub waiting: BTreeSet<RefName>,
    /// Deliveries wait that nobody has read yet: which refs they are about isn't known.
    pub has_unread: bool,
    /// No look has said anything before.
    pub is_first: bool,
    /// The last name that the look before has told, if there were more; `None`: it has told all.
    pub listed_to: Option<RefName>,
}

/// What a look has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Where refs are, and what was missed.
    Refs(Missed),
    /// That isn't known yet: what came meanwhile has to be read first.
    Later,
    /// It may be another repository.
    Strange,
}

/// Where refs are, and what was missed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missed {
    /// Moves of which no delivery told.
    pub moved: BTreeMap<RefName, Commit>,
    /// Refs that are to be noted where the look has found them; those that moved among them.
    pub noted: BTreeMap<RefName, Commit>,
    /// Refs that aren't there any more, and weren't known to be gone.
    pub gone: BTreeSet<RefName>,
    /// How many refs are left to deliveries that are on their way.
    pub left: usize,
    /// The last name of the list, if there are more.
    pub listed_to: Option<RefName>,
}

/// Holds a look against what was seen.
///
/// Nothing follows from refs that are gone: a list may be empty for reasons of its server's, and one that comes back where it was
/// is no news. Of a list that is cut nothing is known of the names behind its end: those that come into it later are only noted. A list
/// that has nothing at all in common with what was seen, the expected commit neither, is that of another repository
/// that has the name now, and nothing is taken from it.
pub fn missed(seen: &Seen, found: &Refs) -> Found {
    // Also under another name: branches are renamed.
    let known: BTreeSet<&Commit> =
        seen.heads.values().flat_map(|head| [&head.placed, &head.listed]).flatten().collect();
    if !known.is_empty() && !found.has_expected && !found.at.values().any(|commit| known.contains(commit)) {
        return Found::Strange;
    }
    let end = found.at.last_key_value().map(|(name, _)| name).filter(|_| found.is_cut);
    let mut missed = Missed { listed_to: end.cloned(), ..Missed::default() };
    // Where it was nobody knows.
    let is_new_here = |name: &RefName| seen.listed_to.as_ref().is_some_and(|end| name > end);
    for (name, commit) in &found.at {
        let head = seen.heads.get(name);
        let is_on_its_way =
            seen.waiting.contains(name) || head.is_some_and(|head| head.sequence > seen.after);
        if is_on_its_way {
            missed.left += 1;
            continue;
        }
        let has_seen = head.is_some_and(|head| head.has_seen(commit));
        if !has_seen && !seen.is_first && !is_new_here(name) {
            missed.moved.insert(name.clone(), commit.clone());
        }
        if head.is_none_or(|head| head.listed.as_ref() != Some(commit) || head.is_gone) {
            missed.noted.insert(name.clone(), commit.clone());
        }
    }
    if seen.has_unread && (!missed.moved.is_empty() || seen.is_first) {
        return Found::Later;
    }
    // What is behind the end of a list that is cut may be there.
    let is_listed =
        |name: &RefName| !found.is_cut || found.at.last_key_value().is_some_and(|(end, _)| name < end);
    let is_gone = |(name, head): &(&RefName, &Head)| {
        is_listed(name)
            && !head.is_gone
            && head.sequence <= seen.after
            && !found.at.contains_key(*name)
            && !seen.waiting.contains(*name)
    };
    missed.gone = seen.heads.iter().filter(is_gone).map(|(name, _)| name.clone()).collect();
    Found::Refs(missed)
}

#[cfg(test)]
#[path = "hooks_tests.rs"]
mod tests;
