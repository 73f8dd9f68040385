//! Sends a message by the way that its notice has.

use farm_types::NoticeKind;
use uuid::Uuid;

use super::address::Address;
use super::mail::Mailer;
use super::said::Said;
use super::sent::Sent;
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

    /// The client by which URLs are called.
    pub fn http(&self) -> &Client {
        &self.http
    }

    /// Sends something under this id. `now`: seconds since 1970, by which it is signed.
    ///
    /// Cancelled, it may have been sent.
    pub async fn send(&self, to: Where<'_>, said: &Said<'_>, id: Uuid, now: i64) -> Sent {
        match to {
            Where::Url(NoticeKind::Webhook, address, has_before) => {
                let body = webhook::body(said);
                let signed = webhook::signed(address, has_before, id, now, body.as_bytes());
                post::post(&self.http, address, &signed, body).await
            }
            Where::Url(_, address, _) => post::post(&self.http, address, &[], chat::body(said)).await,
            Where::Mail(addresses) => match &self.mail {
                Some(mailer) => mailer.send(addresses, said, id).await,
                None => Sent::Later("this coordinator has no [mail] in its configuration".to_owned(), None),
            },
        }
    }
}
