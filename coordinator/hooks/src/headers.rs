//! The headers of a delivery that count.

use std::collections::BTreeMap;
use std::fmt;

/// What reading needs: which event it is, and which delivery.
const KEPT: [&str; 13] = [
    "content-type",
    "idempotency-key",
    "webhook-id",
    "webhook-timestamp",
    "x-forgejo-delivery",
    "x-forgejo-event",
    "x-gitea-delivery",
    "x-gitea-event",
    "x-github-delivery",
    "x-github-event",
    "x-gitlab-event",
    "x-gitlab-event-uuid",
    "x-gogs-event",
];

/// What shows whose it is. Some of it is the secret itself.
const SHOWN: [&str; 6] = [
    "authorization",
    "webhook-signature",
    "x-forgejo-signature",
    "x-gitea-signature",
    "x-gitlab-token",
    "x-hub-signature-256",
];

/// The longest value that is taken, bytes.
const LONGEST: usize = 4096;

/// Those headers that count, by their names in small letters. One that came several times has no value: which of them would count
/// is for nobody to guess.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(BTreeMap<&'static str, Option<String>>);

impl Headers {
    /// What counts of these; names in small letters.
    pub fn of<'a>(all: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut found = BTreeMap::new();
        for (name, value) in all {
            let Some(name) = KEPT.iter().chain(&SHOWN).find(|known| **known == name) else { continue };
            let value = std::str::from_utf8(value).ok().filter(|value| value.len() <= LONGEST);
            let value = value.map(|value| value.trim().to_owned());
            found.entry(*name).and_modify(|there| *there = None).or_insert(value);
        }
        Self(found)
    }

    /// The value of a header that came once and can be read.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_deref()
    }

    /// Whether one of this name came at all.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// What has to be kept to read the delivery again; nothing that shows whose it is.
    pub fn kept(&self) -> BTreeMap<String, String> {
        let of = |name: &&str| Some(((*name).to_owned(), self.get(name)?.to_owned()));
        KEPT.iter().filter_map(of).collect()
    }
}

impl fmt::Debug for Headers {
    /// The names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
