//! An issuer of OpenID Connect tokens on 127.0.0.1 that can misbehave.
//!
//! A stand-in: GitHub and GitLab sign tokens for their own jobs only, and no issuer that can be installed here signs what a test
//! says, or misbehaves on demand. What it stands in for is an HTTP server with two documents; its keys and signatures are
//! real (ring's; RSA keys are openssl's, as ring makes none). Claims are those of the providers' documentation. How people sign in
//! there is in [`people`].

pub mod people;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    RsaPublicKeyComponents,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::environment;
use crate::faults::answers::{Body, Error, full};

/// What a key is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Rs256,
    Es256,
    EdDsa,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// A key that signs.
pub struct Key {
    kid: String,
    pair: Pair,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl Key {
    pub fn new(kid: &str, kind: Kind) -> Key {
        let random = SystemRandom::new();
        let pair = match kind {
            Kind::Rs256 => {
                // Which of the two forms openssl writes hangs on its version.
                let document = rsa_key();
                Pair::Rsa(
                    RsaKeyPair::from_pkcs8(&document).or_else(|_| RsaKeyPair::from_der(&document)).unwrap(),
                )
            }
            Kind::Es256 => {
                let document =
                    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
                let pair =
                    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random);
                Pair::Ec(pair.unwrap())
            }
            Kind::EdDsa => {
                let document = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                Pair::Ed(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
            }
        };
        Key { kid: kid.to_owned(), pair }
    }

    pub fn alg(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_) => "ES256",
            Pair::Ed(_) => "EdDSA",
        }
    }

    /// A token with its usual header.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"typ": "JWT", "alg": self.alg(), "kid": self.kid}), claims)
    }

    /// The same with a header of the test's.
    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let signed = unsigned(header, claims);
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", BASE64.encode(signature))
    }

    /// As it is published.
    pub fn public(&self) -> Value {
        let mut key = match &self.pair {
            Pair::Rsa(pair) => {
                let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "n": BASE64.encode(n), "e": BASE64.encode(e)})
            }
            Pair::Ec(pair) => {
                // 4, x, y.
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": BASE64.encode(x), "y": BASE64.encode(y)})
            }
            Pair::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64.encode(pair.public_key())})
            }
        };
        key["kid"] = json!(self.kid);
        key["alg"] = json!(self.alg());
        key["use"] = json!("sig");
        key
    }

    /// A token that a reader takes who lets it choose: signed with the published key as if that were a shared secret.
    pub fn confused(&self, claims: &Value) -> String {
        let signed = unsigned(&json!({"typ": "JWT", "alg": "HS256", "kid": self.kid}), claims);
        let secret = self.public().to_string();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        format!("{signed}.{}", BASE64.encode(ring::hmac::sign(&key, signed.as_bytes())))
    }
}

/// A token that nobody has signed (RFC 7519, section 6.1).
pub fn unsecured(claims: &Value) -> String {
    format!("{}.", unsigned(&json!({"typ": "JWT", "alg": "none"}), claims))
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()))
}

fn rsa_key() -> Vec<u8> {
    let mut openssl = environment::command("openssl");
    openssl.args([
        "genpkey",
        "-quiet",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
        "-outform",
        "DER",
    ]);
    let made = openssl.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

/// How it misbehaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It answers 503.
    Down,
    /// It takes requests and never answers.
    Hangs,
    /// Its keys never end.
    Endless,
    /// It sends whoever asks for its keys to this URL.
    Redirects(String),
    /// It says that its keys are there.
    KeysAt(String),
    /// It says that it is another one.
    Another(String),
    /// What it says is none of the documents that it should be.
    Nonsense,
}

#[derive(Debug)]
struct State {
    port: u16,
    published: Mutex<Vec<Value>>,
    trouble: Mutex<Option<Trouble>>,
    asked: AtomicU32,
    desk: Mutex<people::Desk>,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Issuer {
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Issuer {
    /// One that publishes these keys.
    pub fn start(keys: &[&Key]) -> Issuer {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let state = Arc::new(State {
            port: listener.local_addr().unwrap().port(),
            published: Mutex::default(),
            trouble: Mutex::default(),
            asked: AtomicU32::new(0),
            desk: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            // Dropping the runtime ends what hangs.
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        let issuer = Issuer { state, stop: Some(stop), thread: Some(thread) };
        issuer.publish(keys);
        issuer
    }

    /// As its tokens have it (`iss`).
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.state.port)
    }

    /// Has these keys from now on, and no others.
    pub fn publish(&self, keys: &[&Key]) {
        *self.state.published.lock().unwrap() = keys.iter().map(|key| key.public()).collect();
    }

    pub fn trouble(&self, trouble: Option<Trouble>) {
        *self.state.trouble.lock().unwrap() = trouble;
    }

    /// Has people sign in from now on, as this says.
    pub fn lets_in(&self, people: people::People) {
        self.state.desk.lock().unwrap().people = Some(people);
    }

    /// Changes how people sign in.
    pub fn people(&self, change: impl FnOnce(&mut people::People)) {
        change(self.state.desk.lock().unwrap().people.as_mut().unwrap());
    }

    /// What was asked where codes are turned into tokens, since this was asked last.
    pub fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.state.desk.lock().unwrap().asked)
    }

    /// How many times it was asked what it is.
    pub fn asked(&self) -> u32 {
        self.state.asked.load(Ordering::SeqCst)
    }

    /// What a job of acme/app on its default branch says, with another `jti` each time and these changes.
    pub fn job(&self, changes: Value) -> Value {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = now();
        let mut claims = json!({
            "iss": self.url(), "aud": "https://farm.example", "iat": now, "nbf": now - 5, "exp": now + 300,
            "jti": format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst)),
            "sub": "repo:acme@65/app@74:ref:refs/heads/main",
            "repository": "acme/app", "repository_id": "74", "repository_owner": "acme", "repository_owner_id": "65",
            "ref": "refs/heads/main", "ref_type": "branch", "ref_protected": "true", "event_name": "push",
            "actor": "ada", "actor_id": "12", "workflow": "ci", "run_id": "9", "run_attempt": "1",
            "repository_visibility": "private", "runner_environment": "github-hosted",
            "job_workflow_ref": "acme/app/.github/workflows/ci.yml@refs/heads/main",
        });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        claims
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Drop for Issuer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, state: Arc<State>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = state.clone();
        let service = service_fn(move |request| answer(request, state.clone()));
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Body>, Error> {
    let (request, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let url = format!("http://127.0.0.1:{}", state.port);
    let trouble = state.trouble.lock().unwrap().clone();
    let is_discovery = request.uri.path() == "/.well-known/openid-configuration";
    if is_discovery {
        state.asked.fetch_add(1, Ordering::SeqCst);
    }
    let mut response = Response::new(full(Bytes::new()));
    match trouble {
        Some(Trouble::Down) => {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return Ok(response);
        }
        Some(Trouble::Hangs) => std::future::pending().await,
        Some(Trouble::Nonsense) => return Ok(Response::new(full("<html>".into()))),
        _ => {}
    }
    if is_discovery {
        let (mut issuer, mut keys) = (url.clone(), format!("{url}/keys"));
        match trouble {
            Some(Trouble::Another(other)) => issuer = other,
            Some(Trouble::KeysAt(there)) => keys = there,
            _ => {}
        }
        let mut document = json!({
            "issuer": issuer, "jwks_uri": keys, "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["none", "HS256"],
        });
        state.desk.lock().unwrap().describe(&url, &mut document);
        return Ok(Response::new(full(document.to_string().into())));
    }
    if let Some(answer) = state.desk.lock().unwrap().answer(&url, &request, &body) {
        return Ok(answer);
    }
    match (request.uri.path(), trouble) {
        ("/keys", Some(Trouble::Redirects(to))) => {
            *response.status_mut() = StatusCode::FOUND;
            response.headers_mut().insert(header::LOCATION, to.parse().unwrap());
        }
        ("/keys", Some(Trouble::Endless)) => {
            let piece = || Ok(Frame::data(Bytes::from_static(&[b' '; 16 << 10])));
            let pieces = tokio_stream::iter(std::iter::repeat_with(piece));
            response = Response::new(BodyExt::boxed(StreamBody::new(pieces)));
        }
        ("/keys", _) => {
            let keys = json!({"keys": *state.published.lock().unwrap()});
            response = Response::new(full(keys.to_string().into()));
        }
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    Ok(response)
}
