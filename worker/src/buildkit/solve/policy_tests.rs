//! Rules for bounds. What they match is tried in an engine (`tests/tests/e2e/digests.rs`, `tokens.rs`).

use std::sync::Arc;

use farm_types::Failure;
use futures::future::BoxFuture;

use super::*;
use crate::buildkit::types::{Bound, Images, Looked};

/// Nobody is asked.
struct Nobody;

impl Images for Nobody {
    fn look_up(&self, _: &farm_types::ImageRef) -> BoxFuture<'static, Result<Looked, Failure>> {
        Box::pin(std::future::pending())
    }
}

fn bounds(within: &[(&str, &[&str])], open: &[(&str, &[&str])]) -> Bounds {
    let owned = |pull: &[&str]| Vec::from_iter(pull.iter().map(|text| (*text).to_owned()));
    let bound = |pull: &[&str]| Bound { pull: owned(pull), or_public: true };
    Bounds {
        project: "web".into(),
        within: within.iter().map(|(host, pull)| (host.parse().unwrap(), bound(pull))).collect(),
        open: open.iter().map(|(host, pull)| (host.parse().unwrap(), owned(pull))).collect(),
        readers: [].into(),
        images: Arc::new(Nobody),
        public: Arc::default(),
        pushed: None,
    }
}

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

fn rules(bounds: &Bounds, public: &[&str]) -> Vec<(i32, String)> {
    let public = Vec::from_iter(public.iter().map(|text| readable(bounds, &text.parse().unwrap())));
    let policy = of(bounds, &public).unwrap_or_default();
    policy.rules.into_iter().map(|rule| (rule.action, rule.selector.unwrap().identifier)).collect()
}

#[test]
fn where_there_are_bounds_all_is_denied_and_what_is_allowed_comes_last() {
    assert_eq!(
        of(&bounds(&[], &[("a.example", &["a.example"])]), &[Readable::one(&image("a.example/x:1"))]),
        None
    );
    let bounds = bounds(&[("b.example:5000", &["b.example:5000/web_x"])], &[("a.example", &["a.example"])]);
    assert_eq!(
        rules(&bounds, &["b.example:5000/os:1", "a.example/os:1"]),
        [
            (1, r"(?i)^[a-z+.-]*image[a-z+.-]*://(b\.example)(:[0-9]+)?/".to_owned()),
            (0, r"^docker-image://(?i:b\.example\:5000)\/web\_x([/:@]|$)".to_owned()),
            (0, r"^docker-image://(?i:b\.example\:5000)\/os([:@]|$)".to_owned()),
        ]
    );
}

#[test]
fn of_registries_beside_one_with_bounds_is_opened_what_is_allowed_there_and_what_was_looked_up_alone() {
    let open: &[(&str, &[&str])] = &[
        ("b.example:5001", &["b.example:5001"]),
        ("b.example:5002", &["b.example:5002/team"]),
        ("a.example:5003", &["a.example:5003"]),
    ];
    let both = bounds(&[("b.example:5000", &[])], open);
    let digest = farm_types::Digest::of(b"x");
    let public = [
        "b.example:7/os:1".to_owned(),
        format!("b.example:7/os:1@{digest}"),
        format!("b.example/os@{digest}"),
    ];
    let public = public.each_ref().map(String::as_str);
    let hex = digest.hex();
    let allowed: Vec<String> = rules(&both, &public).into_iter().skip(1).map(|(_, rule)| rule).collect();
    assert_eq!(
        allowed,
        [
            r"^docker-image://(?i:b\.example\:5001)([/:@]|$)".to_owned(),
            r"^docker-image://(?i:b\.example\:5002)\/team([/:@]|$)".to_owned(),
            r"^docker-image://(?i:b\.example\:7)\/os\:1$".to_owned(),
            format!(r"^docker-image://(?i:b\.example\:7)\/os(:[^/:@]+)?\@sha256\:{hex}$"),
            format!(r"^docker-image://(?i:b\.example)\/os(:[^/:@]+)?\@sha256\:{hex}$"),
        ]
    );
    // Nor is one with bounds opened by repositories if it isn't the only one of the name, also if it was when that was noted.
    assert_eq!(readable(&both, &image("b.example:5000/os:1")), Readable::one(&image("b.example:5000/os:1")));
    let alone = bounds(&[("b.example:5000", &[])], &open[2..]);
    let noted = readable(&alone, &image("b.example:5000/os:1"));
    assert_eq!(noted, Readable::All("b.example:5000/os".parse().unwrap()));
    assert_eq!(of(&both, std::slice::from_ref(&noted)).unwrap().rules.len(), 3);
    assert_eq!(of(&alone, &[noted]).unwrap().rules.len(), 2);
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

#[test]
fn what_the_attempt_has_pushed_is_taken_by_its_digest_and_nothing_else_of_it() {
    let digest = farm_types::Digest::of(b"pushed");
    let pushed = Some(image(&format!("b.example:5000/web/app@{digest}")));
    let bounds = Bounds { pushed, ..bounds(&[("b.example", &[])], &[]) };
    let hex = digest.hex();
    assert_eq!(
        rules(&bounds, &[]).last().unwrap().1,
        format!(r"^docker-image://(?i:b\.example\:5000)\/web\/app(:[^/:@]+)?\@sha256\:{hex}$")
    );
    // Where nothing is closed it needs no leave.
    assert_eq!(of(&Bounds { within: [].into(), ..bounds }, &[]), None);
}
