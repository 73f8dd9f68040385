//! `[leadership]`: who leads among several coordinators.

use std::time::Duration;

use farm_types::Invalid;
use serde::Deserialize;

use super::in_range;

/// How long a coordinator leads, and what others wait for.
///
/// The defaults outlive a database that stalls for ten seconds: the leader's place is kept, and once it is answered again it
/// goes on. Those who would rather have a new leader sooner after a crash shorten the lease.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Leadership {
    /// The place of a leader that gives no sign is kept for so long, seconds.
    pub lease_seconds: u64,
    /// The leader gives its sign, and the others look for it, so often, milliseconds.
    pub renew_milliseconds: u64,
    /// One statement of the leader's may take so long, seconds. Whoever takes over waits for what is under way.
    pub statement_seconds: u64,
}

impl Default for Leadership {
    fn default() -> Self {
        Self { lease_seconds: 15, renew_milliseconds: 1_000, statement_seconds: 10 }
    }
}

impl Leadership {
    /// `lease_seconds`.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    /// `renew_milliseconds`.
    pub fn renew(&self) -> Duration {
        Duration::from_millis(self.renew_milliseconds)
    }

    /// `statement_seconds`.
    pub fn statement(&self) -> Duration {
        Duration::from_secs(self.statement_seconds)
    }

    /// A coordinator that gave no sign for so long is away. If nobody gave one, nobody could.
    pub fn silence(&self) -> Duration {
        (self.renew() * 5).max(Duration::from_secs(5))
    }

    /// A leader that couldn't give its sign for so long decides nothing until it has: what it knows is too old.
    pub fn fresh(&self) -> Duration {
        self.silence().min(self.lease())
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        for (name, value, least, most) in [
            ("leadership.lease_seconds", self.lease_seconds, 1, 300),
            ("leadership.renew_milliseconds", self.renew_milliseconds, 100, 60_000),
            ("leadership.statement_seconds", self.statement_seconds, 1, 60),
        ] {
            in_range(name, value, least, most)?;
        }
        if self.lease_seconds * 1000 < self.renew_milliseconds * 3 {
            let cure = format!(
                "it must be at least three times renew_milliseconds, which is {}: a sign may get lost",
                self.renew_milliseconds
            );
            return Err(Invalid::new("leadership.lease_seconds", self.lease_seconds.to_string(), cure));
        }
        if self.statement_seconds >= self.lease_seconds {
            let cure = format!(
                "it must be less than lease_seconds, which is {}: whoever takes over waits for the statement, too",
                self.lease_seconds
            );
            return Err(Invalid::new(
                "leadership.statement_seconds",
                self.statement_seconds.to_string(),
                cure,
            ));
        }
        Ok(())
    }
}
