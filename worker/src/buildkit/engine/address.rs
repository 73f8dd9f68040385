//! Where an engine is, and what it is part of.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use farm_types::Invalid;

/// The address of an engine, as `--engine` takes it:
///
/// * `unix:///path/docker.sock` or `unix:///path/buildkitd.sock`: which of the two it is, is found out;
/// * `tcp://host:port?ca=FILE&cert=FILE&key=FILE[&name=NAME]`: a buildkitd with mutual TLS. `name` is the name
///   in its certificate when that isn't the host.
///
/// It holds paths of keys, never keys, so it may be printed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EngineAddress(pub(super) Place);

/// The kinds of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// A socket of this machine.
    Unix(PathBuf),
    /// A port with mutual TLS.
    Tcp { authority: String, ca: PathBuf, cert: PathBuf, key: PathBuf, name: Option<String> },
}

/// What to write instead.
const FORMS: &str = "write unix:///PATH, or tcp://HOST:PORT?ca=FILE&cert=FILE&key=FILE";

impl FromStr for EngineAddress {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |cure: String| Invalid::new("engine address", text, cure);
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(invalid(format!("the socket's path must be absolute: unix:///{path}")));
            }
            return Ok(Self(Place::Unix(path.into())));
        }
        let Some(rest) = text.strip_prefix("tcp://") else {
            let guess =
                if text.starts_with('/') { format!("; did you mean unix://{text}?") } else { String::new() };
            return Err(invalid(format!("{FORMS}{guess}")));
        };
        let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let port = authority.rsplit_once(':').map(|(_, port)| port);
        if port.is_none_or(|port| port.parse::<u16>().is_err()) {
            return Err(invalid("write the port too, for example tcp://builder1:1234?…".into()));
        }
        let (mut ca, mut cert, mut key, mut name) = (None, None, None, None);
        for (option, value) in query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        {
            let slot = match option {
                "ca" => &mut ca,
                "cert" => &mut cert,
                "key" => &mut key,
                "name" => &mut name,
                _ => {
                    return Err(invalid(format!("unknown option {option:?}; known are ca, cert, key, name")));
                }
            };
            if value.is_empty() {
                return Err(invalid(format!("option {option} is empty")));
            }
            *slot = Some(value.to_owned());
        }
        let (Some(ca), Some(cert), Some(key)) = (ca, cert, key) else {
            return Err(invalid(format!(
                "a port without mutual TLS lets anybody become root there, so ca, cert and key are needed; {FORMS}"
            )));
        };
        Ok(Self(Place::Tcp {
            authority: authority.to_owned(),
            ca: ca.into(),
            cert: cert.into(),
            key: key.into(),
            name,
        }))
    }
}

impl EngineAddress {
    /// Without the files of keys: for users, whom they don't concern.
    pub(crate) fn short(&self) -> String {
        match &self.0 {
            Place::Unix(_) => self.to_string(),
            Place::Tcp { authority, .. } => format!("tcp://{authority}"),
        }
    }
}

impl fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Unix(path) => write!(f, "unix://{}", path.display()),
            Place::Tcp { authority, ca, cert, key, name } => {
                let (ca, cert, key) = (ca.display(), cert.display(), key.display());
                write!(f, "tcp://{authority}?ca={ca}&cert={cert}&key={key}")?;
                name.as_ref().map_or(Ok(()), |name| write!(f, "&name={name}"))
            }
        }
    }
}

/// What an engine is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// The BuildKit inside a Docker engine.
    Docker,
    /// A buildkitd on its own.
    Buildkitd,
}

impl EngineKind {
    /// `docker` or `buildkitd`, as the wire has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Buildkitd => "buildkitd",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back() {
        for text in [
            "unix:///run/docker.sock",
            "tcp://b:1234?ca=/c&cert=/d&key=/e",
            "tcp://[::1]:1?ca=c&cert=d&key=e&name=n",
        ] {
            assert_eq!(text.parse::<EngineAddress>().unwrap().to_string(), text);
        }
        let short = |text: &str| text.parse::<EngineAddress>().unwrap().short();
        assert_eq!(short("tcp://b:1234?ca=/c&cert=/d&key=/e"), "tcp://b:1234");
        assert_eq!(short("unix:///run/docker.sock"), "unix:///run/docker.sock");
    }

    #[test]
    fn a_wrong_address_is_answered_with_the_cure() {
        let error = |text: &str| text.parse::<EngineAddress>().unwrap_err().to_string();
        assert!(error("/run/docker.sock").contains("unix:///run/docker.sock?"));
        assert!(error("unix://run/x").contains("absolute"));
        assert!(error("tcp://b").contains("port"));
        assert!(error("tcp://b:1234").contains("root"));
        assert!(error("tcp://b:1234?ca=1&cert=2&kez=3").contains("kez"));
        assert!(error("http://b").contains("unix:///PATH"));
    }
}
