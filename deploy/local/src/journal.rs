//! What a supervisor tells while it starts, and while it stops: kept, so that whoever asks later hears all of it.

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;

use crate::control::Event;

/// Events up to the last one, after which nothing is added.
#[derive(Debug, Clone)]
pub struct Journal(watch::Sender<Vec<Event>>);

impl Default for Journal {
    fn default() -> Self {
        Self(watch::Sender::new(Vec::new()))
    }
}

impl Journal {
    /// Adds an event, unless the last one was said.
    pub fn add(&self, event: Event) {
        self.0.send_if_modified(|events| {
            let open = !events.last().is_some_and(Event::is_last);
            if open {
                events.push(event);
            }
            open
        });
    }

    /// True when its last event was said.
    pub fn is_over(&self) -> bool {
        self.0.borrow().last().is_some_and(Event::is_last)
    }

    /// Writes all of it as lines, from the first to the last event. Ends early when nobody reads any more.
    pub async fn play(self, mut to: impl AsyncWrite + Unpin) {
        let mut events = self.0.subscribe();
        let mut seen = 0;
        loop {
            let new = events.borrow_and_update()[seen..].to_vec();
            seen += new.len();
            for event in &new {
                if to.write_all(event.line().as_bytes()).await.is_err() || to.flush().await.is_err() {
                    return;
                }
                if event.is_last() {
                    return;
                }
            }
            if events.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_comes_later_hears_all_of_it_and_nothing_follows_the_last() {
        let journal = Journal::default();
        journal.add(Event::Notice("one".into()));
        let early = tokio::spawn({
            let journal = journal.clone();
            async move {
                let mut heard = Vec::new();
                journal.play(&mut heard).await;
                heard
            }
        });
        tokio::task::yield_now().await;
        journal.add(Event::Stopped);
        journal.add(Event::Notice("two".into()));
        let mut late = Vec::new();
        journal.clone().play(&mut late).await;
        assert_eq!(String::from_utf8(late.clone()).unwrap(), "{\"notice\":\"one\"}\n\"stopped\"\n");
        assert_eq!(early.await.unwrap(), late);
        assert!(journal.is_over());
    }
}
