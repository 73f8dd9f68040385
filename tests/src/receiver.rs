//! Who is told of something by HTTP: a receiver of webhooks, or of messages to Slack and Mattermost, which answers as a test says. (That Slack
//! takes such messages is its documentation's word.)

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Request, Response};
use serde_json::Value;

use crate::faults::answers::{Body, full};
use crate::web::Web;

/// How long it is waited for something.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is answered.
#[derive(Clone, Debug)]
pub enum Says {
    /// This, with these headers.
    Now(u16, Vec<(&'static str, String)>, &'static str),
    /// Nothing, before [`Receiver::go_on`]; then 200.
    Hangs,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Came {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Bytes,
}

impl Came {
    /// Its body.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// One of its headers.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

#[derive(Default)]
struct State {
    says: Mutex<VecDeque<Says>>,
    came: Mutex<Vec<Came>>,
    goes_on: Mutex<bool>,
    changed: Condvar,
}

/// Listens until it is dropped.
pub struct Receiver {
    state: Arc<State>,
    web: Web,
}

impl Receiver {
    pub fn start() -> Receiver {
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let web = Web::start(move |request| shared.answer(&request));
        Receiver { state, web }
    }

    /// Its address.
    pub fn url(&self) -> String {
        self.web.url()
    }

    /// Answers the next requests so, each once; all others with 200.
    pub fn says(&self, next: impl IntoIterator<Item = Says>) {
        self.state.says.lock().unwrap().extend(next);
    }

    /// All that came, in order.
    pub fn came(&self) -> Vec<Came> {
        self.state.came.lock().unwrap().clone()
    }

    /// Waits until so many requests came.
    pub fn wait(&self, many: usize) -> Vec<Came> {
        let begin = Instant::now();
        let mut came = self.state.came.lock().unwrap();
        while came.len() < many {
            assert!(begin.elapsed() < PATIENCE, "{many} requests don't come; there are {came:#?}");
            came = self.state.changed.wait_timeout(came, Duration::from_secs(1)).unwrap().0;
        }
        came.clone()
    }

    /// What hangs is answered, now and from now on.
    pub fn go_on(&self) {
        self.state.go_on();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.state.go_on();
    }
}

impl State {
    fn go_on(&self) {
        *self.goes_on.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<Body> {
        let text = |value: &hyper::header::HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let headers = request.headers().iter().map(|(name, value)| (name.to_string(), text(value)));
        let came = Came {
            path: request.uri().path().to_owned(),
            headers: headers.collect(),
            body: request.body().clone(),
        };
        let next = self.says.lock().unwrap().pop_front();
        self.came.lock().unwrap().push(came);
        self.changed.notify_all();
        let (status, headers, body) = match next {
            Some(Says::Now(status, headers, body)) => (status, headers, body),
            Some(Says::Hangs) => {
                let mut goes_on = self.goes_on.lock().unwrap();
                while !*goes_on {
                    goes_on = self.changed.wait(goes_on).unwrap();
                }
                (200, Vec::new(), "ok")
            }
            None => (200, Vec::new(), "ok"),
        };
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(name, value);
        }
        answer.body(full(Bytes::from_static(body.as_bytes()))).unwrap()
    }
}
