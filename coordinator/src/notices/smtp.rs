//! How mail is handed to a server (RFC 5321).
//!
//! Whoever asks again for what a server has, and is slow to say so, has it sent twice: once it has all of a mail, its word is waited for
//! for minutes (4.5.3.2.6), and where none comes, that is something else than a refusal.

use std::time::Duration;

use farm_types::Invalid;
use farm_types::chain::in_short;
use farm_types::text::{first_line, harmless};
use lettre::Message;
use lettre::address::Envelope;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use secrecy::ExposeSecret as _;
use tokio::time::timeout;

use super::sent::{Answer, Sent};
use crate::config::{Mail, MailTls};

/// Until a server is to have all of a mail it may take so long.
const COMMANDS: Duration = Duration::from_secs(30);
/// Then it may take so long to say whether it takes it; less than a claim counts for (`outbox::CLAIM_OF_MAIL`).
pub const CONTENT: Duration = Duration::from_secs(300);
/// Somebody waits for what becomes of a sample.
pub const CONTENT_OF_TEST: Duration = Duration::from_secs(30);
/// What has become of a mail is known before a server is told that there is no more.
const QUIT: Duration = Duration::from_secs(5);
/// What a server says whose login is wrong or missing, to whatever comes first (RFC 4954).
const LOGIN: [u16; 4] = [530, 534, 535, 538];
/// The longest word of a server that is told on, characters.
const LONGEST_SAID: usize = 200;

/// The server, and how it is spoken to.
pub struct Server {
    host: String,
    port: u16,
    tls: Security,
    login: Option<Credentials>,
    hello: ClientId,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("host", &self.host).finish_non_exhaustive()
    }
}

enum Security {
    None,
    Implicit(TlsParameters),
    Starttls(TlsParameters),
}

/// Why a server hasn't got all of a mail.
enum Not {
    /// One of those to whom it goes is refused for good.
    Recipient(Error),
    /// Anything else, which is no fault of the mail's.
    Else(Error),
}

impl Server {
    /// By the configuration; it is told that mail comes from this domain. Nothing is connected yet.
    ///
    /// # Errors
    /// The certificates can't be taken.
    pub fn new(config: &Mail, hello: &str) -> Result<Self, Invalid> {
        let host = config.host.trim_matches(['[', ']']);
        let tls = match config.tls {
            MailTls::None => Security::None,
            MailTls::Implicit => Security::Implicit(parameters(config, host)?),
            MailTls::Starttls => Security::Starttls(parameters(config, host)?),
        };
        let login =
            |user: &String| Credentials::new(user.clone(), config.password.expose_secret().to_owned());
        let login = config.user.as_ref().map(login);
        let hello = ClientId::Domain(hello.to_owned());
        Ok(Self { host: host.to_owned(), port: config.port(), tls, login, hello })
    }

    /// Hands over a mail, and waits so long for the word on it. Cancelled, it may have been sent.
    pub async fn send(&self, mail: &Message, patience: Duration) -> Answer {
        let why = match timeout(COMMANDS, Box::pin(self.begin(mail.envelope()))).await {
            Ok(Ok(connection)) => return finish(connection, &mail.formatted(), patience).await,
            Ok(Err(Not::Recipient(error))) => {
                let why = short(&format!("the mail server doesn't take it: {error}"));
                return Answer::wordless(Sent::Never(why));
            }
            // A login that is wrong, a server that is shut or full: somebody may mend it.
            Ok(Err(Not::Else(error))) => not_now(&error),
            Err(_) => format!("the mail server doesn't answer within {} s", COMMANDS.as_secs()),
        };
        Answer::wordless(Sent::Later(why, None))
    }

    /// Until the server waits for what the mail says.
    async fn begin(&self, envelope: &Envelope) -> Result<AsyncSmtpConnection, Not> {
        let Self { host, port, tls, login, hello } = self;
        let implicit = match tls {
            Security::Implicit(parameters) => Some(parameters.clone()),
            Security::None | Security::Starttls(_) => None,
        };
        let place = (host.as_str(), *port);
        let connected =
            AsyncSmtpConnection::connect_tokio1(place, Some(COMMANDS), hello, implicit, None).await;
        let mut connection = connected.map_err(Not::Else)?;
        if let Security::Starttls(parameters) = tls {
            connection.starttls(parameters.clone(), hello).await.map_err(Not::Else)?;
        }
        if let Some(login) = login {
            connection.auth(DEFAULT_MECHANISMS, login).await.map_err(Not::Else)?;
        }
        let from = MailFrom::new(envelope.from().cloned(), Vec::new());
        connection.command(from).await.map_err(Not::Else)?;
        for to in envelope.to() {
            let refused = connection.command(Rcpt::new(to.clone(), Vec::new())).await.err();
            if let Some(error) = refused {
                quit(connection);
                let is_login = error.status().is_some_and(|code| LOGIN.contains(&u16::from(code)));
                let is_of_recipient = error.is_permanent() && !is_login;
                return Err(if is_of_recipient { Not::Recipient(error) } else { Not::Else(error) });
            }
        }
        connection.command(Data).await.map_err(Not::Else)?;
        Ok(connection)
    }
}

/// Hands over what a mail says, and waits for the server's word on it.
async fn finish(mut connection: AsyncSmtpConnection, mail: &[u8], patience: Duration) -> Answer {
    let done = timeout(patience, Box::pin(connection.message(mail))).await;
    let sent = match done {
        Ok(Ok(answer)) => {
            quit(connection);
            let said = answer.message().collect::<Vec<_>>().join(" ");
            return Answer { sent: Sent::Taken, words: short(&format!("{}: {said}", answer.code())) };
        }
        Ok(Err(error)) if error.is_permanent() => {
            quit(connection);
            Sent::Never(short(&format!("the mail server doesn't take it: {error}")))
        }
        Ok(Err(error)) if error.is_transient() => {
            quit(connection);
            Sent::Later(not_now(&error), None)
        }
        Ok(Err(error)) => Sent::Doubtful(short(&format!(
            "the connection broke before the mail server had said whether it takes it, and so it may have: {}",
            in_short(&error)
        ))),
        Err(_) => Sent::Doubtful(format!(
            "the mail server has it, and hasn't said within {} s whether it takes it",
            patience.as_secs()
        )),
    };
    Answer::wordless(sent)
}

/// Says that there is no more, beside other work: nothing hangs on what is said to it.
fn quit(mut connection: AsyncSmtpConnection) {
    tokio::spawn(async move { timeout(QUIT, Box::pin(connection.quit())).await.map(drop) });
}

fn not_now(error: &Error) -> String {
    match error.status() {
        Some(_) => short(&format!("the mail server can't now, or doesn't let the farm in: {error}")),
        None => short(&format!("the mail server can't be reached: {}", in_short(error))),
    }
}

fn parameters(config: &Mail, host: &str) -> Result<TlsParameters, Invalid> {
    let mut builder = TlsParameters::builder(host.to_owned());
    if let Some(file) = &config.ca_file {
        let invalid = |why: String| {
            Invalid::new("mail.ca_file", file.display().to_string(), format!("{why}; name a PEM file"))
        };
        let pem = std::fs::read(file).map_err(|e| invalid(e.to_string()))?;
        builder =
            builder.add_root_certificate(Certificate::from_pem(&pem).map_err(|e| invalid(e.to_string()))?);
    }
    builder.build().map_err(|e| Invalid::new("mail.host", host, format!("TLS can't be spoken there: {e}")))
}

fn short(text: &str) -> String {
    harmless(&first_line(text, LONGEST_SAID))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a mail by a server that answers so, a line for each line that comes; behind what a mail says it comes last. A fake:
    /// no mail server says such things when it is asked to.
    async fn sent_by(answers: &'static str) -> Sent {
        use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            for answer in answers.split('|') {
                stream.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
                let mut line = String::new();
                let is_content = answer.starts_with("354");
                while stream.read_line(&mut line).await.unwrap_or(0) > 0 && is_content && line != ".\r\n" {
                    line.clear();
                }
            }
        });
        let config = format!("host = '127.0.0.1'\nport = {port}\ntls = 'none'\nfrom = 'farm@example.com'");
        let server_of_it = Server::new(&toml::from_str(&config).unwrap(), "example.com").unwrap();
        let mail = Message::builder().from("farm@example.com".parse().unwrap());
        let mail = mail.to("ada@example.com".parse().unwrap()).body("A sample.\n".to_owned()).unwrap();
        let answer = server_of_it.send(&mail, CONTENT_OF_TEST).await;
        server.abort();
        answer.sent
    }

    #[tokio::test]
    async fn only_whom_it_goes_to_or_what_it_says_has_a_mail_refused_for_good() {
        assert_eq!(sent_by("220 hello|250 ok|250 ok|250 ok|354 go on|250 ok").await, Sent::Taken);
        for (answers, is_never) in [
            ("554 no service", false),
            ("220 hello|250 ok|530 sign in", false),
            ("220 hello|250 ok|552 full", false),
            ("220 hello|250 ok|250 ok|450 later", false),
            ("220 hello|250 ok|250 ok|530 sign in", false),
            ("220 hello|250 ok|250 ok|550 nobody", true),
            ("220 hello|250 ok|250 ok|250 ok|554 no", false),
            ("220 hello|250 ok|250 ok|250 ok|354 go on|451 later", false),
            ("220 hello|250 ok|250 ok|250 ok|354 go on|554 no such words", true),
        ] {
            match sent_by(answers).await {
                Sent::Never(why) if is_never => assert!(why.contains("doesn't take it"), "{why}"),
                Sent::Later(_, None) if !is_never => {}
                other => panic!("{answers:?}: {other:?}"),
            }
        }
        // It has all of it, and goes without a word.
        let gone = sent_by("220 hello|250 ok|250 ok|250 ok|354 go on").await;
        assert!(matches!(&gone, Sent::Doubtful(why) if why.contains("may have")), "{gone:?}");
    }
}
