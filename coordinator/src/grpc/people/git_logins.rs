//! A project's logins for git: kept sealed, lent to jobs that fetch, and told to nobody again.

use std::sync::Arc;

use farm_proto::v1;
use farm_proto::v1::git_service_server::GitService;
use farm_store::StoreError;
use farm_store::people::git_logins::{GitLogin, GitLoginId, GitLoginKind, SealedGitLogin};
use farm_types::{GitPlace, Invalid};
use secrecy::{ExposeSecret as _, SecretString};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{millis, millis_of};
use crate::grpc::builds::mounts::covered;
use crate::grpc::status;
use crate::people;
use crate::seal::Owner;
use crate::shared::Shared;

/// The longest user name, and the longest token or key, bytes.
const LONGEST: (usize, usize) = (255, 16 * 1024);
/// So many keys of a host are kept.
const MOST_HOST_KEYS: usize = 16;

/// Serves [`GitService`].
#[derive(Debug)]
pub struct GitLogins {
    shared: Arc<Shared>,
}

impl GitLogins {
    /// What they are kept with.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

fn check_token(username: &str, token: &str) -> Result<(), Invalid> {
    // RFC 7617: what stands before the first colon is the user. What git asks a helper for is one line each.
    if username.is_empty()
        || username.len() > LONGEST.0
        || username.contains(|c: char| c.is_control() || c == ':')
    {
        let cure = format!("write 1 to {} bytes in one line, without a colon", LONGEST.0);
        return Err(Invalid::new("user", username, cure));
    }
    if token.len() > LONGEST.1 || token.contains(|c: char| c.is_control()) {
        let cure = format!("a token is one line of at most {} bytes", LONGEST.1);
        return Err(Invalid::new("token", format!("of {} bytes", token.len()), cure));
    }
    Ok(())
}

fn check_key(key: &str, host_keys: &[String]) -> Result<(), Invalid> {
    if key.len() > LONGEST.1 || !key.contains("PRIVATE KEY-----") {
        return Err(Invalid::new(
            "key",
            format!("of {} bytes", key.len()),
            format!("a private key in PEM has at most {} bytes", LONGEST.1),
        ));
    }
    let is_word = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@+/=".contains(c))
    };
    let is_key =
        |line: &String| line.split_once(' ').is_some_and(|(kind, base64)| is_word(kind) && is_word(base64));
    if host_keys.is_empty() || host_keys.len() > MOST_HOST_KEYS || !host_keys.iter().all(is_key) {
        let cure = format!(
            "1 to {MOST_HOST_KEYS} keys of the host belong to it, each TYPE BASE64: what ssh-keyscan HOST prints, once you have compared it"
        );
        return Err(Invalid::new("host keys", host_keys.join(", "), cure));
    }
    Ok(())
}

fn present(login: GitLogin) -> v1::GitLogin {
    v1::GitLogin {
        place: login.place,
        kind: login.kind,
        username: login.username,
        created_by: login.created_by,
        created_ms: millis(login.created_at),
        last_used_ms: millis_of(login.last_used_at),
    }
}

#[farm_calls::service]
impl GitService for GitLogins {
    async fn set_git_login(
        &self,
        request: Request<v1::SetGitLoginRequest>,
    ) -> Result<Response<v1::SetGitLoginResponse>, Status> {
        let member = people::member(&request)?;
        let v1::SetGitLoginRequest { place, username, token, key, host_keys } = request.into_inner();
        let (token, key): (SecretString, SecretString) = (token.into(), key.into());
        let place: GitPlace = place.parse().map_err(status::invalid)?;
        if !covered(&self.shared, member.caller.is_encrypted) {
            return Err(Status::permission_denied(
                "the login came over a connection without TLS, on which others could read it, and was not taken: change it, and call \
                 the farm by https:// (`farm login https://…`), or have whoever runs it start the coordinator with --insecure-secrets",
            ));
        }
        let (kind, value, username) = match (token.expose_secret(), key.expose_secret()) {
            (token, "") if !token.is_empty() => {
                check_token(&username, token).map_err(status::invalid)?;
                if !host_keys.is_empty() {
                    let cure = "these belong to a key for ssh, not to a token";
                    return Err(status::invalid(Invalid::new("host keys", host_keys.join(", "), cure)));
                }
                (GitLoginKind::Token, token, username)
            }
            ("", key) if !key.is_empty() => {
                check_key(key, &host_keys).map_err(status::invalid)?;
                (GitLoginKind::Key, key, String::new())
            }
            _ => return Err(status::invalid(Invalid::new("login", "", "give either a token or a key"))),
        };
        let project = member.project;
        let (data_key, sealed) = self.shared.keyring.new_data_key(Owner::Git(project, kind.as_str(), &place));
        let new = SealedGitLogin {
            id: GitLoginId { project, place, kind },
            version: Uuid::new_v4(),
            username,
            host_keys,
            key: sealed,
            bytes: data_key.seal_one(value.as_bytes()),
        };
        let kept = self.shared.store.set_git_login(&member.caller.by(), &new).await.map_err(status::store)?;
        let project = member.project_name.to_string();
        tracing::info!(project, place = %new.id.place, kind = kind.as_str(), by = member.name, "a project's login for git was set");
        Ok(Response::new(v1::SetGitLoginResponse { login: Some(present(kept)), project }))
    }

    async fn list_git_logins(
        &self,
        request: Request<v1::ListGitLoginsRequest>,
    ) -> Result<Response<v1::ListGitLoginsResponse>, Status> {
        let member = people::member(&request)?;
        let logins = self.shared.store.git_logins(member.project).await.map_err(status::store)?;
        let (logins, project) = (logins.into_iter().map(present).collect(), member.project_name.to_string());
        Ok(Response::new(v1::ListGitLoginsResponse { logins, project }))
    }

    async fn remove_git_login(
        &self,
        request: Request<v1::RemoveGitLoginRequest>,
    ) -> Result<Response<v1::RemoveGitLoginResponse>, Status> {
        let member = people::member(&request)?;
        let place: GitPlace = request.get_ref().place.parse().map_err(status::invalid)?;
        let project = member.project_name.to_string();
        let kinds =
            match self.shared.store.remove_git_logins(&member.caller.by(), member.project, &place).await {
                Ok(kinds) => kinds,
                Err(StoreError::NotFound(_)) => {
                    let cure = format!(
                        "project {project} has no login there; `farm git ls` lists those that it has"
                    );
                    return Err(status::invalid(Invalid::new("place of repositories", place.as_str(), cure)));
                }
                Err(error) => return Err(status::store(error)),
            };
        tracing::info!(project, %place, by = member.name, "a project's login for git was removed");
        Ok(Response::new(v1::RemoveGitLoginResponse { place: place.to_string(), project, kinds }))
    }
}
