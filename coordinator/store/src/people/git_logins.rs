//! Logins of projects for git, as they are kept: sealed. This crate has no key; who opens them is the coordinator.

use chrono::{DateTime, Utc};
use farm_types::{GitPlace, ProjectId};
use serde_json::json;
use uuid::Uuid;

use super::audit::{By, Deed};
use super::standing::stays;
use crate::builds::mounts::SealedKey;
use crate::machines::leader::Epoch;
use crate::{Result, Store, StoreError};

/// What is kept for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GitLoginKind {
    /// A user's name and a token, for https.
    Token,
    /// A private key, for ssh.
    Key,
}

impl GitLoginKind {
    /// The word that stands for it: `token` or `key`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Key => "key",
        }
    }

    fn of(word: &str) -> Result<Self> {
        match word {
            "token" => Ok(Self::Token),
            "key" => Ok(Self::Key),
            _ => Err(StoreError::corrupt(format!("{word:?} is no kind of login for git"))),
        }
    }
}

/// Which login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitLoginId {
    /// Whose.
    pub project: ProjectId,
    /// For which repositories.
    pub place: GitPlace,
    /// For https or for ssh.
    pub kind: GitLoginKind,
}

/// A repository whose objects a worker keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRepository {
    /// For which project.
    pub project: ProjectId,
    /// Its address.
    pub repository: String,
    /// The place of the login by which it was fetched last; empty: without.
    pub place: String,
}

/// A login, sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedGitLogin {
    /// Which.
    pub id: GitLoginId,
    /// Another one each time that it is set.
    pub version: Uuid,
    /// The user's name there; of a key that in the address counts.
    pub username: String,
    /// By which the host is known, for ssh: `TYPE BASE64`.
    pub host_keys: Vec<String>,
    /// Its data key.
    pub key: SealedKey,
    /// The token or the key, sealed by that.
    pub bytes: Vec<u8>,
}

/// A login, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitLogin {
    /// `HOST[:PORT][/PATH]`.
    pub place: String,
    /// `token` or `key`.
    pub kind: String,
    /// The user's name there; empty of a key.
    pub username: String,
    /// Who set it.
    pub created_by: String,
    /// When.
    pub created_at: DateTime<Utc>,
    /// When it was lent last, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

impl Store {
    /// Keeps a project's login for git, in the place of the one of its kind that was there.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: the project was removed. Or the database can't be reached.
    pub async fn set_git_login(&self, by: &By, new: &SealedGitLogin) -> Result<GitLogin> {
        let mut tx = self.begin().await?;
        stays(&mut tx, new.id.project).await?;
        let login = sqlx::query_as!(
            GitLogin,
            "INSERT INTO git_logins (project_id, place, kind, username, host_keys, version, key_id, sealed_key, sealed, created_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             ON CONFLICT (project_id, place, kind) DO UPDATE SET username = EXCLUDED.username, host_keys = EXCLUDED.host_keys,
                version = EXCLUDED.version, key_id = EXCLUDED.key_id, sealed_key = EXCLUDED.sealed_key, sealed = EXCLUDED.sealed,
                created_by = EXCLUDED.created_by, created_at = farm_now(), last_used_at = NULL
             RETURNING place, kind, username, created_by, created_at, last_used_at",
            new.id.project.as_uuid(),
            new.id.place.as_str(),
            new.id.kind.as_str(),
            new.username,
            &new.host_keys,
            new.version,
            new.key.by,
            new.key.bytes,
            new.bytes,
            by.name
        )
        .fetch_one(&mut *tx)
        .await?;
        let detail = json!({ "kind": new.id.kind.as_str(), "user": new.username });
        let subject = new.id.place.as_str();
        by.did(&mut tx, Deed { project: Some(new.id.project), action: "git.login", subject, detail }).await?;
        tx.commit().await?;
        Ok(login)
    }

    /// The project's logins for git, by their places.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn git_logins(&self, project: ProjectId) -> Result<Vec<GitLogin>> {
        let logins = sqlx::query_as!(
            GitLogin,
            "SELECT place, kind, username, created_by, created_at, last_used_at FROM git_logins
             WHERE project_id = $1 ORDER BY place, kind",
            project.as_uuid()
        );
        Ok(logins.fetch_all(&self.pool).await?)
    }

    /// The project's logins of this kind at a host, sealed.
    ///
    /// # Errors
    /// The database can't be reached, or holds what isn't understood.
    pub async fn sealed_git_logins(
        &self,
        project: ProjectId,
        host: &str,
        kind: GitLoginKind,
    ) -> Result<Vec<SealedGitLogin>> {
        let rows = sqlx::query!(
            "SELECT place, username, host_keys, version, key_id, sealed_key, sealed FROM git_logins
             WHERE project_id = $1 AND split_part(place, '/', 1) = lower($2) AND kind = $3 ORDER BY place",
            project.as_uuid(),
            host,
            kind.as_str()
        )
        .fetch_all(&self.pool)
        .await?;
        let logins = rows.into_iter().map(|row| {
            Ok(SealedGitLogin {
                id: GitLoginId { project, place: row.place.parse().map_err(StoreError::corrupt)?, kind },
                version: row.version,
                username: row.username,
                host_keys: row.host_keys,
                key: SealedKey { by: row.key_id, bytes: row.sealed_key },
                bytes: row.sealed,
            })
        });
        logins.collect()
    }

    /// Removes the project's logins for a place, of both kinds; gives their kinds.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: it has none there.
    pub async fn remove_git_logins(
        &self,
        by: &By,
        project: ProjectId,
        place: &GitPlace,
    ) -> Result<Vec<String>> {
        let mut tx = self.begin().await?;
        let kinds = sqlx::query_scalar!(
            "DELETE FROM git_logins WHERE project_id = $1 AND place = $2 RETURNING kind",
            project.as_uuid(),
            place.as_str()
        )
        .fetch_all(&mut *tx)
        .await?;
        if kinds.is_empty() {
            return Err(StoreError::NotFound("login"));
        }
        let deed = Deed {
            project: Some(project),
            action: "git.logout",
            subject: place.as_str(),
            detail: json!({ "kinds": kinds }),
        };
        by.did(&mut tx, deed).await?;
        tx.commit().await?;
        Ok(kinds)
    }

    /// Which of these have no reason to be kept, by their places: their project isn't there any more, or neither is the login by which they
    /// were fetched. (What a hook's App is lent is for its own repository.)
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn gone_repositories(&self, kept: &[KeptRepository]) -> Result<Vec<i64>> {
        let projects: Vec<Uuid> = kept.iter().map(|one| one.project.as_uuid()).collect();
        let repositories: Vec<String> = kept.iter().map(|one| one.repository.clone()).collect();
        let places: Vec<String> = kept.iter().map(|one| one.place.clone()).collect();
        let gone = sqlx::query_scalar!(
            r#"SELECT kept.n - 1 AS "n!"
               FROM unnest($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY AS kept (project, repository, place, n)
               WHERE NOT EXISTS (SELECT FROM projects p WHERE p.id = kept.project AND p.removed_at IS NULL)
                  OR kept.place <> ''
                     AND NOT EXISTS (SELECT FROM git_logins l WHERE l.project_id = kept.project AND l.place = kept.place)
                     AND NOT EXISTS (SELECT FROM hooks h JOIN hook_tokens t ON t.project_id = h.project_id AND t.hook_id = h.id
                        WHERE h.project_id = kept.project AND h.removed_at IS NULL AND t.app IS NOT NULL AND h.clone_url = kept.repository)
               ORDER BY kept.n"#,
            &projects,
            &repositories,
            &places
        );
        Ok(gone.fetch_all(&self.pool).await?)
    }

    /// Notes that a login was lent.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn git_login_used(&self, project: ProjectId, version: Uuid) -> Result<()> {
        sqlx::query!(
            "UPDATE git_logins SET last_used_at = farm_now() WHERE project_id = $1 AND version = $2
               AND coalesce(last_used_at, '-infinity') < farm_now() - interval '1 minute'",
            project.as_uuid(),
            version
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Data keys of logins for git that were sealed by one of these keys of the farm: the next after that of a login.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn git_login_keys_by(
        &self,
        keys: &[String],
        after: Option<&GitLoginId>,
        most: i64,
    ) -> Result<Vec<(GitLoginId, SealedKey)>> {
        let rows = sqlx::query!(
            "SELECT project_id, place, kind, key_id, sealed_key FROM git_logins
             WHERE key_id = ANY($1) AND ($3::uuid IS NULL OR (project_id, place, kind) > ($3, $4, $5))
             ORDER BY project_id, place, kind LIMIT $2",
            keys,
            most,
            after.map(|id| id.project.as_uuid()),
            after.map(|id| id.place.as_str()),
            after.map(|id| id.kind.as_str())
        )
        .fetch_all(&self.pool)
        .await?;
        let keys = rows.into_iter().map(|row| {
            let id = GitLoginId {
                project: row.project_id.into(),
                place: row.place.parse().map_err(StoreError::corrupt)?,
                kind: GitLoginKind::of(&row.kind)?,
            };
            Ok((id, SealedKey { by: row.key_id, bytes: row.sealed_key }))
        });
        keys.collect()
    }

    /// Exchanges a login's data key for the same, sealed by another key. False: it was set anew or removed meanwhile.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn reseal_git_login_key(
        &self,
        epoch: Epoch,
        id: &GitLoginId,
        old: &SealedKey,
        new: &SealedKey,
    ) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE git_logins SET key_id = $4, sealed_key = $5
             WHERE project_id = $1 AND place = $2 AND kind = $3 AND key_id = $6 AND sealed_key = $7",
            id.project.as_uuid(),
            id.place.as_str(),
            id.kind.as_str(),
            new.by,
            new.bytes,
            old.by,
            old.bytes
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }
}
