//! Connections, from what a listener accepts: each handshake in a task of its own, bounded in time and in number.
//!
//! When as many handshakes are under way as may be, the oldest gives way: an honest one takes milliseconds, so it is
//! those who open connections and say nothing that go. Each connection has its place among those that are open
//! ([`crate::limits::lines`]) from its acceptance to its end.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use rustix::process::{Resource, getrlimit};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::refuse::refuse;
use super::server::Side;
use crate::limits::Doors;
use crate::limits::line::Line;
use crate::limits::lines::Seat;

/// How long a handshake may take, and how long who speaks no TLS is told so.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// As many handshakes at once are enough for 1,000 workers that all come back.
const MOST: u64 = 4096;
/// The rest when the system has no room for a connection.
const REST: Duration = Duration::from_millis(200);
/// The first byte of a TLS record with a handshake (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 0x16;

/// A client's connection.
#[derive(Debug)]
pub enum Connection {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

/// What a connection says of who is at its other end; in the extensions of each of its requests.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it comes from.
    pub address: Option<SocketAddr>,
    /// The certificates that it showed, its own first. It has that one's key, and nothing else is known of them.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// Nobody between can read it.
    pub is_encrypted: bool,
    /// The connection, as the limits see it.
    pub line: Arc<Line>,
}

/// An accepted socket, which can be ended from elsewhere.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    seat: Seat,
}

/// The connections of a listener; with TLS only those whose handshake is over, or which need none.
pub fn incoming(
    listener: TcpListener,
    tls: Option<Arc<Side>>,
    doors: Arc<Doors>,
) -> impl Stream<Item = io::Result<Connection>> {
    async_stream::stream! {
        let mut shaking = Shaking::new(most());
        loop {
            let connection = tokio::select! {
                accepted = listener.accept() => match (accepted, &tls) {
                    (Ok((stream, peer)), tls) => {
                        // Small messages don't wait for others to be sent with.
                        let _ = stream.set_nodelay(true);
                        let socket = doors.admit(peer).map(|seat| Socket { stream, seat });
                        match (socket, tls) {
                            (None, _) => None,
                            (Some(socket), None) => Some(Connection::Plain(socket)),
                            (Some(socket), Some(tls)) => {
                                shaking.begin(shake(socket, Arc::clone(tls)));
                                None
                            }
                        }
                    }
                    // The client has gone already.
                    (Err(error), _) if error.kind() == io::ErrorKind::ConnectionAborted => None,
                    (Err(error), _) => {
                        tracing::warn!(%error, "a connection can't be taken");
                        tokio::time::sleep(REST).await;
                        None
                    }
                },
                connection = shaking.next() => connection,
            };
            if let Some(connection) = connection {
                yield Ok(connection);
            }
        }
    }
}

/// A quarter of what may be open at once, and never more than [`MOST`].
fn most() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from((files / 4).clamp(1, MOST)).unwrap_or(1)
}

/// The handshakes that are under way.
struct Shaking {
    tasks: JoinSet<Option<Connection>>,
    /// The oldest first, with some that are over.
    order: VecDeque<AbortHandle>,
    most: usize,
}

impl Shaking {
    fn new(most: usize) -> Self {
        Self { tasks: JoinSet::new(), order: VecDeque::new(), most }
    }

    fn begin(&mut self, shake: impl Future<Output = Option<Connection>> + Send + 'static) {
        while self.order.front().is_some_and(AbortHandle::is_finished) {
            self.order.pop_front();
        }
        if self.tasks.len() >= self.most {
            while let Some(oldest) = self.order.pop_front() {
                if !oldest.is_finished() {
                    oldest.abort();
                    break;
                }
            }
        }
        self.order.push_back(self.tasks.spawn(shake));
    }

    /// The next that is over, `None` if nothing came of it. Never, if there is none.
    async fn next(&mut self) -> Option<Connection> {
        match self.tasks.join_next().await {
            Some(ended) => ended.ok().flatten(),
            None => std::future::pending().await,
        }
    }
}

/// One handshake.
async fn shake(socket: Socket, tls: Arc<Side>) -> Option<Connection> {
    let address = socket.stream.peer_addr().ok();
    match tokio::time::timeout(HANDSHAKE, accept(socket, &tls)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%error, ?address, "no handshake came about");
            None
        }
        Err(_) => {
            tracing::debug!(?address, "a handshake took too long");
            None
        }
    }
}

async fn accept(socket: Socket, tls: &Side) -> io::Result<Option<Connection>> {
    let mut first = [0];
    if socket.stream.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    if first != [HANDSHAKE_RECORD] {
        if tls.is_optional {
            return Ok(Some(Connection::Plain(socket)));
        }
        refuse(socket).await;
        return Ok(None);
    }
    if let Ok(here) = socket.stream.local_addr() {
        tls.held.bear(here.ip());
    }
    let stream = TlsAcceptor::from(Arc::clone(&tls.config)).accept(socket).await?;
    Ok(Some(Connection::Tls(Box::new(stream))))
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        let (socket, shown) = match self {
            Self::Plain(socket) => (socket, None),
            Self::Tls(stream) => (stream.get_ref().0, stream.get_ref().1.peer_certificates()),
        };
        Peer {
            address: socket.stream.peer_addr().ok(),
            certificates: shown.unwrap_or_default().into(),
            is_encrypted: matches!(self, Self::Tls(_)),
            line: Arc::clone(socket.seat.line()),
        }
    }
}

/// What is written to a connection that was ended.
fn ended<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "it was of no use and is ended")))
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.seat.line().is_closed_for_reading(cx.waker()) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.seat.line().is_closed_for_writing(cx.waker()) {
            return ended();
        }
        let wrote = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.seat.line().wrote(wrote.is_ready());
        wrote
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.seat.line().is_closed_for_writing(cx.waker()) {
            return ended();
        }
        let wrote = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.seat.line().wrote(wrote.is_ready());
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_begins_and_says_nothing_gives_way_to_who_comes_later() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = || TcpStream::connect(listener.local_addr().unwrap());
        let mut shaking = Shaking::new(3);
        for _ in 0..10 {
            shaking.begin(std::future::pending());
        }
        // The seven that had to go end, and the three youngest stay.
        for _ in 0..7 {
            assert!(shaking.next().await.is_none());
        }
        assert_eq!(shaking.tasks.len(), 3);
        let lines = Arc::new(crate::limits::lines::Lines::new(10, 10));
        let (seat, _) = lines.admit([127, 0, 0, 1].into(), false).unwrap();
        let honest = Connection::Plain(Socket { stream: connect().await.unwrap(), seat });
        shaking.begin(async { Some(honest) });
        let mut came = false;
        for _ in 0..2 {
            came |= shaking.next().await.is_some();
        }
        assert!(came, "the honest one came through");
        assert_eq!(shaking.tasks.len(), 2);
    }
}
