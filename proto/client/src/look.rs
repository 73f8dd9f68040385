//! A look at the certificates that a server shows, before anybody is told to trust it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::failure::TlsFailure;
use crate::trust::{Fingerprint, Trust, to_pem};

/// How long the look may take.
const LOOK: Duration = Duration::from_secs(10);

/// The certificates that a server has shown. Nobody has vouched for them.
#[derive(Debug, Clone)]
pub struct Shown {
    name: ServerName<'static>,
    chain: Vec<CertificateDer<'static>>,
}

/// Why nothing was shown.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// Nobody answers there.
    #[error(transparent)]
    Away(#[from] std::io::Error),
    /// It answers, but no TLS comes about.
    #[error(transparent)]
    Tls(TlsFailure),
    /// It takes too long.
    #[error("it doesn't answer with a certificate")]
    Silent,
}

/// Opens a TLS connection that believes anybody and sends nothing but what TLS itself sends, and gives what is shown there.
///
/// # Errors
/// Nobody answers there within 10 s, or not with TLS.
pub async fn look(uri: &Uri) -> Result<Shown, LookError> {
    tokio::time::timeout(LOOK, shown(uri)).await.unwrap_or(Err(LookError::Silent))
}

async fn shown(uri: &Uri) -> Result<Shown, LookError> {
    let other = |why: String| LookError::Tls(TlsFailure::Other(why));
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(|e| other(e.to_string()))?;
    let seen = Arc::new(Seen {
        provider: Arc::new(rustls::crypto::ring::default_provider()),
        chain: Mutex::default(),
    });
    let believes: Arc<dyn ServerCertVerifier> = seen.clone();
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&seen.provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| other(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(believes)
        .with_no_client_auth();
    config.alpn_protocols.push(b"h2".to_vec());
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream).await;
    let chain = std::mem::take(&mut *seen.chain.lock().unwrap_or_else(PoisonError::into_inner));
    match connected {
        Err(error) => Err(TlsFailure::of(&error).map_or(LookError::Away(error), LookError::Tls)),
        Ok(_) if chain.is_empty() => Err(other("it shows no certificate".to_owned())),
        Ok(_) => Ok(Shown { name, chain }),
    }
}

impl Shown {
    /// Whether those who are trusted vouch for it, under the name by which it was called.
    ///
    /// # Errors
    /// They don't.
    pub fn check(&self, trust: &Trust) -> Result<(), TlsFailure> {
        let roots = trust.roots();
        if roots.is_empty() {
            return Err(TlsFailure::Authority);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| TlsFailure::Other(e.to_string()))?;
        let [first, others @ ..] = self.chain.as_slice() else { return Err(TlsFailure::Authority) };
        let checked = verifier.verify_server_cert(first, others, &self.name, &[], UnixTime::now());
        checked.map(drop).map_err(|e| TlsFailure::from(&e))
    }

    /// What the server's own certificate is known by.
    pub fn first(&self) -> Option<Fingerprint> {
        self.chain.first().map(|der| Fingerprint::of(der))
    }

    /// The certificate that vouches for the others, as far as they are shown: its fingerprint, and itself as PEM.
    pub fn authority(&self) -> Option<(Fingerprint, String)> {
        self.chain.last().map(|der| (Fingerprint::of(der), to_pem(der)))
    }

    /// The one of this fingerprint, as PEM.
    pub fn find(&self, fingerprint: Fingerprint) -> Option<String> {
        self.chain.iter().find(|der| Fingerprint::of(der) == fingerprint).map(|der| to_pem(der))
    }
}

/// Believes anybody, and keeps what was shown. That the server has the key of its certificate is checked.
#[derive(Debug)]
struct Seen {
    provider: Arc<CryptoProvider>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end_entity).chain(intermediates);
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) =
            chain.map(|der| der.clone().into_owned()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
