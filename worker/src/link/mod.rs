//! The link to the coordinator: where it is, who we are, and how we call it.
//!
//! Two connections, so that bytes never delay a heartbeat: [`control`] has one of its own, on a thread of
//! its own; events and source files share the other, whose windows are large. Both are dialled by the
//! worker, and both come back by themselves after an outage.

pub mod chunks;
pub mod control;
pub mod events;
pub mod limit;
pub mod session;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use farm_proto::v1::worker_service_client::WorkerServiceClient;
use farm_proto::{MAX_MESSAGE_BYTES, WINDOW_BYTES};
use farm_types::Invalid;
use rand::RngExt;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

/// A client of the coordinator that says who it is on every call.
pub type Client = WorkerServiceClient<InterceptedService<Channel, Token>>;

/// Where the coordinator is: `http://HOST:PORT` or `https://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoordinatorUrl(http::Uri);

impl FromStr for CoordinatorUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |cure: &str| Invalid::new("coordinator", text, cure);
        let uri: http::Uri =
            text.parse().map_err(|_| invalid("write http://HOST:PORT, for example http://localhost:7070"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(invalid("start it with http:// or https://"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(invalid("leave out what follows HOST:PORT"));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(invalid("it can't hold a name or password; the worker's token says who it is"));
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for CoordinatorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

/// A bearer token, as a header's value. It is never printed.
#[derive(Clone)]
pub struct Token(MetadataValue<Ascii>);

impl FromStr for Token {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Invalid::new("token", "", "it is empty"));
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {text}")
            .parse()
            .map_err(|_| Invalid::new("token", "…", "it holds characters that no token has"))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// The endpoint of a connection for small messages: a dead peer is noticed within 20 s.
///
/// # Errors
/// The system's root certificates can't be read (https only).
pub fn endpoint(url: &CoordinatorUrl) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from(url.0.clone())
        .user_agent(concat!("farm-worker/", env!("CARGO_PKG_VERSION")))?
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    match url.0.scheme_str() {
        Some("https") => endpoint.tls_config(ClientTlsConfig::new().with_native_roots()),
        _ => Ok(endpoint),
    }
}

/// A client for bulk: it connects when it is first used, and again after an outage.
///
/// # Errors
/// As [`endpoint`].
pub fn bulk_client(url: &CoordinatorUrl, token: &Token) -> Result<Client, tonic::transport::Error> {
    let channel = endpoint(url)?
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .connect_lazy();
    Ok(client(channel, token))
}

/// A client on this connection.
pub fn client(channel: Channel, token: &Token) -> Client {
    WorkerServiceClient::with_interceptor(channel, token.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// A text and the errors below it, in one line, each once.
pub(crate) fn causes(text: &str, mut source: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut text = text.to_owned();
    while let Some(error) = source {
        let below = error.to_string();
        if text.is_empty() {
            text = below;
        } else if !text.contains(&below) {
            text = format!("{text}: {below}");
        }
        source = error.source();
    }
    text
}

/// What a call's failure leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The lease is not ours any more: give up.
    Superseded,
    /// What we asked for is not there: give up.
    Missing,
    /// The coordinator answered, but not with what we want: try again for a while.
    Refused,
    /// Nobody answered: try again.
    Away,
}

impl Refusal {
    /// Sorts an answer of `SendEvents`, `FetchFolders` or `FetchFiles`.
    pub fn of(status: &Status) -> Self {
        match status.code() {
            Code::FailedPrecondition => Self::Superseded,
            Code::NotFound | Code::DataLoss => Self::Missing,
            Code::InvalidArgument
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::Internal => Self::Refused,
            _ => Self::Away,
        }
    }
}

/// Waits between tries: 0.2 s, doubled each time up to 5 s, each with jitter of a half, so that a farm's
/// workers don't come back all at once.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(200);
    const LAST: Duration = Duration::from_secs(5);

    /// The wait before the next try.
    pub fn next_wait(&mut self) -> Duration {
        let wait = Self::FIRST.saturating_mul(1 << self.tries.min(8)).min(Self::LAST);
        self.tries = self.tries.saturating_add(1);
        wait.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Starts over: something worked.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_is_a_host_and_nothing_more() {
        let url: CoordinatorUrl = "http://localhost:7070/".parse().unwrap();
        assert_eq!(url.to_string(), "http://localhost:7070");
        let error = |text: &str| text.parse::<CoordinatorUrl>().unwrap_err().to_string();
        assert!(error("localhost:7070").contains("http://"), "{}", error("localhost:7070"));
        assert!(error("ftp://h").contains("http://"));
        assert!(error("http://h/path").contains("leave out"));
        assert!(error("http://me:x@h").contains("token"));
    }

    #[test]
    fn a_token_is_not_printed() {
        let token: Token = " farm_secret\n".parse().unwrap();
        assert!(!format!("{token:?}").contains("secret"));
        assert!("".parse::<Token>().is_err());
        assert!("a\u{7}b".parse::<Token>().is_err());
    }

    #[test]
    fn waits_grow_to_five_seconds_and_start_over() {
        let mut backoff = Backoff::default();
        assert!(backoff.next_wait() <= Duration::from_millis(200));
        for _ in 0..40 {
            assert!(backoff.next_wait() <= Duration::from_secs(5));
        }
        assert!(backoff.next_wait() >= Duration::from_millis(2500));
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(200));
    }
}
