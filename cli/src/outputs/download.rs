//! The bytes of one output, fetched from the farm: from the byte on where a lost connection left off, at whichever coordinator
//! there is, and checked at the end.
//!
//! Whoever reads does so on a thread of its own; between the two a few pieces wait.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use farm_client::come_back;
use farm_proto::v1::{FetchOutputRequest, Output};
use farm_types::digest::Hasher;
use farm_types::{Backoff, Digest};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::again::WAITS;
use crate::connect::Client;
use crate::error::{Error, is_connection, status_in_short};

/// Pieces between the connection and the reader.
const QUEUE: usize = 16;
/// A farm that is away for that long is given up.
const GIVE_UP: Duration = Duration::from_secs(600);

/// Where outputs come from, shared by all of a build.
#[derive(Clone)]
pub struct Source {
    /// The farm that has it.
    pub client: Client,
    /// The build's id.
    pub build: String,
    /// Bytes that came so far, of all.
    pub received: Arc<AtomicU64>,
    /// True: the user wants no more.
    pub stop: watch::Receiver<bool>,
    /// Where fetching runs.
    pub runtime: Handle,
}

/// What is to be read of one output.
pub struct Incoming {
    pieces: mpsc::Receiver<Result<Bytes, Error>>,
    rest: Bytes,
    is_over: bool,
}

impl Source {
    /// Begins to fetch an output. May be called on any thread.
    pub fn open(&self, platform: &str, output: &Output) -> Incoming {
        let (sender, pieces) = mpsc::channel(QUEUE);
        let (source, platform, output) = (self.clone(), platform.to_owned(), output.clone());
        self.runtime.spawn(async move {
            let mut stop = source.stop.clone();
            let fetching = source.fetch(GIVE_UP, &platform, &output, &sender);
            let ended = tokio::select! {
                ended = fetching => ended,
                // Whoever would say so is gone: then nobody does.
                Ok(_) = stop.wait_for(|stop| *stop) => Err(Error::Cancelled(format!(
                    "cancelled while the result of build {} was being received; what was not complete is not there",
                    source.build
                ))),
            };
            // Nobody may read any more.
            let _ = sender.send(ended.map(|()| Bytes::new())).await;
        });
        Incoming { pieces, rest: Bytes::new(), is_over: false }
    }

    async fn fetch(
        &self,
        give_up: Duration,
        platform: &str,
        output: &Output,
        to: &mpsc::Sender<Result<Bytes, Error>>,
    ) -> Result<(), Error> {
        let mut progress = Progress { offset: 0, hasher: Hasher::new() };
        // Since the first call that failed after the last bytes: calls that fail take their time, too.
        let (mut away_since, mut backoff) = (None::<Instant>, Backoff::new(WAITS));
        loop {
            let before = progress.offset;
            let mut wait = Duration::ZERO;
            let why = match self.stream(platform, output, &mut progress, to).await {
                // The reader had enough.
                Ok(false) => return Ok(()),
                Ok(true) if progress.offset == output.bytes => break,
                Ok(true) => "the farm ended the connection".to_owned(),
                Err(status) if is_connection(&status) => status_in_short(&status),
                Err(status) if come_back(&status).is_some() => {
                    wait = come_back(&status).unwrap_or_default();
                    status_in_short(&status)
                }
                Err(status) => return Err(self.client.error(&status)),
            };
            if progress.offset > before {
                away_since = None;
                backoff.reset();
            }
            if away_since.get_or_insert_with(Instant::now).elapsed() >= give_up {
                return Err(Error::Farm(format!(
                    "the farm at {} has sent nothing for 10 minutes ({why}) while its result was being received; submit the \
                     build again when it is back",
                    self.client.url()
                )));
            }
            tokio::time::sleep(backoff.next_wait().max(wait)).await;
        }
        let digest = std::mem::take(&mut progress.hasher).finish();
        if output.digest.parse::<Digest>().ok() != Some(digest) {
            return Err(Error::Farm(format!(
                "what the farm at {} gave out for {platform} is not what its worker made ({digest} instead of {}); submit \
                 the build again",
                self.client.url(),
                output.digest
            )));
        }
        Ok(())
    }

    /// One call; false when the reader is gone.
    async fn stream(
        &self,
        platform: &str,
        output: &Output,
        progress: &mut Progress,
        to: &mpsc::Sender<Result<Bytes, Error>>,
    ) -> Result<bool, Status> {
        let request = FetchOutputRequest {
            build_id: self.build.clone(),
            platform: platform.to_owned(),
            export: output.export,
            offset: progress.offset,
        };
        let mut stream = self.client.outputs().fetch_output(request).await?.into_inner();
        while let Some(response) = stream.message().await? {
            let length = u64::try_from(response.data.len()).unwrap_or(u64::MAX);
            if progress.offset.saturating_add(length) > output.bytes {
                return Err(Status::data_loss("the farm sends more of it than there is"));
            }
            progress.hasher.update(&response.data);
            progress.offset += length;
            self.received.fetch_add(length, Ordering::Relaxed);
            if length > 0 && to.send(Ok(response.data)).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

struct Progress {
    offset: u64,
    hasher: Hasher,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.is_over {
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) if piece.is_empty() => self.is_over = true,
                Some(Ok(piece)) => self.rest = piece,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let length = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use farm_proto::v1::output_service_server::{OutputService, OutputServiceServer};
    use farm_proto::v1::{FetchOutputResponse, ReleaseOutputsRequest, ReleaseOutputsResponse};
    use tonic::{Request, Response};

    use super::*;

    /// A FAKE farm that takes its time to say that it can't answer.
    struct Away(Arc<AtomicU64>);

    #[tonic::async_trait]
    impl OutputService for Away {
        type FetchOutputStream = tokio_stream::Empty<Result<FetchOutputResponse, Status>>;

        async fn fetch_output(
            &self,
            _: Request<FetchOutputRequest>,
        ) -> Result<Response<Self::FetchOutputStream>, Status> {
            self.0.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(600)).await;
            Err(Status::unavailable("away"))
        }

        async fn release_outputs(
            &self,
            _: Request<ReleaseOutputsRequest>,
        ) -> Result<Response<ReleaseOutputsResponse>, Status> {
            Err(Status::unimplemented("fake"))
        }
    }

    #[tokio::test]
    async fn a_farm_that_is_away_is_given_up_after_the_time_that_passed() {
        let calls = Arc::new(AtomicU64::new(0));
        let service = OutputServiceServer::new(Away(Arc::clone(&calls)));
        let router = tonic::transport::Server::builder().add_service(service);
        let source = Source {
            client: crate::testing::client(router).await,
            build: "7f3k2m".into(),
            received: Arc::default(),
            stop: watch::channel(false).1,
            runtime: Handle::current(),
        };
        let (to, _pieces) = mpsc::channel(1);
        let output = Output { bytes: 7, ..Output::default() };
        let fetching = source.fetch(Duration::from_millis(700), "linux/amd64", &output, &to);
        let error = fetching.await.unwrap_err();
        assert!(error.to_string().contains("has sent nothing for 10 minutes"), "{error}");
        // The time that calls take counts, not only that of the pauses.
        assert!(calls.load(Ordering::SeqCst) <= 2, "{calls:?}");
    }
}
