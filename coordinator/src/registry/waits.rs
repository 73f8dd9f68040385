//! Registries that ask to be left alone for a while, and what they say of their limits.
//!
//! Retry-After (RFC 9110, section 10.2.3) counts for whoever asks by the same login: until then nothing is sent there. Docker Hub and those
//! who do as it does say with each manifest how many may still be read (`ratelimit-limit`, `ratelimit-remaining`: `100;w=21600`).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use uuid::Uuid;

/// No registry is left alone for longer, whatever it says.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// What so many have said is kept.
const MOST: usize = 1000;
/// A rest of a limit that is one part of so many, or less, is worth a word in the log.
const LITTLE: u64 = 10;

/// By which login (`None`: the farm's), and at which host.
type Key = (Option<Uuid>, String);

/// What registries have said.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<HashMap<Key, Said>>);

#[derive(Debug, Clone, Copy)]
struct Said {
    /// Nothing is sent before.
    until: Option<Instant>,
    limit: Option<Limit>,
    /// Nobody was told of the limit yet.
    is_news: bool,
    at: Instant,
}

/// How much may be read, as a registry says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// So much is left.
    pub remaining: u64,
    /// Of so much.
    pub of: u64,
    /// Within so many seconds; 0: it doesn't say.
    pub window: u64,
}

impl Limit {
    fn read(headers: &HeaderMap) -> Option<Self> {
        let field = |name: &str| headers.get(name)?.to_str().ok();
        let number = |text: &str| text.split(';').next()?.trim().parse::<u64>().ok();
        let limit = field("ratelimit-limit")?;
        let window = limit.split(';').find_map(|part| part.trim().strip_prefix("w=")?.parse().ok());
        let (of, remaining) = (number(limit)?, number(field("ratelimit-remaining")?)?);
        Some(Self { remaining, of, window: window.unwrap_or(0) })
    }

    fn is_little(self) -> bool {
        self.remaining.saturating_mul(LITTLE) <= self.of
    }

    /// For people: "0 of 100 in 6 h are left".
    fn in_words(self) -> String {
        let Self { remaining, of, window } = self;
        let within = match window {
            0 => String::new(),
            window if window % 3600 == 0 => format!(" in {} h", window / 3600),
            window => format!(" in {window} s"),
        };
        format!("{remaining} of {of}{within} are left")
    }
}

impl Waits {
    /// What is known of its limit, for people: "0 of 100 in 6 h are left"; empty: nothing.
    pub(super) fn limit_of(&self, of: Option<Uuid>, host: &str) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = all.get(&(of, host.to_owned())).and_then(|said| said.limit);
        limit.map(Limit::in_words).unwrap_or_default()
    }

    /// Limits of which nobody was told yet: by which login, and of which host. From here on that was done.
    pub(super) fn news(&self) -> Vec<(Option<Uuid>, String, Limit)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news = Vec::new();
        for ((of, host), said) in all.iter_mut().filter(|(_, said)| said.is_news) {
            said.is_news = false;
            news.extend(said.limit.map(|limit| (*of, host.clone(), limit)));
        }
        news
    }

    /// How long nothing is to be sent there yet, and what is known of its limit.
    pub(super) fn left(&self, of: Option<Uuid>, host: &str) -> Option<(Duration, String)> {
        self.left_at(Instant::now(), of, host)
    }

    fn left_at(&self, now: Instant, of: Option<Uuid>, host: &str) -> Option<(Duration, String)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let said = all.get(&(of, host.to_owned()))?;
        let left = said.until?.checked_duration_since(now).filter(|left| !left.is_zero())?;
        Some((left, said.limit.map(Limit::in_words).unwrap_or_default()))
    }

    /// Notes what an answer says of it. `may_pass`: it is a refusal that waiting may mend.
    pub(super) fn note(&self, of: Option<Uuid>, host: &str, headers: &HeaderMap, may_pass: bool) {
        let limit = Limit::read(headers);
        let wait = if may_pass { retry_after(headers) } else { None };
        if limit.is_none() && wait.is_none() {
            return;
        }
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.retain(|_, said| now.duration_since(said.at) < LONGEST);
        }
        let said = all.entry((of, host.to_owned())).or_insert(Said {
            until: None,
            limit: None,
            is_news: false,
            at: now,
        });
        said.at = now;
        if let Some(wait) = wait {
            let until = now + wait.min(LONGEST);
            said.until = Some(said.until.map_or(until, |before| before.max(until)));
            tracing::warn!(registry = host, seconds = wait.as_secs(), "a registry asks to be left alone");
        }
        if let Some(limit) = limit {
            let was_little = said.limit.is_some_and(Limit::is_little);
            said.limit = Some(limit);
            said.is_news = true;
            if limit.is_little() && !was_little {
                tracing::warn!(
                    registry = host,
                    limit = limit.in_words(),
                    "a registry's limit is nearly reached"
                );
            }
        }
    }
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    (date.to_utc() - chrono::Utc::now()).to_std().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_registry_is_left_alone_for_as_long_as_it_asks_and_for_that_login_only() {
        let (waits, own) = (Waits::default(), Some(Uuid::from_u128(1)));
        let begin = Instant::now();
        let left_after = |seconds: u64, of| {
            let left = waits.left_at(begin + Duration::from_secs(seconds), of, "r.example");
            // What was noted was noted a moment later.
            left.map(|(left, _)| left.as_secs())
        };
        let left = |of| left_after(0, of);
        waits.note(None, "r.example", &headers(&[("retry-after", "30")]), false);
        assert_eq!(left(None), None, "what is no refusal asks for nothing");
        waits.note(None, "r.example", &headers(&[("retry-after", "30")]), true);
        waits.note(None, "r.example", &headers(&[("retry-after", "5")]), true);
        assert_eq!((left(None), left(own)), (Some(30), None));
        assert_eq!(left_after(60, None), None);
        waits.note(own, "r.example", &headers(&[("retry-after", "99999999")]), true);
        assert_eq!(left(own), Some(LONGEST.as_secs()));
        for odd in ["soon", "-3", ""] {
            waits.note(None, "q.example", &headers(&[("retry-after", odd)]), true);
            assert!(waits.left(None, "q.example").is_none(), "{odd}");
        }
        let date = (chrono::Utc::now() + chrono::TimeDelta::seconds(90)).to_rfc2822().replace("+0000", "GMT");
        waits.note(None, "q.example", &headers(&[("retry-after", &date)]), true);
        assert!(waits.left(None, "q.example").is_some(), "{date}");
    }

    #[test]
    fn a_limit_is_told_once_each_time_that_it_was_said_and_by_its_login() {
        let (waits, own) = (Waits::default(), Some(Uuid::from_u128(1)));
        let said = |remaining: &str| {
            headers(&[("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", remaining)])
        };
        waits.note(None, "r.example", &said("7;w=21600"), false);
        waits.note(own, "r.example", &said("99;w=21600"), false);
        waits.note(None, "q.example", &headers(&[]), false);
        let mut news = waits.news();
        news.sort_by_key(|(of, ..)| *of);
        let limit = |remaining| Limit { remaining, of: 100, window: 21600 };
        assert_eq!(
            news,
            [(None, "r.example".to_owned(), limit(7)), (own, "r.example".to_owned(), limit(99))]
        );
        assert_eq!(waits.news(), []);
        waits.note(None, "r.example", &said("6;w=21600"), false);
        assert_eq!(waits.news(), [(None, "r.example".to_owned(), limit(6))]);
        assert_eq!(waits.limit_of(None, "r.example"), "6 of 100 in 6 h are left");
        assert_eq!(waits.limit_of(own, "q.example"), "");
    }

    #[test]
    fn a_limit_is_read_as_docker_hub_says_it() {
        let of = |limit: &str, remaining: &str| {
            Limit::read(&headers(&[("ratelimit-limit", limit), ("ratelimit-remaining", remaining)]))
        };
        let hub = of("100;w=21600", "7;w=21600").unwrap();
        assert_eq!(hub, Limit { remaining: 7, of: 100, window: 21600 });
        assert!(hub.is_little() && hub.in_words() == "7 of 100 in 6 h are left");
        assert!(!of("200;w=90", "76").unwrap().is_little());
        assert_eq!(of("many", "7"), None);
        assert_eq!(Limit::read(&HeaderMap::new()), None);
    }
}
