//! What steps of an attempt's build may mount: secrets and ssh keys, which the coordinator has sealed, and agents.
//!
//! An agent that has its keys here is asked here; one of whoever waits for the build is asked through the coordinator ([`Relay`]).

use std::sync::Arc;

use farm_proto::v1;
use farm_proto::v1::{LendMountsRequest, LendMountsResponse};
use farm_ssh::{Keys, Unusable};
use farm_types::chain::with_causes;
use farm_types::{Cause, Failure, FailureCode, Invalid, MountId, Mounts, ValueType};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::Client;
use super::agents::Relay;
use super::tokens::{Asking, patient};
use crate::attempts::Lease;
use crate::buildkit::{Agent, AgentAsked, Mounted};

/// What the attempt of this lease may mount.
///
/// # Errors
/// The coordinator is away, can't open it, or gives it to no worker like this one.
pub(crate) async fn borrow(client: &Client, lease: Lease, mounts: &Mounts) -> Result<Mounted, Failure> {
    let request = LendMountsRequest { lease: Some(lease.into()) };
    let ask = || -> Asking<LendMountsResponse> {
        let (mut client, request) = (client.clone(), request.clone());
        Box::pin(async move { client.lend_mounts(request).await })
    };
    let lent = patient(ask).await.map_err(|status| unlent(&status))?;
    let mut mounted = Mounted::default();
    for v1::MountValue { r#type, id, value } in lent.values {
        let key = || -> Result<(ValueType, MountId), Invalid> { Ok((r#type.parse()?, id.parse()?)) };
        let (mount, id) = key().map_err(|error| {
            let text = format!("the coordinator's secrets can't be read: {error}");
            Failure::new(Cause::Bug, FailureCode::OfferUnreadable, text)
        })?;
        let value = Zeroizing::new(value.to_vec());
        match mount {
            ValueType::Secret => drop(mounted.secrets.insert(id, value)),
            ValueType::Ssh => {
                // What RSA calculates isn't for the threads that all attempts share.
                let read = tokio::task::spawn_blocking(move || farm_ssh::keys(&value)).await;
                let read = read.map_err(|error| {
                    let text = format!("a key that was given as --ssh {id} could not be read: {error}");
                    Failure::new(Cause::Bug, FailureCode::OfferUnreadable, text)
                })?;
                let agent = Held(Keys::new(read.map_err(|error| useless(&id, &error))?));
                mounted.agents.insert(id, Arc::new(agent));
            }
            // It is asked for when the engine wants it.
            ValueType::Login => {}
        }
    }
    for id in mounts.agents() {
        mounted.agents.insert(id.clone(), Arc::new(Relay::new(client.clone(), lease, id.clone())));
    }
    Ok(mounted)
}

/// An agent that has its keys here, for the attempt.
struct Held(Keys);

impl Agent for Held {
    fn ask(&self, asked: AgentAsked) -> BoxFuture<'static, Result<Vec<u8>, Failure>> {
        futures::future::ready(Ok(self.0.answer(&asked.message))).boxed()
    }
}

/// Commands see to it before they send keys.
fn useless(id: &MountId, error: &Unusable) -> Failure {
    let text = format!("a key that was given as --ssh {id} can't be used: {error}");
    Failure::new(Cause::User, FailureCode::SecretMissing, text)
}

fn unlent(status: &Status) -> Failure {
    let why = with_causes(status.message(), std::error::Error::source(status));
    let cause = match status.code() {
        Code::PermissionDenied => Cause::User,
        _ => Cause::Infrastructure,
    };
    Failure::new(cause, FailureCode::SecretsUnavailable, format!("no secrets are to be had: {why}"))
}
