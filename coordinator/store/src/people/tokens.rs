//! Tokens: what shows a principal. Only a digest of each is kept.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::{Digest, PrincipalId, PrincipalKind, ProjectId, Role, TokenId};
use serde_json::json;
use uuid::Uuid;

use super::audit::{By, Deed};
use super::members::enter;
use super::principals::{made, person};
use super::standing::stays;
use crate::{Result, Store, StoreError, Tx};

/// So many tokens of one holder count at once; two that are made at the same moment may be one too many.
const MANY: i64 = 100;

/// Whose a new token is.
#[derive(Debug, Clone, Copy)]
pub enum Holder<'a> {
    /// A principal that is there.
    Known(PrincipalId),
    /// The person of this name, who is made if there is none.
    Person(&'a str),
    /// A service of a project, with this role there; it is made if there is none.
    Service {
        project: ProjectId,
        /// PROJECT/NAME.
        name: &'a str,
        role: Role,
    },
}

/// A token that is to be.
#[derive(Debug, Clone)]
pub struct NewToken<'a> {
    pub holder: Holder<'a>,
    pub digest: Digest,
    /// Its first characters.
    pub hint: &'a str,
    /// What it is for, in its maker's words.
    pub label: &'a str,
    /// It counts in this project only.
    pub project: Option<ProjectId>,
    /// It gives no more than this.
    pub role: Option<Role>,
    /// What it is made with: it ends with that one, and no later.
    pub parent: Option<TokenId>,
    /// How long it counts; `None`: until it is revoked.
    pub lives: Option<Duration>,
}

/// A token, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub id: TokenId,
    pub hint: String,
    pub label: String,
    /// Whose it is.
    pub holder: String,
    pub kind: PrincipalKind,
    /// The only project in which it counts, by name.
    pub project: Option<String>,
    pub role: Option<Role>,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    /// To the minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// Whose tokens are asked for, or may be revoked.
#[derive(Debug, Clone)]
pub struct Reach {
    /// Everybody's.
    pub all: bool,
    /// This principal's.
    pub own: Option<PrincipalId>,
    /// Those of these projects' services.
    pub projects: Vec<ProjectId>,
}

impl Store {
    /// Makes a token.
    ///
    /// # Errors
    /// `Stale`: what it is made with counts no more; `Conflict`: its holder has too many; `NotFound`: a service's project is
    /// gone; or the database can't be reached.
    pub async fn create_token(&self, by: &By, new: &NewToken<'_>) -> Result<Token> {
        let mut tx = self.begin().await?;
        if let Some(parent) = new.parent {
            // Held until the end: a revocation that comes after this finds the new one, too.
            let counts = sqlx::query_scalar!(
                "SELECT true FROM tokens WHERE id = $1 AND revoked_at IS NULL
                 AND (expires_at IS NULL OR expires_at > farm_now()) FOR SHARE",
                parent.as_uuid()
            );
            if counts.fetch_optional(&mut *tx).await?.is_none() {
                return Err(StoreError::Stale("the token that it was to be made with counts no more"));
            }
        }
        let holder = holder(&mut tx, by, new.holder).await?;
        has_room(&mut tx, holder).await?;
        let id = sqlx::query_scalar!(
            "INSERT INTO tokens (id, principal_id, digest, hint, label, project_id, role, parent_id, created_by, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9,
                 least(farm_now() + make_interval(secs => $10), (SELECT expires_at FROM tokens WHERE id = $8)))
             RETURNING id",
            Uuid::now_v7(),
            holder.as_uuid(),
            new.digest.as_bytes().as_slice(),
            new.hint,
            new.label,
            new.project.map(ProjectId::as_uuid),
            new.role.map(Role::as_str),
            new.parent.map(TokenId::as_uuid),
            by.name,
            new.lives.map(|lives| lives.as_secs_f64())
        )
        .fetch_one(&mut *tx)
        .await?;
        // What is made with a sign-in's token for oneself gives what that gives, as it ends with it.
        if let (Holder::Known(_), Some(parent)) = (new.holder, new.parent) {
            sqlx::query!(
                "INSERT INTO sign_ins (token_id, issuer, subject, groups, expires_at)
                 SELECT t.id, s.issuer, s.subject, s.groups, t.expires_at FROM sign_ins s, tokens t
                 WHERE s.token_id = $2 AND t.id = $1",
                id,
                parent.as_uuid()
            )
            .execute(&mut *tx)
            .await?;
        }
        let token = read(&mut tx, id).await?;
        let project = match new.holder {
            Holder::Service { project, .. } => Some(project),
            _ => new.project,
        };
        let detail = json!({ "of": token.holder, "label": token.label, "expires_at": token.expires_at });
        by.did(&mut tx, Deed { project, action: "token.create", subject: new.hint, detail }).await?;
        tx.commit().await?;
        Ok(token)
    }

    /// The tokens within reach, newest first; those that count no more for 30 days are left out.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn tokens(&self, reach: &Reach) -> Result<Vec<Token>> {
        let mut tx = self.begin().await?;
        let projects: Vec<Uuid> = reach.projects.iter().map(|project| project.as_uuid()).collect();
        let ids = sqlx::query_scalar!(
            "SELECT t.id FROM tokens t JOIN principals p ON p.id = t.principal_id
             WHERE ($1 OR t.principal_id = $2 OR (p.kind = 'service' AND EXISTS (
                 SELECT FROM members m WHERE m.principal_id = p.id AND m.project_id = ANY($3))))
             AND t.trust_id IS NULL
             AND least(t.revoked_at, t.expires_at, 'infinity') > farm_now() - interval '30 days'
             ORDER BY t.id DESC LIMIT 1000",
            reach.all,
            reach.own.map(PrincipalId::as_uuid),
            &projects
        )
        .fetch_all(&mut *tx)
        .await?;
        read_all(&mut tx, &ids).await
    }

    /// Revokes the token within reach that is named, by id or by hint, and all that were made with it. Answers those that
    /// counted until now.
    ///
    /// # Errors
    /// `NotFound`: none within reach is so named; `Conflict`: several are; or the database can't be reached.
    pub async fn revoke_token(&self, by: &By, reach: &Reach, name: &str) -> Result<Vec<Token>> {
        let mut tx = self.begin().await?;
        let projects: Vec<Uuid> = reach.projects.iter().map(|project| project.as_uuid()).collect();
        let named = sqlx::query_scalar!(
            "SELECT t.id FROM tokens t JOIN principals p ON p.id = t.principal_id
             WHERE (t.id::text = $4 OR t.hint = $4) AND ($1 OR t.principal_id = $2 OR (p.kind = 'service' AND EXISTS (
                 SELECT FROM members m WHERE m.principal_id = p.id AND m.project_id = ANY($3))))
             FOR UPDATE OF t",
            reach.all,
            reach.own.map(PrincipalId::as_uuid),
            &projects,
            name
        )
        .fetch_all(&mut *tx)
        .await?;
        if named.is_empty() {
            return Err(StoreError::NotFound("token"));
        }
        if named.len() > 1 {
            let why = format!(
                "{} tokens begin with {name}; name one by its id, which `farm token ls` shows",
                named.len()
            );
            return Err(StoreError::Conflict(why));
        }
        let mut ended = Vec::new();
        loop {
            let more = sqlx::query!(
                "WITH RECURSIVE made(id) AS (
                     SELECT unnest($1::uuid[])
                     UNION SELECT t.id FROM tokens t JOIN made ON t.parent_id = made.id)
                 UPDATE tokens SET revoked_at = farm_now() WHERE id IN (SELECT id FROM made) AND revoked_at IS NULL
                 RETURNING id, hint, project_id",
                &named
            )
            .fetch_all(&mut *tx)
            .await?;
            // While it waited for one that was being made, that one may have made another.
            if more.is_empty() {
                break;
            }
            ended.extend(more);
        }
        let mut tokens = Vec::with_capacity(ended.len());
        for row in ended {
            let token = read(&mut tx, row.id).await?;
            let detail = json!({ "of": token.holder });
            let project = row.project_id.map(ProjectId::from);
            by.did(&mut tx, Deed { project, action: "token.revoke", subject: &row.hint, detail }).await?;
            tokens.push(token);
        }
        tx.commit().await?;
        Ok(tokens)
    }

    /// Notes that tokens are used, to the minute.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn note_used(&self, tokens: &[TokenId]) -> Result<()> {
        let ids: Vec<Uuid> = tokens.iter().map(|token| token.as_uuid()).collect();
        sqlx::query!(
            "UPDATE tokens SET last_used_at = farm_now() WHERE id = ANY($1)
             AND coalesce(last_used_at, '-infinity') < farm_now() - interval '1 minute'",
            &ids
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

async fn holder(tx: &mut Tx, by: &By, holder: Holder<'_>) -> Result<PrincipalId> {
    match holder {
        Holder::Known(id) => Ok(id),
        Holder::Person(name) => person(tx, by, name).await,
        Holder::Service { project, name, role } => {
            stays(tx, project).await?;
            let id = made(tx, by, name, PrincipalKind::Service).await?;
            // One that was taken out of the project, or of an older project of this name, is another one.
            sqlx::query!(
                "UPDATE tokens SET revoked_at = farm_now() WHERE principal_id = $1 AND revoked_at IS NULL
                 AND NOT EXISTS (SELECT FROM members WHERE principal_id = $1 AND project_id = $2)",
                id.as_uuid(),
                project.as_uuid()
            )
            .execute(&mut **tx)
            .await?;
            enter(tx, by, project, (id, name), role).await?;
            Ok(id)
        }
    }
}

/// Refuses another token of a principal that has many.
pub(super) async fn has_room(tx: &mut Tx, holder: PrincipalId) -> Result<()> {
    let others = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM tokens WHERE principal_id = $1 AND revoked_at IS NULL
           AND (expires_at IS NULL OR expires_at > farm_now())"#,
        holder.as_uuid()
    )
    .fetch_one(&mut **tx)
    .await?;
    if others >= MANY {
        let why = "their holder has 100 tokens that count; revoke some that nobody needs (`farm token ls`)";
        return Err(StoreError::Conflict(why.to_owned()));
    }
    Ok(())
}

async fn read(tx: &mut Tx, id: Uuid) -> Result<Token> {
    read_all(tx, &[id]).await?.pop().ok_or(StoreError::NotFound("token"))
}

/// These tokens, the newest first.
async fn read_all(tx: &mut Tx, ids: &[Uuid]) -> Result<Vec<Token>> {
    let rows = sqlx::query!(
        // No LEFT JOIN: what sqlx makes of one hangs on how Postgres happens to plan it.
        r#"SELECT t.id, t.hint, t.label, p.name AS holder, p.kind,
                  (SELECT j.name FROM projects j WHERE j.id = t.project_id) AS "project?", t.role, t.created_at,
                  t.created_by, t.expires_at, t.revoked_at, t.last_used_at
           FROM tokens t JOIN principals p ON p.id = t.principal_id WHERE t.id = ANY($1) ORDER BY t.id DESC"#,
        ids
    )
    .fetch_all(&mut **tx)
    .await?;
    let tokens = rows.into_iter().map(|row| {
        Ok(Token {
            id: row.id.into(),
            hint: row.hint,
            label: row.label,
            holder: row.holder,
            kind: row.kind.parse().map_err(StoreError::corrupt)?,
            project: row.project,
            role: row.role.map(|role| role.parse().map_err(StoreError::corrupt)).transpose()?,
            created_at: row.created_at,
            created_by: row.created_by,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            last_used_at: row.last_used_at,
        })
    });
    tokens.collect()
}
