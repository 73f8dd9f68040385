//! `[retention]`: what is kept, and for how long.

use std::time::Duration;

use farm_types::Invalid;
use serde::Deserialize;

use super::YEAR;

/// What is kept, and for how long. Days count from a build's end or a source's last use; 0 is for ever.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Logs move from Postgres to the blobs so long after their build's end, seconds.
    pub seal_after_seconds: u64,
    /// Logs go so many days after their build's end.
    pub logs_days: u64,
    /// Builds, with all that is known of them. What was published stays published.
    pub builds_days: u64,
    /// Sources go so many days after their last use.
    pub snapshots_days: u64,
    /// What was pushed to registries for builds that failed, were cancelled or superseded; hours after their end.
    pub unpublished_hours: u64,
    /// What builds made for their clients (`--output`, `--load`) and nobody has fetched; minutes after their end.
    pub outputs_minutes: u64,
    /// Workers that are gone, and that no administrator has drained.
    pub workers_days: u64,
    /// What was delivered to hooks, days after it was processed.
    pub deliveries_days: u64,
    /// What tags have pointed to, days after they were moved.
    pub history_days: u64,
    /// What was done, by whom; days after it was sealed.
    pub audit_days: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            seal_after_seconds: 300,
            logs_days: 30,
            builds_days: 90,
            snapshots_days: 7,
            unpublished_hours: 24,
            outputs_minutes: 60,
            workers_days: 7,
            deliveries_days: 14,
            history_days: 400,
            audit_days: 400,
        }
    }
}

impl Retention {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        const CENTURY_DAYS: u64 = 36_500;
        for (name, value, most) in [
            ("seal_after_seconds", self.seal_after_seconds, YEAR),
            ("logs_days", self.logs_days, CENTURY_DAYS),
            ("builds_days", self.builds_days, CENTURY_DAYS),
            ("snapshots_days", self.snapshots_days, CENTURY_DAYS),
            ("unpublished_hours", self.unpublished_hours, CENTURY_DAYS * 24),
            ("outputs_minutes", self.outputs_minutes, CENTURY_DAYS * 24 * 60),
            ("workers_days", self.workers_days, CENTURY_DAYS),
            ("deliveries_days", self.deliveries_days, CENTURY_DAYS),
            ("history_days", self.history_days, CENTURY_DAYS),
            ("audit_days", self.audit_days, CENTURY_DAYS),
        ] {
            if value > most {
                let cure = format!("write a number up to {most}; days: 0 is for ever");
                return Err(Invalid::new(name, value.to_string(), cure));
            }
        }
        Ok(())
    }

    /// `logs_days`; `None`: for ever.
    pub fn logs(&self) -> Option<Duration> {
        days(self.logs_days)
    }

    /// `builds_days`; `None`: for ever.
    pub fn builds(&self) -> Option<Duration> {
        days(self.builds_days)
    }

    /// `snapshots_days`; `None`: for ever.
    pub fn snapshots(&self) -> Option<Duration> {
        days(self.snapshots_days)
    }

    /// `unpublished_hours`; `None`: for ever.
    pub fn unpublished(&self) -> Option<Duration> {
        (self.unpublished_hours > 0).then(|| Duration::from_secs(self.unpublished_hours * 3600))
    }

    /// `outputs_minutes`; `None`: for ever.
    pub fn outputs(&self) -> Option<Duration> {
        (self.outputs_minutes > 0).then(|| Duration::from_secs(self.outputs_minutes * 60))
    }

    /// `workers_days`; `None`: for ever.
    pub fn workers(&self) -> Option<Duration> {
        days(self.workers_days)
    }

    /// `deliveries_days`; `None`: for ever.
    pub fn deliveries(&self) -> Option<Duration> {
        days(self.deliveries_days)
    }

    /// `history_days`; `None`: for ever.
    pub fn history(&self) -> Option<Duration> {
        days(self.history_days)
    }

    /// `audit_days`; `None`: for ever.
    pub fn audit(&self) -> Option<Duration> {
        days(self.audit_days)
    }
}

fn days(days: u64) -> Option<Duration> {
    (days > 0).then(|| Duration::from_secs(days * 24 * 3600))
}
