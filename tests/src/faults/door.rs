//! A door in front of a real registry that lets requests through, or troubles them, and writes down every manifest that
//! is put: which tag pointed where, in which order. It knows a coordinator's requests from an engine's by the process that
//! the connection belongs to, and can meet one at a step of its publish pass ([`super::trap`]). An answer that it doesn't
//! end, it never ends for a coordinator; for an engine it breaks off when the trouble is over.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use super::answers::{Body, Error, endless, full, truncated};
use super::fault::Trouble;
use super::trap::{self, Action, Asked, How, Sprung, Trap, When};
use crate::ports::free_port;

/// A manifest that was put and taken.
#[derive(Clone, Debug)]
pub struct Put {
    /// When the request had come.
    pub begun: SystemTime,
    pub repository: String,
    /// A tag, or a digest.
    pub reference: String,
    pub digest: String,
    pub media_type: String,
    /// Else an engine put it.
    pub is_coordinators: bool,
}

#[derive(Debug)]
struct State {
    registry: u16,
    door: u16,
    trouble: watch::Sender<Option<Trouble>>,
    rng: Mutex<StdRng>,
    puts: Mutex<Vec<Put>>,
    /// Processes of coordinators.
    coordinators: Mutex<Vec<u32>>,
    /// Only coordinators: as if the registry were down, or silent, for them.
    shut: watch::Sender<Option<Shut>>,
    /// Tags that a process has put and not looked at since.
    just_put: Mutex<HashSet<(u32, String, String)>>,
    trap: Mutex<Option<Trap>>,
    sprung: Mutex<Option<Sprung>>,
    /// Whether what the last trap holds goes on.
    goes_on: Mutex<watch::Sender<bool>>,
}

/// What a registry that is away does to those who come to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shut {
    /// Breaks every connection off.
    Refuses,
    /// Takes requests and never answers.
    Hangs,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Door {
    port: u16,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// In front of the registry on this port; `seed` decides which requests are troubled.
    pub fn to(registry: u16, seed: u64) -> Door {
        let port = free_port();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let state = Arc::new(State {
            registry,
            door: port,
            trouble: watch::Sender::default(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            puts: Mutex::new(Vec::new()),
            coordinators: Mutex::default(),
            shut: watch::Sender::default(),
            just_put: Mutex::default(),
            trap: Mutex::default(),
            sprung: Mutex::default(),
            goes_on: Mutex::default(),
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
        Door { port, state, stop: Some(stop), thread: Some(thread) }
    }

    /// `localhost:PORT`, as image references want it.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub fn set(&self, trouble: Option<Trouble>) {
        self.state.trouble.send_replace(trouble);
    }

    /// Which processes are coordinators. To be said before such a process has made its first request.
    pub fn know_coordinators(&self, pids: Vec<u32>) {
        *self.state.coordinators.lock().unwrap() = pids;
    }

    /// Is away for coordinators; others come through.
    pub fn shut(&self, shut: Option<Shut>) {
        self.state.shut.send_replace(shut);
    }

    /// Sets a trap; the one before is forgotten, and lets go what it holds.
    pub fn arm(&self, trap: Trap) {
        self.let_go();
        *self.state.goes_on.lock().unwrap() = watch::Sender::default();
        *self.state.sprung.lock().unwrap() = None;
        *self.state.trap.lock().unwrap() = Some(trap);
    }

    /// What met the trap, if something did.
    pub fn sprung(&self) -> Option<Sprung> {
        *self.state.sprung.lock().unwrap()
    }

    /// Takes the trap away, if nothing has met it, and lets go what it holds.
    pub fn let_go(&self) {
        *self.state.trap.lock().unwrap() = None;
        self.state.goes_on.lock().unwrap().send_replace(true);
    }

    /// All manifests that were put so far, in the order in which the registry took them.
    pub fn puts(&self) -> Vec<Put> {
        self.state.puts.lock().unwrap().clone()
    }
}

impl Drop for Door {
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
        let (stream, peer) = listener.accept().await.unwrap();
        let state = state.clone();
        let pids = state.coordinators.lock().unwrap().clone();
        let coordinator = trap::owner(&pids, peer.port(), state.door);
        let service = service_fn(move |request| {
            // A task of its own: what has begun goes on when the client hangs up, as in a real registry.
            let answer = tokio::spawn(met(request, coordinator, state.clone()));
            async move { answer.await? }
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

/// A coordinator's request may meet a trap, or a registry that is away for it.
async fn met(
    request: Request<Incoming>,
    coordinator: Option<u32>,
    state: Arc<State>,
) -> Result<Response<Body>, Error> {
    let Some(pid) = coordinator else { return answer(request, false, state).await };
    let shut = *state.shut.borrow();
    match shut {
        None => {}
        Some(Shut::Refuses) => return Err("the registry is away".into()),
        Some(Shut::Hangs) => {
            let _ = state.shut.subscribe().wait_for(|shut| *shut != Some(Shut::Hangs)).await;
            return Err("it has hung".into());
        }
    }
    let place = manifest_place(request.uri().path());
    let is_blob = request.method() == Method::PUT && request.uri().path().contains("/blobs/uploads/");
    let asked = match &place {
        Some(place) => asked(request.method(), pid, place, &state),
        None => is_blob.then_some(Asked::PutsBlob),
    };
    let trap = asked.and_then(|asked| {
        let mut armed = state.trap.lock().unwrap();
        let fits = |trap: &mut Trap| {
            let is_tag = |tag: &str| place.as_ref().is_some_and(|(_, reference)| reference == tag);
            trap.asked == asked && trap.tag.as_deref().is_none_or(is_tag)
        };
        armed.take_if(fits)
    });
    let Some(trap) = trap else { return answer(request, true, state).await };
    if trap.when == When::Before {
        spring(&trap, pid, &state).await?;
        return answer(request, true, state).await;
    }
    let answer = answer(request, true, state.clone()).await;
    spring(&trap, pid, &state).await?;
    answer
}

/// Does to the coordinator what the trap is for. An error: it is dead, and what it asked for never came.
async fn spring(trap: &Trap, pid: u32, state: &State) -> Result<(), Error> {
    let mut goes_on = state.goes_on.lock().unwrap().subscribe();
    *state.sprung.lock().unwrap() = Some(Sprung { pid });
    if let Action::Does(how) = trap.action {
        trap::signal(pid, how);
    }
    if trap.action == Action::Does(How::Kill) {
        return Err("who asked is dead".into());
    }
    // Whoever goes away without a word lets it go as well.
    let _ = goes_on.wait_for(|goes_on| *goes_on).await;
    Ok(())
}

/// What a coordinator's request for a manifest is to its publish pass.
fn asked(
    method: &Method,
    pid: u32,
    (repository, reference): &(String, String),
    state: &State,
) -> Option<Asked> {
    if !reference.starts_with("sha256:") {
        let tag = (pid, repository.clone(), reference.clone());
        let mut just_put = state.just_put.lock().unwrap();
        return match *method {
            Method::HEAD if just_put.remove(&tag) => Some(Asked::Verifies),
            Method::HEAD => Some(Asked::LooksAtTag),
            Method::PUT => {
                just_put.insert(tag);
                Some(Asked::PutsTag)
            }
            _ => None,
        };
    }
    // An engine has put the images, and nobody but a coordinator an index.
    let image = || {
        let puts = state.puts.lock().unwrap();
        puts.iter().any(|put| !put.is_coordinators && put.digest == *reference)
    };
    match *method {
        Method::GET => Some(Asked::ReadsChild),
        Method::HEAD if image() => Some(Asked::LooksForChild),
        Method::HEAD => Some(Asked::LooksForIndex),
        Method::PUT => Some(Asked::PutsIndex),
        _ => None,
    }
}

/// An error makes the server close the connection without an answer.
async fn answer(
    request: Request<Incoming>,
    is_coordinators: bool,
    state: Arc<State>,
) -> Result<Response<Body>, Error> {
    let trouble = {
        let trouble = *state.trouble.borrow();
        // Not everything: a half of the requests gets through, so that things break in the middle.
        trouble.filter(|_| state.rng.lock().unwrap().random())
    };
    match trouble {
        Some(Trouble::Errors) => return refusal(StatusCode::INTERNAL_SERVER_ERROR),
        Some(Trouble::Busy) => return refusal(StatusCode::TOO_MANY_REQUESTS),
        Some(Trouble::Slow) => {
            let wait = state.rng.lock().unwrap().random_range(200..3_000);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        Some(Trouble::Truncates | Trouble::LosesAnswers | Trouble::Endless) | None => {}
    }
    let answer = forward(request, is_coordinators, &state).await?;
    match trouble {
        Some(Trouble::LosesAnswers) => Err("the answer is lost".into()),
        Some(Trouble::Truncates) => truncated(answer).await,
        Some(Trouble::Endless) => {
            let how = state.rng.lock().unwrap().random();
            let over = (!is_coordinators).then(|| state.trouble.subscribe());
            endless(answer, how, over).await
        }
        _ => Ok(answer.map(|body| body.map_err(Into::into).boxed())),
    }
}

async fn forward(
    request: Request<Incoming>,
    is_coordinators: bool,
    state: &State,
) -> Result<Response<Incoming>, Error> {
    let begun = SystemTime::now();
    let (head, body) = request.into_parts();
    let place = (head.method == Method::PUT).then(|| manifest_place(head.uri.path())).flatten();
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, state.registry)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let Some((repository, reference)) = place else {
        let body: Body = body.map_err(Into::into).boxed();
        return Ok(sender.send_request(Request::from_parts(head, body)).await?);
    };
    let bytes = body.collect().await?.to_bytes();
    let media_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let put = Put {
        begun,
        repository,
        reference,
        digest: digest_of(&bytes),
        media_type: media_type.unwrap_or_default().to_owned(),
        is_coordinators,
    };
    let answer = sender.send_request(Request::from_parts(head, full(bytes))).await?;
    if answer.status().is_success() {
        state.puts.lock().unwrap().push(put);
    }
    Ok(answer)
}

/// `/v2/REPOSITORY/manifests/REFERENCE`
fn manifest_place(path: &str) -> Option<(String, String)> {
    let (repository, reference) = path.strip_prefix("/v2/")?.rsplit_once("/manifests/")?;
    Some((repository.to_owned(), reference.to_owned()))
}

pub fn digest_of(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn refusal(status: StatusCode) -> Result<Response<Body>, Error> {
    let text = r#"{"errors":[{"code":"UNKNOWN","message":"trouble"}]}"#;
    let answer = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    Ok(answer.body(full(Bytes::from_static(text.as_bytes())))?)
}
