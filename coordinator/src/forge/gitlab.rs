//! GitLab's API (docs.gitlab.com, REST, v4): commit statuses, projects, members.

use farm_types::escaped;
use serde_json::{Value, json};

use super::ask::{Account, Answer, Ask, At, Look, Shown, Unfit, Webhook};
use super::judge::{Verdict, is_limited};
use crate::outbound::Method;

/// The role from which on somebody writes to a project.
const DEVELOPER: u64 = 30;

/// Where it is. Paths begin with `/api/v4`, as one of one's own may be below a path.
pub fn api(host: &str) -> String {
    format!("https://{host}")
}

fn project(at: &At) -> String {
    let id = at.id.as_deref().map_or_else(|| escaped(&at.full_name), escaped);
    format!("{}/api/v4/projects/{id}", at.api)
}

pub fn status(at: &At, shown: &Shown) -> Ask {
    let state = match shown.state {
        // What is pending already isn't taken as pending again, so the link to a build that has come since would never be seen.
        Look::Pending if shown.is_built => "running",
        Look::Pending => "pending",
        Look::Success => "success",
        Look::Failure => "failed",
        Look::Cancelled => "canceled",
    };
    let mut body = json!({ "state": state, "name": shown.context, "description": shown.description });
    if let Some(target) = &shown.target {
        body["target_url"] = Value::from(target.as_str());
    }
    // Else GitLab picks any branch that has the commit, and a pipeline of it for each status.
    if let Some(branch) = &shown.branch {
        body["ref"] = Value::from(branch.as_str());
    }
    if let Some(pipeline) = shown.pipeline.as_ref().and_then(|id| id.parse::<u64>().ok()) {
        body["pipeline_id"] = Value::from(pipeline);
    }
    Ask::post(format!("{}/statuses/{}", project(at), shown.commit), body)
}

/// What differs from other forges: a status that is there already is refused, and so is a Developer at protected branches.
pub fn judge(answer: &Answer) -> Option<Verdict> {
    match answer.status {
        400 if answer.said().contains("Cannot transition status") => Some(Verdict::Done),
        403 if !is_limited(answer) => Some(Verdict::Never(format!(
            "the token may not do that ({}); its role must be Maintainer where the branch is protected, or Developers be allowed to push or \
             merge there",
            answer.said()
        ))),
        _ => None,
    }
}

/// The pipeline that a status was put in.
pub fn pipeline(answer: &Answer) -> Option<String> {
    answer.id("/pipeline_id").filter(|_| answer.is_success())
}

pub fn look(at: &At) -> Ask {
    Ask::get(project(at))
}

/// What the token itself may; a token of OAuth isn't told.
pub fn scopes(at: &At) -> Ask {
    Ask::get(format!("{}/api/v4/personal_access_tokens/self", at.api))
}

/// Whether the token may write statuses, by what is said of the project and of the token.
pub fn fit(answer: &Answer, token: &Answer) -> Result<(), Unfit> {
    let level = |kind: &str| {
        answer.body.pointer(&format!("/permissions/{kind}/access_level")).and_then(Value::as_u64)
    };
    let level = level("project_access").max(level("group_access"));
    if level.is_none_or(|level| level < DEVELOPER) {
        return Err(Unfit {
            why: "its account is no Developer of the project".to_owned(),
            cure: "take a project access token with the role Developer (Maintainer, to make webhooks by it)"
                .to_owned(),
        });
    }
    let scopes = token.body["scopes"].as_array().filter(|_| token.is_success());
    if scopes.is_some_and(|scopes| !scopes.iter().any(|scope| scope == "api")) {
        return Err(Unfit {
            why: "it hasn't the scope api".to_owned(),
            cure: "make one with the scope api: GitLab has no smaller one for statuses".to_owned(),
        });
    }
    Ok(())
}

/// The project's webhooks: GitLab lets it have 100.
pub fn webhooks(at: &At) -> Ask {
    Ask::get(format!("{}/hooks?per_page=100", project(at)))
}

/// Makes one, or changes the one that has this address.
pub fn install(at: &At, webhooks: &Answer, hook: Webhook<'_>) -> Ask {
    let body = json!({
        "url": hook.url, "token": hook.secret, "enable_ssl_verification": true, "push_events": true, "tag_push_events": true,
        "merge_requests_events": true, "releases_events": true, "note_events": true,
    });
    let all = format!("{}/hooks", project(at));
    match webhooks.listed("/url", hook.url) {
        Some(id) => Ask::change(Method::PUT, format!("{all}/{id}"), body),
        None => Ask::post(all, body),
    }
}

pub fn role(at: &At, account: &Account) -> Ask {
    Ask::get(format!("{}/members/all/{}", project(at), escaped(&account.id)))
}

pub fn writes(answer: &Answer, account: &Account) -> bool {
    let level = answer.body["access_level"].as_u64().unwrap_or(0);
    let is_active = answer.body["state"].as_str().is_none_or(|state| state == "active");
    level >= DEVELOPER && is_active && answer.id("/id").as_deref() == Some(&account.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(id: Option<&str>) -> At {
        At { api: api("gitlab.example"), full_name: "acme/group/app".to_owned(), id: id.map(str::to_owned) }
    }

    #[test]
    fn a_status_is_asked_for_as_gitlab_documents_it() {
        let shown = Shown {
            commit: "a".repeat(40),
            context: "farm/app".to_owned(),
            state: Look::Cancelled,
            description: "d".to_owned(),
            is_built: true,
            branch: Some("main".to_owned()),
            pipeline: Some("255".to_owned()),
            target: Some("https://farm.example/b/7f3k2m".to_owned()),
        };
        let ask = status(&at(Some("42")), &shown);
        assert_eq!(ask.url, format!("https://gitlab.example/api/v4/projects/42/statuses/{}", "a".repeat(40)));
        let body = ask.body.unwrap();
        assert_eq!((&body["state"], &body["name"]), (&json!("canceled"), &json!("farm/app")));
        assert_eq!(body["target_url"], "https://farm.example/b/7f3k2m");
        assert_eq!((&body["ref"], &body["pipeline_id"]), (&json!("main"), &json!(255)));
        let pending = |is_built| {
            let (branch, pipeline) = (None, None);
            let shown = Shown { state: Look::Pending, is_built, branch, pipeline, ..shown.clone() };
            status(&at(Some("42")), &shown).body.unwrap()
        };
        assert_eq!(
            (&pending(false)["state"], &pending(true)["state"]),
            (&json!("pending"), &json!("running"))
        );
        assert_eq!((pending(true).get("ref"), pending(true).get("pipeline_id")), (None, None));
        let taken = Answer { status: 201, body: json!({"id": 1, "pipeline_id": 255}), ..Default::default() };
        assert_eq!(pipeline(&taken).as_deref(), Some("255"));
        assert_eq!(pipeline(&Answer { status: 404, ..taken }), None);
        assert_eq!(look(&at(None)).url, "https://gitlab.example/api/v4/projects/acme%2Fgroup%2Fapp");
    }

    #[test]
    fn a_webhook_is_made_once_and_then_changed() {
        let hook = Webhook { url: "https://farm.example/hooks/a", secret: "s" };
        let listed =
            |url: &str| Answer { status: 200, body: json!([{"id": 9, "url": url}]), ..Default::default() };
        let made = install(&at(Some("42")), &listed("https://farm.example/hooks/b"), hook);
        assert_eq!(
            (made.method, made.url.as_str()),
            (Method::POST, "https://gitlab.example/api/v4/projects/42/hooks")
        );
        let changed = install(&at(Some("42")), &listed(hook.url), hook);
        assert_eq!(
            (changed.method, changed.url.as_str()),
            (Method::PUT, "https://gitlab.example/api/v4/projects/42/hooks/9")
        );
        assert_eq!(changed.body.unwrap()["token"], "s");
    }

    #[test]
    fn what_is_there_already_is_done() {
        let said = "Cannot transition status via :run from :running (Reason(s): Status cannot transition via \"run\")";
        let answer =
            |status, said: &str| Answer { status, body: json!({ "message": said }), ..Default::default() };
        assert_eq!(judge(&answer(400, said)), Some(Verdict::Done));
        assert_eq!(judge(&answer(400, "ref is invalid")), None);
        assert_eq!(judge(&answer(404, said)), None);
        let protected = judge(&answer(403, "403 Forbidden"));
        assert!(
            matches!(&protected, Some(Verdict::Never(why)) if why.contains("Maintainer")),
            "{protected:?}"
        );
        assert_eq!(judge(&answer(403, "rate limit exceeded")), None);
    }

    #[test]
    fn a_token_is_a_developers_with_the_scope_api() {
        let project = |own: Option<u64>, group: Option<u64>| Answer {
            status: 200,
            body: json!({"id": 42, "permissions": {
                "project_access": own.map(|level| json!({"access_level": level})),
                "group_access": group.map(|level| json!({"access_level": level})),
            }}),
            ..Default::default()
        };
        let token =
            |scopes: &[&str]| Answer { status: 200, body: json!({ "scopes": scopes }), ..Default::default() };
        let oauth = Answer { status: 401, ..Default::default() };
        assert!(fit(&project(Some(30), None), &token(&["api"])).is_ok());
        assert!(fit(&project(Some(10), Some(40)), &oauth).is_ok());
        for (own, group) in [(None, None), (Some(20), None), (Some(10), Some(20))] {
            assert!(fit(&project(own, group), &token(&["api"])).is_err(), "{own:?} {group:?}");
        }
        assert!(fit(&project(Some(50), None), &token(&["read_api"])).is_err());
    }

    #[test]
    fn who_may_write_is_a_developer_who_is_not_blocked() {
        let ada = Account { id: "7".to_owned(), login: "ada".to_owned() };
        assert_eq!(
            role(&at(Some("42")), &ada).url,
            "https://gitlab.example/api/v4/projects/42/members/all/7"
        );
        let answer = |level: u64, state: &str, id: u64| Answer {
            status: 200,
            body: json!({"id": id, "access_level": level, "state": state}),
            ..Default::default()
        };
        assert!(writes(&answer(30, "active", 7), &ada));
        for other in
            [answer(20, "active", 7), answer(50, "blocked", 7), answer(50, "active", 8), Answer::default()]
        {
            assert!(!writes(&other, &ada), "{other:?}");
        }
    }
}
