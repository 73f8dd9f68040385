//! Persons who sign in at their company's issuer (OpenID Connect Core 1.0, sections 3.1 and 5; device codes: RFC 8628).
//!
//! The farm asks the issuer, so that its secret stays here; the caller brings what the issuer gave to a browser, or waits until a
//! code was entered somewhere. Nothing is kept in between: what proves who has asked (RFC 7636, the nonce, the device code) is
//! the caller's, and each coordinator can answer. What the issuer's answer shows ([`person`]) is verified as a job's token is
//! (`people::oidc`); which person of the farm that is, the database says (`farm_store`, `people::sign_in`).
//!
//! Invariants: an answer counts only if the issuer has signed it, for this farm's client, for the caller's nonce, just now; and
//! nobody becomes a person that was there before. Whatever an issuer says is bounded in time and bytes. No code, verifier, token
//! or secret is logged.

mod answers;
mod desk;
mod person;
pub mod settings;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use chrono::{DateTime, Utc};
use farm_store::people::sign_in::{Arrival, Entry};
use farm_store::{Store, StoreError};
use farm_types::{Digest, Invalid};

use self::answers::{DeviceAnswer, Refusal};
use self::desk::Desk;
use self::person::Person;
use self::settings::Settings;
use super::oidc;
use super::oidc::fetch::Fetch;
use super::oidc::refused::{Refused, shown};
use crate::outbound::Url;

/// The longest code or nonce of a caller's, bytes.
const LONGEST: usize = 4096;
/// How long a verifier is, characters (RFC 7636, section 4.1).
const VERIFIER: RangeInclusive<usize> = 43..=128;
/// So many characters of a token are shown in lists and logs.
const HINT: usize = 12;
/// The longest name of a machine that lists show, characters.
const MACHINE: usize = 64;
/// How many seconds more there are to be between two questions that come too soon (RFC 8628, section 3.5).
const SLOWER: u32 = 5;

/// Lets people in whom the issuer has let in.
#[derive(Debug)]
pub struct SignIns {
    desk: Desk,
    /// Where browsers of commands are sent back to.
    redirect: Url,
    /// The same of browsers that look at the farm's pages; `None`: they sign in by tokens only.
    pages: Option<String>,
}

/// What is one sign-in's alone.
#[derive(Debug)]
pub struct Asks<'a> {
    pub state: &'a str,
    pub nonce: &'a str,
    /// Of which the issuer is shown a digest (RFC 7636).
    pub verifier: &'a str,
}

/// How people sign in here.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Where a browser is sent; `None`: the issuer lets nobody in so.
    pub browser: Option<Url>,
    /// Whether a code can be entered on another device.
    pub device: bool,
}

/// What a browser has brought back.
pub struct Returned {
    pub code: String,
    pub verifier: String,
    pub redirect_uri: String,
    pub nonce: String,
}

/// By what somebody is to be let in.
pub enum Brought {
    Browser(Returned),
    /// A device's code.
    Device(String),
}

/// The same, of which the issuer may be asked.
pub struct Checked(Brought);

/// A code that is to be entered on another device.
pub struct DeviceCode {
    /// What the caller shows when it asks.
    pub device_code: String,
    pub user_code: String,
    pub verification_uri: String,
    pub verification_uri_complete: String,
    pub interval: u32,
    pub lives: u32,
}

/// What became of it.
pub enum Polled {
    /// Somebody has signed in, and this is who.
    In(Person),
    /// Nobody has entered the device's code yet; it is asked again after so many seconds more than before.
    Pending(u32),
}

/// Somebody who is let in, and what shows them from now on.
pub struct Entered {
    /// The farm's token.
    pub secret: String,
    /// Its first characters.
    pub hint: String,
    pub name: String,
    pub groups: Vec<String>,
    pub ends: DateTime<Utc>,
}

impl SignIns {
    /// At the issuer of these settings, which is asked by `fetch`; `oidc` says what is particular about issuers.
    ///
    /// # Errors
    /// The settings aren't complete.
    pub fn new(settings: Settings, oidc: oidc::Settings, fetch: Arc<dyn Fetch>) -> Result<Self, Invalid> {
        Ok(Self { redirect: settings.redirect()?, pages: None, desk: Desk::new(settings, oidc, fetch)? })
    }

    /// Also lets browsers in that look at the farm's pages, which are reached by this URL.
    pub fn with_pages(mut self, public_url: Option<&str>) -> Self {
        self.pages = public_url.map(|url| format!("{url}/sign-in/callback"));
        self
    }

    /// Whether browsers that look at the farm's pages sign in so.
    pub fn has_pages(&self) -> bool {
        self.pages.is_some()
    }

    /// Where these are sent back to.
    pub fn pages(&self) -> Option<&str> {
        self.pages.as_deref()
    }

    /// Where a browser that looks at the farm's pages is sent (OpenID Connect Core 1.0, section 3.1.2.1).
    ///
    /// # Errors
    /// None is let in so, or the issuer can't be asked.
    pub async fn page(&self, asks: &Asks<'_>, now: Instant) -> Result<Url, Refused> {
        let browser = self.offer(now).await?.browser;
        let (Some(mut page), Some(redirect)) = (browser, self.pages()) else {
            let why = "nobody signs in to this farm in a browser; take a token, or sign in by farm login";
            return Err(Refused::Setup(why.to_owned()));
        };
        let challenge = BASE64.encode(Digest::of(asks.verifier.as_bytes()).as_bytes());
        let Settings { client_id, scopes, .. } = self.settings();
        page.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", client_id)
            .append_pair("redirect_uri", redirect)
            .append_pair("scope", &scopes.join(" "))
            .append_pair("state", asks.state)
            .append_pair("nonce", asks.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        Ok(page)
    }

    /// What is configured.
    pub fn settings(&self) -> &Settings {
        &self.desk.settings
    }

    /// How people sign in here.
    ///
    /// # Errors
    /// The issuer can't be asked, or says what it must not.
    pub async fn offer(&self, now: Instant) -> Result<Offer, Refused> {
        let endpoints = self.desk.endpoints(now).await?;
        let browser = endpoints.authorization_endpoint.as_deref();
        let browser = browser.map(|written| self.desk.place("people sign in", written)).transpose()?;
        let device = self.desk.settings.device && endpoints.device_authorization_endpoint.is_some();
        Ok(Offer { browser, device })
    }

    /// A code that is to be entered on another device.
    ///
    /// # Errors
    /// There is no such way in, or the issuer can't be asked or refuses.
    pub async fn begin_device(&self, now: Instant) -> Result<DeviceCode, Refused> {
        let endpoints = self.desk.endpoints(now).await?;
        let at = self.desk.device_endpoint(&endpoints)?;
        let fields = vec![("scope", self.desk.settings.scopes.join(" "))];
        let answer = self.desk.ask(&endpoints, at, fields).await?;
        let granted: DeviceAnswer = self.desk.granted(&answer)?;
        let (interval, lives) = granted.times();
        let DeviceAnswer { device_code, user_code, verification_uri, verification_uri_complete, .. } =
            granted;
        // Only what a person may be sent to is shown to one.
        self.desk.place("codes are entered", &verification_uri)?;
        let complete = verification_uri_complete.unwrap_or_default();
        if !complete.is_empty() {
            self.desk.place("codes are entered", &complete)?;
        }
        Ok(DeviceCode {
            device_code,
            user_code,
            verification_uri,
            verification_uri_complete: complete,
            interval,
            lives,
        })
    }

    /// Refuses codes for other devices where there are none, without asking anybody.
    ///
    /// # Errors
    /// There are none.
    pub fn has_devices(&self) -> Result<(), Refused> {
        self.desk.has_devices()
    }

    /// Refuses what the issuer needn't be asked about.
    ///
    /// # Errors
    /// It can't come of a sign-in here.
    pub fn check(&self, brought: Brought) -> Result<Checked, Refused> {
        match &brought {
            Brought::Browser(Returned { code, verifier, redirect_uri, nonce }) => {
                bounded("code", code)?;
                bounded("nonce", nonce)?;
                check_verifier(verifier)?;
                self.check_redirect(redirect_uri)?;
            }
            Brought::Device(code) => {
                bounded("device_code", code)?;
                self.has_devices()?;
            }
        }
        Ok(Checked(brought))
    }

    /// Who has signed in, if anybody has.
    ///
    /// # Errors
    /// The issuer doesn't take what was brought, or what it gives shows nobody.
    pub async fn ask(&self, store: &Store, brought: Checked, now: Instant) -> Result<Polled, Refused> {
        match brought.0 {
            Brought::Browser(returned) => Ok(Polled::In(self.by_browser(store, returned, now).await?)),
            Brought::Device(code) => self.by_device(store, code, now).await,
        }
    }

    /// Who has signed in in a browser.
    async fn by_browser(&self, store: &Store, returned: Returned, now: Instant) -> Result<Person, Refused> {
        let Returned { code, verifier, redirect_uri, nonce } = returned;
        let endpoints = self.desk.endpoints(now).await?;
        let at = self.desk.token_endpoint(&endpoints)?;
        let fields = vec![
            ("grant_type", "authorization_code".to_owned()),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ];
        let answer = self.desk.ask(&endpoints, at, fields).await?;
        let tokens = self.desk.granted(&answer)?;
        self.desk.verified(store, &endpoints, tokens, Some(&nonce), now).await
    }

    /// Who has entered a device's code, if anybody has.
    async fn by_device(&self, store: &Store, code: String, now: Instant) -> Result<Polled, Refused> {
        let endpoints = self.desk.endpoints(now).await?;
        self.desk.device_endpoint(&endpoints)?;
        let at = self.desk.token_endpoint(&endpoints)?;
        let fields = vec![
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code".to_owned()),
            ("device_code", code),
        ];
        let answer = self.desk.ask(&endpoints, at, fields).await?;
        if !answer.status.is_success()
            && let Ok(Refusal { error, .. }) = serde_json::from_slice(&answer.body)
        {
            match error.as_str() {
                "authorization_pending" => return Ok(Polled::Pending(0)),
                "slow_down" => return Ok(Polled::Pending(SLOWER)),
                _ => {}
            }
        }
        let tokens = self.desk.granted(&answer)?;
        Ok(Polled::In(self.desk.verified(store, &endpoints, tokens, None, now).await?))
    }

    /// Lets somebody in. `machine` is what theirs is called, for lists; `address` is where the call came from, for the audit.
    ///
    /// # Errors
    /// They are no person here, and can't become one.
    pub async fn enter(
        &self,
        store: &Store,
        person: Person,
        machine: &str,
        address: &str,
    ) -> Result<Entered, Refused> {
        self.check_groups(&person)?;
        let random: [u8; 32] = rand::random();
        let secret = format!("farm_i_{}", Digest::from(random).hex());
        let hint = secret.get(..HINT).unwrap_or_default().to_owned();
        let arrival = Arrival {
            issuer: self.desk.issuer.as_str(),
            subject: &person.subject,
            name: person.name.as_ref().ok(),
            groups: &person.groups,
            digest: Digest::of(secret.as_bytes()),
            hint: &hint,
            label: &label(machine),
            lives: self.desk.settings.session(),
            address,
        };
        match store.sign_in(&arrival).await {
            Ok(Entry::In { name, ends }) => Ok(Entered { secret, hint, name, groups: person.groups, ends }),
            Ok(Entry::Taken) => Err(Refused::Untrusted(person.taken(self.desk.issuer.as_str()))),
            Ok(Entry::Nameless) => Err(Refused::Untrusted(person.nameless(self.desk.issuer.as_str()))),
            Ok(Entry::Ended(name)) => {
                Err(Refused::Untrusted(person.has_ended(self.desk.issuer.as_str(), &name)))
            }
            Err(StoreError::Conflict(why)) => Err(Refused::Untrusted(format!(
                "{why}; whoever has no token to do that with asks an admin of the farm"
            ))),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses whoever the configuration doesn't let in.
    fn check_groups(&self, person: &Person) -> Result<(), Refused> {
        let Settings { groups, admin_groups, .. } = &self.desk.settings;
        let may = |group: &String| groups.contains(group) || admin_groups.contains(group);
        if groups.is_empty() || person.groups.iter().any(may) {
            return Ok(());
        }
        Err(Refused::Untrusted(format!(
            "{} has let you in, but in none of the groups that may sign in to this farm; ask whoever runs it (groups of [sign_in] \
             in the coordinator's configuration), or whoever gives groups at the issuer",
            self.desk.issuer.as_str()
        )))
    }

    /// Refuses what is neither the farm's own page nor on the machine of whoever signs in, or isn't as it is configured.
    fn check_redirect(&self, written: &str) -> Result<(), Refused> {
        if self.pages() == Some(written) {
            return Ok(());
        }
        let own = &self.redirect;
        let is_own = Url::parse(written).is_ok_and(|url| {
            let is_port = own.port().map_or(url.port().is_some(), |port| url.port() == Some(port));
            let mut bare = url.clone();
            is_port && bare.set_port(own.port()).is_ok() && bare == *own
        });
        if is_own {
            return Ok(());
        }
        Err(Refused::Token(format!(
            "a browser may be sent back to {own} (with a port) and not to {}",
            shown(written)
        )))
    }
}

/// Refuses what no issuer gives and no caller makes up. What it is isn't repeated: it may be a secret.
fn bounded(thing: &str, text: &str) -> Result<(), Invalid> {
    if (1..=LONGEST).contains(&text.len()) {
        return Ok(());
    }
    let cure = format!("it has {} bytes; send 1 to {LONGEST}", text.len());
    Err(Invalid::new(thing, "…", cure))
}

/// Refuses what no issuer takes as a verifier; so that it isn't the issuer that has to say it.
fn check_verifier(verifier: &str) -> Result<(), Invalid> {
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if VERIFIER.contains(&verifier.len()) && verifier.bytes().all(is_unreserved) {
        return Ok(());
    }
    let (least, most) = VERIFIER.into_inner();
    let cure =
        format!("send {least} to {most} letters, digits, '-', '.', '_' and '~' (RFC 7636, section 4.1)");
    Err(Invalid::new("code_verifier", "…", cure))
}

/// What lists call a token of a sign-in on a machine that calls itself so.
fn label(machine: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
    match machine.chars().filter(is_plain).take(MACHINE).collect::<String>().as_str() {
        "" => "sign-in".to_owned(),
        machine => format!("sign-in on {machine}"),
    }
}

#[cfg(test)]
mod tests;
