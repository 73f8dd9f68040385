//! How attempts end, and what an offer becomes.

use super::*;
use farm_types::{Digest, FailureCode};

use crate::testing::offered;

fn order() -> Order {
    let digest = Digest::of(b"x").to_string();
    let snapshot = v1::SnapshotRef { tree_id: digest.clone(), content_key: digest, upload_id: String::new() };
    let spec = v1::BuildSpec {
        snapshot: Some(snapshot),
        platforms: vec!["linux/amd64".into()],
        dockerfile: "docker/Dockerfile".into(),
        ..Default::default()
    };
    Order::try_from(v1::Offered { spec: Some(spec), ..offered() }).unwrap()
}

fn registry(host: &str, username: &str, plain_http: bool) -> v1::Registry {
    v1::Registry { host: host.into(), username: username.into(), password: String::new(), plain_http }
}

#[tokio::test]
async fn a_panic_is_a_defect_of_ours_and_ends_nothing_else() {
    let stop = CancellationToken::new();
    let outcome = supervise(async { panic!("oh no") }, &stop, STOP_WITHIN).await;
    match outcome {
        Outcome::Failed(failure) => {
            assert_eq!((failure.cause, failure.code.as_str()), (Cause::Bug, "worker_bug"))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_solve_that_does_not_stop_is_dropped() {
    let stop = CancellationToken::new();
    stop.cancel();
    assert_eq!(supervise(std::future::pending(), &stop, Duration::ZERO).await, Outcome::Stopped);
}

#[test]
fn the_coordinator_is_told_what_it_can_use() {
    let built = || Outcome::Built(Box::default());
    let failed = || Outcome::from(Failure::new(Cause::User, FailureCode::RunFailed, "exit code 137"));
    let code = |outcome, reason| match verdict(outcome, reason) {
        None => "nothing".to_owned(),
        Some(finished::Outcome::Result(_)) => "result".to_owned(),
        Some(finished::Outcome::Stopped(_)) => "stopped".to_owned(),
        Some(finished::Outcome::Failure(failure)) => format!("{} {}", failure.cause, failure.code),
        Some(finished::Outcome::SourceIncomplete(missing)) => format!("incomplete {}", missing.asked),
    };
    use StopReason::{Cancelled, Superseded, WorkerStopped};
    assert_eq!(code(built(), None), "result");
    assert_eq!(code(built(), Some(Cancelled)), "result");
    assert_eq!(code(built(), Some(Superseded)), "nothing");
    assert_eq!(code(failed(), None), "user run_failed");
    assert_eq!(code(failed(), Some(Cancelled)), "stopped");
    assert_eq!(code(failed(), Some(WorkerStopped)), "infrastructure worker_stopped");
    assert_eq!(code(Outcome::Stopped, Some(Cancelled)), "stopped");
    assert_eq!(code(Outcome::Stopped, Some(WorkerStopped)), "infrastructure worker_stopped");
    assert_eq!(code(Outcome::Stopped, Some(Superseded)), "nothing");
    assert_eq!(code(Outcome::Stopped, None), "infrastructure stopped_unasked");
}

#[test]
fn an_order_becomes_a_solve() {
    let mut with_push = order();
    with_push.repositories = vec!["registry.example:5000/app".parse().unwrap()];
    with_push.registries =
        vec![registry("registry.example:5000", "me", true), registry("docker.io", "", false)];
    let solve = with_push.into_solve(Roots::new());
    assert!(solve.export.as_ref().unwrap().plain_http);
    assert_eq!(solve.logins.len(), 1, "a registry without a name needs no login");
    assert_eq!(solve.dockerfile, "docker/Dockerfile");
    assert_eq!(solve.cache_mount_namespace, "web:trusted");

    let mut other = order();
    assert!(order().into_solve(Roots::new()).export.is_none(), "without repositories nothing is pushed");
    other.project = "api".into();
    assert_ne!(other.into_solve(Roots::new()).shared_key, solve.shared_key);
}

#[test]
fn plain_http_is_for_loopback_and_for_those_that_say_so() {
    let mut order = order();
    order.registries = vec![registry("plain.example", "", true), registry("tls.example", "", false)];
    let plain = |repository: &str| order.is_plain(&repository.parse().unwrap());
    assert!(plain("localhost:5002/app") && plain("127.0.0.1:5002/app") && plain("plain.example/app"));
    assert!(
        plain("LOCALHOST:5002/app")
            && plain("[::1]:5002/app")
            && plain("[::1]/app")
            && plain("Plain.example/app")
    );
    assert!(!plain("127.tls.example/app") && !plain("[fd00::1]:5002/app"));
    assert!(!plain("tls.example/app") && !plain("docker.io/app") && !plain("localhost.example/app"));
}
