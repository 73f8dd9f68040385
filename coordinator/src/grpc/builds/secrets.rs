//! Secrets of the project that a build uses: whether whoever asks for it may, and their values.
//!
//! Invariant: a rule is asked for each build and each retry, of whoever asks for that, and the transaction that accepts it repeats
//! that the rule is the same; what a build was accepted with stays its own.

use std::collections::BTreeMap;

use farm_core::people::secrets::SecretRule;
use farm_types::{MountId, Mounts, SecretName, SecretSource};
use tonic::Status;

use super::guarded::Guarded;
use crate::grpc::status;
use crate::people::Member;
use crate::seal::{Clear, Owner, Unopened};
use crate::shared::Shared;

/// One of the project's secrets, in clear.
pub(super) struct Opened {
    /// Which version it is.
    pub version: i32,
    /// The rule that lets this caller use it.
    pub rule: SecretRule,
    /// Its value.
    pub value: Clear,
}

/// The project's secrets that a build names, and by which ids.
pub(super) fn named(mounts: &Mounts) -> impl Iterator<Item = (&MountId, &SecretName)> {
    mounts.secrets.iter().filter_map(|(id, source)| match source {
        SecretSource::Project(name) => Some((id, name)),
        SecretSource::Given => None,
    })
}

/// Opens the project's secrets that a build names, if this caller may use all of them.
///
/// # Errors
/// One isn't there, isn't for this caller, or can't be opened.
pub(super) async fn open(
    shared: &Shared,
    member: &Member,
    mounts: &Mounts,
) -> Result<BTreeMap<SecretName, Opened>, Status> {
    let mut opened = BTreeMap::new();
    for (_, name) in named(mounts) {
        if opened.contains_key(name) {
            continue;
        }
        let project = &member.project_name;
        let found = shared.store.sealed_secret(member.project, name).await.map_err(status::store)?;
        let secret = found.ok_or_else(|| {
            Status::failed_precondition(format!(
                "project {project} has no secret {name} (--secret …,from=project); an admin of {project} can set it: farm secret \
                 set {name} --project {project}"
            ))
        })?;
        guarded(name).check(member, &secret.rule)?;
        let owner = Owner::Secret(member.project, name, secret.version);
        let value = shared.keyring.open(owner, &secret.key).and_then(|key| key.open_one(&secret.bytes));
        let value = value.map_err(|why| unopened(member, name, &why))?;
        opened.insert(name.clone(), Opened { version: secret.version, rule: secret.rule, value });
    }
    Ok(opened)
}

/// Refuses whoever may not use the project's secrets that a build names. One that is removed by now is nobody's.
///
/// # Errors
/// Who may, and who can change that.
pub(super) async fn check_all(shared: &Shared, member: &Member, mounts: &Mounts) -> Result<(), Status> {
    for (_, name) in named(mounts) {
        let found = shared.store.sealed_secret(member.project, name).await.map_err(status::store)?;
        if let Some(secret) = found {
            guarded(name).check(member, &secret.rule)?;
        }
    }
    Ok(())
}

/// As messages name it.
fn guarded(name: &SecretName) -> Guarded<'_> {
    Guarded { noun: "secret", change: "farm secret rule", name: name.as_str() }
}

fn unopened(member: &Member, name: &SecretName, why: &Unopened) -> Status {
    let project = &member.project_name;
    let anew = format!("an admin of {project} sets it anew: farm secret set {name} --project {project}");
    match why {
        Unopened::KeyIsLost(id) => {
            tracing::error!(key = id, %project, secret = %name, "a project's secret was sealed by a key that isn't here");
            Status::data_loss(format!(
                "secret {name} of project {project} was sealed by the farm's key {id}, which this coordinator hasn't; another one may have \
                 it, so try again. Whoever runs the farm gives all coordinators the same keys (farm-coordinator keys ls); only if that key \
                 is lost for good {anew}"
            ))
        }
        Unopened::Forged => {
            tracing::error!(%project, secret = %name, "a project's secret in the database isn't what was sealed");
            Status::data_loss(format!(
                "secret {name} of project {project} isn't in the farm's database as it was put there; {anew}"
            ))
        }
    }
}
