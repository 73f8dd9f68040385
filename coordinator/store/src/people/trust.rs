//! Trusts: whose tokens of an outside issuer stand for which role in a project.
//!
//! What their claims mean is the coordinator's (`people::oidc`). A revoked one stays, for records that name it.

use chrono::{DateTime, Utc};
use farm_types::{ProjectId, Role};
use serde_json::{Value, json};
use uuid::Uuid;

use super::audit::{By, Deed};
use crate::{Result, Store, StoreError, state};

/// A trust that is to be added.
#[derive(Debug, Clone)]
pub struct NewTrust {
    /// Whose.
    pub project: ProjectId,
    /// As tokens write it.
    pub issuer: String,
    /// Whom the tokens have to be made for.
    pub audience: String,
    /// What the claims mean: `github`, `gitlab` or `other`.
    pub provider: String,
    /// For people.
    pub name: String,
    /// Of each claim the values that it may have.
    pub claims: Value,
    /// What it gives.
    pub role: Role,
}

/// A trust that counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Trust {
    /// Whose.
    pub project: ProjectId,
    /// Which.
    pub id: Uuid,
    /// As tokens write it.
    pub issuer: String,
    /// Whom the tokens have to be made for.
    pub audience: String,
    /// What the claims mean.
    pub provider: String,
    /// For people.
    pub name: String,
    /// Of each claim the values that it may have.
    pub claims: Value,
    /// What it gives.
    pub role: Role,
    /// Who added it.
    pub created_by: String,
    /// When.
    pub created_at: DateTime<Utc>,
    /// When a token was taken by it last.
    pub last_used_at: Option<DateTime<Utc>>,
}

struct Row {
    project_id: Uuid,
    id: Uuid,
    issuer: String,
    audience: String,
    provider: String,
    name: String,
    claims: Value,
    role: String,
    created_by: String,
    created_at: DateTime<Utc>,
    last_used_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Trust {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            project: row.project_id.into(),
            id: row.id,
            issuer: row.issuer,
            audience: row.audience,
            provider: row.provider,
            name: row.name,
            claims: row.claims,
            role: state(&row.role)?,
            created_by: row.created_by,
            created_at: row.created_at,
            last_used_at: row.last_used_at,
        })
    }
}

impl Store {
    /// Adds a trust.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn add_trust(&self, by: &By, new: &NewTrust) -> Result<Trust> {
        let mut tx = self.begin().await?;
        let row = sqlx::query_as!(
            Row,
            "INSERT INTO trusts (project_id, id, issuer, audience, provider, name, claims, role, created_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             RETURNING project_id, id, issuer, audience, provider, name, claims, role, created_by, created_at, last_used_at",
            new.project.as_uuid(),
            Uuid::now_v7(),
            new.issuer,
            new.audience,
            new.provider,
            new.name,
            new.claims,
            new.role.as_str(),
            by.name
        )
        .fetch_one(&mut *tx)
        .await?;
        let detail = json!({
            "id": row.id, "issuer": new.issuer, "audience": new.audience, "claims": new.claims, "role": new.role.as_str()
        });
        let deed = Deed { project: Some(new.project), action: "trust.add", subject: &new.name, detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await?;
        Trust::try_from(row)
    }

    /// The project's trusts, the oldest first.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn trusts(&self, project: ProjectId) -> Result<Vec<Trust>> {
        let rows = sqlx::query_as!(
            Row,
            "SELECT project_id, id, issuer, audience, provider, name, claims, role, created_by, created_at, last_used_at
             FROM trusts WHERE project_id = $1 AND revoked_at IS NULL ORDER BY id",
            project.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(Trust::try_from).collect()
    }

    /// Revokes one of the project's trusts: from now on no token is taken by it, and none that was given by it counts.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the project has none of this id.
    pub async fn revoke_trust(&self, by: &By, project: ProjectId, trust: Uuid) -> Result<()> {
        let mut tx = self.begin().await?;
        let name = sqlx::query_scalar!(
            "UPDATE trusts SET revoked_at = farm_now() WHERE project_id = $1 AND id = $2 AND revoked_at IS NULL
             RETURNING name",
            project.as_uuid(),
            trust
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::NotFound("trust"))?;
        // Whoever was exchanging one held the trust's row, so these are all.
        sqlx::query!(
            "UPDATE tokens SET revoked_at = farm_now() WHERE trust_id = $1 AND revoked_at IS NULL",
            trust
        )
        .execute(&mut *tx)
        .await?;
        let detail = json!({ "id": trust });
        let deed = Deed { project: Some(project), action: "trust.remove", subject: &name, detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }

    /// Whom an issuer's tokens have to be made for, by all trusts of the farm in it; none: nobody trusts it.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn trusted_audiences(&self, issuer: &str) -> Result<Vec<String>> {
        let audiences = sqlx::query_scalar!(
            "SELECT DISTINCT audience FROM trusts WHERE issuer = $1 AND revoked_at IS NULL ORDER BY audience",
            issuer
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(audiences)
    }

    /// The trusts in an issuer that the project of this name has, the oldest first. A project that isn't there has none.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn trusts_of_issuer(&self, project: &str, issuer: &str) -> Result<Vec<Trust>> {
        let rows = sqlx::query_as!(
            Row,
            "SELECT t.project_id, t.id, t.issuer, t.audience, t.provider, t.name, t.claims, t.role, t.created_by,
                    t.created_at, t.last_used_at
             FROM trusts t JOIN projects p ON p.id = t.project_id
             WHERE p.name = $1 AND p.removed_at IS NULL AND t.issuer = $2 AND t.revoked_at IS NULL ORDER BY t.id",
            project,
            issuer
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(Trust::try_from).collect()
    }
}
