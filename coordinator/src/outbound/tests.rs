//! What the client sends where, seen from those who are asked. Servers and resolver are simulations: real ones don't lie when
//! they are asked to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::body::{End, read};
use super::*;

/// A server on this machine's loopback that notes what it is asked.
#[derive(Clone)]
pub(crate) struct Fake {
    pub port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// Answers each request, of which it gets line and headers, with these bytes, and closes.
    pub(crate) async fn start(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self { port: listener.local_addr().unwrap().port(), asked: Arc::default() };
        let (asked, answer) = (Arc::clone(&fake.asked), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (asked, answer) = (Arc::clone(&asked), Arc::clone(&answer));
                let place = {
                    let mut asked = asked.lock().unwrap();
                    asked.push(String::new());
                    asked.len() - 1
                };
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8(head).unwrap();
                    let answer = answer(&head);
                    asked.lock().unwrap()[place] = head;
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        fake
    }

    pub(crate) fn at(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it was asked; a connection without a request is empty.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// An answer with these lines in its head, and a body.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}

/// Gives each name its answers, one after the other, and the last one from then on.
#[derive(Default)]
pub(crate) struct Names(Mutex<HashMap<String, Vec<Vec<SocketAddr>>>>);

impl Names {
    pub(crate) fn of(name: &str, answers: &[&[&str]]) -> Arc<Self> {
        let addresses =
            |answer: &&[&str]| answer.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect();
        Arc::new(Self(Mutex::new([(name.to_owned(), answers.iter().map(addresses).collect())].into())))
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let mut names = self.0.lock().unwrap();
        let answers = names.get_mut(name.as_str()).unwrap();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        let answer: Addrs = Box::new(answer.into_iter());
        Box::pin(async move { Ok(answer) })
    }
}

fn rules(allow: &[&str]) -> Rules {
    Rules::new(allow.iter().map(|text| text.parse().unwrap()), Vec::new())
}

fn client(allow: &[&str], names: Arc<Names>) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Outbound::with_resolver(rules(allow), names).client(Vec::new()).unwrap()
}

async fn get(client: &Client, url: &str) -> Result<reqwest::Response, Failed> {
    client.send(client.request(Method::GET, url).bearer_auth("s3cret")).await
}

fn refusal(answered: Result<reqwest::Response, Failed>) -> (Refused, bool) {
    match answered {
        Err(Failed::Refused { refused, is_led }) => (refused, is_led),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_name_that_changes_its_address_after_it_was_looked_at_is_not_dialled() {
    let fake = Fake::start(|_| answer("200 OK", "", "")).await;
    let names = Names::of("rebind.example", &[&["1.1.1.1"], &["127.0.0.1"]]);
    let client = client(&[], names);
    let url = format!("http://rebind.example:{}/", fake.port);
    client.look(&url.parse().unwrap()).await.unwrap();
    let (refused, is_led) = refusal(get(&client, &url).await);
    assert!(matches!(refused.why, Why::Address(ip, _) if ip.is_loopback()) && !is_led, "{refused}");
    assert_eq!(refused.place, format!("rebind.example:{}", fake.port));
    assert!(client.look(&url.parse().unwrap()).await.is_err());
    assert_eq!(fake.asked(), [""; 0]);
}

#[tokio::test]
async fn one_bad_address_spoils_the_others() {
    let fake = Fake::start(|_| answer("200 OK", "", "")).await;
    for answers in [["1.1.1.1", "127.0.0.1"], ["::ffff:127.0.0.1", "1.1.1.1"]] {
        let client = client(&[], Names::of("both.example", &[&answers]));
        let url = format!("http://both.example:{}/", fake.port);
        assert!(client.look(&url.parse().unwrap()).await.is_err());
        refusal(get(&client, &url).await);
    }
    assert_eq!(fake.asked(), [""; 0]);
}

#[tokio::test]
async fn what_is_named_is_dialled_at_its_port_and_what_is_in_an_allowed_network_at_each() {
    let fake = Fake::start(|_| answer("200 OK", "", "")).await;
    let url = format!("http://registry.internal:{}/", fake.port);
    let names = || Names::of("registry.internal", &[&["127.0.0.1"]]);
    let named = format!("registry.internal:{}", fake.port);
    for (allow, is_allowed) in
        [(named.as_str(), true), ("127.0.0.0/8", true), ("registry.internal:1", false), ("10.0.0.0/8", false)]
    {
        let answered = get(&client(&[allow], names()), &url).await;
        assert_eq!(answered.is_ok(), is_allowed, "{allow}: {answered:?}");
    }
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test]
async fn a_redirect_to_where_nobody_may_go_is_not_followed() {
    let inner = Fake::start(|_| answer("200 OK", "", "inside")).await;
    let port = inner.port;
    for (location, status) in [
        (format!("http://127.0.0.1:{port}/"), "302 Found"),
        (format!("http://localhost:{port}/"), "301 Moved Permanently"),
        (format!("//127.1:{port}/"), "307 Temporary Redirect"),
        (format!("http://2130706433:{port}/"), "303 See Other"),
        (format!("http://0x7f.0.0.1:{port}/"), "308 Permanent Redirect"),
        (format!("http://[::ffff:127.0.0.1]:{port}/"), "307 Temporary Redirect"),
        (format!("http://127.0.0.1.:{port}/"), "307 Temporary Redirect"),
        ("http://169.254.169.254/latest/meta-data/".to_owned(), "302 Found"),
        ("http://[fd00:ec2::254]/latest/meta-data/".to_owned(), "302 Found"),
        (format!("http://a:b@127.0.0.1:{port}/"), "302 Found"),
        ("file:///etc/passwd".to_owned(), "302 Found"),
    ] {
        let header = format!("Location: {location}\r\n");
        let outer = Fake::start(move |_| answer(status, &header, "")).await;
        let client = client(&[&outer.at()], Arc::default());
        let (refused, is_led) = refusal(get(&client, &format!("http://{}/v2/", outer.at())).await);
        assert!(is_led, "{location}: {refused}");
        assert_eq!(outer.asked().len(), 1, "{location}");
    }
    assert_eq!(inner.asked(), [""; 0]);
}

#[tokio::test]
async fn a_login_stays_behind_when_a_redirect_leads_elsewhere() {
    let store = Fake::start(|_| answer("200 OK", "", "blob")).await;
    let location = format!("Location: http://{}/blob\r\n", store.at());
    let outer = Fake::start(move |head| {
        let is_first = head.starts_with("GET /first");
        let header = if is_first { "Location: /second\r\n" } else { location.as_str() };
        answer("307 Temporary Redirect", header, "")
    })
    .await;
    let client = client(&[&outer.at(), &store.at()], Arc::default());
    let response = get(&client, &format!("http://{}/first", outer.at())).await.unwrap();
    assert_eq!(response.text().await.unwrap(), "blob");
    let has_login = |head: &String| head.to_lowercase().contains("authorization: bearer s3cret");
    assert!(outer.asked().len() == 2 && outer.asked().iter().all(has_login), "{:?}", outer.asked());
    assert!(store.asked().len() == 1 && !store.asked().iter().any(has_login), "{:?}", store.asked());
}

#[tokio::test]
async fn what_writes_is_led_to_nobody_else_and_circles_end() {
    let other = Fake::start(|_| answer("201 Created", "", "")).await;
    let location = format!("Location: http://{}/\r\n", other.at().replacen("127.0.0.1", "localhost", 1));
    let outer = Fake::start(move |head| {
        let header = if head.starts_with("PUT") { location.as_str() } else { "Location: /again\r\n" };
        answer("307 Temporary Redirect", header, "")
    })
    .await;
    let client = client(&["127.0.0.0/8", "::1/128"], Arc::default());
    let url = format!("http://{}/", outer.at());
    let put = client.send(client.request(Method::PUT, &url).body("x")).await.unwrap();
    assert_eq!(put.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(other.asked(), [""; 0]);
    assert!(matches!(get(&client, &url).await, Err(Failed::Endless)));
}

#[tokio::test]
async fn bodies_are_read_up_to_their_bound_whatever_they_say_of_themselves() {
    let lies = |length: u64, body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
    let cases: [(String, usize, fn(&End) -> bool); 5] = [
        (lies(4, "four"), 4, |end| matches!(end, End::Whole)),
        (lies(5, "fives"), 4, |end| matches!(end, End::TooLong)),
        // It says less than it sends, more than it sends, and more than anybody has.
        (lies(4, "fourteen"), 100, |end| matches!(end, End::Whole)),
        (lies(400, "four"), 1000, |end| matches!(end, End::Broken(_))),
        (lies(u64::MAX / 4, "four"), 1000, |end| matches!(end, End::Broken(_))),
    ];
    for (text, most, is_end) in cases {
        let sent = text.clone();
        let fake = Fake::start(move |_| sent.clone()).await;
        let client = client(&[&fake.at()], Arc::default());
        let mut response = get(&client, &format!("http://{}/", fake.at())).await.unwrap();
        let body = read(&mut response, most, Instant::now() + Duration::from_secs(20)).await;
        assert!(is_end(&body.end) && body.bytes.len() <= most, "{text:?}: {body:?}");
    }
}

#[tokio::test]
async fn behind_a_proxy_its_name_may_be_dialled_and_nobody_asks_for_it() {
    let names = Names::of("proxy.internal", &[&["10.0.0.1"]]);
    let rules = Rules::new([], vec!["proxy.internal".to_owned()]);
    let judge = dial::Judge { rules: Arc::new(rules), inner: names };
    assert_eq!(judge.resolve("proxy.internal".parse().unwrap()).await.unwrap().count(), 1);
}
