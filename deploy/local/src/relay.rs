//! `localhost:PORT` of the engine's network leads to a registry of this machine.
//!
//! The engine has a loopback of its own, and images are named `localhost:5002/…` on both sides. So a socket
//! listens there and hands its connections on. Only the engine itself reaches it: what a build runs has yet
//! another network.

use std::fs::File;
use std::io;
use std::net::TcpListener as StdListener;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Relay {
    _stop: DropGuard,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Listens on 127.0.0.1:`port` in the network of process `pid`, and connects to the same port here.
    ///
    /// # Errors
    /// The network can't be entered, or the port is taken there.
    pub fn start(pid: u32, port: u16) -> io::Result<Self> {
        let listener = listen_in(pid, port)?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        // A thread of its own: image data must not keep the supervisor from its children.
        let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = serve(listener, port) => {}
                }
            });
        })?;
        Ok(Self { _stop: stop.drop_guard(), thread: Some(thread) })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The guard is dropped after this; the thread ends by itself then.
        drop(self.thread.take());
    }
}

async fn serve(listener: TcpListener, port: u16) {
    loop {
        match listener.accept().await {
            Ok((mut near, _)) => {
                tokio::spawn(async move {
                    // A registry that is down is a closed connection, as it would be without us.
                    if let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await {
                        let _ = (near.set_nodelay(true), far.set_nodelay(true));
                        let _ =
                            tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, 1 << 16, 1 << 16)
                                .await;
                    }
                });
            }
            // Too many open files, say: it passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// A socket stays in the network in which it was made, so a thread of its own goes there and comes back no more.
fn listen_in(pid: u32, port: u16) -> io::Result<StdListener> {
    let network = File::open(format!("/proc/{pid}/ns/net"))?;
    let made = std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
        let listener = StdListener::bind(("127.0.0.1", port))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })?;
    made.join().unwrap_or_else(|_| Err(io::Error::other("the thread died")))
}
