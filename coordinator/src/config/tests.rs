//! Files, flags and mistakes in them.

use super::*;
use clap::Parser;

fn load(text: &str, flags: &[&str]) -> Result<Config, Invalid> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("farm.toml");
    std::fs::write(&path, text).unwrap();
    let mut all = vec!["farm-coordinator", "--config", path.to_str().unwrap()];
    all.extend(flags);
    Config::load(&Flags::parse_from(all))
}

#[test]
fn flags_override_the_file_and_the_rest_has_defaults() {
    let text = "database_url = 'postgres://a:pw@b/c'\nlisten = '127.0.0.1:1'\n[limits]\nlease_seconds = 40\n\
                [registries.'r:5000']\nusername = 'u'\npassword = 'p'\n";
    let config = load(text, &["--listen", "127.0.0.1:2"]).unwrap();
    assert_eq!(config.listen.port(), 2);
    assert_eq!(config.limits.lease_seconds, 40);
    assert_eq!(config.limits.suspect_seconds, 12);
    let printed = format!("{config:?}");
    assert!(!printed.contains("\"p\"") && !printed.contains("pw@"), "a password is printed: {printed}");
}

#[test]
fn others_reach_it_where_it_listens_unless_told_otherwise() {
    let advertised = |flags: &[&str]| load("database_url='x'", flags).map(|config| config.advertised());
    assert_eq!(advertised(&["--listen", "10.0.0.1:7"]).unwrap(), "https://10.0.0.1:7");
    let everywhere = advertised(&["--listen", "0.0.0.0:7"]).unwrap();
    assert!(everywhere.ends_with(":7") && !everywhere.contains("0.0.0.0"), "{everywhere}");
    assert_eq!(advertised(&["--advertise", "https://c1.example/"]).unwrap(), "https://c1.example");
    let here = advertised(&["--listen", "127.0.0.1:7", "--advertise", "http://c1:7070"]).unwrap();
    assert_eq!(here, "http://c1:7070");
    // Who speaks TLS is not reached without.
    let all = ["--listen", "0.0.0.0:7", "--advertise", "http://c1:7070"];
    assert_eq!(advertised(&all).unwrap(), "https://c1:7070");
    for wrong in ["c1:7070", "http://", "http://c1/path", "ftp://c1"] {
        let error = advertised(&["--advertise", wrong]).unwrap_err().to_string();
        assert!(error.contains("http://HOST:PORT") && error.contains(wrong), "{error}");
    }
}

#[test]
fn other_machines_are_served_with_tls_unless_it_is_said_twice() {
    let tls = |flags: &[&str]| load("database_url='x'", flags).map(|config| config.speaks_tls());
    assert_eq!(tls(&[]), Ok(false));
    assert_eq!(tls(&["--listen", "[::1]:7"]), Ok(false));
    assert_eq!(tls(&["--tls", "on"]), Ok(true));
    assert_eq!(tls(&["--tls", "local"]), Ok(false));
    let open = tls(&["--tls", "local", "--listen", "0.0.0.0:7"]).unwrap_err().to_string();
    assert!(open.contains("0.0.0.0:7") && open.contains("127.0.0.1"), "{open}");
    for listen in ["0.0.0.0:7", "[::]:7", "10.0.0.1:7"] {
        assert_eq!(tls(&["--listen", listen]), Ok(true));
        let refused = tls(&["--listen", listen, "--tls", "off"]).unwrap_err().to_string();
        assert!(refused.contains("--insecure-plaintext") && refused.contains(listen), "{refused}");
        assert_eq!(tls(&["--listen", listen, "--tls", "off", "--insecure-plaintext"]), Ok(false));
    }
    assert!(tls(&["--insecure-plaintext"]).unwrap_err().to_string().contains("--tls off"));
    let of = |text: &str| load(&format!("database_url='x'\n[tls]\n{text}"), &[]).map_err(|e| e.to_string());
    assert!(of("certificate='c.pem'").unwrap_err().contains("key"));
    assert!(of("key='k.pem'").unwrap_err().contains("certificate"));
    assert!(of("certificate='c.pem'\nkey='k.pem'").unwrap().speaks_tls());
    let local = of("mode='local'\ncertificate='c.pem'\nkey='k.pem'").unwrap();
    assert!(!local.speaks_tls() && local.offers_tls() && local.tls.certificate.is_none());
    assert!(of("names=['farm example']").unwrap_err().contains("farm example"));
    let names = of("mode='on'\nnames=['farm.example', '*.farm.example', '10.0.0.9']").unwrap().names();
    for name in ["localhost", "127.0.0.1", "::1", "farm.example", "*.farm.example", "10.0.0.9"] {
        assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name} in {names:?}");
    }
}

#[test]
fn registries_are_kept_as_references_name_them() {
    for (written, kept) in [
        ("LOCALHOST:5002", "localhost:5002"),
        ("[FD00::7]:5000", "[fd00::7]:5000"),
        ("index.docker.io", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
    ] {
        let config = load(&format!("database_url='x'\n[registries.'{written}']\nusername='u'"), &[]).unwrap();
        assert_eq!(config.registries[kept].username, "u", "{written}");
    }
}

#[test]
fn mistakes_name_the_thing_and_the_cure() {
    assert!(load("", &[]).unwrap_err().to_string().contains("--database-url"));
    let registry = |key: &str| load(&format!("database_url='x'\n[registries.'{key}']"), &[]);
    for wrong in ["r.example/app", "https://r.example", "localhost:99999"] {
        let error = registry(wrong).unwrap_err().to_string();
        assert!(error.contains(wrong) && error.contains("host and port only"), "{error}");
    }
    let twice = "database_url='x'\n[registries.'R.example']\n[registries.'r.example']";
    assert!(load(twice, &[]).unwrap_err().to_string().contains("stands twice"));
    let error = load("database_url='x'\nlisten_adress='y'", &[]).unwrap_err().to_string();
    assert!(error.contains("listen_adress"), "{error}");
    let error = load("database_url='x'\n[limits]\nlease_seconds=5", &[]).unwrap_err().to_string();
    assert!(error.contains("three heartbeats"), "{error}");
    let error = load("database_url='x'\n[limits]\nprogress_deadline_seconds=0", &[]).unwrap_err().to_string();
    assert!(error.contains("progress_deadline_seconds") && error.contains("from 1 to"), "{error}");
    let error = load("database_url='x'\ndatabase_connections=0", &[]).unwrap_err().to_string();
    assert!(error.contains("from 1 to 1000"), "{error}");
    let error = load("database_url='x'\n[retention]\nlogs_days=40000", &[]).unwrap_err().to_string();
    assert!(error.contains("logs_days") && error.contains("0 is for ever"), "{error}");
    for (wrong, cure) in [
        ("lease_seconds=0", "from 1 to 300"),
        ("renew_milliseconds=50", "from 100 to 60000"),
        ("renew_milliseconds=6000", "at least three times renew_milliseconds, which is 6000"),
        ("lease_seconds=8", "less than lease_seconds, which is 8"),
    ] {
        let error = load(&format!("database_url='x'\n[leadership]\n{wrong}"), &[]).unwrap_err().to_string();
        assert!(error.contains("leadership.") && error.contains(cure), "{error}");
    }
    let for_ever = load("database_url='x'\n[retention]\nlogs_days=0\nbuilds_days=0\nsnapshots_days=0", &[]);
    assert_eq!(for_ever.unwrap().retention.logs(), None);
    let text = "database_url='x'\n[limits]\nqueue_deadline_seconds=9223372036854775807";
    assert!(load(text, &[]).unwrap_err().to_string().contains("queue_deadline_seconds"));
}

#[test]
fn requests_go_to_registries_that_are_named_and_to_what_is_allowed() {
    let text = "database_url='x'\n[outbound]\nallow = ['10.0.0.0/8', 'storage.internal:9000']\n\
                [registries.'Registry.Internal:5000']\n[registries.'r.example']\nrealms = ['auth.example:8443']\n";
    let config = load(text, &["--outbound-allow", "localhost:5002,fd00::/8"]).unwrap();
    let rules = config.rules();
    for url in [
        "https://registry.internal:5000/",
        "https://r.example/",
        "http://storage.internal:9000/",
        "http://localhost:5002/",
    ] {
        assert!(rules.names(&url.parse().unwrap()), "{url}");
    }
    assert!(!rules.names(&"https://auth.example:8443/".parse().unwrap()));
    assert!(rules.of_address("10.1.1.1".parse().unwrap()).is_ok());
    assert!(rules.of_address("fd00::1".parse().unwrap()).is_ok());
    assert!(rules.of_address("127.0.0.1".parse().unwrap()).is_err());

    let wrong = load("database_url='x'\n[outbound]\nallow = ['http://a']", &[]).unwrap_err().to_string();
    assert!(wrong.contains("http://a") && wrong.contains("registry.internal:5000"), "{wrong}");
    let wrong = "database_url='x'\n[registries.a]\nrealms = ['https://auth.example/token']";
    let wrong = load(wrong, &[]).unwrap_err().to_string();
    assert!(wrong.contains("https://auth.example/token") && wrong.contains("name and port"), "{wrong}");
}

#[test]
fn pages_are_shown_where_it_is_said_and_reached_by_a_url_without_a_path() {
    let web = |flags: &[&str]| load("database_url='x'", flags).map(|config| config.web);
    assert_eq!(web(&[]).unwrap().listen, None);
    for (written, kept) in [
        ("https://farm.example", "https://farm.example"),
        ("https://farm.example/", "https://farm.example"),
        ("http://10.0.0.1:7072", "http://10.0.0.1:7072"),
    ] {
        assert_eq!(web(&["--public-url", written]).unwrap().public_url.as_deref(), Some(kept));
    }
    for wrong in [
        "farm.example",
        "ftp://farm.example",
        "https://",
        "https://farm.example/pages",
        "https://farm.example?a=b",
        "https://farm.example#a",
        "https://me@farm.example",
    ] {
        let error = web(&["--public-url", wrong]).unwrap_err().to_string();
        assert!(error.contains("https://HOST[:PORT]") && error.contains("web.public_url"), "{error}");
    }
    // It may be where webhooks are delivered, and not where the farm is called.
    let both = web(&["--web-listen", "127.0.0.1:7071", "--hooks-listen", "127.0.0.1:7071"]);
    assert!(both.is_ok_and(|web| web.listen.is_some()));
    let taken = web(&["--web-listen", "127.0.0.1:7070"]).unwrap_err().to_string();
    assert!(taken.contains("web.listen") && taken.contains("another port"), "{taken}");
    let open = web(&["--web-listen", "0.0.0.0:7072", "--tls", "off"]).unwrap_err().to_string();
    assert!(open.contains("0.0.0.0:7072") && open.contains("--insecure-plaintext"), "{open}");
    for hours in [0, 169] {
        let error = load(&format!("database_url='x'\n[web]\nsession_hours = {hours}\n"), &[]).unwrap_err();
        assert!(error.to_string().contains("web.session_hours"), "{error}");
    }
    let names = load("database_url='x'", &["--public-url", "https://farm.example"]).unwrap().names();
    assert!(names.contains(&"farm.example".to_owned()), "{names:?}");
}
