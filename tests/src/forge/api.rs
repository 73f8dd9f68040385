//! Fakes of forges' APIs, as far as the farm asks them: a repository `acme/app`, id 42, of which they say what a token may, with statuses of
//! commits, webhooks, and people who may write or may not. Here is what they have in common; what each answers is in [`super::github`] (and of
//! an App in [`super::app`]), [`super::gitlab`] and [`super::gitea`]. What is answered to the next statuses a test says: each limit that a forge
//! documents, and what goes wrong on the way. (No real forge can be had in tests; that they answer so is their documentation's word, and of what
//! that leaves open their source's.)

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Request, Response};
use serde_json::{Value, json};

use super::app::{App, Checks, Run, answered};
use super::{gitea, github, gitlab};
use crate::faults::answers::Body;
use crate::web::Web;

/// The one token that each of them takes.
pub const TOKEN: &str = "ghp_ofthetests";

/// Whose API it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Api {
    #[default]
    Github,
    Gitlab,
    /// Of Gitea and Forgejo, which have the same as far as the farm asks it.
    Gitea,
}

/// What the token's account may do in the repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Reads,
    Writes,
    #[default]
    Admin,
}

/// What is said to a status.
#[derive(Clone, Debug)]
pub enum Says {
    /// This, with these headers, and the status isn't taken.
    No(u16, Vec<(&'static str, String)>, Value),
    /// It takes it, and answers nothing before [`ForgeApi::go_on`].
    Hangs,
    /// It takes it, and answers this all the same, as where it fails after it has written that down.
    TakesAndSays(u16),
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
    /// Of GitLab: the branch or tag that was named, and the pipeline.
    pub of: (Value, Value),
}

#[derive(Default)]
pub(super) struct State {
    api: Api,
    says: Mutex<VecDeque<Says>>,
    pub taken: Mutex<Vec<Taken>>,
    /// How many statuses it was asked for.
    asked: Mutex<usize>,
    /// So many answers may come that hang.
    may_go: Mutex<usize>,
    /// What the token may.
    role: Mutex<Role>,
    /// Its webhooks, by their ids.
    hooks: Mutex<Vec<Value>>,
    /// Who may write to the repository, and who may only read it.
    people: Mutex<Vec<(u64, String, bool)>>,
    /// The App that may be installed, and its check runs.
    pub checks: Mutex<Checks>,
    /// Of GitLab: of which commit and ref each pipeline is.
    pub pipelines: Mutex<Vec<(String, String)>>,
    changed: Condvar,
}

/// Answers until it is dropped.
pub struct ForgeApi {
    state: Arc<State>,
    web: Web,
}

impl ForgeApi {
    /// One that answers as GitHub does.
    pub fn start() -> ForgeApi {
        ForgeApi::of(Api::Github)
    }

    pub fn of(api: Api) -> ForgeApi {
        let state = Arc::new(State { api, ..State::default() });
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

    /// The webhooks that the repository has, as they were made.
    pub fn hooks(&self) -> Vec<Value> {
        self.state.hooks.lock().unwrap().clone()
    }

    /// From now on the token's account may do so much.
    pub fn may(&self, role: Role) {
        *self.state.role.lock().unwrap() = role;
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
        match self.api {
            Api::Github => github::answer(self, request),
            Api::Gitlab => gitlab::answer(self, request),
            Api::Gitea => gitea::answer(self, request),
        }
    }

    pub(super) fn role(&self) -> Role {
        *self.role.lock().unwrap()
    }

    /// Who has this id or name: both, and whether they may write.
    pub(super) fn person(&self, who: &str) -> Option<(u64, String, bool)> {
        let people = self.people.lock().unwrap();
        people.iter().find(|(id, name, _)| name == who || id.to_string() == who).cloned()
    }

    /// Lists the webhooks, as `shown` has each, makes one or changes one. The path is behind `/hooks`.
    pub(super) fn webhook(
        &self,
        method: &str,
        id: &str,
        body: &Bytes,
        shown: impl Fn(Value) -> Value,
    ) -> Response<Body> {
        let mut hooks = self.hooks.lock().unwrap();
        if method == "GET" {
            return answered(200, &[], &hooks.iter().cloned().map(shown).collect());
        }
        let mut hook: Value = serde_json::from_slice(body).unwrap();
        if method == "POST" {
            hook["id"] = Value::from(hooks.len());
            hooks.push(hook.clone());
            return answered(201, &[], &shown(hook));
        }
        let place: usize = id.trim_start_matches('/').parse().unwrap();
        hook["id"] = Value::from(place);
        hooks[place] = hook.clone();
        answered(200, &[], &shown(hook))
    }

    /// How the next status is answered where it is taken; or what is answered at once.
    pub(super) fn next(&self, path: &str) -> Result<Next, Box<Response<Body>>> {
        *self.asked.lock().unwrap() += 1;
        match self.says.lock().unwrap().pop_front() {
            Some(Says::No(status, headers, body)) => Err(Box::new(answered(status, &headers, &body))),
            Some(Says::Elsewhere) => {
                Err(Box::new(answered(307, &[("location", format!("/moved{path}"))], &json!({}))))
            }
            Some(Says::Hangs) => Ok(Next::Hangs),
            Some(Says::TakesAndSays(status)) => Ok(Next::Fails(status)),
            None => Ok(Next::Says),
        }
    }

    /// Notes that something was taken, and answers as it is due.
    pub(super) fn taken(&self, next: Next, answer: Response<Body>) -> Response<Body> {
        self.changed.notify_all();
        match next {
            Next::Says => answer,
            Next::Hangs => {
                self.hang();
                answer
            }
            Next::Fails(status) => answered(status, &[], &json!({"message": "something went wrong"})),
        }
    }

    fn hang(&self) {
        let mut may_go = self.may_go.lock().unwrap();
        while *may_go == 0 {
            may_go = self.changed.wait(may_go).unwrap();
        }
        *may_go -= 1;
    }
}

/// How what is taken is answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    Says,
    Hangs,
    Fails(u16),
}
