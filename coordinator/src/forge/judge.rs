//! What follows from a forge's answer: it is done, or is to be asked again later, or not any more. Pure.

use std::time::Duration;

use super::ask::Answer;

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The forge has taken it.
    Done,
    /// Nothing more by this token until then: it has asked too much.
    Wait(Duration),
    /// The forge can't now: later.
    Again(String),
    /// Nobody says whether it was taken, or will be: later, and nothing newer before this can't come any more.
    Lost(String),
    /// The forge doesn't know what it is about. Of what was just pushed that comes right within minutes, if at all.
    Unknown(String),
    /// People have to change something.
    Never(String),
}

/// The shortest wait, and the longest one that is taken at its word: forges count by the hour.
const WAITS: (u64, u64) = (1, 24 * 3600);
/// The first wait where the forge doesn't say for how long, seconds; twice as long each time, up to the longest of these.
const UNSAID: (u64, u64) = (60, 3600);

/// Judges an answer to a request that writes, at this time (seconds since 1970); `strikes`: so often in a row it was too much before.
pub fn judge(answer: &Answer, now: i64, strikes: u32) -> Verdict {
    match answer.status {
        200..=299 => Verdict::Done,
        429 => Verdict::Wait(wait(answer, now, strikes)),
        403 if is_limited(answer) => Verdict::Wait(wait(answer, now, strikes)),
        401 => Verdict::Never(format!("the forge doesn't take the token ({}); give another", answer.said())),
        403 => Verdict::Never(format!("the token may not do that ({})", answer.said())),
        // What leads elsewhere on the same host was followed already.
        300..=399 => Verdict::Unknown(format!("the forge sends elsewhere ({})", answer.said())),
        404 | 409 | 422 => Verdict::Unknown(format!("the forge doesn't take it ({})", answer.said())),
        // Said by what stands before the forge, which may still be at it (52x: Cloudflare).
        502 | 504 | 520..=529 => Verdict::Lost(format!("the forge can't now ({})", answer.said())),
        408 | 425 | 500..=599 => Verdict::Again(format!("the forge can't now ({})", answer.said())),
        _ => Verdict::Never(format!("the forge doesn't take it ({})", answer.said())),
    }
}

/// GitHub says 403 both to whom lacks a right and to whom asks too much.
pub fn is_limited(answer: &Answer) -> bool {
    let said = answer.said().to_ascii_lowercase();
    answer.retry_after.is_some()
        || answer.remaining == Some(0)
        || ["rate limit", "abuse"].iter().any(|word| said.contains(word))
}

/// In the order that GitHub documents: what it says; else when it counts anew, if nothing is left; else a minute, and longer each time.
fn wait(answer: &Answer, now: i64, strikes: u32) -> Duration {
    let until = answer.reset.filter(|_| answer.remaining == Some(0));
    let until = until.map(|at| u64::try_from(at.saturating_sub(now)).unwrap_or(0));
    let unsaid = || UNSAID.0.saturating_mul(1 << strikes.min(16)).min(UNSAID.1);
    let seconds = answer.retry_after.or(until).unwrap_or_else(unsaid);
    Duration::from_secs(seconds.clamp(WAITS.0, WAITS.1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn answer(status: u16, retry_after: Option<u64>, remaining: Option<u64>, reset: Option<i64>) -> Answer {
        Answer { status, retry_after, remaining, reset, ..Default::default() }
    }

    #[test]
    fn who_asks_too_much_waits_as_the_forge_says() {
        let wait = |seconds| Verdict::Wait(Duration::from_secs(seconds));
        for status in [403, 429] {
            for (retry_after, remaining, reset, expected) in [
                (Some(7), None, None, 7),
                // What it says outright comes first.
                (Some(7), Some(0), Some(NOW + 900), 7),
                (None, Some(0), Some(NOW + 900), 900),
                // That time has passed by now.
                (None, Some(0), Some(NOW - 5), 1),
                (None, Some(0), None, 60),
                (Some(0), None, None, 1),
                // No forge means for ever.
                (Some(u64::MAX), None, None, 86_400),
            ] {
                assert_eq!(judge(&answer(status, retry_after, remaining, reset), NOW, 0), wait(expected));
            }
        }
        // Something is left of the hour, so it is the other limit, which says nothing.
        for (strikes, seconds) in [(0, 60), (1, 120), (2, 240), (6, 3600), (60, 3600)] {
            assert_eq!(judge(&answer(429, None, Some(4000), Some(NOW + 900)), NOW, strikes), wait(seconds));
        }
        let body = json!({"message": "You have exceeded a secondary rate limit."});
        let secondary = Answer { body, ..answer(403, None, Some(4000), Some(NOW + 900)) };
        assert_eq!(judge(&secondary, NOW, 1), wait(120));
    }

    #[test]
    fn what_only_people_can_change_is_not_asked_again() {
        let body = json!({"message": "Resource not accessible by personal access token"});
        let rights = judge(&Answer { body, ..answer(403, None, Some(4000), Some(NOW)) }, NOW, 0);
        assert!(matches!(&rights, Verdict::Never(why) if why.contains("not accessible")), "{rights:?}");
        assert!(matches!(judge(&answer(401, None, None, None), NOW, 0), Verdict::Never(_)));
        assert!(matches!(judge(&answer(400, None, None, None), NOW, 0), Verdict::Never(_)));
        for status in [301, 302, 404, 409, 422] {
            assert!(
                matches!(judge(&answer(status, None, None, None), NOW, 0), Verdict::Unknown(_)),
                "{status}"
            );
        }
        for status in [502, 504, 524] {
            assert!(matches!(judge(&answer(status, None, None, None), NOW, 0), Verdict::Lost(_)), "{status}");
        }
        for status in [408, 500, 503] {
            assert!(
                matches!(judge(&answer(status, None, None, None), NOW, 0), Verdict::Again(_)),
                "{status}"
            );
        }
        assert_eq!(judge(&answer(201, None, Some(0), Some(NOW + 900)), NOW, 0), Verdict::Done);
    }
}
