//! What GitHub Apps were lent and weren't, as far as a coordinator remembers it: tokens until some minutes before they end, what was refused for
//! some minutes, and whose installation has asked too much until it may ask again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use farm_types::Digest;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

use super::ask::Answer;
use super::judge::is_limited;

/// What was lent isn't known everywhere at GitHub at once: for so long a no to it says nothing.
const SPREADS: Duration = Duration::from_secs(10);
/// What was refused isn't asked for again for so long.
const REFUSED: Duration = Duration::from_secs(120);

/// What an App was lent.
#[derive(Clone)]
pub(super) struct Lent {
    pub token: SecretString,
    pub made: Instant,
    pub until: Instant,
    /// GitHub has shown by it the repository that it is for.
    pub is_tried: bool,
}

impl Lent {
    /// Whether it may not be known yet where it is shown.
    pub fn is_new(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.made) < SPREADS
    }
}

/// Whether a token isn't taken, or may not do what it was lent for. (Too much was asked is another thing.)
pub(super) fn is_no(answer: &Answer) -> bool {
    answer.status == 401 || answer.status == 403 && !is_limited(answer)
}

/// Whether this may only say that what was just lent isn't known everywhere: what a token may not see isn't there for it.
pub(super) fn says_little(answer: &Answer) -> bool {
    is_no(answer) || answer.status == 404
}

/// What wasn't lent.
struct Refused {
    answer: Answer,
    until: Instant,
    /// The App's installation.
    of: Digest,
}

/// All of that. A loan is known by [`super::github::app::App::borrows`], an installation by [`super::github::app::App::counted_by`].
#[derive(Default)]
pub(super) struct Loans {
    lent: HashMap<Digest, Lent>,
    /// Which have been lent once.
    known: HashSet<Digest>,
    refused: HashMap<Digest, Refused>,
    waits: HashMap<Digest, Instant>,
}

impl Loans {
    /// What was lent, if it counts for longer than that.
    pub fn lent(&mut self, loan: Digest, (now, longer): (Instant, Duration)) -> Option<Lent> {
        self.lent.retain(|_, lent| lent.until > now);
        self.lent.get(&loan).filter(|lent| lent.until > now + longer).cloned()
    }

    pub fn lend(&mut self, loan: Digest, lent: Lent) {
        self.known.insert(loan);
        self.refused.remove(&loan);
        self.lent.insert(loan, lent);
    }

    /// Whether it has been lent once.
    pub fn was_lent(&self, loan: Digest) -> bool {
        self.known.contains(&loan)
    }

    pub fn tried(&mut self, loan: Digest, token: &SecretString) {
        if let Some(lent) = self.lent.get_mut(&loan).filter(|lent| is_same(&lent.token, token)) {
            lent.is_tried = true;
        }
    }

    /// Somebody else may have another one by now.
    pub fn forget(&mut self, loan: Digest, token: &SecretString) {
        if self.lent.get(&loan).is_some_and(|lent| is_same(&lent.token, token)) {
            self.lent.remove(&loan);
        }
    }

    /// What was said to it, if that is to count still.
    pub fn refused(&mut self, loan: Digest, now: Instant) -> Option<Answer> {
        self.refused.retain(|_, refused| refused.until > now);
        self.refused.get(&loan).map(|refused| refused.answer.clone())
    }

    /// It isn't lent to this installation.
    pub fn refuse(&mut self, loan: Digest, of: Digest, (answer, now): (Answer, Instant)) {
        self.known.remove(&loan);
        self.refused.insert(loan, Refused { answer, until: now + REFUSED, of });
    }

    /// People have changed something about this installation.
    pub fn ask_anew(&mut self, of: Digest) {
        self.refused.retain(|_, refused| refused.of != of);
    }

    /// How long an installation has to wait.
    pub fn wait(&mut self, of: Digest, now: Instant) -> Option<Duration> {
        self.waits.retain(|_, until| *until > now);
        self.waits.get(&of).map(|until| until.saturating_duration_since(now))
    }

    /// It has asked too much.
    pub fn limit(&mut self, of: Digest, until: Instant) {
        let known = self.waits.entry(of).or_insert(until);
        *known = until.max(*known);
    }
}

fn is_same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn no(status: u16, message: &str) -> Answer {
        Answer { status, body: json!({ "message": message }), ..Default::default() }
    }

    #[test]
    fn a_no_to_what_was_just_lent_says_nothing_and_later_it_does() {
        let made = Instant::now();
        let lent = Lent {
            token: "ghs_x".to_owned().into(),
            made,
            until: made + Duration::from_secs(3300),
            is_tried: false,
        };
        for (answer, expected) in [
            (no(401, "Bad credentials"), true),
            (no(403, "Resource not accessible by integration"), true),
            (no(403, "API rate limit exceeded"), false),
            (no(404, "Not Found"), false),
            (no(201, ""), false),
        ] {
            assert_eq!(is_no(&answer), expected, "{answer:?}");
            assert_eq!(says_little(&answer), expected || answer.status == 404, "{answer:?}");
        }
        let new = [0, 9, 10].map(|at| lent.is_new(made + Duration::from_secs(at)));
        assert_eq!(new, [true, true, false]);
    }

    #[test]
    fn what_was_lent_counts_for_as_long_as_it_is_needed_and_what_was_refused_for_some_minutes() {
        let (loan, of, now) = (Digest::of(b"loan"), Digest::of(b"installation"), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        let mut loans = Loans::default();
        let token: SecretString = "ghs_x".to_owned().into();
        assert!(!loans.was_lent(loan));
        loans.lend(loan, Lent { token: token.clone(), made: now, until: later(3300), is_tried: false });
        let half = Duration::from_secs(1500);
        assert!(loans.lent(loan, (later(1799), half)).is_some());
        assert!(loans.lent(loan, (later(1800), half)).is_none());
        assert!(loans.lent(loan, (later(1800), Duration::ZERO)).is_some_and(|lent| !lent.is_tried));
        loans.tried(loan, &"ghs_y".to_owned().into());
        assert!(loans.lent(loan, (now, half)).is_some_and(|lent| !lent.is_tried));
        loans.tried(loan, &token);
        assert!(loans.lent(loan, (now, half)).is_some_and(|lent| lent.is_tried));
        assert!(loans.lent(loan, (later(3300), Duration::ZERO)).is_none() && loans.was_lent(loan));

        assert_eq!(loans.refused(loan, now), None);
        loans.refuse(loan, of, (no(422, "no"), now));
        assert!(loans.refused(loan, later(119)).is_some() && !loans.was_lent(loan));
        loans.ask_anew(Digest::of(b"another"));
        assert!(loans.refused(loan, now).is_some());
        loans.ask_anew(of);
        assert_eq!(loans.refused(loan, now), None);
        loans.refuse(loan, of, (no(422, "no"), now));
        assert_eq!(loans.refused(loan, later(120)), None);

        loans.limit(of, later(60));
        loans.limit(of, later(5));
        assert_eq!(loans.wait(of, later(20)), Some(Duration::from_secs(40)));
        assert_eq!((loans.wait(loan, now), loans.wait(of, later(60))), (None, None));
    }
}
