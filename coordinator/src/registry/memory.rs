//! What this process has seen of manifests, so that it asks for nothing twice that can't have changed.
//!
//! Two kinds of knowledge, which must not be taken for each other. What an image's manifest and config say is true for ever, as they are
//! named by their digests ([`Memory::child`]). That a manifest is in a repository was true when it was seen there ([`Memory::saw`]): somebody
//! may have removed it since, so whoever relies on it says how old the sight may be. What the farm itself removes is forgotten at once.
//!
//! What a registry can do ([`Memory::lists_none`]) is asked once a day: it may have been updated since. It is asked for each repository:
//! one that isn't there, or that a login can't see, says nothing of others.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use farm_types::{Digest, Platform, Repository};
use uuid::Uuid;

use super::image::Pushed;

/// So many images are remembered, each with a manifest of so many bytes at most.
const MOST_CHILDREN: usize = 256;
const LONGEST: usize = 64 * 1024;
/// So many sights are.
const MOST_SIGHTS: usize = 20_000;

/// So long a registry's abilities are taken for what they were, and in so many repositories.
const A_DAY: Duration = Duration::from_secs(24 * 3600);
const MOST_LISTLESS: usize = 10_000;

/// In which repository, what, and for which platform.
type OfChild = (String, Digest, Platform);
/// By which login (`None`: the farm's), in which repository, what.
type OfSight = (Option<Uuid>, String, Digest);

/// See above.
#[derive(Debug, Default)]
pub(super) struct Memory {
    children: Mutex<HashMap<OfChild, (Pushed, Instant)>>,
    sights: Mutex<HashMap<OfSight, Instant>>,
    /// Repositories whose registry lists no referrers, and since when that is known.
    listless: Mutex<HashMap<String, Instant>>,
}

impl Memory {
    /// Whether a registry has said within a day that it lists no referrers of any image of a repository.
    pub(super) fn lists_none(&self, repository: &Repository) -> bool {
        let all = self.listless.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&repository.to_string()).is_some_and(|at| at.elapsed() < A_DAY)
    }

    /// It says so, or it does list them.
    pub(super) fn note_lists(&self, repository: &Repository, lists: bool) {
        let name = repository.to_string();
        let mut all = self.listless.lock().unwrap_or_else(PoisonError::into_inner);
        if lists {
            all.remove(&name);
            return;
        }
        if all.len() >= MOST_LISTLESS {
            all.clear();
        }
        all.insert(name, Instant::now());
    }

    /// An image that was read before.
    pub(super) fn child(
        &self,
        repository: &Repository,
        digest: Digest,
        platform: &Platform,
    ) -> Option<Pushed> {
        let mut all = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let (pushed, used) = all.get_mut(&(repository.to_string(), digest, platform.clone()))?;
        *used = Instant::now();
        Some(pushed.clone())
    }

    /// Remembers an image that was read; in the place of the one that was used least lately.
    pub(super) fn keep(&self, repository: &Repository, digest: Digest, pushed: &Pushed) {
        if pushed.image.bytes.len() > LONGEST {
            return;
        }
        let mut all = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_CHILDREN
            && let Some(oldest) = all.iter().min_by_key(|(_, (_, used))| *used).map(|(of, _)| of.clone())
        {
            all.remove(&oldest);
        }
        let of = (repository.to_string(), digest, pushed.child.platform.clone());
        all.insert(of, (pushed.clone(), Instant::now()));
    }

    /// A manifest is in a repository.
    pub(super) fn see(&self, of: Option<Uuid>, repository: &Repository, digest: Digest) {
        let mut all = self.sights.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_SIGHTS {
            all.clear();
        }
        all.insert((of, repository.to_string(), digest), Instant::now());
    }

    /// Whether it was seen there within so long.
    pub(super) fn saw(
        &self,
        of: Option<Uuid>,
        repository: &Repository,
        digest: Digest,
        within: Duration,
    ) -> bool {
        let all = self.sights.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&(of, repository.to_string(), digest)).is_some_and(|at| at.elapsed() <= within)
    }

    /// It may not be there any more.
    pub(super) fn forget(&self, repository: &Repository) {
        let name = repository.to_string();
        self.sights.lock().unwrap_or_else(PoisonError::into_inner).retain(|(_, of, _), _| *of != name);
        self.children.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, ..), _| *of != name);
    }
}

#[cfg(test)]
mod tests {
    use farm_core::publish::{Child, Descriptor, OCI_MANIFEST, System};

    use super::*;
    use crate::registry::Manifest;

    fn pushed(bytes: Vec<u8>) -> (Digest, Pushed) {
        let digest = Digest::of(&bytes);
        let manifest = Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest,
            size: 1,
            platform: None,
            annotations: Default::default(),
        };
        let child = Child {
            platform: "linux/amd64".parse().unwrap(),
            manifest,
            annotations: Default::default(),
            system: System::default(),
            attestations: Vec::new(),
        };
        (digest, Pushed { child, image: Manifest { bytes, media_type: OCI_MANIFEST.to_owned() }, bytes: 1 })
    }

    #[test]
    fn what_was_read_is_known_and_the_longest_unused_makes_room() {
        let (memory, at): (_, Repository) = (Memory::default(), "r.example/a".parse().unwrap());
        let platform: Platform = "linux/amd64".parse().unwrap();
        let (first, one) = pushed(b"first".to_vec());
        memory.keep(&at, first, &one);
        let (second, other) = pushed(b"second".to_vec());
        memory.keep(&at, second, &other);
        for n in 0..MOST_CHILDREN - 2 {
            let (digest, one) = pushed(n.to_string().into_bytes());
            memory.keep(&at, digest, &one);
        }
        assert_eq!(memory.child(&at, first, &platform).unwrap().image.bytes, b"first");
        let (last, one) = pushed(b"last".to_vec());
        memory.keep(&at, last, &one);
        assert!(
            memory.child(&at, first, &platform).is_some() && memory.child(&at, last, &platform).is_some()
        );
        assert!(memory.child(&at, second, &platform).is_none());
        assert!(memory.child(&"r.example/b".parse().unwrap(), first, &platform).is_none());
        assert!(memory.child(&at, first, &"linux/arm64".parse().unwrap()).is_none());
        let (long, one) = pushed(vec![b'x'; LONGEST + 1]);
        memory.keep(&at, long, &one);
        assert!(memory.child(&at, long, &platform).is_none());
    }

    #[test]
    fn that_a_registry_lists_nothing_is_known_until_it_does() {
        let memory = Memory::default();
        let [a, b]: [Repository; 2] = ["r.example/a", "r.example/b"].map(|text| text.parse().unwrap());
        assert!(!memory.lists_none(&a));
        memory.note_lists(&a, false);
        assert!(memory.lists_none(&a) && !memory.lists_none(&b));
        memory.note_lists(&a, true);
        assert!(!memory.lists_none(&a));
    }

    #[test]
    fn a_sight_grows_old_and_ends_with_a_removal() {
        let (memory, digest) = (Memory::default(), Digest::of(b"x"));
        let [a, b]: [Repository; 2] = ["r.example/a", "r.example/b"].map(|text| text.parse().unwrap());
        let long = Duration::from_secs(60);
        let own = Some(Uuid::from_u128(1));
        assert!(!memory.saw(None, &a, digest, long));
        memory.see(None, &a, digest);
        memory.see(None, &b, digest);
        assert!(memory.saw(None, &a, digest, long) && !memory.saw(own, &a, digest, long));
        assert!(!memory.saw(None, &a, digest, Duration::ZERO));
        memory.forget(&a);
        assert!(!memory.saw(None, &a, digest, long) && memory.saw(None, &b, digest, long));
    }
}
