//! Ctrl-C where somebody is asked or waited for, and there is no build to leave running (for those: [`crate::interrupt`]).
//!
//! Once tokio listens to a signal it takes it for good, whether anybody waits for it just then or not. So a question listens
//! before it is shown, and a press between two questions ends the command as it would have ended it before the first.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Exit;

/// So many listen themselves.
static LISTENING: AtomicUsize = AtomicUsize::new(0);

/// Sees each press from its making on, also one that comes before [`CtrlC::pressed`] is waited for.
pub(crate) struct CtrlC {
    presses: Option<Signal>,
    is_heard: bool,
}

impl CtrlC {
    pub(crate) fn listen() -> Self {
        LISTENING.fetch_add(1, Ordering::SeqCst);
        end_where_nobody_listens();
        Self { presses: signal(SignalKind::interrupt()).ok(), is_heard: false }
    }

    /// Waits for a press. The command ends by it, so whoever waited may take its time.
    pub(crate) async fn pressed(&mut self) {
        let Some(presses) = &mut self.presses else { return std::future::pending().await };
        match presses.recv().await {
            Some(()) => self.is_heard = true,
            None => std::future::pending().await,
        }
    }
}

impl Drop for CtrlC {
    fn drop(&mut self) {
        if !self.is_heard {
            LISTENING.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn end_where_nobody_listens() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        let Ok(mut presses) = signal(SignalKind::interrupt()) else { return };
        tokio::spawn(async move {
            while presses.recv().await.is_some() {
                if LISTENING.load(Ordering::SeqCst) == 0 {
                    std::process::exit(Exit::Cancelled.code().into());
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn a_press_before_it_is_waited_for_counts() {
        let mut ctrl_c = CtrlC::listen();
        kill_process(getpid(), Signal::INT).unwrap();
        // What takes the signal has done so before anybody asks.
        tokio::task::yield_now().await;
        ctrl_c.pressed().await;
        assert!(ctrl_c.is_heard);
    }
}
