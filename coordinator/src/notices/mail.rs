//! Mail: plain text, handed to the one server that the configuration names. The library sees to what stands in headers (RFC 5322, 2047).

use std::sync::Arc;

use farm_types::Invalid;
use farm_types::text::{first_line, harmless};
use lettre::Message;
use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Mailboxes};
use uuid::Uuid;

use super::said::{Head, Line, Said, What};
use super::sent::{Answer, Sent};
use super::smtp::{CONTENT, CONTENT_OF_TEST, Server};
use crate::config::Mail;

/// So many addresses a notice has at most.
pub const MOST: usize = 20;
/// The longest address, bytes (RFC 5321, 4.5.3.1.3).
const LONGEST: usize = 254;
/// The longest subject, characters.
const LONGEST_SUBJECT: usize = 150;

/// Hands mail to the server. Cheap to clone.
#[derive(Clone)]
pub struct Mailer(Arc<Inner>);

struct Inner {
    from: Mailbox,
    server: Server,
    /// Domains that mail may go to; empty: to all.
    recipients: Vec<String>,
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailer").field("from", &self.0.from).finish_non_exhaustive()
    }
}

/// An address of somebody's.
///
/// # Errors
/// It is none.
pub fn check(address: &str) -> Result<(), Invalid> {
    let is_fit = address.len() <= LONGEST && address.is_ascii() && address.parse::<lettre::Address>().is_ok();
    if !is_fit {
        return Err(Invalid::new("address", address, "write it as ada@example.com"));
    }
    // The mail server would be sent to a machine that farm itself may not ask.
    let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
    if domain.starts_with('[') || domain.parse::<std::net::IpAddr>().is_ok() {
        return Err(Invalid::new(
            "address",
            address,
            "write a domain's name behind the @, as ada@example.com",
        ));
    }
    Ok(())
}

impl Mailer {
    /// By the server of the configuration; nothing is connected yet.
    ///
    /// # Errors
    /// The sender is none, or the certificates can't be taken.
    pub fn new(config: &Mail) -> Result<Self, Invalid> {
        let from: Option<Mailbox> = config.from.parse().ok();
        // Others need a server that speaks SMTPUTF8.
        let from = from.filter(|from| AsRef::<str>::as_ref(&from.email).is_ascii()).ok_or_else(|| {
            let cure = "write whose mail it is, as farm@example.com or Farm <farm@example.com>";
            Invalid::new("mail.from", &config.from, cure)
        })?;
        let server = Server::new(config, from.email.domain())?;
        let recipients = config.recipients.clone();
        Ok(Self(Arc::new(Inner { from, server, recipients })))
    }

    /// Whether mail may go to an address, by the configuration.
    ///
    /// # Errors
    /// It may not.
    pub fn allows(&self, address: &str) -> Result<(), Invalid> {
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        let recipients = &self.0.recipients;
        if recipients.is_empty() || recipients.iter().any(|one| one.eq_ignore_ascii_case(domain)) {
            return Ok(());
        }
        let cure = format!(
            "this farm mails to {} only, which whoever runs it has said by mail.recipients",
            recipients.join(", ")
        );
        Err(Invalid::new("address", address, cure))
    }

    /// Mails something to these, under this id. Cancelled, it may have been sent.
    pub async fn send(&self, addresses: &[String], said: &Said<'_>, id: Uuid) -> Answer {
        if let Some(refused) = addresses.iter().find_map(|one| self.allows(one).err()) {
            return Answer::wordless(Sent::Never(refused.to_string()));
        }
        let mail = match self.mail(addresses, said, id) {
            Ok(mail) => mail,
            Err(why) => return Answer::wordless(Sent::Never(why)),
        };
        let patience = if said.what == What::Test { CONTENT_OF_TEST } else { CONTENT };
        self.0.server.send(&mail, patience).await
    }

    fn mail(&self, addresses: &[String], said: &Said<'_>, id: Uuid) -> Result<Message, String> {
        let to: Result<Vec<Mailbox>, _> = addresses.iter().map(|one| one.parse()).collect();
        let to: Mailboxes = to.map_err(|_| "an address can't be one".to_owned())?.into();
        Message::builder()
            .from(self.0.from.clone())
            .mailbox(lettre::message::header::To::from(to))
            .subject(subject(said))
            .message_id(Some(format!("<{}@{}>", id.simple(), self.0.from.email.domain())))
            // RFC 3834: no holiday is told of to it.
            .header(AutoSubmitted)
            .header(ContentType::TEXT_PLAIN)
            .body(text(said))
            .map_err(|error| format!("no mail can be made of it: {error}"))
    }
}

/// `Auto-Submitted: auto-generated`.
#[derive(Debug, Clone, Copy)]
struct AutoSubmitted;

impl lettre::message::header::Header for AutoSubmitted {
    fn name() -> lettre::message::header::HeaderName {
        lettre::message::header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> lettre::message::header::HeaderValue {
        lettre::message::header::HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// One line, of whatever is in it.
fn subject(said: &Said<'_>) -> String {
    let rest = match (said.head(), &said.what) {
        (Some(Head { name, verb, git_ref, commit }), _) => {
            let at = git_ref.map(|at| format!(" at {at}")).unwrap_or_default();
            let commit = commit.map(|commit| format!(" ({commit})")).unwrap_or_default();
            format!("{name} {verb}{at}{commit}")
        }
        (None, What::Test) => "a sample".to_owned(),
        (None, _) => "what else has ended in this hour".to_owned(),
    };
    let line: String = rest.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    harmless(&format!("[farm] {}: {}", said.project, first_line(&line, LONGEST_SUBJECT)))
}

fn text(said: &Said<'_>) -> String {
    let lines = said.lines().into_iter().map(|line| match line {
        Line::Own(text) => text,
        Line::Foreign("", text) => harmless(&text),
        Line::Foreign(word, text) => format!("{word}: {}", harmless(&text)),
    });
    let page = said.page.iter().map(|page| format!("\n{page}"));
    let mut text = lines.chain(page).collect::<Vec<_>>().join("\n");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use farm_types::NoticeOn;

    use super::super::facts::{Build, Facts, Failed, Git, Hook};
    use super::*;
    use crate::config::MailTls;

    fn config(tls: MailTls, host: &str) -> Mail {
        Mail {
            host: host.to_owned(),
            port: None,
            tls,
            ca_file: None,
            user: None,
            password_file: None,
            password: Default::default(),
            from: "Farm <farm@example.com>".to_owned(),
            recipients: Vec::new(),
        }
    }

    #[tokio::test]
    async fn no_text_of_a_repositorys_makes_a_header() {
        let evil = "main\r\nBcc: eve@example.com\r\n\r\nHello \u{202e}";
        let facts = Facts {
            build: Some(Build { id: "7f3k2m".to_owned(), by: evil.to_owned(), ..Build::default() }),
            failure: Some(Failed { message: format!(".\r\n{evil}"), ..Failed::default() }),
            git: Some(Git { full_ref: Some(format!("refs/heads/{evil}")), ..Git::default() }),
            hook: Some(Hook { image: Some(evil.to_owned()), ..Hook::default() }),
            ..Facts::default()
        };
        let what = What::End(NoticeOn::Failure, Box::new(facts));
        let said = Said { what, project: "web", page: None, at: DateTime::UNIX_EPOCH };
        let mailer = Mailer::new(&config(MailTls::None, "127.0.0.1")).unwrap();
        let to = ["ada@example.com".to_owned(), "bob@example.com".to_owned()];
        let mail = mailer.mail(&to, &said, Uuid::nil()).unwrap();
        let sent = String::from_utf8(mail.formatted()).unwrap();
        let (head, body) = sent.split_once("\r\n\r\n").unwrap();
        let names: Vec<&str> = head
            .split("\r\n")
            .filter(|line| !line.starts_with([' ', '\t']))
            .map(|line| line.split(':').next().unwrap())
            .collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            [
                "Auto-Submitted",
                "Content-Transfer-Encoding",
                "Content-Type",
                "Date",
                "From",
                "Message-ID",
                "Subject",
                "To"
            ],
            "{head}"
        );
        assert_eq!(mail.envelope().to().len(), 2);
        assert!(!body.contains("\r\nBcc"), "{body}");
        let known = Facts {
            hook: Some(Hook { image: Some("app".to_owned()), ..Hook::default() }),
            git: Some(Git {
                full_ref: Some("refs/heads/main".to_owned()),
                commit: Some("1f2e3d4c".to_owned()),
                ..Git::default()
            }),
            ..Facts::default()
        };
        let what = What::End(NoticeOn::Failure, Box::new(known));
        assert_eq!(subject(&Said { what, ..said }), "[farm] web: app failed at main (1f2e3d4)");
    }

    #[test]
    fn what_is_no_address_is_refused_and_so_is_a_sender_that_is_none() {
        for address in ["ada@example.com", "a.b+c@mail.example"] {
            check(address).unwrap();
        }
        for address in [
            "",
            "ada",
            "ada@example.com,bob@example.com",
            "ada@example.com\r\nBcc: x@y.z",
            "Ada <ada@example.com>",
            // Where a mail server would be sent to a machine of its own network.
            "ada@[10.0.0.5]",
            "ada@[IPv6:fd00::1]",
            "ada@10.0.0.5",
        ] {
            assert!(check(address).is_err(), "{address}");
        }
        let recipients = vec!["Example.com".to_owned()];
        let mailer = Mailer::new(&Mail { recipients, ..config(MailTls::None, "localhost") }).unwrap();
        mailer.allows("ada@example.COM").unwrap();
        for address in ["ada@sub.example.com", "ada@example.org", "ada"] {
            assert!(mailer.allows(address).unwrap_err().to_string().contains("mail.recipients"), "{address}");
        }
        let wrong = Mail { from: "nobody".to_owned(), ..config(MailTls::None, "localhost") };
        assert!(Mailer::new(&wrong).unwrap_err().to_string().contains("mail.from"));
        for (tls, port) in [(MailTls::Implicit, 465), (MailTls::Starttls, 587), (MailTls::None, 25)] {
            assert_eq!(config(tls, "localhost").port(), port);
        }
    }
}
