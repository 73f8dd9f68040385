//! Where a project may push to, pull from and fetch from, who moves its protected tags, who uses its [`secrets`], and which entitlements its
//! builds may ask for.

pub mod secrets;

use std::collections::BTreeSet;

use farm_types::{
    Entitlements, FetchHost, ImageTag, RegistryHost, Repository, RepositoryPrefix, Role, TagPattern,
};

/// What a project is allowed, beside what every project is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// It may push there, and pull from there.
    pub push: Vec<RepositoryPrefix>,
    /// It may pull from there, where that takes the farm's credentials.
    pub pull: Vec<RepositoryPrefix>,
    /// What `ADD` names is fetched from there only; empty: from everywhere.
    pub fetch: Vec<FetchHost>,
    /// These tags are moved by whoever has at least this role.
    pub protected: Vec<(TagPattern, Role)>,
    /// What its builds may ask for.
    pub entitlements: Entitlements,
    /// At these registries it has a login of its own, and may there what that may.
    pub logins: BTreeSet<RegistryHost>,
}

/// Why a tag may not be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The project may not push there.
    Repository(Repository),
    /// Its pattern asks for more than the caller's role.
    Protected { tag: ImageTag, pattern: TagPattern, least: Role },
}

impl Access {
    /// Refuses the first of these tags that somebody with this role may not move.
    ///
    /// # Errors
    /// Which it is, and what it would take.
    pub fn check(&self, tags: &[ImageTag], role: Role) -> Result<(), Refusal> {
        for tag in tags {
            if !(self.logins.contains(tag.repository.host()) || self.may_push(&tag.repository)) {
                return Err(Refusal::Repository(tag.repository.clone()));
            }
            // Of several patterns the strictest counts.
            let of_tag = self.protected.iter().filter(|(pattern, _)| pattern.covers(&tag.tag));
            if let Some((pattern, least)) =
                of_tag.max_by_key(|(_, least)| *least).filter(|(_, least)| role < *least)
            {
                return Err(Refusal::Protected { tag: tag.clone(), pattern: pattern.clone(), least: *least });
            }
        }
        Ok(())
    }

    /// Whether one of these tags is protected, whoever may move it.
    pub fn protects(&self, tags: &[ImageTag]) -> bool {
        tags.iter().any(|tag| self.protected.iter().any(|(pattern, _)| pattern.covers(&tag.tag)))
    }

    /// The pattern by which a tag is protected, whoever may move it.
    pub fn protecting(&self, tag: &ImageTag) -> Option<&TagPattern> {
        self.protected.iter().map(|(pattern, _)| pattern).find(|pattern| pattern.covers(&tag.tag))
    }

    /// Whether it may push to a repository with the farm's credentials.
    pub fn may_push(&self, repository: &Repository) -> bool {
        self.push.iter().any(|prefix| prefix.covers(repository))
    }

    /// Whether it may pull from a repository with the farm's credentials.
    pub fn may_pull(&self, repository: &Repository) -> bool {
        self.push.iter().chain(&self.pull).any(|prefix| prefix.covers(repository))
    }

    /// Whether any repository of a registry is one that it may push to or pull from.
    pub fn is_of(&self, registry: &str) -> bool {
        self.push.iter().chain(&self.pull).any(|prefix| prefix.is_of(registry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(push: &[&str], pull: &[&str], protected: &[(&str, Role)]) -> Access {
        let prefixes = |list: &[&str]| list.iter().map(|prefix| prefix.parse().unwrap()).collect::<Vec<_>>();
        Access {
            push: prefixes(push),
            pull: prefixes(pull),
            protected: protected.iter().map(|(pattern, role)| (pattern.parse().unwrap(), *role)).collect(),
            ..Access::default()
        }
    }

    #[test]
    fn tags_go_where_the_project_may_push_and_by_whom_they_may_be_moved() {
        let web = access(
            &["r.example/web"],
            &["r.example/base"],
            &[("v*", Role::Publisher), ("v1*", Role::Admin), ("latest", Role::Publisher)],
        );
        let check = |tag: &str, role| web.check(&[tag.parse().unwrap()], role);
        assert_eq!(check("r.example/web/app:dev", Role::Builder), Ok(()));
        assert_eq!(check("r.example/web/app:v2", Role::Publisher), Ok(()));
        assert!(matches!(
            check("r.example/web/app", Role::Builder),
            Err(Refusal::Protected { least: Role::Publisher, .. })
        ));
        // The strictest of two patterns.
        assert!(matches!(
            check("r.example/web/app:v1.0", Role::Publisher),
            Err(Refusal::Protected { least: Role::Admin, .. })
        ));
        for elsewhere in ["r.example/base/app:dev", "r.example/website:dev", "other.example/web:dev"] {
            assert!(matches!(check(elsewhere, Role::Admin), Err(Refusal::Repository(_))), "{elsewhere}");
        }
        // One that may not be moved is enough.
        let both = ["r.example/web:dev".parse().unwrap(), "r.example/api:dev".parse().unwrap()];
        assert_eq!(web.check(&both, Role::Admin), Err(Refusal::Repository("r.example/api".parse().unwrap())));

        // With a login of its own it pushes wherever that may; its tags stay protected.
        let own = Access { logins: ["r.example".parse().unwrap()].into(), ..web };
        assert_eq!(own.check(&both, Role::Admin), Ok(()));
        assert!(matches!(
            own.check(&["r.example/api".parse().unwrap()], Role::Builder),
            Err(Refusal::Protected { .. })
        ));
        let elsewhere = own.check(&["r.example:5000/api:dev".parse().unwrap()], Role::Admin);
        assert!(matches!(elsewhere, Err(Refusal::Repository(_))));
        assert!(!own.may_pull(&"r.example/api".parse().unwrap()), "not with the farm's credentials");
    }

    #[test]
    fn what_may_be_pushed_to_may_be_pulled_from() {
        let web = access(&["r.example/web"], &["private.example"], &[]);
        for (repository, may) in
            [("r.example/web", true), ("private.example/x", true), ("r.example/api", false)]
        {
            assert_eq!(web.may_pull(&repository.parse().unwrap()), may, "{repository}");
        }
        assert!(web.is_of("r.example") && web.is_of("private.example") && !web.is_of("docker.io"));
    }
}
