//! A project's logins for git: who sets them, and what is kept of them. (That they are lent to a job that fetches, and to no other, is
//! tried where sources are fetched.)

use farm_proto::v1;
use farm_tests::client::Client;
use farm_tests::database::psql;
use farm_tests::farm::Farm;
use tonic::Code;

/// Where the project of `ada`, its admin, and of `pia`, who may build, has none yet.
pub async fn are_sealed_and_told_to_nobody(farm: &Farm, ada: &mut Client, pia: &mut Client) {
    let token = |place: &str, user: &str, token: &str| v1::SetGitLoginRequest {
        place: place.into(),
        username: user.into(),
        token: token.into(),
        ..Default::default()
    };
    let pem = "-----BEGIN OPENSSH PRIVATE KEY-----\nhush-of-key\n-----END OPENSSH PRIVATE KEY-----\n";
    let key = |hosts: &[&str]| v1::SetGitLoginRequest {
        place: "github.com/acme".into(),
        key: pem.into(),
        host_keys: hosts.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    for (request, said) in [
        (token("git@github.com:acme", "x", "hush-of-token"), "write HOST, HOST/OWNER"),
        (token("github.com/acme", "a:b", "hush-of-token"), "without a colon"),
        (token("github.com/acme", "x", "hush\nof-token"), "one line"),
        (token("github.com/acme", "x", ""), "either a token or a key"),
        (v1::SetGitLoginRequest { key: pem.into(), ..token("github.com", "x", "hush-of-token") }, "either"),
        (key(&[]), "ssh-keyscan"),
        (key(&["* ssh-ed25519 AAAA\nevil"]), "ssh-keyscan"),
    ] {
        let refused = ada.git_logins.set_git_login(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(said) && !refused.message().contains("hush"), "{refused:?}");
    }
    let refused = pia.git_logins.set_git_login(token("github.com", "x", "hush-of-token")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let set = token("https://GitHub.com/acme/", "x", "hush-of-token");
    let set = ada.git_logins.set_git_login(set).await.unwrap().into_inner().login.unwrap();
    assert_eq!((&*set.place, &*set.kind, &*set.username), ("github.com/acme", "token", "x"));
    ada.git_logins.set_git_login(key(&["ssh-ed25519 AAAA"])).await.unwrap();
    let listed = ada.git_logins.list_git_logins(v1::ListGitLoginsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.logins.len(), 2);
    let all = "SELECT string_agg(r, ' ') FROM (SELECT to_jsonb(l)::text AS r FROM git_logins l
               UNION ALL SELECT to_jsonb(a)::text FROM audit a) rows";
    let dumped = psql(farm.database_url(), all);
    let hex: String = b"hush-of".iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(dumped.contains("git.login") && dumped.contains("sealed_key"), "{dumped}");
    assert!(!dumped.contains("hush") && !dumped.contains(&hex), "{dumped}");

    let removed = v1::RemoveGitLoginRequest { place: "github.com/acme".into() };
    let gone = ada.git_logins.remove_git_login(removed.clone()).await.unwrap().into_inner();
    assert_eq!(gone.kinds.len(), 2);
    let none = ada.git_logins.remove_git_login(removed).await.unwrap_err();
    assert!(none.message().contains("farm git ls"), "{none:?}");
    ada.git_logins.set_git_login(token("git.example:8443", "x", "hush-of-token")).await.unwrap();
}
