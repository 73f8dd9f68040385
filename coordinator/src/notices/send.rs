//! Sends a message by the way that its notice has.

use farm_store::notices::outbox::MOST_MAILS;
use farm_types::{Invalid, NoticeKind};
use uuid::Uuid;

use super::address::Address;
use super::mail::Mailer;
use super::said::Said;
use super::sent::{Answer, Sent};
use super::{chat, post, webhook};
use crate::outbound::Client;

/// Where a notice goes.
#[derive(Debug)]
pub enum Where<'a> {
    /// To a URL, in this form.
    Url(NoticeKind, &'a Address, bool),
    /// Mail, to these.
    Mail(&'a [String]),
}

/// Why a project's mail waits.
pub fn too_many(project: &str) -> String {
    format!(
        "project {project} has had {MOST_MAILS} mails sent in this hour, and more it may not have; try again in the next"
    )
}

/// Sends notices. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Senders {
    http: Client,
    mail: Option<Mailer>,
}

impl Senders {
    /// By a client that judges where it is sent, and the mail server that the configuration names.
    pub fn new(http: Client, mail: Option<Mailer>) -> Self {
        Self { http, mail }
    }

    /// Whether mail can be sent.
    pub fn has_mail(&self) -> bool {
        self.mail.is_some()
    }

    /// Whether mail may go to an address, by the configuration.
    ///
    /// # Errors
    /// It may not.
    pub fn allows(&self, address: &str) -> Result<(), Invalid> {
        self.mail.iter().try_for_each(|mailer| mailer.allows(address))
    }

    /// The client by which URLs are called.
    pub fn http(&self) -> &Client {
        &self.http
    }

    /// Sends something under this id. `now`: seconds since 1970, by which it is signed.
    ///
    /// Cancelled, it may have been sent.
    pub async fn send(&self, to: Where<'_>, said: &Said<'_>, id: Uuid, now: i64) -> Answer {
        match to {
            Where::Url(NoticeKind::Webhook, address, has_before) => {
                let body = webhook::body(said);
                let signed = webhook::signed(address, has_before, id, now, body.as_bytes());
                post::post(&self.http, address, &signed, body).await
            }
            Where::Url(_, address, _) => post::post(&self.http, address, &[], chat::body(said)).await,
            Where::Mail(addresses) => match &self.mail {
                Some(mailer) => mailer.send(addresses, said, id).await,
                None => {
                    let why = "this coordinator has no [mail] in its configuration".to_owned();
                    Answer::wordless(Sent::Later(why, None))
                }
            },
        }
    }
}
