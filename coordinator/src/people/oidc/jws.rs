//! Signed tokens (JWS in its compact form, RFC 7515) and the keys that verify them (JWK, RFC 7517, 7518 and 8037), by ring.
//!
//! Invariant: what a token says of itself never chooses how it is verified. A key is good for one algorithm, which follows from
//! its kind; a token that names another one, or none, is refused. There are no algorithms with a shared secret.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::refused::{Refused, shown};

/// The longest token that is looked at, bytes. GitHub's have 2 kB, those with many groups 8.
pub const MAX_TOKEN: usize = 16 * 1024;

/// How an issuer signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256, keys of 2048 to 8192 bits.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Algorithm {
    /// All.
    pub const ALL: [Self; 3] = [Self::Rs256, Self::Es256, Self::EdDsa];

    /// The name that tokens and keys have for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    /// What a reader must understand; there is nothing that we do.
    crit: Option<Value>,
}

/// A token whose form is right. Nothing of it is true before [`Jws::verify`] has passed.
#[derive(Clone)]
pub struct Jws<'a> {
    alg: String,
    kid: Option<String>,
    claims: Map<String, Value>,
    /// What the signature is of.
    signed: &'a str,
    signature: Vec<u8>,
}

/// Tokens are secrets as long as they are good.
impl fmt::Debug for Jws<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jws").field("alg", &self.alg).field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl<'a> Jws<'a> {
    /// Reads a token.
    ///
    /// # Errors
    /// It is none, is too long, or is of a kind that shows nobody.
    pub fn read(token: &'a str) -> Result<Self, Refused> {
        let no_token = |why: &str| Refused::Token(format!("this is no token of an issuer: {why}"));
        if token.len() > MAX_TOKEN {
            return Err(no_token(&format!("it is longer than {MAX_TOKEN} bytes")));
        }
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, signature] = parts[..] else {
            return Err(no_token(match parts.len() {
                5 => "it is encrypted; send the signed one",
                _ => "it doesn't consist of three parts with dots between them",
            }));
        };
        let signed = &token[..header.len() + 1 + claims.len()];
        let bytes = |name: &str, text: &str| {
            BASE64
                .decode(text)
                .map_err(|_| no_token(&format!("its {name} is not in base64url without padding")))
        };
        let header: Header = serde_json::from_slice(&bytes("header", header)?)
            .map_err(|why| no_token(&format!("its header: {why}")))?;
        if header.crit.is_some() {
            return Err(no_token("its header asks for an extension (crit) that farm doesn't know"));
        }
        // Others are for something else, such as a logout, with the same signature.
        if let Some(typ) = header.typ.filter(|typ| !typ.eq_ignore_ascii_case("JWT")) {
            return Err(no_token(&format!(
                "its kind (typ) is {}; ask for an id token, of kind JWT",
                shown(&typ)
            )));
        }
        let claims = serde_json::from_slice(&bytes("body", claims)?)
            .map_err(|why| no_token(&format!("its body: {why}")))?;
        let signature = bytes("signature", signature)?;
        Ok(Self { alg: header.alg, kid: header.kid, claims, signed, signature })
    }

    /// The key that it says it is signed with.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Who it says has issued it. To look for keys only.
    ///
    /// # Errors
    /// It doesn't say.
    pub fn issuer(&self) -> Result<&str, Refused> {
        let issuer = self.claims.get("iss").and_then(Value::as_str);
        issuer.ok_or_else(|| Refused::Token("the token doesn't say who has issued it (iss)".to_owned()))
    }

    /// What is signed. Two tokens have the same only if they say the same.
    pub fn signed(&self) -> &'a str {
        self.signed
    }

    /// What it says, if one of these keys has signed it.
    ///
    /// # Errors
    /// No key is the one that it names, or the key doesn't fit, or has signed something else.
    pub fn verify(self, keys: &[Key], allowed: &[Algorithm]) -> Result<Map<String, Value>, Refused> {
        let key = self.key(keys, allowed)?;
        if key.has_signed(self.signed.as_bytes(), &self.signature) {
            return Ok(self.claims);
        }
        Err(Refused::Token("the token's signature is wrong: its issuer has not signed this".to_owned()))
    }

    fn key<'k>(&self, keys: &'k [Key], allowed: &[Algorithm]) -> Result<&'k Key, Refused> {
        let named: Vec<&Key> = keys.iter().filter(|key| self.kid.is_none() || key.kid == self.kid).collect();
        let fit: Vec<&Key> = named
            .iter()
            .copied()
            .filter(|key| key.algorithm().as_str() == self.alg && allowed.contains(&key.algorithm()))
            .collect();
        match fit[..] {
            [key] => Ok(key),
            [] if named.is_empty() => Err(Refused::Token(match self.kid() {
                Some(kid) => format!("the token's issuer has no key {}", shown(kid)),
                None => "the token's issuer has no keys that farm can use".to_owned(),
            })),
            [] => {
                let may: Vec<&str> = allowed.iter().map(|algorithm| algorithm.as_str()).collect();
                Err(Refused::Token(format!(
                    "the token says that it is signed by {}, and its issuer's key isn't for that, or may not be used for \
                     it; farm takes {} from this issuer",
                    shown(&self.alg),
                    may.join(", ")
                )))
            }
            _ => Err(Refused::Token(
                "the token doesn't say clearly with which of its issuer's keys it is signed (kid)".to_owned(),
            )),
        }
    }
}

/// A public key of an issuer.
#[derive(Debug, Clone)]
pub struct Key {
    kid: Option<String>,
    public: Public,
}

#[derive(Debug, Clone)]
enum Public {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// A point, uncompressed.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// RFC 7517, section 4; RFC 7518, section 6; RFC 8037, section 2.
#[derive(Deserialize)]
struct WrittenKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Key {
    /// The keys of a set that farm can use; others, of other kinds or for encryption, are left out.
    ///
    /// # Errors
    /// It is no set of keys.
    pub fn read_set(bytes: &[u8]) -> Result<Vec<Self>, String> {
        let set: KeySet =
            serde_json::from_slice(bytes).map_err(|why| format!("it is no set of keys: {why}"))?;
        let written = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        Ok(written.filter_map(|key| Self::read(&key)).collect())
    }

    /// The key's name.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    fn read(written: &WrittenKey) -> Option<Self> {
        let is_for_us = written.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && written.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !is_for_us {
            return None;
        }
        let number =
            |field: &Option<String>| BASE64.decode(field.as_ref()?).ok().filter(|bytes| !bytes.is_empty());
        // Of a fixed length: that of the curve.
        let coordinate = |field: &Option<String>| number(field).filter(|bytes| bytes.len() == 32);
        let public = match (written.kty.as_str(), written.crv.as_deref()) {
            ("RSA", _) => {
                let trimmed = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect();
                let (n, e) = (trimmed(number(&written.n)?), trimmed(number(&written.e)?));
                Public::Rsa { n, e }
            }
            ("EC", Some("P-256")) => {
                let (x, y) = (coordinate(&written.x)?, coordinate(&written.y)?);
                Public::P256([vec![4], x, y].concat())
            }
            ("OKP", Some("Ed25519")) => Public::Ed25519(coordinate(&written.x)?),
            _ => return None,
        };
        let key = Self { kid: written.kid.clone(), public };
        let is_meant = written.alg.as_deref().is_none_or(|alg| alg == key.algorithm().as_str());
        is_meant.then_some(key)
    }

    /// The one algorithm that it is good for.
    fn algorithm(&self) -> Algorithm {
        match self.public {
            Public::Rsa { .. } => Algorithm::Rs256,
            Public::P256(_) => Algorithm::Es256,
            Public::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.public {
            Public::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            Public::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Public::Ed25519(point) => UnparsedPublicKey::new(&ED25519, point).verify(message, signature),
        };
        verified.is_ok()
    }
}

#[cfg(test)]
mod tests;
