//! Tokens and logins of registries, which the coordinator has, as the logins stay there; and what registries let be read.

use std::time::Duration;

use farm_proto::v1::{
    LendLoginRequest, LendLoginResponse, LendTokenRequest, LendTokenResponse, LookUpImageRequest,
    LookUpImageResponse,
};
use farm_types::chain::with_causes;
use farm_types::{Backoff, Cause, Failure, FailureCode, ImageRef};
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Response, Status};

use super::{Client, Refusal, WAITS};
use crate::attempts::Lease;
use crate::buildkit::{Images, LentToken, Login, Looked, Seen, TokenAsked, Tokens};

/// How long a coordinator that is away is asked again. An engine waits for a token for a minute.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one answer may take: the coordinator gives registries half a minute.
const ANSWERED_WITHIN: Duration = Duration::from_secs(40);

/// Asks for one attempt.
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

    fn lend_login(&self, host: String) -> BoxFuture<'static, Result<Login, Failure>> {
        Box::pin(lend_login(self.client.clone(), self.lease, host))
    }
}

impl Images for Lender {
    fn look_up(&self, image: &ImageRef) -> BoxFuture<'static, Result<Looked, Failure>> {
        Box::pin(look_up(self.client.clone(), self.lease, image.to_string()))
    }
}

async fn lend(client: Client, lease: Lease, asked: TokenAsked) -> Result<LentToken, Failure> {
    let TokenAsked { host, realm, service, scopes } = asked;
    tracing::debug!(host, ?scopes, "the engine wants a token");
    let request = LendTokenRequest { lease: Some(lease.into()), host: host.clone(), realm, service, scopes };
    let ask = || -> Asking<LendTokenResponse> {
        let (mut client, request) = (client.clone(), request.clone());
        Box::pin(async move { client.lend_token(request).await })
    };
    let lent = patient(ask).await.map_err(|status| failure(&host, &status))?;
    Ok(LentToken {
        token: lent.token,
        expires_in: lent.expires_in,
        issued_at: lent.issued_at,
        refused: lent.refused,
    })
}

async fn lend_login(client: Client, lease: Lease, host: String) -> Result<Login, Failure> {
    tracing::debug!(host, "the engine wants a login");
    let request = LendLoginRequest { lease: Some(lease.into()), host: host.clone() };
    let ask = || -> Asking<LendLoginResponse> {
        let (mut client, request) = (client.clone(), request.clone());
        Box::pin(async move { client.lend_login(request).await })
    };
    let lent = patient(ask).await.map_err(|status| {
        let unable = format!(
            "{host} wants a login for itself, and this coordinator, which lends it with the offer, has not heard that from it yet"
        );
        unanswered(&status, &unable, &format!("no login of {host} is to be had"))
    })?;
    Ok(Login { host, username: lent.username, password: lent.password })
}

async fn look_up(client: Client, lease: Lease, image: String) -> Result<Looked, Failure> {
    let request = LookUpImageRequest { lease: Some(lease.into()), image: image.clone() };
    let ask = || -> Asking<LookUpImageResponse> {
        let (mut client, request) = (client.clone(), request.clone());
        Box::pin(async move { client.look_up_image(request).await })
    };
    let seen = patient(ask).await.map_err(|status| unseen(&image, &status))?;
    let by = match &seen {
        LookUpImageResponse { public: true, .. } => Seen::Readable,
        LookUpImageResponse { absent: true, .. } => Seen::Absent,
        LookUpImageResponse { .. } => Seen::Refused,
    };
    Ok(Looked { seen: by, reader: seen.reader })
}

/// A call that is under way.
pub(super) type Asking<T> = BoxFuture<'static, Result<Response<T>, Status>>;

/// Asks a coordinator, and again for a while if it is away.
pub(super) async fn patient<T>(ask: impl Fn() -> Asking<T>) -> Result<T, Status> {
    let begun = Instant::now();
    let mut backoff = Backoff::new(WAITS);
    loop {
        let answer = timeout(ANSWERED_WITHIN, ask()).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::unavailable("it was silent for too long")));
        let status = match answer {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        if Refusal::of(&status) != Refusal::Away || begun.elapsed() >= PATIENCE {
            return Err(status);
        }
        sleep(backoff.next_jittered(rand::random())).await;
    }
}

/// Why it can't be told who may read an image.
fn unseen(image: &str, status: &Status) -> Failure {
    let unable =
        format!("whether everybody may read {image} is to be known, and this coordinator can't tell");
    unanswered(status, &unable, &format!("whether {image} may be read can't be told"))
}

fn failure(host: &str, status: &Status) -> Failure {
    let unable = format!("a token of {host} is wanted, and this coordinator lends none");
    unanswered(status, &unable, &format!("no token of {host} is to be had"))
}

/// Why a coordinator gave no answer: what is said when it doesn't know the question, and when it has trouble with it.
fn unanswered(status: &Status, unable: &str, in_trouble: &str) -> Failure {
    let why = with_causes(status.message(), std::error::Error::source(status));
    let infrastructure =
        |message| Failure::new(Cause::Infrastructure, FailureCode::RegistryUnavailable, message);
    match status.code() {
        Code::PermissionDenied => Failure::new(Cause::User, FailureCode::RegistryAuth, why),
        Code::Unimplemented => infrastructure(format!("{unable}: it is older; update it")),
        _ => infrastructure(format!("{in_trouble}: {why}")),
    }
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
