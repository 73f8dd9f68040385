//! Getting an archive's bytes: HTTP/1.1 by TLS to judged addresses, and from one to the next where it leads elsewhere.
//!
//! A redirect is followed as the first address was: by https, through the guard, without anything that the one before has given.

use std::fs::File;
use std::time::Duration;

use farm_client::{DialError, Trust, dial_at};
use farm_types::chain::{in_short, io_in_short};
use farm_types::digest::Hasher;
use farm_types::{ArchiveUrl, Digest, FailureCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use url::Url;

use super::order::{ArchiveOrder, Bounds};
use crate::git::guard::{Asked, route_to};
use crate::git::{FetchError, disk, trouble, user};

/// As many others an address may lead through.
const MOST_HOPS: usize = 5;
/// For a connection, TLS included.
const CONNECTED_WITHIN: Duration = Duration::from_secs(30);
/// Between two pieces.
const HEARD_WITHIN: Duration = Duration::from_secs(60);

/// An archive that is here.
#[derive(Debug)]
pub(super) struct Got {
    /// At its beginning.
    pub(super) file: File,
    pub(super) digest: Digest,
    pub(super) bytes: u64,
}

/// Gets the archive into this file.
///
/// # Errors
/// It may not be fetched, isn't there, or is too much.
pub(super) async fn get(
    order: &ArchiveOrder,
    trust: &Trust,
    file: File,
    bounds: &Bounds,
    say: &mut (impl FnMut(&str) + Send),
) -> Result<Got, FetchError> {
    let mut url = order.source.archive.clone();
    for _ in 0..=MOST_HOPS {
        let asked = Asked {
            shown: led_by(&bounds.url, &url),
            scheme: "https",
            host: url.host(),
            closed: FailureCode::ArchiveHostClosed,
            unreachable: FailureCode::ArchiveUnreachable,
        };
        let route = bounds.within(route_to(asked, &order.reach)).await??;
        let answer = bounds.within(ask(&url, &route.addresses, trust)).await?;
        let (answer, _connection) = answer.map_err(|why| unreachable(bounds, &url, &why))?;
        match led_to(&answer, &url) {
            None => {
                check(&answer, bounds, &url)?;
                return save(answer.into_body(), file, bounds, &url).await;
            }
            Some(next) => {
                url = next.map_err(|why| {
                    let text = format!(
                        "{} leads elsewhere, which isn't followed: {why}; write the address that it has now",
                        led_by(&bounds.url, &url)
                    );
                    user(FailureCode::ArchiveRedirected, text)
                })?;
                say(&format!("it is at {url}"));
            }
        }
    }
    let text = format!(
        "{} leads through more than {MOST_HOPS} others; write the address that it has now",
        bounds.url
    );
    Err(user(FailureCode::ArchiveRedirected, text))
}

/// What is asked, for people: by whom it was named, and where that has led.
fn led_by(named: &ArchiveUrl, url: &ArchiveUrl) -> String {
    if named == url { named.to_string() } else { format!("{named} (at {url} by now)") }
}

/// A connection, which ends with this.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks for it; the connection has to live until the body is read.
async fn ask(
    url: &ArchiveUrl,
    addresses: &[std::net::IpAddr],
    trust: &Trust,
) -> Result<(Response<Incoming>, Connection), String> {
    let uri: Uri =
        url.as_str().parse().map_err(|error| format!("its address can't be asked for: {error}"))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, url.host())
        .header(USER_AGENT, concat!("farm/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(ACCEPT_ENCODING, "identity")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let dialled = timeout(CONNECTED_WITHIN, dial_at(&uri, addresses, trust)).await;
    let stream = dialled
        .map_err(|_| format!("no connection within {} s", CONNECTED_WITHIN.as_secs()))?
        .map_err(|error| match error {
            DialError::Away(error) => io_in_short(&error),
            other => other.to_string(),
        })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| in_short(&error))?;
    let connection = Connection(tokio::spawn(async move {
        // Whoever reads is told by the body.
        let _ = connection.await;
    }));
    let answered = timeout(HEARD_WITHIN, sender.send_request(request)).await;
    let answer = answered
        .map_err(|_| format!("no answer within {} s", HEARD_WITHIN.as_secs()))?
        .map_err(|error| in_short(&error))?;
    Ok((answer, connection))
}

/// Where an answer leads, if it does; an error: it is none that is followed.
fn led_to(answer: &Response<Incoming>, from: &ArchiveUrl) -> Option<Result<ArchiveUrl, String>> {
    let leads = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !leads.contains(&answer.status()) {
        return None;
    }
    let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    Some(match location {
        Some(location) => next(from, location),
        None => Err("it doesn't say where".to_owned()),
    })
}

/// The address that `Location` means (RFC 9110, 10.2.2).
fn next(from: &ArchiveUrl, location: &str) -> Result<ArchiveUrl, String> {
    let base = Url::parse(from.as_str()).map_err(|error| error.to_string())?;
    let mut url = base.join(location).map_err(|error| format!("{error}"))?;
    url.set_fragment(None);
    url.as_str().parse().map_err(|error: farm_types::Invalid| error.cure)
}

/// Refuses what isn't the archive.
fn check(answer: &Response<Incoming>, bounds: &Bounds, url: &ArchiveUrl) -> Result<(), FetchError> {
    let status = answer.status();
    let shown = led_by(&bounds.url, url);
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            let text = format!("there is nothing at {shown} ({status}); check the address");
            return Err(user(FailureCode::ArchiveMissing, text));
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let text = format!(
                "{shown} may not be had ({status}), and no login is shown; name one that everybody may read, or download it and send it: \
                 farm submit - <FILE"
            );
            return Err(user(FailureCode::ArchiveRefused, text));
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            return Err(unreachable(bounds, url, &format!("it answers {status}")));
        }
        _ if status.is_server_error() => {
            return Err(unreachable(bounds, url, &format!("it answers {status}")));
        }
        _ => {
            let text = format!("{shown} answers {status} in the place of the archive; check the address");
            return Err(user(FailureCode::ArchiveRefused, text));
        }
    }
    let said =
        answer.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|bytes| bytes > bounds.limits.bytes) { Err(bounds.too_large()) } else { Ok(()) }
}

async fn save(mut body: Incoming, file: File, bounds: &Bounds, url: &ArchiveUrl) -> Result<Got, FetchError> {
    let unwritten = |error: std::io::Error| disk("an archive can't be written", &error);
    let (mut hasher, mut bytes) = (Hasher::new(), 0_u64);
    let mut file = tokio::fs::File::from_std(file);
    loop {
        let heard = bounds.within(timeout(HEARD_WITHIN, body.frame())).await?;
        let heard = heard.map_err(|_| {
            unreachable(bounds, url, &format!("nothing came for {} s", HEARD_WITHIN.as_secs()))
        })?;
        let Some(frame) = heard else { break };
        let frame = frame
            .map_err(|error| unreachable(bounds, url, &format!("it breaks off: {}", in_short(&error))))?;
        let Ok(data) = frame.into_data() else { continue };
        bytes = bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if bytes > bounds.limits.bytes {
            return Err(bounds.too_large());
        }
        hasher.update(&data);
        file.write_all(&data).await.map_err(unwritten)?;
    }
    file.flush().await.map_err(unwritten)?;
    file.rewind().await.map_err(unwritten)?;
    Ok(Got { file: file.into_std().await, digest: hasher.finish(), bytes })
}

fn unreachable(bounds: &Bounds, url: &ArchiveUrl, why: &str) -> FetchError {
    let text = format!("{} can't be reached: {why}", led_by(&bounds.url, url));
    trouble(FailureCode::ArchiveUnreachable, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_followed_by_https_only_and_takes_no_login_along() {
        let from: ArchiveUrl = "https://a.example:8443/x/v1.tar.gz?s=1".parse().unwrap();
        for (location, to) in [
            ("https://b.example/v1.tar.gz?t=2#top", Ok("https://b.example/v1.tar.gz?t=2")),
            ("/y/v1.tar.gz", Ok("https://a.example:8443/y/v1.tar.gz")),
            ("../v1.tar.gz", Ok("https://a.example:8443/v1.tar.gz")),
            ("//c.example/v1.tar", Ok("https://c.example/v1.tar")),
            ("http://a.example/v1.tar.gz", Err("https only")),
            ("file:///etc/passwd", Err("https only")),
            ("https://me:secret@b.example/x.tar", Err("password")),
            ("https://[::ffff:127.0.0.1", Err("")),
        ] {
            match (next(&from, location), to) {
                (Ok(url), Ok(to)) => assert_eq!(url.as_str(), to),
                (Err(why), Err(part)) => assert!(why.contains(part) && !why.contains("secret"), "{why}"),
                (got, _) => panic!("{location}: {got:?}"),
            }
        }
    }
}
