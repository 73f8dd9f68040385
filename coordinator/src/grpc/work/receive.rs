//! Outputs of attempts, as workers send them: each piece becomes a blob of its own, then it is known, then acknowledged.
//!
//! A worker whose link broke sends again what was not acknowledged, to whichever coordinator it reaches.

use std::sync::Arc;

use farm_proto::{OUTPUT_PIECE_BYTES, v1};
use farm_store::builds::outputs::NewPiece;
use farm_store::logs::seal::BlobKind;
use farm_store::work::attempts::Lease;
use farm_types::{Digest, JoinId};
use futures::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::lease;
use crate::grpc::status;
use crate::shared::Shared;

/// Stores the pieces of one output, in their order.
pub fn output(
    shared: Arc<Shared>,
    holder: Option<JoinId>,
    mut pieces: Streaming<v1::SendOutputRequest>,
    shutdown: CancellationToken,
) -> impl Stream<Item = Result<v1::SendOutputResponse, Status>> {
    async_stream::try_stream! {
        loop {
            let piece = tokio::select! {
                piece = pieces.message() => piece,
                () = shutdown.cancelled() => Err(Status::unavailable("this coordinator stops; dial again")),
            };
            let Some(piece) = piece? else { break };
            let acked_seq = keep(&shared, holder, piece).await?;
            yield v1::SendOutputResponse { acked_seq };
        }
    }
}

/// Keeps one piece. Answers the last one that is stored.
async fn keep(shared: &Shared, holder: Option<JoinId>, piece: v1::SendOutputRequest) -> Result<u64, Status> {
    let lease: Lease = lease(piece.lease, holder)?;
    if piece.data.len() > OUTPUT_PIECE_BYTES {
        return Err(Status::invalid_argument(format!("a piece has at most {OUTPUT_PIECE_BYTES} bytes")));
    }
    let digest = match &piece.digest[..] {
        [] => None,
        bytes => Some(Digest::try_from(bytes).map_err(status::invalid)?),
    };
    if piece.data.is_empty() && digest.is_none() {
        return Err(Status::invalid_argument("only the last piece, with the digest of all, may be empty"));
    }
    let store = &shared.store;
    let growing = store.growing_output(lease, piece.export).await.map_err(status::store)?;
    if u64::from(piece.export) >= growing.exports {
        return Err(Status::invalid_argument(format!(
            "the build has {} outputs, numbered from 0: none is {}",
            growing.exports, piece.export
        )));
    }
    if piece.seq != growing.acked_seq + 1 {
        // It is there already, or others are missing before it; the answer says which.
        return Ok(growing.acked_seq);
    }
    let size = u64::try_from(piece.data.len()).unwrap_or(u64::MAX);
    let limit = shared.config.limits.output_bytes;
    if growing.bytes.saturating_add(size) > limit {
        return Err(Status::out_of_range(format!("an output has at most {limit} bytes on this farm")));
    }
    let blob = store.name_blob(growing.project, BlobKind::Output).await.map_err(status::store)?;
    shared.blobs.put(growing.project, BlobKind::Output, blob, piece.data).await.map_err(status::outputs)?;
    let piece = NewPiece { export: piece.export, seq: piece.seq, size, blob, digest };
    store.add_output_piece(lease, piece).await.map_err(status::store)
}
