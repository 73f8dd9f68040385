//! The certificate that is shown to new connections now.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use anyhow::Context as _;
use farm_client::Fingerprint;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::authority::{Authority, CERTIFICATE, Purpose};
use crate::config::Config;

/// More addresses than a machine has; who finds others by some trick must not make the certificate long.
const MOST_ADDRESSES: usize = 64;

/// What is shown, and where it comes from.
pub struct Held {
    shown: RwLock<Arc<CertifiedKey>>,
    source: Source,
}

enum Source {
    /// The farm's own CA.
    Own { authority: Box<Authority>, config: Box<Config>, issued: Mutex<Issued> },
    /// Files of one's own PKI, and what stood in them when they were last looked at.
    Files { certificate: PathBuf, key: PathBuf, seen: Mutex<Seen> },
}

/// For what a certificate was made.
struct Issued {
    names: Vec<String>,
    at: SystemTime,
    /// Addresses at which this machine was called, besides those that are known.
    addresses: Vec<String>,
}

/// What stood in certificate and key.
type Read = (Vec<u8>, Vec<u8>);

struct Seen {
    files: Read,
    /// What was wrong with them, and was told.
    trouble: Option<String>,
}

impl Held {
    /// As the configuration says.
    ///
    /// # Errors
    /// A certificate or key can't be read, made or used.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        if let (Some(certificate), Some(key)) = (&config.tls.certificate, &config.tls.key) {
            let files = read(certificate, key)?;
            let shown = RwLock::new(Arc::new(pair(&files, certificate, key)?));
            let seen = Mutex::new(Seen { files, trouble: None });
            return Ok(Self {
                shown,
                source: Source::Files { certificate: certificate.clone(), key: key.clone(), seen },
            });
        }
        let folder = config.state_dir.join("tls");
        let authority = Authority::open(&folder, Purpose::Coordinators)
            .with_context(|| format!("the farm's own CA in {} can't be used", folder.display()))?;
        let issued = Issued { names: config.names(), at: SystemTime::now(), addresses: Vec::new() };
        let shown = RwLock::new(Arc::new(authority.issue(&issued.names, issued.at)?));
        let (authority, config) = (Box::new(authority), Box::new(config.clone()));
        Ok(Self { shown, source: Source::Own { authority, config, issued: Mutex::new(issued) } })
    }

    /// The farm's own CA, if it has one.
    pub fn own(&self) -> Option<&CertificateDer<'static>> {
        match &self.source {
            Source::Own { authority, .. } => Some(authority.der()),
            Source::Files { .. } => None,
        }
    }

    /// The CA that clients have to trust, as far as it is shown, and the file it is in.
    pub fn authority(&self) -> Option<(Fingerprint, PathBuf)> {
        match &self.source {
            Source::Own { authority, .. } => Some(authority.shown()),
            Source::Files { certificate, .. } => {
                let last = self.shown().cert.last().map(|der| Fingerprint::of(der))?;
                Some((last, certificate.clone()))
            }
        }
    }

    /// Looks whether another certificate has to be shown, and shows it.
    pub fn look(&self) {
        match &self.source {
            Source::Own { .. } => self.renew(None),
            Source::Files { certificate, key, seen } => {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                let looked = read(certificate, key).and_then(|now| {
                    if now == seen.files {
                        return Ok(());
                    }
                    seen.files.clone_from(&now);
                    self.show(pair(&now, certificate, key)?);
                    tracing::info!(file = %certificate.display(), "another certificate is shown from now on");
                    Ok(())
                });
                // What can't be used is told once, and the former certificate stays.
                let trouble = looked.err().map(|error| format!("{error:#}"));
                if let Some(error) = trouble.as_ref().filter(|_| trouble != seen.trouble) {
                    tracing::warn!(
                        error,
                        "the certificate that is there now can't be used; the former one is shown"
                    );
                }
                seen.trouble = trouble;
            }
        }
    }

    /// Makes the certificate bear this address of this machine's, at which it is called.
    pub fn bear(&self, address: IpAddr) {
        self.renew(Some(address.to_canonical().to_string()));
    }

    /// Makes another certificate if the names have changed, this address isn't among them, or it is old.
    fn renew(&self, address: Option<String>) {
        let Source::Own { authority, config, issued } = &self.source else { return };
        let mut issued = issued.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = address {
            if issued.names.contains(&address) || issued.addresses.len() >= MOST_ADDRESSES {
                return;
            }
            issued.addresses.push(address);
        }
        let mut names = config.names();
        for address in &issued.addresses {
            if !names.contains(address) {
                names.push(address.clone());
            }
        }
        let now = SystemTime::now();
        // A clock that was set back makes it one of the future.
        let is_young = now.duration_since(issued.at).is_ok_and(|age| age < CERTIFICATE * 2 / 3);
        if is_young && names == issued.names {
            return;
        }
        match authority.issue(&names, now) {
            Ok(made) => {
                self.show(made);
                tracing::info!(names = names.join(","), "another certificate is shown from now on");
                (issued.names, issued.at) = (names, now);
            }
            // The next call or look tries again.
            Err(error) => tracing::warn!("no certificate could be made; the former one is shown: {error:#}"),
        }
    }

    fn shown(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn show(&self, certified: CertifiedKey) {
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certified);
    }
}

impl ResolvesServerCert for Held {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown())
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held(…)")
    }
}

fn read(certificate: &Path, key: &Path) -> anyhow::Result<Read> {
    let read = |file: &Path| std::fs::read(file).with_context(|| format!("{} can't be read", file.display()));
    Ok((read(certificate)?, read(key)?))
}

/// The certificates and the key of two files.
///
/// # Errors
/// They hold none, or don't belong together.
fn pair(seen: &Read, certificate: &Path, key: &Path) -> anyhow::Result<CertifiedKey> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&seen.0)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is no PEM file", certificate.display()))?;
    anyhow::ensure!(!chain.is_empty(), "{} holds no certificate in PEM", certificate.display());
    let secret = PrivateKeyDer::from_pem_slice(&seen.1)
        .with_context(|| format!("{} holds no private key in PEM", key.display()))?;
    CertifiedKey::from_der(chain, secret, &rustls::crypto::ring::default_provider())
        .with_context(|| format!("{} and {} can't be used together", certificate.display(), key.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &Path, more: &str) -> Config {
        let text =
            format!("database_url = 'x'\nstate_dir = '{}'\n[tls]\nmode = 'on'\n{more}", folder.display());
        let file = folder.join("farm.toml");
        std::fs::write(&file, text).unwrap();
        let flags = clap::Parser::parse_from(["farm-coordinator", "--config", file.to_str().unwrap()]);
        Config::load(&flags).unwrap()
    }

    #[test]
    fn a_certificate_is_made_anew_in_time_and_for_other_names() {
        let folder = tempfile::tempdir().unwrap();
        let held = Held::open(&config(folder.path(), "names = ['farm.example']")).unwrap();
        let Source::Own { issued, .. } = &held.source else { panic!("it is its own") };
        assert!(issued.lock().unwrap().names.contains(&"farm.example".to_owned()));
        let leaf = || held.shown().cert[0].clone();
        let first = leaf();
        held.look();
        held.bear("127.0.0.1".parse().unwrap());
        held.bear("::ffff:127.0.0.1".parse().unwrap());
        assert_eq!(leaf(), first, "nothing has changed");
        held.bear("192.0.2.1".parse().unwrap());
        let second = leaf();
        assert_ne!(second, first);
        held.bear("192.0.2.1".parse().unwrap());
        assert_eq!(leaf(), second, "it bears it already");
        let age = |days: u32| issued.lock().unwrap().at = SystemTime::now() - CERTIFICATE / 90 * days;
        age(59);
        held.look();
        assert_eq!(leaf(), second);
        age(61);
        held.look();
        let third = leaf();
        assert_ne!(third, second);
        // The clock was wrong when it was made, and is right now.
        issued.lock().unwrap().at = SystemTime::now() + CERTIFICATE;
        held.look();
        assert_ne!(leaf(), third);
        assert!(issued.lock().unwrap().names.contains(&"192.0.2.1".to_owned()));
    }

    #[test]
    fn files_are_taken_anew_once_they_belong_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let make = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let (one, two) = (make("one"), make("two"));
        std::fs::write(path("c.pem"), &one.0).unwrap();
        std::fs::write(path("k.pem"), &one.1).unwrap();
        let files = format!("certificate = '{0}/c.pem'\nkey = '{0}/k.pem'", folder.path().display());
        let config = config(folder.path(), &files);
        let held = Held::open(&config).unwrap();
        let leaf = || held.shown().cert[0].clone();
        let first = leaf();
        std::fs::write(path("c.pem"), &two.0).unwrap();
        held.look();
        assert_eq!(leaf(), first, "the key is still the other's");
        std::fs::write(path("k.pem"), &two.1).unwrap();
        held.look();
        assert_ne!(leaf(), first);
        std::fs::remove_file(path("c.pem")).unwrap();
        held.look();
        std::fs::write(path("c.pem"), "").unwrap();
        held.look();
        assert_ne!(leaf(), first, "what can't be used changes nothing");
        let error = format!("{:#}", Held::open(&config).err().unwrap());
        assert!(error.contains("c.pem holds no certificate"), "{error}");
        std::fs::write(path("c.pem"), &one.0).unwrap();
        let error = format!("{:#}", Held::open(&config).err().unwrap());
        assert!(error.contains("c.pem") && error.contains("k.pem") && error.contains("together"), "{error}");
    }
}
