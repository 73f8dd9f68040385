//! Where the browser comes back to: a port on this machine, for one page, for a while. It begins there as well: what opens a browser
//! shows its arguments to everybody on the machine, so it gets an address of this port that leads to the issuer's page once.
//!
//! Anybody on this machine can knock there, and any page in a browser can send it here. So only a request is believed that bears
//! the state of this sign-in, at the path and under the name that the browser was sent back to; all else is answered 404, and
//! waited on. What came is worth nothing by itself: the verifier for it never was in a browser.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use farm_types::Digest;
use farm_types::chain::io_in_short;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, LOCATION, REFERRER_POLICY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::output::text::harmless;

/// So many connections are held at once; a browser opens some that it doesn't use.
const AT_ONCE: usize = 16;
/// A request has so long to come, and the page so long to be known and to be taken.
const REQUEST: Duration = Duration::from_secs(10);
const PAGE: Duration = Duration::from_secs(100);
const TAKE: Duration = Duration::from_secs(3);

/// A port that waits for a browser.
pub struct Listener {
    listener: TcpListener,
    /// HOST:PORT, as the browser names it.
    authority: String,
    path: String,
    /// From where a browser is sent on, once.
    start: String,
}

/// What a browser has brought.
pub struct Arrived {
    /// The issuer's code, or why it gives none.
    pub code: Result<String, String>,
    page: oneshot::Sender<&'static str>,
    gone: oneshot::Receiver<()>,
}

impl Arrived {
    /// Shows a sentence in the browser, and waits for a moment until it is there.
    pub async fn show(self, sentence: &'static str) {
        if self.page.send(sentence).is_ok() {
            // A browser that takes it slowly keeps nobody.
            let _ = tokio::time::timeout(TAKE, self.gone).await;
        }
    }
}

/// What is waited for.
struct Wanted {
    authority: String,
    path: String,
    start: String,
    /// The issuer's page, until a browser was sent there.
    page: Mutex<Option<HeaderValue>>,
    state: Digest,
    issuer: String,
    arrived: Mutex<Option<oneshot::Sender<Arrived>>>,
}

impl Listener {
    /// Listens where the farm has browsers sent back to; at any port if it says none.
    ///
    /// # Errors
    /// That isn't this machine, or can't be listened on.
    pub async fn bind(redirect: &str) -> Result<Self> {
        let other = || {
            Error::Farm(format!(
                "the farm has the browser sent to {}, which isn't this machine",
                harmless(redirect)
            ))
        };
        let uri: Uri = redirect.parse().map_err(|_| other())?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("http") && uri.query().is_none());
        let port = uri.port_u16().unwrap_or(0);
        let at: SocketAddr = match host {
            Some("127.0.0.1" | "localhost") => (Ipv4Addr::LOCALHOST, port).into(),
            Some("[::1]") => (Ipv6Addr::LOCALHOST, port).into(),
            _ => return Err(other()),
        };
        let taken = |e: std::io::Error| {
            Error::Farm(format!(
                "the browser can't come back to {at} ({}); close what listens there, or sign in with --device",
                io_in_short(&e)
            ))
        };
        let listener = TcpListener::bind(at).await.map_err(taken)?;
        let port = listener.local_addr().map_err(taken)?.port();
        let authority = format!("{}:{port}", host.unwrap_or_default());
        let start = format!("/{}", Uuid::new_v4().simple());
        Ok(Self { listener, authority, path: uri.path().to_owned(), start })
    }

    /// Where the browser is to be sent back to.
    pub fn redirect_uri(&self) -> String {
        format!("http://{}{}", self.authority, self.path)
    }

    /// What a browser is opened with: it leads to the page that [`wait`](Self::wait) is given, once, and says nothing of it.
    pub fn start(&self) -> String {
        format!("http://{}{}", self.authority, self.start)
    }

    /// Sends a browser on to the issuer's page, and waits for the one that has this state; answers all others 404. Lasts until it is
    /// dropped.
    pub async fn wait(self, page: &str, state: &str, issuer: &str) -> Arrived {
        let (sender, arrived) = oneshot::channel();
        let wanted = Arc::new(Wanted {
            authority: self.authority,
            path: self.path,
            start: self.start,
            // It consists of what may stand in an address, or there would be none here.
            page: Mutex::new(HeaderValue::from_str(page).ok()),
            state: Digest::of(state.as_bytes()),
            issuer: issuer.to_owned(),
            arrived: Mutex::new(Some(sender)),
        });
        let serving = serve(self.listener, wanted);
        tokio::select! {
            () = serving => std::future::pending().await,
            Ok(arrived) = arrived => arrived,
        }
    }
}

/// Connections go on in tasks of their own when this is dropped.
async fn serve(listener: TcpListener, wanted: Arc<Wanted>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        // One that broke off before it was taken is no reason to end; a pause keeps a lasting trouble from spinning.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (alive, gone) = oneshot::channel();
        let gone = Arc::new(Mutex::new(Some(gone)));
        let wanted = Arc::clone(&wanted);
        let service = service_fn(move |request| {
            let (wanted, gone) = (Arc::clone(&wanted), Arc::clone(&gone));
            async move { Ok::<_, std::convert::Infallible>(answer(&request, &wanted, &gone).await) }
        });
        tokio::spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(REQUEST).keep_alive(false);
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
            drop((alive, place));
        });
    }
}

async fn answer(
    request: &Request<Incoming>,
    wanted: &Wanted,
    gone: &Mutex<Option<oneshot::Receiver<()>>>,
) -> Response<Full<Bytes>> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if wanted.is_start(request.method(), host, request.uri()) {
        let page_of = wanted.page.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Whoever was faster is somebody else: they have seen what this command was to sign in with.
        let seen = "This address was opened already, and counts once. If that wasn't you, end the command with Ctrl-C and begin again; \
                    if it was, the page's own address is in the terminal.";
        return page_of.map_or_else(|| page(StatusCode::GONE, seen), leads);
    }
    let Some(code) = wanted.code(request.method(), host, request.uri()) else {
        return page(StatusCode::NOT_FOUND, "There is nothing here.");
    };
    let sender = wanted.arrived.lock().unwrap_or_else(PoisonError::into_inner).take();
    let gone = gone.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (Some(sender), Some(gone)) = (sender, gone) else {
        return page(StatusCode::NOT_FOUND, "This sign-in was answered already.");
    };
    let (show, shown) = oneshot::channel();
    if sender.send(Arrived { code, page: show, gone }).is_err() {
        return page(StatusCode::NOT_FOUND, "This sign-in is over.");
    }
    match tokio::time::timeout(PAGE, shown).await {
        Ok(Ok(sentence)) => page(StatusCode::OK, sentence),
        _ => page(StatusCode::OK, "The terminal says what came of it. This window may be closed."),
    }
}

impl Wanted {
    /// Whether a browser begins here.
    fn is_start(&self, method: &Method, host: &str, uri: &Uri) -> bool {
        method == Method::GET
            && host.eq_ignore_ascii_case(&self.authority)
            && Digest::of(uri.path().as_bytes()) == Digest::of(self.start.as_bytes())
    }

    /// What a request brings, if it is the one that is waited for.
    fn code(&self, method: &Method, host: &str, uri: &Uri) -> Option<Result<String, String>> {
        let is_ours =
            method == Method::GET && host.eq_ignore_ascii_case(&self.authority) && uri.path() == self.path;
        let query = uri.query().filter(|_| is_ours)?;
        let value = |name: &str| {
            let mut fields = query.split('&').filter_map(|field| field.split_once('='));
            fields.find(|(field, _)| *field == name).and_then(|(_, value)| unescaped(value))
        };
        // Digests are compared, so the time tells nothing.
        if Digest::of(value("state")?.as_bytes()) != self.state {
            return None;
        }
        // RFC 9207: an issuer that says who it is has to be the one that was asked.
        if value("iss").is_some_and(|issuer| issuer != self.issuer) {
            return None;
        }
        match (value("code"), value("error")) {
            (Some(code), None) => Some(Ok(code)),
            (_, Some(error)) => {
                let why = value("error_description").filter(|why| !why.is_empty());
                Some(Err(why.map_or(error.clone(), |why| format!("{error}: {why}"))))
            }
            (None, None) => None,
        }
    }
}

/// A text as it was before it became a part of a query.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (hex, after) = rest.split_at_checked(2)?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
                rest = after;
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).ok()
}

/// Sends a browser to a page.
fn leads(to: HeaderValue) -> Response<Full<Bytes>> {
    let mut response = page(StatusCode::FOUND, "The sign-in is at its issuer.");
    response.headers_mut().insert(LOCATION, to);
    response
}

fn page(status: StatusCode, sentence: &str) -> Response<Full<Bytes>> {
    let text = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>farm</title><body style=\"font:1.1em sans-serif;margin:3em\">\
         <p>{sentence}</p></body></html>\n"
    );
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // The page's own address has the code in it.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            authority: "127.0.0.1:40000".to_owned(),
            path: "/callback".to_owned(),
            start: "/s3cret".to_owned(),
            page: Mutex::default(),
            state: Digest::of(b"st+te"),
            issuer: "https://sso.example".to_owned(),
            arrived: Mutex::default(),
        }
    }

    fn brought(method: &Method, host: &str, uri: &str) -> Option<Result<String, String>> {
        wanted().code(method, host, &uri.parse().unwrap())
    }

    #[test]
    fn a_browser_with_the_state_is_believed_and_nobody_else() {
        let get = |uri: &str| brought(&Method::GET, "127.0.0.1:40000", uri);
        assert_eq!(get("/callback?code=a%2Fb+c&state=st%2Bte"), Some(Ok("a/b c".to_owned())));
        assert_eq!(
            get("/callback?state=st%2Bte&code=x&iss=https%3A%2F%2Fsso.example"),
            Some(Ok("x".to_owned()))
        );
        let denied = get("/callback?error=access_denied&error_description=not+today&state=st%2Bte");
        assert_eq!(denied, Some(Err("access_denied: not today".to_owned())));
        for stranger in [
            "/callback?code=x&state=st+te",
            "/callback?code=x&state=",
            "/callback?code=x",
            "/callback",
            "/callback?state=st%2Bte",
            "/callback/?code=x&state=st%2Bte",
            "/?code=x&state=st%2Bte",
            "/callback?code=x&state=st%2Bte&iss=https%3A%2F%2Fevil.example",
            "/callback?code=%ff&state=st%2Bte",
        ] {
            assert_eq!(get(stranger), None, "{stranger}");
        }
        let right = "/callback?code=x&state=st%2Bte";
        assert_eq!(brought(&Method::POST, "127.0.0.1:40000", right), None);
        // A name that somebody else has made stand for this machine.
        assert_eq!(brought(&Method::GET, "evil.example:40000", right), None);
        assert_eq!(brought(&Method::GET, "127.0.0.1", right), None);
    }

    #[test]
    fn a_browser_begins_at_its_own_address_only() {
        let begins =
            |method: &Method, host: &str, uri: &str| wanted().is_start(method, host, &uri.parse().unwrap());
        assert!(begins(&Method::GET, "127.0.0.1:40000", "/s3cret"));
        for other in ["/", "/s3cret/", "/S3cret", "/callback", "/s3cre"] {
            assert!(!begins(&Method::GET, "127.0.0.1:40000", other), "{other}");
        }
        assert!(!begins(&Method::HEAD, "127.0.0.1:40000", "/s3cret"));
        assert!(!begins(&Method::GET, "evil.example:40000", "/s3cret"));
    }

    #[tokio::test]
    async fn a_browser_is_sent_back_to_this_machine_only() {
        for (redirect, begins) in
            [("http://127.0.0.1/callback", "http://127.0.0.1:"), ("http://localhost/", "http://localhost:")]
        {
            let listener = Listener::bind(redirect).await.unwrap_or_else(|e| panic!("{e}"));
            let uri: Uri = listener.redirect_uri().parse().unwrap();
            assert!(uri.port_u16().is_some_and(|port| port > 0), "{uri}");
            assert!(listener.start().starts_with(begins) && listener.start().len() > begins.len() + 32);
            assert!(listener.redirect_uri().starts_with(begins) && redirect.ends_with(uri.path()), "{uri}");
        }
        for wrong in [
            "http://0.0.0.0/",
            "http://farm.example/",
            "https://127.0.0.1/",
            "file:///etc",
            "",
            "http://127.0.0.1/?a=b",
        ] {
            let Err(why) = Listener::bind(wrong).await else { panic!("{wrong}") };
            assert!(why.to_string().contains("isn't this machine"), "{why}");
        }
    }
}
