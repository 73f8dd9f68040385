//! Tokens of registries, which the coordinator has: its logins stay there.

use std::time::Duration;

use farm_proto::v1::LendTokenRequest;
use farm_types::chain::with_causes;
use farm_types::{Backoff, Cause, Failure, FailureCode};
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::{Client, Refusal, WAITS};
use crate::attempts::Lease;
use crate::buildkit::{LentToken, TokenAsked, Tokens};

/// How long a coordinator that is away is asked again. An engine waits for a token for a minute.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one answer may take: the coordinator gives registries half a minute.
const ANSWERED_WITHIN: Duration = Duration::from_secs(40);

/// Asks for tokens for one attempt.
pub struct Lender {
    client: Client,
    lease: Lease,
}

impl Lender {
    /// One for the attempt of this lease.
    pub fn new(client: Client, lease: Lease) -> Self {
        Self { client, lease }
    }
}

impl Tokens for Lender {
    fn lend(&self, asked: TokenAsked) -> BoxFuture<'static, Result<LentToken, Failure>> {
        Box::pin(lend(self.client.clone(), self.lease, asked))
    }
}

async fn lend(mut client: Client, lease: Lease, asked: TokenAsked) -> Result<LentToken, Failure> {
    let TokenAsked { host, realm, service, scopes } = asked;
    tracing::debug!(host, ?scopes, "the engine wants a token");
    let request = LendTokenRequest { lease: Some(lease.into()), host: host.clone(), realm, service, scopes };
    let begun = Instant::now();
    let mut backoff = Backoff::new(WAITS);
    loop {
        let answer = timeout(ANSWERED_WITHIN, client.lend_token(request.clone())).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::unavailable("it was silent for too long")));
        let status = match answer {
            Ok(lent) => {
                let lent = lent.into_inner();
                return Ok(LentToken {
                    token: lent.token,
                    expires_in: lent.expires_in,
                    issued_at: lent.issued_at,
                    refused: lent.refused,
                });
            }
            Err(status) => status,
        };
        if Refusal::of(&status) != Refusal::Away || begun.elapsed() >= PATIENCE {
            return Err(failure(&host, &status));
        }
        sleep(backoff.next_jittered(rand::random())).await;
    }
}

fn failure(host: &str, status: &Status) -> Failure {
    let why = with_causes(status.message(), std::error::Error::source(status));
    match status.code() {
        Code::PermissionDenied => Failure::new(Cause::User, FailureCode::RegistryAuth, why),
        Code::Unimplemented => {
            let message = format!(
                "a token of {host} is wanted, and this coordinator lends none: it is older; update it"
            );
            Failure::new(Cause::Infrastructure, FailureCode::RegistryUnavailable, message)
        }
        _ => {
            let message = format!("no token of {host} is to be had: {why}");
            Failure::new(Cause::Infrastructure, FailureCode::RegistryUnavailable, message)
        }
    }
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
