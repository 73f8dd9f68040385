//! `farm login` with a code for another device.

use std::time::{Duration, Instant};

use farm_proto::v1;
use farm_proto::v1::sign_in_request::By;
use farm_proto::v1::sign_in_response::Came;
use farm_tests::issuer::people::People;
use farm_tests::process::Child;
use farm_tests::tap::Tap;
use serde_json::json;
use tonic::Code;

use super::world::{World, get, wait, world, world_with};

fn login(world: &World) -> Child {
    let command = world.command(&["login", &world.farm.url(), "--device"]);
    Child::spawn("login", &command, world.home("").as_path())
}

#[test]
fn a_code_is_shown_and_waited_for_as_slowly_as_the_issuer_wants() {
    let world = world();
    world.issuer.people(|people| people.before = ["authorization_pending", "slow_down"].into());
    let begin = Instant::now();
    let mut child = login(&world);
    child.wait_for_line("and enter the code  WDJB-MJHT", Duration::from_secs(20));
    assert!(child.wait_exit(Duration::from_secs(40)).success(), "{}", child.output());
    let said = child.output();
    assert!(said.contains(&format!("or open  {}/enter?code=WDJB-MJHT", world.issuer.url())), "{said}");
    assert!(said.contains("signed in as ada, in devs") && !said.contains("s3cret-device"), "{said}");
    // Each second, and after "slow down" each sixth.
    assert!(begin.elapsed() >= Duration::from_secs(8), "{:?}", begin.elapsed());
    assert_eq!(
        world.issuer.taken(),
        ["device public", "device_code public", "device_code public", "device_code public"]
    );
    assert!(world.cli(&["whoami"]).ok().starts_with("who      ada, a person"));
}

#[test]
fn a_code_that_is_refused_or_late_lets_nobody_in_and_keeps_nothing() {
    let mut world = world();
    for (error, part) in [
        ("expired_token", "the code wasn't entered in time"),
        ("access_denied", "was refused there (\"access_denied\""),
        ("invalid_grant", "doesn't take the code"),
        ("invalid_request", "doesn't understand what it was sent (\"invalid_request\""),
        ("invalid_client", "whoever runs the farm looks at client_id"),
    ] {
        world.issuer.people(|people| people.before = [error].into());
        let mut child = login(&world);
        assert_eq!(child.wait_exit(Duration::from_secs(20)).code(), Some(3), "{error}");
        assert!(child.output().contains(part), "{error}: {}", child.output());
    }
    assert!(!world.home(".config/farm/config.toml").exists());
    // Some say so of a secret that is wrong: whoever runs the farm is told.
    let log = world.farm.coordinator().output();
    assert!(log.contains("look at client_secret_file and client_auth in [sign_in]"), "{log}");
}

/// What was lost may have been that nobody has entered the code yet.
#[test]
fn a_code_that_is_still_good_is_waited_for_though_an_answer_was_lost() {
    let world = world();
    world.issuer.people(|people| people.before = ["slow_down"].into());
    // A message of gRPC of four bytes: to be asked again (2), after so many seconds more (1): 5.
    let tap = Tap::cutting(world.farm.port(), Some("\0\0\0\0\u{4}\u{12}\u{2}\u{8}\u{5}"));
    let command = world.command(&["login", &tap.url(), "--device"]);
    let mut child = Child::spawn("login", &command, world.home("").as_path());
    assert!(child.wait_exit(Duration::from_secs(40)).success(), "{}", child.output());
    assert!(child.output().contains("signed in as ada"), "{}", child.output());
    assert_eq!(world.issuer.taken(), ["device public", "device_code public", "device_code public"]);
    // Before there is a code, nothing has been given that could count once.
    let tap = Tap::cutting(world.farm.port(), Some("WDJB-MJHT"));
    let command = world.command(&["login", &tap.url(), "--name", "other", "--device"]);
    let mut child = Child::spawn("login", &command, world.home("").as_path());
    assert_eq!(child.wait_exit(Duration::from_secs(40)).code(), Some(3), "{}", child.output());
    assert!(!child.output().contains("counts once"), "{}", child.output());
}

/// A code counts once, so whoever isn't told what came of it has to begin again; and what came of it must not count for long.
#[test]
fn whoever_is_not_told_that_they_are_in_begins_again_and_the_session_that_is_lost_ends() {
    let world = world();
    for way in ["--device", "--browser"] {
        world.issuer.taken();
        let tap = Tap::cutting(world.farm.port(), Some("farm_i_"));
        let mut child = match way {
            "--device" => {
                let command = world.command(&["login", &tap.url(), "--device"]);
                Child::spawn("login", &command, world.home("").as_path())
            }
            _ => {
                let (child, page) = world.login_at(&tap.url(), &[]);
                let (_, back, _) = get(&page, None);
                assert!(get(&back.unwrap(), None).2.contains("You are not signed in"));
                child
            }
        };
        assert_eq!(child.wait_exit(Duration::from_secs(30)).code(), Some(3), "{}", child.output());
        let said = child.output();
        assert!(said.contains(&format!("Begin again: farm login {}", tap.url())), "{said}");
        let asked: Vec<String> = world.issuer.taken();
        // Of a device's code it is asked whether it still counts.
        let times = if way == "--device" { 2 } else { 1 };
        assert_eq!(asked.iter().filter(|asked| asked.contains("_code ")).count(), times, "{asked:?}");
    }
    assert!(!world.home(".config/farm/config.toml").exists());
    let counts = "SELECT count(*) FROM tokens WHERE revoked_at IS NULL AND expires_at > farm_now()";
    assert_eq!(world.sql(counts), "2");
    // Somebody who has got theirs, and uses it.
    world.sign_in();
    assert_eq!(world.sql("SELECT count(*) FROM tokens WHERE last_used_at IS NOT NULL"), "1");
    world.sql("UPDATE tokens SET created_at = created_at - interval '16 minutes'");
    wait("end", Duration::from_secs(30), || (world.sql(counts) == "1").then_some(()));
    assert!(world.cli(&["whoami"]).ok().starts_with("who      ada"));
}

#[test]
fn a_farm_or_an_issuer_without_such_codes_says_so() {
    let off = world_with("device = false", |farm| farm);
    let said = off.cli(&["login", &off.farm.url(), "--device"]);
    assert!(
        said.status == 3 && said.stderr.contains("nobody signs in with a code on another device"),
        "{said:?}"
    );
    let world = world();
    world.issuer.people(|people| people.devices = false);
    let said = world.cli(&["login", &world.farm.url(), "--device"]);
    assert!(said.status == 3 && said.stderr.contains("try --browser"), "{said:?}");
    // Nobody is there who could be asked; and a farm without a sign-in.
    let said = world.cli(&["login", &world.farm.url()]);
    assert!(said.status == 2 && said.stderr.contains("sign in with --device or --browser"), "{said:?}");
    let none = farm_tests::farm::Farm::builder().start();
    let said = world.cli(&["login", &none.url(), "--device"]);
    assert!(said.status == 3 && said.stderr.contains("nobody signs in to the farm at"), "{said:?}");
    assert!(world.cli(&["login", &none.url()]).stderr.contains("give it by --token-stdin"));
}

/// The farm keeps nothing in between: a code of one coordinator is turned into a token by another.
#[tokio::test(flavor = "multi_thread")]
async fn each_of_several_coordinators_goes_on_with_what_another_began() {
    let world = world_with("", |farm| farm.coordinators(3));
    let mut doors = Vec::new();
    for place in 0..3 {
        doors.push(super::world::Door::of(&world.farm.url_of(place)).await);
    }
    let begun =
        doors[0].farm.begin_device_sign_in(v1::BeginDeviceSignInRequest {}).await.unwrap().into_inner();
    assert_eq!((begun.interval_seconds, begun.lives_seconds), (1, 60));
    world.issuer.people(|people| people.before = ["authorization_pending"].into());
    let ask = || v1::SignInRequest {
        by: Some(By::Device(v1::DeviceSignIn { device_code: begun.device_code.clone() })),
        machine: String::new(),
    };
    let pending = doors[1].farm.sign_in(ask()).await.unwrap().into_inner().came;
    assert_eq!(pending, Some(Came::Pending(v1::SignInPending { more_seconds: 0 })));
    let came = doors[2].farm.sign_in(ask()).await.unwrap().into_inner().came;
    let Some(Came::SignedIn(signed_in)) = came else { panic!("{came:?}") };
    assert_eq!(signed_in.name, "ada");
    // A code counts once, and the token everywhere.
    assert_eq!(doors[0].farm.sign_in(ask()).await.unwrap_err().code(), Code::Unauthenticated);
    let returned = doors[1].returned().await;
    assert_eq!(doors[2].enter(returned).await.unwrap().name, "ada");
    assert_eq!(world.who(&signed_in.secret).await.unwrap().name, "ada");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_farm_shows_its_secret_as_the_issuer_wants_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "s3cret:of/the client\n").unwrap();
    let world = world_with(&format!("client_secret_file = {file:?}"), |farm| farm);
    let mut door = world.door().await;
    let ada = json!({"sub": "subject-of-ada", "preferred_username": "ada"});
    // One that doesn't say how is shown a login.
    let confidential = People { secret: Some("s3cret:of/the client".into()), ..People::new(&world.key, ada) };
    world.issuer.lets_in(confidential.clone());
    door.sign_in().await.unwrap();
    assert_eq!(world.issuer.taken(), ["authorization_code basic"]);
    world.issuer.lets_in(People { secret: Some("another".into()), ..confidential });
    let refused = door.sign_in().await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("client_secret_file") && !refused.message().contains("s3cret"),
        "{refused}"
    );

    // How it wants that is asked once an hour: another farm.
    let posts = world_with(&format!("client_secret_file = {file:?}"), |farm| farm);
    let ada = json!({"sub": "subject-of-ada", "preferred_username": "ada"});
    let secret = Some("s3cret:of/the client".into());
    posts.issuer.lets_in(People {
        secret,
        methods: Some(vec!["client_secret_post"]),
        ..People::new(&posts.key, ada)
    });
    posts.door().await.sign_in().await.unwrap();
    assert_eq!(posts.issuer.taken(), ["authorization_code post"]);

    // The configuration's word counts before the issuer's, which may say what is true of other clients only.
    for (said, offers, how) in [("post", None, "post"), ("basic", Some(vec!["client_secret_post"]), "basic")]
    {
        let more = format!("client_secret_file = {file:?}\nclient_auth = '{said}'");
        let other = world_with(&more, |farm| farm);
        let ada = json!({"sub": "subject-of-ada", "preferred_username": "ada"});
        let secret = Some("s3cret:of/the client".into());
        other.issuer.lets_in(People { secret, methods: offers, ..People::new(&other.key, ada) });
        let entered = other.door().await.sign_in().await;
        assert_eq!(other.issuer.taken(), [format!("authorization_code {how}")]);
        // This issuer means what it says.
        assert_eq!(entered.is_ok(), said == "post", "{entered:?}");
    }
}
