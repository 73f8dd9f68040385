//! What a forge's answer to a question means: whether the farm's access will do, and what to do if it won't. Pure.

use std::time::Duration;

use super::ask::{Answer, At, Unfit};
use super::github::app;
use super::judge::{self, Verdict};
use super::repository::Kind;

/// Why a forge didn't say whether a token will do, or who somebody is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsaid {
    /// It can't be asked, or has no answer now.
    #[error("{0}")]
    Away(String),
    /// The token won't do.
    #[error("{}; {}", .0.why, .0.cure)]
    Unfit(Unfit),
}

/// Why there is no answer.
pub(super) enum Unasked {
    /// The forge couldn't be asked.
    Away {
        why: String,
        /// The request may have come there all the same, or come yet.
        may_come: bool,
    },
    /// The App's installation has asked too much, and has to wait for so long.
    Limited(Duration),
    /// The App isn't lent a token by which it could be asked; what was said to that.
    Unlent(app::Scope, Answer),
}

impl Unasked {
    /// What follows for what was to be written; `now` and `strikes` as in [`judge::judge`].
    pub(super) fn verdict(self, now: i64, strikes: u32) -> Verdict {
        match self {
            Self::Away { why, may_come: true } => Verdict::Lost(why),
            Self::Away { why, .. } => Verdict::Again(why),
            Self::Limited(wait) => Verdict::Wait(wait),
            Self::Unlent(scope, answer) => match judge::judge(&answer, now, strikes) {
                Verdict::Wait(wait) => Verdict::Wait(wait),
                // Nothing was written; and what people have to mend there, they may.
                _ => Verdict::Again(match app::unlent(scope, &answer) {
                    Ok(Unfit { why, cure }) => format!("{why}; {cure}"),
                    Err(why) => why,
                }),
            },
        }
    }
}

impl From<Unasked> for Unsaid {
    fn from(unasked: Unasked) -> Self {
        match unasked {
            Unasked::Away { why, .. } => Self::Away(why),
            Unasked::Limited(wait) => {
                let seconds = wait.as_secs() + 1;
                Self::Away(format!("the forge was asked too much; it is asked again in {seconds} s"))
            }
            Unasked::Unlent(scope, answer) => {
                app::unlent(scope, &answer).map_or_else(Self::Away, Self::Unfit)
            }
        }
    }
}

/// Whether the forge takes the token at all.
pub(super) fn taken(answer: &Answer) -> Result<(), Unsaid> {
    let unfit = |why: String, cure: &str| Err(Unsaid::Unfit(Unfit { why, cure: cure.to_owned() }));
    match answer.status {
        200..=299 => Ok(()),
        401 => unfit(format!("the forge doesn't take it ({})", answer.said()), "give one that counts there"),
        403 if judge::is_limited(answer) => {
            Err(Unsaid::Away(format!("the forge was asked too much ({})", answer.said())))
        }
        403 => {
            unfit(format!("it may not see the repository ({})", answer.said()), "give it the rights for that")
        }
        404 => unfit(
            "there is no such repository for it".to_owned(),
            "give one that may see the repository; or its name has changed: make the hook anew",
        ),
        _ => Err(Unsaid::Away(format!("the forge says nothing of it ({})", answer.said()))),
    }
}

/// Whether the token may see and make webhooks. GitHub says 404 to whom it doesn't let see them.
pub(super) fn managed(kind: Kind, answer: &Answer) -> Result<(), Unsaid> {
    if !matches!(answer.status, 403 | 404) || judge::is_limited(answer) {
        return taken(answer);
    }
    let cure = match kind {
        Kind::Github => "give it Webhooks: write (classic: admin:repo_hook), and its account the role Admin",
        Kind::Gitlab => "give it the role Maintainer and the scope api",
        Kind::Gitea => "take one of an account that is an admin of the repository",
    };
    Err(Unsaid::Unfit(Unfit {
        why: format!("it may make no webhooks there ({})", answer.said()),
        cure: cure.to_owned(),
    }))
}

/// Whether the token may ask what an account may. Of Gitea it may ask that of others than itself only as an admin of the repository.
pub(super) fn asks_of_others(kind: Kind, answer: &Answer) -> Result<(), Unsaid> {
    if kind != Kind::Gitea || answer.status != 403 || judge::is_limited(answer) {
        return taken(answer);
    }
    let cure = "give one of an account that is an admin of the repository, or approve the build yourself (farm approve)";
    Err(Unsaid::Unfit(Unfit {
        why: format!("it may not ask what others may there ({})", answer.said()),
        cure: cure.to_owned(),
    }))
}

/// Whether the answer is the hook's repository.
pub(super) fn readable(answer: &Answer, at: &At) -> Result<(), Unsaid> {
    taken(answer)?;
    let id = answer.id("/id");
    match (&at.id, id) {
        (_, None) => Err(Unsaid::Away("what answers there is no forge: it names no repository".to_owned())),
        (Some(own), Some(other)) if *own != other => Err(Unsaid::Unfit(Unfit {
            why: format!("{} is repository {other} by now, and the hook is for {own}", at.full_name),
            cure: "make the hook anew".to_owned(),
        })),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_token_is_refused_with_what_to_do_and_a_forge_that_is_away_is_no_reason() {
        let at = At { api: String::new(), full_name: "acme/app".to_owned(), id: Some("42".to_owned()) };
        let answer = |status, body: Value| Answer { status, body, ..Default::default() };
        assert!(readable(&answer(200, json!({"id": 42})), &at).is_ok());
        for (answer, is_unfit) in [
            (answer(200, json!({"id": 43})), true),
            (answer(401, Value::Null), true),
            (answer(403, json!({"message": "no"})), true),
            (answer(404, Value::Null), true),
            (answer(403, json!({"message": "API rate limit exceeded"})), false),
            (answer(200, json!("<html>")), false),
            (answer(302, Value::Null), false),
            (answer(503, Value::Null), false),
        ] {
            let said = readable(&answer, &at).unwrap_err();
            assert_eq!(matches!(said, Unsaid::Unfit(_)), is_unfit, "{answer:?}: {said}");
        }
    }

    #[test]
    fn who_may_not_ask_what_others_may_is_told_who_may() {
        let answer = |status, body: Value| Answer { status, body, ..Default::default() };
        let no = answer(403, json!({"message": "repo admins can query all repo permissions"}));
        let said = asks_of_others(Kind::Gitea, &no).unwrap_err().to_string();
        assert!(said.contains("repo admins") && said.contains("an account that is an admin"), "{said}");
        let said = asks_of_others(Kind::Gitlab, &no).unwrap_err().to_string();
        assert!(said.contains("it may not see the repository"), "{said}");
        assert!(asks_of_others(Kind::Gitea, &answer(200, Value::Null)).is_ok());
        for later in [answer(403, json!({"message": "rate limit exceeded"})), answer(503, Value::Null)] {
            assert!(matches!(asks_of_others(Kind::Gitea, &later), Err(Unsaid::Away(_))), "{later:?}");
        }
    }

    #[test]
    fn an_app_that_is_lent_no_token_has_written_nothing() {
        let unlent = |status, body: Value| {
            let answer = Answer { status, body, ..Default::default() };
            Unasked::Unlent(app::Scope::Checks, answer)
        };
        for status in [401, 403, 404, 422] {
            // It is tried again, and what has to be mended is said meanwhile.
            let verdict = unlent(status, json!({"message": "no"})).verdict(0, 0);
            let Verdict::Again(why) = &verdict else { panic!("{status}: {verdict:?}") };
            assert!(why.contains(&format!("it answers {status}: no); ")), "{why}");
            assert!(matches!(Unsaid::from(unlent(status, Value::Null)), Unsaid::Unfit(_)), "{status}");
        }
        for status in [500, 502] {
            assert!(matches!(unlent(status, Value::Null).verdict(0, 0), Verdict::Again(_)), "{status}");
            assert!(matches!(Unsaid::from(unlent(status, Value::Null)), Unsaid::Away(_)), "{status}");
        }
        let limited = || unlent(403, json!({"message": "You have exceeded a secondary rate limit"}));
        assert!(matches!(limited().verdict(0, 0), Verdict::Wait(_)));
        assert!(matches!(Unsaid::from(limited()), Unsaid::Away(_)));
        let wait = || Unasked::Limited(Duration::from_secs(7));
        assert_eq!(wait().verdict(0, 0), Verdict::Wait(Duration::from_secs(7)));
        assert!(matches!(Unsaid::from(wait()), Unsaid::Away(_)));
    }
}
