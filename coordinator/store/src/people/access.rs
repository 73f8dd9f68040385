//! Where a project may push to, pull from and fetch from, which of its tags are protected, and which entitlements its builds may ask for.

use std::collections::BTreeSet;

use farm_core::people::Access;
use farm_types::{Entitlements, FetchHost, ProjectId, RegistryHost, RepositoryPrefix, Role, TagPattern};
use serde_json::json;

use super::audit::{By, Deed};
use super::logins::{LoginBy, SealedLogin, SealedPassword};
use super::standing::stays;
use crate::builds::mounts::SealedKey;
use crate::{Result, Store, StoreError, Tx};

/// A place that a project is allowed, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedPlace {
    /// To push to, and pull from.
    Push(RepositoryPrefix),
    /// To pull from with the farm's credentials.
    Pull(RepositoryPrefix),
    /// To fetch what `ADD` names. With one it fetches from nowhere else.
    Fetch(FetchHost),
}

/// What a project may do at registries, and by which logins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectAccess {
    /// What it is allowed, and where it has logins that count.
    pub access: Access,
    /// Its logins, those that were removed as well.
    pub logins: Vec<SealedLogin>,
    /// The project's name; empty: there is none.
    pub name: String,
    /// The registries at which any project or build has a login, or had one within the last 30 days.
    pub with_logins: BTreeSet<RegistryHost>,
}

/// Tags that are protected in a new project.
const PROTECTED: [(&str, Role); 2] = [("latest", Role::Publisher), ("v*", Role::Publisher)];

impl Store {
    /// What a project may do at registries: what it is allowed, and by which logins of its own; as of one moment.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn access(&self, project: ProjectId) -> Result<ProjectAccess> {
        let rows = sqlx::query!(
            r#"SELECT access AS "kind!", prefix AS "text!", '' AS "word!", NULL::uuid AS "version?",
                      NULL::text AS "helper?", NULL::text AS "key_id?", NULL::bytea AS "sealed_key?", NULL::bytea AS "sealed?"
               FROM allowed_repositories WHERE project_id = $1
               UNION ALL SELECT 'fetch', host, '', NULL, NULL, NULL, NULL, NULL FROM allowed_hosts WHERE project_id = $1
               UNION ALL SELECT 'tags', pattern, role, NULL, NULL, NULL, NULL, NULL FROM protected_tags WHERE project_id = $1
               UNION ALL SELECT 'entitlement', unnest(entitlements), '', NULL, NULL, NULL, NULL, NULL FROM projects WHERE id = $1
               UNION ALL SELECT 'name', name, '', NULL, NULL, NULL, NULL, NULL FROM projects WHERE id = $1
               UNION ALL SELECT 'login', host, username, version, helper, key_id, sealed_key, sealed
               FROM registry_logins WHERE project_id = $1
               UNION ALL SELECT DISTINCT 'told', host, '', NULL::uuid, NULL, NULL, NULL::bytea, NULL::bytea
               FROM registry_logins WHERE removed_at IS NULL OR removed_at > farm_now() - interval '30 days'
               UNION ALL SELECT 'told', host, '', NULL::uuid, NULL, NULL, NULL::bytea, NULL::bytea
               FROM given_logins WHERE given_at > farm_now() - interval '30 days'
               ORDER BY 1, 2"#,
            project.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        let mut found = ProjectAccess::default();
        let access = &mut found.access;
        for row in rows {
            let host = || row.text.parse::<RegistryHost>().map_err(StoreError::corrupt);
            match row.kind.as_str() {
                "push" => access.push.push(row.text.parse().map_err(StoreError::corrupt)?),
                "pull" => access.pull.push(row.text.parse().map_err(StoreError::corrupt)?),
                "fetch" => access.fetch.push(row.text.parse().map_err(StoreError::corrupt)?),
                "entitlement" => {
                    access.entitlements.insert(row.text.parse().map_err(StoreError::corrupt)?);
                }
                "name" => found.name = row.text,
                "told" => drop(found.with_logins.insert(host()?)),
                "login" => {
                    let host = host()?;
                    let by = match (row.helper, row.key_id, row.sealed_key, row.sealed) {
                        (Some(helper), ..) if !helper.is_empty() => Some(LoginBy::Helper(helper)),
                        (_, Some(by), Some(bytes), Some(sealed)) => {
                            let password = SealedPassword { key: SealedKey { by, bytes }, bytes: sealed };
                            Some(LoginBy::Password(row.word, password))
                        }
                        _ => None,
                    };
                    if by.is_some() {
                        access.logins.insert(host.clone());
                    }
                    let version = row.version.unwrap_or_default();
                    found.logins.push(SealedLogin { host, version, by });
                }
                _ => access.protected.push((
                    row.text.parse().map_err(StoreError::corrupt)?,
                    row.word.parse().map_err(StoreError::corrupt)?,
                )),
            }
        }
        Ok(found)
    }

    /// Lets a project use a place, or takes that back. Answers whether anything changed.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn allow(
        &self,
        by: &By,
        project: ProjectId,
        place: &AllowedPlace,
        is_allowed: bool,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        stays(&mut tx, project).await?;
        let (access, subject, is_changed) = match place {
            AllowedPlace::Push(prefix) => (
                "push",
                prefix.to_string(),
                use_repositories(&mut tx, project, "push", prefix, is_allowed).await?,
            ),
            AllowedPlace::Pull(prefix) => (
                "pull",
                prefix.to_string(),
                use_repositories(&mut tx, project, "pull", prefix, is_allowed).await?,
            ),
            AllowedPlace::Fetch(host) => {
                ("fetch", host.to_string(), fetch_from(&mut tx, project, host, is_allowed).await?)
            }
        };
        if is_changed {
            let action = match (place, is_allowed) {
                (AllowedPlace::Fetch(_), true) => "fetch.allow",
                (AllowedPlace::Fetch(_), false) => "fetch.forbid",
                (_, true) => "repository.allow",
                (_, false) => "repository.forbid",
            };
            let detail = json!({ "access": access });
            by.did(&mut tx, Deed { project: Some(project), action, subject: &subject, detail }).await?;
        }
        tx.commit().await?;
        Ok(is_changed)
    }

    /// Says which entitlements a project's builds may ask for; what waits already goes by it, too.
    ///
    /// # Errors
    /// There is no such project, or the database can't be reached.
    pub async fn allow_entitlements(
        &self,
        by: &By,
        project: ProjectId,
        entitlements: &Entitlements,
    ) -> Result<()> {
        let names: Vec<String> = entitlements.iter().map(ToString::to_string).collect();
        let mut tx = self.begin().await?;
        let changed = sqlx::query_scalar!(
            "UPDATE projects SET entitlements = $2 WHERE id = $1 AND removed_at IS NULL RETURNING name",
            project.as_uuid(),
            &names
        )
        .fetch_optional(&mut *tx)
        .await?;
        let name = changed.ok_or(StoreError::NotFound("project"))?;
        let detail = json!({ "entitlements": names });
        let deed = Deed { project: Some(project), action: "project.entitlements", subject: &name, detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await
    }

    /// Says who moves the tags of a pattern; `None`: whoever may build.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn protect(
        &self,
        by: &By,
        project: ProjectId,
        pattern: &TagPattern,
        least: Option<Role>,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        stays(&mut tx, project).await?;
        protect(&mut tx, by, project, pattern.as_str(), least).await?;
        tx.commit().await
    }
}

/// Answers whether anything changed.
async fn use_repositories(
    tx: &mut Tx,
    project: ProjectId,
    access: &str,
    prefix: &RepositoryPrefix,
    is_allowed: bool,
) -> Result<bool> {
    let prefix = prefix.to_string();
    let changed = if is_allowed {
        sqlx::query!(
            "INSERT INTO allowed_repositories (project_id, access, prefix) VALUES ($1, $2, $3)
             ON CONFLICT DO NOTHING",
            project.as_uuid(),
            access,
            prefix
        )
        .execute(&mut **tx)
        .await?
    } else {
        sqlx::query!(
            "DELETE FROM allowed_repositories WHERE project_id = $1 AND access = $2 AND prefix = $3",
            project.as_uuid(),
            access,
            prefix
        )
        .execute(&mut **tx)
        .await?
    };
    Ok(changed.rows_affected() > 0)
}

/// Answers whether anything changed.
async fn fetch_from(tx: &mut Tx, project: ProjectId, host: &FetchHost, is_allowed: bool) -> Result<bool> {
    let host = host.to_string();
    let changed = if is_allowed {
        sqlx::query!(
            "INSERT INTO allowed_hosts (project_id, host) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            project.as_uuid(),
            host
        )
        .execute(&mut **tx)
        .await?
    } else {
        sqlx::query!("DELETE FROM allowed_hosts WHERE project_id = $1 AND host = $2", project.as_uuid(), host)
            .execute(&mut **tx)
            .await?
    };
    Ok(changed.rows_affected() > 0)
}

/// The tags that are protected from a project's beginning on.
pub(super) async fn protect_usual(tx: &mut Tx, by: &By, project: ProjectId) -> Result<()> {
    for (pattern, least) in PROTECTED {
        protect(tx, by, project, pattern, Some(least)).await?;
    }
    Ok(())
}

async fn protect(tx: &mut Tx, by: &By, project: ProjectId, pattern: &str, least: Option<Role>) -> Result<()> {
    if let Some(role) = least {
        sqlx::query!(
            "INSERT INTO protected_tags (project_id, pattern, role) VALUES ($1, $2, $3)
             ON CONFLICT (project_id, pattern) DO UPDATE SET role = excluded.role",
            project.as_uuid(),
            pattern,
            role.as_str()
        )
        .execute(&mut **tx)
        .await?;
    } else {
        sqlx::query!(
            "DELETE FROM protected_tags WHERE project_id = $1 AND pattern = $2",
            project.as_uuid(),
            pattern
        )
        .execute(&mut **tx)
        .await?;
    }
    let detail = json!({ "role": least.map(Role::as_str) });
    by.did(tx, Deed { project: Some(project), action: "tag.protect", subject: pattern, detail }).await
}
