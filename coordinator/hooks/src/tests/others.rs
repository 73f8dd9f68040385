//! Farm's own form, and what registries send.

use serde_json::json;

use super::*;
use crate::{About, Expected, MovedImage, Ping, about, delivery_id, new_secret, ping, verify};

#[test]
fn the_form_of_ones_own_is_strict() {
    let of = |body: &Value| read(Provider::Generic, "", body);
    let repository = json!({"id": "app", "name": "acme/app", "host": "git.example"});
    let actor = json!({"id": "7", "login": "ada"});
    let push = json!({
        "type": "push", "repository": repository, "actor": actor, "ref": "refs/heads/main", "before": A, "commit": B,
        "default_branch": "main", "changed": ["a"], "message": "Mend it"
    });
    assert_eq!(golden(&of(&push).unwrap()), "git.example#app push:refs/heads/main 2222 own by 7:ada");
    let mut tag = push.clone();
    tag["ref"] = "refs/tags/v1".into();
    assert_eq!(golden(&of(&tag).unwrap()), "git.example#app tag:refs/tags/v1 2222 own by 7:ada");
    let mut release = tag.clone();
    release["type"] = "release".into();
    assert!(golden(&of(&release).unwrap()).contains(" release:refs/tags/v1 "));
    let pull = json!({
        "type": "pull_request", "repository": repository, "actor": actor, "ref": "refs/pull/5/head", "commit": B,
        "pull_request": {"number": 5, "base": "main", "head": "mend"}
    });
    assert!(golden(&of(&pull).unwrap()).contains(" fork Open "), "who says nothing of it is a fork");
    let mut own = pull.clone();
    own["pull_request"]["fork"] = false.into();
    own["pull_request"]["state"] = "closed".into();
    assert!(golden(&of(&own).unwrap()).contains(" own Closed "));
    let gone = json!({"type": "delete", "repository": repository, "ref": "refs/heads/x"});
    assert!(matches!(of(&gone).unwrap().outcome, Outcome::Deleted { .. }));
    assert_eq!(of(&json!({"type": "ping", "repository": repository})).unwrap().outcome, Outcome::Ping);
    // What is wrong is named.
    for (field, value) in [
        ("branch", json!("main")),
        ("type", json!("puhs")),
        ("commit", json!(ZERO)),
        ("commit", Value::Null),
        ("ref", Value::Null),
        ("ref", json!("main")),
        ("ref", json!("refs/notes/x")),
        ("repository", json!({"id": "", "name": "x"})),
        ("repository", Value::Null),
    ] {
        let mut body = push.clone();
        body[field] = value;
        assert!(of(&body).is_err(), "{body}");
    }
    release["ref"] = "refs/heads/v1".into();
    assert!(of(&release).is_err());
}

#[test]
fn registries_tell_which_images_have_moved() {
    let hub = json!({
        "callback_url": "http://169.254.169.254/", "push_data": {"pushed_at": 1, "pusher": "ada", "tag": "3.20"},
        "repository": {"repo_name": "library/alpine", "name": "alpine", "namespace": "library"}
    });
    let moved = |repository: &str, tag: &str| MovedImage {
        repository: repository.into(),
        tag: tag.into(),
        digest: None,
    };
    let mut said = read(Provider::Dockerhub, "", &hub).unwrap();
    assert_eq!(said.outcome, Outcome::Images(vec![moved("library/alpine", "3.20")]));
    let of = |provider, full_name| Expected { provider, id: None, full_name, host: "r.example" };
    assert_eq!(about(of(Provider::Dockerhub, "library/alpine"), &mut said), About::Own);
    assert!(matches!(about(of(Provider::Dockerhub, "library/debian"), &mut said), About::Other(_)));

    let event = |action: &str, repository: &str, tag: Value| {
        json!({"id": "x", "action": action, "target": {"repository": repository, "tag": tag, "digest": "sha256:…"},
               "actor": {"name": "ci"}, "request": {"host": "evil.example"}})
    };
    let body = json!({"events": [
        event("pull", "base/app", "1".into()), event("push", "base/app", Value::Null), event("push", "other", "2".into()),
        event("push", "base/app", "3".into()), event("push", "base/app", "3".into())
    ]});
    let mut said = read(Provider::Distribution, "", &body).unwrap();
    assert_eq!(said.actor.as_ref().unwrap().login, "ci");
    assert_eq!(about(of(Provider::Distribution, "base/app"), &mut said), About::Own);
    assert_eq!(said.outcome, Outcome::Images(vec![moved("base/app", "3")]));
    let pulled = json!({"events": [event("pull", "base/app", "1".into())]});
    assert!(!read(Provider::Distribution, "", &pulled).unwrap().outcome.is_wanted());
}

#[test]
fn a_delivery_keeps_its_id_when_it_comes_again_and_has_its_bodys_where_it_has_none() {
    let id =
        |provider, all: &[(&str, &str)], body: &str| delivery_id(provider, &headers(all), body.as_bytes());
    let guid = "72d3162e-cc78-11e3-81ab-4c9367dc0958";
    assert_eq!(id(Provider::Github, &[("x-github-delivery", guid)], "{}"), guid);
    let both = [("idempotency-key", "abc"), ("x-gitlab-event-uuid", "def")];
    assert_eq!(id(Provider::Gitlab, &both, "{}"), "abc");
    assert_eq!(id(Provider::Gitlab, &both[1..], "{}"), "def");
    let none = id(Provider::Github, &[], "{}");
    assert!(none.starts_with("sha256:") && none != id(Provider::Github, &[], "{ }"));
    for odd in ["", "a b", "\u{e9}", &"x".repeat(200)] {
        assert_eq!(id(Provider::Github, &[("x-github-delivery", odd)], "{}"), none, "{odd}");
    }
    // What came twice is nothing.
    let twice = [("x-github-delivery", "a"), ("x-github-delivery", "b")];
    assert_eq!(id(Provider::Github, &twice, "{}"), none);
    // What is kept shows nobody the secret.
    let all = headers(&[
        ("x-gitlab-token", "hush"),
        ("authorization", "Bearer hush"),
        ("x-gitlab-event", "Push Hook"),
    ]);
    assert_eq!(
        all.kept().into_iter().collect::<Vec<_>>(),
        [("x-gitlab-event".to_owned(), "Push Hook".to_owned())]
    );
    assert!(!format!("{all:?}").contains("hush"));
}

#[test]
fn farms_own_ping_passes_for_each_provider_and_nothing_follows_from_it() {
    for provider in Provider::ALL {
        let secret = new_secret(provider, [3; 32]);
        let Ping { headers, token, body } = ping(provider, &secret, "test-1", 1000);
        let all = Headers::of(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
        assert_eq!(
            verify(provider, &all, token.as_deref(), body, &["another", &secret], 1000),
            Ok(1),
            "{provider}"
        );
        assert!(verify(provider, &all, token.as_deref(), body, &["another"], 1000).is_err());
        assert!(!parse(provider, &all, body).unwrap().outcome.is_wanted(), "{provider}");
    }
}
