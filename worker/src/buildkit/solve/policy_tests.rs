//! Rules for bounds. What they match is tried in an engine (`tests/tests/e2e/tokens.rs`).

use std::sync::Arc;

use farm_types::Failure;
use futures::future::BoxFuture;

use super::*;
use crate::buildkit::types::{Bound, Images, Seen};

/// Nobody is asked.
struct Nobody;

impl Images for Nobody {
    fn look_up(&self, _: &farm_types::ImageRef) -> BoxFuture<'static, Result<Seen, Failure>> {
        Box::pin(std::future::pending())
    }
}

fn bounds(within: &[(&str, &[&str])], open: &[&str]) -> Bounds {
    let bound = |pull: &[&str]| {
        let pull = pull.iter().map(|text| (*text).to_owned()).collect();
        Bound { pull, or_public: true }
    };
    Bounds {
        project: "web".into(),
        within: within.iter().map(|(host, pull)| (host.parse().unwrap(), bound(pull))).collect(),
        open: open.iter().map(|host| host.parse().unwrap()).collect(),
        images: Arc::new(Nobody),
        public: Arc::default(),
    }
}

fn rules(bounds: &Bounds, public: &[&str]) -> Vec<(i32, String)> {
    let public: Vec<Repository> = public.iter().map(|text| text.parse().unwrap()).collect();
    let policy = of(bounds, &public).unwrap_or_default();
    policy.rules.into_iter().map(|rule| (rule.action, rule.selector.unwrap().identifier)).collect()
}

#[test]
fn where_there_are_bounds_all_is_denied_and_what_is_allowed_comes_last() {
    assert_eq!(of(&bounds(&[], &["a.example"]), &["a.example/x".parse().unwrap()]), None);
    let bounds = bounds(&[("b.example:5000", &["b.example:5000/web_x"])], &["a.example", "b.example:5001"]);
    assert_eq!(
        rules(&bounds, &["b.example:5000/os", "a.example/os", "b.example:7/os"]),
        [
            (1, r"(?i)^[a-z+.-]*image[a-z+.-]*://(b\.example)(:[0-9]+)?/".to_owned()),
            (0, r"^docker-image://(?i:b\.example\:5001)/".to_owned()),
            (0, r"^docker-image://(?i:b\.example\:5000)\/web\_x([/:@]|$)".to_owned()),
            (0, r"^docker-image://(?i:b\.example\:5000)\/os([:@]|$)".to_owned()),
            (0, r"^docker-image://(?i:b\.example\:7)\/os([:@]|$)".to_owned()),
        ]
    );
}

#[test]
fn a_registry_where_nothing_may_be_taken_has_only_its_denial_and_docker_hub_all_its_names() {
    let nothing = bounds(&[("docker.io", &[])], &[]);
    let names = r"docker\.io|index\.docker\.io|registry\-1\.docker\.io";
    assert_eq!(rules(&nothing, &[]), [(1, format!("(?i)^[a-z+.-]*image[a-z+.-]*://({names})(:[0-9]+)?/"))]);
    let some = rules(&bounds(&[("docker.io", &["docker.io/acme"])], &[]), &["alpine"]);
    assert_eq!(some[1].1, format!(r"^docker-image://(?i:{names})\/acme([/:@]|$)"));
    assert_eq!(some[2].1, format!(r"^docker-image://(?i:{names})\/library\/alpine([:@]|$)"));
}
