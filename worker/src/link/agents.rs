//! Agents of ssh that run where the build was submitted: each question goes through a coordinator to the command that waits there.

use std::time::Duration;

use farm_proto::v1::{AskAgentRequest, AskAgentResponse};
use farm_ssh::FAILURE;
use farm_types::chain::with_causes;
use farm_types::{Backoff, Cause, Failure, FailureCode, MountId};
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Response, Status};

use super::{Client, Refusal, WAITS};
use crate::attempts::Lease;
use crate::buildkit::{Agent, AgentAsked};

/// How long a coordinator that is away is asked again. A lease ends before.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one answer may take: a coordinator gives agents five minutes.
const ANSWERED_WITHIN: Duration = Duration::from_secs(330);

/// One agent, for one attempt.
pub struct Relay {
    client: Client,
    lease: Lease,
    id: MountId,
}

impl Relay {
    /// The agent of this id, for the attempt of this lease.
    pub fn new(client: Client, lease: Lease, id: MountId) -> Self {
        Self { client, lease, id }
    }
}

impl Agent for Relay {
    fn ask(&self, asked: AgentAsked) -> BoxFuture<'static, Result<Vec<u8>, Failure>> {
        let AgentAsked { binds, message } = asked;
        let request = AskAgentRequest {
            lease: Some(self.lease.into()),
            id: self.id.to_string(),
            messages: binds.into_iter().chain([message]).map(Into::into).collect(),
        };
        let client = self.client.clone();
        let call = move || -> Asking {
            let (mut client, request) = (client.clone(), request.clone());
            Box::pin(async move { client.ask_agent(request).await })
        };
        Box::pin(ask(self.id.clone(), call))
    }
}

/// A question that is under way.
type Asking = BoxFuture<'static, Result<Response<AskAgentResponse>, Status>>;

async fn ask(id: MountId, call: impl Fn() -> Asking) -> Result<Vec<u8>, Failure> {
    let begun = Instant::now();
    let mut backoff = Backoff::new(WAITS);
    loop {
        let status = match timeout(ANSWERED_WITHIN, call()).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner().answer.into()),
            Ok(Err(status)) if status.code() != Code::DeadlineExceeded => status,
            // Whoever is asked doesn't decide: for the step that is as if they said no.
            Ok(Err(_)) | Err(_) => return Ok(FAILURE.to_vec()),
        };
        if Refusal::of(&status) != Refusal::Away || begun.elapsed() >= PATIENCE {
            return Err(unasked(&id, &status));
        }
        sleep(backoff.next_jittered(rand::random())).await;
    }
}

fn unasked(id: &MountId, status: &Status) -> Failure {
    let why = with_causes(status.message(), std::error::Error::source(status));
    match status.code() {
        Code::NotFound => {
            let text = format!(
                "a step asked the ssh agent {id}, and the command that submitted the build isn't there to answer: keep it running, \
                 or give the key's file (--ssh {id}=KEYFILE)"
            );
            Failure::new(Cause::User, FailureCode::AgentAway, text)
        }
        Code::PermissionDenied => Failure::new(Cause::User, FailureCode::SecretsUnavailable, why),
        _ => {
            let text = format!("the ssh agent {id} can't be asked: {why}");
            Failure::new(Cause::Infrastructure, FailureCode::SecretsUnavailable, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    async fn asked(answers: Vec<Result<&'static [u8], Status>>) -> (usize, Result<Vec<u8>, FailureCode>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let call = move || -> Asking {
            let answer = answers[counted.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)].clone();
            Box::pin(
                async move { answer.map(|answer| Response::new(AskAgentResponse { answer: answer.into() })) },
            )
        };
        let answer = ask("default".parse().unwrap(), call).await.map_err(|failure| failure.code);
        (count.load(Ordering::SeqCst), answer)
    }

    #[tokio::test]
    async fn a_coordinator_that_is_away_is_asked_again_and_an_agent_that_is_ends_the_build() {
        let away = || Err(Status::unavailable("restarting"));
        assert_eq!(asked(vec![away(), away(), Ok(b"signed")]).await, (3, Ok(b"signed".to_vec())));
        let gone = Err(Status::not_found("nobody"));
        assert_eq!(asked(vec![gone]).await, (1, Err(FailureCode::AgentAway)));
        assert_eq!(asked(vec![Err(Status::deadline_exceeded("late"))]).await, (1, Ok(FAILURE.to_vec())));
        let denied = Err(Status::permission_denied("no TLS"));
        assert_eq!(asked(vec![denied]).await, (1, Err(FailureCode::SecretsUnavailable)));
    }
}
