//! The API of Gitea and Forgejo (`/api/swagger` of each), as far as the farm asks it. What that leaves open is as Gitea's source has it
//! (`routers/api/v1/repo`): webhooks, and what others than oneself may do, are for admins of the repository. Neither limits how often it is
//! asked; what stands before it may.

use bytes::Bytes;
use hyper::{Request, Response};
use serde_json::{Value, json};

use super::app::answered;
use super::state::{Role, State, TOKEN, Taken};
use crate::faults::answers::Body;

fn no(status: u16, message: &str) -> Response<Body> {
    answered(status, &[], &json!({"message": message, "url": "https://git.example/api/swagger"}))
}

pub(super) fn answer(state: &State, request: &Request<Bytes>) -> Response<Body> {
    let shown = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if shown != Some(&format!("token {TOKEN}")) {
        return no(401, "invalid username, password or token");
    }
    let path = request.uri().path();
    let path = path.strip_prefix("/moved").unwrap_or(path);
    let role = state.role();
    match (request.method().as_str(), path.strip_prefix("/api/v1/repos/acme/app")) {
        ("GET", Some("")) => {
            let may = json!({"admin": role == Role::Admin, "push": role >= Role::Writes, "pull": true});
            answered(200, &[], &json!({"id": 42, "full_name": "acme/app", "permissions": may}))
        }
        ("POST", Some(rest)) if rest.starts_with("/statuses/") && role >= Role::Writes => {
            status(state, request.uri().path(), rest.trim_start_matches("/statuses/"), request.body())
        }
        ("GET", Some(rest)) if rest.starts_with("/collaborators/") && role == Role::Admin => {
            let login = rest.trim_start_matches("/collaborators/").trim_end_matches("/permission");
            match state.person(login) {
                Some((id, name, may)) => {
                    let word = if may { "write" } else { "read" };
                    let user = json!({"id": id, "login": name});
                    answered(200, &[], &json!({"permission": word, "role_name": word, "user": user}))
                }
                None => no(404, "user does not exist"),
            }
        }
        ("GET", Some(rest)) if rest.starts_with("/collaborators/") => no(
            403,
            "Only admins can query all permissions, repo admins can query all repo permissions, collaborators can query only their own",
        ),
        (method @ ("GET" | "POST" | "PATCH"), Some(rest))
            if rest.starts_with("/hooks") && role == Role::Admin =>
        {
            // What is secret is never told again.
            let shown = |mut hook: Value| {
                hook["config"].as_object_mut().unwrap().remove("secret");
                hook
            };
            let said: Value = serde_json::from_slice(request.body()).unwrap_or_default();
            let is_whole = said["config"]["url"].is_string() && said["config"]["content_type"].is_string();
            if method == "POST" && !(is_whole && said["type"] == "gitea") {
                return no(422, "Invalid hook type, or config option missing");
            }
            state.webhook(method, rest.trim_start_matches("/hooks"), request.body(), shown)
        }
        (_, Some(rest)) if rest.starts_with("/hooks") => {
            no(403, "user should be an owner or a collaborator with admin write of a repository")
        }
        (_, Some(rest)) if rest.starts_with("/statuses/") => {
            no(403, "user should have a permission to write to a repo")
        }
        _ => no(404, "The target couldn't be found."),
    }
}

fn status(state: &State, path: &str, commit: &str, body: &Bytes) -> Response<Body> {
    let next = match state.next(path) {
        Ok(next) => next,
        Err(answer) => return *answer,
    };
    let body: Value = serde_json::from_slice(body).unwrap();
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    let now = text("state");
    if !["pending", "success", "error", "failure", "warning"].contains(&now.as_str()) {
        return no(422, "invalid state");
    }
    state.taken.lock().unwrap().push(Taken {
        commit: commit.to_owned(),
        context: text("context"),
        state: now,
        description: text("description"),
        target: body["target_url"].clone(),
        of: Default::default(),
    });
    state.taken(next, answered(201, &[], &json!({"id": 1, "context": body["context"]})))
}
