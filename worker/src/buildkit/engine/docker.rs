//! The two questions that only Docker's own API answers: which version, and which engine is this (and where it keeps
//! what it has).
//!
//! Spoken as HTTP/1.0 by hand, because then an answer ends with the connection and nothing is chunked
//! (RFC 1945, section 7.2.2). Nothing else of Docker's API is used.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read, bytes.
const LONGEST: u64 = 4 << 20;

/// `GET /version`.
#[derive(Debug, Deserialize)]
pub(super) struct Version {
    #[serde(rename = "Version")]
    pub(crate) version: String,
}

/// `GET /info`, as much of it as matters here.
#[derive(Debug, Deserialize)]
pub(crate) struct Info {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(rename = "Architecture")]
    pub(super) architecture: String,
    #[serde(rename = "DockerRootDir", default)]
    pub(crate) root: Option<PathBuf>,
    #[serde(rename = "DriverStatus", default)]
    driver_status: Option<Vec<Vec<String>>>,
}

impl Info {
    /// Whether images are kept by containerd: the older stores can't push by digest or make attestations.
    pub(super) fn containerd_store(&self) -> bool {
        self.driver_status.iter().flatten().any(|pair| {
            matches!(&pair[..], [name, value] if name == "driver-type" && value == "io.containerd.snapshotter.v1")
        })
    }
}

/// Which version of Docker this is. An error means that it isn't Docker, except for `TimedOut`: a buildkitd hangs
/// up on what is not HTTP/2.
pub(crate) async fn version(socket: &Path) -> io::Result<Version> {
    get(socket, "/version").await
}

/// Which engine this is.
pub(crate) async fn info(socket: &Path) -> io::Result<Info> {
    get(socket, "/info").await
}

async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> io::Result<T> {
    let answer = tokio::time::timeout(PATIENCE, async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(LONGEST).read_to_end(&mut answer).await?;
        io::Result::Ok(answer)
    })
    .await
    .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer to GET {path}")))??;
    parse(&answer).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("no sense in the answer to GET {path}"))
    })
}

fn parse<T: DeserializeOwned>(answer: &[u8]) -> Option<T> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = answer.split_at(end + 4);
    let status = std::str::from_utf8(head).ok()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    (status == "200").then(|| serde_json::from_slice(body).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_its_end() {
        let answer = b"HTTP/1.0 200 OK\r\nApi-Version: 1.51\r\n\r\n{\"ID\":\"x\",\"Architecture\":\"x86_64\",\"DriverStatus\":[[\"driver-type\",\"io.containerd.snapshotter.v1\"]]}\n";
        let info: Info = parse(answer).unwrap();
        assert_eq!((info.id.as_str(), info.architecture.as_str()), ("x", "x86_64"));
        assert!(info.containerd_store());
        assert!(parse::<Version>(b"HTTP/1.1 404 Not Found\r\n\r\n{\"Version\":\"1\"}").is_none());
        assert!(parse::<Version>(b"\0\0\x06\x04\0\0\0\0\0").is_none());
    }

    #[test]
    fn the_older_store_is_told_apart() {
        let info: Info = parse(
            b"HTTP/1.0 200 OK\r\n\r\n{\"ID\":\"x\",\"Architecture\":\"aarch64\",\"DriverStatus\":null}",
        )
        .unwrap();
        assert!(!info.containerd_store());
    }
}
