//! What workers say that layers hold: judged once more, kept for the next, and told to whoever holds a lease.

use farm_proto::v1;
use farm_tests::database::psql;
use farm_tests::farm::Farm;
use farm_types::Digest;
use farm_types::elf::RULES;
use tonic::Code;

use crate::client::{Client, Sim, hello};

async fn submit(client: &mut Client, key: &str, change: impl FnOnce(&mut v1::BuildSpec)) -> v1::Build {
    let snapshot = client.upload("FROM scratch").await;
    let mut spec = v1::BuildSpec {
        snapshot: Some(snapshot),
        platforms: vec!["linux/amd64".to_owned()],
        verify: "elf".to_owned(),
        ..Default::default()
    };
    change(&mut spec);
    let request =
        v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), ..Default::default() };
    client.builds.submit_build(request).await.unwrap().into_inner().build.unwrap()
}

fn layer(name: &str, found: Option<&[(&str, &str)]>) -> v1::CheckedLayer {
    let files = |(architecture, path): &(&str, &str)| v1::ElfFiles {
        architecture: (*architecture).to_owned(),
        count: 1,
        paths: vec![(*path).to_owned()],
    };
    v1::CheckedLayer {
        diff_id: Digest::of(name.as_bytes()).to_string(),
        verdict: found
            .map(|found| v1::LayerVerdict { rules: RULES, found: found.iter().map(files).collect() }),
    }
}

fn result(layers: Vec<v1::CheckedLayer>) -> v1::finished::Outcome {
    v1::finished::Outcome::Result(v1::JobResult { layers, ..Default::default() })
}

async fn ask(
    sim: &mut Sim,
    lease: &v1::Lease,
    names: &[&str],
) -> Result<Vec<v1::CheckedLayer>, tonic::Status> {
    let diff_ids = names.iter().map(|name| Digest::of(name.as_bytes()).to_string()).collect();
    let request = v1::FindVerdictsRequest { lease: Some(lease.clone()), rules: RULES, diff_ids };
    Ok(sim.work.find_verdicts(request).await?.into_inner().known)
}

#[tokio::test]
async fn layers_are_judged_here_too_kept_and_told_to_the_next_attempt_of_the_project() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();

    // A worker that says that it has built what isn't for the platform.
    let id = submit(&mut client, "foreign", |_| ()).await.id;
    let offered = sim.offer().await;
    assert!(offered.verify_elf);
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;
    assert_eq!(ask(&mut sim, &lease, &["base", "app"]).await.unwrap(), []);
    let (base, app) = (
        layer("base", Some(&[("amd64", "bin/sh")])),
        layer("app", Some(&[("arm64", "app/run"), ("386", "app/old")])),
    );
    assert!(sim.finish(&lease, result(vec![base.clone(), app.clone()])).await);
    let failure = client.follow(&id).await.0.failure.unwrap();
    assert_eq!(failure.code, "foreign_programs");
    assert!(failure.message.contains("/app/run in layer 2 of 2"), "{failure:?}");
    // After its end it is told nothing.
    assert_eq!(ask(&mut sim, &lease, &["base"]).await.unwrap_err().code(), Code::FailedPrecondition);

    // The next one is told what it has said, and can't say otherwise.
    let id = submit(&mut client, "again", |_| ()).await.id;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    let mut known = ask(&mut sim, &lease, &["base", "app", "new"]).await.unwrap();
    known.sort_by_key(|layer| layer.diff_id != base.diff_id);
    assert_eq!(known, [base, app]);
    let other = v1::FindVerdictsRequest {
        lease: Some(lease.clone()),
        rules: RULES + 1,
        diff_ids: vec![Digest::of(b"base").to_string()],
    };
    assert_eq!(sim.work.find_verdicts(other).await.unwrap().into_inner().known, []);
    assert!(sim.finish(&lease, result(vec![layer("app", Some(&[]))])).await);
    assert_eq!(client.follow(&id).await.0.failure.unwrap().code, "foreign_programs");

    // What is excepted, and what isn't verified.
    for (key, word, except, asked) in
        [("except", "elf", vec!["app/run".to_owned()], true), ("off", "off", Vec::new(), false)]
    {
        let id =
            submit(&mut client, key, |spec| (spec.verify, spec.verify_except) = (word.to_owned(), except))
                .await
                .id;
        let offered = sim.offer().await;
        assert_eq!(offered.verify_elf, asked);
        let lease = offered.lease.unwrap();
        sim.start(&lease).await;
        assert!(sim.finish(&lease, result(vec![layer("base", None), layer("app", None)])).await);
        assert_eq!(client.follow(&id).await.0.state, "succeeded", "{key}");
    }
    // Of layers that nobody has looked into nobody knows anything.
    let id = submit(&mut client, "unread", |_| ()).await.id;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    assert!(sim.finish(&lease, result(vec![layer("unread", None)])).await);
    assert_eq!(client.follow(&id).await.0.state, "succeeded");
    assert_eq!(psql(farm.database_url(), "SELECT count(*) FROM layer_verdicts"), "2");
}
