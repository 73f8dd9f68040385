//! What the farm knows of layers already.

use std::collections::HashMap;

use farm_proto::layers::checked;
use farm_proto::v1::{FindVerdictsRequest, FindVerdictsResponse};
use farm_types::Digest;
use farm_types::elf::{LayerVerdict, RULES};

use super::Client;
use super::tokens::{Asking, patient};
use crate::attempts::Lease;

/// Of these layers those that are known. Nothing, if the coordinator can't be asked: then all are looked at.
pub(crate) async fn find(
    client: &Client,
    lease: Lease,
    diff_ids: &[Digest],
) -> HashMap<Digest, LayerVerdict> {
    let diff_ids = diff_ids.iter().map(ToString::to_string).collect();
    let request = FindVerdictsRequest { lease: Some(lease.into()), rules: RULES, diff_ids };
    let ask = || -> Asking<FindVerdictsResponse> {
        let (mut client, request) = (client.clone(), request.clone());
        Box::pin(async move { client.find_verdicts(request).await })
    };
    match patient(ask).await {
        Ok(answer) => {
            let known = answer.known.into_iter().filter_map(|layer| checked(layer).ok());
            known.filter_map(|(diff_id, verdict)| Some((diff_id, verdict?))).collect()
        }
        Err(status) => {
            tracing::debug!(%status, "what is known of layers can't be told now");
            HashMap::new()
        }
    }
}
