//! Private keys from what their files hold.

use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, RsaKeyPair,
};
use zeroize::Zeroizing;

use crate::key::{Curve, Key, Private};
use crate::pem::{self, Block};
use crate::wire::{Reader, padded, remainder};

/// What OpenSSH's own format begins with.
const OPENSSH: &[u8] = b"openssh-key-v1\0";
/// Of PKCS #8: an elliptic curve's key, and which.
const EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// Why a file's keys are of no use here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Nothing in it is a private key.
    #[error("there is no private key in it")]
    NoKey,
    /// It is the other half.
    #[error("that is a public key; name the file of the private one, which has no .pub")]
    Public,
    /// It can't be read without somebody who types.
    #[error("it has a passphrase; add it to an agent (ssh-add) and give that")]
    Passphrase,
    /// It is in a device.
    #[error("its secret is in a security key, which has to be asked; give the agent that does")]
    SecurityKey,
    /// Of a kind that isn't taken.
    #[error("{0} keys aren't taken; take one of ed25519, ecdsa on P-256 or P-384, or rsa, or give an agent")]
    Kind(String),
    /// Not of a size that is taken.
    #[error(
        "of rsa, keys of 2048, 3072 and 4096 bits are taken, and those whose parts fit together; give an agent"
    )]
    Rsa,
    /// It isn't what its first line says, as far as that is known here.
    #[error(
        "its {0} can't be read: it is broken, or of a kind that isn't taken; take one of ed25519, ecdsa on P-256 or P-384, or \
         rsa of 2048, 3072 or 4096 bits, or give an agent"
    )]
    Broken(String),
}

/// Whether it looks as if somebody meant it to be a key.
pub fn has_private_key(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| pem::blocks(text).iter().any(|block| is_private(block.label)))
}

fn is_private(label: &str) -> bool {
    label.ends_with("PRIVATE KEY")
}

/// All private keys of a file: one or more blocks of PEM.
///
/// # Errors
/// One of them can't be used, or there is none.
pub fn keys(bytes: &[u8]) -> Result<Vec<Key>, Unusable> {
    let text = std::str::from_utf8(bytes).map_err(|_| Unusable::NoKey)?;
    let blocks = pem::blocks(text);
    let keys: Vec<Key> =
        blocks.iter().filter(|block| is_private(block.label)).map(key).collect::<Result<_, _>>()?;
    if !keys.is_empty() {
        return Ok(keys);
    }
    let is_public = blocks.iter().any(|block| block.label.ends_with("PUBLIC KEY"))
        || text.lines().any(|line| ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| line.starts_with(kind)));
    Err(if is_public { Unusable::Public } else { Unusable::NoKey })
}

fn key(block: &Block<'_>) -> Result<Key, Unusable> {
    let label = block.label;
    if block.is_encrypted || label == "ENCRYPTED PRIVATE KEY" {
        return Err(Unusable::Passphrase);
    }
    let broken = || Unusable::Broken(label.to_owned());
    let bytes = block.bytes.as_ref().ok_or_else(broken)?;
    let private = match label {
        "OPENSSH PRIVATE KEY" => return openssh(bytes).unwrap_or_else(|| Err(broken())),
        "PRIVATE KEY" => pkcs8(bytes).ok_or_else(broken)?,
        "RSA PRIVATE KEY" => Private::Rsa(Box::new(RsaKeyPair::from_der(bytes).map_err(|_| Unusable::Rsa)?)),
        "EC PRIVATE KEY" => sec1(bytes).ok_or_else(broken)?,
        other => {
            let kind = other.trim_end_matches("PRIVATE KEY").trim().to_lowercase();
            return Err(Unusable::Kind(kind));
        }
    };
    Ok(Key::new(private, String::new()))
}

fn algorithm(curve: Curve) -> &'static EcdsaSigningAlgorithm {
    match curve {
        Curve::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
        Curve::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
    }
}

fn pkcs8(bytes: &[u8]) -> Option<Private> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes) {
        return Some(Private::Ed25519(pair));
    }
    if let Ok(pair) = RsaKeyPair::from_pkcs8(bytes) {
        return Some(Private::Rsa(Box::new(pair)));
    }
    let random = SystemRandom::new();
    Curve::ALL.into_iter().find_map(|curve| {
        let pair = EcdsaKeyPair::from_pkcs8(algorithm(curve), bytes, &random).ok()?;
        Some(Private::Ecdsa(curve, pair))
    })
}

/// A key as SEC 1 has it, in what PKCS #8 puts around that.
fn sec1(bytes: &[u8]) -> Option<Private> {
    [P256, P384].into_iter().find_map(|curve| {
        let algorithm = tagged(0x30, &[EC, curve].concat())?;
        let key = Zeroizing::new(tagged(0x04, bytes)?);
        let whole = Zeroizing::new([&[0x02, 0x01, 0x00], &algorithm[..], &key].concat());
        pkcs8(&Zeroizing::new(tagged(0x30, &whole)?))
    })
}

/// A value of DER.
fn tagged(tag: u8, value: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(value.len()).ok()?;
    let [high, low] = length.to_be_bytes();
    let head = match length {
        0..0x80 => vec![tag, low],
        0x80..0x100 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    Some([&head, value].concat())
}

/// A key in OpenSSH's own format; `None`: it is broken.
fn openssh(bytes: &[u8]) -> Option<Result<Key, Unusable>> {
    let mut reader = Reader::new(bytes.strip_prefix(OPENSSH)?);
    let (cipher, _kdf, _options) = (reader.string()?, reader.string()?, reader.string()?);
    if cipher != b"none" {
        return Some(Err(Unusable::Passphrase));
    }
    // ssh-keygen never writes more than one.
    if reader.number()? != 1 {
        return None;
    }
    let _public = reader.string()?;
    let mut reader = Reader::new(reader.string()?);
    if reader.number()? != reader.number()? {
        return None;
    }
    let kind = std::str::from_utf8(reader.string()?).ok()?;
    let private = match kind {
        "ssh-ed25519" => {
            let (public, both) = (reader.string()?, reader.string()?);
            let seed = both.get(..32)?;
            Private::Ed25519(Ed25519KeyPair::from_seed_and_public_key(seed, public).ok()?)
        }
        "ssh-rsa" => match rsa(&mut reader)? {
            Some(pair) => Private::Rsa(Box::new(pair)),
            None => return Some(Err(Unusable::Rsa)),
        },
        kind => {
            match Curve::ALL.into_iter().find(|curve| kind.strip_prefix("ecdsa-sha2-") == Some(curve.name()))
            {
                Some(curve) => {
                    let (_, public) = (reader.string()?, reader.string()?);
                    let private = padded(reader.big()?, curve.bytes())?;
                    let (algorithm, random) = (algorithm(curve), SystemRandom::new());
                    let pair =
                        EcdsaKeyPair::from_private_key_and_public_key(algorithm, &private, public, &random)
                            .ok()?;
                    Private::Ecdsa(curve, pair)
                }
                None if kind.starts_with("sk-") => return Some(Err(Unusable::SecurityKey)),
                None => return Some(Err(Unusable::Kind(kind.to_owned()))),
            }
        }
    };
    let comment = String::from_utf8_lossy(reader.string()?).into_owned();
    Some(Ok(Key::new(private, comment)))
}

/// The longest part of a key that is taken, bytes: of the modulus of 4096 bits. What is longer isn't even calculated with.
const LONGEST_PART: usize = 512;

/// The inner `None`: it is a key, but not for ring.
fn rsa(reader: &mut Reader<'_>) -> Option<Option<RsaKeyPair>> {
    let (n, e, d, q_inverse) = (reader.big()?, reader.big()?, reader.big()?, reader.big()?);
    let (p, q) = (reader.big()?, reader.big()?);
    if [n, e, d, q_inverse, p, q].iter().any(|part| part.len() > LONGEST_PART) {
        return Some(None);
    }
    let exponent = |prime: &[u8]| -> Option<Zeroizing<Vec<u8>>> {
        let mut less_one = Zeroizing::new(prime.to_vec());
        let last = less_one.last_mut().filter(|last| **last % 2 == 1 && prime != [1])?;
        *last -= 1;
        padded(&remainder(d, &less_one), prime.len())
    };
    // It takes numbers without leading zeros.
    let (Some(dp), Some(dq)) = (exponent(p), exponent(q)) else { return Some(None) };
    let trimmed = crate::wire::without_zeros;
    let parts = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: trimmed(&dp),
        dQ: trimmed(&dq),
        qInv: q_inverse,
    };
    Some(RsaKeyPair::from_components(&parts).ok())
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
