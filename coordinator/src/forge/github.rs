//! GitHub's API (docs.github.com, REST, version 2022-11-28): commit statuses, repositories, collaborators. Its Apps, and what they
//! alone may make: [`app`], [`checks`].

pub mod app;
pub mod checks;

use farm_types::escaped;
use serde_json::{Value, json};

use super::ask::{Account, Answer, Ask, At, Look, Shown, Unfit, Webhook};
use crate::outbound::Method;

/// Where it is, of github.com or of a GitHub Enterprise Server.
pub fn api(host: &str) -> String {
    if host == "github.com" { "https://api.github.com".to_owned() } else { format!("https://{host}/api/v3") }
}

fn repository(at: &At) -> String {
    format!("{}/repos/{}", at.api, at.full_name)
}

pub fn status(at: &At, shown: &Shown) -> Ask {
    let state = match shown.state {
        Look::Pending => "pending",
        Look::Success => "success",
        Look::Failure => "failure",
        Look::Cancelled => "error",
    };
    let body = json!({
        "state": state, "context": shown.context, "description": shown.description, "target_url": shown.target
    });
    Ask::post(format!("{}/statuses/{}", repository(at), shown.commit), body)
}

pub fn look(at: &At) -> Ask {
    Ask::get(repository(at))
}

/// Whether the token may write statuses, as far as the repository's page tells it.
pub fn fit(answer: &Answer) -> Result<(), Unfit> {
    let classic = answer.scopes.as_deref().map(str::trim).filter(|scopes| !scopes.is_empty());
    if let Some(scopes) = classic {
        let is_public = answer.body["private"] == Value::Bool(false);
        let is_enough =
            |scope: &str| matches!(scope, "repo" | "repo:status") || is_public && scope == "public_repo";
        if !scopes.split(',').any(|scope| is_enough(scope.trim())) {
            return Err(Unfit {
                why: format!("it has the scopes {scopes}, by which no status can be set"),
                cure: "give it the scope repo:status (and repo, to make webhooks by it)".to_owned(),
            });
        }
    }
    if answer.body.pointer("/permissions/push") == Some(&Value::Bool(false)) {
        return Err(Unfit {
            why: "its account may not write to the repository".to_owned(),
            cure: "take a token of an account that has the role Write there: GitHub lets no other one set statuses".to_owned(),
        });
    }
    Ok(())
}

/// The repository's webhooks: GitHub lets it have 20 for an event.
pub fn webhooks(at: &At) -> Ask {
    Ask::get(format!("{}/hooks?per_page=100", repository(at)))
}

/// Makes one, or changes the one that has this address.
pub fn install(at: &At, webhooks: &Answer, hook: Webhook<'_>) -> Ask {
    let mut body = json!({
        "active": true,
        "events": ["push", "pull_request", "release", "issue_comment"],
        "config": {"url": hook.url, "content_type": "json", "secret": hook.secret, "insecure_ssl": "0"},
    });
    let all = format!("{}/hooks", repository(at));
    match webhooks.listed("/config/url", hook.url) {
        Some(id) => Ask::change(Method::PATCH, format!("{all}/{id}"), body),
        None => {
            body["name"] = Value::from("web");
            Ask::post(all, body)
        }
    }
}

pub fn role(at: &At, account: &Account) -> Ask {
    Ask::get(format!("{}/collaborators/{}/permission", repository(at), escaped(&account.login)))
}

/// Whether this account may write, and is the one that is meant: a name may be another's by now.
pub fn writes(answer: &Answer, account: &Account) -> bool {
    let word = answer.body["permission"].as_str().unwrap_or_default();
    matches!(word, "admin" | "write" | "owner") && answer.id("/user/id").as_deref() == Some(&account.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> At {
        At { api: api("github.com"), full_name: "acme/app".to_owned(), id: Some("42".to_owned()) }
    }

    #[test]
    fn a_status_is_asked_for_as_github_documents_it() {
        let shown = Shown {
            commit: "a".repeat(40),
            context: "farm/app".to_owned(),
            state: Look::Cancelled,
            description: "d".to_owned(),
            is_built: false,
            branch: None,
            pipeline: None,
            target: None,
        };
        let ask = status(&at(), &shown);
        assert_eq!(ask.url, format!("https://api.github.com/repos/acme/app/statuses/{}", "a".repeat(40)));
        let body = json!({"state": "error", "context": "farm/app", "description": "d", "target_url": null});
        assert_eq!(ask.body, Some(body));
        assert_eq!(api("git.example:8443"), "https://git.example:8443/api/v3");
    }

    #[test]
    fn a_webhook_is_made_once_and_then_changed() {
        let hook = Webhook { url: "https://farm.example/hooks/a", secret: "s" };
        let listed = |url: &str| Answer {
            status: 200,
            body: json!([{"id": 8, "config": {"url": "https://ci.example"}}, {"id": 9, "config": {"url": url}}]),
            ..Default::default()
        };
        let made = install(&at(), &listed("https://farm.example/hooks/b"), hook);
        assert_eq!(
            (made.method, made.url.as_str()),
            (Method::POST, "https://api.github.com/repos/acme/app/hooks")
        );
        assert_eq!(made.body.unwrap()["name"], "web");
        let changed = install(&at(), &listed(hook.url), hook);
        assert_eq!(
            (changed.method, changed.url.as_str()),
            (Method::PATCH, "https://api.github.com/repos/acme/app/hooks/9")
        );
        let body = changed.body.unwrap();
        assert_eq!(
            (&body["config"]["secret"], &body["config"]["content_type"]),
            (&json!("s"), &json!("json"))
        );
    }

    #[test]
    fn a_token_has_to_reach_as_far_as_statuses() {
        let answer = |scopes: Option<&str>, private: bool, push: Option<bool>| Answer {
            status: 200,
            scopes: scopes.map(str::to_owned),
            body: json!({"id": 42, "private": private, "permissions": {"push": push}}),
            ..Default::default()
        };
        for (scopes, private, push, is_fit) in [
            (Some("repo, workflow"), true, Some(true), true),
            (Some("repo:status"), true, Some(true), true),
            (Some("public_repo"), false, Some(true), true),
            (Some("public_repo"), true, Some(true), false),
            (Some("read:org"), false, Some(true), false),
            (Some("repo"), true, Some(false), false),
            // Fine-grained ones name none; those of apps have no account.
            (Some(""), true, Some(true), true),
            (None, true, None, true),
            (None, true, Some(false), false),
        ] {
            assert_eq!(fit(&answer(scopes, private, push)).is_ok(), is_fit, "{scopes:?} {private} {push:?}");
        }
    }

    #[test]
    fn who_may_write_is_told_by_the_account_and_not_by_its_name_alone() {
        let ada = Account { id: "7".to_owned(), login: "ada/..".to_owned() };
        assert_eq!(
            role(&at(), &ada).url,
            "https://api.github.com/repos/acme/app/collaborators/ada%2F../permission"
        );
        let answer = |word: &str, id: u64| Answer {
            status: 200,
            body: json!({"permission": word, "user": {"id": id, "login": "ada"}}),
            ..Default::default()
        };
        assert!(writes(&answer("write", 7), &ada) && writes(&answer("admin", 7), &ada));
        for other in [answer("read", 7), answer("none", 7), answer("admin", 8), Answer::default()] {
            assert!(!writes(&other, &ada), "{other:?}");
        }
    }
}
