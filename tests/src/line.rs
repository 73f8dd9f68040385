//! A line to Postgres that can go dead: a port that hands connections on to the server's socket, carries so many more pieces
//! of what is sent, and then nothing in either direction. Nobody is told: to both ends the connection is there.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{oneshot, watch};

use crate::ports::free_port;

#[derive(Clone, Copy, Debug)]
struct Mode {
    /// So many more pieces are carried to the server.
    carries: u64,
    /// Connections with lower numbers are dead for good.
    forgotten: u64,
    /// The number of the next one.
    next: u64,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Line {
    port: u16,
    mode: Arc<watch::Sender<Mode>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Line {
    /// To the server of this URL, which listens on a Unix socket.
    pub fn to(url: &str) -> Line {
        let folder = url.rsplit_once("?host=").expect("a URL with a socket's folder").1;
        let folder = folder.replace("%2F", "/").replace("%20", " ").replace("%25", "%");
        let socket = Path::new(&folder).join(".s.PGSQL.5432");
        let port = free_port();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mode = Arc::new(watch::Sender::new(Mode { carries: u64::MAX, forgotten: 0, next: 0 }));
        let (stop, stopped) = oneshot::channel();
        let modes = mode.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, socket, modes) => {}
                    _ = stopped => {}
                }
            });
        });
        Line { port, mode, stop: Some(stop), thread: Some(thread) }
    }

    /// The same database by this line.
    pub fn url(&self, url: &str) -> String {
        let (_, database) = url.split('?').next().unwrap().rsplit_once('/').unwrap();
        format!("postgres://farm@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// After so many more pieces to the server nothing gets through any more.
    pub fn die_after(&self, pieces: u64) {
        self.mode.send_modify(|mode| mode.carries = pieces);
    }

    /// Whether it carries nothing any more.
    pub fn is_dead(&self) -> bool {
        self.mode.borrow().carries == 0
    }

    /// What was held up arrives now; or, if it `forgets`, the connections that are there stay dead.
    pub fn mend(&self, forgets: bool) {
        self.mode.send_modify(|mode| {
            mode.carries = u64::MAX;
            if forgets {
                mode.forgotten = mode.next;
            }
        });
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, socket: PathBuf, mode: Arc<watch::Sender<Mode>>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        // Nothing but a lack of files makes this fail.
        let (stream, _) = listener.accept().await.unwrap();
        let mut number = 0;
        mode.send_modify(|mode| {
            number = mode.next;
            mode.next += 1;
        });
        tokio::spawn(carry(stream, socket.clone(), number, mode.clone()));
    }
}

async fn carry(
    stream: TcpStream,
    socket: PathBuf,
    number: u64,
    mode: Arc<watch::Sender<Mode>>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let target = UnixStream::connect(socket).await?;
    let (here, there) = (stream.into_split(), target.into_split());
    tokio::select! {
        done = pump(here.0, there.1, number, &mode, true) => done,
        done = pump(there.0, here.1, number, &mode, false) => done,
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    number: u64,
    mode: &watch::Sender<Mode>,
    counts: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let mut changes = mode.subscribe();
        loop {
            let mut passes = false;
            mode.send_if_modified(|mode| {
                passes = number < mode.forgotten || mode.carries > 0;
                if passes && counts && read > 0 && mode.carries < u64::MAX {
                    mode.carries -= 1;
                }
                false
            });
            if passes {
                break;
            }
            if changes.changed().await.is_err() {
                return Ok(());
            }
        }
        let is_forgotten = number < mode.borrow().forgotten;
        match read {
            // The client doesn't hear that the server has gone.
            0 if is_forgotten && !counts => std::future::pending().await,
            0 => return Ok(()),
            _ if is_forgotten => continue,
            _ => to.write_all(&buffer[..read]).await?,
        }
    }
}
