//! Pages: who is shown which, by what, and for how long.

use std::time::{Duration, Instant};

use farm_proto::v1;
use farm_tests::browser::{Browser, Page};
use farm_tests::client::{Client, Sim, hello};
use farm_tests::database::psql;
use farm_tests::farm::Farm;
use farm_tests::forge::post_raw;
use farm_tests::ports::free_port;
use prost::Message as _;
use tonic::Code;

use crate::team;

const EVIL: &str = "<script>alert(1)</script>";
const ABSENT: &str = "zzzzzz";

/// A farm with a build of project web that has failed as a worker says it.
async fn farm_with_failed_build(listen: &str) -> (Farm, String) {
    // One listener for both.
    let farm = Farm::builder().arg("--web-listen").arg(listen).arg("--hooks-listen").arg(listen).start();
    for name in ["web", "api"] {
        team::project(&farm, name).await;
    }
    let mut admin = Client::within(&farm, &farm.token(), Some("web")).await;
    let snapshot = admin.upload("FROM scratch").await;
    let build = admin.submit(&snapshot, "k", &["linux/amd64"]).await.id;
    let mut sim = Sim::connect(&admin, hello("sim", 1)).await.unwrap();
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    let step = format!("[2/2] RUN echo {EVIL}");
    let events = [
        v1::attempt_event::Event::Step(v1::StepUpdate {
            digest: "d".into(),
            name: step.clone(),
            ..Default::default()
        }),
        v1::attempt_event::Event::Log(v1::StepLog {
            step_digest: "d".into(),
            stream: 1,
            data: format!("\u{1b}[31m{EVIL}\u{1b}[2J\nthe last line").into_bytes().into(),
        }),
    ];
    let events = events.map(|event| v1::AttemptEvent { at_ms: 1, event: Some(event) }).to_vec();
    let payload = v1::AttemptEventList { events }.encode_to_vec();
    let request = v1::SendEventsRequest { lease: Some(lease.clone()), seq: 1, payload: payload.into() };
    let mut acks = sim.work.send_events(tokio_stream::once(request)).await.unwrap().into_inner();
    while acks.message().await.unwrap().is_some() {}
    let failure = v1::Failure {
        cause: "user".into(),
        code: "run_failed".into(),
        message: format!("{step} ended with exit code 1"),
        step,
        exit_code: Some(1),
        log_tail: vec![EVIL.to_owned()],
        ..Default::default()
    };
    assert!(sim.finish(&lease, v1::finished::Outcome::Failure(failure)).await);
    admin.follow(&build).await;
    (farm, build)
}

/// What a page is, once it is what is waited for: what was revoked is so within 5 s.
fn until(browser: &mut Browser, path: &str, status: u16) -> Page {
    let begin = Instant::now();
    loop {
        let page = browser.get(path);
        if page.status == status {
            return page;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{page:?} isn't {status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn protected(page: &Page) {
    let has = |name: &str, value: &str| {
        assert!(page.header(name).is_some_and(|header| header.contains(value)), "{name} of {}", page.head);
    };
    has("content-security-policy", "default-src 'none'; style-src 'sha256-");
    has("content-security-policy", "form-action 'self'; base-uri 'none'; frame-ancestors 'none'");
    has("referrer-policy", "no-referrer");
    has("x-content-type-options", "nosniff");
    has("cache-control", "no-store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_shown_to_whoever_may_see_it_while_they_may_and_to_nobody_else() {
    let port = free_port();
    let (farm, build) = farm_with_failed_build(&format!("127.0.0.1:{port}")).await;
    let vera = team::person(&farm, "vera", "web", "viewer").await;
    let ben = team::person(&farm, "ben", "api", "admin").await;
    let (path, log) = (format!("/b/{build}"), format!("/b/{build}/log"));

    // Somebody who isn't signed in is asked who they are, whether there is such a build or not.
    let mut nobody = Browser::new(port);
    for path in [&path, &log] {
        let asked = nobody.get(path);
        protected(&asked);
        assert_eq!(asked.status, 401);
        assert!(asked.body.contains("type=\"password\"") && !asked.body.contains("RUN"), "{asked:?}");
        assert_eq!(asked.told(&build), nobody.get(&path.replace(&build, ABSENT)).told(ABSENT));
    }
    let head = nobody.ask("HEAD", &path, &[], "");
    assert!(head.status == 401 && head.body.is_empty(), "{head:?}");
    protected(&head);
    for (method, at, status) in
        [("POST", path.as_str(), 405), ("DELETE", &path, 405), ("GET", "/sign-out", 405), ("GET", "/b/", 404)]
    {
        let answer = nobody.ask(method, at, &[], "");
        protected(&answer);
        assert!(answer.status == status && answer.body.contains("<h1>"), "{answer:?}");
        assert_eq!(answer.header("allow").is_some(), status == 405);
    }
    // Deliveries come to the same listener, and know nothing of pages.
    assert_eq!(post_raw(port, &format!("/hooks/{}", "a".repeat(32)), &[], b"{}").1, (401, String::new()));

    // A form counts that is of the visitor's own page, with a token that counts.
    let guard = nobody.get(&path).guard().to_owned();
    let form = |guard, token| [("guard", guard), ("next", "/b/x"), ("token", token)];
    assert_eq!(nobody.post("/sign-in", &form("", &vera)).status, 403);
    assert_eq!(Browser::new(port).post("/sign-in", &form(&guard, &vera)).status, 403);
    let cross = [("sec-fetch-site", "cross-site")];
    assert_eq!(nobody.post_with("/sign-in", &form(&guard, &vera), &cross).status, 403);
    let wrong = nobody.post("/sign-in", &form(&guard, "farm_p_wrong"));
    assert!(wrong.status == 401 && wrong.body.contains("take this token"), "{wrong:?}");
    assert_eq!(nobody.post("/sign-in", &form(&guard, &"x".repeat(20_000))).status, 413);
    assert!(!nobody.cookies.contains_key("farm_session"));

    // A viewer of the project sees which step failed; nothing of the build becomes markup.
    let mut viewer = Browser::new(port);
    let signed_in = viewer.sign_in(&path, &vera);
    assert_eq!((signed_in.status, signed_in.header("location")), (303, Some(path.as_str())));
    let cookie = signed_in.header("set-cookie").unwrap();
    assert!(cookie.starts_with("farm_session=") && !cookie.contains(&vera), "{cookie}");
    assert!(cookie.contains("; Path=/; HttpOnly; SameSite=Lax; Max-Age=43200"), "{cookie}");
    let shown = viewer.get(&path);
    protected(&shown);
    assert_eq!(shown.status, 200);
    for part in ["linux/amd64 failed at step 2/2 on sim: exit code 1", "the last line", ">vera<", "admin"] {
        assert!(shown.body.replace("&#x2f;", "/").contains(part), "no {part} in {}", shown.body);
    }
    assert!(shown.body.contains("&lt;script&gt;") && !shown.body.contains("<script"), "{}", shown.body);
    let text = viewer.get(&log);
    protected(&text);
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(text.body.starts_with("linux/amd64, try 1 on sim, "), "{}", text.body);
    let lines = format!("[2/2] RUN echo {EVIL}\n  {EVIL}\n  the last line\n");
    assert!(text.body.ends_with(&lines) && !text.body.contains('\u{1b}'), "{:?}", text.body);
    assert_eq!(viewer.get(&format!("{log}?platform=linux%2Famd64")).body, text.body);
    assert_eq!(viewer.get(&format!("{log}?platform=linux%2Farm64")).status, 404);
    // So does a program that shows the token, and whoever has the farm's own.
    let by = |token: &str| [("authorization", format!("Bearer {token}"))];
    let [(name, bearer)] = by(&vera);
    assert_eq!(Browser::new(port).ask("GET", &log, &[(name, &bearer)], "").body, text.body);
    let mut admin = Browser::new(port);
    admin.sign_in(&path, &farm.token());
    assert_eq!(admin.get(&path).status, 200);

    // To a member of another project it isn't there, to the letter.
    let mut other = Browser::new(port);
    other.sign_in(&path, &ben);
    for path in [&path, &log, &format!("{path}?project=web")] {
        let (there, absent) = (other.get(path), other.get(&path.replace(&build, ABSENT)));
        assert_eq!((there.status, absent.status), (404, 404));
        assert_eq!(there.told(&build), absent.told(ABSENT));
    }

    // What changes something takes a form of one's own page, and the right. A build that isn't held is approved by nobody.
    let (approve, commit) = (format!("{path}/approve"), "a".repeat(40));
    let post = |browser: &mut Browser, guard: &str| {
        let page = browser.post(&approve, &[("guard", guard), ("commit", &commit)]);
        protected(&page);
        page.status
    };
    assert_eq!((viewer.get(&approve).status, post(&mut nobody, "")), (405, 401));
    assert_eq!((post(&mut viewer, ""), post(&mut viewer, shown.guard())), (403, 403));
    let guard = admin.get(&path).guard().to_owned();
    assert_eq!(
        (post(&mut admin, ""), post(&mut admin, shown.guard()), post(&mut admin, &guard)),
        (403, 403, 409)
    );
    let guard = other.get("/").guard().to_owned();
    assert_eq!(post(&mut other, &guard), 404);

    // What a browser shows is no token, and counts no more once it is signed out, over, or its token revoked.
    let session = viewer.cookies["farm_session"].clone();
    let mut as_token = Client::with_token(&farm, &session).await;
    let refused = as_token.people.who_am_i(v1::WhoAmIRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut copy = viewer.clone();
    let guard = shown.guard().to_owned();
    assert_eq!(viewer.post("/sign-out", &[]).status, 403);
    let out = viewer.post("/sign-out", &[("guard", &guard)]);
    assert_eq!((out.status, out.header("location")), (303, Some("/")));
    assert!(!viewer.cookies.contains_key("farm_session"));
    assert_eq!((viewer.get(&path).status, copy.get(&path).status), (401, 401));
    viewer.sign_in(&path, &vera);
    assert_eq!(viewer.get(&path).status, 200);
    psql(
        farm.database_url(),
        "UPDATE browser_sessions SET created_at = created_at - interval '1 day', expires_at = farm_now() - interval '1 s'",
    );
    until(&mut viewer, &path, 401);
    until(&mut admin, &path, 401);
    viewer.sign_in(&path, &vera);
    assert_eq!(viewer.get(&path).status, 200);
    let mut farm_admin = Client::connect(&farm).await;
    farm_admin.people.revoke_token(v1::RevokeTokenRequest { token: vera }).await.unwrap();
    assert!(until(&mut viewer, &path, 401).body.contains("type=\"password\""));
    let told = farm.cli(&["audit", "--all", "--json"]).ok();
    assert!(told.contains("\"session.begin\"") && told.contains("\"session.end\""), "{told}");
    assert!(!told.contains(&session), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_neither_signs_a_browser_out_nor_locks_it_out() {
    let port = free_port();
    let farm = Farm::builder()
        .arg("--web-listen")
        .arg(&format!("127.0.0.1:{port}"))
        .config("[limits]\nstrangers_per_minute_per_address = 20")
        .start();
    team::project(&farm, "web").await;
    let vera = team::person(&farm, "vera", "web", "viewer").await;
    let mut viewer = Browser::new(port);
    viewer.sign_in("/", &vera);
    let home = viewer.get("/");
    assert!(home.status == 200 && home.body.contains("vera"), "{home:?}");

    // A proxy's own scheme is no token, and hides no session.
    assert_eq!(viewer.ask("GET", "/", &[("authorization", "Basic dmVyYTp4")], "").status, 200);

    // Another site's form signs nobody out: a browser sends no cookie with it, and says where it is from.
    let guard = home.guard().to_owned();
    let (mut bare, cross) = (Browser::new(port), [("sec-fetch-site", "cross-site")]);
    let answer = bare.post_with("/sign-out", &[("guard", &guard)], &cross);
    assert!(answer.header("set-cookie").is_none(), "{answer:?}");
    assert_eq!(viewer.post_with("/sign-out", &[("guard", &guard)], &cross).status, 403);
    assert_eq!(viewer.get("/").status, 200);

    // Whoever signs in anew has one session, not two.
    let mut copy = viewer.clone();
    assert_eq!(viewer.sign_in("/sign-in", &vera).status, 303);
    assert_eq!((viewer.get("/").status, copy.get("/").status), (200, 401));

    // Wrong tokens of a neighbour behind the same address keep strangers from being looked up, and no one who is signed in.
    let wrong = |browser: &mut Browser| browser.ask("GET", "/", &[("authorization", "Bearer farm_p_no")], "");
    let mut neighbour = Browser::new(port);
    let mut statuses: Vec<u16> = (0..30).map(|_| wrong(&mut neighbour).status).collect();
    statuses.dedup();
    assert_eq!(statuses, [401, 429]);
    assert_eq!(copy.get("/").status, 429);
    let home = viewer.get("/");
    assert_eq!(home.status, 200);
    // Nor does what strangers there ask for without one keep them from a form.
    let mut statuses: Vec<u16> = (0..30).map(|_| neighbour.get("/").status).collect();
    statuses.dedup();
    assert_eq!(statuses.last(), Some(&429));
    let guard = home.guard().to_owned();
    assert_eq!(neighbour.post("/sign-out", &[("guard", &guard)]).status, 429);
    assert_eq!(viewer.post("/sign-out", &[("guard", &guard)]).status, 303);
    assert_eq!(viewer.get("/").status, 429);
}
