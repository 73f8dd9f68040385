//! What is delivered to hooks, `POST /hooks/ADDRESS`: bodies bounded in length, time, number and memory. Where a delivery comes from
//! says the connection, or a proxy that is trusted.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use farm_hooks::{Headers, MOST_BODY_BYTES};
use farm_store::hooks::deliveries::DeliveryState;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::receive::{Answer, Sent, take};
use crate::http::answer::{Body, bare, later, whole};
use crate::http::body::Memory;
use crate::limits::line::Turn;
use crate::shared::Shared;
use crate::tls::Peer;

/// What all bodies that are under way may take of memory, KiB.
const MEMORY_KIB: usize = 128 * 1024;
/// A body takes it by pieces of so many.
const PIECE_KIB: usize = 256;
/// Who finds none comes back after so long.
const FULL: Duration = Duration::from_secs(5);
/// What paths of hooks have in front of their address; a proxy may have put more before it.
const PATH: &str = "/hooks/";

/// Takes deliveries.
#[derive(Debug, Clone)]
pub struct Hooks {
    shared: Arc<Shared>,
    memory: Memory,
}

impl Hooks {
    /// Those of this coordinator.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, memory: Memory::new(MEMORY_KIB, PIECE_KIB) }
    }

    /// Whether a request with this path is one.
    pub fn is_delivery(path: &str) -> bool {
        path.contains(PATH)
    }

    /// Takes one.
    pub async fn answer(&self, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
        let shared = &self.shared;
        let mut turn = Turn::begin(Arc::clone(&peer.line));
        let Some((_, address)) = request.uri().path().rsplit_once(PATH) else {
            return bare(StatusCode::NOT_FOUND);
        };
        if request.method() != Method::POST {
            let mut response = bare(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        let from: Option<IpAddr> =
            peer.address.map(|address| shared.doors.caller(address.ip(), request.headers()));
        let visit = from.map(|from| shared.doors.deliver(from)).transpose();
        let _visit = match visit {
            Ok(visit) => visit,
            Err(wait) => return later(StatusCode::TOO_MANY_REQUESTS, wait),
        };
        let address = address.to_owned();
        let token = request
            .uri()
            .query()
            .and_then(|query| query.split('&').find_map(|field| field.strip_prefix("token=")));
        let token = token.map(ToOwned::to_owned);
        let (head, body) = request.into_parts();
        let headers = Headers::of(head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
        let held = match self.memory.read(&head.headers, body, MOST_BODY_BYTES).await {
            Ok(held) => held,
            Err(status @ StatusCode::SERVICE_UNAVAILABLE) => return later(status, FULL),
            Err(status) => {
                // Who holds memory for nothing is none that a hook waits for.
                if let Some(from) = from.filter(|_| status == StatusCode::REQUEST_TIMEOUT) {
                    shared.doors.forged(from);
                }
                return bare(status);
            }
        };
        let body = held.bytes.clone();
        let answer = take(shared, Sent { address, headers, token, body, from }).await;
        if answer == Answer::Refused {
            if let Some(from) = from {
                shared.doors.forged(from);
            }
        } else {
            turn.know();
        }
        match answer {
            Answer::Kept { delivery, state, reason, builds } => {
                let status = match state {
                    DeliveryState::Received => StatusCode::ACCEPTED,
                    DeliveryState::Done | DeliveryState::Ignored => StatusCode::OK,
                    DeliveryState::Failed => StatusCode::UNPROCESSABLE_ENTITY,
                };
                let body = json!({ "delivery": delivery, "state": state.as_str(), "reason": reason, "builds": builds });
                told(status, &body)
            }
            Answer::Other { delivery } => {
                let reason = "a delivery of this id came before, with another body";
                told(StatusCode::CONFLICT, &json!({ "delivery": delivery, "reason": reason }))
            }
            Answer::Refused => bare(StatusCode::UNAUTHORIZED),
            Answer::TooMany(wait) => later(StatusCode::TOO_MANY_REQUESTS, wait),
            Answer::Away(wait) => later(StatusCode::SERVICE_UNAVAILABLE, wait),
        }
    }
}

fn told(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    let mut response = bare(status).map(|_| whole(format!("{body}\n")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
