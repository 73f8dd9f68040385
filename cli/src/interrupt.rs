//! Ctrl-C: each press is counted; what the first and the second mean is for the command to say.

use tokio::sync::watch;

/// Tells how often the user pressed Ctrl-C.
#[derive(Debug, Clone)]
pub struct Interrupts(watch::Receiver<u32>);

impl Interrupts {
    /// The same, and what ends a command otherwise (SIGTERM, and SIGHUP when its terminal goes) counts as a press.
    pub fn listen_to_all() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let (sender, receiver) = watch::channel(0);
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let sender = sender.clone();
            // One that can't be heard does what it does by itself.
            let Ok(mut signals) = signal(kind) else { continue };
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    sender.send_modify(|presses| *presses += 1);
                }
            });
        }
        Self(receiver)
    }

    /// Takes Ctrl-C over from the system, from now on and to the end of the process.
    pub fn listen() -> Self {
        let (sender, receiver) = watch::channel(0);
        tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                sender.send_modify(|presses| *presses += 1);
            }
            // Where Ctrl-C can't be heard nobody is told of one.
            std::future::pending::<()>().await;
        });
        Self(receiver)
    }

    /// How often it was pressed so far.
    pub fn presses(&self) -> u32 {
        *self.0.borrow()
    }

    /// Waits until it was pressed for the `nth` time, from 1. Dropping the future loses nothing.
    pub async fn press(&mut self, nth: u32) {
        if self.0.wait_for(|presses| *presses >= nth).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
