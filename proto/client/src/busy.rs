//! The answer of a farm that takes no more for the moment, and when to come back.
//!
//! It is `RESOURCE_EXHAUSTED` with what gRPC clients know as server pushback (gRFC A6): metadata `grpc-retry-pushback-ms`.
//! Nothing of the call was done, so any call may be made again then.

use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// The metadata that says in how many milliseconds the call may be made again.
pub const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// Whoever is told to come back does so until it has waited for so long in all.
const PATIENCE: Duration = Duration::from_secs(150);
/// The longest that chance adds to a wait.
const SPREAD: Duration = Duration::from_secs(10);
/// Nobody is sent away for less.
const LEAST: Duration = Duration::from_millis(100);

/// Tells a caller what there is too much of (a sentence without its end), and to call again after `wait`.
pub fn busy(what: &str, wait: Duration) -> Status {
    let wait = wait.max(LEAST);
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let seconds = millis.div_ceil(1000);
    let mut status = Status::resource_exhausted(format!("{what}; call again in {seconds} s"));
    status.metadata_mut().insert(PUSHBACK, MetadataValue::from(millis));
    status
}

/// When a call may be made again of which nothing was done; `None`: that can't be told, or making it again is no help.
pub fn come_back(status: &Status) -> Option<Duration> {
    if status.code() != Code::ResourceExhausted {
        return None;
    }
    let millis = status.metadata().get(PUSHBACK)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(millis))
}

/// True when the call may succeed if it is made again: the connection broke or the server is restarting.
pub fn is_connection(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::Aborted => true,
        // A connection that breaks within a call comes out as one of these, with the transport's error
        // below it; one that the server sent has none.
        Code::Unknown | Code::Internal | Code::Cancelled => std::error::Error::source(status).is_some(),
        _ => false,
    }
}

/// How long one caller has waited because it was told to come back.
#[derive(Debug, Default)]
pub struct Returns {
    waited: Duration,
}

impl Returns {
    /// What to wait before the call is made again; `None`: this is no such answer, or it was waited for long enough. A little
    /// is left to chance, so that not all who were sent away come back at once.
    pub fn next_wait(&mut self, status: &Status) -> Option<Duration> {
        self.jittered(status, rand::random())
    }

    fn jittered(&mut self, status: &Status, jitter: f64) -> Option<Duration> {
        let wait = come_back(status)?;
        let waited = self.waited.saturating_add(wait);
        if waited > PATIENCE {
            return None;
        }
        let spread = wait.clamp(Duration::from_secs(1), SPREAD).min(PATIENCE - waited);
        let wait = wait + spread.mul_f64(jitter.clamp(0.0, 1.0));
        self.waited += wait;
        Some(wait)
    }

    /// Whether nothing was waited for yet.
    pub fn is_new(&self) -> bool {
        self.waited.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_told_to_come_back_knows_when() {
        let status = busy("ada makes more than 3 calls a minute", Duration::from_millis(1_200));
        assert_eq!(status.message(), "ada makes more than 3 calls a minute; call again in 2 s");
        assert_eq!(come_back(&status), Some(Duration::from_millis(1_200)));
        assert_eq!(come_back(&busy("x", Duration::ZERO)), Some(LEAST));
        assert_eq!(come_back(&Status::resource_exhausted("the disk is full")), None);
        let mut other = Status::unavailable("x");
        other.metadata_mut().insert(PUSHBACK, MetadataValue::from(7));
        assert_eq!(come_back(&other), None);
        // As the standard has it: a negative number says that there is no sense in it.
        let mut never = Status::resource_exhausted("x");
        never.metadata_mut().insert(PUSHBACK, MetadataValue::from_static("-1"));
        assert_eq!(come_back(&never), None);
    }

    #[test]
    fn who_is_sent_away_waits_no_less_than_told_and_not_for_ever() {
        let (mut early, mut late) = (Returns::default(), Returns::default());
        let status = busy("x", Duration::from_secs(40));
        assert_eq!(early.jittered(&status, 0.0), Some(Duration::from_secs(40)));
        assert_eq!(late.jittered(&status, 1.0), Some(Duration::from_secs(50)));
        assert!(!early.is_new() && Returns::default().is_new());
        assert_eq!((0..9).filter_map(|_| early.jittered(&status, 0.0)).count(), 2);
        assert_eq!((0..9).filter_map(|_| late.jittered(&status, 1.0)).count(), 2);
        // What is left of the time is used, and no more.
        assert_eq!((early.waited, late.waited), (Duration::from_secs(120), PATIENCE));
        assert_eq!(early.jittered(&busy("x", Duration::from_secs(29)), 1.0), Some(Duration::from_secs(30)));
        assert_eq!(Returns::default().jittered(&busy("x", PATIENCE * 2), 0.0), None);
        assert_eq!(Returns::default().next_wait(&Status::unavailable("x")), None);
    }
}
