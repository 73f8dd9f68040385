//! What a connection shows of its own end: a certificate, whose key it has. It may be exchanged while connections go on;
//! those that are made afterwards show the new one.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// A certificate and its key, or neither. Clones are exchanged together. It is never printed.
#[derive(Clone, Default)]
pub struct Identity(Arc<RwLock<Option<Arc<str>>>>);

/// Why a text is no identity. It holds nothing of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It names no certificate.
    #[error("there is no certificate in it")]
    Certificate,
    /// It has no key.
    #[error("there is no private key in it")]
    Key,
    /// Each is there, and they can't be used together.
    #[error("its certificate and its key don't belong together ({0})")]
    Mismatch(String),
}

impl Identity {
    /// Of a text that holds, as PEM, a private key and the certificates: its own first, then its CA's.
    ///
    /// # Errors
    /// One of these is missing, or they are not each other's.
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let identity = Self::default();
        identity.exchange(text)?;
        Ok(identity)
    }

    /// Takes these in the place of what was shown before, in all clones. Connections that are there keep the old ones.
    ///
    /// # Errors
    /// As [`Identity::from_pem`]; then all is as it was.
    pub fn exchange(&self, text: &str) -> Result<(), IdentityError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| IdentityError::Certificate)?;
        if chain.is_empty() {
            return Err(IdentityError::Certificate);
        }
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| IdentityError::Key)?;
        // It asks whether the key is the certificate's.
        CertifiedKey::from_der(chain, key, &default_provider())
            .map_err(|e| IdentityError::Mismatch(e.to_string()))?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(text.into());
        Ok(())
    }

    /// The same for tonic, as it is now.
    pub(crate) fn tls(&self) -> Option<tonic::transport::Identity> {
        let text = self.0.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(tonic::transport::Identity::from_pem(text.as_bytes(), text.as_bytes()))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_there = self.0.read().unwrap_or_else(PoisonError::into_inner).is_some();
        f.write_str(if is_there { "Identity(…)" } else { "Identity(none)" })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Uri;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::RootCertStore;
    use rustls::server::WebPkiClientVerifier;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::{Security, Trust, endpoint};

    /// A certificate for this name as PEM, with its key, by a CA.
    fn pair(ca: &Issuer<'_, KeyPair>, name: &str) -> (String, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, ca).unwrap();
        (format!("{}{}", key.serialize_pem(), certificate.pem()), certificate.der().clone())
    }

    fn authority() -> (Issuer<'static, KeyPair>, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        (Issuer::new(params, key), pem)
    }

    #[test]
    fn what_is_no_pair_is_refused_and_nothing_of_it_is_printed() {
        let (ca, _) = authority();
        let ((one, _), (other, _)) = (pair(&ca, "one"), pair(&ca, "other"));
        let (key, certificate) = one.split_at(one.find("-----BEGIN CERTIFICATE").unwrap());
        assert_eq!(Identity::from_pem(key).unwrap_err(), IdentityError::Certificate);
        assert_eq!(Identity::from_pem(certificate).unwrap_err(), IdentityError::Key);
        let identity = Identity::from_pem(&format!("who it is: one\n{one}")).unwrap();
        assert_eq!(format!("{identity:?} {:?}", Identity::default()), "Identity(…) Identity(none)");
        let mixed = format!("{key}{}", &other[other.find("-----BEGIN CERTIFICATE").unwrap()..]);
        let before = identity.0.read().unwrap().clone();
        assert!(matches!(identity.exchange(&mixed), Err(IdentityError::Mismatch(_))));
        assert_eq!(*identity.0.read().unwrap(), before);
    }

    #[tokio::test]
    async fn each_connection_shows_what_is_there_when_it_is_made() {
        let (ca, ca_pem) = authority();
        let (server, _) = pair(&ca, "localhost");
        let ((first, first_der), (second, second_der)) = (pair(&ca, "w1"), pair(&ca, "w1"));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                CertificateDer::pem_slice_iter(server.as_bytes()).map(Result::unwrap).collect(),
                PrivateKeyDer::from_pem_slice(server.as_bytes()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols.push(b"h2".to_vec());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: Uri =
            format!("https://localhost:{}", listener.local_addr().unwrap().port()).parse().unwrap();
        let (tell, mut shown) = mpsc::channel(4);
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let stream = acceptor.accept(stream).await.unwrap();
                let shown = stream.get_ref().1.peer_certificates().map(|chain| chain[0].clone().into_owned());
                tell.send(shown).await.unwrap();
            }
        });
        let identity = Identity::default();
        let trust = Trust::from_pem(&ca_pem, "here").unwrap();
        let security = Security { trust, identity: identity.clone(), ..Security::default() };
        let _ = rustls::crypto::ring::default_provider().install_default();
        for (pem, der) in [(None, None), (Some(&first), Some(&first_der)), (Some(&second), Some(&second_der))]
        {
            if let Some(pem) = pem {
                identity.exchange(pem).unwrap();
            }
            let connection = endpoint(uri.clone(), "test", &security).unwrap().connect().await;
            assert_eq!(shown.recv().await.unwrap().as_ref(), der);
            drop(connection);
        }
    }
}
