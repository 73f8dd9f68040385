//! The link to the coordinators: where they are, who we are, and how we call them. Each serves every call; the worker
//! holds on to one, and moves to the next when that one fails.
//!
//! Two connections, so that bytes never delay a heartbeat: [`control`] has one of its own, on a thread of
//! its own; events, outputs and source files share the other, whose windows are large. Both are dialled by the
//! worker, and both come back by themselves after an outage.

pub mod agents;
pub mod chunks;
pub mod control;
pub mod events;
pub mod kept;
pub mod limit;
mod line;
pub mod mounts;
pub mod outputs;
pub mod pushed;
pub mod renewed;
pub mod session;
pub mod sources;
pub mod tokens;
pub mod verdicts;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use farm_client::{Bearer, EndpointError, Endpoints, Security, is_loopback};
use farm_proto::v1::worker_service_client::WorkerServiceClient;
use farm_proto::{MAX_MESSAGE_BYTES, WINDOW_BYTES};
use farm_types::{BootId, Invalid, Waits};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use self::renewed::Certified;
use crate::attempts::Attempts;

/// The waits between tries. Each is shortened by chance, so that a farm's workers don't come back all at once.
pub const WAITS: Waits = Waits::new(Duration::from_millis(200), Duration::from_secs(5));

/// A client of the coordinators that says who it is on every call.
pub type Client = WorkerServiceClient<InterceptedService<Endpoints, Credential>>;

/// What each call says of who makes it: a worker's token, or nothing, as the connection's certificate says it.
#[derive(Debug, Clone, Default)]
pub struct Credential(Option<Bearer>);

impl From<Bearer> for Credential {
    fn from(token: Bearer) -> Self {
        Self(Some(token))
    }
}

impl Interceptor for Credential {
    fn call(&mut self, request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        match &mut self.0 {
            Some(token) => token.call(request),
            None => Ok(request),
        }
    }
}

/// Where a coordinator is: `http://HOST:PORT` or `https://HOST:PORT`.
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
            return Err(invalid(
                "it can't hold a name or password; the worker's certificate, or its token, says who it is",
            ));
        }
        Ok(Self(uri))
    }
}

impl CoordinatorUrl {
    /// Whether it is called by TLS, so that a certificate can be shown.
    pub fn is_tls(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// The address itself.
    pub fn uri(&self) -> &http::Uri {
        &self.0
    }

    /// Whether what is sent there can be read on its way.
    pub fn is_open(&self) -> bool {
        self.0.scheme_str() == Some("http") && !is_loopback(&self.0)
    }
}

impl fmt::Display for CoordinatorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

/// Where the farm's coordinators are: at least one, none twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coordinators {
    first: CoordinatorUrl,
    others: Vec<CoordinatorUrl>,
}

impl Coordinators {
    /// All of them, in the order in which they were named.
    pub fn urls(&self) -> impl Iterator<Item = &CoordinatorUrl> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Their hosts' names and addresses.
    pub fn hosts(&self) -> Vec<String> {
        self.urls().filter_map(|url| url.uri().host()).map(ToOwned::to_owned).collect()
    }

    pub fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// The one at this place; after the last one comes the first again.
    pub fn at(&self, place: usize) -> &CoordinatorUrl {
        (place % self.count()).checked_sub(1).and_then(|i| self.others.get(i)).unwrap_or(&self.first)
    }
}

impl From<CoordinatorUrl> for Coordinators {
    fn from(first: CoordinatorUrl) -> Self {
        Self { first, others: Vec::new() }
    }
}

impl FromStr for Coordinators {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut urls: Vec<CoordinatorUrl> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let url = part.parse()?;
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        let mut urls = urls.into_iter();
        let first = urls.next().ok_or_else(|| {
            let cure = "write http://HOST:PORT, or several with commas between them";
            Invalid::new("coordinator", text, cure)
        })?;
        Ok(Self { first, others: urls.collect() })
    }
}

impl fmt::Display for Coordinators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.others.iter().try_for_each(|url| write!(f, ", {url}"))
    }
}

/// The control link's settings and what it shares with the rest.
#[derive(Debug)]
pub struct Control {
    /// Where the coordinators are.
    pub coordinators: Coordinators,
    /// What a connection has to be before the token goes over it.
    pub security: Security,
    /// The connections for bulk, in the same order: they follow to where the stream is.
    pub bulk: Endpoints,
    /// Shows who this worker is, in each call.
    pub credential: Credential,
    /// The certificate that connections show, if that is what says who it is.
    pub certified: Option<Certified>,
    /// The worker's name.
    pub name: String,
    /// Another one for each start of the process: what an earlier life ran is lost.
    pub boot: BootId,
    /// The folder that is claimed, as [`crate::state_dir::Claim::home`] names it.
    pub home: String,
    /// How many attempts run at once.
    pub slots: usize,
    /// It fetches sources by git.
    pub has_git: bool,
    /// Whoever runs the machine says that the engine is fenced off.
    pub fenced: bool,
    /// What runs, and what may be offered; when that changes, a new Hello tells.
    pub attempts: Arc<Attempts>,
    /// Cancelled when the worker has nothing left to tell: say Bye.
    pub leave: CancellationToken,
    /// True from the first Welcome on.
    pub welcomed: watch::Sender<bool>,
}

/// Why no coordinator will ever take this worker as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Worker and coordinator have no protocol version in common.
    #[error(
        "the coordinator at {url} does not speak this worker's protocol ({why}); \
         run the farm-worker that belongs to the coordinator's version"
    )]
    Protocol {
        /// The coordinator's address.
        url: CoordinatorUrl,
        /// What the coordinator said.
        why: String,
    },
    /// The token is not a worker's.
    #[error(
        "the coordinator at {url} does not know this worker's token ({why}); \
         give the token that it was started with, by --token-file or FARM_TOKEN"
    )]
    Unauthenticated {
        /// The coordinator's address.
        url: CoordinatorUrl,
        /// What the coordinator said.
        why: String,
    },
    /// It doesn't take the certificate (any more), and says why and what to do.
    #[error("the coordinator at {url} refuses this worker: {why}")]
    Certificate {
        /// The coordinator's address.
        url: CoordinatorUrl,
        /// What the coordinator said.
        why: String,
    },
    /// The connection can't even be tried.
    #[error("no connection to {url} can be tried: {why}")]
    Local {
        /// The address that was to be called.
        url: CoordinatorUrl,
        /// What is wrong on this side.
        why: String,
    },
}

/// The endpoint of a connection for small messages.
///
/// # Errors
/// The token would be seen on its way; or the system's root certificates can't be read.
pub fn endpoint(url: &CoordinatorUrl, security: &Security) -> Result<Endpoint, EndpointError> {
    farm_client::endpoint(url.0.clone(), concat!("farm-worker/", env!("CARGO_PKG_VERSION")), security)
}

/// Connections for bulk, in the order of the coordinators: one is opened when it is first used, and again after an
/// outage.
///
/// # Errors
/// As [`endpoint`].
pub fn bulk(coordinators: &Coordinators, security: &Security) -> Result<Endpoints, EndpointError> {
    let (first, others) = channels(coordinators, security)?;
    Ok(Endpoints::new(first, others))
}

/// The connections themselves: the first coordinator's, and the others'.
///
/// # Errors
/// As [`endpoint`].
pub fn channels(
    coordinators: &Coordinators,
    security: &Security,
) -> Result<(Channel, Vec<Channel>), EndpointError> {
    let channel = |url: &CoordinatorUrl| -> Result<Channel, EndpointError> {
        Ok(farm_client::wide(endpoint(url, security)?, WINDOW_BYTES).connect_lazy())
    };
    let others: Vec<Channel> = coordinators.others.iter().map(channel).collect::<Result<_, _>>()?;
    Ok((channel(&coordinators.first)?, others))
}

/// A client on these connections.
pub fn client(endpoints: impl Into<Endpoints>, credential: &Credential) -> Client {
    WorkerServiceClient::with_interceptor(endpoints.into(), credential.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
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
    /// Sorts an answer of `SendEvents`, `SendOutput`, `FetchFolders` or `FetchFiles`.
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
    fn coordinators_are_a_list_without_holes_and_doubles() {
        let list: Coordinators = "http://a:1, http://b:2,,http://a:1/".parse().unwrap();
        assert_eq!(list.to_string(), "http://a:1, http://b:2");
        let at = |place| list.at(place).to_string();
        assert_eq!((list.count(), at(0), at(1), at(2)), (2, "http://a:1".into(), "http://b:2".into(), at(0)));
        let error = |text: &str| text.parse::<Coordinators>().unwrap_err().to_string();
        assert!(error(" ,").contains("http://HOST:PORT"));
        assert!(error("http://a:1,b:2").contains("b:2"));
    }
}
