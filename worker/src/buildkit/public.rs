//! What is known of what may be read, by everybody or by those who look by one login, for all solves of this worker.
//!
//! Invariant: it is known that something may be read, for a while and by whom; never that it may not.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farm_types::{Digest, ImageRef, Repository};

/// How long one may be taken from that was public. One that is closed meanwhile is known to those who could read it.
const KNOWN_FOR: Duration = Duration::from_secs(10 * 60);
/// As many are known. Each is a rule in each solve.
const MOST: usize = 300;

/// What everybody may read of a registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// What could be read a short while ago, and by whom: nobody's name stands for everybody.
#[derive(Debug, Default)]
pub struct Public(Mutex<HashMap<(String, Readable), Instant>>);

impl Public {
    fn seen(&self) -> MutexGuard<'_, HashMap<(String, Readable), Instant>> {
        // Each change under the lock is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This may be read now by this reader; empty: by everybody.
    pub(super) fn note(&self, readable: Readable, reader: &str) {
        self.note_at(readable, reader, Instant::now());
    }

    fn note_at(&self, readable: Readable, reader: &str, now: Instant) {
        let mut seen = self.seen();
        if seen.len() >= MOST
            && let Some(oldest) = seen.iter().min_by_key(|(_, at)| **at).map(|(oldest, _)| oldest.clone())
        {
            seen.remove(&oldest);
        }
        seen.insert((reader.to_owned(), readable), now);
    }

    /// All that is known of what these readers and everybody may read, in no order.
    pub(super) fn known(&self, readers: &BTreeSet<String>) -> Vec<Readable> {
        self.known_at(readers, Instant::now())
    }

    fn known_at(&self, readers: &BTreeSet<String>, now: Instant) -> Vec<Readable> {
        let mut seen = self.seen();
        seen.retain(|_, at| now.duration_since(*at) < KNOWN_FOR);
        let of_them = seen.keys().filter(|(reader, _)| reader.is_empty() || readers.contains(reader));
        let known: BTreeSet<&Readable> = of_them.map(|(_, readable)| readable).collect();
        known.into_iter().cloned().collect()
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
        let nobody = BTreeSet::new();
        public.note_at(repository(0), "", at(0));
        public.note_at(repository(1), "", at(1));
        assert_eq!(public.known_at(&nobody, at(1)).len(), 2);
        assert_eq!(public.known_at(&nobody, at(2)), [repository(1)]);
        public.note_at(repository(1), "", at(2));
        for n in 2..MOST + 2 {
            public.note_at(repository(n), "", at(3));
        }
        let known = public.known_at(&nobody, at(3));
        assert!(known.len() == MOST && !known.contains(&repository(1)));
    }

    #[test]
    fn what_one_login_may_read_is_known_to_those_who_look_by_it() {
        let public = Public::default();
        let repository = |name: &str| Readable::All(format!("r.example/{name}").parse().unwrap());
        public.note(repository("os"), "");
        public.note(repository("os"), "a");
        public.note(repository("of-a"), "a");
        public.note(repository("of-b"), "b");
        let known = |readers: &[&str]| {
            let readers = readers.iter().map(|reader| (*reader).to_owned()).collect();
            public.known(&readers)
        };
        assert_eq!(known(&[]), [repository("os")]);
        assert_eq!(known(&["a", "c"]), [repository("of-a"), repository("os")]);
    }
}
