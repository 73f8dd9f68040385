//! Fakes of forges' APIs, as far as the farm asks them: a repository `acme/app`, id 42, of which they say what a token may, with statuses of
//! commits, webhooks, and people who may write or may not. What they have in common is in [`super::state`]; what each answers is in [`super::github`] (and of
//! an App in [`super::app`]), [`super::gitlab`] and [`super::gitea`]. What is answered to the next statuses a test says: each limit that a forge
//! documents, and what goes wrong on the way. (No real forge can be had in tests; that they answer so is their documentation's word, and of what
//! that leaves open their source's.)

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::app::{App, Run};
use super::state::State;
pub use super::state::{Api, Role, Says, TOKEN, Taken};
use super::{gitea, github, gitlab};
use crate::web::Web;

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
        let web = Web::start(move |request| match shared.api {
            Api::Github => github::answer(&shared, &request),
            Api::Gitlab => gitlab::answer(&shared, &request),
            Api::Gitea => gitea::answer(&shared, &request),
        });
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
