//! Which tokens let in whom, and what is said to the others.

use farm_store::people::trust::NewTrust;
use farm_store::{StoreError, default_project};
use farm_tests::issuer::{Key, Kind, unsecured};
use farm_types::{Digest, PrincipalKind, Role};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{AUDIENCE, ada, trusting, world};

#[tokio::test]
async fn a_job_is_let_in_as_its_repository_for_a_quarter_of_an_hour() {
    for kind in [Kind::Rs256, Kind::Es256, Kind::EdDsa] {
        let world = trusting(kind).await;
        let let_in = world.exchange(&world.token(json!({}))).await.unwrap();
        assert_eq!((let_in.project, let_in.role), (default_project(), Role::Builder));
        assert_eq!(let_in.subject.id, "repository_id=74");
        assert_eq!(let_in.subject.name, "github:acme/app@refs/heads/main");
        assert_eq!(let_in.issuer, world.issuer.url());
        let left = let_in.ends - world.store.now().await.unwrap();
        assert!((14 * 60..=15 * 60).contains(&left.num_seconds()), "{left}");
        let shown = world.store.shown_by(Digest::of(let_in.secret.as_bytes())).await.unwrap().unwrap();
        assert_eq!(
            (shown.principal.name, shown.principal.kind),
            (let_in.subject.name, PrincipalKind::Subject)
        );
        assert_eq!((shown.project, shown.role), (Some(default_project()), Some(Role::Builder)));
        let [member] = &shown.memberships[..] else { panic!("{:?}", shown.memberships) };
        assert_eq!((member.project, member.role), (default_project(), Role::Builder));
        let audit = "SELECT principal || ' ' || token_hint || ' ' || address || ' ' || action FROM audit ORDER BY id DESC LIMIT 1";
        let audit = world.database.psql(audit);
        assert_eq!(
            audit,
            format!("github:acme/app@refs/heads/main {} 192.0.2.7 token.exchange", let_in.hint)
        );
        let used = world.store.trusts(default_project()).await.unwrap();
        assert!(used[0].id == let_in.trust && used[0].last_used_at.is_some());
    }
}

#[tokio::test]
async fn a_token_is_taken_once() {
    let world = trusting(Kind::Es256).await;
    let token = world.token(json!({}));
    world.exchange(&token).await.unwrap();
    assert!(world.no_token(&token).await.contains("used before"));
    // The same once more, signed anew; and one without a name of its own.
    let claims = world.issuer.job(json!({"jti": "x"}));
    world.exchange(&world.key.sign(&claims)).await.unwrap();
    assert!(world.no_token(&world.key.sign(&claims)).await.contains("used before"));
    let mut claims = world.issuer.job(json!({}));
    claims.as_object_mut().unwrap().remove("jti");
    let first = world.key.sign(&claims);
    world.exchange(&first).await.unwrap();
    // ECDSA signs the same differently each time.
    let second = world.key.sign(&claims);
    assert_ne!(first, second);
    assert!(world.no_token(&second).await.contains("used before"));
}

#[tokio::test]
async fn a_repository_is_one_principal_whatever_it_is_called_and_names_are_shown_with_the_token() {
    let world = trusting(Kind::Es256).await;
    world.exchange(&world.token(json!({}))).await.unwrap();
    let renamed = json!({"repository": "acme/web", "ref": "refs/heads/next"});
    let renamed = world.exchange(&world.token(renamed)).await.unwrap();
    let principals = world.database.psql("SELECT name FROM principals WHERE kind = 'subject'");
    assert_eq!(principals, format!("{} repository_id=74", world.issuer.url()));
    let shown = world.store.shown_by(Digest::of(renamed.secret.as_bytes())).await.unwrap().unwrap();
    assert_eq!(shown.principal.name, "github:acme/web@refs/heads/next");
    // People's lists aren't full of them.
    let reach = farm_store::people::tokens::Reach { all: true, own: None, projects: Vec::new() };
    assert_eq!(world.store.tokens(&reach).await.unwrap(), []);
}

#[tokio::test]
async fn of_many_at_once_with_one_token_one_is_let_in() {
    let world = trusting(Kind::Es256).await;
    let token = world.token(json!({}));
    let all = futures::future::join_all((0..20).map(|_| world.exchange(&token))).await;
    assert_eq!(all.iter().filter(|one| one.is_ok()).count(), 1);
    assert_eq!((world.seen(), world.issuer.asked()), (1, 1));
}

#[tokio::test]
async fn a_token_that_is_refused_is_not_spent() {
    let world = trusting(Kind::Es256).await;
    let token = world.token(json!({"ref": "refs/heads/main"}));
    let now = std::time::Instant::now();
    world.exchange.exchange(&world.store, "", "web", &token, now).await.unwrap_err();
    assert_eq!(world.seen(), 0);
    world.exchange(&token).await.unwrap();
}

#[tokio::test]
async fn forged_tokens_are_refused_whatever_they_say_of_themselves() {
    let world = trusting(Kind::Rs256).await;
    let claims = world.issuer.job(json!({}));
    // Another's key under the same name; the published key as a secret; no signature; a key that the token brings along.
    let other = Key::new("one", Kind::Rs256);
    assert!(world.no_token(&other.sign(&claims)).await.contains("signature is wrong"));
    let elliptic = Key::new("one", Kind::Es256);
    assert!(world.no_token(&elliptic.sign(&claims)).await.contains("\"ES256\""));
    assert!(world.no_token(&world.key.confused(&claims)).await.contains("\"HS256\""));
    assert!(world.no_token(&unsecured(&claims)).await.contains("\"none\""));
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": "one", "jwk": other.public(), "jku": "http://127.0.0.1:9/k"});
    assert!(world.no_token(&other.sign_as(&header, &claims)).await.contains("signature is wrong"));
    // Its claims changed under a real signature.
    let real = world.token(json!({}));
    let (head, tail) = (real.split('.').next().unwrap(), real.rsplit('.').next().unwrap());
    let forged = world.token(json!({"repository_id": "1"}));
    let body = forged.split('.').nth(1).unwrap();
    assert!(world.no_token(&format!("{head}.{body}.{tail}")).await.contains("signature is wrong"));
    assert!(world.no_token("farm_0123").await.contains("three parts"));
    assert_eq!((world.seen(), world.issuer.asked()), (0, 1));
    world.exchange(&real).await.unwrap();
}

#[tokio::test]
async fn tokens_for_others_or_of_others_are_refused_and_told_what_to_ask_for() {
    let world = trusting(Kind::Es256).await;
    for aud in
        [json!("https://other.example"), json!(["https://other.example", AUDIENCE]), json!(null), json!("")]
    {
        let why = world.no_token(&world.token(json!({ "aud": aud }))).await;
        assert!(why.contains("not for this farm") && why.contains(AUDIENCE), "{why}");
    }
    world.exchange(&world.token(json!({"aud": [AUDIENCE]}))).await.unwrap();
    world.exchange(&world.token(json!({"aud": ["other", AUDIENCE], "azp": AUDIENCE}))).await.unwrap();
    // An issuer is its URL, letter for letter, and nobody asks one that isn't trusted.
    let asked = world.issuer.asked();
    let almost = [format!("{}/", world.issuer.url()), world.issuer.url().replace("127.0.0.1", "localhost")];
    for iss in [json!("https://issuer.example"), json!(almost[0]), json!(almost[1])] {
        let why = world.untrusted(&world.token(json!({ "iss": iss }))).await;
        assert!(why.contains("takes no tokens of") && why.contains(iss.as_str().unwrap()), "{why}");
    }
    assert!(world.no_token(&world.token(json!({"iss": null}))).await.contains("iss"));
    assert_eq!((world.issuer.asked(), world.seen()), (asked, 2));
}

#[tokio::test]
async fn tokens_out_of_their_time_are_refused_and_a_wrong_clock_is_told_as_such() {
    let world = trusting(Kind::Es256).await;
    let now = world.store.now().await.unwrap().timestamp();
    let old = world.token(json!({"iat": now - 600, "nbf": now - 600, "exp": now - 300}));
    assert!(world.no_token(&old).await.contains("has ended 5 min ago"));
    let token = world.token(json!({}));
    for (shift, why) in [
        ("-1 hour", "iat is 59 min in the future: the farm's clock"),
        ("1 hour", "If it is new, the farm's clock"),
    ] {
        world.database.psql(&format!("UPDATE farm_clock SET shift = '{shift}'::interval + interval '3 s'"));
        let said = world.no_token(&token).await;
        assert!(said.contains(why) && said.contains("or the issuer's is wrong"), "{said}");
    }
    world.database.psql("UPDATE farm_clock SET shift = '0'");
    world.exchange(&token).await.unwrap();
}

#[tokio::test]
async fn a_repository_that_took_the_name_is_refused_and_told_what_does_not_fit() {
    let world = trusting(Kind::Es256).await;
    let why = world.untrusted(&world.token(json!({"repository_id": "99"}))).await;
    assert!(why.contains("trusts another acme/app") && why.contains("its repository_id is \"99\""), "{why}");
    assert!(!why.contains("74"), "it says what the rule wants: {why}");
    // Under another name it is the same.
    let renamed = world.token(json!({"repository": "acme/application"}));
    assert_eq!(
        world.exchange(&renamed).await.unwrap().subject.name,
        "github:acme/application@refs/heads/main"
    );
}

#[tokio::test]
async fn conditions_are_told_to_the_repository_that_they_are_about_and_to_nobody_else() {
    let world = world(Kind::Es256).await;
    world.trust(Role::Publisher, json!({"ref": ["refs/tags/v*"], "environment": ["production"]})).await;
    let branch = world.untrusted(&world.token(json!({"environment": "production"}))).await;
    assert!(branch.contains("if ref is \"refs/tags/v*\", and its ref is \"refs/heads/main\""), "{branch}");
    let none = world.untrusted(&world.token(json!({"ref": "refs/tags/v1"}))).await;
    assert!(none.contains("environment is \"production\", and it has no environment"), "{none}");
    let tag = json!({"ref": "refs/tags/v1", "environment": "production"});
    assert_eq!(world.exchange(&world.token(tag)).await.unwrap().role, Role::Publisher);
    // Of two rules that fit the one that gives more.
    world.trust(Role::Builder, json!({})).await;
    assert_eq!(world.exchange(&world.token(json!({}))).await.unwrap().role, Role::Builder);
    let both = json!({"ref": "refs/tags/v2", "environment": "production"});
    assert_eq!(world.exchange(&world.token(both)).await.unwrap().role, Role::Publisher);
    let strangers = world.untrusted(&world.token(json!({"event_name": "pull_request_target"}))).await;
    assert!(strangers.contains("anything but pull_request_target"), "{strangers}");
}

#[tokio::test]
async fn a_stranger_learns_nothing_of_a_project_not_even_whether_it_is_there() {
    let world = trusting(Kind::Es256).await;
    world.database.psql("INSERT INTO projects (id, name) VALUES (gen_random_uuid(), 'web')");
    let stranger = json!({"repository": "evil/app", "repository_id": "1", "repository_owner": "evil", "repository_owner_id": "2"});
    let token = world.token(stranger);
    let mut said = Vec::new();
    // It trusts another; it trusts nobody; it isn't there.
    for project in ["default", "web", "nothing"] {
        let now = std::time::Instant::now();
        let why = world.exchange.exchange(&world.store, "", project, &token, now).await.unwrap_err();
        said.push(format!("{why:?}").replace(project, "PROJECT"));
    }
    assert_eq!((&said[0], &said[1]), (&said[1], &said[2]));
    assert!(said[0].contains("no project") && said[0].contains("evil/app"), "{}", said[0]);
    assert_eq!(world.seen(), 0);
}

#[tokio::test]
async fn a_revoked_trust_lets_nobody_in_any_more() {
    let world = world(Kind::Es256).await;
    let trust = world.trust(Role::Builder, json!({})).await;
    world.exchange(&world.token(json!({}))).await.unwrap();
    world.store.revoke_trust(&ada(), default_project(), trust).await.unwrap();
    let counts = "SELECT count(*) FROM tokens WHERE trust_id IS NOT NULL AND revoked_at IS NULL";
    assert_eq!(world.database.psql(counts), "0");
    // Nobody trusts this issuer now.
    assert!(world.untrusted(&world.token(json!({}))).await.contains("takes no tokens of"));
    let again = world.store.revoke_trust(&ada(), default_project(), trust).await;
    assert!(matches!(again, Err(StoreError::NotFound("trust"))));
    let other = world.store.revoke_trust(&ada(), farm_types::ProjectId::from(Uuid::nil()), trust).await;
    assert!(matches!(other, Err(StoreError::NotFound("trust"))));
}

#[tokio::test]
async fn a_trust_that_can_not_be_read_trusts_nobody_and_leaves_the_others_alone() {
    let world = world(Kind::Es256).await;
    let add = async |claims: Value, provider: &str| {
        let new = NewTrust {
            project: default_project(),
            issuer: world.issuer.url(),
            audience: AUDIENCE.to_owned(),
            provider: provider.to_owned(),
            name: "acme/app".to_owned(),
            claims,
            role: Role::Admin,
        };
        world.store.add_trust(&ada(), &new).await.unwrap()
    };
    // A name alone, a word for a list, and no ids: nothing that farm itself would add.
    add(json!({"repository": ["acme/app"]}), "github").await;
    add(json!({"repository_id": "74", "repository_owner_id": "65"}), "github").await;
    add(json!({"ref": ["*"]}), "github").await;
    assert!(world.untrusted(&world.token(json!({}))).await.contains("no project"));
    world.trust(Role::Viewer, json!({})).await;
    assert_eq!(world.exchange(&world.token(json!({}))).await.unwrap().role, Role::Viewer);
    // Of any issuer what is written counts.
    add(json!({"sub": ["robot"], "groups": ["builders"]}), "other").await;
    let robot = world.token(json!({"sub": "robot", "groups": ["builders", "x"], "repository_id": null}));
    let robot = world.exchange(&robot).await.unwrap();
    assert_eq!((robot.role, robot.subject.name.as_str()), (Role::Admin, "other:robot"));
}
