//! What issuers say of themselves (OpenID Connect Discovery 1.0, section 4): their keys, and where people sign in.
//!
//! Invariants: an issuer is asked only when somebody has shown a token of it that a trust might be for, or it is the one where
//! people sign in; by one at a time, at most once a minute, and for what is bounded in time and bytes. Keys are looked at anew after an hour; while their issuer
//! can't be asked, those that are known count for a day. Time comes in as an argument.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use farm_types::Invalid;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use serde::Deserialize;
use serde_json::{Map, Value};
use tracing::Instrument as _;

use super::fetch::Fetch;
use super::jws::{Jws, Key};
use super::refused::{Refused, shown};
use super::{IssuerSettings, Settings};
use crate::outbound::Url;

/// An issuer is asked for what it says of itself and for its keys in so long.
const ASK: Duration = Duration::from_secs(10);
/// The longest document that says where an issuer's keys are, and the longest set of keys; bytes.
const MOST: usize = 256 * 1024;
/// Between two times that an issuer is asked.
const PAUSE: Duration = Duration::from_secs(60);
/// The same, as long as nothing is known of it.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Keys that are older are looked at anew before they are used.
const FRESH: Duration = Duration::from_secs(3600);
/// Keys count for so long while their issuer can't be asked.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// As many issuers are remembered; then all are asked anew.
const MOST_ISSUERS: usize = 1000;

/// An issuer, by the URL that its tokens have for it, letter for letter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IssuerUrl(String);

impl IssuerUrl {
    /// As tokens write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where it says what it is.
    fn discovery(&self) -> Result<Url, String> {
        let url = format!("{}/.well-known/openid-configuration", self.0.trim_end_matches('/'));
        Url::parse(&url).map_err(|why| format!("{url}: {why}"))
    }
}

impl FromStr for IssuerUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |cure: &str| Invalid::new("issuer", text, cure);
        let cure = "write its URL as its tokens have it (iss), for example https://gitlab.example.com";
        let url = Url::parse(text).map_err(|_| invalid(cure))?;
        let is_whole = url.has_host() && url.username().is_empty() && url.password().is_none();
        let is_plain = text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_whole || !is_plain || url.query().is_some() || url.fragment().is_some() {
            return Err(invalid(cure));
        }
        match url.scheme() {
            "https" => Ok(Self(text.to_owned())),
            "http" if is_loopback(&url) => Ok(Self(text.to_owned())),
            _ => Err(invalid("an issuer has to be reached by https://, or anybody on the way could be it")),
        }
    }
}

impl fmt::Display for IssuerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a URL names this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            let address = host.trim_start_matches('[').trim_end_matches(']').parse();
            address.is_ok_and(|address: std::net::IpAddr| address.is_loopback())
        }
        None => false,
    }
}

/// What an issuer says of itself.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
    #[serde(flatten)]
    endpoints: Endpoints,
}

/// Where people sign in at an issuer, as it writes it; none of these is a place to go to before [`place_of`] has judged it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Endpoints {
    /// Where a browser goes (OpenID Connect Core 1.0, section 3.1.2).
    pub authorization_endpoint: Option<String>,
    /// Where codes are turned into tokens (section 3.1.3).
    pub token_endpoint: Option<String>,
    /// How whoever has a secret shows it there; `None`: `client_secret_basic` (Discovery, section 3).
    pub token_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// Where codes for other devices come from (RFC 8628, section 4).
    pub device_authorization_endpoint: Option<String>,
    /// Where more is told of a person than their token says (Core, section 5.3).
    pub userinfo_endpoint: Option<String>,
}

/// What was read of an issuer.
#[derive(Debug)]
struct Published {
    keys: Vec<Key>,
    endpoints: Endpoints,
}

/// Somebody asks the issuer; whoever needs the same waits for it.
type Asking = Shared<BoxFuture<'static, ()>>;

/// What is known of one issuer.
#[derive(Debug, Default)]
struct Known {
    published: Option<(Arc<Published>, Instant)>,
    /// When it was asked last.
    asked: Option<Instant>,
    /// Why it didn't answer then.
    trouble: Option<String>,
    asking: Option<Asking>,
}

/// What to do for somebody who needs a key, or to know where to go.
enum Next {
    Use(Arc<Published>),
    Wait(Asking),
    Ask,
    Unavailable(String),
}

impl Known {
    fn next(&self, kid: Option<&str>, now: Instant) -> Next {
        if let Some(asking) = &self.asking {
            return Next::Wait(asking.clone());
        }
        let since = |then: Instant| now.saturating_duration_since(then);
        let pause = if self.published.is_some() { PAUSE } else { FIRST_PAUSE };
        let may_ask = self.asked.is_none_or(|asked| since(asked) >= pause);
        let usable = self.published.as_ref().filter(|(_, at)| since(*at) < KEPT);
        let has_key = |known: &Published| kid.is_none() || known.keys.iter().any(|key| key.kid() == kid);
        match usable {
            Some((known, at)) if since(*at) < FRESH && has_key(known) => Next::Use(known.clone()),
            _ if may_ask => Next::Ask,
            // A key that isn't there is told by whoever looks for it; unless it may be a new one of an issuer that is away.
            Some((known, _)) if has_key(known) || self.trouble.is_none() => Next::Use(known.clone()),
            _ => Next::Unavailable(self.trouble.clone().unwrap_or_default()),
        }
    }
}

/// The issuers that were asked so far.
#[derive(Debug)]
pub struct Issuers {
    fetch: Arc<dyn Fetch>,
    settings: Settings,
    known: Mutex<HashMap<IssuerUrl, Arc<Mutex<Known>>>>,
}

impl Issuers {
    /// None yet; they are asked by `fetch`.
    pub fn new(fetch: Arc<dyn Fetch>, settings: Settings) -> Self {
        Self { fetch, settings, known: Mutex::default() }
    }

    /// What a token says, if its issuer, which has to be this one, has signed it. Safe to be dropped.
    ///
    /// # Errors
    /// It hasn't; or it can't be asked for its keys.
    pub async fn verify(
        &self,
        issuer: &IssuerUrl,
        token: Jws<'_>,
        now: Instant,
    ) -> Result<Map<String, Value>, Refused> {
        if token.issuer()? != issuer.as_str() {
            return Err(Refused::Token(format!("the token isn't of {issuer} (iss)")));
        }
        let settings = self.settings_of(issuer)?;
        let known = self.published(issuer, token.kid(), now).await.map_err(|why| {
            Refused::Unavailable(format!(
                "the keys of {issuer} can't be had just now ({why}); try again in a minute"
            ))
        })?;
        token.verify(&known.keys, &settings.algorithms)
    }

    /// Where people sign in at the issuer. Safe to be dropped.
    ///
    /// # Errors
    /// It can't be asked.
    pub async fn endpoints(&self, issuer: &IssuerUrl, now: Instant) -> Result<Endpoints, Refused> {
        self.settings_of(issuer)?;
        let known = self.published(issuer, None, now).await.map_err(|why| {
            Refused::Unavailable(format!(
                "nobody can sign in just now, as {issuer} doesn't say where people sign in there ({why}); try again in a minute. If it \
                 stays so, whoever runs the farm looks whether its coordinator reaches that"
            ))
        })?;
        Ok(known.endpoints.clone())
    }

    /// What is configured of the issuer.
    fn settings_of(&self, issuer: &IssuerUrl) -> Result<IssuerSettings, Refused> {
        let settings = self.settings.issuers.get(issuer.as_str()).cloned().unwrap_or_default();
        if issuer.as_str().starts_with("http:") && !settings.plain_http {
            return Err(Refused::Untrusted(format!(
                "the issuer {issuer} has no TLS; if it is on the coordinator's machine, set plain_http = true for it in the \
                 coordinator's configuration"
            )));
        }
        Ok(settings)
    }

    /// What the issuer says of itself, with the key of this name if there is one; else why it can't be had, in words.
    async fn published(
        &self,
        issuer: &IssuerUrl,
        kid: Option<&str>,
        now: Instant,
    ) -> Result<Arc<Published>, String> {
        let place = self.place(issuer);
        loop {
            let asking = {
                let mut known = place.lock().unwrap_or_else(PoisonError::into_inner);
                match known.next(kid, now) {
                    Next::Use(known) => return Ok(known),
                    Next::Wait(asking) => asking,
                    Next::Ask => {
                        known.asked = Some(now);
                        let asking = self.ask(issuer, Arc::clone(&place), now);
                        known.asking.insert(asking).clone()
                    }
                    Next::Unavailable(why) => return Err(why),
                }
            };
            asking.await;
        }
    }

    fn place(&self, issuer: &IssuerUrl) -> Arc<Mutex<Known>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_ISSUERS && !known.contains_key(issuer) {
            known.clear();
        }
        Arc::clone(known.entry(issuer.clone()).or_default())
    }

    /// Asks the issuer, in a task of its own: whoever waits may go away meanwhile.
    fn ask(&self, issuer: &IssuerUrl, place: Arc<Mutex<Known>>, now: Instant) -> Asking {
        let (fetch, name) = (Arc::clone(&self.fetch), issuer.clone());
        let asked = async move {
            let limit = || {
                format!(
                    "{name} did not answer within {} s, asked for its description and its keys",
                    ASK.as_secs()
                )
            };
            tokio::time::timeout(ASK, read(fetch.as_ref(), &name)).await.unwrap_or_else(|_| Err(limit()))
        };
        let task = tokio::spawn(asked.in_current_span());
        let issuer = issuer.clone();
        let noted = async move {
            let read = task.await.unwrap_or_else(|_| Err("asking for them broke off".to_owned()));
            let mut known = place.lock().unwrap_or_else(PoisonError::into_inner);
            known.asking = None;
            match read {
                Ok(published) => {
                    known.published = Some((Arc::new(published), now));
                    known.trouble = None;
                }
                Err(why) => {
                    tracing::warn!(%issuer, why, "an issuer doesn't say what it is and what its keys are");
                    known.trouble = Some(why);
                }
            }
        };
        noted.boxed().shared()
    }
}

/// Asks an issuer what it is, and for its keys.
async fn read(fetch: &dyn Fetch, issuer: &IssuerUrl) -> Result<Published, String> {
    let at = issuer.discovery()?;
    let answer = fetch.get(at.clone(), None, MOST).await?;
    let discovery: Discovery = serde_json::from_slice(&answer.body)
        .map_err(|why| format!("{at} is no description of an issuer: {why}"))?;
    if discovery.issuer != issuer.as_str() {
        return Err(format!("{at} says that it is the issuer {}", shown(&discovery.issuer)));
    }
    let at = place_of(issuer, "keys are", &discovery.jwks_uri)?;
    let answer = fetch.get(at.clone(), None, MOST).await?;
    let keys = Key::read_set(&answer.body).map_err(|why| format!("{at}: {why}"))?;
    if keys.is_empty() {
        return Err(format!("{at} has no key that farm can use"));
    }
    Ok(Published { keys, endpoints: discovery.endpoints })
}

/// Where an issuer's keys are, or another thing of it, if that is a place where it may be: an issuer sends nobody to what has no
/// TLS, nor to a bare address, unless that is where it is itself. What names stand for is judged when they are dialled. `what`
/// stands in messages, with its verb.
pub fn place_of(issuer: &IssuerUrl, what: &str, written: &str) -> Result<Url, String> {
    let no_place = |why: &str| format!("{issuer} says that its {what} at {}: {why}", shown(written));
    let url = Url::parse(written).map_err(|why| no_place(&why.to_string()))?;
    let own = issuer.discovery()?;
    if (url.scheme(), url.host_str(), url.port()) == (own.scheme(), own.host_str(), own.port()) {
        return Ok(url);
    }
    if url.scheme() != "https" {
        return Err(no_place("that isn't https://"));
    }
    // Addresses in all their forms come out of the parser as IPv4 in four parts, or in brackets.
    let is_address = |host: &str| host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok();
    match url.host_str() {
        Some(host) if is_address(host) => Err(no_place("that is an address and no name")),
        Some(_) => Ok(url),
        None => Err(no_place("that has no host")),
    }
}

#[cfg(test)]
mod tests;
