//! Logins at registries that come with a build (`--registry-login`): each is shown to its registry before the build is accepted, as one
//! that a project keeps is. So what no registry takes closes nothing to others, and fails nothing later.

use std::sync::Arc;

use farm_proto::v1;
use farm_types::mounts::GivenLogin;
use farm_types::{Invalid, Mounts, ProjectId, RegistryHost, ValueType};
use tonic::Status;
use uuid::Uuid;

use crate::grpc::status;
use crate::registry::Unverified;
use crate::registry::login::{Login, LoginBy};
use crate::shared::Shared;

/// Shows the registries the logins that a new build is given.
///
/// # Errors
/// One doesn't take its login, can't be asked or is where no request goes; or the project's builds would be given logins at too many.
pub(super) async fn verify(
    shared: &Shared,
    project: ProjectId,
    mounts: &Mounts,
    values: &[v1::MountValue],
) -> Result<(), Status> {
    if mounts.logins.is_empty() {
        return Ok(());
    }
    let hosts: Vec<String> = mounts.logins.iter().map(ToString::to_string).collect();
    shared.store.admits_login_hosts(project, &hosts).await.map_err(status::store)?;
    let logins = values.iter().filter(|value| value.r#type == ValueType::Login.as_str());
    let shown = logins.map(async |value| {
        let wrong = |cure: String| Invalid::new("--registry-login", value.id.as_str(), cure);
        let host: RegistryHost = value.id.parse().map_err(|e: Invalid| status::invalid(wrong(e.cure)))?;
        let about = format!("{host}/any").parse().map_err(status::invalid)?;
        let allowed = shared.registries.allow(&[about]).await;
        allowed.map_err(|e| status::invalid(wrong(e.cure)))?;
        let given = GivenLogin::read(&value.value).map_err(|why| status::invalid(wrong(why.to_owned())))?;
        let by = LoginBy::Password(given.username.clone(), given.password.clone().into());
        let login = Arc::new(Login { project, host, version: Uuid::new_v4(), by });
        shared.registries.verify(&login).await.map_err(|error| match error {
            Unverified::Refused(why) => status::invalid(wrong(format!("{why}; nothing was built"))),
            Unverified::Invalid(error) => status::invalid(wrong(error.cure)),
            Unverified::Registry(error) if error.is_transient() => Status::failed_precondition(format!(
                "--registry-login {}: {error}; nothing was built, submit it again once that answers",
                value.id
            )),
            Unverified::Registry(error) => Status::failed_precondition(format!(
                "--registry-login {}: {}; nothing was built",
                value.id, error.message
            )),
        })
    });
    futures::future::try_join_all(shown).await.map(drop)
}
