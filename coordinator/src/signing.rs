//! Keys by which what is published is signed: ECDSA on P-256 with SHA-256, which is what cosign makes and takes for every registry.
//!
//! A key is here in clear while it is taken in or signs, and is told to nobody; what people see of one is [`PublicKey`]. Formats: PKCS #8
//! (RFC 5208) and SEC 1 (RFC 5915) in PEM (RFC 7468); a signature is ASN.1 (RFC 3279, `Ecdsa-Sig-Value`); a public key is a
//! `SubjectPublicKeyInfo` (RFC 5480).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use farm_types::Digest;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

/// The longest text of a key that is taken, bytes.
pub const LONGEST: usize = 16 * 1024;
/// What stands before the point in a `SubjectPublicKeyInfo` of P-256.
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// In PKCS #8: version 0, and that it is a key of P-256.
const P256: [u8; 24] = [
    0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
];
const NO_RANDOM: &str = "this machine has no random numbers";

/// A private key.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    der: Zeroizing<Vec<u8>>,
}

impl SigningKey {
    /// Of PEM without a password.
    ///
    /// # Errors
    /// It is no such key, and what would be.
    pub fn from_pem(pem: &str) -> Result<Self, &'static str> {
        if pem.contains("ENCRYPTED") {
            return Err(
                "it is encrypted, and the farm asks nobody for passwords; farm signing-key add opens the files of cosign generate-key-pair, and \
                 openssl pkcs8 -topk8 -nocrypt others",
            );
        }
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(
            |_| "it isn't a private key in PEM; give the file that cosign generate-key-pair made, or one that begins with -----BEGIN PRIVATE KEY-----",
        )?;
        match &key {
            PrivateKeyDer::Pkcs8(der) => Self::from_der(der.secret_pkcs8_der()),
            PrivateKeyDer::Sec1(der) => Self::from_der(&pkcs8(der.secret_sec1_der())),
            _ => Err(OTHER),
        }
    }

    /// A new one.
    ///
    /// # Errors
    /// The machine has no random numbers.
    pub fn generate() -> Result<Self, &'static str> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        Self::from_der(made.map_err(|_| NO_RANDOM)?.as_ref())
    }

    /// Of the bytes that [`Self::der`] gives.
    ///
    /// # Errors
    /// They are no such key.
    pub fn from_der(der: &[u8]) -> Result<Self, &'static str> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new());
        Ok(Self { pair: pair.map_err(|_| OTHER)?, der: Zeroizing::new(der.to_vec()) })
    }

    /// All of it, to be sealed: PKCS #8.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// What it is known by.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.pair.public_key().as_ref().to_vec())
    }

    /// Signs; each time it is another signature.
    ///
    /// # Errors
    /// The machine has no random numbers.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, &'static str> {
        let signed = self.pair.sign(&SystemRandom::new(), message);
        signed.map(|signature| signature.as_ref().to_vec()).map_err(|_| NO_RANDOM)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").finish_non_exhaustive()
    }
}

const OTHER: &str = "it isn't a key for ECDSA on the curve P-256 with its public half in it, by which cosign signs; make one: farm signing-key \
     generate, cosign generate-key-pair, or openssl ecparam -name prime256v1 -genkey -noout";

/// An `ECPrivateKey` of SEC 1 as PKCS #8 has it.
fn pkcs8(sec1: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut der = Zeroizing::new(P256.to_vec());
    der.extend(header(0x04, sec1.len()));
    der.extend_from_slice(sec1);
    let mut whole = Zeroizing::new(header(0x30, der.len()));
    whole.extend_from_slice(&der);
    whole
}

/// Type and length of what is encoded by DER, of at most 64 KiB; longer is no key.
fn header(kind: u8, length: usize) -> Vec<u8> {
    let [.., high, low] = length.to_be_bytes();
    match length {
        0..0x80 => vec![kind, low],
        0x80..0x100 => vec![kind, 0x81, low],
        _ => vec![kind, 0x82, high, low],
    }
}

/// A public key: a point of P-256, uncompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    /// Of the bytes of the point, which a key has shown.
    pub fn of_point(point: Vec<u8>) -> Self {
        Self(point)
    }

    /// The point.
    pub fn point(&self) -> &[u8] {
        &self.0
    }

    /// Whether the key has signed this.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0).verify(message, signature).is_ok()
    }

    /// The same, of a signature in base64.
    pub fn has_signed_text(&self, message: &[u8], signature: &str) -> bool {
        BASE64.decode(signature).is_ok_and(|signature| self.has_signed(message, &signature))
    }

    /// As `SubjectPublicKeyInfo`.
    fn der(&self) -> Vec<u8> {
        [&SPKI[..], &self.0].concat()
    }

    /// In PEM, as `cosign verify --key` takes it.
    pub fn pem(&self) -> String {
        let text = BASE64.encode(self.der());
        let lines: Vec<&str> =
            (0..text.len()).step_by(64).filter_map(|at| text.get(at..(at + 64).min(text.len()))).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// The digest of it in DER.
    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.der())
    }

    /// The same in base64, as bundles name it.
    pub fn hint(&self) -> String {
        BASE64.encode(self.fingerprint().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pem(kind: &str, der: &[u8]) -> String {
        format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", BASE64.encode(der))
    }

    #[test]
    fn a_key_comes_in_either_form_and_is_the_same() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pem(&pem("PRIVATE KEY", key.der())).unwrap();
        assert_eq!(again.public(), key.public());
        // PKCS #8 begins with 3 bytes of header, then what is P-256's, then 3 bytes of header (RFC 5208).
        let sec1 = &key.der()[3 + P256.len() + 2..];
        let parameters = pem("EC PARAMETERS", &P256[14..]);
        let again = SigningKey::from_pem(&(parameters + &pem("EC PRIVATE KEY", sec1))).unwrap();
        assert_eq!(again.public(), key.public());
        // A point of P-256, uncompressed.
        assert_eq!(again.public().point().len(), 65);
        assert!(!format!("{key:?}").contains(char::is_numeric), "{key:?}");
    }

    #[test]
    fn what_is_no_such_key_is_told_with_what_would_be() {
        let said = |text: &str| SigningKey::from_pem(text).unwrap_err();
        assert!(said("hunter22").contains("BEGIN PRIVATE KEY"));
        assert!(said(&pem("ENCRYPTED SIGSTORE PRIVATE KEY", b"{}")).contains("farm signing-key add"));
        let p384 = &ring::signature::ECDSA_P384_SHA384_ASN1_SIGNING;
        let other = EcdsaKeyPair::generate_pkcs8(p384, &SystemRandom::new()).unwrap();
        assert!(said(&pem("PRIVATE KEY", other.as_ref())).contains("P-256"));
        let ed25519 = ring::signature::Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        assert!(said(&pem("PRIVATE KEY", ed25519.as_ref())).contains("P-256"));
        assert!(said(&pem("RSA PRIVATE KEY", b"0")).contains("P-256"));
        // A private half alone.
        let key = SigningKey::generate().unwrap();
        let half = [&[0x30, 0x25, 0x02, 0x01, 0x01, 0x04, 0x20][..], &key.der()[36..68]].concat();
        assert!(said(&pem("EC PRIVATE KEY", &half)).contains("public half"));
    }

    #[test]
    fn a_public_key_is_written_as_others_read_it() {
        let public = SigningKey::generate().unwrap().public();
        let text = public.pem();
        assert!(text.lines().all(|line| line.len() <= 64), "{text}");
        let read = rustls::pki_types::SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).unwrap();
        assert_eq!(Digest::of(&read), public.fingerprint());
        assert_eq!(BASE64.decode(public.hint()).unwrap(), public.fingerprint().as_bytes());
    }

    proptest! {
        #[test]
        fn a_signature_is_of_its_text_and_its_key(
            text in proptest::collection::vec(any::<u8>(), 0..300), bit in any::<prop::sample::Index>()
        ) {
            let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
            let signature = key.sign(&text).unwrap();
            prop_assert!(key.public().has_signed_text(&text, &BASE64.encode(&signature)));
            prop_assert!(!other.public().has_signed(&text, &signature));
            let mut changed = text.clone();
            changed.push(0);
            prop_assert!(!key.public().has_signed(&changed, &signature));
            let mut forged = signature.clone();
            let at = bit.index(forged.len() * 8);
            forged[at / 8] ^= 1 << (at % 8);
            prop_assert!(!key.public().has_signed(&text, &forged));
            prop_assert!(!key.public().has_signed_text(&text, "no base64"));
        }
    }
}
