//! Values of build arguments that look like secrets: who is shown them, and who isn't.

use farm_proto::v1;
use farm_tests::client::{Client, Sim, hello};
use farm_tests::farm::Farm;
use prost::Message as _;

use crate::team;

const VALUE: &str = "hunter2 of ada";

/// Submits a build with arguments of which one looks like a secret.
async fn submit(client: &mut Client, key: &str) -> v1::Build {
    let args = [("NPM_TOKEN", VALUE), ("VERSION", "1.4")];
    let spec = v1::BuildSpec {
        snapshot: Some(client.upload("FROM scratch").await),
        platforms: vec!["linux/amd64".to_owned()],
        build_args: args.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), ..Default::default() };
    client.builds.submit_build(request).await.unwrap().into_inner().build.unwrap()
}

fn token_of(build: &v1::Build) -> &str {
    let args = &build.spec.as_ref().unwrap().build_args;
    assert_eq!(args["VERSION"], "1.4");
    &args["NPM_TOKEN"]
}

/// All that watching it gives, in the form that shows every text.
async fn watched(client: &mut Client, id: &str) -> String {
    let request = v1::WatchBuildRequest { build_id: id.to_owned(), ..Default::default() };
    let mut stream = client.builds.watch_build(request).await.unwrap().into_inner();
    let mut all = String::new();
    while let Some(message) = stream.message().await.unwrap() {
        all.push_str(&format!("{message:?}\n"));
    }
    all
}

/// Builds it as a worker that names a step and a failure by the value, as BuildKit does.
async fn fail(sim: &mut Sim) {
    let offered = sim.offer().await;
    // The worker gets what was given.
    assert_eq!(offered.spec.as_ref().unwrap().build_args["NPM_TOKEN"], VALUE);
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;
    let step =
        v1::StepUpdate { digest: "d".into(), name: format!("RUN login {VALUE}"), ..Default::default() };
    let event = v1::AttemptEvent { at_ms: 1, event: Some(v1::attempt_event::Event::Step(step)) };
    let payload = v1::AttemptEventList { events: vec![event] }.encode_to_vec();
    let request = v1::SendEventsRequest { lease: Some(lease.clone()), seq: 1, payload: payload.into() };
    let mut acks = sim.work.send_events(tokio_stream::once(request)).await.unwrap().into_inner();
    while acks.message().await.unwrap().is_some() {}
    let failure = v1::Failure {
        cause: "user".into(),
        code: "run_failed".into(),
        message: format!("RUN login {VALUE}: exit code 1"),
        step: format!("RUN login {VALUE}"),
        ..Default::default()
    };
    assert!(sim.finish(&lease, v1::finished::Outcome::Failure(failure)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_look_like_secrets_are_shown_to_their_submitter_and_admins_only() {
    let farm = Farm::builder().start();
    team::project(&farm, "web").await;
    let mut people = Vec::new();
    for (name, role) in [("ada", "builder"), ("bob", "builder"), ("vera", "viewer"), ("root", "admin")] {
        let token = team::person(&farm, name, "web", role).await;
        people.push(Client::with_token(&farm, &token).await);
    }
    let [ada, bob, vera, root] = &mut people[..] else { unreachable!() };
    let mut farm_admin = Client::within(&farm, &farm.token(), Some("web")).await;
    let build = submit(ada, "k").await;
    assert_eq!(token_of(&build), VALUE);
    let mut sim = Sim::connect(&farm_admin, hello("sim", 1)).await.unwrap();
    fail(&mut sim).await;
    let (ended, _) = ada.follow(&build.id).await;
    assert_eq!((ended.state.as_str(), token_of(&ended)), ("failed", VALUE));

    for client in [&mut *ada, &mut *root, &mut farm_admin] {
        assert_eq!(token_of(&client.build(&build.id).await), VALUE);
        let all = watched(client, &build.id).await;
        assert!(all.contains(&format!("name: \"RUN login {VALUE}\"")), "{all}");
    }
    for client in [&mut *bob, &mut *vera] {
        let record = client.build(&build.id).await;
        assert_eq!(token_of(&record), "…");
        let text = format!("{record:?}");
        assert!(text.contains("RUN login …: exit code 1") && !text.contains("hunter2"), "{text}");
        let all = watched(client, &build.id).await;
        assert!(all.contains("name: \"RUN login …\"") && !all.contains("hunter2"), "{all}");
        let list = client.builds.list_builds(v1::ListBuildsRequest::default()).await.unwrap().into_inner();
        let list = format!("{list:?}");
        assert!(list.contains(&build.id) && !list.contains("hunter2"), "{list}");
    }
    let cancel = v1::CancelBuildRequest { build_id: build.id.clone() };
    let cancelled = bob.builds.cancel_build(cancel).await.unwrap().into_inner().build.unwrap();
    assert_eq!(token_of(&cancelled), "…");

    // A token of ada's that may only read shows no more than vera's.
    let scope = v1::TokenScope { role: "viewer".into(), ..Default::default() };
    let mut reader = Client::with_token(&farm, &team::token(&farm, "ada", scope).await).await;
    assert_eq!(token_of(&reader.build(&build.id).await), "…");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_built_with_the_values_and_shows_them_to_nobody_who_didnt_give_them() {
    let farm = Farm::builder().start();
    team::project(&farm, "web").await;
    let [ada, bob] = ["ada", "bob"].map(|name| team::person(&farm, name, "web", "builder"));
    let (mut ada, mut bob) =
        (Client::with_token(&farm, &ada.await).await, Client::with_token(&farm, &bob.await).await);
    let build = submit(&mut ada, "k").await;
    let mut sim = Sim::connect(&Client::connect(&farm).await, hello("sim", 1)).await.unwrap();
    fail(&mut sim).await;
    ada.follow(&build.id).await;
    let mut retried = Vec::new();
    for (client, expected) in [(&mut bob, "…"), (&mut ada, VALUE)] {
        let request = v1::RetryBuildRequest {
            build_id: build.id.clone(),
            idempotency_key: format!("again {expected}"),
            ..Default::default()
        };
        let retry = client.builds.retry_build(request).await.unwrap().into_inner().build.unwrap();
        assert_eq!(token_of(&retry), expected);
        fail(&mut sim).await;
        assert_eq!(token_of(&client.follow(&retry.id).await.0), expected);
        retried.push(retry.id);
    }
    // Nor by a detour: what ada retries of bob's has her values, but for bob it is ada's, and for her bob's.
    let request = v1::RetryBuildRequest {
        build_id: retried[0].clone(),
        idempotency_key: "once more".into(),
        failed_only: false,
        ..Default::default()
    };
    let detour = ada.builds.retry_build(request).await.unwrap().into_inner().build.unwrap();
    assert_eq!(token_of(&detour), "…");
    assert_eq!(token_of(&bob.build(&detour.id).await), "…");
}
