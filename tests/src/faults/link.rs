//! A port in front of the coordinators, as a balancer is: each connection goes to the next of them that takes it. It
//! can be cut and frozen, which is what a bad network looks like from both ends.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use crate::ports::free_port;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Open,
    /// What goes through is broken off, what comes is closed.
    Cut,
    /// Bytes are kept, in both directions, until it is opened.
    Frozen,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Link {
    port: u16,
    mode: watch::Sender<Mode>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    pub fn to(targets: &[u16]) -> Link {
        let port = free_port();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (mode, modes) = watch::channel(Mode::Open);
        let (stop, stopped) = oneshot::channel();
        let targets = Arc::from(targets);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, targets, modes) => {}
                    _ = stopped => {}
                }
            });
        });
        Link { port, mode, stop: Some(stop), thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The same, for somebody to whom this machine has that address.
    pub fn url_at(&self, address: &str) -> String {
        format!("http://{address}:{}", self.port)
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, targets: Arc<[u16]>, mode: watch::Receiver<Mode>) {
    let listener = TcpListener::from_std(listener).unwrap();
    let turn = Arc::new(AtomicUsize::new(0));
    loop {
        // Nothing but a lack of files makes this fail.
        let (stream, _) = listener.accept().await.unwrap();
        if *mode.borrow() != Mode::Cut {
            tokio::spawn(carry(stream, targets.clone(), turn.clone(), mode.clone()));
        }
    }
}

async fn carry(
    stream: TcpStream,
    targets: Arc<[u16]>,
    turn: Arc<AtomicUsize>,
    mode: watch::Receiver<Mode>,
) -> io::Result<()> {
    let first = turn.fetch_add(1, Ordering::Relaxed);
    let mut found = None;
    for n in 0..targets.len() {
        let port = targets[(first + n) % targets.len()];
        if let Ok(target) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            found = Some(target);
            break;
        }
    }
    let Some(target) = found else { return Ok(()) };
    stream.set_nodelay(true)?;
    target.set_nodelay(true)?;
    let (here, there) = (stream.into_split(), target.into_split());
    tokio::select! {
        done = pump(here.0, there.1, mode.clone()) => done,
        done = pump(there.0, here.1, mode) => done,
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read?,
            _ = mode.wait_for(|mode| *mode == Mode::Cut) => return Ok(()),
        };
        let frozen = mode.wait_for(|mode| *mode != Mode::Frozen).await;
        if read == 0 || !frozen.is_ok_and(|mode| *mode == Mode::Open) {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
    }
}
