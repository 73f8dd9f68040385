//! What helpers are asked, and what is made of their answers. That they run as they should is shown with real ones
//! (tests/tests/security/logins/helpers.rs).

use secrecy::ExposeSecret as _;

use super::*;

fn host(text: &str) -> RegistryHost {
    text.parse().unwrap()
}

fn clear(given: &Given) -> (&str, &str) {
    (&given.username, given.password.expose_secret())
}

#[test]
fn dockers_helpers_are_asked_by_host_and_give_name_and_secret() {
    let host = host("1.dkr.ecr.example");
    assert_eq!(question(HelperProtocol::Docker, &host), "1.dkr.ecr.example\n");
    let hub = "docker.io".parse().unwrap();
    assert_eq!(question(HelperProtocol::Docker, &hub), "https://index.docker.io/v1/\n");
    let given = docker(br#"{"ServerURL":"x","Username":"AWS","Secret":"pa55"}"#, &host).unwrap();
    assert_eq!(clear(&given), ("AWS", "pa55"));
    assert!(!format!("{given:?}").contains("pa55"));
    for (answer, word) in [
        (&b""[..], "Username"),
        (b"credentials not found in native keychain", "Username"),
        (br#"{"Username":"","Secret":"x"}"#, "no user's name"),
        (br#"{"Username":"a:b","Secret":"x"}"#, "can't be one"),
        (br#"{"Username":"a","Secret":""}"#, "no password"),
        (br#"{"Username":"<token>","Secret":"identity"}"#, "identity token"),
    ] {
        let why = docker(answer, &host).unwrap_err();
        assert!(why.contains(word) && !why.contains("identity\""), "{why}");
    }
}

#[test]
fn an_identity_token_of_acr_is_its_users_password() {
    let given = docker(br#"{"Username":"<token>","Secret":"t"}"#, &host("mine.azurecr.io")).unwrap();
    assert_eq!(clear(&given), (ACR_USER, "t"));
    assert!(docker(br#"{"Username":"<token>","Secret":"t"}"#, &host("azurecr.io.evil.example")).is_err());
}

#[test]
fn kubernetes_plugins_say_for_how_long_a_login_counts() {
    let host = host("1.dkr.ecr.example");
    let asked: serde_json::Value = serde_json::from_str(&question(HelperProtocol::Kubelet, &host)).unwrap();
    assert_eq!(asked["image"], "1.dkr.ecr.example/any");
    assert_eq!(asked["kind"], "CredentialProviderRequest");
    let answer = |auth: &str| {
        format!(
            r#"{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry",
                "cacheDuration":"5h50m0s","auth":{auth}}}"#
        )
    };
    let one = r#"{"*.dkr.ecr.*":{"username":"AWS","password":"p"}}"#;
    let (given, keep) = kubelet(answer(one).as_bytes(), &host).unwrap();
    assert_eq!((clear(&given), keep), (("AWS", "p"), Some(Duration::from_secs(21_000))));
    let two =
        r#"{"other":{"username":"a","password":"b"},"1.dkr.ecr.example":{"username":"AWS","password":"q"}}"#;
    let (given, _) = kubelet(answer(two).as_bytes(), &host).unwrap();
    assert_eq!(clear(&given), ("AWS", "q"));
    let foreign = two.replace("1.dkr", "2.dkr");
    for (answer, word) in [
        (answer("{}"), "gives none"),
        (answer(&foreign), "several"),
        (answer(one).replace("5h50m0s", "soon"), "cacheDuration"),
        (answer(one).replace("CredentialProviderResponse", "Pod"), "no CredentialProviderResponse"),
        (String::new(), "no CredentialProviderResponse"),
    ] {
        let why = kubelet(answer.as_bytes(), &host).unwrap_err();
        assert!(why.contains(word), "{answer}: {why}");
    }
}

#[test]
fn durations_are_read_as_go_writes_them() {
    for (text, seconds) in [
        ("12h0m0s", 43_200.0),
        ("90s", 90.0),
        ("1h30m", 5400.0),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("0", 0.0),
        ("0s", 0.0),
    ] {
        assert_eq!(go_duration(text), Some(Duration::from_secs_f64(seconds)), "{text}");
    }
    for text in ["", "12", "h", "1d", "-1s", "1h2", "1..5s", "99999999999999999999999h"] {
        assert_eq!(go_duration(text), None, "{text}");
    }
}

#[tokio::test]
async fn a_project_may_choose_what_is_for_it_and_is_told_what_that_is() {
    let helper = |registry: &str, project: &str| CredentialHelper {
        command: vec!["/nowhere".to_owned()],
        user: "nobody".to_owned(),
        group: None,
        protocol: HelperProtocol::Docker,
        registries: vec![registry.to_owned()],
        projects: vec![project.to_owned()],
        keep_seconds: 300,
        timeout_seconds: 10,
    };
    let helpers = Helpers::new(
        [("ecr", helper("r.example", "web")), ("gar", helper("g.example", "*"))]
            .map(|(n, h)| (n.to_owned(), h))
            .into(),
    );
    assert_eq!(helpers.check("ecr", "web", &host("r.example")), Ok(()));
    assert_eq!(helpers.check("gar", "app", &host("g.example")), Ok(()));
    let why = helpers.check("ecx", "web", &host("r.example")).unwrap_err();
    assert!(why.ends_with("may use: ecr"), "{why}");
    for (name, project, registry) in
        [("ecr", "app", "r.example"), ("ecr", "web", "r.example:1"), ("gar", "", "x.example")]
    {
        let why = helpers.check(name, project, &host(registry)).unwrap_err();
        assert!(why.contains("[credential_helpers.NAME]"), "{why}");
    }
    let why = helpers.get("none", &host("r.example")).await.unwrap_err();
    assert!(why.contains("any more"), "{why}");
}
