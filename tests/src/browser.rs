//! A browser as far as the farm's pages need one: it keeps cookies, sends forms, and follows nothing by itself.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use farm_types::escaped;

/// A browser at a port of 127.0.0.1.
#[derive(Clone, Debug)]
pub struct Browser {
    port: u16,
    pub cookies: BTreeMap<String, String>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Page {
    pub status: u16,
    /// The lines above the body.
    pub head: String,
    pub body: String,
}

impl Page {
    /// A header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (other, value) = line.split_once(": ")?;
            other.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// What shows in a form of this page that it is of it.
    pub fn guard(&self) -> &str {
        let (_, rest) = self.body.split_once("name=\"guard\" value=\"").unwrap_or_else(|| panic!("{self:?}"));
        rest.split('"').next().unwrap()
    }

    /// The page without what differs from visit to visit, and with another name for a build.
    pub fn told(&self, build: &str) -> String {
        let guard = self.body.split("name=\"guard\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
        self.body.replace(build, "BUILD").replace(guard.unwrap_or("GUARD"), "GUARD")
    }
}

impl Browser {
    /// One that has kept nothing so far.
    pub fn new(port: u16) -> Browser {
        Browser { port, cookies: BTreeMap::new() }
    }

    /// A page.
    pub fn get(&mut self, path: &str) -> Page {
        self.ask("GET", path, &[], "")
    }

    /// Sends a form.
    pub fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        self.post_with(path, fields, &[])
    }

    /// The same with headers.
    pub fn post_with(&mut self, path: &str, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Page {
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        let kind = [("content-type", "application/x-www-form-urlencoded")];
        self.ask("POST", path, &[&kind, headers].concat(), &fields.join("&"))
    }

    /// Signs in by a token in the form of this page; answers what comes then.
    pub fn sign_in(&mut self, page: &str, token: &str) -> Page {
        let form = self.get(page);
        let guard = form.guard().to_owned();
        self.post("/sign-in", &[("guard", &guard), ("next", page), ("token", token)])
    }

    /// Any request.
    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Page {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // Of HTTP/1.0, so that what comes bit by bit ends with the connection.
        let mut head = format!("{method} {path} HTTP/1.0\r\nhost: elsewhere.example\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let cookies: Vec<String> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            head.push_str(&format!("cookie: {}\r\n", cookies.join("; ")));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        let _ = stream.write_all(head.as_bytes());
        let mut answer = Vec::new();
        // Whoever refuses by the headers reads no body, and the connection breaks off behind the answer.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        for line in head.lines() {
            let Some(cookie) = line.strip_prefix("set-cookie: ") else { continue };
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            match cookie.contains("Max-Age=0") {
                true => self.cookies.remove(name),
                false => self.cookies.insert(name.to_owned(), value.to_owned()),
            };
        }
        Page {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }
}
