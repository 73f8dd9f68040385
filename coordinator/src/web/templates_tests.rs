//! Each page, rendered: that it says what matters, and that nothing of what others wrote becomes markup.

use farm_proto::v1;

use super::super::route::Place;
use super::super::view;
use super::*;

const NOW: i64 = 1_800_000_000_000;
const EVIL: &str = "<script>alert('x')</script>&\"";

fn place() -> Place {
    Place { id: "7f3k2m".parse().unwrap(), project: None }
}

fn who() -> Who {
    Who { name: "ada".into(), guard: "g".into() }
}

fn job(platform: &str, state: &str) -> v1::Job {
    v1::Job {
        id: platform.into(),
        kind: "build".into(),
        platform: platform.into(),
        state: state.into(),
        attempts: vec![v1::Attempt {
            id: platform.into(),
            number: 1,
            worker: "w1".into(),
            state: state.into(),
            support: "native".into(),
            offered_ms: NOW - 60_000,
            started_ms: NOW - 60_000,
            finished_ms: NOW - 20_000,
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn of(state: &str, jobs: Vec<v1::Job>) -> v1::Build {
    let is_over = matches!(state, "succeeded" | "failed" | "cancelled");
    v1::Build {
        id: "7f3k2m".into(),
        project: "web".into(),
        state: state.into(),
        created_ms: NOW - 240_000,
        finished_ms: if is_over { NOW - 168_000 } else { 0 },
        created_by: "ada".into(),
        spec: Some(v1::BuildSpec {
            platforms: vec!["linux/amd64".into(), "linux/arm64".into()],
            tags: vec!["localhost:5002/web:latest".into()],
            snapshot: Some(v1::SnapshotRef { tree_id: "sha256:9c1e".into(), ..Default::default() }),
            ..Default::default()
        }),
        jobs,
        ..Default::default()
    }
}

fn failure() -> v1::Failure {
    v1::Failure {
        cause: "user".into(),
        code: "run_failed".into(),
        message: "RUN apt-get install -y libfoo ended with exit code 100".into(),
        step: "[final 5/9] RUN apt-get install -y libfoo".into(),
        exit_code: Some(100),
        source: Some(v1::SourceExcerpt {
            file: "Dockerfile".into(),
            first_line: 11,
            lines: vec!["COPY . .".into(), "RUN apt-get install -y libfoo".into()],
            marked_from: 12,
            marked_to: 12,
        }),
        log_tail: vec!["E: Unable to locate package libfoo".into()],
    }
}

/// With the slashes that are escaped in it.
fn page(build: &v1::Build) -> String {
    super::build(&view::build(build, &place(), NOW), &who()).replace("&#x2f;", "/")
}

fn says(page: &str, parts: &[&str]) {
    for part in parts {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
}

#[test]
fn a_failed_build_says_first_which_step_of_what_and_what_it_said() {
    let mut failed = job("linux/arm64", "failed");
    failed.failure = Some(failure());
    let build = of("failed", vec![job("linux/amd64", "succeeded"), failed]);
    let page = page(&build);
    says(
        &page,
        &[
            "<title>✗ 7f3k2m failed</title>",
            "linux/arm64 failed at step 5/9 on w1: exit code 100",
            "<figcaption>Dockerfile:12</figcaption>",
            "&gt; 12 | </span>RUN apt-get install -y libfoo",
            "E: Unable to locate package libfoo",
            "What to do:",
            "href=\"/b/7f3k2m/log?platform=linux%2Farm64\"",
            "linux/amd64 was built; nothing was published, tags are as before.",
            "submitted <time datetime=\"2027-01-15 07:56:00Z\"",
            "4 min ago</time> by ada",
            "took 1 min 12 s",
            "native on w1",
        ],
    );
    let (step, platforms) = (page.find("at step 5/9").unwrap(), page.find("<h2>Platforms").unwrap());
    assert!(step < platforms);
    assert!(!page.contains("http-equiv"), "what is over stays as it is");
}

#[test]
fn every_state_has_a_word_and_a_mark_and_what_isnt_over_is_loaded_anew() {
    for (state, mark) in [
        ("queued", "…"),
        ("running", "▶"),
        ("publishing", "↑"),
        ("cancelling", "⊘"),
        ("cancelled", "⊘"),
        ("succeeded", "✓"),
        ("failed", "✗"),
    ] {
        let mut waiting = job("linux/arm64", "ready");
        waiting.attempts.clear();
        waiting.waiting = "place 3 in the queue: all slots are in use".into();
        waiting.starts_ms = NOW + 40_000;
        let build = of(state, vec![job("linux/amd64", "running"), waiting]);
        let page = page(&build);
        says(&page, &[&format!("{mark}</span> {state}</span>"), &format!("{mark} 7f3k2m {state}")]);
        says(&page, &["place 3 in the queue, starts in about 40 s: all slots are in use"]);
        assert_eq!(page.contains("<meta http-equiv=\"refresh\""), build.finished_ms == 0, "{state}");
    }
}

#[test]
fn what_was_published_stands_with_its_digest_and_what_was_not_with_the_reason() {
    let mut build = of("succeeded", vec![job("linux/amd64", "succeeded")]);
    let tag = |tag: &str, state: &str, failure: Option<v1::Failure>| v1::Tag {
        tag: tag.into(),
        state: state.into(),
        previous_digest: "sha256:aa31".into(),
        failure,
    };
    build.publication = Some(v1::Publication {
        state: "published".into(),
        index_digest: "sha256:5d0a".into(),
        destinations: vec![v1::Destination {
            repository: "localhost:5002/web".into(),
            state: "done".into(),
            tags: vec![
                tag("latest", "verified", None),
                tag("old", "superseded", None),
                tag(
                    "bad",
                    "failed",
                    Some(v1::Failure { message: "it is full".into(), ..Default::default() }),
                ),
            ],
            ..Default::default()
        }],
        ..Default::default()
    });
    build.retried_by = vec!["vbm9e6".into()];
    build.spec.as_mut().unwrap().origins = [(
        "context".to_owned(),
        v1::GitOrigin {
            repository: "https://github.com/acme/app.git".into(),
            r#ref: "refs/heads/main".into(),
            commit: "3f2c1d0".into(),
            ..Default::default()
        },
    )]
    .into();
    let digest = "sha256:77aa".to_owned();
    let url = "https://x.example/lib.tar.gz".to_owned();
    let archives = [("context:lib".to_owned(), v1::ArchiveOrigin { url, digest })];
    build.spec.as_mut().unwrap().archive_origins = archives.into();
    says(
        &page(&build),
        &[
            "<dt>lib</dt>",
            "<a href=\"https://x.example/lib.tar.gz\"",
            "<code class=\"digest\">sha256:77aa</code>",
            "✓ published</span> <code>localhost:5002/web:latest</code> <code class=\"digest\">sha256:5d0a</code>",
            "was sha256:aa31",
            "not moved</span> <code>localhost:5002/web:old",
            "✗ not published</span> <code>localhost:5002/web:bad</code> <span class=\"dim\">it is full",
            "<a href=\"/b/vbm9e6\">",
            "<a href=\"https://github.com/acme/app.git\"",
            "refs/heads/main",
            "commit <code>3f2c1d0</code>",
        ],
    );
}

/// The texts of a message, each in the place of what others may have chosen.
fn spoiled() -> v1::Build {
    let mut failed = job("linux/arm64", "failed");
    let evil = || EVIL.to_owned();
    failed.failure = Some(v1::Failure {
        message: evil(),
        step: format!("[{EVIL} 5/9] RUN {EVIL}"),
        exit_code: None,
        source: Some(v1::SourceExcerpt { file: evil(), lines: vec![evil()], ..failure().source.unwrap() }),
        log_tail: vec![evil(), format!("\u{1b}[2J{EVIL}\u{202e}")],
        ..failure()
    });
    for attempt in &mut failed.attempts {
        (attempt.worker, attempt.support, attempt.support_reason) = (evil(), evil(), evil());
        attempt.failure = Some(v1::Failure { message: evil(), ..Default::default() });
    }
    let mut waiting = job(EVIL, "ready");
    (waiting.waiting, waiting.taken_from) = (evil(), evil());
    let mut build = of("failed", vec![failed, waiting]);
    (build.id, build.project, build.created_by, build.publish_trouble) = (evil(), evil(), evil(), evil());
    (build.retry_of, build.retried_by) = (evil(), vec![evil()]);
    let origin = v1::GitOrigin {
        repository: format!("https://{EVIL}"),
        r#ref: format!("refs/heads/{EVIL}"),
        commit: evil(),
        subdir: evil(),
        committed: 0,
    };
    let spec = build.spec.as_mut().unwrap();
    spec.tags = vec![evil()];
    spec.origins = [(evil(), origin.clone()), ("context".to_owned(), origin)].into();
    let archive = v1::ArchiveOrigin { url: format!("https://{EVIL}"), digest: evil() };
    spec.archive_origins = [(format!("context:{EVIL}"), archive)].into();
    spec.snapshot = Some(v1::SnapshotRef { tree_id: evil(), content_key: evil(), ..Default::default() });
    build.publication = Some(v1::Publication {
        index_digest: evil(),
        destinations: vec![v1::Destination {
            repository: evil(),
            tags: vec![v1::Tag {
                tag: evil(),
                state: "verified".into(),
                previous_digest: evil(),
                failure: None,
            }],
            ..Default::default()
        }],
        ..Default::default()
    });
    build
}

#[test]
fn nothing_that_others_wrote_becomes_markup() {
    let mut view = view::build(&spoiled(), &place(), NOW);
    view.failures[0].logs[0].lines = vec![EVIL.to_owned()];
    let evil = Who { name: EVIL.into(), guard: EVIL.into() };
    let form = SignIn {
        guard: EVIL.into(),
        next: EVIL.into(),
        issuer: Some(EVIL.into()),
        to_issuer: EVIL.into(),
        trouble: EVIL.into(),
    };
    let choice = Choice { id: EVIL.into(), projects: vec![(EVIL.into(), EVIL.into())] };
    let told = Told { thing: EVIL.into(), cure: EVIL.into() };
    for page in
        [super::build(&view, &evil), sign_in(&form), home(&evil), choose(&choice, &evil), problem(&told)]
    {
        says(&page, &["&lt;script&gt;"]);
        for markup in ["<script", "alert('x')", "\u{1b}", "\u{202e}", "&\"", "Something is wrong"] {
            assert!(!page.contains(markup), "{markup:?} in {page}");
        }
        // No attribute ends early.
        assert!(!page.contains("href=\"https://&lt;"), "{page}");
    }
}

#[test]
fn pages_need_nothing_from_elsewhere() {
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import") && !STYLE.contains('<'));
    let page = page(&of("running", vec![job("linux/amd64", "running")]));
    for thing in [" src=", "<link", "<script", "style=\""] {
        assert!(!page.contains(thing), "{thing}");
    }
}

#[test]
fn what_a_fork_proposes_is_shown_with_a_form_for_who_may_approve_it_alone() {
    let of = v1::Proposal {
        build_id: "7f3k2m".into(),
        repository: "acme/app".into(),
        number: 7,
        commit: "4a1c".repeat(10),
        head: EVIL.into(),
        head_repository: EVIL.into(),
        opener: EVIL.into(),
        base: "main".into(),
        images: vec!["app".into()],
        held: true,
        ..Default::default()
    };
    let shown = |of: &v1::Proposal, approve: &str| {
        let view = view::build(&super::tests::of("succeeded", vec![]), &place(), NOW);
        let proposal = view::proposal(of, approve.to_owned(), "the-guard".to_owned());
        super::build(&view.proposing(Some(proposal)), &who())
    };
    let page = shown(&of, "/b/7f3k2m/approve");
    assert!(!page.contains("<script>"), "{page}");
    for part in [
        "Pull request 7 of a fork",
        "waits for your approval",
        "name=\"guard\" value=\"the-guard\"",
        "value=\"4a1c4a1c",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    let page = shown(&of, "");
    assert!(page.contains("waits for a publisher") && !page.contains("the-guard"), "{page}");
    // That its rules were fetched is no success.
    assert!(page.contains(" waits for approval</span>") && !page.contains("succeeded"), "{page}");
    let approved = v1::Proposal { held: false, approved_by: "ada".into(), ..of.clone() };
    let page = shown(&approved, "");
    assert!(page.contains("approved by ada") && page.contains(" succeeded</span>"), "{page}");
    let unknown = v1::Proposal { head_repository: String::new(), opener: String::new(), ..of };
    assert!(shown(&unknown, "").contains("an unknown repository"));
}
