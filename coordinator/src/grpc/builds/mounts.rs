//! Secrets and ssh keys that come with a build: what is taken of them, and how they go to the attempt that holds its lease.
//!
//! Invariant: a value is in clear in the call that brings it and in the answer that lends it, and nowhere else; no message here
//! holds one.

use std::collections::BTreeMap;

use bytes::Bytes;
use farm_proto::v1;
use farm_store::builds::mounts::{LeasedMounts, NewMounts, SealedMounts, SealedValue, UsedSecret};
use farm_store::builds::record::BuildRecord;
use farm_types::mounts::{GivenLogin, MOST_MOUNTED_BYTES, MOST_SECRET_BYTES, MOST_SSH_BYTES};
use farm_types::{BuildId, Invalid, MountId, Mounts, ValueType};
use tonic::Status;

use super::{secrets, signing};
use crate::grpc::status;
use crate::people::Member;
use crate::seal::{Owner, Unopened};
use crate::shared::Shared;

/// What a caller sends of values, each once.
type Values = BTreeMap<(ValueType, MountId), Bytes>;

/// Seals what a new build is given, and what it has of its project, for it alone.
///
/// # Errors
/// It isn't what the spec names, is too large, or came over a line that others can read; or a secret of the project isn't there or
/// not for this caller.
pub(super) async fn seal(
    shared: &Shared,
    member: &Member,
    build: BuildId,
    mounts: &Mounts,
    values: &[v1::MountValue],
) -> Result<Option<NewMounts>, Status> {
    if mounts.is_empty() && values.is_empty() {
        return Ok(None);
    }
    let is_private = !values.is_empty() || mounts.agents().next().is_some();
    if is_private && !covered(shared, member.caller.is_encrypted) {
        return Err(Status::permission_denied(
            "secrets came over a connection without TLS, on which others could read them, and were not taken; call the farm by \
             https:// (`farm login https://…`), or have whoever runs it start the coordinator with --insecure-secrets",
        ));
    }
    let (mut values, given) = sorted(values).map_err(status::invalid)?;
    let opened = secrets::open(shared, member, mounts).await?;
    let of_project: Vec<_> =
        secrets::named(mounts).filter_map(|(id, name)| Some((id, name, opened.get(name)?))).collect();
    let all = given + of_project.iter().map(|(_, _, secret)| secret.value.len()).sum::<usize>();
    if all > MOST_MOUNTED_BYTES {
        let cure = format!("all values of a build have at most {MOST_MOUNTED_BYTES} bytes together");
        return Err(status::invalid(Invalid::new("secrets", format!("{all} bytes"), cure)));
    }
    let owner = Owner::Build(member.project, build);
    let (key, sealed) = shared.keyring.new_data_key(owner);
    let mut kept = Vec::new();
    for (mount, id) in mounts.given() {
        let Some(value) = values.remove(&(mount, id.clone())) else {
            let cure = "its value didn't come with the build; give it again";
            return Err(status::invalid(Invalid::new(format!("--{mount}"), id.as_str(), cure)));
        };
        kept.push(SealedValue { mount, id: id.clone(), bytes: key.seal(mount, id, &value) });
    }
    if let Some((mount, id)) = values.keys().next() {
        let cure = "a value came that the build doesn't name";
        return Err(status::invalid(Invalid::new(format!("--{mount}"), id.as_str(), cure)));
    }
    let mut used = Vec::new();
    for (id, name, secret) in of_project {
        let (mount, bytes) = (ValueType::Secret, key.seal(ValueType::Secret, id, &secret.value));
        kept.push(SealedValue { mount, id: id.clone(), bytes });
        let (name, rule) = (name.clone(), secret.rule.clone());
        used.push(UsedSecret { mount: id.clone(), name, version: secret.version, rule });
    }
    let sealed = SealedMounts { key: sealed, values: kept };
    Ok((!sealed.values.is_empty()).then_some(NewMounts { sealed, used }))
}

/// Whether secrets may come and go over such a connection.
pub(in crate::grpc) fn covered(shared: &Shared, is_encrypted: bool) -> bool {
    is_encrypted || shared.config.tls.insecure_plaintext || shared.config.insecure_secrets
}

/// The values by what they are for, and their bytes in all.
fn sorted(values: &[v1::MountValue]) -> Result<(Values, usize), Invalid> {
    let mut sorted = Values::new();
    let mut all = 0;
    for v1::MountValue { r#type, id, value } in values {
        let (mount, id): (ValueType, MountId) = (r#type.parse()?, id.parse()?);
        let told = || Invalid::new(format!("--{mount}"), id.as_str(), "");
        let most = match mount {
            ValueType::Secret => MOST_SECRET_BYTES,
            ValueType::Ssh | ValueType::Login => MOST_SSH_BYTES,
        };
        if value.len() > most {
            let cure = format!("it has {} bytes, and at most {most} are taken", value.len());
            return Err(Invalid { cure, ..told() });
        }
        if mount == ValueType::Ssh && value.is_empty() {
            return Err(Invalid { cure: "it has no key".to_owned(), ..told() });
        }
        if mount == ValueType::Login {
            GivenLogin::read(value).map_err(|cure| Invalid { cure: cure.to_owned(), ..told() })?;
        }
        all += value.len();
        let twice = Invalid { cure: "it came twice".to_owned(), ..told() };
        if sorted.insert((mount, id), value.clone()).is_some() {
            return Err(twice);
        }
    }
    Ok((sorted, all))
}

/// Refuses a retry that doesn't give again what its build was given, which is erased, or offers no agent that it asks.
pub(super) fn check_again(
    record: &BuildRecord,
    values: &[v1::MountValue],
    agents: &[String],
) -> Result<(), Status> {
    let is_offered = |id: &MountId| agents.iter().any(|offered| offered == id.as_str());
    if let Some(id) = record.spec.mounts.agents().find(|id| !is_offered(id)) {
        let build = &record.short_id;
        return Err(Status::failed_precondition(format!(
            "build {build} asks the ssh agent {id}, which nobody offers now; offer yours: farm retry {build} --ssh {id}"
        )));
    }
    if let Some(id) =
        agents.iter().find(|id| !record.spec.mounts.agents().any(|known| known.as_str() == **id))
    {
        let cure = "the build asks no such agent; what it was given stands in `farm show`";
        return Err(status::invalid(Invalid::new("--ssh", id, cure)));
    }
    let comes = |mount: ValueType, id: &MountId| {
        values.iter().any(|value| value.r#type == mount.as_str() && value.id == id.as_str())
    };
    let missing: Vec<_> = record.spec.mounts.given().filter(|(mount, id)| !comes(*mount, id)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = missing.iter().map(|(mount, id)| format!("--{mount} {id}")).collect();
    let flags: Vec<String> = missing
        .iter()
        .map(|(mount, id)| match mount {
            ValueType::Secret => format!("--secret id={id},src=FILE"),
            ValueType::Ssh => format!("--ssh {id}=KEYFILE"),
            ValueType::Login => format!("--registry-login {id}"),
        })
        .collect();
    let id = &record.short_id;
    Err(Status::failed_precondition(format!(
        "build {id} was given {}, which farm erased when it ended; give it again: farm retry {id} {}",
        names.join(" and "),
        flags.join(" ")
    )))
}

/// Refuses to take a build's source from anybody but whoever submitted it, if it may mount secrets, as its steps see them, or what it gives is
/// signed.
///
/// # Errors
/// Who may; or the database can't be reached.
pub(super) async fn check_source(
    shared: &Shared,
    member: &Member,
    record: &BuildRecord,
) -> Result<(), Status> {
    let spec = &record.spec;
    if spec.mounts.is_empty() && spec.sign.is_none() {
        return Ok(());
    }
    if !member.caller.principal.has_submitted(record) {
        let (id, by, who) = (&record.short_id, &record.created_by, &member.name);
        let why = match spec.mounts.is_empty() {
            true => format!("is signed for {by}"),
            false => format!("may mount secrets that {by} gave it"),
        };
        return Err(Status::permission_denied(format!(
            "build {id} {why}{}, so {by} alone sends the rest of its source, and {who} may not; submit a build of your own",
            namesake(member, record)
        )));
    }
    secrets::check_all(shared, member, &spec.mounts).await?;
    signing::check(shared, member, spec).await
}

/// What explains that somebody of the same name has submitted a build.
pub(super) fn namesake(member: &Member, record: &BuildRecord) -> &'static str {
    match record.created_by == member.name {
        true => " (another job of that name, of another ref or event or by another token)",
        false => "",
    }
}

/// What a leased attempt's build may mount, in clear.
///
/// # Errors
/// The line can be read by others, or it can't be opened any more.
pub fn lend(
    shared: &Shared,
    is_encrypted: bool,
    leased: &LeasedMounts,
) -> Result<v1::LendMountsResponse, Status> {
    if leased.mounts.is_empty() {
        return Ok(v1::LendMountsResponse::default());
    }
    if !covered(shared, is_encrypted) {
        return Err(Status::permission_denied(
            "this worker's connection is without TLS, so it is lent no secrets; have it join by https:// (`farm workers \
             invite`), or have whoever runs the farm start the coordinator with --insecure-secrets",
        ));
    }
    let Some(sealed) = &leased.sealed else {
        let has_values =
            leased.mounts.given().next().is_some() || secrets::named(&leased.mounts).next().is_some();
        return match has_values {
            // Only a build that has ended has lost them, and then its leases end, too.
            true => Err(Status::failed_precondition("the build has ended, and its secrets are erased")),
            false => Ok(v1::LendMountsResponse::default()),
        };
    };
    let owner = Owner::Build(leased.project, leased.build);
    let key = shared.keyring.open(owner, &sealed.key).map_err(unopened)?;
    let mut values = Vec::new();
    // Of logins workers get what they need when their engine asks (LendToken, LendLogin).
    for SealedValue { mount, id, bytes } in sealed.values.iter().filter(|v| v.mount != ValueType::Login) {
        let value = key.open(*mount, id, bytes).map_err(unopened)?;
        values.push(v1::MountValue {
            r#type: mount.to_string(),
            id: id.to_string(),
            value: Bytes::from(value.to_vec()),
        });
    }
    Ok(v1::LendMountsResponse { values })
}

fn unopened(error: Unopened) -> Status {
    match error {
        Unopened::KeyIsLost(id) => {
            tracing::error!(key = id, "a build's secrets were sealed by a key that isn't here");
            Status::data_loss(format!(
                "the build's secrets were sealed by the farm's key {id}, which this coordinator hasn't; another one may have it. Whoever \
                 runs the farm gives all coordinators the same keys (farm-coordinator keys ls); if that key is lost for good, submit the \
                 build again"
            ))
        }
        Unopened::Forged => {
            tracing::error!("a build's secrets in the database aren't what was sealed");
            Status::data_loss(
                "the build's secrets in the farm's database aren't what was put there; submit it again",
            )
        }
    }
}
