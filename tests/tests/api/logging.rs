//! What the coordinator's log says of users' wishes, and in which form.

use farm_proto::v1;
use farm_tests::farm::Farm;
use farm_tests::process::lines_with_uuids;
use serde_json::Value;

use crate::client::{Client, Sim, hello};

/// A failure that is the user's.
fn failed() -> v1::finished::Outcome {
    let failure = v1::Failure { cause: "user".into(), code: "run_failed".into(), ..Default::default() };
    v1::finished::Outcome::Failure(failure)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wish_is_logged_with_who_asked_and_each_line_bears_its_calls_and_jobs_names() {
    let mut farm = Farm::builder().arg("--log").arg("json").start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let fails = client.submit(&snapshot, "fails", &["linux/amd64"]).await.id;
    let offered = sim.offer().await;
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;
    assert!(sim.finish(&lease, failed()).await);
    client.follow(&fails).await;
    let retry = v1::RetryBuildRequest {
        build_id: fails.clone(),
        idempotency_key: "again".to_owned(),
        ..Default::default()
    };
    let again = client.builds.retry_build(retry).await.unwrap().into_inner().build.unwrap().id;
    let lease = sim.offer().await.lease.unwrap();
    let reason = "no room".to_owned();
    let declined = v1::Declined { lease: Some(lease), reason };
    sim.tell(v1::control_request::Message::Declined(declined)).await;
    let cancel = v1::CancelBuildRequest { build_id: again.clone() };
    client.builds.cancel_build(cancel).await.unwrap();
    let names = vec!["sim".to_owned()];
    let drain = v1::DrainWorkersRequest { names: names.clone(), ..Default::default() };
    client.farm.drain_workers(drain).await.unwrap();
    client.farm.resume_workers(v1::ResumeWorkersRequest { names: names.clone() }).await.unwrap();
    drop(sim);
    // What is logged when a call is answered is written by then; this call comes after the worker's last words.
    let gone = "worker's control stream ended";
    let limit = std::time::Duration::from_secs(20);
    farm.coordinator().wait_until(gone, limit, |child| child.output().contains(gone).then_some(()));
    client.farm.remove_workers(v1::RemoveWorkersRequest { names }).await.unwrap();

    let log = farm.coordinator().output();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let said = |message: &str| {
        let found = lines.iter().find(|line| line["fields"]["message"] == message);
        found.unwrap_or_else(|| panic!("{message:?} is not in:\n{log}"))
    };
    for (message, method, build) in [
        ("build accepted", "SubmitBuild", Some(&fails)),
        ("retry accepted", "RetryBuild", Some(&again)),
        ("cancel asked for", "CancelBuild", Some(&again)),
        ("workers are drained", "DrainWorkers", None),
        ("workers are resumed", "ResumeWorkers", None),
        ("workers are removed", "RemoveWorkers", None),
    ] {
        let line = said(message);
        assert_eq!(line["fields"]["by"], "admin", "{line}");
        assert_eq!(line["fields"]["build"].as_str(), build.map(String::as_str), "{line}");
        assert_eq!(
            (&line["span"]["method"], &line["span"]["who"]),
            (&method.into(), &"admin".into()),
            "{line}"
        );
    }
    assert_eq!(said("retry accepted")["fields"]["retry_of"], fails.as_str());
    for (message, build) in [("offered", &fails), ("failed", &fails), ("declined", &again)] {
        let span = &said(message)["span"];
        let names = (&span["name"], &span["build"], &span["platform"], &span["try"]);
        assert_eq!(
            names,
            (&"job".into(), &build.as_str().into(), &"linux/amd64".into(), &1.into()),
            "{span}"
        );
    }
    let spans = &said("failed")["spans"];
    assert_eq!((&spans[0]["method"], &spans[0]["worker"]), (&"Control".into(), &"sim".into()), "{spans}");
    assert_eq!(said("offered")["fields"]["worker"], "sim");
    assert_eq!(lines_with_uuids(&log), Vec::<&str>::new());
}
