//! What an engine keeps by digest: manifests, configurations, layers.
//!
//! BuildKit lets whoever may build read its content store on the connection that builds are asked for on: containerd's content
//! service (`containerd/api/services/content/v1/content.proto`), of which only reading is answered (BuildKit
//! `control/control.go`, since 0.13). What a solve has just made is there, and the layers of base images as far as the engine
//! had to have them.
//!
//! Nothing is believed: whoever asks compares the digest.

use std::time::Duration;

use bytes::Bytes;
use farm_types::Digest;
use http::uri::PathAndQuery;
use prost::Message;

use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::Engine;
use super::engine::error::reason;

/// The call. Farm has no generated code of containerd's, for the sake of two messages.
const READ: &str = "/containerd.services.content.v1.Content/Read";
/// The longest piece that is taken, bytes; containerd sends at most 1 MiB.
const MAX_PIECE_BYTES: usize = 8 << 20;

/// How long an engine may take for its next piece.
const PATIENCE: Duration = Duration::from_secs(20);

/// `ReadContentRequest`; the fields that aren't here are 0: from the beginning, all of it.
#[derive(Clone, PartialEq, Message)]
struct ReadContent {
    #[prost(string, tag = "1")]
    digest: String,
}

/// `ReadContentResponse`.
#[derive(Clone, PartialEq, Message)]
struct ContentRead {
    #[prost(int64, tag = "1")]
    offset: i64,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
}

/// Why something can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The engine hasn't got it: a layer of a base image that nothing was done with, or one that was pruned.
    #[error("the engine hasn't got it")]
    Absent,
    /// The engine doesn't let anything be read: it is older than BuildKit 0.13.
    #[error("the engine lets nothing be read")]
    Unsupported,
    /// The engine is gone, or says something else.
    #[error("{0}")]
    Lost(String),
}

impl From<Status> for Unreadable {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::NotFound => Self::Absent,
            Code::Unimplemented => Self::Unsupported,
            _ => Self::Lost(reason(&status)),
        }
    }
}

fn silent() -> Unreadable {
    Unreadable::Lost("the engine doesn't answer".to_owned())
}

/// Something that is being read, on a connection of its own.
pub struct Reading(Streaming<ContentRead>);

impl Engine {
    /// Begins to read something from its first byte on. Dropping what is given ends it in the engine too.
    ///
    /// # Errors
    /// It isn't there, or can't be read.
    pub async fn read(&self, digest: &Digest) -> Result<Reading, Unreadable> {
        let channel = self
            .dialer()
            .dial()
            .await
            .map_err(|error| Unreadable::Lost(farm_types::chain::innermost(&error).to_string()))?;
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_PIECE_BYTES);
        timeout(PATIENCE, client.ready())
            .await
            .map_err(|_| silent())?
            .map_err(|error| Unreadable::Lost(farm_types::chain::innermost(&error).to_string()))?;
        let request = Request::new(ReadContent { digest: digest.to_string() });
        let codec = ProstCodec::<ReadContent, ContentRead>::default();
        let answer = client.server_streaming(request, PathAndQuery::from_static(READ), codec);
        let answer = timeout(PATIENCE, answer).await.map_err(|_| silent())??;
        Ok(Reading(answer.into_inner()))
    }
}

impl Reading {
    /// The next piece; none at the end.
    ///
    /// # Errors
    /// It broke off, or isn't there after all: some engines say so only now.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Unreadable> {
        let next = timeout(PATIENCE, self.0.message()).await.map_err(|_| silent())?;
        Ok(next?.map(|piece| piece.data))
    }
}
