//! A registry that makes one misstep: a port in front of a real one that hands everything on, but for one request of each copy. It wants a
//! token of a service, and takes any.
//!
//! The repository says which: `PORT-KIND-N/…` is a copy of which the N-th request by the port of that name meets the misstep of that kind.
//! What is copied is one and the same for all: `PORT-KIND-N/source` is the registry's repository `source`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::http::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use crate::faults::answers::{Body, Error, full};

/// Between the halves of a slow answer.
const MOMENT: Duration = Duration::from_millis(300);

/// What the registry does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misstep {
    /// 500, and nothing is done.
    Fails,
    /// 429 with a Retry-After of a second.
    Busy,
    /// 401 with a challenge, as if the token had come to its end.
    Expired,
    /// It is done, and the answer comes in halves.
    Slow,
    /// It is done, and the answer breaks off in its middle.
    Cut,
    /// The answer says that it is longer than it is.
    Longer,
    /// The answer's bytes are others.
    OtherBytes,
    /// The answer's headers say another digest.
    OtherDigest,
}

impl Misstep {
    pub const ALL: [Misstep; 8] = [
        Misstep::Fails,
        Misstep::Busy,
        Misstep::Expired,
        Misstep::Slow,
        Misstep::Cut,
        Misstep::Longer,
        Misstep::OtherBytes,
        Misstep::OtherDigest,
    ];

    /// Whether a copy has to get over it.
    pub fn passes(self) -> bool {
        !matches!(self, Misstep::OtherDigest)
    }
}

impl fmt::Display for Misstep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

/// A request: its method, and its path behind the copy's name.
pub type Asked = (String, String);

#[derive(Debug)]
struct State {
    name: String,
    registry: u16,
    /// Where a challenge leads to.
    realm: String,
    asked: Mutex<HashMap<String, Vec<Asked>>>,
    /// Copies that have met their misstep.
    made: Mutex<HashSet<String>>,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Missteps {
    port: u16,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Missteps {
    /// A port of this name in front of the registry on that one; a challenge leads to this token service.
    pub fn to(name: &str, registry: u16, realm: &str) -> Missteps {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            name: name.to_owned(),
            registry,
            realm: realm.to_owned(),
            asked: Mutex::default(),
            made: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Missteps { port, state, stop: Some(stop), thread: Some(thread) }
    }

    /// `localhost:PORT`, as image references want it.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// Whether a copy has met its misstep here.
    pub fn was_made(&self, copy: &str) -> bool {
        self.state.made.lock().unwrap().contains(copy)
    }

    /// What was asked for a copy, by its name.
    pub fn asked(&self, copy: &str) -> Vec<Asked> {
        self.state.asked.lock().unwrap().get(copy).cloned().unwrap_or_default()
    }
}

impl Drop for Missteps {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, state: Arc<State>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = state.clone();
        let service = service_fn(move |request| answer(request, state.clone()));
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

/// The misstep that this request meets.
fn misstep(request: &Request<Incoming>, state: &State) -> Option<Misstep> {
    let (copy, rest) = request.uri().path().strip_prefix("/v2/")?.split_once('/')?;
    let (port, misstep) = copy.split_once('-')?;
    let (kind, number) = misstep.split_once('-')?;
    let mut asked = state.asked.lock().unwrap();
    let asked = asked.entry(copy.to_owned()).or_default();
    asked.push((request.method().to_string(), rest.to_owned()));
    if port != state.name || number.parse() != Ok(asked.len()) {
        return None;
    }
    let found = Misstep::ALL.into_iter().find(|misstep| misstep.to_string() == kind);
    if found.is_some() {
        state.made.lock().unwrap().insert(copy.to_owned());
    }
    found
}

/// An error breaks the connection.
async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Body>, Error> {
    // Whoever comes without a token is sent for one.
    let misstep = match request.headers().contains_key(header::AUTHORIZATION) {
        true => misstep(&request, &state),
        false => Some(Misstep::Expired),
    };
    let said = |status: StatusCode, code: &str| {
        let text = format!(r#"{{"errors":[{{"code":"{code}","message":"a misstep"}}]}}"#);
        let answer = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
        (answer, full(Bytes::from(text)))
    };
    match misstep {
        Some(Misstep::Fails) => {
            let (answer, body) = said(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN");
            return Ok(answer.body(body)?);
        }
        Some(Misstep::Busy) => {
            let (answer, body) = said(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS");
            return Ok(answer.header(header::RETRY_AFTER, 1).body(body)?);
        }
        Some(Misstep::Expired) => {
            let challenge = format!(r#"Bearer realm="{}",service="registry-of-tests""#, state.realm);
            let (answer, body) = said(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
            return Ok(answer.header(header::WWW_AUTHENTICATE, challenge).body(body)?);
        }
        _ => {}
    }
    let (head, bytes) = forward(request, &state).await?;
    let Some(misstep) = misstep else { return Ok(Response::from_parts(head, full(bytes))) };
    wrong(misstep, head, bytes)
}

/// A right answer made wrong.
fn wrong(
    misstep: Misstep,
    mut head: hyper::http::response::Parts,
    bytes: Bytes,
) -> Result<Response<Body>, Error> {
    let half = bytes.slice(..bytes.len() / 2);
    let rest = bytes.slice(bytes.len() / 2..);
    match misstep {
        Misstep::Slow => {
            return Ok(Response::from_parts(head, halves(half, rest)));
        }
        // Where there is no body, nothing comes at all.
        Misstep::Cut if bytes.is_empty() => return Err("the answer is lost".into()),
        Misstep::Cut => {
            head.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
            return Ok(Response::from_parts(head, broken(half)));
        }
        Misstep::Longer => {
            head.headers.insert(header::CONTENT_LENGTH, (bytes.len() + 7).into());
            return Ok(Response::from_parts(head, broken(bytes)));
        }
        Misstep::OtherDigest => {
            if head.headers.contains_key("docker-content-digest") {
                let other = format!("sha256:{:064x}", 7);
                head.headers.insert("docker-content-digest", HeaderValue::from_str(&other)?);
            }
        }
        Misstep::OtherBytes => {
            let mut other = bytes.to_vec();
            if let Some(last) = other.last_mut() {
                *last ^= 1;
            }
            return Ok(Response::from_parts(head, full(other.into())));
        }
        Misstep::Fails | Misstep::Busy | Misstep::Expired => {}
    }
    Ok(Response::from_parts(head, full(bytes)))
}

/// One half, and the other a moment later.
fn halves(half: Bytes, rest: Bytes) -> Body {
    let (pieces, stream) = mpsc::channel::<Result<Frame<Bytes>, Error>>(2);
    tokio::spawn(async move {
        let _ = pieces.send(Ok(Frame::data(half))).await;
        tokio::time::sleep(MOMENT).await;
        let _ = pieces.send(Ok(Frame::data(rest))).await;
    });
    StreamBody::new(ReceiverStream::new(stream)).boxed()
}

/// These bytes, and then the connection breaks.
fn broken(bytes: Bytes) -> Body {
    let parts = [Ok(Frame::data(bytes)), Err(Error::from("the rest never comes"))];
    StreamBody::new(tokio_stream::iter(parts)).boxed()
}

/// The registry's own answer, as a whole.
async fn forward(
    request: Request<Incoming>,
    state: &State,
) -> Result<(hyper::http::response::Parts, Bytes), Error> {
    let (mut head, body) = request.into_parts();
    // The registry asks nobody who he is.
    head.headers.remove(header::AUTHORIZATION);
    let asked = head.uri.to_string();
    head.uri = source_of_all(&asked).parse()?;
    let is_head = head.method == hyper::Method::HEAD;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, state.registry)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let body: Body = body.map_err(Into::into).boxed();
    let (mut answer, body) = sender.send_request(Request::from_parts(head, body)).await?.into_parts();
    let bytes = body.collect().await?.to_bytes();
    if !is_head {
        answer.headers.remove(header::CONTENT_LENGTH);
        answer.headers.remove(header::TRANSFER_ENCODING);
    }
    Ok((answer, bytes))
}

/// The same path with the one source of all copies in it, also where a blob is to be taken over from there.
fn source_of_all(path: &str) -> String {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let path = match path.split_once("/source/") {
        None => path.to_owned(),
        Some((_, after)) => format!("/v2/source/{after}"),
    };
    let Some(query) = query else { return path };
    let fields = query.split('&').map(|field| match field.strip_prefix("from=") {
        Some(from) if from.ends_with("source") => "from=source",
        _ => field,
    });
    format!("{path}?{}", fields.collect::<Vec<_>>().join("&"))
}
