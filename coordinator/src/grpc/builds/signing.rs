//! The key by which what a build publishes is signed: whether whoever asks for the build may have that.
//!
//! Invariant: as of secrets ([`super::secrets`]). The key itself goes nowhere: the coordinator that leads signs.

use farm_store::people::signing_keys::UsedSigningKey;
use farm_types::{BuildSpec, SigningKeyName};
use tonic::Status;

use super::guarded::Guarded;
use crate::grpc::status;
use crate::people::Member;
use crate::seal::{Owner, Unopened};
use crate::shared::Shared;
use crate::signing::SigningKey;

/// The signing key that a build names, if this caller may have things signed by it; `None`: it names none.
///
/// # Errors
/// It isn't there, isn't for this caller, or can't be opened.
pub(super) async fn find(
    shared: &Shared,
    member: &Member,
    spec: &BuildSpec,
) -> Result<Option<UsedSigningKey>, Status> {
    let Some(name) = &spec.sign else { return Ok(None) };
    let project = &member.project_name;
    let found = shared.store.sealed_signing_key(member.project, name).await.map_err(status::store)?;
    let key = found.ok_or_else(|| {
        Status::failed_precondition(format!(
            "project {project} has no signing key {name} (--sign); an admin of {project} can make one, farm signing-key generate {name} \
             --project {project}, or bring one: farm signing-key add {name} --file cosign.key --project {project}"
        ))
    })?;
    guarded(name).check(member, &key.rule)?;
    // What couldn't be signed when all is built is told now.
    let owner = Owner::Signing(member.project, name, key.version);
    let opened = shared.keyring.open(owner, &key.key).and_then(|data_key| data_key.open_one(&key.bytes));
    let opened = opened.map_err(|why| unopened(member, name, &why))?;
    SigningKey::from_der(&opened).map_err(|_| unopened(member, name, &Unopened::Forged))?;
    Ok(Some(UsedSigningKey { name: name.clone(), version: key.version, rule: key.rule }))
}

/// Refuses whoever may not have things signed by the key that a build names. One that is removed by now is nobody's.
///
/// # Errors
/// Who may, and who can change that.
pub(super) async fn check(shared: &Shared, member: &Member, spec: &BuildSpec) -> Result<(), Status> {
    let Some(name) = &spec.sign else { return Ok(()) };
    match shared.store.sealed_signing_key(member.project, name).await.map_err(status::store)? {
        Some(key) => guarded(name).check(member, &key.rule),
        None => Ok(()),
    }
}

fn guarded(name: &SigningKeyName) -> Guarded<'_> {
    Guarded { noun: "signing key", change: "farm signing-key rule", name: name.as_str() }
}

fn unopened(member: &Member, name: &SigningKeyName, why: &Unopened) -> Status {
    let project = &member.project_name;
    tracing::error!(%project, signing_key = %name, %why, "a signing key can't be opened");
    let anew = format!(
        "an admin of {project} replaces it: farm signing-key add {name} --replace --file FILE --project {project}"
    );
    Status::data_loss(match why {
        Unopened::KeyIsLost(id) => format!(
            "signing key {name} of project {project} was sealed by the farm's key {id}, which this coordinator hasn't; another one may have it, \
             so try again. Whoever runs the farm gives all coordinators the same keys (farm-coordinator keys ls); only if that key is lost for \
             good {anew}"
        ),
        Unopened::Forged => {
            format!(
                "signing key {name} of project {project} isn't in the farm's database as it was put there; {anew}"
            )
        }
    })
}
