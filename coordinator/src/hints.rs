//! Wake-ups within this process. A hint is never truth: whoever waits for one also looks by itself, so a
//! lost hint costs a second, not a build.

use std::time::Duration;

use tokio::sync::{Notify, watch};

/// How long a waiter sleeps without a hint.
pub const BACKSTOP: Duration = Duration::from_secs(1);

/// The wake-ups.
#[derive(Debug)]
pub struct Hints {
    /// The leader's scheduler has something to look at.
    pub schedule: Notify,
    /// The leader's publisher has something to look at.
    pub publish: Notify,
    /// Workers of this coordinator have something to be told.
    pub dispatch: Notify,
    changes: watch::Sender<u64>,
}

impl Default for Hints {
    fn default() -> Self {
        Self {
            schedule: Notify::new(),
            publish: Notify::new(),
            dispatch: Notify::new(),
            changes: watch::Sender::new(0),
        }
    }
}

impl Hints {
    /// A build, an attempt or its stream has changed: followers look, and the loops too.
    pub fn changed(&self) {
        self.streamed();
        self.schedule.notify_one();
        self.publish.notify_one();
        self.dispatch.notify_one();
    }

    /// An attempt's stream has grown.
    pub fn streamed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// For followers.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
