//! Who may use a project's secrets in builds.

use farm_types::ci::{MANUAL, UNKNOWN, is_proposal};
use farm_types::{EventName, RefPattern, Role};

/// Who may use one of a project's secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRule {
    /// Whoever has at least this role.
    pub role: Role,
    /// And builds one of these refs; none: whatever it is.
    pub refs: Vec<RefPattern>,
    /// And was begun by one of these events; none: whatever it was, unless somebody may only propose it, or nobody knows.
    pub events: Vec<EventName>,
}

impl Default for SecretRule {
    /// As a new secret has it: whoever may build.
    fn default() -> Self {
        Self { role: Role::Builder, refs: Vec::new(), events: Vec::new() }
    }
}

/// Who asks for a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker<'a> {
    /// A person or a service, by a token of the farm's own.
    Own,
    /// A job of a CI system, by what its token says.
    Job {
        /// Which ref it builds, in full; `None`: its token doesn't say.
        full: Option<&'a str>,
        /// What it was begun by; `None`: its token doesn't say.
        event: Option<&'a str>,
    },
    /// A job of which it isn't known any more what its token said.
    Forgotten,
}

/// Why somebody may not use a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretRefusal {
    /// Their role is less.
    Role,
    /// The rule asks for a job, and they are none.
    NoJob,
    /// The job builds another ref.
    Ref,
    /// The job was begun by another event.
    Event,
    /// The job builds what somebody proposes, and the rule doesn't name its event.
    Proposal,
    /// Nobody says by what the job was begun, and the rule doesn't name that.
    Unknown,
    /// It isn't known what the job is.
    Forgotten,
}

impl SecretRule {
    /// Refuses whoever may not use the secret.
    ///
    /// # Errors
    /// What is in the way first.
    pub fn check(&self, role: Role, asker: Asker<'_>) -> Result<(), SecretRefusal> {
        if role < self.role {
            return Err(SecretRefusal::Role);
        }
        let names = |event: &str| self.events.iter().any(|one| one.as_str() == event);
        let (full, event) = match asker {
            // What they build is what they have before them: it is of no ref.
            Asker::Own => {
                let is_any = self.refs.is_empty() && self.events.is_empty();
                return if is_any || names(MANUAL) { Ok(()) } else { Err(SecretRefusal::NoJob) };
            }
            Asker::Forgotten => return Err(SecretRefusal::Forgotten),
            Asker::Job { full, event } => (full, event),
        };
        // What says nothing may be a proposal as well.
        let event = event.unwrap_or(UNKNOWN);
        // No job is begun by the word of farm's own.
        let is_named = event != MANUAL && names(event);
        if !self.events.is_empty() && !is_named {
            return Err(SecretRefusal::Event);
        }
        if is_proposal(full, Some(event)) && !is_named {
            return Err(SecretRefusal::Proposal);
        }
        if event == UNKNOWN && !is_named {
            return Err(SecretRefusal::Unknown);
        }
        if !self.refs.is_empty() && !full.is_some_and(|full| self.refs.iter().any(|one| one.covers(full))) {
            return Err(SecretRefusal::Ref);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(role: Role, refs: &[&str], events: &[&str]) -> SecretRule {
        SecretRule {
            role,
            refs: refs.iter().map(|one| one.parse().unwrap()).collect(),
            events: events.iter().map(|one| one.parse().unwrap()).collect(),
        }
    }

    fn job<'a>(full: &'a str, event: &'a str) -> Asker<'a> {
        let said = |text: &'a str| (!text.is_empty()).then_some(text);
        Asker::Job { full: said(full), event: said(event) }
    }

    #[test]
    fn each_part_of_a_rule_has_to_hold_and_people_are_of_no_ref() {
        use SecretRefusal as No;
        let any = rule(Role::Builder, &[], &[]);
        let main = rule(Role::Builder, &["refs/heads/main", "refs/tags/v*"], &[]);
        let push = rule(Role::Builder, &["refs/heads/main"], &["push"]);
        let proposed = rule(Role::Builder, &[], &["pull_request", "push"]);
        let unknown = rule(Role::Builder, &[], &["push", "unknown"]);
        let both = rule(Role::Builder, &["refs/heads/main"], &["push", "manual"]);
        for (rule, asker, answer) in [
            (&any, Asker::Own, Ok(())),
            (&any, job("refs/heads/x", "push"), Ok(())),
            (&any, job("", ""), Err(No::Unknown)),
            (&any, job("refs/heads/main", ""), Err(No::Unknown)),
            (&any, job("refs/heads/main", "unknown"), Err(No::Unknown)),
            (&any, job("refs/heads/main", "workflow_run"), Err(No::Proposal)),
            (&unknown, job("", ""), Ok(())),
            (&unknown, job("refs/heads/main", "push"), Ok(())),
            (&unknown, job("refs/merge-requests/7/head", ""), Ok(())),
            (&unknown, Asker::Own, Err(No::NoJob)),
            (&any, job("refs/pull/7/merge", "pull_request"), Err(No::Proposal)),
            (&any, job("refs/heads/main", "pull_request_target"), Err(No::Proposal)),
            (&any, job("refs/heads/topic", "merge_request_event"), Err(No::Proposal)),
            (&any, Asker::Forgotten, Err(No::Forgotten)),
            (&main, Asker::Own, Err(No::NoJob)),
            (&main, job("refs/heads/main", "push"), Ok(())),
            (&main, job("refs/tags/v1", "release"), Ok(())),
            (&main, job("refs/heads/maint", "push"), Err(No::Ref)),
            (&main, job("", ""), Err(No::Unknown)),
            (&main, job("refs/heads/main", "pull_request_target"), Err(No::Proposal)),
            (&push, job("refs/heads/main", "push"), Ok(())),
            (&push, job("refs/heads/main", "schedule"), Err(No::Event)),
            (&push, job("refs/heads/dev", "push"), Err(No::Ref)),
            (&push, job("refs/heads/main", ""), Err(No::Event)),
            (&proposed, job("refs/pull/7/merge", "pull_request"), Ok(())),
            (&proposed, job("refs/pull/7/merge", "push"), Ok(())),
            (&proposed, Asker::Own, Err(No::NoJob)),
            (&both, Asker::Own, Ok(())),
            (&both, job("refs/heads/main", "push"), Ok(())),
            (&both, job("refs/heads/main", "manual"), Err(No::Event)),
        ] {
            assert_eq!(rule.check(Role::Builder, asker), answer, "{rule:?} {asker:?}");
        }
        let least = rule(Role::Publisher, &[], &[]);
        assert_eq!(least.check(Role::Builder, Asker::Own), Err(No::Role));
        assert_eq!(least.check(Role::Admin, Asker::Own), Ok(()));
    }
}
