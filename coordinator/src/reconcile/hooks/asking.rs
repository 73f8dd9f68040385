//! Asks forges whether accounts may write to a hook's repository, beside the loop that processes deliveries: a forge that hangs holds up
//! nobody. An account is asked about once, however many comments it writes, and those that came first have their turn first. What was asked
//! and answered is in memory only; whoever leads next asks anew.

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
/// So many accounts of one hook wait for their turn.
const MOST_WAITING: usize = 50;
/// A question that nobody has answered for so long is forgotten: it is longer than a forge is waited for.
const HANGS: Duration = Duration::from_secs(120);
/// What a forge has said counts for so long, and that it hasn't said anything.
const COUNTS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(5));
/// Whoever hasn't come for so long waits no more: it is longer than a delivery is left alone that waits.
const COMES: Duration = Duration::from_secs(15);

/// Which question: an account, of whom a hook's forge is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub hook: HookId,
    /// By its forge's id.
    pub account: String,
}

/// Whether somebody may write, as a forge says it.
pub(super) type Said = Result<bool, Unsaid>;

/// What there is to a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Said(Said),
    /// It is asked, or waits for its turn.
    Asked,
    /// Too many wait.
    Full,
}

#[derive(Debug)]
enum At {
    /// The place of the first delivery that wants to know it, and when one has come last.
    Waits(i64, Instant),
    /// The forge is asked since then.
    Asked(Instant),
    /// It has said it then.
    Said(Said, Instant),
}

impl At {
    fn counts(&self, now: Instant) -> bool {
        let age = |since: Instant| now.saturating_duration_since(since);
        match self {
            Self::Waits(_, last) => age(*last) < COMES,
            Self::Asked(since) => age(*since) < HANGS,
            Self::Said(Ok(_), since) => age(*since) < COUNTS.0,
            Self::Said(Err(_), since) => age(*since) < COUNTS.1,
        }
    }
}

/// The questions that wait, are under way or were answered lately.
#[derive(Debug, Default)]
pub(super) struct Asking(Mutex<HashMap<Question, At>>);

impl Asking {
    fn with<T>(&self, f: impl FnOnce(&mut HashMap<Question, At>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What there is to a question of the delivery of this place; `None`: it is to be asked now, and counts as asked from then on.
    fn begin(&self, question: &Question, sequence: i64, now: Instant) -> Option<Answer> {
        self.with(|all| {
            all.retain(|_, at| at.counts(now));
            let first = match all.get(question) {
                Some(At::Said(said, _)) => return Some(Answer::Said(said.clone())),
                Some(At::Asked(_)) => return Some(Answer::Asked),
                Some(At::Waits(first, _)) => sequence.min(*first),
                None => sequence,
            };
            let (mut asked, mut of_hook, mut waiting, mut is_next) = (0, 0, 0, true);
            for (other, at) in all.iter().filter(|(other, _)| *other != question) {
                let is_own = other.hook == question.hook;
                match at {
                    At::Asked(_) => {
                        asked += 1;
                        of_hook += usize::from(is_own);
                    }
                    At::Waits(theirs, _) if is_own => {
                        waiting += 1;
                        is_next &= first < *theirs;
                    }
                    At::Waits(..) | At::Said(..) => {}
                }
            }
            if is_next && asked < MOST.0 && of_hook < MOST.1 {
                all.insert(question.clone(), At::Asked(now));
                return None;
            }
            if waiting >= MOST_WAITING && !all.contains_key(question) {
                return Some(Answer::Full);
            }
            all.insert(question.clone(), At::Waits(first, now));
            Some(Answer::Asked)
        })
    }

    fn end(&self, question: Question, said: Said, now: Instant) {
        self.with(|all| all.insert(question, At::Said(said, now)));
    }

    /// Whether an account may write to a repository. The question comes with the place of the delivery that has it.
    pub(super) fn may_write(
        self: &Arc<Self>,
        shared: &Shared,
        (question, sequence): (Question, i64),
        repository: Repository,
        account: Account,
    ) -> Answer {
        if let Some(answer) = self.begin(&question, sequence, Instant::now()) {
            return answer;
        }
        let (asking, forges, hints) = (Arc::clone(self), shared.forges.clone(), Arc::clone(&shared.hints));
        tokio::spawn(async move {
            let said = Box::pin(forges.may_write(&repository, &account)).await;
            asking.end(question, said, Instant::now());
            hints.delivered.notify_one();
        });
        Answer::Asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(hook: HookId, account: usize) -> Question {
        Question { hook, account: account.to_string() }
    }

    #[test]
    fn each_account_is_asked_about_once_a_few_of_a_hook_and_what_was_said_counts_for_a_while() {
        let (asking, hook, now) = (Asking::default(), HookId::generate(), Instant::now());
        let begin = |account, at| asking.begin(&question(hook, account), 1, at);
        assert_eq!((begin(0, now), begin(0, now)), (None, Some(Answer::Asked)));
        assert_eq!((begin(1, now), begin(2, now)), (None, Some(Answer::Asked)));
        for _ in 2..MOST.0 {
            assert_eq!(asking.begin(&question(HookId::generate(), 0), 1, now), None);
        }
        let other = question(HookId::generate(), 0);
        assert_eq!(asking.begin(&other, 1, now), Some(Answer::Asked), "too many in all");
        // What is answered leaves its place to others, and holds for all comments of that account.
        asking.end(question(hook, 0), Ok(true), now);
        for _ in 0..2 {
            assert_eq!(begin(0, now), Some(Answer::Said(Ok(true))));
        }
        assert_eq!(begin(2, now), None);
        asking.end(question(hook, 2), Err(Unsaid::Away("no".to_owned())), now);
        assert_eq!(begin(2, now), Some(Answer::Said(Err(Unsaid::Away("no".to_owned())))));
        assert_eq!(begin(2, now + COUNTS.1), None, "it is tried again");
        assert_eq!(begin(0, now + COUNTS.0), Some(Answer::Asked));
        assert_eq!(begin(0, now + COUNTS.0 + HANGS), None);
    }

    #[test]
    fn those_that_came_first_have_their_turn_first_and_only_so_many_wait() {
        let (asking, hook, now) = (Asking::default(), HookId::generate(), Instant::now());
        let begin = |account, sequence| asking.begin(&question(hook, account), sequence, now);
        assert_eq!((begin(100, 1), begin(101, 2)), (None, None));
        for account in 0..MOST_WAITING {
            assert_eq!(begin(account, 10 + i64::try_from(account).unwrap()), Some(Answer::Asked));
        }
        assert_eq!((begin(102, 3), begin(0, 99)), (Some(Answer::Full), Some(Answer::Asked)));
        asking.end(question(hook, 100), Ok(false), now);
        assert_eq!(begin(1, 11), Some(Answer::Asked), "another one came before");
        assert_eq!((begin(0, 99), begin(1, 11)), (None, Some(Answer::Asked)));
        asking.end(question(hook, 101), Ok(false), now);
        assert_eq!(begin(1, 11), None);
        // Who doesn't come any more is in nobody's way.
        asking.end(question(hook, 0), Ok(false), now);
        assert_eq!(asking.begin(&question(hook, 9), 19, now + COMES), None);
    }
}
