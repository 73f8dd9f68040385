//! What is decided without an issuer. The whole way, from a real one's answers on, is in `tests/tests/oidc/sign_in`.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::StatusCode;

use super::answers::refusal;
use super::oidc::fetch::{Answer, Form, Login};
use super::*;

/// Nobody is to be asked.
#[derive(Debug)]
struct Nobody;

impl Fetch for Nobody {
    fn get(&self, url: Url, _: Option<Login>, _: usize) -> BoxFuture<'static, Result<Answer, String>> {
        async move { panic!("{url} is asked") }.boxed()
    }

    fn post(&self, url: Url, _: Form, _: usize) -> BoxFuture<'static, Result<Answer, String>> {
        async move { panic!("{url} is asked") }.boxed()
    }
}

fn sign_ins(redirect: &str) -> SignIns {
    let text = format!("issuer = 'https://sso.example'\nclient_id = 'farm'\nredirect_uri = '{redirect}'\n");
    let mut settings: Settings = toml::from_str(&text).unwrap();
    settings.complete().unwrap();
    SignIns::new(settings, oidc::Settings::default(), Arc::new(Nobody)).unwrap()
}

#[test]
fn a_browser_is_sent_back_to_its_own_machine_as_configured_and_nowhere_else() {
    let any = sign_ins("http://127.0.0.1/callback");
    for right in ["http://127.0.0.1:40000/callback", "http://127.0.0.1:1/callback"] {
        any.check_redirect(right).unwrap();
    }
    for wrong in [
        "http://127.0.0.1/callback",
        "http://127.0.0.1:1/",
        "http://127.0.0.1:1/callback?a=b",
        "http://127.0.0.1:1/callback#a",
        "http://a@127.0.0.1:1/callback",
        "http://localhost:1/callback",
        "https://127.0.0.1:1/callback",
        "http://evil.example:1/callback",
        "http://127.0.0.1.evil.example:1/callback",
        "farm://callback",
        "",
    ] {
        let why = any.check_redirect(wrong).unwrap_err();
        assert!(matches!(&why, Refused::Token(why) if why.contains("may be sent back to")), "{wrong}: {why}");
    }
    let one = sign_ins("http://localhost:8400/");
    one.check_redirect("http://localhost:8400/").unwrap();
    assert!(one.check_redirect("http://localhost:8401/").is_err());
}

#[test]
fn what_an_issuer_refuses_is_told_to_whom_it_concerns_and_repeats_no_secret() {
    let said = |body: &str| {
        let answer =
            Answer { status: StatusCode::BAD_REQUEST, kind: String::new(), body: body.to_owned().into() };
        refusal("https://sso.example", &answer)
    };
    let denied = said("{\"error\":\"access_denied\",\"error_description\":\"not \\u001b[2J today\"}");
    assert!(matches!(&denied, Refused::Untrusted(why) if why.contains("not \\u{1b}[2J today")), "{denied}");
    assert!(
        matches!(said("{\"error\":\"expired_token\"}"), Refused::Token(why) if why.contains("begin again"))
    );
    assert!(
        matches!(said("{\"error\":\"invalid_grant\"}"), Refused::Token(why) if why.contains("begin again"))
    );
    let client = said("{\"error\":\"invalid_client\",\"error_description\":\"s3cret is wrong\"}");
    assert!(
        matches!(&client, Refused::Setup(why) if why.contains("[sign_in]") && !why.contains("s3cret")),
        "{client}"
    );
    assert!(matches!(said("{\"error\":\"unauthorized_client\"}"), Refused::Setup(_)));
    assert!(matches!(said("{\"error\":\"invalid_scope\"}"), Refused::Setup(_)));
    let request = said("{\"error\":\"invalid_request\",\"error_description\":\"no such parameter\"}");
    assert!(
        matches!(&request, Refused::Token(why) if why.contains("(\"invalid_request\": \"no such parameter\"); begin again")),
        "{request}"
    );
    assert!(
        matches!(said("{\"error\":\"brand_new\"}"), Refused::Token(why) if why.contains("\"brand_new\""))
    );
    assert!(matches!(said("<html>"), Refused::Unavailable(why) if why.contains("400")));
}

#[test]
fn a_verifier_is_what_rfc_7636_says_and_is_never_repeated() {
    // Its appendix B.
    let right = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    for right in [right, &"~.-_".repeat(32)] {
        check_verifier(right).unwrap();
    }
    for wrong in
        ["", &right[1..], &"a".repeat(129), &format!("{right}+"), &format!("{right} "), &format!("{right}é")]
    {
        let why = check_verifier(wrong).unwrap_err().to_string();
        assert!(why.starts_with("code_verifier \"…\": send 43 to 128 letters"), "{wrong}: {why}");
    }
}

#[test]
fn a_code_s_times_are_believed_within_bounds() {
    let times = |more: &str| {
        let text = format!(
            "{{\"device_code\":\"d\",\"user_code\":\"u\",\"verification_url\":\"https://sso.example/d\"{more}}}"
        );
        serde_json::from_str::<DeviceAnswer>(&text).unwrap().times()
    };
    assert_eq!(times(",\"expires_in\":600"), (5, 600));
    assert_eq!(times(",\"expires_in\":0,\"interval\":0"), (1, 1));
    assert_eq!(times(",\"expires_in\":999999,\"interval\":999999"), (60, 3600));
}

#[test]
fn a_token_is_called_by_the_machine_if_that_has_a_plain_name() {
    for (machine, expected) in [
        ("laptop-7.example", "sign-in on laptop-7.example"),
        ("", "sign-in"),
        ("\u{1b}[2J\n", "sign-in on 2J"),
        ("é", "sign-in"),
    ] {
        assert_eq!(label(machine), expected);
    }
    assert!(label(&"a".repeat(1000)).len() <= 100);
}

#[test]
fn where_groups_are_named_nobody_else_comes_in() {
    let with = |groups: &str| {
        let text = format!(
            "issuer = 'https://sso.example'\nclient_id = 'farm'\ngroups = {groups}\nadmin_groups = ['ops']\n"
        );
        let mut settings: Settings = toml::from_str(&text).unwrap();
        settings.complete().unwrap();
        SignIns::new(settings, oidc::Settings::default(), Arc::new(Nobody)).unwrap()
    };
    let somebody = |groups: &[&str]| Person {
        subject: "7".to_owned(),
        name: "ada".parse().map_err(|_| String::new()),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
    };
    with("[]").check_groups(&somebody(&[])).unwrap();
    let some = with("['devs', 'web']");
    some.check_groups(&somebody(&["x", "web"])).unwrap();
    some.check_groups(&somebody(&["ops"])).unwrap();
    for others in [&[][..], &["Devs", "x"]] {
        let why = some.check_groups(&somebody(others)).unwrap_err();
        assert!(matches!(&why, Refused::Untrusted(why) if why.contains("may sign in to this farm")), "{why}");
    }
}
