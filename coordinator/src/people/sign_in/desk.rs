//! How the issuer is asked, and what of its answers counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use farm_store::Store;
use farm_types::{Digest, Invalid};
use secrecy::ExposeSecret as _;
use serde::de::DeserializeOwned;

use super::answers::{Tokens, is_misunderstood, refusal};
use super::person::{EMAIL_VERIFIED, Person, person};
use super::settings::{ClientAuth, Settings};
use crate::outbound::Url;
use crate::people::oidc;
use crate::people::oidc::claims::{self, Claims};
use crate::people::oidc::fetch::{Answer, Fetch, Form, Login};
use crate::people::oidc::issuer::{Endpoints, IssuerUrl, Issuers, place_of};
use crate::people::oidc::jws::Jws;
use crate::people::oidc::refused::{Refused, shown};

/// An issuer has so long to answer.
const ASK: Duration = Duration::from_secs(10);
/// The longest answer, bytes.
const MOST: usize = 64 * 1024;

/// Where the issuer is asked, by this farm as a client of it.
#[derive(Debug)]
pub struct Desk {
    pub settings: Settings,
    pub issuer: IssuerUrl,
    issuers: Issuers,
    fetch: Arc<dyn Fetch>,
}

impl Desk {
    /// Of the issuer of these settings, which is asked by `fetch`; `oidc` says what is particular about issuers.
    ///
    /// # Errors
    /// The settings aren't complete.
    pub fn new(settings: Settings, oidc: oidc::Settings, fetch: Arc<dyn Fetch>) -> Result<Self, Invalid> {
        Ok(Self {
            issuer: settings.issuer()?,
            issuers: Issuers::new(Arc::clone(&fetch), oidc),
            settings,
            fetch,
        })
    }

    /// What the issuer says of itself.
    ///
    /// # Errors
    /// It can't be asked.
    pub async fn endpoints(&self, now: Instant) -> Result<Endpoints, Refused> {
        self.issuers.endpoints(&self.issuer, now).await
    }

    /// Asks the issuer for something, as the client that this farm is there.
    ///
    /// # Errors
    /// It doesn't answer in time.
    pub async fn ask(
        &self,
        endpoints: &Endpoints,
        at: Url,
        mut fields: Vec<(&'static str, String)>,
    ) -> Result<Answer, Refused> {
        let mut login = None;
        let id = self.settings.client_id.clone();
        match &self.settings.client_secret {
            Some(secret) => match self.settings.client_auth.unwrap_or_else(|| offered(endpoints)) {
                ClientAuth::Basic => login = Some(Login::Basic(id, secret.clone())),
                ClientAuth::Post => {
                    let secret = secret.expose_secret().to_owned();
                    fields.extend([("client_id", id), ("client_secret", secret)]);
                }
            },
            None => fields.push(("client_id", id)),
        }
        self.bounded(&at, self.fetch.post(at.clone(), Form { fields, login }, MOST)).await
    }

    /// An answer of the issuer's, within its time.
    async fn bounded<T>(
        &self,
        at: &Url,
        asking: impl Future<Output = Result<T, String>>,
    ) -> Result<T, Refused> {
        let away = |why: String| {
            tracing::warn!(issuer = %self.issuer, why, "the issuer at which people sign in can't be asked");
            Refused::Unavailable(format!("nobody can sign in just now ({why}); try again in a minute"))
        };
        let late = || Err(format!("{at} did not answer within {} s", ASK.as_secs()));
        tokio::time::timeout(ASK, asking).await.unwrap_or_else(|_| late()).map_err(away)
    }

    /// What the issuer grants.
    ///
    /// # Errors
    /// Why it doesn't.
    pub fn granted<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, Refused> {
        if answer.status.is_success() {
            // The body has secrets, so no more is said of it.
            return serde_json::from_slice(&answer.body).map_err(|_| {
                Refused::Unavailable(format!("{} answers with what isn't expected of it", self.issuer))
            });
        }
        let refused = refusal(self.issuer.as_str(), answer);
        if let Refused::Setup(why) | Refused::Unavailable(why) = &refused {
            tracing::warn!(issuer = %self.issuer, why, "nobody can sign in");
        }
        if is_misunderstood(answer) {
            tracing::warn!(
                issuer = %self.issuer, why = %refused,
                "the issuer refuses what it was asked for a sign-in: if it does so with each, look at client_secret_file and client_auth \
                 in [sign_in], and at what the issuer logs"
            );
        }
        Err(refused)
    }

    /// Whom the issuer's tokens show.
    ///
    /// # Errors
    /// Nobody: they are forged, for somebody else, of another time or another sign-in; or the issuer can't be asked.
    pub async fn verified(
        &self,
        store: &Store,
        endpoints: &Endpoints,
        tokens: Tokens,
        nonce: Option<&str>,
        now: Instant,
    ) -> Result<Person, Refused> {
        let Some(id_token) = tokens.id_token else {
            return Err(Refused::Setup(format!(
                "{} gives no id token; whoever runs the farm looks whether scopes in [sign_in] has openid",
                self.issuer
            )));
        };
        let said = self.issuers.verify(&self.issuer, Jws::read(&id_token)?, now).await?;
        claims::ends(&said, store.now().await?)?;
        if !claims::is_for(&said, &self.settings.client_id) {
            return Err(Refused::Token(format!(
                "the issuer's token was made for {} (aud) and not for this farm, which is {} there",
                claims::audience(&said),
                shown(&self.settings.client_id)
            )));
        }
        if let Some(nonce) = nonce {
            // Digests are compared, so the time tells nothing.
            let is = said.get("nonce").and_then(serde_json::Value::as_str).unwrap_or_default();
            if Digest::of(is.as_bytes()) != Digest::of(nonce.as_bytes()) {
                return Err(Refused::Token(
                    "the issuer's token isn't the answer to this sign-in (nonce); begin again".to_owned(),
                ));
            }
        }
        let said = self.told(endpoints, said, tokens.access_token).await?;
        person(&said, &self.settings.name_claim, &self.settings.groups_claim)
    }

    /// The claims, with what the issuer tells only to whoever asks once more: many put no name and no groups into the token.
    async fn told(
        &self,
        endpoints: &Endpoints,
        mut said: Claims,
        access_token: Option<String>,
    ) -> Result<Claims, Refused> {
        let Settings { name_claim, groups_claim, .. } = &self.settings;
        let is_all = said.contains_key(name_claim) && said.contains_key(groups_claim);
        let (Some(at), Some(token)) = (endpoints.userinfo_endpoint.as_deref(), access_token) else {
            return Ok(said);
        };
        if is_all {
            return Ok(said);
        }
        let at = self.place("more is told of people", at)?;
        let asking = self.fetch.get(at.clone(), Some(Login::Bearer(token.into())), MOST);
        let more = self.bounded(&at, asking).await?;
        let more = claims_of(&at, &more).inspect_err(|why| {
            tracing::warn!(issuer = %self.issuer, %why, "what the issuer tells of people can't be read");
        })?;
        // Core, section 5.3.2.
        if more.get("sub") != said.get("sub") {
            return Err(Refused::Token(format!("{at} tells of somebody else than the token (sub)")));
        }
        for claim in [name_claim, groups_claim, EMAIL_VERIFIED] {
            if let (false, Some(value)) = (said.contains_key(claim), more.get(claim)) {
                said.insert(claim.to_owned(), value.clone());
            }
        }
        Ok(said)
    }

    /// Where codes are turned into tokens.
    ///
    /// # Errors
    /// It doesn't say, or says what it must not.
    pub fn token_endpoint(&self, endpoints: &Endpoints) -> Result<Url, Refused> {
        let written = endpoints.token_endpoint.as_deref();
        let none =
            || Refused::Setup(format!("{} says of no place where codes are turned into tokens", self.issuer));
        self.place("codes are turned into tokens", written.ok_or_else(none)?)
    }

    /// Refuses codes for other devices where the configuration has none.
    ///
    /// # Errors
    /// It has none.
    pub fn has_devices(&self) -> Result<(), Refused> {
        if self.settings.device { Ok(()) } else { Err(no_devices()) }
    }

    /// Where codes for other devices come from.
    ///
    /// # Errors
    /// There are none here, or it says what it must not.
    pub fn device_endpoint(&self, endpoints: &Endpoints) -> Result<Url, Refused> {
        self.has_devices()?;
        let written = endpoints.device_authorization_endpoint.as_deref();
        self.place("codes for devices come from", written.ok_or_else(no_devices)?)
    }

    /// A place of the issuer's.
    ///
    /// # Errors
    /// It is none to which anybody may be sent.
    pub fn place(&self, what: &str, written: &str) -> Result<Url, Refused> {
        place_of(&self.issuer, what, written).map_err(Refused::Setup)
    }
}

fn no_devices() -> Refused {
    Refused::Setup(
        "nobody signs in to this farm with a code on another device; do it in a browser".to_owned(),
    )
}

/// What is told of a person at an issuer's userinfo endpoint (Core, section 5.3.2).
///
/// # Errors
/// It is no JSON object. As a signed token it isn't read.
pub fn claims_of(at: &Url, answer: &Answer) -> Result<Claims, Refused> {
    let kind = answer.kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind == "application/jwt" {
        return Err(Refused::Setup(format!(
            "{at} tells of people in {kind}, a signed token, and farm reads application/json there; whoever runs the issuer unsets \
             userinfo_signed_response_alg (and userinfo_encrypted_response_alg) of this farm's client"
        )));
    }
    let as_kind = if kind.is_empty() { String::new() } else { format!(", but {}", shown(&kind)) };
    serde_json::from_slice(&answer.body).map_err(|_| {
        Refused::Unavailable(format!("{at} answers with what isn't expected of it (no JSON object{as_kind})"))
    })
}

/// How whoever has a secret shows it there, by the issuer's description.
fn offered(endpoints: &Endpoints) -> ClientAuth {
    let methods = endpoints.token_endpoint_auth_methods_supported.as_deref();
    match methods.is_none_or(|methods| methods.iter().any(|method| method == "client_secret_basic")) {
        true => ClientAuth::Basic,
        false => ClientAuth::Post,
    }
}
