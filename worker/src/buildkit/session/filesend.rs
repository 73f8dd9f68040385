//! Takes what an engine's exporters send: `moby.filesync.v1.FileSend/DiffCopy`.
//!
//! One method, two kinds of messages (BuildKit, `session/filesync`): an archive comes in `BytesMessage`s and ends with the
//! stream; a folder's files come in fsutil's packets ([`super::receive`]). Which exporter calls says a header, whose number
//! is the exporter's place in the request; engines that know one exporter only have no such header.
//!
//! Invariants: each output is taken once; its end is told only when all of it came; our stream ends, which lets the engine go
//! on, after the last byte was handed on.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bollard_buildkit_proto::moby::buildkit::v1::BytesMessage;
use bytes::{Buf as _, BufMut as _, Bytes};
use farm_types::Form;
use futures::Stream;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use super::receive::{self, Peer, unwanted};
use crate::buildkit::engine::connect::MAX_MESSAGE_BYTES;
use crate::buildkit::types::{Output, OutputPart};

/// The method's path, as it is announced when the session is opened.
pub(super) const METHOD: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// The header that names the exporter by its place.
const EXPORTER: &str = "buildkit-attachable-exporter-id";
/// How many of our messages may wait for the connection.
const WAITING: usize = 64;

/// The outputs that are still to come, by their exporter's place.
#[derive(Clone)]
pub(super) struct FileSend {
    outputs: Arc<Mutex<HashMap<usize, Output>>>,
}

impl FileSend {
    pub(crate) fn new(outputs: Vec<Output>) -> Self {
        Self { outputs: Arc::new(Mutex::new(outputs.into_iter().enumerate().collect())) }
    }

    fn take(&self, request: &Request<Streaming<Bytes>>) -> Result<Output, Status> {
        let place = match request.metadata().get(EXPORTER) {
            None => 0,
            Some(text) => text
                .to_str()
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| Status::invalid_argument("the exporter's id is no number"))?,
        };
        // Each change under the lock is whole before anything can panic.
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        outputs.remove(&place).ok_or_else(|| Status::not_found(format!("nothing waits for exporter {place}")))
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl StreamingService<Bytes> for FileSend {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Messages>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let taken = self.take(&request);
        Box::pin(async move {
            let Output { export, sink } = taken?;
            let (replies, outgoing) = mpsc::channel(WAITING);
            // This task ends with the session at the latest, since the engine's messages do.
            let taking = async move {
                let incoming = request.into_inner();
                let taken = match export.form {
                    Form::Files => receive::files(incoming, Peer::new(replies.clone()), &sink).await,
                    Form::Tar | Form::Oci | Form::Docker => archive(incoming, &sink).await,
                };
                let ended = match taken {
                    Ok(()) => sink.send(OutputPart::End).await.map_err(|_| unwanted()),
                    Err(status) => Err(status),
                };
                if let Err(status) = ended {
                    tracing::debug!(%status, form = export.form.as_str(), "an output was not taken to its end");
                    let _ = replies.send(Err(status)).await;
                }
            };
            tokio::spawn(taking.in_current_span());
            let messages: Messages = Box::pin(ReceiverStream::new(outgoing));
            Ok(Response::new(messages))
        })
    }
}

async fn archive(mut incoming: Streaming<Bytes>, sink: &mpsc::Sender<OutputPart>) -> Result<(), Status> {
    while let Some(message) = incoming.message().await? {
        let message = BytesMessage::decode(message)
            .map_err(|error| Status::invalid_argument(format!("no piece of an archive: {error}")))?;
        if !message.data.is_empty() {
            sink.send(OutputPart::Data(message.data.into())).await.map_err(|_| unwanted())?;
        }
    }
    Ok(())
}

impl NamedService for FileSend {
    const NAME: &'static str = "moby.filesync.v1.FileSend";
}

impl tower::Service<http::Request<tonic::body::Body>> for FileSend {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("not offered").into_http());
            }
            let mut grpc = Grpc::new(Raw).apply_max_message_size_config(Some(MAX_MESSAGE_BYTES), None);
            Ok(grpc.streaming(method, request).await)
        })
    }
}

/// Messages as they are: of which kind they are is known only when it is known who calls.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
