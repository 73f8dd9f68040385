//! What passes over loopback in this network namespace while it is looked at, as somebody on the way would see it.
//!
//! A packet socket (packet(7)) gives each frame on `lo` as it goes out and as it comes in; so all is there twice. It needs root,
//! which the test bed has.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};

/// All protocols (`ETH_P_ALL`, two bytes), in network order.
const ALL: u32 = 0x0003_u32.swap_bytes() >> 16;
/// Frames on loopback have at most 64 KiB and their headers.
const FRAME: usize = 128 * 1024;
/// What may wait to be read, bytes.
const WAITING: usize = 128 * 1024 * 1024;

/// A look at the network that goes on until it is ended.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    reading: JoinHandle<Vec<u8>>,
}

impl Capture {
    /// From now on.
    pub fn begin() -> Capture {
        let protocol = Protocol::from_raw(ALL.try_into().unwrap());
        let family = AddressFamily::PACKET;
        let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol)).unwrap();
        set_socket_recv_buffer_size_force(&socket, WAITING).unwrap();
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(100))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        Capture { stop, reading: std::thread::spawn(move || read(&socket, &until)) }
    }

    /// All that was seen, one frame after the other.
    pub fn end(self) -> Vec<u8> {
        self.stop.store(true, Ordering::Relaxed);
        self.reading.join().unwrap()
    }
}

/// Until it is to stop and nothing is left.
fn read(socket: &OwnedFd, stop: &AtomicBool) -> Vec<u8> {
    let (mut seen, mut frame) = (Vec::new(), vec![0; FRAME]);
    loop {
        match recv(socket, &mut frame[..], RecvFlags::empty()) {
            Ok((_, length)) => seen.extend_from_slice(&frame[..length.min(FRAME)]),
            Err(Errno::AGAIN) if stop.load(Ordering::Relaxed) => return seen,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => panic!("a packet socket: {error}"),
        }
    }
}
