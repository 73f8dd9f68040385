//! How machines become workers: by an invitation that one key can use, with certificates that end unless they are renewed.

use farm_proto::v1;
use farm_tests::client::{Client, Sim, hello};
use farm_tests::database::psql;
use farm_tests::farm::Farm;
use farm_tests::machine::{self, invite, join};
use rcgen::KeyPair;
use tonic::Code;

use crate::workers::{LONG, NO_STAGING, as_invited, connect, revoke, workers};

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_is_used_once_and_in_its_time_by_whom_it_is_for() {
    let farm = Farm::builder().start();
    let mut admin = Client::connect(&farm).await;
    let token = invite(&farm, as_invited("")).await.unwrap().token;
    let refused = async |token: &str, name: &str, code: Code, words: &str| {
        let status = join(&farm, token, name).await.err().unwrap_or_else(|| panic!("{words}: it joined"));
        assert!(status.code() == code && status.message().contains(words), "{words}: {status:?}");
    };
    refused(&token, "", Code::InvalidArgument, "--name").await;
    refused(&token, "a b", Code::InvalidArgument, "letters").await;
    refused("farm_j_0", "w1", Code::Unauthenticated, "does not know").await;
    join(&farm, &token, "w1").await.unwrap();
    refused(&token, "w2", Code::Unauthenticated, "was used").await;

    // A name that is taken uses nothing up.
    let second = invite(&farm, as_invited("")).await.unwrap().token;
    refused(&second, "w1", Code::AlreadyExists, "farm workers revoke w1").await;
    let _old = Sim::connect(&admin, hello("w-old", 1)).await.unwrap();
    refused(&second, "w-old", Code::AlreadyExists, "farm workers invite --name w-old").await;
    join(&farm, &second, "w2").await.unwrap();
    // One that has worked with the farm's own token joins under its name when it is invited so.
    let third = invite(&farm, as_invited("w-old")).await.unwrap().token;
    refused(&third, "w3", Code::PermissionDenied, "for worker w-old").await;
    join(&farm, &third, "").await.unwrap();

    let withdrawn = invite(&farm, as_invited("w4")).await.unwrap();
    let listed = admin.machines.list_invitations(v1::ListInvitationsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.invitations.len(), 1, "{listed:?}");
    assert_eq!(listed.invitations[0].hint, &withdrawn.token[..12]);
    let request = v1::WithdrawInvitationRequest { invitation: withdrawn.token.clone() };
    admin.machines.withdraw_invitation(request.clone()).await.unwrap();
    refused(&withdrawn.token, "", Code::Unauthenticated, "taken back").await;
    assert_eq!(admin.machines.withdraw_invitation(request).await.unwrap_err().code(), Code::NotFound);
    let late = invite(&farm, as_invited("w5")).await.unwrap().token;
    psql(farm.database_url(), "UPDATE invitations SET expires_at = farm_now() WHERE name = 'w5'");
    refused(&late, "", Code::Unauthenticated, "could be used until").await;

    // Of many that use one at once, one joins.
    let token = invite(&farm, as_invited("")).await.unwrap().token;
    let names: Vec<String> = (0..8).map(|n| format!("racer-{n}")).collect();
    let joined = futures::future::join_all(names.iter().map(|name| join(&farm, &token, name))).await;
    assert_eq!(joined.iter().filter(|joined| joined.is_ok()).count(), 1);
    let rows = psql(farm.database_url(), "SELECT count(*) FROM audit WHERE action = 'worker.join'");
    assert_eq!(rows, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_first_certificate_got_lost_gets_another_by_its_key_and_nobody_else_does() {
    let farm = Farm::builder().start();
    let key = || KeyPair::generate().unwrap();
    let token = invite(&farm, as_invited("")).await.unwrap().token;
    let mine = key();
    let same = || KeyPair::from_pem(&mine.serialize_pem()).unwrap();
    // What came of this one is lost.
    let lost = machine::join_with(&farm, &token, "w1", same()).await.unwrap();
    let spent = async |name: &str, key: KeyPair| {
        let status = machine::join_with(&farm, &token, name, key).await.err().expect("it joined");
        assert!(
            status.code() == Code::Unauthenticated && status.message().contains("was used"),
            "{status:?}"
        );
    };
    spent("w1", key()).await;
    spent("w2", same()).await;
    let again = machine::join_with(&farm, &token, "w1", same()).await.unwrap();
    assert_eq!(again.name, "w1");
    assert_ne!(again.chain, lost.chain);
    let count = |sql: &str| psql(farm.database_url(), sql);
    assert_eq!(count("SELECT count(*) FROM joins"), "1");
    assert_eq!(count("SELECT count(*) FROM audit WHERE action = 'worker.join'"), "1");
    let rejoined = "SELECT principal || ' ' || subject FROM audit WHERE action = 'worker.rejoin'";
    assert_eq!(count(rejoined), "worker w1 w1");
    // Without end it isn't given, nor for longer than the invitation counts.
    let full = "INSERT INTO certificates (digest, join_id, expires_at)
                SELECT sha256(n::text::bytea), (SELECT id FROM joins), farm_now() + interval '1 h' FROM generate_series(1, 50) n";
    count(full);
    let many = machine::join_with(&farm, &token, "w1", same()).await.err().unwrap();
    assert!(many.code() == Code::ResourceExhausted && many.message().contains("50 certificates"), "{many:?}");
    count(
        "DELETE FROM certificates WHERE digest IN (SELECT sha256(n::text::bytea) FROM generate_series(1, 50) n)",
    );
    count("UPDATE invitations SET expires_at = farm_now()");
    spent("w1", same()).await;
    count("UPDATE invitations SET expires_at = farm_now() + interval '1 h'");
    machine::join_with(&farm, &token, "w1", same()).await.unwrap();
    // All are the same worker's. One that has connected has its certificate, and gets none by the token any more.
    let sim = connect(&farm, &again, hello("w1", 1)).await.unwrap();
    lost.renew(&farm).await.unwrap();
    spent("w1", same()).await;
    drop(sim);
    count("UPDATE workers SET removed_at = farm_now(), coordinator_id = NULL");
    spent("w1", same()).await;
    // Nor does one that was revoked.
    revoke(&farm, "w1").await;
    spent("w1", same()).await;
    // Of many calls of one worker each gives it a certificate, and it joins once.
    let token = invite(&farm, as_invited("w3")).await.unwrap().token;
    let joined =
        futures::future::join_all((0..8).map(|_| machine::join_with(&farm, &token, "", same()))).await;
    assert!(joined.iter().all(Result::is_ok), "{:?}", joined.into_iter().find_map(Result::err));
    assert_eq!(count("SELECT count(*) FROM joins WHERE revoked_at IS NULL"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_joined_and_never_connected_is_listed_and_can_be_revoked() {
    let farm = Farm::builder().env("FARM_STAGING", NO_STAGING).start();
    let mut admin = Client::connect(&farm).await;
    let request =
        v1::InviteWorkerRequest { trust: "untrusted".into(), pool: "arm".into(), ..as_invited("w1-second") };
    let token = invite(&farm, request).await.unwrap().token;
    let machine = join(&farm, &token, "").await.unwrap();
    let _old = Sim::connect(&admin, hello("w1", 1)).await.unwrap();
    let states = async || {
        let all = workers(&farm).await;
        all.into_iter().map(|worker| (worker.name, worker.state)).collect::<Vec<_>>()
    };
    let is = |name: &str, state: &str| (name.to_owned(), state.to_owned());
    assert_eq!(states().await, [is("w1", "online"), is("w1-second", "joined")]);
    let all = workers(&farm).await;
    let worker = &all[1];
    assert_eq!(
        (worker.machine.as_str(), worker.pool.as_str(), worker.trust.as_str()),
        ("w1-second", "arm", "untrusted")
    );
    assert_eq!((worker.last_seen_ms, worker.slots), (0, 0));
    let day = i64::try_from(machine.lives_ms).unwrap();
    assert!(worker.since_ms > 0 && worker.certificate_ends_ms >= worker.since_ms + day, "{worker:?}");
    // There is nothing to drain, and what there is to do is told.
    let request = v1::DrainWorkersRequest { names: vec!["w1-second".into()], within_ms: 0 };
    let refused = admin.farm.drain_workers(request).await.unwrap_err();
    assert!(
        refused.message().contains("never connected") && refused.message().contains("revoke w1-second"),
        "{refused:?}"
    );
    let request = v1::RevokeWorkersRequest { names: vec!["w1-secnd".into()] };
    let refused = admin.machines.revoke_workers(request).await.unwrap_err();
    assert!(refused.message().contains("did you mean w1-second?"), "{refused:?}");
    revoke(&farm, "w1-second").await;
    assert_eq!(states().await, [is("w1", "online")]);
    assert_eq!(
        connect(&farm, &machine, hello("w1-second", 1)).await.err().unwrap().code(),
        Code::Unauthenticated
    );

    // One that has connected is itself, also when it is offline or was removed.
    let machine = machine::machine(&farm, "w3").await;
    let sim = connect(&farm, &machine, hello("w3", 1)).await.unwrap();
    assert_eq!(states().await, [is("w1", "online"), is("w3", "online")]);
    drop(sim);
    psql(
        farm.database_url(),
        "UPDATE workers SET removed_at = farm_now(), coordinator_id = NULL WHERE name = 'w3'",
    );
    assert_eq!(states().await, [is("w1", "online")]);
    // Whoever joins under a name that was another's has not connected.
    revoke(&farm, "w3").await;
    machine::machine(&farm, "w3").await;
    assert_eq!(states().await, [is("w1", "online"), is("w3", "joined")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_joined_anew_under_the_name_of_one_that_is_gone_is_listed() {
    let farm = Farm::builder().start();
    let admin = Client::connect(&farm).await;
    let states = async || {
        let all = workers(&farm).await;
        all.into_iter().map(|worker| (worker.name, worker.state)).collect::<Vec<_>>()
    };
    let is = |name: &str, state: &str| (name.to_owned(), state.to_owned());
    let old = Sim::connect(&admin, hello("w1", 1)).await.unwrap();
    // One whose certificate can't be renewed any more.
    let machine = machine::machine(&farm, "w4").await;
    drop(connect(&farm, &machine, hello("w4", 1)).await.unwrap());
    for sql in [
        "UPDATE workers SET coordinator_id = NULL, connection_id = gen_random_uuid() WHERE name = 'w4'",
        "UPDATE certificates SET expires_at = farm_now() - interval '26 h'",
        "UPDATE joins SET revoked_at = farm_now(), expired = true WHERE revoked_at IS NULL",
    ] {
        psql(farm.database_url(), sql);
    }
    assert_eq!(states().await, [is("w1", "online"), is("w4", "expired")]);
    let machine = machine::machine(&farm, "w4").await;
    assert_eq!(states().await, [is("w1", "online"), is("w4", "joined")]);
    let _sim = connect(&farm, &machine, hello("w4", 1)).await.unwrap();
    assert_eq!(states().await, [is("w1", "online"), is("w4", "online")]);
    // One by the name of a worker that shows the farm's own token, which is shown as long as it is there.
    machine::machine(&farm, "w1").await;
    assert_eq!(states().await, [is("w1", "online"), is("w4", "online")]);
    drop(old);
    psql(
        farm.database_url(),
        "UPDATE workers SET coordinator_id = NULL, connection_id = gen_random_uuid() WHERE name = 'w1'",
    );
    assert_eq!(states().await, [is("w1", "joined"), is("w4", "online")]);
    revoke(&farm, "w1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_in_time_and_a_day_too_late() {
    let farm = Farm::builder().config("[limits]\nworker_certificate_seconds = 3").start();
    let first = machine::machine(&farm, "w1").await;
    assert_eq!((first.lives_ms, first.renew_ms), (3_000, 2_000));
    let mut sim = connect(&farm, &first, hello("w1", 1)).await.unwrap();
    let second = first.renew(&farm).await.unwrap();
    assert_eq!(second.name, "w1");
    // A stream that a certificate opened ends with it, and not with the one that came after.
    let cut = tokio::time::timeout(LONG, async {
        loop {
            if let Err(status) = sim.next().await {
                return status;
            }
        }
    });
    let status = cut.await.expect("it goes on");
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("renews it by itself"), "{status:?}");
    let late = connect(&farm, &first, hello("w1", 1)).await.err().unwrap();
    assert_eq!(late.code(), Code::Unauthenticated);
    // Both have ended; each can still be renewed, and the new one is good.
    let third = first.renew(&farm).await.unwrap();
    connect(&farm, &third, hello("w1", 1)).await.unwrap();
    psql(farm.database_url(), "UPDATE certificates SET expires_at = farm_now() - interval '25 h'");
    let over = second.renew(&farm).await.err().unwrap();
    assert!(over.message().contains("too long ago") && over.message().contains("invite"), "{over:?}");
    // As housekeeping frees its name; nobody has revoked it.
    psql(farm.database_url(), "UPDATE joins SET revoked_at = farm_now(), expired = true");
    let over = second.renew(&farm).await.err().unwrap();
    assert_eq!(over.code(), Code::Unauthenticated);
    for words in
        ["ended on", "can't be renewed any more", "farm workers invite --name w1", "farm-worker join"]
    {
        assert!(over.message().contains(words) && !over.message().contains("revoked"), "{words}: {over:?}");
    }
    let all = workers(&farm).await;
    let [worker] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((worker.state.as_str(), worker.since_ms), ("expired", worker.certificate_ends_ms));
    let request = v1::RevokeWorkersRequest { names: vec!["w1".to_owned()] };
    let out = Client::connect(&farm).await.machines.revoke_workers(request).await.unwrap_err();
    assert!(out.message().contains("is out already") && out.message().contains("invite"), "{out:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_to_a_machine_is_not_one_to_what_the_machine_has_become() {
    let farm = Farm::builder().env("FARM_STAGING", NO_STAGING).start();
    let request = v1::InviteWorkerRequest { trust: "untrusted".into(), ..as_invited("m1") };
    let token = invite(&farm, request).await.unwrap().token;
    join(&farm, &token, "").await.unwrap();
    let request = v1::InviteWorkerRequest { machine: "m1".into(), ..as_invited("m1-more") };
    let kept = invite(&farm, request).await.unwrap().token;
    revoke(&farm, "m1").await;
    // Another box of the same name, which is trusted.
    machine::machine(&farm, "m1").await;
    let refused = join(&farm, &kept, "").await.err().unwrap();
    assert!(
        refused.code() == Code::AlreadyExists && refused.message().contains("another one now"),
        "{refused:?}"
    );
}
