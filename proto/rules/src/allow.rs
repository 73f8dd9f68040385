//! What a project's settings allow, held against what a file asks for.

use std::collections::BTreeSet;

use farm_types::{Invalid, RegistryHost, RepositoryPrefix, SecretName, SigningKeyName, TagPattern};

use crate::plan::Plan;
use crate::problem::{Position, Problem, Problems};

/// What whoever builds by a file may have for this event: by the project's settings, never by the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// It may push there.
    pub push: Vec<RepositoryPrefix>,
    /// And to registries at which the project has a login of its own.
    pub registries: BTreeSet<RegistryHost>,
    /// Tags that it may not move: those protected ones that ask for more.
    pub protected: Vec<TagPattern>,
    /// The project's secrets that it may use.
    pub secrets: BTreeSet<SecretName>,
    /// The project's signing keys by which it may have things signed.
    pub signing_keys: BTreeSet<SigningKeyName>,
    /// A fork proposes it, which is given no secret whatever anybody allows.
    pub is_fork: bool,
}

impl Plan {
    /// What is asked for and isn't allowed, at its place in the file, by the name of the image and the pattern that is in the way.
    /// `None`: all is allowed. Nothing is built if something isn't: what is left out silently is missed by nobody until it is needed.
    pub fn refused(&self, allowed: &Allowed) -> Option<Problems> {
        let mut all = Vec::new();
        let mut refuse = |at: Position, image: &str, key: &str, value: String, cure: String| {
            all.push(Problem { at, what: Invalid::new(format!("images.{image}.{key}"), value, cure) });
        };
        for (image, wanted) in self.builds() {
            for tag in &wanted.tags {
                let repository = &tag.repository;
                let may = allowed.registries.contains(repository.host())
                    || allowed.push.iter().any(|prefix| prefix.covers(repository));
                if !may {
                    let there: Vec<String> = allowed.push.iter().map(ToString::to_string).collect();
                    let there = if there.is_empty() {
                        "nowhere".to_owned()
                    } else {
                        format!("to {}", there.join(", "))
                    };
                    let cure = format!(
                        "the project may push {there}; let an admin allow it (farm project allow), or give the project a login there \
                         (farm registry login)"
                    );
                    refuse(
                        image.places.destinations,
                        &image.name,
                        "destinations",
                        repository.to_string(),
                        cure,
                    );
                }
                if let Some(pattern) = allowed.protected.iter().find(|pattern| pattern.covers(&tag.tag)) {
                    let cure = format!(
                        "tags like {pattern} are protected, and what this event begins may not move them; write another tag, or \
                         let an admin of the project say who may (farm project protect)"
                    );
                    refuse(image.places.tags, &image.name, "tags", tag.tag.clone(), cure);
                }
            }
            for name in wanted.secrets.values().filter(|name| !allowed.secrets.contains(*name)) {
                let cure = match allowed.is_fork {
                    true => {
                        "pull requests of forks are given no secrets: have the image do without for them, or build what needs it upon \
                             a push"
                    }
                    false => {
                        "the project has no such secret for this ref and event; let an admin of it say who may use it \
                              (farm secret rule)"
                    }
                };
                refuse(image.places.secrets, &image.name, "secrets", name.to_string(), cure.to_owned());
            }
            let key = wanted.sign.as_ref().filter(|_| !wanted.tags.is_empty());
            if let Some(name) = key.filter(|name| !allowed.signing_keys.contains(*name)) {
                let cure = "the project has no such signing key for this ref and event; let an admin of it say what is signed by it (farm \
                            signing-key rule), or give this event no tags";
                refuse(image.places.sign, &image.name, "sign", name.to_string(), cure.to_owned());
            }
        }
        Problems::of(all)
    }
}
