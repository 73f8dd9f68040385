//! The key of a certificate, on the curve P-256. Another one for each certificate.

use farm_client::key_to_pem;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

/// A key that has no certificate yet.
pub struct Key {
    pem: String,
    public: Vec<u8>,
}

/// The system gives no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no key can be made: the system gives no random numbers")]
pub struct NoKey;

impl Key {
    /// A new one.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn generate() -> Result<Self, NoKey> {
        let random = SystemRandom::new();
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).map_err(|_| NoKey)?;
        Self::of(document.as_ref()).ok_or(NoKey)
    }

    /// Of a key as PKCS #8, DER; `None`: that is none.
    pub fn of(der: &[u8]) -> Option<Self> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new()).ok()?;
        Some(Self { pem: key_to_pem(der), public: pair.public_key().as_ref().to_vec() })
    }

    /// As a farm is told it: the point, uncompressed (SEC 1, section 2.3.3).
    pub fn public(&self) -> Vec<u8> {
        self.public.clone()
    }

    /// As it is kept: PKCS #8, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_another_and_is_told_as_a_point() {
        let (one, other) = (Key::generate().unwrap(), Key::generate().unwrap());
        assert_eq!((one.public().len(), one.public()[0]), (65, 4));
        assert_ne!(one.public(), other.public());
        assert!(one.pem().starts_with("-----BEGIN PRIVATE KEY-----\n"), "a test's key");
    }
}
