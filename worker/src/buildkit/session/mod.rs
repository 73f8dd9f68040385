//! The session: what the engine asks of us while it builds.
//!
//! A stream of byte messages (`Control.Session`) carries a second HTTP/2 connection in which *we* are the
//! server: of the source's files, of credentials, of secrets, of ssh agents, of a place for what is
//! made for the client, and of the health check without which the engine gives the
//! session up. A method counts only if it was announced when the session was opened.
//!
//! Invariant: [`Session::lost`] resolves as soon as that inner connection is over, whoever ended it. Without a
//! session a running step goes on, but the solve fails only a minute later; so whoever waits for a solve
//! watches this too.
//!
//! `auth` lets the engine in at registries, `secrets` and `ssh` give what steps mount (`missed`: what of it isn't there), `filesync` serves the source (`followpaths`: what of it is asked for; `times`: under which times), `filesend` takes what
//! is made, and `receive` makes an `archive` of a folder's files.

mod archive;
pub(super) mod auth;
mod filesend;
pub(super) mod filesync;
mod followpaths;
pub(super) mod missed;
mod receive;
pub(super) mod secrets;
pub(super) mod ssh;
pub(super) mod times;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bollard_buildkit_proto::health::health_check_response::ServingStatus;
use bollard_buildkit_proto::health::health_server::{Health, HealthServer};
use bollard_buildkit_proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use bollard_buildkit_proto::moby::buildkit::secrets::v1::secrets_server::SecretsServer;
use bollard_buildkit_proto::moby::buildkit::v1::BytesMessage;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::filesync::packet::file_sync_server::FileSyncServer;
use bollard_buildkit_proto::moby::filesync::v1::auth_server::AuthServer;
use bollard_buildkit_proto::moby::sshforward::v1::ssh_server::SshServer;
use bytes::{Buf, Bytes};
use farm_types::Digest;
use futures::StreamExt;
use futures::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};
use tokio_util::task::AbortOnDropHandle;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use tracing::{Instrument as _, Span};

use self::auth::Auth;
use self::filesend::FileSend;
use self::filesync::Files;
use self::secrets::Secrets;
use self::ssh::Ssh;
use super::engine::connect::{MAX_HEADERS_BYTES, MAX_MESSAGE_BYTES, WINDOW_BYTES};
use super::types::Output;

/// What is served, and announced. To serve a further service: here, and in [`Session::open`].
const METHODS: &[&str] = &["/grpc.health.v1.Health/Check", "/moby.filesync.v1.FileSync/DiffCopy"];
/// The window of the inner connection as a whole: outputs that nobody takes just now must leave room for health checks.
const CONNECTION_WINDOW_BYTES: u32 = 32 * WINDOW_BYTES;
/// How many messages may wait for the outer connection.
const OUTGOING: usize = 64;
/// How the inner connection's bytes are cut, bytes.
const PIECE: usize = 128 << 10;

/// A session that is being served. Dropping it ends it.
pub(super) struct Session {
    id: String,
    lost: CancellationToken,
    _server: AbortOnDropHandle<()>,
    /// Ends the inner connection, which tonic serves in a task that nobody else can reach.
    _ended: DropGuard,
}

impl Session {
    /// Opens a session and serves it by a task of its own.
    ///
    /// # Errors
    /// What the engine, or the way to it, answers.
    pub(super) async fn open(
        channel: Channel,
        shared_key: &str,
        files: Files,
        auth: Auth,
        (secrets, ssh): (Secrets, Ssh),
        outputs: Vec<Output>,
    ) -> Result<Self, Status> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        let mut request = Request::new(ReceiverStream::new(messages));
        let mut announce =
            |key: &'static str, value: MetadataValue<Ascii>| request.metadata_mut().append(key, value);
        let ascii =
            |text: &str| MetadataValue::try_from(text).map_err(|error| Status::internal(error.to_string()));
        announce("x-docker-expose-session-uuid", ascii(&id)?);
        announce("x-docker-expose-session-name", MetadataValue::from_static("farm"));
        announce("x-docker-expose-session-sharedkey", ascii(&Digest::of(shared_key.as_bytes()).hex())?);
        let takes = (!outputs.is_empty()).then_some(filesend::METHOD);
        let mounts = secrets::METHODS.iter().chain(ssh::METHODS);
        for method in METHODS.iter().chain(auth::METHODS).chain(mounts).copied().chain(takes) {
            announce("x-docker-expose-session-grpc-method", MetadataValue::from_static(method));
        }
        let incoming = ControlClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .session(request)
            .await?
            .into_inner();
        let (lost, ended) = (CancellationToken::new(), CancellationToken::new());
        let carrier = Carrier {
            incoming: Box::pin(incoming.take_until(ended.clone().cancelled_owned())),
            rest: Bytes::new(),
            outgoing: PollSender::new(outgoing),
            _gone: lost.clone().drop_guard(),
        };
        // The engine's calls are served on tasks of the connection's, which know nothing of the job.
        let span = Span::current();
        let serving = Server::builder()
            .trace_fn(move |_| span.clone())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            // Which files it wants stands in a request's headers: every source of every COPY.
            .http2_max_header_list_size(MAX_HEADERS_BYTES)
            .add_service(HealthServer::new(Healthy))
            .add_service(FileSyncServer::new(files))
            .add_service(AuthServer::new(auth))
            .add_service(SecretsServer::new(secrets))
            .add_service(SshServer::new(ssh))
            .add_service(FileSend::new(outputs))
            // One connection, and no end: the server would else leave while its connection lives.
            .serve_with_incoming(stream::once(async { io::Result::Ok(carrier) }).chain(stream::pending()));
        let serving = async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "the session's server ended");
            }
        };
        let server = tokio::spawn(serving.in_current_span());
        Ok(Self { id, lost, _server: AbortOnDropHandle::new(server), _ended: ended.drop_guard() })
    }

    /// What a solve names it by.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Waits until nothing can be served any more. Cancel safe.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

/// The inner connection: bytes in messages, both ways.
struct Carrier {
    incoming: Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>,
    rest: Bytes,
    outgoing: PollSender<BytesMessage>,
    _gone: DropGuard,
}

impl AsyncRead for Carrier {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.incoming.poll_next_unpin(cx)) {
                Some(Ok(message)) => self.rest = message.data.into(),
                Some(Err(status)) => return Poll::Ready(Err(io::Error::other(status))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.outgoing.poll_reserve(cx)).map_err(closed)?;
        let length = buf.len().min(PIECE);
        self.outgoing.send_item(BytesMessage { data: buf[..length].to_vec() }).map_err(closed)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.close();
        Poll::Ready(Ok(()))
    }
}

impl Connected for Carrier {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// Says that the session is well. Asked every five seconds.
struct Healthy;

#[tonic::async_trait]
impl Health for Healthy {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("not offered"))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not offered"))
    }
}
