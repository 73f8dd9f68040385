//! What the fakes of forges' APIs ([`super::api`]) have in common: what was told to them, what they say next, and whom they know.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};

use bytes::Bytes;
use hyper::Response;
use serde_json::{Value, json};

use super::app::{Checks, answered};
use crate::faults::answers::Body;

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
    /// It takes it, and answers nothing before [`super::api::ForgeApi::go_on`].
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
    pub api: Api,
    pub says: Mutex<VecDeque<Says>>,
    pub taken: Mutex<Vec<Taken>>,
    /// How many statuses it was asked for.
    pub asked: Mutex<usize>,
    /// So many answers may come that hang.
    pub may_go: Mutex<usize>,
    /// What the token may.
    pub role: Mutex<Role>,
    /// Its webhooks, by their ids.
    pub hooks: Mutex<Vec<Value>>,
    /// Who may write to the repository, and who may only read it.
    pub people: Mutex<Vec<(u64, String, bool)>>,
    /// The App that may be installed, and its check runs.
    pub checks: Mutex<Checks>,
    /// Of GitLab: of which commit and ref each pipeline is.
    pub pipelines: Mutex<Vec<(String, String)>>,
    pub changed: Condvar,
}

impl State {
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
