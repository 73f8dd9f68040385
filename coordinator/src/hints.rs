//! Wake-ups within this process, and what the other coordinators hear of them. A hint is never truth: whoever waits for
//! one also looks by itself, so a lost hint costs a second, not a build.

use std::time::Duration;

use tokio::sync::{Notify, watch};

/// How long a waiter sleeps without a hint.
pub const BACKSTOP: Duration = Duration::from_secs(1);

/// Which loops and followers are to look at the database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// The leader's scheduler.
    pub schedule: bool,
    /// The leader's publisher.
    pub publish: bool,
    /// The loop that offers attempts to workers and tells them to stop.
    pub dispatch: bool,
    /// Those who follow builds (`farm attach`, `farm submit`).
    pub follow: bool,
}

impl Look {
    /// Everybody: what has changed isn't known.
    pub const ALL: Self = Self { schedule: true, publish: true, dispatch: true, follow: true };
    const LEASED: Self = Self { schedule: false, publish: false, ..Self::ALL };
    const STREAMED: Self = Self { dispatch: false, ..Self::LEASED };
}

/// How often each was asked to look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    schedule: u64,
    publish: u64,
    dispatch: u64,
    follow: u64,
}

impl Asked {
    fn count(&mut self, look: Look) {
        self.schedule += u64::from(look.schedule);
        self.publish += u64::from(look.publish);
        self.dispatch += u64::from(look.dispatch);
        self.follow += u64::from(look.follow);
    }

    /// Who was asked since an earlier count.
    pub fn since(self, earlier: Self) -> Look {
        Look {
            schedule: self.schedule != earlier.schedule,
            publish: self.publish != earlier.publish,
            dispatch: self.dispatch != earlier.dispatch,
            follow: self.follow != earlier.follow,
        }
    }
}

/// The wake-ups.
#[derive(Debug)]
pub struct Hints {
    /// The leader's scheduler has something to look at.
    pub schedule: Notify,
    /// The leader's publisher has something to look at.
    pub publish: Notify,
    /// Workers of this coordinator have something to be told.
    pub dispatch: Notify,
    /// Something was delivered here. Where another coordinator leads, it finds that by itself.
    pub delivered: Notify,
    /// The leader has something to tell forges.
    pub told: Notify,
    changes: watch::Sender<u64>,
    asked: watch::Sender<Asked>,
}

impl Default for Hints {
    fn default() -> Self {
        Self {
            schedule: Notify::new(),
            publish: Notify::new(),
            dispatch: Notify::new(),
            delivered: Notify::new(),
            told: Notify::new(),
            changes: watch::Sender::new(0),
            asked: watch::Sender::default(),
        }
    }
}

impl Hints {
    /// A build, an attempt or its stream has changed: followers look, and the loops too, at all coordinators.
    pub fn changed(&self) {
        self.ask(Look::ALL);
    }

    /// Jobs were leased: their workers are told, and followers look, at all coordinators.
    pub fn leased(&self) {
        self.ask(Look::LEASED);
    }

    /// Something has changed that only followers wait for, at all coordinators.
    pub fn streamed(&self) {
        self.ask(Look::STREAMED);
    }

    fn ask(&self, look: Look) {
        self.hear(look);
        self.asked.send_modify(|asked| asked.count(look));
    }

    /// Wakes who waits in this process, and tells nobody else.
    pub fn hear(&self, look: Look) {
        for (asked, waiter) in
            [(look.schedule, &self.schedule), (look.publish, &self.publish), (look.dispatch, &self.dispatch)]
        {
            if asked {
                waiter.notify_one();
            }
        }
        if look.follow {
            self.changes.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    /// A counter that changes whenever followers are to look.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// For those who tell the other coordinators: what was asked in this process, not what others told it.
    pub fn asked(&self) -> watch::Receiver<Asked> {
        self.asked.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_others_tell_wakes_here_and_is_told_to_nobody() {
        let hints = Hints::default();
        let (mut followers, asked) = (hints.follow(), hints.asked());
        let before = *asked.borrow();
        hints.hear(Look::ALL);
        hints.schedule.notified().await;
        hints.dispatch.notified().await;
        assert!(followers.has_changed().unwrap());
        assert_eq!(asked.borrow().since(before), Look::default());
        followers.mark_unchanged();
        hints.leased();
        hints.dispatch.notified().await;
        assert!(followers.has_changed().unwrap());
        assert_eq!(asked.borrow().since(before), Look::LEASED);
    }
}
