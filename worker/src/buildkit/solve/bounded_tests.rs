//! What is looked up, and what is told meanwhile.

use std::sync::{Arc, Mutex};

use farm_proto::v1::{Notice, StepUpdate};
use futures::future::BoxFuture;

use super::*;
use crate::buildkit::types::{Bound, Images};

/// Gives what is below `public/`, hasn't got what is below `gone/`, and notes what it was asked.
#[derive(Default)]
struct Registry(Mutex<Vec<String>>);

impl Images for Registry {
    fn look_up(&self, image: &ImageRef) -> BoxFuture<'static, Result<Looked, Failure>> {
        self.0.lock().unwrap().push(image.to_string());
        let of_login = image.repository.host().as_str() == "own.example";
        let reader = if of_login { "r".to_owned() } else { String::new() };
        let seen = match image.repository.name().split('/').next() {
            Some("public") => Ok(Seen::Readable),
            Some("gone") => Ok(Seen::Absent),
            Some("sick") => {
                Err(Failure::new(Cause::Infrastructure, FailureCode::RegistryUnavailable, "sick"))
            }
            _ => Ok(Seen::Refused),
        };
        Box::pin(async { seen.map(|seen| Looked { seen, reader }) })
    }
}

fn bounds(registry: &Arc<Registry>, or_public: bool) -> Bounds {
    let images: Arc<dyn Images> = Arc::<Registry>::clone(registry);
    let bound = Bound { pull: vec!["b.example/web".into()], or_public };
    Bounds {
        project: "web".into(),
        within: [("b.example".parse().unwrap(), bound)].into(),
        open: [].into(),
        readers: [].into(),
        images,
        public: Arc::default(),
        pushed: None,
    }
}

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

fn rules(allowed: &Allowed<'_>) -> usize {
    allowed.policy().unwrap().rules.len()
}

#[tokio::test]
async fn what_everybody_may_read_is_allowed_from_then_on_and_known_to_the_next() {
    let registry = Arc::<Registry>::default();
    let bounds = bounds(&registry, true);
    let mut allowed = Allowed::within(Some(&bounds));
    assert_eq!(rules(&allowed), 2);
    allowed.look_up(&image("b.example/public/os:1")).await.unwrap();
    // Of another port, under which an engine would keep the same: each for itself, and then what the tag turned out to be.
    let beside = "b.example:5000/public/os:1";
    let with_digest = format!("{beside}@{}", farm_types::Digest::of(b"x"));
    allowed.look_up(&image(beside)).await.unwrap();
    allowed.look_up(&image(&with_digest)).await.unwrap();
    assert_eq!(rules(&allowed), 5);
    assert_eq!(rules(&Allowed::within(Some(&bounds))), 5);
    // Once more none is asked for: that wouldn't help.
    for again in ["b.example/public/os:2", beside, &with_digest] {
        assert_eq!(allowed.look_up(&image(again)).await.unwrap_err(), None);
    }
    assert_eq!(*registry.0.lock().unwrap(), ["b.example/public/os:1", beside, &with_digest]);
}

#[tokio::test]
async fn what_is_refused_is_told_as_what_is_not_there_for_everybody() {
    let registry = Arc::<Registry>::default();
    let bounds = bounds(&registry, true);
    let mut allowed = Allowed::within(Some(&bounds));
    let mut messages = Vec::new();
    for (name, code, says) in [
        ("api/secret", FailureCode::RegistryAuth, "farm project allow web --pull b.example/api/secret"),
        ("nobodys", FailureCode::RegistryAuth, "farm project allow web --pull b.example/nobodys"),
        ("gone/os", FailureCode::BaseImageMissing, "image b.example/gone/os:1: not found"),
        // Some registries say that of what they don't show.
        ("gone/from", FailureCode::BaseImageMissing, "farm project allow web --pull b.example/gone/from"),
        ("sick/os", FailureCode::RegistryUnavailable, "sick"),
    ] {
        let failure = allowed.look_up(&image(&format!("b.example/{name}:1"))).await.unwrap_err().unwrap();
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.message.contains(says), "{failure}");
        messages.push(failure.message.replace(name, "NAME"));
    }
    assert_eq!(messages[0], messages[1], "one that is there, and one that isn't");
    assert_eq!(rules(&allowed), 2);
    assert!(Allowed::within(Some(&bounds)).public.is_empty());
}

#[tokio::test]
async fn what_a_projects_login_may_read_is_known_to_those_who_look_by_it_only() {
    let registry = Arc::<Registry>::default();
    let mut bounds = bounds(&registry, true);
    let all_by_look = Bound { pull: Vec::new(), or_public: true };
    bounds.within = [("own.example".parse().unwrap(), all_by_look)].into();
    bounds.readers = ["r".to_owned()].into();
    let mut allowed = Allowed::within(Some(&bounds));
    allowed.look_up(&image("own.example/public/of-web:1")).await.unwrap();
    assert_eq!((rules(&allowed), rules(&Allowed::within(Some(&bounds)))), (2, 2));
    for (name, code, says) in [
        ("api/secret", FailureCode::RegistryAuth, "farm registry login own.example --project web"),
        ("gone/os", FailureCode::BaseImageMissing, "the login that project web has at own.example"),
    ] {
        let failure = allowed.look_up(&image(&format!("own.example/{name}:1"))).await.unwrap_err().unwrap();
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.message.contains(says) && !failure.message.contains("allow"), "{failure}");
    }
    // The project next door, or the same one by another login.
    bounds.readers = ["s".to_owned()].into();
    assert_eq!(rules(&Allowed::within(Some(&bounds))), 1);
}

#[tokio::test]
async fn an_older_coordinator_is_not_asked_and_others_256_times() {
    let registry = Arc::<Registry>::default();
    let older = bounds(&registry, false);
    let mut allowed = Allowed::within(Some(&older));
    let failure = allowed.look_up(&image("b.example/public/os:1")).await.unwrap_err().unwrap();
    assert!(failure.message.contains("takes no others"), "{failure}");
    assert!(registry.0.lock().unwrap().is_empty());

    let bounds = bounds(&registry, true);
    let mut allowed = Allowed::within(Some(&bounds));
    for n in 0..MOST_ASKED {
        allowed.look_up(&image(&format!("b.example/public/{n}:1"))).await.unwrap();
    }
    let failure = allowed.look_up(&image("b.example/public/more:1")).await.unwrap_err().unwrap();
    assert_eq!(failure.code, FailureCode::RegistryAuth);
    assert!(failure.message.contains("at most 256 images"), "{failure}");
    assert_eq!(registry.0.lock().unwrap().len(), MOST_ASKED);
    // Of other registries an engine wasn't kept from anything.
    assert_eq!(allowed.look_up(&image("other.example/x:1")).await.unwrap_err(), None);
}

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

fn step(name: &str, number: u32) -> AttemptEvent {
    let step = StepUpdate { name: name.into(), number, ..StepUpdate::default() };
    AttemptEvent { at_ms: 0, event: Some(Event::Step(step)) }
}

#[tokio::test]
async fn something_is_told_while_all_is_held_back() {
    let (onward, mut heard) = mpsc::channel(2);
    let (sender, told) = mpsc::channel(16);
    let before = step("[internal] load metadata for b.example/public/os:1", 0);
    for _ in 0..5 {
        sender.send(before.clone()).await.unwrap();
    }
    drop(sender);
    // Whoever takes none holds nothing up.
    assert_eq!(hold(told, (LONG, Duration::ZERO), &onward).await.len(), 5);
    for _ in 0..2 {
        assert_eq!(heard.try_recv().unwrap().event, None);
    }
}

#[tokio::test]
async fn what_comes_before_the_steps_is_held_back_until_they_begin_or_a_while_has_passed() {
    let before = [
        step("[internal] load build definition from Dockerfile", 0),
        step("[auth] web/app:pull token for b.example", 0),
        step("[internal] load metadata for b.example/public/os:1", 0),
    ];
    // All of it, if nothing else comes.
    let (onward, mut heard) = mpsc::channel(16);
    let (sender, told) = mpsc::channel(16);
    for event in before.clone() {
        sender.send(event).await.unwrap();
    }
    drop(sender);
    assert_eq!(hold(told, (LONG, LONG), &onward).await, before);
    assert!(heard.try_recv().is_err());

    for begins in [
        step("[1/2] FROM b.example/public/os:1", 1),
        step("[internal] load build context", 0),
        AttemptEvent { at_ms: 0, event: Some(Event::Notice(Notice { text: "load metadata for".into() })) },
        step("[2/2] RUN echo load metadata for", 2),
    ] {
        let (sender, told) = mpsc::channel(16);
        for event in before.iter().chain([&begins, &before[0]]) {
            sender.send(event.clone()).await.unwrap();
        }
        drop(sender);
        assert!(hold(told, (LONG, LONG), &onward).await.is_empty());
        for event in before.iter().chain([&begins, &before[0]]) {
            assert_eq!(heard.try_recv().as_ref(), Ok(event));
        }
    }

    let (sender, told) = mpsc::channel(16);
    sender.send(before[0].clone()).await.unwrap();
    let (held, ()) = tokio::join!(hold(told, (Duration::ZERO, LONG), &onward), async {
        assert_eq!(heard.recv().await.as_ref(), Some(&before[0]));
        drop(sender);
    });
    assert!(held.is_empty());
}
