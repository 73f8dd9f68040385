//! Whom an `https` address has to convince: the system's CAs, or those of one farm.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use tonic::transport::{Certificate, ClientTlsConfig};

/// Whose certificates are believed.
#[derive(Debug, Clone, Default)]
pub enum Trust {
    /// The CAs that the system trusts.
    #[default]
    System,
    /// These, and no other.
    Only(Authorities),
}

/// At least one CA.
#[derive(Debug, Clone)]
pub struct Authorities {
    pem: Arc<str>,
    certificates: Arc<[CertificateDer<'static>]>,
}

/// Why a text or a file names no CA.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It can't be read.
    #[error("the CA file {file} can't be read: {why}")]
    File {
        /// Which one.
        file: PathBuf,
        /// The system's reason.
        why: std::io::Error,
    },
    /// It isn't what is needed.
    #[error("{0} holds no CA: a PEM file is needed, with -----BEGIN CERTIFICATE-----")]
    Empty(String),
    /// A certificate in it can't be taken.
    #[error("{place} holds a certificate that can't be taken: {why}")]
    Unfit {
        /// Where it stands.
        place: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Trust {
    /// The CAs in a PEM file, and no others.
    ///
    /// # Errors
    /// It can't be read, or holds none.
    pub fn from_file(file: &Path) -> Result<Self, TrustError> {
        let text =
            std::fs::read_to_string(file).map_err(|why| TrustError::File { file: file.to_owned(), why })?;
        Self::from_pem(&text, &file.display().to_string())
    }

    /// The CAs in a PEM text, and no others; `place` says in errors where it stands.
    ///
    /// # Errors
    /// It holds none.
    pub fn from_pem(text: &str, place: &str) -> Result<Self, TrustError> {
        let unfit = |why: String| TrustError::Unfit { place: place.to_owned(), why };
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| unfit(e.to_string()))?;
        if certificates.is_empty() {
            return Err(TrustError::Empty(place.to_owned()));
        }
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|e| unfit(e.to_string()))?;
        }
        Ok(Self::Only(Authorities { pem: text.into(), certificates: certificates.into() }))
    }

    /// What the CAs are known by; none of the system's.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        match self {
            Self::System => Vec::new(),
            Self::Only(own) => own.certificates.iter().map(|der| Fingerprint::of(der)).collect(),
        }
    }

    /// The same for tonic.
    pub(crate) fn tls(&self) -> ClientTlsConfig {
        match self {
            Self::System => ClientTlsConfig::new().with_native_roots(),
            Self::Only(own) => {
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(own.pem.as_bytes()))
            }
        }
    }

    /// The same for rustls.
    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        match self {
            // What can't be parsed, or read, is none that could be trusted.
            Self::System => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
            Self::Only(own) => roots.add_parsable_certificates(own.certificates.iter().cloned()),
        };
        roots
    }
}

/// What a certificate is known by: the SHA-256 of its DER, which `openssl x509 -noout -fingerprint -sha256` shows too.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// The text is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write SHA256: and 64 hexadecimal digits, as farm-coordinator prints it when it starts")]
pub struct NoFingerprint;

impl Fingerprint {
    /// Of a certificate, DER.
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SHA256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    /// Takes what is printed here, and what openssl prints: colons between, capitals.
    fn from_str(text: &str) -> Result<Self, NoFingerprint> {
        let text = text.trim();
        let digits = match text.split_at_checked(7) {
            Some((start, rest)) if start.eq_ignore_ascii_case("SHA256:") => rest,
            _ => text,
        };
        let digits: Vec<u32> = digits
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16).ok_or(NoFingerprint))
            .collect::<Result<_, _>>()?;
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| match pair {
                [high, low] => u8::try_from(high * 16 + low).map_err(|_| NoFingerprint),
                _ => Err(NoFingerprint),
            })
            .collect::<Result<_, _>>()?;
        bytes.try_into().map(Self).map_err(|_| NoFingerprint)
    }
}

/// A certificate as PEM.
pub fn to_pem(der: &[u8]) -> String {
    pem("CERTIFICATE", der)
}

/// A private key (PKCS #8) as PEM.
pub fn key_to_pem(der: &[u8]) -> String {
    pem("PRIVATE KEY", der)
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = STANDARD.encode(der);
    while !rest.is_empty() {
        let after = rest.split_off(rest.len().min(64));
        text += &rest;
        text.push('\n');
        rest = after;
    }
    text + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_it_is_printed_here_and_by_openssl() {
        let fingerprint = Fingerprint::of(b"x");
        let text = fingerprint.to_string();
        assert_eq!(text, "SHA256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881");
        let digits = &text[7..];
        let pairs: Vec<&str> = (0..32).map(|i| &digits[2 * i..2 * i + 2]).collect();
        for form in
            [text.clone(), format!(" {digits}\n"), pairs.join(":").to_uppercase(), text.to_lowercase()]
        {
            assert_eq!(form.parse(), Ok(fingerprint), "{form}");
        }
        for wrong in ["", "SHA256:", "SHA256:2d71", &text[..70], "MD5:00", &format!("{digits}00")] {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(NoFingerprint), "{wrong}");
        }
    }

    #[test]
    fn a_file_without_a_ca_is_told_by_its_name() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let pem = to_pem(certificate.der());
        let trust = Trust::from_pem(&pem, "here").unwrap();
        assert_eq!(trust.fingerprints(), [Fingerprint::of(certificate.der())]);
        assert_eq!(Trust::from_pem(&format!("{pem}{pem}"), "here").unwrap().fingerprints().len(), 2);
        let error = |text: &str| Trust::from_pem(text, "ca.pem").unwrap_err().to_string();
        assert!(error("").contains("ca.pem holds no CA"));
        assert!(error(&key.serialize_pem()).contains("holds no CA"));
        assert!(error(&to_pem(b"nothing of a certificate")).contains("can't be taken"));
        let none = Trust::from_file(Path::new("/nowhere/ca.pem")).unwrap_err().to_string();
        assert!(none.contains("/nowhere/ca.pem"), "{none}");
    }
}
