//! Single calls that come too soon wait for as long as the farm says, and are made again: said here for all of them, so that no
//! command ends where another one waits. Nothing was done of such a call.
//!
//! Streams aren't begun again here: who reads or writes one does that, at the place where it was ([`crate::follow`],
//! [`crate::outputs`], [`crate::upload`]).

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use farm_client::{PUSHBACK, Returns, come_back};
use http_body_util::{BodyExt as _, Full};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};

use crate::again::come_again_saying;
use crate::authorized::Authorized;
use crate::limits::is_stream;

/// For so long nobody has to be told anew that calls wait.
const SAID_FOR: Duration = Duration::from_secs(60);

/// The calls of a farm, made again when they came too soon.
#[derive(Clone)]
pub struct Patient {
    calls: Authorized,
    /// Of all clones: a command may make many calls at once, or one after the other, and each may have to wait.
    said: Arc<Said>,
}

/// When people were last told that calls wait.
#[derive(Debug, Default)]
struct Said(Mutex<Option<Instant>>);

impl Said {
    /// Whether it is to be said now, which is noted.
    fn is_news(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = last.is_none_or(|last| now.saturating_duration_since(last) >= SAID_FOR);
        if is_news {
            *last = Some(now);
        }
        is_news
    }
}

impl Patient {
    /// Makes these calls.
    pub fn new(calls: Authorized) -> Self {
        Self { calls, said: Arc::default() }
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Service<http::Request<Body>> for Patient {
    type Response = http::Response<Body>;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failed>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.calls.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if is_stream(request.uri()) {
            return self.calls.call(request);
        }
        // Always ready.
        let Self { mut calls, said } = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            // One message, of bounded length.
            let body: Bytes = body.collect().await?.to_bytes();
            let mut returns = Returns::default();
            loop {
                let body = Body::new(Full::new(body.clone()));
                let mut answer = calls.call(http::Request::from_parts(head.clone(), body)).await?;
                // What is refused before anything is done has no body, and its status in the head.
                let status = Status::from_header_map(answer.headers()).filter(|it| come_back(it).is_some());
                let Some(status) = status else { return Ok(answer) };
                let is_new = returns.is_new();
                let is_news = || is_new && said.is_news(Instant::now());
                if come_again_saying(&mut returns, &status, is_news).await.is_err() {
                    // It was waited for long enough; nobody is to begin anew.
                    answer.headers_mut().remove(PUSHBACK);
                    return Ok(answer);
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use farm_proto::v1::{GetBuildRequest, WatchBuildRequest};
    use tonic::Code;
    use tonic::server::NamedService;

    use super::*;

    /// A FAKE farm that has too many calls so many times, says to come back in `wait`, and then knows no build.
    #[derive(Clone)]
    struct Busy {
        times: usize,
        wait: Duration,
        heard: Arc<Mutex<Vec<Bytes>>>,
    }

    impl NamedService for Busy {
        const NAME: &'static str = "farm.v1.BuildService";
    }

    impl Service<http::Request<Body>> for Busy {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            let Self { times, wait, heard } = self.clone();
            Box::pin(async move {
                let message = request.into_body().collect().await.unwrap().to_bytes();
                let mut heard = heard.lock().unwrap();
                heard.push(message);
                let status = match heard.len() <= times {
                    true => farm_client::busy("ada makes more than 3 calls a minute", wait),
                    false => Status::not_found("there is no such build"),
                };
                Ok(status.into_http())
            })
        }
    }

    async fn farm(times: usize, wait: Duration) -> (crate::connect::Client, Arc<Mutex<Vec<Bytes>>>) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let busy = Busy { times, wait, heard: Arc::clone(&heard) };
        (crate::testing::client(tonic::transport::Server::builder().add_service(busy)).await, heard)
    }

    #[tokio::test]
    async fn a_call_that_comes_too_soon_is_made_again_as_it_was() {
        let wait = Duration::from_millis(100);
        let (client, heard) = farm(2, wait).await;
        let begun = Instant::now();
        let request = GetBuildRequest { build_id: "7f3k2m".into() };
        let answer = client.builds().get_build(request).await.unwrap_err();
        assert_eq!((answer.code(), answer.message()), (Code::NotFound, "there is no such build"));
        assert!(begun.elapsed() >= wait * 2, "{:?}", begun.elapsed());
        let heard = heard.lock().unwrap();
        assert!(heard.len() == 3 && heard.iter().all(|message| *message == heard[0]), "{heard:?}");
        assert!(heard[0].ends_with(b"7f3k2m"), "{heard:?}");
    }

    #[tokio::test]
    async fn that_calls_wait_is_said_once_a_minute_for_all_that_a_command_makes() {
        let (client, _) = farm(3, Duration::from_millis(100)).await;
        let (one, other) = (client.channel.clone(), client.channel.clone());
        assert!(Arc::ptr_eq(&one.said, &other.said));
        let now = Instant::now();
        let is_news = |seconds| one.said.is_news(now + Duration::from_secs(seconds));
        assert_eq!([0, 1, 59, 60, 61, 120].map(is_news), [true, false, false, true, false, true]);
        // One that is waited for says it, too.
        let said = Arc::clone(&client.channel.said);
        *said.0.lock().unwrap() = None;
        client.builds().get_build(GetBuildRequest::default()).await.unwrap_err();
        assert!(said.0.lock().unwrap().is_some() && !said.is_news(Instant::now()));
    }

    #[tokio::test]
    async fn who_would_have_to_wait_too_long_is_refused_at_once() {
        let (client, heard) = farm(usize::MAX, Duration::from_secs(3600)).await;
        let answer = client.builds().get_build(GetBuildRequest::default()).await.unwrap_err();
        assert_eq!(answer.code(), Code::ResourceExhausted);
        assert!(answer.message().starts_with("ada makes more than 3 calls"), "{answer:?}");
        assert_eq!(heard.lock().unwrap().len(), 1);
        // What waits by itself when it is told to doesn't begin anew.
        assert_eq!(come_back(&answer), None);
    }

    #[tokio::test]
    async fn a_stream_is_told_at_once() {
        let wait = Duration::from_secs(20);
        let (client, heard) = farm(usize::MAX, wait).await;
        let answer = client.builds().watch_build(WatchBuildRequest::default()).await.err().unwrap();
        assert_eq!(come_back(&answer), Some(wait));
        assert_eq!(heard.lock().unwrap().len(), 1);
    }
}
