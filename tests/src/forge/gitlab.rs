//! GitLab's API (docs.gitlab.com, REST, v4), as far as the farm asks it. What its documentation leaves open is as its source has it
//! (`app/services/ci/create_commit_status_service.rb`): a status that goes on (pending, running) is changed, and may not become what it is; of
//! one that is over another is made. Newer GitLabs (18 and up) take the same state once more without a word; this is as those of before are,
//! which refuse it. What is said where the rate is exceeded is text, and no JSON.

use bytes::Bytes;
use hyper::{Request, Response};
use serde_json::{Value, json};

use super::app::answered;
use super::state::{Role, State, TOKEN, Taken};
use crate::faults::answers::Body;

/// Levels of access: of who only reads (Reporter), of a Developer and of a Maintainer.
const LEVELS: [u64; 3] = [20, 30, 40];

fn no(status: u16, message: &str) -> Response<Body> {
    answered(status, &[], &json!({ "message": message }))
}

pub(super) fn answer(state: &State, request: &Request<Bytes>) -> Response<Body> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let bearer = header("authorization").and_then(|shown| shown.strip_prefix("Bearer "));
    if header("private-token").or(bearer) != Some(TOKEN) {
        return no(401, "401 Unauthorized");
    }
    let path = request.uri().path();
    let path = path.strip_prefix("/moved").unwrap_or(path);
    let Some(path) = path.strip_prefix("/api/v4") else { return no(404, "404 Not Found") };
    if path == "/personal_access_tokens/self" {
        return answered(200, &[], &json!({"id": 1, "active": true, "scopes": ["api"]}));
    }
    // By its id, or by its name in one segment.
    let of = ["/projects/42", "/projects/acme%2Fapp"].iter().find_map(|prefix| path.strip_prefix(prefix));
    let role = state.role();
    match (request.method().as_str(), of) {
        ("GET", Some("")) => {
            let level = match role {
                Role::Reads => LEVELS[0],
                Role::Writes => LEVELS[1],
                Role::Admin => LEVELS[2],
            };
            let access = json!({"project_access": {"access_level": level}, "group_access": null});
            answered(200, &[], &json!({"id": 42, "path_with_namespace": "acme/app", "permissions": access}))
        }
        ("POST", Some(rest)) if rest.starts_with("/statuses/") && role >= Role::Writes => {
            status(state, request.uri().path(), rest.trim_start_matches("/statuses/"), request.body())
        }
        ("GET", Some(rest)) if rest.starts_with("/members/all/") => {
            match state.person(rest.trim_start_matches("/members/all/")) {
                Some((id, name, may)) => {
                    let level = LEVELS[usize::from(may)];
                    let member =
                        json!({"id": id, "username": name, "state": "active", "access_level": level});
                    answered(200, &[], &member)
                }
                None => no(404, "404 Not found"),
            }
        }
        (method @ ("GET" | "POST" | "PUT"), Some(rest))
            if rest.starts_with("/hooks") && role == Role::Admin =>
        {
            // What is secret is never told again.
            let shown = |mut hook: Value| {
                let told = hook.as_object_mut().unwrap();
                told.remove("token");
                hook
            };
            let said: Value = serde_json::from_slice(request.body()).unwrap_or_default();
            if method != "GET" && said["url"].as_str().is_none() {
                return answered(400, &[], &json!({"error": "url is missing"}));
            }
            state.webhook(method, rest.trim_start_matches("/hooks"), request.body(), shown)
        }
        (_, Some(rest)) if rest.starts_with("/statuses/") || rest.starts_with("/hooks") => {
            no(403, "403 Forbidden")
        }
        (_, Some(_)) => no(404, "404 Not Found"),
        (_, None) => no(404, "404 Project Not Found"),
    }
}

fn status(state: &State, path: &str, commit: &str, body: &Bytes) -> Response<Body> {
    let next = match state.next(path) {
        Ok(next) => next,
        Err(answer) => return *answer,
    };
    let body: Value = serde_json::from_slice(body).unwrap();
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    assert!(text("description").chars().count() <= 255, "{body}");
    let (name, now) = (text("name"), text("state"));
    if !["pending", "running", "success", "failed", "canceled", "skipped"].contains(&now.as_str()) {
        return answered(400, &[], &json!({"error": "state does not have a valid value"}));
    }
    // The branch that has the commit, unless one is named.
    let git_ref = body["ref"].as_str().unwrap_or("main").to_owned();
    let mut pipelines = state.pipelines.lock().unwrap();
    let is_it = |(of, at): &(String, String)| (of.as_str(), at) == (commit, &git_ref);
    let pipeline = match (body["pipeline_id"].as_u64(), pipelines.iter().position(is_it)) {
        (Some(asked), place) if place.is_none_or(|place| numbered(place) != asked) => {
            return no(404, "404 Pipeline for pipeline_id, sha and ref Not Found");
        }
        (_, Some(place)) => numbered(place),
        (_, None) => {
            pipelines.push((commit.to_owned(), git_ref.clone()));
            numbered(pipelines.len() - 1)
        }
    };
    let mut taken = state.taken.lock().unwrap();
    let of = (Value::from(git_ref.as_str()), Value::from(pipeline));
    let before =
        taken.iter().rfind(|one| (&one.commit, &one.context, &one.of) == (&commit.to_owned(), &name, &of));
    let before = before.map(|one| one.state.as_str()).filter(|state| matches!(*state, "pending" | "running"));
    let by = match (before, now.as_str()) {
        (Some(_), "pending") => Some("enqueue"),
        (Some("running"), "running") => Some("run"),
        _ => None,
    };
    if let (Some(by), Some(before)) = (by, before) {
        let why = format!(
            "Cannot transition status via :{by} from :{before} (Reason(s): Status cannot transition via \"{by}\")"
        );
        return no(400, &why);
    }
    let id = taken.len() + 1;
    taken.push(Taken {
        commit: commit.to_owned(),
        context: name.clone(),
        state: now.clone(),
        description: text("description"),
        target: body["target_url"].clone(),
        of,
    });
    drop((taken, pipelines));
    let made = json!({"id": id, "sha": commit, "ref": git_ref, "status": now, "name": name, "pipeline_id": pipeline});
    state.taken(next, answered(201, &[], &made))
}

/// The id of a pipeline.
fn numbered(place: usize) -> u64 {
    1000 + u64::try_from(place).unwrap()
}
