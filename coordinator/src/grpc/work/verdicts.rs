//! What programs layers hold, and what that says of an image: told to workers, taken from them, and judged.
//!
//! A worker judges what it has pushed before it says that it has built it, so that its log has why. Here it is judged once more, by what
//! is known here and what the worker says of the rest, as its build may have been changed by nobody but its project. Kept is what
//! trusted machines say.

use std::collections::HashMap;

use farm_proto::convert::without_nul;
use farm_proto::layers::checked;
use farm_proto::v1;
use farm_store::work::attempts::{Lease, LeasedSnapshot};
use farm_types::elf::{self, Judgement, Layer, LayerVerdict, MOST_LAYERS, RULES};
use farm_types::{Digest, Failure, Invalid};
use tonic::Status;

use crate::grpc::status;
use crate::shared::Shared;

/// Of the layers that are asked about those that are known.
///
/// # Errors
/// There are too many, one has no digest, or the database can't be reached.
pub(crate) async fn find(
    shared: &Shared,
    leased: &LeasedSnapshot,
    asked: v1::FindVerdictsRequest,
) -> Result<v1::FindVerdictsResponse, Status> {
    few_enough(asked.diff_ids.len())?;
    if asked.rules != RULES {
        // A worker of another version, whose verdicts differ.
        return Ok(v1::FindVerdictsResponse::default());
    }
    let diff_ids: Result<Vec<Digest>, Invalid> = asked.diff_ids.iter().map(|text| text.parse()).collect();
    let diff_ids = diff_ids.map_err(status::invalid)?;
    let known = shared.store.layer_verdicts(leased.project, RULES, &diff_ids).await.map_err(status::store)?;
    let known = known.into_iter().map(|(diff_id, verdict)| v1::CheckedLayer {
        diff_id: diff_id.to_string(),
        verdict: Some(verdict.into()),
    });
    Ok(v1::FindVerdictsResponse { known: known.collect() })
}

/// What speaks against an image with these layers, if its build has it verified. What is new of them is kept.
///
/// # Errors
/// Something isn't as it has to be, or the database can't be reached.
pub(crate) async fn judge(
    shared: &Shared,
    leased: &LeasedSnapshot,
    layers: Vec<v1::CheckedLayer>,
) -> Result<Option<Box<Failure>>, Status> {
    let Some(excepted) = leased.spec.verify.excepted().map_err(status::invalid)? else { return Ok(None) };
    if layers.is_empty() || layers.len() > MOST_LAYERS {
        return Ok(None);
    }
    let layers: Result<Vec<_>, Invalid> = layers.into_iter().map(checked).collect();
    let layers = layers.map_err(status::invalid)?;
    let diff_ids: Vec<Digest> = layers.iter().map(|(diff_id, _)| *diff_id).collect();
    // What is known counts, whatever the worker says of it.
    let known = shared.store.layer_verdicts(leased.project, RULES, &diff_ids).await.map_err(status::store)?;
    let new: HashMap<Digest, LayerVerdict> = layers
        .into_iter()
        .filter_map(|(diff_id, verdict)| Some((diff_id, verdict?)))
        .filter(|(diff_id, _)| !known.contains_key(diff_id))
        .collect();
    let of = |diff_id: &Digest| known.get(diff_id).or_else(|| new.get(diff_id)).cloned();
    let seen: Vec<(Digest, Option<LayerVerdict>)> =
        diff_ids.iter().map(|diff_id| (*diff_id, of(diff_id))).collect();
    let platform = leased.platform.clone();
    // Patterns and paths are whoever's: of many it takes a while.
    let judging = tokio::task::spawn_blocking(move || {
        let seen = seen.iter().map(|(diff_id, verdict)| Layer { diff_id, verdict: verdict.as_ref() });
        elf::judge(seen, &platform, &excepted)
    });
    let judgement = judging.await.unwrap_or(Judgement::Unsure(Vec::new()));
    if !new.is_empty() && !leased.staged && !leased.proposed {
        let new: Vec<(Digest, LayerVerdict)> = new.into_iter().collect();
        shared.store.keep_layer_verdicts(leased.project, RULES, &new).await.map_err(status::store)?;
    }
    Ok(match judgement {
        Judgement::Foreign(foreign) => Some(Box::new(foreign.failure(&leased.platform))),
        // The worker has looked at all of these files, or has said that it couldn't.
        Judgement::Right | Judgement::Unsure(_) => None,
    })
}

/// Notes what was pushed and will not be published, so that it leaves the registry as what other failed builds have pushed.
///
/// # Errors
/// It has no digest, or the database can't be reached.
pub(crate) async fn note_pushed(
    shared: &Shared,
    lease: Lease,
    leased: &LeasedSnapshot,
    pushed: v1::Pushed,
) -> Result<(), Status> {
    if pushed.digest.is_empty() {
        return Ok(());
    }
    let digest: Digest = pushed.digest.parse().map_err(status::invalid)?;
    let repositories = match leased.staged {
        true => shared.registries.staged(leased.project, lease.attempt).into_iter().collect(),
        false => leased.spec.repositories(),
    };
    let media_type = without_nul(pushed.media_type);
    shared.store.note_pushed(lease, &repositories, digest, &media_type).await.map_err(status::store)
}

fn few_enough(layers: usize) -> Result<(), Status> {
    match layers <= MOST_LAYERS {
        true => Ok(()),
        false => Err(status::invalid(Invalid::new(
            "layers",
            layers.to_string(),
            format!("an image has {MOST_LAYERS} at most"),
        ))),
    }
}
