//! Calls that say who makes them: by a token that the user has, or by what a job's token was exchanged for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use farm_client::Bearer;
use http_body_util::BodyExt as _;
use tonic::body::Body;
use tonic::codegen::{Service, http};

use crate::ci::exchange::Exchange;
use crate::limits::Limited;

/// How a call says who makes it.
#[derive(Clone)]
pub enum Who {
    /// By this token.
    Token(Bearer),
    /// By what this gives, each time.
    Job(Arc<Exchange>),
}

/// The endpoints of a farm, to which calls say who makes them.
#[derive(Clone)]
pub struct Authorized {
    endpoints: Limited,
    who: Who,
}

impl Authorized {
    /// Calls through these endpoints.
    pub fn new(endpoints: Limited, who: Who) -> Self {
        Self { endpoints, who }
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Service<http::Request<Body>> for Authorized {
    type Response = http::Response<Body>;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failed>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.endpoints.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let exchange = match &self.who {
            Who::Token(bearer) => {
                bearer.sign(request.headers_mut());
                return self.endpoints.call(request);
            }
            Who::Job(exchange) => Arc::clone(exchange),
        };
        // Always ready.
        let mut endpoints = self.endpoints.clone();
        Box::pin(async move {
            let given = exchange.given().await?;
            given.sign(request.headers_mut());
            let mut response = endpoints.call(request).await?;
            exchange.heard(&given, response.headers_mut());
            Ok(response.map(|body| {
                Body::new(body.map_frame(move |mut frame| {
                    if let Some(trailers) = frame.trailers_mut() {
                        exchange.heard(&given, trailers);
                    }
                    frame
                }))
            }))
        })
    }
}
