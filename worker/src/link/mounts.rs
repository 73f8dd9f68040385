//! Secrets and ssh keys of an attempt's build, which the coordinator has sealed.

use farm_proto::v1::{LendMountsRequest, LendMountsResponse};
use farm_types::chain::with_causes;
use farm_types::{Cause, Failure, FailureCode, Invalid};
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::Client;
use super::tokens::{Asking, patient};
use crate::attempts::Lease;
use crate::buildkit::Mounted;

/// What the attempt of this lease may mount.
///
/// # Errors
/// The coordinator is away, can't open it, or gives it to no worker like this one.
pub async fn borrow(client: &Client, lease: Lease) -> Result<Mounted, Failure> {
    let request = LendMountsRequest { lease: Some(lease.into()) };
    let ask = || -> Asking<LendMountsResponse> {
        let (mut client, request) = (client.clone(), request.clone());
        Box::pin(async move { client.lend_mounts(request).await })
    };
    let lent = patient(ask).await.map_err(|status| unlent(&status))?;
    let mut mounted = Mounted::default();
    for value in lent.values {
        let key = || -> Result<_, Invalid> { Ok((value.r#type.parse()?, value.id.parse()?)) };
        let key = key().map_err(|error| {
            let text = format!("the coordinator's secrets can't be read: {error}");
            Failure::new(Cause::Bug, FailureCode::OfferUnreadable, text)
        })?;
        mounted.insert(key, Zeroizing::new(value.value.to_vec()));
    }
    Ok(mounted)
}

fn unlent(status: &Status) -> Failure {
    let why = with_causes(status.message(), std::error::Error::source(status));
    let cause = match status.code() {
        Code::PermissionDenied => Cause::User,
        _ => Cause::Infrastructure,
    };
    Failure::new(cause, FailureCode::SecretsUnavailable, format!("no secrets are to be had: {why}"))
}
