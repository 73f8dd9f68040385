//! Asks forges whether accounts may write to a hook's repository, beside the loop that processes deliveries: a forge that hangs holds up
//! nobody. What was asked is in memory only; whoever leads next asks anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farm_types::HookId;
use tokio::time::Instant;

use crate::forge::ask::Account;
use crate::forge::{Repository, Unsaid};
use crate::shared::Shared;

/// So many are asked at once: in all, and of one hook.
const MOST: (usize, usize) = (16, 2);
/// What nobody has taken up for so long is forgotten: it is longer than a forge is waited for.
const KEPT: Duration = Duration::from_secs(120);

/// Which question: a hook, its delivery, and which try of that.
pub(super) type Question = (HookId, String, i32, i32);

/// Whether somebody may write, as a forge says it.
pub(super) type Said = Result<bool, Unsaid>;

#[derive(Debug)]
struct Asked {
    since: Instant,
    said: Option<Said>,
}

/// The questions that are under way, and answers that weren't taken up.
#[derive(Debug, Default)]
pub(super) struct Asking(Mutex<HashMap<Question, Asked>>);

impl Asking {
    fn with<T>(&self, f: impl FnOnce(&mut HashMap<Question, Asked>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The answer, once; `None`: it is asked, or waits for its turn.
    fn take(&self, question: &Question) -> Option<Said> {
        self.with(|all| {
            all.get(question)?.said.as_ref()?;
            all.remove(question)?.said
        })
    }

    /// Whether this is to be asked now. It counts as asked from then on.
    fn begin(&self, question: &Question, now: Instant) -> bool {
        self.with(|all| {
            all.retain(|_, asked| now.saturating_duration_since(asked.since) < KEPT);
            let of_hook = all.keys().filter(|(hook, ..)| *hook == question.0).count();
            if all.contains_key(question) || all.len() >= MOST.0 || of_hook >= MOST.1 {
                return false;
            }
            all.insert(question.clone(), Asked { since: now, said: None });
            true
        })
    }

    fn end(&self, question: &Question, said: Said) {
        self.with(|all| {
            if let Some(asked) = all.get_mut(question) {
                asked.said = Some(said);
            }
        });
    }

    /// Whether an account may write to a repository; `None`: the forge is asked.
    pub(super) fn may_write(
        self: &Arc<Self>,
        shared: &Shared,
        question: Question,
        repository: Repository,
        account: Account,
    ) -> Option<Said> {
        if let Some(said) = self.take(&question) {
            return Some(said);
        }
        if self.begin(&question, Instant::now()) {
            let (asking, forges, hints) =
                (Arc::clone(self), shared.forges.clone(), Arc::clone(&shared.hints));
            tokio::spawn(async move {
                let said = Box::pin(forges.may_write(&repository, &account)).await;
                asking.end(&question, said);
                hints.delivered.notify_one();
            });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_asked_once_a_few_of_a_hook_and_what_nobody_takes_up_is_forgotten() {
        let (asking, hook, now) = (Asking::default(), HookId::generate(), Instant::now());
        let question = |hook: HookId, attempt| (hook, "1".to_owned(), 0, attempt);
        let begins = |hook: HookId, attempt| asking.begin(&question(hook, attempt), now);
        assert!(begins(hook, 0) && !begins(hook, 0));
        assert_eq!(asking.take(&question(hook, 0)), None);
        assert!(begins(hook, 1) && !begins(hook, 2));
        for _ in 2..MOST.0 {
            assert!(begins(HookId::generate(), 0));
        }
        assert!(!begins(HookId::generate(), 0), "too many in all");
        asking.end(&question(hook, 0), Ok(true));
        asking.end(&question(hook, 7), Ok(true));
        assert_eq!(asking.take(&question(hook, 0)), Some(Ok(true)));
        assert_eq!((asking.take(&question(hook, 0)), asking.take(&question(hook, 7))), (None, None));
        assert!(begins(hook, 2));
        let later = now + KEPT;
        assert!(asking.begin(&question(hook, 3), later) && asking.begin(&question(hook, 4), later));
    }
}
