//! The transaction of whoever leads.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use farm_types::{ExecutionId, ProjectId};

use crate::machines::leader::Epoch;
use crate::pool::Session;
use crate::proof::LockedExecution;
use crate::{Result, Store, StoreError, Tx};

/// How long a transaction of a leader's may do nothing, or wait for a lock.
const LEADER_PATIENCE: Duration = Duration::from_millis(1500);

/// A transaction that holds the leader's epoch until its end: nobody takes over before that. Queries run on it as on any
/// transaction.
#[derive(Debug)]
pub(crate) struct LeaderTx(Tx);

impl Store {
    /// Begins a transaction in which the epoch leads, and keeps it so until the transaction's end.
    ///
    /// A leader that couldn't renew its leadership for a while decides nothing until it has, even if nobody has taken over:
    /// where the database was away, what it holds of workers' signs is as old as that, and only the renewal finds that there
    /// was an outage.
    ///
    /// Who takes over waits for what holds the row (renewing it waits for nobody). So that a leader that is gone, or was
    /// stopped in the middle, can't make it wait for long, the database ends a transaction of a leader's that does nothing, or
    /// waits for a lock, for [`LEADER_PATIENCE`], and a statement that takes longer than a leader's may ([`crate::Limits`]).
    ///
    /// # Errors
    /// [`StoreError::NotLeading`] when another coordinator leads, or this one hasn't renewed for a while.
    pub(crate) async fn begin_leading(&self, epoch: Epoch) -> Result<LeaderTx> {
        let mut tx = self.begin().await?;
        let leader = tx.leader();
        let milliseconds = |time: Duration| format!("{}ms", time.as_millis());
        let held = sqlx::query!(
            "SELECT set_config('idle_in_transaction_session_timeout', $2, true) AS idle,
                    set_config('lock_timeout', $2, true) AS lock, set_config('statement_timeout', $3, true) AS statement
             FROM leader WHERE epoch = $1 AND expires_at > farm_now()
               AND renewed_at > farm_now() - make_interval(secs => $4) FOR KEY SHARE",
            epoch.0,
            milliseconds(LEADER_PATIENCE),
            milliseconds(leader.statement),
            leader.fresh.as_secs_f64()
        )
        .fetch_optional(&mut *tx)
        .await?;
        held.map(|_| LeaderTx(tx)).ok_or(StoreError::NotLeading)
    }
}

impl LeaderTx {
    /// See [`Tx::lock_execution`].
    pub(crate) async fn lock_execution(
        &mut self,
        project: ProjectId,
        execution: ExecutionId,
    ) -> Result<LockedExecution<'_>> {
        self.0.lock_execution(project, execution).await
    }

    /// The transaction, for what is more than a query.
    pub(crate) fn tx(&mut self) -> &mut Tx {
        &mut self.0
    }

    /// See [`Tx::commit`].
    pub(crate) async fn commit(self) -> Result<()> {
        self.0.commit().await
    }
}

impl Deref for LeaderTx {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl DerefMut for LeaderTx {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.0
    }
}
