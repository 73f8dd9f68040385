//! Who has submitted a build, exactly.
//!
//! A name is for people: all jobs of a CI system that build one ref have the same, whatever has begun them.

use farm_types::{PrincipalId, TokenId};
use serde::{Deserialize, Serialize};

/// Who has submitted a build, or asks to be taken for that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitter {
    /// The principal; `None`: whoever has the farm's token file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<PrincipalId>,
    /// Which job of a CI system it is; `None`: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<SubmittingJob>,
}

/// A job of a CI system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmittingJob {
    /// The farm's token that it has.
    pub token: TokenId,
    /// Which ref it builds, in full; `None`: its own token doesn't say.
    pub full_ref: Option<String>,
    /// By what it was begun; `None`: its own token doesn't say.
    pub event: Option<String>,
}

impl Submitter {
    /// Whether a caller is the same. A person or a service is by whatever token; a job by its own, or by the next one of a job that
    /// builds the same ref for the same event: one that lasts exchanges another before the time of the first is over.
    pub fn is(&self, caller: &Self) -> bool {
        let is_job = match (&self.job, &caller.job) {
            (None, None) => true,
            (Some(own), Some(other)) => own.token == other.token || own.is_like(other),
            _ => false,
        };
        self.principal == caller.principal && is_job
    }
}

impl SubmittingJob {
    fn is_like(&self, other: &Self) -> bool {
        let told = |job: &Self| Some((job.full_ref.clone()?, job.event.clone()?));
        told(self).is_some_and(|own| told(other) == Some(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(principal: PrincipalId, token: TokenId, full_ref: &str, event: &str) -> Submitter {
        let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let job = SubmittingJob { token, full_ref: said(full_ref), event: said(event) };
        Submitter { principal: Some(principal), job: Some(job) }
    }

    #[test]
    fn a_person_is_the_same_by_any_token_and_a_job_by_its_own_or_one_of_the_same_ref_and_event() {
        let (ada, bob) = (PrincipalId::generate(), PrincipalId::generate());
        let person = |principal| Submitter { principal: Some(principal), job: None };
        assert!(person(ada).is(&person(ada)) && Submitter::default().is(&Submitter::default()));
        assert!(!person(ada).is(&person(bob)) && !person(ada).is(&Submitter::default()));
        let (one, two) = (TokenId::generate(), TokenId::generate());
        let main = job(ada, one, "refs/heads/main", "push");
        for (caller, is) in [
            (main.clone(), true),
            (job(ada, two, "refs/heads/main", "push"), true),
            (job(ada, two, "refs/heads/main", "merge_request_event"), false),
            (job(ada, two, "refs/merge-requests/7/head", "push"), false),
            (job(ada, two, "refs/heads/main", ""), false),
            (job(bob, one, "refs/heads/main", "push"), false),
            (person(ada), false),
        ] {
            assert_eq!((main.is(&caller), caller.is(&main)), (is, is), "{caller:?}");
        }
        // Of a job that says nothing of itself only its token tells.
        let silent = job(ada, one, "", "");
        assert!(silent.is(&job(ada, one, "", "")) && !silent.is(&job(ada, two, "", "")));
    }

    #[test]
    fn it_is_kept_as_it_was() {
        for submitter in
            [Submitter::default(), job(PrincipalId::generate(), TokenId::generate(), "refs/heads/x", "")]
        {
            let json = serde_json::to_value(&submitter).unwrap();
            assert_eq!(serde_json::from_value::<Submitter>(json).unwrap(), submitter);
        }
    }
}
