//! What is known of what everybody may read, for all solves of this worker.
//!
//! Invariant: it is known that something may be read, for a while; never that it may not.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farm_types::{Digest, ImageRef, Repository};

/// How long one may be taken from that was public. One that is closed meanwhile is known to those who could read it.
const KNOWN_FOR: Duration = Duration::from_secs(10 * 60);
/// As many are known. Each is a rule in each solve.
const MOST: usize = 300;

/// What everybody may read of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Readable {
    /// A repository, with all that it has.
    All(Repository),
    /// What a repository has at a tag or a digest, and nothing else of it.
    One {
        /// The repository.
        of: Repository,
        /// The tag or the digest.
        at: At,
    },
}

/// What a registry is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum At {
    /// By this name.
    Tag(String),
    /// By this digest, whatever tag is beside it.
    Digest(Digest),
}

impl Readable {
    /// What this names, and no more.
    pub(super) fn one(image: &ImageRef) -> Self {
        let tag = || At::Tag(image.tag.clone().unwrap_or_default());
        Self::One { of: image.repository.clone(), at: image.digest.map_or_else(tag, At::Digest) }
    }

    /// Where it is.
    pub(super) fn repository(&self) -> &Repository {
        match self {
            Self::All(repository) | Self::One { of: repository, .. } => repository,
        }
    }
}

/// What everybody could read a short while ago.
#[derive(Debug, Default)]
pub struct Public(Mutex<HashMap<Readable, Instant>>);

impl Public {
    fn seen(&self) -> MutexGuard<'_, HashMap<Readable, Instant>> {
        // Each change under the lock is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This may be read now.
    pub(super) fn note(&self, readable: Readable) {
        self.note_at(readable, Instant::now());
    }

    fn note_at(&self, readable: Readable, now: Instant) {
        let mut seen = self.seen();
        if seen.len() >= MOST
            && let Some(oldest) = seen.iter().min_by_key(|(_, at)| **at).map(|(oldest, _)| oldest.clone())
        {
            seen.remove(&oldest);
        }
        seen.insert(readable, now);
    }

    /// All that is known, in no order.
    pub(super) fn known(&self) -> Vec<Readable> {
        self.known_at(Instant::now())
    }

    fn known_at(&self, now: Instant) -> Vec<Readable> {
        let mut seen = self.seen();
        seen.retain(|_, at| now.duration_since(*at) < KNOWN_FOR);
        seen.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_forgotten_and_never_grows_beyond_its_bound() {
        let public = Public::default();
        let repository = |n: usize| Readable::All(format!("r.example/{n}").parse().unwrap());
        let begun = Instant::now();
        let at = |halves: u32| begun + KNOWN_FOR / 2 * halves;
        public.note_at(repository(0), at(0));
        public.note_at(repository(1), at(1));
        assert_eq!(public.known_at(at(1)).len(), 2);
        assert_eq!(public.known_at(at(2)), [repository(1)]);
        public.note_at(repository(1), at(2));
        for n in 2..MOST + 2 {
            public.note_at(repository(n), at(3));
        }
        let known = public.known_at(at(3));
        assert!(known.len() == MOST && !known.contains(&repository(1)));
    }
}
