//! The farm's own CAs: made at the first start, and kept in the state folder. With one this coordinator's certificate is made,
//! with the other ([`Purpose::Workers`]) those of workers, so that neither can be taken for the other.
//!
//! `ca.key` (mode 0600) has the key and the certificate together, so that coordinators which start at once agree on both;
//! `ca.pem` is the certificate alone, for handing out. To begin with a new CA: stop all, delete the folder, start; clients
//! then say that it has changed.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use farm_client::{Fingerprint, to_pem};
use farm_types::Digest;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the CA is good for.
const AUTHORITY: Duration = Duration::from_secs(3650 * 24 * 3600);
/// How long a certificate is good for.
pub const CERTIFICATE: Duration = Duration::from_secs(90 * 24 * 3600);
/// So long before its making a certificate is good: the clocks of a farm aren't all right.
const SKEW: Duration = Duration::from_secs(3600);

/// For whom a CA makes certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The farm's coordinators.
    Coordinators,
    /// The farm's workers.
    Workers,
    /// Nobody: it signs tokens of the staging registry.
    Staging,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Coordinators => "farm CA",
            Self::Workers => "farm workers' CA",
            Self::Staging => "farm staging",
        }
    }
}

/// A CA of the farm's.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    /// Its certificate, for handing out.
    file: PathBuf,
}

impl Authority {
    /// Takes it from this folder; makes it when it isn't there.
    ///
    /// # Errors
    /// The folder can't be used, or what is there is no CA.
    pub fn open(folder: &Path, purpose: Purpose) -> anyhow::Result<Self> {
        let secret = folder.join("ca.key");
        let text = match std::fs::read_to_string(&secret) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(&secret, purpose)?,
            Err(error) => return Err(error).with_context(|| secret.display().to_string()),
        };
        let unfit = || {
            format!(
                "{} isn't what farm has written there; with a copy of it all is as before, without it \
                                the farm makes a new CA",
                secret.display()
            )
        };
        let key = KeyPair::from_pem(&text).with_context(unfit)?;
        let der = CertificateDer::from_pem_slice(text.as_bytes()).with_context(unfit)?;
        let mode = std::fs::metadata(&secret)?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(file = %secret.display(), "the farm's CA can be used by others on this machine; chmod 600");
        }
        let file = folder.join("ca.pem");
        let pem = to_pem(&der);
        if std::fs::read_to_string(&file).ok().as_deref() != Some(&pem) {
            let beside = beside(&file);
            std::fs::write(&beside, &pem)?;
            std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o644))?;
            std::fs::rename(&beside, &file)?;
        }
        Ok(Self { issuer: Issuer::new(params(&key, purpose), key), der, file })
    }

    /// Its key, as PKCS#8.
    pub fn key(&self) -> Vec<u8> {
        self.issuer.key().serialize_der()
    }

    /// Its certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// What it is known by, and the file with its certificate.
    pub fn shown(&self) -> (Fingerprint, PathBuf) {
        (Fingerprint::of(&self.der), self.file.clone())
    }

    /// A certificate for a server of these names, good for [`CERTIFICATE`] from `now` on, and its new key.
    ///
    /// # Errors
    /// One of the names is none.
    pub fn issue(&self, names: &[String], now: SystemTime) -> anyhow::Result<CertifiedKey> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = called("farm coordinator");
        params.not_before = date_time_ymd(1970, 1, 1) + since_1970(now - SKEW);
        params.not_after = date_time_ymd(1970, 1, 1) + since_1970(now + CERTIFICATE);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        // The CA goes with it, so that `farm login` can show whose it is.
        let chain = vec![certificate.der().clone(), self.der.clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())?)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("file", &self.file).finish_non_exhaustive()
    }
}

/// A worker's public key, as it sends it: a point of P-256, uncompressed (SEC 1, section 2.3.3).
#[derive(Debug)]
pub struct PublicPoint<'a>(&'a [u8]);

impl<'a> PublicPoint<'a> {
    /// Takes what could be one. Whether the worker has its key shows with the first handshake.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() == 65 && bytes.first() == Some(&4)).then_some(Self(bytes))
    }
}

impl PublicKeyData for PublicPoint<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl Authority {
    /// A certificate for a worker of this name and key, from `now` on for so long: itself, then the CA's.
    ///
    /// # Errors
    /// It can't be signed.
    pub fn issue_worker(
        &self,
        name: &str,
        machine: &str,
        key: &PublicPoint<'_>,
        now: SystemTime,
        lives: Duration,
    ) -> anyhow::Result<[CertificateDer<'static>; 2]> {
        let mut params = CertificateParams::default();
        params.distinguished_name = called(name);
        params.distinguished_name.push(DnType::OrganizationalUnitName, machine);
        params.distinguished_name.push(DnType::OrganizationName, "farm worker");
        params.not_before = date_time_ymd(1970, 1, 1) + since_1970(now - SKEW);
        params.not_after = date_time_ymd(1970, 1, 1) + since_1970(now + lives);
        let serial: [u8; 16] = rand::random();
        params.serial_number = Some(serial.to_vec().into());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok([certificate.der().clone(), self.der.clone()])
    }
}

/// Makes the file with key and certificate, whole or not at all; another coordinator may be first, and then it is its.
fn make(secret: &Path, purpose: Purpose) -> anyhow::Result<String> {
    let folder = secret.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let key = KeyPair::generate()?;
    let now = SystemTime::now();
    let mut params = params(&key, purpose);
    params.not_before = date_time_ymd(1970, 1, 1) + since_1970(now - DAY);
    params.not_after = date_time_ymd(1970, 1, 1) + since_1970(now + AUTHORITY);
    let certificate = params.self_signed(&key)?;
    let text = key.serialize_pem() + &to_pem(certificate.der());
    let beside = beside(secret);
    let written = (|| {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::hard_link(&beside, secret)
    })();
    let _ = std::fs::remove_file(&beside);
    match written {
        Ok(()) => {
            tracing::info!(folder = %folder.display(), "the farm has made its own CA ({})", purpose.name());
            Ok(text)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Ok(std::fs::read_to_string(secret)?)
        }
        Err(error) => Err(error).with_context(|| secret.display().to_string()),
    }
}

/// Another name in the same folder, of no other process.
fn beside(file: &Path) -> PathBuf {
    let random: [u8; 8] = rand::random();
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    file.with_extension(format!("{random}.new"))
}

/// What the CA is, but for its time. All follows from its key, so it needn't be read out of its certificate.
fn params(key: &KeyPair, purpose: Purpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    let known: String = Digest::of(key.public_key_raw()).hex().chars().take(8).collect();
    params.distinguished_name = called(&format!("{} {known}", purpose.name()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_coordinators_of_a_folder_have_one_ca_and_its_key_is_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("tls");
        let shown: Vec<Fingerprint> = std::thread::scope(|scope| {
            let open = || Authority::open(&folder, Purpose::Coordinators).unwrap().shown().0;
            let starting: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            starting.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(shown.iter().all(|one| *one == shown[0]), "{shown:?}");
        let mode = |name: &str| std::fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("ca.key"), mode("ca.pem")), (0o600, 0o644));
        let files: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
        assert_eq!(files.len(), 2, "{files:?}");
        let pem = std::fs::read_to_string(folder.join("ca.pem")).unwrap();
        assert!(!pem.contains("PRIVATE"));
        assert_eq!(farm_client::Trust::from_pem(&pem, "").unwrap().fingerprints(), shown[..1]);
        std::fs::write(folder.join("ca.key"), "nothing").unwrap();
        let error = format!("{:#}", Authority::open(&folder, Purpose::Coordinators).err().unwrap());
        assert!(error.contains("ca.key") && error.contains("a copy"), "{error}");
    }
}
