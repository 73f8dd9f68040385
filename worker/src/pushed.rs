//! What this worker has pushed lately, so that the same isn't pushed again.
//!
//! An engine asks the registry for each layer of what it pushes, though all of it is there: of a build that nothing has changed for
//! that is nearly all that the registry is asked. So whoever builds the same again has the engine say first what comes of it, pushes
//! nothing if that is what was pushed before and is still there, and else has it pushed ([`Pushed::before`]). A build that isn't the same
//! is pushed at once, as its result is seldom what was there.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use farm_types::spec::Purpose;
use farm_types::{BuildSpec, Digest, Provenance};
use serde_json::json;

use crate::order::Order;

/// As much is remembered, for so long: then the engine is to ask for each layer again, as a registry may have lost some.
const MOST: usize = 1000;
const LONGEST: Duration = Duration::from_secs(3600);

/// A build for one platform, by all that its result follows from, and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Same(Digest);

impl Same {
    /// That of an order; `None`: the same again need not come to the same.
    pub(crate) fn of(order: &Order) -> Option<Self> {
        let spec = &order.spec;
        let is_fit = spec.purpose == Purpose::Image
            && !order.repositories.is_empty()
            && !spec.no_cache
            && spec.no_cache_stages.is_empty()
            // What attests it says when it was made.
            && spec.provenance == Provenance::Off
            && spec.sbom.is_none()
            // What is given out is made once; and of secrets the values aren't part of it.
            && spec.exports.is_empty()
            && spec.mounts.is_empty();
        if !is_fit {
            return None;
        }
        let spec = BuildSpec {
            tags: Vec::new(),
            expected: Vec::new(),
            origins: Default::default(),
            timeout_ms: None,
            ..spec.clone()
        };
        let to: Vec<String> = order.repositories.iter().map(ToString::to_string).collect();
        let all =
            json!({ "of": order.caches, "platform": order.platform.to_string(), "spec": spec, "to": to });
        Some(Self(Digest::of(all.to_string().as_bytes())))
    }
}

/// See above.
#[derive(Debug, Default)]
pub struct Pushed(Mutex<HashMap<Same, (Digest, Instant)>>);

impl Pushed {
    /// What was pushed of it before.
    pub(crate) fn before(&self, of: Same) -> Option<Digest> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&of).filter(|(_, at)| at.elapsed() < LONGEST).map(|(digest, _)| *digest)
    }

    /// This is pushed.
    pub(crate) fn note(&self, of: Same, digest: Digest) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.retain(|_, (_, at)| at.elapsed() < LONGEST / 24);
        }
        if all.len() < MOST || all.contains_key(&of) {
            all.insert(of, (digest, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use farm_proto::v1;

    use super::*;

    fn offered(change: impl FnOnce(&mut v1::Offered)) -> Option<Same> {
        let zeros = Digest::of(b"x").to_string();
        let spec = v1::BuildSpec {
            snapshot: Some(v1::SnapshotRef {
                tree_id: zeros.clone(),
                content_key: zeros,
                upload_id: String::new(),
            }),
            platforms: vec!["linux/amd64".to_owned()],
            tags: vec!["r.example/a:1".to_owned()],
            dockerfile: "Dockerfile".to_owned(),
            ..Default::default()
        };
        let mut offered = v1::Offered {
            spec: Some(spec),
            platform: "linux/amd64".to_owned(),
            project: "web".to_owned(),
            repositories: vec!["r.example/a".to_owned()],
            ..Default::default()
        };
        change(&mut offered);
        Same::of(&Order::try_from(offered).unwrap())
    }

    fn spec(offered: &mut v1::Offered) -> &mut v1::BuildSpec {
        offered.spec.as_mut().unwrap()
    }

    #[test]
    fn the_same_is_what_its_result_follows_from_and_where_it_goes() {
        let same = offered(|_| {}).unwrap();
        assert_eq!(offered(|of| spec(of).tags = vec!["r.example/a:2".to_owned()]), Some(same));
        for other in [
            offered(|of| of.platform = "linux/arm64".to_owned()),
            offered(|of| of.caches = "another".to_owned()),
            offered(|of| of.repositories.push("r.example/b".to_owned())),
            offered(|of| spec(of).target = "x".to_owned()),
            offered(|of| drop(spec(of).build_args.insert("A".to_owned(), "1".to_owned()))),
        ] {
            assert!(other.is_some_and(|other| other != same));
        }
        for none in [
            offered(|of| spec(of).no_cache = true),
            offered(|of| spec(of).provenance = "mode=min".to_owned()),
            offered(|of| of.repositories.clear()),
        ] {
            assert_eq!(none, None);
        }
    }

    #[test]
    fn what_was_pushed_is_known_until_something_else_was() {
        let (pushed, same) = (Pushed::default(), offered(|_| {}).unwrap());
        assert_eq!(pushed.before(same), None);
        for digest in [Digest::of(b"a"), Digest::of(b"b")] {
            pushed.note(same, digest);
            assert_eq!(pushed.before(same), Some(digest));
        }
    }
}
