//! A private key, and what is signed by it.

use std::fmt;

use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair,
};

use crate::wire::Writer;

/// Flags of a request to sign: with which hash a key of RSA does it.
const SHA256: u32 = 2;
const SHA512: u32 = 4;

/// A private key. It isn't printed.
pub struct Key {
    public: Vec<u8>,
    comment: String,
    private: Private,
}

/// By what a key signs.
pub(crate) enum Private {
    Ed25519(Ed25519KeyPair),
    Ecdsa(Curve, EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

/// A curve of ECDSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
}

impl Curve {
    pub(crate) const ALL: [Self; 2] = [Self::P256, Self::P384];

    /// As ssh calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P256 => "nistp256",
            Self::P384 => "nistp384",
        }
    }

    /// The bytes of a coordinate, and of a private key.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("kind", &self.kind())
            .field("comment", &self.comment)
            .finish_non_exhaustive()
    }
}

impl Key {
    pub(crate) fn new(private: Private, comment: String) -> Self {
        let public = match &private {
            Private::Ed25519(pair) => {
                Writer::default().string(b"ssh-ed25519").string(pair.public_key().as_ref()).done()
            }
            Private::Ecdsa(curve, pair) => {
                let kind = format!("ecdsa-sha2-{}", curve.name());
                let writer = Writer::default().string(kind.as_bytes()).string(curve.name().as_bytes());
                writer.string(pair.public_key().as_ref()).done()
            }
            Private::Rsa(pair) => {
                let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                Writer::default().string(b"ssh-rsa").big(&e).big(&n).done()
            }
        };
        Self { public, comment, private }
    }

    /// The public key, as ssh writes it.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// What its file says about it; for people.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// What kind of key it is, as ssh calls it.
    pub fn kind(&self) -> &'static str {
        match &self.private {
            Private::Ed25519(_) => "ssh-ed25519",
            Private::Ecdsa(Curve::P256, _) => "ecdsa-sha2-nistp256",
            Private::Ecdsa(Curve::P384, _) => "ecdsa-sha2-nistp384",
            Private::Rsa(_) => "ssh-rsa",
        }
    }

    /// Signs; answers the signature as ssh writes it. `None`: not by the hash that `flags` ask for. SHA-1 is done no more.
    pub(crate) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let (name, signature) = match &self.private {
            Private::Ed25519(pair) => (self.kind(), pair.sign(data).as_ref().to_vec()),
            Private::Ecdsa(curve, pair) => {
                let signature = pair.sign(&random, data).ok()?;
                let (r, s) = signature.as_ref().split_at_checked(curve.bytes())?;
                (self.kind(), Writer::default().big(r).big(s).done())
            }
            Private::Rsa(pair) => {
                let (name, encoding): (_, &'static dyn RsaEncoding) = match flags {
                    flags if flags & SHA512 != 0 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    flags if flags & SHA256 != 0 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    _ => return None,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(encoding, &random, data, &mut signature).ok()?;
                (name, signature)
            }
        };
        Some(Writer::default().string(name.as_bytes()).string(&signature).done())
    }
}
