//! Secrets of the project that a build uses: whether whoever asks for it may, and their values.
//!
//! Invariant: a rule is asked for each build and each retry, of whoever asks for that, and the transaction that accepts it repeats
//! that the rule is the same; what a build was accepted with stays its own.

use std::collections::BTreeMap;

use farm_core::people::secrets::{Asker, SecretRefusal, SecretRule};
use farm_types::ci::{MANUAL, UNKNOWN};
use farm_types::{EventName, MountId, Mounts, PrincipalKind, RefPattern, Role, SecretName, SecretSource};
use tonic::Status;

use crate::grpc::status;
use crate::people::Member;
use crate::people::principal::Kind;
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
        check(member, name, &secret.rule)?;
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
            check(member, name, &secret.rule)?;
        }
    }
    Ok(())
}

fn check(member: &Member, name: &SecretName, rule: &SecretRule) -> Result<(), Status> {
    let principal = &member.caller.principal;
    let role = principal.role_in(member.project).unwrap_or(Role::Viewer);
    rule.check(role, principal.asker()).map_err(|refusal| {
        tracing::info!(secret = %name, who = member.name, ?refusal, "may not use a secret");
        Status::permission_denied(words(member, name, rule, role, refusal))
    })
}

fn words(
    member: &Member,
    name: &SecretName,
    rule: &SecretRule,
    role: Role,
    refusal: SecretRefusal,
) -> String {
    let (who, project) = (&member.name, &member.project_name);
    let principal = &member.caller.principal;
    let (full, event) = match principal.asker() {
        Asker::Job { full, event } => (full, event),
        Asker::Own | Asker::Forgotten => (None, None),
    };
    let may_not = format!("{who} may not use secret {name} of project {project}");
    let change = |flag: &str| {
        format!(
            "An admin of {project} can change who uses it: farm secret rule {name} {flag} --project {project}"
        )
    };
    match refusal {
        SecretRefusal::Role => {
            let least = rule.role;
            let give = match principal.kind {
                Kind::Known(PrincipalKind::Person) => {
                    format!(", or give the role: farm member set {who} --role {least} --project {project}")
                }
                _ => String::new(),
            };
            format!(
                "{may_not}: that needs {least}, and {who} is {role}. {}{give}",
                change(&format!("--role {role}"))
            )
        }
        SecretRefusal::NoJob => format!(
            "{may_not}: it is for jobs of CI systems{}, and {who} calls with a token of the farm's own. {}",
            only(rule),
            change(&format!("--event {MANUAL} (with the events that it has)"))
        ),
        SecretRefusal::Ref => format!(
            "{may_not}: it is for {}, and this job builds {}. {}",
            listed(&rule.refs, RefPattern::as_str),
            full.unwrap_or("no ref that its token tells"),
            change("--ref …")
        ),
        SecretRefusal::Event => format!(
            "{may_not}: it is for jobs that are begun by {}, and this one was by {}. {}",
            listed(&rule.events, EventName::as_str),
            event.unwrap_or("nothing that its token tells (unknown)"),
            change("--event …")
        ),
        SecretRefusal::Proposal => {
            let event = event.unwrap_or(UNKNOWN);
            let cure = match event.parse::<EventName>() {
                Ok(event) => change(&format!("--event {event} (with those that it is for besides)")),
                Err(_) => "Let a job use it that a push begins".to_owned(),
            };
            format!(
                "{may_not}: this job builds, or may build, what a pull or merge request proposes, and gets no secrets unless their \
                 rule names its event ({event}). {cure}"
            )
        }
        SecretRefusal::Unknown => format!(
            "{may_not}: its token doesn't say what has begun this job, which may build what a pull or merge request proposes, and gets no \
             secrets unless their rule names that ({UNKNOWN}). If all jobs of its trust may have it: {}",
            change(&format!("--event {UNKNOWN} (with those that it is for besides)"))
        ),
        SecretRefusal::Forgotten => format!(
            "{may_not}: its token was given by an older coordinator, which didn't note which job it is. Exchange another token, or run \
             the job again"
        ),
    }
}

/// What else a rule asks of jobs.
fn only(rule: &SecretRule) -> String {
    let refs = match rule.refs.as_slice() {
        [] => String::new(),
        refs => format!(" that build {}", listed(refs, RefPattern::as_str)),
    };
    let events = match rule.events.as_slice() {
        [] => String::new(),
        events => format!(" (begun by {})", listed(events, EventName::as_str)),
    };
    format!("{refs}{events}")
}

fn listed<T>(all: &[T], word: impl Fn(&T) -> &str) -> String {
    all.iter().map(word).collect::<Vec<_>>().join(" or ")
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
