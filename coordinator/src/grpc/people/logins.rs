//! A project's own logins at registries: kept once the registry has taken them, and told to nobody again.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use farm_proto::v1;
use farm_proto::v1::registry_service_server::RegistryService;
use farm_store::StoreError;
use farm_store::people::logins::{Login, LoginBy, NewLogin, SealedPassword};
use farm_store::people::read_limits::ReadLimit;
use farm_types::{Invalid, RegistryHost};
use secrecy::{ExposeSecret as _, SecretString};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{millis, millis_of};
use crate::grpc::builds::mounts::covered;
use crate::grpc::status;
use crate::people;
use crate::registry::Unverified;
use crate::registry::login;
use crate::seal::Owner;
use crate::shared::Shared;

/// Docker Hub, as image references name it.
const HUB: &str = "docker.io";
/// The longest user name, and the longest password, bytes: tokens of clouds have some KiB.
const LONGEST: (usize, usize) = (255, 16 * 1024);

/// Serves [`RegistryService`].
#[derive(Debug)]
pub struct RegistryLogins {
    shared: Arc<Shared>,
}

impl RegistryLogins {
    /// What they are kept with.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// A registry as somebody named it, if requests can be sent to it.
fn host(text: &str) -> Result<RegistryHost, Invalid> {
    let host = RegistryHost::of_login(text).and_then(|host| host.check().map(|()| host));
    host.map_err(|error| {
        let cure = format!(
            "{}; name a registry as image references do, for example registry.example:5000",
            error.cure
        );
        Invalid::new("registry", text, cure)
    })
}

fn check(username: &str, password: &str) -> Result<(), Invalid> {
    // RFC 7617: what stands before the first colon is the user.
    let is_odd = |c: char| c.is_control() || c == ':';
    if username.is_empty() || username.len() > LONGEST.0 || username.contains(is_odd) {
        let cure = format!("write 1 to {} bytes in one line, without a colon", LONGEST.0);
        return Err(Invalid::new("user", username, cure));
    }
    if password.is_empty() || password.len() > LONGEST.1 || password.contains('\0') {
        let cure = format!("a password has 1 to {} bytes", LONGEST.1);
        return Err(Invalid::new("password", format!("of {} bytes", password.len()), cure));
    }
    Ok(())
}

fn unverified(error: Unverified) -> Status {
    match error {
        Unverified::Refused(why) => Status::invalid_argument(why),
        Unverified::Invalid(error) => status::invalid(error),
        Unverified::Registry(error) if error.is_transient() => {
            Status::unavailable(format!("{error}; nothing was kept, try again once it answers"))
        }
        Unverified::Registry(error) => Status::failed_precondition(error.message),
    }
}

fn present(login: Login) -> v1::RegistryLogin {
    v1::RegistryLogin {
        host: login.host,
        username: login.username,
        helper: login.helper.unwrap_or_default(),
        created_by: login.created_by,
        created_ms: millis(login.created_at),
        last_used_ms: millis_of(login.last_used_at),
        limit: login.limit.map(|(limit, at)| shown_limit(limit, at)),
    }
}

fn shown_limit(limit: ReadLimit, at: DateTime<Utc>) -> v1::ReadLimit {
    let ReadLimit { remaining, of, window_seconds } = limit;
    v1::ReadLimit { remaining, of, window_seconds, seen_ms: millis(at) }
}

#[farm_calls::service]
impl RegistryService for RegistryLogins {
    async fn set_registry_login(
        &self,
        request: Request<v1::SetRegistryLoginRequest>,
    ) -> Result<Response<v1::SetRegistryLoginResponse>, Status> {
        let member = people::member(&request)?;
        let v1::SetRegistryLoginRequest { host: text, username, password, helper } = request.into_inner();
        let password: SecretString = password.into();
        let host = host(&text).map_err(status::invalid)?;
        let (project, version) = (member.project, Uuid::new_v4());
        let by = if helper.is_empty() {
            if !covered(&self.shared, member.caller.is_encrypted) {
                return Err(Status::permission_denied(
                    "the password came over a connection without TLS, on which others could read it, and was not taken: change it, and \
                     call the farm by https:// (`farm login https://…`), or have whoever runs it start the coordinator with \
                     --insecure-secrets",
                ));
            }
            check(&username, password.expose_secret()).map_err(status::invalid)?;
            login::LoginBy::Password(username.clone(), password.clone())
        } else {
            if !username.is_empty() || !password.expose_secret().is_empty() {
                let cure = "it gives name and password itself; leave these out";
                return Err(status::invalid(Invalid::new("credential helper", helper, cure)));
            }
            let helpers = &self.shared.helpers;
            let fits = helpers.check(&helper, member.project_name.as_str(), &host);
            fits.map_err(|why| status::invalid(Invalid::new("credential helper", helper.as_str(), why)))?;
            login::LoginBy::Helper(helper.clone(), Arc::clone(helpers))
        };
        let login = Arc::new(login::Login { project, host: host.clone(), version, by });
        self.shared.registries.verify(&login).await.map_err(unverified)?;
        let by = if helper.is_empty() {
            let (key, sealed) = self.shared.keyring.new_data_key(Owner::Login(project, &host));
            let bytes = key.seal_one(password.expose_secret().as_bytes());
            LoginBy::Password(username, SealedPassword { key: sealed, bytes })
        } else {
            LoginBy::Helper(helper)
        };
        let new = NewLogin { project, host, version, by };
        let kept = self.shared.store.set_login(&member.caller.by(), &new).await;
        let kept = kept.map_err(|error| match error {
            StoreError::Conflict(why) => Status::failed_precondition(why),
            other => status::store(other),
        })?;
        self.shared.accesses.forget(project);
        let project = member.project_name;
        tracing::info!(%project, registry = %new.host, user = login.who(), by = member.name, "a project's login was set");
        let project = project.to_string();
        Ok(Response::new(v1::SetRegistryLoginResponse { login: Some(present(kept)), project }))
    }

    async fn list_registry_logins(
        &self,
        request: Request<v1::ListRegistryLoginsRequest>,
    ) -> Result<Response<v1::ListRegistryLoginsResponse>, Status> {
        let member = people::member(&request)?;
        let logins = self.shared.store.logins(member.project).await.map_err(status::store)?;
        let (logins, project) = (logins.into_iter().map(present).collect(), member.project_name.to_string());
        let limits = self.shared.store.read_limits().await.map_err(status::store)?;
        let registries = &self.shared.registries;
        // Which other registries the farm asks is not everybody's to know.
        let is_shown =
            |host: &str| host == HUB || registries.is_known(host) || member.caller.principal.is_farm_admin;
        let farm_limits = limits.into_iter().filter(|said| is_shown(&said.host)).map(|said| v1::FarmLimit {
            has_login: registries.has_login(&said.host),
            limit: Some(shown_limit(said.limit, said.at)),
            host: said.host,
        });
        let farm_limits = farm_limits.collect();
        Ok(Response::new(v1::ListRegistryLoginsResponse { logins, project, farm_limits }))
    }

    async fn remove_registry_login(
        &self,
        request: Request<v1::RemoveRegistryLoginRequest>,
    ) -> Result<Response<v1::RemoveRegistryLoginResponse>, Status> {
        let member = people::member(&request)?;
        let host = host(&request.get_ref().host).map_err(status::invalid)?;
        let project = member.project_name.to_string();
        match self.shared.store.remove_login(&member.caller.by(), member.project, &host).await {
            Ok(()) => {}
            Err(StoreError::NotFound(_)) => {
                let cure = format!(
                    "project {project} has no login there; `farm registry ls` lists those that it has"
                );
                return Err(status::invalid(Invalid::new("registry", host.as_str(), cure)));
            }
            Err(error) => return Err(status::store(error)),
        }
        self.shared.accesses.forget(member.project);
        tracing::info!(project, registry = %host, by = member.name, "a project's login was removed");
        Ok(Response::new(v1::RemoveRegistryLoginResponse { host: host.to_string(), project }))
    }
}
