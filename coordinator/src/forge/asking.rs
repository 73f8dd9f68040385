//! Asks a forge: one request with what the farm is known by there. A GitHub App is lent tokens for that, which are kept in memory ([`super::loans`])
//! until some minutes before they end. One that was just lent isn't known everywhere at GitHub yet, and is shown again for some seconds; an older
//! one that isn't taken is fetched anew, once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use farm_types::chain::in_short;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use super::answers::{Unasked, Unsaid, readable};
use super::ask::{Answer, Ask, At};
use super::github;
use super::github::app::{self, App, Scope};
use super::judge::{Verdict, judge};
use super::loans::{Lent, Loans, says_little};
use super::repository::{Access, Kind, Repository};
use crate::outbound::{Client, Failed, body};

/// A request may take so long, its answer included.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest answer that is read, bytes: a repository of GitHub's is described in some 20 kB, and each of ten check runs may have 60 kB of text.
const MOST_BYTES: usize = 2 * 1024 * 1024;
/// How long what isn't known yet is waited for the first time, and at most; twice as long each time.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(4));
/// What clones are lent is used for so long at least, where GitHub lends another one: a fetch goes on for minutes. (With the minutes by which what
/// is lent is given back early it is half an hour.)
const LONGER: Duration = Duration::from_secs(25 * 60);

/// Asks. Cheap to clone.
#[derive(Clone)]
pub(super) struct Asking {
    client: Client,
    loans: Arc<Mutex<Loans>>,
}

impl Asking {
    pub(super) fn new(client: Client) -> Self {
        Self { client, loans: Arc::default() }
    }

    /// One request with the repository's access, of an App with no more rights than these; else why there is no answer.
    pub(super) async fn ask(
        &self,
        repository: &Repository,
        scope: Scope,
        ask: Ask,
    ) -> Result<Answer, Unasked> {
        match &repository.access {
            Access::Token(token) => self.send(repository.kind, token, ask).await,
            Access::App(app) => Ok(Box::pin(self.ask_lent(app, (&repository.at, scope), ask)).await?.0),
        }
    }

    /// One request of the App's own, signed by its key.
    pub(super) async fn ask_as(&self, app: &app::Key, name: &str, ask: Ask) -> Result<Answer, Unasked> {
        let signed = app.sign(name, Utc::now().timestamp());
        let signed = signed.map_err(|why| Unasked::Away { why: why.to_owned(), may_come: false })?;
        self.send(Kind::Github, &signed, ask).await
    }

    /// A token by which the repository can be cloned, and nothing else be done. `None`: the App was never lent one, as far as this coordinator
    /// remembers, and GitHub doesn't say now whether it would be.
    pub(super) async fn lend_clone(&self, app: &App, at: &At) -> Result<Option<SecretString>, Unsaid> {
        let loan = app.borrows(at, Scope::Contents);
        let known = |longer| self.with(|loans| loans.lent(loan, (Instant::now(), longer)));
        if let Some(lent) = known(LONGER).filter(|lent| lent.is_tried) {
            return Ok(Some(lent.token));
        }
        // Git shows it once: it has to be known at GitHub by then, and the name still be that of the hook's repository.
        let said = match Box::pin(self.ask_lent(app, (at, Scope::Contents), github::look(at))).await {
            Ok((answer, lent)) => readable(&answer, at).map(|()| lent),
            Err(unasked) => Err(unasked.into()),
        };
        match said {
            Ok(lent) => {
                self.with(|loans| loans.tried(loan, &lent.token));
                Ok(Some(lent.token))
            }
            Err(Unsaid::Away(why)) => match known(Duration::ZERO).filter(|lent| lent.is_tried) {
                Some(lent) => Ok(Some(lent.token)),
                None if self.with(|loans| loans.was_lent(loan)) => Err(Unsaid::Away(why)),
                None => Ok(None),
            },
            Err(unfit) => Err(unfit),
        }
    }

    /// Something was changed about an App there, or its key was given again: what it wasn't lent it may be lent now.
    pub(super) fn ask_anew(&self, app: &App, at: &At) {
        self.with(|loans| loans.ask_anew(app.counted_by(&at.api)));
    }

    fn with<T>(&self, f: impl FnOnce(&mut Loans) -> T) -> T {
        f(&mut self.loans.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One request with what an App is lent; and that.
    async fn ask_lent(&self, app: &App, of: (&At, Scope), ask: Ask) -> Result<(Answer, Lent), Unasked> {
        let mut lent = self.borrow(app, of).await?;
        let mut is_new = lent.is_new(Instant::now());
        let mut answer = self.show(&lent, &ask).await?;
        if answer.status == 401 && !is_new {
            // It may have been taken back, as when the App's permissions were changed.
            self.with(|loans| loans.forget(app.borrows(of.0, of.1), &lent.token));
            lent = self.borrow(app, of).await?;
            is_new = true;
            answer = self.show(&lent, &ask).await?;
        }
        self.heed(app, of.0, &answer);
        if is_new && says_little(&answer) {
            // The next time it is new no more, and this counts.
            let why = format!("the forge doesn't take yet what it has just lent the App ({})", answer.said());
            return Err(Unasked::Away { why, may_come: false });
        }
        Ok((answer, lent))
    }

    /// One request with this, again as long as it isn't known yet.
    async fn show(&self, lent: &Lent, ask: &Ask) -> Result<Answer, Unasked> {
        let mut pause = PAUSES.0;
        loop {
            let answer = self.send(Kind::Github, &lent.token, ask.clone()).await?;
            if !says_little(&answer) || !lent.is_new(Instant::now()) {
                return Ok(answer);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// A token for one repository, with these rights: one that was lent already, or another.
    async fn borrow(&self, app: &App, (at, scope): (&At, Scope)) -> Result<Lent, Unasked> {
        let (loan, now) = (app.borrows(at, scope), Instant::now());
        let longer = if scope == Scope::Contents { LONGER } else { Duration::ZERO };
        if let Some(lent) = self.with(|loans| loans.lent(loan, (now, longer))) {
            return Ok(lent);
        }
        match Box::pin(self.borrow_anew(app, (at, scope))).await {
            Ok(lent) => Ok(lent),
            // What counts still is better than none.
            Err(unasked) => {
                self.with(|loans| loans.lent(loan, (Instant::now(), Duration::ZERO))).ok_or(unasked)
            }
        }
    }

    async fn borrow_anew(&self, app: &App, (at, scope): (&At, Scope)) -> Result<Lent, Unasked> {
        if let Some(wait) = self.with(|loans| loans.wait(app.counted_by(&at.api), Instant::now())) {
            return Err(Unasked::Limited(wait));
        }
        let loan = app.borrows(at, scope);
        if let Some(answer) = self.with(|loans| loans.refused(loan, Instant::now())) {
            return Err(Unasked::Unlent(scope, answer));
        }
        let answer = self.ask_as(&app.key, &app.name, app.borrow(at, scope)).await?;
        if !answer.is_success() {
            self.heed(app, at, &answer);
            if app::unlent(scope, &answer).is_ok() {
                let refused = (answer.clone(), Instant::now());
                self.with(|loans| loans.refuse(loan, app.counted_by(&at.api), refused));
            }
            return Err(Unasked::Unlent(scope, answer));
        }
        let Some((token, counts)) = app::lent(&answer, Utc::now()) else {
            let why = "what answers there is no GitHub: it lends the App no token".to_owned();
            return Err(Unasked::Away { why, may_come: false });
        };
        let made = Instant::now();
        let lent = Lent { token, made, until: made + counts, is_tried: false };
        self.with(|loans| loans.lend(loan, lent.clone()));
        Ok(lent)
    }

    /// Whoever has asked too much borrows nothing before it may ask again.
    fn heed(&self, app: &App, at: &At, answer: &Answer) {
        if let Verdict::Wait(wait) = judge(answer, Utc::now().timestamp(), 0) {
            self.with(|loans| loans.limit(app.counted_by(&at.api), Instant::now() + wait));
        }
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
