//! Why no TLS came about, told so that somebody can do something.

use std::error::Error;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, InvalidMessage};

/// Why a server isn't believed, or can't be talked to with TLS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsFailure {
    /// Its certificate leads to no CA that is trusted.
    #[error("its certificate is of no CA that is trusted here")]
    Authority,
    /// It is called by a name that isn't in its certificate.
    #[error(
        "its certificate is for {}, not for {expected}: call it by one of these, or let its owner add the name to \
         [tls] names",
        presented.join(", ")
    )]
    Name {
        /// As it was called.
        expected: String,
        /// As its certificate calls it.
        presented: Vec<String>,
    },
    /// The certificate's time is over, by this machine's clock.
    #[error(
        "its certificate was valid until {until}, and this machine's clock says {now}: one of the two is wrong \
         (`timedatectl` shows the clock)"
    )]
    Ended {
        /// Its last moment.
        until: String,
        /// This machine's time.
        now: String,
    },
    /// The certificate's time hasn't come, by this machine's clock.
    #[error(
        "its certificate is valid from {from} on, and this machine's clock says {now}: one of the two is wrong \
         (`timedatectl` shows the clock)"
    )]
    Early {
        /// Its first moment.
        from: String,
        /// This machine's time.
        now: String,
    },
    /// What answers there speaks something else.
    #[error("it speaks no TLS there; if that is as it should be, write http://")]
    Plain,
    /// Something else is wrong.
    #[error("TLS: {0}")]
    Other(String),
}

impl TlsFailure {
    /// Finds it below an error of a connection.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        std::iter::successors(Some(error), |&error| error.source()).find_map(|error| {
            // An io error's own cause is within it, not below it.
            let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            let rustls = error.downcast_ref().or_else(|| within.and_then(|error| error.downcast_ref()))?;
            Some(Self::from(rustls))
        })
    }
}

impl From<&rustls::Error> for TlsFailure {
    fn from(error: &rustls::Error) -> Self {
        let certificate = match error {
            rustls::Error::InvalidCertificate(certificate) => certificate,
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => return Self::Plain,
            other => return Self::Other(other.to_string()),
        };
        match certificate {
            // A CA of the same name with another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Authority,
            CertificateError::NotValidForNameContext { expected, presented } => Self::Name {
                expected: expected.to_str().into_owned(),
                presented: presented.iter().map(|name| bare(name)).collect(),
            },
            CertificateError::ExpiredContext { time, not_after } => {
                Self::Ended { until: shown(*not_after), now: shown(*time) }
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                Self::Early { from: shown(*not_before), now: shown(*time) }
            }
            other => Self::Other(rustls::Error::InvalidCertificate(other.clone()).to_string()),
        }
    }
}

/// `DnsName("localhost")` without what stands around the name.
fn bare(name: &str) -> String {
    let within = name.split_once('(').map_or(name, |(_, within)| within.trim_end_matches(')'));
    within.trim_matches('"').to_owned()
}

fn shown(time: UnixTime) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_found_below_other_errors() {
        let ended = CertificateError::ExpiredContext {
            time: UnixTime::since_unix_epoch(Duration::from_secs(3600)),
            not_after: UnixTime::since_unix_epoch(Duration::ZERO),
        };
        let below = io::Error::other(rustls::Error::InvalidCertificate(ended));
        let text = TlsFailure::of(&below).unwrap().to_string();
        assert!(
            text.contains("until 1970-01-01T00:00:00Z") && text.contains("1970-01-01T01:00:00Z"),
            "{text}"
        );
        assert_eq!(TlsFailure::of(&io::Error::from_raw_os_error(111)), None);
        let plain = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(TlsFailure::of(&plain), Some(TlsFailure::Plain));
        assert_eq!(bare("DnsName(\"localhost\")"), "localhost");
        assert_eq!(bare("IpAddress(::1)"), "::1");
    }
}
