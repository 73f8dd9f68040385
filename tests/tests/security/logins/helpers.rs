//! Credential helpers: real programs, run as another user, whose logins real registries take or don't.

use std::time::{Duration, Instant};

use super::*;

/// A helper that is a line for the shell.
fn helper(name: &str, at: &str, project: &str, line: &str, more: &str) -> String {
    format!(
        "[credential_helpers.{name}]\ncommand = ['/bin/sh', '-c', '''{line}''']\nuser = 'nobody'\ngroup = 'nogroup'\n\
         registries = ['{at}']\nprojects = ['{project}']\n{more}\n"
    )
}

async fn choose(client: &mut Client, host: &str, helper: &str) -> Result<v1::RegistryLogin, Status> {
    let request = v1::SetRegistryLoginRequest {
        host: host.to_owned(),
        helper: helper.to_owned(),
        ..Default::default()
    };
    Ok(client.registries.set_registry_login(request).await?.into_inner().login.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_runs_as_its_user_with_nothing_and_its_login_is_lent_for_a_while() {
    let ci = Login { user: "ci", password: "Pa55-of-ci" };
    let (registry, open) = (PrivateRegistry::start_with(Some(ci)), PrivateRegistry::start_with(None));
    let (at, open_at) = (registry.address(), open.address());
    // It gives the login to the user that it was promised, in an environment of nothing (PWD is the shell's own), in no other group,
    // without a right, asked for the right registry; and else tells what is wrong.
    let strict = "read host; e=$(/usr/bin/env | /usr/bin/grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=)
s=$(/usr/bin/id -un):$(/usr/bin/id -G):$(/usr/bin/grep -E ^Cap...: /proc/self/status | /usr/bin/grep -v ^CapBnd | /usr/bin/tr -d -c 1-9)
[ \"$host|$e|$s\" = \"$0\" ] || { echo \"found $host|$e|$s\" >&2; exit 3; }
echo \"{\\\"Username\\\": \\\"ci\\\", \\\"Secret\\\": \\\"Pa55-of-ci\\\"}\"";
    let group = std::process::Command::new("id").args(["-g", "nobody"]).output().unwrap().stdout;
    let group = String::from_utf8(group).unwrap().trim().to_owned();
    let strict = strict.replace("$0", &format!("{at}||nobody:{group}:"));
    let each = "echo \"{\\\"Username\\\": \\\"u\\\", \\\"Secret\\\": \\\"$(/usr/bin/date +%s%N)\\\"}\"";
    let config = [
        format!("[registries.'{at}']\n[registries.'{open_at}']\n"),
        helper("strict", &at, "web", &strict, ""),
        helper("long", &open_at, "*", each, ""),
        helper("short", &open_at, "web", each, "keep_seconds = 1"),
    ]
    .concat();
    let farm = Farm::builder().tls().config(&config).start();
    for project in ["web", "api"] {
        team::project(&farm, project).await;
    }
    let ada = team::person(&farm, "ada", "web", "admin").await;
    let bob = team::person(&farm, "bob", "api", "admin").await;
    let (mut ada, mut bob) = (Client::with_token(&farm, &ada).await, Client::with_token(&farm, &bob).await);
    let set = choose(&mut ada, &at, "strict").await.unwrap_or_else(|refused| {
        let log = std::fs::read_to_string(farm.folder().join("coordinator.log")).unwrap();
        panic!("{refused:?}\n{log}")
    });
    assert_eq!((set.helper.as_str(), set.username.as_str()), ("strict", ""));
    choose(&mut ada, &open_at, "long").await.unwrap();

    // It may be chosen where it is allowed, and nowhere else.
    let refused = choose(&mut bob, &at, "strict").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("project api may use no credential helper"), "{refused:?}");
    let refused = choose(&mut bob, &open_at, "short").await.unwrap_err();
    assert!(refused.message().contains("project api may use: long"), "{refused:?}");
    let refused = choose(&mut ada, &open_at, "strict").await.unwrap_err();
    assert!(refused.message().contains("project web may use: long, short"), "{refused:?}");

    let good = machine::machine(&farm, "good").await;
    let (mut sim, mut seen) = (connect(&farm, &good, asks("good")).await.unwrap(), Vec::new());
    submit(&mut ada, &format!("{at}/app:dev"), "1").await.unwrap();
    let lease = next(&mut sim, &mut seen).await.lease.unwrap();
    assert_eq!(login(&mut sim, &lease, &at).await.unwrap(), ("ci".to_owned(), "Pa55-of-ci".to_owned()));
    let first = login(&mut sim, &lease, &open_at).await.unwrap();
    assert_eq!(login(&mut sim, &lease, &open_at).await.unwrap(), first, "it counts for five minutes");
    choose(&mut ada, &open_at, "short").await.unwrap();
    let first = login(&mut sim, &lease, &open_at).await.unwrap();
    let began = Instant::now();
    while login(&mut sim, &lease, &open_at).await.unwrap() == first {
        assert!(began.elapsed() < Duration::from_secs(30), "another one after a second");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // It is in no row, and in no log.
    let rows = psql(farm.database_url(), "SELECT string_agg(to_jsonb(l)::text, ' ') FROM registry_logins l");
    let log = std::fs::read_to_string(farm.folder().join("coordinator.log")).unwrap();
    assert!(rows.contains("strict") && !rows.contains("Pa55") && !log.contains("Pa55"), "{rows}\n{log}");
    remove(&mut ada, &at).await.unwrap();
    assert_eq!(login(&mut sim, &lease, &at).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_that_fails_hangs_or_is_refused_keeps_nothing_and_says_so() {
    let registry = PrivateRegistry::start_with(Some(Login { user: "ci", password: "Pa55-of-ci" }));
    let at = registry.address();
    let wrong = "echo \"{\\\"Username\\\": \\\"ci\\\", \\\"Secret\\\": \\\"wr0ng\\\"}\"";
    let mut config = format!("[registries.'{at}']\n");
    for (name, line, more) in [
        ("fails", "echo it has no right to >&2; exit 7", ""),
        ("hangs", "/usr/bin/sleep 600 & /usr/bin/sleep 600", "timeout_seconds = 1"),
        ("floods", "/usr/bin/head -c 100000 /dev/zero", ""),
        ("silent", "exit 0", ""),
        ("wrong", wrong, ""),
        ("away", "", ""),
    ] {
        config.push_str(&helper(name, &at, "*", line, more));
    }
    let config = config.replace("['/bin/sh', '-c', '''''']", "['/nowhere/helper']");
    let farm = Farm::builder().tls().config(&config).start();
    let mut admin = Client::connect(&farm).await;
    for (name, code, said) in [
        ("fails", Code::Unavailable, "it ended with 7"),
        ("hangs", Code::Unavailable, "more than 1 s"),
        ("floods", Code::Unavailable, "more than 64 KiB"),
        ("silent", Code::Unavailable, "its answer is not"),
        ("wrong", Code::InvalidArgument, "doesn't take what credential helper \"wrong\" gives"),
        ("away", Code::Unavailable, "it ended with 127"),
        ("none", Code::InvalidArgument, "may use: away, fails"),
    ] {
        let refused = choose(&mut admin, &at, name).await.unwrap_err();
        assert_eq!(refused.code(), code, "{name}: {refused:?}");
        assert!(
            refused.message().contains(said) && !refused.message().contains("wr0ng"),
            "{name}: {refused:?}"
        );
    }
    assert!(list(&mut admin).await.is_empty());
    let log = std::fs::read_to_string(farm.folder().join("coordinator.log")).unwrap();
    assert!(log.contains("it has no right to") && !log.contains("wr0ng"), "{log}");
    // Whoever gives a name beside it means something else.
    let both = v1::SetRegistryLoginRequest {
        host: at.clone(),
        username: "ci".to_owned(),
        helper: "fails".to_owned(),
        ..Default::default()
    };
    let refused = admin.registries.set_registry_login(both).await.unwrap_err();
    assert!(refused.message().contains("leave these out"), "{refused:?}");
}
