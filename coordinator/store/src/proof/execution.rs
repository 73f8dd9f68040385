//! The lock under which everything of an execution is decided.

use std::ops::{Deref, DerefMut};

use farm_types::{ExecutionId, ProjectId};
use uuid::Uuid;

use crate::pool::Session;
use crate::{Result, StoreError, Tx};

/// An execution that nobody else decides anything of until the transaction's end: its own state, those of its jobs and their
/// attempts, and those of its builds before they are built. Queries run on it as on the transaction.
#[derive(Debug)]
pub(crate) struct LockedExecution<'t> {
    tx: &'t mut Tx,
    project: ProjectId,
    id: ExecutionId,
}

impl Tx {
    /// Takes an execution's lock.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such execution.
    pub(crate) async fn lock_execution(
        &mut self,
        project: ProjectId,
        execution: ExecutionId,
    ) -> Result<LockedExecution<'_>> {
        sqlx::query_scalar!(
            "SELECT id FROM executions WHERE project_id = $1 AND id = $2 FOR UPDATE",
            project.as_uuid(),
            execution.as_uuid()
        )
        .fetch_optional(&mut **self)
        .await?
        .ok_or(StoreError::NotFound("execution"))?;
        Ok(LockedExecution { tx: self, project, id: execution })
    }
}

impl<'t> LockedExecution<'t> {
    /// An execution that is about to be inserted. Nobody else knows of it until this transaction commits, since its id is drawn
    /// here: that is as good as its lock.
    pub(crate) fn newborn(tx: &'t mut Tx, project: ProjectId) -> Self {
        Self { tx, project, id: ExecutionId::generate() }
    }

    /// Its project's id and its own, as SQL takes them.
    pub(crate) fn ids(&self) -> (Uuid, Uuid) {
        (self.project.as_uuid(), self.id.as_uuid())
    }

    /// The transaction, for what is more than a query.
    pub(crate) fn tx(&mut self) -> &mut Tx {
        self.tx
    }
}

impl Deref for LockedExecution<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.tx
    }
}

impl DerefMut for LockedExecution<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        self.tx
    }
}
