//! What there is at all that time can end: asked each second, so that a farm that rests has one question to answer, and none of
//! the transactions that would find nothing.

use farm_core::machines::WINDOW;

use crate::{Result, Store};

/// What housekeeping has to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concerns {
    /// An attempt runs or is offered.
    pub attempts: bool,
    /// A build hasn't ended.
    pub builds: bool,
    /// An attempt failed lately, or a worker is on probation.
    pub health: bool,
}

impl Store {
    /// What housekeeping has to look at.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn concerns(&self) -> Result<Concerns> {
        Ok(sqlx::query_as!(
            Concerns,
            r#"SELECT EXISTS (SELECT FROM attempts WHERE state IN ('offered', 'running')) AS "attempts!",
                      EXISTS (SELECT FROM builds WHERE finished_at IS NULL) AS "builds!",
                      EXISTS (SELECT FROM workers WHERE probation_at IS NOT NULL)
                      OR EXISTS (SELECT FROM attempts WHERE state IN ('failed', 'lost')
                                 AND finished_at > farm_now() - make_interval(secs => $1)) AS "health!""#,
            WINDOW.as_seconds_f64()
        )
        .fetch_one(&self.pool)
        .await?)
    }
}
