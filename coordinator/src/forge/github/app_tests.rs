//! Keys are made here and now, as none may lie about.

use std::process::Command;

use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use secrecy::ExposeSecret as _;

use super::*;

fn openssl(args: &[&str]) -> String {
    let made = Command::new("openssl").args(args).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap()
}

fn rsa(bits: &str) -> String {
    openssl(&["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", &format!("rsa_keygen_bits:{bits}")])
}

fn at(id: Option<&str>) -> At {
    At {
        api: "https://api.github.com".to_owned(),
        full_name: "acme/app".to_owned(),
        id: id.map(str::to_owned),
    }
}

fn answer(status: u16, body: Value) -> Answer {
    Answer { status, body, ..Default::default() }
}

#[test]
fn what_an_apps_key_signs_is_its_own_and_counts_for_less_than_ten_minutes() {
    let pem = rsa("2048");
    let key = Key::parse(&pem).unwrap();
    let signed = key.sign("Iv23liTest", 1_800_000_000).unwrap();
    let parts: Vec<&str> = signed.expose_secret().split('.').collect();
    let [head, claims, signature] = parts[..] else { panic!() };
    let read = |part: &str| serde_json::from_slice::<Value>(&BASE64.decode(part).unwrap()).unwrap();
    assert_eq!(read(head), json!({"alg": "RS256", "typ": "JWT"}));
    assert_eq!(read(claims), json!({"iss": "Iv23liTest", "iat": 1_799_999_940, "exp": 1_800_000_540}));
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.pair.public().as_ref());
    let signature = BASE64.decode(signature).unwrap();
    public.verify(format!("{head}.{claims}").as_bytes(), &signature).unwrap();
    assert!(public.verify(format!("{head}.{claims}x").as_bytes(), &signature).is_err());
    let other = Key::parse(&rsa("2048")).unwrap();
    let other = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, other.pair.public().as_ref());
    assert!(other.verify(format!("{head}.{claims}").as_bytes(), &signature).is_err());
    assert!(!format!("{key:?}").contains("pair"));
}

#[test]
fn a_key_is_refused_with_what_would_be_one() {
    let elliptic = openssl(&["genpkey", "-quiet", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    for (wrong, why) in [
        ("ghp_sometoken".to_owned(), "private key in PEM"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n".to_owned(),
            "isn't an RSA key",
        ),
        (
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n".to_owned(),
            "passphrase",
        ),
        (elliptic, "isn't an RSA key"),
        (rsa("1024"), "2048 bits"),
    ] {
        let said = Key::parse(&wrong).unwrap_err();
        assert!(said.contains(why), "{why}: {said}");
    }
    assert!(name("123").is_ok() && name("Iv1.0123456789abcdef").is_ok());
    assert!(name("").is_err() && name("../x").is_err() && name(&"1".repeat(65)).is_err());
}

#[test]
fn a_loan_is_for_one_repository_and_for_what_it_is_needed() {
    let app = App { name: "7".to_owned(), id: 7, installation: 5, key: Key::parse(&rsa("2048")).unwrap() };
    let ask = app.borrow(&at(Some("42")), Scope::Checks);
    assert_eq!(ask.url, "https://api.github.com/app/installations/5/access_tokens");
    let checks = json!({"checks": "write", "metadata": "read"});
    assert_eq!(ask.body, Some(json!({"repository_ids": [42], "permissions": checks})));
    let ask = app.borrow(&at(None), Scope::Webhooks).body.unwrap();
    let hooks = json!({"repository_hooks": "write", "metadata": "read"});
    assert_eq!(ask, json!({"repositories": ["app"], "permissions": hooks}));
    let keys = [(None, Scope::Checks), (None, Scope::Webhooks), (Some("42"), Scope::Checks)];
    let keys: Vec<Digest> = keys.iter().map(|(id, scope)| app.borrows(&at(*id), *scope)).collect();
    assert!(keys[0] != keys[1] && keys[0] != keys[2]);

    let now = DateTime::parse_from_rfc3339("2026-11-30T12:00:00Z").unwrap().to_utc();
    let counts = |ends: &str| {
        let (token, counts) = lent(&answer(201, json!({"token": "ghs_x", "expires_at": ends})), now).unwrap();
        assert_eq!(token.expose_secret(), "ghs_x");
        counts.as_secs()
    };
    assert_eq!(counts("2026-11-30T13:00:00Z"), 55 * 60);
    // Nobody lends for ever, and what is over, or of which it isn't said, is used once.
    assert_eq!(
        (counts("2030-01-01T00:00:00Z"), counts("2026-11-30T11:00:00Z"), counts("soon")),
        (55 * 60, 0, 0)
    );
    assert!(lent(&answer(201, json!({"token": ""})), now).is_none());
}

#[test]
fn an_app_has_to_be_installed_and_to_be_let_make_check_runs() {
    let installed =
        |checks: Value| answer(200, json!({"id": 5, "app_id": 7, "permissions": {"checks": checks}}));
    assert_eq!(found(&at(None), None, &installed(json!("write"))), Ok((7, 5)));
    let unfit = |asked, answer: &Answer| match found(&at(None), asked, answer) {
        Err(Ok(unfit)) => format!("{}; {}", unfit.why, unfit.cure),
        other => panic!("{other:?}"),
    };
    assert!(unfit(None, &installed(json!("read"))).contains("checks:read, and needs checks:write"));
    assert!(unfit(None, &installed(Value::Null)).contains("checks:none"));
    assert!(unfit(None, &answer(404, json!({}))).contains("isn't installed on acme/app"));
    assert!(unfit(Some(9), &answer(404, json!({}))).contains("no installation 9"));
    assert!(
        unfit(None, &answer(401, json!({"message": "A JSON web token could not be decoded"})))
            .contains("could not be decoded")
    );
    // One that somebody names has to be that of the repository's owner.
    let mut named = installed(json!("write"));
    assert!(matches!(found(&at(None), Some(5), &named), Err(Err(_))));
    named.body["account"] = json!({"login": "Acme"});
    assert_eq!(found(&at(None), Some(5), &named), Ok((7, 5)));
    named.body["account"] = json!({"login": "other"});
    assert!(unfit(Some(5), &named).contains("that of other, and acme has the repository"));
    let mut suspended = installed(json!("write"));
    suspended.body["suspended_at"] = json!("2026-01-01T00:00:00Z");
    assert!(unfit(None, &suspended).contains("suspended"));
    for away in [
        answer(503, Value::Null),
        answer(200, json!("<html>")),
        answer(403, json!({"message": "API rate limit exceeded"})),
    ] {
        assert!(matches!(found(&at(None), None, &away), Err(Err(_))), "{away:?}");
    }
}
