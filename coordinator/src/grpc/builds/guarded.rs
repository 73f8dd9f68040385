//! Whether whoever asks for a build may use what their project keeps for some: secrets, and signing keys.

use farm_core::people::secrets::{Asker, SecretRefusal, SecretRule};
use farm_types::ci::{MANUAL, UNKNOWN};
use farm_types::{EventName, PrincipalKind, RefPattern, Role};
use tonic::Status;

use crate::people::Member;
use crate::people::principal::Kind;

/// What a project keeps for those of whom its rule says so, as messages name it.
pub(super) struct Guarded<'a> {
    /// `secret`.
    pub noun: &'static str,
    /// The command that says anew for whom it is.
    pub change: &'static str,
    /// What the project calls it.
    pub name: &'a str,
}

impl Guarded<'_> {
    /// Refuses whoever may not use it.
    ///
    /// # Errors
    /// Who may, and who can change that.
    pub(super) fn check(&self, member: &Member, rule: &SecretRule) -> Result<(), Status> {
        let principal = &member.caller.principal;
        let role = principal.role_in(member.project).unwrap_or(Role::Viewer);
        rule.check(role, principal.asker()).map_err(|refusal| {
            tracing::info!(what = self.noun, name = self.name, who = member.name, ?refusal, "may not use it");
            Status::permission_denied(words(member, self, rule, role, refusal))
        })
    }
}

fn words(
    member: &Member,
    guarded: &Guarded<'_>,
    rule: &SecretRule,
    role: Role,
    refusal: SecretRefusal,
) -> String {
    let Guarded { noun, change, name } = guarded;
    let (who, project) = (&member.name, &member.project_name);
    let principal = &member.caller.principal;
    let (full, event) = match principal.asker() {
        Asker::Job { full, event } => (full, event),
        Asker::Own | Asker::Forgotten => (None, None),
    };
    let may_not = format!("{who} may not use {noun} {name} of project {project}");
    let changed = |flag: &str| {
        format!("An admin of {project} can change who uses it: {change} {name} {flag} --project {project}")
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
                changed(&format!("--role {role}"))
            )
        }
        SecretRefusal::NoJob => format!(
            "{may_not}: it is for jobs of CI systems{}, and {who} calls with a token of the farm's own. {}",
            only(rule),
            changed(&format!("--event {MANUAL} (with the events that it has)"))
        ),
        SecretRefusal::Ref => format!(
            "{may_not}: it is for {}, and this job builds {}. {}",
            listed(&rule.refs, RefPattern::as_str),
            full.unwrap_or("no ref that its token tells"),
            changed("--ref …")
        ),
        SecretRefusal::Event => format!(
            "{may_not}: it is for jobs that are begun by {}, and this one was by {}. {}",
            listed(&rule.events, EventName::as_str),
            event.unwrap_or("nothing that its token tells (unknown)"),
            changed("--event …")
        ),
        SecretRefusal::Proposal => {
            let event = event.unwrap_or(UNKNOWN);
            let cure = match event.parse::<EventName>() {
                Ok(event) => changed(&format!("--event {event} (with those that it is for besides)")),
                Err(_) => "Let a job use it that a push begins".to_owned(),
            };
            format!(
                "{may_not}: this job builds, or may build, what a pull or merge request proposes, and gets no {noun}s unless their \
                 rule names its event ({event}). {cure}"
            )
        }
        SecretRefusal::Unknown => format!(
            "{may_not}: its token doesn't say what has begun this job, which may build what a pull or merge request proposes, and gets no \
             {noun}s unless their rule names that ({UNKNOWN}). If all jobs of its trust may have it: {}",
            changed(&format!("--event {UNKNOWN} (with those that it is for besides)"))
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
