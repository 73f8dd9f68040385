//! The engine as the rest of the worker knows it: connect, describe, probe its health.
//!
//! Invariant: an [`Engine`] holds no state of any build. Each solve dials a connection of its own, so that
//! what happens to one cannot hold up another, and closing it frees all that the solve had.
//!
//! Beside it: where it is (`address`), how it is dialled (`connect`), what only Docker answers (`docker`), what it keeps
//! (`disk`), and the proof that it runs a platform (`probe`, by the programs of `elf`).

pub(super) mod address;
pub(super) mod connect;
mod disk;
mod docker;
pub(super) mod elf;
pub(super) mod error;
mod package;
mod probe;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::types::WorkerRecord;
use bollard_buildkit_proto::moby::buildkit::v1::{InfoRequest, ListWorkersRequest};
use farm_types::Platform;
use tonic::transport::Channel;

pub use self::address::EngineKind;
use self::address::{EngineAddress, Place};
use self::connect::{Dialer, MAX_MESSAGE_BYTES};
pub use self::disk::{CacheBounds, Dropped};
pub use self::error::EngineError;
use self::error::reason;
use super::session::times::Served;

/// How long an engine may take for a question that costs it nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineDescription {
    /// The engine's own identity: the same through whichever address it is reached, and after a restart.
    pub key: String,
    /// Whether it is Docker's, or stands alone.
    pub kind: EngineKind,
    /// Docker's version, or BuildKit's; a label for people.
    pub version: String,
    /// The release of BuildKit in it, as it says itself; empty: it doesn't.
    pub buildkit: String,
    /// The package that it is from, with its version; empty: it isn't known.
    pub package: String,
    /// The platforms that it believes it can run, normalised, each once. Neither complete nor always true.
    pub platforms: Vec<Platform>,
    /// True when results can be pushed by digest: Docker's containerd image store is on, or it's a buildkitd.
    pub containerd_store: bool,
    /// Its machine's architecture as Go names it (`amd64`).
    pub architecture: String,
}

/// A BuildKit. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    dialer: Dialer,
    kind: EngineKind,
    control: Channel,
    served: Arc<Served>,
}

impl Engine {
    /// Finds out what is at the address and asks it for a sign of life. The connection is renewed by itself
    /// when the engine was away.
    ///
    /// # Errors
    /// Nothing answers within some seconds, or it's no engine. The text names the address and the cure.
    pub async fn connect(address: EngineAddress) -> Result<Self, EngineError> {
        let kind = match &address.0 {
            Place::Tcp { .. } => EngineKind::Buildkitd,
            Place::Unix(path) => {
                if let Err(error) = tokio::net::UnixStream::connect(path).await {
                    return Err(EngineError::Unreachable {
                        address: address.to_string(),
                        reason: error.to_string(),
                        cure: match error.kind() {
                            std::io::ErrorKind::PermissionDenied => "run as a user who may open that socket",
                            _ => "start the engine, or name another one with --engine",
                        }
                        .to_owned(),
                    });
                }
                match docker::version(path).await {
                    Ok(_) => EngineKind::Docker,
                    Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                        return Err(EngineError::Unreachable {
                            address: address.to_string(),
                            reason: error.to_string(),
                            cure: "see that it runs".to_owned(),
                        });
                    }
                    Err(_) => EngineKind::Buildkitd,
                }
            }
        };
        let dialer = Dialer::new(address, kind).await?;
        let control = dialer.lazy();
        let engine = Self { inner: Arc::new(Inner { dialer, kind, control, served: Arc::default() }) };
        engine.health().await?;
        Ok(engine)
    }

    /// What the engine says of itself.
    ///
    /// # Errors
    /// It does not answer, or says something that makes no sense.
    pub async fn describe(&self) -> Result<EngineDescription, EngineError> {
        let workers = self.workers().await?;
        let worker =
            workers.first().ok_or_else(|| self.unusable("it has no BuildKit worker", "look at its log"))?;
        let mut seen = BTreeSet::new();
        let platforms: Vec<Platform> = workers
            .iter()
            .flat_map(|worker| &worker.platforms)
            // What farm has no word for (another system) is no platform of farm's.
            .filter_map(|p| Platform::from_parts(&p.os, &p.architecture, &p.variant).ok())
            .filter(|platform| seen.insert(platform.clone()))
            .collect();
        // Neither says much where it was built from a copy of its sources.
        let said = |version: &str| Some(version.to_owned()).filter(|version| !version.is_empty());
        let buildkit = worker.buildkit_version.as_ref().and_then(|version| said(&version.version));
        if let Place::Unix(path) = &self.address().0
            && self.inner.kind == EngineKind::Docker
        {
            let unreachable = |error: std::io::Error| self.unreachable(error.to_string());
            let version = docker::version(path).await.map_err(unreachable)?;
            let info = docker::info(path).await.map_err(unreachable)?;
            return Ok(EngineDescription {
                containerd_store: info.containerd_store(),
                architecture: Platform::from_parts("linux", &info.architecture, "")
                    .map_or(info.architecture, |platform| platform.architecture().to_owned()),
                key: info.id,
                kind: EngineKind::Docker,
                buildkit: buildkit.unwrap_or_default(),
                package: package::of_docker(&version.version).await,
                version: version.version,
                platforms,
            });
        }
        let version = self
            .control()
            .info(with_deadline(InfoRequest {}))
            .await
            .ok()
            .and_then(|info| info.into_inner().buildkit_version)
            .map_or_else(|| "unknown".to_owned(), |version| version.version);
        Ok(EngineDescription {
            key: worker.id.clone(),
            kind: EngineKind::Buildkitd,
            buildkit: buildkit.unwrap_or_else(|| version.clone()),
            package: String::new(),
            version,
            architecture: platforms.first().map(|p| p.architecture().to_owned()).unwrap_or_default(),
            platforms,
            containerd_store: true,
        })
    }

    /// Asks for a sign of life, within five seconds.
    ///
    /// # Errors
    /// It does not answer in time.
    pub async fn health(&self) -> Result<(), EngineError> {
        self.workers().await.map(drop)
    }

    /// The address that it was given by.
    pub fn address(&self) -> &EngineAddress {
        self.inner.dialer.address()
    }

    pub(super) fn served(&self) -> &Arc<Served> {
        &self.inner.served
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.inner.dialer
    }

    pub(super) fn kind(&self) -> EngineKind {
        self.inner.kind
    }

    pub(super) fn control(&self) -> ControlClient<Channel> {
        // What an engine says of its cache is one message.
        ControlClient::new(self.inner.control.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, EngineError> {
        let question = self.control();
        let answer = async move {
            let mut question = question;
            question.list_workers(with_deadline(ListWorkersRequest::default())).await
        };
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().record),
            Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => Err(self.unusable(
                "it does not speak BuildKit's API",
                "name a Docker engine of version 23 or newer, or a buildkitd",
            )),
            Ok(Err(status)) => Err(self.unreachable(reason(&status))),
            Err(_) => Err(self.unreachable(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    pub(super) fn unreachable(&self, reason: String) -> EngineError {
        let cure = match self.address().0 {
            // A refused client certificate looks just like an engine that is down.
            Place::Tcp { .. } => {
                "see that it runs, and that its certificate and farm's are of the same authority"
            }
            Place::Unix(_) => "see that it runs",
        };
        EngineError::Unreachable { address: self.address().to_string(), reason, cure: cure.to_owned() }
    }

    fn unusable(&self, reason: &str, cure: &str) -> EngineError {
        EngineError::Unusable {
            address: self.address().to_string(),
            reason: reason.to_owned(),
            cure: cure.to_owned(),
        }
    }
}

fn with_deadline<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(PATIENCE);
    request
}
