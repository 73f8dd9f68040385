//! Asks a forge: one request with what the farm is known by there. A GitHub App is lent tokens for that, which are kept in memory until some
//! minutes before they end, and fetched anew, once, when the forge doesn't take one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use farm_types::Digest;
use farm_types::chain::in_short;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::answers::Unasked;
use super::ask::{Answer, Ask, At};
use super::github::app::{self, App, Scope};
use super::repository::{Access, Kind, Repository};
use crate::outbound::{Client, Failed, body};

/// A request may take so long, its answer included.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest answer that is read, bytes: a repository of GitHub's is described in some 20 kB.
const MOST_BYTES: usize = 1024 * 1024;

/// What an App was lent.
#[derive(Clone)]
struct Lent {
    token: SecretString,
    until: Instant,
}

/// Asks. Cheap to clone.
#[derive(Clone)]
pub(super) struct Asking {
    client: Client,
    lent: Arc<Mutex<HashMap<Digest, Lent>>>,
}

impl Asking {
    pub(super) fn new(client: Client) -> Self {
        Self { client, lent: Arc::default() }
    }

    /// One request with the repository's access, of an App with no more rights than these; else why there is no answer.
    pub(super) async fn ask(
        &self,
        repository: &Repository,
        scope: Scope,
        ask: Ask,
    ) -> Result<Answer, Unasked> {
        let app = match &repository.access {
            Access::Token(token) => return self.send(repository.kind, token, ask).await,
            Access::App(app) => app,
        };
        let lent = self.borrow(app, &repository.at, scope).await?;
        let answer = self.send(repository.kind, &lent, ask.clone()).await?;
        if answer.status != 401 {
            return Ok(answer);
        }
        // It may have been taken back, as when the App's permissions were changed.
        self.forget(app, &repository.at, scope, &lent);
        let lent = self.borrow(app, &repository.at, scope).await?;
        self.send(repository.kind, &lent, ask).await
    }

    /// One request of the App's own, signed by its key.
    pub(super) async fn ask_as(&self, app: &app::Key, name: &str, ask: Ask) -> Result<Answer, Unasked> {
        let signed = app.sign(name, Utc::now().timestamp());
        let signed = signed.map_err(|why| Unasked::Away { why: why.to_owned(), may_come: false })?;
        self.send(Kind::Github, &signed, ask).await
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<Digest, Lent>) -> T) -> T {
        f(&mut self.lent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A token for one repository, with these rights: one that was lent already, or another.
    pub(super) async fn borrow(&self, app: &App, at: &At, scope: Scope) -> Result<SecretString, Unasked> {
        let (key, now) = (app.borrows(at, scope), Instant::now());
        let known = self.with(|all| {
            all.retain(|_, lent| lent.until > now);
            all.get(&key).map(|lent| lent.token.clone())
        });
        if let Some(token) = known {
            return Ok(token);
        }
        let answer = self.ask_as(&app.key, &app.name, app.borrow(at, scope)).await?;
        if !answer.is_success() {
            return Err(Unasked::Unlent(scope, answer));
        }
        let Some((token, counts)) = app::lent(&answer, Utc::now()) else {
            let why = "what answers there is no GitHub: it lends the App no token".to_owned();
            return Err(Unasked::Away { why, may_come: false });
        };
        self.with(|all| all.insert(key, Lent { token: token.clone(), until: now + counts }));
        Ok(token)
    }

    fn forget(&self, app: &App, at: &At, scope: Scope, token: &SecretString) {
        let key = app.borrows(at, scope);
        self.with(|all| {
            // Somebody else may have another one by now.
            if all.get(&key).is_some_and(|lent| lent.token.expose_secret() == token.expose_secret()) {
                all.remove(&key);
            }
        });
    }

    /// One request with this token, which is in nothing that is answered.
    async fn send(&self, kind: Kind, token: &SecretString, ask: Ask) -> Result<Answer, Unasked> {
        let deadline = Instant::now() + PATIENCE;
        let token = token.expose_secret();
        let mut request = self
            .client
            .request(ask.method, &ask.url)
            .header("accept", "application/json")
            .header("authorization", kind.authorization(token));
        if kind == Kind::Github {
            request = request.header("x-github-api-version", "2022-11-28");
        }
        if let Some(body) = &ask.body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let away = |why: String, may_come: bool| Err(Unasked::Away { why, may_come });
        let sent = timeout_at(deadline, self.client.send(request)).await;
        let mut response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(Failed::Refused { refused, .. })) => {
                return away(format!("the farm may not ask {refused}"), false);
            }
            Ok(Err(Failed::Endless)) => {
                return away("the forge sends from one place to the next".to_owned(), false);
            }
            Ok(Err(Failed::Request(error))) => {
                return away(
                    format!("the forge can't be reached: {}", in_short(&error)),
                    !error.is_connect(),
                );
            }
            Err(_) => {
                return away(format!("the forge doesn't answer within {} s", PATIENCE.as_secs()), true);
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
