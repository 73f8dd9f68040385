//! Whether a project stands: what is begun in one holds it until the transaction's end, so that it isn't removed beside. And who stands in
//! it for good.

use farm_types::{PrincipalId, ProjectId, Role};

use crate::{Result, Store, StoreError, Tx, state};

/// Holds a project as it is until the transaction ends: what is written for it finds it there, or isn't written.
pub(crate) async fn stays(tx: &mut Tx, project: ProjectId) -> Result<()> {
    let there = sqlx::query_scalar!(
        "SELECT true FROM projects WHERE id = $1 AND removed_at IS NULL FOR KEY SHARE",
        project.as_uuid()
    );
    there.fetch_optional(&mut **tx).await?.map(drop).ok_or(StoreError::NotFound("project"))
}

impl Store {
    /// What a principal may do in a project for as long as nobody says otherwise: by its own membership, or as an admin of the farm. What
    /// the groups of a sign-in, or the token of a job, give lasts no longer than these.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn lasting_role(&self, project: ProjectId, principal: PrincipalId) -> Result<Option<Role>> {
        let role = sqlx::query_scalar!(
            r#"SELECT CASE WHEN p.is_farm_admin THEN 'admin' ELSE m.role END AS role FROM principals p
               LEFT JOIN members m ON m.principal_id = p.id AND m.project_id = $1 WHERE p.id = $2"#,
            project.as_uuid(),
            principal.as_uuid()
        );
        role.fetch_optional(&self.pool).await?.flatten().map(|role| state(&role)).transpose()
    }
}
