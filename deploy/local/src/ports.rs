//! Ports of this machine: free or not, and whose.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::child;
use crate::{Error, Result};

/// Is the port of 127.0.0.1 free?
///
/// # Errors
/// It isn't; the text tells who has it, and the flag that chooses another.
pub fn check_free(port: u16, what: &str, flag: &str) -> Result<()> {
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            let holder =
                holder(port).map_or_else(|| "by another process".to_owned(), |who| format!("by {who}"));
            Err(Error::Usage(format!(
                "port {port}, the {what}'s, is in use {holder}; stop that, or choose another with {flag} PORT"
            )))
        }
        Err(e) => Err(Error::Usage(format!(
            "port {port}, the {what}'s, can't be used ({e}); choose another with {flag} PORT"
        ))),
    }
}

/// The process that listens there: `nginx (pid 812)`. `None` when it is another user's and we may not look.
fn holder(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| listener_inode(&fs::read_to_string(table).ok()?, port))?;
    let wanted = format!("socket:[{inode}]");
    let pid = child::all().find(|pid| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()))
    })?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("{} (pid {pid})", name.trim()))
}

/// The inode of the listening socket of a port in a table like `/proc/net/tcp` (proc_net_tcp of the kernel's
/// documentation: local address in hexadecimal, state 0A is LISTEN).
fn listener_inode(table: &str, port: u16) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = fields.get(1)?.rsplit_once(':')?.1;
        let is_it = *fields.get(3)? == "0A" && u16::from_str_radix(local, 16) == Ok(port);
        is_it.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}

/// The status of `GET path` on 127.0.0.1, or `None` while nobody answers in HTTP there. Blocks for two seconds at most.
pub fn http_status(port: u16, path: &str) -> Option<u16> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    http_status_on(&mut stream, path)
}

/// `Some` when an HTTP/2 server of 127.0.0.1 answers there (its settings come first: RFC 9113, section 3.4). Blocks
/// for two seconds at most.
pub fn speaks_http2(port: u16) -> Option<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").ok()?;
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    (head[3] == 4).then_some(())
}

/// The status of `GET path` on a connection that is open already.
pub fn http_status_on(stream: &mut (impl Read + Write), path: &str) -> Option<u16> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut head = [0; 12]; // "HTTP/1.1 200"
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head).ok()?.strip_prefix("HTTP/1.")?.get(2..)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_its_holder_and_the_flag() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let text = check_free(port, "registry", "--registry-port").unwrap_err().to_string();
        assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
        assert!(text.contains("--registry-port"), "{text}");
        drop(listener);
        check_free(port, "registry", "--registry-port").unwrap();
    }
}
