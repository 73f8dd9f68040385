//! What a process tells the service manager that has started it: systemd's notification protocol, sd_notify(3).
//!
//! One datagram of `NAME=VALUE` lines to the socket in `NOTIFY_SOCKET`; without that variable nobody waits for it and
//! nothing is done. Here, as both servers need it and the standard library is enough for it.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Who started us may be slow to read, but must not hold us up.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// Says that the start goes on, and may take until this time from now is over, whatever limit it had; and in words with what.
///
/// # Errors
/// As [`ready`].
pub fn starting(at_most: Duration, status: &str) -> io::Result<()> {
    tell(&format!("EXTEND_TIMEOUT_USEC={}\n{}", at_most.as_micros(), status_line(status)))
}

/// Says that the process serves, and in words how it is.
///
/// # Errors
/// There is such a socket, but it takes nothing: then the service manager will not learn of it.
pub fn ready(status: &str) -> io::Result<()> {
    tell(&format!("READY=1\n{}", status_line(status)))
}

/// Says in words how the process is.
///
/// # Errors
/// As [`ready`].
pub fn status(status: &str) -> io::Result<()> {
    tell(&status_line(status))
}

/// Says that the process is on its way to its end, and in words what it still waits for.
///
/// # Errors
/// As [`ready`].
pub fn stopping(status: &str) -> io::Result<()> {
    tell(&format!("STOPPING=1\n{}", status_line(status)))
}

/// A line break would begin another assignment.
fn status_line(status: &str) -> String {
    format!("STATUS={}", status.replace(['\n', '\r'], " "))
}

fn tell(lines: &str) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) if !socket.is_empty() => send(&socket, lines),
        _ => Ok(()),
    }
}

fn send(socket: &OsStr, lines: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        // An abstract address has no file; an `@` stands for the zero byte in front of it.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(socket)?,
        _ => {
            let message =
                format!("NOTIFY_SOCKET={}: neither a path nor an abstract address", socket.display());
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
    };
    let datagram = UnixDatagram::unbound()?;
    datagram.set_write_timeout(Some(TAKEN_WITHIN))?;
    datagram.send_to_addr(lines.as_bytes(), &address).map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the report")]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_socket_with_a_path_is_told() {
        let path = std::env::temp_dir().join(format!("farm-notify-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(received(&socket), "READY=1");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_abstract_socket_is_told() {
        let name = format!("farm-notify-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();
        assert_eq!(received(&socket), "STOPPING=1");
    }

    #[test]
    fn a_socket_that_is_not_there_or_of_another_kind_is_an_error() {
        assert_eq!(send(OsStr::new("/nowhere/notify"), "").unwrap_err().kind(), io::ErrorKind::NotFound);
        let other = send(OsStr::new("vsock:2:1234"), "").unwrap_err();
        assert!(other.to_string().contains("vsock:2:1234"), "{other}");
    }

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(status_line("two\nlines"), "STATUS=two lines");
    }
}
