//! Where jobs of GitHub Actions get their tokens.
//!
//! A stand-in: GitHub answers its own jobs only. Address, query, headers and answer are those of its documentation ("OpenID Connect
//! reference"); the tokens are signed by an issuer of the tests.

use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::faults::answers::{Body, full};
use crate::issuer::{Issuer, Key};
use crate::web::Web;

/// What shows a job there.
const SECRET: &str = "s3cret-of-the-job";

#[derive(Debug)]
struct State {
    key: Arc<Key>,
    /// What a job says, without `jti`.
    claims: Value,
    /// For whom tokens were asked.
    audiences: Mutex<Vec<String>>,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Actions {
    state: Arc<State>,
    web: Web,
}

impl Actions {
    /// Jobs get the issuer's tokens, signed by this key.
    pub fn start(issuer: &Issuer, key: &Arc<Key>) -> Actions {
        let state = Arc::new(State {
            key: Arc::clone(key),
            claims: issuer.job(json!({})),
            audiences: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        Actions { state, web: Web::start(move |request| shared.answer(&request)) }
    }

    /// Gives a command what GitHub gives a job that may have tokens.
    pub fn job<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let url = format!("{}/idtoken/1/2?api-version=2.0", self.web.url());
        command.env("ACTIONS_ID_TOKEN_REQUEST_URL", url).env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", SECRET)
    }

    /// For whom tokens were asked so far.
    pub fn audiences(&self) -> Vec<String> {
        self.state.audiences.lock().unwrap().clone()
    }
}

impl State {
    fn answer(&self, request: &Request<Bytes>) -> Response<Body> {
        let refused = |status| {
            let mut response = Response::new(full(Bytes::from_static(b"{\"message\":\"no\"}")));
            *response.status_mut() = status;
            response
        };
        let has = |name: &str, value: &str| request.headers().get(name).is_some_and(|is| is == value);
        if !has("authorization", &format!("bearer {SECRET}"))
            || !has("accept", "application/json; api-version=2.0")
        {
            return refused(StatusCode::FORBIDDEN);
        }
        let query = request.uri().query().unwrap_or_default();
        let Some(audience) = query.strip_prefix("api-version=2.0&audience=") else {
            return refused(StatusCode::BAD_REQUEST);
        };
        let audience = audience.replace("%3A", ":").replace("%2F", "/");
        let mut asked = self.audiences.lock().unwrap();
        let mut claims = self.claims.clone();
        claims["aud"] = json!(audience);
        claims["jti"] = json!(format!("actions-{}-{}", std::process::id(), asked.len()));
        asked.push(audience);
        let answer = json!({"count": 1, "value": self.key.sign(&claims)});
        Response::new(full(answer.to_string().into()))
    }
}
