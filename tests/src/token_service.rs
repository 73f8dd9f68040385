//! A registry's token service on 127.0.0.1: the distribution project's token authentication, as a registry of one's own has it.
//!
//! A stand-in for the services of registries that have one (none is packaged): its tokens are real (ES256; docker-registry
//! checks them by its certificate), and what it gives to whom is written down here. The accounts: `farm` may do everything, `NAME`
//! ([`password_of`]) everything below `NAME/`, anybody may pull what is below `public/`.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::faults::answers::{Body, Error, full};

pub const USER: &str = "farm";
pub const PASSWORD: &str = "Pa55-of-the-farm";
/// The password of an account.
pub fn password_of(user: &str) -> String {
    if user == USER { PASSWORD.to_owned() } else { format!("Pa55-of-{user}") }
}

const ISSUER: &str = "farm-tests";
const SERVICE: &str = "registry-of-tests";

/// A question that it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Whether it came with the farm's login.
    pub by_farm: bool,
    /// By which user; empty: by nobody.
    pub user: String,
    /// `NAME:pull,push`, of repositories.
    pub scopes: Vec<String>,
}

struct State {
    port: u16,
    key: EcdsaKeyPair,
    /// DER.
    certificate: Vec<u8>,
    asked: Mutex<Vec<Asked>>,
    /// How long its tokens are good for, seconds.
    life: Mutex<u64>,
}

/// Listens as long as the test runs.
pub struct TokenService {
    state: Arc<State>,
    /// Its certificate, PEM.
    certificate: String,
}

impl TokenService {
    pub fn start() -> TokenService {
        let pair = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![ISSUER.to_owned()]).unwrap().self_signed(&pair).unwrap();
        let pkcs8 = pair.serialize_der();
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8, &SystemRandom::new()).unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let state = Arc::new(State {
            port: listener.local_addr().unwrap().port(),
            key,
            certificate: certificate.der().to_vec(),
            asked: Mutex::default(),
            life: Mutex::new(300),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, shared));
        });
        TokenService { state, certificate: certificate.pem() }
    }

    /// `HOST:PORT`.
    pub fn at(&self) -> String {
        format!("127.0.0.1:{}", self.state.port)
    }

    /// What a registry's configuration says of it; `folder` is for its certificate.
    pub fn auth(&self, folder: &std::path::Path) -> String {
        let path = folder.join("token-service.pem");
        std::fs::write(&path, &self.certificate).unwrap();
        format!(
            "auth: {{token: {{realm: '{}', service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: '{}'}}}}\n",
            self.realm(),
            path.display()
        )
    }

    /// Where its tokens are to be had.
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.at())
    }

    /// What a coordinator's configuration says of a registry that sends its clients here.
    pub fn settings(&self, registry: &str) -> String {
        format!(
            "[registries.'{registry}']\nusername = '{USER}'\npassword = '{PASSWORD}'\nrealms = ['{}']\n",
            self.at()
        )
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }

    /// Its tokens are good for so many seconds from now on.
    pub fn set_life(&self, seconds: u64) {
        *self.state.life.lock().unwrap() = seconds;
    }
}

/// What a token says that its bearer may do: `NAME:pull,push`.
pub fn access(token: &str) -> Vec<String> {
    let claims = token.split('.').nth(1).expect("a token has three parts");
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    let entries = claims["access"].as_array().unwrap();
    let text = |entry: &Value| {
        let actions: Vec<&str> =
            entry["actions"].as_array().unwrap().iter().map(|action| action.as_str().unwrap()).collect();
        format!("{}:{}", entry["name"].as_str().unwrap(), actions.join(","))
    };
    entries.iter().map(text).collect()
}

async fn serve(listener: std::net::TcpListener, state: Arc<State>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = state.clone();
        let service = service_fn(move |request| {
            let answer = answer(&request, &state);
            async { Ok::<_, Error>(answer) }
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

fn answer(request: &Request<Incoming>, state: &State) -> Response<Body> {
    let status = |status| {
        let mut response = Response::new(full(Bytes::new()));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/token" || request.method() != hyper::Method::GET {
        return status(StatusCode::NOT_FOUND);
    }
    let login = request.headers().get(header::AUTHORIZATION).map(|value| value.to_str().unwrap());
    let mut user = String::new();
    if let Some(login) = login {
        let login = STANDARD.decode(login.strip_prefix("Basic ").unwrap()).unwrap();
        let login = String::from_utf8(login).unwrap();
        let (name, password) = login.split_once(':').unwrap();
        if password != password_of(name) {
            return status(StatusCode::UNAUTHORIZED);
        }
        name.clone_into(&mut user);
    }
    let query = request.uri().query().unwrap_or_default();
    let values = |key: &'static str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(move |(name, _)| *name == key).map(|(_, value)| decoded(value))
    };
    assert!(values("service").eq([SERVICE.to_owned()]), "{query}");
    let scopes: Vec<String> = values("scope")
        .flat_map(|scopes| scopes.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|scope| scope.strip_prefix("repository:").map(str::to_owned))
        .collect();
    let by_farm = user == USER;
    state.asked.lock().unwrap().push(Asked { by_farm, user: user.clone(), scopes: scopes.clone() });
    let is_own = |name: &str| name.split_once('/').is_some_and(|(first, _)| first == user);
    let access: Vec<Value> = scopes
        .iter()
        .filter_map(|scope| {
            let (name, actions) = scope.rsplit_once(':')?;
            let may =
                |action: &&str| by_farm || is_own(name) || (*action == "pull" && name.starts_with("public/"));
            let actions: Vec<&str> = actions.split(',').filter(may).collect();
            Some(json!({"type": "repository", "name": name, "actions": actions}))
        })
        .collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let life = *state.life.lock().unwrap();
    let claims = json!({
        "iss": ISSUER, "sub": user, "aud": SERVICE, "iat": now, "nbf": now - 5,
        "exp": now + life, "jti": now.to_string(), "access": access,
    });
    let head = json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&state.certificate)]});
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(head.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signature = state.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    let issued_at = chrono::DateTime::from_timestamp(i64::try_from(now).unwrap(), 0).unwrap().to_rfc3339();
    let body = json!({"token": token, "expires_in": life, "issued_at": issued_at});
    Response::new(full(body.to_string().into()))
}

/// A value of a query as it was meant.
fn decoded(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}
