//! The Docker engine of whoever runs this: which one it is, and how an image gets into it.
//!
//! It is found as the docker command finds it: DOCKER_HOST, DOCKER_CONTEXT, the current context of its configuration, the
//! usual socket. Unix sockets and TCP without TLS are spoken to; what is not is said, with a way around it. Of the Engine API
//! (v1.24 and newer alike) two calls are used: `GET /info` and `POST /images/load`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use farm_types::chain::{in_short, io_in_short};
use farm_types::{Digest, Platform};
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;

use crate::error::{Error, Result};
use crate::output::text::harmless;

/// Where an engine is when nobody says otherwise.
const USUAL_SOCKET: &str = "/var/run/docker.sock";
/// How long an engine may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it may neither take a piece of an image nor answer; unpacking a large one takes minutes, in which it says nothing.
const IDLE: Duration = Duration::from_secs(600);
/// The longest answer that is read, bytes.
const LONGEST: usize = 4 << 20;

/// Where a Docker engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Unix(PathBuf),
    Tcp(String),
}

/// An engine that answered.
#[derive(Debug, Clone)]
pub struct DockerEngine {
    place: Place,
    /// Its address, for people.
    pub shown: String,
    /// It keeps images as containerd does: also indexes.
    pub keeps_indexes: bool,
    /// The platform that it runs natively, if it says so.
    pub platform: Option<Platform>,
}

/// What there is to find an engine by.
#[derive(Debug, Default)]
struct Surroundings {
    host: Option<String>,
    context: Option<String>,
    tls: bool,
    /// The folder with the docker command's settings (`~/.docker`).
    config: Option<PathBuf>,
}

impl Surroundings {
    fn of_process() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = || set("HOME").map(|home| Path::new(&home).join(".docker"));
        Self {
            host: set("DOCKER_HOST"),
            context: set("DOCKER_CONTEXT"),
            tls: set("DOCKER_TLS_VERIFY").is_some() || set("DOCKER_TLS").is_some(),
            config: set("DOCKER_CONFIG").map(PathBuf::from).or_else(home),
        }
    }

    /// The engine's address, and where that came from. `named`: the context that the output names.
    fn address(&self, named: Option<&str>) -> Result<(String, String)> {
        if let (None, Some(host)) = (named, &self.host) {
            if self.tls && !host.starts_with("unix://") {
                return Err(no_tls(host, "DOCKER_TLS_VERIFY"));
            }
            return Ok((host.clone(), "DOCKER_HOST".to_owned()));
        }
        let current = || {
            let text = std::fs::read(self.config.as_ref()?.join("config.json")).ok()?;
            serde_json::from_slice::<DockerConfig>(&text).ok()?.current_context
        };
        let name = named.map(str::to_owned).or_else(|| self.context.clone()).or_else(current);
        match name.filter(|name| !name.is_empty() && name != "default") {
            Some(name) => self.context(&name),
            None => Ok((format!("unix://{USUAL_SOCKET}"), "the usual socket".to_owned())),
        }
    }

    fn context(&self, name: &str) -> Result<(String, String)> {
        let missing = |why: &str| {
            Error::Usage(format!(
                "--load: the docker context {:?} {why}; `docker context ls` lists those that are there",
                harmless(name)
            ))
        };
        let folder = self
            .config
            .as_ref()
            .ok_or_else(|| missing("can't be looked up without HOME or DOCKER_CONFIG"))?;
        let id = Digest::of(name.as_bytes()).hex();
        let meta = std::fs::read(folder.join("contexts/meta").join(&id).join("meta.json"));
        let meta = meta.map_err(|error| missing(&format!("can't be read ({})", io_in_short(&error))))?;
        let meta: ContextMeta = serde_json::from_slice(&meta).map_err(|_| missing("can't be understood"))?;
        let host = meta.endpoints.docker.map(|endpoint| endpoint.host).unwrap_or_default();
        let keys = folder.join("contexts/tls").join(&id).join("docker");
        if host.starts_with("tcp://") && keys.is_dir() {
            return Err(no_tls(&host, &format!("the docker context {name}")));
        }
        match host.as_str() {
            "" => Ok((format!("unix://{USUAL_SOCKET}"), format!("the docker context {name}"))),
            host => Ok((host.to_owned(), format!("the docker context {name}"))),
        }
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(rename = "currentContext")]
    current_context: Option<String>,
}

#[derive(Deserialize)]
struct ContextMeta {
    #[serde(rename = "Endpoints")]
    endpoints: ContextEndpoints,
}

#[derive(Deserialize)]
struct ContextEndpoints {
    docker: Option<ContextEndpoint>,
}

#[derive(Deserialize)]
struct ContextEndpoint {
    #[serde(rename = "Host", default)]
    host: String,
}

/// `GET /info`, as much of it as matters here.
#[derive(Deserialize)]
struct Info {
    #[serde(rename = "OSType", default)]
    os: String,
    #[serde(rename = "Architecture", default)]
    architecture: String,
    #[serde(rename = "DriverStatus", default)]
    driver_status: Option<Vec<Vec<String>>>,
}

/// A line of the answer to `POST /images/load`.
#[derive(Deserialize)]
struct Line {
    stream: Option<String>,
    error: Option<String>,
}

fn no_tls(host: &str, from: &str) -> Error {
    Error::Usage(format!(
        "--load: {} ({from}) is reached with TLS, which farm doesn't speak to a Docker engine; write -o \
         type=docker,dest=image.tar and then: docker load -i image.tar",
        harmless(host)
    ))
}

fn place(address: &str, from: &str) -> Result<Place> {
    match address.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Place::Unix(path.into())),
        Some(("tcp" | "http", authority)) => {
            let authority = authority.trim_end_matches('/');
            let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            Ok(Place::Tcp(if has_port { authority.to_owned() } else { format!("{authority}:2375") }))
        }
        _ => Err(Error::Usage(format!(
            "--load: {} ({from}) is no Docker engine that farm can reach; it takes unix:///SOCKET and tcp://HOST:PORT. Else \
             write -o type=docker,dest=image.tar and then: docker load -i image.tar",
            harmless(address)
        ))),
    }
}

impl DockerEngine {
    /// Finds the engine and asks it what it is. `context`: the docker context that says which; `None`: as the docker command
    /// would choose.
    ///
    /// # Errors
    /// None answers, or it isn't one that farm can speak to; with what to do.
    pub async fn find(context: Option<&str>) -> Result<Self> {
        Self::find_by(&Surroundings::of_process(), context).await
    }

    async fn find_by(surroundings: &Surroundings, context: Option<&str>) -> Result<Self> {
        let (shown, from) = surroundings.address(context)?;
        let place = place(&shown, &from)?;
        let away = |why: String| {
            Error::Usage(format!(
                "--load: no Docker engine answers at {} ({from}): {why}. Start one, choose one with DOCKER_HOST, or write -o \
                 type=docker,dest=image.tar; nothing was built",
                harmless(&shown)
            ))
        };
        let engine = Self { place, shown: shown.clone(), keeps_indexes: false, platform: None };
        let asking = async {
            let request = Request::get("/info").header("host", "docker").body(Empty::<Bytes>::new());
            let (answer, _connection) = engine.call(request.map_err(|error| error.to_string())?).await?;
            let status = answer.status();
            let body = answer.into_body().collect().await.map_err(|error| in_short(&error))?.to_bytes();
            match status {
                StatusCode::OK => {
                    serde_json::from_slice::<Info>(&body).map_err(|_| "it is no Docker engine".to_owned())
                }
                status => Err(format!("it answers {status}")),
            }
        };
        let asked = tokio::time::timeout(PATIENCE, asking).await;
        let info = asked.map_err(|_| away("no answer in time".to_owned()))?.map_err(away)?;
        let keeps_indexes = info.driver_status.iter().flatten().any(|pair| {
            matches!(&pair[..], [name, value] if name == "driver-type" && value == "io.containerd.snapshotter.v1")
        });
        let platform = Platform::from_parts(&info.os, &info.architecture, "").ok();
        Ok(Self { keeps_indexes, platform, ..engine })
    }

    /// Sends an archive of an image, piece by piece; gives what the engine says it has loaded. An error among the pieces
    /// breaks off.
    ///
    /// # Errors
    /// What the engine, or the way to it, says; or that it has neither taken nor said anything for ten minutes.
    pub async fn load(&self, pieces: mpsc::Receiver<io::Result<Bytes>>) -> Result<Vec<String>> {
        self.load_within(IDLE, pieces).await
    }

    async fn load_within(
        &self,
        idle: Duration,
        pieces: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<Vec<String>> {
        let turn = watch::Sender::new(Turn::Engine(Instant::now()));
        let over = is_over(turn.subscribe(), idle);
        tokio::select! {
            loaded = self.send_image(turn, pieces) => loaded,
            () = over => Err(Error::Usage(format!(
                "the Docker engine at {} does not load it: it has neither taken nor said anything for {} minutes. Look at it \
                 (docker info, its log), and give the command again when it answers: what the farm has built comes from its \
                 cache. Or write -o type=docker,dest=image.tar",
                harmless(&self.shown),
                idle.as_secs() / 60
            ))),
        }
    }

    async fn send_image(
        &self,
        turn: watch::Sender<Turn>,
        pieces: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<Vec<String>> {
        let failed = |why: &str| {
            Error::Usage(format!(
                "the Docker engine at {} does not load it: {}",
                harmless(&self.shown),
                harmless(why)
            ))
        };
        let mut pieces = ReceiverStream::new(pieces);
        let turns = turn.clone();
        // It is asked for a piece when the engine takes one.
        let pieces = futures::stream::poll_fn(move |cx| {
            let piece = pieces.poll_next_unpin(cx);
            turns.send_replace(match piece {
                Poll::Pending => Turn::Ours,
                Poll::Ready(_) => Turn::Engine(Instant::now()),
            });
            piece
        });
        let body = StreamBody::new(pieces.map(|piece| piece.map(Frame::data)));
        let request = Request::post("/images/load?quiet=1")
            .header("host", "docker")
            .header("content-type", "application/x-tar")
            .body(body)
            .map_err(|error| failed(&error.to_string()))?;
        let (answer, _connection) = self.call(request).await.map_err(|why| failed(&why))?;
        let status = answer.status();
        let mut text = Vec::new();
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| failed(&in_short(&error)))?;
            turn.send_replace(Turn::Engine(Instant::now()));
            if let Some(data) = frame.data_ref()
                && text.len() + data.len() <= LONGEST
            {
                text.extend_from_slice(data);
            }
        }
        loaded(status, &String::from_utf8_lossy(&text)).map_err(|why| failed(&why))
    }

    async fn call<B>(&self, request: Request<B>) -> Result<(Response<Incoming>, Connection), String>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
    {
        match &self.place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| io_in_short(&error))?;
                exchange(TokioIo::new(stream), request).await
            }
            Place::Tcp(authority) => {
                let stream = TcpStream::connect(authority).await.map_err(|error| io_in_short(&error))?;
                exchange(TokioIo::new(stream), request).await
            }
        }
    }
}

/// Whose turn it is while an image is sent.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// There is no piece yet.
    Ours,
    /// It has to take a piece, or to answer, since then.
    Engine(Instant),
}

/// Ready when it was the engine's turn for so long.
async fn is_over(mut turn: watch::Receiver<Turn>, idle: Duration) {
    loop {
        let now = *turn.borrow_and_update();
        let over = async {
            match now {
                Turn::Ours => std::future::pending().await,
                Turn::Engine(since) => sleep_until(since + idle).await,
            }
        };
        tokio::select! {
            () = over => return,
            changed = turn.changed() => if changed.is_err() {
                // All is said.
                return std::future::pending().await;
            },
        }
    }
}

/// What moves the bytes of one exchange; dropped, it lets go of the request's body and of the socket.
type Connection = JoinSet<()>;

async fn exchange<T, B>(stream: T, request: Request<B>) -> Result<(Response<Incoming>, Connection), String>
where
    T: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| in_short(&error))?;
    // It ends with the answer, and says there what is wrong.
    let mut moving = JoinSet::new();
    moving.spawn(async move { drop(connection.await) });
    let answer = sender.send_request(request).await.map_err(|error| in_short(&error))?;
    Ok((answer, moving))
}

/// What the engine says: lines of JSON, also for an error that it met on the way.
fn loaded(status: StatusCode, text: &str) -> Result<Vec<String>, String> {
    let mut said = Vec::new();
    for line in text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
        if let Some(error) = line.error {
            return Err(error);
        }
        let stream = line.stream.unwrap_or_default();
        let name = stream
            .trim()
            .strip_prefix("Loaded image: ")
            .or_else(|| stream.trim().strip_prefix("Loaded image ID: "));
        said.extend(name.map(str::to_owned));
    }
    match status {
        StatusCode::OK => Ok(said),
        status => {
            let message = serde_json::from_str::<serde_json::Value>(text).ok();
            let message = message.and_then(|value| Some(value.get("message")?.as_str()?.to_owned()));
            Err(message.unwrap_or_else(|| format!("it answers {status}")))
        }
    }
}

/// Writes into the body of a request, from a thread of its own.
pub struct BodyWriter(mpsc::Sender<io::Result<Bytes>>);

impl BodyWriter {
    /// The writer, and what it writes.
    pub fn new() -> (Self, mpsc::Receiver<io::Result<Bytes>>) {
        let (sender, pieces) = mpsc::channel(8);
        (Self(sender), pieces)
    }

    /// Breaks the body off, so that nobody takes what came for the whole.
    pub fn break_off(self) {
        let _ = self.0.blocking_send(Err(io::ErrorKind::UnexpectedEof.into()));
    }
}

impl Write for &BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "docker_tests.rs"]
mod tests;
