//! How often strangers may have the issuer asked.

use std::time::Duration;

use farm_proto::v1;
use farm_proto::v1::sign_in_request::By;
use farm_tests::process::Child;
use tonic::Code;

use super::world::{VERIFIER, world_with};

#[tokio::test(flavor = "multi_thread")]
async fn the_issuer_is_asked_for_strangers_so_often_and_who_has_signed_in_goes_on() {
    let world = world_with("[limits]\nsign_ins_per_minute_per_address = 30", |farm| farm);
    let mut door = world.door().await;
    let ada = door.sign_in().await.unwrap();
    let begin = async |door: &mut super::world::Door| {
        door.farm.begin_device_sign_in(v1::BeginDeviceSignInRequest {}).await
    };
    let mut asked = world.issuer.taken().len();
    let refused = loop {
        match begin(&mut door).await {
            Ok(_) => assert!(asked < 100, "nothing ends it"),
            Err(refused) => break refused,
        }
        asked += world.issuer.taken().len();
    };
    assert!(asked >= 30, "{asked}");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("30 sign-ins a minute from one address (127.0.0.1)"), "{refused}");
    let wait = farm_client::come_back(&refused).unwrap();
    assert!(wait <= Duration::from_secs(2), "{wait:?}");
    // The issuer hears nothing of it, whoever is known can work, and whether people sign in can be asked.
    assert!(world.issuer.taken().is_empty());
    assert_eq!(world.who(&ada.secret).await.unwrap().name, "ada");
    door.farm.get_sign_in(v1::GetSignInRequest {}).await.unwrap();
    // A command comes back when it was told to.
    let command = world.command(&["login", &world.farm.url(), "--device"]);
    let mut child = Child::spawn("login", &command, world.home("").as_path());
    let ended = tokio::task::spawn_blocking(move || {
        let ended = child.wait_exit(Duration::from_secs(60));
        (ended, child.output())
    });
    let (ended, said) = ended.await.unwrap();
    assert!(ended.success() && said.contains("signed in as ada"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_issuer_is_not_asked_about_counts_for_nobody() {
    let world = world_with("device = false\n[limits]\nsign_ins_per_minute_per_address = 3", |farm| farm);
    let mut door = world.door().await;
    let right = door.returned().await;
    let browser = |change: &dyn Fn(&mut v1::BrowserSignIn)| {
        let mut browser = right.clone();
        change(&mut browser);
        Some(By::Browser(browser))
    };
    let wrong = [
        (None, Code::InvalidArgument),
        (browser(&|browser| browser.code.clear()), Code::InvalidArgument),
        (browser(&|browser| browser.code_verifier = VERIFIER[1..40].to_owned()), Code::InvalidArgument),
        (browser(&|browser| browser.redirect_uri = "http://evil.example/".to_owned()), Code::Unauthenticated),
        (Some(By::Device(v1::DeviceSignIn { device_code: "x".to_owned() })), Code::FailedPrecondition),
    ];
    for (by, code) in wrong.iter().cycle().take(25) {
        let request = v1::SignInRequest { by: by.clone(), machine: String::new() };
        let refused = door.farm.sign_in(request).await.unwrap_err();
        assert_eq!(refused.code(), *code, "{refused}");
        let refused = door.farm.begin_device_sign_in(v1::BeginDeviceSignInRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    }
    assert!(world.issuer.taken().is_empty());
    for _ in 0..3 {
        door.sign_in().await.unwrap();
    }
    assert_eq!(door.sign_in().await.unwrap_err().code(), Code::ResourceExhausted);
}
