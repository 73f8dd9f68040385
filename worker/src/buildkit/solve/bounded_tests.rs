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
    fn look_up(&self, image: &ImageRef) -> BoxFuture<'static, Result<Seen, Failure>> {
        self.0.lock().unwrap().push(image.to_string());
        let seen = match image.repository.name().split('/').next() {
            Some("public") => Ok(Seen::Public),
            Some("gone") => Ok(Seen::Absent),
            Some("sick") => {
                Err(Failure::new(Cause::Infrastructure, FailureCode::RegistryUnavailable, "sick"))
            }
            _ => Ok(Seen::Refused),
        };
        Box::pin(async { seen })
    }
}

fn bounds(registry: &Arc<Registry>, or_public: bool) -> Bounds {
    let images: Arc<dyn Images> = Arc::<Registry>::clone(registry);
    let bound = Bound { pull: vec!["b.example/web".into()], or_public };
    Bounds {
        project: "web".into(),
        within: [("b.example".parse().unwrap(), bound)].into(),
        open: [].into(),
        images,
        public: Arc::default(),
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
    // Of another port, under which an engine would keep the same.
    allowed.look_up(&image("b.example:5000/public/os:1")).await.unwrap();
    assert_eq!(rules(&allowed), 4);
    assert_eq!(rules(&Allowed::within(Some(&bounds))), 4);
    // Once more it isn't asked for: that wouldn't help.
    assert_eq!(allowed.look_up(&image("b.example/public/os:2")).await.unwrap_err(), None);
    assert_eq!(*registry.0.lock().unwrap(), ["b.example/public/os:1", "b.example:5000/public/os:1"]);
}

#[tokio::test]
async fn what_is_refused_is_told_as_what_is_not_there_for_everybody() {
    let registry = Arc::<Registry>::default();
    let bounds = bounds(&registry, true);
    let mut allowed = Allowed::within(Some(&bounds));
    for (name, code, says) in [
        ("api/secret", FailureCode::RegistryAuth, "farm project allow web --pull b.example/api/secret"),
        ("nobodys", FailureCode::RegistryAuth, "farm project allow web --pull b.example/nobodys"),
        ("gone/os", FailureCode::BaseImageMissing, "image b.example/gone/os:1: not found"),
        ("sick/os", FailureCode::RegistryUnavailable, "sick"),
    ] {
        let failure = allowed.look_up(&image(&format!("b.example/{name}:1"))).await.unwrap_err().unwrap();
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.message.contains(says), "{failure}");
    }
    let (there, not_there) = (untaken("web", "b.example/a"), untaken("web", "b.example/b"));
    assert_eq!(there.message.replace("/a", "/b"), not_there.message);
    assert_eq!(rules(&allowed), 2);
    assert!(Allowed::within(Some(&bounds)).public.is_empty());
}

#[tokio::test]
async fn an_older_coordinator_is_not_asked_and_others_32_times() {
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
    assert!(failure.message.contains("at most 32 repositories"), "{failure}");
    assert_eq!(registry.0.lock().unwrap().len(), MOST_ASKED);
    // Of other registries an engine wasn't kept from anything.
    assert_eq!(allowed.look_up(&image("other.example/x:1")).await.unwrap_err(), None);
}

fn step(name: &str, number: u32) -> AttemptEvent {
    let step = StepUpdate { name: name.into(), number, ..StepUpdate::default() };
    AttemptEvent { at_ms: 0, event: Some(Event::Step(step)) }
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
    assert_eq!(hold(told, Duration::from_secs(3600), &onward).await, before);
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
        assert!(hold(told, Duration::from_secs(3600), &onward).await.is_empty());
        for event in before.iter().chain([&begins, &before[0]]) {
            assert_eq!(heard.try_recv().as_ref(), Ok(event));
        }
    }

    let (sender, told) = mpsc::channel(16);
    sender.send(before[0].clone()).await.unwrap();
    let (held, ()) = tokio::join!(hold(told, Duration::ZERO, &onward), async {
        assert_eq!(heard.recv().await.as_ref(), Some(&before[0]));
        drop(sender);
    });
    assert!(held.is_empty());
}
