//! How people sign in at the issuer: its page (which lets in, or denies, at once), codes, a code for other devices, and what it tells of
//! people besides their token.
//!
//! A stand-in for a company's issuer, such as Keycloak: what it checks is what OpenID Connect Core 1.0 (sections 3.1 and 5.3), RFC 6749,
//! 7636 and 8628 have an issuer check, and its answers are theirs. What it has not is a person at the page.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{Key, now};
use crate::faults::answers::{Body, full};

/// What the farm is called there.
pub const CLIENT: &str = "farm";

/// Whom it lets in, and how.
#[derive(Clone, Debug)]
pub struct People {
    /// With what its tokens are signed.
    pub key: Arc<Key>,
    /// What it says of whoever signs in: `sub`, `preferred_username`, `groups`.
    pub claims: Value,
    /// What its tokens say besides, or instead; null: what isn't said.
    pub changes: Value,
    /// What the farm has to show; none: it is a public client.
    pub secret: Option<String>,
    /// How it wants that shown; none: it doesn't say.
    pub methods: Option<Vec<&'static str>>,
    /// All but `sub` is told only to whoever asks for it with the access token.
    pub tells_later: bool,
    /// Of which kind that is; `application/jwt`: signed.
    pub tells_as: &'static str,
    /// Whoever is at the page says no.
    pub denies: bool,
    /// It has codes for other devices.
    pub devices: bool,
    /// What is answered to questions about such a code before anybody is let in.
    pub before: VecDeque<&'static str>,
}

impl People {
    /// A public client's issuer that lets in somebody.
    pub fn new(key: &Arc<Key>, claims: Value) -> People {
        People {
            key: Arc::clone(key),
            claims,
            changes: json!({}),
            secret: None,
            methods: None,
            tells_later: false,
            tells_as: "application/json",
            denies: false,
            devices: true,
            before: VecDeque::new(),
        }
    }
}

/// What is known of codes.
#[derive(Debug, Default)]
pub struct Desk {
    pub people: Option<People>,
    /// The page's, with what they were asked for.
    codes: BTreeMap<String, BTreeMap<String, String>>,
    devices: Vec<String>,
    access: Vec<String>,
    /// What was asked where codes are turned into tokens: how, and how whoever asked has shown who they are.
    pub asked: Vec<String>,
}

impl Desk {
    /// What its description says of all this.
    pub fn describe(&self, url: &str, document: &mut Value) {
        let Some(people) = &self.people else { return };
        document["authorization_endpoint"] = json!(format!("{url}/authorize"));
        document["token_endpoint"] = json!(format!("{url}/token"));
        document["userinfo_endpoint"] = json!(format!("{url}/userinfo"));
        if people.devices {
            document["device_authorization_endpoint"] = json!(format!("{url}/device"));
        }
        if let Some(methods) = &people.methods {
            document["token_endpoint_auth_methods_supported"] = json!(methods);
        }
    }

    /// The answer to a request that is about this.
    pub fn answer(&mut self, url: &str, head: &Parts, body: &Bytes) -> Option<Response<Body>> {
        let people = self.people.clone()?;
        let form = fields(std::str::from_utf8(body).unwrap());
        match (&head.method, head.uri.path()) {
            (&Method::GET, "/authorize") => {
                Some(self.page(url, &people, fields(head.uri.query().unwrap_or(""))))
            }
            (&Method::POST, "/token") => Some(match self.client(&people, head, &form) {
                Some(refused) => refused,
                None => self.token(url, &people, &form),
            }),
            (&Method::POST, "/device") => Some(match self.client(&people, head, &form) {
                Some(refused) => refused,
                None => self.device(url),
            }),
            (&Method::GET, "/userinfo") => Some(self.userinfo(&people, head)),
            _ => None,
        }
    }

    /// Sends the browser back at once.
    fn page(&mut self, url: &str, people: &People, asked: BTreeMap<String, String>) -> Response<Body> {
        let is = |name: &str, value: &str| asked.get(name).is_some_and(|is| is == value);
        let has = |name: &str| asked.get(name).is_some_and(|value| value.len() >= 20);
        let is_right = is("response_type", "code")
            && is("client_id", CLIENT)
            && is("code_challenge_method", "S256")
            && ["code_challenge", "state", "nonce"].iter().all(|name| has(name))
            && asked.get("scope").is_some_and(|scope| scope.split(' ').any(|scope| scope == "openid"))
            && asked.get("redirect_uri").is_some_and(|uri| uri.starts_with("http://127.0.0.1:"));
        if !is_right {
            return plain(StatusCode::BAD_REQUEST, "this is no request of the farm's");
        }
        let back = format!(
            "{}?state={}&iss={}",
            asked["redirect_uri"],
            asked["state"],
            url.replace(':', "%3A").replace('/', "%2F")
        );
        let back = if people.denies {
            format!("{back}&error=access_denied&error_description=not+today")
        } else {
            let code = secret("code");
            self.codes.insert(code.clone(), asked);
            format!("{back}&code={code}")
        };
        let mut response = plain(StatusCode::FOUND, "");
        response.headers_mut().insert(header::LOCATION, back.parse().unwrap());
        response
    }

    /// A refusal, if whoever asks isn't the farm.
    fn client(
        &mut self,
        people: &People,
        head: &Parts,
        form: &BTreeMap<String, String>,
    ) -> Option<Response<Body>> {
        let login = head.headers.get("authorization").map(|login| {
            let login = login.to_str().unwrap().strip_prefix("Basic ").unwrap();
            String::from_utf8(STANDARD.decode(login).unwrap()).unwrap()
        });
        let id = form.get("client_id").cloned();
        let (shown, how) = match (login, id, form.get("client_secret")) {
            (Some(login), None, None) => {
                let (id, secret) = login.split_once(':').unwrap();
                ((unescaped(id), Some(unescaped(secret))), "basic")
            }
            (None, Some(id), Some(secret)) => ((id, Some(secret.clone())), "post"),
            (None, Some(id), None) => ((id, None), "public"),
            other => return Some(refusal(&format!("invalid_request {other:?}"))),
        };
        let what = form.get("grant_type").map_or("device", |grant| grant.rsplit(':').next().unwrap());
        self.asked.push(format!("{what} {how}"));
        let is_farm = shown == (CLIENT.to_owned(), people.secret.clone());
        let wants = people.methods.as_ref();
        let is_wanted =
            wants.is_none_or(|wants| how == "public" || wants.iter().any(|want| want.ends_with(how)));
        (!is_farm || !is_wanted).then(|| refusal("invalid_client"))
    }

    fn token(&mut self, url: &str, people: &People, form: &BTreeMap<String, String>) -> Response<Body> {
        let field = |name: &str| form.get(name).cloned().unwrap_or_default();
        let nonce = match field("grant_type").as_str() {
            "authorization_code" => {
                // Whatever comes of it, a code counts once.
                let Some(asked) = self.codes.remove(&field("code")) else { return refusal("invalid_grant") };
                let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(field("code_verifier")));
                if asked["redirect_uri"] != field("redirect_uri") || asked["code_challenge"] != challenge {
                    return refusal("invalid_grant");
                }
                Some(asked["nonce"].clone())
            }
            "urn:ietf:params:oauth:grant-type:device_code" => {
                if !self.devices.contains(&field("device_code")) {
                    return refusal("invalid_grant");
                }
                let people = self.people.as_mut().unwrap();
                if let Some(error) = people.before.pop_front() {
                    return refusal(error);
                }
                if people.denies {
                    return refusal("access_denied");
                }
                self.devices.retain(|code| *code != field("device_code"));
                None
            }
            _ => return refusal("unsupported_grant_type"),
        };
        let now = now();
        let mut claims = json!({"iss": url, "aud": CLIENT, "iat": now, "exp": now + 300});
        let all = claims.as_object_mut().unwrap();
        let person = people.claims.as_object().unwrap().clone();
        all.extend(person.into_iter().filter(|(name, _)| name == "sub" || !people.tells_later));
        all.extend(nonce.map(|nonce| ("nonce".to_owned(), json!(nonce))));
        all.extend(people.changes.as_object().unwrap().clone());
        let said: Map<String, Value> =
            all.clone().into_iter().filter(|(_, value)| !value.is_null()).collect();
        let access = secret("access");
        self.access.push(access.clone());
        let id_token = people.key.sign(&Value::Object(said));
        answer(
            StatusCode::OK,
            &json!({"access_token": access, "token_type": "Bearer", "expires_in": 300, "id_token": id_token}),
        )
    }

    fn device(&mut self, url: &str) -> Response<Body> {
        let code = secret("device");
        self.devices.push(code.clone());
        answer(
            StatusCode::OK,
            &json!({
                "device_code": code, "user_code": "WDJB-MJHT", "verification_uri": format!("{url}/enter"),
                "verification_uri_complete": format!("{url}/enter?code=WDJB-MJHT"), "expires_in": 60, "interval": 1,
            }),
        )
    }

    fn userinfo(&self, people: &People, head: &Parts) -> Response<Body> {
        let token = head.headers.get("authorization").and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer "));
        match token.filter(|token| self.access.iter().any(|access| access == token)) {
            Some(_) => {
                let text = match people.tells_as {
                    "application/jwt" => people.key.sign(&people.claims),
                    _ => people.claims.to_string(),
                };
                let mut response = plain(StatusCode::OK, &text);
                response.headers_mut().insert(header::CONTENT_TYPE, people.tells_as.parse().unwrap());
                response
            }
            None => plain(StatusCode::UNAUTHORIZED, "whose?"),
        }
    }
}

/// Something that is recognised wherever it should not be.
fn secret(kind: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("s3cret-{kind}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst))
}

fn refusal(error: &str) -> Response<Body> {
    answer(StatusCode::BAD_REQUEST, &json!({ "error": error, "error_description": "as the test wants it" }))
}

fn answer(status: StatusCode, document: &Value) -> Response<Body> {
    let mut response = plain(status, &document.to_string());
    response.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    response
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

/// The fields of a form or a query.
pub fn fields(text: &str) -> BTreeMap<String, String> {
    let fields = text.split('&').filter_map(|field| field.split_once('='));
    fields.map(|(name, value)| (unescaped(name), unescaped(value))).collect()
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [a, b, after @ ..]) => {
                let hex = std::str::from_utf8(&[*a, *b]).unwrap().to_owned();
                bytes.push(u8::from_str_radix(&hex, 16).unwrap());
                rest = after;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).unwrap()
}
