//! Whether a project stands: what is begun in one holds it until the transaction's end, so that it isn't removed beside.

use farm_types::ProjectId;

use crate::{Result, StoreError, Tx};

/// Holds a project as it is until the transaction ends: what is written for it finds it there, or isn't written.
pub(crate) async fn stays(tx: &mut Tx, project: ProjectId) -> Result<()> {
    let there = sqlx::query_scalar!(
        "SELECT true FROM projects WHERE id = $1 AND removed_at IS NULL FOR KEY SHARE",
        project.as_uuid()
    );
    there.fetch_optional(&mut **tx).await?.map(drop).ok_or(StoreError::NotFound("project"))
}
