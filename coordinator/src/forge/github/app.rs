//! GitHub Apps (docs.github.com, "Authenticating with a GitHub App"): what their keys sign, where they are installed, and what they are lent
//! there. Pure.
//!
//! An App shows itself by a token that its private key has signed (RS256, RFC 7515), and borrows with it others that count for an hour: for one
//! repository here, with no more rights than what is asked by them needs.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use chrono::{DateTime, Utc};
use farm_types::Digest;
use ring::rand::SystemRandom;
use ring::rsa::KeyPair;
use ring::signature::RSA_PKCS1_SHA256;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::super::ask::{Answer, Ask, At, Unfit};
use super::super::judge::is_limited;

/// A signed token counts from so long ago, as clocks differ, and for so long: GitHub takes none that counts for more than ten minutes.
const COUNTS: (i64, i64) = (60, 9 * 60);
/// What was lent is given back so long before its end; and it counts for no longer than that, whatever is said.
const EARLY: Duration = Duration::from_secs(5 * 60);
const LONGEST: Duration = Duration::from_secs(3600);
/// The longest name of an App, bytes: `Iv23li…`, or its App id.
const LONGEST_NAME: usize = 64;

/// An App's private key.
pub struct Key {
    pair: KeyPair,
    digest: Digest,
}

impl Key {
    /// Of PEM, as GitHub gives it (PKCS #1), or in the other usual form (PKCS #8).
    ///
    /// # Errors
    /// It is none, and what would be.
    pub fn parse(pem: &str) -> Result<Self, &'static str> {
        if pem.contains("ENCRYPTED") {
            return Err("it is encrypted; give it without a passphrase, as GitHub does");
        }
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(
            |_| "it isn't a private key in PEM; give the whole file that GitHub made for the App (-----BEGIN RSA PRIVATE KEY-----)",
        )?;
        let pair = match &key {
            PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
            _ => {
                return Err(
                    "it isn't an RSA key, and GitHub's Apps have no others; give the one that it made for the App",
                );
            }
        };
        let pair = pair.map_err(
            |_| "it isn't an RSA key of 2048 bits or more, as GitHub's Apps have them; give the one that it made for the App",
        )?;
        Ok(Self { pair, digest: Digest::of(key.secret_der()) })
    }

    /// By what an App of this name shows itself at this time, seconds since 1970.
    ///
    /// # Errors
    /// The machine has no random numbers.
    pub fn sign(&self, name: &str, now: i64) -> Result<SecretString, &'static str> {
        let claims = json!({"iat": now - COUNTS.0, "exp": now + COUNTS.1, "iss": name});
        let signed = format!(
            "{}.{}",
            BASE64.encode(r#"{"alg":"RS256","typ":"JWT"}"#),
            BASE64.encode(claims.to_string())
        );
        let mut signature = vec![0; self.pair.public().modulus_len()];
        let done = self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature);
        done.map_err(|_| "the App's key can't sign, as this machine has no random numbers")?;
        Ok(format!("{signed}.{}", BASE64.encode(signature)).into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

/// What is borrowed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Check runs, and what a repository's page and its collaborators say.
    Checks,
    /// Webhooks.
    Webhooks,
    /// Clones.
    Contents,
}

impl Scope {
    fn permissions(self) -> Value {
        match self {
            Self::Checks => json!({"checks": "write", "metadata": "read"}),
            Self::Webhooks => json!({"repository_hooks": "write", "metadata": "read"}),
            Self::Contents => json!({"contents": "read", "metadata": "read"}),
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Checks => "Checks: write",
            Self::Webhooks => "Webhooks: write",
            Self::Contents => "Contents: read",
        }
    }
}

/// An App, where it is installed.
#[derive(Debug)]
pub struct App {
    /// By what it calls itself: its client id, or its App id.
    pub name: String,
    pub id: i64,
    pub installation: i64,
    pub key: Key,
}

impl App {
    /// What tells one loan from another.
    pub fn borrows(&self, at: &At, scope: Scope) -> Digest {
        let At { api, full_name, id } = at;
        let (name, installation, key) = (&self.name, self.installation, self.key.digest);
        Digest::of(format!("{api}\n{full_name}\n{id:?}\n{name}\n{installation}\n{key}\n{scope:?}").as_bytes())
    }

    /// By what GitHub counts how much is asked there: its installation.
    pub fn counted_by(&self, api: &str) -> Digest {
        Digest::of(format!("{api}\n{}\n{}", self.id, self.installation).as_bytes())
    }

    /// Asks for a token for that repository alone.
    pub fn borrow(&self, at: &At, scope: Scope) -> Ask {
        let mut body = json!({"permissions": scope.permissions()});
        match at.id.as_deref().and_then(|id| id.parse::<u64>().ok()) {
            Some(id) => body["repository_ids"] = json!([id]),
            None => body["repositories"] = json!([at.full_name.rsplit('/').next().unwrap_or_default()]),
        }
        Ask::post(format!("{}/app/installations/{}/access_tokens", at.api, self.installation), body)
    }
}

/// What was lent, and for how long it is to be used.
pub fn lent(answer: &Answer, now: DateTime<Utc>) -> Option<(SecretString, Duration)> {
    let token = answer.body["token"].as_str().filter(|token| !token.is_empty())?;
    let ends = answer.body["expires_at"].as_str().and_then(|at| DateTime::parse_from_rfc3339(at).ok());
    let counts = ends.and_then(|at| (at.to_utc() - now).to_std().ok()).unwrap_or_default().min(LONGEST);
    Some((token.to_owned().into(), counts.saturating_sub(EARLY)))
}

/// Why an App is lent no token; else why nobody knows.
pub fn unlent(scope: Scope, answer: &Answer) -> Result<Unfit, String> {
    let unfit = |why: String, cure: String| Ok(Unfit { why, cure });
    let said = answer.said();
    match answer.status {
        _ if is_limited(answer) || answer.status >= 500 => {
            Err(format!("the forge lends the App no token now ({said})"))
        }
        401 => unkeyed(&said),
        403 => unfit(
            format!("the forge lends the App no token ({said})"),
            "look whether its installation is suspended".to_owned(),
        ),
        404 => unfit(
            format!("the App isn't installed there any more ({said})"),
            "install it, and give the hook its key again".to_owned(),
        ),
        422 => unfit(
            format!("the App is lent no token for this repository with {} ({said})", scope.words()),
            format!(
                "give the App the permission {}, have that accepted where it is installed, and the repository among those that it is installed for",
                scope.words()
            ),
        ),
        _ => Err(format!("the forge says nothing of the App ({said})")),
    }
}

fn unkeyed(said: &str) -> Result<Unfit, String> {
    Ok(Unfit {
        why: format!("GitHub doesn't take what the App's key has signed ({said})"),
        cure: "give the key and the App id (or the client id) of one App, and look whether the clock of the farm's machine is right".to_owned(),
    })
}

/// Asks where an App is installed: there, if that is known, else at the repository.
pub fn find(at: &At, installation: Option<i64>) -> Ask {
    Ask::get(match installation {
        Some(id) => format!("{}/app/installations/{id}", at.api),
        None => format!("{}/repos/{}/installation", at.api, at.full_name),
    })
}

/// The App id and the installation, if that will do; else why not, or why nobody knows.
pub fn found(at: &At, asked: Option<i64>, answer: &Answer) -> Result<(i64, i64), Result<Unfit, String>> {
    let unfit = |why: String, cure: &str| Err(Ok(Unfit { why, cure: cure.to_owned() }));
    let said = answer.said();
    match answer.status {
        _ if is_limited(answer) => return Err(Err(format!("the forge was asked too much ({said})"))),
        200..=299 => {}
        401 | 403 => return Err(unkeyed(&said)),
        404 => {
            return match asked {
                Some(id) => unfit(
                    format!("the App has no installation {id}"),
                    "leave --installation out, and the farm looks for it",
                ),
                None => unfit(
                    format!("the App isn't installed on {}", at.full_name),
                    "install it there: the App's page at GitHub, Install App",
                ),
            };
        }
        _ => return Err(Err(format!("the forge says nothing of the App ({said})"))),
    }
    let number = |name: &str| answer.body[name].as_i64().filter(|id| *id > 0);
    let (Some(id), Some(app)) = (number("id"), number("app_id")) else {
        return Err(Err("what answers there is no GitHub: it names no installation".to_owned()));
    };
    // One that is looked for at the repository is its owner's.
    if let Some(asked) = asked {
        let owner = at.full_name.split('/').next().unwrap_or_default();
        let Some(account) = answer.body.pointer("/account/login").and_then(Value::as_str) else {
            return Err(Err("what answers there is no GitHub: it names no account".to_owned()));
        };
        if !account.eq_ignore_ascii_case(owner) {
            return unfit(
                format!("installation {asked} is that of {account}, and {owner} has the repository"),
                "leave --installation out, and the farm looks for it",
            );
        }
    }
    if answer.body.get("suspended_at").is_some_and(|at| !at.is_null()) {
        return unfit("the App's installation is suspended".to_owned(), "end that where it is installed");
    }
    let may = answer.body.pointer("/permissions/checks").and_then(Value::as_str).unwrap_or("none");
    if may != "write" {
        return unfit(
            format!("the App may not make check runs: it has checks:{may}, and needs checks:write"),
            "give the App the permission Checks: write, and have that accepted where it is installed",
        );
    }
    Ok((app, id))
}

/// What an App may call itself by.
///
/// # Errors
/// It can't be, and what could.
pub fn name(said: &str) -> Result<(), &'static str> {
    let is_fit = said.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if is_fit && !said.is_empty() && said.len() <= LONGEST_NAME {
        return Ok(());
    }
    Err("write the App id, or the client id, as the App's page at GitHub shows it")
}

#[cfg(test)]
#[path = "app_tests.rs"]
mod tests;
