//! What the link and the renewal of certificates tell each other: the one, that another certificate is shown from now on; the
//! other, that a coordinator wants another.

use tokio::sync::{mpsc, oneshot, watch};

/// How an attempt to renew ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewed {
    /// Connections that are made from now on show another certificate.
    Yes,
    /// The farm gives none.
    Refused(String),
    /// Nobody could be asked.
    Away(String),
}

/// Whoever waits for the end of an attempt.
pub type Asked = oneshot::Sender<Renewed>;

/// A worker's certificate, as the link sees it.
#[derive(Debug, Clone)]
pub struct Certified {
    ask: mpsc::Sender<Asked>,
    /// Rises with each certificate.
    shown: watch::Receiver<u64>,
}

impl Certified {
    /// Of the ends that the renewal has the others of.
    pub fn new(ask: mpsc::Sender<Asked>, shown: watch::Receiver<u64>) -> Self {
        Self { ask, shown }
    }

    /// Changes when connections that are made from then on show another certificate. What was so before it was called counts
    /// as seen.
    pub fn changes(&self) -> watch::Receiver<u64> {
        let mut shown = self.shown.clone();
        shown.mark_unchanged();
        shown
    }

    /// Has the certificate renewed now, however old it is.
    pub async fn renew(&self) -> Renewed {
        let (tell, end) = oneshot::channel();
        let dead = || Renewed::Away("the certificate isn't being renewed".to_owned());
        if self.ask.send(tell).await.is_err() {
            return dead();
        }
        end.await.unwrap_or_else(|_| dead())
    }
}

/// Waits until another certificate is shown; without one for ever.
pub(crate) async fn another(changes: Option<&mut watch::Receiver<u64>>) {
    let Some(changes) = changes else { return std::future::pending().await };
    if changes.changed().await.is_err() {
        // Nobody renews any more, which ends the worker.
        std::future::pending::<()>().await;
    }
}
