//! Whether a delivery comes from whoever has the hook's secret.
//!
//! - GitHub: `X-Hub-Signature-256: sha256=HEX`, HMAC-SHA256 of the body
//!   (docs.github.com, "Validating webhook deliveries").
//! - Gitea, Forgejo: `X-Gitea-Signature: HEX`, `X-Forgejo-Signature: HEX`, the same.
//! - Generic, and GitLab with a signing token: Standard Webhooks (standardwebhooks.com): `webhook-id`, `webhook-timestamp`,
//!   `webhook-signature: v1,BASE64 …`, HMAC-SHA256 of `ID.TIMESTAMP.BODY` by what stands in base64 behind `whsec_`.
//! - GitLab with a secret token: `X-Gitlab-Token`, the secret itself.
//! - Distribution: `Authorization: Bearer SECRET`, as the registry's configuration sets it.
//! - Docker Hub signs nothing and sends no header of one's own: the secret is part of the address (`?token=`).
//!
//! How long it takes depends on the body's length alone: two HMACs are made of it, whatever came, and compared in constant time.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farm_types::Invalid;
use ring::hmac;

use crate::headers::Headers;
use crate::provider::Provider;

/// So many secrets of a hook count at once: while one takes the other's place.
pub const MOST_SECRETS: usize = 2;
/// In the place of a secret where there is no hook.
pub const NOBODYS_SECRET: &str = "whsec_bm9ib2R5J3Mgc2VjcmV0LCBvZiBubyBob29r";
/// Clocks may differ so much, seconds.
const CLOCKS: i64 = 300;
/// How secrets of Standard Webhooks begin.
const STANDARD_PREFIX: &str = "whsec_";
/// How farm's other secrets begin.
const OWN_PREFIX: &str = "farm_h_";
/// The most signatures that are looked at: one for each of the sender's secrets.
const MOST_SIGNATURES: usize = 8;

/// Why a delivery isn't taken. For the log only: who sent it is told nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Nothing shows whose it is, or it can't be read.
    Unsigned,
    /// It shows somebody else.
    Wrong,
    /// It was signed too long ago, or by a clock that is wrong.
    Stale,
    /// Another kind of forge has sent it.
    OtherSender,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsigned => "no signature that can be read",
            Self::Wrong => "wrong signature",
            Self::Stale => "signed more than 5 minutes from now",
            Self::OtherSender => "sent by another kind of forge than the hook is for",
        })
    }
}

/// What came in place of a signature, and what it is of.
enum Shown<'a> {
    /// An HMAC of the body.
    Body([u8; 32]),
    /// HMACs of what Standard Webhooks sign, and when that was.
    Standard { before: String, signatures: Vec<[u8; 32]>, at: i64 },
    /// The secret.
    Token(&'a str),
}

/// Whether the delivery was sent by whoever has one of these secrets (at most [`MOST_SECRETS`]); gives the place of that one.
/// `token`: the address's own; `now`: seconds since 1970.
///
/// # Errors
/// It wasn't, or can't be known.
pub fn verify(
    provider: Provider,
    headers: &Headers,
    token: Option<&str>,
    body: &[u8],
    secrets: &[&str],
    now: i64,
) -> Result<usize, Refused> {
    let shown = shown(provider, headers, token);
    let is_standard = matches!(shown, Ok(Shown::Standard { .. }));
    let before = match &shown {
        Ok(Shown::Standard { before, .. }) => before.as_bytes(),
        _ => &[],
    };
    let mut found = None;
    for place in 0..MOST_SECRETS {
        let secret = secrets.get(place).copied();
        let mac = sign(secret.unwrap_or(NOBODYS_SECRET), is_standard, before, body);
        let fits = match &shown {
            Ok(Shown::Body(signature)) => is_same(mac.as_ref(), signature),
            Ok(Shown::Standard { signatures, .. }) => {
                signatures.iter().fold(false, |any, signature| any | is_same(mac.as_ref(), signature))
            }
            Ok(Shown::Token(token)) => is_same(secret.unwrap_or(NOBODYS_SECRET).as_bytes(), token.as_bytes()),
            Err(_) => false,
        };
        if fits && secret.is_some() && found.is_none() {
            found = Some(place);
        }
    }
    let at = match shown? {
        Shown::Standard { at, .. } => at,
        Shown::Body(_) | Shown::Token(_) => now,
    };
    let place = found.ok_or(Refused::Wrong)?;
    if now.abs_diff(at) > CLOCKS.unsigned_abs() {
        return Err(Refused::Stale);
    }
    Ok(place)
}

fn shown<'a>(provider: Provider, headers: &'a Headers, token: Option<&'a str>) -> Result<Shown<'a>, Refused> {
    let is_of = |own: &[&str]| {
        let events = ["x-github-event", "x-gitlab-event", "x-gitea-event", "x-forgejo-event", "x-gogs-event"];
        events.iter().filter(|event| !own.contains(event)).all(|event| !headers.has(event))
    };
    let sent = match provider {
        Provider::Github => is_of(&["x-github-event"]),
        Provider::Gitlab => is_of(&["x-gitlab-event"]),
        // These also write the headers of those that they come from, or stand in for.
        Provider::Gitea => is_of(&["x-gitea-event", "x-github-event", "x-gogs-event"]),
        Provider::Forgejo => {
            headers.has("x-forgejo-event")
                && is_of(&["x-forgejo-event", "x-gitea-event", "x-github-event", "x-gogs-event"])
        }
        Provider::Generic | Provider::Dockerhub | Provider::Distribution => is_of(&[]),
    };
    if !sent {
        return Err(Refused::OtherSender);
    }
    let of_body = |name: &str, prefix: &str| {
        let text = headers.get(name).and_then(|text| text.strip_prefix(prefix)).ok_or(Refused::Unsigned)?;
        of_hex(text).map(Shown::Body).ok_or(Refused::Unsigned)
    };
    match provider {
        Provider::Github => of_body("x-hub-signature-256", "sha256="),
        Provider::Gitea => of_body("x-gitea-signature", ""),
        // Where there is its own that one decides.
        Provider::Forgejo if headers.has("x-forgejo-signature") => of_body("x-forgejo-signature", ""),
        Provider::Forgejo => of_body("x-gitea-signature", ""),
        Provider::Gitlab if !headers.has("webhook-signature") => {
            headers.get("x-gitlab-token").map(Shown::Token).ok_or(Refused::Unsigned)
        }
        Provider::Gitlab | Provider::Generic => standard(headers).ok_or(Refused::Unsigned),
        Provider::Dockerhub => token.map(Shown::Token).ok_or(Refused::Unsigned),
        Provider::Distribution => {
            let bearer = headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
            bearer.map(Shown::Token).ok_or(Refused::Unsigned)
        }
    }
}

fn standard<'a>(headers: &Headers) -> Option<Shown<'a>> {
    let (id, at) = (headers.get("webhook-id")?, headers.get("webhook-timestamp")?);
    let signatures = headers.get("webhook-signature")?.split(' ').take(MOST_SIGNATURES);
    // Other versions than v1 are for others.
    let signatures = signatures.filter_map(|one| {
        let bytes = STANDARD.decode(one.strip_prefix("v1,")?).ok()?;
        bytes.as_slice().try_into().ok()
    });
    let signatures: Vec<[u8; 32]> = signatures.collect();
    if signatures.is_empty() {
        return None;
    }
    Some(Shown::Standard { before: format!("{id}.{at}."), signatures, at: at.parse().ok()? })
}

pub(crate) fn sign(secret: &str, is_standard: bool, before: &[u8], body: &[u8]) -> hmac::Tag {
    let decoded = secret
        .strip_prefix(STANDARD_PREFIX)
        .filter(|_| is_standard)
        .and_then(|text| STANDARD.decode(text).ok());
    let key = hmac::Key::new(hmac::HMAC_SHA256, decoded.as_deref().unwrap_or(secret.as_bytes()));
    let mut context = hmac::Context::with_key(&key);
    context.update(before);
    context.update(body);
    context.sign()
}

/// In constant time, also for texts whose lengths differ.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"farm compares");
    hmac::verify(&key, one, hmac::sign(&key, other).as_ref()).is_ok()
}

fn of_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// A secret made of 32 random bytes, as the provider takes it.
pub fn new_secret(provider: Provider, random: [u8; 32]) -> String {
    match provider {
        Provider::Gitlab | Provider::Generic => format!("{STANDARD_PREFIX}{}", STANDARD.encode(random)),
        _ => random.iter().fold(OWN_PREFIX.to_owned(), |text, byte| format!("{text}{byte:02x}")),
    }
}

/// Whether a secret that somebody brings can be one.
///
/// # Errors
/// It can't; the error doesn't tell it.
pub fn check_secret(provider: Provider, secret: &str) -> Result<(), Invalid> {
    let said = format!("of {} bytes", secret.len());
    if !(16..=255).contains(&secret.len()) || !secret.bytes().all(|b| b.is_ascii_graphic()) {
        let cure = "write 16 to 255 letters, digits and signs without blanks, or leave it out and the farm makes one";
        return Err(Invalid::new("secret", said, cure));
    }
    let decoded = secret.strip_prefix(STANDARD_PREFIX).map(|text| STANDARD.decode(text));
    let is_standard = matches!(&decoded, Some(Ok(bytes)) if (16..=64).contains(&bytes.len()));
    if !is_standard && (provider == Provider::Generic || decoded.is_some()) {
        let cure = "write whsec_ and 16 to 64 bytes in base64, as Standard Webhooks have it, or leave it out and the farm makes one";
        return Err(Invalid::new("secret", said, cure));
    }
    Ok(())
}
