//! One service over the endpoints of several coordinators, each of which serves every call.
//!
//! A call goes to the endpoint that answered last. When that one fails (no connection, a connection that breaks in the
//! middle of an answer, or an answer that it can't serve now), the next call goes to the next. No call is repeated
//! here: callers know which may be, and wait in between.
//!
//! The connections can be exchanged for others, as when this end has another certificate to show. Calls that are under way go
//! on over those on which they were made.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use http::HeaderMap;
use http_body_util::BodyExt as _;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// The endpoints of one farm's coordinators. Clones share them, and which of them is used.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// At least one.
    channels: Arc<RwLock<Arc<[Channel]>>>,
    current: Arc<AtomicUsize>,
}

impl Endpoints {
    /// Over these channels; the first is used until it fails.
    pub fn new(first: Channel, others: impl IntoIterator<Item = Channel>) -> Self {
        let channels: Arc<[Channel]> = std::iter::once(first).chain(others).collect();
        Self { channels: Arc::new(RwLock::new(channels)), current: Arc::default() }
    }

    /// Makes the next calls of all clones over other channels, to the same coordinators in the same order.
    pub fn exchange(&self, first: Channel, others: impl IntoIterator<Item = Channel>) {
        let channels = std::iter::once(first).chain(others).collect();
        *self.channels.write().unwrap_or_else(PoisonError::into_inner) = channels;
    }

    fn channels(&self) -> Arc<[Channel]> {
        Arc::clone(&self.channels.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Uses the endpoint at this place (from 0; after the last comes the first again) for the next calls.
    pub fn prefer(&self, place: usize) {
        self.current.store(place % self.channels().len(), Ordering::Relaxed);
    }

    /// The place of the endpoint that the next call goes to.
    pub fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Leaves an endpoint for the next one, unless another call has done so.
    fn leave(&self, place: usize) {
        let next = (place + 1) % self.channels().len();
        // Whoever was faster has moved on already.
        let _ = self.current.compare_exchange(place, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl From<Channel> for Endpoints {
    fn from(channel: Channel) -> Self {
        Self::new(channel, [])
    }
}

/// Whether headers or trailers say that another coordinator should be asked.
fn away(headers: &HeaderMap) -> bool {
    Status::from_header_map(headers).is_some_and(|status| status.code() == Code::Unavailable)
}

impl Service<http::Request<Body>> for Endpoints {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Which channel has to be ready is known only with the call.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let place = self.current();
        let channels = self.channels();
        let mut channel = channels[place % channels.len()].clone();
        let endpoints = self.clone();
        Box::pin(async move {
            let answered = async {
                std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
                channel.call(request).await
            }
            .await;
            let response = answered.inspect_err(|_| endpoints.leave(place))?;
            if away(response.headers()) {
                endpoints.leave(place);
            }
            let broken = endpoints.clone();
            Ok(response.map(|body| {
                let body = body
                    .map_err(move |status| {
                        broken.leave(place);
                        status
                    })
                    .map_frame(move |frame| {
                        if frame.trailers_ref().is_some_and(away) {
                            endpoints.leave(place);
                        }
                        frame
                    });
                Body::new(body)
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;

    #[tokio::test]
    async fn calls_move_on_from_who_fails_and_stay_with_who_answers() {
        let lazy =
            |port: u16| Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap().connect_lazy();
        // Ports that nobody listens on.
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let endpoints = Endpoints::new(lazy(free()), [lazy(free()), lazy(free())]);
        endpoints.prefer(1);
        for next in [2, 0, 1] {
            let failed = endpoints.clone().call(http::Request::new(Body::empty())).await;
            assert!(failed.is_err());
            assert_eq!(endpoints.current(), next);
        }
        // Of two that fail at once one moves on.
        endpoints.leave(1);
        endpoints.leave(1);
        assert_eq!(endpoints.current(), 2);
        endpoints.prefer(3);
        assert_eq!(endpoints.current(), 0);
    }

    #[test]
    fn only_unavailable_says_that_another_should_be_asked() {
        let said =
            |code: &str| HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())]);
        assert!(away(&said("14")));
        assert!(!away(&said("0")) && !away(&said("9")) && !away(&HeaderMap::new()));
    }
}
