//! Notices: what ends is told once to each that wants it, whatever is cut off, and not in floods.

use std::time::Duration;

use farm_store::builds::mounts::SealedKey;
use farm_store::builds::submit::Submitted;
use farm_store::hooks::deliveries::{DeliveryState, End};
use farm_store::notices::ended::{Ended, How, Told, What};
use farm_store::notices::outbox::{Again, CLAIM, Claimed, MOST_MAILS, Message};
use farm_store::notices::registered::{NewNotice, Notice};
use farm_store::notices::rule::{MOST_AN_HOUR, Rule, SealedAddress};
use farm_store::{StoreError, default_project};
use farm_types::{Digest, NoticeId, NoticeKind, NoticeOn};
use serde_json::json;
use uuid::Uuid;

use crate::fixture::{PUBLISH, World, tester, world};
use crate::hooks::{hook, keep, secret};

/// Bytes as they are: this crate opens nothing.
fn sealed(by: &str) -> SealedAddress {
    SealedAddress { key: SealedKey { by: by.to_owned(), bytes: b"1".to_vec() }, bytes: b"url".to_vec() }
}

fn notice(name: &str, on: &[NoticeOn]) -> NewNotice {
    NewNotice {
        project: default_project(),
        id: NoticeId::generate(),
        name: name.to_owned(),
        kind: NoticeKind::Webhook,
        host: format!("{name}.example"),
        addresses: Vec::new(),
        rule: Rule { on: on.to_vec(), hooks: Vec::new(), refs: Vec::new() },
        version: Uuid::new_v4(),
        sealed: Some(sealed("key")),
    }
}

async fn add(world: &World, name: &str, on: &[NoticeOn]) -> NewNotice {
    let new = notice(name, on);
    world.store.add_notice(&tester(), &new).await.unwrap();
    new
}

/// A build that has ended.
async fn ended_build(world: &World, key: &str) -> Submitted {
    let build = world.submit(key, "linux/amd64", &[]).await;
    world.store.cancel(&tester(), default_project(), build.id, PUBLISH).await.unwrap();
    build
}

fn told(how: How, line: Option<&str>, name: &str) -> Told {
    let line = line.map(|line| Digest::of(line.as_bytes()));
    Told { how, hook: None, git_ref: None, line, name: name.to_owned(), facts: json!({ "name": name }) }
}

/// The one end that wasn't looked at.
async fn one_end(world: &World) -> Ended {
    let mut ended = world.store.ended(10).await.unwrap();
    assert_eq!(ended.len(), 1, "{ended:?}");
    ended.remove(0)
}

/// Tells the end of another build.
async fn tell(world: &World, key: &str, how: How, line: Option<&str>) -> usize {
    ended_build(world, key).await;
    let end = one_end(world).await;
    world.store.tell(world.epoch, &end, Some(&told(how, line, key))).await.unwrap()
}

async fn due(world: &World) -> Vec<Message> {
    world.store.messages_to_send(100, &[], &[]).await.unwrap()
}

/// What is due, claimed one by one; and given back.
async fn claimed(world: &World) -> Vec<(Message, Claimed)> {
    let mut all = Vec::new();
    for one in due(world).await {
        let claimed = world.store.claim_message(world.epoch, &one).await.unwrap().unwrap();
        world.database.psql("UPDATE notices SET claimed_until = NULL");
        all.push((one, claimed));
    }
    all
}

/// What waits, whether or not it is due; in the order in which it is told, by notices.
fn waits(world: &World) -> Vec<String> {
    let rows = world.database.psql(
        "SELECT n.name || ' ' || m.event || ' ' || coalesce(m.facts ->> 'name', '') FROM notice_messages m JOIN notices n
           ON n.project_id = m.project_id AND n.id = m.notice_id ORDER BY n.name, m.due_at, m.id",
    );
    rows.lines().map(ToOwned::to_owned).collect()
}

fn after(seconds: u64) -> Again {
    Again { wait: Duration::from_secs(seconds), is_doubtful: false }
}

#[tokio::test]
async fn an_end_is_told_once_to_whom_it_concerns_and_again_until_it_was_taken() {
    let world = world().await;
    let (store, epoch, project) = (&world.store, world.epoch, default_project());
    ended_build(&world, "before").await;
    assert!(store.ended(10).await.unwrap().is_empty(), "nobody is told anything");
    let older =
        "INSERT INTO coordinators (id, address, runs_schema) VALUES (gen_random_uuid(), 'http://old', 56)";
    world.database.psql(older);
    let refused = store.add_notice(&tester(), &notice("ops", &NoticeOn::USUAL)).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Older(why) if why.contains("http://old")), "{refused}");
    world.database.psql("DELETE FROM coordinators WHERE address = 'http://old'");
    add(&world, "ops", &NoticeOn::USUAL).await;
    let all = add(&world, "all", &NoticeOn::ALL).await;
    let twice = store.add_notice(&tester(), &notice("all", &NoticeOn::USUAL)).await.unwrap_err();
    assert!(matches!(twice, StoreError::Conflict(_)), "{twice}");
    let mut of_none = notice("none", &NoticeOn::USUAL);
    of_none.rule.hooks = vec!["nohook".to_owned()];
    let none = store.add_notice(&tester(), &of_none).await.unwrap_err();
    assert!(matches!(none, StoreError::NotFound("hook")), "{none}");

    // It is written down as it ends, and is there until messages are made of it, at once.
    let build = ended_build(&world, "first").await;
    let end = one_end(&world).await;
    assert!(end.what == What::Build(build.id) && end.order_key.is_some(), "{end:?}");
    assert_eq!(one_end(&world).await, end);
    let cancelled = told(How::Cancelled, Some("app"), "first");
    assert_eq!(store.tell(epoch, &end, Some(&cancelled)).await.unwrap(), 1);
    let again = store.tell(epoch, &end, Some(&cancelled)).await.unwrap_err();
    assert!(matches!(again, StoreError::Stale(_)), "{again}");
    let first = due(&world).await;
    assert_eq!(waits(&world), ["all cancelled first"]);
    assert_eq!((first[0].host.as_str(), &first[0].sealed), ("all.example", &all.sealed));

    // One has it at a time, and nothing of its notice is sent meanwhile; whoever had it was killed, and it is sent again under its id.
    assert_eq!(tell(&world, "second", How::Cancelled, None).await, 1);
    let had = store.claim_message(epoch, &first[0]).await.unwrap().unwrap();
    assert_eq!((had.event.as_str(), &had.facts["name"]), ("cancelled", &json!("first")));
    assert_eq!(store.claim_message(epoch, &first[0]).await.unwrap(), None);
    assert!(due(&world).await.is_empty());
    world.pass(&format!("{} seconds", CLAIM.as_secs() + 1));
    let second = due(&world).await;
    assert_eq!((second.len(), second[0].id), (2, first[0].id), "in the order in which they have ended");
    let (busy, place) = ([second[0].notice], ["all.example".to_owned()]);
    assert!(store.messages_to_send(9, &busy, &[]).await.unwrap().is_empty(), "it is busy");
    assert!(store.messages_to_send(9, &[], &place).await.unwrap().is_empty(), "that place is");
    assert!(store.claim_message(epoch, &second[0]).await.unwrap().is_some());
    store.put_off_message(epoch, &second[0], "it answers 500", after(60)).await.unwrap();
    assert!(due(&world).await.is_empty(), "what comes after it waits, too");
    assert_eq!(store.claim_message(epoch, &second[1]).await.unwrap(), None);
    let known = |name: &str| {
        let name = name.to_owned();
        async move { store.notices(project).await.unwrap().into_iter().find(|one| one.name == name).unwrap() }
    };
    let shown = known("all").await;
    assert!(shown.next_at.is_some());
    assert_eq!((shown.waiting, shown.trouble.unwrap().0.as_str()), (2, "it answers 500"));
    // A sample that is taken has it go on; one that follows another at once isn't sent.
    store.notice_tested(&tester(), project, &known("all").await).await.unwrap();
    let nuisance = store.notice_tested(&tester(), project, &known("all").await).await.unwrap_err();
    assert!(matches!(&nuisance, StoreError::Exhausted { what, .. } if what.contains("10 s")), "{nuisance}");
    store.notice_goes_on(project, all.id).await.unwrap();
    assert_eq!((due(&world).await.len(), known("all").await.next_at), (2, None));
    world.pass("11 seconds");
    store.notice_tested(&tester(), project, &known("all").await).await.unwrap();
    // What nobody knows of is counted by itself.
    let doubtful = Again { is_doubtful: true, ..after(1) };
    assert!(store.claim_message(epoch, &second[0]).await.unwrap().is_some());
    store.put_off_message(epoch, &second[0], "it hasn't said", doubtful).await.unwrap();
    world.pass("2 seconds");
    let both = claimed(&world).await;
    let tries: Vec<(i32, i32)> = both.iter().map(|(_, had)| (had.attempts, had.doubts)).collect();
    assert_eq!(tries, [(1, 1), (1, 0)]);
    assert!(both[0].1.age > Duration::from_secs(60));
    let both: Vec<Message> = both.into_iter().map(|(one, _)| one).collect();

    // Another secret: whoever has read the one before sends nothing by that.
    store
        .rotate_notice(&tester(), project, &known("all").await, (Uuid::new_v4(), &sealed("new")))
        .await
        .unwrap();
    assert_eq!(store.claim_message(epoch, &both[0]).await.unwrap(), None);
    let stale =
        store.rotate_notice(&tester(), project, &shown_before(&all), (Uuid::new_v4(), &sealed("x"))).await;
    assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
    let both = due(&world).await;
    assert!(both.iter().all(|one| one.has_before && one.sealed == Some(sealed("new"))), "{both:?}");
    world.pass("25 hours");
    assert!(due(&world).await.iter().all(|one| !one.has_before));
    store.message_sent(&both[0]).await.unwrap();
    let twice = store.message_sent(&both[0]).await.unwrap_err();
    assert!(matches!(twice, StoreError::Stale(_)), "{twice}");
    store.give_up_message(epoch, &both[1], "it answers 410").await.unwrap();
    let shown = known("all").await;
    assert_eq!((shown.sent, shown.waiting, shown.given_up), (1, 0, 1));
    assert_eq!(shown.trouble.unwrap().0, "it answers 410");

    // Keys of the farm that have sealed something are known, and exchanged.
    let in_use = store.keys_in_use().await.unwrap();
    assert!(in_use.contains(&("new".to_owned(), 1)) && in_use.contains(&("key".to_owned(), 1)), "{in_use:?}");
    let old = store.notice_keys_by(&["key".to_owned()], None, 10).await.unwrap();
    let new = SealedKey { by: "newest".to_owned(), bytes: b"2".to_vec() };
    assert_eq!(old.len(), 1);
    assert!(store.reseal_notice_key(epoch, &old[0], &new).await.unwrap());
    assert!(!store.reseal_notice_key(epoch, &old[0], &new).await.unwrap());

    // With a notice goes what it has to tell, and with the last one what nobody is to be told.
    tell(&world, "third", How::Cancelled, None).await;
    for name in ["all", "ops"] {
        store.remove_notice(&tester(), project, name).await.unwrap();
    }
    let gone = store.remove_notice(&tester(), project, "all").await.unwrap_err();
    assert!(matches!(gone, StoreError::NotFound("notice")), "{gone}");
    assert_eq!(world.database.psql("SELECT count(*) FROM notice_messages"), "0");
    ended_build(&world, "after").await;
    assert!(!store.has_open_notices().await.unwrap());
}

/// A notice as it was before somebody changed it.
fn shown_before(new: &NewNotice) -> Notice {
    Notice {
        id: new.id,
        name: new.name.clone(),
        kind: new.kind,
        host: new.host.clone(),
        addresses: Vec::new(),
        rule: new.rule.clone(),
        version: new.version,
        sealed: new.sealed.clone(),
        created_by: String::new(),
        created_at: chrono::DateTime::UNIX_EPOCH,
        told_at: None,
        sent: 0,
        waiting: 0,
        given_up: 0,
        trouble: None,
        next_at: None,
        held_until: None,
        before_ends_at: None,
    }
}

#[tokio::test]
async fn what_has_failed_recovers_once_and_not_by_something_older() {
    let world = world().await;
    add(&world, "ops", &NoticeOn::USUAL).await;
    let (app, web) = (Some("app"), Some("web"));
    // In the order in which they were asked for; the second is the last to end.
    let older = world.submit("older", "linux/amd64", &[]).await;
    assert_eq!(tell(&world, "1", How::Succeeded, app).await, 0, "nothing was wrong");
    assert_eq!(tell(&world, "2", How::Failed, app).await, 1);
    world.store.cancel(&tester(), default_project(), older.id, PUBLISH).await.unwrap();
    let end = one_end(&world).await;
    let late = told(How::Failed, app, "older");
    assert_eq!(
        world.store.tell(world.epoch, &end, Some(&late)).await.unwrap(),
        0,
        "it says nothing of now, and would never recover"
    );
    assert_eq!(tell(&world, "3", How::Succeeded, web).await, 0, "that is another one");
    assert_eq!(tell(&world, "4", How::Cancelled, app).await, 0, "nobody knows");
    assert_eq!(tell(&world, "5", How::Succeeded, None).await, 0, "that is none of them");
    assert_eq!(tell(&world, "6", How::Succeeded, app).await, 1);
    assert_eq!(tell(&world, "7", How::Succeeded, app).await, 0, "it is well since");
    assert_eq!(waits(&world), ["ops failure 2", "ops recovered 6"]);
    // What nobody has heard of for long is forgotten.
    assert_eq!(world.store.forget_notice_lines(world.epoch, 10).await.unwrap(), 0);
    world.pass("91 days");
    assert_eq!(world.store.forget_notice_lines(world.epoch, 10).await.unwrap(), 2);
    // Nobody wants to know of this one.
    ended_build(&world, "8").await;
    assert_eq!(world.store.tell(world.epoch, &one_end(&world).await, None).await.unwrap(), 0);
    assert!(world.store.ended(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_ended_while_nobody_was_to_be_told_makes_nothing_recover() {
    let world = world().await;
    add(&world, "ops", &NoticeOn::USUAL).await;
    assert_eq!(tell(&world, "1", How::Failed, Some("app")).await, 1);
    world.store.remove_notice(&tester(), default_project(), "ops").await.unwrap();
    add(&world, "ops", &NoticeOn::USUAL).await;
    assert_eq!(
        tell(&world, "2", How::Succeeded, Some("app")).await,
        0,
        "nobody knows what it was in between"
    );
    // One beside another changes nothing.
    assert_eq!(tell(&world, "3", How::Failed, Some("app")).await, 1);
    add(&world, "chat", &NoticeOn::USUAL).await;
    assert_eq!(tell(&world, "4", How::Succeeded, Some("app")).await, 2);
}

#[tokio::test]
async fn a_flood_is_told_as_one_summary_when_its_hour_is_over() {
    let world = world().await;
    add(&world, "ops", &NoticeOn::USUAL).await;
    let more = 25;
    for n in 0..usize::try_from(MOST_AN_HOUR).unwrap() + more {
        assert_eq!(tell(&world, &format!("{n:02}"), How::Failed, None).await, 1);
    }
    let counted =
        |of: &str| world.database.psql(&format!("SELECT {of} FROM notice_messages WHERE hour_at IS NULL"));
    assert_eq!(counted("count(*)"), MOST_AN_HOUR.to_string());
    let held = "string_agg(facts ->> 'name', ',') FILTER (WHERE facts ->> 'held_until' IS NOT NULL)";
    assert_eq!(counted(held), "29", "the last one says so");
    assert_eq!(due(&world).await.len(), 10, "so many of one notice are read at once");
    // A branch's own failure comes at once, whatever else there is.
    ended_build(&world, "main").await;
    let main = Told { git_ref: Some("refs/heads/main".to_owned()), ..told(How::Failed, None, "main") };
    assert_eq!(world.store.tell(world.epoch, &one_end(&world).await, Some(&main)).await.unwrap(), 1);
    assert!(waits(&world).contains(&"ops failure main".to_owned()));
    assert!(world.store.notices(default_project()).await.unwrap()[0].held_until.is_some());
    world.database.psql("DELETE FROM notice_messages WHERE hour_at IS NULL");
    assert!(due(&world).await.is_empty(), "its hour isn't over");
    world.pass("61 minutes");
    let summary = claimed(&world).await;
    let [(_, summary)] = &summary[..] else { panic!("{summary:?}") };
    assert_eq!(summary.event, "summary");
    assert_eq!(summary.facts["counts"], json!({ "failure": more }));
    assert_eq!(
        (summary.facts["named"].as_array().unwrap().len(), &summary.facts["named"][0]["text"]),
        (20, &json!("failure 30"))
    );
    assert_eq!(summary.facts["unnamed"], json!(more - 20));
    assert!(summary.age < Duration::from_secs(120), "it wasn't to be told before");
    // The next hour begins anew.
    assert_eq!(tell(&world, "next", How::Failed, None).await, 1);
    assert!(waits(&world).contains(&"ops failure next".to_owned()));
    assert_eq!(world.store.notices(default_project()).await.unwrap()[0].held_until, None);
}

#[tokio::test]
async fn a_delivery_that_fails_is_an_end_and_a_build_says_by_which_it_was_begun() {
    let world = world().await;
    let (store, epoch) = (&world.store, world.epoch);
    let key = secret();
    let app = hook("app", &key);
    store.add_hook(&tester(), &app).await.unwrap();
    add(&world, "ops", &NoticeOn::USUAL).await;
    for id in ["1", "2"] {
        keep(&world, &app, &key, id, b"{}").await;
    }
    let waiting = store.waiting_deliveries(10).await.unwrap();
    let end = |state, reason: &str| End { state, reason: reason.to_owned(), builds: Vec::new() };
    store.end_delivery(epoch, &waiting[0], &end(DeliveryState::Ignored, "no rules")).await.unwrap();
    store.end_delivery(epoch, &waiting[1], &end(DeliveryState::Failed, ".farm.yaml: 2:1: no")).await.unwrap();
    let failed = one_end(&world).await;
    let expected =
        What::Delivery { hook: app.id, id: "2".to_owned(), reason: ".farm.yaml: 2:1: no".to_owned() };
    assert_eq!((&failed.what, failed.order_key), (&expected, None));
    let came = store.delivery_that_came(default_project(), app.id, "2").await.unwrap().unwrap();
    assert_eq!(
        (came.hook.as_str(), came.full_name.as_str(), came.body.as_slice()),
        ("app", "acme/app", &b"{}"[..])
    );
    assert_eq!(store.delivery_that_came(default_project(), app.id, "9").await.unwrap(), None);
    let build = ended_build(&world, "own").await;
    assert_eq!(store.begun_by(default_project(), build.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_project_has_so_many_mails_in_an_hour_and_a_row_that_isnt_understood_costs_itself_only() {
    let world = world().await;
    for _ in 0..MOST_MAILS {
        assert_eq!(world.store.count_mail(default_project()).await.unwrap(), None);
    }
    let left = world.store.count_mail(default_project()).await.unwrap().unwrap();
    assert!(left <= Duration::from_secs(3600) && left > Duration::from_secs(3000), "{left:?}");
    world.pass("61 minutes");
    assert_eq!(world.store.count_mail(default_project()).await.unwrap(), None);

    add(&world, "ops", &NoticeOn::USUAL).await;
    add(&world, "wrong", &NoticeOn::USUAL).await;
    world.database.psql("UPDATE notices SET refs = '{main}' WHERE name = 'wrong'");
    assert_eq!(tell(&world, "1", How::Failed, None).await, 1);
    assert_eq!(waits(&world), ["ops failure 1"]);
    let shown = world.store.notices(default_project()).await.unwrap();
    assert_eq!(shown.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["ops"]);
}
