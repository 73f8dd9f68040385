//! The matcher beside a plain model of it, on drawn files and events.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::{event, facts, rules};
use crate::{Event, EventKind, Outcome};

/// An image of names and folders without wildcards; the model compares texts.
#[derive(Debug, Clone)]
struct Drawn {
    push: Option<Vec<&'static str>>,
    pull_request: Option<Vec<&'static str>>,
    tag: Option<bool>,
    folders: Vec<&'static str>,
    needs: Vec<usize>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let branches = || proptest::option::of(subsequence(vec!["main", "dev", "release/1"], 0..3));
    let folders = subsequence(vec!["src", "docs", "lib"], 0..3);
    (branches(), branches(), proptest::option::of(any::<bool>()), folders, subsequence(vec![0, 1, 2], 0..3))
        .prop_map(|(push, pull_request, tag, folders, needs)| Drawn {
            push,
            pull_request,
            tag,
            folders,
            needs,
        })
}

fn event_drawn() -> impl Strategy<Value = Event> {
    let branch = || select(vec!["main", "dev", "release/1", "other"]).prop_map(str::to_owned);
    let kind = prop_oneof![
        branch().prop_map(|branch| EventKind::Push { branch }),
        branch().prop_map(|base| EventKind::PullRequest {
            number: 7,
            base,
            head: "x".to_owned(),
            fork: true
        }),
        select(vec!["v1.0.0", "v2.0.0-rc.1", "x"]).prop_map(|tag| EventKind::Tag { tag: tag.to_owned() }),
    ];
    let files = subsequence(vec!["src/a", "docs/b/c", "lib", "README"], 0..3);
    let files = proptest::option::of(files.prop_map(|all| all.into_iter().map(str::to_owned).collect()));
    let message = select(vec!["x", "x [skip ci]"]).prop_map(str::to_owned);
    (kind, files, message).prop_map(|(kind, changed, message)| Event { changed, message, ..event(kind) })
}

fn written(images: &[Drawn]) -> String {
    let list = |words: &[&str]| format!("[{}]", words.join(", "));
    let mut text = "version: 1\nimages:\n".to_owned();
    for (i, image) in images.iter().enumerate() {
        let branches = |event: &str, branches: &[&str]| match branches {
            [] => format!("      {event}:\n"),
            _ => format!("      {event}: {{branches: {}}}\n", list(branches)),
        };
        text += &format!("  i{i}:\n    on:\n      release:\n");
        text += &image.push.as_ref().map(|all| branches("push", all)).unwrap_or_default();
        text += &image.pull_request.as_ref().map(|all| branches("pull_request", all)).unwrap_or_default();
        text += &image
            .tag
            .map(|early| format!("      tag: {{semver: \"*\", prereleases: {early}}}\n"))
            .unwrap_or_default();
        if !image.folders.is_empty() {
            text += &format!("    paths: {}\n", list(&image.folders));
        }
        let needs: Vec<String> =
            image.needs.iter().filter(|need| **need < i).map(|need| format!("i{need}")).collect();
        if !needs.is_empty() {
            text += &format!("    needs: [{}]\n", needs.join(", "));
        }
    }
    text
}

/// Whether the i-th is built.
fn model(images: &[Drawn], i: usize, event: &Event) -> bool {
    let image = &images[i];
    let among = |list: &Option<Vec<&str>>, name: &str| {
        list.as_ref().is_some_and(|all| all.is_empty() || all.contains(&name))
    };
    let (fits, asks) = match &event.kind {
        EventKind::Push { branch } => (among(&image.push, branch), true),
        EventKind::PullRequest { base, .. } => (among(&image.pull_request, base), true),
        EventKind::Tag { tag } => {
            (image.tag.is_some_and(|early| tag == "v1.0.0" || early && tag == "v2.0.0-rc.1"), false)
        }
        _ => (false, false),
    };
    let within = |path: &String| {
        image.folders.iter().any(|folder| path == folder || path.starts_with(&format!("{folder}/")))
    };
    let touched = image.folders.is_empty() || event.changed.as_ref().is_none_or(|all| all.iter().any(within));
    let upon = || image.needs.iter().any(|need| *need < i && model(images, *need, event));
    fits && !(asks && event.message.contains("[skip ci]")) && (!asks || touched || upon())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_built_is_what_a_plain_model_says(images in proptest::collection::vec(drawn(), 1..4), event in event_drawn()) {
        let text = written(&images);
        let (rules, facts) = (rules(&text), facts(&[]));
        let plan = rules.plan(&event, &facts);
        prop_assert_eq!(&rules.plan(&event, &facts), &plan);
        prop_assert_eq!(plan.images.len(), images.len());
        for (at, image) in plan.images.iter().enumerate() {
            let i: usize = image.name[1..].parse().unwrap();
            let expected = model(&images, i, &event);
            match &image.outcome {
                Outcome::Build(wanted) => {
                    prop_assert!(expected, "{}: {:?}\n{}", image.name, event, text);
                    // Each of them is in the plan, built, and before.
                    for need in &wanted.needs {
                        let before = plan.builds().position(|(image, _)| image.name == *need);
                        prop_assert!(before.is_some_and(|before| before < at), "{need}");
                    }
                }
                Outcome::Skipped(reason) => {
                    prop_assert!(!expected, "{}: {reason}: {:?}\n{}", image.name, event, text);
                    prop_assert!(!reason.to_string().is_empty());
                }
            }
        }
    }
}
