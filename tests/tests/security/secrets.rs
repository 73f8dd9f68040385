//! Secrets of builds: who is lent them, over which line, and what the farm's key is for.

use std::path::PathBuf;

use farm_proto::v1;
use farm_tests::client::{Client, Sim, hello, success};
use farm_tests::database::psql;
use farm_tests::farm::{Farm, Output, binary, output, program};
use farm_tests::machine::{self, invite, join};
use tonic::{Code, Status};

use crate::workers::{NO_STAGING, as_invited, connect};

const VALUE: &str = "hunter2 of the secret";
/// More than the coordinator reads at once when it seals anew.
const FORGED: usize = 250;

fn value(id: &str, value: &[u8]) -> v1::MountValue {
    v1::MountValue { r#type: "secret".into(), id: id.into(), value: value.to_vec().into() }
}

/// Asks for a build that mounts the secret `npm`, with these values.
async fn ask(client: &mut Client, key: &str, values: Vec<v1::MountValue>) -> Result<v1::Build, Status> {
    let snapshot = client.upload("FROM scratch").await;
    let spec = v1::BuildSpec {
        snapshot: Some(snapshot),
        dockerfile: "Dockerfile".into(),
        platforms: vec!["linux/amd64".into()],
        secrets: [("npm".to_owned(), "given".to_owned())].into(),
        ..Default::default()
    };
    let request = v1::SubmitBuildRequest { idempotency_key: key.into(), spec: Some(spec), values };
    Ok(client.builds.submit_build(request).await?.into_inner().build.unwrap())
}

async fn lend(sim: &mut Sim, lease: &v1::Lease) -> Result<Vec<v1::MountValue>, Status> {
    let request = v1::LendMountsRequest { lease: Some(lease.clone()) };
    Ok(sim.work.lend_mounts(request).await?.into_inner().values)
}

fn serves(name: &str) -> v1::Hello {
    let mut hello = hello(name, 4);
    hello.features.push("mounts".into());
    hello
}

/// `farm-coordinator keys …` beside the farm's coordinator.
fn keys(farm: &Farm, args: &[&str]) -> Output {
    let state = file(farm).parent().unwrap().to_owned();
    let mut command = program("farm-coordinator");
    command.arg("--state-dir").arg(state).args(["--database-url", farm.database_url(), "keys"]);
    output(command.args(args))
}

fn log(farm: &Farm) -> String {
    std::fs::read_to_string(farm.folder().join("coordinator.log")).unwrap()
}

fn file(farm: &Farm) -> PathBuf {
    farm.folder().join("coordinator/keys")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_gets_its_builds_secrets_from_a_trusted_worker_over_tls_and_nobody_else_does() {
    let farm =
        Farm::builder().env("FARM_STAGING", NO_STAGING).env("FARM_PATCHED_ENGINES", "docker 0").tls().start();
    let mut admin = Client::connect(&farm).await;
    let request = v1::InviteWorkerRequest { trust: "untrusted".into(), ..as_invited("fork") };
    let fork = join(&farm, &invite(&farm, request).await.unwrap().token, "").await.unwrap();
    let mut fork = connect(&farm, &fork, serves("fork")).await.unwrap();
    let old = machine::machine(&farm, "old").await;
    let _old = connect(&farm, &old, hello("old", 4)).await.unwrap();
    let build = ask(&mut admin, "1", vec![value("npm", VALUE.as_bytes())]).await.unwrap();
    assert_eq!(build.spec.as_ref().unwrap().secrets["npm"], "given");
    let good = machine::machine(&farm, "good").await;
    let mut good = connect(&farm, &good, serves("good")).await.unwrap();
    let other = machine::machine(&farm, "other").await;
    let mut other = connect(&farm, &other, serves("other")).await.unwrap();
    // One of the two that may.
    let (mut holder, mut beside, offered) = tokio::select! {
        offered = good.offer() => (good, other, offered),
        offered = other.offer() => (other, good, offered),
    };
    assert_eq!(offered.build_id, build.id);
    assert!(!format!("{offered:?}").contains("hunter2"));
    let lease = offered.lease.unwrap();
    for _ in 0..2 {
        let lent = lend(&mut holder, &lease).await.unwrap();
        assert_eq!((lent.len(), &lent[0].value[..]), (1, VALUE.as_bytes()));
    }
    let refused = lend(&mut beside, &lease).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let refused = lend(&mut fork, &lease).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    holder.start(&lease).await;
    assert!(holder.finish(&lease, success()).await);
    let refused = lend(&mut holder, &lease).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    // A retry has to bring it again.
    admin.follow(&build.id).await;
    let again = |values| v1::RetryBuildRequest {
        build_id: build.id.clone(),
        idempotency_key: "again".into(),
        values,
        ..Default::default()
    };
    let refused = admin.builds.retry_build(again(Vec::new())).await.unwrap_err();
    assert!(refused.message().contains("--secret id=npm,src=FILE"), "{refused:?}");
    admin.builds.retry_build(again(vec![value("npm", b"another")])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_or_not_what_the_build_names_is_refused_and_nothing_is_kept() {
    let farm = Farm::builder().tls().start();
    let mut admin = Client::connect(&farm).await;
    let long = vec![b'x'; 512_001];
    for (values, said) in [
        (vec![], "--secret \"npm\": its value didn't come"),
        (vec![value("npm", b"1"), value("npm", b"2")], "it came twice"),
        (vec![value("npm", b"1"), value("pip", b"2")], "--secret \"pip\""),
        (vec![value("npm", &long)], "at most 512000"),
        (vec![value("n pm", b"1")], "without spaces"),
        (
            vec![v1::MountValue { r#type: "ssh".into(), ..value("npm", &long[..65_537]) }],
            "--ssh \"npm\": it has 65537 bytes, and at most 65536",
        ),
        (
            vec![v1::MountValue { r#type: "file".into(), ..value("npm", b"1") }],
            "write secret, ssh or registry-login",
        ),
    ] {
        let refused = ask(&mut admin, "1", values).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(said), "{said}: {refused:?}");
    }
    assert!(
        admin
            .builds
            .list_builds(v1::ListBuildsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .builds
            .is_empty()
    );

    // Where others could read it, nothing is taken.
    let open = Farm::builder().start();
    let refused = ask(&mut Client::connect(&open).await, "1", vec![value("npm", b"1")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(refused.message().contains("--insecure-secrets"), "{refused:?}");
    let said = Farm::builder().arg("--insecure-secrets").start();
    let mut client = Client::connect(&said).await;
    ask(&mut client, "1", vec![value("npm", b"1")]).await.unwrap();
    let mut sim = Sim::connect(&client, serves("sim")).await.unwrap();
    let lease = sim.offer().await.lease.unwrap();
    assert_eq!(&lend(&mut sim, &lease).await.unwrap()[0].value[..], b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_seals_what_was_sealed_before_and_a_lost_one_is_told() {
    let mut farm = Farm::builder().tls().start();
    let mut admin = Client::connect(&farm).await;
    ask(&mut admin, "1", vec![value("npm", VALUE.as_bytes())]).await.unwrap();
    let good = machine::machine(&farm, "good").await;
    let mut sim = connect(&farm, &good, serves("good")).await.unwrap();
    let lease = sim.offer().await.lease.unwrap();
    let first = keys(&farm, &["ls"]).ok();
    let first = first.lines().nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let refused = keys(&farm, &["rm", &first]);
    assert!(refused.status == 1 && refused.stderr.contains("1 are sealed by"), "{refused:?}");
    // One of the project, and before it more than are read at once that nobody can open.
    let secret = v1::SetSecretRequest {
        name: "zzz".into(),
        value: Some(VALUE.as_bytes().to_vec().into()),
        ..Default::default()
    };
    admin.secrets.set_secret(secret).await.unwrap();
    let forged = format!(
        "INSERT INTO project_secrets (project_id, name, version, role, refs, events, key_id, sealed_key, sealed, created_by)
         SELECT project_id, 'forged-' || n, 1, role, refs, events, key_id, 'forged', 'forged', created_by
         FROM project_secrets, generate_series(1, {FORGED}) n;
         UPDATE project_secrets SET created_by = 'admin' WHERE name = 'zzz'"
    );
    psql(farm.database_url(), &forged);
    // A file that is another user's stays whose it is: who can't give it back to them (here root without that right) changes nothing.
    let (mine, was) = (file(&farm), std::fs::read(file(&farm)).unwrap());
    std::os::unix::fs::chown(&mine, Some(12_345), Some(12_345)).unwrap();
    let mut unable = farm_tests::environment::command("setpriv");
    unable.args(["--bounding-set=-chown", "--inh-caps=-chown"]).arg(binary("farm-coordinator"));
    unable.arg("--state-dir").arg(mine.parent().unwrap()).args(["--database-url", farm.database_url()]);
    let refused = output(unable.args(["keys", "rotate"]));
    assert!(
        refused.status == 1
            && refused.stderr.contains("belongs to user 12345")
            && refused.stderr.contains("sudo -u"),
        "{refused:?}"
    );
    assert_eq!(std::fs::read(&mine).unwrap(), was);
    let names = std::fs::read_dir(mine.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!names.into_iter().any(|name| name.to_string_lossy().ends_with(".new")));
    std::os::unix::fs::chown(&mine, Some(0), Some(0)).unwrap();
    let told = keys(&farm, &["rotate"]).ok();
    let second = told.split(' ').next().unwrap().to_owned();
    // The leader seals anew by itself, and the worker notices nothing.
    let limit = std::time::Instant::now() + crate::workers::LONG;
    loop {
        assert_eq!(&lend(&mut sim, &lease).await.unwrap()[0].value[..], VALUE.as_bytes());
        let list = keys(&farm, &["ls"]).ok();
        let rows: Vec<Vec<&str>> = list.lines().skip(1).map(|row| row.split_whitespace().collect()).collect();
        let [new, old] = &rows[..] else { panic!("{list}") };
        assert_eq!((new[..2].to_vec(), old[0]), (vec![second.as_str(), "yes"], first.as_str()));
        let is_told = log(&farm).contains(&format!("count={FORGED} "));
        if (new[2], old[1]) == ("2", &*FORGED.to_string()) && is_told {
            break;
        }
        assert!(std::time::Instant::now() < limit, "it isn't sealed anew: {list}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let needed = keys(&farm, &["rm", &first]);
    let told = format!("{FORGED} are sealed by {first}");
    assert!(needed.status == 1 && needed.stderr.contains(&told), "{needed:?}");
    psql(farm.database_url(), "DELETE FROM project_secrets WHERE name LIKE 'forged-%'");
    let soon = keys(&farm, &["rm", &first]);
    assert!(soon.status == 1 && soon.stderr.contains("a moment ago"), "{soon:?}");
    let old =
        std::fs::metadata(file(&farm)).unwrap().modified().unwrap() - std::time::Duration::from_secs(90);
    std::fs::File::options().write(true).open(file(&farm)).unwrap().set_modified(old).unwrap();
    keys(&farm, &["rm", &first]).ok();
    assert_eq!(&lend(&mut sim, &lease).await.unwrap()[0].value[..], VALUE.as_bytes());

    // Once, although it is tried again and again.
    let log_of_it = log(&farm);
    assert_eq!(log_of_it.matches("stay sealed by an old key").count(), 1, "{log_of_it}");
    assert!(log_of_it.contains("version 1 of secret forged-1 of project"), "{log_of_it}");

    // Without the key: a new one is made, and each that needs the old one is told so.
    std::fs::remove_file(file(&farm)).unwrap();
    farm.kill_coordinator();
    farm.start_coordinator();
    // The first call may find the old connection.
    let mut lost = lend(&mut sim, &lease).await.unwrap_err();
    if lost.code() != Code::DataLoss {
        lost = lend(&mut sim, &lease).await.unwrap_err();
    }
    assert_eq!(lost.code(), Code::DataLoss, "{lost:?}");
    assert!(lost.message().contains(&format!("the farm's key {second}")), "{lost:?}");
    let list = keys(&farm, &["ls"]).ok();
    assert!(list.lines().any(|row| row.starts_with(&second) && row.contains("missing")), "{list}");
    let log = log(&farm);
    assert!(log.contains("isn't here") && !log.contains("hunter2"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_seals_nothing_before_all_coordinators_have_it() {
    let farm = Farm::builder().tls().start();
    let mut admin = Client::connect(&farm).await;
    let sql = |sql: &str| psql(farm.database_url(), sql).trim().to_owned();
    let wait = async |what: &str, holds: &dyn Fn() -> bool| {
        let limit = std::time::Instant::now() + crate::workers::LONG;
        while !holds() {
            assert!(
                std::time::Instant::now() < limit,
                "{what}: {}",
                sql("SELECT address, key_ids FROM coordinators")
            );
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let id = |row: String| row.split(' ').next().unwrap().to_owned();
    ask(&mut admin, "1", vec![value("npm", VALUE.as_bytes())]).await.unwrap();
    let first = id(keys(&farm, &["ls"]).ok().lines().nth(1).unwrap().to_owned());
    // Another coordinator, on another machine, which gives no sign but this one.
    sql(&format!(
        "INSERT INTO coordinators (id, address, last_seen, key_ids)
         VALUES (gen_random_uuid(), 'https://other.example:7070', farm_now() + interval '1 hour', '{{{first}}}')"
    ));
    let second = id(keys(&farm, &["rotate"]).ok());
    let has_both = || sql("SELECT count(*) FROM coordinators WHERE cardinality(key_ids) = 2") == "1";
    wait("the new key is taken up", &has_both).await;
    ask(&mut admin, "2", vec![value("npm", VALUE.as_bytes())]).await.unwrap();
    assert_eq!(sql("SELECT DISTINCT key_id FROM build_keys"), first);
    assert!(keys(&farm, &["ls"]).stderr.contains("haven't got it: https://other.example:7070"));
    let refused = keys(&farm, &["rm", &first]);
    assert!(refused.status == 1 && refused.stderr.contains("haven't got the newest key"), "{refused:?}");

    sql(&format!("UPDATE coordinators SET key_ids = '{{{second},{first}}}' WHERE address LIKE '%other%'"));
    let is_anew = || sql("SELECT DISTINCT key_id FROM build_keys") == second;
    wait("all is sealed anew", &is_anew).await;
    ask(&mut admin, "3", vec![value("npm", VALUE.as_bytes())]).await.unwrap();
    assert!(is_anew() && !keys(&farm, &["ls"]).stderr.contains("haven't got it"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_root_changes_stay_those_of_whom_the_coordinator_runs_as() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let farm = Farm::builder().tls().start();
    // The bed's tests are root.
    chown(file(&farm), Some(12_345), Some(23_456)).unwrap();
    keys(&farm, &["rotate"]).ok();
    let changed = std::fs::metadata(file(&farm)).unwrap();
    assert_eq!((changed.uid(), changed.gid(), changed.mode() & 0o777), (12_345, 23_456, 0o600));
}
