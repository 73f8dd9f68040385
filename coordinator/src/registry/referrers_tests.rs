//! What refers to an image, at registries that list it, that list nothing, and that have trouble. Simulations: the real registry in the tests
//! lists nothing of any image.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A status, further header lines, and a body.
type Said = (u16, String, String);

/// Answers each request by its method and path (`PUT manifests/x`). What was asked is kept.
async fn registry(answer: impl Fn(&str) -> Said + Send + 'static) -> (Repository, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("127.0.0.1:{}/a", listener.local_addr().unwrap().port()).parse().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let text = String::from_utf8_lossy(&head).into_owned();
            let mut words = text.split(' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let what = format!("{method} {}", path.trim_start_matches("/v2/a/"));
            let (status, more, body) = match path {
                "/v2/" => (200, String::new(), String::new()),
                _ => {
                    kept.lock().unwrap().push(what.clone());
                    answer(&what)
                }
            };
            let length = body.len();
            let body = if method == "HEAD" { String::new() } else { body };
            let head =
                format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{more}Content-Length: {length}\r\n\r\n");
            stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            // What was sent along is read before the connection goes.
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    (at, asked)
}

fn bare(status: u16) -> Said {
    (status, String::new(), String::new())
}

fn registries() -> crate::registry::Registries {
    crate::registry::tests::reach(BTreeMap::new(), Duration::from_secs(10))
}

fn subject() -> Digest {
    Digest::of(b"image")
}

const ARTIFACT: &[u8] = br#"{"schemaVersion":2}"#;

#[tokio::test]
async fn a_registry_that_lists_referrers_itself_gets_no_list_under_a_tag() {
    for lists in [true, false] {
        let (at, asked) = registry(move |what| match what.starts_with("PUT ") {
            true if lists => (201, format!("OCI-Subject: {}\r\n", subject()), String::new()),
            true => bare(201),
            false => bare(404),
        })
        .await;
        let entry = Entry::of_attestation(ARTIFACT);
        registries().farm().refer(&at, subject(), ARTIFACT, &entry).await.unwrap();
        let tag = format!("PUT manifests/{}", fallback_tag(subject()));
        let asked = asked.lock().unwrap().clone();
        assert_eq!(asked.contains(&tag), !lists, "{asked:?}");
    }
}

#[tokio::test]
async fn what_lies_under_the_tag_and_is_no_list_is_not_written_over() {
    let (at, asked) = registry(|what| match what {
        what if what.starts_with("PUT ") => bare(201),
        what if what.contains("manifests/sha256-") => (200, String::new(), r#"{"manifests":7}"#.to_owned()),
        _ => bare(404),
    })
    .await;
    let refused = registries().farm().refer(&at, subject(), ARTIFACT, &Entry::of_attestation(ARTIFACT)).await;
    assert!(!refused.unwrap_err().is_transient());
    let puts = asked.lock().unwrap().iter().filter(|what| what.starts_with("PUT ")).count();
    assert_eq!(puts, 1, "the artifact alone");
}

#[tokio::test]
async fn what_cant_be_looked_for_is_told_and_is_no_error() {
    let (at, _) = registry(|_| bare(503)).await;
    let (found, left_out) = registries().farm().companions(&at, &[subject()]).await;
    assert!(found.is_empty());
    let told = left_out.join("; ");
    assert!(told.contains(&format!("what refers to {}", subject())) && told.contains(".sig"), "{told}");
    // Where there is nothing, nothing is told.
    let (at, _) = registry(|_| bare(404)).await;
    let (found, left_out) = registries().farm().companions(&at, &[subject()]).await;
    assert!(found.is_empty() && left_out.is_empty(), "{left_out:?}");
}

#[tokio::test]
async fn a_page_in_the_place_of_a_list_is_none_and_further_pages_are_told() {
    let (at, asked) = registry(|what| match what.contains("referrers/") {
        true => (200, "Content-Type: text/html\r\n".to_owned(), "<html>".to_owned()),
        false => bare(404),
    })
    .await;
    let (_, left_out) = registries().farm().companions(&at, &[subject()]).await;
    assert!(left_out.is_empty(), "{left_out:?}");
    assert!(asked.lock().unwrap().iter().any(|what| what.ends_with(&fallback_tag(subject()))));

    let (at, _) = registry(|what| match what.contains("referrers/") {
        true => {
            let more = format!("Content-Type: {OCI_INDEX}\r\nLink: </x>; rel=\"next\"\r\n");
            (200, more, r#"{"schemaVersion":2,"manifests":[]}"#.to_owned())
        }
        false => bare(404),
    })
    .await;
    let (_, left_out) = registries().farm().companions(&at, &[subject()]).await;
    assert!(left_out.len() == 1 && left_out[0].contains("further pages"), "{left_out:?}");
}

#[tokio::test]
async fn a_registry_that_asks_to_be_left_alone_is_sent_nothing_more() {
    let (at, asked) = registry(|_| (429, "Retry-After: 600\r\n".to_owned(), String::new())).await;
    let registries = registries();
    let by = registries.farm();
    assert!(by.head(&at, "1").await.unwrap_err().is_transient());
    let sent = asked.lock().unwrap().len();
    for _ in 0..3 {
        let error = by.manifest(&at, "1").await.unwrap_err();
        assert!(error.is_transient() && error.message.contains("left alone"), "{error}");
    }
    assert!(by.put_blob(&at, &b"{}"[..]).await.is_err() && by.mount_blob(&at, subject(), &at).await.is_err());
    assert_eq!(asked.lock().unwrap().len(), sent);
}

#[tokio::test]
async fn what_refers_to_an_image_is_what_its_registry_lists_or_else_its_tag_and_trouble_is_no_empty_list() {
    let entry = Entry::of_attestation(ARTIFACT);
    let list = listed(None, &entry).unwrap().unwrap();
    let list = String::from_utf8(list).unwrap();
    for place in ["referrers/", "manifests/"] {
        let list = list.clone();
        let (at, _) = registry(move |what| match what.contains(place) {
            true => (200, format!("Content-Type: {OCI_INDEX}\r\n"), list.clone()),
            false => bare(404),
        })
        .await;
        assert_eq!(
            registries().farm().referrers(&at, subject()).await.unwrap(),
            std::slice::from_ref(&entry)
        );
    }
    let (at, _) = registry(|_| bare(404)).await;
    assert!(registries().farm().referrers(&at, subject()).await.unwrap().is_empty());
    // Else what is there already would be put once more.
    let (at, _) = registry(|what| bare(if what.contains("referrers/") { 503 } else { 404 })).await;
    assert!(registries().farm().referrers(&at, subject()).await.unwrap_err().is_transient());
}
