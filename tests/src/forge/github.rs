//! GitHub's API (docs.github.com, REST), as far as statuses need it.

use bytes::Bytes;
use hyper::{Request, Response};
use serde_json::{Value, json};

use super::app::{Of, answered};
use super::state::{Role, State, TOKEN, Taken};
use crate::faults::answers::Body;

pub(super) fn answer(state: &State, request: &Request<Bytes>) -> Response<Body> {
    let shown = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|shown| shown.strip_prefix("Bearer ")).unwrap_or_default();
    let path = request.uri().path();
    let path = path.strip_prefix("/moved").unwrap_or(path);
    let is_app = shown != TOKEN;
    if is_app {
        let of = state.checks.lock().unwrap().of(shown, request.method(), path, request.body());
        match of {
            Of::Answer(answer) => return answer,
            Of::Run => return check_run(state, request),
            Of::Repository => {}
        }
    }
    let not_found = || answered(404, &[], &json!({"message": "Not Found"}));
    match (request.method().as_str(), path.strip_prefix("/repos/acme/app")) {
        ("GET", Some("")) => {
            let writes = !is_app && state.role() >= Role::Writes;
            let scopes = [("x-oauth-scopes", "repo:status".to_owned())];
            let scopes = if is_app { &[][..] } else { &scopes[..] };
            answered(200, scopes, &json!({"id": 42, "private": true, "permissions": {"push": writes}}))
        }
        ("POST", Some(rest)) if rest.starts_with("/statuses/") => {
            status(state, request.uri().path(), rest.trim_start_matches("/statuses/"), request.body())
        }
        ("GET", Some(rest)) if rest.starts_with("/collaborators/") => {
            let login = rest.trim_start_matches("/collaborators/").trim_end_matches("/permission");
            match state.person(login) {
                Some((id, name, may)) => {
                    let word = if may { "write" } else { "read" };
                    answered(200, &[], &json!({"permission": word, "user": {"id": id, "login": name}}))
                }
                None => not_found(),
            }
        }
        // Whom it doesn't let see them it tells that there are none.
        (method, Some(rest)) if rest.starts_with("/hooks") && (is_app || state.role() == Role::Admin) => {
            state.webhook(method, rest.trim_start_matches("/hooks"), request.body(), |hook| hook)
        }
        _ => not_found(),
    }
}

/// Makes a check run, or changes one.
fn check_run(state: &State, request: &Request<Bytes>) -> Response<Body> {
    let path = request.uri().path();
    let next = match state.next(path) {
        Ok(next) => next,
        Err(answer) => return *answer,
    };
    let id = path.rsplit('/').next().and_then(|id| id.parse().ok());
    let answer = state.checks.lock().unwrap().show(id, request.body());
    state.taken(next, answer)
}

fn status(state: &State, path: &str, commit: &str, body: &Bytes) -> Response<Body> {
    let next = match state.next(path) {
        Ok(next) => next,
        Err(answer) => return *answer,
    };
    let body: Value = serde_json::from_slice(body).unwrap();
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    assert!(text("description").chars().count() <= 140, "{body}");
    state.taken.lock().unwrap().push(Taken {
        commit: commit.to_owned(),
        context: text("context"),
        state: text("state"),
        description: text("description"),
        target: body["target_url"].clone(),
        of: Default::default(),
    });
    state.taken(next, answered(201, &[], &json!({"id": 1})))
}
