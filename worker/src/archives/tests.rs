//! Archives as they are fetched from a server of HTTPS.

use std::time::Duration;

use farm_types::{ArchiveSource, Digest};
use tokio_util::sync::CancellationToken;

use super::server::{Server, answer};
use super::{ArchiveLimits, ArchiveOrder, Archives, Opened};
use crate::buildkit::Fetches;
use crate::git::FetchError;

struct Bench {
    folder: tempfile::TempDir,
    server: Server,
    archives: Archives,
}

fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(13);
    builder.append_data(&mut header, "app/Dockerfile", &b"FROM scratch\n"[..]).unwrap();
    builder.into_inner().unwrap()
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(|path| {
            let moved = |to: &str| answer("302 Found", &format!("Location: {to}\r\n"), b"");
            match path.split('?').next().unwrap() {
                "/a.tar" => answer("200 OK", "", &archive()),
                "/text" => answer("200 OK", "", b"FROM scratch\n"),
                "/moved" => moved("/a.tar?signed=1"),
                "/plain" => moved("http://127.0.0.1/a.tar"),
                "/inner" => moved("https://169.254.169.254/latest/meta-data/x"),
                "/round" => moved("/round"),
                "/login" => answer("401 Unauthorized", "WWW-Authenticate: Basic realm=\"a\"\r\n", b""),
                "/busy" => answer("503 Service Unavailable", "", b""),
                "/teapot" => answer("418 I'm a teapot", "", b""),
                "/long" => Some(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_vec()),
                "/cut" => Some(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc".to_vec()),
                // Without a length, up to the end of the connection.
                "/endless" => Some([&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[b'a'; 50_000]].concat()),
                "/slow" => None,
                _ => answer("404 Not Found", "", b""),
            }
        })
        .await;
        let archives = Archives::open(folder.path().join("archives")).unwrap().trusting(server.trust.clone());
        Self { folder, server, archives }
    }

    fn order(&self, path: &str) -> ArchiveOrder {
        let mut reach = Fetches::default();
        reach.open(&[self.server.place.parse().unwrap()]);
        let source: ArchiveSource = format!("https://{}{path}", self.server.place).parse().unwrap();
        ArchiveOrder { source, reach, limits: ArchiveLimits { bytes: 20_000, ..ArchiveLimits::default() } }
    }

    async fn fetch(&self, order: &ArchiveOrder) -> Result<Opened, FetchError> {
        self.archives.fetch(order, &CancellationToken::new(), |_| {}).await
    }

    /// The code of the failure, which says the address and the cure, and no query.
    async fn code(&self, order: &ArchiveOrder) -> String {
        let failure = self.fetch(order).await.unwrap_err().into_failure().unwrap();
        assert!(failure.message.contains(&self.server.place), "{failure}");
        assert!(failure.message.contains(';') || failure.code.as_str() == "archive_unreachable", "{failure}");
        assert!(!failure.message.contains("signed=") && !failure.message.contains('?'), "{failure}");
        failure.code.to_string()
    }
}

#[tokio::test]
async fn an_archive_becomes_files_and_is_known_by_its_digest() {
    let bench = Bench::new().await;
    let digest = Digest::of(&archive());
    for path in ["/a.tar", "/moved", &format!("/a.tar?signed=1#sha256={}", digest.hex())] {
        let opened = bench.fetch(&bench.order(path)).await.unwrap();
        assert_eq!(opened.digest, digest);
        let file = opened.unpacked.folder.path().join("app/Dockerfile");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "FROM scratch\n");
    }
    for head in bench.server.heads() {
        let head = head.to_ascii_lowercase();
        assert!(
            !head.contains("authorization") && !head.contains("cookie") && !head.contains("referer"),
            "{head}"
        );
    }
    // Nothing stays.
    let left = std::fs::read_dir(bench.folder.path().join("archives")).unwrap().count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn what_can_not_be_fetched_has_a_code_and_a_cure() {
    let bench = Bench::new().await;
    for (path, code) in [
        ("/nothing.tar", "archive_missing"),
        ("/login?signed=1", "archive_refused"),
        ("/teapot", "archive_refused"),
        ("/busy", "archive_unreachable"),
        ("/cut", "archive_unreachable"),
        ("/text", "archive_unusable"),
        ("/long", "archive_too_large"),
        ("/endless", "archive_too_large"),
        ("/plain", "archive_redirected"),
        ("/round", "archive_redirected"),
        ("/inner", "archive_host_closed"),
        (&format!("/a.tar?signed=1#sha256={}", "0".repeat(64)), "archive_checksum"),
    ] {
        assert_eq!(bench.code(&bench.order(path)).await, code, "{path}");
    }
    let mut order = bench.order("/a.tar");
    order.limits.files = 1;
    assert_eq!(bench.code(&order).await, "archive_too_many_files");
    bench.server.heads();
    let mut order = bench.order("/a.tar");
    order.reach = Fetches::default();
    assert_eq!(bench.code(&order).await, "archive_host_closed");
    // A project's list counts at each place that it is led to.
    let mut order = bench.order("/inner");
    order.reach.list("web", &["127.0.0.1".to_owned()]);
    order.reach.open(&["169.254.169.254".parse().unwrap()]);
    let failure = bench.fetch(&order).await.unwrap_err().into_failure().unwrap();
    assert!(failure.message.contains("farm project allow web --fetch 169.254.169.254"), "{failure}");
    let mut order = bench.order("/a.tar");
    order.reach.list("web", &["other.example".to_owned()]);
    assert_eq!(bench.code(&order).await, "archive_host_closed");
    assert_eq!(bench.server.heads().len(), 1, "a closed host was asked");
    // One whose certificate nobody vouches for.
    let stranger = Server::start(|_| answer("200 OK", "", &archive())).await;
    let mut order = bench.order("/a.tar");
    order.source.archive = format!("https://{}/a.tar", stranger.place).parse().unwrap();
    order.reach.open(&[stranger.place.parse().unwrap()]);
    let failure = bench.fetch(&order).await.unwrap_err().into_failure().unwrap();
    assert_eq!(failure.code.as_str(), "archive_unreachable");
    assert!(failure.message.contains("no CA that is trusted") && stranger.heads().is_empty(), "{failure}");
    // Nothing of all that stays.
    assert_eq!(std::fs::read_dir(bench.folder.path().join("archives")).unwrap().count(), 0);
}

#[tokio::test]
async fn one_that_is_slow_ends_at_its_limit_or_when_it_is_told_to() {
    let bench = Bench::new().await;
    let mut order = bench.order("/slow");
    order.limits.time = Duration::from_millis(300);
    assert_eq!(bench.code(&order).await, "archive_too_slow");
    let (order, stop) = (bench.order("/slow"), CancellationToken::new());
    let stopping = async {
        tokio::task::yield_now().await;
        stop.cancel();
    };
    let (stopped, ()) = tokio::join!(bench.archives.fetch(&order, &stop, |_| {}), stopping);
    assert!(matches!(stopped, Err(FetchError::Stopped)));
}
