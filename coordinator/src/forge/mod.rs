//! The forges' APIs: what the farm asks where a repository is. One file a forge says what is asked and what an answer means, and does
//! nothing ([`github`], [`gitlab`], [`gitea`]); [`judge`] says what follows from it; [`Forges`] asks.
//!
//! Invariant: a hook's token goes to the hook's own forge only, and is in nothing that is told or logged. To add a forge: its file, and
//! its place in [`Kind`].

pub mod ask;
mod gitea;
mod github;
mod gitlab;
pub mod judge;

use std::fmt;
use std::time::Duration;

use farm_hooks::Provider;
use farm_types::chain::in_short;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use self::ask::{Account, Answer, Ask, At, Shown, Unfit, Webhook};
use self::judge::Verdict;
use crate::outbound::{Client, Failed, body};

/// A request may take so long, its answer included.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The longest answer that is read, bytes: a repository of GitHub's is described in some 20 kB.
const MOST_BYTES: usize = 1024 * 1024;

/// Which API it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Github,
    Gitlab,
    /// Forgejo's is the same.
    Gitea,
}

impl Kind {
    /// Of a hook's provider; `None`: it has none that is known.
    pub fn of(provider: Provider) -> Option<Self> {
        match provider {
            Provider::Github => Some(Self::Github),
            Provider::Gitlab => Some(Self::Gitlab),
            Provider::Gitea | Provider::Forgejo => Some(Self::Gitea),
            Provider::Generic | Provider::Dockerhub | Provider::Distribution => None,
        }
    }

    fn api(self, host: &str) -> String {
        match self {
            Self::Github => github::api(host),
            Self::Gitlab => gitlab::api(host),
            Self::Gitea => gitea::api(host),
        }
    }

    fn authorization(self, token: &str) -> String {
        match self {
            // GitLab takes its tokens so as well; unlike a header of its own this one stays behind where an answer leads elsewhere.
            Self::Github | Self::Gitlab => format!("Bearer {token}"),
            Self::Gitea => format!("token {token}"),
        }
    }
}

/// A repository at its forge, with what the farm is known by there.
#[derive(Clone)]
pub struct Repository {
    pub kind: Kind,
    pub at: At,
    pub token: SecretString,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("kind", &self.kind).field("at", &self.at).finish_non_exhaustive()
    }
}

/// Which repository, as a hook names it.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    pub provider: Provider,
    pub host: &'a str,
    /// Where the API is, if somebody has said it.
    pub api: Option<&'a str>,
    pub full_name: &'a str,
    pub id: Option<&'a str>,
}

impl Repository {
    /// The repository of a hook; `None`: its provider has no API that is known.
    pub fn of(named: Named<'_>, token: SecretString) -> Option<Self> {
        let kind = Kind::of(named.provider)?;
        let api = named.api.map_or_else(|| kind.api(named.host), ToOwned::to_owned);
        let at = At { api, full_name: named.full_name.to_owned(), id: named.id.map(ToOwned::to_owned) };
        Some(Self { kind, at, token })
    }
}

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
struct Unasked {
    why: String,
    /// The request may have come there all the same, or come yet.
    may_come: bool,
}

impl From<Unasked> for Unsaid {
    fn from(unasked: Unasked) -> Self {
        Self::Away(unasked.why)
    }
}

/// Asks forges. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Forges(Client);

impl Forges {
    /// By a client that judges where it is sent.
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// Shows a commit so; and the pipeline that the forge has put it in. `now`: seconds since 1970, by which a forge's limits count;
    /// `strikes`: so often in a row it was too much.
    ///
    /// Cancelled, it may have been shown.
    pub async fn show(
        &self,
        repository: &Repository,
        shown: &Shown,
        now: i64,
        strikes: u32,
    ) -> (Verdict, Option<String>) {
        let at = &repository.at;
        let ask = match repository.kind {
            Kind::Github => github::status(at, shown),
            Kind::Gitlab => gitlab::status(at, shown),
            Kind::Gitea => gitea::status(at, shown),
        };
        let answer = match self.ask(repository, ask).await {
            Ok(answer) => answer,
            Err(Unasked { why, may_come: true }) => return (Verdict::Lost(why), None),
            Err(Unasked { why, .. }) => return (Verdict::Again(why), None),
        };
        let (own, pipeline) = match repository.kind {
            Kind::Gitlab => (gitlab::judge(&answer), gitlab::pipeline(&answer)),
            Kind::Github | Kind::Gitea => (None, None),
        };
        (own.unwrap_or_else(|| judge::judge(&answer, now, strikes)), pipeline)
    }

    /// Whether the repository's token is one by which statuses can be set there.
    ///
    /// # Errors
    /// It isn't, or the forge can't be asked.
    pub async fn check(&self, repository: &Repository) -> Result<(), Unsaid> {
        let at = &repository.at;
        let ask = match repository.kind {
            Kind::Github => github::look(at),
            Kind::Gitlab => gitlab::look(at),
            Kind::Gitea => gitea::look(at),
        };
        let answer = self.ask(repository, ask).await.map_err(Unsaid::from)?;
        readable(&answer, at)?;
        let fit = match repository.kind {
            Kind::Github => github::fit(&answer),
            Kind::Gitlab => {
                let token = self.ask(repository, gitlab::scopes(at)).await.map_err(Unsaid::from)?;
                gitlab::fit(&answer, &token)
            }
            Kind::Gitea => gitea::fit(&answer),
        };
        fit.map_err(Unsaid::Unfit)
    }

    /// By which the forge knows the repository that has this name now.
    ///
    /// # Errors
    /// The token doesn't reach so far, or the forge can't be asked: then nobody knows.
    pub async fn id_by_name(&self, repository: &Repository) -> Result<String, Unsaid> {
        // Not by what it is known by: that leads to the one that had the name.
        let at = At { id: None, ..repository.at.clone() };
        let ask = match repository.kind {
            Kind::Github => github::look(&at),
            Kind::Gitlab => gitlab::look(&at),
            Kind::Gitea => gitea::look(&at),
        };
        let answer = self.ask(repository, ask).await.map_err(Unsaid::from)?;
        taken(&answer)?;
        answer
            .id("/id")
            .ok_or_else(|| Unsaid::Away("what answers there is no forge: it names no repository".to_owned()))
    }

    /// Whether an account of the forge's may write to the repository. One that the forge doesn't know there may not.
    ///
    /// # Errors
    /// The token doesn't reach so far, or the forge can't be asked: then nobody knows.
    pub async fn may_write(&self, repository: &Repository, account: &Account) -> Result<bool, Unsaid> {
        let at = &repository.at;
        let ask = match repository.kind {
            Kind::Github => github::role(at, account),
            Kind::Gitlab => gitlab::role(at, account),
            Kind::Gitea => gitea::role(at, account),
        };
        let answer = self.ask(repository, ask).await.map_err(Unsaid::from)?;
        if answer.status == 404 {
            return Ok(false);
        }
        taken(&answer)?;
        Ok(match repository.kind {
            Kind::Github => github::writes(&answer, account),
            Kind::Gitlab => gitlab::writes(&answer, account),
            Kind::Gitea => gitea::writes(&answer, account),
        })
    }

    /// Makes a webhook there, or changes the one that has its address.
    ///
    /// # Errors
    /// The token doesn't reach so far, or the forge can't be asked. Then it may be there all the same; doing it again does no harm.
    pub async fn install(&self, repository: &Repository, hook: Webhook<'_>) -> Result<(), Unsaid> {
        let (at, kind) = (&repository.at, repository.kind);
        let list = match kind {
            Kind::Github => github::webhooks(at),
            Kind::Gitlab => gitlab::webhooks(at),
            Kind::Gitea => gitea::webhooks(at),
        };
        let listed = self.ask(repository, list).await.map_err(Unsaid::from)?;
        managed(kind, &listed)?;
        let install = match kind {
            Kind::Github => github::install(at, &listed, hook),
            Kind::Gitlab => gitlab::install(at, &listed, hook),
            Kind::Gitea => gitea::install(at, &listed, hook),
        };
        managed(kind, &self.ask(repository, install).await.map_err(Unsaid::from)?)
    }

    /// One request with the repository's token; else why there is no answer.
    async fn ask(&self, repository: &Repository, ask: Ask) -> Result<Answer, Unasked> {
        let deadline = Instant::now() + PATIENCE;
        let token = repository.token.expose_secret();
        let mut request = self
            .0
            .request(ask.method, &ask.url)
            .header("accept", "application/json")
            .header("authorization", repository.kind.authorization(token));
        if repository.kind == Kind::Github {
            request = request.header("x-github-api-version", "2022-11-28");
        }
        if let Some(body) = &ask.body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let sent = timeout_at(deadline, self.0.send(request)).await;
        let mut response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(Failed::Refused { refused, .. })) => {
                return Err(Unasked { why: format!("the farm may not ask {refused}"), may_come: false });
            }
            Ok(Err(Failed::Endless)) => {
                let why = "the forge sends from one place to the next".to_owned();
                return Err(Unasked { why, may_come: false });
            }
            Ok(Err(Failed::Request(error))) => {
                let why = format!("the forge can't be reached: {}", in_short(&error));
                return Err(Unasked { why, may_come: !error.is_connect() });
            }
            Err(_) => {
                let why = format!("the forge doesn't answer within {} s", PATIENCE.as_secs());
                return Err(Unasked { why, may_come: true });
            }
        };
        let text = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let number =
            |names: [&str; 2]| names.into_iter().find_map(|name| text(name)?.trim().parse::<u64>().ok());
        let answer = Answer {
            status: response.status().as_u16(),
            retry_after: number(["retry-after", "retry-after"]),
            remaining: number(["x-ratelimit-remaining", "ratelimit-remaining"]),
            reset: number(["x-ratelimit-reset", "ratelimit-reset"]).and_then(|at| i64::try_from(at).ok()),
            scopes: text("x-oauth-scopes"),
            body: Value::Null,
        };
        let read = body::read(&mut response, MOST_BYTES, deadline).await;
        // What the status says counts also where its text doesn't come.
        let told = String::from_utf8_lossy(&read.bytes).replace(token, "***");
        Ok(Answer { body: serde_json::from_str(&told).unwrap_or_default(), ..answer })
    }
}

/// Whether the forge takes the token at all.
fn taken(answer: &Answer) -> Result<(), Unsaid> {
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
fn managed(kind: Kind, answer: &Answer) -> Result<(), Unsaid> {
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

/// Whether the answer is the hook's repository.
fn readable(answer: &Answer, at: &At) -> Result<(), Unsaid> {
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
    use serde_json::json;

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
        let named =
            |provider, api| Named { provider, host: "git.example", api, full_name: "acme/app", id: None };
        let of = |provider, api| Repository::of(named(provider, api), "s3cret".to_owned().into());
        assert_eq!(of(Provider::Forgejo, None).unwrap().at.api, "https://git.example");
        assert_eq!(of(Provider::Github, Some("http://localhost:1")).unwrap().at.api, "http://localhost:1");
        assert!(of(Provider::Generic, None).is_none());
        assert!(!format!("{:?}", of(Provider::Gitlab, None)).contains("s3cret"));
    }
}
