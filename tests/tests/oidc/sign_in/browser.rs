//! `farm login` with a browser: from the page that it opens to the end of the session.

use std::time::Duration;

use farm_tests::issuer::people::fields;
use rustix::process::Signal;
use serde_json::json;

use super::world::{World, get, person, wait, world, world_with};

#[test]
fn somebody_signs_in_by_a_browser_and_out_again() {
    let world = world();
    world.farm.cli(&["member", "set", "--group", "devs", "--role", "builder"]).ok();
    let said = world.sign_in();
    assert!(
        said.contains("A browser opens to sign in at ") && said.contains("/authorize?response_type=code"),
        "{said}"
    );
    assert!(
        said.contains("signed in as ada, in devs, until ")
            && said.contains("you are ada, builder in default there"),
        "{said}"
    );
    assert_eq!(world.issuer.taken(), ["authorization_code public"]);
    // From now on every command is ada's.
    let who = world.cli(&["whoami"]).ok();
    let issuer = world.issuer.url();
    for part in [
        "who      ada, a person",
        "may      builder of default",
        &format!("sign-in  at {issuer}, in devs"),
        "(in 12 h)",
    ] {
        assert!(who.contains(part), "{part}: {who}");
    }
    let who = world.cli(&["whoami", "--json"]).json();
    assert_eq!((&who["sign_in"]["issuer"], &who["sign_in"]["groups"][0]), (&issuer.into(), &"devs".into()));
    let listed = world.cli(&["token", "ls"]).ok();
    assert!(listed.contains("farm_i_") && listed.contains("sign-in on "), "{listed}");
    let token = world.kept();
    let mode = std::os::unix::fs::MetadataExt::mode(
        &std::fs::metadata(world.home(".config/farm/127.0.0.1.token")).unwrap(),
    );
    assert_eq!(mode & 0o777, 0o600);

    let out = world.cli(&["logout"]).ok();
    assert!(out.starts_with("your sign-in for 127.0.0.1") && out.contains("has ended"), "{out}");
    let mut copy = world.command(&["builds"]);
    copy.env("FARM_URL", world.farm.url()).env("FARM_TOKEN", &token);
    wait("end", Duration::from_secs(5), || {
        let said = farm_tests::farm::output(&mut copy);
        let is_over = said.status == 3 && said.stderr.contains("was revoked on");
        is_over.then(|| assert!(said.stderr.contains("your sign-in at http://127.0.0.1"), "{said:?}"))
    });
    // Without an address it is the farm that is used.
    let again = world.cli(&["login", "--token-stdin"]);
    assert!(again.status == 2 && again.stderr.contains("standard input is empty"), "{again:?}");
}

#[test]
fn whoever_signs_in_again_has_one_session_and_at_its_end_is_told_what_to_do() {
    let world = world();
    world.sign_in();
    let first = world.kept();
    world.sign_in();
    assert_ne!(world.kept(), first);
    let counts = "SELECT count(*) FROM tokens WHERE revoked_at IS NULL AND expires_at > farm_now()";
    assert_eq!(world.sql(counts), "1");
    // Also if somebody else signs in on that machine.
    person(&world.issuer, "subject-of-bob", "bob", json!([]));
    world.sign_in();
    assert_eq!(world.sql(counts), "1");
    world.sql("UPDATE tokens SET expires_at = farm_now() - interval '1 second'");
    let over = wait("end", Duration::from_secs(5), || {
        let said = world.cli(&["whoami"]);
        (said.status != 0).then_some(said)
    });
    assert_eq!(over.status, 3);
    let begins = format!("error: your sign-in at {} (farm_i_", world.farm.url());
    assert!(
        over.stderr.starts_with(&begins) && over.stderr.contains("sign in again: farm login"),
        "{over:?}"
    );
}

#[test]
fn a_farm_that_is_forgotten_or_replaced_has_no_session_of_it_left() {
    let mut world = world();
    let counts = "SELECT count(*) FROM tokens WHERE revoked_at IS NULL AND expires_at > farm_now()";
    let is_there =
        |world: &super::world::World, name: &str| world.home(&format!(".config/farm/{name}")).exists();
    world.sign_in();
    assert!(world.sql(counts) == "1" && is_there(&world, "127.0.0.1.ends"));
    let out = world.cli(&["config", "remove", "127.0.0.1"]).ok();
    assert!(out.starts_with("127.0.0.1 is forgotten, and your sign-in there has ended"), "{out}");
    assert_eq!(world.sql(counts), "0");
    assert!(!is_there(&world, "127.0.0.1.token") && !is_there(&world, "127.0.0.1.ends"));
    // By another token, or by none.
    for by in [&["--token-file", "/dev/null"][..], &[]] {
        world.sign_in();
        let url = world.farm.url();
        world.cli(&[&["config", "add", "127.0.0.1", &url, "--replace"], by].concat()).ok();
        assert_eq!(world.sql(counts), "0");
        assert!(!is_there(&world, "127.0.0.1.token") && !is_there(&world, "127.0.0.1.ends"));
    }
    // The same token at the same place goes on.
    world.sign_in();
    let (url, ours) = (world.farm.url(), world.home(".config/farm/127.0.0.1.token"));
    let ours = ours.to_str().unwrap();
    world
        .cli(&["config", "add", "127.0.0.1", &url, "--replace", "--project", "web", "--token-file", ours])
        .ok();
    assert_eq!(world.sql(counts), "1");
    let mut command = world.command(&["config", "add", "127.0.0.1", &url, "--replace", "--token-stdin"]);
    command.stdin(std::fs::File::open(world.home(".config/farm/127.0.0.1.token")).unwrap());
    let replaced = command.output().unwrap();
    assert!(replaced.status.success(), "{replaced:?}");
    assert!(world.sql(counts) == "1" && is_there(&world, "127.0.0.1.ends"));
    // A farm that is away isn't waited for; it is said until when it would take the token.
    world.farm.kill_coordinator();
    let removed = world.cli(&["config", "remove", "127.0.0.1"]);
    assert_eq!(
        (removed.status, removed.stdout.starts_with("127.0.0.1 is forgotten;")),
        (0, true),
        "{removed:?}"
    );
    let part = "is forgotten here; the farm, which can't be told, takes it until ";
    assert!(removed.stderr.contains(part) && removed.stderr.contains("(in 12 h)"), "{removed:?}");
    assert!(!is_there(&world, "127.0.0.1.token"));
}

/// What comes of a command that can write no file of more than a kilobyte.
fn unsaved(world: &World, args: &[&str]) -> std::process::Output {
    let like = world.command(args);
    let stdin = world.home("stdin");
    std::fs::write(&stdin, "farm_p_new\n").unwrap();
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "sh"]).arg(like.get_program()).args(args);
    command.env_clear();
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(std::fs::File::open(stdin).unwrap()).output().unwrap()
}

#[test]
fn a_farm_that_is_replaced_loses_a_session_only_and_only_when_it_is_saved() {
    let world = world();
    let counts = "SELECT count(*) FROM tokens WHERE revoked_at IS NULL AND expires_at > farm_now()";
    let is_there = |world: &World, name: &str| world.home(&format!(".config/farm/{name}")).exists();
    world.sign_in();
    let (url, ours) = (world.farm.url(), world.home(".config/farm/127.0.0.1.token"));
    // By whichever name, it is the file of that token.
    let other = world.home("other.token");
    std::os::unix::fs::symlink(&ours, &other).unwrap();
    let other = other.to_str().unwrap();
    let said = world.cli(&["config", "add", "127.0.0.1", &url, "--replace", "--token-file", other]);
    assert!(said.status == 0 && said.stderr.is_empty(), "{said:?}");
    assert!(world.sql(counts) == "1" && is_there(&world, "127.0.0.1.token"));
    let said = world.cli(&["config", "add", "127.0.0.1", &url, "--replace"]);
    let part = "127.0.0.1.token, with the token of your former sign-in, is removed";
    assert!(said.status == 0 && said.stderr.contains(part), "{said:?}");
    assert!(world.sql(counts) == "0" && !is_there(&world, "127.0.0.1.token"));
    // A token that an admin gave is nobody's session: it stays where it is, unless another one takes its place.
    let keeps = |token: &str, args: &[&str]| {
        let file = world.home("stdin");
        std::fs::write(&file, token).unwrap();
        let mut command = world.command(&[&["config", "add", "127.0.0.1", &url, "--replace"], args].concat());
        command.stdin(std::fs::File::open(&file).unwrap());
        let replaced = command.output().unwrap();
        assert!(replaced.status.success() && replaced.stderr.is_empty(), "{replaced:?}");
        world.kept()
    };
    assert_eq!(keeps("farm_p_abc\n", &["--token-stdin"]), "farm_p_abc");
    assert_eq!(keeps("", &["--token-file", "/dev/null"]), "farm_p_abc");
    // What can't be saved has ended and removed nothing.
    world.sign_in();
    let config = world.home(".config/farm/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\n# {}\n", "long ".repeat(1000))).unwrap();
    let token = world.kept();
    for args in [&["--token-file", "/dev/null"][..], &["--token-stdin"]] {
        let said = unsaved(&world, &[&["config", "add", "127.0.0.1", &url, "--replace"], args].concat());
        assert!(!said.status.success(), "{said:?}");
        assert!(world.sql(counts) == "1" && world.kept() == token && is_there(&world, "127.0.0.1.ends"));
    }
    let said = unsaved(&world, &["config", "remove", "127.0.0.1"]);
    assert!(!said.status.success() && world.sql(counts) == "1" && world.kept() == token, "{said:?}");
}

#[test]
fn the_port_believes_nobody_but_the_browser_that_was_sent() {
    let world = world();
    let (mut child, page) = world.login(&[]);
    let asked = fields(page.split_once('?').unwrap().1);
    let (back, state) = (&asked["redirect_uri"], &asked["state"]);
    assert!(back.starts_with("http://127.0.0.1:") && back.ends_with("/callback"), "{back}");
    for stranger in [
        format!("{back}?code=x&state=another"),
        format!("{back}?code=x"),
        back.clone(),
        format!("{back}?code=x&state={state}&iss=https%3A%2F%2Fevil.example"),
        back.replace("/callback", "/"),
        back.replace("/callback", &format!("/other?code=x&state={state}")),
    ] {
        assert_eq!(get(&stranger, None).0, 404, "{stranger}");
    }
    // What the browser was opened with leads there once: whoever looks it up in a list of processes comes too late, or is noticed.
    let start = std::fs::read_to_string(world.home("page")).unwrap();
    let (status, to, said) = get(&start, None);
    assert!(status == 410 && to.is_none() && said.contains("If that wasn't you"), "{said}");
    // A page in a browser whose name was made to stand for this machine.
    assert_eq!(get(&format!("{back}?code=x&state={state}"), Some("evil.example")).0, 404);
    assert!(child.is_running() && world.issuer.taken().is_empty());
    let (_, to, _) = get(&page, None);
    let (status, _, said) = get(&to.clone().unwrap(), None);
    assert!(status == 200 && said.contains("You are signed in"), "{said}");
    assert!(child.wait_exit(Duration::from_secs(20)).success(), "{}", child.output());
}

#[test]
fn a_refusal_in_the_browser_and_a_code_that_is_no_good_keep_nothing() {
    let world = world();
    world.issuer.people(|people| people.denies = true);
    let (mut child, page) = world.login(&[]);
    let (_, back, _) = get(&page, None);
    let (_, _, said) = get(&back.unwrap(), None);
    assert!(said.contains("You are not signed in; the terminal says why"), "{said}");
    assert_eq!(child.wait_exit(Duration::from_secs(20)).code(), Some(3));
    assert!(child.output().contains("lets nobody in (access_denied: not today)"), "{}", child.output());
    world.issuer.people(|people| people.denies = false);
    let (mut child, page) = world.login(&[]);
    let asked = fields(page.split_once('?').unwrap().1);
    let (_, _, said) = get(&format!("{}?code=made-up&state={}", asked["redirect_uri"], asked["state"]), None);
    assert!(said.contains("You are not signed in"), "{said}");
    assert_eq!(child.wait_exit(Duration::from_secs(20)).code(), Some(3));
    assert!(child.output().contains("doesn't take the code"), "{}", child.output());
    assert!(
        !world.home(".config/farm/config.toml").exists() && world.sql("SELECT count(*) FROM tokens") == "0"
    );
}

#[test]
fn ctrl_c_ends_it_cleanly() {
    let world = world();
    let (mut child, page) = world.login(&[]);
    child.signal(Signal::INT);
    assert_eq!(child.wait_exit(Duration::from_secs(10)).code(), Some(130));
    assert!(child.output().contains("nobody was signed in, and nothing was changed"), "{}", child.output());
    let back = &fields(page.split_once('?').unwrap().1)["redirect_uri"];
    let at = back.strip_prefix("http://").unwrap().split('/').next().unwrap();
    assert!(std::net::TcpStream::connect(at).is_err(), "it still listens");
    assert!(!world.home(".config/farm/config.toml").exists());
}

#[test]
fn no_secret_of_a_sign_in_is_in_a_log_or_the_audit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "s3cret-of-the-client\n").unwrap();
    let mut world = world_with(&format!("client_secret_file = {file:?}"), |farm| {
        farm.env("RUST_LOG", "info,farm_coordinator=trace,farm_store=trace")
    });
    world.issuer.people(|people| people.secret = Some("s3cret-of-the-client".to_owned()));
    world.sign_in();
    assert_eq!(world.issuer.taken(), ["authorization_code basic"]);
    let token = world.kept();
    let log = world.farm.coordinator().output();
    assert!(log.contains("signed in"), "{log}");
    let audit =
        world.sql("SELECT string_agg(principal || action || subject || detail::text, ' ') FROM audit");
    assert!(audit.contains("person.sign_in") && audit.contains("subject-of-ada"), "{audit}");
    for (place, text) in [("log", &log), ("audit", &audit)] {
        for secret in ["s3cret-", &token[13..], "eyJ"] {
            assert!(!text.contains(secret), "{secret} is in the {place}");
        }
    }
    // What the command says, it may be asked to say in public.
    assert!(!world.cli(&["whoami", "--json"]).ok().contains(&token[13..]));
}
