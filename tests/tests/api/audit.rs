//! Who did what, as the farm tells it afterwards.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use farm_proto::v1;
use farm_tests::farm::{Farm, output};
use tonic::Code;

use crate::client::{Client, Sim, hello};

async fn entries(client: &Client) -> Vec<v1::AuditEntry> {
    let asked = client.audit.clone().list_farm_audit(v1::ListAuditRequest::default()).await;
    asked.unwrap().into_inner().entries
}

/// A person who is admin of project web, by their own token.
async fn ada(farm: &Farm) -> (Client, String) {
    let mut admin = Client::connect(farm).await;
    let project = v1::CreateProjectRequest { name: "web".to_owned(), admin: "ada".to_owned() };
    admin.projects.create_project(project).await.unwrap();
    let wanted = v1::CreatePersonTokenRequest { person: "ada".to_owned(), ..Default::default() };
    let token = admin.people.create_person_token(wanted).await.unwrap().into_inner().secret;
    (Client::with_token(farm, &token).await, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_deed_is_one_row_with_who_by_which_token_and_from_where_and_a_refused_one_is_none() {
    let farm = Farm::builder().start();
    let mut admin = Client::connect(&farm).await;
    let (mut ada, token) = ada(&farm).await;
    let sim = Sim::connect(&admin, hello("sim", 1)).await.unwrap();
    let snapshot = ada.upload("FROM scratch").await;
    let before = entries(&admin).await.len();

    let build = ada.submit(&snapshot, "k", &["linux/amd64"]).await.id;
    // The same once more, and what can't be.
    ada.submit(&snapshot, "k", &["linux/amd64"]).await;
    let elsewhere =
        v1::SubmitBuildRequest { idempotency_key: "k".to_owned(), spec: None, ..Default::default() };
    ada.builds.submit_build(elsewhere).await.unwrap_err();
    let retry = |key: &str| v1::RetryBuildRequest {
        build_id: build.clone(),
        idempotency_key: key.to_owned(),
        ..Default::default()
    };
    ada.builds.retry_build(retry("too early")).await.unwrap_err();
    for _ in 0..2 {
        ada.builds.cancel_build(v1::CancelBuildRequest { build_id: build.clone() }).await.unwrap();
    }
    ada.follow(&build).await;
    let again = ada.builds.retry_build(retry("r")).await.unwrap().into_inner().build.unwrap().id;
    ada.builds.retry_build(retry("r")).await.unwrap();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let drain = |of: &[&str]| v1::DrainWorkersRequest { names: names(of), ..Default::default() };
    let refused = ada.farm.drain_workers(drain(&["sim"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    admin.farm.drain_workers(drain(&["sim", "no-such"])).await.unwrap_err();
    admin.farm.drain_workers(drain(&["sim"])).await.unwrap();
    admin.farm.resume_workers(v1::ResumeWorkersRequest { names: names(&["sim"]) }).await.unwrap();
    admin.farm.remove_workers(v1::RemoveWorkersRequest { names: names(&["sim"]) }).await.unwrap_err();
    drop(sim);

    let all = entries(&admin).await;
    let new = &all[..all.len() - before];
    let hint = token[..12].to_owned();
    let told: Vec<[&str; 5]> = new
        .iter()
        .rev()
        .map(|e| [&*e.action, &*e.subject, &*e.principal, &*e.token_hint, &*e.project])
        .collect();
    assert_eq!(
        told,
        [
            ["build.submit", &build, "ada", &hint, "web"],
            ["build.cancel", &build, "ada", &hint, "web"],
            ["build.retry", &again, "ada", &hint, "web"],
            ["worker.drain", "sim", "admin", "", ""],
            ["worker.resume", "sim", "admin", "", ""],
        ]
    );
    assert!(new.iter().all(|entry| entry.address == "127.0.0.1" && entry.at_ms > 0), "{new:?}");
    assert!(all.iter().all(|entry| !entry.detail_json.contains(&token)), "a token is in the audit");

    // Her own project's rows, page by page; the whole farm's aren't hers.
    let ask = async |page_token: &str| {
        let request =
            v1::ListAuditRequest { page_size: 2, page_token: page_token.to_owned(), ..Default::default() };
        ada.audit.clone().list_audit(request).await.map(tonic::Response::into_inner)
    };
    let (mut own, mut page) = (Vec::new(), String::new());
    loop {
        let answer = ask(&page).await.unwrap();
        own.extend(answer.entries);
        page = answer.next_page_token;
        if page.is_empty() {
            break;
        }
    }
    let of_web: Vec<v1::AuditEntry> = all.iter().filter(|entry| entry.project == "web").cloned().collect();
    assert_eq!(own, of_web);
    assert_eq!(ask("x").await.unwrap_err().code(), Code::InvalidArgument);
    let whole = ada.audit.clone().list_farm_audit(v1::ListAuditRequest::default()).await.unwrap_err();
    let chain = ada.audit.clone().verify_audit(v1::VerifyAuditRequest::default()).await.unwrap_err();
    assert_eq!((whole.code(), chain.code()), (Code::PermissionDenied, Code::PermissionDenied));
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_stand_in_the_log_and_in_a_file_and_prove_what_is_before_them() {
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("heads");
    let mut farm = Farm::builder().config(&format!("[audit]\nhead_file = {path:?}\n")).start();
    let (mut ada, _) = ada(&farm).await;
    let snapshot = ada.upload("FROM scratch").await;
    ada.submit(&snapshot, "k", &["linux/amd64"]).await;
    let verify = |farm: &Farm, args: &[&str]| {
        output(&mut farm.command(&[&["audit", "--verify", "--json"], args].concat()))
    };
    let file = path.to_str().unwrap();
    // Within some seconds all of it is sealed; another test's transaction may hold it up.
    let begun = Instant::now();
    let json = loop {
        let said = verify(&farm, &[]);
        let json = said.json();
        let heads = std::fs::read_to_string(&path).unwrap_or_default();
        if json["unsealed"] == 0 && heads.trim_end().ends_with(json["head"].as_str().unwrap_or("-")) {
            break json;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{json}\n{heads}");
    };
    let head = json["head"].as_str().unwrap().to_owned();
    assert!(farm.coordinator().output().contains(&head), "the head is not in the log");
    let good = verify(&farm, &["--heads", file]);
    assert_eq!(good.status, 0, "{good:?}");
    let json = good.json();
    let places = json["outside"].as_array().unwrap();
    assert!(!places.is_empty() && places.iter().all(|place| place["whole"] == true), "{json}");
    assert_eq!(places.last().unwrap()["rows_after"], 0);
    // Whoever changes a row and reckons the chain anew is found by the file only.
    farm_tests::database::psql(
        farm.database_url(),
        "SET session_replication_role = replica; UPDATE audit SET principal = 'nobody' WHERE action = 'build.submit';
         DELETE FROM audit_seals",
    );
    let begun = Instant::now();
    while verify(&farm, &[]).json()["unsealed"] != 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is not sealed anew");
    }
    assert_eq!(verify(&farm, &[]).status, 0);
    let found = output(&mut farm.command(&["audit", "--verify", "--head", &head]));
    assert_eq!(found.status, 1, "{found:?}");
    assert!(found.stdout.contains(&format!("head {head} is NOT in the chain")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_lists_what_was_done_of_a_project_or_of_all() {
    let farm = Farm::builder().start();
    let (_, token) = ada(&farm).await;
    let by_ada = |args: &[&str]| output(farm.command(args).env("FARM_TOKEN", &token));
    let table = by_ada(&["audit", "--since", "1h"]).ok();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("TIME") && lines[1..].iter().all(|line| line.contains("web")), "{table}");
    let all = farm.cli(&["audit", "--all", "--json"]).json();
    let mut actions = BTreeMap::new();
    for deed in all["audit"].as_array().unwrap() {
        *actions.entry(deed["action"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        assert_eq!((&deed["who"], &deed["address"]), (&"admin".into(), &"127.0.0.1".into()));
    }
    assert_eq!((actions["project.create"], actions["token.create"]), (1, 1), "{actions:?}");
    assert_eq!(
        farm.cli(&["audit", "--all", "-n", "1", "--json"]).json()["audit"].as_array().unwrap().len(),
        1
    );
    let refused = by_ada(&["audit", "--all"]);
    assert_eq!(refused.status, 3, "{refused:?}");
    assert!(refused.stderr.contains("admin of this farm"), "{refused:?}");
    for wrong in
        [&["audit", "--since", "soon"][..], &["audit", "--verify", "--head", "x"], &["audit", "--head", "x"]]
    {
        assert_eq!(farm.cli(wrong).status, 2, "{wrong:?}");
    }
    assert!(farm.cli(&["audit", "--since", "2999-01-01T00:00:00Z"]).ok().contains("nothing was done"));
}
