//! What registries let be read is shown where logins are, and said where there is too little. The registry is a simulation, which answers as
//! Docker Hub's documentation has it ("Usage and limits": `ratelimit-limit`, `ratelimit-remaining`, and 429 with `TOOMANYREQUESTS`): the real
//! one can't be had here, and none of the others counts.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use farm_tests::farm::Farm;
use serde_json::Value;

const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
const REFUSED: &str = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit"}]}"#;

/// A registry that lets so much be read, until it is spent.
fn hub(is_spent: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().and_then(Result::ok).unwrap_or_default();
            while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {}
            let is_manifest = first.contains("/manifests/");
            let (status, left, body) = match (is_manifest, is_spent.load(Ordering::Relaxed)) {
                (false, _) => ("200 OK", None, "{}"),
                (true, false) => ("200 OK", Some(76), MANIFEST),
                (true, true) => ("429 Too Many Requests", Some(0), REFUSED),
            };
            let limits = left.map_or_else(String::new, |left| {
                format!("ratelimit-limit: 100;w=21600\r\nratelimit-remaining: {left};w=21600\r\ndocker-ratelimit-source: 192.0.2.1\r\n")
            });
            let body = if first.starts_with("HEAD") { "" } else { body };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\n{limits}Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    port
}

#[test]
fn limits_are_shown_with_the_logins_and_named_where_they_are_reached() {
    let is_spent = Arc::new(AtomicBool::new(false));
    let host = format!("127.0.0.1:{}", hub(Arc::clone(&is_spent)));
    let farm = Farm::builder()
        .arg("--insecure-secrets")
        .config(&format!("[registries.\"{host}\"]\nplain_http = true\n"))
        .start();
    let listed = || farm.cli(&["registry", "ls", "--json"]).json();
    let remaining = |listed: &Value| listed["farm_limits"][0]["limit"]["remaining"].as_u64();
    assert_eq!(remaining(&listed()), None);
    let image = format!("{host}/library/python:3.11");
    farm.cli(&["inspect", &image, "--json"]).ok();
    let begin = Instant::now();
    let until = |left: u64| loop {
        let now = listed();
        if remaining(&now) == Some(left) {
            break now;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{now:#}");
    };
    let seen = until(76);
    let one = &seen["farm_limits"][0];
    assert_eq!((&one["host"], &one["has_login"]), (&host.as_str().into(), &false.into()));
    assert_eq!((&one["limit"]["of"], &one["limit"]["window_seconds"]), (&100.into(), &21_600.into()));
    let told = farm.cli(&["registry", "ls"]).ok();
    assert!(
        told.contains(&format!("{host} by the farm, without a login: 76 of 100 in 6 h are left to read")),
        "{told}"
    );

    is_spent.store(true, Ordering::Relaxed);
    let refused = farm.cli(&["inspect", &image]);
    assert_eq!(refused.status, 3, "{refused:?}");
    for part in [
        "it asks for fewer requests (0 of 100 in 6 h are left)",
        "farm registry login",
        "farm mirror IMAGE --every 24h",
    ] {
        assert!(refused.stderr.contains(part), "`{part}` is missing in {refused:?}");
    }
    until(0);
}
