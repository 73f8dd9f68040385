//! Who is in a project, and with which role.

use farm_types::{PrincipalId, PrincipalKind, ProjectId, Role};
use serde_json::json;

use super::audit::{By, Deed};
use super::principals::{SignInState, person};
use super::standing::stays;
use crate::{Result, Store, StoreError, Tx};

/// Somebody in a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub kind: MemberKind,
    pub role: Role,
    /// Of a person.
    pub sign_in: SignInState,
}

/// What is in a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberKind {
    /// A person or a service.
    Principal(PrincipalKind),
    /// Whoever has signed in with this group.
    Group,
}

impl MemberKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Principal(kind) => kind.as_str(),
            Self::Group => "group",
        }
    }
}

impl Store {
    /// The members of a project, by name, and then its groups; with who of them has signed in at this issuer.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn members(&self, project: ProjectId, issuer: Option<&str>) -> Result<Vec<Member>> {
        let rows = sqlx::query!(
            r#"SELECT p.name AS "name!", p.kind AS "kind?", m.role AS "role!",
                      s.principal_id IS NOT NULL AS "is_linked!", s.signed_in_at AS "signed_in_at?"
               FROM members m JOIN principals p ON p.id = m.principal_id
               LEFT JOIN person_subjects s ON s.principal_id = p.id AND s.issuer = $2 AND s.ended_at IS NULL
               WHERE m.project_id = $1
               UNION ALL SELECT name, NULL, role, false, NULL FROM group_members WHERE project_id = $1 ORDER BY 1"#,
            project.as_uuid(),
            issuer
        )
        .fetch_all(&self.pool)
        .await?;
        let members = rows.into_iter().map(|row| {
            let kind = row.kind.map(|kind| kind.parse().map_err(StoreError::corrupt)).transpose()?;
            Ok(Member {
                name: row.name,
                kind: kind.map_or(MemberKind::Group, MemberKind::Principal),
                role: row.role.parse().map_err(StoreError::corrupt)?,
                sign_in: SignInState { is_linked: row.is_linked, last: row.signed_in_at },
            })
        });
        let mut members = members.collect::<Result<Vec<_>>>()?;
        members.sort_by_key(|member| member.kind == MemberKind::Group);
        Ok(members)
    }

    /// Gives whoever has signed in with a group a role in a project, instead of the one that the group had.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn set_group(&self, by: &By, project: ProjectId, name: &str, role: Role) -> Result<()> {
        let mut tx = self.begin().await?;
        stays(&mut tx, project).await?;
        sqlx::query!(
            "INSERT INTO group_members (project_id, name, role) VALUES ($1, $2, $3)
             ON CONFLICT (project_id, name) DO UPDATE SET role = excluded.role",
            project.as_uuid(),
            name,
            role.as_str()
        )
        .execute(&mut *tx)
        .await?;
        let detail = json!({ "role": role.as_str() });
        by.did(&mut tx, Deed { project: Some(project), action: "group.set", subject: name, detail }).await?;
        tx.commit().await
    }

    /// Takes a group out of a project.
    ///
    /// # Errors
    /// `NotFound`: it isn't in it; or the database can't be reached.
    pub async fn remove_group(&self, by: &By, project: ProjectId, name: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        let removed = sqlx::query!(
            "DELETE FROM group_members WHERE project_id = $1 AND name = $2",
            project.as_uuid(),
            name
        )
        .execute(&mut *tx)
        .await?;
        if removed.rows_affected() == 0 {
            return Err(StoreError::NotFound("group"));
        }
        let deed = Deed { project: Some(project), action: "group.remove", subject: name, detail: json!({}) };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }

    /// Gives a person a role in a project, instead of the one that they had; a person who isn't there is made.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn set_member(&self, by: &By, project: ProjectId, name: &str, role: Role) -> Result<()> {
        let mut tx = self.begin().await?;
        set(&mut tx, by, project, name, role).await?;
        tx.commit().await
    }

    /// Takes somebody out of a project.
    ///
    /// # Errors
    /// `NotFound`: nobody of this name is in it; or the database can't be reached.
    pub async fn remove_member(&self, by: &By, project: ProjectId, name: &str) -> Result<()> {
        let mut tx = self.begin().await?;
        let removed = sqlx::query!(
            "DELETE FROM members m USING principals p
             WHERE m.principal_id = p.id AND m.project_id = $1 AND p.name = $2",
            project.as_uuid(),
            name
        )
        .execute(&mut *tx)
        .await?;
        if removed.rows_affected() == 0 {
            return Err(StoreError::NotFound("member"));
        }
        // A service is nothing beside its project.
        sqlx::query!(
            "UPDATE tokens t SET revoked_at = farm_now() FROM principals p
             WHERE p.id = t.principal_id AND p.name = $1 AND p.kind = 'service' AND t.revoked_at IS NULL",
            name
        )
        .execute(&mut *tx)
        .await?;
        let deed = Deed { project: Some(project), action: "member.remove", subject: name, detail: json!({}) };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }
}

/// Gives a person a role within a transaction.
pub(super) async fn set(tx: &mut Tx, by: &By, project: ProjectId, name: &str, role: Role) -> Result<()> {
    stays(tx, project).await?;
    let id = person(tx, by, name).await?;
    enter(tx, by, project, (id, name), role).await
}

/// Gives a principal a role in a project that [`stays`].
pub(super) async fn enter(
    tx: &mut Tx,
    by: &By,
    project: ProjectId,
    (id, name): (PrincipalId, &str),
    role: Role,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO members (project_id, principal_id, role) VALUES ($1, $2, $3)
         ON CONFLICT (project_id, principal_id) DO UPDATE SET role = excluded.role",
        project.as_uuid(),
        id.as_uuid(),
        role.as_str()
    )
    .execute(&mut **tx)
    .await?;
    let detail = json!({ "role": role.as_str() });
    by.did(tx, Deed { project: Some(project), action: "member.set", subject: name, detail }).await
}
