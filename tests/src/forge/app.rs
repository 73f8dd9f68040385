//! What a GitHub App has of the fake of GitHub's API (`super::github`): it shows itself by what its key has signed, which is verified for real,
//! is lent tokens with no more rights than it has, and makes check runs.

use std::collections::{HashMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use hyper::{Method, Response};
use ring::rsa::KeyPair;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::environment;
use crate::faults::answers::{Body, full};

/// Its App id, and where it is installed.
pub const APP: i64 = 7;
pub const INSTALLATION: i64 = 5;
/// By what else it may call itself.
pub const CLIENT: &str = "Iv23liOfTheTests";

/// An App's key, made when the test runs.
#[derive(Debug, Clone)]
pub struct App {
    pub pem: String,
    public: Vec<u8>,
}

impl App {
    /// One with another key than all others.
    pub fn make() -> App {
        let mut openssl = environment::command("openssl");
        openssl.args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
        let made = openssl.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let pem = String::from_utf8(made.stdout).unwrap();
        let pair = match PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap() {
            PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
            other => panic!("{other:?}"),
        };
        let public = pair.unwrap().public().as_ref().to_vec();
        App { pem, public }
    }

    /// Whether it is what GitHub takes: signed by this key, by RS256, of this App, and for no more than ten minutes.
    fn verify(&self, token: &str) -> Result<(), &'static str> {
        let parts: Vec<&str> = token.split('.').collect();
        let [head, claims, signature] = parts[..] else {
            return Err("A JSON web token could not be decoded");
        };
        let read = |part: &str| serde_json::from_slice::<Value>(&BASE64.decode(part).ok()?).ok();
        let (Some(said), Some(of)) = (read(head), read(claims)) else {
            return Err("A JSON web token could not be decoded");
        };
        let signature = BASE64.decode(signature).map_err(|_| "A JSON web token could not be decoded")?;
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public);
        let is_signed = public.verify(format!("{head}.{claims}").as_bytes(), &signature).is_ok();
        if said["alg"] != "RS256" || !is_signed {
            return Err("A JSON web token could not be decoded");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (from, to) = (of["iat"].as_u64().unwrap_or(u64::MAX), of["exp"].as_u64().unwrap_or(0));
        if from > now || to <= now || to > now + 600 {
            return Err("'Expiration time' claim ('exp') is too far in the future");
        }
        let is_own = of["iss"] == CLIENT || of["iss"].as_str() == Some(&APP.to_string());
        if is_own { Ok(()) } else { Err("Integration not found") }
    }
}

/// An answer in JSON, or one that is nothing but text.
pub(super) fn answered(status: u16, headers: &[(&'static str, String)], body: &Value) -> Response<Body> {
    let (kind, body) = match body {
        Value::String(text) => ("text/plain", text.clone()),
        body => ("application/json", body.to_string()),
    };
    let mut answer = Response::builder().status(status).header("content-type", kind);
    for (name, value) in headers {
        answer = answer.header(*name, value);
    }
    answer.body(full(Bytes::from(body))).unwrap()
}

/// A check run, as it is by now.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub id: i64,
    pub name: String,
    pub commit: String,
    pub external_id: String,
    /// `queued`, `in_progress`, or its conclusion.
    pub state: String,
    pub target: Value,
    pub title: String,
    pub summary: String,
    /// All that were added.
    pub annotations: Vec<Value>,
}

/// The App and its check runs.
#[derive(Default)]
pub(super) struct Checks {
    app: Option<(App, Value)>,
    /// The rights of each token that was lent.
    pub lent: HashMap<String, Value>,
    pub times: usize,
    /// So the next requests with what was lent are answered, as it isn't known everywhere yet.
    pub lag: VecDeque<u16>,
    /// So many loans were refused, and whether the next are answered 503.
    pub refused: usize,
    pub is_away: bool,
    pub runs: Vec<Run>,
}

/// What a request of an App is about.
pub(super) enum Of {
    Answer(Response<Body>),
    /// A check run that is to be made or changed.
    Run,
    /// What others ask as well.
    Repository,
}

fn no(status: u16, message: &str) -> Of {
    Of::Answer(answered(status, &[], &json!({ "message": message })))
}

fn yes(status: u16, body: &Value) -> Of {
    Of::Answer(answered(status, &[], body))
}

impl Checks {
    pub(super) fn install(&mut self, app: &App, permissions: Value) {
        self.app = Some((app.clone(), permissions));
    }

    /// What is to be done for whoever shows this.
    pub(super) fn of(&mut self, shown: &str, method: &Method, path: &str, body: &Bytes) -> Of {
        let loan = format!("/app/installations/{INSTALLATION}/access_tokens");
        let is_own = path.starts_with("/app/") || path.ends_with("/installation");
        if is_own {
            let Some((app, permissions)) = &self.app else { return no(401, "Integration not found") };
            if let Err(why) = app.verify(shown) {
                return no(401, why);
            }
            let is_looked_for = path == "/repos/acme/app/installation"
                || path == format!("/app/installations/{INSTALLATION}");
            if *permissions == Value::Null || path != loan && !is_looked_for {
                return no(404, "Not Found");
            }
            if path == loan && method == Method::POST {
                let said = if self.is_away { no(503, "No server is available") } else { self.lend(body) };
                self.refused +=
                    usize::from(matches!(&said, Of::Answer(answer) if !answer.status().is_success()));
                return said;
            }
            return yes(
                200,
                &json!({"id": INSTALLATION, "app_id": APP, "account": {"login": "Acme"}, "permissions": permissions, "suspended_at": null}),
            );
        }
        let Some(may) = self.lent.get(shown) else { return no(401, "Bad credentials") };
        match self.lag.pop_front() {
            Some(401) => return no(401, "Bad credentials"),
            Some(status) => return no(status, "Resource not accessible by integration"),
            None => {}
        }
        let Some(rest) = path.strip_prefix("/repos/acme/app") else { return no(404, "Not Found") };
        let may = |name: &str| may[name].as_str().unwrap_or_default();
        if rest.starts_with("/hooks") && may("repository_hooks") != "write"
            || rest.starts_with("/check-runs") && may("checks") != "write"
            || rest.starts_with("/statuses")
        {
            return no(403, "Resource not accessible by integration");
        }
        let find =
            |is_it: &dyn Fn(&&Run) -> bool| self.runs.iter().filter(is_it).map(shown_as).collect::<Vec<_>>();
        match (method.as_str(), rest) {
            ("POST" | "PATCH", _) if rest.starts_with("/check-runs") => Of::Run,
            ("GET", _) if rest.starts_with("/check-runs/") => {
                let found = find(&|run| rest == format!("/check-runs/{}", run.id));
                found.first().map_or_else(|| no(404, "Not Found"), |run| yes(200, run))
            }
            ("GET", _) if rest.ends_with("/check-runs") => {
                let runs = find(&|run| rest == format!("/commits/{}/check-runs", run.commit));
                yes(200, &json!({"total_count": runs.len(), "check_runs": runs}))
            }
            _ => Of::Repository,
        }
    }

    fn lend(&mut self, body: &Bytes) -> Of {
        let asked: Value = serde_json::from_slice(body).unwrap();
        if asked["repository_ids"] != json!([42]) && asked["repositories"] != json!(["app"]) {
            return no(422, "There is at least one repository that does not exist or is not accessible");
        }
        let has = self.app.as_ref().map(|(_, has)| has.clone()).unwrap_or_default();
        let asked = asked["permissions"].as_object().unwrap();
        assert!(!asked.is_empty(), "it is lent all that the App has");
        if asked.iter().any(|(name, word)| name != "metadata" && has[name] != *word) {
            return no(422, "The permissions requested are not granted to this installation.");
        }
        self.times += 1;
        let token = format!("ghs_{:020}", self.times);
        self.lent.insert(token.clone(), Value::from(asked.clone()));
        let ends = chrono::Utc::now() + chrono::TimeDelta::hours(1);
        yes(201, &json!({"token": token, "expires_at": ends.to_rfc3339(), "permissions": asked}))
    }

    /// Makes a run, or changes the one of this id, as far as GitHub would take it.
    pub(super) fn show(&mut self, id: Option<i64>, body: &Bytes) -> Response<Body> {
        let said: Value = serde_json::from_slice(body).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let output = &said["output"];
        let (title, summary) = (text(&output["title"]), text(&output["summary"]));
        assert!(!title.is_empty() && !summary.is_empty() && summary.chars().count() <= 65_535, "{said}");
        let annotations = output["annotations"].as_array().cloned().unwrap_or_default();
        assert!(annotations.len() <= 50, "{said}");
        for one in &annotations {
            let (from, to) = (one["start_line"].as_u64().unwrap(), one["end_line"].as_u64().unwrap());
            assert!(from > 0 && from <= to && !text(&one["path"]).starts_with('/'), "{one}");
            assert!(text(&one["title"]).chars().count() <= 255 && !text(&one["message"]).is_empty(), "{one}");
        }
        let state = match text(&said["status"]).as_str() {
            "completed" => text(&said["conclusion"]),
            word => word.to_owned(),
        };
        assert!(!state.is_empty(), "{said}");
        let (id, status) = match id {
            None => {
                let (name, commit) = (text(&said["name"]), text(&said["head_sha"]));
                assert!(!name.is_empty() && commit.len() == 40, "{said}");
                let id = i64::try_from(self.runs.len()).unwrap() + 100;
                let external_id = text(&said["external_id"]);
                self.runs.push(Run {
                    id,
                    name,
                    commit,
                    external_id,
                    state: String::new(),
                    target: Value::Null,
                    title: String::new(),
                    summary: String::new(),
                    annotations: Vec::new(),
                });
                (id, 201)
            }
            Some(id) => (id, 200),
        };
        let Some(run) = self.runs.iter_mut().find(|run| run.id == id) else {
            return answered(404, &[], &json!({"message": "Not Found"}));
        };
        (run.state, run.title, run.summary) = (state, title, summary);
        run.target = said["details_url"].clone();
        run.annotations.extend(annotations);
        let shown = shown_as(run);
        answered(status, &[], &shown)
    }
}

fn shown_as(run: &Run) -> Value {
    let is_over = !matches!(run.state.as_str(), "queued" | "in_progress");
    json!({
        "id": run.id, "name": run.name, "head_sha": run.commit, "external_id": run.external_id,
        "status": if is_over { "completed" } else { run.state.as_str() },
        "output": {"annotations_count": run.annotations.len()}
    })
}
