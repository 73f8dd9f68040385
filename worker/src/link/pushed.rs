//! Whether what was built is where it is to be pushed already.

use farm_proto::v1::{CheckPushedRequest, CheckPushedResponse};
use farm_types::Digest;

use super::Client;
use super::tokens::{Asking, patient};
use crate::attempts::Lease;

/// Whether all of the build's repositories have it. What can't be told (a coordinator of before can't) isn't there.
pub(crate) async fn is_there(client: &Client, lease: Lease, digest: &Digest) -> bool {
    let request = CheckPushedRequest { lease: Some(lease.into()), digest: digest.to_string() };
    let ask = || -> Asking<CheckPushedResponse> {
        let (mut client, request) = (client.clone(), request.clone());
        Box::pin(async move { client.check_pushed(request).await })
    };
    match patient(ask).await {
        Ok(answer) => answer.is_there,
        Err(status) => {
            tracing::debug!(%status, "whether it was pushed before can't be told; it is pushed");
            false
        }
    }
}
