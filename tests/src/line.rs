//! A line to Postgres: a port that hands connections on to the server's socket, and can go dead in the middle, fall silent in
//! one direction or both, or be slow. No connection breaks and nobody is told: whoever is behind it has to find out.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{oneshot, watch};

use crate::ports::free_port;

/// How long a slow line holds each piece up, in milliseconds.
const SLOW: std::ops::Range<u64> = 50..250;

/// To Postgres, or from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    There,
    Back,
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Nothing gets through in either direction.
    Silent,
    /// Nothing gets through in this direction.
    HalfOpen(Way),
    /// Each piece is held up, in both directions.
    Slow,
}

#[derive(Clone, Copy, Debug)]
struct Mode {
    wrong: Option<Wrong>,
    /// So many more pieces are carried to the server; at the end nothing gets through in either direction.
    carries: u64,
    /// Connections with lower numbers are dead for good: what comes in vanishes.
    forgotten: u64,
    /// The number of the next connection.
    next: u64,
}

impl Mode {
    fn passes(&self, way: Way) -> bool {
        let open = match self.wrong {
            None | Some(Wrong::Slow) => true,
            Some(Wrong::Silent) => false,
            Some(Wrong::HalfOpen(lost)) => lost != way,
        };
        open && self.carries > 0
    }
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
        Line::to_socket(&Path::new(&folder).join(".s.PGSQL.5432"))
    }

    fn to_socket(socket: &Path) -> Line {
        let port = free_port();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let begin = Mode { wrong: None, carries: u64::MAX, forgotten: 0, next: 0 };
        let mode = Arc::new(watch::Sender::new(begin));
        let (stop, stopped) = oneshot::channel();
        let (socket, modes) = (socket.to_owned(), mode.clone());
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

    /// The database of this URL by this line.
    pub fn url(&self, url: &str) -> String {
        let (_, database) = url.split('?').next().unwrap().rsplit_once('/').unwrap();
        format!("postgres://farm@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    pub fn harm(&self, wrong: Wrong) {
        self.mode.send_modify(|mode| mode.wrong = Some(wrong));
    }

    /// After so many more pieces to the server nothing gets through any more.
    pub fn die_after(&self, pieces: u64) {
        self.mode.send_modify(|mode| mode.carries = pieces);
    }

    /// Whether it has come to the last of these pieces.
    pub fn is_dead(&self) -> bool {
        self.mode.borrow().carries == 0
    }

    /// What was held up arrives now; or, if it `forgets`, the connections that are there stay dead.
    pub fn mend(&self, forgets: bool) {
        self.mode.send_modify(|mode| {
            (mode.wrong, mode.carries) = (None, u64::MAX);
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
        done = pump(here.0, there.1, Way::There, number, &mode) => done,
        done = pump(there.0, here.1, Way::Back, number, &mode) => done,
    }
}

/// Ends when one end is gone and the other may know it.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    number: u64,
    mode: &watch::Sender<Mode>,
) -> io::Result<()> {
    let mut rng = StdRng::seed_from_u64(number);
    let mut changes = mode.subscribe();
    let mut buffer = vec![0; 64 << 10];
    loop {
        // One that breaks has ended too.
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let now = loop {
            changes.mark_unchanged();
            if let Some(now) = pass(mode, way, number, read > 0) {
                break now;
            }
            if changes.changed().await.is_err() {
                return Ok(());
            }
        };
        let is_forgotten = number < now.forgotten;
        match (read, way) {
            // The client doesn't hear that the server has gone.
            (0, Way::Back) if is_forgotten => std::future::pending().await,
            (0, _) => return Ok(()),
            _ if is_forgotten => continue,
            _ => {}
        }
        if now.wrong == Some(Wrong::Slow) {
            tokio::time::sleep(Duration::from_millis(rng.random_range(SLOW))).await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}

/// Counts a piece, if it may pass, or vanish; nothing while it has to wait.
fn pass(mode: &watch::Sender<Mode>, way: Way, number: u64, is_piece: bool) -> Option<Mode> {
    let mut now = None;
    mode.send_if_modified(|mode| {
        let is_forgotten = number < mode.forgotten;
        if !is_forgotten && !mode.passes(way) {
            return false;
        }
        if !is_forgotten && is_piece && way == Way::There && mode.carries < u64::MAX {
            mode.carries -= 1;
        }
        now = Some(*mode);
        false
    });
    now
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpStream;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A server that answers each byte with the one after it.
    fn server(folder: &Path) -> PathBuf {
        let socket = folder.join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut stream = stream;
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() {
                        byte[0] += 1;
                        stream.write_all(&byte).unwrap();
                    }
                });
            }
        });
        socket
    }

    fn connect(line: &Line) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, line.port)).unwrap()
    }

    fn send(stream: &mut TcpStream, byte: u8) {
        stream.write_all(&[byte]).unwrap();
    }

    fn get(stream: &mut TcpStream) -> u8 {
        let mut byte = [0];
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.read_exact(&mut byte).unwrap();
        byte[0]
    }

    /// The connection is there, and nothing comes. (It would be here within a millisecond or so.)
    fn is_silent(stream: &mut TcpStream) -> bool {
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let error = stream.read_exact(&mut [0]).expect_err("nothing can be there");
        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
    }

    #[test]
    fn what_is_sent_into_silence_arrives_late_or_never_and_nothing_breaks() {
        let folder = tempfile::tempdir().unwrap();
        let line = Line::to_socket(&server(folder.path()));
        let mut stream = connect(&line);
        send(&mut stream, 1);
        assert_eq!(get(&mut stream), 2);
        for wrong in [Wrong::Silent, Wrong::HalfOpen(Way::There), Wrong::HalfOpen(Way::Back)] {
            line.harm(wrong);
            send(&mut stream, 3);
            let mut new = connect(&line);
            send(&mut new, 5);
            assert!(is_silent(&mut stream) && is_silent(&mut new), "{wrong:?}");
            line.mend(false);
            assert_eq!((get(&mut stream), get(&mut new)), (4, 6), "{wrong:?}");
        }
        line.harm(Wrong::Silent);
        send(&mut stream, 7);
        line.mend(true);
        send(&mut stream, 8);
        assert!(is_silent(&mut stream));
        let mut new = connect(&line);
        send(&mut new, 9);
        assert_eq!(get(&mut new), 10);
        line.die_after(1);
        send(&mut new, 11);
        assert!(is_silent(&mut new) && line.is_dead());
        line.mend(false);
        assert_eq!(get(&mut new), 12);
    }
}
