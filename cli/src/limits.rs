//! How long a call may take: said here for all of them, since a farm that lives and doesn't answer would hold a command for
//! ever. (That a connection is dead, keep-alive notices.)
//!
//! Calls that are answered once have a limit, from their beginning to the last byte of the answer. Streams have none: they
//! last as long as builds do. A call that is over changes the coordinator, of several; it is not made again here, and what
//! was submitted bears a key, so that it can be.
//!
//! A new call has the usual limit; one that asks a registry stands in [`Limits::of`], a new stream in [`STREAMS`].

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use farm_client::Endpoints;
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};

/// What a coordinator needs for its database and a little more; and with what is before a call, a command into silence ends
/// within 30 s.
const USUAL: Duration = Duration::from_secs(25);
/// For what asks registries, or an issuer.
const LONG: Duration = Duration::from_secs(90);

/// The limits of calls.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    usual: Duration,
    long: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { usual: USUAL, long: LONG }
    }
}

/// The calls that last as long as builds do.
const STREAMS: [&str; 4] = ["WatchBuild", "FetchOutput", "UploadObjects", "OfferAgents"];

/// Whether a call is no single question with one answer.
pub fn is_stream(uri: &http::Uri) -> bool {
    STREAMS.contains(&method(uri))
}

/// gRPC over HTTP/2: the path is /SERVICE/METHOD.
fn method(uri: &http::Uri) -> &str {
    uri.path().rsplit('/').next().unwrap_or_default()
}

impl Limits {
    fn of(self, method: &str) -> Option<Duration> {
        match method {
            stream if STREAMS.contains(&stream) => None,
            "InspectImage" | "GetTagHistory" | "RetryBuild" | "GetSignIn" | "BeginDeviceSignIn"
            | "SignIn" => Some(self.long),
            _ => Some(self.usual),
        }
    }
}

/// The endpoints of a farm, with limits on their calls.
#[derive(Debug, Clone)]
pub struct Limited {
    endpoints: Endpoints,
    limits: Limits,
}

impl Limited {
    /// Calls through these endpoints.
    pub fn new(endpoints: Endpoints, limits: Limits) -> Self {
        Self { endpoints, limits }
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Service<http::Request<Body>> for Limited {
    type Response = http::Response<Body>;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failed>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.endpoints.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = method(request.uri()).to_owned();
        let place = self.endpoints.current();
        let calling = self.endpoints.call(request);
        let Some(limit) = self.limits.of(&method) else {
            return Box::pin(async move { Ok(calling.await?) });
        };
        let endpoints = self.endpoints.clone();
        let whole = async move {
            let (head, body) = calling.await?.into_parts();
            // One message, of bounded length.
            Ok(http::Response::from_parts(head, Body::new(body.collect().await?)))
        };
        Box::pin(async move {
            match timeout(limit, whole).await {
                Ok(answer) => answer,
                Err(_) => {
                    if endpoints.current() == place {
                        endpoints.prefer(place + 1);
                    }
                    Err(silent(&method, limit).into())
                }
            }
        })
    }
}

fn silent(method: &str, limit: Duration) -> Status {
    let cure = match method {
        "SubmitBuild" | "RetryBuild" => {
            "It may have accepted the build: `farm builds` tells, `farm cancel` ends it"
        }
        _ => "Try again in a moment; if it stays so, look at the coordinator's log and its database",
    };
    Status::deadline_exceeded(format!("no answer to {method} within {} s. {cure}", limit.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use farm_proto::v1::build_service_client::BuildServiceClient;
    use farm_proto::v1::{GetBuildRequest, SubmitBuildRequest, WatchBuildRequest};
    use tonic::Code;
    use tonic::server::NamedService;

    use super::*;
    use crate::error::{Error, is_connection};

    const SHORT: Limits = Limits { usual: Duration::from_millis(100), long: Duration::from_millis(150) };

    /// A FAKE farm that takes every call, and answers none; or begins an answer that has no end.
    #[derive(Clone)]
    struct Silent {
        begins: bool,
    }

    impl NamedService for Silent {
        const NAME: &'static str = "farm.v1.BuildService";
    }

    impl Service<http::Request<Body>> for Silent {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<Body>) -> Self::Future {
            let begins = self.begins;
            Box::pin(async move {
                if !begins {
                    return std::future::pending().await;
                }
                let endless = http_body_util::StreamBody::new(futures::stream::pending::<
                    Result<hyper::body::Frame<bytes::Bytes>, Status>,
                >());
                let mut answer = http::Response::new(Body::new(endless));
                answer.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
                Ok(answer)
            })
        }
    }

    #[tokio::test]
    async fn a_call_into_silence_ends_and_a_stream_goes_on() {
        for begins in [false, true] {
            let router = tonic::transport::Server::builder().add_service(Silent { begins });
            let (endpoints, farm) = crate::testing::endpoints(router).await;
            let mut client = BuildServiceClient::new(Limited::new(endpoints.clone(), SHORT));
            let silent = client.get_build(GetBuildRequest::default()).await.unwrap_err();
            assert_eq!(silent.code(), Code::DeadlineExceeded, "{silent}");
            // Nobody waits for the same silence six times.
            assert!(!is_connection(&silent));
            let Error::Farm(text) = farm.error(&silent) else { panic!("{silent}") };
            assert!(
                text.contains("http://farm.test") && text.contains("GetBuild within 0 s. Try again"),
                "{text}"
            );
            let silent = client.submit_build(SubmitBuildRequest::default()).await.unwrap_err();
            assert!(silent.message().contains("`farm builds` tells"), "{silent}");
            let watching = async {
                let mut stream = client.watch_build(WatchBuildRequest::default()).await?.into_inner();
                stream.message().await
            };
            assert!(timeout(SHORT.long * 4, watching).await.is_err());
        }
    }

    #[test]
    fn every_call_has_a_limit_and_a_command_that_submits_is_answered_within_30_s() {
        let limits = Limits::default();
        for (method, limit) in [
            ("OpenUpload", Some(USUAL)),
            ("FindMissing", Some(USUAL)),
            ("FinishUpload", Some(USUAL)),
            ("SubmitBuild", Some(USUAL)),
            ("RetryBuild", Some(LONG)),
            ("InspectImage", Some(LONG)),
            ("SignIn", Some(LONG)),
            ("WatchBuild", None),
            ("FetchOutput", None),
            ("UploadObjects", None),
            ("OfferAgents", None),
        ] {
            assert_eq!(limits.of(method), limit, "{method}");
        }
        assert!(USUAL + Duration::from_secs(5) <= Duration::from_secs(30));
    }
}
