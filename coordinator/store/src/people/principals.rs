//! Persons, services and subjects (whom issuers' tokens have shown), and what a token shows of them.

use chrono::{DateTime, Utc};
use farm_types::{Digest, PrincipalId, PrincipalKind, ProjectId, ProjectName, Role, TokenId};
use serde_json::json;
use uuid::Uuid;

use super::audit::{By, Deed};
use crate::{Result, Store, StoreError, Tx};

/// What a token of a CI system's issuer says of its job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobClaims {
    /// Which ref it builds, in full.
    pub full_ref: Option<String>,
    /// What it was begun by, in its system's own word.
    pub event: Option<String>,
}

/// A person or a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub id: PrincipalId,
    /// A person's own name, or PROJECT/NAME of a service.
    pub name: String,
    pub kind: PrincipalKind,
    /// May do everything in every project.
    pub is_farm_admin: bool,
}

/// Whether somebody can sign in at an issuer, and has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SignInState {
    /// Who they are there is known.
    pub is_linked: bool,
    /// `None`: never.
    pub last: Option<DateTime<Utc>>,
}

/// A principal's role in a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    pub project: ProjectId,
    pub name: ProjectName,
    pub role: Role,
}

/// What a token shows: whose it is and how far it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub principal: Principal,
    /// Where the principal is a member, itself or by a group of its sign-in, by name; what the token's scope leaves of it is not
    /// taken off yet.
    pub memberships: Vec<Membership>,
    pub token: TokenId,
    pub hint: String,
    /// The only project in which it counts.
    pub project: Option<ProjectId>,
    /// The most that it gives.
    pub role: Option<Role>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    /// It was noted that somebody has shown it.
    pub is_used: bool,
    /// The sign-in that it comes of.
    pub sign_in: Option<Origin>,
    /// What the token of a CI system said for which it was given; `None`: it was given for none, or by an older coordinator.
    pub claims: Option<JobClaims>,
    /// The farm's time when this was read.
    pub now: DateTime<Utc>,
}

/// A sign-in, as its token has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub issuer: String,
    /// Those that the issuer has named.
    pub groups: Vec<String>,
}

impl Store {
    /// What the token of this digest shows, also one that counts no more; `None`: there is none.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn shown_by(&self, digest: Digest) -> Result<Option<Shown>> {
        let row = sqlx::query!(
            r#"SELECT p.id AS principal_id, coalesce(t.shown_as, p.name) AS "name!", p.kind, p.is_farm_admin, t.id, t.hint, t.project_id, t.role,
                      t.expires_at, t.revoked_at, t.last_used_at IS NOT NULL AS "is_used!", farm_now() AS "now!",
                      (SELECT s.issuer FROM sign_ins s WHERE s.token_id = t.id) AS "issuer?",
                      (SELECT s.groups FROM sign_ins s WHERE s.token_id = t.id) AS "groups?",
                      c.token_id IS NOT NULL AS "has_claims!", c.full_ref AS "full_ref?", c.event AS "event?"
               FROM tokens t JOIN principals p ON p.id = t.principal_id LEFT JOIN token_claims c ON c.token_id = t.id
               WHERE t.digest = $1"#,
            digest.as_bytes().as_slice()
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let memberships = sqlx::query!(
            // Whom an issuer's token has shown is in its trust's project as long as the farm's token for it counts, no longer.
            r#"SELECT p.id AS "project_id!", p.name AS "name!", m.role AS "role!"
               FROM (SELECT project_id, role FROM members WHERE principal_id = $1
                     UNION ALL SELECT project_id, role FROM tokens WHERE id = $2 AND trust_id IS NOT NULL
                     UNION ALL SELECT g.project_id, g.role FROM group_members g JOIN sign_ins s ON g.name = ANY(s.groups)
                     WHERE s.token_id = $2) m
               JOIN projects p ON p.id = m.project_id WHERE p.removed_at IS NULL ORDER BY p.name"#,
            row.principal_id,
            row.id
        )
        .fetch_all(&self.pool)
        .await?;
        let memberships = memberships.into_iter().map(|member| {
            Ok(Membership {
                project: member.project_id.into(),
                name: member.name.parse().map_err(StoreError::corrupt)?,
                role: member.role.parse().map_err(StoreError::corrupt)?,
            })
        });
        let memberships = highest(memberships.collect::<Result<_>>()?);
        let sign_in = row.issuer.map(|issuer| Origin { issuer, groups: row.groups.unwrap_or_default() });
        Ok(Some(Shown {
            principal: Principal {
                id: row.principal_id.into(),
                name: row.name,
                kind: row.kind.parse().map_err(StoreError::corrupt)?,
                is_farm_admin: row.is_farm_admin,
            },
            memberships,
            token: row.id.into(),
            hint: row.hint,
            project: row.project_id.map(ProjectId::from),
            role: row.role.map(|role| role.parse().map_err(StoreError::corrupt)).transpose()?,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            is_used: row.is_used,
            sign_in,
            claims: row.has_claims.then_some(JobClaims { full_ref: row.full_ref, event: row.event }),
            now: row.now,
        }))
    }

    /// Makes a person the farm's admin, who is made if there is none of the name; or no more. Answers whether anything
    /// changed.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn set_farm_admin(&self, by: &By, name: &str, is_admin: bool) -> Result<bool> {
        let mut tx = self.begin().await?;
        if is_admin {
            person(&mut tx, by, name).await?;
        }
        let changed = sqlx::query!(
            "UPDATE principals SET is_farm_admin = $2 WHERE name = $1 AND kind = 'person' AND is_farm_admin <> $2",
            name,
            is_admin
        )
        .execute(&mut *tx)
        .await?
        .rows_affected()
            > 0;
        if changed {
            let action = if is_admin { "farm_admin.add" } else { "farm_admin.remove" };
            by.did(&mut tx, Deed { project: None, action, subject: name, detail: json!({}) }).await?;
        }
        tx.commit().await?;
        Ok(changed)
    }

    /// The persons who are admins of the farm, by name, with who of them has signed in at this issuer.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn farm_admins(&self, issuer: Option<&str>) -> Result<Vec<(String, SignInState)>> {
        let rows = sqlx::query!(
            r#"SELECT p.name, s.principal_id IS NOT NULL AS "is_linked!", s.signed_in_at AS "signed_in_at?" FROM principals p
               LEFT JOIN person_subjects s ON s.principal_id = p.id AND s.issuer = $1 AND s.ended_at IS NULL
               WHERE p.is_farm_admin ORDER BY p.name"#,
            issuer
        )
        .fetch_all(&self.pool)
        .await?;
        let admins = rows.into_iter().map(|row| {
            let sign_in = SignInState { is_linked: row.is_linked, last: row.signed_in_at };
            (row.name, sign_in)
        });
        Ok(admins.collect())
    }
}

/// Of several memberships in one project, which are beside each other, the one that gives the most.
fn highest(all: Vec<Membership>) -> Vec<Membership> {
    let mut kept: Vec<Membership> = Vec::with_capacity(all.len());
    for member in all {
        match kept.last_mut().filter(|last| last.project == member.project) {
            Some(last) => last.role = last.role.max(member.role),
            None => kept.push(member),
        }
    }
    kept
}

/// The person of this name, who is made if there is none.
pub(super) async fn person(tx: &mut Tx, by: &By, name: &str) -> Result<PrincipalId> {
    made(tx, by, name, PrincipalKind::Person).await
}

/// The principal of this name and kind, which is made if there is none.
pub(crate) async fn made(tx: &mut Tx, by: &By, name: &str, kind: PrincipalKind) -> Result<PrincipalId> {
    let new = sqlx::query_scalar!(
        "INSERT INTO principals (id, name, kind, created_by) VALUES ($1, $2, $3, $4)
         ON CONFLICT (name) DO NOTHING RETURNING id",
        Uuid::now_v7(),
        name,
        kind.as_str(),
        by.name
    )
    .fetch_optional(&mut **tx)
    .await?;
    if let Some(id) = new {
        let detail = json!({ "kind": kind.as_str() });
        by.did(tx, Deed { project: None, action: "principal.create", subject: name, detail }).await?;
        return Ok(id.into());
    }
    let there = sqlx::query_scalar!("SELECT id FROM principals WHERE name = $1", name);
    Ok(there.fetch_one(&mut **tx).await?.into())
}
