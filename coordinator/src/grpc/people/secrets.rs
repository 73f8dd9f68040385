//! Secrets that projects keep for their builds. A value comes in, is sealed, and goes to builds only ([`crate::grpc::builds`]).

use std::sync::Arc;

use farm_core::people::secrets::SecretRule;
use farm_proto::v1;
use farm_proto::v1::secret_service_server::SecretService;
use farm_store::StoreError;
use farm_store::people::secrets::{NewSecret, ProjectSecret};
use farm_types::mounts::MOST_SECRET_BYTES;
use farm_types::{Invalid, Role, SecretName};
use tonic::{Request, Response, Status};

use super::{millis, millis_of};
use crate::grpc::builds::mounts::covered;
use crate::grpc::status;
use crate::people::{self, Member};
use crate::seal::Owner;
use crate::shared::Shared;

/// A rule names no more refs, and no more events.
const MOST_WORDS: usize = 16;
/// So often it is tried when others change the same secret at the same moment.
const TRIES: usize = 5;

/// Serves [`SecretService`].
#[derive(Debug)]
pub struct Secrets {
    shared: Arc<Shared>,
}

impl Secrets {
    /// What they are kept with.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn present(&self, secret: ProjectSecret) -> v1::ProjectSecret {
        let is_here = self.shared.keyring.ids().iter().any(|id| id.as_str() == secret.key);
        let used = secret.last_use;
        v1::ProjectSecret {
            name: secret.name.to_string(),
            // The schema has it above 0.
            version: u32::try_from(secret.version).unwrap_or_default(),
            set_ms: millis(secret.set_at),
            set_by: secret.set_by,
            last_used_ms: millis_of(used.as_ref().map(|used| used.at)),
            last_used_build: used.as_ref().map(|used| used.build.clone()).unwrap_or_default(),
            last_used_by: used.map(|used| used.by).unwrap_or_default(),
            role: secret.rule.role.to_string(),
            refs: secret.rule.refs.iter().map(ToString::to_string).collect(),
            events: secret.rule.events.iter().map(ToString::to_string).collect(),
            missing_key: if is_here { String::new() } else { secret.key },
        }
    }

    /// Sets a value, or a rule alone, once.
    async fn set(
        &self,
        member: &Member,
        name: &SecretName,
        asked: &v1::SetSecretRequest,
    ) -> Result<Result<i32, StoreError>, Status> {
        let (store, keyring, by) = (&self.shared.store, &self.shared.keyring, member.caller.by());
        let before = store.secret_standing(member.project, name).await.map_err(status::store)?;
        let said =
            Said { role: asked.role.as_deref(), refs: asked.refs.as_ref(), events: asked.events.as_ref() };
        let rule = said.of(before.rule.clone().unwrap_or_default()).map_err(status::invalid)?;
        let Some(value) = &asked.value else {
            if before.rule.is_none() {
                return Err(none(member, name));
            }
            let set = store.set_secret_rule(&by, member.project, name, &before, &rule).await;
            return Ok(set.map(|()| before.last));
        };
        let version = before.last.saturating_add(1);
        let (key, sealed_key) = keyring.new_data_key(Owner::Secret(member.project, name, version));
        let new = NewSecret {
            project: member.project,
            name,
            before: &before,
            rule: &rule,
            key: &sealed_key,
            bytes: &key.seal_one(value),
        };
        Ok(store.set_secret(&by, &new).await.map(|()| version))
    }
}

/// What is asked for of a rule; what isn't said stays.
pub(super) struct Said<'a> {
    pub role: Option<&'a str>,
    pub refs: Option<&'a v1::SecretRefs>,
    pub events: Option<&'a v1::SecretEvents>,
}

impl Said<'_> {
    /// The rule with it.
    ///
    /// # Errors
    /// It can't be had, and why.
    pub(super) fn of(&self, mut rule: SecretRule) -> Result<SecretRule, Invalid> {
        if let Some(role) = self.role {
            rule.role = role.parse()?;
            if rule.role == Role::Viewer {
                let cure = "a viewer submits no builds; there are builder, publisher and admin";
                return Err(Invalid::new("role", role, cure));
            }
        }
        let few = |thing: &str, count: usize| match count <= MOST_WORDS {
            true => Ok(()),
            false => Err(Invalid::new(thing, count.to_string(), format!("a rule has at most {MOST_WORDS}"))),
        };
        if let Some(refs) = self.refs {
            few("refs", refs.patterns.len())?;
            rule.refs = refs.patterns.iter().map(|one| one.parse()).collect::<Result<_, _>>()?;
            rule.refs.sort();
            rule.refs.dedup();
        }
        if let Some(events) = self.events {
            few("events", events.names.len())?;
            rule.events = events.names.iter().map(|one| one.parse()).collect::<Result<_, _>>()?;
            rule.events.sort();
            rule.events.dedup();
        }
        Ok(rule)
    }
}

fn none(member: &Member, name: &SecretName) -> Status {
    let project = &member.project_name;
    Status::not_found(format!(
        "project {project} has no secret {name}; `farm secret ls --project {project}` lists those that it has"
    ))
}

#[farm_calls::service]
impl SecretService for Secrets {
    async fn set_secret(
        &self,
        request: Request<v1::SetSecretRequest>,
    ) -> Result<Response<v1::SetSecretResponse>, Status> {
        let member = people::member(&request)?;
        let asked = request.into_inner();
        if asked.value.is_some() && !covered(&self.shared, member.caller.is_encrypted) {
            return Err(Status::permission_denied(
                "a secret came over a connection without TLS, on which others could read it, and was not taken; call the farm by \
                 https:// (`farm login https://…`), or have whoever runs it start the coordinator with --insecure-secrets",
            ));
        }
        let name: SecretName = asked.name.parse().map_err(status::invalid)?;
        match asked.value.as_ref().map(bytes::Bytes::len) {
            Some(0) => {
                return Err(status::invalid(Invalid::new("secret", name.as_str(), "its value is empty")));
            }
            Some(length) if length > MOST_SECRET_BYTES => {
                let cure = format!("it has {length} bytes, and at most {MOST_SECRET_BYTES} are taken");
                return Err(status::invalid(Invalid::new("secret", name.as_str(), cure)));
            }
            _ => {}
        }
        let mut tries = 1;
        let version = loop {
            match self.set(&member, &name, &asked).await? {
                Err(StoreError::Stale(_)) if tries < TRIES => tries += 1,
                done => break done.map_err(status::store)?,
            }
        };
        tracing::info!(
            project = %member.project_name, secret = %name, version, is_value = asked.value.is_some(), by = member.name,
            "secret set"
        );
        let secrets = self.shared.store.project_secrets(member.project).await.map_err(status::store)?;
        let set = secrets.into_iter().find(|secret| secret.name == name);
        let set = set.ok_or_else(|| none(&member, &name))?;
        Ok(Response::new(v1::SetSecretResponse {
            secret: Some(self.present(set)),
            project: member.project_name.to_string(),
        }))
    }

    async fn list_secrets(
        &self,
        request: Request<v1::ListSecretsRequest>,
    ) -> Result<Response<v1::ListSecretsResponse>, Status> {
        let member = people::member(&request)?;
        let secrets = self.shared.store.project_secrets(member.project).await.map_err(status::store)?;
        let secrets = secrets.into_iter().map(|secret| self.present(secret)).collect();
        Ok(Response::new(v1::ListSecretsResponse { secrets, project: member.project_name.to_string() }))
    }

    async fn remove_secret(
        &self,
        request: Request<v1::RemoveSecretRequest>,
    ) -> Result<Response<v1::RemoveSecretResponse>, Status> {
        let member = people::member(&request)?;
        let name: SecretName = request.into_inner().name.parse().map_err(status::invalid)?;
        match self.shared.store.remove_secret(&member.caller.by(), member.project, &name).await {
            Ok(()) => {}
            Err(StoreError::NotFound(_)) => return Err(none(&member, &name)),
            Err(error) => return Err(status::store(error)),
        }
        tracing::info!(project = %member.project_name, secret = %name, by = member.name, "secret removed");
        Ok(Response::new(v1::RemoveSecretResponse { project: member.project_name.to_string() }))
    }
}
