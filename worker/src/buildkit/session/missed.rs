//! What the engine asked for in vain, of what steps mount: what it says of that later names no cure.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use farm_types::{Cause, Failure, FailureCode, MountType};
use tonic::Status;

/// The ids that were asked for in vain.
#[derive(Clone, Default)]
pub(in crate::buildkit) struct Missed(Arc<Mutex<BTreeSet<(MountType, String)>>>);

impl Missed {
    /// Notes an id, and answers what the engine is told.
    pub(super) fn note(&self, mount: MountType, id: &str) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((mount, id.to_owned()));
        match mount {
            MountType::Secret => Status::not_found(format!("secret {id} not found")),
            MountType::Ssh => Status::not_found(no_agent(id)),
        }
    }

    /// A failure that came of such an id, with what to do about it.
    pub(in crate::buildkit) fn explain(&self, failure: Failure, said: &str) -> Failure {
        let missed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The engine's own sentence, which ends with it, and not what a command printed.
        let is_it = |(mount, id): &&(MountType, String)| match mount {
            MountType::Secret => said.ends_with(&format!("secret {id}: not found")),
            MountType::Ssh => said.ends_with(&no_agent(id)),
        };
        let Some((mount, id)) = missed.iter().find(is_it).filter(|_| failure.exit_code.is_none()) else {
            return failure;
        };
        let message = match mount {
            MountType::Secret => format!(
                "the Dockerfile requires the secret {id}, which the build wasn't given: --secret id={id},src=FILE or \
                 --secret id={id},env=NAME"
            ),
            MountType::Ssh => format!(
                "the Dockerfile requires ssh {id}, which the build wasn't given: --ssh {id} for the agent that runs where you are, \
                 or --ssh {id}=KEYFILE"
            ),
        };
        Failure { cause: Cause::User, code: FailureCode::SecretMissing, message, ..failure }
    }

    #[cfg(test)]
    pub(super) fn holds(&self, mount: MountType, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&(mount, id.to_owned()))
    }
}

/// As the engine passes it on.
fn no_agent(id: &str) -> String {
    format!("no ssh agent and no key was given as {id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_given_has_a_cure() {
        let failure = |exit_code| Failure {
            exit_code,
            ..Failure::new(Cause::User, FailureCode::EngineError, "as it was".to_owned())
        };
        let missed = Missed::default();
        missed.note(MountType::Secret, "other");
        let ssh = missed.note(MountType::Ssh, "git").message().to_owned();
        for (said, cure) in [
            ("failed to solve: secret other: not found".to_owned(), "--secret id=other,src=FILE"),
            (format!("failed to solve: {ssh}"), "--ssh git=KEYFILE"),
        ] {
            let told = missed.explain(failure(None), &said);
            assert_eq!(told.code, FailureCode::SecretMissing);
            assert!(told.message.contains(cure), "{told:?}");
            // A command may print what it likes.
            assert_eq!(missed.explain(failure(Some(1)), &said).message, "as it was");
        }
        // Of others the engine speaks for itself.
        assert_eq!(missed.explain(failure(None), "secret npm: not found").message, "as it was");
    }
}
