//! What is asked of a registry, seen from one that notes it.

use std::sync::Arc;

use farm_types::FailureCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::outbound::Rules;

/// Registries that may be on this machine.
pub(crate) fn reach(known: BTreeMap<String, Registry>, timeout: Duration) -> Registries {
    let outbound = Outbound::new(Rules::new(["127.0.0.0/8".parse().unwrap()], Vec::new()));
    Registries::new(known, &outbound, timeout).unwrap()
}

/// A registry that has nothing, and notes the first line and the login of every request. A simulation: real ones
/// can't be made to change their minds. `locks_after`: from then on it wants a token.
async fn registry(locks_after: usize) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let (noted, at) = (Arc::clone(&seen), host.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (noted, at) = (Arc::clone(&noted), at.clone());
            tokio::spawn(async move {
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8(head).unwrap();
                    let line = head.lines().next().unwrap().to_owned();
                    let is_token = line.starts_with("GET /token");
                    let is_let_in = head.to_lowercase().contains("authorization: bearer t0ken");
                    let count = {
                        let mut noted = noted.lock().unwrap();
                        noted.push(line.clone());
                        noted.len()
                    };
                    let answer = if is_token {
                        "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{\"token\":\"t0ken\"}".to_owned()
                    } else if count > locks_after && !is_let_in {
                        format!(
                            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://{at}/token\",service=\"s\"\r\nContent-Length: 0\r\n\r\n"
                        )
                    } else if line.starts_with("GET /v2/ ") {
                        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()
                    } else {
                        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned()
                    };
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (host, seen)
}

fn asked(seen: &Mutex<Vec<String>>) -> usize {
    seen.lock().unwrap().iter().filter(|line| line.starts_with("GET /v2/ ")).count()
}

#[test]
fn plain_http_is_for_this_machine_and_for_those_that_say_so() {
    let known = [("r.example".to_owned(), Registry { plain_http: Some(true), ..Registry::default() })].into();
    let registries = reach(known, Duration::from_secs(1));
    for host in ["localhost:5002", "127.0.0.1", "[::1]:5002", "[::1]", "r.example"] {
        assert!(registries.plain_http(host), "{host}");
    }
    for host in ["127.evil.example", "[fd00::1]:5002", "docker.io", "localhost.example"] {
        assert!(!registries.plain_http(host), "{host}");
    }
}

#[tokio::test]
async fn what_no_request_can_be_sent_to_is_refused_at_once() {
    let registries = reach(BTreeMap::new(), Duration::from_secs(1));
    // A name of letters and hyphens that stands for no letters of another script (RFC 3492).
    let bad: Repository = "xn--a.example/app".parse().unwrap();
    let error = registries.check(&bad).unwrap_err().to_string();
    assert!(error.contains("xn--a.example"), "{error}");
    let error = registries.farm().head(&bad, "1").await.unwrap_err();
    assert!(!error.is_transient(), "{error:?}");
    for text in
        ["localhost:5002/app", "[::1]:5002/a/b", "docker.io/app", "a_b.example/c", "xn--bcher-kva.example/a"]
    {
        registries.check(&text.parse().unwrap()).unwrap();
    }
}

#[tokio::test]
async fn a_registry_without_tls_is_told_at_once_from_one_that_is_away() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    // What a server without TLS answers to somebody who begins it.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
    });
    let tls = Registry { plain_http: Some(false), ..Registry::default() };
    let registries = reach([(host.clone(), tls.clone())].into(), Duration::from_secs(10));
    let repository: Repository = format!("{host}/a").parse().unwrap();
    let error = registries.farm().head(&repository, "1").await.unwrap_err();
    assert_eq!(error.code, FailureCode::RegistryRejected, "{error}");
    assert!(error.message.contains("by TLS") && error.message.contains("plain_http"), "{error}");
    let deleted = registries.farm().delete(&repository, Digest::of(b"x")).await.unwrap_err();
    assert_eq!(deleted.code, FailureCode::RegistryRejected, "{deleted}");
    // Nobody is there at all.
    let away = "127.0.0.1:1".to_owned();
    let registries = reach([(away.clone(), tls)].into(), Duration::from_secs(10));
    let error = registries.farm().head(&format!("{away}/a").parse().unwrap(), "1").await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[tokio::test]
async fn an_open_registry_is_asked_once_whether_it_wants_a_login() {
    let (host, seen) = registry(usize::MAX).await;
    let registries = reach(BTreeMap::new(), Duration::from_secs(10));
    let repository: Repository = format!("{host}/a").parse().unwrap();
    for tag in ["1", "2", "3"] {
        assert_eq!(registries.farm().head(&repository, tag).await.unwrap(), None);
        assert!(registries.farm().manifest(&repository, tag).await.unwrap().is_none());
    }
    assert_eq!(asked(&seen), 1, "{:?}", seen.lock().unwrap());
}

#[tokio::test]
async fn a_manifest_is_deleted_with_a_token_for_that_where_one_is_wanted() {
    let gone = |at: &str| at.parse::<Repository>().unwrap();
    let registries = reach(BTreeMap::new(), Duration::from_secs(10));
    for locks_after in [usize::MAX, 0] {
        let (host, seen) = registry(locks_after).await;
        let deleted = registries.farm().delete(&gone(&format!("{host}/a/b")), Digest::of(b"x")).await;
        assert_eq!(deleted.unwrap(), Deleted::Gone);
        let seen = seen.lock().unwrap();
        let line = format!("DELETE /v2/a/b/manifests/{} HTTP/1.1", Digest::of(b"x"));
        assert!(seen.last().is_some_and(|last| *last == line), "{seen:?}");
        let wants_token = locks_after == 0;
        let token = "GET /token?service=s&scope=repository%3Aa%2Fb%3Apull%2Cdelete HTTP/1.1";
        assert_eq!(seen.iter().any(|line| line == token), wants_token, "{seen:?}");
    }
}

#[tokio::test]
async fn a_registry_that_is_no_longer_open_is_logged_into() {
    // Asked, and one call answered; then it wants a token.
    let (host, seen) = registry(2).await;
    let registries = reach(BTreeMap::new(), Duration::from_secs(10));
    let repository: Repository = format!("{host}/a").parse().unwrap();
    assert!(registries.farm().manifest(&repository, "1").await.unwrap().is_none());
    assert!(registries.farm().manifest(&repository, "2").await.unwrap().is_none());
    assert!(seen.lock().unwrap().iter().any(|line| line.starts_with("GET /token")), "{seen:?}");
}

#[tokio::test]
async fn a_request_has_one_limit_however_often_it_is_refused() {
    const LIMIT: Duration = Duration::from_secs(1);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let repository: Repository =
        format!("127.0.0.1:{}/a", listener.local_addr().unwrap().port()).parse().unwrap();
    // A simulation: it refuses everything, and takes two fifths of the limit for that each time.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                while stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    tokio::time::sleep(LIMIT * 4 / 10).await;
                    let refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
                    stream.write_all(refusal).await.unwrap();
                }
            });
        }
    });
    let registries = reach(BTreeMap::new(), LIMIT);
    // With a limit for each try it would be refused in the end, after several limits.
    let error = registries.farm().head(&repository, "1").await.unwrap_err();
    assert_eq!(error.code, FailureCode::RegistryUnavailable, "{error}");
}
