//! The lock under which destinations and tags of a publication are settled.

use std::ops::{Deref, DerefMut};

use farm_types::{BuildId, ProjectId, PublicationId};
use uuid::Uuid;

use crate::Result;
use crate::pool::Session;
use crate::proof::LeaderTx;

/// A publication whose destinations and tags nobody else settles until the transaction's end: else two that settle the last two
/// at once would each leave the end to the other. Queries run on it as on the transaction.
#[derive(Debug)]
pub(crate) struct LockedPublication<'t> {
    tx: &'t mut LeaderTx,
    project: ProjectId,
    id: Uuid,
}

impl LeaderTx {
    /// Takes a publication's lock.
    ///
    /// # Errors
    /// There is no such publication.
    pub(crate) async fn lock_publication(
        &mut self,
        project: ProjectId,
        publication: PublicationId,
    ) -> Result<LockedPublication<'_>> {
        let id = sqlx::query_scalar!(
            "SELECT id FROM publications WHERE project_id = $1 AND id = $2 FOR UPDATE",
            project.as_uuid(),
            publication.as_uuid()
        )
        .fetch_one(&mut **self)
        .await?;
        Ok(LockedPublication { tx: self, project, id })
    }

    /// Takes the lock of a build's publication, if it has one.
    ///
    /// # Errors
    /// The database can't be reached.
    pub(crate) async fn lock_publication_of(
        &mut self,
        project: ProjectId,
        build: BuildId,
    ) -> Result<Option<LockedPublication<'_>>> {
        let id = sqlx::query_scalar!(
            "SELECT id FROM publications WHERE project_id = $1 AND build_id = $2 FOR UPDATE",
            project.as_uuid(),
            build.as_uuid()
        )
        .fetch_optional(&mut **self)
        .await?;
        Ok(id.map(|id| LockedPublication { tx: self, project, id }))
    }
}

impl LockedPublication<'_> {
    /// Its project's id and its own, as SQL takes them.
    pub(crate) fn ids(&self) -> (Uuid, Uuid) {
        (self.project.as_uuid(), self.id)
    }

    /// The transaction, for what needs no more than that this coordinator leads.
    pub(crate) fn leader(&mut self) -> &mut LeaderTx {
        self.tx
    }
}

impl Deref for LockedPublication<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.tx
    }
}

impl DerefMut for LockedPublication<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        self.tx
    }
}
