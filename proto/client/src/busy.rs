//! The answer of a farm that takes no more for the moment, and when to come back.
//!
//! It is `RESOURCE_EXHAUSTED` with what gRPC clients know as server pushback (gRFC A6): metadata `grpc-retry-pushback-ms`.
//! Nothing of the call was done, so any call may be made again then.

use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// In how many milliseconds the call may be made again.
const PUSHBACK: &str = "grpc-retry-pushback-ms";
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
}
