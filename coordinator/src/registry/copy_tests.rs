//! What comes of a blob on its way. Both registries are simulations: real ones don't lie when they are asked to.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::outbound::tests::{Fake, answer};
use crate::registry::tests::reach;

const BLOB: &str = "what an image is made of";

/// A registry that takes uploads, and notes their requests with all that came of their bodies. `elsewhere`: it wants them sent there.
async fn takes(elsewhere: Option<&'static str>) -> (Repository, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("127.0.0.1:{}/into/it", listener.local_addr().unwrap().port()).parse().unwrap();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let noted = Arc::clone(&noted);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap();
                let length = head
                    .to_lowercase()
                    .split("content-length: ")
                    .nth(1)
                    .map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
                let mut body = Vec::new();
                while body.len() < length {
                    let mut piece = [0; 64];
                    match stream.read(&mut piece).await {
                        Ok(read) if read > 0 => body.extend_from_slice(&piece[..read]),
                        _ => break,
                    }
                }
                let is_whole = body.len() == length;
                let line = head.lines().next().unwrap();
                noted.lock().unwrap().push(format!("{line} {} {is_whole}", String::from_utf8_lossy(&body)));
                let location = elsewhere.unwrap_or("/v2/into/it/blobs/uploads/1?state=x");
                let told = match line.split(' ').next() {
                    Some("POST") => answer("202 Accepted", &format!("Location: {location}\r\n"), ""),
                    Some("PUT") => answer("201 Created", "", ""),
                    _ => answer("200 OK", "", ""),
                };
                let _ = stream.write_all(told.as_bytes()).await;
            });
        }
    });
    (at, seen)
}

/// A copy of [`BLOB`] from a registry that gives these bytes for it.
async fn copied(
    given: &'static str,
    elsewhere: Option<&'static str>,
) -> (Result<(), RegistryError>, Vec<String>) {
    let source = Fake::start(move |head| match head.contains("/blobs/") {
        true => answer("200 OK", "", given),
        false => answer("200 OK", "", ""),
    });
    let from = format!("{}/staged", source.await.at()).parse().unwrap();
    let (into, seen) = takes(elsewhere).await;
    let registries = reach(Default::default(), Duration::from_secs(5));
    let by = registries.farm();
    let size = u64::try_from(BLOB.len()).unwrap();
    let copied = by.copy_blob(&from, (Digest::of(BLOB.as_bytes()), size), &by, &into).await;
    let seen = seen.lock().unwrap().clone();
    (copied, seen)
}

#[tokio::test]
async fn a_blob_is_sent_as_it_is_with_its_digest_to_where_the_registry_wants_it() {
    let (copied, seen) = copied(BLOB, None).await;
    copied.unwrap();
    let digest = Digest::of(BLOB.as_bytes()).to_string().replace(':', "%3A");
    assert_eq!(seen[0], "GET /v2/ HTTP/1.1  true");
    assert_eq!(seen[1], "POST /v2/into/it/blobs/uploads/ HTTP/1.1  true");
    let put = format!("PUT /v2/into/it/blobs/uploads/1?state=x&digest={digest} HTTP/1.1 {BLOB} true");
    assert_eq!(seen[2..], [put]);
}

#[tokio::test]
async fn of_other_bytes_no_upload_comes_to_its_end() {
    for given in ["What an image is made of", "what an image is made of, and more", "what an image"] {
        let (copied, seen) = copied(given, None).await;
        let error = copied.unwrap_err();
        assert!(error.message.contains("another digest or length"), "{error}");
        assert!(!seen.iter().any(|line| line.starts_with("PUT ") && line.ends_with(" true")), "{seen:?}");
    }
}

#[tokio::test]
async fn an_upload_that_is_wanted_elsewhere_is_none() {
    for elsewhere in
        ["http://127.0.0.1:1/v2/into/it/blobs/uploads/1", "https://other.example/", "//other.example/x"]
    {
        let (copied, seen) = copied(BLOB, Some(elsewhere)).await;
        let error = copied.unwrap_err();
        assert!(error.message.contains("elsewhere") && !error.is_transient(), "{error}");
        assert!(!seen.iter().any(|line| line.starts_with("PUT ")), "{seen:?}");
    }
}

#[tokio::test]
async fn docker_hub_says_where_uploads_go_on_by_the_address_at_which_it_is_asked() {
    let registries = reach(Default::default(), Duration::from_secs(5));
    let hub: Repository = "team/app".parse().unwrap();
    let asked = registries.url(hub.registry(), "team/app/blobs/uploads/");
    let place =
        |location| place_of_upload(&hub, &asked, Some(&reqwest::header::HeaderValue::from_static(location)));
    let there = place("https://registry-1.docker.io/v2/team/app/blobs/uploads/1?_state=x").unwrap();
    assert_eq!(there.host_str(), Some("registry-1.docker.io"));
    assert!(place("https://registry-1.docker.io.evil.example/v2/").is_err());
}
