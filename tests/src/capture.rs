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
        Self::without(None)
    }

    /// The same, but for what comes from a port or goes there.
    pub fn without(port: impl Into<Option<u16>>) -> Capture {
        let port = port.into();
        let protocol = Protocol::from_raw(ALL.try_into().unwrap());
        let family = AddressFamily::PACKET;
        let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol)).unwrap();
        set_socket_recv_buffer_size_force(&socket, WAITING).unwrap();
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(100))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        Capture { stop, reading: std::thread::spawn(move || read(&socket, &until, port)) }
    }

    /// All that was seen, one frame after the other.
    pub fn end(self) -> Vec<u8> {
        self.stop.store(true, Ordering::Relaxed);
        self.reading.join().unwrap()
    }
}

/// Whether a frame is of TCP from this port or to it.
fn is_of(frame: &[u8], port: u16) -> bool {
    let ports_at = match frame {
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, first, ..] if frame.get(23) == Some(&6) => {
            14 + usize::from(first & 0x0f) * 4
        }
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, ..] if frame.get(20) == Some(&6) => 54,
        _ => return false,
    };
    let ports = frame.get(ports_at..ports_at + 4).unwrap_or_default();
    ports.chunks(2).any(|it| it == port.to_be_bytes())
}

/// Until it is to stop and nothing is left.
fn read(socket: &OwnedFd, stop: &AtomicBool, without: Option<u16>) -> Vec<u8> {
    let (mut seen, mut frame) = (Vec::new(), vec![0; FRAME]);
    loop {
        match recv(socket, &mut frame[..], RecvFlags::empty()) {
            Ok((_, length)) if without.is_some_and(|port| is_of(&frame[..length.min(FRAME)], port)) => {}
            Ok((_, length)) => seen.extend_from_slice(&frame[..length.min(FRAME)]),
            Err(Errno::AGAIN) if stop.load(Ordering::Relaxed) => return seen,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => panic!("a packet socket: {error}"),
        }
    }
}
