//! A forge as a webhook sees it: it signs and posts, as each documents it ([`form`]), what happens there ([`told`]). (A real one can't be had
//! in tests.)

pub mod api;
pub mod app;
pub mod form;
mod gitea;
mod github;
mod gitlab;
mod state;
pub mod told;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ring::hmac;
use serde_json::Value;

use self::api::ForgeApi;
use self::form::Form;
use self::told::Told;

/// An answer: status, and what stands behind the headers.
pub type Answer = (u16, String);

/// One request on a connection of its own; the headers of the answer, without the date, and its body.
pub fn post_raw(port: u16, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (String, Answer) {
    try_post_raw(port, path, headers, body).unwrap()
}

/// The same; `None`: nobody answers.
fn try_post_raw(port: u16, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<(String, Answer)> {
    try_ask_raw(port, ("POST", path), headers, body)
}

/// The same by any method.
pub(crate) fn try_ask_raw(
    port: u16,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &[u8],
) -> Option<(String, Answer)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    try_ask_on(&mut stream, (method, path), headers, body)
}

/// The same on this connection. Without a header that says how long the body is it has a right one.
fn try_ask_on(
    stream: &mut (impl Read + Write),
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &[u8],
) -> Option<(String, Answer)> {
    try_begin(stream, (method, path), headers, body.len())?;
    // Whoever refuses by the headers reads no body.
    let _ = stream.write_all(body);
    answer_on(stream)
}

/// A POST on this connection.
pub fn post_on(
    stream: &mut (impl Read + Write),
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Option<(String, Answer)> {
    try_ask_on(stream, ("POST", path), headers, body)
}

/// The headers of a request with so long a body.
pub fn begin_post(stream: &mut impl Write, path: &str, headers: &[(&str, &str)], length: usize) {
    try_begin(stream, ("POST", path), headers, length).unwrap();
}

fn try_begin(
    stream: &mut impl Write,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    length: usize,
) -> Option<()> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: farm\r\nconnection: close\r\n");
    if headers.iter().all(|(name, _)| !["content-length", "transfer-encoding"].contains(name)) {
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()
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
    /// How it signs, and what it calls things.
    pub form: Form,
}

impl Forge {
    /// Of the hook that `farm hook add --json` has made.
    pub fn of(port: u16, made: &Value) -> Self {
        let (url, secret) = (made["hook"]["url"].as_str().unwrap(), made["secret"].as_str().unwrap());
        let form = Form::of(made["hook"]["provider"].as_str().unwrap());
        Self::delivers(port, form, (url, secret))
    }

    /// One that delivers by the only webhook that the farm has made there.
    pub fn made(port: u16, form: Form, api: &ForgeApi) -> Self {
        let hooks = api.hooks();
        let [hook] = &hooks[..] else { panic!("{hooks:#?}") };
        let (url, secret) = match form {
            Form::Gitlab | Form::GitlabBare => (&hook["url"], &hook["token"]),
            _ => (&hook["config"]["url"], &hook["config"]["secret"]),
        };
        Self::delivers(port, form, (url.as_str().unwrap(), secret.as_str().unwrap()))
    }

    /// GitHub's, of a hook at this URL.
    pub fn at(port: u16, url: &str, secret: &str) -> Self {
        Self::delivers(port, Form::Github, (url, secret))
    }

    fn delivers(port: u16, form: Form, (url, secret): (&str, &str)) -> Self {
        let (_, path) = url.split_once(&format!("://127.0.0.1:{port}")).unwrap();
        Self { port, path: path.to_owned(), secret: secret.to_owned(), form }
    }

    /// The same, signed by another secret.
    pub fn deliver_as(&self, id: &str, event: &str, body: &Value, secret: &str) -> Answer {
        self.try_deliver_as(id, event, body, secret).unwrap()
    }

    fn try_deliver_as(&self, id: &str, event: &str, body: &Value, secret: &str) -> Option<Answer> {
        let body = body.to_string();
        let headers = self.form.headers(id, event, &body, secret);
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        try_post_raw(self.port, &self.path, &headers, body.as_bytes()).map(|(_, answer)| answer)
    }

    /// The same; `None`: nobody answers.
    pub fn try_deliver(&self, id: &str, event: &str, body: &Value) -> Option<Answer> {
        self.try_deliver_as(id, event, body, &self.secret)
    }

    /// Delivers as the forge does.
    pub fn deliver(&self, id: &str, event: &str, body: &Value) -> Answer {
        self.deliver_as(id, event, body, &self.secret)
    }

    /// Delivers what is told, which the farm has to take.
    pub fn tell(&self, id: &str, told: &Told) {
        let (status, said) = self.deliver(id, told.event, &told.body);
        assert_eq!(status, 202, "{}: {said}", told.event);
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
