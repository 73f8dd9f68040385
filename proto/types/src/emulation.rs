//! When a platform may be emulated, and how long people write that a time is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;

/// When a platform may be emulated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Emulation {
    /// Never: wait for a native worker.
    Never,
    /// When no native worker can be given the job.
    #[default]
    Fallback,
    /// As `Fallback`, and also when the job has waited that long.
    FallbackAfter(Duration),
    /// Whenever no native worker has a free slot.
    Allow,
}

impl FromStr for Emulation {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || {
            Invalid::new(
                "emulation policy",
                text,
                "write never, fallback, fallback=DURATION (like fallback=90s or fallback=10m) or allow",
            )
        };
        match text.split_once('=') {
            None if text == "never" => Ok(Self::Never),
            None if text == "fallback" => Ok(Self::Fallback),
            None if text == "allow" => Ok(Self::Allow),
            Some(("fallback", duration)) => {
                parse_duration(duration).map(Self::FallbackAfter).ok_or_else(invalid)
            }
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Emulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::Fallback => f.write_str("fallback"),
            Self::FallbackAfter(wait) => write!(f, "fallback={}s", wait.as_secs()),
            Self::Allow => f.write_str("allow"),
        }
    }
}

impl From<Emulation> for String {
    fn from(policy: Emulation) -> Self {
        policy.to_string()
    }
}

impl TryFrom<String> for Emulation {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

/// Reads `90s`, `10m`, `2h`, `1h 30m`, `2d`, or a bare number of seconds; whole seconds, at most 30 days.
pub fn parse_duration(text: &str) -> Option<Duration> {
    parse_duration_within(text, Duration::from_secs(30 * 24 * 3600))
}

/// The same, and at most this long.
pub fn parse_duration_within(text: &str, longest: Duration) -> Option<Duration> {
    let duration = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text).ok()?,
    };
    (duration.subsec_nanos() == 0 && duration <= longest).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_seconds_of_a_month_at_most() {
        for (text, seconds) in
            [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("2d", 172_800)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "soon", "-1s", "1500ms", "31d", "721h", "1y", "99999999999999999999", "5 10"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn the_emulation_policy_reads_back() {
        for text in ["never", "fallback", "fallback=90s", "allow"] {
            assert_eq!(text.parse::<Emulation>().unwrap().to_string(), text);
        }
        assert_eq!(
            "fallback=10m".parse::<Emulation>().unwrap(),
            Emulation::FallbackAfter(Duration::from_secs(600))
        );
        for text in ["", "fallback=", "fallback=x", "always", "never=3", "fallback=999999h"] {
            assert!(text.parse::<Emulation>().is_err(), "{text}");
        }
    }
}
