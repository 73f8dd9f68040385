//! `[mail]`: the server by which notices are mailed.

use std::path::PathBuf;

use farm_types::Invalid;
use secrecy::SecretString;
use serde::Deserialize;

/// How a connection to the mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    /// From its first byte on.
    #[default]
    Implicit,
    /// After `STARTTLS`, which has to be offered.
    Starttls,
    /// Not at all: on this machine only.
    None,
}

/// The server by which notices are mailed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    /// Its name or address.
    pub host: String,
    /// `None`: 465, 587 or 25, as `tls` says.
    pub port: Option<u16>,
    /// How connections are encrypted.
    #[serde(default)]
    pub tls: MailTls,
    /// File with the certificates (PEM) of the server's own CA.
    pub ca_file: Option<PathBuf>,
    /// Who signs in there; `None`: nobody has to.
    pub user: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// The password that was in it.
    #[serde(skip)]
    pub password: SecretString,
    /// Whose mail it is: `farm@example.com`, or `Farm <farm@example.com>`.
    pub from: String,
    /// The domains to which mail may go; empty: to all.
    #[serde(default)]
    pub recipients: Vec<String>,
}

impl Mail {
    /// The port that counts.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(match self.tls {
            MailTls::Implicit => 465,
            MailTls::Starttls => 587,
            MailTls::None => 25,
        })
    }

    /// Checks it, and reads its password.
    pub(super) fn complete(&mut self) -> Result<(), Invalid> {
        let is_here = matches!(self.host.as_str(), "localhost" | "127.0.0.1" | "::1" | "[::1]");
        if self.host.is_empty()
            || self.host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/')
        {
            let cure = "write the mail server's name, without a port: that is mail.port";
            return Err(Invalid::new("mail.host", &self.host, cure));
        }
        if self.tls == MailTls::None && !is_here {
            let cure = "without TLS mail may be handed to a server on this machine only; write \"implicit\" or \"starttls\"";
            return Err(Invalid::new("mail.tls", format!("none, for {}", self.host), cure));
        }
        if let Some(wrong) =
            self.recipients.iter().find(|one| one.is_empty() || one.contains(['@', '*', '/', ' ', ',']))
        {
            let cure = "write domains, as example.com: mail goes to addresses of these, and not to those of domains below them";
            return Err(Invalid::new("mail.recipients", wrong, cure));
        }
        match (&self.user, &self.password_file) {
            (Some(_), Some(file)) => {
                let read = std::fs::read_to_string(file).map_err(|e| {
                    Invalid::new("mail.password_file", file.display().to_string(), e.to_string())
                })?;
                self.password = read.trim_end_matches(['\r', '\n']).into();
                Ok(())
            }
            (None, None) => Ok(()),
            (user, _) => {
                let said = user.clone().unwrap_or_default();
                Err(Invalid::new("mail.user", said, "name mail.user and mail.password_file, or neither"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn read(text: &str) -> Result<Mail, Invalid> {
        let mut mail: Mail = toml::from_str(text).unwrap();
        mail.complete().map(|()| mail)
    }

    #[test]
    fn mail_goes_without_tls_on_this_machine_only_and_a_user_has_a_password() {
        let from = "from = 'farm@example.com'";
        let mail = read(&format!("host = 'mail.example'\n{from}")).unwrap();
        assert_eq!((mail.tls, mail.port()), (MailTls::Implicit, 465));
        let here = read(&format!("host = '127.0.0.1'\ntls = 'none'\nport = 2525\n{from}")).unwrap();
        assert_eq!(here.port(), 2525);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "hunter22\n").unwrap();
        let login = format!("host = 'mail.example'\nuser = 'farm'\npassword_file = {file:?}\n{from}");
        let mail = read(&login).unwrap();
        assert_eq!(mail.password.expose_secret(), "hunter22");
        assert!(!format!("{mail:?}").contains("hunter22"));
        for (wrong, word) in [
            (format!("host = 'mail.example'\ntls = 'none'\n{from}"), "starttls"),
            (format!("host = 'mail.example'\nuser = 'farm'\n{from}"), "mail.password_file"),
            (
                format!("host = 'mail.example:25'\nuser = 'farm'\npassword_file = '/nonexistent'\n{from}"),
                "/nonexistent",
            ),
            (format!("host = 'https://mail.example'\n{from}"), "mail.port"),
            (format!("host = 'mail.example'\n{from}\nrecipients = ['@example.com']"), "example.com"),
        ] {
            let error = read(&wrong).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
        assert!(toml::from_str::<Mail>("host = 'mail.example'").is_err(), "whose mail it is has to be said");
    }
}
