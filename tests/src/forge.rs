//! A forge as a webhook sees it: it signs and posts, as GitHub documents it. (A real one can't be had in tests.)

pub mod api;
pub mod app;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use ring::hmac;
use serde_json::Value;

/// An answer: status, and what stands behind the headers.
pub type Answer = (u16, String);

/// One request on a connection of its own; the headers of the answer, without the date, and its body.
pub fn post_raw(port: u16, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (String, Answer) {
    try_post_raw(port, path, headers, body).unwrap()
}

/// The same; `None`: nobody answers.
fn try_post_raw(port: u16, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<(String, Answer)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut head = format!("POST {path} HTTP/1.1\r\nhost: farm\r\nconnection: close\r\n");
    if headers.iter().all(|(name, _)| *name != "content-length") {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    // Whoever refuses by the headers reads no body.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let head: Vec<&str> = head.lines().filter(|line| !line.starts_with("date:")).collect();
    Some((head.join("\n"), (status, body.to_owned())))
}

/// A hook, and the forge that knows its secret.
#[derive(Debug, Clone)]
pub struct Forge {
    pub port: u16,
    /// Of its URL.
    pub path: String,
    pub secret: String,
}

impl Forge {
    /// Of the hook that `farm hook add --json` has made.
    pub fn of(port: u16, made: &Value) -> Self {
        let (url, secret) = (made["hook"]["url"].as_str().unwrap(), made["secret"].as_str().unwrap());
        let path = url.strip_prefix(&format!("http://127.0.0.1:{port}")).unwrap().to_owned();
        Self { port, path, secret: secret.to_owned() }
    }

    /// The same, signed by another secret.
    pub fn deliver_as(&self, id: &str, event: &str, body: &Value, secret: &str) -> Answer {
        self.try_deliver_as(id, event, body, secret).unwrap()
    }

    fn try_deliver_as(&self, id: &str, event: &str, body: &Value, secret: &str) -> Option<Answer> {
        let body = body.to_string();
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body.as_bytes());
        let signed = mac.as_ref().iter().fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}"));
        let headers = [
            ("content-type", "application/json"),
            ("x-github-event", event),
            ("x-github-delivery", id),
            ("x-hub-signature-256", signed.as_str()),
        ];
        try_post_raw(self.port, &self.path, &headers, body.as_bytes()).map(|(_, answer)| answer)
    }

    /// The same; `None`: nobody answers.
    pub fn try_deliver(&self, id: &str, event: &str, body: &Value) -> Option<Answer> {
        self.try_deliver_as(id, event, body, &self.secret)
    }

    /// Delivers as GitHub does.
    pub fn deliver(&self, id: &str, event: &str, body: &Value) -> Answer {
        self.deliver_as(id, event, body, &self.secret)
    }
}
