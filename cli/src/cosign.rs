//! Private keys as `cosign generate-key-pair` writes them: sealed by a password, which is asked for here and goes nowhere.
//!
//! Format: PEM (RFC 7468) around JSON (go-securesystemslib, `encrypted`): a key for the seal from the password by scrypt (RFC 7914), and PKCS #8
//! in NaCl's secretbox by that (XSalsa20 and Poly1305; nacl.cr.yp.to, "Cryptography in NaCl", chapter 9), all bytes in base64.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use poly1305::Poly1305;
use salsa20::XSalsa20;
use salsa20::cipher::{KeyInit as _, KeyIvInit as _, StreamCipher as _};
use serde::Deserialize;
use zeroize::Zeroizing;

/// What such files are called in PEM: since cosign 2, and before.
const LABELS: [&str; 2] = ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"];
/// scrypt takes `128 N r` bytes of memory, and `p` times the time; cosign has 64 MiB and 1. No more is taken of a file.
const MOST_MEMORY: u64 = 1 << 30;
const MOST_PARALLEL: u32 = 16;
/// Bytes of a secretbox's key, nonce and tag.
const KEY: usize = 32;
const NONCE: usize = 24;
const TAG: usize = 16;

/// Why a file can't be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unopened {
    /// It isn't what cosign writes.
    Other(&'static str),
    /// The password is another; or somebody has changed the file.
    Password,
}

impl fmt::Display for Unopened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Other(why) => why,
            Self::Password => "the password is another one",
        })
    }
}

#[derive(Deserialize)]
struct File {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Deserialize)]
struct Kdf {
    name: String,
    params: Params,
    salt: String,
}

#[derive(Deserialize)]
struct Params {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

/// Whether a text is such a file.
pub fn is_sealed(text: &str) -> bool {
    LABELS.iter().any(|label| text.contains(&format!("-----BEGIN {label}-----")))
}

/// The key of such a file in PEM, without a password.
///
/// # Errors
/// See [`Unopened`].
pub fn open(text: &str, password: &str) -> Result<Zeroizing<String>, Unopened> {
    let other = |why| move || Unopened::Other(why);
    let body = LABELS.iter().find_map(|label| {
        let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
        Some(rest.split_once(&format!("-----END {label}-----"))?.0)
    });
    let body: String = body.ok_or_else(other("it is cut off"))?.split_whitespace().collect();
    let json = BASE64.decode(body).map_err(|_| Unopened::Other("what is in it isn't base64"))?;
    let file: File = serde_json::from_slice(&json)
        .map_err(|_| Unopened::Other("what is in it isn't what cosign writes"))?;
    if file.kdf.name != "scrypt" || file.cipher.name != "nacl/secretbox" {
        return Err(Unopened::Other("it is sealed in another way than cosign's (scrypt, nacl/secretbox)"));
    }
    let bytes = |text: &str| BASE64.decode(text).map_err(|_| Unopened::Other("what is in it isn't base64"));
    let (salt, nonce, sealed) =
        (bytes(&file.kdf.salt)?, bytes(&file.cipher.nonce)?, bytes(&file.ciphertext)?);
    let nonce: [u8; NONCE] =
        nonce.try_into().map_err(|_| Unopened::Other("its nonce is of another length"))?;
    let key = derived(password, &salt, &file.kdf.params)?;
    let der = unsealed(&key, &nonce, &sealed).ok_or(Unopened::Password)?;
    let text = Zeroizing::new(BASE64.encode(&*der));
    Ok(Zeroizing::new(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", &*text)))
}

/// The key of the seal.
fn derived(password: &str, salt: &[u8], params: &Params) -> Result<Zeroizing<[u8; KEY]>, Unopened> {
    let Params { n, r, p } = *params;
    let memory = n.checked_mul(128).and_then(|bytes| bytes.checked_mul(r.into()));
    if !n.is_power_of_two() || memory.is_none_or(|bytes| bytes > MOST_MEMORY) || p > MOST_PARALLEL {
        return Err(Unopened::Other("it asks for more memory or time than a key of cosign's"));
    }
    let log_n = u8::try_from(n.ilog2()).unwrap_or(u8::MAX);
    let unfit = |_| Unopened::Other("its parameters of scrypt can't be");
    let params = scrypt::Params::new(log_n, r, p).map_err(unfit)?;
    let mut key = Zeroizing::new([0; KEY]);
    scrypt::scrypt(password.as_bytes(), salt, &params, &mut *key)
        .map_err(|_| Unopened::Other("its parameters of scrypt can't be"))?;
    Ok(key)
}

/// What is in a secretbox; `None`: it was sealed by another key.
fn unsealed(key: &[u8; KEY], nonce: &[u8; NONCE], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (tag, sealed) = sealed.split_first_chunk::<TAG>()?;
    let mut stream = XSalsa20::new(key.into(), nonce.into());
    // The first 32 bytes of the stream are Poly1305's key.
    let mut of_tag = Zeroizing::new([0_u8; KEY]);
    stream.apply_keystream(&mut *of_tag);
    // Nobody else asks what comes out of it, so how long the comparison takes tells nothing.
    if Poly1305::new((&*of_tag).into()).compute_unpadded(sealed)[..] != tag[..] {
        return None;
    }
    let mut text = Zeroizing::new(sealed.to_vec());
    stream.apply_keystream(&mut text);
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// As cosign seals, with little work.
    fn sealed(text: &[u8], password: &str, label: &str) -> String {
        let (salt, nonce) = ([7_u8; 32], [9_u8; NONCE]);
        let key = derived(password, &salt, &Params { n: 16, r: 8, p: 1 }).unwrap();
        let mut stream = XSalsa20::new((&*key).into(), (&nonce).into());
        let mut of_tag = [0_u8; KEY];
        stream.apply_keystream(&mut of_tag);
        let mut body = text.to_vec();
        stream.apply_keystream(&mut body);
        let tag = Poly1305::new((&of_tag).into()).compute_unpadded(&body);
        let file = json!({
            "kdf": {"name": "scrypt", "params": {"N": 16, "r": 8, "p": 1}, "salt": BASE64.encode(salt)},
            "cipher": {"name": "nacl/secretbox", "nonce": BASE64.encode(nonce)},
            "ciphertext": BASE64.encode([&tag[..], &body].concat()),
        });
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64.encode(file.to_string()))
    }

    #[test]
    fn a_secretbox_is_opened_that_nacl_has_made() {
        // NaCl's own example (tests/secretbox.c and secretbox.out: firstkey, nonce; of the message its length and first bytes).
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        let key: [u8; KEY] =
            hex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389").try_into().unwrap();
        let nonce: [u8; NONCE] = hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37").try_into().unwrap();
        let boxed = hex(concat!(
            "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186a",
            "c0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae",
            "90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74",
            "e355a5"
        ));
        let message = unsealed(&key, &nonce, &boxed).unwrap();
        assert_eq!(message.len(), 131);
        assert_eq!(&message[..8], hex("be075fc53c81f2d5"));
        assert!(unsealed(&key, &nonce, &boxed[..boxed.len() - 1]).is_none());
        assert!(unsealed(&key, &nonce, &boxed[..7]).is_none());
    }

    proptest! {
        #[test]
        fn what_was_sealed_by_a_password_is_opened_by_it_and_by_no_other(
            der in proptest::collection::vec(any::<u8>(), 1..200), password in ".{0,20}", other in ".{0,20}"
        ) {
            prop_assume!(password != other);
            for label in LABELS {
                let file = sealed(&der, &password, label);
                prop_assert!(is_sealed(&file));
                let opened = open(&file, &password).unwrap();
                let lines: Vec<&str> = opened.lines().collect();
                prop_assert_eq!((lines[0], lines[2]), ("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"));
                prop_assert_eq!(BASE64.decode(lines[1]).unwrap(), &der[..]);
                prop_assert_eq!(open(&file, &other).unwrap_err(), Unopened::Password);
            }
        }
    }

    #[test]
    fn what_cosign_does_not_write_is_told_and_asks_for_no_memory() {
        let label = LABELS[0];
        let of = |json: serde_json::Value| {
            format!("-----BEGIN {label}-----\n{}\n-----END {label}-----", BASE64.encode(json.to_string()))
        };
        let file = |n: u64, p: u32, kdf: &str| {
            of(json!({
                "kdf": {"name": kdf, "params": {"N": n, "r": 8, "p": p}, "salt": ""},
                "cipher": {"name": "nacl/secretbox", "nonce": BASE64.encode([0; NONCE])}, "ciphertext": "",
            }))
        };
        let said = |text: &str| open(text, "x").unwrap_err().to_string();
        for (text, why) in [
            (format!("-----BEGIN {label}-----\nAAAA"), "cut off"),
            (of(json!({})), "isn't what cosign writes"),
            (file(1 << 40, 1, "scrypt"), "more memory"),
            (file(16, 1000, "scrypt"), "more memory or time"),
            (file(15, 1, "scrypt"), "more memory or time"),
            (file(16, 0, "scrypt"), "can't be"),
            (file(16, 1, "argon2"), "in another way"),
        ] {
            assert!(said(&text).contains(why), "{}", said(&text));
        }
        assert!(!is_sealed("-----BEGIN PRIVATE KEY-----"));
    }
}
