//! A fake of GitHub's API, as far as statuses need it: a repository `acme/app`, id 42, of which it says what a token may, and statuses of
//! commits; and what an App has of it, which is in [`super::app`]. What it answers to the next statuses a test says: each limit that GitHub documents, and what goes wrong on the way. (No real
//! forge can be had in tests; that GitHub answers so is its documentation's word.)

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Request, Response};
use serde_json::{Value, json};

use super::app::{App, Checks, Of, Run, answered};
use crate::faults::answers::Body;
use crate::web::Web;

/// The one token that it takes.
pub const TOKEN: &str = "ghp_ofthetests";

/// What is said to a status.
#[derive(Clone, Debug)]
pub enum Says {
    /// This, with these headers, and the status isn't taken.
    No(u16, Vec<(&'static str, String)>, Value),
    /// It takes it, and answers nothing before [`ForgeApi::go_on`].
    Hangs,
    /// The same place, under another path.
    Elsewhere,
}

/// A status that was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    pub commit: String,
    pub context: String,
    pub state: String,
    pub description: String,
    pub target: Value,
}

#[derive(Default)]
struct State {
    says: Mutex<VecDeque<Says>>,
    taken: Mutex<Vec<Taken>>,
    /// How many statuses it was asked for.
    asked: Mutex<usize>,
    /// So many answers may come that hang.
    may_go: Mutex<usize>,
    /// Its webhooks, by their ids.
    hooks: Mutex<Vec<Value>>,
    /// Who may write to the repository, and who may only read it.
    people: Mutex<Vec<(u64, String, bool)>>,
    /// The App that may be installed, and its check runs.
    checks: Mutex<Checks>,
    changed: Condvar,
}

/// Answers until it is dropped.
pub struct ForgeApi {
    state: Arc<State>,
    web: Web,
}

impl ForgeApi {
    pub fn start() -> ForgeApi {
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let web = Web::start(move |request| shared.answer(&request));
        ForgeApi { state, web }
    }

    /// Its address.
    pub fn url(&self) -> String {
        self.web.url()
    }

    /// Answers the next statuses so, each once, before it takes any.
    pub fn says(&self, next: impl IntoIterator<Item = Says>) {
        self.state.says.lock().unwrap().extend(next);
    }

    /// All that it has taken, in order.
    pub fn taken(&self) -> Vec<Taken> {
        self.state.taken.lock().unwrap().clone()
    }

    /// Waits until it has taken one like this.
    pub fn wait(&self, what: &str, is_it: impl Fn(&Taken) -> bool) -> Taken {
        let begin = Instant::now();
        let mut taken = self.state.taken.lock().unwrap();
        loop {
            if let Some(found) = taken.iter().find(|one| is_it(one)) {
                return found.clone();
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{what} doesn't come; there are {taken:#?}");
            taken = self.state.changed.wait_timeout(taken, Duration::from_secs(1)).unwrap().0;
        }
    }

    /// From now on this App is installed, with these rights.
    pub fn install(&self, app: &App, permissions: Value) {
        self.state.checks.lock().unwrap().install(app, permissions);
    }

    /// Takes back all that was lent.
    pub fn take_back(&self) {
        self.state.checks.lock().unwrap().lent.clear();
    }

    /// Answers the next requests with what was lent so, as it isn't known everywhere yet.
    pub fn lags(&self, statuses: impl IntoIterator<Item = u16>) {
        self.state.checks.lock().unwrap().lag.extend(statuses);
    }

    /// Whether it can lend nothing now.
    pub fn lends_nothing(&self, is_away: bool) {
        self.state.checks.lock().unwrap().is_away = is_away;
    }

    /// How often it was asked for something that it hasn't lent.
    pub fn refused(&self) -> usize {
        self.state.checks.lock().unwrap().refused
    }

    /// The rights of a token that was lent.
    pub fn rights(&self, token: &str) -> Option<Value> {
        self.state.checks.lock().unwrap().lent.get(token).cloned()
    }

    /// How often something was lent.
    pub fn lent(&self) -> usize {
        self.state.checks.lock().unwrap().times
    }

    /// The check runs there are.
    pub fn runs(&self) -> Vec<Run> {
        self.state.checks.lock().unwrap().runs.clone()
    }

    /// Waits until there is one like this.
    pub fn wait_run(&self, what: &str, is_it: impl Fn(&Run) -> bool) -> Run {
        let begin = Instant::now();
        let mut checks = self.state.checks.lock().unwrap();
        loop {
            if let Some(found) = checks.runs.iter().find(|one| is_it(one)) {
                return found.clone();
            }
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "{what} doesn't come; there are {:#?}",
                checks.runs
            );
            checks = self.state.changed.wait_timeout(checks, Duration::from_secs(1)).unwrap().0;
        }
    }

    /// The webhooks that the repository has.
    pub fn hooks(&self) -> Vec<Value> {
        self.state.hooks.lock().unwrap().clone()
    }

    /// Who may write to the repository, by their ids and names; others aren't known there.
    pub fn may_write(&self, people: &[(u64, &str, bool)]) {
        let people = people.iter().map(|(id, login, may)| (*id, (*login).to_owned(), *may));
        *self.state.people.lock().unwrap() = people.collect();
    }

    /// How many statuses it was asked for, taken or not.
    pub fn asked(&self) -> usize {
        *self.state.asked.lock().unwrap()
    }

    /// One answer that hangs comes, now or when it is due.
    pub fn go_on(&self) {
        *self.state.may_go.lock().unwrap() += 1;
        self.state.changed.notify_all();
    }

    /// Answers of which none is left to be given.
    pub fn has_said_all(&self) -> bool {
        self.state.says.lock().unwrap().is_empty()
    }
}

impl Drop for ForgeApi {
    fn drop(&mut self) {
        *self.state.may_go.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = usize::MAX;
        self.state.changed.notify_all();
    }
}

impl State {
    fn answer(&self, request: &Request<Bytes>) -> Response<Body> {
        let shown = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|shown| shown.strip_prefix("Bearer ")).unwrap_or_default();
        let path = request.uri().path();
        let path = path.strip_prefix("/moved").unwrap_or(path);
        let is_app = shown != TOKEN;
        if is_app {
            let of = self.checks.lock().unwrap().of(shown, request.method(), path, request.body());
            match of {
                Of::Answer(answer) => return answer,
                Of::Run => return self.check_run(request),
                Of::Repository => {}
            }
        }
        match (request.method().as_str(), path.strip_prefix("/repos/acme/app")) {
            ("GET", Some("")) if is_app => {
                answered(200, &[], &json!({"id": 42, "private": true, "permissions": {"push": false}}))
            }
            ("GET", Some("")) => {
                let scopes = [("x-oauth-scopes", "repo:status".to_owned())];
                answered(200, &scopes, &json!({"id": 42, "private": true, "permissions": {"push": true}}))
            }
            ("POST", Some(rest)) if rest.starts_with("/statuses/") => {
                self.status(request.uri().path(), rest.trim_start_matches("/statuses/"), request.body())
            }
            ("GET", Some(rest)) if rest.starts_with("/collaborators/") => {
                let login = rest.trim_start_matches("/collaborators/").trim_end_matches("/permission");
                let people = self.people.lock().unwrap();
                match people.iter().find(|(_, name, _)| name == login) {
                    Some((id, name, may)) => {
                        let word = if *may { "write" } else { "read" };
                        answered(200, &[], &json!({"permission": word, "user": {"id": id, "login": name}}))
                    }
                    None => answered(404, &[], &json!({"message": "Not Found"})),
                }
            }
            (method, Some(rest)) if rest.starts_with("/hooks") => {
                self.webhook(method, rest.trim_start_matches("/hooks"), request.body())
            }
            _ => answered(404, &[], &json!({"message": "Not Found"})),
        }
    }

    fn webhook(&self, method: &str, id: &str, body: &Bytes) -> Response<Body> {
        let mut hooks = self.hooks.lock().unwrap();
        if method == "GET" {
            return answered(200, &[], &Value::from(hooks.clone()));
        }
        let mut hook: Value = serde_json::from_slice(body).unwrap();
        if method == "POST" {
            hook["id"] = Value::from(hooks.len());
            hooks.push(hook);
            return answered(201, &[], &json!({}));
        }
        let place: usize = id.trim_start_matches('/').parse().unwrap();
        hook["id"] = Value::from(place);
        hooks[place] = hook;
        answered(200, &[], &json!({}))
    }

    /// Whether the next answer hangs; or another one that is to be given.
    fn next(&self, path: &str) -> Result<bool, Box<Response<Body>>> {
        *self.asked.lock().unwrap() += 1;
        match self.says.lock().unwrap().pop_front() {
            Some(Says::No(status, headers, body)) => Err(Box::new(answered(status, &headers, &body))),
            Some(Says::Elsewhere) => {
                Err(Box::new(answered(307, &[("location", format!("/moved{path}"))], &json!({}))))
            }
            Some(Says::Hangs) => Ok(true),
            None => Ok(false),
        }
    }

    fn hang(&self) {
        let mut may_go = self.may_go.lock().unwrap();
        while *may_go == 0 {
            may_go = self.changed.wait(may_go).unwrap();
        }
        *may_go -= 1;
    }

    /// Makes a check run, or changes one.
    fn check_run(&self, request: &Request<Bytes>) -> Response<Body> {
        let hangs = match self.next(request.uri().path()) {
            Ok(hangs) => hangs,
            Err(answer) => return *answer,
        };
        let path = request.uri().path();
        let id = path.rsplit('/').next().and_then(|id| id.parse().ok());
        let answer = self.checks.lock().unwrap().show(id, request.body());
        self.changed.notify_all();
        if hangs {
            self.hang();
        }
        answer
    }

    fn status(&self, path: &str, commit: &str, body: &Bytes) -> Response<Body> {
        let hangs = match self.next(path) {
            Ok(hangs) => hangs,
            Err(answer) => return *answer,
        };
        let body: Value = serde_json::from_slice(body).unwrap();
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        assert!(text("description").chars().count() <= 140, "{body}");
        let taken = Taken {
            commit: commit.to_owned(),
            context: text("context"),
            state: text("state"),
            description: text("description"),
            target: body["target_url"].clone(),
        };
        self.taken.lock().unwrap().push(taken);
        self.changed.notify_all();
        if hangs {
            self.hang();
        }
        answered(201, &[], &json!({"id": 1}))
    }
}
