//! A forge as a webhook sees it: it signs and posts, as GitHub documents it. (A real one can't be had in tests.)

pub mod api;
pub mod app;

use std::io::{Read, Write};
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
    post_on(&mut stream, path, headers, body)
}

/// The same on this connection. Without a header that says how long the body is it has a right one.
pub fn post_on(
    stream: &mut (impl Read + Write),
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Option<(String, Answer)> {
    begin_post(stream, path, headers, body.len());
    // Whoever refuses by the headers reads no body.
    let _ = stream.write_all(body);
    answer_on(stream)
}

/// The headers of a request with so long a body.
pub fn begin_post(stream: &mut impl Write, path: &str, headers: &[(&str, &str)], length: usize) {
    let mut head = format!("POST {path} HTTP/1.1\r\nhost: farm\r\nconnection: close\r\n");
    if headers.iter().all(|(name, _)| !["content-length", "transfer-encoding"].contains(name)) {
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
}

/// What is answered on this connection, until it ends.
pub fn answer_on(stream: &mut impl Read) -> Option<(String, Answer)> {
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
        Self::at(port, made["hook"]["url"].as_str().unwrap(), made["secret"].as_str().unwrap())
    }

    /// Of a hook at this URL.
    pub fn at(port: u16, url: &str, secret: &str) -> Self {
        let (_, path) = url.split_once(&format!("://127.0.0.1:{port}")).unwrap();
        Self { port, path: path.to_owned(), secret: secret.to_owned() }
    }

    /// The same, signed by another secret.
    pub fn deliver_as(&self, id: &str, event: &str, body: &Value, secret: &str) -> Answer {
        self.try_deliver_as(id, event, body, secret).unwrap()
    }

    fn try_deliver_as(&self, id: &str, event: &str, body: &Value, secret: &str) -> Option<Answer> {
        let body = body.to_string();
        let headers = signed(id, event, body.as_bytes(), secret);
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
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

    /// What GitHub posts after a push to this repository, and how it signs that (its documentation of webhooks), as far as a shell can: for
    /// [`take_pushes`](crate::git::GitHost::take_pushes). `jq` isn't needed: what is pushed in tests has nothing in it that JSON would have
    /// otherwise.
    pub fn post_receive(&self, clone_url: &str) -> String {
        let (url, secret) = (format!("http://127.0.0.1:{}{}", self.port, self.path), &self.secret);
        format!(
            r#"#!/bin/sh
while read -r before after ref; do
  created=false; [ "$before" != 0000000000000000000000000000000000000000 ] || created=true
  body=$(printf '{{"ref":"%s","before":"%s","after":"%s","created":%s,"deleted":false,"forced":false,"commits":[],"head_commit":{{"id":"%s","message":"%s"}},"repository":{{"id":42,"full_name":"acme/app","clone_url":"{clone_url}","default_branch":"main"}},"sender":{{"id":7,"login":"ada"}}}}' \
    "$ref" "$before" "$after" "$created" "$(git rev-parse "$after^{{commit}}")" "$(git log -1 --format=%s "$after")")
  signature=$(printf %s "$body" | openssl dgst -sha256 -hmac '{secret}' | sed 's/.* //')
  printf '%s: the farm answers ' "$ref"
  curl -sS -o /dev/null -w '%{{http_code}}\n' -H 'content-type: application/json' -H 'x-github-event: push' \
    -H "x-github-delivery: $(cat /proc/sys/kernel/random/uuid)" -H "x-hub-signature-256: sha256=$signature" --data-binary "$body" '{url}'
done
"#
        )
    }
}

/// GitHub's headers for a body.
pub fn signed(id: &str, event: &str, body: &[u8], secret: &str) -> [(&'static str, String); 4] {
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body);
    let signature = mac.as_ref().iter().fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}"));
    [
        ("content-type", "application/json".to_owned()),
        ("x-github-event", event.to_owned()),
        ("x-github-delivery", id.to_owned()),
        ("x-hub-signature-256", signature),
    ]
}
