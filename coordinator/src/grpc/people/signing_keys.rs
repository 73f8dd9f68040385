//! Keys by which a project signs what its builds publish. A private key comes in, or is made here, is sealed, and is opened by the coordinator
//! that signs, and by nobody else.

use std::sync::Arc;

use farm_core::people::secrets::SecretRule;
use farm_proto::v1;
use farm_proto::v1::signing_service_server::SigningService;
use farm_store::StoreError;
use farm_store::people::signing_keys::{NewSigningKey, SealedSigningKey, SigningKeyRecord};
use farm_types::{Invalid, SigningKeyName};
use secrecy::{ExposeSecret as _, SecretString};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::secrets::Said;
use super::{millis, millis_of};
use crate::grpc::builds::mounts::covered;
use crate::grpc::status;
use crate::people::{self, Member};
use crate::seal::Owner;
use crate::shared::Shared;
use crate::signing::{LONGEST, PublicKey, SigningKey};

/// So often it is tried when others change the same key at the same moment.
const TRIES: usize = 5;

/// Serves [`SigningService`].
#[derive(Debug)]
pub struct SigningKeys {
    shared: Arc<Shared>,
}

impl SigningKeys {
    /// What they are kept with.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn present(&self, key: SigningKeyRecord) -> v1::SigningKey {
        let is_here = self.shared.keyring.ids().iter().any(|id| id.as_str() == key.key);
        let (used, public) = (key.last_use, PublicKey::of_point(key.public));
        v1::SigningKey {
            name: key.name.to_string(),
            public_key: public.pem(),
            fingerprint: public.fingerprint().to_string(),
            set_ms: millis(key.set_at),
            set_by: key.set_by,
            last_used_ms: millis_of(used.as_ref().map(|used| used.at)),
            last_used_build: used.as_ref().map(|used| used.build.clone()).unwrap_or_default(),
            last_used_by: used.map(|used| used.by).unwrap_or_default(),
            role: key.rule.role.to_string(),
            refs: key.rule.refs.iter().map(ToString::to_string).collect(),
            events: key.rule.events.iter().map(ToString::to_string).collect(),
            missing_key: if is_here { String::new() } else { key.key },
        }
    }

    /// Sets a key, or a rule alone, once.
    async fn set(
        &self,
        member: &Member,
        name: &SigningKeyName,
        (said, replace): (&Said<'_>, bool),
        key: Option<&SigningKey>,
    ) -> Result<Result<(), StoreError>, Status> {
        let (store, by, project) = (&self.shared.store, member.caller.by(), member.project);
        let before = store.sealed_signing_key(project, name).await.map_err(status::store)?;
        let old = before.as_ref().map(|before| before.rule.clone());
        let rule: SecretRule = said.of(old.unwrap_or_default()).map_err(status::invalid)?;
        let Some(key) = key else {
            let SealedSigningKey { version, rule: old, .. } = before.ok_or_else(|| none(member, name))?;
            return Ok(store.set_signing_key_rule(&by, (project, name), (version, &old), &rule).await);
        };
        if before.is_some() && !replace {
            return Err(Status::already_exists(format!(
                "project {} has a signing key {name}, and what is signed by another isn't verified by its public key any more; take another \
                 name, or add --replace",
                member.project_name
            )));
        }
        let (version, public) = (Uuid::new_v4(), key.public());
        let (data_key, sealed) = self.shared.keyring.new_data_key(Owner::Signing(project, name, version));
        let new = NewSigningKey {
            project,
            name,
            before: before.map(|before| before.version),
            version,
            rule: &rule,
            public: public.point(),
            key: &sealed,
            bytes: &data_key.seal_one(key.der()),
        };
        Ok(store.set_signing_key(&by, &new).await)
    }
}

fn none(member: &Member, name: &SigningKeyName) -> Status {
    let project = &member.project_name;
    Status::not_found(format!(
        "project {project} has no signing key {name}; `farm signing-key ls --project {project}` lists those that it has"
    ))
}

#[farm_calls::service]
impl SigningService for SigningKeys {
    async fn set_signing_key(
        &self,
        request: Request<v1::SetSigningKeyRequest>,
    ) -> Result<Response<v1::SetSigningKeyResponse>, Status> {
        let member = people::member(&request)?;
        let v1::SetSigningKeyRequest { name, key, generate, replace, role, refs, events } =
            request.into_inner();
        let pem: SecretString = key.into();
        let pem = pem.expose_secret();
        if !pem.is_empty() && !covered(&self.shared, member.caller.is_encrypted) {
            return Err(Status::permission_denied(
                "a private key came over a connection without TLS, on which others could read it, and was not taken: make another one, and call \
                 the farm by https:// (`farm login https://…`), or have whoever runs it start the coordinator with --insecure-secrets",
            ));
        }
        let name: SigningKeyName = name.parse().map_err(status::invalid)?;
        let unusable = |why: &str| status::invalid(Invalid::new("signing key", name.as_str(), why));
        let key = match (pem.is_empty(), generate) {
            (false, true) => return Err(unusable("it is either brought or made here")),
            (false, false) if pem.len() > LONGEST => {
                return Err(unusable("it has more than 16 KiB, so it is no key"));
            }
            (false, false) => Some(SigningKey::from_pem(pem).map_err(unusable)?),
            (true, true) => Some(SigningKey::generate().map_err(Status::internal)?),
            (true, false) => None,
        };
        let said = Said { role: role.as_deref(), refs: refs.as_ref(), events: events.as_ref() };
        let mut tries = 1;
        loop {
            match self.set(&member, &name, (&said, replace), key.as_ref()).await? {
                Err(StoreError::Stale(_)) if tries < TRIES => tries += 1,
                done => break done.map_err(status::store)?,
            }
        }
        let project = member.project_name.to_string();
        tracing::info!(project, signing_key = %name, is_key = key.is_some(), generate, by = member.name, "signing key set");
        let keys = self.shared.store.signing_keys(member.project).await.map_err(status::store)?;
        let set = keys.into_iter().find(|key| key.name == name).ok_or_else(|| none(&member, &name))?;
        Ok(Response::new(v1::SetSigningKeyResponse { key: Some(self.present(set)), project }))
    }

    async fn list_signing_keys(
        &self,
        request: Request<v1::ListSigningKeysRequest>,
    ) -> Result<Response<v1::ListSigningKeysResponse>, Status> {
        let member = people::member(&request)?;
        let keys = self.shared.store.signing_keys(member.project).await.map_err(status::store)?;
        let keys = keys.into_iter().map(|key| self.present(key)).collect();
        Ok(Response::new(v1::ListSigningKeysResponse { keys, project: member.project_name.to_string() }))
    }

    async fn remove_signing_key(
        &self,
        request: Request<v1::RemoveSigningKeyRequest>,
    ) -> Result<Response<v1::RemoveSigningKeyResponse>, Status> {
        let member = people::member(&request)?;
        let name: SigningKeyName = request.into_inner().name.parse().map_err(status::invalid)?;
        match self.shared.store.remove_signing_key(&member.caller.by(), member.project, &name).await {
            Ok(()) => {}
            Err(StoreError::NotFound(_)) => return Err(none(&member, &name)),
            Err(error) => return Err(status::store(error)),
        }
        tracing::info!(project = %member.project_name, signing_key = %name, by = member.name, "signing key removed");
        Ok(Response::new(v1::RemoveSigningKeyResponse { project: member.project_name.to_string() }))
    }
}
