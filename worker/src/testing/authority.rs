//! A CA for tests: of a coordinator's own certificate, and of those of workers.

use farm_client::key_to_pem;
use farm_proto::v1;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SignatureAlgorithm,
};

/// Issues certificates for one test.
pub struct Authority {
    /// Its own certificate, PEM.
    pub pem: String,
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// A point of the curve P-256.
struct Point<'a>(&'a [u8]);

impl PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "a test's CA");
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().to_vec());
        Self { pem, der, issuer: Issuer::new(params, key) }
    }

    /// A server's certificate for `localhost` and this machine, and its key: PEM.
    pub fn server(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        (format!("{}{}", certificate.pem(), self.pem), key_to_pem(key.serialized_der()))
    }

    /// What a farm answers: a certificate for this key, that lives and is to be renewed after so many milliseconds.
    pub fn certificate(
        &self,
        name: &str,
        public_key: &[u8],
        (lives_ms, renew_ms): (u64, u64),
    ) -> v1::Certificate {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&Point(public_key), &self.issuer).unwrap();
        let chain = vec![certificate.der().to_vec().into(), self.der.clone().into()];
        v1::Certificate { name: name.to_owned(), chain, lives_ms, renew_ms }
    }
}
