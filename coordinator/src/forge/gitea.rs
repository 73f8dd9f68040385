//! The API of Gitea and Forgejo (`/api/swagger` of each): commit statuses, repositories, collaborators.

use farm_types::escaped;
use serde_json::{Value, json};

use super::ask::{Account, Answer, Ask, At, Look, Shown, Unfit, Webhook};
use crate::outbound::Method;

/// Where it is. Paths begin with `/api/v1`, as one of one's own may be below a path.
pub fn api(host: &str) -> String {
    format!("https://{host}")
}

fn repository(at: &At) -> String {
    format!("{}/api/v1/repos/{}", at.api, at.full_name)
}

pub fn status(at: &At, shown: &Shown) -> Ask {
    let state = match shown.state {
        Look::Pending => "pending",
        Look::Success => "success",
        Look::Failure => "failure",
        Look::Cancelled => "error",
    };
    let target = shown.target.as_deref().unwrap_or_default();
    let body = json!({
        "state": state, "context": shown.context, "description": shown.description, "target_url": target
    });
    Ask::post(format!("{}/statuses/{}", repository(at), shown.commit), body)
}

pub fn look(at: &At) -> Ask {
    Ask::get(repository(at))
}

/// Whether the token's account may write. What the token itself may isn't told; one that may too little is refused when it is used.
pub fn fit(answer: &Answer) -> Result<(), Unfit> {
    if answer.body.pointer("/permissions/push") == Some(&Value::Bool(true)) {
        return Ok(());
    }
    Err(Unfit {
        why: "its account may not write to the repository".to_owned(),
        cure: "take a token with the scope write:repository, of an account that writes to it".to_owned(),
    })
}

/// The repository's webhooks, as many as a page may have unless its admin has said otherwise.
pub fn webhooks(at: &At) -> Ask {
    Ask::get(format!("{}/hooks?limit=50", repository(at)))
}

/// Makes one, or changes the one that has this address.
pub fn install(at: &At, webhooks: &Answer, hook: Webhook<'_>) -> Ask {
    let mut body = json!({
        "active": true,
        "events": ["push", "pull_request", "release", "issue_comment"],
        "config": {"url": hook.url, "content_type": "json", "secret": hook.secret},
    });
    let all = format!("{}/hooks", repository(at));
    match webhooks.listed("/config/url", hook.url) {
        Some(id) => Ask::change(Method::PATCH, format!("{all}/{id}"), body),
        None => {
            // Forgejo takes that word, too.
            body["type"] = Value::from("gitea");
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
    matches!(word, "owner" | "admin" | "write") && answer.id("/user/id").as_deref() == Some(&account.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_asked_for_as_gitea_has_it() {
        let at = At { api: api("git.example:3000"), full_name: "acme/app".to_owned(), id: None };
        let shown = Shown {
            commit: "b".repeat(40),
            context: "farm".to_owned(),
            state: Look::Failure,
            description: "d".to_owned(),
            is_built: false,
            branch: None,
            pipeline: None,
            target: None,
        };
        let ask = status(&at, &shown);
        assert_eq!(
            ask.url,
            format!("https://git.example:3000/api/v1/repos/acme/app/statuses/{}", "b".repeat(40))
        );
        let body = json!({"state": "failure", "context": "farm", "description": "d", "target_url": ""});
        assert_eq!(ask.body, Some(body));
        let ada = Account { id: "7".to_owned(), login: "ada".to_owned() };
        assert!(role(&at, &ada).url.ends_with("/api/v1/repos/acme/app/collaborators/ada/permission"));
    }

    #[test]
    fn a_webhook_is_made_once_and_then_changed() {
        let at = At { api: api("git.example"), full_name: "acme/app".to_owned(), id: None };
        let hook = Webhook { url: "https://farm.example/hooks/a", secret: "s" };
        let listed = |url: &str| Answer {
            status: 200,
            body: json!([{"id": 9, "config": {"url": url}}]),
            ..Default::default()
        };
        let made = install(&at, &listed("https://farm.example/hooks/b"), hook);
        assert_eq!((made.method, made.body.unwrap()["type"].as_str()), (Method::POST, Some("gitea")));
        let changed = install(&at, &listed(hook.url), hook);
        assert_eq!(
            (changed.method, changed.url.as_str()),
            (Method::PATCH, "https://git.example/api/v1/repos/acme/app/hooks/9")
        );
    }

    #[test]
    fn a_token_is_of_an_account_that_writes() {
        let answer = |body: Value| Answer { status: 200, body, ..Default::default() };
        assert!(fit(&answer(json!({"permissions": {"push": true}}))).is_ok());
        assert!(fit(&answer(json!({"permissions": {"push": false, "pull": true}}))).is_err());
        assert!(fit(&answer(json!({}))).is_err());
        let ada = Account { id: "7".to_owned(), login: "ada".to_owned() };
        let role = |word: &str, id: u64| answer(json!({"permission": word, "user": {"id": id}}));
        assert!(writes(&role("owner", 7), &ada) && writes(&role("write", 7), &ada));
        assert!(!writes(&role("read", 7), &ada) && !writes(&role("owner", 8), &ada));
    }
}
